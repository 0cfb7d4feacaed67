"""The faster server: pyvoy, Python inside an Envoy. Envoy loads `app`, and its lifespan is the sidecar's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Final, NoReturn

import structlog

from authz.check import LimiterUnavailable
from authz.config.faults import ConfigError
from authz.config.settings import Settings
from authz.envoy.edge import SERVICE
from authz.hosts.asgi_grpc import Event, GrpcApp, Health, Receive, Send
from authz.hosts.pyvoy_launch import HANDOVER, NO_WORKERS, SIGNALS, Handover, reread_files, take_over
from authz.observe import log as logs
from authz.sidecar.parts import Parts
from authz.sidecar.port import ServerEnded
from authz.sidecar.seat import Seat
from authz.sidecar.sidecar import Sidecar
from authz.store.sealing import load_sealer

log = structlog.get_logger(__name__)

CHECK: Final = f"/{SERVICE}/Check"
POLL_SECONDS: Final = 0.05
START_SECONDS: Final = 30.0  # from our word until Envoy has opened its port
QUIET_ROUNDS: Final = 5  # of those without a call, until the last is taken to be answered
ADMIN_SECONDS: Final = 5.0
BEAT_SECONDS: Final = 1.0
MISSED_BEATS: Final = 30  # in a row, until the loop is taken to be dead; a large reload may hold it up for seconds
REFUSED, FAILED, TERMINATED = 2, 1, 128 + signal.SIGTERM  # exit statuses


class PyvoyServer:
    """Serves the calls of one Envoy, in the event loop that pyvoy made for it."""

    def __init__(self, settings: Settings, calls: GrpcApp, health: Health, admin: Path) -> None:
        self.started = asyncio.Event()
        self._listen = settings.grpc_listen
        self._calls = calls
        self._health = health
        self._admin = admin
        self._stopped = False

    async def start(self) -> None:
        """Envoy opens its port only when its application says that it has started."""
        self.started.set()
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _admin(self._admin, "GET", "/ready"):  # noqa: ASYNC110  (Envoy has no event for it)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise OSError(f"Envoy has not opened {self._listen} within {START_SECONDS:g} s") from None

    async def until_ended(self) -> None:
        """Never: Envoy ends with the process alone."""
        await asyncio.Event().wait()

    async def set_serving(self, serving: bool) -> None:
        self._health.set_serving(serving)

    async def stop(self, grace_seconds: float) -> None:
        """Send callers elsewhere with each answer, refuse new connections, and wait for the last calls."""
        if self._stopped or not self.started.is_set():
            return
        self._stopped = True
        for path in ("/healthcheck/fail", "/drain_listeners"):
            if not await _admin(self._admin, "POST", path):
                log.warning("envoy does not take an order", path=path)
        try:
            async with asyncio.timeout(grace_seconds):
                quiet = 0
                while quiet < QUIET_ROUNDS:
                    await asyncio.sleep(POLL_SECONDS)
                    quiet = 0 if self._calls.in_flight else quiet + 1
        except TimeoutError:
            if self._calls.in_flight:
                log.warning("calls are ended without an answer", calls=self._calls.in_flight)
                self._calls.cancel()
                await asyncio.sleep(POLL_SECONDS)  # for their answers


async def _admin(at: Path, method: str, path: str) -> bool:
    """Whether Envoy's administration interface answers with 200."""
    request = f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    try:
        async with asyncio.timeout(ADMIN_SECONDS):
            reader, writer = await asyncio.open_unix_connection(at)
            try:
                writer.write(request.encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except OSError:
        return False


# --- the process --------------------------------------------------------------------------------------------------


class Process:
    """The sidecar of this Envoy: from the lifespan's start to the end of the process."""

    def __init__(self, handover: Handover) -> None:
        settings = handover.settings
        self._handover = handover
        self._stop, self._hup = asyncio.Event(), asyncio.Event()
        sealer = load_sealer(os.environ, settings.pepper_file)
        parts = Parts.build(settings, handover.file, sealer, Seat.of(os.environ))
        self._sidecar = Sidecar(parts)
        health = Health([SERVICE])
        self.calls = GrpcApp({CHECK: parts.service.answer}, health, parts.service.bad)
        self.server = PyvoyServer(settings, self.calls, health, handover.admin)
        if parts.certificates:
            reread_files(handover.directory)  # Envoy may have read other files before we did
            parts.certificates.on_good(partial(reread_files, handover.directory))

    async def run(self) -> NoReturn:
        """Until the sidecar has stopped, or cannot go on; and the process with it."""
        status = FAILED
        self._loops = [asyncio.create_task(loop) for loop in (self.calls.sweep(), self.calls.pace())]
        try:
            await self._sidecar.run(self.server, self._stop, self._hup)
            status = 0
        except BaseExceptionGroup as group:  # one fault stops all the parts, and is the one to report
            status = told(group.exceptions[0])
        except BaseException as error:
            status = told(error)
        finally:
            end(status, self._handover)
        raise AssertionError("the process has not ended")

    def guard(self) -> None:
        """Watch signals and the loop itself in threads, since a dead loop cannot report itself."""
        loop = asyncio.get_running_loop()
        for mind in (_mind_signals, _mind_loop):
            threading.Thread(target=mind, args=(self, loop), daemon=True, name=mind.__name__).start()

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        self._hup.set()

    def abandon(self, status: int) -> NoReturn:
        """From any thread, without a word to its clients."""
        end(status, self._handover)


def told(error: BaseException) -> int:
    """Report the error that ended the sidecar, and return the exit status. An operator's mistake has no traceback."""
    if isinstance(error, ConfigError | LimiterUnavailable | OSError):
        sys.stderr.write(f"{error}\n")
        return REFUSED
    if isinstance(error, ServerEnded):
        log.error("ended", error=str(error))
        return FAILED
    log.error("failed", exc_info=error)
    return FAILED


def end(status: int, handover: Handover | None) -> NoReturn:
    """Ends the process at once: Envoy's own way out waits for a loop that may be dead, and closes no better."""
    if handover:
        rmtree(handover.directory, ignore_errors=True)
    sys.stderr.flush()
    os._exit(status)


def _mind_signals(process: Process, loop: asyncio.AbstractEventLoop) -> None:
    """TERM and INT stop in good order, a second one at once; HUP reloads. They are blocked in all threads."""
    stopping = False
    while True:
        number = signal.sigwait(SIGNALS)
        if number == signal.SIGHUP:
            _call(loop, process.reload)
        elif number == signal.SIGUSR2:
            log.warning(NO_WORKERS)
        elif stopping:
            process.abandon(TERMINATED)
        else:
            stopping = True
            _call(loop, process.stop)


def _mind_loop(process: Process, loop: asyncio.AbstractEventLoop) -> None:
    """A SystemExit in any task ends the loop, and nothing else: the port stays open and calls get no answer.

    Beats are counted, not timed, for a process that was paused has not missed any.
    """
    missed, beat = 0, threading.Event()
    while missed < MISSED_BEATS and loop.is_running() and _call(loop, beat.set):
        missed = 0 if beat.wait(BEAT_SECONDS) else missed + 1
        beat.clear()
        _PAUSE.wait(BEAT_SECONDS)
    log.error("the event loop has died")
    process.abandon(FAILED)


_PAUSE: Final = threading.Event()  # never set


def _call(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> bool:
    """Whether the loop still takes something to do."""
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        return False
    return True


# --- the application ----------------------------------------------------------------------------------------------

_calls: GrpcApp | None = None  # of the one lifespan that a process has: one listener, one worker thread


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """What Envoy loads."""
    if _calls is not None and scope["type"] == "http":
        await _calls(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The start is over when calls can be answered. What fails before ends the process."""
    global _calls
    await receive()
    handover = None
    try:
        handover = take_over(os.environ)
        restore(handover, os.environ)
        logs.configure(handover.settings.log_level, handover.settings.log_format)
        process = Process(handover)
    except Exception as error:
        end(told(error), handover)
    process.guard()
    running = asyncio.create_task(process.run())
    await process.server.started.wait()
    _calls = process.calls
    await send({"type": "lifespan.startup.complete"})
    await receive()  # another process ends Envoy
    process.stop()
    await running


def restore(handover: Handover, environ: MutableMapping[str, str]) -> None:
    """What Envoy needed to become a Python is not for the processes that we start, nor the working directory for us."""
    for name, value in {HANDOVER: None, **handover.environ}.items():
        environ.pop(name, None)
        if value is not None:
            environ[name] = value
    sys.executable = handover.executable
    sys.path[:] = [entry for entry in sys.path if entry not in ("", ".")]
    os.chdir(handover.working_directory)

"""Several sidecars on one machine, each a process with an endpoint of its own: started, replaced, and stopped together.

A supervisor serves /metrics, /healthz and /readyz for all.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import structlog

from authz.config.file import stamp
from authz.config.settings import Settings, endpoints_of
from authz.hosts import run as server
from authz.hosts.pyvoy_launch import check_host
from authz.observe.metrics import Gathered
from authz.observe.status import about, app, check_listen, http_server
from authz.sidecar.seat import Seat, Ticket
from authz.sidecar.sidecar import serve_http
from authz.workers.template import (
    SHARES,
    File,
    Strangers,
    Template,
    WorkerError,
    become_template,
    fork_template,
    reaped,
    spawn,
)

FIRST_PAUSE_SECONDS: Final = 0.1  # before a dead worker is started again; each time twice as long, up to
MAX_PAUSE_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 30.0  # a life as long as this, and the next pause is the first again
READY_SECONDS: Final = 60.0  # that a replacement may take
SILENT_TICKS: Final = 10  # seconds without a word, of a worker that says one each second: it hangs
KILL_SECONDS: Final = 5.0  # beyond drain and grace
LINE_BYTES: Final = 1 << 24  # details may name every mistake of a file
STATES: Final = ("starting", "ok", "degraded", "draining", "down")
DOWN: Final[Mapping[str, Any]] = {"ready": False, "status": "down"}

log = structlog.get_logger(__name__)


def serve(read: Callable[[], tuple[Settings, File]]) -> None:
    """Run until TERM or INT what this process is for: a sidecar, or several under a supervisor, or one of those.

    Raises ConfigError and OSError where nothing can start, and SystemExit with the status of a worker that cannot.
    """
    settings, file = read()
    ticket, seat = Ticket.of(os.environ), Seat.of(os.environ)
    if seat:
        server.run(seat.settings(settings), file, seat)
    elif ticket:
        become_template(settings, file, ticket.metrics, socket.socket(fileno=ticket.descriptor))
    elif settings.workers == 1:
        server.run(settings, file)
    else:
        if settings.server == "pyvoy":
            check_host(settings)  # once, and not by each worker
        check_listen(settings.http_listen)
        with TemporaryDirectory(prefix="authz-metrics-") as metrics:
            supervisor = Supervisor(settings, file[0] if file else None, metrics)
            if SHARES and settings.server == "grpcio":
                supervisor.template = fork_template(settings, file, metrics)
            del file  # the template has it from now on, and it may be large
            try:
                status = asyncio.run(supervisor.run())
            except ExceptionGroup as group:  # one fault stops all the parts, and is the one to report
                raise group.exceptions[0] from None
            if status:
                sys.exit(status)


class Worker:
    """One process in a slot, from its start to its end."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.details: Mapping[str, Any] = {"ready": False, "status": "starting"}
        self.silent = 0  # ticks since it said something; it need not speak before it is up
        self._ready = asyncio.Event()
        self._writer = writer
        self._ended = asyncio.ensure_future(self._hear(reader))

    async def _hear(self, reader: asyncio.StreamReader) -> int:
        """Its exit status, once it has said the last word."""
        try:
            while line := await reader.readline():
                self.silent = 0
                if told := msgspec.json.decode(line):
                    self.details = told
                    if told["ready"]:
                        self._ready.set()
        except OSError:
            pass  # it ended with something of ours unread
        finally:
            self._writer.close()
        return await reaped(self.pid)

    @property
    def speaks(self) -> bool:
        return "pid" in self.details

    async def ready(self) -> bool:
        """Waits until it is; False if it ended first, or took too long."""
        coming = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({coming, self._ended}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
        return self._ready.is_set()

    async def ended(self) -> int:
        return await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        """Nothing for one that has ended: its pid may be another's."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, seconds: float) -> None:
        """Ask it to drain, and kill it when it takes longer than so."""
        self.send(signal.SIGTERM)
        done, _ = await asyncio.wait({self._ended}, timeout=seconds)
        if not done:
            log.error("worker killed", pid=self.pid, seconds=seconds)
            self.send(signal.SIGKILL)
            await self.ended()


@dataclass
class Slot:
    """An endpoint, and who listens there now."""

    number: int
    endpoint: str
    worker: Worker | None = None
    restarts: int = 0
    was_ready: bool = False
    replacing: asyncio.Future[bool] | None = None  # whether the next worker became ready
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # no need to wait any longer

    @property
    def details(self) -> Mapping[str, Any]:
        return self.worker.details if self.worker else DOWN


class Supervisor:
    """Keeps a worker in each slot until TERM or INT."""

    def __init__(self, settings: Settings, path: Path | None, metrics: str) -> None:
        """`metrics` is the directory of the workers' metrics. Without a `template` each has its own catalog."""
        self.settings = settings
        self.path = path
        self.slots = [Slot(*one) for one in enumerate(endpoints_of(settings.grpc_listen, settings.workers))]
        self.metrics = Gathered(metrics, settings.max_plan_labels, self._states)
        self._directory = metrics
        self.template: Template | None = None
        self._renewal = asyncio.Lock()
        self._stop, self._hup, self._usr2 = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._status = 0

    def details(self) -> dict[str, Any]:
        """Ready is who has a worker that is; `/readyz` names each, so that one which is missing is seen."""
        stopping = self._stop.is_set()
        states = {slot.details["status"] for slot in self.slots}
        agreed = states.pop() if len(states) == 1 else "degraded"
        return {
            "ready": any(slot.details["ready"] for slot in self.slots) and not stopping,
            "status": "draining" if stopping else agreed,
            "workers": [
                {"slot": slot.number, "grpc": slot.endpoint, "restarts": slot.restarts, **slot.details}
                for slot in self.slots
            ],
        }

    def _states(self) -> Mapping[str, int]:
        return dict.fromkeys(STATES, 0) | Counter(slot.details["status"] for slot in self.slots)

    async def run(self) -> int:
        """Until TERM or INT; the exit status, which is a worker's if that could not start at all."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hup.set)
        loop.add_signal_handler(signal.SIGUSR2, self._usr2.set)
        if self.template:
            try:
                await self.template.ready()
            except WorkerError:
                return 2  # it has said why
        http = http_server(app(self.metrics, self.details, about(self.settings)), self.settings.http_listen)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(serve_http(http, self._stop))
            keeping = [tasks.create_task(self._keep(slot)) for slot in self.slots]
            helping = [tasks.create_task(one) for one in (self._relay_hup(), self._obey_usr2(), self._listen())]
            await self._stop.wait()
            for task in helping:
                task.cancel()
            await self._stop_all(keeping)
            http.should_exit = True
            await serving
        if self.template:
            self.template.close()
        log.info("all stopped")
        return self._status

    async def _keep(self, slot: Slot) -> None:
        """Keep the slot occupied; restart with exponential back-off."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            began = time.monotonic()
            ending = await self._live(slot)
            if self._stop.is_set() or slot.replacing:
                continue
            if not slot.was_ready and isinstance(ending, int) and ending > 0:
                # If a worker cannot start the first time, the configuration is wrong, and its operator is watching.
                log.error("a worker cannot start", slot=slot.number, status=ending)
                self._status = ending
                self._stop.set()
                continue
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > QUIET_SECONDS else pause
            log.error("worker ended", slot=slot.number, ending=_words(ending), again_in_seconds=pause)
            slot.restarts += 1
            self.metrics.restarts.inc()
            slot.wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await slot.wake.wait()
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _live(self, slot: Slot) -> int | str:
        """Start a worker, and wait for its end: its exit status, or why there was none."""
        replaced, slot.replacing = slot.replacing, None
        ready = False
        try:
            worker = slot.worker = await self._start(slot)
            if self._stop.is_set():
                worker.send(signal.SIGTERM)
            ready = await worker.ready()
            slot.was_ready |= ready
            if replaced and not replaced.done():
                replaced.set_result(ready)
            return await worker.ended()
        except (OSError, WorkerError) as error:
            return str(error)
        finally:
            slot.worker = None
            self.metrics.forget(slot.number)
            if replaced and not replaced.done():
                replaced.set_result(False)

    async def _start(self, slot: Slot) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            if self.template:
                (await self._fresh_template()).fork(slot.number, theirs)
                pid = 0
            else:
                pid = spawn(slot.number, theirs.fileno(), self._directory)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_BYTES)
        if not pid:
            line = await reader.readline()
            if not line:
                writer.close()
                raise WorkerError("the template could not fork")
            pid = msgspec.json.decode(line, type=int)
        log.info("worker started", slot=slot.number, pid=pid, grpc=slot.endpoint)
        return Worker(pid, reader, writer)

    async def _fresh_template(self) -> Template:
        """One that has read the file as it is now, or the last that was good."""
        assert self.template
        async with self._renewal:
            if self.template.has_ended() or (self.path and stamp(self.path) != self.template.stamp):
                await self._renew()
        return self.template

    async def _renew(self) -> None:
        """Read the file again, for workers to come; those that run read it themselves."""
        try:
            template = await Template.spawn(self._directory)
        except (OSError, WorkerError) as error:
            log.error("template not renewed", error=str(error))
            return
        if self.template:
            self.template.close()
        self.template = template

    async def _relay_hup(self) -> None:
        while True:
            await self._hup.wait()
            self._hup.clear()
            for worker in self._workers():
                worker.send(signal.SIGHUP)
            if self.template:
                async with self._renewal:
                    await self._renew()

    async def _obey_usr2(self) -> None:
        while True:
            await self._usr2.wait()
            self._usr2.clear()
            await self._replace_all()

    async def _replace_all(self) -> None:
        """One by one: each drains while the others answer, and the next turn comes when its successor is ready."""
        log.info("replacing workers")
        before = self.template
        if before:
            try:
                self.template = await Template.spawn(self._directory)
            except (OSError, WorkerError) as error:
                log.error("workers not replaced", error=str(error))
                return
        for slot in self.slots:
            if not await self._replace(slot):
                log.error("replacing stopped: a worker did not become ready", slot=slot.number)
                self.template, before = before or self.template, self.template
                break
        else:
            log.info("workers replaced")
        if before and before is not self.template:
            before.close()

    async def _replace(self, slot: Slot) -> bool:
        became_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        slot.replacing = became_ready
        slot.wake.set()
        if slot.worker:
            await slot.worker.stop(self._patience)
        return await became_ready

    async def _listen(self) -> None:
        """Kill a worker that hangs, so that it is restarted. In ticks, since a paused supervisor has missed nothing."""
        strangers = Strangers()
        while True:
            await asyncio.sleep(1)
            strangers.reap()
            for worker in self._workers():
                worker.silent += worker.speaks
                if worker.silent == SILENT_TICKS:
                    log.error("worker hangs", pid=worker.pid, seconds=worker.silent)
                    worker.send(signal.SIGKILL)

    async def _stop_all(self, keeping: list[asyncio.Task[None]]) -> None:
        """All drain at the same time. If one could not even start, there is nothing to drain."""
        for slot in self.slots:
            slot.wake.set()
        for worker in self._workers():
            worker.send(signal.SIGKILL if self._status else signal.SIGTERM)
        _, late = await asyncio.wait(keeping, timeout=self._patience)
        if late:
            log.error("workers killed", seconds=self._patience)
        for worker in self._workers():
            worker.send(signal.SIGKILL)
        await asyncio.wait(keeping)

    @property
    def _patience(self) -> float:
        return self.settings.drain_seconds + self.settings.grace_seconds + KILL_SECONDS

    def _workers(self) -> Iterator[Worker]:
        return (slot.worker for slot in self.slots if slot.worker)


def _words(ending: int | str) -> str:
    if isinstance(ending, str):
        return ending
    return f"killed by {signal.Signals(-ending).name}" if ending < 0 else f"exit status {ending}"

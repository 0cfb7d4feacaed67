"""Processes for workers: forked by a template, which has read and compiled the configuration, or started afresh.

So a catalog that many workers serve is in memory once, until they reload.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec
import structlog

from authz.check import LimiterUnavailable
from authz.config.faults import ConfigError
from authz.config.file import Config, Stamp
from authz.config.settings import Settings
from authz.core.catalog import Catalog
from authz.hosts import run as server
from authz.sidecar.memory import freeze
from authz.sidecar.seat import VARIABLE, Seat, Ticket

File = tuple[Path, Config] | None

REAP_SECONDS: Final = 0.005
COMMAND_BYTES: Final = 64
STAMP_BYTES: Final = 1 << 16

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
SHARES: Final = sys.platform == "linux"  # whether a worker can be forked by one process and be another's child
LIBC: Final = ctypes.CDLL(None) if SHARES else None  # loaded here: between fork and exec is no time for it

log = structlog.get_logger(__name__)


class WorkerError(Exception):
    """No worker could be started."""


def fork_template(settings: Settings, file: File, metrics: str) -> Template:
    """Forked from the process that has read the file, so that it need not be read again."""
    if LIBC:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what a template forks twice over becomes our child
    for thread in threading.enumerate():  # what waited for the loader; a fork would leave it behind
        if thread is not threading.main_thread():
            thread.join()
    parent = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _die_with(parent)
        _end(lambda: become_template(settings, file, metrics, theirs))
    theirs.close()
    return Template(pid, ours, file[1].stamp if file else None)


def become_template(settings: Settings, file: File, metrics: str, commands: socket.socket) -> None:
    """Compile, then fork a worker for each command: a slot, and its end of the line to the supervisor."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the supervisor's to act on, who then hangs up
    supervisor = os.getppid()
    catalog = None
    if file and not settings.store:  # with a store, the catalog needs the resources of both
        catalog = Catalog.compile(file[1].resources, settings.account_id, settings.failure_policy)
    freeze()  # a collection writes to the objects that it visits, and ends the sharing of their pages
    commands.send(msgspec.json.encode(file[1].stamp if file else None))
    while True:
        command, descriptors, _, _ = socket.recv_fds(commands, COMMAND_BYTES, 1)
        if not command:
            return
        with socket.socket(fileno=descriptors[0]) as line:
            seat = Seat(int(command), line, metrics, catalog)
            _fork_twice(supervisor, line, partial(_work, settings, file, seat, commands))


def _fork_twice(supervisor: int, line: socket.socket, run: Callable[[], None]) -> None:
    """A process that is the supervisor's child and not ours: it outlives us. Its pid goes down the line first."""
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    middle = os.getpid()
    try:
        worker = os.fork()
        if worker:
            line.sendall(msgspec.json.encode(worker) + b"\n")
    except OSError as fault:
        log.error("a worker could not be forked", reason=str(fault))
        os._exit(1)
    if worker:
        os._exit(0)
    while os.getppid() == middle:
        time.sleep(REAP_SECONDS)
    _die_with(supervisor)
    _end(run)


def _work(settings: Settings, file: File, seat: Seat, commands: socket.socket) -> None:
    commands.close()  # or the template would seem to live as long as we do
    # TERM may come before there is a loop to take it; an early HUP needs no answer, for the file has just been read.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server.run(seat.settings(settings), file, seat)


def _end(run: Callable[[], None]) -> NoReturn:
    """End a forked process, whose caller is another's, as `authz` ends one that was started."""
    status = 1
    try:
        run()
        status = 0
    except (ConfigError, LimiterUnavailable, OSError) as error:
        click.echo(str(error), err=True)
        status = 2
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        log.exception("worker failed")
    finally:
        with suppress(OSError, ValueError):  # the reader has gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _die_with(parent: int) -> None:
    """However the parent ends, we end too (on Linux)."""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)


def spawn(slot: int | None, descriptor: int, metrics: str) -> int:
    """Start our own command line in a new process, with a ticket that says its purpose. Returns the pid."""
    parent = os.getpid()

    def prepare() -> None:
        _die_with(parent)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a loop

    process = subprocess.Popen(  # noqa: S603  (our own command line)
        [sys.executable, *sys.orig_argv[1:]],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env={**os.environ, VARIABLE: Ticket(slot, descriptor, metrics).text()},
        preexec_fn=prepare,
    )
    process.returncode = 0  # we reap it ourselves
    return process.pid


@dataclass
class Template:
    """A process that forks workers; `stamp` is that of the file it has read."""

    pid: int
    commands: socket.socket
    stamp: Stamp | None = None

    @classmethod
    async def spawn(cls, metrics: str) -> Template:
        """A new one, with the code and the file of today. Raises WorkerError; then it has said why itself."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            made = cls(spawn(None, theirs.fileno(), metrics), ours)
        try:
            await made.ready()
        except BaseException:
            made.close()
            raise
        return made

    async def ready(self) -> None:
        """Returns when it can fork. Raises WorkerError if it ended instead."""
        self.commands.setblocking(False)
        told = await asyncio.get_running_loop().sock_recv(self.commands, STAMP_BYTES)
        if not told:
            raise WorkerError(f"the template has ended with status {await reaped(self.pid)}")
        self.stamp = msgspec.json.decode(told, type=Stamp | None)

    def has_ended(self) -> bool:
        """It hangs up, which nothing but its end makes it do."""
        try:
            return not self.commands.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def fork(self, slot: int, line: socket.socket) -> None:
        """Raises OSError if it has ended."""
        socket.send_fds(self.commands, [b"%d" % slot], [line.fileno()])

    def close(self) -> None:
        """It ends; the workers that it forked go on."""
        self.commands.close()


async def reaped(pid: int) -> int:
    """The exit status of a child that is ending, negative for a signal; 0 if it was taken for a stranger."""
    with suppress(ChildProcessError):
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  (it does not wait)
            if found:
                return os.waitstatus_to_exitcode(status)
            await asyncio.sleep(REAP_SECONDS)
    return 0


class Strangers:
    """Ended processes that became our children when a worker or template died before them, such as its loader."""

    def __init__(self) -> None:
        self._seen: int | None = None

    def reap(self) -> None:
        """Call it now and then: a child that is unclaimed since the last call has no other parent to reap it."""
        with suppress(ChildProcessError):  # there are none
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found and found.si_pid == self._seen:
                os.waitpid(found.si_pid, os.WNOHANG)
            self._seen = found.si_pid if found else None

"""The servers that are measured: on free ports of loopback, on the cores they were given, gone when the block ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from authz.cli.up import die_with_parent, valkey_binary
from authz.hosts.pyvoy_launch import obstacle
from bench.load.h2 import Connection, framed
from bench.load.inputs import CHECK, admits, check_request, value_of

Host = Literal["grpcio", "pyvoy"]
Noop = Literal["", "parse", "bare"]

HERE = "127.0.0.1"
READY_SECONDS = 40.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.01
PORTS = (15_000, 32_000)
NOOP = Path(__file__).with_name("noop")
# Where Redis cannot answer, a call shall be refused and show, not be admitted by the stand-in and look fast.
STRICT = ("--failure-policy", "deny", "--redis-timeout-ms", "500", "--log-level", "warning")
SWIFT = ("--drain-seconds", "0", "--grace-seconds", "0.2")


@dataclass(frozen=True, slots=True)
class Running:
    """A process, how long it took until it was ready (s), and where it answers: addresses, and HTTP."""

    pid: int
    started_s: float
    addresses: tuple[str, ...] = ()
    http: str = ""

    @property
    def address(self) -> str:
        return self.addresses[0]


class NotStarted(Exception):  # noqa: N818  (named for the event)
    """A server did not become ready; says what it logged."""


def hosts() -> list[Host]:
    """Those that run here."""
    return ["grpcio"] if obstacle() else ["grpcio", "pyvoy"]


@contextmanager
def started(
    command: tuple[str, ...], is_ready: Callable[[], bool], cores: Collection[int], env: Mapping[str, str] | None = None
) -> Iterator[tuple[int, float]]:
    """A process on these cores, once it is ready: its pid and how long that took (s). Raises NotStarted."""
    tie = die_with_parent(os.getpid())

    def prepare() -> None:
        tie()
        os.sched_setaffinity(0, cores)

    with TemporaryDirectory(prefix="authz-bench-") as scratch:
        log = Path(scratch, "log")
        began = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=prepare,
            )
        try:
            while not is_ready():
                if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                    raise NotStarted(f"{' '.join(command)}: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(POLL_SECONDS)
            yield process.pid, time.perf_counter() - began
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever is left of its session
    process.wait()


@contextmanager
def redis(cores: Collection[int]) -> Iterator[Running]:
    """A Valkey that keeps nothing on disk; `address` is its URL."""
    port = free_ports(1)
    command = (valkey_binary(), "--port", str(port), "--bind", HERE, "--save", "", "--appendonly", "no")
    with started(command, lambda: _listens(port), cores) as (pid, seconds):
        yield Running(pid, seconds, (f"redis://{HERE}:{port}/0",))


@contextmanager
def sidecar(
    config: Path,
    redis_url: str,
    *flags: str,
    host: Host = "grpcio",
    noop: Noop = "",
    workers: int = 1,
    cores: Collection[int],
    check: bool = True,
    tree: Path | None = None,
) -> Iterator[Running]:
    """`authz serve` as its users start it, but for STRICT and SWIFT; with `noop` its answers are a constant.

    With `check` the first key's call must be admitted before anything is measured. `tree` has the code to run, if it is
    not this one.
    """
    port, http = free_ports(workers), free_ports(1)
    wanted = () if host == "grpcio" else ("--server", host)
    many = () if workers == 1 else ("--workers", str(workers))
    listen = ("--grpc-listen", f"{HERE}:{port}", "--http-listen", f"{HERE}:{http}", "--redis-url", redis_url)
    command = (sys.executable, *(("-P",) if tree else ()), "-m", "authz", "serve", "--config", str(config), *listen)
    command += (*wanted, *many, *STRICT, *SWIFT, *flags)
    env = {"BENCH_NOOP": noop, "PYTHONPATH": str(NOOP)} if noop else {"PYTHONPATH": str(tree)} if tree else {}
    addresses = tuple(f"{HERE}:{port + n}" for n in range(workers))

    def is_ready() -> bool:
        return is_ok(f"http://{HERE}:{http}/readyz") and all(_listens(port + n) for n in range(workers))

    with started(command, is_ready, cores, env) as (pid, seconds):
        found = Running(pid, seconds, addresses, f"http://{HERE}:{http}")
        if check:
            _check(found, noop)
        yield found


def _check(sidecar: Running, noop: Noop) -> None:
    """Raises NotStarted where the answers are not those that shall be measured: a no-op admits every caller."""
    for address in sidecar.addresses:
        if not admits(call(address, check_request(value_of(0)))):
            raise NotStarted("the sidecar does not admit a call that it should")
        if admits(call(address, check_request("nobody"))) != bool(noop):
            raise NotStarted("a no-op checks keys, or a sidecar does not")


def call(address: str, message: bytes, path: str = CHECK) -> bytes:
    """One call; the answer's message, b"" if it failed."""
    connection = Connection(address, path)
    try:
        connection.send([framed(message)])
        done: list[tuple[int, bytes]] = []
        while not done:
            done = connection.receive()
        return done[0][1]
    finally:
        connection.close()


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those that the kernel gives to connecting clients."""
    while True:
        first = random.randrange(*PORTS)
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind((HERE, port))
            except OSError:
                continue
        return first


def is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HERE, port)) == 0

"""Real servers for tests: started in a moment, ready when handed over, gone when the block ends.

Start them from the main thread: on Linux they end with the thread that started them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import yaml

from authz.cli.up import die_with_parent, envoy_binary, valkey_binary
from authz.config.settings import endpoints_of

Kind = Literal["valkey", "redis"]
Host = Literal["grpcio", "pyvoy"]

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 12_000, 32_000
DEADLINE_SECONDS = 120.0  # for a busy machine; an idle one needs far less
POLL_SECONDS = 0.02


@dataclass
class Server:
    """A process of ours, and the file it writes its log to."""

    command: tuple[str, ...]
    log: Path
    is_ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "not started"
        return self.process

    def start(self, wait: bool = True) -> None:
        """Appends to the log of an earlier life, and waits until the server is ready."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until(lambda: self.is_ready() or self._has_ended(), f"{self.command[0]} is not ready", self)
        assert not self._has_ended(), f"{self.command[0]} has ended: {self.log_text}"

    def send(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def wait(self) -> int:
        """The exit code, once the process has ended."""
        return self._running.wait(DEADLINE_SECONDS)

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """At once, without a word to its clients."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """In good order; the exit code. Whatever is left of its session goes too."""
        if not self._has_ended():
            self.resume()
            self.send(signal.SIGTERM)
        try:
            return self.wait()
        finally:
            self._sweep()

    def _sweep(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.wait()

    def _has_ended(self) -> bool:
        return self._running.poll() is not None


@dataclass
class RedisServer(Server):
    """A Valkey or Redis. A write is on disk before it is answered, so that only an empty restart forgets it."""

    url: str = ""
    data: Path = field(default_factory=Path)

    def restart(self, empty: bool = True) -> None:
        """Kill it and start it again at the same address, with its data or without."""
        if not self._has_ended():
            self.kill()
        if empty:
            shutil.rmtree(self.data)
            self.data.mkdir()
        self.start()


@dataclass
class AuthzServer(Server):
    """A sidecar: Envoy asks it at `grpc`, people at `http`. Several workers count their addresses from `grpc`."""

    grpc: str = ""
    http: str = ""
    workers: int = 1

    @property
    def endpoints(self) -> list[str]:
        """The address of each worker."""
        return endpoints_of(self.grpc, self.workers)


@dataclass
class EnvoyServer(Server):
    """An Envoy, its first listener and its administration interface."""

    url: str = ""
    admin: str = ""


@dataclass
class EchoServer(Server):
    """An upstream that answers with what reached it."""

    address: str = ""
    url: str = ""


def kinds() -> list[Kind]:
    """What to run integration tests on. Where AUTHZ_TEST_REDIS is `required`, a missing Redis is an error."""
    if shutil.which("redis-server"):
        return ["valkey", "redis"]
    assert os.environ.get("AUTHZ_TEST_REDIS") != "required", "redis-server is not on PATH"
    return ["valkey"]


@contextmanager
def redis_server(
    kind: Kind = "valkey", *args: str, port: int | None = None, unix: bool = False, password: str = ""
) -> Iterator[RedisServer]:
    """On a free port, or on a Unix socket alone. `args` are options of the server, such as `--maxmemory 1mb`."""
    with TemporaryDirectory(prefix="authz-test-") as scratch:
        at, data = Path(scratch, "redis.sock"), Path(scratch, "data")
        data.mkdir()
        port = 0 if unix else (port or free_port())
        reachable = ("--unixsocket", str(at)) if unix else ("--bind", HOST)
        protected = ("--requirepass", password) if password else ()
        keep = ("--dir", str(data), "--save", "", "--appendonly", "yes", "--appendfsync", "no")
        server = RedisServer(
            command=(_redis_binary(kind), "--port", str(port), *reachable, *protected, *keep, *args),
            log=Path(scratch, "log"),
            is_ready=lambda: _pongs(at if unix else (HOST, port)),
            url=_redis_url(at if unix else port, password),
            data=data,
        )
        with _running(server):
            yield server


@contextmanager
def authz_serve(
    config: Path | None,
    *flags: str,
    env: Mapping[str, str] | None = None,
    wait: bool = True,
    host: Host | None = None,
    module: str = "authz",
    workers: int = 1,
) -> Iterator[AuthzServer]:
    """`authz serve` on free ports; without a `config` it finds no file. `flags` come last, so that they win.

    Without a `host` it is the one that the environment or the default names; `module` is what stands in for `authz`.
    """
    with TemporaryDirectory(prefix="authz-test-") as scratch:
        grpc, http = f"{HOST}:{free_ports(workers)}", f"{HOST}:{free_port()}"
        several = ("--workers", str(workers)) if workers > 1 else ()
        named = ("--config", str(config)) if config else ()
        listen = ("--grpc-listen", grpc, "--http-listen", http, *(("--server", host) if host else ()))
        server = AuthzServer(
            command=(sys.executable, "-m", module, "serve", *named, *listen, *several, *flags),
            log=Path(scratch, "log"),
            is_ready=lambda: _all_ready(f"http://{http}/readyz"),
            env=env or {},
            grpc=grpc,
            http=f"http://{http}",
            workers=workers,
        )
        with _running(server, wait):
            yield server


@contextmanager
def envoy(config: str) -> Iterator[EnvoyServer]:
    """An Envoy with this configuration, which must have an administration interface."""
    with TemporaryDirectory(prefix="authz-test-") as scratch:
        file = Path(scratch, "envoy.yaml")
        file.write_text(config)
        parsed = yaml.safe_load(config)
        admin = _http_url(parsed["admin"]["address"])
        flags = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
        server = EnvoyServer(
            command=(envoy_binary(), "--config-path", str(file), *flags),
            log=Path(scratch, "log"),
            is_ready=lambda: is_ok(f"{admin}/ready"),
            url=_http_url(parsed["static_resources"]["listeners"][0]["address"]),
            admin=admin,
        )
        with _running(server):
            yield server


@contextmanager
def echo_server() -> Iterator[EchoServer]:
    with TemporaryDirectory(prefix="authz-test-") as scratch:
        address = f"{HOST}:{free_port()}"
        server = EchoServer(
            command=(sys.executable, "-m", "authz.cli.echo", "--listen", address),
            log=Path(scratch, "log"),
            is_ready=lambda: is_ok(f"http://{address}/"),
            address=address,
            url=f"http://{address}",
        )
        with _running(server):
            yield server


@contextmanager
def _running(server: Server, wait: bool = True) -> Iterator[None]:
    try:
        server.start(wait)
        yield
    finally:
        if server.process is not None:
            server.stop()


def _each_port() -> Iterator[int]:
    """Ports that no two test processes of one run share, over and over, from a place that no two runs are likely to.

    They lie below the ports that the system gives to outgoing connections, so that no connection takes one between the
    look at it and its use.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    length = (LAST_PORT - FIRST_PORT) // int(workers)
    start, offset = FIRST_PORT + int(worker.removeprefix("gw")) * length, random.randrange(length)
    return (start + (offset + step) % length for step in count())


PORTS: Final = _each_port()


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        first, *_ = (next(PORTS) for _ in range(count))
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind((HOST, port))
            return first


def until(holds: Callable[[], bool], otherwise: str, server: Server | None = None) -> None:
    """Polls until something holds; fails, with the server's log, if it never does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{otherwise} after {DEADLINE_SECONDS} s: {server and server.log_text}"
        time.sleep(POLL_SECONDS)


def is_ok(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _all_ready(url: str) -> bool:
    """Whether a sidecar is, or each of its workers."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            details = json.load(answer)
    except (OSError, ValueError):
        return False
    return all(one["ready"] for one in details.get("workers", [details]))


def _pongs(at: Path | tuple[str, int]) -> bool:
    """A server that wants a password is ready too; one that still loads its data is not."""
    family = socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(at) if isinstance(at, Path) else at)
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _redis_binary(kind: Kind) -> str:
    if kind == "valkey":
        return valkey_binary()
    found = shutil.which("redis-server")
    assert found, "redis-server is not on PATH"
    return found


def _redis_url(at: Path | int, password: str) -> str:
    login = f":{password}@" if password else ""
    return f"unix://{login}{at}?db=0" if isinstance(at, Path) else f"redis://{login}{HOST}:{at}/0"


def _http_url(address: Mapping[str, Mapping[str, str | int]]) -> str:
    at = address["socket_address"]
    return f"http://{at['address']}:{at['port_value']}"

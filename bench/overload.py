"""More load than a sidecar can carry: what it still answers in time, what it sheds, and whether it says it is well.

    python -m bench.overload [--server grpcio] [--seconds 5] [--rounds 3] [--through client|envoy]

In each round a closed loop finds the peak; then once, twice and three times as much is offered at a constant rate,
however the answers come. Goodput counts the calls admitted within the caller's deadline. The server has a core of its
own; the load, Redis and a front Envoy have the other.

A `client` has at most `--most` calls in flight, spread over its connections, and gives up any further call at once, as
Envoy's circuit breaker does; with 0 it sends them all. Through `envoy`, a front Envoy as `authz envoy-config` prints
it does that, and h2load offers the load: where that makes the other core the busier one, it limits the goodput.

Where other things run beside it, goodput per second of the server's CPU is the figure to go by: it is what the server
makes of the time that it gets. Exits with 1 if that falls by more than 10 % at three times the load, or if health
flapped.
"""

from __future__ import annotations

import re
import select
import subprocess
import sys
import threading
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from authz.config.settings import Settings
from authz.envoy.edge import SERVICE
from bench.load.h2 import RST_STREAM, Connection, frame
from bench.load.inputs import CHECK, PATH, admits, document, of_keys, value_of, written
from bench.load.loops import Draw
from bench.measure.envoys import front
from bench.measure.machine import Cores, cpu_seconds, memory
from bench.measure.servers import Host, Running, redis, sidecar

KEYS = 10_000
DEADLINE_SECONDS = 0.2  # as in `authz envoy-config`
PEAK_IN_FLIGHT = 64
CANCEL = (8).to_bytes(4)  # an error code of HTTP/2
UNLIMITED = 1_000_000
PAUSE_SECONDS = 0.005
PROBE_SECONDS, PROBE_DEADLINE_SECONDS = 0.1, 1.0
LEAST_SHARE = 0.9
FRONT_CONNECTIONS, FRONT_STREAMS = 32, 100


@dataclass(slots=True)
class Result:
    """What became of the calls of one run. `good` came in time. Times in seconds, memory in MB."""

    kinds: Counter[str]
    seconds: float
    cpu: float = 0.0
    rss: float = 0.0
    shed: int = 0
    slowest_probe: float = 0.0
    lost_probes: int = 0

    @property
    def goodput(self) -> float:
        return self.kinds["good"] / self.seconds

    @property
    def per_cpu(self) -> float:
        return self.kinds["good"] / self.cpu if self.cpu else 0.0


# --- callers with a deadline --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Line:
    """One connection, and the calls that it waits for: when each was due."""

    connection: Connection
    calls: dict[int, float] = field(default_factory=dict)

    def fileno(self) -> int:
        return self.connection.fileno()

    def give_up(self, before: float) -> int:
        """Cancel the calls that were due before `before`; return their number."""
        late = []
        for stream, due in self.calls.items():  # in the order in which they were due
            if due >= before:
                break
            late.append(stream)
        for stream in late:
            del self.calls[stream]
        if late:
            self.connection.socket.sendall(b"".join(frame(RST_STREAM, 0, stream, CANCEL) for stream in late))
        return len(late)


class Callers:
    """Unary calls over some connections; a late call is given up, as Envoy does."""

    def __init__(self, address: str, draw: Draw, *, connections: int, most: int) -> None:
        self._draw = draw
        self._most = most
        timeout = f"{round(DEADLINE_SECONDS * 1000)}m"
        self._lines = [Line(Connection(address, CHECK, timeout)) for _ in range(connections)]
        self._held: deque[float] = deque()
        self.kinds: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        return len(self._held) + sum(len(line.calls) for line in self._lines)

    def close(self) -> None:
        for line in self._lines:
            line.connection.close()

    def call(self, dues: Iterable[float]) -> None:
        self._held.extend(dues)
        self._send()

    def listen(self, seconds: float) -> None:
        """Wait at most this long for answers."""
        for line in select.select(self._lines, (), (), max(0.0, seconds))[0]:
            done = line.connection.receive()
            now = perf_counter()
            for stream, message in done:
                due = line.calls.pop(stream, None)
                if due is not None:
                    self.kinds[_kind(message, now - due)] += 1
        self._give_up(perf_counter() - DEADLINE_SECONDS)
        self._send()

    def _send(self) -> None:
        """Each time an even share of what there is to send, on the connection with the fewest calls."""
        room = self._most - sum(len(line.calls) for line in self._lines)
        while self._held and room > 0:
            line = min(self._lines, key=lambda line: len(line.calls))
            count = min(room, -(-len(self._held) // len(self._lines)))
            dues = [self._held.popleft() for _ in range(count)]
            line.calls.update(zip(line.connection.send([self._draw() for _ in dues]), dues, strict=True))
            room -= count
        self.kinds["held back"] += len(self._held)
        self._held.clear()

    def _give_up(self, before: float) -> None:
        self.kinds["late"] += sum(line.give_up(before) for line in self._lines)


def _kind(message: bytes, seconds: float) -> str:
    if not message:
        return "failed"
    if not admits(message):
        return "shed"
    return "good" if seconds <= DEADLINE_SECONDS else "late"


def closed_loop(callers: Callers, seconds: float) -> Result:
    """As many in flight as it takes to keep the server busy, and no more."""
    began = perf_counter()
    while perf_counter() - began < seconds:
        callers.call([perf_counter()] * (PEAK_IN_FLIGHT - callers.in_flight))
        failed = callers.kinds["failed"]
        callers.listen(seconds)
        if callers.kinds["failed"] > failed:  # asking again at once would be all that the server gets to do
            sleep(PAUSE_SECONDS)
    return Result(Counter(callers.kinds), perf_counter() - began)


def open_loop(callers: Callers, rate: float, seconds: float) -> Result:
    """Send `rate` calls a second, however fast the answers come."""
    began, sent = perf_counter(), 0
    while (passed := perf_counter() - began) < seconds:
        until = int(passed * rate) + 1
        callers.call(began + n / rate for n in range(sent, until))
        sent = until
        callers.listen(began + sent / rate - perf_counter())
    return Result(Counter(callers.kinds), perf_counter() - began)


# --- through a front Envoy ----------------------------------------------------------------------------------------


def h2load(url: str, seconds: float, rate: float | None) -> Result:
    """Plain HTTP with one key; without a rate a closed loop. What Envoy lets through came within its timeout."""
    if rate is None:
        shape = ["-c1", f"-m{PEAK_IN_FLIGHT}"]
    else:
        shape = [f"-c{FRONT_CONNECTIONS}", f"-m{FRONT_STREAMS}", f"--rps={rate / FRONT_CONNECTIONS:.3f}"]
    command = [
        "h2load",
        *shape,
        f"-D{round(1000 * seconds)}ms",
        "--warm-up-time=0",
        "-H",
        f"x-api-key: {value_of(0)}",
        url + PATH,
    ]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    codes = re.search(r"(\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", told)
    if not codes:
        raise ValueError(f"h2load said: {told}")
    good, refused, shed = map(int, codes.groups())
    return Result(Counter({"good": good, "failed": refused, "shed": shed}), seconds)


# --- looking on ---------------------------------------------------------------------------------------------------


class Onlooker:
    """Asks for the server's health as Envoy does, on a connection of its own, and watches its memory."""

    def __init__(self, server: Running) -> None:
        self.slowest, self.lost, self.rss = 0.0, 0, 0.0
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with grpc.insecure_channel(self._server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while not self._done.wait(PROBE_SECONDS):
                began = perf_counter()
                self.lost += not _is_serving(stub)
                self.slowest = max(self.slowest, perf_counter() - began)
                self.rss = max(self.rss, memory([self._server.pid]).rss)


def _is_serving(stub: Any) -> bool:
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    with suppress(grpc.RpcError):
        return bool(stub.Check(asked, timeout=PROBE_DEADLINE_SECONDS).status == health_pb2.HealthCheckResponse.SERVING)
    return False


def shed_by_metric(server: Running) -> int:
    """What the sidecar says that it has shed so far."""
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "authz_checks_total" and sample.labels["reason"] in ("overloaded", "deadline")
    )


def measured(server: Running, run: Callable[[], Result]) -> Result:
    before, cpu = shed_by_metric(server), cpu_seconds([server.pid])
    with Onlooker(server) as onlooker:
        result = run()
    result.cpu = cpu_seconds([server.pid]) - cpu
    result.rss, result.slowest_probe, result.lost_probes = onlooker.rss, onlooker.slowest, onlooker.lost
    result.shed = shed_by_metric(server) - before
    return result


# --- the command --------------------------------------------------------------------------------------------------

Load = Callable[[float, float | None], Result]  # takes seconds and calls a second; None for the peak


def through_client(server: Running, connections: int, most: int) -> Load:
    def load(seconds: float, rate: float | None) -> Result:
        callers = Callers(
            server.address, of_keys(KEYS), connections=1 if rate is None else connections, most=most or UNLIMITED
        )
        try:
            return closed_loop(callers, seconds) if rate is None else open_loop(callers, rate, seconds)
        finally:
            callers.close()

    return load


@contextmanager
def servers(host: Host, flags: tuple[str, ...], through: str, cores: Cores) -> Iterator[tuple[Running, str]]:
    """The sidecar, and the URL of an Envoy before it if there is one."""
    with TemporaryDirectory() as scratch, redis(cores.load) as store:
        config = written(document(keys=KEYS), Path(scratch))
        with sidecar(config, store.address, *flags, host=host, cores=cores.server) as server:
            if through == "client":
                yield server, ""
                return
            with front(config, server.addresses, cores.load) as envoy:
                yield server, envoy.http


HEAD = (
    *("", "offered", "goodput", "of peak", "per CPU s", "of peak", "late", "held", "shed"),
    *("counted", "failed", "MB", "probe ms", "lost"),
)


def line(name: str, result: Result, peak: Result) -> str:
    kinds, seconds = result.kinds, result.seconds
    total = kinds.total() / seconds
    cells = (
        name,
        f"{total:.0f}",
        f"{result.goodput:.0f}",
        f"{result.goodput / peak.goodput:.2f}",
        f"{result.per_cpu:.0f}",
        f"{result.per_cpu / peak.per_cpu:.2f}",
        f"{kinds['late'] / seconds:.0f}",
        f"{kinds['held back'] / seconds:.0f}",
        f"{kinds['shed'] / seconds:.0f}",
        f"{result.shed / seconds:.0f}",
        f"{kinds['failed'] / seconds:.0f}",
        f"{result.rss:.0f}",
        f"{1000 * result.slowest_probe:.0f}",
        f"{result.lost_probes}",
    )
    return "  ".join(f"{cell:>9}" for cell in cells)


@click.command(help=__doc__)
@click.option("--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=5.0, show_default=True, help="Of each load.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option("--through", type=click.Choice(["client", "envoy"]), default="client", show_default=True)
@click.option("--connections", type=click.IntRange(1, 500), default=2, show_default=True, help="Of the client.")
@click.option(
    "--most", type=click.IntRange(0), default=Settings().max_in_flight, show_default=True, help="Of the client."
)
@click.argument("flags", nargs=-1)
def main(
    host: Host, seconds: float, rounds: int, through: str, connections: int, most: int, flags: tuple[str, ...]
) -> None:
    cores = Cores.here()
    shares: list[float] = []
    lost = 0
    with servers(host, flags, through, cores) as (server, url):
        load = through_client(server, connections, most) if through == "client" else (lambda *run: h2load(url, *run))
        load(min(1.0, seconds), None)
        click.echo("  ".join(f"{cell:>9}" for cell in HEAD))
        for _ in range(rounds):
            peak = measured(server, lambda: load(seconds, None))
            click.echo(line("peak", peak, peak))
            for times in (1, 2, 3):
                result = measured(server, lambda rate=times * peak.goodput: load(seconds, rate))  # type: ignore[misc]
                click.echo(line(f"{times}x", result, peak))
                lost += result.lost_probes
            shares.append(result.per_cpu / peak.per_cpu)
    share = median(shares)
    click.echo(f"at three times the peak: {share:.2f} of its goodput for the same CPU; probes lost: {lost}")
    if share < LEAST_SHARE or lost:
        sys.exit(1)


if __name__ == "__main__":
    main()

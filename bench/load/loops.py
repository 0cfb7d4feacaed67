"""Load: closed loops (a constant number of calls in flight) and open ones (a constant rate), `h2load` and `wrk`."""

from __future__ import annotations

import json
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from bench.load.h2 import SILENCE_SECONDS, Connection, framed
from bench.measure.stats import percentile

Draw = Callable[[], bytes]  # the next call's body, framed
Judge = Callable[[bytes], bool]  # whether an answer lets the request through

TOOLS = {"h2load": "nghttp2-client", "wrk": "wrk"}  # and the Debian package of each
PATIENCE_SECONDS = 5.0  # for the last answers of an open loop
WRK = Path(__file__).with_name("keys.lua")


@dataclass(slots=True)
class Outcome:
    """What became of the calls of one run. Latencies in seconds; in an open loop from when each was due."""

    seconds: float = 0.0
    admitted: int = 0
    refused: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.admitted + self.refused

    def milliseconds(self, share: float) -> float:
        return 1000 * percentile(sorted(self.latencies), share)

    def count(self, message: bytes, judge: Judge) -> None:
        if not message:
            self.failed += 1
        elif judge(message):
            self.admitted += 1
        else:
            self.refused += 1


def missing_tools() -> list[str]:
    """Those of Debian's two tools that are not on PATH, with the package of each."""
    return [f"{tool} (apt install {package})" for tool, package in TOOLS.items() if not shutil.which(tool)]


def closed(
    connections: Sequence[Connection],
    draw: Draw,
    judge: Judge,
    *,
    in_flight: int,
    seconds: float = float("inf"),
    total: float = float("inf"),
) -> Outcome:
    """Keep `in_flight` calls open, spread over the connections, for a time or up to a number; all are awaited.

    Fewer where the server takes fewer at once on a connection.
    """
    outcome = Outcome()
    due: dict[tuple[Connection, int], float] = {}
    shares = [in_flight // len(connections) + (at < in_flight % len(connections)) for at in range(len(connections))]
    began = perf_counter()
    sent = 0
    for connection, share in zip(connections, shares, strict=True):
        first = connection.send([draw() for _ in range(min(share, connection.streams))])
        sent += len(first)
        due.update(((connection, stream), began) for stream in first)
    while due:
        for connection in _readable(connections, None):
            done = connection.receive()
            now = perf_counter()
            for stream, message in done:
                outcome.latencies.append(now - due.pop((connection, stream)))
                outcome.count(message, judge)
            more = int(min(len(done), total - sent)) if now - began < seconds else 0
            if more:
                sent += more
                due.update(((connection, stream), now) for stream in connection.send([draw() for _ in range(more)]))
    outcome.seconds = perf_counter() - began
    return outcome


def open_loop(connections: Sequence[Connection], draw: Draw, judge: Judge, *, rate: float, seconds: float) -> Outcome:
    """Send `rate` calls a second, however fast the answers come; a late call has waited since it was due."""
    outcome = Outcome()
    due: dict[tuple[Connection, int], float] = {}
    total, sent, began = int(rate * seconds), 0, perf_counter()
    while sent < total or due:
        now = perf_counter()
        until = min(total, int((now - began) * rate) + 1)
        if until > sent:
            for at, connection in enumerate(connections):
                turns = range(sent + (at - sent) % len(connections), until, len(connections))
                room = max(0, connection.streams - connection.waiting)
                outcome.failed += max(0, len(turns) - room)  # Envoy would open one more connection
                turns = turns[:room]
                streams = connection.send([draw() for _ in turns])
                due.update(((connection, s), began + n / rate) for s, n in zip(streams, turns, strict=True))
            sent = until
        if now - began > seconds + PATIENCE_SECONDS:
            outcome.failed += len(due)
            break
        wait = max(0.0, began + sent / rate - perf_counter()) if sent < total else PATIENCE_SECONDS
        for connection in _readable(connections, wait):
            done = connection.receive()
            now = perf_counter()
            for stream, message in done:
                outcome.latencies.append(now - due.pop((connection, stream)))
                outcome.count(message, judge)
    outcome.seconds = perf_counter() - began
    return outcome


def _readable(connections: Sequence[Connection], wait: float | None) -> Sequence[Connection]:
    """select() waits in microseconds, epoll in milliseconds. One connection just blocks in its read.

    Raises TimeoutError where nothing comes for this long without a `wait`.
    """
    if wait is None and len(connections) == 1:
        return connections
    found = select.select(connections, (), (), SILENCE_SECONDS if wait is None else wait)[0]
    if wait is None and not found:
        raise TimeoutError("no server has anything to say")
    return found


def h2load(address: str, path: str, message: bytes, *, in_flight: int, seconds: float, timeout: str = "1S") -> Outcome:
    """One constant message. h2load does not read grpc-status: what it counts as admitted was answered with 200."""
    with TemporaryDirectory() as scratch:
        body, log = Path(scratch, "body"), Path(scratch, "log")
        body.write_bytes(framed(message))
        headers = ("content-type: application/grpc", "te: trailers", f"grpc-timeout: {timeout}")
        named = [part for header in headers for part in ("-H", header)]
        flags = [
            "-c1",
            f"-m{in_flight}",
            f"-D{max(100, round(1000 * seconds))}ms",
            "--warm-up-time=0",
            "-d",
            str(body),
            f"--log-file={log}",
        ]
        told = _run(["h2load", *flags, *named, f"http://{address}{path}"])
        latencies = [int(line.rsplit("\t", 1)[1]) / 1e6 for line in log.read_text().splitlines()]
    return h2load_outcome(told, latencies)


def h2load_outcome(told: str, latencies: list[float]) -> Outcome:
    """What h2load prints, read. Raises ValueError where it says nothing of requests."""
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", told)
    took = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b", told)
    if not (found and took):
        raise ValueError(f"h2load said: {told}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[took[2]]
    admitted, failed, errored = map(int, found.groups())
    return Outcome(float(took[1]) * unit, admitted, 0, max(failed, errored), latencies)


def wrk(url: str, *, keys: int, in_flight: int, seconds: float) -> tuple[Outcome, dict[str, float]]:
    """Through a front Envoy, keys drawn from `keys`; the outcome, and percentiles in milliseconds."""
    flags = ["-t1", f"-c{in_flight}", f"-d{max(1, round(seconds))}s", "-s", str(WRK), url, "--", str(keys)]
    found = json.loads(_run(["wrk", *flags]).rsplit("RESULT ", 1)[1])
    lost = int(found["connect"] + found["read"] + found["write"] + found["timeout"])
    outcome = Outcome(found["seconds"], int(found["requests"] - found["status"]), int(found["status"]), lost)
    return outcome, {"p50_ms": found["p50_ms"], "p99_ms": found["p99_ms"]}


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

"""Servers, loads and rows that several sections share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time_ns

import uvloop

from authz.core.verdict import Grant
from bench.load.h2 import Connection
from bench.load.inputs import CHECK, admits, check_request, value_of
from bench.load.loops import Draw, Outcome, closed, h2load
from bench.measure.inprocess import drive
from bench.measure.machine import thread_seconds
from bench.measure.rows import (
    Bench,
    Commands,
    Load,
    Row,
    Target,
    measured,
)
from bench.measure.servers import Host, Noop, Running, redis, sidecar
from bench.measure.stats import Sample

KEYS = 10_000
ONE_KEY = 1
MANY = 64
NOOPS: Mapping[Noop, str] = {"bare": "no-op, bare", "parse": "no-op"}
ALONE = "one EVALSHA a request, 64 connections"
ROUND_TRIP = "a bare Redis round trip"
COSTS = {
    "rate": "calls/s",
    "server_us": "CPU of the server, µs",
    "redis_us": "CPU of Redis, µs",
    "scripts": "scripts a call",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "wrong": "wrong",
}
FRONT_COSTS = COSTS | {"envoy_us": "CPU of Envoy, µs", "total_us": "CPU in all, µs"}
SWITCHES = {
    "everything as it comes": (),
    "without dynamic metadata": ("--dynamic-metadata", "false"),
    "with chargeOnce": ("--charge-once", "true"),
    "with rate limit headers on success": ("--rate-limit-headers-on-success", "true"),
}


def label(host: Host, noop: Noop = "", in_flight: int = MANY) -> str:
    return f"{host}, {NOOPS.get(noop, 'complete')}, {in_flight} in flight"


@contextmanager
def complete(
    bench: Bench, config: Path, host: Host, *flags: str, workers: int = 1, tree: Path | None = None
) -> Iterator[Target]:
    """A sidecar with everything on and a Redis of its own; several workers share all cores with the load.

    `tree` has the code to run, if it is not this one.
    """
    cores = bench.cores.server if workers == 1 else bench.cores.all
    with (
        redis(bench.cores.load) as store,
        sidecar(config, store.address, *flags, host=host, workers=workers, cores=cores, tree=tree) as server,
    ):
        yield Target((server,), store)


@contextmanager
def no_op(bench: Bench, config: Path, host: Host, noop: Noop) -> Iterator[Target]:
    with (
        redis(bench.cores.load) as store,
        sidecar(config, store.address, host=host, noop=noop, cores=bench.cores.server) as server,
    ):
        yield Target((server,))


@contextmanager
def asking(target: Target, draw: Draw, in_flight: int) -> Iterator[Load]:
    """A closed loop over one connection to each worker."""
    connections = [Connection(address, CHECK) for address in target.server[0].addresses]
    try:
        yield lambda seconds: closed(connections, draw, admits, in_flight=in_flight, seconds=seconds)
    finally:
        for connection in connections:
            connection.close()


def loop_row(bench: Bench, name: str, target: Target, draw: Draw, in_flight: int) -> Row:
    """A row with connections of its own in each round."""

    def run() -> Sample:
        with asking(target, draw, in_flight) as load:
            return measured(target, load, bench.seconds)

    return Row(name, run)


def h2load_row(bench: Bench, name: str, target: Target, in_flight: int) -> Row:
    address, message = target.server[0].address, check_request(value_of(0))

    def load(seconds: float) -> Outcome:
        return h2load(address, CHECK, message, in_flight=in_flight, seconds=seconds)

    return Row(name, lambda: measured(target, load, bench.seconds))


def alone_row(bench: Bench, store: Running, found: Sequence[Grant]) -> Row:
    """The base of what Redis costs: 64 callers, each with a connection of its own, and a script run for each call."""
    return driven_row(bench, ALONE, store, found, limiters=MANY, batch=1)


def driven_row(
    bench: Bench, name: str, store: Running, found: Sequence[Grant], *, limiters: int = 1, batch: int = 1
) -> Row:
    """The limiter by itself, no sidecar about it."""

    def run() -> Sample:
        marks: list[tuple[float, int]] = []

        def mark() -> None:
            marks.append((thread_seconds(store.pid), Commands.of(store).scripts))

        asked = drive(store.address, found, limiters=limiters, batch=batch, seconds=bench.seconds, mark=mark)
        calls = uvloop.run(asked)
        (cpu, scripts), (cpu_after, scripts_after) = marks
        used, sent = cpu_after - cpu, scripts_after - scripts
        return {"redis_us": 1e6 * used / calls, "scripts": sent / calls, "rate": calls / bench.seconds}

    return Row(name, run)


def round_trip_row(bench: Bench, store: Running) -> Row:
    """By a process on the server's core, as the sidecar is."""
    command = [sys.executable, "-m", "bench.load.roundtrip", store.address, str(bench.seconds / 2)]
    pinned = ["taskset", "-c", ",".join(map(str, sorted(bench.cores.server)))]

    def run() -> Sample:
        told = subprocess.run([*pinned, *command], check=True, capture_output=True, text=True, timeout=60).stdout
        found: Sample = json.loads(told)
        return found

    return Row(ROUND_TRIP, run)


def now_us() -> int:
    return time_ns() // 1000

"""The rows of the bench, section by section: what is started, what is asked of it, which target that speaks of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from time import time_ns

import uvloop
from redis import Redis

from authz.core.verdict import Grant
from bench import million, reload
from bench.h2 import Connection
from bench.inprocess import allocations, answer_us, catalog_of, compiled, curves, drive, grants, touch
from bench.inputs import CHECK, admits, always, check_request, document, of_keys, value_of, written
from bench.load import Draw, Outcome, closed, h2load, open_loop, wrk
from bench.machine import cpu_seconds, memory, thread_seconds
from bench.rows import (
    Bench,
    Commands,
    Goal,
    Load,
    Plot,
    Row,
    Samples,
    Section,
    Table,
    Target,
    figures,
    goal,
    interleaved,
    measured,
    table,
)
from bench.servers import Host, Noop, Running, front, redis, sidecar
from bench.stats import Sample, Spread, ratio, short

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


def label(host: Host, noop: Noop = "", in_flight: int = MANY) -> str:
    return f"{host}, {NOOPS.get(noop, 'complete')}, {in_flight} in flight"


# --- servers and loads ----------------------------------------------------------------------------------------------


@contextmanager
def complete(bench: Bench, config: Path, host: Host, *flags: str, workers: int = 1) -> Iterator[Target]:
    """A sidecar with everything on and a Redis of its own; several workers share all cores with the load."""
    cores = bench.cores.server if workers == 1 else bench.cores.all
    with (
        redis(bench.cores.load) as store,
        sidecar(config, store.address, *flags, host=host, workers=workers, cores=cores) as server,
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
    command = [sys.executable, "-m", "bench.roundtrip", store.address, str(bench.seconds / 2)]
    pinned = ["taskset", "-c", ",".join(map(str, sorted(bench.cores.server)))]

    def run() -> Sample:
        told = subprocess.run([*pinned, *command], check=True, capture_output=True, text=True, timeout=60).stdout
        found: Sample = json.loads(told)
        return found

    return Row(ROUND_TRIP, run)


def now_us() -> int:
    return time_ns() // 1000


# --- sections -------------------------------------------------------------------------------------------------------


def hosts_section(bench: Bench) -> Section:
    """Both hosts and their no-ops, keys drawn from 10,000."""
    content = document(keys=KEYS)
    config = written(content, bench.scratch)
    found = grants(compiled(content), range(KEYS), now_us())
    with ExitStack() as stack:
        rows = []
        for host in bench.hosts:
            targets = {noop: stack.enter_context(no_op(bench, config, host, noop)) for noop in NOOPS}
            targets[""] = stack.enter_context(complete(bench, config, host))
            rows += [
                loop_row(bench, label(host, noop, n), target, of_keys(KEYS), n)
                for n in (MANY, 1)
                for noop, target in targets.items()
            ]
        store = stack.enter_context(redis(bench.cores.server))
        beside = stack.enter_context(redis(bench.cores.load))
        rows += [alone_row(bench, store, found), round_trip_row(bench, beside)]
        samples = interleaved(bench, rows)
    return Section(
        "The hosts",
        f"Keys drawn uniformly from {KEYS:,}, five layers. A no-op is the same host whose answer is a constant: `bare` "
        "does not look at the question, the other parses it. Each complete sidecar has a Redis of its own.",
        [table(samples, COSTS)],
        [],
        _host_goals(samples, bench.hosts),
    )


def _host_goals(samples: Samples, hosts: Sequence[Host]) -> list[Goal]:
    most, found = {"grpcio": 1.2, "pyvoy": 1.5}, []
    for host in hosts:
        what = f"{host}, 64 in flight, five layers: CPU over its no-op"
        found.append(goal(what, most[host], samples, label(host), label(host, "parse"), "server_us"))
    if "pyvoy" in hosts:
        what = "pyvoy, 64 in flight: CPU over grpcio's no-op"
        found.append(goal(what, 0.4, samples, label("pyvoy"), label("grpcio", "parse"), "server_us"))
    for host in hosts:
        what = f"{host}, 64 in flight, {KEYS:,} keys: CPU of Redis over one EVALSHA a request"
        found.append(goal(what, 0.6, samples, label(host), ALONE, "redis_us"))
    return found + [_one_in_flight(samples, host) for host in hosts]


def _one_in_flight(samples: Samples, host: Host) -> Goal:
    floor = [
        {"p50_ms": noop["p50_ms"] + trip["p50_ms"]}
        for noop, trip in zip(samples[label(host, "parse", 1)], samples[ROUND_TRIP], strict=True)
    ]
    found = ratio(samples[label(host, "", 1)], floor, "p50_ms")
    return Goal(f"{host}, one in flight: p50 over no-op and one bare Redis round trip", 1.25, found)


def one_key_section(bench: Bench) -> Section:
    """One key, by h2load; and a flood of calls that are refused."""
    content, spent = document(keys=KEYS), document(keys=KEYS, quota=1)
    config, over = written(content, bench.scratch), written(spent, bench.scratch, "spent.yaml")
    found = grants(compiled(content), [0], now_us())
    with ExitStack() as stack:
        rows, refused = [], []
        for host in bench.hosts:
            noop = stack.enter_context(no_op(bench, config, host, "parse"))
            whole = stack.enter_context(complete(bench, config, host))
            for n in (MANY, 1):
                rows.append(h2load_row(bench, label(host, "parse", n), noop, n))
                rows.append(h2load_row(bench, label(host, "", n), whole, n))
            empty = stack.enter_context(complete(bench, over, host))
            refused.append(f"{host}, quota over, {MANY} in flight")
            rows.append(loop_row(bench, refused[-1], empty, always(check_request(value_of(0))), MANY))
        store = stack.enter_context(redis(bench.cores.server))
        samples = interleaved(bench, [*rows, alone_row(bench, store, found)])
    goals = [
        goal(
            f"{host}, 64 in flight, one key: CPU of Redis over one EVALSHA",
            0.3,
            samples,
            label(host),
            ALONE,
            "redis_us",
        )
        for host in bench.hosts
    ]
    for name in refused:
        spread = Spread.of([sample["commands"] for sample in samples[name]])
        goals.append(Goal(f"{name}: Redis commands a call", 0.01, spread))
    return Section(
        "One key",
        "`h2load` posts one constant body. It does not see who was refused, so each sidecar has to admit a call first. "
        "In the rows with the quota over every call is refused, and `wrong` is 1.",
        [table(samples, COSTS)],
        [],
        goals,
    )


def workers_section(bench: Bench) -> Section:
    """One worker and two, on all cores."""
    config = written(document(keys=KEYS), bench.scratch)
    with ExitStack() as stack:
        rows = []
        for host in bench.hosts:
            for workers in (1, 2):
                target = stack.enter_context(_on_all_cores(bench, config, host, workers))
                for n in (MANY, workers):
                    name = f"{host}, {workers} worker{'s' * (workers > 1)}, {n} in flight"
                    rows.append(loop_row(bench, name, target, of_keys(KEYS), n))
        samples = interleaved(bench, rows)
    text = "On all cores, which the load, Redis and the workers share: what a worker more brings shows on more cores."
    return Section("Workers", text, [table(samples, COSTS)])


@contextmanager
def _on_all_cores(bench: Bench, config: Path, host: Host, workers: int) -> Iterator[Target]:
    unpinned = replace(bench, cores=replace(bench.cores, server=bench.cores.all))
    with complete(unpinned, config, host, workers=workers) as target:
        yield target


def front_section(bench: Bench) -> Section:
    """Through an Envoy that asks us, and through one that asks nobody."""
    config = written(document(keys=KEYS), bench.scratch)
    with ExitStack() as stack:
        targets = {"Envoy alone": Target(envoy=stack.enter_context(front(config, (), bench.cores.load)))}
        for host in bench.hosts:
            for noop in ("parse", ""):
                made = no_op(bench, config, host, "parse") if noop else complete(bench, config, host)
                target = stack.enter_context(made)
                envoy = stack.enter_context(front(config, target.server[0].addresses, bench.cores.load))
                targets[f"Envoy and {host}, {'no-op' if noop else 'complete'}"] = replace(target, envoy=envoy)
        rows = [_front_row(bench, f"{name}, {n} in flight", t, n) for n in (MANY, 1) for name, t in targets.items()]
        samples = interleaved(bench, rows)
    return Section(
        "Behind a front Envoy",
        f"`wrk` with keys drawn from {KEYS:,} asks an Envoy (one thread, beside the load) that answers by itself what "
        "it lets through, with the filter and cluster that `authz envoy-config` prints.",
        [table(samples, FRONT_COSTS)],
    )


def _front_row(bench: Bench, name: str, target: Target, in_flight: int) -> Row:
    assert target.envoy
    url = f"{target.envoy.http}/prod/pets/7"
    last: dict[str, float] = {}

    def load(seconds: float) -> Outcome:
        outcome, percentiles = wrk(url, keys=KEYS, in_flight=in_flight, seconds=seconds)
        last.update(percentiles)
        return outcome

    def run() -> Sample:
        sample = measured(target, load, bench.seconds)
        return {**sample, **last, "total_us": sum(v for name, v in sample.items() if name.endswith("_us"))}

    return Row(name, run)


def batches_section(bench: Bench) -> Section:
    """What a decision costs Redis by the size of its batch."""
    catalog = compiled(document(keys=KEYS))
    with redis(bench.cores.server) as store:
        rows = []
        for many, numbers in ((ONE_KEY, [0]), (KEYS, range(KEYS))):
            found = grants(catalog, numbers, now_us())
            word = f"{many:,} key{'s' * (many > 1)}"
            rows += [
                driven_row(bench, f"{word}, batch {batch}", store, found, batch=batch) for batch in (1, 4, 16, MANY)
            ]
            rows.append(driven_row(bench, f"{word}, {ALONE}", store, found, limiters=MANY))
        samples = interleaved(bench, rows)
        size = _active_key_bytes(store, found)
    busiest = Spread.of([1e6 / sample["redis_us"] for sample in samples[f"{KEYS:,} keys, batch {MANY}"]])
    columns = {"redis_us": "CPU of Redis a decision, µs", "scripts": "scripts a decision", "rate": "decisions/s"}
    return Section(
        "Batches",
        f"The limiter by itself, five layers. One core of Redis carries {busiest} decisions a second at batch {MANY}, "
        f"with {KEYS:,} keys; a key that has called takes {short(size)} bytes there.",
        [table(samples, columns)],
    )


def _active_key_bytes(store: Running, found: Sequence[Grant]) -> float:
    """What Redis holds for a caller that has called, over what an empty one does."""
    with Redis.from_url(store.address) as client:
        client.flushall()
        empty = used_bytes(client)
        uvloop.run(touch(store.address, found))
        return (used_bytes(client) - empty) / len(found)


def used_bytes(client: Redis) -> int:
    told: Mapping[str, int] = client.info("memory")
    return told["used_memory"]


def latency_section(bench: Bench) -> Section:
    """Percentiles at a constant rate."""
    config = written(document(keys=KEYS), bench.scratch)
    shares = (0.25, 0.5, 0.8)
    with ExitStack() as stack:
        rows, limits = [], {}
        for host in bench.hosts:
            target = stack.enter_context(complete(bench, config, host))
            limits[host] = peak(target, bench.seconds)
            rows += [_constant_row(bench, host, target, share, limits[host]) for share in shares]
        samples = interleaved(bench, rows)
    columns = {
        "rate": "calls/s",
        "p50_ms": "p50, ms",
        "p90_ms": "p90, ms",
        "p99_ms": "p99, ms",
        "p999_ms": "p99.9, ms",
        "max_ms": "longest, ms",
        "wrong": "wrong",
    }
    lines: dict[str, list[tuple[float, float]]] = {
        host: [(100 * share, Spread.of([s["p99_ms"] for s in samples[_at(host, share)]]).middle) for share in shares]
        for host in bench.hosts
    }
    return Section(
        "Latency at a constant rate",
        "Calls go out when they are due, however late the answers are, and each has waited since it was due (no "
        "coordinated omission). Saturation is what 64 in flight reached just before: "
        + ", ".join(f"{host} {limit:,.0f}/s" for host, limit in limits.items())
        + ".",
        [table(samples, columns)],
        [Plot("latency", "p99 by load", "% of saturation", "ms", lines)],
    )


def _at(host: Host, share: float) -> str:
    return f"{host} at {share:.0%}"


def peak(target: Target, seconds: float) -> float:
    """Calls a second with 64 in flight: the better of two goes."""
    with asking(target, of_keys(KEYS), MANY) as load:
        return max(figures(load(seconds))["rate"] for _ in range(2))


def _constant_row(bench: Bench, host: Host, target: Target, share: float, limit: float) -> Row:
    def run() -> Sample:
        connection = Connection(target.server[0].address, CHECK)
        try:
            draw = of_keys(KEYS)
            open_loop([connection], draw, admits, rate=limit * share, seconds=bench.seconds / 4)
            return figures(open_loop([connection], draw, admits, rate=limit * share, seconds=bench.seconds))
        finally:
            connection.close()

    return Row(_at(host, share), run)


SWITCHES = {
    "everything as it comes": (),
    "without dynamic metadata": ("--dynamic-metadata", "false"),
    "with chargeOnce": ("--charge-once", "true"),
    "with rate limit headers on success": ("--rate-limit-headers-on-success", "true"),
}


def switches_section(bench: Bench) -> Section:
    """What single settings cost."""
    config = written(document(keys=KEYS), bench.scratch)
    with ExitStack() as stack:
        rows = []
        for host in bench.hosts:
            for name, flags in SWITCHES.items():
                target = stack.enter_context(complete(bench, config, host, *flags))
                rows.append(loop_row(bench, f"{host}, {name}", target, of_keys(KEYS, new_ids=True), MANY))
        samples = interleaved(bench, rows)
    text = f"{MANY} in flight, keys drawn from {KEYS:,}; each call has a request id of its own."
    return Section("Single settings", text, [table(samples, COSTS)])


def start_section(bench: Bench) -> Section:
    """Until a sidecar is ready, and what it holds."""
    config = written(document(keys=KEYS), bench.scratch)
    with redis(bench.cores.load) as store:
        rows = [Row(host, partial(_start, bench, config, host, store)) for host in bench.hosts]
        samples = interleaved(bench, rows)
    columns = {
        "started_s": "ready after, s",
        "rss_mb": "resident, MB",
        "pss_mb": "its share of it, MB",
        "cpu_s": "CPU, s",
    }
    text = f"A file of {KEYS:,} keys in 100 plans; after 2,000 calls."
    return Section("Start and memory", text, [table(samples, columns, "host")])


def _start(bench: Bench, config: Path, host: Host, store: Running) -> Sample:
    with sidecar(config, store.address, host=host, cores=bench.cores.server) as server:
        used = cpu_seconds([server.pid])
        connection = Connection(server.address, CHECK)
        closed([connection], of_keys(KEYS), admits, in_flight=MANY, total=2_000)
        connection.close()
        held = memory([server.pid])
    return {"started_s": server.started_s, "rss_mb": held.rss, "pss_mb": held.pss, "cpu_s": used}


def curves_section(bench: Bench) -> Section:
    """The cost of an answer over the size of the catalog, without host and Redis."""
    seconds = bench.seconds / 4
    tables, plots = [], []
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, series in curves(bench.quick).items():
        rows = []
        for changes in series:
            catalog, size = catalog_of(changes), float(changes[name.partition(" ")[0]])
            found = Spread.of([answer_us(catalog, changes["keys"], seconds) for _ in range(bench.rounds)])
            lines.setdefault(name, []).append((size, found.middle))
            rows.append([f"{size:,.0f}", str(found)])
            del catalog
        bench.say(f"  {name}")
        tables.append(Table([name, "CPU of an answer, µs"], rows))
    tables.append(_allocations())
    layers = {"layers": lines.pop("layers")}
    plots = [
        Plot("catalog", "CPU of an answer by the size of the catalog", "how many", "µs", lines),
        Plot("layers", "CPU of an answer by layers", "layers", "µs", layers),
    ]
    text = (
        "All of an answer but the host and Redis, in this process: the question parsed, resolved, judged, its answer "
        "worded and serialised."
    )
    return Section("Cost by size", text, tables, plots)


def _allocations() -> Table:
    found = allocations(compiled(document(keys=KEYS)), KEYS)
    row = [short(found["peak_bytes"]), short(found["blocks"]), short(found["collections"])]
    return Table(
        ["", "held at a time, bytes", "blocks that stay", "garbage collections in 1,000"], [["an answer", *row]]
    )


def keys_section(bench: Bench) -> Section:
    """A million keys of the store against ten thousand of them."""
    host, many = bench.hosts[-1], bench.keys
    with ExitStack() as stack:
        store = stack.enter_context(redis(bench.cores.load))
        filled_s, held_mb = uvloop.run(million.fill(store.address, many))
        bench.say(f"  {many:,} keys in the store after {filled_s:.0f} s")
        config = written(million.DOCUMENT, bench.scratch, "store.yaml")
        kept, few = (
            stack.enter_context(
                sidecar(config, store.address, "--store", "true", "--key-cache-size", str(size), host=host,
                        cores=bench.cores.server)
            )
            for size in (2 * many, KEYS)  # what is in memory is kept in two halves
        )  # fmt: skip
        began = now_us()
        _look_all_up(kept, many)
        warmed_s, held = (now_us() - began) / 1e6, memory([kept.pid])
        rows = []
        for n in (MANY, 1):
            warm = Target((kept,), store)
            rows.append(loop_row(bench, _keys(KEYS, n), warm, of_keys(KEYS), n))
            rows.append(loop_row(bench, _keys(many, n), warm, of_keys(many), n))
        missing = f"{many:,} keys, {KEYS:,} of them in memory, {MANY} in flight"
        rows.append(loop_row(bench, missing, Target((few,), store), of_keys(many), MANY))
        samples = interleaved(bench, rows)
    goals = [
        goal(f"{many:,} keys over {KEYS:,}: CPU", 1.1, samples, _keys(many, MANY), _keys(KEYS, MANY), "server_us"),
        goal(
            f"{many:,} keys over {KEYS:,}: p50, one in flight", 1.1, samples, _keys(many, 1), _keys(KEYS, 1), "p50_ms"
        ),
    ]
    text = (
        f"{many:,} keys in the store, written in {filled_s:.0f} s, {1e6 * held_mb / many:,.0f} bytes of Redis each. "
        f"A sidecar ({host}) looked them all up in {warmed_s:.0f} s and then held {held.rss:.0f} MB; the one with "
        "the small memory asks Redis once more for nearly every call."
    )
    return Section("A million keys", text, [table(samples, COSTS)], [], goals)


def _keys(many: int, in_flight: int) -> str:
    return f"{many:,} keys, {in_flight} in flight"


def _look_all_up(server: Running, many: int) -> None:
    """Each key once, so that all are in memory."""
    numbers = count()
    sample = of_keys(1)()
    before, after = sample.split(value_of(0).encode())
    connection = Connection(server.address, CHECK)
    try:
        found = closed(
            [connection],
            lambda: b"".join((before, value_of(next(numbers) % many).encode(), after)),
            admits,
            in_flight=MANY,
            total=many,
        )
        assert found.refused + found.failed < many * 0.01, "keys of the store are refused"
    finally:
        connection.close()


def reload_section(bench: Bench) -> Section:
    """How long a change of the file holds up the process that serves."""
    small, large = reload.Size(1_000, 100, 1), reload.Size(10_000, 10_000, 1_000)
    rows = []
    for size in (small,) if bench.quick else (small, large):
        with everywhere(bench):  # the child that parses has the other core
            results = uvloop.run(reload.measure(bench.scratch, size, bench.rounds))
        swapped = Spread.of([result.swapped_s for result in results])
        stall, own = Spread.of([r.stall_ms for r in results]), Spread.of([r.own_cpu_s for r in results])
        name = f"{size.keys:,} keys, {size.plans:,} plans, {size.routes:,} routes"
        rows.append([name, str(swapped), str(own), str(stall)])
        bench.say(f"  {size.plans:,} plans")
    head = ["file", "change to swap, s", "own CPU, s", "longest stall, ms"]
    text = "The file is parsed in a child process; the event loop of the one that serves stalls at most so long."
    return Section("Reload", text, [Table(head, rows)])


@contextmanager
def everywhere(bench: Bench) -> Iterator[None]:
    """This process and its children on all cores for a while."""
    os.sched_setaffinity(0, bench.cores.all)
    try:
        yield
    finally:
        os.sched_setaffinity(0, bench.cores.load)


SECTIONS: Mapping[str, Callable[[Bench], Section]] = {
    "hosts": hosts_section,
    "one-key": one_key_section,
    "workers": workers_section,
    "front": front_section,
    "batches": batches_section,
    "latency": latency_section,
    "switches": switches_section,
    "start": start_section,
    "curves": curves_section,
    "reload": reload_section,
    "keys": keys_section,
}

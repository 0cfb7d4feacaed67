"""What a check costs on each server, beside a no-op and a bare round trip to Redis."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from bench.load.inputs import document, of_keys, written
from bench.measure.inprocess import compiled, grants
from bench.measure.rows import (
    Bench,
    Goal,
    Samples,
    Section,
    goal,
    interleaved,
    table,
)
from bench.measure.servers import Host, redis
from bench.measure.stats import ratio
from bench.sections.common import (
    ALONE,
    COSTS,
    KEYS,
    MANY,
    NOOPS,
    ROUND_TRIP,
    alone_row,
    complete,
    label,
    loop_row,
    no_op,
    now_us,
    round_trip_row,
)


def servers_section(bench: Bench) -> Section:
    """Both servers and their no-ops, keys drawn from 10,000."""
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
        "The servers",
        f"Keys drawn uniformly from {KEYS:,}, five layers. A no-op is the same server whose answer is a constant: "
        "`bare` does not look at the question, the other parses it. Each complete sidecar has a Redis of its own.",
        [table(samples, COSTS)],
        [],
        _server_goals(samples, bench.hosts),
    )


def _server_goals(samples: Samples, hosts: Sequence[Host]) -> list[Goal]:
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

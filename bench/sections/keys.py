"""What a store of many keys costs."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count

import uvloop

from bench.load.h2 import Connection
from bench.load.inputs import CHECK, admits, of_keys, value_of, written
from bench.load.loops import closed
from bench.measure import million
from bench.measure.machine import memory
from bench.measure.rows import (
    Bench,
    Section,
    Target,
    goal,
    interleaved,
    table,
)
from bench.measure.servers import Running, redis, sidecar
from bench.sections.common import COSTS, KEYS, MANY, loop_row, now_us


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
            for size in (2 * many, KEYS)  # the memory has two halves
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

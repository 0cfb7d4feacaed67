"""How long a reload holds up the process that serves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from bench import reload
from bench.measure.rows import (
    Bench,
    Section,
    Table,
)
from bench.measure.stats import Spread


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
    text = "The file is parsed in a child process; the event loop of the one that serves stalls at most this long."
    return Section("Reload", text, [Table(head, rows)])


@contextmanager
def everywhere(bench: Bench) -> Iterator[None]:
    """This process and its children on all cores for a while."""
    os.sched_setaffinity(0, bench.cores.all)
    try:
        yield
    finally:
        os.sched_setaffinity(0, bench.cores.load)

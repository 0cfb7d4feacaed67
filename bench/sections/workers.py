"""What several workers add on all cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.load.inputs import document, of_keys, written
from bench.measure.rows import (
    Bench,
    Section,
    Target,
    interleaved,
    table,
)
from bench.measure.servers import Host
from bench.sections.common import COSTS, KEYS, MANY, complete, loop_row


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

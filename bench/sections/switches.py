"""What each optional feature costs."""

from __future__ import annotations

from contextlib import ExitStack

from bench.load.inputs import document, of_keys, written
from bench.measure.rows import (
    Bench,
    Section,
    interleaved,
    table,
)
from bench.sections.common import COSTS, KEYS, MANY, SWITCHES, complete, loop_row


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

"""What a check costs behind a front Envoy."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from bench.load.inputs import document, written
from bench.load.loops import Outcome, wrk
from bench.measure.envoys import front
from bench.measure.rows import (
    Bench,
    Row,
    Section,
    Target,
    interleaved,
    measured,
    table,
)
from bench.measure.stats import Sample
from bench.sections.common import FRONT_COSTS, KEYS, MANY, complete, no_op


def front_section(bench: Bench) -> Section:
    """Through an Envoy that asks us, and through one without a check."""
    config = written(document(keys=KEYS), bench.scratch)
    with ExitStack() as stack:
        targets = {"Envoy alone": Target(envoy=stack.enter_context(front(config, (), bench.cores.load)))}
        for host in bench.hosts:
            for noop in ("parse", ""):
                made = no_op(bench, config, host, "parse") if noop else complete(bench, config, host)
                target = stack.enter_context(made)
                envoy = stack.enter_context(front(config, target.server[0].addresses, bench.cores.load))
                targets[f"Envoy and {host}, {'no-op' if noop else 'complete'}"] = replace(target, envoy=envoy)
        rows = [front_row(bench, f"{name}, {n} in flight", t, n) for n in (MANY, 1) for name, t in targets.items()]
        samples = interleaved(bench, rows)
    return Section(
        "Behind a front Envoy",
        f"`wrk` with keys drawn from {KEYS:,} asks an Envoy (one thread, beside the load) that answers by itself what "
        "it lets through, with the filter and cluster that `authz envoy-config` prints.",
        [table(samples, FRONT_COSTS)],
    )


def front_row(bench: Bench, name: str, target: Target, in_flight: int, keys: int = KEYS) -> Row:
    """A row of `wrk` through the target's Envoy; `total_us` is the CPU of all processes."""
    assert target.envoy
    url = f"{target.envoy.http}/prod/pets/7"
    last: dict[str, float] = {}

    def load(seconds: float) -> Outcome:
        outcome, percentiles = wrk(url, keys=keys, in_flight=in_flight, seconds=seconds)
        last.update(percentiles)
        return outcome

    def run() -> Sample:
        sample = measured(target, load, bench.seconds)
        return {**sample, **last, "total_us": sum(v for name, v in sample.items() if name.endswith("_us"))}

    return Row(name, run)

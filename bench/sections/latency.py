"""Latency at a constant rate."""

from __future__ import annotations

from contextlib import ExitStack

from bench.load.h2 import Connection
from bench.load.inputs import CHECK, admits, document, of_keys, written
from bench.load.loops import open_loop
from bench.measure.rows import (
    Bench,
    Plot,
    Row,
    Section,
    Target,
    figures,
    interleaved,
    table,
)
from bench.measure.servers import Host
from bench.measure.stats import Sample, Spread
from bench.sections.common import KEYS, MANY, asking, complete


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

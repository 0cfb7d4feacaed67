"""What a check costs this process as the catalog grows."""

from __future__ import annotations

from bench.load.inputs import document
from bench.measure.inprocess import allocations, answer_us, catalog_of, compiled, curves
from bench.measure.rows import (
    Bench,
    Plot,
    Section,
    Table,
)
from bench.measure.stats import Spread, short
from bench.sections.common import KEYS


def curves_section(bench: Bench) -> Section:
    """The cost of an answer over the size of the catalog, without server and Redis."""
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
        "All of an answer but the server and Redis, in this process: the question parsed, resolved, judged, its answer "
        "worded and serialised."
    )
    return Section("Cost by size", text, tables, plots)


def _allocations() -> Table:
    found = allocations(compiled(document(keys=KEYS)), KEYS)
    row = [short(found["peak_bytes"]), short(found["blocks"]), short(found["collections"])]
    return Table(
        ["", "held at a time, bytes", "blocks that stay", "garbage collections in 1,000"], [["an answer", *row]]
    )

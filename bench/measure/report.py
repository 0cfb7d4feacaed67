"""Sections as Markdown, and their plots as SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

import pygal  # type: ignore[import-untyped]
from pygal.style import LightStyle  # type: ignore[import-untyped]

from bench.measure.rows import Bars, Goal, Plot, Section, Table
from bench.measure.stats import short

PLOTS = "plots"


@dataclass(frozen=True, slots=True)
class Report:
    """A file of results: its name, its title, and the command that writes it."""

    file: str
    title: str
    command: str


RESULTS = Report("RESULTS.md", "What it costs", "make bench")


def write(
    directory: Path,
    sections: Sequence[Section],
    machine: Iterable[tuple[str, str]],
    notes: Sequence[str],
    when: str,
    report: Report = RESULTS,
) -> Path:
    """The report and plots/*.svg in this directory; the former's path."""
    plots = directory / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            (plots / f"{plot.name}.svg").write_bytes(drawn(plot))
    path = directory / report.file
    path.write_text("\n".join(_lines(report, sections, machine, notes, when)) + "\n")
    return path


def _lines(
    report: Report,
    sections: Sequence[Section],
    machine: Iterable[tuple[str, str]],
    notes: Sequence[str],
    when: str,
) -> Iterator[str]:
    yield f"# {report.title}"
    yield ""
    yield f"Written by `{report.command}` on {when}. Each figure is the median of its rounds, with the least and the"
    yield "greatest beside it; the rows of a table took turns, round by round, and ratios are of the same round. CPU is"
    yield "the user and system time of all threads of a process and its children, over the calls that were answered;"
    yield "`wrong` is the share of calls that were refused or got no answer."
    yield from ("", *(f"- {note}" for note in notes), "")
    yield from ("## Machine", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine), "")
    goals = [goal for section in sections for goal in section.goals]
    if goals:
        yield from ("## Targets", "", *markdown(targets(goals)), "")
    for section in sections:
        yield from (f"## {section.title}", "", section.text, "")
        for found in section.tables:
            yield from (*markdown(found), "")
        for plot in section.plots:
            yield from (f"![{plot.title}]({PLOTS}/{plot.name}.svg)", "")


def targets(goals: Iterable[Goal]) -> Table:
    rows = [[goal.what, f"≤ {goal.most:g}", str(goal.found), "yes" if goal.is_met else "no"] for goal in goals]
    return Table(["target", "at most", "measured", "met"], rows)


def markdown(table: Table) -> Iterator[str]:
    """A column that is empty in all rows is left out."""
    columns = [at for at in range(len(table.head)) if at == 0 or any(row[at] for row in table.rows)]
    yield "| " + " | ".join(table.head[at] for at in columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in table.rows:
        yield "| " + " | ".join(row[at] for at in columns) + " |"


def drawn(plot: Plot | Bars) -> bytes:
    """The plot as SVG, with nothing in it that another server would have to bring."""
    chart = _bars(plot) if isinstance(plot, Bars) else _lines_of(plot)
    chart.uuid = plot.name  # else random: the same figures shall be the same file
    return re.sub(rb"<script.*?</script>", b"", chart.render(), flags=re.DOTALL)


def _bars(plot: Bars) -> Any:
    chart = pygal.HorizontalStackedBar(
        title=plot.title,
        x_title=plot.x,
        style=LightStyle,
        js=(),
        width=860,
        height=110 + 44 * len(plot.labels),
        legend_at_bottom=True,
        print_values=False,
    )
    # From the top down, as a table has them; pygal draws the first at the bottom.
    chart.x_labels = list(reversed(plot.labels))
    for name, values in plot.parts.items():
        chart.add(name, list(reversed(values)))
    return chart


def _lines_of(plot: Plot) -> Any:
    chart = pygal.XY(
        title=plot.title,
        x_title=plot.x,
        y_title=plot.y,
        style=LightStyle,
        js=(),
        logarithmic=False,
        xrange=None,
        range=(0, 1.15 * max(y for line in plot.lines.values() for _, y in line)),
        width=720,
        height=400,
        x_labels=[{"value": at, "label": name} for at, name in _marks(plot)],
    )
    for name, line in plot.lines.items():
        chart.add(name, [(place(plot, x), y) for x, y in line])
    return chart


def place(plot: Plot, x: float) -> float:
    """Where x stands: by the powers of ten where the plot spans more than two of them."""
    return log10(x) if _is_wide(plot) else x


def _is_wide(plot: Plot) -> bool:
    xs = [x for line in plot.lines.values() for x, _ in line]
    return min(xs) > 0 and max(xs) / min(xs) > 100


def _marks(plot: Plot) -> list[tuple[float, str]]:
    xs = sorted({x for line in plot.lines.values() for x, _ in line})
    return [(place(plot, x), short(x)) for x in xs]

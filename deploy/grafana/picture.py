"""Draws some of the dashboard's panels from a Prometheus, as one SVG: for a README, or where no Grafana runs.

    python deploy/grafana/picture.py --prometheus http://127.0.0.1:9090 --minutes 60 --out dashboard.svg

The queries are the dashboard's own. Needs pygal.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

DASHBOARD: Final = Path(__file__).parent / "dashboards" / "usage-plans.json"
TITLES: Final = (
    "Checks",
    "Time to answer",
    "429 by layer",
    "Busiest plans",
    "Decided without Redis",
    "Envoy's decisions",
)
COLUMNS: Final = 2
WIDTH, HEIGHT, GAP = 620, 300, 10
LONG: Final = 16  # letters of a name; a quarter of the width is too little for more
MARKS: Final = 4  # parts of each axis
UNITS: Final = {"reqps": "a second", "s": "milliseconds"}
STYLE: Final = Style(
    background="#ffffff",
    plot_background="#ffffff",
    font_family="sans-serif",
    title_font_size=17,
    label_font_size=12,
    legend_font_size=13,
    major_label_font_size=12,
    colors=("#3274d9", "#37872d", "#e0752d", "#a352cc", "#c4162a", "#0a8f8f", "#8f8f0a", "#555555"),
)

Line = list[tuple[float, float]]


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    if options.list:
        sys.stdout.write(json.dumps(TITLES) + "\n")
        return
    shown = {panel["title"]: panel for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]}
    charts = [drawn(shown[title], options) for title in TITLES]
    options.out.write_text(together(charts), "utf-8")


def parsed(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description="Draw some of the dashboard's panels as one SVG.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back from now")
    parser.add_argument("--step", type=float, default=15.0, help="seconds between two points")
    parser.add_argument("--rate-interval", default="1m", help="what stands for $__rate_interval")
    parser.add_argument("--out", type=Path, default=Path("dashboard.svg"))
    parser.add_argument("--list", action="store_true", help="only print the titles of the panels, as JSON")
    return parser.parse_args(arguments)


def drawn(panel: Mapping[str, Any], options: Namespace) -> str:
    """A chart of one panel. Raises ValueError where there is nothing to draw."""
    now = time.time()
    lines = dict(_lines(panel, options, now))
    if not lines:
        raise ValueError(f"{panel['title']}: Prometheus has no data for it")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    far, top = options.minutes * 60, rounded_up(max(y for line in lines.values() for _, y in line))
    chart = pygal.XY(
        title=f"{panel['title']}, {UNITS[unit]}",
        width=WIDTH,
        height=HEIGHT,
        style=STYLE,
        js=(),
        show_dots=False,
        stroke_style={"width": 2.5},
        legend_at_bottom=True,
        legend_at_bottom_columns=4 if max(map(len, lines)) < LONG else 2,
        legend_box_size=10,
        truncate_legend=-1,
        xrange=(-far, 0),
        range=(0, top),
        y_labels=[top * n / MARKS for n in range(MARKS + 1)],
        x_labels=[{"value": -far * n / MARKS, "label": _ago(far * n / MARKS)} for n in range(MARKS, -1, -1)],
    )
    for name, line in lines.items():
        chart.add(name, line)
    chart.uuid = re.sub(r"\W+", "-", panel["title"].lower())  # else random: the same data shall be the same file
    text: str = chart.render(is_unicode=True)
    return re.sub(r"<script.*?</script>|<\?xml.*?\?>", "", text, flags=re.DOTALL)


def rounded_up(value: float) -> float:
    """To 1, 2, 4 or 8 times a power of ten, so that a quarter of it is easily read."""
    if not value:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 4, 8, 10) if unit * step >= value)


def _ago(seconds: float) -> str:
    if not seconds:
        return "now"
    return f"-{seconds / 60:g} min" if seconds >= 60 else f"-{seconds:g} s"


def _lines(panel: Mapping[str, Any], options: Namespace, now: float) -> Iterator[tuple[str, Line]]:
    """By name, the points of each series: seconds before now, and the value."""
    scale = 1000 if panel["fieldConfig"]["defaults"]["unit"] == "s" else 1
    for target in panel["targets"]:
        for series in _asked(target["expr"], options, now):
            line = [(at - now, scale * float(value)) for at, value in series["values"] if value != "NaN"]
            if line:
                yield _legend(target["legendFormat"], series["metric"]), line


def _asked(expression: str, options: Namespace, now: float) -> list[Any]:
    filled = expression.replace("$__rate_interval", options.rate_interval).replace("$plan", ".*")
    asked = {"query": filled, "start": now - options.minutes * 60, "end": now, "step": options.step}
    url = f"{options.prometheus}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  (the operator's own address)
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


def _legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)


def together(charts: Sequence[str]) -> str:
    """One picture of them, in rows."""
    rows = -(-len(charts) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP), rows * (HEIGHT + GAP)
    places = [
        chart.replace("<svg ", f'<svg x="{n % COLUMNS * (WIDTH + GAP)}" y="{n // COLUMNS * (HEIGHT + GAP)}" '
                               f'width="{WIDTH}" height="{HEIGHT}" ', 1)
        for n, chart in enumerate(charts)
    ]  # fmt: skip
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *places, "</svg>\n"])


if __name__ == "__main__":
    main(sys.argv[1:])

"""Charts: no part leaves its box, and the numbers beside a drawing are those that went in."""

from __future__ import annotations

import re
from datetime import date, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.control.pages.charts import (
    Columns,
    DayUse,
    LimitUse,
    Span,
    day_columns,
    days_of,
    limit_bars,
    round_axis,
    short,
)
from authz.control.pages.templates import ENVIRONMENT

FIRST = date(2026, 1, 20)
counts = st.integers(0, 10**18) | st.integers(0, 9) | st.integers(0, 10**400)
SLACK = 0.01  # percent; places are rounded


def day_uses(longest: int = 90) -> Any:
    numbers = st.lists(st.tuples(counts, counts, counts), max_size=longest)
    return numbers.map(lambda rows: [DayUse(FIRST + timedelta(days=at), *row) for at, row in enumerate(rows)])


def number(percent: str) -> float:
    assert re.fullmatch(r"\d+(\.\d+)?%", percent), percent
    return float(percent[:-1])


def ends(span: Span) -> tuple[float, float]:
    start = number(span.at)
    return start, start + number(span.size)


def is_inside(span: Span) -> bool:
    start, end = ends(span)
    return 0 <= start <= end <= 100 + SLACK


def draw(macro: str, **values: Any) -> str:
    arguments = ", ".join(f"{name}={name}" for name in values)
    source = f'{{% from "pages/charts.html" import {macro} %}}{{{{ {macro}({arguments}) }}}}'
    return ENVIRONMENT.from_string(source).render(values)


class Rows(HTMLParser):
    """The texts of a table's cells, row by row, and every element's attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def cells(row: list[str]) -> list[int]:
    return [int(cell.replace(",", "")) for cell in row]


# --- bars ---------------------------------------------------------------------------------------------------------


@given(
    used=st.integers(-(10**18), 10**400) | st.integers(-5, 20),
    limit=counts,
    thresholds=st.lists(st.integers(1, 1000), max_size=8),
)
def test_a_bar_stays_in_its_box(used: int, limit: int, thresholds: list[int]) -> None:
    (bar,) = limit_bars([LimitUse("a", used, limit, thresholds=tuple(thresholds))])
    assert is_inside(bar.within)
    assert bar.over is None or is_inside(bar.over)
    assert all(0 <= number(at) <= 100 for at in (bar.limit_at, *(at for _, at in bar.thresholds)))
    assert bar.left - bar.excess == limit - used


@given(used=st.integers(0, 10**9), limit=st.integers(1, 10**9))
def test_the_two_parts_of_a_bar_meet_at_the_limit(used: int, limit: int) -> None:
    (bar,) = limit_bars([LimitUse("a", used, limit)])
    if bar.over:
        assert ends(bar.within)[1] == pytest.approx(number(bar.limit_at), abs=SLACK)
        assert ends(bar.over) == pytest.approx((number(bar.limit_at), 100), abs=SLACK)
    else:
        assert number(bar.limit_at) == 100
        assert ends(bar.within)[1] == pytest.approx(100 * used / limit, abs=SLACK)


@pytest.mark.parametrize(
    ("used", "limit", "level", "percent"),
    [
        (0, 10, "low", 0),
        (7, 10, "low", 70),
        (8, 10, "high", 80),
        (9, 10, "high", 90),
        (10, 10, "full", 100),
        (999, 1000, "high", 99),
        (15, 10, "full", 150),
        (-5, 10, "low", 0),
        (0, 0, "full", None),
    ],
)
def test_a_bar_says_how_full_it_is(used: int, limit: int, level: str, percent: int | None) -> None:
    (bar,) = limit_bars([LimitUse("a", used, limit)])
    assert (bar.level, bar.percent) == (level, percent)


def test_a_threshold_beyond_the_limit_has_its_place() -> None:
    (bar,) = limit_bars([LimitUse("a", 50, 100, thresholds=(200, 80))])
    assert (bar.limit_at, bar.thresholds, bar.within) == ("50%", ((80, "40%"), (200, "100%")), Span("0%", "25%"))


def test_bars_stand_beside_their_numbers() -> None:
    bars = limit_bars(
        [LimitUse("units a month", 5200, 5000, "units", (80,), "Free on 1 March."), LimitUse("b", -3, 10)]
    )
    found = Rows(html := draw("limit_bars", bars=bars, id="u", caption="Use"))
    assert [row[1:5] for row in found.rows[1:]] == [["5,200", "5,000", "0", "200"], ["0", "10", "13", "0"]]
    for text in ("200 over the limit.", "Alerts at 80 %.", "Free on 1 March.", "(104 %)", "<strong>full</strong>"):
        assert text in html


def test_without_limits_a_sentence_takes_the_place_of_bars() -> None:
    assert "There is no limit." in draw("limit_bars", bars=(), id="u", caption="Use")


# --- columns ------------------------------------------------------------------------------------------------------


@given(days=day_uses())
def test_columns_stay_in_their_box_and_their_parts_do_not_overlap(days: list[DayUse]) -> None:
    chart = day_columns(days)
    reached = 0.0
    for column in chart.columns:
        assert is_inside(column.width)
        assert ends(column.width)[0] >= reached
        reached = ends(column.width)[1]
        foot = 100.0
        for part in column.parts:
            assert is_inside(part.height)
            top, bottom = ends(part.height)
            assert bottom == pytest.approx(foot, abs=SLACK)
            foot = top
    assert all(0 <= number(line.at) <= 100 for line in chart.lines)
    assert all(0 <= number(label.at) <= 100 for label in chart.labels)


@given(days=day_uses(40))
def test_the_table_sums_to_the_input(days: list[DayUse]) -> None:
    chart = day_columns(days)
    sums = [sum(day.requests for day in days), sum(day.by_throttle for day in days), sum(day.by_quota for day in days)]
    assert [chart.total.requests, chart.total.by_throttle, chart.total.by_quota] == sums
    html = draw("day_columns", chart=chart, id="d", caption="Days")
    if chart.is_empty:
        assert "No calls" in html
        return
    rows = Rows(html).rows
    assert cells(rows[-1][1:]) == sums
    assert [cells(row[1:]) for row in rows[1:-1]] == [[d.requests, d.by_throttle, d.by_quota] for d in reversed(days)]


@given(most=counts)
def test_an_axis_has_round_numbers_and_room_for_the_highest_column(most: int) -> None:
    top, step = round_axis(most)
    assert re.fullmatch(r"[125]0*", str(step))
    assert top >= max(most, 1)
    assert top % step == 0
    assert 1 <= top // step <= 5


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (2500, "2.5k"), (20_000, "20k"), (1_500_000, "1.5M"), (3 * 10**9, "3G")],
)
def test_numbers_of_an_axis_are_short(number: int, text: str) -> None:
    assert short(number) == text


def labels(first: str, days: int) -> list[str]:
    start = date.fromisoformat(first)
    return [label.text for label in day_columns([DayUse(start + timedelta(days=at)) for at in range(days)]).labels]


@pytest.mark.parametrize(
    ("first", "days", "texts"),
    [
        ("2026-03-04", 0, []),
        ("2026-03-04", 1, ["4 Mar"]),
        ("2026-03-30", 4, ["30 Mar", "31", "1 Apr", "2"]),
        ("2026-03-01", 30, ["2 Mar", "9 Mar", "16 Mar", "23 Mar", "30 Mar"]),
        ("2026-01-02", 90, ["Feb", "Mar", "Apr"]),
    ],
)
def test_an_axis_names_days_mondays_or_months(first: str, days: int, texts: list[str]) -> None:
    assert labels(first, days) == texts


def test_a_label_at_the_right_edge_ends_at_its_column() -> None:
    chart = day_columns([DayUse(date(2026, 1, 5) + timedelta(days=at)) for at in range(29)])
    assert [label.anchor for label in chart.labels] == ["start", "start", "start", "start", "end"]
    assert chart.labels[-1].at == "100%"


def test_more_than_ninety_days_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 90 days, not 91"):
        day_columns([DayUse(FIRST)] * 91)


def test_items_of_the_api_become_days_without_gaps() -> None:
    """Items of one day, as of several plans or pages, add up."""
    row = {"day": "2026-03-04", "requests": 5, "units": 9, "overage": 0, "refused": {"throttle": 1, "quota": 2}}
    other = row | {"day": "2026-04-01"}
    assert days_of([row, row, other], date(2026, 3, 3), date(2026, 3, 5)) == (
        DayUse(date(2026, 3, 3)),
        DayUse(date(2026, 3, 4), 10, 2, 4),
        DayUse(date(2026, 3, 5)),
    )


def columns(refused: int) -> Columns:
    return day_columns([DayUse(FIRST, 10, refused), DayUse(FIRST + timedelta(days=1))])


def test_refusals_have_a_hatch_and_a_line_in_the_legend() -> None:
    html = draw("day_columns", chart=columns(3), id="d", caption="Days")
    assert 'fill="url(#d-throttle)"' in html
    assert "refused by a throttle" in html
    assert "refused by a throttle</li>" not in draw("day_columns", chart=columns(0), id="d", caption="Days")


# --- what all charts promise --------------------------------------------------------------------------------------


DRAWN: dict[str, dict[str, Any]] = {
    "limit_bars": {"bars": limit_bars([LimitUse("<b>&\"'", 3, 2, "requests", (80,), "<i>")])},
    "day_columns": {"chart": columns(3)},
}


@pytest.mark.parametrize("macro", DRAWN)
def test_a_chart_has_no_inline_style_or_script_and_one_name_for_each_picture(macro: str) -> None:
    """The pages' Content-Security-Policy allows neither."""
    found = Rows(html := draw(macro, id="x", caption="<script>1</script>", **DRAWN[macro])).attributes
    assert "<script>" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not [name for _, attributes in found for name in attributes if name == "style" or name.startswith("on")]
    pictures = [attributes for _, attributes in found if attributes.get("role") == "img"]
    assert pictures
    for attributes in pictures:
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)

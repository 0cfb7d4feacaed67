"""The table of `authz usage`: aligned columns, sparklines of days."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from authz.aws.usage import Days
from authz.cli.usage import _aligned, _days, _line, _read_for, _table
from authz.store.figures import Sums
from authz.store.report import Group, Query, Rows


@pytest.mark.parametrize(
    ("by_day", "days", "expected"),
    [
        ({1: 1, 2: 7, 4: 3}, Days(1, 4), "▂█▁▄"),
        ({}, Days(1, 3), "▁▁▁"),
        ({5: 1_000_000, 6: 1}, Days(5, 6), "█▂"),
        ({9: 5}, Days(9, 9), "█"),
    ],
)
def test_a_bar_a_day_is_as_high_as_its_share_of_the_greatest(by_day: dict[int, int], days: Days, expected: str) -> None:
    """A day with any call is higher than one without."""
    assert _line(by_day, days) == expected


def test_many_days_share_bars() -> None:
    line = _line({400: 4}, Days(1, 400))
    assert (len(line), line[-1], set(line[:-1])) == (31, "█", {"▁"})


def test_names_are_to_the_left_and_numbers_to_the_right() -> None:
    assert list(_aligned([("key", "requests", "until"), ("a long name", "7", "-")], 1, 1)) == [
        "key          requests  until",
        "a long name         7  -",
    ]


def test_thirty_days_end_with_the_last_one() -> None:
    found = _days(None, "2026-03-30", None)
    assert found == _days("2026-03-01", "2026-03-30", None) == _days(None, "2026-03-30", 30)


@pytest.mark.parametrize(
    ("by", "draws", "expected"),
    [
        (("plan", "key"), False, ("plan", "key")),
        (("plan", "key"), True, ("plan", "key", "day")),
        (("customer", "day"), False, ("customer", "day")),
    ],
)
def test_days_are_read_for_sparklines_only(by: tuple[str, ...], draws: bool, expected: tuple[str, ...]) -> None:
    """A table that goes to a file has a row for each key, not one for each key and day."""
    assert _read_for(Query(Days(1, 400), by), draws).by == expected


async def _pages(*pages: Rows) -> AsyncIterator[Rows]:
    for page in pages:
        yield page


@pytest.mark.parametrize("by", [("plan", "key"), ("plan",)])
async def test_a_row_ends_in_the_sparkline_of_its_days(by: tuple[str, ...]) -> None:
    """Also if its days come in several pages; the row of two keys has the days of both."""
    key = "k" if "key" in by else None
    groups = [Group("p", "" if key else None, key, key and "n", day) for day in (1, 2, 4)]
    pages = [{group: Sums(calls, calls)} for group, calls in zip(groups, (1, 7, 3), strict=True)]
    given = [{**pages[0], **pages[1], **pages[2]}] if key else pages
    (_, row) = await _table(_pages(*given), Query(Days(1, 4), by), draws=True)
    assert row.split() == ["p", *(["-", "k"] if key else []), "11", "11", "0", "0", "0", "▂█▁▄"]


async def test_a_table_without_sparklines_has_a_row_a_group_and_a_total() -> None:
    rows = {Group("p", "", "k1", "n"): Sums(1, 2), Group("p", "acme", "k2", "n"): Sums(3, 4)}
    lines = await _table(_pages(rows), Query(Days(1, 4), ("plan", "key")), draws=False)
    assert [line.split()[-5:-3] for line in lines[1:]] == [["1", "2"], ["3", "4"], ["4", "6"]]


async def test_a_table_has_shadow_columns_only_if_a_plan_in_shadow_would_have_refused() -> None:
    rows = {Group("p"): Sums(3, 3), Group("trial"): Sums(9, 9, shadow_by_quota=4)}
    plain, shadow = [
        await _table(_pages(dict(some)), Query(Days(1, 4), ("plan",)), draws=False)
        for some in ([*rows.items()][:1], rows.items())
    ]
    assert ("shadow over quota" in plain[0], shadow[0].split()[-3:]) == (False, ["shadow", "over", "quota"])
    assert [line.split()[-1] for line in shadow[1:]] == ["0", "4", "4"]

"""The table of `authz usage`: aligned columns, sparklines of days."""

from __future__ import annotations

import pytest

from authz.aws.usage import Days
from authz.cli.usage import _aligned, _days, _line


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

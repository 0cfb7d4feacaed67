"""Usage records become one pair of numbers for each day."""

from __future__ import annotations

from typing import Any

import pytest

from authz.aws.errors import ApiError
from authz.aws.usage import CallerUse, DayRow, Days, DayUse, days, iso_day, left, pairs
from authz.core.holders import QuotaState
from authz.core.resources import Period, QuotaSettings
from tests.conftest import micros

DAY, MONTH = QuotaSettings(10, Period.DAY), QuotaSettings(100, Period.MONTH)
NOW = micros("2026-03-04T10:00:00Z")
MARCH = micros("2026-03-01T00:00:00Z")
LONG_AGO = micros("2026-01-01T00:00:00Z")


def _day(text: str) -> int:
    return days(text, text, 1).first


def _record(rows: dict[str, DayUse], used: int = 0, start: int = MARCH) -> CallerUse:
    return CallerUse(
        QuotaState(start, 0, used), {_day(text): DayRow(calls, left, calls, 0) for text, (calls, left) in rows.items()}
    )


def _pairs(record: CallerUse, quota: QuotaSettings | None, first: str, last: str) -> list[DayUse]:
    return pairs(record, quota, days(first, last, 400), NOW)


@pytest.mark.parametrize(
    ("rows", "quota", "first", "expected"),
    [
        pytest.param({}, MONTH, "2026-03-03", [(0, 100), (0, 95)], id="before the first row it is the limit"),
        pytest.param({}, None, "2026-03-03", [(0, -1), (0, -1)], id="without a quota -1"),
        pytest.param({"2026-03-02": (3, 97)}, MONTH, "2026-03-02", [(3, 97), (0, 97), (0, 95)], id="carried forward"),
        pytest.param({"2026-03-01": (3, 97)}, MONTH, "2026-03-03", [(0, 97), (0, 95)], id="from before the range"),
        pytest.param(
            {"2026-02-28": (3, 7)}, MONTH, "2026-02-27", [(0, 100), (3, 7), (0, 100), (0, 100), (0, 100), (0, 95)],
            id="not into the next period",
        ),
        pytest.param({"2026-03-02": (3, 7)}, DAY, "2026-03-02", [(3, 7), (0, 10), (0, 10)], id="each day a period"),
        pytest.param({"2026-03-02": (3, -1)}, MONTH, "2026-03-02", [(3, -1), (0, 100), (0, 95)], id="no quota then"),
        pytest.param({"2026-03-02": (3, 97)}, None, "2026-03-02", [(3, -1), (0, -1), (0, -1)], id="another quota"),
        pytest.param({"2026-03-04": (5, 99)}, MONTH, "2026-03-04", [(5, 95)], id="today says what remains now"),
    ],
)  # fmt: skip
def test_a_day_has_used_and_remaining_units(
    rows: dict[str, DayUse], quota: QuotaSettings | None, first: str, expected: list[DayUse]
) -> None:
    """On 4 March, with 5 of the period used."""
    assert _pairs(_record(rows, used=5), quota, first, "2026-03-04") == expected


def test_days_that_have_not_begun_have_no_pair() -> None:
    assert len(_pairs(_record({}), MONTH, "2026-03-03", "2026-03-31")) == 2
    assert _pairs(_record({}), MONTH, "2026-03-05", "2026-03-31") == []


@pytest.mark.parametrize(
    ("used", "start", "quota", "expected"),
    [
        (3, MARCH, MONTH, 97),
        (3, LONG_AGO, MONTH, 100),
        (200, MARCH, MONTH, 0),
        (-50, MARCH, MONTH, 150),
        (3, MARCH, None, -1),
    ],
    ids=["used", "of an older period", "the limit was lowered", "more was granted", "no quota"],
)
def test_what_remains_now(used: int, start: int, quota: QuotaSettings | None, expected: int) -> None:
    assert left(QuotaState(start, 0, used), quota, NOW) == expected


def test_a_range_of_dates_holds_both_ends() -> None:
    asked = days("2026-02-28", "2026-03-01", 400)
    assert asked == Days(_day("2026-02-28"), _day("2026-02-28") + 1)
    assert [iso_day(asked.first), iso_day(asked.last)] == ["2026-02-28", "2026-03-01"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, "2026-03-01"),
        ("2026-03-01", None),
        ("", "2026-03-01"),
        ("2026-3-1", "2026-03-01"),
        ("20260301", "2026-03-01"),
        ("2026-W09-7", "2026-03-01"),
        ("2026-02-30", "2026-03-01"),
        ("2026-03-01T00:00:00Z", "2026-03-01"),
        ("٢٠٢٦-03-01", "2026-03-01"),
        ("2026-03-02", "2026-03-01"),
        ("2025-01-01", "2026-03-01"),
        ("1970-01-01", "9998-12-31"),
        ("1969-12-31", "1969-12-31"),
        ("9999-12-31", "9999-12-31"),
    ],
)
def test_a_bad_range_of_dates_is_refused(start: Any, end: Any) -> None:
    with pytest.raises(ApiError) as refused:
        days(start, end, 400)
    assert refused.value.code == "BadRequestException"


@pytest.mark.parametrize("day", ["1970-01-01", "9998-12-31"])
@pytest.mark.parametrize("period", ["DAY", "WEEK", "MONTH"])
def test_the_first_and_last_days_there_are_fit_into_a_period(day: str, period: Any) -> None:
    """A date long before or after now is unusual, and no error."""
    offset = 0 if period == "DAY" else 5
    assert isinstance(_pairs(_record({}), QuotaSettings(5, period, offset), day, day), list)

"""Quota periods in UTC."""

from __future__ import annotations

import pytest

from authz.core.periods import Interval, interval
from authz.core.resources import Period, QuotaSettings
from tests.conftest import micros


@pytest.mark.parametrize(
    ("unit", "offset", "moment", "start", "end"),
    [
        (Period.DAY, 0, "2026-03-04T10:00:00", "2026-03-04", "2026-03-05"),
        (Period.DAY, 0, "2024-02-29T23:59:59.999999", "2024-02-29", "2024-03-01"),
        (Period.WEEK, 0, "2026-03-04T10:00:00", "2026-03-01", "2026-03-08"),
        (Period.WEEK, 0, "2026-03-01T00:00:00", "2026-03-01", "2026-03-08"),
        (Period.WEEK, 1, "2026-03-01T00:00:00", "2026-02-23", "2026-03-02"),
        (Period.WEEK, 6, "2026-03-04T10:00:00", "2026-02-28", "2026-03-07"),
        (Period.MONTH, 0, "2026-03-31T23:59:59", "2026-03-01", "2026-04-01"),
        (Period.MONTH, 0, "2026-12-31T12:00:00", "2026-12-01", "2027-01-01"),
        (Period.MONTH, 14, "2026-03-04T10:00:00", "2026-02-15", "2026-03-15"),
        (Period.MONTH, 14, "2026-03-15T00:00:00", "2026-03-15", "2026-04-15"),
        (Period.MONTH, 14, "2027-01-03T00:00:00", "2026-12-15", "2027-01-15"),
        (Period.MONTH, 27, "2026-02-27T23:59:59", "2026-01-28", "2026-02-28"),
        (Period.MONTH, 27, "2026-02-28T00:00:00", "2026-02-28", "2026-03-28"),
        (Period.MONTH, 27, "2024-02-29T00:00:00", "2024-02-28", "2024-03-28"),
    ],
)
def test_a_period_begins_on_the_day_of_its_offset(unit: Period, offset: int, moment: str, start: str, end: str) -> None:
    """WEEK counts from Sunday, MONTH from the 1st; every month has a 28th."""
    found = interval(QuotaSettings(5, unit, offset), micros(f"{moment}Z"))
    assert found == Interval(micros(f"{start}T00:00:00Z"), micros(f"{end}T00:00:00Z"))

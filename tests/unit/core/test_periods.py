"""Quota periods, in UTC and by the clocks of other zones."""

from __future__ import annotations

import pytest

from authz.core.periods import Interval, interval
from authz.core.resources import Anchor, Period, QuotaSettings
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


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("Asia/Kathmandu", "2026-03-04T00:00+05:45", "2026-03-04T00:00+05:45", "2026-03-05T00:00+05:45"),
        # Midnight does not exist: the clock goes from 23:59 to 1:00.
        ("America/Sao_Paulo", "2017-10-15T12:00-02:00", "2017-10-15T01:00-02:00", "2017-10-16T00:00-02:00"),
        # Midnight exists twice: at 1:00 the clock goes back to 0:00.
        ("America/Havana", "2020-11-01T00:30-05:00", "2020-11-01T00:00-04:00", "2020-11-02T00:00-05:00"),
        # A minute past midnight the clock goes back to 23:01 of the day before.
        ("America/St_Johns", "2006-10-28T23:30-03:30", "2006-10-29T00:00-02:30", "2006-10-30T00:00-03:30"),
        # 30 December 2011 was skipped.
        ("Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("Pacific/Kwajalein", "1993-08-20T12:00-12:00", "1993-08-20T00:00-12:00", "1993-08-22T00:00+12:00"),
    ],
)
def test_a_day_begins_at_the_first_local_midnight(zone: str, moment: str, start: str, end: str) -> None:
    found = interval(QuotaSettings(5, Period.DAY, time_zone=zone), micros(moment))
    assert found == Interval(micros(start), micros(end))


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        (None, "2026-03-04T10:59:59Z", "2026-03-04T10:00Z", "2026-03-04T11:00Z"),
        ("Asia/Kolkata", "2026-03-04T10:15Z", "2026-03-04T15:00+05:30", "2026-03-04T16:00+05:30"),
        ("Asia/Kathmandu", "2026-03-04T10:15Z", "2026-03-04T16:00+05:45", "2026-03-04T17:00+05:45"),
        # An hour that the clock shows twice is two hours.
        ("Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
        ("Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        # At 2:00 the clock goes back to 1:30, so that hour has 90 minutes; or on to 2:30, so the next one has 30.
        ("Australia/Lord_Howe", "2026-04-05T01:45+10:30", "2026-04-05T01:00+11:00", "2026-04-05T02:00+10:30"),
        ("Australia/Lord_Howe", "2026-10-04T02:45+11:00", "2026-10-04T02:30+11:00", "2026-10-04T03:00+11:00"),
        ("America/St_Johns", "2006-10-28T23:30-03:30", "2006-10-29T00:00-02:30", "2006-10-29T00:00-03:30"),
    ],
)
def test_an_hour_begins_at_each_local_full_hour(zone: str | None, moment: str, start: str, end: str) -> None:
    found = interval(QuotaSettings(5, Period.HOUR, time_zone=zone), micros(moment))
    assert found == Interval(micros(start), micros(end))


@pytest.mark.parametrize(
    ("billing_day", "moment", "start", "end"),
    [
        (None, "2026-03-31T12:00+02:00", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
        (1, "2026-03-31T12:00+02:00", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
        (15, "2026-03-14T23:59+01:00", "2026-02-15T00:00+01:00", "2026-03-15T00:00+01:00"),
        (15, "2026-03-15T00:00+01:00", "2026-03-15T00:00+01:00", "2026-04-15T00:00+02:00"),
        (28, "2024-02-29T12:00+01:00", "2024-02-28T00:00+01:00", "2024-03-28T00:00+01:00"),
    ],
)
def test_a_billed_month_begins_on_the_billing_day(billing_day: int | None, moment: str, start: str, end: str) -> None:
    """Without one it begins on the 1st."""
    billed = QuotaSettings(5, Period.MONTH, time_zone="Europe/Paris", anchor=Anchor.BILLING_DAY)
    assert interval(billed, micros(moment), billing_day) == Interval(micros(start), micros(end))


def test_a_month_of_the_calendar_knows_no_billing_day() -> None:
    march = interval(QuotaSettings(5, Period.MONTH), micros("2026-03-20T00:00Z"), 15)
    assert march == Interval(micros("2026-03-01T00:00Z"), micros("2026-04-01T00:00Z"))


def test_a_total_never_ends() -> None:
    """Its end is the greatest whole number that Lua knows exactly."""
    assert interval(QuotaSettings(5, Period.TOTAL), micros("2026-03-04T10:00Z")) == Interval(0, 2**53)

"""Periods tile time: each moment lies in one, and the next begins where one ends.

A model scans the clocks of the zones by the minute.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.periods import interval, max_offset
from authz.core.resources import Anchor, Period, QuotaSettings
from authz.core.zones import DAY_US, HOUR_US, SECOND_US, zone_names, zone_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FIRST, LAST = datetime(1973, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)  # all clocks show full minutes in UTC
BACK = timedelta(hours=8)  # no clock is put back farther; Vostok's was by 7 hours
# Clocks that are put back at midnight, or a minute past it, by half an hour or two, in Ramadan, or on short notice;
# that skip a day; and that are some minutes off.
ODD = (
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Europe/Lisbon",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kwajalein",
)
DATED = (Period.DAY, Period.WEEK, Period.MONTH)


# --- quotas and moments -------------------------------------------------------------------------------------------


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(at: int) -> datetime:
    return EPOCH + timedelta(microseconds=at)


zones = st.one_of(st.none(), st.sampled_from(ODD), st.sampled_from(sorted(zone_names())))
billing_days = st.one_of(st.none(), st.integers(1, 28))


@st.composite
def quotas(draw: st.DrawFn, periods: tuple[Period, ...] = tuple(Period)) -> QuotaSettings:
    period = draw(st.sampled_from(periods))
    if period is Period.TOTAL:
        return QuotaSettings(1, period)
    anchor = draw(st.sampled_from(Anchor)) if period is Period.MONTH else Anchor.CALENDAR
    offset = draw(st.integers(0, max_offset(period))) if anchor is Anchor.CALENDAR else 0
    return QuotaSettings(1, period, offset, time_zone=draw(zones), anchor=anchor)


@cache
def changes(zone: str | None) -> tuple[int, ...]:
    """The moments at which the zone's clock is put forward or back, to the hour."""
    hours = range(us(FIRST) // HOUR_US, us(LAST) // HOUR_US, 14 * 24)
    return tuple(
        bisect_left(range(high), True, low, key=lambda hour: ahead(zone, hour) == ahead(zone, high)) * HOUR_US
        for low, high in pairwise(hours)
        if ahead(zone, low) != ahead(zone, high)
    )


def ahead(zone: str | None, hour: int) -> timedelta | None:
    return moment_of(hour * HOUR_US).astimezone(zone_of(zone)).utcoffset()


@st.composite
def moments(draw: st.DrawFn, zone: str | None) -> int:
    """Any moment, or one near a change of the zone's clock."""
    if near := changes(zone):
        at = draw(st.one_of(st.none(), st.sampled_from(near)))
        if at is not None:
            return at + draw(st.one_of(st.integers(-DAY_US, DAY_US), st.integers(-25, 25).map(lambda n: n * HOUR_US)))
    return draw(st.integers(us(FIRST) + 60 * DAY_US, us(LAST) - 60 * DAY_US))


@st.composite
def calls(draw: st.DrawFn, periods: tuple[Period, ...] = tuple(Period)) -> tuple[QuotaSettings, int, int | None]:
    """A quota, a moment, and the caller's billing day."""
    quota = draw(quotas(periods))
    return quota, draw(moments(quota.time_zone)), draw(billing_days)


# --- the model ----------------------------------------------------------------------------------------------------


def clock(zone: str | None, since: timedelta, at: int) -> Iterator[datetime]:
    """What the zone's clock shows in each minute of the time `since` before a moment, and at the moment itself."""
    moment = moment_of(at)
    first = moment - since
    for n in range(since // MINUTE + 1):
        yield (first + n * MINUTE).astimezone(zone_of(zone)).replace(tzinfo=None)


def begun(zone: str | None, at: int) -> range:
    """The days, by their ordinals, of whose midnight the zone's clock shows or skips the first one at a moment."""
    *before, now = (shown.toordinal() for shown in clock(zone, BACK, at))
    return range(max(before) + 1, now + 1)


def hours_begun(zone: str | None, start: int, end: int) -> list[int]:
    """The moments from `start` to `end` at which the zone's clock shows a full hour, or skips one."""
    count = (end - start) // (60 * SECOND_US)
    shown = list(clock(zone, timedelta(minutes=count + 1), end))
    pairs = pairwise(shown)
    return [
        start + n * 60 * SECOND_US
        for n, (before, now) in enumerate(pairs)
        if now.minute == 0 or now.replace(minute=0) > before
    ]


# --- laws ---------------------------------------------------------------------------------------------------------


@given(calls())
def test_each_moment_lies_in_its_period_and_the_neighbours_touch_it(
    call: tuple[QuotaSettings, int, int | None],
) -> None:
    quota, now, billing_day = call
    found = interval(quota, now, billing_day)
    assert found.start <= now < found.end
    assert interval(quota, found.start, billing_day) == interval(quota, found.end - 1, billing_day) == found
    if quota.period is not Period.TOTAL:
        assert interval(quota, found.end, billing_day).start == found.end
        assert interval(quota, found.start - 1, billing_day).end == found.start


@given(calls(DATED))
def test_a_period_begins_at_the_first_local_midnight_of_its_day(call: tuple[QuotaSettings, int, int | None]) -> None:
    quota, now, billing_day = call
    found = interval(quota, now, billing_day)
    first, last = begun(quota.time_zone, found.start), begun(quota.time_zone, found.end)
    match quota.period:
        case Period.WEEK:
            assert any(day in first and day + 7 in last and day % 7 == quota.offset for day in first)
        case Period.MONTH:
            wanted = billing_day or 1 if quota.anchor is Anchor.BILLING_DAY else quota.offset + 1
            [start] = [day for day in map(date.fromordinal, first) if day.day == wanted]
            [end] = [day for day in map(date.fromordinal, last) if day.day == wanted]
            assert end.year * 12 + end.month == start.year * 12 + start.month + 1
        case _:
            assert first
            assert first[-1] + 1 == last[0]


@given(calls((Period.HOUR,)))
def test_an_hour_begins_whenever_the_clock_shows_or_skips_a_full_one(
    call: tuple[QuotaSettings, int, int | None],
) -> None:
    quota, now, _ = call
    found = interval(quota, now)
    assert hours_begun(quota.time_zone, found.start, found.end) == [found.start, found.end]


@given(calls())
def test_a_period_is_as_long_as_clocks_and_calendars_make_it(call: tuple[QuotaSettings, int, int | None]) -> None:
    quota, now, billing_day = call
    found = interval(quota, now, billing_day)
    least, most = {
        Period.HOUR: (timedelta(minutes=1), timedelta(minutes=119)),
        Period.DAY: (timedelta(hours=16), timedelta(hours=32)),
        Period.WEEK: (timedelta(days=5), timedelta(days=8)),
        Period.MONTH: (timedelta(days=26), timedelta(days=32)),
        Period.TOTAL: (timedelta(days=365 * 280), timedelta.max),
    }[quota.period]
    assert least <= timedelta(microseconds=found.end - found.start) <= most


@given(quotas(DATED), st.integers(FIRST.year + 1, LAST.year - 2), billing_days)
def test_a_walk_through_a_year_misses_no_moment(quota: QuotaSettings, year: int, billing_day: int | None) -> None:
    at, end = (us(datetime(year + n, 1, 1, tzinfo=UTC)) for n in (0, 1))
    while at < end:
        found = interval(quota, at, billing_day)
        following = interval(quota, found.end, billing_day)
        assert (following.start, found.start < found.end) == (found.end, True)
        at = found.end


@pytest.mark.parametrize("period", [Period.HOUR, Period.DAY])
def test_periods_touch_at_every_change_of_an_odd_clock(period: Period) -> None:
    for name in ODD:
        quota = QuotaSettings(1, period, time_zone=name)
        for change in changes(name):
            at, end = interval(quota, change - DAY_US).start, change + DAY_US
            while at < end:
                found = interval(quota, at)
                assert (found.start, interval(quota, found.end - 1)) == (at, found), (name, moment_of(at))
                at = found.end


def test_a_zone_like_utc_has_the_periods_of_utc() -> None:
    for period in Period:
        for at in range(us(FIRST), us(LAST), 997 * HOUR_US + 1):
            assert interval(QuotaSettings(1, period, time_zone="Etc/UTC"), at) == interval(QuotaSettings(1, period), at)

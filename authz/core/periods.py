"""Quota periods: each begins at midnight, or at a full hour, by the clock of the quota's time zone.

See "Periods, time zones and billing days" in docs/explanation/rules.md.
"""

from __future__ import annotations

from datetime import date, tzinfo
from functools import lru_cache
from typing import Final, assert_never

from msgspec import Struct

from authz.core.limits import FOREVER_US
from authz.core.resources import Anchor, Period, QuotaSettings
from authz.core.zones import EPOCH, HOUR_US, local_day, midnight, next_hour, offset_us, zone_of

THURSDAY: Final = 4  # 1 January 1970, with Sunday as 0
LONGEST_HOUR_US: Final = 2 * HOUR_US  # at least: where a clock is put back by half an hour, one hour has 90 minutes


class Interval(Struct, frozen=True, gc=False):
    """The half-open interval [start, end), in microseconds of Unix time."""

    start: int
    end: int


ENDLESS: Final = Interval(0, FOREVER_US)


def interval(quota: QuotaSettings, now: int, billing_day: int | None = None) -> Interval:
    """The period of `quota` that contains `now` (µs of Unix time).

    `billing_day` (1 to 28) is that of the key or customer; only the anchor BILLING_DAY reads it.
    """
    match quota.period:
        case Period.HOUR:
            return _hour(zone_of(quota.time_zone), now)
        case Period.TOTAL:
            return ENDLESS
        case Period.DAY | Period.WEEK | Period.MONTH:
            offset = (billing_day or 1) - 1 if quota.anchor is Anchor.BILLING_DAY else quota.offset
            return _days(quota.period, offset, now, quota.time_zone)
        case _:
            assert_never(quota.period)


def max_offset(period: Period) -> int:
    """The greatest offset in days. A month's names a day that every month has."""
    match period:
        case Period.HOUR | Period.DAY | Period.TOTAL:
            return 0
        case Period.WEEK:
            return 6
        case Period.MONTH:
            return 27
        case _:
            assert_never(period)


def _hour(zone: tzinfo, now: int) -> Interval:
    offset = offset_us(zone, now)
    start = now - (now + offset) % HOUR_US
    end = start + HOUR_US
    if offset_us(zone, start) == offset == offset_us(zone, end):
        return Interval(start, end)
    start = end = next_hour(zone, now - LONGEST_HOUR_US)
    while end <= now:
        start, end = end, next_hour(zone, end)
    return Interval(start, end)


def _days(period: Period, offset: int, now: int, zone: str | None) -> Interval:
    day = local_day(zone_of(zone), now)
    found = _interval_of_day(period, offset, day, zone)
    # A clock that is put back over midnight shows the last day of a period again, after the next one has begun.
    while found.end <= now:
        day += 1
        found = _interval_of_day(period, offset, day, zone)
    return found


@lru_cache(maxsize=8192)
def _interval_of_day(period: Period, offset: int, day: int, zone: str | None) -> Interval:
    clock = zone_of(zone)
    first, end = day, day + 1  # the first day of the period and that of the next one, in days since 1970
    if period == Period.WEEK:
        first = day - (day + THURSDAY - offset) % 7
        end = first + 7
    elif period == Period.MONTH:  # begins on the 1st plus `offset`
        month = date.fromordinal(EPOCH + day - offset).replace(day=1)
        following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
        first, end = month.toordinal() - EPOCH + offset, following.toordinal() - EPOCH + offset
    return Interval(midnight(clock, first), midnight(clock, end))

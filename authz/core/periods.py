"""Quota periods in UTC: each begins at midnight, on the day that the quota's offset names."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import assert_never

from msgspec import Struct

from authz.core.limits import EXACT
from authz.core.resources import Period, QuotaSettings

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
FOREVER_US = EXACT  # the end of a period that has none
EPOCH = date(1970, 1, 1).toordinal()
THURSDAY = 4  # 1 January 1970, with Sunday as 0


class Interval(Struct, frozen=True, gc=False):
    """The half-open interval [start, end), in microseconds of Unix time."""

    start: int
    end: int


def interval(quota: QuotaSettings, now: int) -> Interval:
    """The period of `quota` that contains `now` (µs of Unix time)."""
    match quota.period:
        case Period.HOUR:
            start = now - now % HOUR_US
            return Interval(start, start + HOUR_US)
        case Period.TOTAL:
            return Interval(0, FOREVER_US)
        case _:
            return _interval_of_day(quota.period, quota.offset, now // DAY_US)


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


@lru_cache(maxsize=1024)
def _interval_of_day(period: Period, offset: int, day: int) -> Interval:
    match period:
        case Period.DAY:
            first, end = day, day + 1
        case Period.WEEK:
            first = day - (day + THURSDAY - offset) % 7
            end = first + 7
        case Period.MONTH:
            first, end = _month(day, offset)
        case _:
            raise ValueError(f"{period} does not begin at midnight")
    return Interval(first * DAY_US, end * DAY_US)


def _month(day: int, offset: int) -> tuple[int, int]:
    """The month that begins on the 1st plus `offset`, in days since 1970."""
    shifted = date.fromordinal(EPOCH + day - offset)
    first = shifted.replace(day=1)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first.toordinal() - EPOCH + offset, following.toordinal() - EPOCH + offset

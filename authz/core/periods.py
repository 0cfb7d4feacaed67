"""Quota periods: DAY, WEEK or MONTH in UTC, beginning on the day that the quota's offset names."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from msgspec import Struct

from authz.core.resources import QuotaSettings

DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1).toordinal()
THURSDAY = 4  # 1 January 1970, with Sunday as 0


class Period(Struct, frozen=True, gc=False):
    """The half-open interval [start, end), in microseconds of Unix time."""

    start: int
    end: int


def period(quota: QuotaSettings, now: int) -> Period:
    """The period of `quota` that contains `now` (µs of Unix time)."""
    return _period_of_day(quota.period, quota.offset, now // DAY_US)


@lru_cache(maxsize=1024)
def _period_of_day(unit: str, offset: int, day: int) -> Period:
    match unit:
        case "DAY":
            first, end = day, day + 1
        case "WEEK":
            first = day - (day + THURSDAY - offset) % 7
            end = first + 7
        case _:
            first, end = _month(day, offset)
    return Period(first * DAY_US, end * DAY_US)


def _month(day: int, offset: int) -> tuple[int, int]:
    """The month that begins on the 1st plus `offset`. An offset of at most 27 names a day that every month has."""
    shifted = date.fromordinal(EPOCH + day - offset)
    first = shifted.replace(day=1)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first.toordinal() - EPOCH + offset, following.toordinal() - EPOCH + offset

"""Usage as AWS tells it: for each UTC day what was used, and what remained of the quota at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from authz.aws.errors import bad_request
from authz.core.limits import Quota
from authz.core.periods import DAY_US, EPOCH, period
from authz.core.resources import QuotaSettings

NO_QUOTA = -1  # what remains where there is no quota

YEARS = range(1970, 9999)

Row = tuple[int, int]  # used on a day, remaining after its last event


@dataclass(frozen=True, slots=True)
class Record:
    """What Redis keeps of a caller: `used` of the period that began at `start` (µs), and rows by day since 1970."""

    start: int = 0
    used: int = 0
    rows: Mapping[int, Row] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Days:
    """Days since 1970, both ends included."""

    first: int
    last: int

    def until(self, last: int) -> range:
        """Those that have begun by `last`."""
        return range(self.first, min(self.last, last) + 1)


def days(start: str | None, end: str | None, longest: int) -> Days:
    """The days from one date (`2026-03-04`) to another, at most so many. Raises BadRequestException."""
    found = Days(_day("startDate", start), _day("endDate", end))
    if found.first > found.last:
        raise bad_request("Invalid date range specified: startDate is after endDate")
    if found.last - found.first >= longest:
        raise bad_request(f"Invalid date range specified: at most {longest} days can be asked for at once")
    return found


def _day(name: str, text: str | None) -> int:
    try:
        moment = date.fromisoformat(text or "")
    except ValueError:
        moment = None
    # ISO has other spellings of a day, which AWS does not take; periods are not reckoned at the ends of the calendar.
    if moment is None or moment.isoformat() != text or moment.year not in YEARS:
        raise bad_request(f"Invalid {name} specified: expected a date as YYYY-MM-DD")
    return moment.toordinal() - EPOCH


def iso_day(day: int) -> str:
    return date.fromordinal(EPOCH + day).isoformat()


def window(quota: QuotaSettings, now: int) -> Quota:
    """The quota over its period that contains `now` (µs)."""
    current = period(quota, now)
    return Quota(quota.limit, current.start, current.end)


def first_needed(quota: QuotaSettings | None, first: int) -> int:
    """The day from which rows tell what remained on `first`: the beginning of its period."""
    return period(quota, first * DAY_US).start // DAY_US if quota else first


def restarts(start: int, quota: Quota) -> bool:
    """A period only moves forward; one that lies more than a day ahead was a wrong clock, as in admit.lua."""
    return quota.start > start or start > quota.end + DAY_US


def left(record: Record, quota: QuotaSettings | None, now: int) -> int:
    """What remains at `now` of the quota as it is today."""
    if quota is None:
        return NO_QUOTA
    current = window(quota, now)
    return max(0, quota.limit - (0 if restarts(record.start, current) else record.used))


def pairs(record: Record, quota: QuotaSettings | None, asked: Days, now: int) -> list[Row]:
    """`(used, remaining)` of each asked day that has begun, oldest first.

    A day that has passed says what was recorded on it; one without a record what remained before, in its period.
    """
    today = now // DAY_US
    recorded = dict(zip(_from(quota, asked, today), _remained(record, quota, asked, today), strict=True))
    recorded[today] = left(record, quota, now)
    return [(record.rows.get(day, (0, 0))[0], recorded[day]) for day in asked.until(today)]


def _from(quota: QuotaSettings | None, asked: Days, today: int) -> range:
    return range(first_needed(quota, asked.first), min(asked.last, today) + 1)


def _remained(record: Record, quota: QuotaSettings | None, asked: Days, today: int) -> Iterator[int]:
    """At the end of each day: what its row says, else what the day before left, else the limit."""
    untouched = quota.limit if quota else NO_QUOTA
    remained = untouched
    for day in _from(quota, asked, today):
        if quota is None or first_needed(quota, day) == day:
            remained = untouched
        row = record.rows.get(day)
        if row:
            remained = row[1]
        yield remained
        if row and row[1] == NO_QUOTA:
            remained = untouched  # the plan had no quota on that day, and so nothing is carried forward

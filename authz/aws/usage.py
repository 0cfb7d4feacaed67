"""Usage as AWS reports it: the calls of each UTC day, and the quota that remained at its end.

See "Usage by day" in docs/explanation/rules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple

from authz.aws.errors import bad_request
from authz.core.holders import QuotaState, quota_at, used_in
from authz.core.periods import interval
from authz.core.resources import Counts, QuotaSettings
from authz.core.zones import DAY_US, EPOCH

NO_QUOTA = -1  # the remaining quota of a plan without one

MAX_DAYS = 400  # of one query

YEARS = range(1970, 9999)

UNUSED: Final = QuotaState()

DayUse = tuple[int, int]  # used on a day, remaining after its last event, as GetUsage shows it


class DayRow(NamedTuple):
    """A caller's day: calls, what remained of the quota after the last event, units, and units beyond a limit."""

    requests: int
    left: int
    units: int
    over: int


class RefusedRow(NamedTuple):
    """A caller's day: the calls that throttles and quotas refused, and those that a shadow plan would have refused."""

    throttle: int = 0
    quota: int = 0
    shadow_throttle: int = 0
    shadow_quota: int = 0


@dataclass(frozen=True, slots=True)
class CallerUse:
    """The usage of one caller in Redis: the state of the plan's quota, and a row for each day.

    `refused` has the refused calls of each day. Days are numbers since 1970.
    """

    state: QuotaState = UNUSED
    rows: Mapping[int, DayRow] = field(default_factory=dict)
    refused: Mapping[int, RefusedRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Days:
    """Days since 1970, both ends included."""

    first: int
    last: int

    def until(self, last: int) -> range:
        """Return the days up to `last`."""
        return range(self.first, min(self.last, last) + 1)


def days(start: str | None, end: str | None, longest: int) -> Days:
    """Read a range of dates such as `2026-03-04`. Raises BadRequestException for more than `longest` days."""
    wanted = Days(_day("startDate", start), _day("endDate", end))
    if wanted.first > wanted.last:
        raise bad_request("Invalid date range specified: startDate is after endDate")
    if wanted.last - wanted.first >= longest:
        raise bad_request(f"Invalid date range specified: at most {longest} days at once")
    return wanted


def _day(name: str, text: str | None) -> int:
    try:
        moment = date.fromisoformat(text or "")
    except ValueError:
        moment = None
    # AWS takes only one of ISO's spellings of a day. Periods cannot be computed at the ends of Python's calendar.
    if moment is None or moment.isoformat() != text or moment.year not in YEARS:
        raise bad_request(f"Invalid {name} specified: expected a date as YYYY-MM-DD")
    return moment.toordinal() - EPOCH


def iso_day(day: int) -> str:
    return date.fromordinal(EPOCH + day).isoformat()


def first_needed(quota: QuotaSettings | None, first: int, billing_day: int | None = None) -> int:
    """Return the earliest day whose row affects the remaining quota of `first`: the beginning of its period."""
    return interval(quota, (first + 1) * DAY_US - 1, billing_day).start // DAY_US if quota else first


def left(state: QuotaState, quota: QuotaSettings | None, now: int, billing_day: int | None = None) -> int:
    """Return the quota that remains at `now` (µs), under today's settings."""
    if quota is None:
        return NO_QUOTA
    return max(0, quota.limit - used_in(state, quota_at(quota, now, billing_day)))


def pairs(
    record: CallerUse, quota: QuotaSettings | None, asked: Days, now: int, billing_day: int | None = None
) -> list[DayUse]:
    """Return `(used, remaining)` for each day in `asked` that has begun, oldest first.

    `used` is in the quota's own measure: units or requests; requests without a quota.
    `remaining` of a past day is the number in its row. A day without a row keeps the previous day's number, and the
    first day of a period starts at the limit. Without a quota it is NO_QUOTA on every day: rows have the rest of the
    plan's first quota, which may have another period.
    """
    today = now // DAY_US
    if quota is None:
        return [(used_on(record, None, day), NO_QUOTA) for day in asked.until(today)]
    recorded: dict[int, int] = {}
    remaining = quota.limit
    for day in range(first_needed(quota, asked.first, billing_day), min(asked.last, today) + 1):
        if first_needed(quota, day, billing_day) == day:
            remaining = quota.limit
        row = record.rows.get(day)
        recorded[day] = remaining = row.left if row else remaining
        if row and row.left == NO_QUOTA:
            remaining = quota.limit  # the plan had no quota on that day, so no value carries over
    recorded[today] = left(record.state, quota, now, billing_day)
    return [(used_on(record, quota, day), recorded[day]) for day in asked.until(today)]


def used_on(record: CallerUse, quota: QuotaSettings | None, day: int) -> int:
    """Return what a day has used, in the quota's own measure."""
    row = record.rows.get(day)
    if row is None:
        return 0
    return row.units if quota and quota.counts is Counts.UNITS else row.requests

"""Time zones, and what their clocks show. Their data come from the package `tzdata`, not from the machine."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3_600 * SECOND_US
DAY_US: Final = 24 * HOUR_US
EPOCH: Final = date(1970, 1, 1).toordinal()
MICROSECOND: Final = timedelta(microseconds=1)
NO_ZONE: Final = "Factory"  # an entry for machines without a zone


def iso_time(at: int) -> str:
    """A moment (µs of Unix time) as ISO 8601 has it, in whole seconds of UTC."""
    return f"{datetime.fromtimestamp(at // SECOND_US, UTC):%Y-%m-%dT%H:%M:%SZ}"


@cache
def zone_names() -> frozenset[str]:
    """The names that a `timeZone` may have, such as Europe/Berlin."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split()) - {NO_ZONE}


@cache
def zone_of(name: str | None) -> tzinfo:
    """The zone with this name, or UTC. Raises KeyError for a name that is not among `zone_names`.

    The machine's own data would differ between two sidecars, and so would the beginnings of their periods.
    """
    if name is None:
        return UTC
    if name not in zone_names():
        raise KeyError(f"the installed tzdata has no time zone {name}")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def offset_us(zone: tzinfo, at: int) -> int:
    """What the zone's clock is ahead of UTC at a moment: both in µs."""
    return _us(datetime.fromtimestamp(at // SECOND_US, zone).utcoffset())


def local_day(zone: tzinfo, at: int) -> int:
    """The date that the zone's calendar shows at a moment, in days since 1970."""
    return datetime.fromtimestamp(at // SECOND_US, zone).toordinal() - EPOCH


def midnight(zone: tzinfo, day: int) -> int:
    """The first moment at which the zone's clock shows midnight of a day, or has skipped it."""
    local = datetime.combine(date.fromordinal(EPOCH + day), time(), zone)
    before, after = _us(local.utcoffset()), _us(local.replace(fold=1).utcoffset())
    first = day * DAY_US - before
    return first if after <= before else _change(zone, day * DAY_US - after, first)


def next_hour(zone: tzinfo, at: int) -> int:
    """The first moment after `at` at which the zone's clock shows a full hour, or skips one."""
    offset = offset_us(zone, at)
    full = at + offset - (at + offset) % HOUR_US + HOUR_US
    later = offset_us(zone, full - offset)
    if later == offset:
        return full - offset
    change = _change(zone, at, full - offset)
    if change + later >= full:
        return change
    return -(-(change + later) // HOUR_US) * HOUR_US - later  # the clock was put back, or not as far as the full hour


def _change(zone: tzinfo, low: int, high: int) -> int:
    """The moment in (low, high] at which the zone's clock is put forward or back; there is one, at a full second."""
    later = offset_us(zone, high)
    before, after = low // SECOND_US, -(-high // SECOND_US)
    while after - before > 1:
        middle = (before + after) // 2
        if offset_us(zone, middle * SECOND_US) == later:
            after = middle
        else:
            before = middle
    return after * SECOND_US


def _us(ahead: timedelta | None) -> int:
    return ahead // MICROSECOND if ahead else 0

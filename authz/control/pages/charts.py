"""Charts of usage: numbers in, geometry out. The macros of `templates/charts.html` draw SVG and a table of the numbers.

All places and lengths are percents of the drawing's box, as texts for SVG's attributes. The browser stretches the box,
and letters keep their size, so a chart can be read on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce
from itertools import accumulate
from typing import Any, Final, Literal

MOST_DAYS: Final = 90
SUMMED_KEYS: Final = "150"  # of a customer, whose days a page sums: it has time for no more
EACH_DAY: Final = 7  # days of a chart that names every day
EACH_MONDAY: Final = 35  # days of a chart that names Mondays; a longer one names months
LAST_START: Final = 90.0  # percent; a label further right ends at its column
SLOT: Final = 0.8  # of a column's share of the width; the rest is the gap
STEPS: Final = 5  # at most, between the lines of an axis
NICE: Final = (1, 2, 5, 10)
FULL: Final = 100.0  # percent
ABBREVIATIONS: Final = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))

Reason = Literal["admitted", "throttle", "quota"]
Level = Literal["low", "high", "full"]  # of a limit's use
HIGH: Final = 80  # percent: a use from here on is high


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a line from `at`, `size` long; both as texts such as `12.5%`."""

    at: str
    size: str

    @classmethod
    def between(cls, start: float, end: float) -> Span:
        return cls(_percent(start), _percent(_clamped(end) - _clamped(start)))


def _clamped(percent: float) -> float:
    return min(max(percent, 0.0), FULL)


def _percent(value: float) -> str:
    return f"{_clamped(value):.3f}".rstrip("0").rstrip(".") + "%"


# --- use against limits -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The use of a limit now. `used` may be above the limit, and below 0 after a grant.

    `thresholds` are percents of the limit, such as those of alerts. `note` is a sentence beside it.
    """

    label: str
    used: int
    limit: int
    unit: str = "requests"
    thresholds: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: the part of `use` within the limit, `over` beyond it, the place of the limit, and its thresholds.

    `percent` is of the limit, rounded down; None for a limit of 0.
    """

    use: LimitUse
    within: Span
    over: Span | None
    limit_at: str
    thresholds: tuple[tuple[int, str], ...]
    percent: int | None
    level: Level

    @property
    def used(self) -> int:
        """The used units as people read them: after a grant that exceeds them, none."""
        return max(0, self.use.used)

    @property
    def left(self) -> int:
        return max(0, self.use.limit - self.use.used)

    @property
    def excess(self) -> int:
        return max(0, self.use.used - self.use.limit)


def limit_bars(uses: Iterable[LimitUse]) -> tuple[Bar, ...]:
    """A bar for each limit. Each has its own scale, from 0 to the limit or, if that is more, the use or a threshold."""
    return tuple(map(_bar, uses))


def _bar(use: LimitUse) -> Bar:
    used, limit = max(0, use.used), use.limit
    # In hundredths of a unit, so that thresholds are whole numbers.
    top = max(100 * limit, 100 * used, *(percent * limit for percent in use.thresholds), 1)

    def at(hundredths: int) -> float:
        return FULL * (hundredths / top)

    level: Level = "low"
    if used >= limit:
        level = "full"
    elif used * 100 >= HIGH * limit:
        level = "high"
    return Bar(
        use,
        within=Span.between(0, at(100 * min(used, limit))),
        over=Span.between(at(100 * limit), at(100 * used)) if used > limit else None,
        limit_at=_percent(at(100 * limit)),
        thresholds=tuple((percent, _percent(at(percent * limit))) for percent in sorted(set(use.thresholds))),
        percent=used * 100 // limit if limit else None,
        level=level,
    )


# --- use by day ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DayUse:
    """The admitted calls of a day (UTC), and those that throttles and quotas refused."""

    day: date
    requests: int = 0
    by_throttle: int = 0
    by_quota: int = 0

    @property
    def refused(self) -> int:
        return self.by_throttle + self.by_quota

    @property
    def total(self) -> int:
        return self.requests + self.refused

    def plus(self, other: DayUse) -> DayUse:
        return DayUse(
            self.day,
            self.requests + other.requests,
            self.by_throttle + other.by_throttle,
            self.by_quota + other.by_quota,
        )

    @property
    def parts(self) -> Mapping[Reason, int]:
        """The parts of a column, from its foot."""
        return {"admitted": self.requests, "throttle": self.by_throttle, "quota": self.by_quota}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a column: its reason, and its height below `height.at`, which counts from the top."""

    reason: Reason
    height: Span


@dataclass(frozen=True, slots=True)
class Column:
    """A day's place on the axis, and its parts; a day without calls has none."""

    use: DayUse
    width: Span
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line across the drawing, and its number, in short."""

    at: str
    label: str


@dataclass(frozen=True, slots=True)
class Label:
    """A text under the axis; `anchor` is that of SVG."""

    at: str
    text: str
    anchor: Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Use by day. `lines` go from 0 to the highest number, at even distances; `total` sums all days."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    total: DayUse

    @property
    def is_empty(self) -> bool:
        return not self.total.total

    @property
    def has_refusals(self) -> bool:
        return self.total.refused > 0


def days_of(items: Iterable[Mapping[str, Any]], first: date, last: date) -> tuple[DayUse, ...]:
    """The days from `first` to `last`, from the items of GetUsageDays or GetUsageOverviewDays.

    Items of one day add up. A day without an item has no use.
    """
    days = {day: DayUse(day) for day in (first + timedelta(days=at) for at in range((last - first).days + 1))}
    for item in items:
        day, refused = date.fromisoformat(item["day"]), item["refused"]
        if day in days:
            days[day] = days[day].plus(DayUse(day, item["requests"], refused["throttle"], refused["quota"]))
    return tuple(days.values())


def day_columns(days: Sequence[DayUse]) -> Columns:
    """A column for each day, oldest first. Raises ValueError for more than MOST_DAYS days."""
    if len(days) > MOST_DAYS:
        raise ValueError(f"expected at most {MOST_DAYS} days, not {len(days)}")
    top, step = round_axis(max((day.total for day in days), default=0))
    share = FULL / max(1, len(days))
    return Columns(
        tuple(_column(day, at * share, share, top) for at, day in enumerate(days)),
        tuple(Line(_percent(FULL * (1 - value / top)), short(value)) for value in range(0, top + 1, step)),
        tuple(_labels([day.day for day in days], share)),
        reduce(DayUse.plus, days, DayUse(days[0].day if days else date.min)),
    )


def _column(use: DayUse, left: float, share: float, top: int) -> Column:
    ends = [0, *accumulate(use.parts.values())]
    heights = [FULL * (1 - end / top) for end in ends]
    parts = (
        Part(reason, Span.between(heights[at + 1], heights[at]))
        for at, (reason, count) in enumerate(use.parts.items())
        if count
    )
    gap = share * (1 - SLOT) / 2
    return Column(use, Span.between(left + gap, left + share - gap), tuple(parts))


def round_axis(most: int) -> tuple[int, int]:
    """The top of an axis that shows `most`, and the step between its lines: 1, 2 or 5 with zeros."""
    magnitude = 1
    while True:
        for nice in NICE:
            step = nice * magnitude
            if step * STEPS >= most:
                return step * max(1, -(-most // step)), step
        magnitude *= 10


def short(number: int) -> str:
    """A number of an axis: 2500 is 2.5k."""
    for unit, letter in ABBREVIATIONS:
        if number >= unit:
            whole, rest = divmod(number * 10 // unit, 10)
            return f"{whole:,}.{rest}{letter}" if rest else f"{whole:,}{letter}"
    return str(number)


def _labels(days: Sequence[date], share: float) -> Iterator[Label]:
    named = [at for at, day in enumerate(days) if _is_named(day, len(days))] or [0] * bool(days)
    for at in named:
        text = _day_text(days[at], len(days), is_first=at == named[0])
        if at * share > LAST_START:
            yield Label(_percent((at + 1) * share), text, "end")
        else:
            yield Label(_percent(at * share), text, "start")


def _day_text(day: date, days: int, *, is_first: bool) -> str:
    if days > EACH_MONDAY and day.day == 1:
        return f"{day:%b}"
    if days <= EACH_DAY and not is_first and day.day > 1:
        return str(day.day)  # the month stands once
    return f"{day.day} {day:%b}"


def _is_named(day: date, days: int) -> bool:
    if days <= EACH_DAY:
        return True
    return day.weekday() == 0 if days <= EACH_MONDAY else day.day == 1

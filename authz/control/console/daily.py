"""Use by day (UTC): ranges of days to ask for, and sums of the rows of GetUsageDays and GetUsageOverviewDays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from authz.control.pages.charts import DayUse, days_of

CHARTED_DAYS: Final = 90  # on the pages of a key, a customer and a plan
COUNTS: Final = ("requests", "units", "overage")
REASONS: Final = ("throttle", "quota")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DayRange:
    """The days from `first` to `last`, both included."""

    first: date
    last: date

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the operations."""
        return {"startDate": self.first.isoformat(), "endDate": self.last.isoformat()}

    def uses(self, rows: Iterable[Row]) -> tuple[DayUse, ...]:
        """The use of each day, oldest first."""
        return days_of(rows, self.first, self.last)


def utc_today() -> date:
    return datetime.now(UTC).date()


def days_to(last: date, count: int) -> DayRange:
    """A range of `count` days that ends with `last`."""
    return DayRange(last - timedelta(days=count - 1), last)


def total_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The sum of each number."""
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in COUNTS}
    for kind in ("refused", "shadow"):
        total[kind] = {name: sum(row[kind][name] for row in rows) for name in REASONS}
    return total

"""The first page of the console: quotas nearly used up, the callers refused most and why, the busiest callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from starlette.responses import Response

from authz.control.console.daily import days_to
from authz.control.pages.charts import day_columns
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

LISTED: Final = "10"
ALERTS: Final = "5"
CHARTED_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Live:
    """The live sidecars, and those of them that serve the store's version."""

    current: int
    live: int

    @property
    def lag(self) -> int:
        return self.live - self.current


def live_of(catalog: Mapping[str, Any]) -> Live:
    """Count the sidecars in an answer of GetCatalogVersion."""
    current = sum(
        each["epoch"] == catalog["epoch"] and each["version"] >= catalog["version"] for each in catalog["sidecars"]
    )
    return Live(current, len(catalog["sidecars"]))


async def overview(visit: Visit[OwnerSession]) -> Response:
    figures = await visit.ask("GetUsageOverview", query={"limit": LISTED})
    shared = {
        "figures": figures,
        "sidecars": live_of(await visit.ask("GetCatalogVersion")),
        "alerts": (await visit.ask("GetUsageAlerts", query={"limit": ALERTS}))["item"],
    }
    if not figures["ready"]:
        return await visit.page("console/overview.html", **shared)
    days = days_to(date.fromisoformat(figures["day"]), CHARTED_DAYS)
    by_day = await visit.ask("GetUsageOverviewDays", query=days.query)
    chart = day_columns(days.uses(by_day["item"]))
    return await visit.page("console/overview.html", chart=chart, **shared)


VIEWS: Final = (View("GET", "", overview),)

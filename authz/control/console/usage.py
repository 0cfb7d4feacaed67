"""The page of usage: a range of days, grouped and filtered, with a chart; and all of it as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.aws.usage import MAX_DAYS
from authz.control.console.daily import Row, total_of, utc_today
from authz.control.pages.charts import MOST_DAYS, Columns, day_columns, days_of
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

KEYS: Final = "100"  # that a page reads
SUMMED_PLANS: Final = "20"  # in a page of plans
PLANS: Final = "100"  # named in the form; with more plans the reader types an id
SPANS: Final = (("today", "Today"), ("week", "Last 7 days"), ("month", "This month"), ("last-month", "Last month"))
GROUPS: Final = (("plan", "Plan"), ("customer", "Customer"), ("key", "Key"), ("day", "Day"))
# A row for each plan of a key: keys that share no row need not be summed over pages.
GROUP_BY: Final = {"plan": "plan", "customer": "customer", "key": "plan,key", "day": "day"}

NO_PROBLEMS: Final = dict.fromkeys(("start", "end", "plan", "key"), "")


@dataclass(frozen=True, slots=True)
class Wish:
    """The use that the reader wants to see. `start` and `end` are as typed; `days` is None if they are no days.

    `problems` has a sentence for each field that is wrong.
    """

    by: str
    plan: str | None
    customer: str | None
    key: str | None
    start: str
    end: str
    days: tuple[date, date] | None
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def who(self) -> dict[str, str | None]:
        """The parameters of GetUsageDays that name plan, customer and key."""
        return {"usagePlanId": self.plan, "customerId": self.customer, "keyId": self.key}

    @property
    def is_of_ledgers(self) -> bool:
        """True if only the ledgers of keys have this use: sums are kept of all keys of a plan."""
        return self.customer is not None or self.key is not None

    @property
    def others(self) -> dict[str, str]:
        """The parameters of this page but the days."""
        named = {"plan": self.plan, "customer": self.customer, "key": self.key}
        return {"by": self.by, **{name: text for name, text in named.items() if text}}

    @property
    def fields(self) -> dict[str, str]:
        """The parameters of this page."""
        return {"start": self.start, "end": self.end, **self.others}

    @property
    def file(self) -> str:
        """The name of the file with these rows."""
        return f"usage-by-{self.by}-{self.start}-{self.end}.csv"


def wish_of(fields: Mapping[str, str], today: date) -> Wish:
    """Read the parameters of the page. Days that are given win over the name of a span."""
    by = fields.get("by", "")
    by = by if by in GROUP_BY else "plan"
    plan, customer, key = (fields.get(name, "").strip() or None for name in ("plan", "customer", "key"))
    start, end = fields.get("start", "").strip(), fields.get("end", "").strip()
    if not (start or end):
        first, last = span_of(fields.get("span", ""), today)
        return Wish(by, plan, customer, key, first.isoformat(), last.isoformat(), (first, last))
    days, problems = _typed_days(start, end)
    return Wish(by, plan, customer, key, start, end, days, problems)


def span_of(name: str, today: date) -> tuple[date, date]:
    """The first and the last day of a span: the last seven days unless it is another one of SPANS."""
    month = today.replace(day=1)
    match name:
        case "today":
            return today, today
        case "month":
            return month, today
        case "last-month":
            end = month - timedelta(days=1)
            return end.replace(day=1), end
    return today - timedelta(days=6), today


def _typed_days(start: str, end: str) -> tuple[tuple[date, date] | None, dict[str, str]]:
    first, last = _day(start), _day(end)
    problems = {
        name: "Expected a date such as 2026-03-04." for name, day in (("start", first), ("end", last)) if day is None
    }
    if first is None or last is None:
        return None, problems
    if last < first:
        return None, {"end": "Expected a day that is not before the first."}
    if (last - first).days >= MAX_DAYS:
        return None, {"end": f"Expected at most {MAX_DAYS} days."}
    return (first, last), {}


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.isoformat() == text and day.year >= 1970 else None


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of use and their sum. The fields `has_…` say whether a column has something to show.

    Calls that a plan in shadow would have refused are among its admitted calls.
    """

    rows: Sequence[Row]
    total: Row
    has_units: bool
    has_overage: bool
    has_shadow: bool


def table_of(items: Iterable[Row], by: str) -> Table:
    """The rows in the order that a reader looks for: days from the newest, all others from the most calls."""
    rows = list(items)
    if by == "day":
        rows.sort(key=lambda row: row["day"], reverse=True)
    else:
        rows.sort(key=lambda row: (row["requests"], sum(row["refused"].values())), reverse=True)
    total = total_of(rows)
    return Table(
        rows,
        total,
        has_units=any(row["units"] != row["requests"] for row in rows),
        has_overage=total["overage"] > 0,
        has_shadow=any(total["shadow"].values()),
    )


def chart_of(items: Iterable[Row], days: tuple[date, date]) -> Columns:
    """The last days of a range, as far as a chart can show them."""
    first, last = days
    return day_columns(days_of(items, max(first, last - timedelta(days=MOST_DAYS - 1)), last))


# --- views --------------------------------------------------------------------------------------------------------


async def usage(visit: Visit[OwnerSession]) -> Response:
    today = utc_today()
    wish = wish_of(visit.request.query_params, today)
    plans = await visit.ask("GetUsagePlans", query={"limit": PLANS})
    shared = {
        "spans": [(name, text, wish.days == span_of(name, today)) for name, text in SPANS],
        "groups": GROUPS,
        "plans": plans["item"],
        "names": {plan["id"]: plan["name"] for plan in plans["item"]},
        "has_all_plans": "position" not in plans,
    }
    if wish.days is None:
        return await visit.page(
            "console/usage.html", status=400, wish=wish, problems=NO_PROBLEMS | wish.problems, **shared
        )
    try:
        # Sums of all keys are kept, and those of a customer or a key are read from its ledgers.
        if wish.is_of_ledgers:
            by_day = await _rows(visit, wish, "day")
        else:
            by_day = await _kept_days(visit, wish, usagePlanId=wish.plan)
        page = await _table(visit, wish, by_day)
    except ApiError as error:
        if error.status != 404:
            raise
        wrong = {"plan" if wish.key is None else "key": "There is no such plan, or no such key."}
        return await visit.page("console/usage.html", status=404, wish=wish, problems=NO_PROBLEMS | wrong, **shared)
    return await visit.page(
        "console/usage.html",
        wish=wish,
        problems=NO_PROBLEMS,
        chart=chart_of(by_day["item"], wish.days),
        charted_days=MOST_DAYS,
        table=table_of(page["item"], wish.by),
        position=page.get("position"),
        is_partial="position" in page or visit.query("position") is not None,
        by_day=by_day,
        csv=f"{visit.site.root}/usage.csv?{urlencode(wish.fields)}",
        **shared,
    )


async def _table(visit: Visit[OwnerSession], wish: Wish, by_day: Any) -> Any:
    position = visit.query("position")
    if wish.by == "day":
        return by_day
    if wish.by != "plan" or wish.is_of_ledgers:
        return await _rows(visit, wish, GROUP_BY[wish.by], position)
    # The row of a plan sums all its keys.
    if wish.plan is not None:
        return {"item": _sums({wish.plan: by_day["item"]} if by_day["item"] else {})}
    page = await visit.ask("GetUsagePlans", query={"limit": SUMMED_PLANS, "position": position})
    if not page["item"]:
        return page
    found = await _kept_days(visit, wish, usagePlanIds=",".join(plan["id"] for plan in page["item"]))
    days: dict[str, list[Row]] = {}
    for row in found["item"]:
        days.setdefault(row["usagePlanId"], []).append(row)
    return page | {"item": _sums(days)}


def _sums(days: Mapping[str, Sequence[Row]]) -> list[Row]:
    return [{"usagePlanId": plan_id, **total_of(rows)} for plan_id, rows in days.items()]


async def _kept_days(visit: Visit[OwnerSession], wish: Wish, **plans: str | None) -> Any:
    return await visit.ask("GetUsageOverviewDays", query={"startDate": wish.start, "endDate": wish.end, **plans})


async def _rows(visit: Visit[OwnerSession], wish: Wish, by: str, position: str | None = None) -> Any:
    query = {"startDate": wish.start, "endDate": wish.end, "groupBy": by, "limit": KEYS, "position": position}
    return await visit.ask("GetUsageDays", query=wish.who | query)


async def usage_csv(visit: Visit[OwnerSession]) -> Response:
    """All rows that the form describes, however many keys there are."""
    wish = wish_of(visit.request.query_params, utc_today())
    if wish.days is None:
        return await visit.go(f"{visit.site.root}/usage", **wish.fields)
    query = wish.who | {"startDate": wish.start, "endDate": wish.end, "groupBy": GROUP_BY[wish.by]}
    return await visit.download("GetUsageDays", query, "text/csv", wish.file)


VIEWS: Final = (View("GET", "/usage", usage), View("GET", "/usage.csv", usage_csv))

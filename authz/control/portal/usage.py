"""The portal's first page: each limit with its use, its end and its pace, and the use of each day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from authz.control.pages.charts import MOST_DAYS, Bar, LimitUse, day_columns, days_of, limit_bars
from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Visit
from authz.control.pages.templates import moment_words
from authz.control.pages.words import number_words
from authz.control.portal.scope import Contract, Document, Holdings
from authz.control.portal.view import PortalView
from authz.core.resources import Counts
from authz.core.zones import SECOND_US

KEYS: Final = 10  # of a page, each with its limits
EARLY: Final = 0.01  # of a period: before this, its pace says little
EACH: Final = {"HOUR": "each hour", "DAY": "each day", "WEEK": "each week", "MONTH": "each month", "TOTAL": "in all"}


@dataclass(frozen=True, slots=True)
class Card:
    """The limits of a plan: those of a key, or those that keys share."""

    title: str
    holder: str
    throttle: str
    bars: Sequence[Bar]


async def show_usage(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    last = datetime.fromtimestamp(holdings.now, UTC).date()
    first = last - timedelta(days=MOST_DAYS - 1)
    part = await holdings.keys(KEYS, visit.query("position"))
    contracts = [(key, await holdings.contracts(key["id"])) for key in part.items]
    days = await holdings.days(first, last)
    return await visit.page(
        "portal/usage.html",
        has_keys=bool(part.items),
        cards=cards(contracts, holdings.now, visit.session.zone),
        days=chart_of(days.items, first, last),
        is_whole=days.is_whole,
        counts_units=any(
            quota["counts"] == Counts.UNITS for _, each in contracts for one in each for quota in one.quotas
        ),
        position=part.position,
        now=holdings.now * SECOND_US,
    )


def chart_of(items: Iterable[Mapping[str, Any]], first: date, last: date) -> Any:
    return day_columns(days_of(items, first, last))


def cards(keys: Iterable[tuple[Document, Sequence[Contract]]], now: int, zone: str) -> list[Card]:
    """A card for each plan of each key; a plan whose limits the keys share has one card."""
    found: dict[tuple[str, ...], Card] = {}
    for key, contracts in keys:
        for one in contracts:
            name = (one.plan_id,) if one.is_shared else (one.plan_id, key["id"])
            holder = "shared by all your keys" if one.is_shared else key_name(key)
            found.setdefault(name, _card(one, holder, now, zone))
    return list(found.values())


def key_name(key: Mapping[str, Any]) -> str:
    return str(key.get("name") or key["id"])


def _card(contract: Contract, holder: str, now: int, zone: str) -> Card:
    uses = [
        LimitUse(
            label=f"{_counted(quota).capitalize()} {EACH[quota['period']]}",
            used=quota["used"],
            limit=quota["limit"],
            unit=_counted(quota),
            note=" ".join(filter(None, (reset_words(quota, zone), pace_words(quota, now, zone)))),
        )
        for quota in contract.quotas
    ]
    return Card(contract.plan, holder, throttle_words(contract.throttle), limit_bars(uses))


def _counted(limit: Mapping[str, Any]) -> str:
    return "units" if limit.get("counts") == Counts.UNITS else "requests"


def reset_words(quota: Mapping[str, Any], zone: str) -> str:
    return f"Full again at {moment_words(quota['end'], zone)}." if "end" in quota else "Does not fill again."


def pace_words(quota: Mapping[str, Any], now: int, zone: str) -> str:
    """What happens if calls come as fast as until now in the period; "" where the pace says little."""
    used, limit = quota["used"], quota["limit"]
    if "end" not in quota or not 0 < used < limit:
        return ""
    start, end = (datetime.fromisoformat(quota[name]).timestamp() for name in ("start", "end"))
    elapsed = now - start
    if elapsed < EARLY * (end - start) or now >= end:
        return ""
    used_up = start + elapsed * limit / used
    if used_up < end:
        return f"At this pace it is used up at {moment_words(round(used_up * SECOND_US), zone)}."
    return f"At this pace {round(used * (end - start) / elapsed):,} are used by then."


def throttle_words(throttle: Mapping[str, Any] | None) -> str:
    """A throttle in a sentence; "" if nothing is throttled."""
    if throttle is None:
        return ""
    rate, burst, unit = throttle.get("rateLimit"), throttle.get("burstLimit"), _counted(throttle)
    parts = [
        *([] if rate is None else [f"{number_words(rate)} {unit} a second"]),
        *([] if burst is None else [f"{burst:,} at once" if rate is not None else f"{burst:,} {unit} at once"]),
    ]
    return f"At most {', and '.join(parts)}." if parts else ""


VIEWS: Final = (PortalView("GET", "", show_usage),)

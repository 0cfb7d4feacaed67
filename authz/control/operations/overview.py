"""The operations on figures of the whole account, which answer quickly however many keys there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from authz.aws.errors import bad_request, not_found
from authz.aws.usage import Days, iso_day
from authz.control.call import Answer, Call, Operation
from authz.control.operations.metering import days_of
from authz.core.stored import StoredKey, StoredPlan
from authz.core.zones import DAY_US, SECOND_US, iso_time
from authz.store.figures import (
    KEPT,
    Overview,
    Sums,
    caller_document,
    near_document,
    plan_document,
    sums_document,
)
from authz.store.ports import ItemSource, Reader
from authz.store.report import Query, read_all
from authz.store.sweep import FEW_KEY_DAYS, few, overview_of

SUMMED: Final = 25  # plans of one answer by day
LISTED: Final = 10  # callers and plans in a list, unless `limit` is given

Document = dict[str, Any]


async def get_usage_overview(call: Call) -> Answer:
    """Answer with today's figures: of a small account as of now, of others as of the last sweep."""
    call.refuse_others("limit")
    text = call.one("limit") or str(LISTED)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(KEPT)) and 1 <= int(text) <= KEPT):
        raise bad_request(f"Invalid limit: expected a number from 1 to {KEPT}, got {text[:50]!r}")
    store, usage = call.context.store, call.context.usage
    return Answer(body=await overview_document(store, await overview_of(store, usage), int(text)))


async def overview_document(store: Reader, overview: Overview | None, limit: int) -> Document:
    """The figures with lists of at most `limit` items, and the names of plans and keys."""
    if overview is None:
        return {"ready": False}
    total = plan_document(overview.total)
    del total["usagePlanId"]
    lists: Document = {
        "total": total | {"keys": await store.count("apikey"), "plans": await store.count("usageplan")},
        "plans": [plan_document(plan) for plan in overview.plans[:limit]],
        "top": [caller_document(caller) for caller in overview.top[:limit]],
        "refused": {
            "throttle": [caller_document(caller) for caller in overview.by_throttle[:limit]],
            "quota": [caller_document(caller) for caller in overview.by_quota[:limit]],
        },
        "shadow": [caller_document(caller) for caller in overview.shadow[:limit]],
        "near": [near_document(near) for near in overview.near[:limit]],
    }
    return {"ready": True, **_age(overview), **await _named(store, lists)}


async def get_usage_overview_days(call: Call) -> Answer:
    """Answer with the sums of each day: of all plans, of one, or of each of several."""
    call.refuse_others("startDate", "endDate", "usagePlanId", "usagePlanIds")
    now = await call.context.usage.redis_time()
    wanted, plan_ids = days_of(call, now), await _plan_ids(call)
    age, rows = await _rows(call, wanted, plan_ids, now)
    names = {plan_id: {"usagePlanId": plan_id} if call.one("usagePlanIds") else {} for plan_id in plan_ids}
    return Answer(
        body={
            "startDate": iso_day(wanted.first),
            "endDate": iso_day(wanted.last),
            **age,
            "item": [
                names[plan_id] | {"day": iso_day(day), **sums_document(of_days[day])}
                for plan_id, of_days in rows.items()
                for day in sorted(of_days)
            ],
        }
    )


async def _plan_ids(call: Call) -> list[str | None]:
    """The plans to sum, None for all together. Raises ApiError for one that does not exist."""
    one, several = call.one("usagePlanId"), call.one("usagePlanIds")
    if several is None:
        wanted = [] if one is None else [one]
    elif one is None:
        wanted = list(dict.fromkeys(several.split(",")))
    else:
        raise bad_request("Invalid usagePlanIds: expected this parameter or usagePlanId, not both")
    if len(wanted) > SUMMED:
        raise bad_request(f"Invalid usagePlanIds: expected at most {SUMMED}")
    if None in await call.context.store.many("usageplan", wanted):
        raise not_found("Invalid Usage Plan ID specified")
    return [*wanted] or [None]


async def _rows(
    call: Call, wanted: Days, plan_ids: Sequence[str | None], now: int
) -> tuple[Document, dict[str | None, dict[int, Sums]]]:
    """The age of the sums, and each plan's sums of each day: read at once, or kept by the last sweep.

    Of a small account today's are always read at once. `now` is in µs.
    """
    store, usage = call.context.store, call.context.usage
    is_small = await few(store)
    if is_small and await store.count("apikey") * (wanted.last - wanted.first + 1) <= FEW_KEY_DAYS:
        age = {"ready": True, "asOf": iso_time(now)}
        return age, {plan_id: await _sums_now(call, wanted, plan_id) for plan_id in plan_ids}
    kept = await usage.overview()
    if kept is None:
        return {"ready": False}, {}
    rows = {plan_id: await usage.plan_days(plan_id, wanted) for plan_id in plan_ids}
    age = {"ready": True, **_age(kept), "firstDay": iso_day(kept.first_day)}
    today = now // DAY_US
    if is_small and wanted.first <= today <= wanted.last:
        for plan_id in plan_ids:
            others = {day: sums for day, sums in rows[plan_id].items() if day != today}
            rows[plan_id] = others | await _sums_now(call, Days(today, today), plan_id)
    return age, rows


async def _sums_now(call: Call, wanted: Days, plan_id: str | None) -> dict[int, Sums]:
    query = Query(wanted, ("day",), plan_id)
    found: dict[int, Sums] = {}
    async for rows in read_all(call.context.store, call.context.usage, query):
        found |= {group.day: sums for group, sums in rows.items() if group.day is not None}
    return found


def _age(overview: Overview) -> Document:
    """The times between which the figures were read, as AWS's dates are written."""
    return {
        "day": iso_day(overview.day),
        "asOf": iso_time(overview.began),
        "tookSeconds": (overview.ended - overview.began) // SECOND_US,
    }


async def _named(source: ItemSource, lists: Document) -> Document:
    """Add the names of plans and keys, and the customers of keys. A deleted plan or key has none."""
    rows: list[Document] = [*lists["plans"], *lists["top"], *lists["near"], *lists["shadow"]]
    rows += [row for refused in lists["refused"].values() for row in refused]
    plans = await _found(source, "usageplan", (row["usagePlanId"] for row in rows))
    keys = await _found(source, "apikey", (row["keyId"] for row in rows if "keyId" in row))
    for row in rows:
        plan, key = plans.get(row["usagePlanId"]), keys.get(row.get("keyId", ""))
        if isinstance(plan, StoredPlan):
            row["usagePlanName"] = plan.plan.name
        if isinstance(key, StoredKey):
            row["keyName"] = key.key.name
            if key.key.customer_id is not None:
                row["customerId"] = key.key.customer_id
    return lists


async def _found(source: ItemSource, kind: str, ids: Iterable[str]) -> dict[str, object]:
    once = list(dict.fromkeys(ids))
    return dict(zip(once, await source.many(kind, once) if once else [], strict=True))


OPERATIONS: Final = (
    Operation("GetUsageOverview", "GET", "/usage/overview", get_usage_overview, writes=False),
    Operation("GetUsageOverviewDays", "GET", "/usage/overview/days", get_usage_overview_days, writes=False),
)

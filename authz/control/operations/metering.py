"""Operations of our own on usage: its days in pages or as CSV, quotas and grants, alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from authz.aws.errors import ApiError, bad_request, not_found
from authz.aws.plans import no_key
from authz.aws.usage import MAX_DAYS, Days, days, iso_day
from authz.control.call import ID_LENGTH, PAGING, Answer, Call, Operation
from authz.control.operations.restapis import listed
from authz.core.bounds import MAX_INT
from authz.core.holders import HeldQuota
from authz.core.planrules import overridden
from authz.core.resources import Counts, Period, Resource
from authz.core.stored import by_customer
from authz.core.zones import DAY_US, SECOND_US
from authz.store.alerts import document_of
from authz.store.ports import Adjusted, AlertQuery
from authz.store.quotas import (
    REASON_LENGTH,
    Held,
    Standing,
    UnfitName,
    UnknownName,
    find_held,
    grant_line,
    quota_words,
    standing_document,
    standings,
)
from authz.store.report import MAX_KEYS, PARTS, Query, csv_lines, document, read_all, read_page

CSV: Final = "text/csv"
WHO: Final = ("usagePlanId", "keyId", "customerId")
ORDERS: Final = ("newest", "oldest")


async def get_usage_days(call: Call) -> Answer:
    """Answer with rows of usage: a page of JSON, or all of them as CSV if the caller accepts it."""
    call.refuse_others(*WHO, *PAGING, "startDate", "endDate", "groupBy")
    wanted = days_of(call, call.context.now() * SECOND_US)
    by = tuple(dict.fromkeys((call.one("groupBy") or "plan,key,day").split(",")))
    if strange := [part for part in by if part not in PARTS]:
        raise bad_request(f"Invalid groupBy: expected some of {', '.join(PARTS)}, got {strange[0][:50]!r}")
    query = Query(wanted, by, *map(call.one, WHO))
    store, usage = call.context.store, call.context.usage
    is_csv = CSV in call.accept.lower()
    limit, position = call.paging()
    try:
        page = await read_page(store, usage, query, 1 if is_csv else limit, None if is_csv else position)
    except UnknownName as error:
        raise _unknown(error) from None
    if is_csv:
        return Answer(body=_csv(call, query), headers={"Content-Type": f"{CSV}; charset=utf-8"})
    body: dict[str, Any] = {
        "startDate": iso_day(query.days.first),
        "endDate": iso_day(query.days.last),
        "groupBy": list(query.by),
        "item": [document(group, sums) for group, sums in page.rows.items()],
    }
    return Answer(body=body | ({} if page.position is None else {"position": page.position}))


async def _csv(call: Call, query: Query) -> AsyncIterator[bytes]:
    yield csv_lines({}, head=True).encode()
    async for rows in read_all(call.context.store, call.context.usage, query):
        yield csv_lines(rows).encode()


def days_of(call: Call, now: int) -> Days:
    """The days of `startDate` and `endDate`; without them the day of `now`, in µs. Raises BadRequestException."""
    end = call.one("endDate") or iso_day(now // DAY_US)
    return days(call.one("startDate") or end, end, MAX_DAYS)


async def get_usage_alerts(call: Call) -> Answer:
    """Answer with a page of alerts, the newest first unless `order=oldest`."""
    call.refuse_others(*WHO, *PAGING, "order")
    order = call.one("order") or ORDERS[0]
    if order not in ORDERS:
        raise bad_request(f"Invalid order: expected newest or oldest, got {order[:50]!r}")
    plan_id, key_id, customer_id = map(call.one, WHO)
    key_ids = frozenset[str]()
    if customer_id is not None:
        first = await call.context.store.search(by_customer(customer_id), MAX_KEYS)
        key_ids = frozenset(key.key.id for key in first.items)
    query = AlertQuery(plan_id, key_id, customer_id, newest_first=order == "newest", key_ids=key_ids)
    page = await call.context.usage.alerts(query, *call.paging())
    return listed(map(document_of, page.alerts), page.position)


# --- quotas -------------------------------------------------------------------------------------------------------


class QuotaName(Resource, frozen=True, kw_only=True):
    """A quota of a key or a customer in a plan. Period and counts may be left out where one quota is meant."""

    usage_plan_id: str
    key_id: str | None = None
    customer_id: str | None = None
    period: Period | None = None
    counts: Counts | None = None


class SetRemaining(QuotaName, frozen=True, kw_only=True):
    """The body of `PUT /usage/quotas`."""

    remaining: Annotated[int, Meta(ge=0, le=MAX_INT)]


class GrantUsage(QuotaName, frozen=True, kw_only=True):
    """The body of `POST /usage/grants`. A grant is made once under its name, however often it is sent."""

    units: Annotated[int, Meta(ge=1, le=MAX_INT)]
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_LENGTH)]
    name: Annotated[str, Meta(min_length=1, max_length=ID_LENGTH)]


async def get_usage_quotas(call: Call) -> Answer:
    """Answer with the throttle, and the used and the remaining units of each quota, of a key or customer."""
    call.refuse_others(*WHO)
    plan_id, key_id, customer_id = map(call.one, WHO)
    if plan_id is None:
        raise bad_request("Missing query parameter usagePlanId")
    held = await _found(call, plan_id, key_id, customer_id)
    found = await standings(call.context.usage, held)
    throttle, own = held.plan.plan.throttle, held.holder.override
    if throttle is not None and own is not None and own.throttle is not None:
        throttle = overridden(throttle, own.throttle)
    limits = {} if throttle is None else {"throttle": msgspec.to_builtins(throttle)}
    return Answer(body=_held_by(held) | limits | {"item": [standing_document(one) for one in found]})


async def set_usage_remaining(call: Call) -> Answer:
    """Set what remains of any quota; UpdateUsage sets AWS's only."""
    body = call.read_strictly(SetRemaining)
    held, quota = await _named(call, body)
    what = f"{call.operation} {quota_words(held, quota)} remaining={body.remaining}"
    written = await call.context.usage.set_remaining(
        held.plan.plan.id, held.holder, quota, body.remaining, who=call.principal.name, what=what
    )
    call.wrote(written)
    return Answer(body=_adjusted_document(held, quota, written.result))


async def grant_usage(call: Call) -> Answer:
    """Add units to what remains of a quota."""
    body = call.read_strictly(GrantUsage)
    held, quota = await _named(call, body)
    written = await call.context.usage.grant(
        held.plan.plan.id,
        held.holder,
        quota,
        body.units,
        name=body.name,
        who=call.principal.name,
        what=grant_line(call.operation, held, quota, body.units, body.name, body.reason),
    )
    call.wrote(written)
    done = {"granted": 0 if written.result.repeated else body.units, "repeated": written.result.repeated}
    return Answer(201, _adjusted_document(held, quota, written.result) | done)


async def _named(call: Call, body: QuotaName) -> tuple[Held, HeldQuota]:
    held = await _found(call, body.usage_plan_id, body.key_id, body.customer_id)
    try:
        return held, held.quota(body.period, body.counts)
    except UnfitName as error:
        raise bad_request(f"Invalid quota: {error}") from None


async def _found(call: Call, plan_id: str, key_id: str | None, customer_id: str | None) -> Held:
    try:
        return await find_held(call.context.store, plan_id, key_id, customer_id)
    except UnknownName as error:
        raise _unknown(error) from None
    except UnfitName as error:
        raise bad_request(f"Invalid request: {error}") from None


def _unknown(error: UnknownName) -> ApiError:
    return no_key() if error.kind == "apikey" else not_found("Invalid Usage Plan ID specified")


def _held_by(held: Held) -> dict[str, Any]:
    who = "customerId" if held.holder.is_customer else "keyId"
    return {"usagePlanId": held.plan.plan.id, who: held.holder.id}


def _adjusted_document(held: Held, quota: HeldQuota, adjusted: Adjusted) -> dict[str, Any]:
    rule = quota.at(adjusted.now)
    return _held_by(held) | standing_document(Standing(quota, adjusted.used, rule.start, rule.finite_end))


OPERATIONS: Final = (
    Operation("GetUsageDays", "GET", "/usage/days", get_usage_days, writes=False),
    Operation("GetUsageQuotas", "GET", "/usage/quotas", get_usage_quotas, writes=False),
    Operation("SetUsageRemaining", "PUT", "/usage/quotas", set_usage_remaining, writes=True),
    Operation("GrantUsage", "POST", "/usage/grants", grant_usage, writes=True),
    Operation("GetUsageAlerts", "GET", "/usage/alerts", get_usage_alerts, writes=False),
)

"""Operations of our own on usage: its days in pages or as CSV, and the alerts of quotas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from authz.aws.errors import bad_request, not_found
from authz.aws.plans import no_key
from authz.aws.usage import days, iso_day
from authz.control.call import Answer, Call, Operation
from authz.core.periods import DAY_US
from authz.store.alerts import document_of
from authz.store.ports import AlertQuery
from authz.store.report import PARTS, Query, UnknownName, csv_lines, document, read_all, read_page

LONGEST_RANGE: Final = 400  # days
CSV: Final = "text/csv"
WHO: Final = ("usagePlanId", "keyId", "customerId")
PAGING: Final = ("limit", "position")
ORDERS: Final = ("newest", "oldest")


async def get_usage_days(call: Call) -> Answer:
    """Answer with rows of usage: a page of JSON, or all of them as CSV if the caller accepts it."""
    _refuse_others(call, *WHO, *PAGING, "startDate", "endDate", "groupBy")
    query = _query(call)
    store, usage = call.context.store, call.context.usage
    is_csv = CSV in call.accept.lower()
    limit, position = call.paging()
    try:
        page = await read_page(store, usage, query, 1 if is_csv else limit, None if is_csv else position)
    except UnknownName as error:
        raise no_key() if error.kind == "apikey" else not_found("Invalid Usage Plan ID specified") from None
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


def _query(call: Call) -> Query:
    """Read the query. Without dates it is today's. Raises BadRequestException."""
    today = iso_day(call.context.now() * 1_000_000 // DAY_US)
    end = call.one("endDate") or today
    wanted = days(call.one("startDate") or end, end, LONGEST_RANGE)
    by = tuple(dict.fromkeys((call.one("groupBy") or "plan,key,day").split(",")))
    if strange := [part for part in by if part not in PARTS]:
        raise bad_request(f"Invalid groupBy: expected some of {', '.join(PARTS)}, got {strange[0][:50]!r}")
    return Query(wanted, by, *map(call.one, WHO))


async def get_usage_alerts(call: Call) -> Answer:
    """Answer with a page of alerts, the newest first unless `order=oldest`."""
    _refuse_others(call, *WHO, *PAGING, "order")
    order = call.one("order") or ORDERS[0]
    if order not in ORDERS:
        raise bad_request(f"Invalid order: expected newest or oldest, got {order[:50]!r}")
    plan_id, key_id, customer_id = map(call.one, WHO)
    query = AlertQuery(plan_id, key_id, customer_id, newest_first=order == "newest")
    page = await call.context.usage.alerts(query, *call.paging())
    body: dict[str, Any] = {"item": [document_of(alert) for alert in page.alerts]}
    return Answer(body=body | ({} if page.position is None else {"position": page.position}))


def _refuse_others(call: Call, *known: str) -> None:
    """Raise BadRequestException for a query parameter without effect: a misspelt one would widen the answer."""
    if others := [name for name in call.query if name not in known]:
        raise bad_request(f"Unknown query parameter {others[0][:50]!r}: expected some of {', '.join(known)}")


OPERATIONS: Final = (
    Operation("GetUsageDays", "GET", "/usage/days", get_usage_days, writes=False),
    Operation("GetUsageAlerts", "GET", "/usage/alerts", get_usage_alerts, writes=False),
)

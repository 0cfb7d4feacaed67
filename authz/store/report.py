"""Usage as sellers read it: requests, units, overage and refusals of many keys, in pages of bounded work."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from authz.aws.usage import CallerUse, Days, RefusedRow, iso_day
from authz.core.stored import StoredKey, StoredPlan, by_customer, plan_id_of, plan_keys
from authz.store.figures import Sums, sums_document
from authz.store.ports import InvalidPosition, Reader, Usage
from authz.store.quotas import UnknownName

PARTS: Final = ("plan", "customer", "key", "day")
MAX_KEYS: Final = 500  # of one page
MAX_PLANS: Final = 25  # of one page: some may have no keys
MAX_GROUPS: Final = 100_000  # summed in memory
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # begin a formula in a spreadsheet
COLUMNS: Final = (
    "usagePlanId",
    "customerId",
    "keyId",
    "keyName",
    "day",
    "requests",
    "units",
    "overage",
    "refusedByThrottle",
    "refusedByQuota",
    "shadowByThrottle",
    "shadowByQuota",
)


class Group(NamedTuple):
    """Names the use that a row sums; a part that rows are not grouped by is None. A key brings its customer."""

    plan: str | None = None
    customer: str | None = None
    key: str | None = None
    key_name: str | None = None
    day: int | None = None


Rows = dict[Group, Sums]


@dataclass(frozen=True, slots=True)
class Query:
    """The days, plans, keys and customers to read, and the parts of PARTS that rows are grouped by."""

    days: Days
    by: tuple[str, ...] = ("plan", "key", "day")
    plan_id: str | None = None
    key_id: str | None = None
    customer_id: str | None = None

    @property
    def is_summed_by_key(self) -> bool:
        """True if no two keys share a row, so that a page's rows are complete."""
        return "plan" in self.by and "key" in self.by

    @property
    def most_keys(self) -> int:
        """The keys of one page: fewer for more days, so that a page's rows are bounded."""
        return max(1, min(MAX_KEYS, 20_000 // (self.days.last - self.days.first + 1)))


@dataclass(frozen=True, slots=True)
class ReportPage:
    """The use of some keys, and the position after them; None on the last page."""

    rows: Rows
    position: str | None


_Members = list[tuple[StoredPlan, list[StoredKey]]]


async def read_page(store: Reader, usage: Usage, query: Query, limit: int, position: str | None = None) -> ReportPage:
    """Read the use of at most `limit` keys. Rows without any use are left out.

    A group with keys on several pages has a row on each; they add up. Raises UnknownName and InvalidPosition.
    """
    members, position = await _members(store, query, min(limit, query.most_keys), position)
    rows: Rows = {}
    callers = {(plan.plan.id, key.key.id): (plan, key) for plan, keys in members for key in keys}
    for caller, record in (await usage.uses(list(callers), query.days)).items():
        _add(rows, query, *callers[caller], record)
    return ReportPage(rows, position)


async def read_all(store: Reader, usage: Usage, query: Query) -> AsyncIterator[Rows]:
    """Yield all rows: page by page where no two pages share a row, else summed and sorted at the end.

    Beyond MAX_GROUPS a group may have several rows, which add up. Something is yielded for each page, perhaps no row,
    so that a caller can notice that its reader has left.
    """
    position, summed = None, Rows()
    while True:
        page = await read_page(store, usage, query, MAX_KEYS, position)
        if query.is_summed_by_key:
            yield page.rows
        else:
            merge(summed, page.rows)
            is_full = len(summed) > MAX_GROUPS
            yield in_order(summed) if is_full else {}
            if is_full:
                summed = {}
        position = page.position
        if position is None:
            break
    if summed:
        yield in_order(summed)


def merge(rows: Rows, others: Rows) -> None:
    """Add the other rows to `rows`."""
    for group, sums in others.items():
        rows[group] = rows[group].plus(sums) if group in rows else sums


def in_order(rows: Rows) -> Rows:
    """The rows by the parts of their groups; a part that is missing comes first."""
    return dict(
        sorted(rows.items(), key=lambda row: [(part is not None, "" if part is None else part) for part in row[0]])
    )


def csv_lines(rows: Rows, *, head: bool = False) -> str:
    """The rows as RFC 4180 has them. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    if head:
        writer.writerow(COLUMNS)
    for group, sums in rows.items():
        day = None if group.day is None else iso_day(group.day)
        names = (group.plan, group.customer, group.key, group.key_name, day)
        writer.writerow([*map(_cell, names), *sums])
    return text.getvalue()


def document(group: Group, sums: Sums) -> dict[str, object]:
    """A row as JSON has it."""
    day = None if group.day is None else iso_day(group.day)
    names = zip(COLUMNS, (group.plan, group.customer, group.key, group.key_name, day), strict=False)
    return {name: value for name, value in names if value is not None} | sums_document(sums)


def _cell(text: str | None) -> str:
    if text is None:
        return ""
    return f"'{text}" if text.startswith(FORMULA) else text


def _add(rows: Rows, query: Query, plan: StoredPlan, key: StoredKey, record: CallerUse) -> None:
    by, days = query.by, query.days
    for day in sorted(record.rows.keys() | record.refused.keys()):
        if not days.first <= day <= days.last:
            continue
        row, refused = record.rows.get(day), record.refused.get(day, RefusedRow())
        sums = Sums(row.requests, row.units, row.over, *refused) if row else Sums(0, 0, 0, *refused)
        if not any(sums):
            continue
        group = Group(
            plan=plan.plan.id if "plan" in by else None,
            customer=(key.key.customer_id or "") if "customer" in by or "key" in by else None,
            key=key.key.id if "key" in by else None,
            key_name=key.key.name if "key" in by else None,
            day=day if "day" in by else None,
        )
        rows[group] = rows[group].plus(sums) if group in rows else sums


# --- the keys of a page -------------------------------------------------------------------------------------------


async def _members(store: Reader, query: Query, limit: int, position: str | None) -> tuple[_Members, str | None]:
    """Some keys with a plan of each, and the position after them."""
    plan: StoredPlan | None = None
    if query.plan_id is not None:
        found = await store.get("usageplan", query.plan_id)
        if not isinstance(found, StoredPlan):
            raise UnknownName("usageplan", query.plan_id)
        plan = found
    if query.key_id is not None:
        return await _members_of_key(store, query, query.key_id, plan), None
    if query.customer_id is not None:
        page = await store.search(by_customer(query.customer_id), limit, position)
        return await _by_plan(store, page.items, plan), page.position
    if plan is not None:
        page = await store.page("apikey", plan_keys(plan.ref), limit, position)
        return [(plan, page.items)], page.position
    return await _members_of_all(store, limit, position)


async def _members_of_key(store: Reader, query: Query, key_id: str, plan: StoredPlan | None) -> _Members:
    """A key that is named with a plan may have left it."""
    key = await store.get("apikey", key_id)
    if not isinstance(key, StoredKey):
        raise UnknownName("apikey", key_id)
    if query.customer_id is not None and key.key.customer_id != query.customer_id:
        return []
    return [(plan, [key])] if plan else await _by_plan(store, [key], None)


async def _members_of_all(store: Reader, limit: int, position: str | None) -> tuple[_Members, str | None]:
    """Walk through the plans; a position is that before a plan, a dot, and that among its keys."""
    at, inner = _parts(position)
    members: _Members = []
    for _ in range(MAX_PLANS):
        plans = await store.page("usageplan", "usageplan", 1, at)
        for plan in plans.items:
            page = await store.page("apikey", plan_keys(plan.ref), limit, inner)
            members.append((plan, page.items))
            limit -= len(page.items)
            if page.position is not None:
                return members, f"{at or ''}.{page.position}"
        if plans.position is None:
            return members, None
        at, inner = plans.position, None
        if limit <= 0:
            break
    return members, f"{at}."


def _parts(position: str | None) -> tuple[str | None, str | None]:
    if position is None:
        return None, None
    at, dot, inner = position.partition(".")
    if not dot:
        raise InvalidPosition("Invalid position parameter")
    return at or None, inner or None


async def _by_plan(store: Reader, keys: Sequence[StoredKey], plan: StoredPlan | None) -> _Members:
    """The keys under each of their plans, or under one plan only."""
    if plan:
        return [(plan, [key for key in keys if plan.ref in key.plans])]
    refs = dict.fromkeys(ref for key in keys for ref in key.plans)
    found = await store.many("usageplan", list(dict.fromkeys(map(plan_id_of, refs))))
    plans = {each.ref: each for each in found if isinstance(each, StoredPlan)}
    return [(plans[ref], [key for key in keys if ref in key.plans]) for ref in refs if ref in plans]

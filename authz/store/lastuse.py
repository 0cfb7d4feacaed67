"""When keys were last used: their days by ledger and history, and a walk over unused keys."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from authz.aws.patch import Document
from authz.aws.plans import plan_ids
from authz.aws.usage import iso_day
from authz.core.stored import StoredKey
from authz.store.ports import Name, Page, Reader, Usage

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key, and the last day (since 1970, UTC) on which a call with it was counted; None if no such day is kept."""

    key: StoredKey
    last_day: int | None


async def last_use(usage: Usage, keys: Sequence[StoredKey]) -> tuple[int, list[KeyUse]]:
    """Return today, and the use of the keys in all of their plans.

    A key with a ledger that can't be read is left out: it may be in use.
    """
    callers = [(plan, stored.key.id) for stored in keys for plan in dict.fromkeys(plan_ids(stored))]
    today, days = await usage.last_days(callers)
    found = []
    for stored in keys:
        mine = [(plan, stored.key.id) for plan in plan_ids(stored)]
        if all(caller in days for caller in mine):
            last = max((day for caller in mine if (day := days[caller]) is not None), default=None)
            found.append(KeyUse(stored, last))
    return today, found


async def unused_keys(
    store: Reader, usage: Usage, days: int, limit: int, position: str | None = None, undated: Container[Name] = ()
) -> Page[Any]:
    """Look at `limit` keys, and return a KeyUse of each that is at least `days` days old and unused for as long.

    The keys in `undated` are a file's: they are as old as any.
    """
    page = await store.page("apikey", "apikey", limit, position)
    keys = [replace(key, created_date=0) if ("apikey", key.key.id) in undated else key for key in page.items]
    today, found = await last_use(usage, keys)
    # A key is unused since its last use or, if that is later, since its creation.
    since = ((use, max(use.key.created_date // DAY_SECONDS, use.last_day or 0)) for use in found)
    return Page([use for use, day in since if day <= today - days], page.position)


def document_of(use: KeyUse) -> Document:
    """Return an unused key as the API and the command line show it."""
    key = use.key.key
    document: Document = {
        "id": key.id,
        "name": key.name or None,
        "customerId": key.customer_id,
        "enabled": key.enabled,
        "createdDate": use.key.created_date or None,
        "lastUsedDate": last_used_date(use),
    }
    return {name: value for name, value in document.items() if value is not None}


def last_used_date(use: KeyUse) -> str | None:
    return None if use.last_day is None else iso_day(use.last_day)

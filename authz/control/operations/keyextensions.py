"""What keys have beside AWS's members: the addresses that may use them, a billing day, and their last use."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from authz.aws.errors import bad_request
from authz.aws.extensions import idle_billing_day
from authz.aws.patch import Document
from authz.aws.plans import live_plans, plan_ids
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import page_answer, stored_key
from authz.core.resources import BillingDay, Resource
from authz.core.rules import sources_problems
from authz.core.stored import StoredKey, good_until
from authz.store.lastuse import document_of, last_use, last_used_date, unused_keys
from authz.store.ports import Draft

DIGITS: Final = 10


class KeyExtension(Resource, frozen=True):
    """The body of `PUT /apikeys/{id}/extension`, which replaces the whole: a member that is absent is removed.

    `last_used_date` and `previous_expires_at` may be given and are ignored, so that a document can be written back.
    """

    allowed_sources: tuple[str, ...] | None = None
    billing_day: BillingDay | None = None
    last_used_date: str | None = None
    previous_expires_at: int | None = None  # Unix seconds, while the value before the last rotation is valid


async def get_extension(call: Call) -> Answer:
    stored = await stored_key(call.context.store, call.params["api_Key"])
    _, uses = await last_use(call.context.usage, [stored])
    if not uses:
        call.warn("the usage of the key in Redis can't be read, so lastUsedDate is left out")
    last = last_used_date(uses[0]) if uses else None
    return Answer(body=_document(stored, call.context.now()) | ({} if last is None else {"lastUsedDate": last}))


async def put_extension(call: Call) -> Answer:
    changed = await _extend(call, call.read_strictly(KeyExtension))
    return Answer(body=_document(changed, call.context.now()))


async def delete_extension(call: Call) -> Answer:
    await _extend(call, KeyExtension())
    return Answer(202)


async def _extend(call: Call, given: KeyExtension) -> StoredKey:
    for place, rule in sources_problems(given.allowed_sources):
        raise bad_request(f"Invalid $.allowedSources{place}: {rule}")

    async def change(edit: Draft) -> StoredKey:
        stored = await stored_key(edit, call.params["api_Key"])
        key = replace(stored.key, allowed_sources=given.allowed_sources, billing_day=given.billing_day)
        changed = replace(stored, key=key)
        if changed != stored:
            changed = changed.updated(call.context.now())
        edit.put(changed)
        plans = live_plans(stored, await edit.many("usageplan", plan_ids(stored)))
        for text in idle_billing_day(key, (plan.plan for plan in plans)):
            call.warn(text)
        return changed

    return await call.write(change)


def _document(stored: StoredKey, now: int) -> Document:
    shown = KeyExtension(
        stored.key.allowed_sources,
        stored.key.billing_day,
        previous_expires_at=good_until(stored.previous_expires_at, now),
    )
    document: Document = msgspec.to_builtins(shown)
    return document


async def end_previous_value(call: Call) -> Answer:
    """End the value before the last rotation now. A key without one stays as it is."""

    async def change(edit: Draft) -> None:
        stored = await stored_key(edit, call.params["api_Key"])
        if stored.previous_index is not None:
            stored = replace(stored, previous_index=None, previous_sealed=None, previous_expires_at=None)
            stored = stored.updated(call.context.now())
        edit.put(stored)

    await call.write(change)
    return Answer(202)


async def get_unused_keys(call: Call) -> Answer:
    """Answer with the keys of a page that were not used for `days` days. A page may be empty and not the last."""
    most, text = call.context.usage.kept_days, call.one("days") or ""
    days = int(text) if text.isascii() and text.isdigit() and len(text) < DIGITS else 0
    if not 1 <= days <= most:
        raise bad_request(f"Invalid days: expected a number from 1 to {most}, the days for which usage is kept")
    context = call.context
    page = await unused_keys(context.store, context.usage, days, *call.paging(), undated=context.fixed())
    return page_answer(page, document_of)


_PATH: Final = "/apikeys/{api_Key}/extension"
_PREVIOUS: Final = "/apikeys/{api_Key}/previous-value"

OPERATIONS: Final = (
    Operation("GetApiKeyExtension", "GET", _PATH, get_extension, writes=False),
    Operation("PutApiKeyExtension", "PUT", _PATH, put_extension, writes=True),
    Operation("DeleteApiKeyExtension", "DELETE", _PATH, delete_extension, writes=True),
    Operation("EndPreviousApiKeyValue", "DELETE", _PREVIOUS, end_previous_value, writes=True),
    Operation("GetUnusedKeys", "GET", "/usage/unused-keys", get_unused_keys, writes=False),
)

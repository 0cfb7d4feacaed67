"""What keys have beside AWS's members: the addresses that may use them, and a billing day."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from authz.aws.errors import bad_request
from authz.aws.patch import Document
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import stored_key
from authz.core.resources import BillingDay, Resource
from authz.core.rules import sources_problems
from authz.core.stored import StoredKey
from authz.store.ports import Draft


class KeyExtension(Resource, frozen=True):
    """The body of `PUT /apikeys/{id}/extension`, which replaces the whole: a member that is absent is removed."""

    allowed_sources: tuple[str, ...] | None = None
    billing_day: BillingDay | None = None


async def get_extension(call: Call) -> Answer:
    return Answer(body=_document(await stored_key(call.context.store, call.params["api_Key"])))


async def put_extension(call: Call) -> Answer:
    return Answer(body=_document(await _extend(call, call.read_strictly(KeyExtension))))


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
            changed = replace(changed, last_updated_date=max(call.context.now(), stored.created_date))
        edit.put(changed)
        return changed

    return await call.write(change)


def _document(stored: StoredKey) -> Document:
    document: Document = msgspec.to_builtins(KeyExtension(stored.key.allowed_sources, stored.key.billing_day))
    return document


_PATH: Final = "/apikeys/{api_Key}/extension"

OPERATIONS: Final = (
    Operation("GetApiKeyExtension", "GET", _PATH, get_extension, writes=False),
    Operation("PutApiKeyExtension", "PUT", _PATH, put_extension, writes=True),
    Operation("DeleteApiKeyExtension", "DELETE", _PATH, delete_extension, writes=True),
)

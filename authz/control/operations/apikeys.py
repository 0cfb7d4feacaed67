"""API keys: create, read, update, delete, and import from a file of comma-separated values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from authz.aws import patch
from authz.aws.errors import ApiError, bad_request, conflict
from authz.aws.keyfile import KeyRow, Warnings, skipped
from authz.aws.keyfile import rows as key_rows
from authz.aws.patch import Document, PatchBody
from authz.aws.plans import KEY_TABLE, checked_key, checked_value, join, key_document, live_plans, no_key, plan_ids
from authz.background import in_background
from authz.config.documents import text_of
from authz.control.call import Answer, Call, Operation
from authz.control.operations.ids import unused_id
from authz.control.operations.restapis import invalid_value, listed
from authz.core.keyform import KeyForm
from authz.core.problem import shortened
from authz.core.resources import ApiKey, digest
from authz.core.stored import StoredKey, StoredPlan, by_customer, by_name
from authz.store.ports import Draft, ItemSource
from authz.store.sealing import SealError

if TYPE_CHECKING:
    from authz.store.ports import Page

KEY_ID_LENGTH: Final = 10
ROWS_A_WRITE: Final = 500  # of an import: a write is one script, and Redis serves no other command while it runs


class StageKey(Struct, frozen=True, rename="camel"):
    """A stage of a key, from the time before usage plans: stored, and without effect."""

    rest_api_id: str = ""
    stage_name: str = ""


class CreateApiKey(Struct, frozen=True, rename="camel"):
    """The body of CreateApiKey."""

    name: str | None = None
    description: str | None = None
    enabled: bool = False
    generate_distinct_id: bool = False
    value: str | None = None
    stage_keys: tuple[StageKey, ...] = ()
    customer_id: str | None = None
    tags: dict[str, str] = {}
    expires_at: str | None = None


async def stored_key(source: ItemSource, key_id: str) -> StoredKey:
    """Return a key from a store or an edit. Raises ApiError."""
    found = await source.get("apikey", key_id)
    if not isinstance(found, StoredKey):
        raise no_key()
    return found


def key_value(call: Call, stored: StoredKey) -> str | None:
    """Return the clear value of a key; None if it is not stored or the caller may not see it."""
    if stored.sealed is None or not call.context.sealer.can_seal or call.principal.read_only:
        return None
    try:
        return call.context.sealer.open(stored.sealed, stored.key.id)
    except SealError:  # sealed under a sealing key that is no longer configured
        return None


def shown(call: Call, stored: StoredKey, *, value: bool) -> Document:
    """Return a key as a list shows it, with its clear value if `value` is true and the value is known."""
    clear = key_value(call, stored) if value else None
    return key_document(stored) | ({} if clear is None else {"value": clear})


def page_answer(page: Page[Any], show: Callable[[Any], Document]) -> Answer:
    """Answer with a page of the store as AWS prints it; the last page has no position."""
    return listed(map(show, page.items), page.position)


async def create_api_key(call: Call) -> Answer:
    body = call.read(CreateApiKey)
    value = call.context.key_value(body.value)
    document = {
        "name": body.name,
        "description": body.description,
        "enabled": body.enabled,
        "customerId": body.customer_id,
        "expiresAt": body.expires_at,
    }
    stages = tuple(f"{stage.rest_api_id}/{stage.stage_name}" for stage in body.stage_keys)

    async def create(edit: Draft) -> StoredKey:
        key_id = await unused_id(edit, "apikey", KEY_ID_LENGTH)
        made = new_key(call, document, key_id, value, tags=body.tags)
        made = msgspec.structs.replace(made, stage_keys=stages)
        edit.put(made, taken=conflict("API Key already exists"))
        return made

    made = await call.write(create)
    tags = {"tags": made.key.tags} if made.key.tags else {}
    return Answer(201, key_document(made) | {"value": value} | tags)


def new_key(call: Call, document: Document, key_id: str, value: str, tags: Mapping[str, str]) -> StoredKey:
    """Make a key from its checked document and value. Raises ApiError."""
    sealer, now = call.context.sealer, call.context.now()
    return StoredKey(
        key=checked_key(document, ApiKey(key_id, tags=dict(tags))),
        index=sealer.index(digest(value)),
        created_date=now,
        last_updated_date=now,
        sealed=sealer.seal(value, key_id) if sealer.can_seal else None,
    )


async def get_api_key(call: Call) -> Answer:
    stored = await stored_key(call.context.store, call.params["api_Key"])
    return Answer(body=shown(call, stored, value=call.flag("includeValue")) | {"tags": stored.key.tags})


async def get_api_keys(call: Call) -> Answer:
    values = call.flag("includeValues")
    return page_answer(await keys_page(call), lambda stored: shown(call, stored, value=values))


async def keys_page(call: Call) -> Page[StoredKey]:
    """Return a page of keys: of a customer, with a name that begins so, or all. With both filters it may be shorter."""
    store, paging = call.context.store, call.paging()
    name, customer = call.one("name"), call.one("customerId")
    if customer is not None:
        page = await store.search(by_customer(customer), *paging)
        page.items[:] = [item for item in page.items if item.key.name.startswith(name or "")]
        return page
    if name is not None:
        return await store.search(by_name(name), *paging)
    return await store.page("apikey", "apikey", *paging)


async def update_api_key(call: Call) -> Answer:
    operations = call.read(PatchBody).patch_operations

    async def change(edit: Draft) -> StoredKey:
        stored = await stored_key(edit, call.params["api_Key"])
        if not operations:
            return stored
        document = patch.apply(KEY_TABLE, key_document(stored), operations)
        key = checked_key(document, stored.key)
        changed = msgspec.structs.replace(stored, key=key, stage_keys=tuple(document["stageKeys"]))
        changed = changed.updated(call.context.now())
        edit.put(changed)
        return changed

    changed = await call.write(change)
    return Answer(body=key_document(changed) | {"tags": changed.key.tags})


async def delete_api_key(call: Call) -> Answer:
    async def delete(edit: Draft) -> None:
        stored = await stored_key(edit, call.params["api_Key"])
        edit.delete("apikey", stored.key.id)

    await call.write(delete)
    return Answer(202)


# Import


async def import_api_keys(call: Call) -> Answer:
    """Import a file of keys. With `failonwarnings`, a warning that is known beforehand stops the whole import."""
    given = call.one("format")
    if given is None:
        null = "Value null at 'format' failed to satisfy constraint: Member must not be null"
        raise ApiError("ValidationException", f"1 validation error detected: {null}")
    if given != "csv":
        raise invalid_value(given, "format", "enum value set: [csv]")
    warnings = Warnings()
    rows = await in_background(_rows, call.body, call.context.form, warnings)
    if call.flag("failonwarnings"):
        _fail_on(warnings)
        for chunk in _chunks(rows):
            _, refused = await _importing(call, chunk)(call.context.store.draft())  # writes nothing
            warnings.add_all(refused)
        _fail_on(warnings)
    ids: list[str] = []
    for chunk in _chunks(rows):
        made, refused = await call.write(_importing(call, chunk))
        ids += made
        warnings.add_all(refused)
    if call.flag("failonwarnings"):
        _fail_on(warnings)
    return Answer(201, {"ids": ids, "warnings": warnings.texts()})


def _fail_on(warnings: Warnings) -> None:
    if texts := warnings.texts():
        raise bad_request("Warnings found during import:" + "".join(f"\n\t{text}" for text in texts))


def _chunks(rows: Sequence[KeyRow]) -> Iterator[Sequence[KeyRow]]:
    return (rows[start : start + ROWS_A_WRITE] for start in range(0, len(rows), ROWS_A_WRITE))


def _rows(body: bytes, form: KeyForm | None, warnings: Warnings) -> list[KeyRow]:
    try:
        text = text_of(body)
    except UnicodeError:
        raise bad_request("The file cannot be read: expected UTF-8 or UTF-16 text. Nothing was imported") from None

    def check(value: str, document: Mapping[str, Any]) -> None:
        checked_value(value, form)
        checked_key(dict(document), ApiKey(""))

    return key_rows(text, warnings, check)


Refused = list[tuple[int, str]]  # warnings, each with its record's number


def _importing(call: Call, rows: Sequence[KeyRow]) -> Callable[[Draft], Awaitable[tuple[list[str], Refused]]]:
    """Make an edit that imports rows. It returns the ids of the keys and the warnings."""

    async def edit_all(edit: Draft) -> tuple[list[str], Refused]:
        made: dict[str, StoredKey] = {}  # by index: a later record with the same value overwrites an earlier one
        refused: Refused = []
        ids: list[str] = []
        for row in rows:
            try:
                key, unknown = await _imported(call, edit, row, made)
            except ApiError as error:
                refused.append(skipped(row.number, error.message))
                continue
            made[key.index] = key
            ids.append(key.key.id)
            refused += [(row.number, f"Record {row.number}: There is no usage plan '{plan}'") for plan in unknown]
        for key in made.values():
            edit.put(key, taken=conflict("API Key already exists"))
        return ids, refused

    return edit_all


async def _imported(
    call: Call, edit: Draft, row: KeyRow, made: Mapping[str, StoredKey]
) -> tuple[StoredKey, Sequence[str]]:
    """Return the key that a record describes, new or overwritten, and its unknown plans. Raises ApiError."""
    index = call.context.sealer.index(digest(row.value))
    old = made.get(index) or await _owner(call, edit, index)
    if old is None:
        key_id = await unused_id(edit, "apikey", KEY_ID_LENGTH)
        key = new_key(call, dict(row.document), key_id, row.value, tags={})
    else:
        document = {**key_document(old), **row.document}
        changed = checked_key(document, old.key)
        key = msgspec.structs.replace(old, key=changed, last_updated_date=call.context.now())
    unknown = []
    for plan_id in row.plans:
        plan = await edit.get("usageplan", plan_id)
        if not isinstance(plan, StoredPlan):
            unknown.append(shortened(plan_id))
            continue
        others = live_plans(key, await edit.many("usageplan", plan_ids(key)))
        if plan.ref not in (other.ref for other in others):
            refuse_fixed_plan(call, plan.plan.id)
            key = key.in_plans(join(key, plan, others))
    return key, unknown


async def _owner(call: Call, edit: Draft, index: str) -> StoredKey | None:
    """Return the key that has this value's index; None if there is none. Raises ApiError for one of the file's keys."""
    owner = await call.context.store.owner(f"key/{index}")
    if owner is None:
        return None
    key_id = owner.rpartition("/")[2]
    if ("apikey", key_id) in call.context.fixed():
        raise conflict(f"API Key {key_id} is the configuration file's, which is read-only here")
    found = await edit.get("apikey", key_id)
    return found if isinstance(found, StoredKey) and found.index == index else None


def refuse_fixed_plan(call: Call, plan_id: str) -> None:
    """Raise ApiError for a plan of the configuration file, whose keys only the file can change."""
    if ("usageplan", plan_id) in call.context.fixed():
        raise conflict(f"Usage Plan {plan_id} is the configuration file's, which is read-only here")


OPERATIONS: Final = (
    Operation("CreateApiKey", "POST", "/apikeys", create_api_key, writes=True),
    Operation("ImportApiKeys", "POST", "/apikeys", import_api_keys, writes=True, mode="import"),
    Operation("GetApiKeys", "GET", "/apikeys", get_api_keys, writes=False),
    Operation("GetApiKey", "GET", "/apikeys/{api_Key}", get_api_key, writes=False),
    Operation("UpdateApiKey", "PATCH", "/apikeys/{api_Key}", update_api_key, writes=True),
    Operation("DeleteApiKey", "DELETE", "/apikeys/{api_Key}", delete_api_key, writes=True),
)

"""API keys: create, read, update, delete, and import from a file of comma-separated values."""

from __future__ import annotations

import csv
import re
import secrets
import string
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from authz.control.call import Answer, Call, Operation
from authz.core import patch
from authz.core.errors import ApiError, bad_request, conflict
from authz.core.patch import Document, Patch
from authz.core.plans import KEY_TABLE, checked_key, checked_value, join, key_document, live_plans, no_key, plan_ids
from authz.core.resources import digest
from authz.core.stored import StoredKey, StoredPlan, by_customer, by_name
from authz.sealing import SealError

if TYPE_CHECKING:
    from authz.store import Edit, Page

ID_LETTERS: Final = string.ascii_lowercase + string.digits
VALUE_LETTERS: Final = string.ascii_letters + string.digits
KEY_ID_LENGTH: Final = 10
VALUE_LENGTH: Final = 40
QUOTED: Final = re.compile("'.*'", re.DOTALL)
ROWS_A_WRITE: Final = 500  # of an import: one write is one script, during which Redis does nothing else


class StageKey(Struct, frozen=True, rename="camel"):
    """A stage of the time before usage plans; kept, without effect."""

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


def random_word(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))


async def unused_id(edit: Edit, kind: str, length: int) -> str:
    """An id that no item of the kind has."""
    while await edit.get(kind, drawn := random_word(ID_LETTERS, length)):
        pass
    return drawn


async def stored_key(source: Edit | Any, key_id: str) -> StoredKey:
    """The key from a store or an edit."""
    found = await source.get("apikey", key_id)
    if not isinstance(found, StoredKey):
        raise no_key()
    return found


def key_value(call: Call, stored: StoredKey) -> str | None:
    """The value in clear, where it is kept and the caller may see it."""
    if stored.sealed is None or not call.context.sealer.can_seal or call.principal.read_only:
        return None
    try:
        return call.context.sealer.open(stored.sealed, stored.key.id)
    except SealError:  # the sealing key of its time is not given any more
        return None


def shown(call: Call, stored: StoredKey, *, value: bool) -> Document:
    """A key as a list shows it, with its value if that is asked for and known."""
    found = key_value(call, stored) if value else None
    return key_document(stored) | ({} if found is None else {"value": found})


def page_of(page: Page[Any], show: Callable[[Any], Document]) -> Answer:
    """A page as AWS prints it; the last one has no position."""
    body: Document = {"item": [show(item) for item in page.items]}
    return Answer(body=body if page.position is None else body | {"position": page.position})


async def create_api_key(call: Call) -> Answer:
    body = call.read(CreateApiKey)
    value = checked_value(body.value) if body.value else random_word(VALUE_LETTERS, VALUE_LENGTH)
    document = {
        "name": body.name,
        "description": body.description,
        "enabled": body.enabled,
        "customerId": body.customer_id,
        "expiresAt": body.expires_at,
    }
    stages = tuple(f"{stage.rest_api_id}/{stage.stage_name}" for stage in body.stage_keys)

    async def create(edit: Edit) -> StoredKey:
        key_id = await unused_id(edit, "apikey", KEY_ID_LENGTH)
        made = new_key(call, document, key_id, value, tags=body.tags)
        made = msgspec.structs.replace(made, stage_keys=stages)
        edit.put(made, taken=conflict("API Key already exists"))
        return made

    made = await call.write(create)
    tags = {"tags": made.key.tags} if made.key.tags else {}
    return Answer(201, key_document(made) | {"value": value} | tags)


def new_key(call: Call, document: Document, key_id: str, value: str, tags: Mapping[str, str]) -> StoredKey:
    sealer, now = call.context.sealer, call.context.now()
    return StoredKey(
        key=checked_key(document, key_id, tags),
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
    page = await _found(call, call.one("name"), call.one("customerId"))
    return page_of(page, lambda stored: shown(call, stored, value=values))


async def _found(call: Call, name: str | None, customer: str | None) -> Page[Any]:
    """The page that the filters leave; with both, a page may be shorter than it was asked for."""
    store, (limit, position) = call.context.store, call.paging()
    if customer is None:
        word = None if name is None else by_name(name)
        found = store.page("apikey", "apikey", limit, position) if word is None else store.search(word, limit, position)
        return await found
    page = await store.search(by_customer(customer), limit, position)
    page.items[:] = [item for item in page.items if item.key.name.startswith(name or "")]
    return page


async def update_api_key(call: Call) -> Answer:
    operations = call.read(Patch).patch_operations

    async def change(edit: Edit) -> StoredKey:
        stored = await stored_key(edit, call.params["api_Key"])
        if not operations:
            return stored
        document = patch.apply(KEY_TABLE, key_document(stored), operations)
        changed = msgspec.structs.replace(
            stored,
            key=checked_key(document, stored.key.id, stored.key.tags),
            last_updated_date=max(call.context.now(), stored.created_date),
            stage_keys=tuple(document["stageKeys"]),
        )
        edit.put(changed)
        return changed

    changed = await call.write(change)
    return Answer(body=key_document(changed) | {"tags": changed.key.tags})


async def delete_api_key(call: Call) -> Answer:
    async def delete(edit: Edit) -> None:
        stored = await stored_key(edit, call.params["api_Key"])
        edit.delete("apikey", stored.key.id)

    await call.write(delete)
    return Answer(202)


# Import


@dataclass(frozen=True, slots=True)
class Row:
    """A record of the file. `number` counts records from 1."""

    number: int
    value: str
    document: Document
    plans: tuple[str, ...]


async def import_api_keys(call: Call) -> Answer:
    _check_format(call.one("format"))
    rows, warnings = _rows(call.body)
    ids: list[str] = []
    for start in range(0, len(rows), ROWS_A_WRITE):
        made, refused = await call.write(_importing(call, rows[start : start + ROWS_A_WRITE]))
        ids += made
        warnings += refused
    texts = [text for _, text in sorted(warnings)]
    if texts and call.flag("failonwarnings"):
        raise bad_request("Warnings found during import:" + "".join(f"\n\t{text}" for text in texts))
    return Answer(201, {"ids": ids, "warnings": texts})


Warnings = list[tuple[int, str]]  # by the record's number


def _check_format(given: str | None) -> None:
    if given != "csv":
        value = "null" if given is None else f"'{given[:100]}'"
        rule = "Member must not be null" if given is None else "Member must satisfy enum value set: [csv]"
        text = f"1 validation error detected: Value {value} at 'format' failed to satisfy constraint: {rule}"
        raise ApiError("ValidationException", text)


def _rows(body: bytes) -> tuple[list[Row], Warnings]:
    """The records of the file, and a warning for each that is not one."""
    records = _records(body)
    names = [name.lower() for name in next(records, ())]
    for required in ("name", "key"):
        if required not in names:
            raise bad_request(f"Missing required column '{required}'")
    rows: list[Row] = []
    warnings: Warnings = []
    for number, record in enumerate(records, 1):
        try:
            rows.append(_row(number, dict(zip(names, record, strict=False))))
        except ApiError as error:
            warnings.append(_skipped(number, error))
    return rows, warnings


def _skipped(number: int, error: ApiError) -> tuple[int, str]:
    return number, f"Skipped invalid record: {number}. {error.message}"


def _records(body: bytes) -> Iterator[list[str]]:
    """The lines that are not blank, each as its fields without the blanks around them."""
    try:
        lines = body.decode("utf-8-sig").splitlines(keepends=True)
        for fields in csv.reader(lines, skipinitialspace=True):
            if any(field.strip() for field in fields):
                yield _rejoined([field.strip() for field in fields])
    except (UnicodeDecodeError, csv.Error) as error:
        raise bad_request(f"The file cannot be read: {error}") from None


def _rejoined(fields: Sequence[str]) -> list[str]:
    """The fields, with those made one again that stood in single quotes: `'p1`, `p2'` is `p1,p2`."""
    joined: list[str] = []
    rest = iter(fields)
    for first in rest:
        field = first
        while field.startswith("'") and not QUOTED.fullmatch(field) and (more := next(rest, None)) is not None:
            field += f",{more}"
        joined.append(field[1:-1] if QUOTED.fullmatch(field) else field)
    return joined


def _row(number: int, record: Mapping[str, str]) -> Row:
    value = checked_value(record.get("key", ""))
    document = {
        "name": record.get("name"),
        "description": record.get("description"),
        "enabled": (record.get("enabled") or "true").lower() == "true",
    }
    if any("\0" in text for text in record.values()):
        raise bad_request("A record cannot contain NUL")
    checked_key(document, "", {})
    plans = (plan.strip() for plan in record.get("usageplanids", "").split(","))
    return Row(number, value, document, tuple(dict.fromkeys(plan for plan in plans if plan)))


def _importing(call: Call, rows: Sequence[Row]) -> Callable[[Edit], Awaitable[tuple[list[str], Warnings]]]:
    async def edit_all(edit: Edit) -> tuple[list[str], Warnings]:
        made: dict[str, StoredKey] = {}  # by index: a later record of the same value overwrites an earlier one
        warnings: Warnings = []
        ids: list[str] = []
        for row in rows:
            try:
                key = await _imported(call, edit, row, made)
            except ApiError as error:
                warnings.append(_skipped(row.number, error))
                continue
            made[key.index] = key
            ids.append(key.key.id)
        for key in made.values():
            edit.put(key, taken=conflict("API Key already exists"))
        return ids, warnings

    return edit_all


async def _imported(call: Call, edit: Edit, row: Row, made: Mapping[str, StoredKey]) -> StoredKey:
    """The key that a record describes: a new one, or the one that has its value already, overwritten."""
    index = call.context.sealer.index(digest(row.value))
    old = made.get(index) or await _owner(call, edit, index)
    if old is None:
        key_id = await unused_id(edit, "apikey", KEY_ID_LENGTH)
        key = new_key(call, row.document, key_id, row.value, tags={})
    else:
        document = key_document(old) | row.document
        changed = checked_key(document, old.key.id, old.key.tags)
        key = msgspec.structs.replace(old, key=changed, last_updated_date=call.context.now())
    for plan_id in row.plans:
        key = await _joined(edit, key, plan_id, call)
    return key


async def _owner(call: Call, edit: Edit, index: str) -> StoredKey | None:
    owner = await call.context.store.owner(f"key/{index}")
    if owner is None:
        return None
    key_id = owner.rpartition("/")[2]
    if ("apikey", key_id) in call.context.fixed():
        raise conflict(f"API Key {key_id} is the configuration file's, which is read-only here")
    found = await edit.get("apikey", key_id)
    return found if isinstance(found, StoredKey) and found.index == index else None


async def _joined(edit: Edit, key: StoredKey, plan_id: str, call: Call) -> StoredKey:
    """The key, in one plan more; a plan that is not there is passed over, as AWS does."""
    plan = await edit.get("usageplan", plan_id)
    if not isinstance(plan, StoredPlan):
        return key
    others = live_plans(key, await edit.many("usageplan", plan_ids(key)))
    if plan.ref in (other.ref for other in others):
        return key
    refuse_fixed_plan(call, plan_id)
    return msgspec.structs.replace(key, plans=join(key, plan, others))


def refuse_fixed_plan(call: Call, plan_id: str) -> None:
    """A plan of the configuration file has the keys that the file gives it."""
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

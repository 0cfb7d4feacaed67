"""Operations of our own: the version that the sidecars serve, rotation of a key, the busiest keys, explanations."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from authz.aws.errors import bad_request, conflict, not_found
from authz.aws.plans import key_document
from authz.config.faults import ConfigError
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import stored_key
from authz.control.operations.explaining import request_of
from authz.core.address import is_ip
from authz.core.request import Request, joined
from authz.core.resources import digest
from authz.core.stored import StoredKey, StoredPlan, plan_keys
from authz.envoy.accesslog import LogLine, checked
from authz.store.ports import Draft, Presence

POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 5.0
MAX_WAIT_SECONDS: Final = 30.0
MAX_OVERLAP_SECONDS: Final = 366 * 86_400
TOP: Final = 10
MAX_TOP: Final = 500


async def get_catalog_version(call: Call) -> Answer:
    """Answer with the store's version and those that the sidecars serve.

    With `wait`, answer when every live sidecar serves that version; after `timeout` seconds, 409 names the others.
    """
    store = call.context.store
    wait, timeout = _number(call, "wait", 0), min(_number(call, "timeout", WAIT_SECONDS), MAX_WAIT_SECONDS)
    head = await store.head()
    if wait > head.version:
        raise bad_request(f"Invalid wait: the version is {head.version}")
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    while late := [one for one in await store.presences() if wait > 0 and _lags(one, head.epoch, wait)]:
        if clock() >= deadline:
            others = ", ".join(f"{presence.worker} at {presence.version}" for presence in late)
            raise conflict(f"Not every sidecar serves version {wait:.0f}: {others}")
        await asyncio.sleep(POLL_SECONDS)
    presences = await store.presences()
    sidecars = [{"id": one.worker, "epoch": one.epoch, "version": one.version} for one in presences]
    return Answer(body={"version": head.version, "epoch": head.epoch, "sidecars": sidecars})


def _lags(presence: Presence, epoch: str, version: float) -> bool:
    return presence.epoch != epoch or presence.version < version


def _number(call: Call, name: str, default: float) -> float:
    text = call.one(name)
    try:
        number = default if text is None else float(text[:20])
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise bad_request(f"Invalid {name}: expected a number of at least 0")
    return number


class RotateApiKey(Struct, frozen=True, rename="camel"):
    """The body of `POST /apikeys/{id}/rotate`. The old value stays valid beside the new one for `overlap_seconds`."""

    value: str | None = None
    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_SECONDS)] = 0


async def rotate_api_key(call: Call) -> Answer:
    body = call.read(RotateApiKey)
    value = call.context.key_value(body.value)

    async def rotate(edit: Draft) -> StoredKey:
        stored = await stored_key(edit, call.params["api_Key"])
        sealer, now, overlap = call.context.sealer, call.context.now(), body.overlap_seconds
        index = sealer.index(digest(value))
        if index in (stored.index, stored.previous_index):
            raise conflict("API Key already exists")
        rotated = replace(  # the value before the old one ends at once
            stored,
            index=index,
            sealed=sealer.seal(value, stored.key.id) if sealer.can_seal else None,
            previous_index=stored.index if overlap else None,
            previous_sealed=stored.sealed if overlap else None,
            previous_expires_at=now + overlap if overlap else None,
        ).updated(now)
        edit.put(rotated, taken=conflict("API Key already exists"))
        return rotated

    rotated = await call.write(rotate)
    until = {} if rotated.previous_expires_at is None else {"previousExpiresAt": rotated.previous_expires_at}
    return Answer(body=key_document(rotated) | {"value": value} | until)


async def get_top_usage(call: Call) -> Answer:
    """Answer with the keys of a plan that have the most calls today."""
    plan_id = call.one("usagePlanId")
    if plan_id is None:
        raise bad_request("Missing query parameter usagePlanId")
    plan = await call.context.store.get("usageplan", plan_id)
    if not isinstance(plan, StoredPlan):
        raise not_found("Invalid Usage Plan ID specified")
    limit = int(min(max(_number(call, "limit", TOP), 1), MAX_TOP))
    keys = await call.context.store.members(plan_keys(plan.ref))
    top = await call.context.usage.top(plan_id, keys, limit)
    items: list[dict[str, Any]] = [{"keyId": key, "used": used} for key, used in top]
    return Answer(body={"usagePlanId": plan_id, "item": items})


class Explain(Struct, frozen=True, rename="camel"):
    """The body of `POST /explain`: a request as Envoy would send it, or a line of Envoy's access log.

    `key_id` is a key's; a request without a key is explained as if it had that key's value.
    """

    url: str | None = None
    method: str | None = None  # GET, unless set
    log_line: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    extensions: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    source: str | None = None  # the client's IP address
    key_id: str | None = None


async def explain(call: Call) -> Answer:
    body = call.read(Explain)
    request, line = _described_request(body)
    key = None if body.key_id is None else await stored_key(call.context.store, body.key_id)
    return Answer(body={"item": (await call.context.explain(request, line, key)).splitlines()})


def _described_request(body: Explain) -> tuple[Request, LogLine | None]:
    """Return the request that the body describes, and its log line if it has one. Raises BadRequestException."""
    if body.source is not None and not is_ip(body.source):
        raise bad_request("Invalid source: expected an IP address, such as 203.0.113.7")
    if body.log_line is None:
        if body.url is None:
            raise bad_request("Missing url: expected a whole one, or a line of Envoy's access log as logLine")
        method = "GET" if body.method is None else body.method
        return request_of(method, body.url, body.headers, body.extensions, body.metadata, body.source or ""), None
    if body.key_id is not None:
        raise bad_request("Invalid logLine: the key stands in it, as authz.key_id; leave keyId out")
    if body.url is not None or body.method is not None:
        raise bad_request("Invalid logLine: url and method stand in it; give one or the other")
    try:
        line = checked(body.log_line, "logLine")
    except ConfigError as error:
        raise bad_request(f"Invalid {error}") from None
    request = line.request(joined(body.headers.items()), body.extensions, body.metadata)
    return request if body.source is None else replace(request, source=body.source), line


OPERATIONS: Final = (
    Operation("GetCatalogVersion", "GET", "/catalog/version", get_catalog_version, writes=False),
    Operation("RotateApiKey", "POST", "/apikeys/{api_Key}/rotate", rotate_api_key, writes=True),
    Operation("Explain", "POST", "/explain", explain, writes=False),
    Operation("GetTopUsage", "GET", "/usage/top", get_top_usage, writes=False),
)

"""The operations on usage: the calls of a plan's keys on each day, and their remaining quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from authz.aws import patch
from authz.aws.errors import bad_request
from authz.aws.patch import Document, PatchBody, PatchRule, Type
from authz.aws.plans import no_key
from authz.aws.usage import MAX_DAYS, Days, days, first_needed, iso_day, pairs
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import stored_key
from authz.control.operations.usageplans import stored_plan
from authz.core.bounds import MAX_INT
from authz.core.holders import HeldQuota, held_quotas
from authz.core.resources import Counts, QuotaSettings
from authz.core.stored import StoredKey, StoredPlan, plan_keys
from authz.core.zones import DAY_US
from authz.store.ports import ItemSource
from authz.store.quotas import Held, holders, quota_words

USAGE_TABLE: Final = (PatchRule(("replace",), "/remaining", Type.INT),)


async def get_usage(call: Call) -> Answer:
    asked = days(call.one("startDate"), call.one("endDate"), MAX_DAYS)
    store, usage = call.context.store, call.context.usage
    plan = await stored_plan(store, call.params["usageplanId"])
    keys, position = await _keys(call, plan)
    quotas = await _quotas(store, plan, keys)
    first = min((first_needed(_settings(one), asked.first, _billing_day(one)) for one in quotas.values()), default=0)
    reading = await usage.read(plan.plan.id, list(quotas), Days(min(first, asked.first), asked.last))
    # The quotas that keys share with their customer, by their names.
    held = {one.name: one for one in quotas.values() if one and one.place == "shared"}
    states = (await usage.states(list(held.values()))).states if held else []
    shared = {name: state for name, state in zip(held, states, strict=True) if state}
    values = {
        key_id: pairs(
            replace(record, state=shared.get(one.name, record.state)) if one else record,
            _settings(one),
            asked,
            reading.now,
            _billing_day(one),
        )
        for key_id, record in reading.records.items()
        for one in [quotas[key_id]]
    }
    return Answer(body=_document(plan, asked, values) | ({} if position is None else {"position": position}))


async def _keys(call: Call, plan: StoredPlan) -> tuple[list[StoredKey], str | None]:
    """Return a page of the plan's keys and its position, or only the key of `keyId` if it is in the plan."""
    store, key_id = call.context.store, call.one("keyId")
    if key_id is not None:
        key = await stored_key(store, key_id)
        return [key] if plan.ref in key.plans else [], None
    page = await store.page("apikey", plan_keys(plan.ref), *call.paging())
    return page.items, page.position


async def _quotas(source: ItemSource, plan: StoredPlan, keys: Sequence[StoredKey]) -> dict[str, HeldQuota | None]:
    """Return AWS's quota of the plan as each key has it; None without one."""
    if plan.plan.quota is None:
        return {key.key.id: None for key in keys}
    found = await holders(source, plan, keys)
    return {key_id: held_quotas(plan.plan, holder)[0] for key_id, holder in found.items()}


def _settings(quota: HeldQuota | None) -> QuotaSettings | None:
    return quota.settings if quota else None


def _billing_day(quota: HeldQuota | None) -> int | None:
    return quota.billing_day if quota else None


def _document(plan: StoredPlan, asked: Days, values: dict[str, list[tuple[int, int]]]) -> Document:
    return {
        "usagePlanId": plan.plan.id,
        "startDate": iso_day(asked.first),
        "endDate": iso_day(asked.last),
        "values": values,
    }


async def update_usage(call: Call) -> Answer:
    store = call.context.store
    plan = await stored_plan(store, call.params["usageplanId"])
    key = await stored_key(store, call.params["keyId"])
    if plan.ref not in key.plans:
        raise no_key()
    remaining = _wanted(plan, call.read(PatchBody))
    holder = (await holders(store, plan, [key]))[key.key.id]
    held = Held(plan, holder, held_quotas(plan.plan, holder))
    quota = held.quotas[0]
    what = f"{call.operation} {quota_words(held, quota)} remaining={remaining}"
    written = await call.context.usage.set_remaining(
        plan.plan.id, holder, quota, remaining, who=call.principal.name, what=what
    )
    call.wrote(written)
    set_ = written.result
    today = set_.now // DAY_US
    used = (set_.requests, set_.units)
    if quota.place == "shared":  # then the result counts the customer, so read the key's own day
        record = (await call.context.usage.read(plan.plan.id, [key.key.id], Days(today, today))).records.get(key.key.id)
        row = record.rows.get(today) if record else None
        used = (row.requests, row.units) if row else (0, 0)
    number = used[quota.settings.counts is Counts.UNITS]
    return Answer(body=_document(plan, Days(today, today), {key.key.id: [(number, remaining)]}))


def _style(operation: patch.PatchOperation, allowed: Sequence[str]) -> str:
    """Word the refusal of a path by AWS's older text, which this operation still has."""
    choices = f"Must be one of: [{', '.join(allowed)}]"
    return f"Invalid patch path  '{operation.path}' specified for op '{operation.op}'. {choices}"


def _wanted(plan: StoredPlan, body: PatchBody) -> int:
    """Return the wanted remaining number of the plan's quota. Raises BadRequestException."""
    remaining = patch.apply(USAGE_TABLE, {}, body.patch_operations, _style).get("remaining")
    if remaining is None:
        raise bad_request("Invalid request: expected a patch operation that replaces /remaining")
    if not 0 <= remaining <= MAX_INT:
        raise bad_request(f"Invalid remaining quota specified. Must be between 0 and {MAX_INT} inclusive")
    if plan.plan.quota is None:
        raise bad_request(f"Usage Plan {plan.plan.id} does not have a quota")
    return int(remaining)


OPERATIONS: Final = (
    Operation("GetUsage", "GET", "/usageplans/{usageplanId}/usage", get_usage, writes=False),
    Operation("UpdateUsage", "PATCH", "/usageplans/{usageplanId}/keys/{keyId}/usage", update_usage, writes=True),
)

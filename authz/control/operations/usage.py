"""The operations on usage: the calls of a plan's keys on each day, and their remaining quota."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.aws import patch
from authz.aws.errors import bad_request
from authz.aws.patch import Document, PatchBody, PatchRule, Type
from authz.aws.plans import no_key
from authz.aws.usage import Days, days, first_needed, iso_day, pairs
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import stored_key
from authz.control.operations.usageplans import stored_plan
from authz.core.bounds import MAX_INT
from authz.core.periods import DAY_US
from authz.core.resources import QuotaSettings
from authz.core.stored import StoredPlan, plan_keys

LONGEST_RANGE: Final = 400  # days
USAGE_TABLE: Final = (PatchRule(("replace",), "/remaining", Type.INT),)


async def get_usage(call: Call) -> Answer:
    asked = days(call.one("startDate"), call.one("endDate"), LONGEST_RANGE)
    plan = await stored_plan(call.context.store, call.params["usageplanId"])
    key_ids, position = await _key_ids(call, plan)
    quota = plan.plan.quota
    needed = Days(first_needed(quota, asked.first), asked.last)
    reading = await call.context.usage.read(plan.plan.id, key_ids, needed)
    values = {key_id: pairs(record, quota, asked, reading.now) for key_id, record in reading.records.items()}
    return Answer(body=_document(plan, asked, values) | ({} if position is None else {"position": position}))


async def _key_ids(call: Call, plan: StoredPlan) -> tuple[list[str], str | None]:
    """Return a page of the plan's keys and its position, or only the key of `keyId` if it is in the plan."""
    store, key_id = call.context.store, call.one("keyId")
    if key_id is not None:
        key = await stored_key(store, key_id)
        return [key_id] if plan.ref in key.plans else [], None
    page = await store.page("apikey", plan_keys(plan.ref), *call.paging())
    return [stored.key.id for stored in page.items], page.position


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
    quota, remaining = _wanted(plan, call.read(PatchBody))
    ids = (plan.plan.id, key.key.id)
    what = f"{call.operation} {' '.join(ids)} remaining={remaining}"
    written = await call.context.usage.set_remaining(*ids, quota, remaining, who=call.principal.name, what=what)
    call.wrote(written)
    today = written.result.now // DAY_US
    return Answer(body=_document(plan, Days(today, today), {key.key.id: [(written.result.used, remaining)]}))


def _style(operation: patch.PatchOperation, allowed: Sequence[str]) -> str:
    """Word the refusal of a path by AWS's older text, which this operation still has."""
    choices = f"Must be one of: [{', '.join(allowed)}]"
    return f"Invalid patch path  '{operation.path}' specified for op '{operation.op}'. {choices}"


def _wanted(plan: StoredPlan, body: PatchBody) -> tuple[QuotaSettings, int]:
    """Return the plan's quota and the wanted remaining number of requests. Raises BadRequestException."""
    remaining = patch.apply(USAGE_TABLE, {}, body.patch_operations, _style).get("remaining")
    if remaining is None:
        raise bad_request("Invalid request: expected a patch operation that replaces /remaining")
    if not 0 <= remaining <= MAX_INT:
        raise bad_request(f"Invalid remaining quota specified. Must be between 0 and {MAX_INT} inclusive")
    if plan.plan.quota is None:
        raise bad_request(f"Usage Plan {plan.plan.id} does not have a quota")
    return plan.plan.quota, remaining


OPERATIONS: Final = (
    Operation("GetUsage", "GET", "/usageplans/{usageplanId}/usage", get_usage, writes=False),
    Operation("UpdateUsage", "PATCH", "/usageplans/{usageplanId}/keys/{keyId}/usage", update_usage, writes=True),
)

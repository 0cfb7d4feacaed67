"""What plans and the memberships of keys have beside AWS's members: quotas, customers, overrides."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from authz.aws.extensions import PlanExtension, check_override, idle_overrides, plan_extension, with_plan_extension
from authz.aws.patch import Document
from authz.control.call import Answer, Call, Operation
from authz.control.operations.usageplans import key_in_plan, require_room, stored_plan
from authz.core.resources import Override
from authz.core.stored import StoredCustomer, StoredKey, StoredPlan, plan_keys
from authz.store.ports import Draft
from authz.store.served import served_apis

KEYS: Final = 100  # of a plan, whose overrides and whose customers' are compared with it
MAX_WARNINGS: Final = 5

# --- plans --------------------------------------------------------------------------------------------------------


async def get_plan_extension(call: Call) -> Answer:
    stored = await stored_plan(call.context.store, call.params["usageplanId"])
    return Answer(body=plan_extension(stored.plan))


async def put_plan_extension(call: Call) -> Answer:
    return Answer(body=plan_extension((await _extend(call, call.read_strictly(PlanExtension))).plan))


async def delete_plan_extension(call: Call) -> Answer:
    await _extend(call, PlanExtension())
    return Answer(202)


async def _extend(call: Call, given: PlanExtension) -> StoredPlan:
    async def change(edit: Draft) -> StoredPlan:
        stored = await stored_plan(edit, call.params["usageplanId"])
        changed = replace(stored, plan=with_plan_extension(stored.plan, given))
        await require_room(edit, changed.plan, stored.plan)
        edit.put(changed)
        await warn_of_idle(call, changed)
        return changed

    return await call.write(change)


async def warn_of_idle(call: Call, plan: StoredPlan) -> None:
    """Warn of overrides that the plan has made idle, of the first keys of the plan and of their customers."""
    page = await call.context.store.page("apikey", plan_keys(plan.ref), KEYS)
    keys = [key for key in page.items if isinstance(key, StoredKey)]
    names = sorted({key.key.customer_id for key in keys if key.key.customer_id is not None})
    found = await call.context.store.many("customer", names)
    customers = [customer for customer in found if isinstance(customer, StoredCustomer)]
    for text in idle_overrides(plan, keys, customers)[:MAX_WARNINGS]:
        call.warn(text)


# --- memberships --------------------------------------------------------------------------------------------------


async def get_key_extension(call: Call) -> Answer:
    plan, key = await key_in_plan(call.context.store, call)
    return Answer(body=_document(key.overrides.get(plan.ref)))


async def put_key_extension(call: Call) -> Answer:
    override = call.read_strictly(Override)
    await _override(call, override)
    return Answer(body=_document(override))


async def delete_key_extension(call: Call) -> Answer:
    await _override(call, Override())
    return Answer(202)


def _document(override: Override | None) -> Document:
    document: Document = msgspec.to_builtins(override or Override())
    return document


async def _override(call: Call, override: Override) -> None:
    async def change(edit: Draft) -> None:
        plan, key = await key_in_plan(edit, call)
        for text in check_override(plan.plan, await served_apis(edit, plan.plan.api_stages), key.key, override):
            call.warn(text)
        others = {ref: one for ref, one in key.overrides.items() if ref != plan.ref}
        changed = replace(key, overrides=others if override == Override() else {**others, plan.ref: override})
        if changed != key:
            changed = changed.updated(call.context.now())
        edit.put(changed)

    await call.write(change)


_PLAN: Final = "/usageplans/{usageplanId}/extension"
_KEY: Final = "/usageplans/{usageplanId}/keys/{keyId}/extension"

OPERATIONS: Final = (
    Operation("GetUsagePlanExtension", "GET", _PLAN, get_plan_extension, writes=False),
    Operation("PutUsagePlanExtension", "PUT", _PLAN, put_plan_extension, writes=True),
    Operation("DeleteUsagePlanExtension", "DELETE", _PLAN, delete_plan_extension, writes=True),
    Operation("GetUsagePlanKeyExtension", "GET", _KEY, get_key_extension, writes=False),
    Operation("PutUsagePlanKeyExtension", "PUT", _KEY, put_key_extension, writes=True),
    Operation("DeleteUsagePlanKeyExtension", "DELETE", _KEY, delete_key_extension, writes=True),
)

"""Usage plans, and the keys in them."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from authz.aws import patch
from authz.aws.errors import bad_request, not_found
from authz.aws.patch import Document, PatchBody
from authz.aws.plans import (
    PLAN_TABLE,
    Numbers,
    check_costs,
    checked_plan,
    join,
    live_plans,
    no_plan,
    plan_document,
    plan_ids,
    twice,
)
from authz.control.call import Answer, Call, Operation
from authz.control.operations.apikeys import key_value, page_answer, refuse_fixed_plan, stored_key
from authz.control.operations.ids import unused_id
from authz.control.operations.restapis import listed, page_of
from authz.core.methods import method_of, no_method
from authz.core.resources import ApiStage, UsagePlan
from authz.core.rules import is_keyless, missing_method
from authz.core.stored import StoredKey, StoredPlan, by_name, plan_keys, stage_id, stage_plans
from authz.store.served import served_apis, served_by

if TYPE_CHECKING:
    from authz.store.ports import Draft, ItemSource

PLAN_ID_LENGTH: Final = 6
NONCE_BYTES: Final = 8


class StageInput(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A stage of the plan."""

    api_id: str | None = None
    stage: str | None = None
    throttle: dict[str, Numbers] | None = None


class QuotaInput(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A quota; `checked_plan` refuses an incomplete one."""

    limit: int | None = None
    offset: int | None = None
    period: str | None = None


class CreateUsagePlan(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of CreateUsagePlan. The last two members are ours."""

    name: str | None = None
    description: str | None = None
    api_stages: tuple[StageInput, ...] | None = None
    throttle: Numbers | None = None
    quota: QuotaInput | None = None
    tags: dict[str, str] | None = None
    mode: str | None = None
    failure_policy: str | None = None


class CreateUsagePlanKey(Struct, frozen=True, rename="camel"):
    """The body of CreateUsagePlanKey."""

    key_id: str
    key_type: str


async def stored_plan(source: ItemSource, plan_id: str) -> StoredPlan:
    """Return a plan from a store or an edit. Raises ApiError."""
    found = await source.get("usageplan", plan_id)
    if not isinstance(found, StoredPlan):
        raise no_plan()
    return found


async def create_usage_plan(call: Call) -> Answer:
    body = call.read(CreateUsagePlan)
    document: Document = msgspec.to_builtins(body)

    async def create(edit: Draft) -> StoredPlan:
        plan_id = await unused_id(edit, "usageplan", PLAN_ID_LENGTH)
        bare = StoredPlan(UsagePlan(id=plan_id, name="", tags=body.tags or {}), nonce=secrets.token_hex(NONCE_BYTES))
        made = checked_plan(document, bare)
        for stage in made.plan.api_stages:
            await _require_stage(edit, stage)
            await _require_methods(call, edit, stage)
        await require_room(edit, made.plan)
        edit.put(made)
        return made

    made = await call.write(create)
    return Answer(201, plan_document(made) | ({"tags": made.plan.tags} if made.plan.tags else {}))


async def require_room(edit: Draft, plan: UsagePlan, before: UsagePlan | None = None) -> None:
    """Raise ApiError if a method that the plan covers costs more than one of its limits ever admits.

    A plan with the limits and the stages of `before` is not checked: a deployment may have changed the costs since.
    """
    limits = plan.throttle, plan.all_quotas, plan.api_stages
    if before is None or limits != (before.throttle, before.all_quotas, before.api_stages):
        check_costs(plan, await served_apis(edit, plan.api_stages))


async def _require_stage(edit: Draft, stage: ApiStage) -> None:
    if await edit.get("stage", stage_id(stage.api_id, stage.stage)) is None:
        raise not_found(f"API Stage not found: {stage.api_id}:{stage.stage}")


async def _require_methods(call: Call, edit: Draft, stage: ApiStage, known: Collection[str] = ()) -> None:
    """Raise ApiError if the stage lacks a method with a throttle; methods in `known` are not checked.

    Warns of a method that requires no key.
    """
    served = await served_by(edit, stage.api_id, stage.stage)
    for name in stage.throttle if served else ():
        path, verb = method_of(name)
        if name not in known and served and (why := missing_method(served, path, verb)):
            raise not_found(f"{no_method(path, verb)}: {why}")
        if served and is_keyless(served.resources, name):
            call.warn(f"{name} of {stage.api_id}:{stage.stage} requires no API key, so no plan throttles it")


async def get_usage_plan(call: Call) -> Answer:
    stored = await stored_plan(call.context.store, call.params["usageplanId"])
    return Answer(body=plan_document(stored) | {"tags": stored.plan.tags})


async def get_usage_plans(call: Call) -> Answer:
    store, key_id = call.context.store, call.one("keyId")
    if key_id is None:
        return page_answer(await store.page("usageplan", "usageplan", *call.paging()), plan_document)
    key = await store.get("apikey", key_id)
    if not isinstance(key, StoredKey):
        return Answer(body={"item": []})
    plans = live_plans(key, await store.many("usageplan", plan_ids(key)))
    page, position = page_of(plans, lambda plan: plan.plan.id, call)
    return listed(map(plan_document, page), position)


async def update_usage_plan(call: Call) -> Answer:
    operations = call.read(PatchBody).patch_operations

    async def change(edit: Draft) -> StoredPlan:
        stored = await stored_plan(edit, call.params["usageplanId"])
        changed = checked_plan(patch.apply(PLAN_TABLE, plan_document(stored), operations), stored)
        present = {(stage.api_id, stage.stage): stage.throttle for stage in stored.plan.api_stages}
        for stage in changed.plan.api_stages:
            known = present.get((stage.api_id, stage.stage))
            if known is None:
                await cover(edit, changed, stage)
            if stage.throttle != known:
                await _require_methods(call, edit, stage, known or ())
        await require_room(edit, changed.plan, stored.plan)
        if operations:
            edit.put(changed)
        return changed

    changed = await call.write(change)
    return Answer(body=plan_document(changed) | {"tags": changed.plan.tags})


async def cover(edit: Draft, plan: StoredPlan, stage: ApiStage) -> None:
    """Raise ApiError unless the stage exists. Also require, at the commit, that no key is in two plans of the stage."""
    await _require_stage(edit, stage)
    for other_id in await edit.members(stage_plans(stage.api_id, stage.stage)):
        other = await edit.get("usageplan", other_id)
        if isinstance(other, StoredPlan) and other.ref != plan.ref:
            refused = twice(plan.plan.id, (stage.api_id, stage.stage))
            edit.disjoint(plan_keys(plan.ref), plan_keys(other.ref), otherwise=refused)


async def delete_usage_plan(call: Call) -> Answer:
    async def delete(edit: Draft) -> None:
        stored = await stored_plan(edit, call.params["usageplanId"])
        if stored.plan.api_stages:
            first = stored.plan.api_stages[0]
            raise bad_request(
                f"Cannot delete Usage Plan {stored.plan.id} because there are API Stages associated with it, "
                f"including {first.api_id}:{first.stage}"
            )
        edit.delete("usageplan", stored.plan.id)
        edit.drop(plan_keys(stored.ref))

    await call.write(delete)
    return Answer(202)


# Keys of a plan


def _plan_key(call: Call, stored: StoredKey) -> Document:
    members = {"name": stored.key.name or None, "value": key_value(call, stored)}
    return {"id": stored.key.id, "type": "API_KEY"} | {name: text for name, text in members.items() if text is not None}


async def create_usage_plan_key(call: Call) -> Answer:
    body = call.read(CreateUsagePlanKey)
    if body.key_type != "API_KEY":
        raise bad_request("Invalid key type specified. Must be one of [API_KEY]")

    async def add(edit: Draft) -> StoredKey:
        key = await stored_key(edit, body.key_id)
        plan = await stored_plan(edit, call.params["usageplanId"])
        refuse_fixed_plan(call, plan.plan.id)
        if not plan.plan.api_stages:
            call.warn(f"usage plan {plan.plan.id} covers no stage, so the key gets 403 until it does")
        others = live_plans(key, await edit.many("usageplan", plan_ids(key)))
        joined = key.in_plans(join(key, plan, others))
        edit.put(joined)
        return joined

    return Answer(201, _plan_key(call, await call.write(add, body.key_id)))


async def get_usage_plan_key(call: Call) -> Answer:
    _, key = await key_in_plan(call.context.store, call)
    return Answer(body=_plan_key(call, key))


async def key_in_plan(source: ItemSource, call: Call) -> tuple[StoredPlan, StoredKey]:
    """Return the plan and the key that the call's path names. Raises ApiError unless the key is in the plan."""
    plan = await stored_plan(source, call.params["usageplanId"])
    key = await stored_key(source, call.params["keyId"])
    if plan.ref not in key.plans:
        raise not_found("Invalid API Key identifier specified: it is not in this Usage Plan")
    return plan, key


async def get_usage_plan_keys(call: Call) -> Answer:
    store, name, (limit, position) = call.context.store, call.one("name"), call.paging()
    plan = await store.get("usageplan", call.params["usageplanId"])
    if not isinstance(plan, StoredPlan):
        return Answer(body={"item": []})
    keys = plan_keys(plan.ref)
    if name is None:
        page = await store.page("apikey", keys, limit, position)
    else:
        page = await store.search(by_name(name), limit, position, within=keys)
    return page_answer(page, lambda key: _plan_key(call, key))


async def delete_usage_plan_key(call: Call) -> Answer:
    async def remove(edit: Draft) -> None:
        plan, key = await key_in_plan(edit, call)
        edit.put(key.in_plans(tuple(ref for ref in key.plans if ref != plan.ref)))

    await call.write(remove)
    return Answer(202)


_PLANS: Final = "/usageplans"
_PLAN: Final = "/usageplans/{usageplanId}"
_KEYS: Final = "/usageplans/{usageplanId}/keys"
_KEY: Final = "/usageplans/{usageplanId}/keys/{keyId}"

OPERATIONS: Final = (
    Operation("CreateUsagePlan", "POST", _PLANS, create_usage_plan, writes=True),
    Operation("GetUsagePlans", "GET", _PLANS, get_usage_plans, writes=False),
    Operation("GetUsagePlan", "GET", _PLAN, get_usage_plan, writes=False),
    Operation("UpdateUsagePlan", "PATCH", _PLAN, update_usage_plan, writes=True),
    Operation("DeleteUsagePlan", "DELETE", _PLAN, delete_usage_plan, writes=True),
    Operation("CreateUsagePlanKey", "POST", _KEYS, create_usage_plan_key, writes=True),
    Operation("GetUsagePlanKeys", "GET", _KEYS, get_usage_plan_keys, writes=False),
    Operation("GetUsagePlanKey", "GET", _KEY, get_usage_plan_key, writes=False),
    Operation("DeleteUsagePlanKey", "DELETE", _KEY, delete_usage_plan_key, writes=True),
)

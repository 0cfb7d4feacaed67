"""Operations of our own on whole usage plans: one call reads or writes all of a plan."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from authz.aws.errors import bad_request
from authz.aws.wholeplans import WholePlan, whole_plan, with_whole_plan
from authz.control.call import PAGING, Answer, Call, Operation
from authz.control.operations.apikeys import page_answer
from authz.control.operations.ids import unused_id
from authz.control.operations.planextensions import warn_of_idle
from authz.control.operations.restapis import listed, page_of
from authz.control.operations.usageplans import NONCE_BYTES, PLAN_ID_LENGTH, cover, require_room, stored_plan
from authz.core.resources import Api, ApiStage, Stage, UsagePlan
from authz.core.stored import RestApi, StoredPlan, stage_id, stage_plans
from authz.store.ports import Draft, ItemSource
from authz.store.served import served_by


async def create_whole_plan(call: Call) -> Answer:
    given = call.read_strictly(WholePlan)

    async def create(edit: Draft) -> StoredPlan:
        plan_id = await unused_id(edit, "usageplan", PLAN_ID_LENGTH)
        bare = StoredPlan(UsagePlan(id=plan_id, name=given.name), nonce=secrets.token_hex(NONCE_BYTES))
        made = with_whole_plan(bare, given, await _apis(edit, given.api_stages), None)
        await require_room(edit, made.plan)
        edit.put(made)
        return made

    return Answer(201, whole_plan(await call.write(create)))


async def get_whole_plan(call: Call) -> Answer:
    return Answer(body=whole_plan(await stored_plan(call.context.store, call.params["usageplanId"])))


async def get_whole_plans(call: Call) -> Answer:
    """Answer with a page of plans, the newest first; with `apiId` and `stage`, of those that cover the stage."""
    call.refuse_others(*PAGING, "apiId", "stage")
    store, api_id, stage = call.context.store, call.one("apiId"), call.one("stage")
    if api_id is None and stage is None:
        return page_answer(await store.page("usageplan", "usageplan", *call.paging()), whole_plan)
    if api_id is None or stage is None:
        raise bad_request("Invalid query: expected apiId and stage together, or neither")
    found = await store.many("usageplan", await store.members(stage_plans(api_id, stage)))
    plans = [plan for plan in found if isinstance(plan, StoredPlan)]
    page, position = page_of(plans, lambda plan: plan.plan.id, call)
    return listed(map(whole_plan, page), position)


async def put_whole_plan(call: Call) -> Answer:
    given = call.read_strictly(WholePlan)

    async def change(edit: Draft) -> StoredPlan:
        stored = await stored_plan(edit, call.params["usageplanId"])
        changed = with_whole_plan(stored, given, await _apis(edit, given.api_stages), stored.plan)
        present = {(stage.api_id, stage.stage) for stage in stored.plan.api_stages}
        for stage in changed.plan.api_stages:
            if (stage.api_id, stage.stage) not in present:
                await cover(edit, changed, stage)
        await require_room(edit, changed.plan, stored.plan)
        if changed != stored:
            edit.put(changed)
            await warn_of_idle(call, changed)
        return changed

    return Answer(body=whole_plan(await call.write(change)))


async def _apis(source: ItemSource, stages: Iterable[ApiStage]) -> tuple[Api, ...]:
    """The APIs of these stages that exist, each with those of the stages that exist and what they serve."""
    found: dict[str, list[Stage]] = {}
    for covered in stages:
        if await source.get("stage", stage_id(covered.api_id, covered.stage)) is not None:
            served = await served_by(source, covered.api_id, covered.stage)
            found.setdefault(covered.api_id, []).append(Stage(covered.stage, deployment=served))
        elif isinstance(await source.get("restapi", covered.api_id), RestApi):
            found.setdefault(covered.api_id, [])
    return tuple(Api(api_id, stages=tuple(several)) for api_id, several in found.items())


_ALL: Final = "/plans"
_ONE: Final = "/plans/{usageplanId}"

OPERATIONS: Final = (
    Operation("CreateWholePlan", "POST", _ALL, create_whole_plan, writes=True),
    Operation("GetWholePlans", "GET", _ALL, get_whole_plans, writes=False),
    Operation("GetWholePlan", "GET", _ONE, get_whole_plan, writes=False),
    Operation("PutWholePlan", "PUT", _ONE, put_whole_plan, writes=True),
)

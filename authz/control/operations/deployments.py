"""The operations on deployments, which are immutable snapshots of an API."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from authz.aws import restapis as rules
from authz.aws.errors import ApiError, bad_request, not_found
from authz.aws.patch import PatchRule, invalid_path
from authz.control.call import Answer, Call, Operation
from authz.control.operations.ids import new_id
from authz.control.operations.restapis import api_of, given, listed, operations_of, patched, require_room_for
from authz.control.operations.stages import Canary, warn_of_canary
from authz.core.stored import StoredDeployment, StoredStage, children, stage_id
from authz.store.ports import Draft, ItemSource


class NewDeployment(Struct, frozen=True, rename="camel"):
    """The body of CreateDeployment. All members but `description` concern the stage."""

    stage_name: str | None = None
    stage_description: str | None = None
    description: str | None = None
    cache_cluster_enabled: bool | None = None
    cache_cluster_size: str | None = None
    variables: dict[str, str] | None = None
    canary_settings: Canary | None = None
    tracing_enabled: bool | None = None


def _shown(found: StoredDeployment, *, summary: bool = False) -> dict[str, Any]:
    methods = {
        path: {verb: {"apiKeyRequired": method.api_key_required} for verb, method in verbs.items()}
        for path, verbs in found.snapshot.resources.items()
    }
    return {
        "id": found.id,
        "createdDate": found.created_date,
        **given(description=found.description, apiSummary=methods if summary else None),
    }


async def _deployment(call: Call, source: ItemSource) -> StoredDeployment:
    api = await api_of(call, source)
    found = await source.get("deployment", f"{api.id}/{call.params['deployment_id']}")
    if not isinstance(found, StoredDeployment):
        raise not_found("Invalid Deployment identifier specified")
    return found


async def create(call: Call) -> Answer:
    body, made, now = call.read(NewDeployment), new_id(6), call.context.now()
    if body.canary_settings and not body.stage_name:
        name = "null" if body.stage_name is None else body.stage_name
        raise _no_canary(
            f"Non null and non empty stageName must be provided for canary deployment. Provided value is {name}"
        )

    async def edit(edit: Draft) -> StoredDeployment:
        api = await api_of(call, edit)
        served, authorized = rules.deployed(api), rules.authorizations(api)
        deployment = StoredDeployment(made, api.id, now, served, body.description, authorized)
        edit.put(deployment)
        if body.stage_name:  # Terraform's provider sends "" where no stage is meant
            held = await edit.get("stage", stage_id(api.id, body.stage_name))
            new = StoredStage(api.id, body.stage_name, made, now, now)
            stage = _deployed_stage(held if isinstance(held, StoredStage) else None, new, body)
            warn_of_canary(call, stage)
            edit.put(stage)
            await require_room_for(edit, api.id, stage.stage_name)
        return deployment

    return Answer(201, _shown(await call.write(edit, made)))


def _no_canary(reason: str) -> ApiError:
    return bad_request(f"Invalid deployment content specified.{reason}")  # AWS puts no blank after the stop


def _deployed_stage(held: StoredStage | None, new: StoredStage, body: NewDeployment) -> StoredStage:
    """Return the stage after a deployment: `new`, or `held` with its deployment. Raises ApiError.

    A canary is added to a stage that goes on serving its own deployment, so it needs one that exists.
    """
    canary = body.canary_settings
    if held is None and canary:
        raise _no_canary(f"Stage {new.stage_name} must already be created before making a canary release deployment")
    stage = new
    if held and canary:
        settings = {**canary.shown(), "deploymentId": new.deployment_id}
        stage = replace(held, canary_settings=settings, last_updated_date=new.last_updated_date)
    elif held:
        stage = replace(held, deployment_id=new.deployment_id, last_updated_date=new.last_updated_date)
    members: dict[str, Any] = {
        "description": body.stage_description or None,
        "variables": body.variables or None,
        "cache_cluster_enabled": body.cache_cluster_enabled,
        "cache_cluster_size": body.cache_cluster_size or None,
        "tracing_enabled": body.tracing_enabled,
    }
    changed = replace(stage, **{name: value for name, value in members.items() if value is not None})
    rules.check_stage(changed)
    return changed


async def get(call: Call) -> Answer:
    summary = "apisummary" in call.query.get("embed", ())
    return Answer(body=_shown(await _deployment(call, call.context.store), summary=summary))


async def get_all(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    page = await call.context.store.page("deployment", children("deployment", api.id), *call.paging())
    return listed((_shown(one) for one in page.items if isinstance(one, StoredDeployment)), page.position)


TABLE: Final = (PatchRule(("replace",), "/description"),)


async def update(call: Call) -> Answer:
    operations = operations_of(call)

    async def edit(edit: Draft) -> StoredDeployment:
        changed = patched(await _deployment(call, edit), TABLE, operations, invalid_path)
        edit.put(changed)
        return changed

    return Answer(body=_shown(await call.write(edit)))


async def delete(call: Call) -> Answer:
    async def edit(edit: Draft) -> None:
        found = await _deployment(call, edit)
        stages = await edit.many("stage", await edit.members(children("stage", found.api_id)))
        pointing = [stage for stage in stages if isinstance(stage, StoredStage) and found.id in stage.deployments]
        if pointing:
            kind = "" if any(stage.deployment_id == found.id for stage in pointing) else "with canary settings "
            raise bad_request(f"Active stages {kind}pointing to this deployment must be moved or deleted")
        edit.delete("deployment", f"{found.api_id}/{found.id}")

    await call.write(edit)
    return Answer(202)


ALL: Final = "/restapis/{restapi_id}/deployments"
ONE: Final = f"{ALL}/{{deployment_id}}"

OPERATIONS: Final = (
    Operation("CreateDeployment", "POST", ALL, create, writes=True),
    Operation("GetDeployments", "GET", ALL, get_all, writes=False),
    Operation("GetDeployment", "GET", ONE, get, writes=False),
    Operation("UpdateDeployment", "PATCH", ONE, update, writes=True),
    Operation("DeleteDeployment", "DELETE", ONE, delete, writes=True),
)

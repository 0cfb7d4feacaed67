"""The operations on stages. The patches of their method settings have a spelling of their own at AWS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from authz.aws import restapis as rules
from authz.aws.errors import bad_request, conflict, not_found
from authz.aws.patch import PatchOperation, PatchRule, PatchStep, Type, member, member_or_removed
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import (
    api_of,
    check_unmapped,
    detach,
    given,
    listed,
    operations_of,
    patched,
    require_room_for,
)
from authz.core.bounds import MAX_INT
from authz.core.rules import missing_method
from authz.core.stored import RestApi, StoredDeployment, StoredStage, children, stage_id
from authz.store.ports import Draft, ItemSource
from authz.store.served import served_by

Percent = Annotated[float, Meta(ge=0, le=100)]


class Canary(Struct, frozen=True, rename="camel"):
    """The settings of a canary: stored, and without effect here."""

    percent_traffic: Percent = 0.0
    deployment_id: str | None = None
    stage_variable_overrides: dict[str, str] | None = None
    use_stage_cache: bool = False

    def shown(self) -> dict[str, Any]:
        return {
            "percentTraffic": self.percent_traffic,
            "useStageCache": self.use_stage_cache,
            **given(deploymentId=self.deployment_id, stageVariableOverrides=self.stage_variable_overrides),
        }


class NewStage(Struct, frozen=True, rename="camel"):
    """The body of CreateStage."""

    stage_name: str
    deployment_id: str
    description: str | None = None
    cache_cluster_enabled: bool = False
    cache_cluster_size: str | None = None
    variables: dict[str, str] = {}
    documentation_version: str | None = None
    canary_settings: Canary | None = None
    tracing_enabled: bool = False
    tags: dict[str, str] = {}


def shown(stage: StoredStage) -> dict[str, Any]:
    """Return a stage as AWS shows it."""
    return {
        "stageName": stage.stage_name,
        "deploymentId": stage.deployment_id,
        "createdDate": stage.created_date,
        "lastUpdatedDate": stage.last_updated_date,
        "cacheClusterEnabled": stage.cache_cluster_enabled,
        "cacheClusterStatus": "AVAILABLE" if stage.cache_cluster_enabled else "NOT_AVAILABLE",
        "methodSettings": stage.method_settings,
        "tracingEnabled": stage.tracing_enabled,
        **given(
            description=stage.description,
            cacheClusterSize=stage.cache_cluster_size,
            variables=stage.variables,
            clientCertificateId=stage.client_certificate_id,
            documentationVersion=stage.documentation_version,
            accessLogSettings=stage.access_log_settings,
            canarySettings=stage.canary_settings,
            webAclArn=stage.web_acl_arn,
            tags=stage.tags,
        ),
    }


async def _stage(call: Call, source: ItemSource) -> tuple[RestApi, StoredStage]:
    api = await api_of(call, source)
    found = await source.get("stage", stage_id(api.id, call.params["stage_name"]))
    if not isinstance(found, StoredStage):
        raise not_found("Invalid Stage identifier specified")
    return api, found


async def _check_deployments(edit: Draft, api_id: str, deployments: Iterable[str]) -> None:
    for wanted in deployments:
        if not isinstance(await edit.get("deployment", f"{api_id}/{wanted}"), StoredDeployment):
            raise bad_request("Deployment id does not exist")


def warn_of_canary(call: Call, stage: StoredStage) -> None:
    """Warn that a canary gets no calls: all calls of the stage go to its own deployment."""
    percent = (stage.canary_settings or {}).get("percentTraffic")
    if percent:
        call.warn(f"percentTraffic {percent} is stored and not carried out: all calls go to {stage.deployment_id}")


async def create(call: Call) -> Answer:
    body, now = call.read(NewStage), call.context.now()

    async def edit(edit: Draft) -> StoredStage:
        api = await api_of(call, edit)
        stage = _made(api, body, now)
        rules.check_stage(stage)
        if await edit.get("stage", stage.id) is not None:
            raise conflict("Stage already exists")
        await _check_deployments(edit, api.id, stage.deployments)
        warn_of_canary(call, stage)
        edit.put(stage)
        return stage

    return Answer(201, shown(await call.write(edit, body.stage_name)))


def _canary(given: Canary | None, deployment_id: str) -> dict[str, Any] | None:
    """Return a canary with all its members, by default with the stage's own deployment."""
    return {"deploymentId": deployment_id, **given.shown()} if given else None


def _made(api: RestApi, body: NewStage, now: int) -> StoredStage:
    return StoredStage(
        api_id=api.id,
        stage_name=body.stage_name,
        deployment_id=body.deployment_id,
        created_date=now,
        last_updated_date=now,
        description=body.description,
        variables=body.variables,
        cache_cluster_enabled=body.cache_cluster_enabled,
        cache_cluster_size=body.cache_cluster_size,
        tracing_enabled=body.tracing_enabled,
        documentation_version=body.documentation_version,
        canary_settings=_canary(body.canary_settings, body.deployment_id),
        tags=body.tags,
    )


async def get(call: Call) -> Answer:
    _, stage = await _stage(call, call.context.store)
    return Answer(body=shown(stage))


async def get_all(call: Call) -> Answer:
    """Answer with all stages: AWS does not page them."""
    api, store = await api_of(call, call.context.store), call.context.store
    found = await store.many("stage", await store.members(children("stage", api.id)))
    stages = [stage for stage in found if isinstance(stage, StoredStage)]
    wanted = call.one("deploymentId")
    return listed(shown(stage) for stage in stages if wanted in (None, stage.deployment_id))


async def delete(call: Call) -> Answer:
    async def edit(edit: Draft) -> None:
        api, stage = await _stage(call, edit)
        await check_unmapped(edit, api.id, stage.stage_name)
        await detach(edit, api.id, [stage.stage_name])
        edit.delete("stage", stage.id)

    await call.write(edit)
    return Answer(202)


# --- patches ------------------------------------------------------------------------------------------------------


SETTINGS: Final = (
    ("metrics/enabled", "metricsEnabled", Type.BOOL),
    ("logging/dataTrace", "dataTraceEnabled", Type.BOOL),
    ("logging/loglevel", "loggingLevel", Type.TEXT),
    ("throttling/burstLimit", "throttlingBurstLimit", Type.INT),
    ("throttling/rateLimit", "throttlingRateLimit", Type.DOUBLE),
    ("caching/ttlInSeconds", "cacheTtlInSeconds", Type.INT),
    ("caching/enabled", "cachingEnabled", Type.BOOL),
    ("caching/dataEncrypted", "cacheDataEncrypted", Type.BOOL),
    ("caching/requireAuthorizationForCacheControl", "requireAuthorizationForCacheControl", Type.BOOL),
    ("caching/unauthorizedCacheControlHeaderStrategy", "unauthorizedCacheControlHeaderStrategy", Type.TEXT),
)
WORDS: Final = {
    "loggingLevel": ("OFF", "ERROR", "INFO"),
    "unauthorizedCacheControlHeaderStrategy": (
        "FAIL_WITH_403",
        "SUCCEED_WITH_RESPONSE_HEADER",
        "SUCCEED_WITHOUT_RESPONSE_HEADER",
    ),
}
UNLIMITED: Final = -1

# AWS's own text, with its missing commas.
PATHS: Final = (
    "/deploymentId, /description, /cacheClusterEnabled, /cacheClusterSize, /clientCertificateId, /accessLogSettings, "
    "/accessLogSettings/destinationArn, /accessLogSettings/format, /{resourcePath}/{httpMethod}/metrics/enabled, "
    "/{resourcePath}/{httpMethod}/logging/dataTrace, /{resourcePath}/{httpMethod}/logging/loglevel, "
    "/{resourcePath}/{httpMethod}/throttling/burstLimit/{resourcePath}/{httpMethod}/throttling/rateLimit"
    "/{resourcePath}/{httpMethod}/caching/ttlInSeconds, /{resourcePath}/{httpMethod}/caching/enabled, "
    "/{resourcePath}/{httpMethod}/caching/dataEncrypted, "
    "/{resourcePath}/{httpMethod}/caching/requireAuthorizationForCacheControl, "
    "/{resourcePath}/{httpMethod}/caching/unauthorizedCacheControlHeaderStrategy, /*/*/metrics/enabled, "
    "/*/*/logging/dataTrace, /*/*/logging/loglevel, /*/*/throttling/burstLimit /*/*/throttling/rateLimit "
    "/*/*/caching/ttlInSeconds, /*/*/caching/enabled, /*/*/caching/dataEncrypted, "
    "/*/*/caching/requireAuthorizationForCacheControl, /*/*/caching/unauthorizedCacheControlHeaderStrategy, "
    "/variables/{variable_name}, /tracingEnabled"
)


def _style(operation: PatchOperation, _: Sequence[str]) -> str:
    return f"Invalid method setting path: {operation.path.replace('~0', '~')}. Must be one of: [{PATHS}]"


def _setting(name: str) -> Callable[[PatchStep], None]:
    """Make an effect that changes one setting of the method in the path, whose spelling it keeps."""

    def effect(step: PatchStep) -> None:
        settings, key = step.draft.get("methodSettings", {}), step.names["method"]
        if not rules.named_method(key):
            raise bad_request(f"Invalid method setting path: /{'/'.join(step.path)}. Must be one of: [{PATHS}]")
        if step.op == "remove":
            step.draft["methodSettings"] = rules.without_setting(settings, key, name)
        else:
            _check_setting(name, step.value)
            step.draft["methodSettings"] = rules.with_setting(settings, key, name, step.value)

    return effect


def _check_setting(name: str, value: Any) -> None:
    if name in WORDS and value not in WORDS[name]:
        raise bad_request(f"Invalid value for {name}. Must be one of: [{', '.join(WORDS[name])}]")
    throttle = name.startswith("throttling")
    if isinstance(value, bool) or not isinstance(value, int | float) or (throttle and value == UNLIMITED):
        return
    if not 0 <= value <= MAX_INT:
        raise bad_request(f"Invalid value for {name}: expected 0 to {MAX_INT}{', or -1 for no limit' * throttle}")


def _entry(step: PatchStep) -> None:
    """Remove all settings of the method in the path."""
    key = step.names["method"]
    step.draft["methodSettings"] = rules.without_setting(step.draft.get("methodSettings", {}), key)


def _canary_member(step: PatchStep) -> None:
    """Change a member of the canary. A stage without a canary gets one of its own deployment, with no traffic."""
    if not step.draft.get("canarySettings"):
        if step.op == "remove":
            raise rules.no_setting("/".join(step.path))
        step.draft["canarySettings"] = _canary(Canary(), step.draft["deploymentId"])
    member(step)


def _percent(step: PatchStep) -> None:
    if not 0 <= step.value <= 100:
        raise bad_request("Invalid percentTraffic: expected 0 to 100")
    _canary_member(step)


def _override(step: PatchStep) -> None:
    _canary_member(step)
    if not step.draft["canarySettings"]["stageVariableOverrides"]:
        del step.draft["canarySettings"]["stageVariableOverrides"]


def _not_added(step: PatchStep) -> None:
    raise bad_request(f"Invalid add operation with path: /{'/'.join(step.path)}")


# The paths that a stage may copy from its canary, by the path that they are copied to.
PROMOTED: Final = {
    "/deploymentId": "/canarySettings/deploymentId",
    "/variables": "/canarySettings/stageVariableOverrides",
}


def _promote(step: PatchStep) -> None:
    """Copy a value of the canary to its stage. Variables are added to the stage's own."""
    path = "/" + "/".join(step.path)
    if PROMOTED.get(path) != step.origin:
        raise bad_request(
            f"Invalid copy operation with path: {path} and from {step.origin}. "
            f"Valid copy:path are [{', '.join(PROMOTED)}] and valid copy:from are [{', '.join(PROMOTED.values())}]"
        )
    canary = step.draft.get("canarySettings")
    if not canary:
        raise bad_request("Promotion not available. Canary does not exist.")
    if path == "/deploymentId":
        step.draft["deploymentId"] = canary["deploymentId"]
    else:
        step.draft["variables"] = {**step.draft.get("variables", {}), **canary.get("stageVariableOverrides", {})}


# --- access logs --------------------------------------------------------------------------------------------------


ACCESS_LOG: Final = ("/accessLogSettings/destinationArn", "/accessLogSettings/format")


def _access_log(step: PatchStep) -> None:
    if not step.value:
        raise bad_request("Access Log value must not be empty")
    member(step)


def _no_access_log(_: PatchStep) -> None:
    raise bad_request(f"Invalid accessLogSettings path. Must be one of : [{', '.join(ACCESS_LOG)}]")


TABLE: Final = (
    PatchRule(("replace",), "/deploymentId"),
    PatchRule(("replace",), "/description"),
    PatchRule(("replace",), "/cacheClusterEnabled", Type.BOOL),
    PatchRule(("replace",), "/cacheClusterSize", effect=member_or_removed),
    PatchRule(("replace",), "/clientCertificateId"),
    PatchRule(("replace",), "/webAclArn"),
    PatchRule(("replace",), "/documentationVersion"),
    PatchRule(("replace",), "/tracingEnabled", Type.BOOL),
    PatchRule(("replace", "remove"), "/variables/{name}"),
    PatchRule(("remove",), "/accessLogSettings"),
    *(PatchRule(("add", "replace"), path, effect=_access_log) for path in ACCESS_LOG),
    PatchRule(("add", "replace"), "/accessLogSettings", effect=_no_access_log),
    PatchRule(("add", "replace"), "/accessLogSettings/{name}", effect=_no_access_log),
    PatchRule(("remove",), "/canarySettings"),
    PatchRule(("replace",), "/canarySettings/percentTraffic", Type.DOUBLE, _percent),
    PatchRule(("replace",), "/canarySettings/useStageCache", Type.BOOL, _canary_member),
    PatchRule(("replace",), "/canarySettings/deploymentId", effect=_canary_member),
    PatchRule(("replace", "remove"), "/canarySettings/stageVariableOverrides/{name}", effect=_override),
    PatchRule(("add",), "/canarySettings/<rest>", effect=_not_added),
    PatchRule(("copy",), "/<rest>", effect=_promote),
    *(
        PatchRule(("replace", "remove"), f"/{{resourcePath}}/{{httpMethod}}/{path}", type_, _setting(name))
        for path, name, type_ in SETTINGS
    ),
    PatchRule(("remove",), "/{resourcePath}/{httpMethod}", effect=_entry),
)


async def update(call: Call) -> Answer:
    now = call.context.now()
    # Method settings keep the spelling of their path, so `~1` in it must survive the patch.
    operations = [replace(one, path=one.path.replace("~", "~0")) for one in operations_of(call)]

    async def edit(edit: Draft) -> StoredStage:
        _, stage = await _stage(call, edit)
        changed = replace(patched(stage, TABLE, operations, _style), last_updated_date=now)
        rules.check_variables(changed.variables)
        await _check_deployments(edit, changed.api_id, changed.deployments - stage.deployments)
        warn_of_canary(call, changed)
        edit.put(changed)
        if changed.deployment_id != stage.deployment_id:
            await require_room_for(edit, changed.api_id, changed.stage_name)
        served = await served_by(edit, changed.api_id, changed.stage_name)
        for name in changed.method_settings if served else ():
            method = rules.named_method(name)
            if served and method and (why := missing_method(served, *method, verbs_of_any=True)):
                call.warn(f"methodSettings['{name}'] acts on no call: {why}")
        return changed

    return Answer(body=shown(await call.write(edit)))


ALL: Final = "/restapis/{restapi_id}/stages"
ONE: Final = f"{ALL}/{{stage_name}}"

OPERATIONS: Final = (
    Operation("CreateStage", "POST", ALL, create, writes=True),
    Operation("GetStages", "GET", ALL, get_all, writes=False),
    Operation("GetStage", "GET", ONE, get, writes=False),
    Operation("UpdateStage", "PATCH", ONE, update, writes=True),
    Operation("DeleteStage", "DELETE", ONE, delete, writes=True),
)

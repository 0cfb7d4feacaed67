"""The operations on stages, and the patches of their method settings, which AWS spells in a way of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from authz.control.call import Answer, Call, Operation
from authz.control.restapis import (
    Reader,
    api_of,
    check_unmapped,
    detach,
    given,
    listed,
    operations_of,
    patched,
)
from authz.core import restapis as rules
from authz.core.errors import bad_request, conflict, not_found
from authz.core.methods import method_of
from authz.core.patch import Change, PatchOperation, Row, Type, member
from authz.core.stored import RestApi, StoredDeployment, StoredStage, children, stage_id
from authz.store import Edit

Percent = Annotated[float, Meta(ge=0, le=100)]


class Canary(Struct, frozen=True, rename="camel"):
    """The settings of a canary: stored, and never acted upon."""

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
    """A stage as AWS shows it."""
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


async def _stage(call: Call, source: Reader) -> tuple[RestApi, StoredStage]:
    api = await api_of(call, source)
    found = await source.get("stage", stage_id(api.id, call.params["stage_name"]))
    if not isinstance(found, StoredStage):
        raise not_found("Invalid Stage identifier specified")
    return api, found


async def _check_deployment(edit: Edit, stage: StoredStage) -> None:
    if not isinstance(await edit.get("deployment", f"{stage.api_id}/{stage.deployment_id}"), StoredDeployment):
        raise bad_request("Deployment id does not exist")


async def create(call: Call) -> Answer:
    body, now = call.read(NewStage), call.context.now()

    async def edit(edit: Edit) -> StoredStage:
        api = await api_of(call, edit)
        stage = _made(api, body, now)
        rules.check_stage(stage)
        if await edit.get("stage", stage.id) is not None:
            raise conflict("Stage already exists")
        await _check_deployment(edit, stage)
        edit.put(stage)
        return stage

    return Answer(201, shown(await call.write(edit, body.stage_name)))


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
        canary_settings=body.canary_settings.shown() if body.canary_settings else None,
        tags=body.tags,
    )


async def get(call: Call) -> Answer:
    _, stage = await _stage(call, call.context.store)
    return Answer(body=shown(stage))


async def get_all(call: Call) -> Answer:
    """All of them: AWS does not page stages."""
    api, store = await api_of(call, call.context.store), call.context.store
    found = await store.many("stage", await store.members(children("stage", api.id)))
    stages = [stage for stage in found if isinstance(stage, StoredStage)]
    wanted = call.one("deploymentId")
    return listed(shown(stage) for stage in stages if wanted in (None, stage.deployment_id))


async def delete(call: Call) -> Answer:
    async def edit(edit: Edit) -> None:
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
LARGEST: Final = 2**31 - 1

# To the byte AWS's, whose list lacks some commas.
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


def _setting(name: str) -> Callable[[Change], None]:
    def effect(change: Change) -> None:
        settings, key = change.draft.get("methodSettings", {}), _method(change)
        if change.op == "remove":
            change.draft["methodSettings"] = rules.without_setting(settings, key, name)
        else:
            _check_setting(name, change.value)
            change.draft["methodSettings"] = rules.with_setting(settings, key, name, change.value)

    return effect


def _check_setting(name: str, value: Any) -> None:
    if name in WORDS and value not in WORDS[name]:
        raise bad_request(f"Invalid value for {name}. Must be one of: [{', '.join(WORDS[name])}]")
    throttle = name.startswith("throttling")
    if isinstance(value, bool) or not isinstance(value, int | float) or (throttle and value == UNLIMITED):
        return
    if not 0 <= value <= LARGEST:
        raise bad_request(f"Invalid value for {name}: expected 0 to {LARGEST}{', or -1 for no limit' * throttle}")


def _method(change: Change) -> str:
    """The key of the method that a path names, as it is spelled there."""
    key = change.names["method"]
    try:
        method_of(key)
    except ValueError:
        path = "/".join(change.path)
        raise bad_request(f"Invalid method setting path: /{path}. Must be one of: [{PATHS}]") from None
    return key


def _entry(change: Change) -> None:
    change.draft["methodSettings"] = rules.without_setting(change.draft.get("methodSettings", {}), _method(change))


def _size(change: Change) -> None:
    change.draft["cacheClusterSize"] = change.value or None


def _percent(change: Change) -> None:
    if not 0 <= change.value <= 100:
        raise bad_request("Invalid percentTraffic: expected 0 to 100")
    member(change)


def _promote(target: str, source: str) -> Callable[[Change], None]:
    """A canary's value taken over by the stage."""

    def effect(change: Change) -> None:
        canary = change.draft.get("canarySettings") or {}
        if source not in canary:
            raise bad_request(f"Invalid patch operation: the stage has no canarySettings/{source}")
        value = canary[source]
        change.draft[target] = {**change.draft.get(target, {}), **value} if isinstance(value, dict) else value

    return effect


TABLE: Final = (
    Row(("replace",), "/deploymentId"),
    Row(("replace",), "/description"),
    Row(("replace",), "/cacheClusterEnabled", Type.BOOL),
    Row(("replace",), "/cacheClusterSize", effect=_size),
    Row(("replace",), "/clientCertificateId"),
    Row(("replace",), "/documentationVersion"),
    Row(("replace",), "/tracingEnabled", Type.BOOL),
    Row(("replace", "remove"), "/variables/{name}"),
    Row(("remove",), "/accessLogSettings"),
    Row(("replace",), "/accessLogSettings/destinationArn"),
    Row(("replace",), "/accessLogSettings/format"),
    Row(("remove",), "/canarySettings"),
    Row(("replace",), "/canarySettings/percentTraffic", Type.DOUBLE, _percent),
    Row(("replace",), "/canarySettings/useStageCache", Type.BOOL),
    Row(("replace",), "/canarySettings/deploymentId"),
    Row(("replace", "remove"), "/canarySettings/stageVariableOverrides/{name}"),
    Row(("copy",), "/deploymentId", effect=_promote("deploymentId", "deploymentId")),
    Row(("copy",), "/variables", effect=_promote("variables", "stageVariableOverrides")),
    *(
        Row(("replace", "remove"), f"/{{resourcePath}}/{{httpMethod}}/{path}", type_, _setting(name))
        for path, name, type_ in SETTINGS
    ),
    Row(("remove",), "/{resourcePath}/{httpMethod}", effect=_entry),
)


def _verbatim(operation: PatchOperation) -> PatchOperation:
    """The operation such that ~1 in its path stays as it is: settings are found again by the key as it was given."""
    return replace(operation, path=operation.path.replace("~", "~0"))


async def update(call: Call) -> Answer:
    operations, now = [_verbatim(operation) for operation in operations_of(call)], call.context.now()

    async def edit(edit: Edit) -> StoredStage:
        _, stage = await _stage(call, edit)
        changed = replace(patched(stage, TABLE, operations, _style), last_updated_date=now)
        rules.check_variables(changed.variables)
        if changed.deployment_id != stage.deployment_id:
            await _check_deployment(edit, changed)
        edit.put(changed)
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

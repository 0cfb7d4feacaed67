"""Between the two forms of resources: the file's, which a catalog is compiled from, and the items of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from authz.aws.restapis import integration_defaults
from authz.core.methods import method_of
from authz.core.resources import (
    Account,
    Api,
    ApiKey,
    Deployment,
    Host,
    HttpMethod,
    Method,
    MethodSetting,
    Resources,
    Stage,
    UsagePlan,
    digest_of,
)
from authz.core.stored import (
    BasePathMapping,
    DomainName,
    Item,
    Items,
    RestApi,
    StoredAccount,
    StoredDeployment,
    StoredKey,
    StoredMethod,
    StoredPlan,
    StoredResource,
    StoredStage,
    id_of,
    kind_of,
)

T = TypeVar("T")

NOTHING: Final = Resources()
RATE: Final = "throttlingRateLimit"
BURST: Final = "throttlingBurstLimit"
FROM_FILE: Final = "from a configuration file"
ID_LENGTH: Final = 10


# --- from the store -----------------------------------------------------------------------------------------------


def to_resources(items: Items, fixed: Resources = NOTHING) -> tuple[Resources, dict[str, str]]:
    """The resources that a catalog is compiled from, without the store's keys; and for each plan's id its `ref`.

    `fixed` are the file's own, which come first, keys and all; where an id is in both, the file wins (`clashes` tells).
    Every stage of the store has its deployment. What points to nothing (a stage without its deployment, a mapping or a
    plan's stage without its API) is left out, so that any state of the store compiles. Without RestApi items an API is
    what its stages tell of it.
    """
    plans = _of(items, StoredPlan)
    refs = {plan.plan.id: plan.ref for plan in plans} | {plan.id: plan.id for plan in fixed.usage_plans}
    named = {plan.id for plan in fixed.usage_plans}
    apis = _with_hosts((*fixed.apis, *_apis(items, {api.id for api in fixed.apis})), _of(items, DomainName))
    reachable = {(api.id, stage.name) for api in apis for stage in api.stages}
    stored = tuple(_plan(plan.plan, reachable) for plan in plans if plan.plan.id not in named)
    account = next((item.account for item in _of(items, StoredAccount)), fixed.account)
    return Resources(account, apis, (*fixed.usage_plans, *stored), fixed.api_keys), refs


def clashes(items: Items, fixed: Resources) -> list[str]:
    """The ids, each with what it is of, that the store and the file both have."""
    pairs = [("API", {stage.api_id for stage in _of(items, StoredStage)}, {api.id for api in fixed.apis})]
    pairs += [("plan", {plan.plan.id for plan in _of(items, StoredPlan)}, {plan.id for plan in fixed.usage_plans})]
    pairs += [("key", {key.key.id for key in _of(items, StoredKey)}, {key.id for key in fixed.api_keys})]
    return [f"{what} {name}" for what, ours, files in pairs for name in sorted(ours & files)]


def unauthorized(items: Items, fixed: Resources = NOTHING) -> tuple[str, ...]:
    """The methods that stages of the store serve and whose authorization nobody carries out.

    Each as `a1:prod GET /pets (AWS_IAM)`, in order.
    """
    files = {api.id for api in fixed.apis}
    deployments = {(found.api_id, found.id): found.authorizations for found in _of(items, StoredDeployment)}
    return tuple(
        f"{stage.api_id}:{stage.stage_name} {method} ({kind})"
        for stage in sorted(_of(items, StoredStage), key=lambda stage: stage.id)
        if stage.api_id not in files
        for method, kind in deployments.get((stage.api_id, stage.deployment_id), {}).items()
    )


def flattened(resources: Resources) -> Resources:
    """The same as a person would write it: what all stages of an API serve is said once, by the API.

    An API's own fields, which no stage serves, are then lost wherever they differ from what is deployed.
    """
    return replace(resources, apis=tuple(map(_flattened, resources.apis)))


def _of(items: Items, kind: type[T]) -> list[T]:
    return [item for item in items.values() if isinstance(item, kind)]


def _apis(items: Items, taken: set[str]) -> Iterator[Api]:
    deployments = {(found.api_id, found.id): found.snapshot for found in _of(items, StoredDeployment)}
    stages: dict[str, list[Stage]] = {api.id: [] for api in _of(items, RestApi)}
    for stage in _of(items, StoredStage):
        if snapshot := deployments.get((stage.api_id, stage.deployment_id)):
            stages.setdefault(stage.api_id, []).append(_stage(stage, snapshot))
    drafts = {api.id: api for api in _of(items, RestApi)}
    for api_id, found in stages.items():
        if api_id not in taken:
            draft = drafts.get(api_id)
            yield _api(draft, tuple(found)) if draft else Api(id=api_id, stages=tuple(found))


def _api(draft: RestApi, stages: tuple[Stage, ...]) -> Api:
    fields: dict[str, Any] = {"resources": _methods(draft)}
    if draft.key_sources is not None:
        fields["key_sources"] = draft.key_sources
    if draft.authorizer is not None:
        fields["authorizer"] = draft.authorizer
    source: Any = draft.api_key_source
    return Api(
        id=draft.id,
        name="" if draft.name == draft.id else draft.name,
        api_key_source=source,
        forward_api_key=draft.forward_api_key,
        stages=stages,
        **fields,
    )


def _methods(draft: RestApi) -> dict[str, dict[HttpMethod, Method]]:
    return {
        resource.path: {verb: Method(method.api_key_required) for verb, method in resource.methods.items()}
        for resource in sorted(draft.resources.values(), key=lambda resource: resource.path)
        if resource.methods
    }


def _stage(stage: StoredStage, snapshot: Deployment) -> Stage:
    settings = {name: _setting(given) for name, given in stage.method_settings.items() if _is_method(name)}
    return Stage(name=stage.stage_name, method_settings=settings, variables=stage.variables, deployment=snapshot)


def _setting(given: Mapping[str, Any]) -> MethodSetting:
    """Of AWS's settings, the two that we keep."""
    return MethodSetting(given.get(RATE), given.get(BURST))


def _is_method(name: str) -> bool:
    try:
        method_of(name)
    except ValueError:
        return False
    return True


def _plan(plan: UsagePlan, reachable: set[tuple[str, str]]) -> UsagePlan:
    stages = tuple(stage for stage in plan.api_stages if (stage.api_id, stage.stage) in reachable)
    return plan if stages == plan.api_stages else replace(plan, api_stages=stages)


def _with_hosts(apis: tuple[Api, ...], domains: Iterable[DomainName]) -> tuple[Api, ...]:
    taken = {(host.host.lower(), host.base_path) for api in apis for host in api.hosts}
    added: dict[str, list[Host]] = {}
    for domain in domains:
        for mapping in domain.mappings:
            if (domain.domain_name.lower(), mapping.base_path) not in taken:
                host = Host(domain.domain_name.lower(), mapping.base_path, mapping.stage)
                added.setdefault(mapping.rest_api_id, []).append(host)
    return tuple(replace(api, hosts=(*api.hosts, *added[api.id])) if api.id in added else api for api in apis)


def _flattened(api: Api) -> Api:
    deployments = [stage.deployment for stage in api.stages]
    first = deployments[0] if deployments else None
    if first is None:
        return api
    shared = {name: getattr(first, name) for name in Deployment.__struct_fields__ if name != "gateway_responses"}
    if shared["authorizer"] == Api(id="default").authorizer:
        del shared["authorizer"]  # the default itself counts as not given, an equal one does not
        api = replace(api, authorizer=Api(id="default").authorizer)
    plain = replace(api, **shared, stages=())
    return replace(plain, stages=tuple(_flattened_stage(plain, stage) for stage in api.stages))


def _flattened_stage(api: Api, stage: Stage) -> Stage:
    served = stage.deployment
    if served is None or replace(served, gateway_responses={}) != replace(deployment_of(api), gateway_responses={}):
        return stage
    return replace(stage, deployment=None, gateway_responses=served.gateway_responses)


# --- from the file ------------------------------------------------------------------------------------------------


def from_resources(resources: Resources, created: int = 0, index: Callable[[bytes], str] = bytes.hex) -> Items:
    """A file's resources as items of a store, dated `created` (Unix seconds); the same file gives the same ids.

    `index` turns the SHA-256 of a key's value into what the store finds it by. Values themselves are not kept.
    """
    account = resources.account
    found: list[Item] = [] if account == Account() else [StoredAccount(account)]
    for api in resources.apis:
        found += [_rest_api(api, created), *_stages(api, created)]
    found += _domains(resources.apis, created)
    plans = [StoredPlan(replace(plan, keys=())) for plan in resources.usage_plans]
    found += plans
    refs: dict[str, list[str]] = {}
    for plan, stored in zip(resources.usage_plans, plans, strict=True):
        for key_id in plan.keys:
            refs.setdefault(key_id, []).append(stored.ref)
    found += [_key(key, tuple(refs.get(key.id, ())), created, index) for key in resources.api_keys]
    return {(kind_of(item), id_of(item)): item for item in found}


def deployment_of(api: Api, stage: Stage | None = None) -> Deployment:
    """What a stage of the file serves: its own deployment, or else its API's fields and its own responses."""
    if stage and stage.deployment:
        return stage.deployment
    return Deployment(
        api_key_source=api.api_key_source,
        key_sources=api.key_sources,
        authorizer=api.authorizer,
        forward_api_key=api.forward_api_key,
        resources=api.resources,
        gateway_responses=stage.gateway_responses if stage else {},
    )


def stable_id(*parts: str) -> str:
    """An id such as AWS makes, but the same one for the same parts."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8])
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[number // 36**place % 36] for place in range(ID_LENGTH))


def resource_tree(
    api_id: str, methods: Mapping[str, Mapping[HttpMethod, StoredMethod]]
) -> tuple[str, dict[str, StoredResource]]:
    """The id of the root, and all nodes by their ids, those between included."""
    paths = {"/"}
    for path in methods:
        segments = path.strip("/").split("/") if path.strip("/") else []
        paths |= {"/" + "/".join(segments[:depth]) for depth in range(1, len(segments) + 1)}
    nodes = (_node(api_id, path, dict(methods.get(path, {}))) for path in sorted(paths))
    return stable_id(api_id, "/"), {node.id: node for node in nodes}


def _node(api_id: str, path: str, methods: dict[HttpMethod, StoredMethod]) -> StoredResource:
    if path == "/":
        return StoredResource(stable_id(api_id, path), path, methods=methods)
    parent, _, part = path.rpartition("/")
    return StoredResource(stable_id(api_id, path), path, stable_id(api_id, parent or "/"), part, methods)


def plain_method(resource_id: str, key_required: bool) -> StoredMethod:
    """A method of a file. Its integration is the least that AWS's tools can deploy again."""
    return StoredMethod(
        api_key_required=key_required, method_integration=dict(integration_defaults("MOCK", resource_id))
    )


def _rest_api(api: Api, created: int) -> RestApi:
    methods: dict[str, dict[HttpMethod, StoredMethod]] = {
        path: {verb: plain_method(stable_id(api.id, path), method.api_key_required) for verb, method in found.items()}
        for path, found in api.resources.items()
    }
    root, nodes = resource_tree(api.id, methods)
    default = Api(id=api.id)
    responses = api.stages[0].gateway_responses if api.stages else {}
    return RestApi(
        id=api.id,
        name=api.name or api.id,
        created_date=created,
        root_resource_id=root,
        api_key_source=api.api_key_source,
        resources=nodes,
        gateway_responses={kind.value: response for kind, response in responses.items()},
        key_sources=None if api.key_sources == default.key_sources else api.key_sources,
        authorizer=None if api.authorizer == default.authorizer else api.authorizer,
        forward_api_key=api.forward_api_key,
    )


def _stages(api: Api, created: int) -> Iterator[Item]:
    """Each stage, and its deployment; stages that serve the same share one."""
    made: list[StoredDeployment] = []
    for stage in api.stages:
        snapshot = deployment_of(api, stage)
        deployment = next((known for known in made if known.snapshot == snapshot), None)
        if deployment is None:
            name = stable_id(api.id, "deployment", stage.name)
            deployment = StoredDeployment(name, api.id, created, snapshot, FROM_FILE)
            made.append(deployment)
            yield deployment
        yield StoredStage(
            api_id=api.id,
            stage_name=stage.name,
            deployment_id=deployment.id,
            created_date=created,
            last_updated_date=created,
            method_settings={name: _settings(setting) for name, setting in stage.method_settings.items()},
            variables=stage.variables,
        )


def _settings(setting: MethodSetting) -> dict[str, Any]:
    numbers = {RATE: setting.throttling_rate_limit, BURST: setting.throttling_burst_limit}
    return {name: number for name, number in numbers.items() if number is not None}


def _domains(apis: Iterable[Api], created: int) -> list[DomainName]:
    mappings: dict[str, list[BasePathMapping]] = {}
    for api in apis:
        for host in api.hosts:
            mappings.setdefault(host.host.lower(), []).append(BasePathMapping(host.base_path, api.id, host.stage))
    return [DomainName(name, created, tuple(found)) for name, found in mappings.items()]


def _key(key: ApiKey, plans: tuple[str, ...], created: int, index: Callable[[bytes], str]) -> StoredKey:
    return StoredKey(
        key=replace(key, value=None, value_sha256=None),
        index=index(digest_of(key)),
        created_date=created,
        last_updated_date=created,
        plans=plans,
    )

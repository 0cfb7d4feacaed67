"""Converts resources between their two forms: the file's, which a catalog is compiled from, and the store's items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from authz.aws.restapis import integration_defaults, named_method, served_methods
from authz.core.resources import (
    Account,
    Api,
    Customer,
    Deployment,
    Host,
    HttpMethod,
    Method,
    MethodSetting,
    Override,
    Resources,
    Stage,
    digest_of,
)
from authz.core.stored import (
    BasePathMapping,
    DomainName,
    Item,
    Items,
    RestApi,
    StoredAccount,
    StoredCustomer,
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
    """Return the resources to compile a catalog from, without the store's keys, and the `ref` of each plan by its id.

    `fixed` are the file's resources, which come first, with their keys. If an id is in both, the file wins; `clashes`
    returns such ids. Dangling references (a stage without its deployment, a mapping or a plan's stage without its API)
    are left out, so that every state of the store compiles. An API without a RestApi item consists of its stages.
    """
    plans = _of(items, StoredPlan)
    refs = {plan.plan.id: plan.ref for plan in plans} | {plan.id: plan.id for plan in fixed.usage_plans}
    named = {plan.id for plan in fixed.usage_plans}
    apis = _with_hosts((*fixed.apis, *_apis(items, {api.id for api in fixed.apis})), _of(items, DomainName))
    reachable = {(api.id, stage.name) for api in apis for stage in api.stages}
    stored = tuple(
        replace(plan, api_stages=tuple(one for one in plan.api_stages if (one.api_id, one.stage) in reachable))
        for plan in (item.plan for item in plans)
        if plan.id not in named
    )
    account = next((item.account for item in _of(items, StoredAccount)), fixed.account)
    ids = {ref: plan_id for plan_id, ref in refs.items()}
    known = {customer.id for customer in fixed.customers}
    customers = (customer_of(item, ids) for item in _of(items, StoredCustomer) if item.id not in known)
    whole = Resources(
        account, apis, (*fixed.usage_plans, *stored), fixed.api_keys, customers=(*fixed.customers, *customers)
    )
    return whole, refs


def customer_of(stored: StoredCustomer, ids: Mapping[str, str]) -> Customer:
    """Return a stored customer as the file has it; `ids` are the ids of the living plans by their references."""
    return replace(stored.customer, overrides=by_plan_id(stored.overrides, ids))


def by_plan_id(overrides: Mapping[str, Override], ids: Mapping[str, str]) -> dict[str, Override]:
    """Return overrides by the ids of their plans, without those in deleted plans. `ids` are by reference."""
    return {ids[ref]: override for ref, override in overrides.items() if ref in ids}


def clashes(items: Items, fixed: Resources) -> list[str]:
    """Return the ids that the store and the file both have, each with its noun, such as `plan gold`."""
    pairs = [("API", {stage.api_id for stage in _of(items, StoredStage)}, {api.id for api in fixed.apis})]
    pairs += [("plan", {plan.plan.id for plan in _of(items, StoredPlan)}, {plan.id for plan in fixed.usage_plans})]
    pairs += [("customer", {one.id for one in _of(items, StoredCustomer)}, {one.id for one in fixed.customers})]
    pairs += [("key", {key.key.id for key in _of(items, StoredKey)}, {key.id for key in fixed.api_keys})]
    return [f"{what} {name}" for what, ours, files in pairs for name in sorted(ours & files)]


def unauthorized(items: Items, fixed: Resources = NOTHING) -> tuple[str, ...]:
    """Return the methods of the store's stages that have an authorization type, which no sidecar checks.

    Each reads `a1:prod GET /pets (AWS_IAM)`; they are sorted by stage.
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
    """Rewrite resources as a person would: move to the API whatever all its stages serve.

    An API's own fields, which no stage serves, are lost where they differ from the deployed ones.
    """
    return replace(resources, apis=tuple(map(_flattened_api, resources.apis)))


def _of(items: Items, kind: type[T]) -> list[T]:
    return [item for item in items.values() if isinstance(item, kind)]


def _apis(items: Items, taken: set[str]) -> Iterator[Api]:
    deployments = {(found.api_id, found.id): found.snapshot for found in _of(items, StoredDeployment)}
    stages: dict[str, list[Stage]] = {api.id: [] for api in _of(items, RestApi)}
    for stage in _of(items, StoredStage):
        if snapshot := deployments.get((stage.api_id, stage.deployment_id)):
            settings = {
                name: MethodSetting(given.get(RATE), given.get(BURST))  # the two of AWS's settings that act here
                for name, given in stage.method_settings.items()
                if named_method(name)
            }
            stages.setdefault(stage.api_id, []).append(
                Stage(stage.stage_name, method_settings=settings, variables=stage.variables, deployment=snapshot)
            )
    drafts = {api.id: api for api in _of(items, RestApi)}
    for api_id in (api_id for api_id in stages if api_id not in taken):
        api = Api(id=api_id, stages=tuple(stages[api_id]))
        yield _with_draft(api, drafts[api_id]) if api_id in drafts else api


def _with_draft(api: Api, draft: RestApi) -> Api:
    """Apply the fields of a stored API, which no deployment has frozen yet."""
    source: Any = draft.api_key_source
    return replace(
        api,
        name="" if draft.name == draft.id else draft.name,
        api_key_source=source,
        forward_api_key=draft.forward_api_key,
        cost_from=draft.cost_from,
        resources=dict(sorted(served_methods(draft).items())),
        key_sources=api.key_sources if draft.key_sources is None else draft.key_sources,
        authorizer=draft.authorizer or api.authorizer,
    )


def _with_hosts(apis: tuple[Api, ...], domains: Iterable[DomainName]) -> tuple[Api, ...]:
    taken = {(host.host.lower(), host.base_path) for api in apis for host in api.hosts}
    added: dict[str, list[Host]] = {}
    for domain in domains:
        for mapping in domain.mappings:
            if (domain.domain_name.lower(), mapping.base_path) not in taken:
                host = Host(domain.domain_name.lower(), mapping.base_path, mapping.stage)
                added.setdefault(mapping.rest_api_id, []).append(host)
    return tuple(replace(api, hosts=(*api.hosts, *added[api.id])) if api.id in added else api for api in apis)


def _flattened_api(api: Api) -> Api:
    deployments = [stage.deployment for stage in api.stages]
    first = deployments[0] if deployments else None
    if first is None:
        return api
    shared = {name: getattr(first, name) for name in Deployment.__struct_fields__ if name != "gateway_responses"}
    if shared["authorizer"] == Api(id="default").authorizer:
        del shared["authorizer"]  # the default object itself counts as unset, an equal copy does not
        api = replace(api, authorizer=Api(id="default").authorizer)
    plain = replace(api, **shared, stages=())
    common = replace(deployment_of(plain), gateway_responses={})
    stages = tuple(
        replace(stage, deployment=None, gateway_responses=stage.deployment.gateway_responses)
        if stage.deployment and replace(stage.deployment, gateway_responses={}) == common
        else stage
        for stage in api.stages
    )
    return replace(plain, stages=stages)


# --- from the file ------------------------------------------------------------------------------------------------


def from_resources(resources: Resources, created: int = 0, index: Callable[[bytes], str] = bytes.hex) -> Items:
    """Return a file's resources as items of a store, dated `created` (Unix seconds). The same file gives the same ids.

    `index` turns the SHA-256 of a key's value into the key's index in the store. Values are left out.
    """
    account = resources.account
    items: list[Item] = [] if account == Account() else [StoredAccount(account)]
    for api in resources.apis:
        items += [_rest_api(api, created), *_stages(api, created)]
    domains: dict[str, list[BasePathMapping]] = {}
    for api in resources.apis:
        for host in api.hosts:
            domains.setdefault(host.host.lower(), []).append(BasePathMapping(host.base_path, api.id, host.stage))
    items += [DomainName(name, created, tuple(mappings)) for name, mappings in domains.items()]
    plans = [StoredPlan(replace(plan, keys=())) for plan in resources.usage_plans]
    items += plans
    refs: dict[str, list[str]] = {}
    for plan, stored in zip(resources.usage_plans, plans, strict=True):
        for key_id in plan.keys:
            refs.setdefault(key_id, []).append(stored.ref)
    for key in resources.api_keys:
        bare = replace(key, value=None, value_sha256=None, overrides={})
        plans_of = tuple(refs.get(key.id, ()))  # a plan of a file is its own reference
        items.append(StoredKey(bare, index(digest_of(key)), created, created, plans=plans_of, overrides=key.overrides))
    for customer in resources.customers:
        bare_customer = replace(customer, overrides={})
        items.append(StoredCustomer(bare_customer, created, created, customer.overrides))
    return {(kind_of(item), id_of(item)): item for item in items}


def deployment_of(api: Api, stage: Stage | None = None) -> Deployment:
    """Return the deployment of a stage of the file: its own, or else its API's fields with the stage's responses."""
    if stage and stage.deployment:
        return stage.deployment
    return Deployment(
        api_key_source=api.api_key_source,
        key_sources=api.key_sources,
        authorizer=api.authorizer,
        forward_api_key=api.forward_api_key,
        resources=api.resources,
        gateway_responses=stage.gateway_responses if stage else {},
        cost_from=api.cost_from,
    )


def stable_id(*parts: str) -> str:
    """Return an id that looks like AWS's. The same parts always give the same id."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8])
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[number // 36**place % 36] for place in range(ID_LENGTH))


def resource_tree(
    api_id: str, methods: Mapping[str, Mapping[HttpMethod, StoredMethod]]
) -> tuple[str, dict[str, StoredResource]]:
    """Return the id of the root, and all nodes by id, including those between the root and a path with methods."""
    paths = set()
    for path in methods:
        segments = path.strip("/").split("/") if path.strip("/") else []
        paths |= {"/" + "/".join(segments[:depth]) for depth in range(1, len(segments) + 1)}
    nodes = [StoredResource(stable_id(api_id, "/"), "/", methods=dict(methods.get("/", {})))]
    for path in sorted(paths):
        parent, _, part = path.rpartition("/")
        ids = stable_id(api_id, path), path, stable_id(api_id, parent or "/")
        nodes.append(StoredResource(*ids, part, dict(methods.get(path, {}))))
    return nodes[0].id, {node.id: node for node in nodes}


def plain_method(resource_id: str, method: Method) -> StoredMethod:
    """Return a method of a file, with the smallest integration that AWS's tools can deploy again."""
    return StoredMethod(
        api_key_required=method.api_key_required,
        method_integration=dict(integration_defaults("MOCK", resource_id)),
        cost=method.cost,
        cost_from=method.cost_from,
    )


def _rest_api(api: Api, created: int) -> RestApi:
    methods: dict[str, dict[HttpMethod, StoredMethod]] = {
        path: {verb: plain_method(stable_id(api.id, path), method) for verb, method in found.items()}
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
        cost_from=api.cost_from,
    )


def _stages(api: Api, created: int) -> Iterator[Item]:
    """Yield each stage and its deployment. Stages that serve the same resources share a deployment."""
    made: list[StoredDeployment] = []
    for stage in api.stages:
        snapshot = deployment_of(api, stage)
        deployment = next((known for known in made if known.snapshot == snapshot), None)
        if deployment is None:
            name = stable_id(api.id, "deployment", stage.name)
            deployment = StoredDeployment(name, api.id, created, snapshot, FROM_FILE)
            made.append(deployment)
            yield deployment
        settings = {}
        for method, setting in stage.method_settings.items():
            numbers = {RATE: setting.throttling_rate_limit, BURST: setting.throttling_burst_limit}
            settings[method] = {member: number for member, number in numbers.items() if number is not None}
        yield StoredStage(
            api_id=api.id,
            stage_name=stage.name,
            deployment_id=deployment.id,
            created_date=created,
            last_updated_date=created,
            method_settings=settings,
            variables=stage.variables,
        )

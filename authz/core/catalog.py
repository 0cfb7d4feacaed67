"""A configuration, compiled: everything that a request could need is worked out here, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from authz.core.credentials import Credentials
from authz.core.limits import Layer, Limit, Meter, Quota, Throttle, encoded, redis_key, throttle
from authz.core.methods import method_of
from authz.core.periods import period
from authz.core.request import Request
from authz.core.resources import (
    DEFAULT_ACCOUNT,
    Api,
    ApiKey,
    ApiStage,
    FailurePolicy,
    MethodSetting,
    Mode,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
    digest_of,
)
from authz.core.responses import Responses
from authz.core.routes import Route, Routes
from authz.core.verdict import Denied, Grant, Reason, Subject

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A usage plan as one of its api-stages sees it. Keys are spelt `ledger + key id`, `method[route]` around it."""

    id: str
    name: str
    shadow: bool
    failure_policy: FailurePolicy
    throttle: Throttle | None
    quota: QuotaSettings | None
    ledger: str
    history: str
    method: str
    method_throttles: Mapping[Route, tuple[str, Throttle]]


@dataclass(frozen=True, slots=True)
class _Caller:
    """A key: who it is, whether it may still call, and its plan on each (api, stage)."""

    id: str
    enabled: bool
    expires_us: int | None
    customer: str
    plans: Mapping[tuple[str, str], _Plan]


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage: the subject of its requests, and the limits that hold for all callers of a route."""

    subject: Subject
    limits: Mapping[Route, tuple[Limit, ...]]


@dataclass(frozen=True, slots=True)
class _Api:
    id: str
    routes: Routes
    credentials: Credentials
    stages: Mapping[str, _Stage]


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A base path of a host, as segments, and where it leads."""

    base: tuple[str, ...]
    api: str
    stage: str | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Who may call what, and under which limits. Immutable; a reload makes another."""

    apis: Mapping[str, _Api]
    by_first_label: Mapping[str, _Api]
    hosts: Mapping[str, tuple[_Mapping, ...]]
    callers: Mapping[bytes, _Caller]
    failure_policy: FailurePolicy

    @classmethod
    def compile(
        cls,
        resources: Resources,
        account_id: str = DEFAULT_ACCOUNT,
        failure_policy: FailurePolicy = FailurePolicy.LOCAL,
    ) -> Catalog:
        """Compile resources that `rules.problems` finds nothing wrong with."""
        apis = {api.id: _compile_api(api, resources, account_id) for api in resources.apis}
        return cls(
            apis=apis,
            by_first_label={api.id.lower(): api for api in reversed(apis.values())},
            hosts=_compile_hosts(resources.apis),
            callers=_compile_callers(resources, apis, account_id, failure_policy),
            failure_policy=failure_policy,
        )

    def resolve(self, request: Request, now: int) -> Grant | Denied:
        """Who is calling what, and which limits cover the call. `now` is in microseconds of Unix time."""
        found = self._locate(request)
        if isinstance(found, Reason):
            return Denied(found)
        api, stage_name, path = found
        stage = api.stages.get(stage_name)
        if stage is None:
            return Denied(Reason.UNKNOWN_STAGE, Subject(api=api.id, credentials=api.credentials))
        route = _route(api, request, path)
        if route is None:
            return Denied(Reason.UNKNOWN_METHOD, stage.subject)
        if not route.api_key_required:
            subject = replace(stage.subject, route=route, path=path)
            return Grant(subject, stage.limits[route], None, self.failure_policy)
        return self._metered(request, stage, route, path, now)

    def _locate(self, request: Request) -> tuple[_Api, str, str] | Reason:
        """The API, the name of the stage, and the path that is left to be matched (R11)."""
        path, host = request.path.partition("?")[0], _hostname(request.host)
        mapping = self._mapping(host, path)
        named = request.extensions.get("api")
        api = self.apis.get(named) if named else self._api_of_host(host, mapping)
        if api is None:
            return Reason.UNKNOWN_API
        if stage := request.extensions.get("stage"):
            return api, stage, path
        if mapping and mapping.api == api.id:
            path = _without(path, len(mapping.base))
            if mapping.stage:
                return api, mapping.stage, path
        return api, path[1:].partition("/")[0], _without(path, 1)

    def _mapping(self, host: str, path: str) -> _Mapping | None:
        """The longest base path of the host that the path begins with, segment by segment."""
        segments = tuple(path[1:].split("/"))
        return next((m for m in self.hosts.get(host, ()) if segments[: len(m.base)] == m.base), None)

    def _api_of_host(self, host: str, mapping: _Mapping | None) -> _Api | None:
        if mapping:
            return self.apis[mapping.api]
        if host in self.hosts:  # a custom domain answers below its base paths only
            return None
        first = self.by_first_label.get(host.partition(".")[0])  # a host name has no case; an id does
        return first or (next(iter(self.apis.values())) if len(self.apis) == 1 else None)

    def _metered(self, request: Request, stage: _Stage, route: Route, path: str, now: int) -> Grant | Denied:
        subject = replace(stage.subject, route=route, path=path)
        value = self.apis[subject.api].credentials.find(request)
        if not value:
            return Denied(Reason.KEY_MISSING, subject)
        # A comma is Envoy's joint between two headers: never part of a key, even where a digest would match (R12).
        caller = None if "," in value else self.callers.get(digest(value))
        if caller is None:
            return Denied(Reason.KEY_UNKNOWN, subject)
        subject = replace(subject, key=caller.id, customer=caller.customer)
        if not caller.enabled:
            return Denied(Reason.KEY_DISABLED, subject)
        if caller.expires_us is not None and caller.expires_us <= now:
            return Denied(Reason.KEY_EXPIRED, subject)
        plan = caller.plans.get((subject.api, subject.stage))
        if plan is None:
            return Denied(Reason.NO_PLAN, subject)
        return Grant(
            subject=replace(subject, plan=plan.id, plan_name=plan.name),
            limits=(*_plan_limits(plan, caller.id, route, now), *stage.limits[route]),
            meter=Meter(plan.ledger + caller.id, plan.history + caller.id),
            failure_policy=plan.failure_policy,
        )


def _route(api: _Api, request: Request, path: str) -> Route | None:
    verb = (request.extensions.get("method") or request.method).upper()  # `get` must not slip past GET to ANY
    resource = request.extensions.get("resource")
    return api.routes.named(resource, verb) if resource else api.routes.match(path, verb)


def _plan_limits(plan: _Plan, key: str, route: Route, now: int) -> Iterator[Limit]:
    """Layers 1 to 3, in the order that names the refusal."""
    if plan.throttle:
        yield Limit(Layer.PLAN_THROTTLE, plan.ledger + key, plan.throttle, plan.shadow)
    if found := plan.method_throttles.get(route):
        suffix, rule = found
        yield Limit(Layer.PLAN_METHOD_THROTTLE, plan.method + key + suffix, rule, plan.shadow)
    if plan.quota:
        window = period(plan.quota, now)
        quota = Quota(plan.quota.limit, window.start, window.end)
        yield Limit(Layer.PLAN_QUOTA, plan.ledger + key, quota, plan.shadow)


def _hostname(authority: str) -> str:
    """`Example.org:443` is `example.org`; the brackets of an IPv6 address stay."""
    host = authority.lower()
    name, _, port = host.rpartition(":")
    return (name if name and (port.isdigit() or not port) else host).rstrip(".")


def _without(path: str, segments: int) -> str:
    """The path after so many segments; what is left always begins with a slash."""
    return "/" + "/".join(path[1:].split("/")[segments:])


def _compile_api(api: Api, resources: Resources, account_id: str) -> _Api:
    routes, credentials = Routes(api.resources), Credentials.of(api)
    shared = tuple(_account_limits(resources, account_id))
    stages = {stage.name: _compile_stage(api, stage, routes, credentials, account_id, shared) for stage in api.stages}
    return _Api(api.id, routes, credentials, stages)


def _account_limits(resources: Resources, account_id: str) -> Iterator[Limit]:
    if rule := _bucket(resources.account.throttle_settings):
        yield Limit(Layer.ACCOUNT_THROTTLE, redis_key(account_id, "account"), rule)


def _compile_stage(
    api: Api, stage: Stage, routes: Routes, credentials: Credentials, account_id: str, shared: tuple[Limit, ...]
) -> _Stage:
    settings = {method_of(name): setting for name, setting in stage.method_settings.items()}
    limits: dict[Route, tuple[Limit, ...]] = dict.fromkeys(routes, shared)
    for route in routes:
        if rule := stage_bucket(_setting(settings, route)):
            key = redis_key(account_id, "stage", api.id, stage.name, route.resource, route.method)
            limits[route] = (Limit(Layer.STAGE_METHOD_THROTTLE, key, rule), *shared)
    responses = Responses.compile(stage.gateway_responses)
    subject = Subject(api.id, stage.name, stage_variables=stage.variables, credentials=credentials, responses=responses)
    return _Stage(subject, limits)


def _setting(settings: Mapping[tuple[str, str], T], route: Route) -> T | None:
    """The most specific entry: the method's own, else its resource's wildcard, else the stage's."""
    for name in ((route.resource, route.method), (route.resource, "*"), ("*", "*")):
        if name in settings:
            return settings[name]
    return None


def _bucket(settings: ThrottleSettings | None) -> Throttle | None:
    return throttle(settings.rate_limit, settings.burst_limit) if settings else None


def stage_bucket(setting: MethodSetting | None) -> Throttle | None:
    """The bucket of a stage's method setting, where a rate of -1 is no limit (R5)."""
    if setting is None or setting.throttling_rate_limit == -1:
        return None
    burst = setting.throttling_burst_limit
    return throttle(setting.throttling_rate_limit, None if burst == -1 else burst)


def _compile_hosts(apis: Iterable[Api]) -> dict[str, tuple[_Mapping, ...]]:
    hosts: dict[str, list[_Mapping]] = {}
    for api in apis:
        for host in api.hosts:
            base = tuple(filter(None, host.base_path.split("/")))
            hosts.setdefault(host.host.lower(), []).append(_Mapping(base, api.id, host.stage))
    return {name: tuple(sorted(found, key=lambda m: -len(m.base))) for name, found in hosts.items()}


def _compile_callers(
    resources: Resources, apis: Mapping[str, _Api], account_id: str, failure_policy: FailurePolicy
) -> dict[bytes, _Caller]:
    plans_of: dict[str, list[UsagePlan]] = {}
    for plan in resources.usage_plans:
        for key_id in plan.keys:
            plans_of.setdefault(key_id, []).append(plan)
    compiled = {plan.id: _compile_plan(plan, apis, account_id, failure_policy) for plan in resources.usage_plans}
    merged: dict[tuple[str, ...], Mapping[tuple[str, str], _Plan]] = {}

    def stages_of(key_id: str) -> Mapping[tuple[str, str], _Plan]:
        """Keys in the same plans share one mapping: a million keys have few different ones."""
        ids = tuple(plan.id for plan in plans_of.get(key_id, ()))
        if ids not in merged:
            merged[ids] = {place: plan for plan_id in ids for place, plan in compiled[plan_id].items()}
        return merged[ids]

    return {digest_of(key): _compile_caller(key, stages_of(key.id)) for key in resources.api_keys}


def _compile_caller(key: ApiKey, plans: Mapping[tuple[str, str], _Plan]) -> _Caller:
    expires = round(key.expires_at.timestamp() * 1_000_000) if key.expires_at else None
    return _Caller(key.id, key.enabled, expires, key.customer_id or "", plans)


def _compile_plan(
    plan: UsagePlan, apis: Mapping[str, _Api], account_id: str, failure_policy: FailurePolicy
) -> dict[tuple[str, str], _Plan]:
    common = _Plan(
        id=plan.id,
        name=plan.name,
        shadow=plan.mode is Mode.SHADOW,
        failure_policy=plan.failure_policy or failure_policy,
        throttle=_bucket(plan.throttle),
        quota=plan.quota,
        ledger=redis_key(account_id, "ledger", plan.id, ""),
        history=redis_key(account_id, "history", plan.id, ""),
        method=redis_key(account_id, "method", plan.id, ""),
        method_throttles={},
    )
    return {
        (stage.api_id, stage.stage): replace(common, method_throttles=_method_throttles(stage, apis[stage.api_id]))
        for stage in plan.api_stages
    }


def _method_throttles(stage: ApiStage, api: _Api) -> dict[Route, tuple[str, Throttle]]:
    """For each method with a throttle of its own: the end of its Redis key, after the caller's key id."""
    settings = {method_of(name): setting for name, setting in stage.throttle.items()}
    found: dict[Route, tuple[str, Throttle]] = {}
    for route in api.routes:
        if rule := _bucket(_setting(settings, route)):
            parts = (stage.api_id, stage.stage, route.resource, route.method)
            found[route] = ("".join(":" + encoded(part) for part in parts), rule)
    return found

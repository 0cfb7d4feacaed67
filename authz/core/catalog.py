"""A compiled configuration: everything that a request may need is computed once, here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeVar, get_args

from msgspec import Struct
from msgspec.structs import replace

from authz.core.credentials import Credentials
from authz.core.holders import (
    NO_OVERRIDES,
    NO_TERMS,
    Holder,
    Kind,
    Terms,
    further_name,
    kind_of,
    own_limit,
    quota_at,
    terms_of,
)
from authz.core.keyform import KeyForm
from authz.core.limits import Layer, Limit, Meter, Quota, Throttle, encoded, redis_key, throttle
from authz.core.methods import ANY, WILDCARD, method_of, most_specific
from authz.core.planrules import overridden
from authz.core.recent import Recent
from authz.core.request import Request
from authz.core.resources import (
    DEFAULT_ACCOUNT,
    Account,
    Anchor,
    Api,
    ApiKey,
    ApiStage,
    CostFrom,
    Counts,
    Deployment,
    FailurePolicy,
    LimitsPer,
    MethodSetting,
    Mode,
    Override,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
    digest_of,
)
from authz.core.routes import MAX_ODD, Route, Routes, has_dots, is_odd, readings, without
from authz.core.sources import Sources, client_address, sources_of
from authz.core.verdict import Denied, Grant, Reason, Subject

T = TypeVar("T")

NO_REFS: Final[Mapping[str, str]] = MappingProxyType({})


class _QuotaNow(Struct, gc=False):
    """A quota by its period. The period of the last call is kept, since most calls fall into it.

    `end` is the end of its Redis key after the owner; "" if its state is a slot of the owner's ledger. `name` is its
    limit's.
    """

    settings: QuotaSettings
    end: str
    name: str
    last: dict[int | None, Quota]  # by billing day, if that decides when a month begins

    @classmethod
    def of(cls, settings: QuotaSettings, *, in_ledger: bool) -> _QuotaNow:
        if in_ledger:
            return cls(settings, "", "", {})
        requests = "_requests" if settings.counts is Counts.REQUESTS else ""
        name = f"{Layer.PLAN_QUOTA}_{settings.period.lower()}{requests}"
        return cls(settings, _spelt(*further_name(settings)), name, {})

    def at(self, now: int, billing_day: int | None) -> Quota:
        settings = self.settings
        day = billing_day if settings.anchor is Anchor.BILLING_DAY else None
        last = self.last.get(day)
        if last and last.start <= now < last.end:
            return last
        self.last[day] = found = quota_at(settings, now, day)
        return found


class _MethodThrottles(Struct, gc=False):
    """A plan's throttles for the methods of a stage: by route, the end of the Redis key after the key id, and the rule.

    A wildcard covers every method of the stage. The entry of a method is made on its first call: most entries of ten
    thousand plans with a thousand methods each are never used.
    """

    stage: str
    rules: Mapping[tuple[str, str], Throttle | None]
    found: dict[Route, tuple[str, Throttle] | None]

    @classmethod
    def of(cls, stage: ApiStage) -> _MethodThrottles:
        rules = {method_of(name): _bucket(setting) for name, setting in stage.throttle.items()}
        return cls(_spelt(stage.api_id, stage.stage), rules, {})

    def get(self, route: Route) -> tuple[str, Throttle] | None:
        try:
            return self.found[route]
        except KeyError:
            rule = most_specific(self.rules, route.resource, route.method)
            end = self.stage + _spelt(route.resource, route.method)
            found = self.found[route] = (end, rule) if rule else None
            return found


class _Plan(Struct, frozen=True, gc=False):
    """A usage plan for one of its API stages. Its state in Redis is by key, or by customer."""

    id: str
    name: str
    shadow: bool
    failure_policy: FailurePolicy
    throttle: ThrottleSettings | None
    rule: Throttle | None  # of the throttle
    quotas: tuple[_QuotaNow, ...]
    per_customer: bool
    by_key: _Keys
    by_customer: _Keys
    history: str
    method_throttles: _MethodThrottles | Mapping[Route, tuple[str, Throttle]]  # none, or computed on the first call

    def holder_of(self, caller: Caller, ref: str) -> Holder:
        """Who has the limits of a call: the key or its customer. `ref` is the key's reference to the plan."""
        if self.per_customer and caller.customer:
            return Holder.of(caller.customer, caller.customer_terms, ref, is_customer=True)
        return Holder.of(caller.id, caller.terms, ref)


class _Keys(Struct, frozen=True, gc=False):
    """The Redis keys of a plan, each up to its holder. The end of a limit may follow the holder."""

    ledger: str
    method: str
    quota: str

    @classmethod
    def of(cls, account_id: str, plan_id: str, *, is_customer: bool) -> _Keys:
        return cls(*(redis_key(account_id, kind_of(kind, is_customer), plan_id, "") for kind in get_args(Kind)))


_Covered = Mapping[tuple[str, str], _Plan]  # a plan, by the (api, stage) it covers
GRANTS: Final = 32_768  # kept in memory; about 2 kB each after the first answer
FOREVER: Final = 1 << 63
NOTHING: Final[_Covered] = MappingProxyType({})
NO_THROTTLES: Final[Mapping[Route, tuple[str, Throttle]]] = {}


class Contract(Struct, frozen=True):
    """The settings of a caller's plan, and who has its limits."""

    holder: Holder
    throttle: ThrottleSettings | None
    quotas: tuple[QuotaSettings, ...]


class Caller(Struct, frozen=True, gc=False):
    """An API key as requests need it. `plans` are references to plans, `expires_us` is in µs of Unix time.

    `terms` are the key's own, `customer_terms` its customer's. Without `sources` the key may be used from anywhere.
    """

    id: str
    enabled: bool
    expires_us: int | None
    customer: str
    plans: tuple[str, ...]
    terms: Terms = NO_TERMS
    customer_terms: Terms = NO_TERMS
    sources: Sources | None = None

    def refusal(self, now: int) -> Reason | None:
        """The reason why the key opens nothing at `now`, in µs, from any address; None if it is good."""
        if not self.enabled:
            return Reason.KEY_DISABLED
        return Reason.KEY_EXPIRED if self.expires_us is not None and self.expires_us <= now else None


class Unlooked(Enum):
    """Marks a key that is not in memory: only the store knows whether it exists."""

    UNLOOKED = "unlooked"


UNLOOKED: Final = Unlooked.UNLOOKED
Find = Callable[[bytes], Caller | Unlooked | None]  # takes the SHA-256 of a key's value


class KeyNeeded(Struct, frozen=True, gc=False):
    """The request cannot be resolved before the key with this digest is looked up in the store."""

    digest: bytes
    subject: Subject


class _MethodCost(Struct, frozen=True, gc=False):
    """The units of a call, and where Envoy's dynamic metadata may have another number."""

    units: int = 1
    source: CostFrom | None = None


class _Stage(Struct, frozen=True):
    """A stage: the subject of its requests, its routes, and the limits that all callers of a route share.

    `costs` has the methods, by resource and verb, whose cost is not `cost`. `verbs` maps a route of the method ANY to
    the routes of the single verbs that have settings of their own.
    """

    subject: Subject
    credentials: Credentials
    routes: Routes
    limits: Mapping[Route, tuple[Limit, ...]]
    verbs: Mapping[Route, Mapping[str, Route]]
    costs: Mapping[tuple[str, str], _MethodCost]
    cost: _MethodCost


@dataclass(frozen=True, slots=True)
class _Api:
    id: str
    stages: Mapping[str, _Stage]


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A base path of a host, as segments, and where it leads."""

    base: tuple[str, ...]
    api: str
    stage: str | None


_Place = tuple[str, int, int, int]  # ids of caller, stage and route, and the segments of the path before the resource


class _Kept(Struct, frozen=True, gc=False):
    """A caller's grant, valid in [since, until), in µs of Unix time, while `caller` is unchanged."""

    caller: Caller | None
    since: int
    until: int
    grant: Grant


@dataclass(frozen=True, slots=True)
class Catalog:
    """The callers, the methods and their limits. Immutable except for the cache `granted`; a reload makes a new one."""

    apis: Mapping[str, _Api]
    by_first_label: Mapping[str, _Api]
    hosts: Mapping[str, tuple[_Mapping, ...]]
    plans: Mapping[str, _Covered]
    callers: Mapping[bytes, Caller]
    failure_policy: FailurePolicy
    customers: Mapping[str, Terms] = field(default_factory=dict)
    form: KeyForm | None = None  # of the values that are made here
    granted: Recent[_Place, _Kept] = field(default_factory=lambda: Recent(GRANTS), compare=False)

    @classmethod
    def compile(
        cls,
        resources: Resources,
        account_id: str = DEFAULT_ACCOUNT,
        failure_policy: FailurePolicy = FailurePolicy.LOCAL,
        refs: Mapping[str, str] = NO_REFS,
    ) -> Catalog:
        """Compile resources in which `rules.problems` finds no mistake, except for dangling references.

        Callers name a plan by its reference in `refs`, or by its id if `refs` lacks it.
        """
        return Compiler(account_id, failure_policy)(resources, refs)

    def resolve(self, request: Request, now: int, find: Find | None = None) -> Grant | Denied | KeyNeeded:
        """Find the caller, the method and the limits of a request. `now` is in microseconds of Unix time.

        `find` looks up keys that the file does not have. Without it only the file's keys exist.
        """
        # A tunnel (CONNECT) has no path, and `OPTIONS *` names none of ours.
        if request.method == "CONNECT" or not request.path.startswith("/"):
            return Denied(Reason.UNKNOWN_METHOD)
        found = self._locate(request)
        if isinstance(found, Reason):
            return Denied(found)
        api, stage_name, path, skip = found
        stage = api.stages.get(stage_name)
        if stage is None:
            return Denied(Reason.UNKNOWN_STAGE, Subject(api=api.id))
        route = _route(stage, request, path)
        if route is None:
            return Denied(Reason.UNKNOWN_METHOD, stage.subject)
        if not route.api_key_required:
            # All callers share the grant of a method that needs no key.
            kept = self.granted.get(place := ("", id(stage), id(route), skip))
            if kept is None:
                grant = Grant(_subject(stage, route, skip), stage.limits[route], None, self.failure_policy)
                kept = _Kept(None, 0, FOREVER, grant)
                self.granted.put(place, kept)
            return kept.grant
        return self._metered(request, stage, route, skip, now, find)

    def _locate(self, request: Request) -> tuple[_Api, str, str, int] | Reason:
        """The API, the name of the stage, the rest of the path, and the number of segments before the rest."""
        path, host = request.path.partition("?")[0], _hostname(request.host)
        mapping = self._mapping(host, path) if self.hosts else None
        # Envoy picked its route, and so perhaps the API, by the path as sent: other readings must not lead elsewhere.
        if mapping and is_odd(path) and not self._only_mapping(host, path, mapping):
            return Reason.UNKNOWN_API
        named = request.extensions.get("api")
        api = self.apis.get(named) if named else self._api_of_host(host, mapping)
        if api is None:
            return Reason.UNKNOWN_API
        if stage := request.extensions.get("stage"):
            return api, stage, path, 0
        skip = 0
        if mapping and mapping.api == api.id:
            skip = len(mapping.base)
            path = "/" + path[1:] if skip == 0 else without(path, skip)
            if mapping.stage:
                return api, mapping.stage, path, skip
        first, _, rest = path[1:].partition("/")
        return api, first, "/" + rest, skip + 1

    def _mapping(self, host: str, path: str) -> _Mapping | None:
        """The mapping with the longest base path of the host that `path` begins with, segment by segment."""
        mappings = self._mappings(host)
        if not mappings:
            return None
        segments = tuple(path[1:].split("/"))
        return next((m for m in mappings if segments[: len(m.base)] == m.base), None)

    def _only_mapping(self, host: str, path: str, mapping: _Mapping) -> bool:
        """True if every reading of an odd path has this mapping, or if it is the host's only one, without base path."""
        if len(self._mappings(host) or ()) == 1 and not mapping.base:
            return True
        return len(path) <= MAX_ODD and all(self._mapping(host, one) is mapping for one in readings(path))

    def _mappings(self, host: str) -> tuple[_Mapping, ...] | None:
        """The mappings of the host, or else of the wildcard in place of its first label."""
        return self.hosts.get(host) or self.hosts.get(f"*.{host.partition('.')[2]}")

    def _api_of_host(self, host: str, mapping: _Mapping | None) -> _Api | None:
        if mapping:
            return self.apis[mapping.api]
        if self._mappings(host):  # a custom domain answers below its base paths only
            return None
        first = self.by_first_label.get(host.partition(".")[0])  # a host name has no case; an id does
        return first or (next(iter(self.apis.values())) if len(self.apis) == 1 else None)

    def is_only(self, authority: str) -> bool:
        """True if a request to this host reaches an API only because there is no other API."""
        host = _hostname(authority)
        return host not in self.hosts and host.partition(".")[0] not in self.by_first_label and len(self.apis) == 1

    def stage_of(self, request: Request) -> str:
        """The name of the stage in a request, even if there is no such stage; "" if no API is found."""
        found = self._locate(request)
        return "" if isinstance(found, Reason) else found[1]

    def _metered(
        self, request: Request, stage: _Stage, route: Route, skip: int, now: int, find: Find | None
    ) -> Grant | Denied | KeyNeeded:
        value = stage.credentials.find(request)
        if not value:
            return Denied(Reason.KEY_MISSING, _subject(stage, route, skip))
        # Envoy joins two headers with a comma: a key never has one, even if the digest of the value matches.
        if "," in value:
            return Denied(Reason.KEY_UNKNOWN, _subject(stage, route, skip))
        hashed = digest(value)
        caller = self.callers.get(hashed) or (find(hashed) if find else None)  # the file's keys come first
        if caller is None:
            return Denied(Reason.KEY_UNKNOWN, _subject(stage, route, skip))
        if caller is UNLOOKED:
            if self.form and self.form.is_mistyped(value):  # no key that we made, so the store need not be queried
                return Denied(Reason.KEY_UNKNOWN, _subject(stage, route, skip))
            return KeyNeeded(hashed, _subject(stage, route, skip))
        # Stages and routes live as long as the catalog, so `id()` identifies them; it is the cheapest to compare.
        kept = self.granted.get(place := (caller.id, id(stage), id(route), skip))
        if kept and kept.caller is caller and kept.since <= now < kept.until:
            granted: Grant | Denied = kept.grant
        else:
            granted = self._granted(caller, stage, route, skip, now, place)
        return granted if caller.sources is None else _from_source(granted, caller.sources, request)

    def resolve_as(self, caller: Caller, request: Request, now: int) -> Grant | Denied:
        """Resolve a request without a key as if `caller` had sent its key, from an allowed address if it has none."""
        located = self._locate(request)
        if isinstance(located, Reason):
            return Denied(located)
        api, stage_name, path, skip = located
        stage = api.stages.get(stage_name)
        route = _route(stage, request, path) if stage else None
        if stage is None or route is None:
            return Denied(Reason.UNKNOWN_METHOD, Subject(api=api.id))
        granted = self._granted(caller, stage, route, skip, now, (caller.id, id(stage), id(route), skip))
        if caller.sources is None or not client_address(request):
            return granted
        return _from_source(granted, caller.sources, request)

    def caller(self, key_id: str) -> Caller | None:
        """The file's key with this id. Searches all keys."""
        return next((caller for caller in self.callers.values() if caller.id == key_id), None)

    def _granted(
        self, caller: Caller, stage: _Stage, route: Route, skip: int, now: int, place: _Place
    ) -> Grant | Denied:
        sent, caller = caller, self._on_terms(caller)
        if reason := caller.refusal(now):
            return Denied(reason, _subject(stage, route, skip, caller))
        ref, plan = self._plan(caller, stage.subject)
        if plan is None:
            return Denied(Reason.NO_PLAN, _subject(stage, route, skip, caller))
        holder = plan.holder_of(caller, ref)
        limits = tuple(_plan_limits(plan, holder, route, now))
        quotas = [limit.rule for limit in limits if isinstance(limit.rule, Quota)]
        shared = plan.by_customer.ledger + encoded(holder.id) if holder.is_customer else ""
        cost = stage.costs.get((route.resource, route.method), stage.cost)
        grant = Grant(
            _subject(stage, route, skip, caller, plan),
            (*limits, *stage.limits[route]),
            Meter(plan.by_key.ledger + caller.id, plan.history + caller.id, shared),
            plan.failure_policy,
            cost.units,
            cost.source,
            has_overage=any(quota.overage for quota in quotas),
        )
        since = max((quota.start for quota in quotas), default=0)
        until = min((quota.end for quota in quotas), default=FOREVER)
        if caller.expires_us is not None:
            until = min(until, caller.expires_us)
        self.granted.put(place, _Kept(sent, since, until, grant))
        return grant

    def contract(self, caller: Caller, subject: Subject) -> Contract | None:
        """The caller's contract for the stage of a subject; None without a plan."""
        caller = self._on_terms(caller)
        ref, plan = self._plan(caller, subject)
        if plan is None:
            return None
        return Contract(plan.holder_of(caller, ref), plan.throttle, tuple(quota.settings for quota in plan.quotas))

    def _on_terms(self, caller: Caller) -> Caller:
        """The caller on the terms of its customer in the file, which come before the store's."""
        terms = self.customers.get(caller.customer)
        if terms is None:
            return caller
        return replace(caller, customer_terms=terms)

    def _plan(self, caller: Caller, subject: Subject) -> tuple[str, _Plan | None]:
        """The caller's plan for a stage, and its reference. A reference that this catalog lacks covers nothing."""
        place = subject.api, subject.stage
        for ref in caller.plans:
            if plan := self.plans.get(ref, NOTHING).get(place):
                return ref, plan
        return "", None


class Compiler:
    """Compiles resources whenever they change, and reuses the unchanged parts of the last catalog."""

    def __init__(
        self,
        account_id: str = DEFAULT_ACCOUNT,
        failure_policy: FailurePolicy = FailurePolicy.LOCAL,
        form: KeyForm | None = None,
    ) -> None:
        self._account_id = account_id
        self._failure_policy = failure_policy
        self._form = form
        self._account: Account | None = None
        self._apis: dict[str, tuple[Api, _Api]] = {}
        self._plans: dict[str, tuple[UsagePlan, _Covered]] = {}
        self._callers: _Callers | None = None

    def __call__(self, resources: Resources, refs: Mapping[str, str] = NO_REFS) -> Catalog:
        """Compile as `Catalog.compile` does. Not for two threads at once."""
        apis = self._compile_apis(resources)
        plans = self._compile_plans(resources, refs, apis)
        customers = {}
        for customer in resources.customers:
            overrides = {refs.get(plan_id, plan_id): override for plan_id, override in customer.overrides.items()}
            customers[customer.id] = terms_of(customer.billing_day, overrides)
        return Catalog(
            apis=apis,
            by_first_label={api.id.lower(): api for api in reversed(apis.values())},
            hosts=_compile_hosts(resources.apis),
            plans=plans,
            callers=self._compile_callers(resources, refs),
            failure_policy=self._failure_policy,
            customers=customers,
            form=self._form,
        )

    def _compile_apis(self, resources: Resources) -> dict[str, _Api]:
        last = self._apis if resources.account == self._account else {}
        self._account, self._apis = resources.account, {}
        for api in resources.apis:
            kept = last.get(api.id)
            compiled = kept[1] if kept and kept[0] == api else _compile_api(api, resources, self._account_id)
            self._apis[api.id] = api, compiled
        return {api_id: compiled for api_id, (_, compiled) in self._apis.items()}

    def _compile_plans(
        self, resources: Resources, refs: Mapping[str, str], apis: Mapping[str, _Api]
    ) -> dict[str, _Covered]:
        last, self._plans = self._plans, {}
        for full in resources.usage_plans:
            plan = replace(full, keys=()) if full.keys else full  # the callers hold the keys
            kept = last.get(plan.id)
            if not (kept and kept[0] == plan and _covers_the_same(plan, kept[1], apis)):
                kept = plan, _compile_plan(plan, apis, self._account_id, self._failure_policy)
            self._plans[plan.id] = kept
        return {refs.get(plan_id, plan_id): covered for plan_id, (_, covered) in self._plans.items()}

    def _compile_callers(self, resources: Resources, refs: Mapping[str, str]) -> Mapping[bytes, Caller]:
        """Compile the file's keys. With a store, each reload brings the same keys, so the result is kept."""
        members = tuple((refs.get(plan.id, plan.id), plan.keys) for plan in resources.usage_plans if plan.keys)
        last = self._callers
        if last and last.keys is resources.api_keys and last.members == members:
            return last.compiled
        compiled = _compile_callers(resources.api_keys, members)
        self._callers = None if refs is NO_REFS else _Callers(resources.api_keys, members, compiled)
        return compiled


_Members = tuple[tuple[str, tuple[str, ...]], ...]  # a plan's reference and the ids of its keys


class _Callers(Struct, frozen=True, gc=False):
    """Compiled callers and their source."""

    keys: tuple[ApiKey, ...]
    members: _Members
    compiled: Mapping[bytes, Caller]


def _covers_the_same(plan: UsagePlan, covered: _Covered, apis: Mapping[str, _Api]) -> bool:
    """True if a plan covers the stages that it was compiled for: a stage may have come or gone."""
    found = {
        (stage.api_id, stage.stage)
        for stage in plan.api_stages
        if (api := apis.get(stage.api_id)) and stage.stage in api.stages
    }
    return found == covered.keys()


def _route(stage: _Stage, request: Request, path: str) -> Route | None:
    if has_dots(path):
        return None
    verb = (request.extensions.get("method") or request.method).upper()  # `get` must not slip past GET to ANY
    resource = request.extensions.get("resource")
    route = stage.routes.named(resource, verb) if resource else stage.routes.match(path, verb)
    if route and stage.verbs and route in stage.verbs:  # a route is hashed field by field
        return stage.verbs[route].get(verb, route)
    return route


def _subject(
    stage: _Stage, route: Route, skip: int, caller: Caller | None = None, plan: _Plan | None = None
) -> Subject:
    """The stage's subject with route, caller and plan."""
    base = stage.subject
    return Subject(
        base.api,
        base.stage,
        route,
        skip,
        caller.id if caller else "",
        plan.id if plan else "",
        plan.name if plan else "",
        caller.customer if caller else "",
        base.stage_variables,
        base.credentials,
        base.responses,
    )


def _from_source(granted: Grant | Denied, sources: Sources, request: Request) -> Grant | Denied:
    """Refuse a good key that is used from an address outside of its sources, before anything is charged."""
    if isinstance(granted, Denied) or sources.admits(client_address(request)):
        return granted
    return Denied(Reason.SOURCE_NOT_ALLOWED, granted.subject)


def _plan_limits(plan: _Plan, holder: Holder, route: Route, now: int) -> Iterator[Limit]:
    """Layers 1 to 3, in the order that names the refusal.

    An override's numbers replace those of the plan's throttle and quotas.
    """
    keys, name = (plan.by_customer, encoded(holder.id)) if holder.is_customer else (plan.by_key, holder.id)
    ledger, override, rule = keys.ledger + name, holder.override, plan.rule
    if override and override.throttle and plan.throttle:
        rule = _bucket(overridden(plan.throttle, override.throttle))
    if rule:
        yield Limit(Layer.PLAN_THROTTLE, ledger, rule, plan.shadow)
    if found := plan.method_throttles.get(route):
        suffix, rule = found
        yield Limit(Layer.PLAN_METHOD_THROTTLE, keys.method + name + suffix, rule, plan.shadow)
    settings = [quota.settings for quota in plan.quotas]
    for quota in plan.quotas:
        key = keys.quota + name + quota.end if quota.end else ledger
        current = quota.at(now, holder.billing_day)
        limit = own_limit(quota.settings, override, settings)
        if limit != current.limit:
            current = replace(current, limit=limit)
        yield Limit(Layer.PLAN_QUOTA, key, current, plan.shadow, quota.name)


@lru_cache(maxsize=1024)
def _hostname(authority: str) -> str:
    """`Example.org:443` is `example.org`; the brackets of an IPv6 address stay."""
    host = authority.lower()
    name, _, port = host.rpartition(":")
    return (name if name and (port.isdigit() or not port) else host).rstrip(".")


def _compile_api(api: Api, resources: Resources, account_id: str) -> _Api:
    own = _Served.of(api)
    rule = _bucket(resources.account.throttle_settings)
    shared = (Limit(Layer.ACCOUNT_THROTTLE, redis_key(account_id, "account"), rule),) if rule else ()
    stages = {}
    for stage in api.stages:
        served = _Served.of(stage.deployment) if stage.deployment else own
        stages[stage.name] = _compile_stage(api, stage, served, account_id, shared)
    return _Api(api.id, stages)


@dataclass(frozen=True, slots=True)
class _Served:
    """What a stage serves. All stages without a deployment share the routes, credentials and costs of the API."""

    routes: Routes
    credentials: Credentials
    costs: Mapping[tuple[str, str], _MethodCost]
    cost: _MethodCost

    @classmethod
    def of(cls, served: Api | Deployment) -> _Served:
        common = _MethodCost(1, served.cost_from)
        costs: dict[tuple[str, str], _MethodCost] = {
            (resource, verb): cost
            for resource, methods in served.resources.items()
            for verb, method in methods.items()
            if (cost := _MethodCost(method.cost, method.cost_from or served.cost_from)) != common
        }
        return cls(Routes(served.resources), Credentials.of(served), costs, common)


def _compile_stage(api: Api, stage: Stage, served: _Served, account_id: str, shared: tuple[Limit, ...]) -> _Stage:
    settings = {method_of(name): setting for name, setting in stage.method_settings.items()}
    verbs = {route: own for route in served.routes if (own := _own_verbs(settings, route))}
    limits: dict[Route, tuple[Limit, ...]] = {}
    for route in (*served.routes, *(route for own in verbs.values() for route in own.values())):
        limits[route] = shared
        if rule := stage_bucket(most_specific(settings, route.resource, route.verb or route.method)):
            key = redis_key(account_id, "stage", api.id, stage.name, route.resource, route.verb or route.method)
            limits[route] = (Limit(Layer.STAGE_METHOD_THROTTLE, key, rule), *shared)
    subject = Subject(
        api=api.id,
        stage=stage.name,
        stage_variables=stage.variables,
        credentials=served.credentials,
        responses=(stage.deployment or stage).gateway_responses,
    )
    return _Stage(subject, served.credentials, served.routes, limits, verbs, served.costs, served.cost)


def _own_verbs(settings: Mapping[tuple[str, str], MethodSetting], route: Route) -> dict[str, Route]:
    """The routes of the verbs that ANY serves, but that have settings, and so a bucket, of their own."""
    if route.method != ANY:
        return {}
    named = (verb for resource, verb in settings if resource == route.resource and verb not in (ANY, WILDCARD))
    return {verb: Route(route.resource, ANY, route.api_key_required, verb) for verb in named}


def _spelt(*parts: str) -> str:
    """The end of a Redis key: these parts, encoded."""
    return "".join(":" + encoded(part) for part in parts)


@lru_cache(maxsize=4096)  # many plans share few rates
def _throttle(rate: float | None, burst: int | None, counts: Counts = Counts.REQUESTS) -> Throttle | None:
    rule = throttle(rate, burst)
    return replace(rule, counts_units=True) if rule and counts is Counts.UNITS else rule


def _bucket(settings: ThrottleSettings | None) -> Throttle | None:
    return _throttle(settings.rate_limit, settings.burst_limit, settings.counts) if settings else None


def stage_bucket(setting: MethodSetting | None) -> Throttle | None:
    """The bucket of a stage's method setting; a rate of -1 means no limit."""
    if setting is None or setting.throttling_rate_limit == -1:
        return None
    burst = setting.throttling_burst_limit
    return _throttle(setting.throttling_rate_limit, None if burst == -1 else burst)


def _compile_hosts(apis: Iterable[Api]) -> dict[str, tuple[_Mapping, ...]]:
    hosts: dict[str, list[_Mapping]] = {}
    for api in apis:
        for host in api.hosts:
            base = tuple(filter(None, host.base_path.split("/")))
            hosts.setdefault(host.host.lower(), []).append(_Mapping(base, api.id, host.stage))
    return {name: tuple(sorted(found, key=lambda m: -len(m.base))) for name, found in hosts.items()}


def _compile_callers(keys: Iterable[ApiKey], members: _Members) -> dict[bytes, Caller]:
    plans_of: dict[str, list[str]] = {}
    for ref, names in members:
        for name in names:
            plans_of.setdefault(name, []).append(ref)
    # Keys in the same plans share one tuple: a million keys have few different ones.
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    callers = {}
    for key in keys:
        plans = tuple(plans_of.get(key.id, ()))
        callers[digest_of(key)] = caller_of(key, shared.setdefault(plans, plans), key.overrides)
    return callers


def caller_of(
    key: ApiKey,
    plans: tuple[str, ...],
    overrides: Mapping[str, Override] = NO_OVERRIDES,
    customer: Terms = NO_TERMS,
) -> Caller:
    """The caller of a key. `plans` are references to its plans, and `overrides` are by such references."""
    expires = round(key.expires_at.timestamp() * 1_000_000) if key.expires_at else None
    return Caller(
        key.id,
        key.enabled,
        expires,
        key.customer_id or "",
        plans,
        terms_of(key.billing_day, overrides),
        customer,
        sources_of(key.allowed_sources) if key.allowed_sources else None,
    )


def _compile_plan(
    plan: UsagePlan, apis: Mapping[str, _Api], account_id: str, failure_policy: FailurePolicy
) -> dict[tuple[str, str], _Plan]:
    common = _Plan(
        id=plan.id,
        name=plan.name,
        shadow=plan.mode is Mode.SHADOW,
        failure_policy=plan.failure_policy or failure_policy,
        throttle=plan.throttle,
        rule=_bucket(plan.throttle),
        quotas=tuple(_QuotaNow.of(quota, in_ledger=quota is plan.quota) for quota in plan.all_quotas),
        per_customer=plan.limits_per is LimitsPer.CUSTOMER,
        by_key=_Keys.of(account_id, plan.id, is_customer=False),
        by_customer=_Keys.of(account_id, plan.id, is_customer=True),
        history=redis_key(account_id, "history", plan.id, ""),
        method_throttles=NO_THROTTLES,
    )
    return {
        (covered.api_id, covered.stage): replace(common, method_throttles=_MethodThrottles.of(covered))
        if covered.throttle
        else common
        for covered in plan.api_stages
        if (api := apis.get(covered.api_id)) and covered.stage in api.stages
    }

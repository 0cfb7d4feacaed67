"""What plans, memberships, APIs and customers have beside AWS's members, as documents to read and write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from authz.aws.convert import customer_of
from authz.aws.patch import Document
from authz.aws.plans import check_quotas, checked_tags, refuse_any, refused
from authz.aws.restapis import check_api
from authz.core.bounds import MAX_NAME
from authz.core.methods import method_of
from authz.core.planrules import idle, override_problems
from authz.core.problem import Problem
from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    BillingDay,
    Cost,
    CostFrom,
    Counts,
    Customer,
    HttpMethod,
    LimitsPer,
    Override,
    QuotaSettings,
    Resource,
    Resources,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.rules import CONTROL
from authz.core.stored import RestApi, StoredCustomer, StoredKey, StoredMethod, StoredPlan, StoredResource

IN_CUSTOMER: Final = "$.customers[0]"


# --- plans --------------------------------------------------------------------------------------------------------


class ThrottleExtension(Resource, frozen=True):
    """What a throttle counts. Its numbers are AWS's."""

    counts: Counts = Counts.REQUESTS


class StageExtension(Resource, frozen=True):
    """What the throttles for methods of one stage count, by `/path/METHOD`."""

    api_id: str
    stage: str
    throttle: dict[str, ThrottleExtension] = {}


class PlanExtension(Resource, frozen=True):
    """The extension of a plan. `quotas` has all its quotas; without them AWS's quota stays as AWS knows it."""

    limits_per: LimitsPer = LimitsPer.KEY
    throttle: ThrottleExtension = ThrottleExtension()
    api_stages: tuple[StageExtension, ...] = ()
    quotas: tuple[QuotaSettings, ...] | None = None


def plan_extension(plan: UsagePlan) -> Document:
    """Return the extension of a plan as a document. Written again, it changes nothing."""
    stages = [
        {"apiId": stage.api_id, "stage": stage.stage, "throttle": counted}
        for stage in plan.api_stages
        if (counted := {name: {"counts": "UNITS"} for name, one in stage.throttle.items() if _counts_units(one)})
    ]
    document: Document = {"limitsPer": plan.limits_per.value, "quotas": msgspec.to_builtins(plan.all_quotas)}
    if _counts_units(plan.throttle):
        document["throttle"] = {"counts": "UNITS"}
    return document | ({"apiStages": stages} if stages else {})


def _counts_units(throttle: ThrottleSettings | None) -> bool:
    return throttle is not None and throttle.counts is Counts.UNITS


def with_plan_extension(plan: UsagePlan, given: PlanExtension) -> UsagePlan:
    """Return the plan with this extension in place of its own. Raises ApiError."""
    throttle = plan.throttle and replace(plan.throttle, counts=given.throttle.counts)
    if plan.throttle is None and given.throttle.counts is Counts.UNITS:
        raise refused([Problem("$.throttle.counts", "expected a plan with a throttle; this one has none")])
    quotas = given.quotas
    if quotas is None:  # AWS's quota, without the fields that AWS does not know
        quotas = (QuotaSettings(plan.quota.limit, plan.quota.period, plan.quota.offset),) if plan.quota else ()
    stages = _with_counts(plan.api_stages, given.api_stages)
    extended = replace(plan, throttle=throttle, limits_per=given.limits_per, api_stages=stages).with_quotas(quotas)
    check_quotas(extended)
    return extended


def _with_counts(stages: tuple[ApiStage, ...], given: tuple[StageExtension, ...]) -> tuple[ApiStage, ...]:
    """Let the throttles of methods count what `given` says, and requests where it says nothing. Raises ApiError."""
    counts: dict[tuple[str, str, tuple[str, str]], Counts] = {}
    known = {(stage.api_id, stage.stage, method_of(name)) for stage in stages for name in stage.throttle}
    for n, stage in enumerate(given):
        for name, throttle in stage.throttle.items():
            at = f"$.apiStages[{n}].throttle['{name}']"
            try:
                place = stage.api_id, stage.stage, method_of(name)
            except ValueError as broken:
                raise refused([Problem(at, str(broken))]) from None
            if place not in known:
                rule = f"expected a method with a throttle in the plan's stage {stage.api_id}:{stage.stage}"
                raise refused([Problem(at, rule)])
            counts[place] = throttle.counts

    def counted(stage: ApiStage) -> ApiStage:
        throttles = {
            name: replace(one, counts=counts.get((stage.api_id, stage.stage, method_of(name)), Counts.REQUESTS))
            for name, one in stage.throttle.items()
        }
        return replace(stage, throttle=throttles)

    return tuple(map(counted, stages))


# --- memberships and customers ------------------------------------------------------------------------------------


def check_override(plan: UsagePlan, apis: tuple[Api, ...], key: ApiKey, override: Override) -> list[str]:
    """Return warnings of an override without effect. Raises ApiError if the plans file would refuse it for the key.

    `apis` are those of the plan's stages.
    """
    member = replace(key, billing_day=None, overrides={plan.id: override})
    within = Resources(apis=apis, usage_plans=(replace(plan, keys=(key.id,)),), api_keys=(member,))
    at = f"$.apiKeys[0].overrides['{plan.id}']"
    refuse_any(Problem(one.address.replace(at, "$"), one.rule) for one in override_problems(within))
    return [one.rule for one in idle(within)] if override != Override() else []


def idle_overrides(plan: StoredPlan, keys: Iterable[StoredKey], customers: Iterable[StoredCustomer]) -> list[str]:
    """Return a warning for each reason why overrides of the plan's keys and their customers change nothing in it."""
    held: dict[tuple[str, str], list[str]] = {}
    for holder, name, within in _overriding(plan, keys, customers):
        for one in (*override_problems(within), *idle(within)):
            held.setdefault((holder, one.rule), []).append(name)
    return [
        f"the override of the {holder} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {rule}"
        for (holder, rule), names in held.items()
    ]


def _overriding(
    plan: StoredPlan, keys: Iterable[StoredKey], customers: Iterable[StoredCustomer]
) -> Iterator[tuple[str, str, Resources]]:
    """Yield the kind and the id of each that overrides the plan's numbers, and resources with its override alone."""
    bare = replace(plan.plan, api_stages=())
    for key in keys:
        if override := key.overrides.get(plan.ref):
            member = replace(key.key, billing_day=None, overrides={bare.id: override})
            yield "key", member.id, Resources(usage_plans=(replace(bare, keys=(member.id,)),), api_keys=(member,))
    for customer in customers:
        if override := customer.overrides.get(plan.ref):
            member = ApiKey("any", customer_id=customer.id)
            owner = replace(customer.customer, billing_day=None, overrides={bare.id: override})
            plans = (replace(bare, keys=(member.id,)),)
            yield "customer", owner.id, Resources(usage_plans=plans, api_keys=(member,), customers=(owner,))


def idle_billing_day(key: ApiKey, plans: Iterable[UsagePlan]) -> list[str]:
    """Return a warning if the key's billing day changes nothing in its plans. A key without plans may join one."""
    mine = tuple(replace(plan, api_stages=(), keys=(key.id,)) for plan in plans)
    return (
        [one.rule for one in idle(Resources(usage_plans=mine, api_keys=(replace(key, overrides={}),)))] if mine else []
    )


def idle_customer(customer: Customer, plans: Iterable[StoredPlan], keys: Iterable[StoredKey]) -> list[str]:
    """Return warnings of a customer's numbers that change nothing. `keys` are all its keys; without any, none is known.

    `plans` are those of the keys and those whose numbers are overridden.
    """
    held = list(keys)
    known = tuple(
        replace(plan.plan, api_stages=(), keys=tuple(key.key.id for key in held if plan.ref in key.plans))
        for plan in plans
    )
    bare = tuple(replace(key.key, billing_day=None) for key in held)
    found = idle(Resources(usage_plans=known, api_keys=bare, customers=(customer,)))
    return [f"{one.address.replace(IN_CUSTOMER, '$')}: {one.rule}" for one in found]


class CustomerDocument(Resource, frozen=True):
    """A customer as the API has it. The dates may be given as they are, so that a document can be written back."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    billing_day: BillingDay | None = None
    overrides: dict[str, Override] = {}
    tags: dict[str, str] = {}
    created_date: int | None = None
    last_updated_date: int | None = None


def customer_document(stored: StoredCustomer, ids: Mapping[str, str]) -> Document:
    """Return a customer as a document. `ids` are the ids of the living plans by their references."""
    dates = {"createdDate": stored.created_date, "lastUpdatedDate": stored.last_updated_date}
    document: Document = msgspec.to_builtins(customer_of(stored, ids))
    return document | dates


@dataclass(frozen=True, slots=True)
class Overridden:
    """The plans whose numbers a customer overrides, by id, and the APIs of their stages."""

    plans: Mapping[str, StoredPlan]
    apis: tuple[Api, ...]


def with_customer_document(
    old: StoredCustomer | None, customer_id: str, given: CustomerDocument, found: Overridden, now: int
) -> StoredCustomer:
    """Return the customer as a document describes it. Raises ApiError."""
    if CONTROL.search(customer_id):
        raise refused([Problem("$.id", "expected no control characters")])
    if len(customer_id) > MAX_NAME:
        raise refused([Problem("$.id", f"expected at most {MAX_NAME} characters")])
    _check_unchanged(old, customer_id, given)
    customer = Customer(customer_id, given.name, given.billing_day, given.overrides, checked_tags(given.tags))
    plans = tuple(plan.plan for plan in found.plans.values())
    within = Resources(apis=found.apis, usage_plans=plans, customers=(customer,))
    refuse_any(Problem(one.address.replace(IN_CUSTOMER, "$"), one.rule) for one in override_problems(within))
    overrides = {found.plans[plan_id].ref: override for plan_id, override in given.overrides.items()}
    made = StoredCustomer(replace(customer, overrides={}), now, now, overrides)
    if old is None:
        return made
    same = replace(made, created_date=old.created_date, last_updated_date=old.last_updated_date)
    return same if same == old else replace(same, last_updated_date=max(now, old.created_date))


def _check_unchanged(old: StoredCustomer | None, customer_id: str, given: CustomerDocument) -> None:
    """Raise ApiError unless the id and the dates of a document are those of the customer."""
    held = {
        "id": customer_id,
        "createdDate": old and old.created_date,
        "lastUpdatedDate": old and old.last_updated_date,
    }
    sent = {"id": given.id, "createdDate": given.created_date, "lastUpdatedDate": given.last_updated_date}
    for name, value in sent.items():
        if value is not None and value != held[name]:
            raise refused([Problem(f"$.{name}", "expected the value that the customer has, or none: it cannot be set")])


# --- APIs ---------------------------------------------------------------------------------------------------------


class MethodExtension(Resource, frozen=True):
    """The cost of a method."""

    cost: Cost = 1
    cost_from: CostFrom | None = None


class ApiExtension(Resource, frozen=True):
    """The extension of an API: its costs, by `/path/METHOD`. A method that is not named costs 1."""

    cost_from: CostFrom | None = None
    methods: dict[str, MethodExtension] = {}


def api_extension(api: RestApi) -> Document:
    """Return the extension of an API as a document. Written again, it changes nothing."""
    methods = {
        f"{node.path}/{verb}": MethodExtension(method.cost, method.cost_from)
        for node in sorted(api.resources.values(), key=lambda node: node.path)
        for verb, method in node.methods.items()
    }
    told = {name: one for name, one in methods.items() if one != MethodExtension()}
    document: Document = msgspec.to_builtins(ApiExtension(api.cost_from, told))
    return document


def with_api_extension(api: RestApi, given: ApiExtension) -> RestApi:
    """Return the API with these costs in place of its own. Raises ApiError."""
    costs: dict[tuple[str, str], MethodExtension] = {}
    known = {(node.path, verb) for node in api.resources.values() for verb in node.methods}
    for name, one in given.methods.items():
        at = f"$.methods['{name}']"
        try:
            place = method_of(name)
        except ValueError as broken:
            raise refused([Problem(at, str(broken))]) from None
        if place not in known:
            raise refused([Problem(at, "the API has no such method")])
        if place in costs:
            raise refused([Problem(at, "the method is named twice")])
        costs[place] = one
    nodes = {node.id: _with_costs(node, costs) for node in api.resources.values()}
    changed = replace(api, cost_from=given.cost_from, resources=nodes)
    check_api(changed)
    return changed


def _with_costs(node: StoredResource, costs: Mapping[tuple[str, str], MethodExtension]) -> StoredResource:
    methods: dict[HttpMethod, StoredMethod] = {}
    for verb, method in node.methods.items():
        one = costs.get((node.path, verb), MethodExtension())
        methods[verb] = replace(method, cost=one.cost, cost_from=one.cost_from)
    return replace(node, methods=methods)

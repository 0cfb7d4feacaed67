"""The rules of what a plan sells: its quotas, the costs that have to fit them, and the numbers of single callers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from authz.core.bounds import MAX_QUOTAS
from authz.core.limits import check_throttle, throttle
from authz.core.methods import by_method, most_specific
from authz.core.periods import max_offset
from authz.core.problem import Problem, Problems, shortened
from authz.core.resources import (
    Anchor,
    Api,
    ApiKey,
    ApiStage,
    Counts,
    Customer,
    HttpMethod,
    LimitsPer,
    Method,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    Resources,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.zones import zone_names

OTHER: Final = {Counts.UNITS: Counts.REQUESTS, Counts.REQUESTS: Counts.UNITS}

# --- quotas -------------------------------------------------------------------------------------------------------


def quota_problems(plan: UsagePlan, at: str) -> Problems:
    if len(plan.all_quotas) > MAX_QUOTAS:
        yield Problem(f"{at}.quotas", f"expected at most {MAX_QUOTAS} quotas, not {len(plan.all_quotas)}")
    known: set[tuple[Period, Counts]] = set()
    for place, quota in placed(plan, at):
        yield from _beginning(quota, place)
        if quota.time_zone is not None:
            yield from _time_zone(quota.time_zone, quota.period, f"{place}.timeZone")
        yield from _alerts(quota, f"{place}.alerts")
        if (quota.period, quota.counts) in known:
            yield Problem(
                f"{place}.period",
                f"the plan has another quota by {quota.period} that counts {quota.counts}; "
                f"remove one, or let one count {OTHER[quota.counts]}",
            )
        known.add((quota.period, quota.counts))


def placed(plan: UsagePlan, at: str) -> Iterator[tuple[str, QuotaSettings]]:
    """The quotas of a plan, each behind its address."""
    if plan.quota:
        yield f"{at}.quota", plan.quota
    for n, quota in enumerate(plan.quotas):
        yield f"{at}.quotas[{n}]", quota


def _beginning(quota: QuotaSettings, at: str) -> Problems:
    last, billed = max_offset(quota.period), quota.anchor is Anchor.BILLING_DAY
    if quota.offset > last:
        expected = f"a number from 0 to {last}" if last else "0"
        yield Problem(f"{at}.offset", f"expected {expected} with the period {quota.period}")
    elif quota.offset and billed:
        yield Problem(f"{at}.offset", "expected 0 with the anchor BILLING_DAY: the month begins on the billing day")
    if billed and quota.period is not Period.MONTH:
        yield Problem(f"{at}.anchor", f"expected BILLING_DAY only with the period MONTH, not {quota.period}")


def _time_zone(name: str, period: Period, at: str) -> Problems:
    if name not in zone_names():
        meant = _nearest_zone(name)
        hint = f"did you mean {meant}?" if meant else "expected an IANA name, such as Europe/Berlin, or none for UTC"
        yield Problem(at, f"there is no time zone {shortened(name)}; {hint}")
    elif period is Period.TOTAL:
        yield Problem(at, "expected no time zone with the period TOTAL, which never ends; remove it")


def _nearest_zone(name: str) -> str | None:
    """The zone with almost this name, or with this name as its last part: people write Berlin or europe/berlin."""
    # No guess is an offset: Etc/GMT+1 is an hour behind UTC.
    names = ["UTC", *sorted(zone for zone in zone_names() if "/" in zone and not zone.startswith("Etc/"))]
    spelled = {zone.rpartition("/")[2].lower(): zone for zone in names} | {zone.lower(): zone for zone in names}
    close = difflib.get_close_matches(name.strip().replace(" ", "_").lower(), spelled, n=1, cutoff=0.8)
    return spelled[close[0]] if close else None


def _alerts(quota: QuotaSettings, at: str) -> Problems:
    most = _ceiling(quota, quota.limit)
    for n, percent in enumerate(quota.alerts):
        if percent in quota.alerts[:n]:
            yield Problem(f"{at}[{n}]", f"the percent {percent} is given twice")
        elif most is not None and -(-percent * quota.limit // 100) > most:
            fix = "raise overage.upTo" if quota.overage else "add an overage"
            yield Problem(f"{at}[{n}]", f"{percent} % is more than the quota ever admits; {fix}, or remove it")


def _ceiling(quota: QuotaSettings, limit: int) -> int | None:
    """The units that a quota with this limit admits in a period; None if it has no end."""
    if quota.overage is None:
        return limit
    return None if quota.overage.up_to == "UNLIMITED" else limit + quota.overage.up_to


# --- costs that never fit -----------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A method, and the units that a call of it costs."""

    cost: int
    name: str


class StageCosts(NamedTuple):
    """The calls of a stage's methods that require a key, by path and verb, and the one that costs most."""

    calls: Mapping[tuple[str, str], Call]
    dearest: Call | None


class Costs:
    """What the calls of each stage cost. Thousands of plans may cover one stage, so its methods are read once.

    `apis` have the methods that their stages serve.
    """

    def __init__(self, apis: Mapping[str, Api]) -> None:
        self._apis = apis
        self._stages: dict[tuple[str, str], StageCosts] = {}

    def of(self, covered: ApiStage) -> StageCosts:
        place = covered.api_id, covered.stage
        if place not in self._stages:
            calls: dict[tuple[str, str], Call] = {
                (path, verb): Call(method.cost, f"{verb} {path} of {covered.api_id}:{covered.stage}")
                for path, verb, method in _metered(covered, self._apis)
            }
            self._stages[place] = StageCosts(calls, max(calls.values(), default=None))
        return self._stages[place]

    def dearest(self, plan: UsagePlan) -> Call | None:
        """The call that takes most from a limit of the plan that counts units."""
        found = (self.of(covered).dearest for covered in plan.api_stages)
        return max((call for call in found if call), default=None)


def cost_problems(plan: UsagePlan, costs: Costs, at: str) -> Problems:
    """Calls that a limit of the plan could never admit."""
    dearest = costs.dearest(plan)
    if plan.throttle:
        yield from _above_burst(plan.throttle, dearest, f"{at}.throttle")
    for place, quota in placed(plan, at):
        yield from _above_ceiling(quota, quota.limit, dearest, f"{place}.limit")
    for n, covered in enumerate(plan.api_stages):
        in_units = [key for key, settings in covered.throttle.items() if settings.counts is Counts.UNITS]
        if not in_units:
            continue
        mine: dict[str | None, list[Call]] = {}
        throttles = by_method({key: key for key in covered.throttle})
        for (path, verb), call in costs.of(covered).calls.items():
            mine.setdefault(most_specific(throttles, path, verb), []).append(call)
        for key in in_units:
            its_dearest = max(mine.get(key, ()), default=None)
            yield from _above_burst(covered.throttle[key], its_dearest, f"{at}.apiStages[{n}].throttle['{key}']")


def _metered(covered: ApiStage, apis: Mapping[str, Api]) -> Iterator[tuple[str, HttpMethod, Method]]:
    """The methods of a stage that require a key."""
    api = apis.get(covered.api_id)
    stage = api and next((stage for stage in api.stages if stage.name == covered.stage), None)
    if not api or not stage:
        return
    for path, methods in (stage.deployment.resources if stage.deployment else api.resources).items():
        yield from ((path, verb, method) for verb, method in methods.items() if method.api_key_required)


def _above_burst(settings: ThrottleSettings, dearest: Call | None, at: str) -> Problems:
    try:
        bucket = throttle(settings.rate_limit, settings.burst_limit) if settings.counts is Counts.UNITS else None
    except ValueError:
        return  # reported elsewhere
    if bucket and bucket.burst and dearest and dearest.cost > bucket.burst:
        rule = _never(dearest, f"the burst is {bucket.burst}", "burstLimit")
        yield Problem(f"{at}.burstLimit", rule)


def _above_ceiling(quota: QuotaSettings, limit: int, dearest: Call | None, at: str) -> Problems:
    most = _ceiling(quota, limit) if quota.counts is Counts.UNITS else None
    if most is not None and dearest and dearest.cost > most:
        admits = f"the quota admits {most}{' with its overage' if quota.overage else ''}"
        yield Problem(at, _never(dearest, admits, "the limit"))


def _never(dearest: Call, has: str, limit: str) -> str:
    return (
        f"a call of {dearest.name} costs {dearest.cost}, and {has}, so it is never admitted; "
        f"raise {limit}, or lower the cost"
    )


# --- overrides ----------------------------------------------------------------------------------------------------


def override_problems(resources: Resources) -> Problems:
    """The mistakes in the overrides of keys and customers."""
    plans = {plan.id: plan for plan in resources.usage_plans}
    costs = Costs({api.id: api for api in resources.apis})
    for holder, plan_id, override in _overrides(resources):
        plan = plans.get(plan_id)
        if plan is None:
            close = difflib.get_close_matches(plan_id, plans, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            name = shortened(plan_id)
            yield Problem(f"{holder}.overrides['{name}']", f"there is no usage plan {name}{hint}")
            continue
        at = f"{holder}.overrides['{plan_id}']"
        dearest = costs.dearest(plan)
        if override.throttle:
            yield from _throttle_override(override.throttle, plan, dearest, f"{at}.throttle")
        seen: set[int] = set()
        for n, given in enumerate(override.quotas):
            yield from _quota_override(given, plan, dearest, seen, f"{at}.quotas[{n}]")


def _overrides(resources: Resources) -> Iterator[tuple[str, str, Override]]:
    """Each override with the address of its holder and the id of its plan."""
    holders: Iterable[tuple[str, tuple[ApiKey | Customer, ...]]] = (
        ("apiKeys", resources.api_keys),
        ("customers", resources.customers),
    )
    for name, found in holders:
        for n, holder in enumerate(found):
            for plan_id, override in holder.overrides.items():
                yield f"$.{name}[{n}]", plan_id, override


def _throttle_override(given: ThrottleSettings, plan: UsagePlan, dearest: Call | None, at: str) -> Problems:
    if plan.throttle is None or plan.throttle.rate_limit is None:
        yield Problem(at, f"the plan {plan.id} has no throttle whose numbers this could replace; give the plan one")
        return
    if given.counts is not Counts.REQUESTS:
        yield Problem(
            f"{at}.counts", "expected rateLimit and burstLimit only: the plan decides what its throttle counts"
        )
    if given.rate_limit is None and given.burst_limit is None:
        yield Problem(at, "expected rateLimit, burstLimit or both")
        return
    merged = overridden(plan.throttle, given)
    try:
        check_throttle(merged.rate_limit, merged.burst_limit)
    except ValueError as broken:
        yield Problem(f"{at}.{'rateLimit' if given.rate_limit is not None else 'burstLimit'}", str(broken))
    yield from _above_burst(merged, dearest, at)


def overridden(throttle: ThrottleSettings, given: ThrottleSettings) -> ThrottleSettings:
    """A plan's throttle with a caller's own numbers. A number that is not given stays the plan's."""
    rate = throttle.rate_limit if given.rate_limit is None else given.rate_limit
    burst = throttle.burst_limit if given.burst_limit is None else given.burst_limit
    return replace(throttle, rate_limit=rate, burst_limit=burst)


def _quota_override(given: QuotaOverride, plan: UsagePlan, dearest: Call | None, seen: set[int], at: str) -> Problems:
    of_period = [n for n, quota in enumerate(plan.all_quotas) if quota.period is given.period]
    found = [n for n in of_period if given.counts in (None, plan.all_quotas[n].counts)]
    if not of_period:
        has = ", ".join(dict.fromkeys(quota.period for quota in plan.all_quotas))
        only = f", only by {has}" if has else ""
        yield Problem(f"{at}.period", f"the plan {plan.id} has no quota by {given.period}{only}")
    elif not found:
        yield Problem(f"{at}.counts", f"the plan {plan.id} has no quota by {given.period} that counts {given.counts}")
    elif len(found) > 1:
        yield Problem(
            f"{at}.counts",
            f"expected REQUESTS or UNITS: the plan {plan.id} has a quota by {given.period} for each of them",
        )
    elif found[0] in seen:
        yield Problem(f"{at}.period", f"the quota by {given.period} is overridden twice")
    else:
        seen.add(found[0])
        yield from _above_ceiling(plan.all_quotas[found[0]], given.limit, dearest, f"{at}.limit")


# --- numbers without effect ---------------------------------------------------------------------------------------


def idle(resources: Resources) -> Problems:
    """Costs, overrides and billing days that change nothing."""
    yield from _idle_costs(resources.apis)
    plans = {plan.id: plan for plan in resources.usage_plans}
    plans_of: dict[str, dict[str, UsagePlan]] = {key.id: {} for key in resources.api_keys}
    for plan in resources.usage_plans:
        for name in plan.keys:
            plans_of.get(name, {})[plan.id] = plan
    by_customer: dict[str, dict[str, UsagePlan]] = {}
    for i, key in enumerate(resources.api_keys):
        yield from _idle_key(key, plans, plans_of[key.id], f"$.apiKeys[{i}]")
        if key.customer_id is not None:
            by_customer.setdefault(key.customer_id, {}).update(plans_of[key.id])
    for i, customer in enumerate(resources.customers):
        if customer.id in by_customer:  # or another warning says that it has no key here
            yield from _idle_customer(customer, plans, by_customer[customer.id], f"$.customers[{i}]")


def _idle_costs(apis: tuple[Api, ...]) -> Problems:
    for i, api in enumerate(apis):
        for path, methods in api.resources.items():
            for verb, method in methods.items():
                given = "cost" if method.cost != 1 else "costFrom" if method.cost_from else ""
                if given and not method.api_key_required:
                    at = f"$.apis[{i}].resources['{path}']['{verb}'].{given}"
                    yield Problem(at, "no effect: the method requires no API key, so no plan counts its calls")


def _idle_key(key: ApiKey, plans: Mapping[str, UsagePlan], mine: Mapping[str, UsagePlan], at: str) -> Problems:
    for plan_id in key.overrides:
        if plan_id in plans and plan_id not in mine:
            yield Problem(f"{at}.overrides['{plan_id}']", f"no effect: the key is not in the plan {plan_id}")
        elif plan_id in plans and _of_customer(plans[plan_id], key):
            yield Problem(
                f"{at}.overrides['{plan_id}']",
                f"no effect: the plan {plan_id} limits the customer's keys together; "
                f"override it for the customer {shortened(key.customer_id)}, in customers",
            )
    if key.billing_day is None:
        return
    billed = [plan for plan in mine.values() if _is_billed(plan)]
    if all(_of_customer(plan, key) for plan in billed):
        rule = "no plan of the key has a quota with the anchor BILLING_DAY"
        if billed:
            rule = "the plans with the anchor BILLING_DAY begin on the customer's billing day; set it in customers"
        yield Problem(f"{at}.billingDay", f"no effect: {rule}")


def _idle_customer(
    customer: Customer, plans: Mapping[str, UsagePlan], mine: Mapping[str, UsagePlan], at: str
) -> Problems:
    for plan_id in customer.overrides:
        if plan_id in plans and plan_id not in mine:
            yield Problem(f"{at}.overrides['{plan_id}']", f"no effect: no key of the customer is in the plan {plan_id}")
        elif plan_id in plans and plans[plan_id].limits_per is LimitsPer.KEY:
            yield Problem(
                f"{at}.overrides['{plan_id}']",
                f"no effect: the plan {plan_id} limits each key; override it for the keys, or give it "
                "limitsPer: CUSTOMER",
            )
    if customer.billing_day is not None and not any(
        _is_billed(plan) and plan.limits_per is LimitsPer.CUSTOMER for plan in mine.values()
    ):
        rule = "no effect: no plan of its keys has limitsPer: CUSTOMER and a quota with the anchor BILLING_DAY"
        yield Problem(f"{at}.billingDay", rule)


def _of_customer(plan: UsagePlan, key: ApiKey) -> bool:
    """True if the plan limits the key together with the other keys of its customer."""
    return plan.limits_per is LimitsPer.CUSTOMER and key.customer_id is not None


def _is_billed(plan: UsagePlan) -> bool:
    return any(quota.anchor is Anchor.BILLING_DAY for quota in plan.all_quotas)

"""The rules of quotas, costs and overrides: one row for each way to break one."""

from __future__ import annotations

from typing import Any

import pytest

from authz.core.planrules import Costs, cost_problems
from authz.core.resources import (
    Account,
    Anchor,
    ApiStage,
    CostFrom,
    Counts,
    Customer,
    Deployment,
    HttpMethod,
    LimitsPer,
    Method,
    Overage,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
)
from authz.core.rules import problems, warnings
from tests.support.builders import api, key, plan, resources

Q = QuotaSettings
DAY, MONTH = Q(10, Period.DAY), Q(100, Period.MONTH)
BILLED = Q(100, Period.MONTH, anchor=Anchor.BILLING_DAY)
UNITS = ThrottleSettings(5.0, 10, Counts.UNITS)
SEARCH: dict[str, dict[HttpMethod, Method]] = {"/search": {"GET": Method(cost=50), "POST": Method()}}
PLAN = "$.usagePlans[0]"
KEY = "$.apiKeys[0].overrides['p1']"


def quotas(*given: QuotaSettings, **changes: Any) -> Resources:
    return resources(usage_plans=(plan(**changes).with_quotas(given),))


def costly(given: Any, **changes: Any) -> Resources:
    """A plan for an API whose search costs 50 units."""
    return resources(apis=(api(resources=SEARCH, **changes),), usage_plans=(given,))


def throttled(key: str, throttle: ThrottleSettings = UNITS) -> ApiStage:
    return ApiStage("a1", "prod", {key: throttle})


def overridden(override: Override, *given: QuotaSettings, plan_id: str = "p1", **changes: Any) -> Resources:
    """A plan with the quotas, and its key with an override."""
    return resources(usage_plans=(plan(**changes).with_quotas(given),), api_keys=(key(overrides={plan_id: override}),))


def limits(*given: QuotaOverride) -> Override:
    return Override(quotas=given)


def faster(rate: float | None = None, burst: int | None = None, counts: Counts = Counts.REQUESTS) -> Override:
    return Override(ThrottleSettings(rate, burst, counts))


RAISE = "it is never admitted; raise the limit, or lower the cost"
SEARCH_COSTS = "a call of GET /search of a1:prod costs 50"
REFUSED = {
    # quotas
    "five quotas": (
        quotas(DAY, MONTH, Q(1, Period.HOUR), Q(1, Period.WEEK), Q(1, Period.TOTAL)),
        f"{PLAN}.quotas",
        "expected at most 4 quotas, not 5",
    ),
    "same period twice": (
        quotas(MONTH, DAY, MONTH),
        f"{PLAN}.quotas[1].period",
        "the plan has another quota by MONTH that counts UNITS; remove one, or let one count REQUESTS",
    ),
    "same period of requests twice": (
        quotas(*(Q(1, Period.HOUR, counts=Counts.REQUESTS),) * 2),
        f"{PLAN}.quotas[1].period",
        "the plan has another quota by HOUR that counts REQUESTS; remove one, or let one count UNITS",
    ),
    "hour offset": (
        quotas(Q(1, Period.HOUR, 1)),
        f"{PLAN}.quotas[0].offset",
        "expected 0 with the period HOUR",
    ),
    "total offset": (
        quotas(Q(1, Period.TOTAL, 1)),
        f"{PLAN}.quotas[0].offset",
        "expected 0 with the period TOTAL",
    ),
    "week offset of a further quota": (
        quotas(DAY, Q(1, Period.WEEK, 7)),
        f"{PLAN}.quotas[0].offset",
        "expected a number from 0 to 6 with the period WEEK",
    ),
    **{
        f"zone {name}": (
            quotas(Q(1, Period.DAY, time_zone=name)),
            f"{PLAN}.quota.timeZone",
            f"there is no time zone {name}; {hint}",
        )
        for name, hint in {
            "Europe/Berln": "did you mean Europe/Berlin?",
            "europe/berlin": "did you mean Europe/Berlin?",
            "New York": "did you mean America/New_York?",
            "utc": "did you mean UTC?",
            "PST": "expected an IANA name, such as Europe/Berlin, or none for UTC",
            "GMT+1": "expected an IANA name, such as Europe/Berlin, or none for UTC",
            "": "expected an IANA name, such as Europe/Berlin, or none for UTC",
        }.items()
    },
    "zone as long as a key": (
        quotas(Q(1, Period.DAY, time_zone="x" * 20)),
        f"{PLAN}.quota.timeZone",
        "there is no time zone (20 characters); expected an IANA name, such as Europe/Berlin, or none for UTC",
    ),
    "zone of a total": (
        quotas(Q(1, Period.TOTAL, time_zone="Europe/Berlin")),
        f"{PLAN}.quotas[0].timeZone",
        "expected no time zone with the period TOTAL, which never ends; remove it",
    ),
    "billing day of a week": (
        quotas(Q(1, Period.WEEK, anchor=Anchor.BILLING_DAY)),
        f"{PLAN}.quota.anchor",
        "expected BILLING_DAY only with the period MONTH, not WEEK",
    ),
    "billing day and offset": (
        quotas(Q(1, Period.MONTH, 14, anchor=Anchor.BILLING_DAY)),
        f"{PLAN}.quota.offset",
        "expected 0 with the anchor BILLING_DAY: the month begins on the billing day",
    ),
    "alert twice": (
        quotas(Q(10, Period.DAY, alerts=(80, 100, 80))),
        f"{PLAN}.quota.alerts[2]",
        "the percent 80 is given twice",
    ),
    "alert that nothing reaches": (
        quotas(Q(10, Period.DAY, alerts=(100, 101))),
        f"{PLAN}.quota.alerts[1]",
        "101 % is more than the quota ever admits; add an overage, or remove it",
    ),
    "alert beyond the overage": (
        quotas(Q(10, Period.DAY, overage=Overage(5), alerts=(150, 151))),
        f"{PLAN}.quota.alerts[1]",
        "151 % is more than the quota ever admits; raise overage.upTo, or remove it",
    ),
    # throttles that count units
    "account in units": (
        resources(account=Account(UNITS)),
        "$.account.throttleSettings.counts",
        "expected REQUESTS: only the throttles of plans count units",
    ),
    "units without a rate": (
        resources(usage_plans=(plan(throttle=ThrottleSettings(counts=Counts.UNITS)),)),
        f"{PLAN}.throttle.counts",
        "expected only beside rateLimit: without a rate there is no throttle",
    ),
    # costs that never fit
    "cost above the burst": (
        costly(plan(throttle=UNITS)),
        f"{PLAN}.throttle.burstLimit",
        f"{SEARCH_COSTS}, and the burst is 10, so it is never admitted; raise burstLimit, or lower the cost",
    ),
    "cost above the burst of a rate": (
        costly(
            plan(throttle=ThrottleSettings(48.5, None, Counts.UNITS)),
            stages=(Stage("prod", deployment=Deployment(resources={"/search": {"GET": Method(cost=50)}})),),
        ),
        f"{PLAN}.throttle.burstLimit",
        f"{SEARCH_COSTS}, and the burst is 49, so it is never admitted; raise burstLimit, or lower the cost",
    ),
    "cost above the quota": (
        costly(plan().with_quotas((Q(100, Period.MONTH), Q(49, Period.HOUR)))),
        f"{PLAN}.quotas[0].limit",
        f"{SEARCH_COSTS}, and the quota admits 49, so {RAISE}",
    ),
    "cost above quota and overage": (
        costly(plan(quota=Q(40, Period.DAY, overage=Overage(9)))),
        f"{PLAN}.quota.limit",
        f"{SEARCH_COSTS}, and the quota admits 49 with its overage, so {RAISE}",
    ),
    **{
        f"cost above the burst of {name}": (
            costly(plan(api_stages=(throttled(name),))),
            f"{PLAN}.apiStages[0].throttle['{name}'].burstLimit",
            f"{SEARCH_COSTS}, and the burst is 10, so it is never admitted; raise burstLimit, or lower the cost",
        )
        for name in ("/search/GET", "/search/*", "*/*")
    },
    # overrides
    "override of no plan": (
        overridden(limits(QuotaOverride(Period.DAY, 5)), DAY, id="silver", plan_id="sliver"),
        "$.apiKeys[0].overrides['sliver']",
        "there is no usage plan sliver; did you mean silver?",
    ),
    "customer's override of no plan": (
        resources(
            api_keys=(key(customer_id="acme"),), customers=(Customer("acme", overrides={"silver": faster(1.0)}),)
        ),
        "$.customers[0].overrides['silver']",
        "there is no usage plan silver",
    ),
    "override of no throttle": (
        overridden(faster(5.0)),
        f"{KEY}.throttle",
        "the plan p1 has no throttle whose numbers this could replace; give the plan one",
    ),
    "empty throttle": (
        overridden(faster(), throttle=ThrottleSettings(1.0, 1)),
        f"{KEY}.throttle",
        "expected rateLimit, burstLimit or both",
    ),
    "throttle that counts": (
        overridden(faster(5.0, 10, Counts.UNITS), throttle=UNITS),
        f"{KEY}.throttle.counts",
        "expected rateLimit and burstLimit only: the plan decides what its throttle counts",
    ),
    "rate too slow": (
        overridden(faster(1e-7), throttle=ThrottleSettings(1.0, 1)),
        f"{KEY}.throttle.rateLimit",
        "expected 0 or a rate of at least 0.000001 a second",
    ),
    "burst too large for the plan's rate": (
        overridden(faster(burst=1_000_000), throttle=ThrottleSettings(0.000001, 1)),
        f"{KEY}.throttle.burstLimit",
        "expected burst ÷ rate of at most 100 years",
    ),
    "rate above the bound": (
        overridden(faster(1e20), throttle=ThrottleSettings(1.0, 1)),
        f"{KEY}.throttle.rateLimit",
        "expected a rate of at most 2147483647 a second, not 1e+20",
    ),
    "override of no quota": (
        overridden(limits(QuotaOverride(Period.WEEK, 5)), MONTH, Q(1, Period.HOUR)),
        f"{KEY}.quotas[0].period",
        "the plan p1 has no quota by WEEK, only by MONTH, HOUR",
    ),
    "override of a plan without quotas": (
        overridden(limits(QuotaOverride(Period.WEEK, 5))),
        f"{KEY}.quotas[0].period",
        "the plan p1 has no quota by WEEK",
    ),
    "override of one of two": (
        overridden(limits(QuotaOverride(Period.DAY, 5)), DAY, Q(10, Period.DAY, counts=Counts.REQUESTS)),
        f"{KEY}.quotas[0].counts",
        "expected REQUESTS or UNITS: the plan p1 has a quota by DAY for each of them",
    ),
    "override of other counts": (
        overridden(limits(QuotaOverride(Period.DAY, 5, Counts.REQUESTS)), DAY),
        f"{KEY}.quotas[0].counts",
        "the plan p1 has no quota by DAY that counts REQUESTS",
    ),
    "override twice": (
        overridden(limits(QuotaOverride(Period.DAY, 5), QuotaOverride(Period.DAY, 6, Counts.UNITS)), DAY),
        f"{KEY}.quotas[1].period",
        "the quota by DAY is overridden twice",
    ),
    "override below a cost": (
        resources(
            apis=(api(resources=SEARCH),),
            usage_plans=(plan(quota=MONTH),),
            api_keys=(key(overrides={"p1": limits(QuotaOverride(Period.MONTH, 49))}),),
        ),
        f"{KEY}.quotas[0].limit",
        f"{SEARCH_COSTS}, and the quota admits 49, so {RAISE}",
    ),
    "burst below a cost": (
        resources(
            apis=(api(resources=SEARCH),),
            usage_plans=(plan(throttle=ThrottleSettings(5.0, 50, Counts.UNITS)),),
            api_keys=(key(overrides={"p1": faster(burst=49)}),),
        ),
        f"{KEY}.throttle.burstLimit",
        f"{SEARCH_COSTS}, and the burst is 49, so it is never admitted; raise burstLimit, or lower the cost",
    ),
}


@pytest.mark.parametrize(("refused", "address", "rule"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_is_reported_with_its_address(refused: Resources, address: str, rule: str) -> None:
    assert problems(refused) == [(address, rule)]


ACCEPTED = {
    "four quotas": quotas(Q(1, Period.HOUR, time_zone="Asia/Kolkata"), DAY, BILLED, Q(1, Period.TOTAL)),
    "requests and units": quotas(DAY, Q(10, Period.DAY, counts=Counts.REQUESTS)),
    "alerts of the limit": quotas(Q(3, Period.DAY, alerts=(100, 1, 99))),
    "alerts of the overage": quotas(Q(10, Period.DAY, overage=Overage(1), alerts=(101, 110))),
    "alerts without an end": quotas(Q(10, Period.DAY, overage=Overage("UNLIMITED"), alerts=(1000,))),
    "cost that just fits": costly(
        plan(throttle=ThrottleSettings(1.0, 50, Counts.UNITS), quota=Q(40, Period.DAY, overage=Overage(10)))
    ),
    "cost of limits that count requests": costly(
        plan(throttle=ThrottleSettings(1.0, 1), quota=Q(1, Period.DAY, counts=Counts.REQUESTS))
    ),
    "cost with unlimited overage": costly(plan(quota=Q(1, Period.DAY, overage=Overage("UNLIMITED")))),
    "burst of none": costly(plan(throttle=ThrottleSettings(1.0, 0, Counts.UNITS))),
    "throttle of another method": costly(plan(api_stages=(throttled("/search/POST"),))),
    "throttle of the method before the stage's": costly(
        plan(api_stages=(ApiStage("a1", "prod", {"*/*": UNITS, "/search/GET": ThrottleSettings(1.0, 1)}),))
    ),
    "cost of a stage that the plan does not cover": resources(
        apis=(api(), api("a2", resources=SEARCH)), usage_plans=(plan(throttle=UNITS),)
    ),
    "cost that is not deployed": costly(
        plan(throttle=UNITS), stages=(Stage("prod", deployment=Deployment(resources={"/search": {"GET": Method()}})),)
    ),
    "overrides": overridden(
        Override(
            ThrottleSettings(rate_limit=9.0),
            (QuotaOverride(Period.DAY, 5, Counts.REQUESTS), QuotaOverride(Period.DAY, 7, Counts.UNITS)),
        ),
        DAY,
        Q(10, Period.DAY, counts=Counts.REQUESTS),
        throttle=UNITS,
    ),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
def test_what_keeps_to_the_rules_is_left_alone(accepted: Resources) -> None:
    assert problems(accepted) == []
    assert warnings(accepted) == []


def test_the_dearest_call_is_the_one_that_is_named() -> None:
    dear = api(resources={"/a": {"GET": Method(cost=11)}, "/b": {"GET": Method(cost=99)}})
    [found] = cost_problems(plan(throttle=UNITS), Costs({"a1": dear}), "$")
    assert "GET /b" in found.rule


def test_the_cost_of_a_method_that_needs_no_key_fits_any_plan() -> None:
    keyless = api(resources={"/search": {"GET": Method(api_key_required=False, cost=50)}})
    assert [*cost_problems(plan(throttle=UNITS), Costs({"a1": keyless}), "$")] == []


class Read(dict[str, Any]):
    """The methods of an API, and how often all of them were read."""

    times = 0

    def items(self) -> Any:
        self.times += 1
        return super().items()

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


def times_read(plans: int) -> int:
    """How often the rules read all methods of an API that `plans` plans cover, each with an override for its key."""
    methods = Read({f"/{n}": {"GET": Method(cost=2)} for n in range(3)})
    sold = [
        plan(f"p{n}", keys=(f"k{n}",), throttle=UNITS, quota=DAY, api_stages=(throttled("/1/GET"),))
        for n in range(plans)
    ]
    own = [key(f"k{n}", overrides={f"p{n}": Override(ThrottleSettings(5.0, 10))}) for n in range(plans)]
    given = Resources(apis=(api(resources=methods),), usage_plans=tuple(sold), api_keys=tuple(own))
    assert problems(given) == []
    return methods.times


def test_the_methods_of_an_api_are_read_no_more_often_for_more_plans() -> None:
    assert times_read(plans=40) == times_read(plans=2)


def shared(**changes: Any) -> Any:
    return plan(limits_per=LimitsPer.CUSTOMER, **changes)


IDLE = {
    "cost of a method that needs no key": (
        resources(apis=(api(resources={"/open": {"GET": Method(api_key_required=False, cost=5)}}),)),
        "$.apis[0].resources['/open']['GET'].cost",
        "no effect: the method requires no API key, so no plan counts its calls",
    ),
    "cost from metadata of a method that needs no key": (
        resources(
            apis=(
                api(
                    resources={
                        "/open": {"GET": Method(api_key_required=False, cost_from=CostFrom(("a.filter", "n"), 9))}
                    }
                ),
            )
        ),
        "$.apis[0].resources['/open']['GET'].costFrom",
        "no effect: the method requires no API key, so no plan counts its calls",
    ),
    "override outside the plan": (
        resources(usage_plans=(plan(keys=(), quota=DAY),), api_keys=(key(overrides={"p1": limits()}),)),
        KEY,
        "no effect: the key is not in the plan p1",
    ),
    "override of a customer's limits": (
        resources(usage_plans=(shared(),), api_keys=(key(customer_id="acme", overrides={"p1": limits()}),)),
        KEY,
        "no effect: the plan p1 limits the customer's keys together; override it for the customer acme, in customers",
    ),
    "billing day of a key": (
        resources(usage_plans=(plan(quota=MONTH),), api_keys=(key(billing_day=5),)),
        "$.apiKeys[0].billingDay",
        "no effect: no plan of the key has a quota with the anchor BILLING_DAY",
    ),
    "billing day of a customer's key": (
        resources(usage_plans=(shared(quota=BILLED),), api_keys=(key(customer_id="acme", billing_day=5),)),
        "$.apiKeys[0].billingDay",
        "no effect: the plans with the anchor BILLING_DAY begin on the customer's billing day; set it in customers",
    ),
    "customer's override of each key's limits": (
        resources(api_keys=(key(customer_id="acme"),), customers=(Customer("acme", overrides={"p1": limits()}),)),
        "$.customers[0].overrides['p1']",
        "no effect: the plan p1 limits each key; override it for the keys, or give it limitsPer: CUSTOMER",
    ),
    "customer's override outside the plan": (
        resources(
            usage_plans=(plan(), shared(id="p2", keys=())),
            api_keys=(key(customer_id="acme"),),
            customers=(Customer("acme", overrides={"p2": limits()}),),
        ),
        "$.customers[0].overrides['p2']",
        "no effect: no key of the customer is in the plan p2",
    ),
    "customer's billing day": (
        resources(
            usage_plans=(plan(quota=BILLED),),
            api_keys=(key(customer_id="acme", billing_day=3),),
            customers=(Customer("acme", billing_day=5),),
        ),
        "$.customers[0].billingDay",
        "no effect: no plan of its keys has limitsPer: CUSTOMER and a quota with the anchor BILLING_DAY",
    ),
}


@pytest.mark.parametrize(("found", "address", "rule"), IDLE.values(), ids=IDLE)
def test_a_number_without_effect_is_worth_a_warning(found: Resources, address: str, rule: str) -> None:
    assert problems(found) == []
    assert warnings(found) == [(address, rule)]


WORKING = {
    "billing day of a key": resources(usage_plans=(plan(quota=BILLED),), api_keys=(key(billing_day=5),)),
    "billing day of a key without a customer": resources(
        usage_plans=(shared(quota=BILLED),), api_keys=(key(billing_day=5),)
    ),
    "billing day of a customer": resources(
        usage_plans=(shared(quota=BILLED),),
        api_keys=(key(customer_id="acme"),),
        customers=(Customer("acme", billing_day=5),),
    ),
    "override of a customer": resources(
        usage_plans=(shared(quota=DAY),),
        api_keys=(key(customer_id="acme"),),
        customers=(Customer("acme", overrides={"p1": limits(QuotaOverride(Period.DAY, 99))}),),
    ),
}


@pytest.mark.parametrize("found", WORKING.values(), ids=WORKING)
def test_a_number_with_effect_is_none(found: Resources) -> None:
    assert problems(found) == []
    assert warnings(found) == []

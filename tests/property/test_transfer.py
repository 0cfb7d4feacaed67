"""An export of a store, read again, has the resources that an import brought, with all of their fields."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.aws.awsfiles import read
from authz.config.file import parse
from authz.core.resources import (
    Anchor,
    Api,
    ApiKey,
    ApiStage,
    CostFrom,
    Counts,
    Customer,
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
    UsagePlan,
    digest,
)
from authz.store.sealing import Sealer
from authz.transfer.inbound import wanted
from authz.transfer.transfer import Export, Import, everything
from tests.support.dictstore import DictStore

PLANS = ("gold", "silver")
CUSTOMERS = ("Acme Inc.", "cust-1")
EXAMPLES = max(1, settings().max_examples // 5)  # each has many fields
LARGE = 2_000_000  # more than a call may cost

billing_days = st.none() | st.integers(1, 28)
large = st.integers(LARGE, 2**31 - 1)
costs_from = st.none() | st.builds(
    CostFrom,
    metadata=st.tuples(st.just("a.filter"), st.sampled_from(("cost", "max tokens"))),
    max=st.integers(0, 1_000_000),
)
methods = st.builds(Method, cost=st.integers(0, 1_000_000), cost_from=costs_from)
throttles = st.builds(ThrottleSettings, st.integers(1, 9).map(float), large, st.sampled_from(Counts))


@st.composite
def quotas(draw: st.DrawFn) -> tuple[QuotaSettings, ...]:
    """Up to four quotas, no two with the same period and counts."""
    kinds = st.tuples(st.sampled_from(Period), st.sampled_from(Counts))
    return tuple(draw(_quota(*kind)) for kind in draw(st.lists(kinds, max_size=4, unique=True)))


@st.composite
def _quota(draw: st.DrawFn, period: Period, counts: Counts) -> QuotaSettings:
    anchors = Anchor if period is Period.MONTH else (Anchor.CALENDAR,)
    return QuotaSettings(
        draw(large),
        period,
        counts=counts,
        time_zone=None
        if period is Period.TOTAL
        else draw(st.none() | st.sampled_from(("Europe/Paris", "Asia/Kolkata"))),
        anchor=draw(st.sampled_from(anchors)),
        overage=draw(st.none() | st.builds(Overage, large | st.just("UNLIMITED"))),
        alerts=tuple(sorted(draw(st.sets(st.integers(1, 100), max_size=8)))),
    )


@st.composite
def plans(draw: st.DrawFn, plan_id: str, stage: str, keys: tuple[str, ...]) -> UsagePlan:
    plan = UsagePlan(
        plan_id,
        plan_id,
        api_stages=(ApiStage("a1", stage, {"/pets/GET": draw(throttles)} if draw(st.booleans()) else {}),),
        throttle=draw(st.none() | throttles),
        limits_per=draw(st.sampled_from(LimitsPer)),
        keys=keys,
    )
    return plan.with_quotas(draw(quotas()))


@st.composite
def overrides(draw: st.DrawFn, plan: UsagePlan) -> Override:
    numbers = st.builds(ThrottleSettings, st.integers(1, 9).map(float), large)
    limits = [
        QuotaOverride(quota.period, draw(large), quota.counts) for quota in plan.all_quotas if draw(st.booleans())
    ]
    return Override(draw(st.none() | numbers) if plan.throttle else None, tuple(limits))


@st.composite
def resources(draw: st.DrawFn) -> Resources:
    """One API with two stages, a plan for each, two keys and two customers, with numbers of their own."""
    found = tuple(draw(plans(name, stage, ("k1", "k2"))) for name, stage in zip(PLANS, ("prod", "test"), strict=True))
    by_key = {plan.id: draw(overrides(plan)) for plan in found if plan.limits_per is LimitsPer.KEY}
    by_customer = {plan.id: draw(overrides(plan)) for plan in found if plan.limits_per is LimitsPer.CUSTOMER}
    return Resources(
        apis=(
            Api(
                "a1",
                cost_from=draw(costs_from),
                resources={"/pets": {"GET": draw(methods)}, "/search": {"ANY": draw(methods)}},
                stages=(Stage("prod"), Stage("test")),
            ),
        ),
        usage_plans=found,
        api_keys=(
            ApiKey(
                "k1",
                value_sha256=digest("one").hex(),
                customer_id=draw(st.none() | st.sampled_from(CUSTOMERS)),
                billing_day=draw(billing_days),
                overrides={name: one for name, one in by_key.items() if one != Override()},
            ),
            ApiKey("k2", value_sha256=digest("two").hex(), customer_id=CUSTOMERS[0]),
        ),
        customers=(
            Customer(
                CUSTOMERS[0],
                "ACME",
                draw(billing_days),
                {name: one for name, one in by_customer.items() if one != Override()},
                {"tier": "gold"},
            ),
            Customer(CUSTOMERS[1]),
        ),
    )


def brought(store: DictStore, found: Resources) -> list[str]:
    """Import the resources into the store. Return the changes."""
    sealer = Sealer()
    run = Import(store, sealer, wanted(found, 1, sealer), 1, "tests")
    asyncio.run(run.run())
    assert run.warnings == []
    return [str(change) for change in run.changes]


def exported(store: DictStore) -> Resources:
    export = Export(asyncio.run(everything(store)), Sealer())
    text = export.yaml()
    assert export.warnings == []
    return parse(text, "exported.yaml").resources


@settings(max_examples=EXAMPLES)
@given(resources())
def test_an_export_for_the_aws_cli_is_read_as_the_same_items(found: Resources) -> None:
    store, other = DictStore(), DictStore()
    assert brought(store, found)
    documents = Export(asyncio.run(everything(store)), Sealer()).aws()
    read_again = read({name: msgspec.json.decode(text) for name, text in documents.items()}, 1, Sealer().index)
    assert read_again.warnings == []
    run = Import(other, Sealer(), read_again, 1, "tests")
    asyncio.run(run.run())
    assert run.warnings == []
    assert exported(other) == exported(store)


@settings(max_examples=EXAMPLES)
@given(resources())
def test_an_export_brings_back_the_imported_resources(found: Resources) -> None:
    store = DictStore()
    assert brought(store, found)
    assert exported(store) == found
    assert brought(store, exported(store)) == []

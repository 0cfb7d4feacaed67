"""`authz explain` on what AWS does not have: the owner of limits, several quotas, billing days, overage, overrides."""

from __future__ import annotations

from authz.core.catalog import Catalog
from authz.core.resources import (
    Anchor,
    Customer,
    LimitsPer,
    Overage,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    Resources,
    ThrottleSettings,
)
from authz.explain import explain
from tests.conftest import micros
from tests.support.builders import key, plan, resources
from tests.support.world import ask, limited

NOW = micros("2026-03-04T10:00:00Z")


async def story(sold: Resources) -> list[str]:
    return (await explain(Catalog.compile(sold, "42"), ask(), NOW)).splitlines()


SOLD = resources(
    usage_plans=(
        plan(
            throttle=limited(10.0, 20),
            limits_per=LimitsPer.CUSTOMER,
            quota=QuotaSettings(
                1000,
                Period.MONTH,
                time_zone="Europe/Berlin",
                anchor=Anchor.BILLING_DAY,
                overage=Overage(200),
                alerts=(100, 80),
            ),
            quotas=(QuotaSettings(9000, Period.TOTAL, overage=Overage("UNLIMITED")), QuotaSettings(50, Period.HOUR)),
        ),
    ),
    api_keys=(key(customer_id="acme"),),
    customers=(
        Customer(
            "acme",
            billing_day=15,
            overrides={
                "p1": Override(ThrottleSettings(burst_limit=40), (QuotaOverride(Period.MONTH, 5000),)),
            },
        ),
    ),
)


async def test_each_quota_says_its_period_its_owner_and_its_own_numbers() -> None:
    lines = await story(SOLD)
    assert lines[6:22] == [
        "limits    of the customer acme, whose keys share them",
        "layer     plan_throttle: 10 a second, burst 40",
        "            by an override; the plan's is 10 a second, burst 20",
        "            in {42}:v1:customer-ledger:p1:acme",
        "layer     plan_quota: 5000 from 2026-02-14T23:00:00Z to 2026-03-14T23:00:00Z",
        "            each MONTH in Europe/Berlin, from the billing day 15 of the customer",
        "            then overage, 200 at most",
        "            alerts at 80, 100 %",
        "            by an override; the plan's is 1000",
        "            in {42}:v1:customer-ledger:p1:acme",
        "layer     plan_quota_total: 9000",
        "            in all",
        "            then overage, without end",
        "            in {42}:v1:customer-quota:p1:acme:TOTAL:UNITS",
        "layer     plan_quota_hour: 50 from 2026-03-04T10:00:00Z to 2026-03-04T11:00:00Z",
        "            each HOUR",
    ]


async def test_a_month_without_a_billing_day_says_why_it_begins_on_the_1st() -> None:
    billed = QuotaSettings(1000, Period.MONTH, anchor=Anchor.BILLING_DAY)
    lines = await story(resources(usage_plans=(plan(quota=billed),)))
    assert "            each MONTH, from the 1st, since the key has no billing day" in lines

"""The holders of quotas are those that the catalog charges, under the same rules and names in Redis."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from authz.core.catalog import Catalog
from authz.core.holders import Holder, QuotaState, held_quotas, restarts, used_in
from authz.core.limits import Layer, Quota, redis_key
from authz.core.request import Request
from authz.core.resources import (
    Anchor,
    Counts,
    Customer,
    LimitsPer,
    Overage,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    UsagePlan,
)
from authz.core.verdict import Grant
from authz.core.zones import DAY_US
from tests.conftest import micros
from tests.support import builders

NOW = micros("2026-03-04T10:00:00Z")
MONTH = QuotaSettings(100, Period.MONTH, anchor=Anchor.BILLING_DAY, alerts=(100, 80), overage=Overage(7))
HOUR = QuotaSettings(10, Period.HOUR, time_zone="Asia/Kolkata", counts=Counts.REQUESTS)
TOTAL = QuotaSettings(1000, Period.TOTAL, overage=Overage("UNLIMITED"))
OWN = Override(quotas=(QuotaOverride(Period.MONTH, 55), QuotaOverride(Period.TOTAL, 5, Counts.UNITS)))


@pytest.mark.parametrize(
    ("plan", "key", "customer", "holder"),
    [
        ({}, {}, {}, Holder("k1")),
        ({}, {"billing_day": 7}, {}, Holder("k1", False, 7)),
        ({}, {"overrides": {"p1": OWN}}, {}, Holder("k1", False, None, OWN)),
        ({"quota": None}, {}, {}, Holder("k1")),
        ({"limits_per": LimitsPer.CUSTOMER}, {"billing_day": 7}, {}, Holder("k1", False, 7)),
        (
            {"limits_per": LimitsPer.CUSTOMER},
            {"customer_id": "a/b", "billing_day": 7},
            {"billing_day": 9, "overrides": {"p1": OWN}},
            Holder("a/b", True, 9, OWN),
        ),
        ({"limits_per": LimitsPer.CUSTOMER}, {"customer_id": "else"}, {"billing_day": 9}, Holder("else", True)),
        ({}, {"customer_id": "a/b", "billing_day": 7}, {"billing_day": 9}, Holder("k1", False, 7)),
    ],
)
def test_the_catalog_charges_the_quotas_that_a_holder_has(
    plan: dict[str, Any], key: dict[str, Any], customer: dict[str, Any], holder: Holder
) -> None:
    sold = builders.plan(**{"quota": MONTH, "quotas": (HOUR, TOTAL), **plan})
    resources = builders.resources(
        usage_plans=(sold,),
        api_keys=(builders.key("k1", **key),),
        customers=(Customer(id="a/b", **customer),),
    )
    catalog = Catalog.compile(resources, account_id="a")
    request = Request("GET", "a1", "/prod/pets", {"x-api-key": builders.value_of("k1")})
    grant = catalog.resolve(request, NOW)
    assert isinstance(grant, Grant)
    charged = [(limit.key, limit.rule) for limit in grant.limits if limit.layer is Layer.PLAN_QUOTA]
    assert charged == [(redis_key("a", *quota.name), quota.at(NOW)) for quota in held_quotas(sold, holder)]


MARCH = Quota(100, micros("2026-03-01T00:00:00Z"), micros("2026-04-01T00:00:00Z"), "MONTH")
MOVED = replace(MARCH, start=MARCH.start + 9 * DAY_US, end=MARCH.end + 9 * DAY_US, moves=True)


@pytest.mark.parametrize(
    ("state", "quota", "expected"),
    [
        pytest.param(QuotaState(), MARCH, 0, id="nothing stored"),
        pytest.param(QuotaState(MARCH.start, 0, 3), MARCH, 3, id="of this period"),
        pytest.param(QuotaState(MARCH.start - 28 * DAY_US, 0, 3), MARCH, 0, id="of an earlier period"),
        pytest.param(QuotaState(MARCH.end, 0, 3), MARCH, 3, id="of a period that begins soon: the clock stepped back"),
        pytest.param(QuotaState(MARCH.end + 2 * DAY_US, 0, 3), MARCH, 0, id="of a wrong clock"),
        pytest.param(QuotaState(MARCH.start, MARCH.end, 3), MOVED, 3, id="the zone moved, and the period goes on"),
        pytest.param(QuotaState(MARCH.start, MOVED.start, 3), MOVED, 0, id="the zone moved, and the period is over"),
        pytest.param(QuotaState(MARCH.start, 0, 3), MOVED, 3, id="the zone moved, and the end is not known"),
    ],
)
def test_a_later_period_begins_with_nothing_used(state: QuotaState, quota: Quota, expected: int) -> None:
    assert used_in(state, quota) == expected
    assert restarts(state, quota) is (expected == 0)


def test_a_plan_without_quotas_has_none() -> None:
    assert held_quotas(UsagePlan(id="p", name="p"), Holder("k")) == ()

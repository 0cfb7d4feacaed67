"""Quotas of a plan over the turns of their periods: from the catalog's grant to a real Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from authz.core.catalog import Catalog
from authz.core.limits import Charge, Layer
from authz.core.request import Request
from authz.core.resources import Anchor, Customer, LimitsPer, Period, QuotaSettings, Resources
from authz.core.verdict import Grant, Tally
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock
from tests.support.builders import api, key, plan, resources, value_of

BILLED = Anchor.BILLING_DAY


@dataclass
class Seller:
    """Sells a plan, and calls by it at the pinned clock's time. A new catalog has what Redis has counted."""

    limiter: RedisLimiter
    account: str
    clock: Clock
    resources: Resources
    catalog: Catalog | None = None

    def sell(self, *quotas: QuotaSettings, keys: tuple[Any, ...] = (key(),), **changes: Any) -> None:
        """Sell these quotas from now on."""
        customers = changes.pop("customers", ())
        sold = plan(keys=tuple(one.id for one in keys), **changes).with_quotas(quotas)
        self.resources = resources(apis=(api(),), usage_plans=(sold,), api_keys=keys, customers=customers)
        self.catalog = Catalog.compile(self.resources, self.account)

    async def call(self, key_id: str = "k1") -> Tally:
        assert self.catalog
        request = Request("GET", "api.example.org", "/prod/pets", {"x-api-key": value_of(key_id)})
        grant = self.catalog.resolve(request, self.clock.now)
        assert isinstance(grant, Grant)
        return await self.limiter.admit(Charge(grant.limits, grant.meter, grant.cost))

    async def admitted(self, *moments: str) -> list[bool]:
        """Whether a call at each of these moments is admitted."""
        found = []
        for moment in moments:
            self.clock.at(moment)
            found.append((await self.call()).refused_by is None)
        return found


@pytest.fixture
def seller(limiter: RedisLimiter, account: str, clock: Clock) -> Seller:
    return Seller(limiter, account, clock, resources())


def once(period: Period, **changes: Any) -> QuotaSettings:
    """One call in each period."""
    return QuotaSettings(1, period, **changes)


CALLS = {
    "a day in Berlin of 25 hours": (
        once(Period.DAY, time_zone="Europe/Berlin"),
        [
            ("2026-10-24T22:00:00Z", True),
            ("2026-10-25T22:59:59Z", False),
            ("2026-10-25T23:00:00Z", True),
            ("2026-10-26T22:59:59Z", False),
        ],
    ),
    "a day in Berlin of 23 hours": (
        once(Period.DAY, time_zone="Europe/Berlin"),
        [("2026-03-28T23:00:00Z", True), ("2026-03-29T21:59:59Z", False), ("2026-03-29T22:00:00Z", True)],
    ),
    "a day that Samoa skipped": (
        once(Period.DAY, time_zone="Pacific/Apia"),
        [("2011-12-30T09:00:00Z", True), ("2011-12-30T09:59:59Z", False), ("2011-12-30T10:00:00Z", True)],
    ),
    "hours of 90 and 60 minutes on Lord Howe": (
        once(Period.HOUR, time_zone="Australia/Lord_Howe"),
        [
            ("2026-04-04T14:00:00Z", True),
            ("2026-04-04T15:29:59Z", False),
            ("2026-04-04T15:30:00Z", True),
            ("2026-04-04T16:29:59Z", False),
            ("2026-04-04T16:30:00Z", True),
        ],
    ),
    "an hour of 30 minutes on Lord Howe": (
        once(Period.HOUR, time_zone="Australia/Lord_Howe"),
        [
            ("2026-10-03T14:30:00Z", True),
            ("2026-10-03T15:29:59Z", False),
            ("2026-10-03T15:30:00Z", True),
            ("2026-10-03T15:59:59Z", False),
            ("2026-10-03T16:00:00Z", True),
        ],
    ),
    "a week in Kathmandu": (
        once(Period.WEEK, offset=1, time_zone="Asia/Kathmandu"),
        [("2026-03-01T18:15:00Z", True), ("2026-03-08T18:14:59Z", False), ("2026-03-08T18:15:00Z", True)],
    ),
    "a total": (once(Period.TOTAL), [("2026-03-04T10:00:00Z", True), ("2096-03-04T10:00:00Z", False)]),
}


@pytest.mark.parametrize(("quota", "calls"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("beside", [False, True], ids=["the first quota", "a further quota"])
async def test_a_quota_is_new_when_its_period_begins(
    seller: Seller, quota: QuotaSettings, calls: list[tuple[str, bool]], beside: bool
) -> None:
    others = (QuotaSettings(1000, Period.MONTH),) if beside else ()
    seller.sell(*others, quota)
    assert await seller.admitted(*(moment for moment, _ in calls)) == [admitted for _, admitted in calls]


async def test_a_month_begins_on_the_customers_billing_day(seller: Seller) -> None:
    seller.sell(
        once(Period.MONTH, time_zone="Asia/Kolkata", anchor=BILLED),
        keys=(key(customer_id="indigo", billing_day=3),),
        limits_per=LimitsPer.CUSTOMER,
        customers=(Customer("indigo", billing_day=15),),
    )
    calls = [("2026-03-14T18:29:59Z", True), ("2026-03-14T18:30:00Z", True), ("2026-04-14T18:29:59Z", False)]
    assert await seller.admitted(*(moment for moment, _ in calls)) == [admitted for _, admitted in calls]


async def test_a_refusal_by_the_hour_costs_the_month_nothing(seller: Seller, clock: Clock) -> None:
    seller.sell(QuotaSettings(3, Period.MONTH), once(Period.HOUR))
    tallies = [await seller.call() for _ in range(3)]
    refused = tallies[-1]
    assert [tally.states[0] for tally in tallies] == [1, 1, 1]
    assert refused.refused_by
    assert refused.refused_by.layer is Layer.PLAN_QUOTA
    clock.advance(3600)
    assert (await seller.call()).states[:2] == (2, 1)


async def test_a_used_up_total_has_no_wait(seller: Seller) -> None:
    seller.sell(QuotaSettings(10, Period.DAY), once(Period.TOTAL))
    assert (await seller.call()).refused_by is None
    assert (await seller.call()).wait_us is None


@pytest.mark.parametrize(
    ("before", "after", "renewed"),
    [(15, 20, "2026-04-20"), (15, 10, "2026-04-10"), (15, 26, "2026-03-26"), (15, 15, "2026-04-15")],
)
async def test_a_moved_billing_day_takes_effect_with_the_next_month(
    seller: Seller, before: int, after: int, renewed: str
) -> None:
    """The day moves on 25 March; the count that began on 15 March goes on until then."""
    billed = once(Period.MONTH, anchor=BILLED)
    seller.sell(billed, keys=(key(billing_day=before),))
    assert await seller.admitted("2026-03-15T00:00:00Z", "2026-03-24T00:00:00Z") == [True, False]
    seller.sell(billed, keys=(key(billing_day=after),))
    seller.clock.at(f"{renewed}T00:00:00Z")
    seller.clock.advance(-1)
    last = seller.clock.now
    seller.clock.at("2026-03-25T00:00:00Z")
    assert (await seller.call()).refused_by
    seller.clock.now = last
    assert (await seller.call()).refused_by
    assert await seller.admitted(f"{renewed}T00:00:00Z") == [True]


ZONES = (None, "Asia/Kolkata", "America/New_York", "Pacific/Auckland", "Pacific/Honolulu")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("period", [Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH])
async def test_a_changed_zone_gives_nothing_by_itself(seller: Seller, period: Period, zone: str | None) -> None:
    for before in ZONES:
        seller.clock.at("2026-03-04T10:10:00Z")
        quota = once(period, time_zone=before)
        seller.sell(quota, keys=(key(f"k-{before}".replace("/", "-")),))
        [name] = seller.resources.usage_plans[0].keys
        assert (await seller.call(name)).refused_by is None
        seller.sell(replace(quota, time_zone=zone), keys=seller.resources.api_keys)
        assert (await seller.call(name)).refused_by

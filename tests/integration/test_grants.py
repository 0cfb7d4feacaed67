"""Top-ups: units that are added to what remains of a quota, once, exactly, and in the audit; quotas as they stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from msgspec.structs import replace

from authz.aws.usage import Days
from authz.core.holders import HeldQuota, Holder, held_quotas, state_keys
from authz.core.limits import Charge, Layer, Limit, Meter, redis_key
from authz.core.resources import (
    Anchor,
    Counts,
    LimitsPer,
    Overage,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    UsagePlan,
)
from authz.core.zones import DAY_US
from authz.limiter.limiter import RedisLimiter
from authz.store.audit import audit
from authz.store.ports import StoreRefusal
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.control import Control, boto, patiently
from tests.support.control import control as control

MONTH = QuotaSettings(10, Period.MONTH)
TOTAL = QuotaSettings(10, Period.TOTAL)
PLAN = UsagePlan(id="p", name="p", quota=MONTH, quotas=(TOTAL,))
SHARED = replace(PLAN, limits_per=LimitsPer.CUSTOMER)
KEY, CUSTOMER = Holder("k"), Holder("acme: 1", is_customer=True)
PLACES = [
    pytest.param(KEY, 0, id="ledger"),
    pytest.param(KEY, 1, id="value"),
    pytest.param(CUSTOMER, 0, id="customer's ledger"),
    pytest.param(CUSTOMER, 1, id="customer's value"),
]


def held(holder: Holder, position: int) -> HeldQuota:
    return held_quotas(SHARED if holder.is_customer else PLAN, holder)[position]


class Desk:
    """Calls, grants and look-ups for one holder and quota."""

    def __init__(self, ledger: UsageLedger, limiter: RedisLimiter, account: str, clock: Clock) -> None:
        self.ledger = ledger
        self.limiter = limiter
        self.account = account
        self.clock = clock
        self.holder, self.quota = KEY, held(KEY, 0)

    def of(self, holder: Holder, position: int) -> Desk:
        self.holder, self.quota = holder, held(holder, position)
        return self

    async def call(self, times: int = 1) -> int:
        """The number of admitted calls."""
        key = redis_key(self.account, *self.quota.name)
        shared = key if self.quota.place == "shared" else ""
        meter = Meter(redis_key(self.account, "ledger", "p", "k"), redis_key(self.account, "history", "p", "k"), shared)
        limit = Limit(Layer.PLAN_QUOTA, key, self.quota.at(self.clock()))
        tallies = await asyncio.gather(*(self.limiter.admit(Charge([limit], meter)) for _ in range(times)))
        return sum(tally.refused_by is None for tally in tallies)

    async def grant(self, units: int, name: str = "n1") -> int:
        """What remains afterwards."""
        written = await self.ledger.grant("p", self.holder, self.quota, units, name=name, who="ada", what=f"+{units}")
        return self.quota.settings.limit - written.result.used

    async def remaining(self) -> int:
        (state,) = (await self.ledger.states([self.quota])).states
        assert state is not None
        return self.quota.settings.limit - state.used


@pytest.fixture
def desk(ledger: UsageLedger, limiter: RedisLimiter, account: str, clock: Clock) -> Desk:
    limiter._refusals._callers = 0
    return Desk(ledger, limiter, account, clock)


@pytest.mark.parametrize(("holder", "position"), PLACES)
async def test_granted_units_are_admitted_and_no_more(desk: Desk, holder: Holder, position: int) -> None:
    desk.of(holder, position)
    assert await desk.call(12) == 10
    assert await desk.grant(3) == 3
    assert await desk.call(9) == 3
    assert await desk.remaining() == 0


@pytest.mark.parametrize(("holder", "position"), PLACES)
async def test_a_grant_before_the_first_call_adds_to_the_limit(desk: Desk, holder: Holder, position: int) -> None:
    desk.of(holder, position)
    assert await desk.grant(5) == 15
    assert await desk.call(20) == 15


@pytest.mark.parametrize(("holder", "position"), PLACES)
async def test_a_grant_that_is_sent_again_is_made_once(desk: Desk, holder: Holder, position: int) -> None:
    desk.of(holder, position)
    assert await desk.grant(5) == 15
    await desk.call(4)
    assert await desk.grant(5) == 11
    assert await desk.grant(5, "n2") == 16
    with pytest.raises(StoreRefusal, match="Another grant has this name"):
        await desk.grant(6, "n2")
    assert await desk.remaining() == 16


async def test_a_name_is_not_used_for_another_holder(desk: Desk) -> None:
    await desk.grant(5)
    with pytest.raises(StoreRefusal, match="Another grant has this name"):
        await desk.of(KEY, 1).grant(5)


@pytest.mark.parametrize(("holder", "position"), PLACES)
async def test_grants_beside_concurrent_calls_lose_nothing(desk: Desk, holder: Holder, position: int) -> None:
    """Setting what remains would overwrite the calls that were counted in between."""
    desk.of(holder, position)
    calls = [desk.call(7) for _ in range(10)]
    results = await asyncio.gather(*calls, *(desk.grant(3, f"n{number}") for number in range(5)))
    admitted = sum(results[: len(calls)])
    assert admitted + await desk.remaining() == 10 + 15


async def test_granted_units_end_with_their_period(desk: Desk, clock: Clock) -> None:
    await desk.call(2)
    await desk.grant(5)
    clock.advance(31 * 86_400)
    assert await desk.call(20) == 10


async def test_a_grant_in_a_new_period_does_not_pay_for_the_last_one(desk: Desk, clock: Clock) -> None:
    await desk.call(10)
    clock.advance(31 * 86_400)
    assert await desk.grant(5) == 15


async def test_units_of_a_period_that_never_ends_stay(desk: Desk, clock: Clock) -> None:
    desk.of(KEY, 1)
    await desk.call(10)
    await desk.grant(5)
    clock.advance(3 * 366 * 86_400)
    assert await desk.call(20) == 5


async def test_a_grant_is_a_commit_that_names_the_holder(desk: Desk, store: Store) -> None:
    """Sidecars forget what they remember of it."""
    await desk.grant(5)
    await desk.of(CUSTOMER, 1).grant(6, "n2")
    await desk.grant(6, "n2")
    events = await store.changes(0, 100)
    assert [event.usage for event in events] == [(("p", "k"),), (("p", "customer/acme: 1"),)]
    assert [(line.version, line.who, line.what) for line in await audit(store.database)] == [
        (1, "ada", "+5"),
        (2, "ada", "+6"),
    ]


async def test_a_grant_appends_no_alert_and_the_next_crossing_does(
    desk: Desk, spy: redis.asyncio.Redis, account: str, clock: Clock
) -> None:
    settings = replace(MONTH, alerts=(80,))
    desk.quota = replace(desk.quota, settings=settings)
    stream = redis_key(account, "alerts")
    await desk.call(8)
    assert await spy.xlen(stream) == 1
    await desk.grant(5)
    assert await spy.xlen(stream) == 1
    await desk.call(5)
    assert await spy.xlen(stream) == 2


@pytest.mark.parametrize(("holder", "position"), PLACES)
async def test_what_remains_is_set_of_any_quota(desk: Desk, holder: Holder, position: int) -> None:
    desk.of(holder, position)
    await desk.call(4)
    await desk.ledger.set_remaining("p", holder, desk.quota, 2, who="ada", what="")
    assert await desk.call(9) == 2


@pytest.mark.parametrize("change", [{"time_zone": "Asia/Tokyo"}, {"anchor": Anchor.BILLING_DAY}])
async def test_a_grant_follows_zones_and_billing_days(desk: Desk, clock: Clock, change: dict[str, Any]) -> None:
    """The period that the calls are counted in is the one that is granted to."""
    desk.quota = replace(desk.quota, settings=replace(MONTH, **change), billing_day=7)
    clock.at("2026-03-31T14:59:00Z")
    await desk.call(4)
    assert await desk.grant(5) == 11
    assert await desk.call(20) == 11


async def test_an_override_is_the_limit_that_is_granted_to() -> None:
    override = Override(quotas=(QuotaOverride(Period.MONTH, 500), QuotaOverride(Period.TOTAL, 7, Counts.REQUESTS)))
    month, total = held_quotas(PLAN, replace(KEY, override=override))
    assert (month.settings.limit, total.settings.limit) == (500, 10)


def test_the_states_of_a_holder_are_among_its_keys() -> None:
    """A change of the store names the holder; a sidecar forgets them all."""
    for holder in (KEY, CUSTOMER):
        plan = SHARED if holder.is_customer else PLAN
        names = {redis_key("a", *quota.name) for quota in held_quotas(plan, holder)}
        assert names < set(state_keys("a", "p", holder.name))


# --- the operations and the command line --------------------------------------------------------------------------


class Seller:
    """A trial plan of ten calls in all, and a plan whose customers share a month; made as an administrator does."""

    def __init__(self, control: Control, clock: Clock) -> None:
        control.ledger.clock = clock
        self.control = control
        self.aws = boto(control, attempts=10)
        self.trial = self.plan("trial", quotas=[{"limit": 10, "period": "TOTAL"}])
        self.pro = self.plan(
            "pro",
            quotas=[{"limit": 100, "period": "MONTH", "overage": {"upTo": 50}}, {"limit": 10, "period": "HOUR"}],
            limitsPer="CUSTOMER",
        )
        self.key = self.aws.create_api_key(name="acme 1", enabled=True, customerId="acme")["id"]
        for plan in (self.trial, self.pro):
            self.aws.create_usage_plan_key(usagePlanId=plan, keyId=self.key, keyType="API_KEY")

    def plan(self, name: str, **extension: Any) -> str:
        made: str = self.aws.create_usage_plan(name=name)["id"]
        reply = patiently(self.control, "PUT", f"/usageplans/{made}/extension", extension)
        assert reply.status == 200, reply.body
        return made

    def post(self, **body: Any) -> tuple[int, Any]:
        reply = patiently(self.control, "POST", "/usage/grants", {"reason": "r", "name": "n", "units": 5, **body})
        return reply.status, reply.json()

    def get(self, query: str) -> Any:
        return patiently(self.control, "GET", f"/usage/quotas?{query}").json()


@pytest.fixture
def seller(control: Control, clock: Clock) -> Seller:
    return Seller(control, clock)


def test_quotas_are_shown_with_the_throttle_that_holds_for_the_key(seller: Seller) -> None:
    path = f"/usageplans/{seller.trial}/keys/{seller.key}/extension"
    seen = [seller.get(f"usagePlanId={seller.trial}&keyId={seller.key}")]
    seller.aws.update_usage_plan(
        usagePlanId=seller.trial,
        patchOperations=[
            {"op": "add", "path": "/throttle/rateLimit", "value": "10"},
            {"op": "add", "path": "/throttle/burstLimit", "value": "20"},
        ],
    )
    for throttle in ({}, {"throttle": {"rateLimit": 3.5}}):
        assert patiently(seller.control, "PUT", path, throttle).status == 200
        seen.append(seller.get(f"usagePlanId={seller.trial}&keyId={seller.key}"))
    assert [found.get("throttle") for found in seen] == [
        None,
        {"rateLimit": 10.0, "burstLimit": 20},
        {"rateLimit": 3.5, "burstLimit": 20},
    ]


async def test_a_grant_says_what_remains(seller: Seller, store: Store) -> None:
    status, body = seller.post(usagePlanId=seller.trial, keyId=seller.key, reason="order\n4711")
    assert (status, body) == (
        201,
        {
            "usagePlanId": seller.trial,
            "keyId": seller.key,
            "period": "TOTAL",
            "counts": "UNITS",
            "limit": 10,
            "used": -5,
            "remaining": 15,
            "overage": 0,
            "granted": 5,
            "repeated": False,
        },
    )
    status, body = seller.post(usagePlanId=seller.trial, keyId=seller.key)
    assert (status, body["remaining"], body["granted"], body["repeated"]) == (201, 15, 0, True)
    lines = [line.what for line in await audit(store.database)]
    assert lines[-1] == f"GrantUsage {seller.trial} {seller.key} TOTAL UNITS units=+5 name=n reason=order?4711"


async def test_a_key_whose_limits_are_shared_stands_for_its_customer(seller: Seller) -> None:
    by_key = seller.post(usagePlanId=seller.pro, keyId=seller.key, period="MONTH")[1]
    assert (by_key["customerId"], by_key["remaining"]) == ("acme", 105)
    by_customer = seller.post(usagePlanId=seller.pro, customerId="acme", period="HOUR", name="n2")[1]
    assert (by_customer["customerId"], by_customer["remaining"]) == ("acme", 15)
    shown = seller.get(f"usagePlanId={seller.pro}&customerId=acme")
    assert shown["customerId"] == "acme"
    assert [(one["period"], one["remaining"], one["start"], one["end"]) for one in shown["item"]] == [
        ("MONTH", 105, "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ("HOUR", 15, "2026-03-04T10:00:00Z", "2026-03-04T11:00:00Z"),
    ]
    assert seller.get(f"usagePlanId={seller.pro}&keyId={seller.key}") == shown


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"period": "DAY"}, 400, "has no quota DAY; it has: TOTAL UNITS"),
        ({"counts": "REQUESTS"}, 400, "has no quota REQUESTS; it has: TOTAL UNITS"),
        ({"keyId": None}, 400, "name a key or a customer, and not both"),
        ({"customerId": "acme"}, 400, "name a key or a customer, and not both"),
        ({"customerId": "acme", "keyId": None}, 400, "are per key; name a key"),
        ({"keyId": "none"}, 404, "Invalid API Key identifier specified"),
        ({"usagePlanId": "none"}, 404, "Invalid Usage Plan ID specified"),
        ({"units": 0}, 400, "$.units"),
        ({"reason": ""}, 400, "$.reason"),
        ({"name": ""}, 400, "$.name"),
        ({"unit": 3}, 400, "$.unit: unknown field"),
        ({"period": "YEAR"}, 400, "$.period"),
    ],
)
async def test_a_grant_that_does_not_fit_is_refused(
    seller: Seller, change: dict[str, Any], status: int, message: str
) -> None:
    body = {"usagePlanId": seller.trial, "keyId": seller.key, **change}
    found, answer = seller.post(**{name: value for name, value in body.items() if value is not None})
    assert (found, message in answer["message"]) == (status, True), answer


async def test_a_name_that_another_grant_has_is_a_conflict(seller: Seller) -> None:
    seller.post(usagePlanId=seller.trial, keyId=seller.key)
    status, body = seller.post(usagePlanId=seller.trial, keyId=seller.key, units=6)
    assert (status, body) == (409, {"message": "Another grant has this name"})


async def test_a_plan_with_two_quotas_needs_a_period(seller: Seller) -> None:
    status, body = seller.post(usagePlanId=seller.pro, keyId=seller.key)
    assert status == 400
    assert "more than one quota; it has: MONTH UNITS, HOUR UNITS" in body["message"]


async def test_a_reader_grants_nothing(seller: Seller, control: Control) -> None:
    body = {"usagePlanId": seller.trial, "keyId": seller.key, "units": 1, "reason": "r", "name": "n"}
    assert patiently(control.as_reader(), "POST", "/usage/grants", body).status == 403
    assert (
        patiently(control.as_reader(), "GET", f"/usage/quotas?usagePlanId={seller.trial}&keyId={seller.key}").status
        == 200
    )


async def test_our_own_operation_sets_any_quota(seller: Seller, control: Control) -> None:
    """And AWS's operation sets AWS's quota, also where keys share it."""
    body = {"usagePlanId": seller.pro, "customerId": "acme", "period": "HOUR", "remaining": 3}
    assert patiently(seller.control, "PUT", "/usage/quotas", body).json()["remaining"] == 3
    patch = [{"op": "replace", "path": "/remaining", "value": "42"}]
    shown = seller.aws.update_usage(usagePlanId=seller.pro, keyId=seller.key, patchOperations=patch)
    assert shown["items"] == {seller.key: [[0, 42]]}
    day = {"startDate": "2026-03-04", "endDate": "2026-03-04"}
    assert seller.aws.get_usage(usagePlanId=seller.pro, **day)["items"] == {seller.key: [[0, 42]]}
    found = seller.get(f"usagePlanId={seller.pro}&customerId=acme")["item"]
    assert [one["remaining"] for one in found] == [42, 3]
    lines = [line.what for line in control.run(lambda _: audit(control.store.database, 2))]
    assert lines == [
        f"SetUsageRemaining {seller.pro} customer acme HOUR UNITS remaining=3",
        f"UpdateUsage {seller.pro} customer acme MONTH UNITS remaining=42",
    ]


async def test_grants_on_the_command_line(
    seller: Seller, run: Callable[..., Awaitable[str]], store: Store, clock: Clock
) -> None:
    """By Redis's own clock; a period that never ends holds at any time."""
    who = ("--plan", seller.trial, "--key", seller.key)
    words = ("grant", *who, "--units", "2500", "--reason", "order 4711", "--name", "order-4711")
    tail = f"2,510 remain of {seller.trial} {seller.key} TOTAL UNITS\n"
    assert await run(*words) == f"order-4711: 2,500 units granted; {tail}"
    assert await run(*words) == f"order-4711: was made before; {tail}"
    assert (await run("grant", *who, "--units", "1", "--reason", "r")).startswith("grant-")
    line = (await audit(store.database))[-2]
    assert line.who.startswith("authz usage")
    assert line.what.endswith("units=+2500 name=order-4711 reason=order 4711")
    shown = json.loads(await run("quotas", *who, "--json"))
    assert [(one["period"], one["remaining"]) for one in shown] == [("TOTAL", 2511)]
    lines = [line.split() for line in (await run("quotas", *who)).splitlines()]
    assert lines == [
        ["period", "counts", "limit", "used", "remaining", "overage", "until"],
        ["TOTAL", "UNITS", "10", "-2,501", "2,511", "0", "-"],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--period", "DAY"), "has no quota DAY; it has: TOTAL UNITS"),
        (("--units", "0"), "Invalid value for '--units'"),
        (("--reason", ""), "expected a reason of 1 to 250 characters"),
        (("--key", "none"), "there is no apikey none in usage plan"),
        (("--customer", "acme"), "name a key or a customer, and not both"),
    ],
)
async def test_a_grant_on_the_command_line_that_does_not_fit_is_refused(
    seller: Seller, run: Callable[..., Awaitable[str]], words: tuple[str, ...], message: str
) -> None:
    usual = ("--plan", seller.trial, "--key", seller.key, "--units", "5", "--reason", "r")
    assert message in await run("grant", *usual, *words, code=2)


async def test_overage_is_shown(desk: Desk, ledger: UsageLedger) -> None:
    desk.quota = replace(desk.quota, settings=replace(MONTH, overage=Overage(up_to=5)))
    assert await desk.call(20) == 15
    today = desk.clock() // DAY_US
    row = (await ledger.read("p", ["k"], Days(today, today))).records["k"].rows[today]
    assert (row.requests, row.left, row.units, row.over) == (15, 0, 15, 5)

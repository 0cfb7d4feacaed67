"""What plans have beyond AWS: costs, several quotas, customers, overrides, overage and alerts, on the real script."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio

from authz.core.limits import redis_key
from authz.core.resources import (
    Anchor,
    CostFrom,
    Counts,
    Customer,
    LimitsPer,
    Method,
    Mode,
    Overage,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    Resources,
    ThrottleSettings,
)
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock
from tests.support.builders import key
from tests.support.world import METHODS, Answer, World, fixture

PETS, SEARCH, FREE, ANY_COST = (f"https://a1.example.org/prod/{name}" for name in ("pets", "search", "free", "llm"))
TOKENS = CostFrom(("ns", "units"), 1000)
CHEAP = {**METHODS, "/free": {"GET": Method(cost=0)}, "/llm": {"GET": Method(cost_from=TOKENS)}}
DEAR = {**CHEAP, "/search": {"GET": Method(cost=5)}}
UNITS = ThrottleSettings(1.0, 10, Counts.UNITS)

MakeWorld = Callable[..., World]


def sold(**changes: Any) -> Resources:
    """The plan P without a throttle for K1 and K2, on an API where a free call costs 0, and a search 5 on demand.

    A search that could never fit would be refused with the configuration.
    """
    resources = DEAR if changes.pop("search", False) else CHEAP
    keys = changes.pop("keys", (key("K1", customer_id="acme"), key("K2", customer_id="acme")))
    customers = changes.pop("customers", ())
    plan = {"throttle": None, "keys": tuple(one.id for one in keys), **changes}
    return fixture(plan=plan, a1={"resources": resources}, api_keys=keys, customers=customers)


def quotas(*settings: QuotaSettings) -> dict[str, Any]:
    """The first is AWS's quota if it has a period that AWS knows."""
    first = settings[0]
    if first.period in (Period.DAY, Period.WEEK, Period.MONTH):
        return {"quota": first, "quotas": settings[1:]}
    return {"quotas": settings}


def quota(limit: int, period: Period = Period.DAY, **more: Any) -> QuotaSettings:
    return QuotaSettings(limit, period, **more)


@pytest.fixture
def make_world(limiter: RedisLimiter, clock: Clock, account: str) -> MakeWorld:
    return lambda resources, **options: World(resources, limiter, clock, account=account, **options)


async def names(world: World, *calls: tuple[str, str]) -> str:
    """The answers to these calls, each a URL and the id of a key."""
    return " ".join([(await world.call("GET", url, who)).name for url, who in calls])


def remaining(answer: Answer) -> dict[str, int]:
    return {name: int(left) for name, left in answer.metadata["remaining"].items()}


# --- cost ---------------------------------------------------------------------------------------------------------


async def test_a_call_takes_its_cost_from_a_quota_and_one_from_a_throttle(make_world: MakeWorld) -> None:
    world = make_world(sold(search=True, throttle=ThrottleSettings(1.0, 10), quota=quota(100)))
    assert remaining(await world.call("GET", SEARCH, "K1")) == {
        "plan_throttle": 9,
        "plan_quota": 95,
        "account_throttle": 4999,
    }


async def test_a_throttle_takes_the_cost_if_it_counts_units(make_world: MakeWorld) -> None:
    world = make_world(sold(search=True, throttle=UNITS))
    assert await names(world, *[(SEARCH, "K1")] * 3) == "OK OK TMR"


async def test_a_quota_takes_one_if_it_counts_requests(make_world: MakeWorld) -> None:
    world = make_world(sold(search=True, quota=quota(2, counts=Counts.REQUESTS)))
    assert await names(world, *[(SEARCH, "K1")] * 3) == "OK OK LE"


async def test_a_call_whose_cost_does_not_fit_leaves_room_for_a_cheaper_one(make_world: MakeWorld) -> None:
    world = make_world(sold(search=True, quota=quota(7)))
    assert (
        await names(world, (SEARCH, "K1"), (SEARCH, "K1"), (PETS, "K1"), (PETS, "K1"), (PETS, "K1")) == "OK LE OK OK LE"
    )


async def test_a_call_that_costs_nothing_passes_a_used_up_quota_and_is_throttled(make_world: MakeWorld) -> None:
    world = make_world(sold(throttle=ThrottleSettings(0.001, 3), quota=quota(1)))
    assert await names(world, (PETS, "K1"), (PETS, "K1"), *[(FREE, "K1")] * 3) == "OK LE OK OK TMR"


async def test_the_wait_is_the_wait_for_this_cost(make_world: MakeWorld) -> None:
    """Ten units at one a second: after two searches the next one has room in five seconds, a plain call in one."""
    world = make_world(sold(search=True, throttle=UNITS))
    assert await names(world, (SEARCH, "K1"), (SEARCH, "K1")) == "OK OK"
    assert (await world.call("GET", SEARCH, "K1")).headers["retry-after"] == "5"
    assert (await world.call("GET", PETS, "K1")).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"throttle": ThrottleSettings(1.0, 5, Counts.UNITS)}, id="a bucket"),
        pytest.param({"quota": quota(5)}, id="a quota"),
        pytest.param({"quota": quota(3, overage=Overage(2))}, id="a quota with overage"),
    ],
)
async def test_a_cost_that_never_fits_is_refused_without_a_wait(make_world: MakeWorld, limits: dict[str, Any]) -> None:
    world = make_world(sold(**limits))
    answer = await world.call("GET", ANY_COST, "K1", metadata={"ns": {"units": 6}})
    assert answer.status == 429
    assert "retry-after" not in answer.headers


# --- several quotas -----------------------------------------------------------------------------------------------


async def test_quotas_are_checked_in_order_and_all_are_charged_or_none(make_world: MakeWorld) -> None:
    world = make_world(sold(**quotas(quota(3), quota(2, Period.HOUR), quota(100, Period.TOTAL))))
    assert await names(world, *[(PETS, "K1")] * 3) == "OK OK LE"
    refused = await world.call("GET", PETS, "K1")
    assert (refused.metadata["reason"], refused.metadata["period"]) == ("plan_quota", "HOUR")
    assert remaining(refused) == {
        "plan_quota": 1,
        "plan_quota_hour": 0,
        "plan_quota_total": 98,
        "account_throttle": 4998,
    }
    world.clock.advance(3600)
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"
    assert (await world.call("GET", PETS, "K1")).metadata["period"] == "DAY"


async def test_each_quota_has_an_item_in_the_headers(make_world: MakeWorld, clock: Clock) -> None:
    clock.at("2026-03-04T10:30:00Z")
    world = make_world(sold(**quotas(quota(1), quota(5, Period.HOUR), quota(9, Period.TOTAL))))
    await world.call("GET", PETS, "K1")
    answer = await world.call("GET", PETS, "K1")
    assert answer.headers["ratelimit"] == (
        '"plan_quota";r=0;t=48600, "plan_quota_hour";r=4;t=1800, "plan_quota_total";r=8, "account_throttle";r=4999;t=1'
    )
    assert answer.headers["ratelimit-policy"] == (
        '"plan_quota";q=1;w=86400, "plan_quota_hour";q=5;w=3600, "plan_quota_total";q=9, "account_throttle";q=5000;w=1'
    )


async def test_a_total_never_begins_again(make_world: MakeWorld, clock: Clock, spy: redis.asyncio.Redis) -> None:
    world = make_world(sold(**quotas(quota(2, Period.TOTAL))))
    assert await names(world, *[(PETS, "K1")] * 3) == "OK OK LE"
    assert "retry-after" not in (await world.call("GET", PETS, "K1")).headers
    clock.advance(500 * 86_400)
    assert await names(world, (PETS, "K1")) == "LE"
    stored = [
        one
        async for one in spy.scan_iter(
            match=redis_key(world._account, "quota", "P", "K1", "TOTAL", "UNITS").replace("[", "?")
        )
    ]
    assert [await spy.pttl(one) for one in stored] == [-1], "it must not expire"


async def test_a_quota_that_is_added_starts_empty_and_one_that_returns_keeps_its_use(make_world: MakeWorld) -> None:
    hour = quota(3, Period.HOUR)
    world = make_world(sold(**quotas(quota(100), hour)))
    await names(world, *[(PETS, "K1")] * 2)
    world.change(sold(**quotas(quota(100), quota(5, Period.WEEK))))
    assert remaining(await world.call("GET", PETS, "K1"))["plan_quota_week"] == 4
    world.change(sold(**quotas(quota(100), hour)))
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"


# --- customers and overrides --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        pytest.param({"throttle": ThrottleSettings(0.001, 3)}, "TMR", id="throttle"),
        pytest.param({"quota": quota(3)}, "LE", id="quota"),
        pytest.param(quotas(quota(100), quota(3, Period.HOUR)), "LE", id="further quota"),
    ],
)
async def test_a_second_key_of_a_customer_gives_nothing_more(
    make_world: MakeWorld, limits: dict[str, Any], refusal: str
) -> None:
    world = make_world(sold(limits_per=LimitsPer.CUSTOMER, **limits))
    assert await names(world, (PETS, "K1"), (PETS, "K2"), (PETS, "K1"), (PETS, "K2"), (PETS, "K1")) == (
        f"OK OK OK {refusal} {refusal}"
    )


async def test_keys_without_a_customer_count_for_themselves(make_world: MakeWorld) -> None:
    keys = (key("K1"), key("K2"))
    world = make_world(sold(keys=keys, limits_per=LimitsPer.CUSTOMER, quota=quota(1)))
    assert await names(world, (PETS, "K1"), (PETS, "K2"), (PETS, "K1")) == "OK OK LE"


async def test_usage_is_counted_by_key_where_limits_are_the_customers(make_world: MakeWorld) -> None:
    world = make_world(sold(limits_per=LimitsPer.CUSTOMER, quota=quota(10)))
    await names(world, (PETS, "K1"), (PETS, "K2"), (PETS, "K2"))
    ledgers = [await world.ledger("P", who) for who in ("K1", "K2")]
    assert [ledger and (ledger.day_used, ledger.day_left) for ledger in ledgers] == [(1, 9), (2, 7)]


async def test_a_key_that_moves_to_another_customer_leaves_its_use_behind(make_world: MakeWorld) -> None:
    plan = {"limits_per": LimitsPer.CUSTOMER, "quota": quota(2)}
    world = make_world(sold(**plan))
    assert await names(world, (PETS, "K1"), (PETS, "K2"), (PETS, "K1")) == "OK OK LE"
    world.change(sold(keys=(key("K1", customer_id="globex"), key("K2", customer_id="acme")), **plan))
    assert await names(world, (PETS, "K1"), (PETS, "K2")) == "OK LE"


@pytest.mark.parametrize(
    ("override", "limits", "admitted"),
    [
        pytest.param(Override(ThrottleSettings(None, 5)), {"throttle": ThrottleSettings(0.001, 2)}, 5, id="burst"),
        pytest.param(Override(ThrottleSettings(0.0)), {"throttle": ThrottleSettings(1000.0, 2)}, 2, id="rate"),
        pytest.param(Override(quotas=(QuotaOverride(Period.DAY, 4),)), {"quota": quota(2)}, 4, id="quota"),
        pytest.param(
            Override(quotas=(QuotaOverride(Period.DAY, 1, Counts.REQUESTS),)),
            quotas(quota(3), quota(2, counts=Counts.REQUESTS)),
            1,
            id="one of two quotas of a period",
        ),
    ],
)
@pytest.mark.parametrize("per", LimitsPer)
async def test_an_override_stands_in_place_of_the_plans_number(
    make_world: MakeWorld, override: Override, limits: dict[str, Any], admitted: int, per: LimitsPer
) -> None:
    own, none = {"P": override}, dict[str, Override]()
    keys = (key("K1", customer_id="acme", overrides=own if per is LimitsPer.KEY else none),)
    customers = (Customer("acme", overrides=own if per is LimitsPer.CUSTOMER else none),)
    world = make_world(sold(keys=keys, customers=customers, limits_per=per, **limits))
    answers = await names(world, *[(PETS, "K1")] * (admitted + 1))
    assert answers.split()[:-1] == ["OK"] * admitted
    assert answers.split()[-1] in {"TMR", "LE"}


async def test_an_override_that_could_mean_two_quotas_means_none(make_world: MakeWorld) -> None:
    """The plan had one quota of the period when the override was written."""
    own = (key("K1", overrides={"P": Override(quotas=(QuotaOverride(Period.DAY, 9),))}),)
    world = make_world(sold(keys=own, quota=quota(2)))
    both = sold(keys=own, **quotas(quota(2), quota(1, counts=Counts.REQUESTS)))
    world.catalog = type(world.catalog).compile(both, world._account)
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"


async def test_an_override_keeps_the_spent_units(make_world: MakeWorld) -> None:
    world = make_world(sold(quota=quota(2)))
    assert await names(world, *[(PETS, "K1")] * 3) == "OK OK LE"
    raised = Override(quotas=(QuotaOverride(Period.DAY, 3),))
    world.change(sold(keys=(key("K1", overrides={"P": raised}), key("K2")), quota=quota(2)))
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"


# --- overage ------------------------------------------------------------------------------------------------------


async def test_overage_is_admitted_marked_and_counted(make_world: MakeWorld) -> None:
    world = make_world(sold(quota=quota(2, overage=Overage(2))))
    answers = [await world.call("GET", PETS, "K1") for _ in range(5)]
    assert [answer.name for answer in answers] == ["OK", "OK", "OK", "OK", "LE"]
    assert [answer.upstream.get("x-usage-overage") for answer in answers] == [None, None, "true", "true", None]
    assert [answer.metadata.get("overage") for answer in answers] == [None, None, 1, 1, None]
    assert remaining(answers[3])["plan_quota"] == 0
    raw = await world.ledger_bytes("P", "K1")
    assert raw
    assert struct.unpack(">B12d", raw)[-5:] == (4.0, 0.0, 0.0, 4.0, 2.0), "requests, left, finish, units, over"


async def test_unlimited_overage_has_no_end(make_world: MakeWorld) -> None:
    world = make_world(sold(search=True, quota=quota(1, overage=Overage("UNLIMITED"))))
    assert await names(world, *[(SEARCH, "K1")] * 9) == " ".join(["OK"] * 9)


async def test_a_client_cannot_say_that_its_call_is_overage(make_world: MakeWorld) -> None:
    world = make_world(sold(quota=quota(2, overage=Overage(1))))
    answer = await world.call("GET", PETS, "K1", headers={"x-usage-overage": "true"})
    assert "x-usage-overage" in answer.removed


async def test_a_shadow_plans_overage_is_not_marked(make_world: MakeWorld) -> None:
    world = make_world(sold(mode=Mode.SHADOW, quota=quota(1, overage=Overage(5))))
    answers = [await world.call("GET", PETS, "K1") for _ in range(3)]
    assert [answer.upstream.get("x-usage-overage") for answer in answers] == [None] * 3
    assert len(await world.ledger_bytes("P", "K1") or b"") == 73, "no overage is counted either"


# --- alerts -------------------------------------------------------------------------------------------------------


async def alerts(spy: redis.asyncio.Redis, world: World) -> list[tuple[str, ...]]:
    entries: Any = await spy.xrange(redis_key(world._account, "alerts"))
    fields = ("value", "period", "counts", "percent", "used", "limit")
    return [tuple(said[field.encode()].decode() for field in fields) for _, said in entries]


async def test_each_crossing_appends_one_event(make_world: MakeWorld, spy: redis.asyncio.Redis) -> None:
    """A search of five units may pass two percents at once; each is an event of its own."""
    world = make_world(sold(search=True, quota=quota(10, alerts=(50, 80, 100))))
    await names(world, (SEARCH, "K1"), (PETS, "K1"), (SEARCH, "K1"), *[(PETS, "K1")] * 6)
    ledger = redis_key(world._account, "ledger", "P", "K1")
    assert await alerts(spy, world) == [
        (ledger, "DAY", "UNITS", "50", "5", "10"),
        (ledger, "DAY", "UNITS", "80", "8", "10"),
        (ledger, "DAY", "UNITS", "100", "10", "10"),
    ]


async def test_an_event_names_the_customer_where_it_has_the_limits(
    make_world: MakeWorld, spy: redis.asyncio.Redis
) -> None:
    world = make_world(sold(limits_per=LimitsPer.CUSTOMER, **quotas(quota(2, Period.HOUR, alerts=(100,)))))
    await names(world, (PETS, "K1"), (PETS, "K2"))
    value = redis_key(world._account, "customer-quota", "P", "acme", "HOUR", "UNITS")
    assert await alerts(spy, world) == [(value, "HOUR", "UNITS", "100", "2", "2")]


async def test_a_changed_limit_reports_nothing_by_itself(make_world: MakeWorld, spy: redis.asyncio.Redis) -> None:
    """Six of ten is below 80 %; six of seven is above it, and no call has crossed."""
    world = make_world(sold(quota=quota(10, alerts=(80,))))
    await names(world, *[(PETS, "K1")] * 6)
    world.change(sold(quota=quota(7, alerts=(80,))))
    assert await names(world, (PETS, "K1")) == "OK"
    assert await alerts(spy, world) == []


async def test_a_stream_of_alerts_of_another_type_is_left_alone(
    make_world: MakeWorld, spy: redis.asyncio.Redis
) -> None:
    """A call that could cross is not decided by Redis; one without alerts is."""
    world = make_world(sold(quota=quota(10, alerts=(80,))))
    await spy.set(redis_key(world._account, "alerts"), "mine")
    assert (await world.call("GET", PETS, "K1")).metadata["degraded"] is True
    world.change(sold(quota=quota(10)))
    assert (await world.call("GET", PETS, "K1")).metadata["degraded"] is False
    await spy.delete(redis_key(world._account, "alerts"))


# --- time zones and billing days ----------------------------------------------------------------------------------


async def test_a_changed_zone_takes_effect_with_its_next_period(make_world: MakeWorld, clock: Clock) -> None:
    """In New York the day began at 05:00Z, in Tokyo the next one begins at 15:00Z."""
    clock.at("2026-03-04T10:00:00Z")
    world = make_world(sold(quota=quota(2)))
    assert await names(world, *[(PETS, "K1")] * 3) == "OK OK LE"
    for zone, begins in (("America/New_York", "2026-03-05T05:00:00Z"), ("Asia/Tokyo", "2026-03-05T15:00:00Z")):
        world.change(sold(quota=quota(2, time_zone=zone)))
        assert await names(world, (PETS, "K1")) == "LE", "the change itself gives nothing"
        clock.at(begins)
        clock.now -= 1
        assert await names(world, (PETS, "K1")) == "LE"
        clock.now += 1
        assert await names(world, *[(PETS, "K1")] * 3) == "OK OK LE"


async def test_a_shorter_period_does_not_wait_for_the_end_of_a_zoned_one(make_world: MakeWorld, clock: Clock) -> None:
    """A day after a month begins at once, with a time zone as without."""
    clock.at("2026-03-10T10:00:00Z")
    world = make_world(sold(quota=quota(7, Period.MONTH, time_zone="Europe/Paris")))
    assert await names(world, *[(PETS, "K1")] * 8) == "OK OK OK OK OK OK OK LE"
    world.change(sold(quota=quota(1, time_zone="Europe/Paris")))
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"


async def test_a_billing_day_that_moves_begins_the_next_month(make_world: MakeWorld, clock: Clock) -> None:
    def on(day: int) -> Resources:
        month = quota(1, Period.MONTH, anchor=Anchor.BILLING_DAY)
        return sold(keys=(key("K1", billing_day=day), key("K2")), quota=month)

    clock.at("2026-01-10T00:00:00Z")
    world = make_world(on(1))
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"
    world.change(on(15))
    assert await names(world, (PETS, "K1")) == "LE"
    clock.at("2026-01-15T00:00:00Z")
    assert await names(world, *[(PETS, "K1")] * 2) == "OK LE"
    clock.at("2026-02-14T23:59:59Z")
    assert await names(world, (PETS, "K1")) == "LE"
    clock.at("2026-02-15T00:00:00Z")
    assert await names(world, (PETS, "K1")) == "OK"


# --- Redis --------------------------------------------------------------------------------------------------------


async def test_a_plan_of_awss_shape_keeps_its_bytes(make_world: MakeWorld, spy: redis.asyncio.Redis) -> None:
    world = make_world(fixture(plan={"quota": quota(10)}))
    await world.call("GET", PETS, "K1")
    raw = await world.ledger_bytes("P", "K1")
    assert raw
    assert (raw[0], len(raw)) == (2, 73)
    kinds = [one async for one in spy.scan_iter(match=f"{{{world._account}}}:v1:*")]
    assert {one.decode().split(":")[2] for one in kinds} == {"reply", "ledger", "account"}


async def test_a_ledger_goes_back_to_its_first_form(make_world: MakeWorld, clock: Clock) -> None:
    """A day with a cost needs the second form, and the day after it does not."""
    world = make_world(sold(search=True, quota=quota(100)))
    await world.call("GET", SEARCH, "K1")
    assert len(await world.ledger_bytes("P", "K1") or b"") == 97
    clock.advance(86_400)
    await world.call("GET", PETS, "K1")
    assert len(await world.ledger_bytes("P", "K1") or b"") == 73

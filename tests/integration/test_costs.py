"""Costs from Envoy's metadata, as callers meet them: on a real Redis, with the clock pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from authz.check import Checker, LimiterUnavailable
from authz.core.catalog import Catalog
from authz.core.costs import CostSource
from authz.core.limits import Charge
from authz.core.resources import CostFrom, Counts, Method, Mode, Period, QuotaSettings, Resources, ThrottleSettings
from authz.core.verdict import Allowed, Tally
from authz.envoy.answers import Style
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from tests.conftest import Clock
from tests.support.builders import api, plan, resources
from tests.support.world import Answer, World, ask

URL = "https://a1.example.org/prod"
TOKENS = CostFrom(("cost", "tokens"), max=4096)
METHODS: Any = {
    "/chat": {"POST": Method(cost=8, cost_from=TOKENS)},
    "/search": {"GET": Method(cost=5)},
    "/health": {"GET": Method(cost=0)},
    "/open": {"GET": Method(api_key_required=False, cost=50, cost_from=TOKENS)},
}
Sell = Callable[..., World]


def selling(**changes: Any) -> Resources:
    return resources(apis=(api(resources=METHODS),), usage_plans=(plan(**changes),))


def quota(limit: int, **changes: Any) -> QuotaSettings:
    return replace(QuotaSettings(limit, Period.DAY), **changes)


@pytest.fixture
def sell(limiter: RedisLimiter, clock: Clock, account: str) -> Sell:
    """A world with this plan."""
    style = Style(headers_on_success=True)
    return lambda **changes: World(selling(**changes), limiter, clock, account=account, style=style)


async def chat(world: World, tokens: object = None) -> Answer:
    return await world.call("POST", f"{URL}/chat", "k1", metadata={"cost": {"tokens": tokens}})


def left(answer: Answer, layer: str = "plan_quota") -> float:
    return float(answer.metadata["remaining"][layer])


async def test_a_call_takes_what_the_metadata_says_and_a_smaller_one_still_fits(sell: Sell) -> None:
    world = sell(quota=quota(1000))
    answers = [await chat(world, tokens) for tokens in (600.0, 500.0, 400.0)]
    assert [(answer.status, left(answer)) for answer in answers] == [(200, 400), (429, 400), (200, 0)]
    assert [answer.metadata["cost"] for answer in answers] == [600, 500, 400]


async def test_a_call_of_cost_0_passes_a_quota_that_is_used_up(sell: Sell) -> None:
    world = sell(quota=quota(10))
    assert (await chat(world, 10.0)).status == 200
    free = [await chat(world, 0.0), await chat(world, "0"), await world.call("GET", f"{URL}/health", "k1")]
    assert [answer.status for answer in free] == [200, 200, 200]
    assert (await chat(world, 1.0)).status == 429


async def test_a_call_of_cost_0_is_throttled(sell: Sell) -> None:
    world = sell(throttle=ThrottleSettings(1, 2))
    assert [(await world.call("GET", f"{URL}/health", "k1")).name for _ in range(3)] == ["OK", "OK", "TMR"]


async def test_without_a_number_a_call_costs_what_its_method_costs(sell: Sell) -> None:
    world = sell(quota=quota(100))
    answers = [await chat(world, value) for value in (None, 1.5, -3.0, "many", True)]
    assert [left(answer) for answer in answers] == [92, 84, 76, 68, 60]


async def test_a_greater_number_costs_the_maximum(sell: Sell) -> None:
    assert left(await chat(sell(quota=quota(10_000)), 1e9)) == 10_000 - 4096


async def test_a_refusal_reports_the_wait_for_this_calls_cost(sell: Sell) -> None:
    """60 of the 100 units are left, and 10 come back each second."""
    world = sell(throttle=ThrottleSettings(10, 100, Counts.UNITS))
    assert (await chat(world, 40.0)).headers["ratelimit"].startswith('"plan_throttle";r=60;t=4')
    waits = [(await chat(world, tokens)).headers["retry-after"] for tokens in (61.0, 70.0, 100.0)]
    assert waits == ["1", "1", "4"]
    assert (await chat(world, 60.0)).status == 200


@pytest.mark.parametrize(
    "limits",
    [{"quota": quota(1000)}, {"throttle": ThrottleSettings(10, 1000, Counts.UNITS)}],
    ids=["quota", "throttle"],
)
async def test_a_cost_that_never_fits_gets_429_without_retry_after(limits: dict[str, Any], sell: Sell) -> None:
    world = sell(**limits)
    refused = await chat(world, 1001.0)
    assert (refused.status, "retry-after" in refused.headers, "retry_after" in refused.metadata) == (429, False, False)
    assert (await chat(world, 1000.0)).status == 200


async def test_a_quota_that_counts_requests_takes_one(sell: Sell) -> None:
    world = sell(quota=quota(3, counts=Counts.REQUESTS))
    assert [left(await chat(world, 500.0)) for _ in range(3)] == [2, 1, 0]


async def test_a_refusal_by_another_layer_takes_no_units(sell: Sell) -> None:
    world = sell(throttle=ThrottleSettings(1, 1), quota=quota(1000))
    answers = [await chat(world, 300.0) for _ in range(2)]
    assert [(answer.name, left(answer)) for answer in answers] == [("OK", 700), ("TMR", 700)]


async def test_a_shadow_plan_reports_a_cost_that_would_not_fit(sell: Sell) -> None:
    world = sell(quota=quota(1000), mode=Mode.SHADOW)
    answer = await chat(world, 1001.0)
    assert (answer.status, answer.metadata["shadow"]) == (200, "plan_quota")


async def test_a_method_without_a_key_has_no_cost(sell: Sell) -> None:
    answer = await sell(quota=quota(10)).call("GET", f"{URL}/open")
    assert (answer.status, "cost" in answer.metadata) == (200, False)


async def test_a_refused_call_does_not_speak_for_a_cheaper_one(sell: Sell) -> None:
    """A refusal is remembered for a second; the memory is for calls of this cost."""
    world = sell(quota=quota(1000))
    assert [(await chat(world, tokens)).status for tokens in (900.0, 200.0, 200.0, 100.0)] == [200, 429, 429, 200]


async def test_a_period_that_ends_meanwhile_keeps_the_cost(sell: Sell, clock: Clock) -> None:
    """The call is resolved twice, and priced from its metadata each time."""
    world = sell(quota=quota(1000))
    assert left(await chat(world, 600.0)) == 400
    clock.at("2026-03-05T00:00:00Z")
    assert left(await chat(world, 600.0)) == 400


class Away:
    """A limiter whose Redis is away."""

    async def admit(self, charge: Charge) -> Tally:
        raise LimiterUnavailable(f"away, for a charge of {charge.cost}")


async def test_without_redis_a_call_takes_its_cost_from_the_local_share() -> None:
    catalog = Catalog.compile(selling(quota=quota(1000)))
    checker = Checker(lambda: catalog, Away(), LocalLimiter(), lambda: 0)
    asked = ask("/prod/chat", method="POST", metadata={"cost": {"tokens": 600.0}})
    verdicts = [await checker.check(asked) for _ in range(2)]
    assert [type(verdict).__name__ for verdict in verdicts] == ["Allowed", "Denied"]
    assert isinstance(verdicts[0], Allowed)
    assert (verdicts[0].grant.cost, verdicts[0].grant.cost_source) == (600, CostSource.METADATA)

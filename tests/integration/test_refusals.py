"""A flood of refused calls costs Redis nothing, and no memory of a refusal outlives what made it true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis
import redis.asyncio
from msgspec.structs import replace

from authz.check import LimiterUnavailable
from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, redis_key, throttle
from authz.core.periods import interval
from authz.core.resources import Period, QuotaSettings
from authz.core.verdict import Tally
from authz.limiter.batching import Pace
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock
from tests.support.limiters import running_limiter
from tests.support.proxy import Proxy
from tests.support.servers import DEADLINE_SECONDS, Kind, RedisServer, redis_server

SECOND = 1_000_000
HOUR = 3600 * SECOND


@pytest.fixture
async def spy(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(server.url)
    yield client
    await client.aclose()


class Asking:
    """A limiter under a pinned clock, and whether it called Redis."""

    def __init__(self, limiter: RedisLimiter, account: str, clock: Clock) -> None:
        self.limiter, self.account, self.clock = limiter, account, clock

    def meter(self, key: str = "k1", plan: str = "p1") -> Meter:
        return Meter(redis_key(self.account, "ledger", plan, key), redis_key(self.account, "history", plan, key))

    def quota(self, limit: int = 1, key: str = "k1", plan: str = "p1", *, shadow: bool = False) -> Limit:
        window = interval(QuotaSettings(limit, Period.DAY), self.clock.now)
        return Limit(Layer.PLAN_QUOTA, self.meter(key, plan).ledger, Quota(limit, window.start, window.end), shadow)

    def plan(self, rate: float, burst: int) -> Limit:
        return Limit(Layer.PLAN_THROTTLE, self.meter().ledger, _rule(rate, burst))

    def bucket(self, layer: Layer, rate: float, burst: int, name: str = "b") -> Limit:
        return Limit(layer, redis_key(self.account, "bucket", layer, name), _rule(rate, burst))

    async def full(self, limits: Sequence[Limit], meter: Meter | None = None) -> Tally:
        """The first refusal, which may be remembered from here on."""
        for _ in range(5):
            tally = await self.limiter.admit(Charge(limits, meter))
            if tally.refused_by:
                return tally
        raise AssertionError("never refused")

    async def asks(self, limits: Sequence[Limit], meter: Meter | None = None) -> tuple[bool, Tally]:
        """Whether Redis was called, and the tally."""
        sequence = self.limiter._sender._sequence
        tally = await self.limiter.admit(Charge(limits, meter))
        return self.limiter._sender._sequence > sequence, tally

    async def remembers(self, limits: Sequence[Limit], meter: Meter | None = None) -> bool:
        asked, tally = await self.asks(limits, meter)
        assert asked or tally.refused_by
        return not asked


def _rule(rate: float, burst: int) -> Throttle:
    rule = throttle(rate, burst)
    assert rule
    return rule


@asynccontextmanager
async def asking(url: str, clock: Clock, redis_clock: RedisClock | None = None) -> AsyncIterator[Asking]:
    account = uuid4().hex
    async with running_limiter(url, account, clock=redis_clock or RedisClock(clock)) as limiter:
        assert await limiter.probe()  # a refusal over a new connection is not remembered
        yield Asking(limiter, account, clock)


@pytest.fixture
async def ask(server: RedisServer, clock: Clock) -> AsyncIterator[Asking]:
    async with asking(server.url, clock) as ask:
        yield ask


@pytest.fixture
async def behind(between: Proxy, clock: Clock) -> AsyncIterator[Asking]:
    """One that asks through the proxy."""
    async with asking(between.url, clock) as behind:
        yield behind


def _commands(server: RedisServer) -> int:
    """All that Redis has executed so far, in scripts too."""
    with redis.Redis.from_url(server.url) as client:
        stats: Any = client.info("commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if name not in ("cmdstat_info", "cmdstat_client|setinfo"))


@pytest.mark.parametrize("at_once", [1, 50, 2000])
async def test_a_flood_of_refused_calls_costs_redis_nothing(ask: Asking, server: RedisServer, at_once: int) -> None:
    """One by one, some at a time, or all at once: callers behind the first batch are answered by its result."""
    limits, meter = (ask.plan(1000.0, 1000), ask.quota()), ask.meter()
    await ask.full(limits, meter)
    ask.clock.advance(2)
    before = _commands(server)
    for _ in range(2000 // at_once):
        tallies = await asyncio.gather(*(ask.limiter.admit(Charge(limits, meter)) for _ in range(at_once)))
        assert {tally.refused_by for tally in tallies} == {limits[1]}
    assert _commands(server) - before < 20
    assert ask.limiter.recalled > 1900


@pytest.mark.parametrize("waits", [False, True])
async def test_an_admitted_caller_is_not_refused_from_memory(ask: Asking, waits: bool) -> None:
    """Neither another caller nor, once its time has come, this one."""
    limits, meter = (ask.plan(10.0, 1),), ask.meter()
    await ask.full(limits, meter)
    other = (ask.quota(5, "k2"),)
    assert (await ask.asks(other, ask.meter("k2")))[1].refused_by is None
    ask.clock.now += 100_000 if waits else 99_999
    asked, tally = await ask.asks(limits, meter)
    assert (asked, tally.refused_by is None, tally.wait_us) == ((True, True, 0) if waits else (False, False, 1))


async def test_a_remembered_refusal_is_the_one_that_redis_would_give(ask: Asking) -> None:
    """State by state, at any time; a dry run shows what Redis would say."""
    stage = ask.bucket(Layer.STAGE_METHOD_THROTTLE, 5.0, 9)
    limits, meter = (ask.plan(7.0, 50), ask.quota(3), stage), ask.meter()
    await ask.full(limits, meter)
    for step in (1, 999, 100_000, 898_999):
        ask.clock.now += step
        asked, recalled = await ask.asks(limits, meter)
        assert not asked
        assert recalled == (await ask.limiter.peek(Charge(limits, meter))).tally


async def test_another_route_is_refused_by_the_limits_that_it_shares(ask: Asking) -> None:
    """The plan's throttle comes first on each; what lies behind is not known."""
    first, second = (
        (ask.plan(0.0, 1), ask.bucket(Layer.STAGE_METHOD_THROTTLE, 1.0, 9, name)) for name in ("GET", "POST")
    )
    await ask.full(first, ask.meter())
    asked, tally = await ask.asks(second, ask.meter())
    assert (asked, tally.refused_by, len(tally.states)) == (False, second[0], 1)


@pytest.mark.parametrize("layer", [Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE])
async def test_without_a_key_refusals_by_stage_and_account_are_remembered(ask: Asking, layer: Layer) -> None:
    limits = (ask.bucket(layer, 0.5, 1),)
    await ask.full(limits)
    assert await ask.remembers(limits)
    ask.clock.advance(1)
    assert not await ask.remembers(limits)


@pytest.mark.parametrize("layer", [Layer.PLAN_METHOD_THROTTLE, Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE])
async def test_with_a_key_only_refusals_by_the_plans_throttle_and_quota_are_remembered(
    ask: Asking, layer: Layer
) -> None:
    limits, meter = (ask.quota(1000), ask.bucket(layer, 0.5, 1)), ask.meter()
    await ask.full(limits, meter)
    assert not await ask.remembers(limits, meter)


# --- each way for it to become false ------------------------------------------------------------------------------


async def test_a_raised_limit_is_sent_to_redis(ask: Asking) -> None:
    meter = ask.meter()
    await ask.full((ask.quota(1),), meter)
    assert (await ask.limiter.admit(Charge((ask.quota(2),), meter))).refused_by is None


async def test_changed_usage_drops_remembered_refusals_at_once(ask: Asking, spy: redis.asyncio.Redis) -> None:
    """UpdateUsage gives the caller all back. Others stay remembered."""
    mine, others = (ask.quota(),), (ask.quota(1, "k2"),)
    await ask.full(mine, ask.meter())
    await ask.full(others, ask.meter("k2"))
    await spy.delete(ask.meter().ledger, ask.meter("k2").ledger)
    ask.limiter.forget([ask.meter().ledger])
    assert (await ask.limiter.admit(Charge(mine, ask.meter()))).refused_by is None
    assert await ask.remembers(others, ask.meter("k2"))
    ask.limiter.forget(None)
    assert not await ask.remembers(others, ask.meter("k2"))


async def _in_flight(behind: Asking, between: Proxy, charge: Charge) -> asyncio.Task[Tally]:
    """A call whose batch has reached Redis, and whose reply waits until the proxy opens."""
    between.open.clear()
    before = between.batches
    call = asyncio.create_task(behind.limiter.admit(charge))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while between.batches == before:  # noqa: ASYNC110  (the proxy has no event for it)
            await asyncio.sleep(0.005)
    return call


async def test_a_refusal_requested_before_a_change_is_not_remembered(behind: Asking, between: Proxy) -> None:
    """It was in flight when the change arrived."""
    limits, meter = (behind.quota(),), behind.meter()
    await behind.limiter.admit(Charge(limits, meter))
    call = await _in_flight(behind, between, Charge(limits, meter))
    behind.limiter.forget([meter.ledger])
    between.open.set()
    assert (await call).refused_by is limits[0]
    assert not await behind.remembers(limits, meter)
    assert await behind.remembers(limits, meter)


@pytest.mark.parametrize("wait", ["a quota of a day", "a burst that never comes back", "a long wait"])
async def test_a_flush_that_no_reply_shows_is_missed_for_at_most_a_second(
    ask: Asking, spy: redis.asyncio.Redis, wait: str
) -> None:
    """All calls are refused from memory; the second counts from the sending of the refused call."""
    rules = {
        "a quota of a day": ask.quota(),
        "a burst that never comes back": ask.plan(0.0, 1),
        "a long wait": ask.plan(0.001, 1),
    }
    limits, meter = (rules[wait],), ask.meter()
    await ask.full(limits, meter)
    await spy.delete(meter.ledger)
    for moment, refused in ((SECOND // 2, True), (SECOND - 1, True), (SECOND, False)):
        ask.clock.now += moment - (ask.clock.now % SECOND)
        if moment == SECOND:
            ask.clock.now = ask.clock.now // SECOND * SECOND
        assert ((await ask.limiter.admit(Charge(limits, meter))).refused_by is not None) is refused


async def test_a_new_connection_drops_remembered_refusals(ask: Asking, spy: redis.asyncio.Redis) -> None:
    """Redis was away between two calls, so that no call failed by it; another caller is the first to find out."""
    mine, others = (ask.quota(),), (ask.quota(9, "k2"),)
    await ask.full(mine, ask.meter())
    assert await ask.remembers(mine, ask.meter())
    await spy.client_kill_filter(_type="normal", skipme=True)
    assert (await ask.limiter.admit(Charge(others, ask.meter("k2")))).refused_by is None
    assert not await ask.remembers(mine, ask.meter())


async def test_a_cut_connection_drops_remembered_refusals(behind: Asking, between: Proxy) -> None:
    mine, others = (behind.quota(),), (behind.quota(9, "k2"),)
    await behind.full(mine, behind.meter())
    between.cuts = 1
    assert (await behind.limiter.admit(Charge(others, behind.meter("k2")))).refused_by is None
    assert not await behind.remembers(mine, behind.meter())


async def test_an_unreachable_redis_drops_remembered_refusals(redis_kind: Kind, clock: Clock) -> None:
    """Before any connection leads to the next one."""
    with redis_server(redis_kind) as doomed:
        async with asking(doomed.url, clock) as ask:
            await ask.full((ask.quota(),), ask.meter())
            assert len(ask.limiter._refusals) == 1
            doomed.kill()
            with pytest.raises(LimiterUnavailable):
                await ask.limiter.admit(Charge((ask.quota(9, "k2"),), ask.meter("k2")))
            assert len(ask.limiter._refusals) == 0


async def test_an_open_circuit_drops_remembered_refusals(ask: Asking) -> None:
    limits = (ask.quota(),)
    await ask.full(limits, ask.meter())
    ask.limiter.available = False
    ask.limiter.available = True
    assert not await ask.remembers(limits, ask.meter())


@pytest.mark.parametrize("step", [-HOUR, -5 * SECOND, 5 * SECOND, HOUR])
async def test_a_clock_step_that_a_reply_shows_drops_remembered_refusals(
    server: RedisServer, between: Proxy, clock: Clock, step: int
) -> None:
    """For a reply to any caller. The first one has Redis's own time."""
    async with asking(between.url, clock, RedisClock()) as ask:
        clock.now = (await ask.limiter.peek(Charge((), ask.meter()))).tally.now
        mine, others = (ask.plan(0.0, 1),), (ask.plan(0.0, 1),)
        await ask.full(mine, ask.meter())
        assert await ask.remembers(mine, ask.meter())
        told = msgspec.msgpack.encode(("ok", ask.limiter.clock.now() + step, [[0, 0, 0, 0, 1]]))
        between.answer = b"$%d\r\n%s\r\n" % (len(told), told)
        await ask.limiter.admit(Charge(others, ask.meter("k2")))
        between.answer = b""
        assert not await ask.remembers(mine, ask.meter())


async def test_replies_without_a_clock_step_keep_remembered_refusals(server: RedisServer, clock: Clock) -> None:
    """Under the clocks as they are."""
    async with asking(server.url, clock, RedisClock()) as ask:
        mine, other = (ask.plan(0.0, 1),), (ask.bucket(Layer.ACCOUNT_THROTTLE, 0.0, 1000),)
        await ask.limiter.probe()
        await ask.full(mine, ask.meter())
        for _ in range(5):
            assert (await ask.limiter.admit(Charge(other))).refused_by is None
        assert len(ask.limiter._refusals) == 1


async def test_a_clock_that_steps_back_drops_remembered_refusals(ask: Asking) -> None:
    limits = (ask.plan(0.5, 1),)
    await ask.full(limits, ask.meter())
    ask.clock.now -= 1
    assert not await ask.remembers(limits, ask.meter())


@pytest.mark.parametrize("layer", [Layer.PLAN_METHOD_THROTTLE, Layer.PLAN_THROTTLE])
async def test_a_route_or_stage_with_another_throttle_in_front_is_sent_to_redis(ask: Asking, layer: Layer) -> None:
    """A limit in front of the one that refused may refuse first, and say another wait."""
    quota, meter = ask.quota(), ask.meter()
    one, other = ((ask.bucket(layer, 1.0, 5, name), quota) for name in ("a1:prod:GET", "a1:test:GET"))
    await ask.full(one, meter)
    assert not await ask.remembers(other, meter)


async def test_no_refusal_behind_a_shadow_limit_is_remembered(ask: Asking) -> None:
    """The result of a shadow layer changes from call to call."""
    limits, meter = (ask.quota(shadow=True), ask.bucket(Layer.STAGE_METHOD_THROTTLE, 0.5, 1)), ask.meter()
    await ask.full(limits, meter)
    assert not await ask.remembers(limits, meter)


async def test_a_key_in_two_plans_is_refused_by_the_exhausted_one(ask: Asking) -> None:
    await ask.full((ask.quota(),), ask.meter())
    second = (ask.quota(plan="p2"),)
    assert (await ask.limiter.admit(Charge(second, ask.meter(plan="p2")))).refused_by is None


async def test_a_batch_is_decided_in_order_in_spite_of_remembered_refusals(ask: Asking) -> None:
    """Who was refused by a bucket of all took nothing of his own, and who took the last unit was not refused."""
    full, mine = ask.bucket(Layer.ACCOUNT_THROTTLE, 1.0, 0), ask.quota(2)
    asked = ([mine, full], [mine], [mine], [mine, full], [mine])
    tallies = await asyncio.gather(*(ask.limiter.admit(Charge(limits, ask.meter())) for limits in asked))
    assert [tally.refused_by for tally in tallies] == [full, None, None, mine, mine]
    assert await ask.remembers([mine], ask.meter())
    assert await ask.remembers([mine, full], ask.meter())


async def test_the_refusal_of_a_cancelled_caller_is_remembered_for_the_others(behind: Asking, between: Proxy) -> None:
    limits, meter = (behind.quota(),), behind.meter()
    await behind.limiter.admit(Charge(limits, meter))
    behind.limiter._pace.crowd = float(Pace.FEW)  # a lone caller takes its reply along when it leaves
    before = between.batches
    call = await _in_flight(behind, between, Charge(limits, meter))
    call.cancel()
    behind_it = asyncio.create_task(behind.limiter.admit(Charge(limits, meter)))
    between.open.set()
    assert (await behind_it).refused_by is limits[0]
    assert between.batches == before + 1


async def test_a_peek_is_never_answered_from_memory(ask: Asking, spy: redis.asyncio.Redis) -> None:
    limits, meter = (ask.quota(),), ask.meter()
    await ask.full(limits, meter)
    await spy.delete(meter.ledger)
    assert (await ask.limiter.peek(Charge(limits, meter))).tally.refused_by is None


async def test_a_refusal_does_not_outlive_the_period_of_its_quota(ask: Asking) -> None:
    """The last half second of a day: midnight is not slept through."""
    ask.clock.at("2026-03-04T23:59:59.500Z")
    limits, meter = (ask.quota(),), ask.meter()
    await ask.full(limits, meter)
    ask.clock.now += SECOND // 2 - 1
    assert await ask.remembers(limits, meter)
    ask.clock.now += 1
    assert (await ask.limiter.admit(Charge(limits, meter))).stale
    assert (await ask.limiter.admit(Charge((ask.quota(),), meter))).refused_by is None


async def test_a_quota_restarted_under_another_limit_is_its_own(ask: Asking) -> None:
    limits, meter = (ask.quota(),), ask.meter()
    await ask.full(limits, meter)
    rule = limits[0].rule
    assert isinstance(rule, Quota)
    week = replace(limits[0], rule=Quota(5, rule.start - 1, rule.end))
    assert not await ask.remembers((week,), meter)

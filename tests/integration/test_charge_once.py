"""`chargeOnce`: a request that Envoy sends again is answered as before, and charged once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.check import LimiterUnavailable
from authz.core.limits import Charge, Layer, Limit, Meter, Quota, redis_key, throttle
from authz.core.periods import interval
from authz.core.resources import Period, QuotaSettings
from authz.core.verdict import Tally
from authz.limiter.clock import RedisClock
from authz.limiter.encoding import once_key
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock
from tests.support.limiters import running_limiter
from tests.support.proxy import proxy
from tests.support.servers import Kind, RedisServer, redis_server

ONCE_MS = 10_000


@pytest.fixture(scope="module")
def reachable(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server that a proxy can stand in front of."""
    with redis_server(redis_kind) as server:
        yield server


def _meter(account: str, key: str = "k1") -> Meter:
    return Meter(redis_key(account, "ledger", "p1", key), redis_key(account, "history", "p1", key))


def _limits(account: str, clock: Clock, limit: int = 100, key: str = "k1", method: str = "GET") -> list[Limit]:
    window = interval(QuotaSettings(limit, Period.DAY), clock.now)
    rule = throttle(0.0, 100)
    assert rule
    return [
        Limit(Layer.PLAN_QUOTA, _meter(account, key).ledger, Quota(limit, window.start, window.end)),
        Limit(Layer.STAGE_METHOD_THROTTLE, redis_key(account, "stage", method), rule),
    ]


async def _keys(spy: redis.asyncio.Redis, account: str) -> set[str]:
    found: Any = await spy.keys(f"{{{account}}}*")
    return {key.decode() for key in found}


async def test_a_repeated_request_is_charged_once_and_answered_alike(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    limits, meter = _limits(account, clock), _meter(account)
    first = await limiter.admit(Charge(limits, meter, once="r1"))
    again = await limiter.admit(Charge(limits, meter, once="r1"))
    assert first == again
    assert (await limiter.admit(Charge(limits, meter, once="r2"))).states == (2, 2)


async def test_a_retry_through_another_worker_is_charged_once(
    shared_redis: RedisServer, limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    limits, meter = _limits(account, clock), _meter(account)
    first = await limiter.admit(Charge(limits, meter, once="r1"))
    async with running_limiter(shared_redis.url, account, clock=RedisClock(clock)) as other:
        assert await other.admit(Charge(limits, meter, once="r1")) == first
        assert (await other.admit(Charge(limits, meter, once="r2"))).states == (2, 2)


async def test_a_request_twice_in_one_batch_is_charged_once(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    """And with others around it."""
    limits, meter = _limits(account, clock), _meter(account)
    ids = ("r1", "", "r1", "r2", "", "r1")
    tallies = await asyncio.gather(*(limiter.admit(Charge(limits, meter, once=once)) for once in ids))
    assert [tally.states[0] for tally in tallies] == [1, 2, 1, 3, 4, 1]


async def test_the_same_id_by_another_key_or_on_another_route_is_another_request(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    shared = _limits(account, clock)[1]
    asks = [
        (_limits(account, clock), _meter(account)),
        (_limits(account, clock, key="k2"), _meter(account, "k2")),
        (_limits(account, clock, method="POST"), _meter(account)),
        ([shared], None),
        ([shared], _meter(account)),
        ([shared], _meter(account, "k2")),
    ]
    for _ in range(2):
        tallies = [await limiter.admit(Charge(limits, meter, once="r1")) for limits, meter in asks]
        assert [tally.states for tally in tallies] == [(1, 1), (1, 2), (2, 1), (3,), (4,), (5,)]


async def test_a_refusal_is_not_kept_under_a_name(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    """When there is room again, the same request is admitted, and charged."""
    meter = _meter(account)
    limits = _limits(account, clock, limit=1)
    await limiter.admit(Charge(limits, meter))
    assert (await limiter.admit(Charge(limits, meter, once="r1"))).refused_by is limits[0]
    raised = _limits(account, clock, limit=3)
    assert [(await limiter.admit(Charge(raised, meter, once="r1"))).states[0] for _ in range(2)] == [2, 2]


async def test_an_admitted_request_stays_admitted_when_the_limit_is_full(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter, limits = _meter(account), _limits(account, clock, limit=1)
    asked = [await limiter.admit(Charge(limits, meter, once=once)) for once in ("r1", "r2", "r1")]
    assert [tally.refused_by is None for tally in asked] == [True, False, True]


async def test_a_retry_reports_the_same_shadow_refusal(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    meter, limits = _meter(account), _limits(account, clock, limit=1)
    limits[0] = replace(limits[0], shadow=True)
    await limiter.admit(Charge(limits, meter))
    first, again = [await limiter.admit(Charge(limits, meter, once="r1")) for _ in range(2)]
    assert first.shadowed_by is limits[0]
    assert first == again


async def test_a_remembered_refusal_does_not_refuse_an_admitted_request(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """The quota is over, and that is remembered; a request that took a unit comes again, alone or behind others."""
    meter, limits = _meter(account), _limits(account, clock, limit=1)
    await limiter.admit(Charge(limits, meter, once="r1"))
    await limiter.admit(Charge(limits, meter))
    assert (await limiter.admit(Charge(limits, meter))).refused_by is limits[0]
    assert limiter.recalled == 1
    assert (await limiter.admit(Charge(limits, meter, once="r1"))).refused_by is None
    calls = [limiter.admit(Charge(limits, meter, once=once)) for once in ("r2", "r1", "")]
    assert [tally.refused_by is None for tally in await asyncio.gather(*calls)] == [False, True, False]


async def test_a_request_without_a_name_leaves_no_key(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    limits, meter = _limits(account, clock), _meter(account)
    await limiter.admit(Charge(limits, meter))
    kept = await _keys(spy, account)
    assert kept == {meter.ledger, limits[1].key, limiter._sender._reply_key()}


async def test_a_name_is_kept_for_ten_seconds_and_hides_the_request_id(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """Nothing else is written for it: a script touches only the keys that it was given."""
    limits, meter = _limits(account, clock), _meter(account)
    await limiter.admit(Charge(limits, meter, once="an id"))
    key = once_key(account, Charge(limits, meter, once="an id"))
    kept = await _keys(spy, account)
    assert kept == {meter.ledger, limits[1].key, limiter._sender._reply_key(), key}
    assert ONCE_MS / 2 < await spy.pttl(key) <= ONCE_MS


NOT_OURS = {
    "empty": b"",
    "text": b"what",
    "no msgpack": b"\xc1",
    "an empty list": b"\x90",
    "an admission by fewer limits": b"\x94\x00\x00\x00\x00",
    "a refusal": b"\x96\x01\x01\x05\x00\x01\x01",
}


@pytest.mark.parametrize("raw", NOT_OURS.values(), ids=NOT_OURS)
async def test_a_foreign_value_under_a_name_fails_its_own_request(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis, raw: bytes
) -> None:
    """It is left alone, charges nothing, and its neighbours are decided."""
    limits, meter = _limits(account, clock), _meter(account)
    key = once_key(account, Charge(limits, meter, once="bad"))
    await spy.set(key, raw)
    calls = [limiter.admit(Charge(limits, meter, once=once)) for once in ("r1", "bad", "r2")]
    first, bad, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(bad, LimiterUnavailable)
    assert isinstance(first, Tally)
    assert isinstance(last, Tally)
    assert (first.states[0], last.states[0]) == (1, 2)
    assert await spy.get(key) == raw


async def test_an_id_that_cannot_be_encoded_fails_alone(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    limits, meter = _limits(account, clock), _meter(account)
    calls = [limiter.admit(Charge(limits, meter, once=once)) for once in ("r1", "\udc80", "r2")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, Tally) for outcome in outcomes] == [True, False, True]


async def test_a_batch_of_unknown_fate_and_its_repeat_are_charged_once(
    reachable: RedisServer, account: str, clock: Clock
) -> None:
    """Both replies are lost, so Envoy asks again, of another worker."""
    limits, meter, time = _limits(account, clock), _meter(account), RedisClock(clock)
    async with proxy(reachable) as between, running_limiter(between.url, account, clock=time) as limiter:
        await limiter.probe()
        between.cuts = 2
        with pytest.raises(LimiterUnavailable):
            await limiter.admit(Charge(limits, meter, once="r1"))
    async with running_limiter(reachable.url, account, clock=time) as other:
        assert (await other.admit(Charge(limits, meter, once="r1"))).states == (1, 1)
        assert (await other.admit(Charge(limits, meter))).states == (2, 2)


STORIES = iter(range(10**9))


@settings(max_examples=100)  # each has an account of its own
@given(batches=st.lists(st.lists(st.sampled_from(("", "a", "b", "c")), min_size=1, max_size=5), max_size=5))
async def test_each_request_is_charged_once(
    limiter: RedisLimiter, account: str, clock: Clock, batches: list[list[str]]
) -> None:
    """However they fall into batches: one for each name, and one for each that has none."""
    name = f"{account}{next(STORIES)}"
    limits, meter = _limits(name, clock), _meter(name)
    for ids in batches:
        tallies = await asyncio.gather(*(limiter.admit(Charge(limits, meter, once=once)) for once in ids))
        assert all(tally.refused_by is None for tally in tallies)
    asked = [once for ids in batches for once in ids]
    charged = (await limiter.peek(Charge(limits, meter))).tally.states[0] - 1
    assert charged == asked.count("") + len(set(asked) - {""})

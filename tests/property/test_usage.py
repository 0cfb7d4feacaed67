"""UpdateUsage against the model, over any history; GetUsage against a diary."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from authz.aws.usage import Days, DayUse, pairs
from authz.core.holders import quota_at
from authz.core.limits import Charge, Layer, Limit, Meter, redis_key
from authz.core.periods import interval
from authz.core.resources import AWS_PERIODS, QuotaSettings
from authz.core.zones import DAY_US
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from authz.store.usage import UsageLedger
from tests.conftest import Clock, micros
from tests.support.builders import held
from tests.support.limiters import running_limiter
from tests.support.model import Model
from tests.support.servers import RedisServer

ACCOUNT = "usage"
NOON = micros("2026-02-27T12:00:00Z")
NAMES = count()
SECOND = 1_000_000

quotas = st.builds(
    QuotaSettings,
    limit=st.sampled_from((1, 2, 5, 1000)),
    period=st.sampled_from(AWS_PERIODS),
)
forward = st.sampled_from((0, 1, 3600 * SECOND, DAY_US // 2, DAY_US, 2 * DAY_US, 9 * DAY_US))
backward = st.sampled_from((-SECOND, -DAY_US // 2, -DAY_US, -3 * DAY_US, 420 * DAY_US))


@dataclass(frozen=True)
class Do:
    """Some calls, or new remaining units, or a step of the clock in µs."""

    what: Literal["call", "set", "move"]
    number: int


calls = st.builds(Do, st.just("call"), st.integers(1, 4))
settings = st.builds(Do, st.just("set"), st.sampled_from((0, 1, 3, 2000)))
moves = st.builds(Do, st.just("move"), forward)
jumps = st.builds(Do, st.just("move"), backward)


@dataclass
class World:
    """A limiter and the usage it counts on a real Redis, under one pinned clock."""

    limiter: RedisLimiter
    usage: UsageLedger
    redis: redis.asyncio.Redis
    clock: Clock
    plan: str = field(default_factory=lambda: f"p{next(NAMES)}")

    @property
    def meter(self) -> Meter:
        return Meter(redis_key(ACCOUNT, "ledger", self.plan, "k"), redis_key(ACCOUNT, "history", self.plan, "k"))

    def limit(self, quota: QuotaSettings) -> Limit:
        return Limit(Layer.PLAN_QUOTA, self.meter.ledger, quota_at(quota, self.clock()))

    async def stored(self) -> tuple[tuple[float, ...], dict[int, DayUse]]:
        """The ledger's period, usage and day; the history."""
        raw: Any = await self.redis.get(self.meter.ledger)
        rows: Any = await self.redis.hgetall(self.meter.history)
        unpacked = {int(day): struct.unpack(">dd", row) for day, row in rows.items()}
        return struct.unpack(">B9d", raw)[5:] if raw else (), {d: (int(u), int(r)) for d, (u, r) in unpacked.items()}


@pytest.fixture
async def world(shared_redis: RedisServer, clock: Clock) -> AsyncIterator[World]:
    usage = UsageLedger(shared_redis.url, account=ACCOUNT, budget=30.0, clock=clock)
    async with (
        running_limiter(shared_redis.url, ACCOUNT, 30.0, clock=RedisClock(clock), remembered=0) as limiter,
        aclosing(usage),
        redis.asyncio.Redis.from_url(shared_redis.url) as spy,
    ):
        yield World(limiter, usage, spy, clock)


async def _agree(world: World, model: Model) -> None:
    ledger, history = await world.stored()
    expected = model.ledgers.get(world.meter.ledger)
    said = struct.unpack(">B9d", expected.packed())[5:] if expected else ()
    assert ledger == said
    rows = model.histories.get(world.meter.history, {})
    assert history == {day: (requests, left) for day, (requests, left, _, _) in rows.items()}


@given(quota=quotas, other=quotas, script=st.lists(calls | settings | moves | jumps, min_size=3, max_size=25))
async def test_the_scripts_do_what_the_model_says(
    world: World, quota: QuotaSettings, other: QuotaSettings, script: list[Do]
) -> None:
    """Calls and settings, under quotas that change, by clocks that step."""
    world, model, world.clock.now = replace(world, plan=f"p{next(NAMES)}"), Model(), NOON
    for step, do in enumerate(script):
        rules = quota if step % 5 else other
        match do.what:
            case "call":
                limit = world.limit(rules)
                for _ in range(do.number):
                    told = await world.limiter.admit(Charge([limit], world.meter))
                    assert told == model.admit(Charge([limit], world.meter), world.clock(), told)
            case "set":
                await world.usage.set_remaining(world.plan, *held(rules, world.plan), do.number, who="", what="")
                model.remain(world.meter, quota_at(rules, world.clock()), do.number, world.clock())
            case "move":
                world.clock.now += do.number
        await _agree(world, model)


@dataclass
class Diary:
    """What happened, day by day: calls that were let in, and what remained at the end of it."""

    quota: QuotaSettings
    used: dict[int, int] = field(default_factory=dict)
    remained: dict[int, int] = field(default_factory=dict)

    def left(self, day: int) -> int:
        """Of the period that holds on that day, after its last event so far."""
        first = interval(self.quota, day * DAY_US).start // DAY_US
        told = [known for known in self.remained if first <= known <= day]
        return self.remained[max(told)] if told else self.quota.limit

    def call(self, day: int) -> None:
        if left := self.left(day):
            self.used[day], self.remained[day] = self.used.get(day, 0) + 1, left - 1

    def pairs(self, first: int, last: int) -> list[DayUse]:
        return [(self.used.get(day, 0), self.left(day)) for day in range(first, last + 1)]


@given(
    quota=quotas, script=st.lists(calls | settings | moves, min_size=3, max_size=20), first=st.sampled_from((0, 1, 10))
)
async def test_usage_is_what_a_diary_says(world: World, quota: QuotaSettings, script: list[Do], first: int) -> None:
    """By a clock that goes forward and under a quota that stays."""
    world, diary, world.clock.now = replace(world, plan=f"p{next(NAMES)}"), Diary(quota), NOON
    for do in script:
        today = world.clock() // DAY_US
        match do.what:
            case "call":
                for _ in range(do.number):
                    await world.limiter.admit(Charge([world.limit(quota)], world.meter))
                    diary.call(today)
            case "set":
                await world.usage.set_remaining(world.plan, *held(quota, world.plan), do.number, who="", what="")
                diary.remained[today] = do.number
            case "move":
                world.clock.now += do.number
    asked, today = Days(NOON // DAY_US + first, world.clock() // DAY_US + 3), world.clock() // DAY_US
    reading = await world.usage.read(world.plan, ["k"], Days(asked.first - 31, asked.last))
    assert pairs(reading.records["k"], quota, asked, reading.now) == diary.pairs(asked.first, today)

"""`authz explain` on a caller whose units are held ahead."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from authz.core.catalog import Catalog
from authz.core.limits import Charge
from authz.core.resources import Period, QuotaSettings
from authz.core.verdict import Grant
from authz.explain import explain
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock
from tests.support.builders import plan, resources
from tests.support.limiters import running_limiter
from tests.support.servers import RedisServer
from tests.support.world import ask, limited

SOLD = resources(usage_plans=(plan(throttle=limited(1.0, 40), quota=QuotaSettings(100, Period.DAY)),))


@dataclass(frozen=True)
class Pair:
    """Two processes that share limits; the first holds ahead."""

    catalog: Catalog
    clock: Clock
    holder: RedisLimiter
    other: RedisLimiter

    async def call(self, limiter: RedisLimiter, times: int) -> None:
        for _ in range(times):
            grant = self.catalog.resolve(ask(), self.clock.now)
            assert isinstance(grant, Grant)
            tally = await limiter.admit(Charge(grant.limits, grant.meter))
            assert tally.refused_by is None

    async def explained(self) -> list[str]:
        """The rooms of the plan's limits, and the answer."""
        lines = (await explain(self.catalog, ask(), self.clock.now, self.other)).splitlines()
        rooms = [re.sub(r"^.*?, (?=\d+ left)", "", line) for line in lines if line.startswith("layer     plan_")]
        return [*rooms, *(line for line in lines if line.startswith(("wait", "reason", "answer")))]


@pytest.fixture
async def pair(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[Pair]:
    url, redis_clock = shared_redis.url, RedisClock(clock)
    async with (
        running_limiter(url, account, clock=redis_clock, hold_ms=500) as holder,
        running_limiter(url, account, clock=redis_clock) as other,
    ):
        yield Pair(Catalog.compile(SOLD, account), clock, holder, other)


async def test_held_units_are_shown_at_each_limit(pair: Pair) -> None:
    """The fourth call holds eight further ones. Looking spends none of them."""
    await pair.call(pair.holder, 4)
    for _ in range(2):
        assert await pair.explained() == [
            "27 left after it, 8 held by 1 process",
            "87 left after it, 8 held by 1 process",
            "answer    forwarded",
        ]


async def test_a_call_without_room_beside_held_units_waits(pair: Pair) -> None:
    await pair.call(pair.holder, 4)
    await pair.call(pair.other, 28)
    room, quota, wait, answer = await pair.explained()
    assert (room, quota) == ("0 left, 8 held by 1 process", "60 left, 8 held by 1 process")
    assert wait.startswith("wait      held units leave no room")
    assert answer.startswith("answer    decided when the first of these holds ends, in ")


async def test_used_units_refuse_at_once(pair: Pair) -> None:
    """The holds have ended and been charged; nothing remains to wait for."""
    await pair.call(pair.holder, 4)
    await pair.call(pair.other, 28)
    pair.clock.advance(0.5)
    assert await pair.explained() == ["0 left", "60 left", "reason    plan_throttle", "answer    429"]

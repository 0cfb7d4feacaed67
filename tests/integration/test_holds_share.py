"""The share of a limit that holds leave unused, in simulated time: no call and no batch takes any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Final

import pytest

from authz.core.limits import MICROSECONDS, Charge, Layer, Limit, Throttle, redis_key, throttle
from authz.core.verdict import Tally
from authz.limiter.batching import Waiter
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from tests.conftest import Clock, micros
from tests.support.model import Bucket
from tests.support.servers import RedisServer

NOON: Final = micros("2026-03-04T12:00:00Z")
LIFE_MS: Final = 100
PROCESSES: Final = 4
SECONDS: Final = 6
BUCKETS: Final = ((200, 20), (200, 200), (1000, 100), (1000, 1000))  # rate a second, burst
AROUND: Final = (0.8, 0.9, 1.0, 1.1, 1.2)  # over the rate; one is drawn every half second
JUMPING: Final = (0.5, 0.9, 1.0, 1.1, 1.5, 3.0)
SLACK_US: Final = 2_000


class Process(RedisLimiter):
    """A process whose batches a test sends. `again` are the calls that wait for holds, and for how long (µs)."""

    def __init__(self, url: str, account: str, clock: Clock) -> None:
        super().__init__(url, account=account, budget=30.0, clock=RedisClock(clock), remembered=0, hold_ms=LIFE_MS)
        self.again: int | None = None

    def _wait_for_holds(self, waiter: Waiter, refusal: Tally) -> None:
        self.again = refusal.wait_us
        waiter.finish(refusal)


@dataclass
class Load:
    """Calls of one key to any of the processes, at random around its rate, and which of them were admitted when."""

    processes: Sequence[Process]
    charge: Charge
    clock: Clock
    events: list[tuple[int, int, int]] = field(default_factory=list)  # a heap: when, order, process
    order: Iterator[int] = field(default_factory=count)
    admitted: list[int] = field(default_factory=list)

    def come(self, came: Sequence[int], draw: Random) -> None:
        self.events = [(at, next(self.order), draw.randrange(len(self.processes))) for at in came]
        heapify(self.events)

    async def run(self) -> None:
        """Make the calls in their order; holds that end between two calls are given back in time."""
        while self.events:
            at, _, number = heappop(self.events)
            await self._give_back_until(at)
            self.clock.now = max(self.clock.now, at)
            await self._call(self.processes[number], number)

    async def _give_back_until(self, until: int) -> None:
        while True:
            ends = [(end, at) for at, one in enumerate(self.processes) if one.holds and (end := one.holds.next_end)]
            first, at = min(ends, default=(until, 0))
            if first >= until:
                return
            self.clock.now = max(self.clock.now, first)
            await self.processes[at]._decide([])

    async def _call(self, process: Process, number: int) -> None:
        assert process.holds
        if process.holds.take(self.charge):
            self.admitted.append(self.clock.now)
            return
        waiter = Waiter(self.charge, time.monotonic() + 30, asyncio.get_running_loop().create_future())
        process.again = None
        await process._decide([waiter])
        tally = await waiter.tally
        if process.again is not None:
            heappush(self.events, (self.clock.now + process.again + SLACK_US, next(self.order), number))
        elif tally.refused_by is None:
            self.admitted.append(self.clock.now)


def calls(rate: int, loads: Sequence[float], draw: Random) -> list[int]:
    """When calls come, in µs."""
    came: list[int] = []
    for start in range(NOON, NOON + SECONDS * MICROSECONDS, MICROSECONDS // 2):
        at, a_second = float(start), rate * draw.choice(loads)
        while (at := at + MICROSECONDS * draw.expovariate(a_second)) < start + MICROSECONDS // 2:
            came.append(int(at))
    return came


def of_a_bucket(rule: Throttle, came: Sequence[int]) -> int:
    """The number of these calls that an exact bucket admits, which sees each as it comes."""
    bucket, admitted = Bucket(NOON, n=rule.n, m=rule.m), 0
    for now in came:
        bucket = bucket.later(now)
        if bucket.debt + 1 <= rule.burst:
            bucket, admitted = replace(bucket, debt=bucket.debt + 1), admitted + 1
    return admitted


@pytest.fixture
async def world(shared_redis: RedisServer, account: str) -> AsyncIterator[tuple[list[Process], Clock]]:
    clock = Clock(NOON)
    async with AsyncExitStack() as stack:
        made = [Process(shared_redis.url, account, clock) for _ in range(PROCESSES)]
        for process in made:
            stack.push_async_callback(process.aclose)
        yield made, clock


@pytest.mark.parametrize(("loads", "least"), [(AROUND, 0.998), (JUMPING, 0.99)], ids=["around", "jumping"])
async def test_holds_leave_little_of_a_bucket_unused(
    world: tuple[list[Process], Clock], account: str, loads: Sequence[float], least: float
) -> None:
    """Four processes admit nearly all calls that exact buckets would have admitted, and never more than these have.

    A unit from a hold refills only once the hold is given back. So a bucket that was full when load jumps above the
    rate has less by what it refills in the life of a hold.
    """
    processes, clock = world
    admitted = possible = 0
    for rate, burst in BUCKETS:
        clock.now, rule = NOON, throttle(rate, burst)
        assert rule
        limit = Limit(Layer.PLAN_THROTTLE, redis_key(account, "ledger", "p", f"{rate} {burst}"), rule)
        load, came = Load(processes, Charge((limit,), None), clock), calls(rate, loads, Random(burst))
        load.come(came, Random(rate))
        await load.run()
        assert of_a_bucket(rule, load.admitted) == len(load.admitted), "the ceiling is passed"
        admitted += sum(at <= came[-1] for at in load.admitted)
        possible += of_a_bucket(rule, came)
        for process in processes:
            await process.give_back()
    assert admitted >= least * possible

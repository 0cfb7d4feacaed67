"""Reads the figures of an account: at once where it is small, else by a sweep in the background of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from authz.cancelled import heed_cancellation
from authz.core.stored import StoredPlan, plan_keys
from authz.core.zones import DAY_US, SECOND_US
from authz.ids import random_hex
from authz.notice import Notice
from authz.redisio.url import in_words
from authz.store.figures import Overview
from authz.store.gather import Gathering, PlanGathering, apart, held_of
from authz.store.ports import Reader, StoreUnavailable, Usage
from authz.store.quotas import holders

T = TypeVar("T")

FEW_KEYS: Final = 1_000  # are read at once,
FEW_PLANS: Final = 25  # in at most this many plans
FEW_KEY_DAYS: Final = 20_000  # keys times days that are read at once

PLANS: Final = 25  # of one page
KEYS: Final = 100  # read at once, which takes Redis about two milliseconds
REST_SECONDS: Final = 0.05  # after KEYS keys on two days, and longer after more days
FIELDS: Final = 20_000  # of hashes that are read at once,
FIELDS_A_DAY: Final = 5  # of a key
BACK_DAYS: Final = 90  # that are summed, once a few sweeps are over:
MORE_DAYS: Final = 7  # older days that a sweep adds, so that the first one is not long

EVERY_SECONDS: Final = 60  # from a sweep's end to the next one's begin
LOOK_SECONDS: Final = 5.0  # between two looks at the age of the last sweep
LEASE_SECONDS: Final = 60
TRIES: Final = 5  # at each step of a sweep, which may have been under way for minutes
RETRY_SECONDS: Final = 1.0

Rest = Callable[[float], Awaitable[None]]  # for some seconds


async def no_rest(seconds: float) -> None:
    """Go on at once."""


async def few(store: Reader) -> bool:
    """True if the figures can be read at once, for each reader."""
    keys, plans = await store.count("apikey"), await store.count("usageplan")
    return keys <= FEW_KEYS and plans <= FEW_PLANS


async def overview_of(store: Reader, usage: Usage) -> Overview | None:
    """The figures of a small account as of now, or those of the last sweep; None before the first one has ended."""
    return await overview_now(store, usage) if await few(store) else await usage.overview()


async def overview_now(store: Reader, usage: Usage) -> Overview:
    """Read the figures of today, and keep nothing."""
    return await Sweep(store, usage, [await usage.redis_time() // DAY_US]).run()


class Sweep:
    """Reads the figures of all keys, plan by plan. With `keeps`, the sums of each plan's days are kept."""

    def __init__(
        self,
        store: Reader,
        usage: Usage,
        days: Sequence[int],
        *,
        keeps: bool = False,
        first_day: int | None = None,
        rest: Rest = no_rest,
    ) -> None:
        self._store = store
        self._usage = usage
        self._keeps = keeps
        self._first_day = days[0] if first_day is None else first_day
        self._rest = rest
        self._gathering = Gathering(days)

    async def run(self) -> Overview:
        """Raises StoreUnavailable."""
        began, position = await self._usage.redis_time(), None
        while True:
            page = await self._store.page("usageplan", "usageplan", PLANS, position)
            for plan in page.items:
                await self._read(plan)
            position = page.position
            if position is None:
                break
        if self._keeps:
            await self._again(partial(self._usage.keep_days, None, self._gathering.days, self._gathering.totals))
        return self._gathering.overview(began, await self._usage.redis_time(), self._first_day)

    async def _read(self, plan: StoredPlan) -> None:
        days, position = self._gathering.days, None
        gathered = self._gathering.begin(plan)
        limit = max(1, min(KEYS, FIELDS // (FIELDS_A_DAY * len(days))))
        while True:
            keys, position = await self._again(partial(self._read_some, gathered, limit, position))
            await self._rest(rest_seconds(keys, len(days)))
            if position is None:
                break
        self._gathering.end(gathered)
        if self._keeps:
            await self._again(partial(self._usage.keep_days, plan.plan.id, days, gathered.days))

    async def _again(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step; in a sweep again after a fault of Redis, since all steps before would be lost."""
        for _ in range(TRIES - 1 if self._keeps else 0):
            try:
                return await step()
            except StoreUnavailable:
                await self._rest(RETRY_SECONDS)
        return await step()

    async def _read_some(self, into: PlanGathering, limit: int, position: str | None) -> tuple[int, str | None]:
        page = await self._store.page("apikey", plan_keys(into.plan.ref), limit, position)
        held = held_of(into.plan, await holders(self._store, into.plan, page.items))
        survey = await self._usage.survey(into.plan.plan.id, list(held), self._gathering.days, apart(held.values()))
        self._gathering.add(into, held, survey)
        return len(held), page.position


def rest_seconds(keys: int, days: int) -> float:
    """The time to leave Redis to others after this many keys were read on this many days."""
    return REST_SECONDS * (1 + keys) / KEYS * (2 + days) / 4


class LeaseLost(Exception):  # noqa: N818  (a state, not a mistake)
    """Another process sweeps."""


class Sweeper:
    """Sweeps in the background, unless another process does or did within EVERY_SECONDS."""

    def __init__(self, store: Reader, usage: Usage, address: str) -> None:
        self._store = store
        self._usage = usage
        self._holder = random_hex()
        self._renewed = 0.0
        self._notice = Notice("the figures of the overview are not renewed", redis=address)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.turn()
            except Exception as error:  # of any kind: the control plane serves on, with older figures
                heed_cancellation()
                self._notice.says(in_words(error))
            else:
                self._notice.ended("the figures of the overview are renewed")
            await asyncio.sleep(LOOK_SECONDS)

    async def turn(self) -> bool:
        """Sweep if it is time to. Returns True after a sweep. Raises StoreUnavailable and LeaseLost."""
        kept, now = await self._usage.overview(), await self._usage.redis_time()
        if kept and kept.ended <= now < kept.ended + EVERY_SECONDS * SECOND_US:
            return False
        if not await self._usage.lease(self._holder, LEASE_SECONDS):
            return False
        try:
            days, first_day = days_to_read(kept, now // DAY_US)
            sweep = Sweep(self._store, self._usage, days, keeps=True, first_day=first_day, rest=self._rest)
            await self._usage.keep_overview(await sweep.run())
        finally:
            with suppress(StoreUnavailable):  # the lease ends by itself, too
                await self._usage.release(self._holder)
        return True

    async def _rest(self, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(seconds)
        if clock() - self._renewed > LEASE_SECONDS / 4:
            with suppress(StoreUnavailable):  # the lease is renewed at the next rest
                if not await self._usage.lease(self._holder, LEASE_SECONDS):
                    raise LeaseLost
                self._renewed = clock()


def days_to_read(kept: Overview | None, today: int) -> tuple[list[int], int]:
    """The days that a sweep reads, ascending, and the first day of those that are then summed without a gap.

    A day is final once a sweep that began later has read it: so the day of the last sweep is read again, and always
    yesterday, for calls that are counted late.
    """
    oldest, yesterday = today - BACK_DAYS + 1, today - 1
    if kept is None or not oldest <= kept.day <= today:
        return [yesterday, today], yesterday
    first_day = min(kept.first_day, max(oldest, kept.first_day - MORE_DAYS))
    since = range(min(kept.day, yesterday), today + 1)
    return sorted({*range(first_day, kept.first_day), *since}), first_day

"""The script against the model, over any history; and the promises that follow, over any window."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from typing import Any, Literal

import pytest
import redis.asyncio
from hypothesis import assume, event, given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, redis_key, throttle
from authz.core.periods import interval
from authz.core.resources import AWS_PERIODS, Counts, Period, QuotaSettings
from authz.core.verdict import Tally
from authz.core.zones import DAY_US
from authz.limiter.batching import Pace
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter, Unobserved
from tests.conftest import Clock, micros
from tests.support.limiters import running_limiter
from tests.support.model import Alert, Bucket, Ledger, Model, Row
from tests.support.servers import RedisServer

SECOND = 1_000_000
HOUR = 3600 * SECOND
NOON = micros("2026-02-28T12:00:00Z")
RATES = (0, 1e-6, 0.3, 1, 3, 7, 50, 3000, 9999, 10_000, 700_000, 1e6 / 7, 5e8)
BURSTS = (0, 1, 2, 3, 5, 10, 100, 5000, 2**31 - 1)
ALERTS = redis_key("property", "alerts")
NAMES = count()


def _throttles() -> list[Throttle]:
    """Every valid pair of a rate and a burst."""
    found = []
    for rate in RATES:
        for burst in BURSTS:
            with suppress(ValueError):
                found.append(throttle(rate, burst))
    return [rule for rule in found if rule]


THROTTLES = _throttles()
SMALL = [rule for rule in THROTTLES if rule.burst <= 5]

UNITS = [replace_struct(rule, counts_units=True) for rule in THROTTLES]
throttles = st.sampled_from(SMALL) | st.sampled_from(THROTTLES) | st.sampled_from(UNITS)


@dataclass(frozen=True)
class Terms:
    """A quota's settings. With a `shift` its periods begin that much later than in UTC, as in another time zone."""

    limit: int
    period: Period
    counts: Counts
    overage: int
    alerts: tuple[int, ...]
    shift: int | None

    def at(self, now: int) -> Quota:
        shift = 0 if self.period is Period.TOTAL else self.shift or 0
        window = interval(QuotaSettings(self.limit, self.period), now - shift)
        start, end = window.start + shift, window.end + shift
        units, moves = self.counts is Counts.UNITS, self.shift is not None
        return Quota(self.limit, start, end, self.period, units, self.overage, self.alerts, moves)


def terms(periods: Sequence[Period]) -> st.SearchStrategy[Terms]:
    return st.builds(
        Terms,
        limit=st.sampled_from((1, 2, 3, 5, 1000)),
        period=st.sampled_from(periods),
        counts=st.sampled_from(Counts),
        overage=st.sampled_from((0, 0, 0, 1, 7, 2**53)),
        alerts=st.sampled_from(((), (), (50,), (80, 100), (1, 34, 100, 300))),
        shift=st.sampled_from((None, None, 0, 5 * HOUR, -9 * HOUR, 3 * DAY_US)),
    )


quotas = terms(AWS_PERIODS)
more_quotas = st.lists(terms(tuple(Period)), max_size=2, unique_by=lambda found: (found.period, found.counts)).map(
    tuple
)
moves = st.sampled_from((0, 0, 0, 1, 7, 999, 1000, SECOND, 3 * SECOND, HOUR, 12 * HOUR, DAY_US, 8 * DAY_US)) | (
    st.sampled_from((-1, -1000, -SECOND, -HOUR, -DAY_US, -3 * DAY_US, 500 * DAY_US))
)


@dataclass(frozen=True)
class Plan:
    """The limits of a moment: of each caller (layers 1 to 3), of a stage's method and of the account."""

    plan: Throttle | None
    method: Throttle | None
    quota: Terms | None
    more: tuple[Terms, ...]
    stage: Throttle | None
    account: Throttle | None
    shadow: bool
    per_customer: bool


plans = st.builds(
    Plan,
    plan=st.none() | throttles,
    method=st.none() | throttles,
    quota=st.none() | quotas,
    more=st.just(()) | more_quotas,
    stage=st.none() | throttles,
    account=st.none() | throttles,
    shadow=st.booleans(),
    per_customer=st.booleans(),
)


@dataclass(frozen=True)
class Call:
    """One request of a batch: of caller a, b or without a key, under today's limits or yesterday's numbers for them.

    The callers a and b are keys of one customer.
    """

    caller: Literal["a", "b", ""]
    cost: int
    outdated: bool
    stale: bool


calls = st.builds(
    Call,
    caller=st.sampled_from(("a", "a", "a", "b", "")),
    cost=st.sampled_from((1, 1, 1, 0, 2, 5, 1000)),
    outdated=st.sampled_from((False, False, False, True)),
    stale=st.sampled_from((False,) * 9 + (True,)),
)


@dataclass(frozen=True)
class Batch:
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Move:
    """The clock moves; if `waited`, also by the last reported wait."""

    by: int
    waited: bool


@dataclass(frozen=True)
class Change:
    to: Plan


@dataclass(frozen=True)
class Debt:
    """Another caller has spent this much of the plan throttle, or of the account's, in millionths of its burst."""

    ledger: bool
    share: int


batches = st.builds(Batch, st.lists(calls, min_size=1, max_size=8).map(tuple))
steps = st.one_of(
    batches,
    batches,
    st.builds(Move, by=moves, waited=st.just(False)),
    st.builds(Move, by=st.sampled_from((-1, 0, 1)), waited=st.just(True)),
    st.builds(Change, plans),
    st.builds(Debt, ledger=st.booleans(), share=st.sampled_from((1, 333_333, 999_999, 1_000_000))),
)


@dataclass
class World:
    """A limiter on a real Redis under a pinned clock, and the sizes of the batches that it has sent."""

    limiter: RedisLimiter
    redis: redis.asyncio.Redis
    clock: Clock
    sizes: list[int]

    async def admit(self, batch: Sequence[Charge]) -> list[Tally]:
        """Requests of one tick of the loop are decided in one batch, in order, where company is expected."""
        self.sizes.clear()
        asked = [charge for charge in batch if charge.limits or charge.meter]
        self.limiter._pace.crowd = float(Pace.FEW) if len(asked) > 1 else 1.0
        tallies = await asyncio.gather(*map(self.limiter.admit, batch))
        assert self.sizes == ([len(asked)] if asked else [])
        return tallies

    async def stored(self, keys: Sequence[str]) -> dict[str, bytes]:
        values: Any = await self.redis.mget(keys)
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    async def history(self, key: str) -> dict[int, Row]:
        rows: Any = await self.redis.hgetall(key)
        return {int(day): _row(*struct.unpack(f">{len(row) // 8}d", row)) for day, row in rows.items()}

    async def alerts(self) -> list[Alert]:
        entries: Any = await self.redis.xrange(ALERTS)
        return [
            Alert(said[b"value"].decode(), int(said[b"percent"]), int(said[b"used"]), int(said[b"start"]))
            for _, said in entries
        ]


def _row(requests: float, left: float, units: float | None = None, over: float = 0) -> Row:
    return int(requests), int(left), int(requests if units is None else units), int(over)


def _meaning(stored: dict[str, bytes]) -> dict[str, tuple[float, ...]]:
    """What values say. At what time and rate a debt of 0 was reckoned says nothing; a bucket without debt is none."""
    unpacked = {key: struct.unpack(f">B{len(raw) // 8}d", raw) for key, raw in stored.items()}
    said = {
        key: (kind, debt, *(rest if debt or kind == 4 else (0, 0, 0, *rest[3:])))
        for key, (kind, debt, *rest) in unpacked.items()
    }
    return {key: numbers for key, numbers in said.items() if any(numbers[1:])}


class Sizes(Unobserved):
    """Records the sizes of batches."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def on_batch(self, size: int, seconds: float) -> None:
        self._sizes.append(size)


@pytest.fixture
async def world(shared_redis: RedisServer, clock: Clock) -> AsyncIterator[World]:
    sizes: list[int] = []
    async with (
        running_limiter(
            shared_redis.url,
            "property",
            30.0,
            clock=RedisClock(clock),
            remembered=0,  # each call is Redis's to decide
            observer=Sizes(sizes),
        ) as limiter,
        redis.asyncio.Redis.from_url(shared_redis.url) as spy,
    ):
        yield World(limiter, spy, clock, sizes)


@dataclass
class Story:
    """One example: a plan that changes, two callers, and the model beside Redis."""

    world: World
    plan: Plan
    account: str = field(default_factory=lambda: f"story{next(NAMES)}")
    model: Model = field(default_factory=Model)
    before: Plan | None = None
    wait: int = 0

    def meter(self, caller: str) -> Meter:
        shared = self.key("customer") if self.plan.per_customer else ""
        return Meter(self.key("ledger", caller), self.key("history", caller), shared)

    def keys(self) -> list[str]:
        owners = [key for who in ("a", "b", "ab") for key in (self.key("ledger", who), *self._owned(who))]
        return [*owners, self.key("customer"), self.key("stage"), self.key("account")]

    def _owned(self, who: str) -> list[str]:
        quotas = [self.key("quota", who, period, counts) for period in Period for counts in Counts]
        return [self.key("method", who), *quotas]

    def key(self, kind: str, *parts: str) -> str:
        return redis_key(self.account, kind, *parts)

    def request(self, call: Call) -> Charge:
        plan = self._outdated() if call.outdated else self.plan
        meter = self.meter(call.caller) if call.caller else None
        now = self.world.clock() - (40 * DAY_US if call.stale else 0)
        own = self._own(plan, meter, "ab" if plan.per_customer else call.caller, now) if meter else []
        return Charge([*own, *self._shared(plan)], meter, call.cost)

    def _outdated(self) -> Plan:
        """The numbers of the plan before: a sidecar that has not read the change. The set of limits stays."""
        old = self.before or self.plan
        return replace(
            self.plan,
            plan=self.plan.plan and (old.plan or self.plan.plan),
            method=self.plan.method and (old.method or self.plan.method),
            quota=self.plan.quota and (old.quota or self.plan.quota),
            more=old.more if _kinds(old.more) == _kinds(self.plan.more) else self.plan.more,
            stage=self.plan.stage and (old.stage or self.plan.stage),
        )

    def _own(self, plan: Plan, meter: Meter, who: str, now: int) -> list[Limit]:
        found, ledger = [], meter.shared or meter.ledger
        if plan.plan:
            found.append(Limit(Layer.PLAN_THROTTLE, ledger, plan.plan, plan.shadow))
        if plan.method:
            found.append(Limit(Layer.PLAN_METHOD_THROTTLE, self.key("method", who), plan.method, plan.shadow))
        if plan.quota:
            found.append(Limit(Layer.PLAN_QUOTA, ledger, plan.quota.at(now), plan.shadow))
        for quota in plan.more:
            key = self.key("quota", who, quota.period, quota.counts)
            found.append(Limit(Layer.PLAN_QUOTA, key, quota.at(now), plan.shadow))
        return found

    def _shared(self, plan: Plan) -> list[Limit]:
        stage = [Limit(Layer.STAGE_METHOD_THROTTLE, self.key("stage"), plan.stage)] if plan.stage else []
        account = [Limit(Layer.ACCOUNT_THROTTLE, self.key("account"), plan.account)] if plan.account else []
        return [*stage, *account]

    async def run(self, step: Batch | Move | Change | Debt) -> None:
        match step:
            case Batch(calls):
                await self.ask([self.request(call) for call in calls])
            case Move(by, waited):
                self.world.clock.now += by + (self.wait if waited else 0)
            case Change(to):
                self.before, self.plan = self.plan, to
            case Debt(ledger, share):
                await self.owe(ledger, share)

    async def ask(self, batch: Sequence[Charge]) -> None:
        """Redis and the model give equal answers, and hold equal bytes afterwards."""
        tallies = await self.world.admit(batch)
        for charge, tally in zip(batch, tallies, strict=True):
            assert tally == self.model.admit(charge, self.world.clock(), tally)
            self.wait = tally.wait_us or self.wait
            event("stale" if tally.stale else f"refused by {tally.refused_by and tally.refused_by.layer}")
        assert _meaning(await self.world.stored(self.keys())) == _meaning(self.model.stored())
        for meter in map(self.meter, "ab"):
            assert await self.world.history(meter.history) == self.model.histories.get(meter.history, {})
        assert await self.world.alerts() == self.model.alerts

    async def owe(self, ledger: bool, share: int) -> None:
        """Debts that no test could run up by asking."""
        own = self.meter("a").shared or self.meter("a").ledger
        rule, key = (self.plan.plan, own) if ledger else (self.plan.account, self.key("account"))
        if rule:
            debt = Fraction(rule.burst * rule.m * share // 1_000_000, rule.m)
            bucket = Bucket(self.world.clock(), debt, rule.n, rule.m)
            kept = self.model.ledgers.get(key, Ledger(bucket))
            if ledger:
                self.model.ledgers[key] = replace(kept, bucket=bucket)
            else:
                self.model.buckets[key] = bucket
            await self.world.redis.set(key, self.model.stored()[key])


def _kinds(quotas: Sequence[Terms]) -> set[tuple[Period, Counts]]:
    return {(found.period, found.counts) for found in quotas}


@given(plan=plans, script=st.lists(steps, min_size=10, max_size=40))
async def test_the_script_does_what_the_model_says(world: World, plan: Plan, script: list[Batch | Move]) -> None:
    """Batches, mixed and shadow limits, limits that change, clocks that step, debts of any size.

    The model admits a request if every layer has room, and else names the first without.
    """
    world.clock.now = NOON
    await world.redis.delete(ALERTS)
    story = Story(world, plan)
    for step in script:
        await story.run(step)


def _assert_ceiling(rule: Throttle, admitted: Sequence[tuple[int, int]]) -> None:
    """In every window, however long: no more than burst + rate · t, in exact fractions.

    `admitted` are the times of calls, and their costs.
    """
    rate = Fraction(repr(rule.rate)) / SECOND
    for first, (start, _) in enumerate(admitted):
        taken = 0
        for end, cost in admitted[first:]:
            taken += cost if rule.counts_units else 1
            assert taken <= rule.burst + rate * (end - start)


REFILLING = [rule for rule in SMALL if rule.n] + [rule for rule in UNITS if rule.n and rule.burst <= 100]
costs = st.sampled_from((1, 1, 0, 2, 3, 5, 100))
gaps = st.sampled_from((0, 0, 1, 33, 333_333, 333_334, SECOND, 10 * SECOND)) | st.integers(0, 10_000)


@given(
    rules=st.lists(st.sampled_from(REFILLING), min_size=1, max_size=3),
    waits=st.lists(st.tuples(gaps, costs), min_size=1, max_size=40),
    follow=st.booleans(),
)
async def test_no_window_admits_more_than_its_burst_and_the_refill(
    world: World, rules: list[Throttle], waits: list[tuple[int, int]], follow: bool
) -> None:
    """For any gaps and costs, and also if each call is sent as early as the refusal before it allowed."""
    world.clock.now, name = NOON, f"window{next(NAMES)}"
    limits = [Limit(Layer.STAGE_METHOD_THROTTLE, redis_key(name, "b", str(at)), rule) for at, rule in enumerate(rules)]
    admitted: list[tuple[int, int]] = []
    for gap, cost in waits:
        world.clock.now += gap
        for tally in await world.admit([Charge(limits, cost=cost)] * 3):
            if tally.refused_by is None:
                admitted.append((world.clock(), cost))
        world.clock.now += (tally.wait_us or 0) if follow else 0
    for rule in rules:
        _assert_ceiling(rule, admitted)


@given(terms=terms(AWS_PERIODS), spent=st.lists(st.tuples(costs, gaps), min_size=1, max_size=40))
async def test_a_quota_never_admits_more_than_its_limit_and_overage(
    world: World, terms: Terms, spent: list[tuple[int, int]]
) -> None:
    """Calls of any cost, in batches; each refusal is true: the amount did not fit."""
    world.clock.now, name = NOON, f"quota{next(NAMES)}"
    meter = Meter(redis_key(name, "ledger"), redis_key(name, "history"))
    taken: dict[int, int] = {}
    for cost, gap in spent:
        world.clock.now += gap
        quota = terms.at(world.clock())
        amount = cost if quota.counts_units else 1
        for tally in await world.admit([Charge([Limit(Layer.PLAN_QUOTA, meter.ledger, quota)], meter, cost)] * 3):
            fits = not amount or taken.get(quota.start, 0) + amount <= quota.limit + quota.overage
            assert (tally.refused_by is None) == fits
            taken[quota.start] = taken.get(quota.start, 0) + (amount if fits else 0)


@given(
    own=throttles,
    shared=throttles,
    limit=st.integers(1, 3),
    count_of_calls=st.integers(1, 12),
    gap=st.sampled_from((0, 1, 1000, SECOND)),
)
async def test_a_refused_request_leaves_every_byte_as_it_was(
    world: World, own: Throttle, shared: Throttle, limit: int, count_of_calls: int, gap: int
) -> None:
    """Limits that stay, a clock that does not step back: all keys, byte for byte."""
    world.clock.now, name = NOON, f"bytes{next(NAMES)}"
    meter = Meter(redis_key(name, "ledger"), redis_key(name, "history"))
    window = interval(QuotaSettings(limit, Period.DAY), NOON)
    limits = [
        Limit(Layer.PLAN_THROTTLE, meter.ledger, own),
        Limit(Layer.PLAN_QUOTA, meter.ledger, Quota(limit, window.start, window.end)),
        Limit(Layer.ACCOUNT_THROTTLE, redis_key(name, "account"), shared),
    ]
    keys = [meter.ledger, limits[2].key]
    for _ in range(count_of_calls):
        before = await world.stored(keys)
        (tally,) = await world.admit([Charge(limits, meter)])
        changed = await world.stored(keys) != before
        assert changed == (tally.refused_by is None)
        world.clock.now += gap


@given(
    rules=st.lists(st.sampled_from(SMALL) | st.sampled_from(REFILLING), min_size=1, max_size=3),
    skip=st.integers(0, 3 * SECOND),
    cost=costs,
)
async def test_the_wait_is_neither_too_long_nor_too_short(
    world: World, rules: list[Throttle], skip: int, cost: int
) -> None:
    """A request of this cost is admitted then if nothing else happens; one a microsecond earlier is not."""
    world.clock.now, name = NOON, f"wait{next(NAMES)}"
    limits = [Limit(Layer.STAGE_METHOD_THROTTLE, redis_key(name, "b", str(at)), rule) for at, rule in enumerate(rules)]
    for _ in range(3):
        world.clock.now += skip
        tallies = await world.admit([Charge(limits, cost=cost)] * 6)
    refused = tallies[-1]
    assume(refused.refused_by and refused.wait_us)
    assert refused.wait_us is not None
    world.clock.now += refused.wait_us - 1
    (early,) = await world.admit([Charge(limits, cost=cost)])
    assert early.refused_by is not None
    assert early.wait_us == 1
    world.clock.now += 1
    (there,) = await world.admit([Charge(limits, cost=cost)])
    assert there.refused_by is None


# Rates that no short fraction equals: m is as large as the burst lets it be, where a double has no digit to spare.
AWKWARD = [rule for rate in (1e6 / 7, 1e6 / 3, 31_415.926535, 271_828.1828459) for rule in [throttle(rate, 1)] if rule]

any_rule = st.sampled_from(AWKWARD) | st.sampled_from(THROTTLES)
debts = any_rule.flatmap(lambda rule: st.tuples(st.just(rule), st.integers(0, rule.burst * rule.m)))


@given(owed=debts, new=any_rule, passed=st.sampled_from((0, 0, 1, SECOND)))
async def test_a_conversion_is_never_below_the_exact_debt_and_at_most_three_units_above(
    world: World, owed: tuple[Throttle, int], new: Throttle, passed: int
) -> None:
    """Any debt under any limit, read under any other one; the model allows that band and nothing else."""
    (old, debt), key = owed, redis_key(f"band{next(NAMES)}", "bucket")
    world.clock.now = NOON + passed
    model = Model(buckets={key: Bucket(NOON, Fraction(debt, old.m), old.n, old.m)})
    await world.redis.set(key, model.stored()[key])
    limits = [Limit(Layer.ACCOUNT_THROTTLE, key, new)]
    (tally,) = await world.admit([Charge(limits)])
    assert tally == model.admit(Charge(limits), world.clock(), tally)
    assert _meaning(await world.stored([key])) == _meaning(model.stored())

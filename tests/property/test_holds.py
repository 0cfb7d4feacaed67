"""Units held ahead, over any history of several processes: exact, and no refusal while unused units are held."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from typing import Any, Final, Literal

import pytest
import redis.asyncio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, amount_of, redis_key, throttle
from authz.core.verdict import Tally
from authz.core.zones import DAY_US
from authz.limiter.batching import Waiter
from authz.limiter.clock import RedisClock
from authz.limiter.encoding import Batch
from authz.limiter.holds import Holds, Return, _key
from authz.limiter.limiter import HELD, STALE, RedisLimiter
from authz.limiter.sender import Reply
from tests.conftest import micros
from tests.support.model import Bucket
from tests.support.servers import RedisServer

SECOND: Final = 1_000_000
LONGEST_LIFE: Final = 500_000
NOON: Final = micros("2026-02-28T12:00:00Z")
PROCESSES: Final = 8
ACCOUNT: Final = "holds"
ALERTS: Final = redis_key(ACCOUNT, "alerts")
NAMES = count(1)
EXAMPLES: Final = settings().max_examples // 3  # each has dozens of batches
ADMITTED, REFUSED = 0, 1  # codes of a result, beside STALE and HELD


@dataclass
class Time:
    """The steady time of all processes, and the lead of Redis's clock over it, in µs."""

    ticks: int = NOON
    ahead: int = 0

    def now(self) -> int:
        return self.ticks + self.ahead


class ProcessClock(RedisClock):
    """Redis's clock as a process knows it: from the last reply."""

    def __init__(self, time: Time) -> None:
        super().__init__(time.now)
        self.time, self.ahead = time, 0

    def now(self) -> int:
        return self.time.ticks + self.ahead

    def pin(self) -> int:
        return self.time.now()

    def ticks(self) -> int:
        return self.time.ticks

    def learn(self, reported: int, sent: int | None = None) -> bool:
        before, self.ahead = self.ahead, reported - self.time.ticks
        return before != self.ahead


# --- the limits -------------------------------------------------------------------------------------------------------

RULES = [rule for rate in (1, 21, 1000, 10_001) for burst in (1, 20, 50, 300) if (rule := throttle(rate, burst))]
throttles = st.none() | st.sampled_from(RULES + [replace_struct(rule, counts_units=True) for rule in RULES])


@dataclass(frozen=True)
class Plan:
    """Limits of callers a and b, which may share them, and of all calls. The second quota has a period of a second."""

    own: Throttle | None
    method: Throttle | None
    day: tuple[int, int] | None  # limit, overage
    second: int | None
    stage: Throttle | None
    account: Throttle | None
    shadow: bool
    shared: bool


plans = st.builds(
    Plan,
    own=throttles,
    method=throttles,
    day=st.none() | st.tuples(st.sampled_from((1, 20, 100, 1000)), st.sampled_from((0, 0, 7))),
    second=st.none() | st.sampled_from((20, 200)),
    stage=throttles,
    account=throttles,
    shadow=st.sampled_from((False, False, False, True)),
    shared=st.booleans(),
)

# --- the steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    """Calls to a process at the same moment, half of them one by one."""

    process: int
    caller: Literal["a", "b", ""]
    method: Literal["x", "y"]
    cost: int
    number: int
    together: bool


@dataclass(frozen=True)
class Move:
    """Time passes. Processes give their holds back in time, unless they are paused."""

    by: int
    paused: bool


@dataclass(frozen=True)
class GiveBack:
    process: int


@dataclass(frozen=True)
class Crash:
    process: int


@dataclass(frozen=True)
class Step:
    """Redis's clock steps."""

    by: int


@dataclass(frozen=True)
class Change:
    """Other limits, which all processes learn at once, or none of them yet."""

    to: Plan
    at_once: bool


@dataclass(frozen=True)
class Notice:
    """A process learns the limits."""

    process: int


processes = st.integers(0, 2) | st.integers(0, PROCESSES - 1)
moves = st.sampled_from((1, 999, 5000, 19_000, 30_000, 60_000, 80_000, 100_000, 400_000, 500_000, SECOND, DAY_US))
calls = st.builds(
    Calls,
    process=processes,
    caller=st.sampled_from(("a", "a", "b", "")),
    method=st.sampled_from(("x", "x", "y")),
    cost=st.sampled_from((1, 1, 1, 0, 2, 5)),
    number=st.integers(1, 12),
    together=st.booleans(),
)
rare = st.one_of(
    st.builds(Crash, processes),
    st.builds(Step, st.sampled_from((1, 50_000, 10 * SECOND, 100 * SECOND, -1, -1000, -10 * SECOND))),
    st.builds(Change, plans, st.booleans()),
    st.builds(Notice, processes),
    st.builds(GiveBack, processes),
)
steps = st.one_of(calls, calls, calls, calls, st.builds(Move, moves, st.booleans()), rare)

# --- the model ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Grant:
    """Held calls, and how many of them a process has admitted. `epoch` is of the clock: the number of its steps."""

    process: int
    charge: Charge
    calls: int
    ends: int
    epoch: int
    admitted: int = 0
    is_over: bool = False  # given back, or ended
    is_lost: bool = False  # its calls were counted whole, as it ended


class WatchedHolds(Holds):
    """Holds that note from which grant a call was admitted, and the grants that are given back."""

    def __init__(self, life: int, clock: RedisClock) -> None:
        super().__init__(life, clock)
        self.grants: dict[Any, Grant] = {}
        self.last: Grant | None = None
        self.returned: list[Grant] = []
        self._owned: list[Grant] = []

    def take(self, charge: Charge) -> Tally | None:
        caller = self._callers.get(_key(charge))
        self.last = self.grants.get(caller and caller.hold)
        return super().take(charge)

    def keep(self, grant: Grant) -> None:
        """Tie a grant to the hold that came of it, if it was not given back at once."""
        self._owned.append(grant)
        caller = self._callers.get(_key(grant.charge))
        hold = caller and caller.hold
        if hold and hold not in self.grants and (hold.calls, hold.ends) == (grant.calls, grant.ends):
            self.grants[hold] = grant

    def take_over(self) -> list[Return]:
        over = super().take_over()
        for one in over:
            said = one.calls, one.ends, one.admitted
            grant = next(
                grant
                for grant in self._owned
                if grant.charge.limits is one.charge.limits
                and grant.charge.cost == one.charge.cost
                and (grant.calls, grant.ends, grant.admitted) == said
            )
            self._owned.remove(grant)
            self.returned.append(grant)
        return over


class Process(RedisLimiter):
    """A process that sends a batch when a test says so. A call at the edge is not sent again."""

    holds: WatchedHolds

    def __init__(self, url: str, time: Time) -> None:
        self.known = ProcessClock(time)
        super().__init__(url, account=ACCOUNT, budget=30.0, clock=self.known, remembered=0, hold_ms=100)
        self.plan = self.number = 0
        self.reply = Reply("", 0, [])

    def start(self, life: int) -> None:
        """A new process, without holds."""
        self.holds = WatchedHolds(life, self.clock)
        self.number = self.holds.process = next(NAMES)
        self.known.ahead = self.known.time.ahead

    def _answer(self, batch: Batch, reply: Reply, sent: Any) -> None:
        self.reply = reply
        super()._answer(batch, reply, sent)

    def _wait_for_holds(self, waiter: Waiter, refusal: Tally) -> None:
        waiter.finish(Tally(refusal.now, ()))


@dataclass
class Value:
    """What a key stands for: a bucket in 1/m tokens, a quota, the calls of a caller, and the held units of each."""

    debt: int = 0
    at: int = 0
    n: int = 0
    m: int = 0
    start: int = 0
    used: int = 0
    calls: int = 0
    edge: int = 0
    held: dict[Grant, list[int]] = field(default_factory=dict)  # tokens, units, calls

    @property
    def processes(self) -> set[int]:
        return {grant.process for grant, amounts in self.held.items() if any(amounts)}

    def held_of(self, rule: Throttle | Quota) -> int:
        return sum(amounts[isinstance(rule, Quota)] for amounts in self.held.values())

    def refill(self, now: int) -> None:
        self.debt, self.at = max(0, self.debt - self.n * max(0, now - self.at)), now

    def end(self, now: int, late: Collection[tuple[int, int]] = ()) -> None:
        """Charge the holds that are over, but for those of a process that are given back late."""
        over = [one for one in self.held if not now < one.ends <= now + LONGEST_LIFE]
        over = [one for one in over if (one.process, one.ends) not in late]
        for one in sorted(over, key=lambda one: one.ends):
            tokens, units, calls = self.held.pop(one)
            at, one.is_over, one.is_lost = min(one.ends, now), True, one.is_lost or calls > 0
            if tokens and at > self.at:
                self.refill(at)
            self.debt, self.used, self.calls = self.debt + tokens * self.m, self.used + units, self.calls + calls
        if not now < self.edge <= now + LONGEST_LIFE:
            self.edge = 0

    def look(self, rule: Throttle | Quota, now: int) -> None:
        """Bring a bucket to now and to a rule, as "A changed rate" in the rules words it."""
        if isinstance(rule, Quota):
            return
        self.refill(now)
        if (self.n, self.m) != (rule.n, rule.m) and self.debt:
            whole, rest = divmod(self.debt, self.m)
            self.debt = whole * rule.m + (min(rule.m, math.ceil(rest / self.m * rule.m) + 2) if rest else 0)
        self.n, self.m = rule.n, rule.m
        self.debt = min(self.debt, rule.burst * rule.m)

    def used_of(self, rule: Quota) -> int:
        return 0 if rule.start > self.start else self.used

    def room(self, rule: Throttle | Quota, most: int) -> Fraction:
        """The units of `most` that are not used."""
        used = Fraction(self.used_of(rule)) if isinstance(rule, Quota) else Fraction(self.debt, rule.m)
        return most - used

    def charge(self, rule: Throttle | Quota, amount: int) -> None:
        if isinstance(rule, Quota):
            self.start, self.used = max(rule.start, self.start), self.used_of(rule) + amount
        else:
            self.debt += amount * self.m

    def said(self, raw: bytes | None, now: int) -> None:
        """Compare the bytes in Redis, and take over when the bucket was last brought to now: a refusal may not say."""
        if raw is None:
            assert (self.debt, self.used, self.calls) == (0, 0, 0)
            return
        size = {1: 33, 2: 73, 3: 97, 4: 25}[raw[0]]
        numbers = struct.unpack(f">{(size - 1) // 8}d", raw[1:size])
        debt, at, n, m, start, used = 0, now, 0, 0, 0, 0
        if raw[0] == 4:
            start, _, used = numbers
        else:
            debt, at, n, m, *rest = numbers
            if rest:
                start, used, *_ = rest
        assert max(0, debt - n * max(0, now - at)) == max(0, self.debt - self.n * max(0, now - self.at))
        self.debt, self.at, self.n, self.m = int(debt), int(at), int(n), int(m)
        assert used == self.used
        assert start == self.start or not used
        assert len(raw) == size or raw[size] == 5
        held = [raw[at : at + 48] for at in range(size + 9, len(raw), 48)]
        sums = [sum(column) for column in zip(*(struct.unpack(">6d", one) for one in held), strict=True)]
        model = [sum(column) for column in zip(*self.held.values(), strict=True)]
        assert (sums[2:5] or [0, 0, 0]) == (model or [0, 0, 0])


def burst_of(rule: Throttle | Quota) -> int:
    return rule.limit if isinstance(rule, Quota) else rule.burst


def most_of(rule: Throttle | Quota) -> int:
    return rule.ceiling if isinstance(rule, Quota) else rule.burst


@dataclass
class Truth:
    """The admitted calls by their own times: an exact bucket for each throttle, and the units of each period."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    quotas: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def see(self, charge: Charge, now: int) -> None:
        """Bring the buckets of a charge to now, as each look of Redis does: only then does a step back matter."""
        for limit in charge.limits:
            if limit.key in self.buckets and isinstance(limit.rule, Throttle):
                self.buckets[limit.key] = self.buckets[limit.key].later(now)

    def admit(self, charge: Charge, now: int, *, is_timely: bool, is_agreed: bool) -> None:
        """Raises AssertionError if a ceiling is passed. A call from a hold whose clock has stepped is not timely."""
        for limit in charge.limits:
            rule, amount = limit.rule, amount_of(limit.rule, charge.cost)
            if limit.shadow:
                continue
            if isinstance(rule, Quota):
                self.quotas[limit.key, rule.start] += amount
                assert self.quotas[limit.key, rule.start] <= rule.ceiling or not amount or not is_agreed
            elif is_timely and is_agreed:
                bucket = self.buckets.get(limit.key, Bucket(now)).later(now)
                assert bucket.debt + amount <= rule.burst or not amount, "the ceiling is passed"
                self.buckets[limit.key] = replace(bucket, debt=bucket.debt + amount, n=rule.n, m=rule.m)


@dataclass
class Story:
    """One example: processes under limits that change, and beside Redis the model and the truth."""

    redis: redis.asyncio.Redis
    processes: Sequence[Process]
    time: Time
    plan: Plan
    life: int
    name: str = field(default_factory=lambda: f"ahead{next(NAMES)}")
    plans: list[Plan] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=lambda: defaultdict(Value))
    truth: Truth = field(default_factory=Truth)
    tuples: dict[Any, tuple[Limit, ...]] = field(default_factory=dict)
    epoch: int = 0
    admitted: int = 0  # calls of callers, by Redis or from holds
    grants: list[Grant] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plans.append(self.plan)
        for process in self.processes:
            process.plan = 0
            process.start(self.life)

    def key(self, kind: str, *parts: str) -> str:
        return redis_key(self.name, kind, *parts)

    def charge(self, process: Process, step: Calls) -> Charge:
        plan, caller, now = self.plans[process.plan], step.caller, process.clock.now()
        shared = self.key("customer") if plan.shared else ""
        meter = Meter(self.key("ledger", caller), self.key("history", caller), shared) if caller else None
        day, second = now // DAY_US * DAY_US, now // SECOND * SECOND
        place = process.number, process.plan, caller, step.method, day, second if plan.second else 0
        if place not in self.tuples:
            self.tuples[place] = tuple(self._limits(plan, meter, step.method, day, second))
        return Charge(self.tuples[place], meter, step.cost)

    def _limits(self, plan: Plan, meter: Meter | None, method: str, day: int, second: int) -> Iterator[Limit]:
        if meter:
            own, who = meter.shared or meter.ledger, "ab" if plan.shared else meter.ledger
            if plan.own:
                yield Limit(Layer.PLAN_THROTTLE, own, plan.own, plan.shadow)
            if plan.method:
                yield Limit(Layer.PLAN_METHOD_THROTTLE, self.key("method", who, method), plan.method, plan.shadow)
            if plan.day:
                quota = Quota(plan.day[0], day, day + DAY_US, "DAY", overage=plan.day[1], alerts=(50, 100))
                yield Limit(Layer.PLAN_QUOTA, own, quota, plan.shadow)
            if plan.second:
                more = Quota(plan.second, second, second + SECOND, "SECOND", counts_units=False)
                yield Limit(Layer.PLAN_QUOTA, self.key("quota", who), more, plan.shadow)
        if plan.stage:
            yield Limit(Layer.STAGE_METHOD_THROTTLE, self.key("stage", method), plan.stage)
        if plan.account:
            yield Limit(Layer.ACCOUNT_THROTTLE, self.key("account"), plan.account)

    async def run(self, step: Any) -> None:
        match step:
            case Calls(process, number=number, together=together):
                for _ in range(1 if together else number):
                    await self.call(self.processes[process], step, number if together else 1)
            case Move(by, paused):
                await self.move(by, paused=paused)
            case GiveBack(process):
                await self.decide(self.processes[process], [])
            case Crash(process):
                self.processes[process].start(self.life)
            case Step(by):
                self.step(by)
            case Change(to, at_once):
                self.plans.append(to)
                for one in self.processes if at_once else ():
                    self.notice(one)
            case Notice(process):
                self.notice(self.processes[process])

    def step(self, by: int) -> None:
        """A step back stays within the periods of the quotas: beyond, a period that has ended may go on."""
        now, period = self.time.now(), SECOND if any(plan.second for plan in self.plans) else DAY_US
        if by > 0 or (now + by) // period == now // period:
            self.time.ahead += by
            self.epoch += 1

    def notice(self, process: Process) -> None:
        """A process learns the limits. When all have, the ceiling is that of the new ones."""
        process.plan = len(self.plans) - 1
        process.forget()
        if self.is_agreed:
            self.truth.buckets.clear()

    @property
    def is_agreed(self) -> bool:
        return all(process.plan == len(self.plans) - 1 for process in self.processes)

    async def move(self, by: int, *, paused: bool) -> None:
        until = self.time.ticks + by
        while not paused:
            ends = [(end, at) for at, one in enumerate(self.processes) if (end := one.holds.next_end) is not None]
            first, at = min(ends, default=(until, 0))
            if first >= until:
                break
            self.time.ticks = max(self.time.ticks, first)
            await self.decide(self.processes[at], [])
        self.time.ticks = until

    async def call(self, process: Process, step: Calls, number: int) -> None:
        charge = self.charge(process, step)
        sent = []
        for _ in range(number if charge.limits or charge.meter else 0):
            tally = process.holds.take(charge)
            if tally is None:
                sent.append(charge)
                continue
            hold = process.holds.last
            assert hold
            hold.admitted += 1
            assert hold.admitted <= hold.calls
            assert tally.refused_by is None
            self.note(charge, is_timely=hold.epoch == self.epoch)
            event("a call from a hold")
        if sent:
            await self.decide(process, sent)

    def note(self, charge: Charge, *, is_timely: bool = True) -> None:
        self.admitted += charge.meter is not None
        self.truth.admit(charge, self.time.now(), is_timely=is_timely, is_agreed=self.is_agreed)

    async def decide(self, process: Process, charges: Sequence[Charge]) -> None:
        """Send a batch, and compare what Redis says, grants and stores with the model."""
        loop = asyncio.get_running_loop()
        waiters = [Waiter(charge, time.monotonic() + 30, loop.create_future()) for charge in charges]
        process.reply, now = Reply("", 0, []), self.time.now()
        await process._decide(waiters)
        returned, process.holds.returned = process.holds.returned, []
        late = {(grant.process, grant.ends) for grant in returned if grant.ends <= now}
        for grant in returned:
            self.give_back(grant, now, late)
        for grant in returned:
            self.values_of(grant.charge, now)
        granted = {position: (calls, ends) for position, calls, ends in process.reply.holds}
        for position, (waiter, result) in enumerate(zip(waiters, process.reply.results, strict=True), 1):
            await waiter.tally
            self.check(waiter.charge, result, now)
            if position in granted:
                self.grant(process, waiter.charge, *granted[position], now)
        touched = {key for charge in (*charges, *(grant.charge for grant in returned)) for key in _keys(charge)}
        stored: Any = await self.redis.mget(sorted(touched)) if touched else []
        for key, raw in zip(sorted(touched), stored, strict=True):
            self.values[key].said(raw, now)

    def values_of(self, charge: Charge, now: int, late: Collection[tuple[int, int]] = ()) -> list[Value]:
        for key in _keys(charge):
            self.values[key].end(now, late)
        return [self.values[limit.key] for limit in charge.limits]

    def give_back(self, grant: Grant, now: int, late: Collection[tuple[int, int]]) -> None:
        charge = grant.charge
        self.truth.see(charge, now)
        values = self.values_of(charge, now, late)
        rules = [limit.rule for limit in charge.limits]
        if any(isinstance(rule, Quota) and not rule.start <= now < rule.end for rule in rules):
            return  # its period is over
        for value, limit in zip(values, charge.limits, strict=True):
            if grant in value.held:
                value.held[grant][isinstance(limit.rule, Quota)] = 0
                if isinstance(limit.rule, Throttle):
                    value.refill(now)
                value.charge(limit.rule, grant.admitted * amount_of(limit.rule, charge.cost))
        if charge.meter and grant in (own := self.values[charge.meter.ledger]).held:
            own.calls += grant.admitted
            own.held[grant][2] = 0
        for key in _keys(charge):
            self.values[key].held.pop(grant, None)
        event("given back late" if grant.is_over else "given back")
        grant.is_over = True

    def check(self, charge: Charge, result: tuple[int, ...], now: int) -> None:
        """A call is refused if the used units leave no room, waits if the held units do not, and else is admitted."""
        values = self.values_of(charge, now)
        rules = [limit.rule for limit in charge.limits]
        if any(isinstance(rule, Quota) and not rule.start <= now < rule.end for rule in rules):
            assert result[0] == STALE
            return
        self.truth.see(charge, now)
        full, edge = self.look(charge, values, now)
        if any(not limit.shadow for limit in full):
            assert result[0] == REFUSED
            event("refused")
        elif edge:
            assert result[0] == HELD
            assert 0 < result[2] <= self.life
            for value in edge:
                value.edge = max(grant.ends for grant, amounts in value.held.items() if any(amounts))
            event("waits")
        else:
            assert result[0] == ADMITTED
            for limit, value in zip(charge.limits, values, strict=True):
                if not (full and limit.shadow):
                    value.charge(limit.rule, amount_of(limit.rule, charge.cost))
            if charge.meter:
                self.values[charge.meter.ledger].calls += 1
            self.note(charge)

    def look(self, charge: Charge, values: Sequence[Value], now: int) -> tuple[list[Limit], list[Value]]:
        """The limits without room, and the values that have room but for held units."""
        full, edge = [], []
        for limit, value in zip(charge.limits, values, strict=True):
            amount, rule = amount_of(limit.rule, charge.cost), limit.rule
            value.look(rule, now)
            room = value.room(rule, most_of(rule))
            if amount and room < amount:
                full.append(limit)
            elif amount and room - value.held_of(rule) < amount and not limit.shadow:
                edge.append(value)
        return full, edge

    def grant(self, process: Process, charge: Charge, calls: int, ends: int, now: int) -> None:
        """A grant is at most a quarter of each limit's room, shared by the processes that hold there; no overage."""
        assert calls >= 2
        assert now < ends <= now + self.life
        grant = Grant(process.number, charge, calls, ends, self.epoch)
        for limit in charge.limits:
            value, rule, amount = self.values[limit.key], limit.rule, amount_of(limit.rule, charge.cost)
            assert not limit.shadow
            assert not value.edge
            assert not isinstance(rule, Quota) or ends <= rule.end
            free = value.room(rule, burst_of(rule)) - value.held_of(rule)
            assert calls * amount * 4 * len(value.processes | {process.number}) <= free or not amount
        for limit in charge.limits:
            held = self.values[limit.key].held.setdefault(grant, [0, 0, 0])
            held[isinstance(limit.rule, Quota)] = calls * amount_of(limit.rule, charge.cost)
        if charge.meter:
            self.values[charge.meter.ledger].held.setdefault(grant, [0, 0, 0])[2] = calls
        process.holds.keep(grant)
        self.grants.append(grant)
        event("granted")

    async def finish(self) -> None:
        """After all holds have ended, each admitted call is counted once, and a crash costs at most its holds."""
        for process in self.processes:
            process.holds.end()
            await self.decide(process, [])
        self.time.ticks += SECOND
        last = self.processes[0]
        last.start(0)
        last.plan = len(self.plans) - 1
        for caller in ("a", "b"):
            await self.call(last, Calls(0, caller, "x", 0, 1, together=True), 1)
        lost = sum(grant.calls - grant.admitted for grant in self.grants if grant.charge.meter and grant.is_lost)
        counted = 0
        for caller in ("a", "b"):
            raw: Any = await self.redis.get(self.key("ledger", caller))
            rows: Any = await self.redis.hvals(self.key("history", caller))
            assert raw is None or len(raw) in {73, 97}
            counted += sum(struct.unpack_from(">d", row)[0] for row in rows)
            counted += struct.unpack_from(">d", raw, 57)[0] if raw else 0
        assert counted == self.admitted + lost == sum(value.calls for value in self.values.values())


def _keys(charge: Charge) -> list[str]:
    """The keys of a charge, each once: the ledger of its caller and those of its limits."""
    own = [charge.meter.ledger] if charge.meter else []
    return list(dict.fromkeys([*own, *(limit.key for limit in charge.limits)]))


@pytest.fixture
async def processes_of_world(
    shared_redis: RedisServer,
) -> AsyncIterator[tuple[redis.asyncio.Redis, list[Process], Time]]:
    now = Time()
    async with redis.asyncio.Redis.from_url(shared_redis.url) as spy:
        processes = [Process(shared_redis.url, now) for _ in range(PROCESSES)]
        yield spy, processes, now
        for process in processes:
            await process.aclose()


@settings(max_examples=EXAMPLES)
@given(plan=plans, life=st.sampled_from((20_000, 100_000, 400_000)), script=st.lists(steps, min_size=15, max_size=50))
async def test_units_held_ahead_are_exact(
    processes_of_world: tuple[redis.asyncio.Redis, list[Process], Time], plan: Plan, life: int, script: list[Any]
) -> None:
    """Crashes, pauses, steps of the clock, changed limits and the ends of periods, in any order.

    Redis decides as a model does that charges each call when its hold is given back or has ended. No exact bucket that
    is fed with the calls' own times is passed, and no quota.
    """
    spy, processes, now = processes_of_world
    now.ticks, now.ahead = NOON, 0
    story = Story(spy, processes, now, plan, life)
    for step in script:
        await story.run(step)
    await story.finish()

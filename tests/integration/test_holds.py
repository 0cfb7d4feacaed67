"""Units held ahead of calls, on a real Redis. Time is pinned, so that no hold ends unless a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
import redis.asyncio

from authz.check import LimiterUnavailable
from authz.core.limits import Charge, Layer, Limit, Meter, Quota, redis_key, throttle
from authz.core.resources import Period, QuotaSettings
from authz.core.verdict import Tally
from authz.core.zones import DAY_US
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter, Spent
from authz.store.usage import UsageLedger
from tests.conftest import Clock, micros
from tests.support import builders
from tests.support.limiters import running_limiter
from tests.support.servers import RedisServer, redis_server

LIFE_MS: Final = 500
LIFE_US: Final = LIFE_MS * 1000
DEADLINE_SECONDS: Final = 60.0
HOLD_BYTES: Final = 48
NOON: Final = micros("2026-03-04T12:00:00Z")


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
async def one(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[RedisLimiter]:
    async with running_limiter(shared_redis.url, account, clock=RedisClock(clock), hold_ms=LIFE_MS) as limiter:
        yield limiter


@pytest.fixture
async def other(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[RedisLimiter]:
    """Another process."""
    async with running_limiter(shared_redis.url, account, clock=RedisClock(clock), hold_ms=LIFE_MS) as limiter:
        yield limiter


@pytest.fixture
async def plain(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[RedisLimiter]:
    """A process that holds nothing."""
    async with running_limiter(shared_redis.url, account, clock=RedisClock(clock)) as limiter:
        yield limiter


@pytest.fixture
async def ledger(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[UsageLedger]:
    found = UsageLedger(shared_redis.url, account=account, budget=DEADLINE_SECONDS, clock=clock)
    yield found
    await found.aclose()


@pytest.fixture
async def spy(shared_redis: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(shared_redis.url) as client:
        yield client


def _meter(account: str, key: str = "k") -> Meter:
    return Meter(redis_key(account, "ledger", "p", key), redis_key(account, "history", "p", key))


def _quota(account: str, limit: int, key: str = "k", **more: Any) -> Charge:
    """A call under a quota of today."""
    meter, today = _meter(account, key), NOON // DAY_US * DAY_US
    rule = Quota(limit, today, today + DAY_US, "DAY", **more)
    return Charge((Limit(Layer.PLAN_QUOTA, meter.ledger, rule),), meter)


def _bucket(account: str, rate: float, burst: int, *, shadow: bool = False) -> Charge:
    rule = throttle(rate, burst)
    assert rule
    return Charge((Limit(Layer.STAGE_METHOD_THROTTLE, redis_key(account, "stage", "b"), rule, shadow),))


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await is_so():  # noqa: ASYNC110  (Redis sets no event)
            await asyncio.sleep(0.01)


async def _hold(limiter: RedisLimiter, charge: Charge) -> int:
    """Call until the process holds calls like this one. Returns the number of calls."""
    calls = 0
    assert limiter.holds
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not limiter.holds.held:
            assert (await limiter.admit(charge)).refused_by is None
            calls += 1
    return calls


def _crash(limiter: RedisLimiter) -> None:
    """Have the process forget its holds."""
    assert limiter.holds
    limiter.holds._over.clear()
    limiter.holds._untils.clear()
    limiter.holds._callers.clear()


async def _held(spy: redis.asyncio.Redis, charge: Charge) -> int:
    """The number of holds in the value of the first limit."""
    raw = await spy.get(charge.limits[0].key)
    assert isinstance(raw, bytes)
    return (len(raw) - {1: 33, 2: 73, 3: 97, 4: 25}[raw[0]]) // HOLD_BYTES


async def _counted(spy: redis.asyncio.Redis, charge: Charge) -> int:
    """The used units of the ledger's quota."""
    assert charge.meter
    raw = await spy.get(charge.meter.ledger)
    assert isinstance(raw, bytes)
    return int(struct.unpack_from(">d", raw, 41)[0])


async def test_calls_far_from_the_limit_need_few_commands(one: RedisLimiter, account: str, spy: Any) -> None:
    """A hundred callers in turns, each with a quota of its own: at most a script in twenty calls."""
    charges = [_quota(account, 1_000_000, str(number)) for number in range(100)]

    async def scripts() -> int:
        return int((await spy.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))

    rounds, before = 100, await scripts()
    for _ in range(rounds):
        tallies = await asyncio.gather(*map(one.admit, charges))
        assert all(tally.refused_by is None for tally in tallies)
    assert await scripts() - before <= 0.05 * rounds * len(charges)
    await one.give_back()
    assert [await _counted(spy, charge) for charge in charges] == [rounds] * len(charges)


async def _to_the_edge(one: RedisLimiter, plain: RedisLimiter, charge: Charge, limit: int) -> int:
    """Have one process hold units and another use up all others. Returns the number of held calls."""
    used = await _hold(one, charge)
    assert one.holds
    for _ in range(limit - used - one.holds.held):
        assert (await plain.admit(charge)).refused_by is None
    return one.holds.held


async def _waiting(limiter: RedisLimiter, charge: Charge) -> asyncio.Task[Tally]:
    """A call that waits for the end of a hold."""
    before, call = limiter.waited, asyncio.create_task(limiter.admit(charge))

    async def waits() -> bool:
        return limiter.waited > before

    await _until(waits)
    return call


@pytest.mark.parametrize("is_used", [False, True])
async def test_a_call_at_the_edge_waits_for_the_hold_of_another_process(
    one: RedisLimiter, plain: RedisLimiter, account: str, is_used: bool
) -> None:
    """It is admitted where the hold's units come free, and refused where they were used."""
    charge = _quota(account, 40)
    held = await _to_the_edge(one, plain, charge, 40)
    if is_used:
        for _ in range(held):
            assert (await one.admit(charge)).refused_by is None
    call = await _waiting(plain, charge)
    await one.give_back()
    assert ((await call).refused_by is not None) == is_used


async def test_while_a_call_waits_nothing_more_is_held(
    one: RedisLimiter, plain: RedisLimiter, account: str, clock: Clock, spy: Any
) -> None:
    """Not even where a hold was given back early, and with it most of the room: until its end could have come."""
    charge = _quota(account, 1000)
    assert one.holds
    while one.holds.held < 50:
        await one.admit(charge)
    while not plain.waited:
        call = asyncio.create_task(plain.admit(charge))
        await asyncio.wait([call], timeout=0.01)
    await one.give_back()
    assert (await call).refused_by is None
    for _ in range(10):
        await one.admit(charge)
    assert one.holds.held == await _held(spy, charge) == 0
    clock.now += LIFE_US
    assert await _hold(one, charge)


async def test_a_hold_ends_with_the_period_of_a_quota(one: RedisLimiter, account: str, spy: Any) -> None:
    meter, ends = _meter(account), NOON + LIFE_US // 4
    quota = Quota(1000, NOON - DAY_US, ends, "DAY")
    charge = Charge((Limit(Layer.PLAN_QUOTA, meter.ledger, quota),), meter)
    await _hold(one, charge)
    raw = await spy.get(meter.ledger)
    assert struct.unpack_from(">d", raw, len(raw) - HOLD_BYTES) == (ends,)


async def test_a_call_without_the_time_to_wait_is_refused_with_the_wait(
    one: RedisLimiter, plain: RedisLimiter, account: str
) -> None:
    charge = _quota(account, 40)
    await _to_the_edge(one, plain, charge, 40)
    tally: Tally | None = None
    while tally is None:
        hurried = Charge(charge.limits, charge.meter, deadline=time.monotonic() + 0.2)
        with contextlib.suppress(LimiterUnavailable):  # on a machine too busy to ask in time
            tally = await plain.admit(hurried)
    assert tally.refused_by is charge.limits[0]
    assert tally.wait_us is not None
    assert 0 < tally.wait_us <= LIFE_US


async def test_a_caller_that_leaves_at_the_edge_takes_nothing(
    one: RedisLimiter, plain: RedisLimiter, account: str, spy: Any
) -> None:
    charge = _quota(account, 40)
    held = await _to_the_edge(one, plain, charge, 40)
    waiting = await _waiting(plain, charge)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await one.give_back()
    assert (await plain.admit(charge)).refused_by is None
    assert await _counted(spy, charge) == 40 - held + 1


@pytest.mark.parametrize("kind", ["shadow", "once", "overage"])
async def test_no_call_is_held(one: RedisLimiter, account: str, kind: str) -> None:
    """Neither one of a shadow plan, nor one with a name of its own, nor one that costs extra."""
    charge = _bucket(account, 1000, 1000, shadow=kind == "shadow")
    if kind == "overage":
        charge = _quota(account, 1, overage=10_000)
        assert (await one.admit(charge)).refused_by is None
    for number in range(50):
        named = Charge(charge.limits, charge.meter, once=f"request{number}" if kind == "once" else "")
        assert (await one.admit(named)).refused_by is None
    assert one.holds
    assert one.holds.admitted == one.holds.held == 0


async def test_a_named_call_uses_no_hold(one: RedisLimiter, account: str) -> None:
    charge = _bucket(account, 1000, 1000)
    await _hold(one, charge)
    assert one.holds
    before = one.holds.admitted
    await one.admit(Charge(charge.limits, once="request"))
    assert one.holds.admitted == before


@pytest.mark.parametrize("crashes", [False, True])
async def test_held_calls_that_reach_percents_cause_one_alert_each(
    one: RedisLimiter, other: RedisLimiter, account: str, clock: Clock, spy: Any, crashes: bool
) -> None:
    """Also where the process has died with its hold: the next look at the value charges it, and says so."""
    charge = _quota(account, 100, alerts=tuple(range(1, 100)))  # of the same number of units
    await _hold(one, charge)
    assert one.holds
    for _ in range(one.holds.held):
        await one.admit(charge)
    if crashes:
        _crash(one)
        clock.now += LIFE_US
    else:
        await one.give_back()
    await other.admit(charge)
    await other.admit(charge)
    entries = await spy.xrange(redis_key(account, "alerts"))
    assert [int(said[b"percent"]) for _, said in entries] == list(range(1, await _counted(spy, charge) + 1))


async def test_a_refused_call_reports_the_percents_of_a_crashed_hold(
    one: RedisLimiter, plain: RedisLimiter, account: str, clock: Clock, spy: Any
) -> None:
    charge = _quota(account, 100, alerts=tuple(range(1, 100)))
    await _hold(one, charge)
    _crash(one)
    clock.now += LIFE_US
    never = Charge(charge.limits, charge.meter, cost=1000)
    for _ in range(2):
        assert (await plain.admit(never)).refused_by
    entries = await spy.xrange(redis_key(account, "alerts"))
    assert [int(said[b"percent"]) for _, said in entries] == list(range(1, await _counted(spy, charge) + 1))


async def test_changed_limits_end_all_holds(one: RedisLimiter, account: str, spy: Any) -> None:
    charge = _quota(account, 1000)
    used = await _hold(one, charge)
    one.forget()
    assert one.holds
    assert one.holds.held == 0

    async def is_free() -> bool:
        return await _held(spy, charge) == 0

    await _until(is_free)
    assert (await one.admit(charge)).refused_by is None
    await one.give_back()
    assert await _counted(spy, charge) == used + 1


async def test_a_limiter_that_stops_gives_all_holds_back(one: RedisLimiter, account: str, spy: Any) -> None:
    charges = [_quota(account, 1000, str(number)) for number in range(3)]
    used = [await _hold(one, charges[0])]
    for charge in charges[1:]:
        used.append(0)
        await one.admit(charge)
        used[-1] += 1
        while not await _held(spy, charge):
            await one.admit(charge)
            used[-1] += 1
    await one.give_back()
    assert [await _held(spy, charge) for charge in charges] == [0, 0, 0]
    assert [await _counted(spy, charge) for charge in charges] == used


async def test_an_idle_process_gives_its_first_hold_back_in_time(
    one: RedisLimiter, account: str, clock: Clock, spy: Any
) -> None:
    charge = _quota(account, 1000)
    used = await _hold(one, charge)
    assert one.holds
    assert one.holds.next_end
    clock.now = one.holds.next_end

    async def is_free() -> bool:
        return await _held(spy, charge) == 0

    await _until(is_free)
    assert await _counted(spy, charge) == used
    assert one.holds.lost == 0


async def test_a_process_that_dies_is_charged_for_its_hold(
    one: RedisLimiter, plain: RedisLimiter, account: str, clock: Clock, spy: Any
) -> None:
    charge = _quota(account, 1000)
    used = await _hold(one, charge)
    assert one.holds
    held = one.holds.held
    _crash(one)
    await plain.admit(charge)
    assert (await _held(spy, charge), await _counted(spy, charge)) == (1, used + 1)
    clock.now += LIFE_US
    await plain.admit(charge)
    assert (await _held(spy, charge), await _counted(spy, charge)) == (0, used + held + 2)


async def test_usage_counts_a_hold_once_it_has_ended(
    one: RedisLimiter, account: str, clock: Clock, ledger: UsageLedger
) -> None:
    """In each of its readings, also before any call."""
    charge, quota = _quota(account, 1000), QuotaSettings(1000, Period.DAY)
    used = await _hold(one, charge)
    assert one.holds
    held = one.holds.held
    _crash(one)
    _, place = builders.held(quota)
    for counted in (used, used + held):
        today = clock() // DAY_US
        reading = await ledger.read("p", ["k"])
        assert reading.records["k"].rows[today].requests == counted
        states = (await ledger.states([place])).states
        assert [state.used for state in states if state] == [counted]
        survey = await ledger.survey("p", ["k"], [today], [place])
        assert [state.used for state in survey.states.values()] == [counted]
        clock.now += LIFE_US


async def test_set_units_keep_a_hold_beside_them(
    one: RedisLimiter, account: str, ledger: UsageLedger, spy: Any
) -> None:
    charge = _quota(account, 1000)
    await _hold(one, charge)
    assert one.holds
    held = one.holds.held
    for _ in range(held):
        await one.admit(charge)
    holder, quota = builders.held(QuotaSettings(1000, Period.DAY))
    await ledger.set_remaining("p", holder, quota, 500, who="ada", what="UpdateUsage p k")
    assert (await _held(spy, charge), await _counted(spy, charge)) == (1, 500)
    await one.give_back()
    assert (await _held(spy, charge), await _counted(spy, charge)) == (0, 500 + held)


async def test_a_settled_debt_keeps_a_hold_and_charges_one_that_has_ended(
    one: RedisLimiter, account: str, clock: Clock, spy: Any
) -> None:
    charge = _quota(account, 1000)
    used = await _hold(one, charge)
    assert one.holds
    assert charge.meter
    held = one.holds.held
    debt = Spent(charge.meter, tuple(charge.limits), clock() // DAY_US, 7, 7)
    assert await one.flush(debt) == [used + 7]
    assert await _held(spy, charge) == 1
    _crash(one)
    clock.now += LIFE_US
    assert await one.flush(debt) == [used + held + 14]
    assert await _held(spy, charge) == 0


async def test_an_outage_shares_out_no_held_unit_again(account: str, clock: Clock) -> None:
    """Two processes hold units when Redis dies: with the shares of their stand-ins, they admit the quota at most."""
    with redis_server("valkey") as server:
        charge, stand_ins = _quota(account, 1000), [LocalLimiter(2), LocalLimiter(2)]
        options: dict[str, Any] = {"clock": RedisClock(clock), "hold_ms": LIFE_MS}
        async with (
            running_limiter(server.url, account, 1.0, **options) as one,
            running_limiter(server.url, account, 1.0, **options) as other,
        ):
            admitted = await _hold(one, charge) + await _hold(other, charge)
            for limiter, stand_in in zip((one, other), stand_ins, strict=True):
                asked = Charge(charge.limits, charge.meter, once="asks Redis")
                stand_in.observe(charge.limits, (await limiter.admit(asked)).states)
            admitted += 1  # the second call has the first one's name
            server.kill()
            for limiter in (one, other):
                with contextlib.suppress(LimiterUnavailable):
                    for _ in range(1000):
                        await limiter.admit(charge)
                        admitted += 1
            for stand_in in stand_ins:
                while stand_in.admit(charge, clock()).refused_by is None:
                    admitted += 1
        assert 900 < admitted <= 1000


async def test_an_older_release_takes_a_value_with_holds_for_bad(one: RedisLimiter, account: str, spy: Any) -> None:
    """It reads a value only at its known lengths: never is one with holds an empty one to it."""
    charge = _quota(account, 1000)
    await _hold(one, charge)
    raw = await spy.get(charge.limits[0].key)
    assert len(raw) not in {73, 97}
    assert raw[73] == 5


async def test_the_unused_hold_of_a_customer_counts_no_call_of_its_key(
    one: RedisLimiter, account: str, spy: Any
) -> None:
    """The limits are the customer's, the usage is the key's."""
    plain = _quota(account, 1000)
    assert plain.meter
    shared = redis_key(account, "ledger", "p", "customer")
    charge = Charge(
        (Limit(Layer.PLAN_QUOTA, shared, plain.limits[0].rule),), Meter(plain.meter.ledger, plain.meter.history, shared)
    )
    used = await _hold(one, charge)
    await one.give_back()
    raw = await spy.get(plain.meter.ledger)
    assert len(raw) == 73
    assert struct.unpack_from(">d", raw, 57) == (used,)


async def test_a_hold_under_older_limits_does_not_cap_the_debt_of_newer_ones(
    one: RedisLimiter, other: RedisLimiter, account: str, spy: Any
) -> None:
    """The burst grows from 40 to 400; a process that does not know it yet gives its hold back."""
    before, after = _bucket(account, 0.001, 40), _bucket(account, 0.001, 400)
    await _hold(one, before)
    tallies = await asyncio.gather(*(other.admit(after) for _ in range(300)))
    assert all(tally.refused_by is None for tally in tallies)
    await other.give_back()
    await one.give_back()
    raw = await spy.get(after.limits[0].key)
    debt, _, _, m = struct.unpack_from(">dddd", raw, 1)
    assert debt / m >= 300

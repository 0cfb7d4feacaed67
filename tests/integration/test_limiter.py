"""The limits in a real Redis, in the order of docs/explanation/rules.md."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis.asyncio

from authz.check import LimiterUnavailable
from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, redis_key, remaining, throttle
from authz.core.periods import interval
from authz.core.resources import QuotaSettings
from authz.core.verdict import Tally
from authz.core.zones import DAY_US
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import Spent
from authz.limiter.sender import ADMIT, FLUSH
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.ledger import Ledger
from tests.support.limiters import running_limiter
from tests.support.servers import Kind, RedisServer, free_port, redis_server, until

SECOND = 1_000_000
DAY_MS = 86_400_000
YEARS_AWAY = 2**52


@pytest.fixture
async def live(shared_redis: RedisServer, account: str) -> AsyncIterator[RedisLimiter]:
    """A limiter under Redis's own clock."""
    async with running_limiter(shared_redis.url, account) as limiter:
        yield limiter


def _rule(rate: float, burst: int) -> Throttle:
    rule = throttle(rate, burst)
    assert rule
    return rule


def _bucket(account: str, rate: float, burst: int, name: str = "bucket", *, shadow: bool = False) -> Limit:
    return Limit(Layer.STAGE_METHOD_THROTTLE, redis_key(account, "stage", name), _rule(rate, burst), shadow)


def _meter(account: str, key: str = "k1") -> Meter:
    return Meter(redis_key(account, "ledger", "p1", key), redis_key(account, "history", "p1", key))


def _quota(meter: Meter, limit: int, now: int, unit: Any = "DAY", *, shadow: bool = False) -> Limit:
    window = interval(QuotaSettings(limit, unit), now)
    return Limit(Layer.PLAN_QUOTA, meter.ledger, Quota(limit, window.start, window.end), shadow)


def _plan_throttle(meter: Meter, rate: float, burst: int, *, shadow: bool = False) -> Limit:
    return Limit(Layer.PLAN_THROTTLE, meter.ledger, _rule(rate, burst), shadow)


async def _admitted(
    limiter: RedisLimiter, limits: Sequence[Limit], meter: Meter | None = None, times: int = 1
) -> list[bool]:
    tallies = await asyncio.gather(*(limiter.admit(Charge(limits, meter)) for _ in range(times)))
    return [tally.refused_by is None for tally in tallies]


async def _empty(limiter: RedisLimiter, limit: Limit, meter: Meter | None = None) -> None:
    """Take all that a bucket holds."""
    assert isinstance(limit.rule, Throttle)
    assert all(await _admitted(limiter, [limit], meter, limit.rule.burst))


async def _raw(spy: redis.asyncio.Redis, key: str) -> bytes:
    raw = await spy.get(key)
    assert isinstance(raw, bytes)
    return raw


async def _history(spy: redis.asyncio.Redis, meter: Meter) -> dict[int, tuple[float, ...]]:
    """Used and remaining by day (since 1970)."""
    rows: Any = await spy.hgetall(meter.history)
    return {int(day): struct.unpack(">dd", row) for day, row in rows.items()}


async def _usage(spy: redis.asyncio.Redis, meter: Meter) -> tuple[float, ...]:
    """Start and used of the quota; day, used and remaining of the usage."""
    ledger = Ledger.of(await _raw(spy, meter.ledger))
    return ledger.start, ledger.used, ledger.day, ledger.day_used, ledger.day_left


@pytest.mark.parametrize("rate", [0.3, 3.0, 7.0, 3000.0, 9999.0, 700_000.0])
async def test_a_token_comes_back_in_the_very_microsecond_that_completes_it(
    limiter: RedisLimiter, account: str, clock: Clock, rate: float
) -> None:
    """No rounding in any caller's favour: not a microsecond earlier, and not one later, again and again."""
    limit = _bucket(account, rate, 1)
    rule = _rule(rate, 1)
    for _ in range(5):
        assert await _admitted(limiter, [limit]) == [True]
        clock.now += -(-rule.m // rule.n) - 1
        assert await _admitted(limiter, [limit]) == [False]
        clock.now += 1


async def test_a_debt_near_the_largest_exact_integer_loses_no_digit(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """16 digits of a debt and of a time in µs, written, read and reported."""
    limit = _bucket(account, 1e-6, 3100)
    rule = limit.rule
    assert isinstance(rule, Throttle)
    debt = (rule.burst - 1) * rule.m - 1
    assert debt > 2**51
    await spy.set(limit.key, struct.pack(">Bdddd", 1, debt, clock.now, rule.n, rule.m))
    assert (await limiter.admit(Charge([limit]))).states == (debt + rule.m,)
    assert struct.unpack(">Bdddd", await _raw(spy, limit.key)) == (1, debt + rule.m, clock.now, rule.n, rule.m)


async def test_a_burst_raised_from_5_to_50_on_an_empty_bucket_admits_45_at_once(
    limiter: RedisLimiter, account: str
) -> None:
    await _empty(limiter, _bucket(account, 1.0, 5))
    assert sum(await _admitted(limiter, [_bucket(account, 1.0, 50)], times=60)) == 45


async def test_a_rate_lowered_from_100_to_1_on_an_empty_bucket_of_100_admits_none(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    await _empty(limiter, _bucket(account, 100.0, 100))
    assert sum(await _admitted(limiter, [_bucket(account, 1.0, 100)], times=20)) == 0
    clock.advance(2)
    assert sum(await _admitted(limiter, [_bucket(account, 1.0, 100)], times=20)) == 2


async def test_a_refusal_writes_the_new_rate_so_that_it_holds_from_then_on(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """Else the first admitted call would find its whole wait refilled at the old rate."""
    await _empty(limiter, _bucket(account, 100.0, 100))
    slow = _bucket(account, 1.0, 100)
    for _ in range(4):
        assert await _admitted(limiter, [slow]) == [False]
        clock.advance(0.25)
    assert sum(await _admitted(limiter, [slow], times=20)) == 1


async def test_the_wait_after_a_lowered_burst_counts_from_the_new_burst(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """More than the new burst counts as the new burst, also for the calls behind a refused one."""
    await _empty(limiter, _bucket(account, 1.0, 100))
    small = _bucket(account, 1.0, 1)
    assert (await limiter.admit(Charge([small]))).wait_us == SECOND
    clock.advance(1)
    assert await _admitted(limiter, [small]) == [True]


async def test_a_changed_quota_keeps_its_use_and_never_has_a_negative_rest(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter = _meter(account)
    await _admitted(limiter, [_quota(meter, 10, clock.now)], meter, 7)
    lowered = _quota(meter, 3, clock.now)
    tally = await limiter.admit(Charge([lowered], meter))
    assert tally.refused_by is lowered
    assert (tally.states, remaining(lowered.rule, tally.states[0])) == ((7,), 0)
    assert sum(await _admitted(limiter, [_quota(meter, 9, clock.now)], meter, 5)) == 2


async def test_a_limit_removed_and_added_again_gives_nothing_away(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """A slot of the ledger that a request does not name is kept as it is."""
    meter = _meter(account)
    limits = [_plan_throttle(meter, 0.0, 2), _quota(meter, 2, clock.now, "MONTH")]
    assert sum(await _admitted(limiter, limits, meter, 3)) == 2
    assert all(await _admitted(limiter, [], meter, 3))
    for limit in limits:
        assert await _admitted(limiter, [limit], meter) == [False]


async def test_a_step_back_of_the_clock_refills_nothing_and_refilling_goes_on_from_there(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """Refused calls take the step too: no caller waits until the clock has caught up."""
    limit = _bucket(account, 1.0, 2)
    await _empty(limiter, limit)
    clock.advance(-3600)
    tally = await limiter.admit(Charge([limit]))
    assert (tally.refused_by, tally.wait_us) == (limit, SECOND)
    clock.advance(1)
    assert sum(await _admitted(limiter, [limit], times=3)) == 1


async def test_the_clock_is_learnt_from_a_reply(live: RedisLimiter, spy: redis.asyncio.Redis) -> None:
    """However wrong it was before."""
    live.clock.learn(0)
    before, _ = await spy.time()
    assert await live.probe()
    assert live.clock.now() >= before * SECOND


async def test_a_period_that_does_not_contain_now_is_stale_and_takes_nothing(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """Its neighbours in the batch are decided as usual, and its reply has the time."""
    meter, bucket = _meter(account), _bucket(account, 0.0, 2)
    yesterday, today = (_quota(meter, 5, clock.now - ago) for ago in (DAY_US, 0))
    before, stale, after = await asyncio.gather(
        limiter.admit(Charge([bucket], None)),
        limiter.admit(Charge([yesterday, bucket], meter)),
        limiter.admit(Charge([today, bucket], meter)),
    )
    assert stale == Tally(now=clock.now, stale=True)
    assert (before.states, after.states) == ((1,), (1, 2))


@pytest.mark.parametrize(("moment", "stale"), [(-1, True), (0, False), (DAY_US - 1, False), (DAY_US, True)])
async def test_a_period_holds_its_start_and_not_its_end(
    limiter: RedisLimiter, account: str, clock: Clock, moment: int, stale: bool
) -> None:
    """To the microsecond, so that no moment belongs to two periods."""
    meter = _meter(account)
    limit = _quota(meter, 5, clock.now)
    clock.now = clock.now // DAY_US * DAY_US + moment
    assert (await limiter.admit(Charge([limit], meter))).stale is stale


async def test_a_period_restarts_only_when_it_begins_later(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """A clock that steps back over midnight, and back again, resets no quota."""
    meter = _meter(account)
    clock.at("2026-03-05T00:00:01Z")
    assert sum(await _admitted(limiter, [_quota(meter, 2, clock.now)], meter, 3)) == 2
    clock.advance(-2)
    assert await _admitted(limiter, [_quota(meter, 2, clock.now)], meter) == [False]
    clock.advance(2)
    assert await _admitted(limiter, [_quota(meter, 2, clock.now)], meter) == [False]
    clock.advance(86_400)
    assert await _admitted(limiter, [_quota(meter, 2, clock.now)], meter) == [True]


async def test_an_earlier_start_is_charged_to_the_stored_period_whose_start_stays(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """An old and a new sidecar with different periods do not reset each other's quota."""
    meter = _meter(account)
    day, month = _quota(meter, 3, clock.now, "DAY"), _quota(meter, 3, clock.now, "MONTH")
    taken = [(await _admitted(limiter, [limit], meter))[0] for limit in (month, day, month, day, month, day)]
    assert isinstance(day.rule, Quota)
    assert taken == [True, True, True, True, False, False]
    assert (await _usage(spy, meter))[:2] == (day.rule.start, 3)


async def test_a_refused_call_does_not_move_the_period_for_the_calls_behind_it(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """The month is used up; a call under the day, refused by another layer, does not begin the day."""
    meter, full = _meter(account), _bucket(account, 1.0, 0)
    day, month = _quota(meter, 1, clock.now, "DAY"), _quota(meter, 1, clock.now, "MONTH")
    assert await _admitted(limiter, [month], meter) == [True]
    refused, behind = await asyncio.gather(
        limiter.admit(Charge([day, full], meter)), limiter.admit(Charge([month], meter))
    )
    assert (refused.refused_by, behind.refused_by) == (full, month)


async def test_a_start_more_than_a_day_past_the_end_was_a_wrong_clock_and_restarts(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter, now = _meter(account), clock.now
    clock.advance(30 * 86_400)
    assert await _admitted(limiter, [_quota(meter, 1, clock.now)], meter) == [True]
    clock.now = now
    today = _quota(meter, 1, clock.now)
    assert await _admitted(limiter, [today], meter, 2) == [True, False]
    assert isinstance(today.rule, Quota)
    assert (await _usage(spy, meter))[0] == today.rule.start


async def test_a_burst_of_0_refuses_every_call_with_an_infinite_wait(limiter: RedisLimiter, account: str) -> None:
    limit = _bucket(account, 1000.0, 0)
    tally = await limiter.admit(Charge([limit]))
    assert (tally.refused_by, tally.wait_us) == (limit, None)


async def test_a_rate_of_0_admits_its_burst_once(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    limit = _bucket(account, 0.0, 3)
    await _empty(limiter, limit)
    clock.advance(300 * 86_400)
    tally = await limiter.admit(Charge([limit]))
    assert (tally.refused_by, tally.wait_us) == (limit, None)


@pytest.mark.parametrize("refused_by_other", [False, True])
async def test_a_counter_that_never_refills_is_kept_400_days_from_the_last_refusal_too(
    live: RedisLimiter, account: str, spy: redis.asyncio.Redis, refused_by_other: bool
) -> None:
    """Whichever limit refuses."""
    limit = _bucket(account, 0.0, 2)
    taken = [limit] if refused_by_other else [limit] * 2
    for one in taken:
        assert await _admitted(live, [one]) == [True]
    await spy.pexpire(limit.key, 60_000)
    assert await _admitted(live, [limit, _bucket(account, 1.0, 0, "full")]) == [False]
    assert 399 * DAY_MS < await spy.pttl(limit.key) <= 400 * DAY_MS


async def test_a_batch_is_decided_in_order_and_a_refused_request_takes_nothing(
    limiter: RedisLimiter, account: str
) -> None:
    """The refused one in the middle leaves the shared unit to the one behind it."""
    shared, full = _bucket(account, 0.0, 2, "shared"), _bucket(account, 1.0, 0, "full")
    asked = ([shared], [shared, full], [full, shared], [shared], [shared])
    tallies = await asyncio.gather(*(limiter.admit(Charge(limits)) for limits in asked))
    assert [tally.refused_by for tally in tallies] == [None, full, full, None, shared]


async def test_a_refusal_names_the_first_layer_without_room_and_the_longest_wait(
    limiter: RedisLimiter, account: str
) -> None:
    first, second, third = (_bucket(account, rate, 1, str(rate)) for rate in (2.0, 0.5, 1.0))
    await _admitted(limiter, [first, second, third])
    tally = await limiter.admit(Charge([first, second, third]))
    assert (tally.refused_by, tally.wait_us) == (first, 2 * SECOND)


async def test_one_infinite_wait_makes_the_whole_wait_infinite(limiter: RedisLimiter, account: str) -> None:
    finite, never = _bucket(account, 1.0, 1, "finite"), _bucket(account, 0.0, 1, "never")
    await _admitted(limiter, [finite, never])
    tally = await limiter.admit(Charge([finite, never]))
    assert (tally.refused_by, tally.wait_us) == (finite, None)


async def test_the_wait_for_a_quota_lasts_until_its_period_ends(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter = _meter(account)
    clock.at("2026-03-04T23:59:58Z")
    limit = _quota(meter, 1, clock.now)
    await _admitted(limiter, [limit], meter)
    assert (await limiter.admit(Charge([limit], meter))).wait_us == 2 * SECOND


BAD_STRINGS = {
    "empty": b"",
    "short": b"\x01\x00",
    "a bucket too long": struct.pack(">Bddddd", 1, 0, 0, 0, 1, 0),
    "an unknown format": b"\x07" + bytes(32),
    "a ledger of an unknown format": b"\x07" + bytes(72),
    "text": b"42",
}


SPOILERS: list[Any] = [
    *(pytest.param(lambda spy, key, raw=raw: spy.set(key, raw), id=name) for name, raw in BAD_STRINGS.items()),
    pytest.param(lambda spy, key: spy.rpush(key, "x"), id="a list"),
    pytest.param(lambda spy, key: spy.hset(key, "a", "b"), id="a hash"),
]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("where", ["bucket", "ledger"])
async def test_a_foreign_value_fails_its_own_requests_and_is_left_alone(
    limiter: RedisLimiter,
    account: str,
    clock: Clock,
    spy: redis.asyncio.Redis,
    spoil: Callable[[redis.asyncio.Redis, str], Awaitable[Any]],
    where: str,
) -> None:
    """It is never taken for empty; the neighbours in the batch are decided, and charged for themselves alone."""
    meter, shared = _meter(account), _bucket(account, 0.0, 9, "shared")
    own = _quota(meter, 5, clock.now) if where == "ledger" else _bucket(account, 1.0, 5)
    await spoil(spy, own.key)
    before = await spy.dump(own.key)
    first, bad, last = await asyncio.gather(
        limiter.admit(Charge([shared])),
        limiter.admit(Charge([shared, own], meter if where == "ledger" else None)),
        limiter.admit(Charge([shared])),
        return_exceptions=True,
    )
    assert isinstance(bad, LimiterUnavailable)
    assert isinstance(first, Tally)
    assert isinstance(last, Tally)
    assert (first.states, last.states) == ((1,), (2,))
    assert await spy.dump(own.key) == before


@pytest.mark.parametrize("row", [None, b"short"])
async def test_a_foreign_history_fails_its_own_requests_too(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis, row: bytes | None
) -> None:
    """A value of another type, or today's row with bytes that are not ours."""
    meter = _meter(account)
    if row:
        await spy.hset(meter.history, str(clock.now // DAY_US), row)
    else:
        await spy.set(meter.history, "not a hash")
    before = await spy.dump(meter.history)
    bad, good = await asyncio.gather(
        limiter.admit(Charge([], meter)), limiter.admit(Charge([], _meter(account, "k2"))), return_exceptions=True
    )
    assert isinstance(bad, LimiterUnavailable)
    assert isinstance(good, Tally)
    assert await spy.dump(meter.history) == before


@pytest.fixture
def cluster(redis_kind: Kind) -> Iterator[RedisServer]:
    """A cluster of one node that owns every slot."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(redis_kind, *options) as server, redis.Redis.from_url(server.url) as client:
        ask: Any = client.execute_command
        ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in ask("CLUSTER", "INFO"), "the cluster is not ready", server)
        yield server


async def _spent_everywhere(limiter: RedisLimiter, account: str, clock: Clock) -> list[str]:
    """Every kind of limit, a day's turn and a flush; the keys that may be touched."""
    meters = [_meter(account, key) for key in ("k1", "{k2}")]
    shared = _bucket(account, 5.0, 50, "/pets/{id}")
    for _ in range(2):
        for meter in meters:
            limits = [_plan_throttle(meter, 5.0, 5), _quota(meter, 5, clock.now), shared]
            assert await _admitted(limiter, limits, meter) == [True]
        clock.advance(86_400)
    await limiter.flush(Spent(meters[0], (), clock.now // DAY_US, 3, 3))
    own = [redis_key(account, kind, limiter._sender._worker) for kind in ("reply", "flush")]
    return [*(key for meter in meters for key in (meter.ledger, meter.history)), shared.key, *own]


async def test_all_scripts_work_on_a_cluster(cluster: RedisServer, account: str, clock: Clock) -> None:
    """A script whose keys lie in two slots would be an error there."""
    async with running_limiter(cluster.url, account, clock=RedisClock(clock)) as limiter:
        await _spent_everywhere(limiter, account, clock)


async def test_a_script_touches_no_key_that_it_was_not_given(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """As Redis's own MONITOR shows it: each command of a script names keys of its KEYS."""
    async with spy.monitor() as monitor:
        keys = await _spent_everywhere(limiter, account, clock)
        touched = await _touched_by_scripts(monitor, spy)
    assert touched
    assert touched <= set(keys)


async def _touched_by_scripts(monitor: Any, spy: redis.asyncio.Redis) -> set[str]:
    touched: set[str] = set()
    await spy.echo("the end")
    while True:
        seen = await monitor.next_command()
        name, *args = seen["command"].split(" ")
        if name == "ECHO":
            return touched
        if seen["client_type"] == "lua" and name != "TIME":
            touched |= set(args) if name == "MGET" else {args[0]}


async def test_a_bucket_expires_when_it_would_be_full(
    live: RedisLimiter, account: str, spy: redis.asyncio.Redis
) -> None:
    """Not earlier, or a caller would get a burst for nothing; not much later, or Redis would fill up."""
    limit = _bucket(account, 1.0, 100)
    await _admitted(live, [limit], times=60)
    _, debt, at, n, _ = struct.unpack(">Bdddd", await _raw(spy, limit.key))
    full_ms = (at + debt / n) / 1000
    assert full_ms <= await spy.pexpiretime(limit.key) <= full_ms + 5000


@pytest.mark.parametrize(("retention", "kept"), [(400, 400), (1, 62)])
async def test_a_ledger_is_kept_as_long_as_its_usage_and_outlives_every_quota(
    shared_redis: RedisServer, account: str, spy: redis.asyncio.Redis, retention: int, kept: int
) -> None:
    """Else a quota of a month would be forgotten, and given again, after a day without calls."""
    meter = _meter(account)
    async with running_limiter(shared_redis.url, account, retention_days=retention) as limiter:
        limits = [_plan_throttle(meter, 10.0, 10), _quota(meter, 5, limiter.clock.now(), "MONTH")]
        assert await _admitted(limiter, limits, meter) == [True]
    assert (kept - 1) * DAY_MS < await spy.pttl(meter.ledger) <= kept * DAY_MS
    usage = UsageLedger(shared_redis.url, account=account, retention_days=retention)
    assert usage.kept_days == kept, "readers of usage rely on it"
    await usage.aclose()


async def test_a_forgotten_script_is_sent_again_with_the_same_batch(
    limiter: RedisLimiter, account: str, spy: redis.asyncio.Redis
) -> None:
    """No call fails, none is charged twice; the digest serves again afterwards."""
    limit = _bucket(account, 0.0, 10)
    assert await _admitted(limiter, [limit]) == [True]
    await spy.script_flush()
    assert (await limiter.admit(Charge([limit]))).states == (2,)
    assert await spy.script_exists(ADMIT.digest) == [True]
    assert (await limiter.admit(Charge([limit]))).states == (3,)


async def test_a_forgotten_flush_script_counts_once(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter, day = _meter(account), clock.now // DAY_US
    await spy.script_flush()
    await limiter.flush(Spent(meter, (), day, 2, 2))
    assert await spy.script_exists(FLUSH.digest) == [True]
    assert (await _usage(spy, meter))[2:] == (day, 2, -1)


async def test_the_first_call_of_a_day_writes_the_finished_days_row(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """Used, and what remained after its last event; the current day stays in the ledger."""
    meter, day = _meter(account), clock.now // DAY_US
    await _admitted(limiter, [_quota(meter, 5, clock.now, "MONTH")], meter, 3)
    assert await _history(spy, meter) == {}
    clock.advance(2 * 86_400)
    await _admitted(limiter, [_quota(meter, 5, clock.now, "MONTH")], meter)
    assert await _history(spy, meter) == {day: (3, 2)}
    assert (await _usage(spy, meter))[2:] == (day + 2, 1, 1)


async def test_rows_older_than_the_retention_are_deleted(
    shared_redis: RedisServer, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter, day = _meter(account), clock.now // DAY_US
    async with running_limiter(shared_redis.url, account, retention_days=2, clock=RedisClock(clock)) as limiter:
        for _ in range(5):
            await _admitted(limiter, [], meter)
            clock.advance(86_400)
    assert sorted(await _history(spy, meter)) == [day + 2, day + 3]


async def test_a_refused_call_is_not_counted(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter = _meter(account)
    assert await _admitted(limiter, [_quota(meter, 2, clock.now)], meter, 4) == [True, True, False, False]
    assert (await _usage(spy, meter))[2:] == (clock.now // DAY_US, 2, 0)


async def test_a_call_that_a_shadow_plan_would_refuse_is_counted(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter = _meter(account)
    assert all(await _admitted(limiter, [_quota(meter, 1, clock.now, shadow=True)], meter, 3))
    assert (await _usage(spy, meter))[1:] == (1, clock.now // DAY_US, 3, 0)


async def test_a_keyless_call_has_no_usage(limiter: RedisLimiter, account: str, spy: redis.asyncio.Redis) -> None:
    """All that is written is its bucket, and the worker's reply."""
    limit = _bucket(account, 1.0, 5)
    await _admitted(limiter, [limit])
    assert set(await spy.keys(f"{{{account}}}*")) == {
        limit.key.encode(),
        redis_key(account, "reply", limiter._sender._worker).encode(),
    }


async def test_a_day_only_moves_forward_but_for_a_wrong_clock(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """Over midnight and back is the same day; from a month ahead, the day is found again with what it had."""
    meter, day = _meter(account), clock.now // DAY_US
    for step in (0, 86_400, -86_400, 30 * 86_400, -30 * 86_400):
        clock.advance(step)
        await _admitted(limiter, [], meter)
    assert (await _usage(spy, meter))[2:] == (day, 2, -1)
    assert await _history(spy, meter) == {day + 1: (2, -1), day + 30: (1, -1)}


async def test_a_shadow_plan_with_room_is_charged_with_the_rest(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter = _meter(account)
    limits = [
        _plan_throttle(meter, 0.0, 5, shadow=True),
        _quota(meter, 5, clock.now, shadow=True),
        _bucket(account, 0.0, 5),
    ]
    tally = await limiter.admit(Charge(limits, meter))
    assert (tally.states, tally.refused_by, tally.shadowed_by) == ((1, 1, 1), None, None)


async def test_a_shadow_plan_without_room_is_reported_and_admits_without_a_charge(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    """None of its layers is charged, the ones with room neither; stage and account are, as for any call."""
    meter = _meter(account)
    limits = [
        _plan_throttle(meter, 0.0, 5, shadow=True),
        _quota(meter, 1, clock.now, shadow=True),
        _bucket(account, 0.0, 5),
    ]
    await limiter.admit(Charge(limits, meter))
    tally = await limiter.admit(Charge(limits, meter))
    assert (tally.states, tally.refused_by, tally.shadowed_by) == ((1, 1, 2), None, limits[1])


async def test_a_refusal_by_the_stage_charges_nothing_and_waits_for_the_stage_alone(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter = _meter(account)
    shadow, stage = _quota(meter, 1, clock.now, shadow=True), _bucket(account, 1.0, 1)
    await limiter.admit(Charge([shadow, stage], meter))
    tally = await limiter.admit(Charge([shadow, stage], meter))
    assert (tally.refused_by, tally.shadowed_by, tally.wait_us) == (stage, shadow, SECOND)
    assert tally.states[0] == 1


async def test_a_cancelled_caller_disturbs_no_other(limiter: RedisLimiter, account: str) -> None:
    """Cancelled before its batch is sent, or while it is under way: the others are answered, and so are the next."""
    limit = _bucket(account, 0.0, 100)
    for ticks in range(4):
        calls = [asyncio.ensure_future(limiter.admit(Charge([limit]))) for _ in range(3)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        calls[1].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[0], Tally)
        assert isinstance(outcomes[1], asyncio.CancelledError)
        assert isinstance(outcomes[2], Tally)
    assert await _admitted(limiter, [limit]) == [True]


async def test_a_caller_that_runs_out_of_time_fails_alone(limiter: RedisLimiter, account: str) -> None:
    limit = _bucket(account, 0.0, 100)
    expired = asyncio.get_running_loop().time() - 1
    first, late, last = await asyncio.gather(
        limiter.admit(Charge([limit])),
        limiter.admit(Charge([limit], deadline=expired)),
        limiter.admit(Charge([limit])),
        return_exceptions=True,
    )
    assert isinstance(late, LimiterUnavailable)
    assert isinstance(first, Tally)
    assert isinstance(last, Tally)
    assert await _admitted(limiter, [limit]) == [True]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(Quota(2**70, 0, YEARS_AWAY), id="a quota that the script could not read"),
        pytest.param(Throttle(1.0, 1, 1, 2**70), id="a number that the script could not read"),
    ],
)
async def test_an_entry_that_cannot_be_built_fails_alone(
    limiter: RedisLimiter, account: str, rule: Quota | Throttle
) -> None:
    good = _bucket(account, 0.0, 100)
    broken = Limit(Layer.PLAN_QUOTA, redis_key(account, "elsewhere"), rule)
    first, failed, last = await asyncio.gather(
        limiter.admit(Charge([good])),
        limiter.admit(Charge([broken], _meter(account))),
        limiter.admit(Charge([good])),
        return_exceptions=True,
    )
    assert isinstance(failed, ValueError)
    assert isinstance(first, Tally)
    assert isinstance(last, Tally)
    assert await _admitted(limiter, [good]) == [True]


def _spent(meter: Meter, amount: int, now: int, limit: int | None = None, unit: Any = "MONTH") -> Spent:
    quotas = (_quota(meter, limit, now, unit),) if limit else ()
    return Spent(meter, quotas, now // DAY_US, amount, amount)


async def test_a_flush_without_a_ledger_makes_one(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter = _meter(account)
    spent = _spent(meter, 3, clock.now, 10)
    await limiter.flush(spent)
    (quota,) = spent.quotas
    assert isinstance(quota.rule, Quota)
    assert await _usage(spy, meter) == (quota.rule.start, 3, spent.day, 3, 7)
    assert sum(await _admitted(limiter, [_quota(meter, 10, clock.now, "MONTH")], meter, 10)) == 7


async def test_a_flush_of_the_same_day_is_added_and_may_pass_the_limit(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """What remains is then 0, not less."""
    meter = _meter(account)
    quota = _quota(meter, 5, clock.now, "MONTH")
    await _admitted(limiter, [quota], meter, 4)
    await limiter.flush(_spent(meter, 3, clock.now, 5))
    assert (await _usage(spy, meter))[1:] == (7, clock.now // DAY_US, 7, 0)
    tally = await limiter.admit(Charge([quota], meter))
    assert tally.refused_by is quota
    assert remaining(quota.rule, tally.states[0]) == 0


async def test_an_older_ledger_is_rolled_forward_to_the_day_of_the_flush(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """The finished day gets its row, as by a call; a new period starts from nothing."""
    meter, day = _meter(account), clock.now // DAY_US
    await _admitted(limiter, [_quota(meter, 5, clock.now)], meter, 4)
    clock.advance(86_400)
    await limiter.flush(_spent(meter, 2, clock.now, 5, "DAY"))
    assert await _history(spy, meter) == {day: (4, 1)}
    assert (await _usage(spy, meter))[1:] == (2, day + 1, 2, 3)


async def test_the_oldest_day_is_flushed_first_so_that_each_day_gets_its_row(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter, day = _meter(account), clock.now // DAY_US
    for amount in (1, 2, 3):
        await limiter.flush(_spent(meter, amount, clock.now, 10))
        clock.advance(86_400)
    assert await _history(spy, meter) == {day: (1, 9), day + 1: (2, 7)}
    assert (await _usage(spy, meter))[1:] == (6, day + 2, 3, 4)


async def test_a_newer_ledger_keeps_its_day_and_the_flushs_own_row_gains(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """In the same period the used units grow as well, and what remains falls on both days."""
    meter, day, then = _meter(account), clock.now // DAY_US, clock.now
    await _admitted(limiter, [_quota(meter, 10, clock.now, "MONTH")], meter, 2)
    clock.advance(86_400)
    await _admitted(limiter, [_quota(meter, 10, clock.now, "MONTH")], meter, 1)
    await limiter.flush(_spent(meter, 4, then, 10))
    assert await _history(spy, meter) == {day: (6, 4)}
    assert (await _usage(spy, meter))[1:] == (7, day + 1, 1, 3)


async def test_a_newer_ledger_without_that_row_gets_one(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter, day, then = _meter(account), clock.now // DAY_US, clock.now
    clock.advance(86_400)
    await _admitted(limiter, [], meter, 1)
    await limiter.flush(_spent(meter, 4, then))
    assert await _history(spy, meter) == {day: (4, -1)}
    assert (await _usage(spy, meter))[2:] == (day + 1, 1, -1)


async def test_the_used_units_grow_only_in_the_flushs_own_period(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """Yesterday's calls are yesterday's usage, and cost today's quota nothing."""
    meter, day, then = _meter(account), clock.now // DAY_US, clock.now
    clock.advance(86_400)
    await _admitted(limiter, [_quota(meter, 5, clock.now)], meter, 1)
    await limiter.flush(_spent(meter, 3, then, 5, "DAY"))
    assert await _history(spy, meter) == {day: (3, 2)}
    assert (await _usage(spy, meter))[1:] == (1, day + 1, 1, 4)


async def test_a_repeated_number_is_not_counted_again(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """The highest number applied is kept for a day, per worker."""
    meter = _meter(account)
    assert await limiter.flush(_spent(meter, 3, clock.now, 10)) == [3]
    limiter._sender._flushed -= 1
    assert await limiter.flush(_spent(meter, 3, clock.now, 10)) == [3]
    limiter._sender._flushed -= 1
    assert await limiter.flush(_spent(meter, 3, clock.now, 10, "DAY")) == [None], "the ledger holds another period"
    assert (await _usage(spy, meter))[1] == 3
    assert 0 < await spy.pttl(redis_key(account, "flush", limiter._sender._worker)) <= DAY_MS


async def test_a_flush_keeps_the_ledgers_other_fields(limiter: RedisLimiter, account: str, clock: Clock) -> None:
    """The plan's bucket is as empty as before."""
    meter = _meter(account)
    bucket = _plan_throttle(meter, 1.0, 2)
    await _empty(limiter, bucket, meter)
    await limiter.flush(_spent(meter, 3, clock.now, 10))
    assert await _admitted(limiter, [bucket], meter) == [False]


@pytest.mark.parametrize("where", ["ledger", "history"])
async def test_a_flush_into_a_foreign_value_is_given_up_and_leaves_it_alone(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis, where: str
) -> None:
    """Kept, it would stand before all others for ever."""
    meter, other = _meter(account), _meter(account, "k2")
    await spy.rpush(getattr(meter, where), "x")
    await limiter.flush(_spent(meter, 3, clock.now, 10))
    await limiter.flush(_spent(other, 2, clock.now, 10))
    assert await spy.lrange(getattr(meter, where), 0, -1) == [b"x"]
    assert (await _usage(spy, other))[1] == 2


async def test_a_field_of_the_history_that_is_no_day_is_ignored(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """Its neighbours are decided, and the batch is written whole."""
    meter = _meter(account)
    await spy.hset(meter.history, "yesterday", b"x" * 16)
    tallies = await asyncio.gather(limiter.admit(Charge([], meter)), limiter.admit(Charge([], _meter(account, "k2"))))
    assert [tally.refused_by for tally in tallies] == [None, None]
    assert await spy.hget(meter.history, "yesterday") == b"x" * 16


async def test_a_flush_into_a_foreign_row_writes_nothing(
    limiter: RedisLimiter, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    meter = _meter(account)
    await spy.hset(meter.history, str(clock.now // DAY_US), b"short")
    assert await limiter.flush(_spent(meter, 3, clock.now, 10)) == []
    assert await spy.exists(meter.ledger) == 0


async def test_a_flush_reports_the_rest_of_the_quota_and_never_a_negative_one(
    limiter: RedisLimiter, account: str, clock: Clock
) -> None:
    meter = _meter(account)
    assert await limiter.flush(_spent(meter, 3, clock.now, 10)) == [3]
    assert await limiter.flush(_spent(meter, 9, clock.now, 10)) == [12]
    assert await limiter.flush(_spent(meter, 1, clock.now)) == []


async def test_a_cancelled_probe_ends_at_any_step(limiter: RedisLimiter) -> None:
    """One that swallowed its cancellation would probe for ever, and hold up the exit of the process."""

    async def for_ever() -> None:
        while True:
            await limiter.probe()

    for ticks in range(60):
        probing = asyncio.create_task(for_ever())
        for _ in range(ticks):
            await asyncio.sleep(0)
        probing.cancel()
        done, _ = await asyncio.wait({probing}, timeout=5.0)
        assert done, f"it goes on after a cancellation at tick {ticks}"

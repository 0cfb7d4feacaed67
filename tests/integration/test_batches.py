"""Callers that wait at the same time: who shares a batch, and that one caller's failure is never another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from authz.check import LimiterUnavailable, Overloaded
from authz.core.limits import Charge, Kept, Layer, Limit, Meter, Throttle, redis_key, throttle
from authz.core.verdict import Tally
from authz.limiter.batching import MAX_BATCH, Pace, Waiter
from authz.limiter.clock import RedisClock
from authz.limiter.encoding import Batch, encoded_batch
from authz.limiter.holds import Holds
from authz.limiter.limiter import RedisLimiter, Report, Unobserved
from tests.support.proxy import Proxy
from tests.support.servers import DEADLINE_SECONDS

PATIENT = 20.0  # seconds that no caller ever waits here, unless something is lost
AGES = 3600.0


@dataclass
class Asked:
    """A limiter, what it has sent, and whatever the one who looks on does."""

    limiter: RedisLimiter
    running: asyncio.Task[None]
    sizes: list[int] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    watch: Callable[..., None] = lambda *_: None

    def bucket(self, burst: int = 1000) -> Limit:
        """A bucket that never refills: its state counts the charges."""
        rule = throttle(0.0, burst)
        assert rule is not None
        return Limit(Layer.ACCOUNT_THROTTLE, redis_key(self.limiter._account, "bucket"), rule)

    def expect_company(self) -> None:
        """Let the next callers form a batch, as callers do that came together before; a lone one is sent at once."""
        self.limiter._pace.crowd = float(Pace.FEW)

    def call(self, limit: Limit | None = None, **options: Any) -> asyncio.Task[Tally]:
        return asyncio.create_task(self.limiter.admit(Charge([limit or self.bucket()], **options)))

    async def is_well(self) -> None:
        """It goes on to answer everybody."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            tallies = await asyncio.gather(*(self.call() for _ in range(3)))
        assert [tally.refused_by for tally in tallies] == [None] * 3
        assert not self.running.done()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110  (of things without an event)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asked]:
    sizes: list[int] = []
    errors: list[Exception] = []

    class Recorder(Unobserved):
        """Records sizes and errors, and then does whatever the test wants."""

        def on_states(self, reports: Sequence[Report]) -> None:
            found.watch("on_states", reports)

        def on_batch(self, size: int, seconds: float) -> None:
            sizes.append(size)
            found.watch("on_batch")

        def on_failure(self, error: Exception) -> None:
            errors.append(error)
            found.watch("on_failure")

    limiter = RedisLimiter(url, account=uuid4().hex, budget=PATIENT, observer=Recorder())
    found = Asked(limiter, asyncio.create_task(limiter.run()), sizes, errors)
    assert await limiter.probe()
    yield found
    found.running.cancel()
    with suppress(asyncio.CancelledError, RuntimeError):
        await found.running
    await limiter.aclose()


@pytest.fixture
async def asked(between: Proxy) -> AsyncIterator[Asked]:
    async with asking(between.url) as asked:
        yield asked


async def held(between: Proxy, asked: Asked, limit: Limit | None = None, **options: Any) -> asyncio.Task[Tally]:
    """A caller whose batch is under way until the proxy is open again."""
    between.open.clear()
    before = between.batches
    call = asked.call(limit, **options)
    await eventually(lambda: between.batches > before)
    return call


# --- who shares a batch -------------------------------------------------------------------------------------------


async def test_who_comes_while_a_batch_is_under_way_shares_the_next_in_order(asked: Asked, between: Proxy) -> None:
    limit = asked.bucket(3)
    first = await held(between, asked, limit)
    others = [asked.call(limit) for _ in range(4)]
    await eventually(lambda: len(asked.limiter._queue) == 4)
    between.open.set()
    tallies = await asyncio.gather(first, *others)
    assert [tally.states for tally in tallies] == [(1,), (2,), (3,), (3,), (3,)]
    assert [tally.refused_by for tally in tallies] == [None, None, None, limit, limit]
    assert asked.sizes == [1, 4]


async def test_a_batch_is_bounded(asked: Asked, between: Proxy) -> None:
    first = await held(between, asked)
    others = [asked.call() for _ in range(MAX_BATCH + 10)]
    await eventually(lambda: len(asked.limiter._queue) == MAX_BATCH + 10)
    between.open.set()
    await asyncio.gather(first, *others)
    assert asked.sizes[:2] == [1, MAX_BATCH]
    assert sum(asked.sizes) == MAX_BATCH + 11


async def test_the_queue_is_bounded(asked: Asked, between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that finds it full gets Overloaded; those in it are answered."""
    monkeypatch.setattr("authz.limiter.limiter.MAX_WAITING", 2)
    first = await held(between, asked)
    others = [asked.call() for _ in range(3)]
    await eventually(lambda: others[2].done())
    between.open.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Tally, Tally, Tally, Overloaded]


async def test_a_lone_caller_is_never_let_wait_for_company(asked: Asked) -> None:
    """However long a crowd would be waited for."""
    asked.limiter._linger = AGES
    for _ in range(5):
        assert (await asyncio.wait_for(asked.call(), DEADLINE_SECONDS)).refused_by is None
    assert asked.sizes == [1] * 5


async def test_a_crowd_is_gathered_as_far_as_it_was_about_lately(asked: Asked) -> None:
    asked.limiter._linger, asked.limiter._pace.crowd = AGES, 8.0
    calls = []
    for _ in range(6):
        await asyncio.sleep(0)
        assert asked.sizes == []
        calls.append(asked.call())
    await asyncio.wait_for(asyncio.gather(*calls), DEADLINE_SECONDS)
    assert asked.sizes == [6]


async def test_a_crowd_that_does_not_come_is_not_waited_for_long(asked: Asked) -> None:
    asked.limiter._pace.crowd = 1000.0
    assert (await asyncio.wait_for(asked.call(), DEADLINE_SECONDS)).refused_by is None


def _said(*asked: tuple[list[Limit], Meter | None]) -> tuple[list[str], Any]:
    """A batch in the script's words: KEYS, and the values of the argument from `ledgers` on."""
    loop = asyncio.get_running_loop()
    waiters = [Waiter(Charge(limits, meter), 0.0, loop.create_future()) for limits, meter in asked]
    return _in_words(encoded_batch("a", 400, waiters))


def _in_words(batch: Batch) -> tuple[list[str], Any]:
    return batch.keys, msgspec.msgpack.decode(b"\x99" + batch.packed)


async def test_a_key_and_a_rule_that_two_requests_share_are_sent_once() -> None:
    rule, own = throttle(1.0, 5), throttle(2.0, 5)
    assert rule
    assert own
    meters = [Meter(f"l{name}", f"h{name}") for name in "ab"]
    shared = Limit(Layer.ACCOUNT_THROTTLE, "shared", rule)
    asks = [([Limit(Layer.PLAN_THROTTLE, meter.ledger, own), shared], meter) for meter in meters]
    keys, (ledgers, owned, _, rules, requests, onces, *_) = _said(asks[0], asks[1], asks[0], ([shared], None))
    assert keys == ["la", "ha", "lb", "hb", "shared"]
    assert (ledgers, owned) == (2, 1)
    assert rules == [[0, own.n, own.m, 5], [0, rule.n, rule.m, 5]]
    assert requests == [[1, 1, 1, -1, 2], [2, 2, 1, -1, 2], [1, 1, 1, -1, 2], [0, -1, 2]]
    assert onces == []


async def test_a_lone_callers_batch_is_kept_and_says_what_a_new_one_would() -> None:
    loop, limits, meter = asyncio.get_running_loop(), (Limit(Layer.ACCOUNT_THROTTLE, "own", _rule()),), Meter("l", "h")
    kept = Kept()
    first, second = (
        encoded_batch("a", 400, [Waiter(Charge(limits, meter, kept=kept), 0.0, loop.create_future())]) for _ in range(2)
    )
    assert second.keys is first.keys
    assert second.waiters is not first.waiters
    assert _in_words(second) == _said((list(limits), meter))


@pytest.mark.parametrize(
    ("charges", "holds"),
    [
        ([Charge((), Meter("l", "h"), cost=7)], None),
        ([Charge((), Meter("l", "h"), once="named")], None),
        ([Charge((), Meter("l", "h")), Charge((), Meter("l2", "h2"))], None),
        ([Charge((), Meter("l", "h"))], Holds(100_000, RedisClock())),
    ],
    ids=["a cost", "a name", "two calls", "holds"],
)
async def test_a_batch_that_may_differ_from_the_next_is_not_kept(charges: list[Charge], holds: Holds | None) -> None:
    loop, kept = asyncio.get_running_loop(), Kept((["another"], b"\x00"))
    waiters = [Waiter(replace(charge, kept=kept), 0.0, loop.create_future()) for charge in charges]
    batch = encoded_batch("a", 400, waiters, holds)
    assert batch.keys[:2] == ["l", "h"]
    assert kept.alone == (["another"], b"\x00")


async def test_a_call_that_cannot_be_encoded_is_not_kept() -> None:
    kept = Kept()
    charge = Charge((Limit(Layer.ACCOUNT_THROTTLE, "k", Throttle(1.0, 5, 2**60, 1)),), kept=kept)
    waiter = Waiter(charge, 0.0, asyncio.get_running_loop().create_future())
    assert not encoded_batch("a", 400, [waiter]).waiters
    assert kept.alone is None
    with pytest.raises(ValueError, match="not exact"):
        await waiter.tally


def _rule() -> Throttle:
    rule = throttle(2.0, 5)
    assert rule
    return rule


# --- one caller's fate --------------------------------------------------------------------------------------------


async def test_a_caller_cancelled_while_it_waits_is_left_out(asked: Asked, between: Proxy) -> None:
    """It is not charged either."""
    first = await held(between, asked)
    calls = [asked.call() for _ in range(3)]
    await eventually(lambda: len(asked.limiter._queue) == 3)
    calls[1].cancel()
    between.open.set()
    outcomes = await asyncio.gather(first, *calls, return_exceptions=True)
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert [outcome.states for outcome in outcomes if isinstance(outcome, Tally)] == [(1,), (2,), (3,)]
    await asked.is_well()


async def test_a_caller_cancelled_while_its_batch_is_in_flight_disturbs_no_other(asked: Asked, between: Proxy) -> None:
    between.open.clear()
    calls = [asked.call() for _ in range(3)]
    await eventually(lambda: between.batches == 1)
    calls[0].cancel()
    between.open.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, Tally, Tally]
    await asked.is_well()


async def test_a_lone_caller_that_leaves_while_it_is_under_way_disturbs_no_other(asked: Asked, between: Proxy) -> None:
    """Its call is charged, and the connection stays."""
    limit = asked.bucket()
    first = await held(between, asked, limit)
    others = [asked.call(limit) for _ in range(2)]
    await eventually(lambda: len(asked.limiter._queue) == 2)
    first.cancel()
    between.open.set()
    assert [tally.states for tally in await asyncio.gather(*others)] == [(2,), (3,)]
    assert first.cancelled()
    assert len(between.carried) == 1
    await asked.is_well()


async def test_lone_callers_that_leave_one_after_the_other_send_few_batches(asked: Asked, between: Proxy) -> None:
    """The second goes the way of a crowd, whose batches wait for each other."""
    left = await held(between, asked)
    for _ in range(20):
        left.cancel()
        left = asked.call()
        await asyncio.sleep(0.01)
    between.open.set()
    await left
    assert between.batches <= 3
    await asked.is_well()


async def test_callers_cancelled_during_their_result_disturb_no_other(asked: Asked, between: Proxy) -> None:
    """The first has its result already, the others have none yet."""
    calls = [asked.call() for _ in range(3)]

    def watch(*_: Any) -> None:
        for call in calls[:2]:
            call.cancel()

    asked.watch = watch
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, asyncio.CancelledError, Tally]
    await asked.is_well()


@pytest.mark.parametrize("waits", [False, True], ids=["under way", "waiting"])
async def test_a_caller_whose_time_runs_out_fails_alone(asked: Asked, between: Proxy, waits: bool) -> None:
    """The others of its batch, and of its queue, are answered when the answer comes."""
    soon = asyncio.get_running_loop().time() + 0.05
    between.open.clear()
    calls = [asked.call(), asked.call(deadline=soon), asked.call()]
    if waits:
        await eventually(lambda: between.batches == 1)
        calls += [asked.call(), asked.call(deadline=soon), asked.call()]
    hurried = calls[1::3]
    await eventually(lambda: all(call.done() for call in hurried))
    assert [type(call.exception()) for call in hurried] == [LimiterUnavailable] * len(hurried)
    assert sum(call.done() for call in calls) == len(hurried)
    between.open.set()
    rest = [call for call in calls if call not in hurried]
    assert {type(outcome) for outcome in await asyncio.gather(*rest, return_exceptions=True)} == {Tally}
    await asked.is_well()


def _note(ended: list[int], at: int, _call: asyncio.Task[Tally]) -> None:
    ended.append(at)


async def test_each_caller_has_its_own_time(asked: Asked, between: Proxy) -> None:
    """One timer for all: it goes off for the next deadline, in any order of arrival."""
    start = asyncio.get_running_loop().time()
    first = await held(between, asked)
    calls = [asked.call(deadline=start + after) for after in (0.3, 0.1, 0.2)]
    ended: list[int] = []
    for at, call in enumerate(calls):
        call.add_done_callback(partial(_note, ended, at))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LimiterUnavailable}
    assert ended == [1, 2, 0]
    between.open.set()
    await first
    await asked.is_well()


async def test_a_caller_that_arrives_too_late_is_not_sent(asked: Asked, between: Proxy) -> None:
    with pytest.raises(LimiterUnavailable):
        await asked.limiter.admit(Charge([asked.bucket()], deadline=asyncio.get_running_loop().time()))
    assert between.batches == 0


async def test_entries_that_cannot_be_built_leave_their_batch(asked: Asked) -> None:
    """Before, between and behind good ones; none of theirs is charged."""
    limit = asked.bucket()
    broken: Any = msgspec.structs.replace(limit, rule=None)
    calls = [asked.call(one) for one in (broken, limit, broken, limit, broken)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, Tally) for outcome in outcomes] == [False, True, False, True, False]
    assert [outcome.states for outcome in outcomes if isinstance(outcome, Tally)] == [(1,), (2,)]
    await asked.is_well()


@pytest.mark.parametrize("who", ["on_states", "on_batch"])
async def test_an_observer_that_fails_fails_no_caller(asked: Asked, who: str) -> None:
    def watch(name: str, *_: Any) -> None:
        if name == who:
            raise RuntimeError("no more memory, or whatever")

    asked.watch = watch
    tallies = await asyncio.gather(*(asked.call() for _ in range(3)))
    assert [tally.states for tally in tallies] == [(1,), (2,), (3,)]
    await asked.is_well()


def _reply(*results: Any, status: str = "ok") -> bytes:
    """What Redis would send if it answered so."""
    return _bulk(msgspec.msgpack.encode((status, 1, results)))


def _bulk(raw: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_reply(), id="no results"),
        pytest.param(_reply([0, 0, 0, 0, 1]), id="too few results"),
        pytest.param(_reply(*[[0, 0, 0, 0, 1]] * 4), id="too many results"),
        pytest.param(_reply(*[[]] * 3), id="results of nothing"),
        pytest.param(_reply(*[[0, 0]] * 3), id="results that are too short"),
        pytest.param(_reply(*[[1, 9, 5, 0, 1]] * 3), id="refused by a limit that was not sent"),
        pytest.param(_reply(*[["x", 0, 0, 0]] * 3), id="results of text"),
        pytest.param(_reply(status="what"), id="an unknown status"),
        pytest.param(_bulk(b"\xc1"), id="bytes that say nothing"),
        pytest.param(b"$-1\r\n", id="nothing"),
        pytest.param(b":1\r\n", id="a number"),
        pytest.param(b"-ERR what\r\n", id="an error"),
    ],
)
async def test_a_malformed_reply_fails_its_callers_and_the_loop_goes_on(
    asked: Asked, between: Proxy, answer: bytes
) -> None:
    asked.expect_company()
    between.answer = answer
    outcomes = await asyncio.gather(*(asked.call() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LimiterUnavailable] * 3
    between.answer = b""
    await asked.is_well()


@pytest.mark.parametrize("result", [[0, 0], [4], [4, 9, 1000, 0, 1]], ids=["short", "of a wait", "of no limit"])
async def test_a_malformed_result_fails_one_caller(asked: Asked, between: Proxy, result: list[int]) -> None:
    asked.expect_company()
    between.answer = _reply([0, 0, 0, 0, 1], result, [0, 0, 0, 0, 2])
    outcomes = await asyncio.gather(*(asked.call() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Tally, LimiterUnavailable, Tally]
    between.answer = b""
    await asked.is_well()


async def test_an_observer_of_failures_that_fails_does_not_end_the_loop(asked: Asked, between: Proxy) -> None:
    def watch(name: str, *_: Any) -> None:
        if name == "on_failure":
            raise RuntimeError("what now")

    asked.watch, between.answer = watch, b"-ERR what\r\n"
    asked.expect_company()
    outcomes = await asyncio.gather(*(asked.call() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LimiterUnavailable] * 3
    assert len(asked.errors) == 1
    asked.watch, between.answer = lambda *_: None, b""
    await asked.is_well()


async def test_a_loop_that_ends_is_not_silent(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task fails, which stops the process; and no caller waits for a timeout meanwhile."""

    def take(_queue: Any) -> list[Waiter]:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("authz.limiter.batching.Queue.take", take)
    asked.expect_company()
    with pytest.raises(LimiterUnavailable, match="the limiter has stopped"):
        await asyncio.wait_for(asked.call(), PATIENT / 2)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await asked.running


# --- batches of unknown fate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
async def test_a_batch_whose_reply_is_cut_is_charged_once(asked: Asked, between: Proxy, size: int) -> None:
    """Sent again under its number it is given the same reply; the next batch goes on from there."""
    if size > 1:
        asked.expect_company()
    between.cuts = 1
    tallies = await asyncio.gather(*(asked.call() for _ in range(size)))
    assert [tally.states for tally in tallies] == [(at + 1,) for at in range(size)]
    assert (between.cuts, between.batches) == (0, 2)
    assert (await asked.call()).states == (size + 1,)


async def test_a_batch_that_is_late_by_our_clock_is_charged_once_under_a_new_number(asked: Asked) -> None:
    """The first sending was past its deadline, and its reply has the time."""
    asked.limiter.clock.learn(asked.limiter.clock.now() - 3_600_000_000)
    before = asked.limiter._sender._sequence
    assert (await asked.call()).states == (1,)
    assert asked.limiter._sender._sequence == before + 2


async def test_an_abandoned_batch_is_charged_at_most_once(asked: Asked, between: Proxy) -> None:
    """Both replies are lost: its callers get an error, and Redis has charged it once."""
    asked.expect_company()
    between.cuts = 2
    outcomes = await asyncio.gather(asked.call(), asked.call(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LimiterUnavailable] * 2
    assert (await asked.call()).states == (3,)

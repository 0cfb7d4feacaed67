"""The limits, asked in Redis: callers that wait at the same time share one run of `lua/admit.lua`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from authz.check import LimiterUnavailable, Overloaded
from authz.core.limits import Limit, Meter, redis_key
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.verdict import Tally
from authz.limiter.batching import LINGER_SECONDS, Batch, Call, Encoder, Pace, Queue
from authz.limiter.local import Spent
from authz.limiter.refusals import CALLERS, Refusals
from authz.redisio.client import Script, connect, evaluate, hang_up, master_changes
from authz.redisio.url import in_words

log = structlog.get_logger(__name__)

FIRST_SENDING = 0.75  # of what is left of the budget; the rest is for sending a batch of unknown fate again
FAIR_SHARE = 0.5  # a batch with less than this of the budget left says nothing about Redis by coming too late
LINGER_SHARE = 0.1  # of the budget at most is waited for company
PROBE_SECONDS = 1.0
MAX_WAITING = 10_000
STEP_US, DRIFT = 2_000, 1_000  # how far, and by one in how many µs, two clocks may part before one has stepped
STALE, BAD_STATE = 2, 3

Results = list[list[int]]
_Reply = tuple[str, int, Results]  # status, now, results: admit.lua
REPLY = msgspec.msgpack.Decoder(_Reply)
PACK = msgspec.msgpack.Encoder().encode
_reply_key = lru_cache(16)(redis_key)  # the same for each batch

ADMIT = Script.load("admit.lua")
FLUSH = Script.load("flush.lua")


@dataclass(slots=True)
class RedisClock:
    """Redis's time (µs), learnt from each reply; the host's own until the first. Steps of the host do not show."""

    pinned: Callable[[], int] | None = None
    _offset: int = field(default_factory=lambda: time.time_ns() // 1000 - time.monotonic_ns() // 1000)
    _ahead: tuple[int, int] | None = None  # Redis's clock is between so much and so much ahead of our ticks
    _learnt: int = 0

    def now(self) -> int:
        return self.pinned() if self.pinned else time.monotonic_ns() // 1000 + self._offset

    def ticks(self) -> int:
        """A time (µs) that steps only where a test says so."""
        return self.pinned() if self.pinned else time.monotonic_ns() // 1000

    def learn(self, told: int, asked: int | None = None) -> bool:
        """Whether Redis's clock has stepped since the last reply, as far as a reply to what was `asked` then shows."""
        ticks = self.ticks()
        before, ahead = self._ahead, (told - ticks, told - (ticks if asked is None else asked))
        slack = STEP_US + (ticks - self._learnt) // DRIFT
        self._offset = told - time.monotonic_ns() // 1000
        self._ahead, self._learnt = ahead, ticks
        return before is not None and not (before[0] - slack <= ahead[1] and ahead[0] <= before[1] + slack)


class RedisLimiter:
    """Asks Redis; one batch in flight, what arrives meanwhile is the next one.

    `budget` is the longest that a caller waits, in seconds. `observe` is told each reply's limits and states, `sent`
    the size and the seconds of each batch, `failed` what went wrong with one. Refusals of `remembered` callers are
    remembered; `recalled` counts the calls that were refused so.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 0.05,
        retention_days: int = 400,
        clock: RedisClock | None = None,
        remembered: int = CALLERS,
        observe: Callable[[Sequence[Limit], Sequence[int]], None] = lambda _limits, _states: None,
        sent: Callable[[int, float], None] = lambda _size, _seconds: None,
        failed: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.clock = clock or RedisClock()
        self.recalled = 0
        self._available = True
        self._refusals = Refusals(remembered)
        self._redis = connect(url, max(PROBE_SECONDS, budget), self.forget)
        self._budget = budget
        self._linger = min(LINGER_SECONDS, budget * LINGER_SHARE)
        self._retention_days = retention_days
        self._account = account
        self._worker = os.urandom(8).hex()
        self._sequence = 0
        self._flushed = 0
        self._pace = Pace()
        self._queue = Queue()
        self._sending = asyncio.Lock()
        self._observe = observe
        self._sent = sent
        self._failed = failed

    @property
    def available(self) -> bool:
        """Whether Redis is asked at all. What it said before it was left alone is forgotten."""
        return self._available

    @available.setter
    def available(self, available: bool) -> None:
        self._available = available
        if not available:
            self.forget()

    @property
    def master_changes(self) -> int:
        """How often another server has taken over from the master."""
        return master_changes(self._redis)

    def forget(self, ledgers: Iterable[str] | None = None) -> None:
        """No refusal of these callers is remembered any more; None for all. Call it when a limit or usage changed."""
        self._refusals.forget(ledgers)

    async def admit(
        self, limits: Sequence[Limit], meter: Meter | None = None, *, deadline: float | None = None, once: str = ""
    ) -> Tally:
        """A unit from each limit or from none. Raises LimiterUnavailable.

        What has a name may have been admitted before, by another worker too: it is never refused from memory.
        """
        if not limits and not meter:
            return Tally(self.clock.now())
        if not self._available:
            raise LimiterUnavailable("Redis is left alone until it answers a probe")
        if self._refusals and not once and (refusal := self._recall(limits, meter)):
            return refusal
        if len(self._queue) >= MAX_WAITING:
            raise Overloaded("too many callers are waiting")
        now = time.monotonic()  # the loop's own clock, but uvloop's `time()` hands the interpreter to another thread
        expires = now + self._budget
        if deadline is not None and deadline < expires:
            expires = deadline
            if expires <= now:
                raise LimiterUnavailable("no time is left to ask")
        answer: asyncio.Future[Tally] = asyncio.get_running_loop().create_future()
        self._queue.put(Call(limits, meter, once, expires, answer))
        return await answer

    async def run(self) -> None:
        """Send batches until cancelled. Whatever ends it, nobody is left waiting."""
        try:
            while True:
                await self._queue.filled(1)
                await self._queue.filled(self._pace.enough(), self._pace.linger(self._linger))
                await self._serve(self._queue.take())
        finally:
            self._queue.fail("nobody asks Redis any more")

    async def probe(self) -> bool:
        """Whether Redis decides: an empty batch, by the same way as a full one, learns the clock besides."""
        nobody = self._batch([])
        try:
            # The first may have to connect, which no caller pays for; the second has to keep to a caller's budget.
            await self._decide(nobody, time.monotonic() + max(PROBE_SECONDS, self._budget))
            await self._decide(nobody, self._expiry())
        except Exception as error:  # whatever a broken Redis does to us, we ask again
            self._failed(error)
            await self._hang_up()  # after a failover its name may stand for another server
            return False
        return True

    async def peek(self, limits: Sequence[Limit], meter: Meter | None) -> Tally:
        """The tally that `admit` would give now, spending nothing. Raises LimiterUnavailable."""
        loop = asyncio.get_running_loop()
        call = Call(limits, meter, "", self._expiry(), loop.create_future())
        batch = self._batch([call])
        if not batch.calls:
            return await call.answer
        try:
            async with asyncio.timeout_at(call.expires):
                _, now, results = await self._ask(batch, self._blob(batch, 0, dry=True))
        except (RedisError, OSError, TimeoutError) as error:
            raise LimiterUnavailable(f"Redis cannot be asked: {in_words(error)}") from error
        return _tally(limits, now, results[0])

    async def flush(self, spent: Spent) -> int | None:
        """Count what was admitted without Redis; sent again after an error, it is counted once.

        Returns what Redis then has left of the quota, if it tells. Raises LimiterUnavailable.
        """
        quota = (spent.quota.limit, spent.quota.start, spent.quota.end) if spent.quota else (-1, 0, 0)
        blob = (self._flushed + 1, spent.amount, spent.day, *quota, self._retention_days)
        keys = [redis_key(self._account, "flush", self._worker), spent.meter.ledger, spent.meter.history]
        try:
            async with self._sending, asyncio.timeout(self._budget):
                reply = await evaluate(self._redis, FLUSH, keys, msgspec.msgpack.encode(blob))
        except Exception as error:  # what cannot be counted now is kept, whatever the reason
            await self._hang_up()
            raise LimiterUnavailable(in_words(error)) from error
        status, left = msgspec.msgpack.decode(reply, type=tuple[str, int])
        if status == "bad state":
            log.error("bad state in Redis; the value is left alone", keys=keys[1:], lost=spent.amount)
        self._flushed += 1
        return None if left < 0 else left

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _expiry(self) -> float:
        return time.monotonic() + self._budget

    def _reply_key(self) -> str:
        return _reply_key(self._account, "reply", self._worker)

    def _batch(self, calls: Sequence[Call]) -> Batch:
        return Encoder(self._account).batch(calls)

    def _recall(self, limits: Sequence[Limit], meter: Meter | None) -> Tally | None:
        refusal = self._refusals.recall(limits, meter, self.clock.ticks(), self.clock.now())
        if refusal:
            self.recalled += 1
        return refusal

    def _unrefused(self, calls: Sequence[Call]) -> list[Call]:
        """Those that have to be asked for; of the others a refusal came to be known while they waited."""
        if not self._refusals:
            return list(calls)
        asked = []
        for call in calls:
            if not call.once and (refusal := self._recall(call.limits, call.meter)):
                call.settle(refusal)
            else:
                asked.append(call)
        return asked

    async def _serve(self, calls: Sequence[Call]) -> None:
        """Decide a batch and tell each of its callers. Those who still waited when Redis was left alone hear so."""
        if not self._available:
            for call in calls:
                call.settle(LimiterUnavailable("Redis is left alone until it answers a probe"))
            return
        batch = self._batch(self._unrefused(calls))
        if batch.calls:
            await self._answer(batch)

    async def _answer(self, batch: Batch) -> None:
        expires = max(call.expires for call in batch.calls)
        given = expires - time.monotonic()
        asked, age = self.clock.ticks(), self._refusals.age
        try:
            now, results = await self._timed(batch, expires)
        except Exception as error:  # the loop must outlive whatever one batch does to it
            if not isinstance(error, TimeoutError) or given > self._budget * FAIR_SHARE:
                _tell(self._failed, error)
            _fail(batch.calls, error)
            return
        self._pace.learn(len(batch.calls), len(self._queue))
        self._pace.spent(time.monotonic(), time.process_time())
        for call, result in zip(batch.calls, results, strict=True):
            tally = self._settle(call, now, result)
            if tally and tally.refused_by and age == self._refusals.age:
                self._refusals.remember(call.limits, call.meter, tally, asked)

    async def _timed(self, batch: Batch, expires: float) -> tuple[int, Results]:
        started = time.perf_counter()
        now, results = await self._decide(batch, expires)
        if len(results) != len(batch.calls):
            raise LimiterUnavailable(f"{len(results)} results for {len(batch.calls)} requests")
        _tell(self._sent, len(results), time.perf_counter() - started)
        return now, results

    def _settle(self, call: Call, now: int, result: list[int]) -> Tally | None:
        """Tell a caller what Redis said; what cannot be told is this caller's loss, and nobody else's."""
        if result and result[0] == BAD_STATE:
            keys = [*({call.meter.ledger} if call.meter else ()), *(limit.key for limit in call.limits)]
            log.error("bad state in Redis; the value is left alone", keys=sorted(set(keys)))
            call.settle(LimiterUnavailable("bad state in Redis"))
            return None
        try:
            tally = _tally(call.limits, now, result)
        except (ValueError, IndexError) as error:
            _fail([call], error)
            return None
        call.settle(tally)
        if tally.states:
            _tell(self._observe, call.limits, tally.states)
        return tally

    async def _decide(self, batch: Batch, expires: float) -> tuple[int, Results]:
        """Run the script; a batch that came too late by a clock that was off goes once more under a new number."""
        async with self._sending:
            for _ in range(2):
                self._sequence += 1
                asked = self.clock.ticks()
                status, now, results = await self._send_until_known(batch, expires)
                if self.clock.learn(now, asked):
                    self.forget()
                if status == "ok":
                    return now, results
        raise LimiterUnavailable(f"the batch was answered {status}")

    async def _send_until_known(self, batch: Batch, expires: float) -> _Reply:
        """A batch of unknown fate is sent once more under its own number, so it is charged once at most."""
        blob, now = self._blob(batch, expires), time.monotonic()
        try:
            async with asyncio.timeout_at(now + (expires - now) * FIRST_SENDING):
                return await self._ask(batch, blob)
        except ResponseError:
            raise
        except (RedisError, OSError, TimeoutError):
            await self._hang_up()
        try:
            async with asyncio.timeout_at(expires):
                return await self._ask(batch, blob)
        except (RedisError, OSError, TimeoutError):
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        """What the server said is forgotten too: the next one may have been restored from some time ago."""
        self.forget()
        await hang_up(self._redis)

    def _blob(self, batch: Batch, expires: float, *, dry: bool = False) -> bytes:
        """The script's argument. The deadline is told in Redis's time."""
        left = expires - time.monotonic() if expires else 0
        deadline = self.clock.now() + int(left * 1_000_000) if expires else 0
        pinned = self.clock.pinned() if self.clock.pinned else 0
        numbers = (self._sequence, deadline, pinned, int(dry), batch.callers, batch.buckets, self._retention_days)
        return PACK((*numbers, batch.rules, batch.requests, batch.onces))

    async def _ask(self, batch: Batch, blob: bytes) -> _Reply:
        reply: _Reply = REPLY.decode(await evaluate(self._redis, ADMIT, [self._reply_key(), *batch.keys], blob))
        return reply


def _fail(calls: Iterable[Call], error: Exception) -> None:
    """An exception each: one that is raised in two places would collect both their traces."""
    for call in calls:
        call.settle(LimiterUnavailable(in_words(error)))


def _tell(observer: Callable[..., None], *what: Any) -> None:
    """Whoever looks on must not disturb what he looks at."""
    try:
        observer(*what)
    except Exception:  # of whatever kind
        log.exception("an observer failed")


def _tally(limits: Sequence[Limit], now: int, result: list[int]) -> Tally:
    code, refused, wait, shadowed, *states = result
    return Tally(
        now,
        tuple(states),
        limits[refused - 1] if refused else None,
        None if wait < 0 else wait,
        limits[shadowed - 1] if shadowed else None,
        code == STALE,
    )

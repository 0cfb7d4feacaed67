"""The limits, asked in Redis: callers that wait at the same time share one run of `lua/admit.lua`."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from authz.check import LimiterUnavailable, Overloaded
from authz.core.limits import EXACT, Limit, Meter, Quota, Throttle, redis_key
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.verdict import Tally
from authz.fallback import Spent
from authz.scripts import Script, connect, evaluate

log = structlog.get_logger(__name__)

FIRST_SENDING = 0.75  # of what is left of the budget; the rest is for sending a batch of unknown fate again
FAIR_SHARE = 0.5  # a batch with less than this of the budget left says nothing about Redis by coming too late
PROBE_SECONDS = 1.0
MAX_BATCH = 64
MAX_WAITING = 10_000
ADMITTED, REFUSED, STALE, BAD_STATE = range(4)

Results = list[list[int]]
_Reply = tuple[str, int, Results]  # status, now, results: admit.lua
REPLY = msgspec.msgpack.Decoder(_Reply)


ADMIT = Script.load("admit.lua")
FLUSH = Script.load("flush.lua")


@dataclass(slots=True)
class RedisClock:
    """Redis's time (µs), learnt from each reply; the host's own until the first. Steps of the host do not show."""

    pinned: Callable[[], int] | None = None
    _offset: int = field(default_factory=lambda: time.time_ns() // 1000 - time.monotonic_ns() // 1000)

    def now(self) -> int:
        return self.pinned() if self.pinned else time.monotonic_ns() // 1000 + self._offset

    def learn(self, told: int) -> None:
        self._offset = told - time.monotonic_ns() // 1000


@dataclass(slots=True, eq=False)
class _Entry:
    """One waiting caller, its limits put into the script's words already: one that cannot be built fails alone.

    `expires` is in the event loop's time.
    """

    limits: Sequence[Limit]
    meter: Meter | None
    expires: float
    answer: asyncio.Future[Tally]
    wire: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        ledger = self.meter.ledger if self.meter else None
        self.wire = [_wire(limit, ledger) for limit in self.limits]

    def settle(self, outcome: Tally | Exception) -> None:
        """A caller that has gone gets nothing, and disturbs nobody."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


@dataclass(slots=True)
class _Keys:
    """The keys of a batch in the script's order, each once: ledger and history of each caller, then buckets."""

    ledgers: dict[str, str] = field(default_factory=dict)
    buckets: dict[str, None] = field(default_factory=dict)

    def all(self) -> list[str]:
        return [*(key for pair in self.ledgers.items() for key in pair), *self.buckets]

    def positions(self) -> dict[str, int]:
        return {key: at for at, key in enumerate((*self.ledgers, *self.buckets), start=1)}


class RedisLimiter:
    """Asks Redis; one batch in flight, what arrives meanwhile is the next one.

    `budget` is the longest that a caller waits, in seconds. `observe` is told each reply's limits and states, `sent`
    the size and the seconds of each batch, `failed` what went wrong with one.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 0.05,
        retention_days: int = 400,
        clock: RedisClock | None = None,
        observe: Callable[[Sequence[Limit], Sequence[int]], None] = lambda _limits, _states: None,
        sent: Callable[[int, float], None] = lambda _size, _seconds: None,
        failed: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.clock = clock or RedisClock()
        self.available = True
        self._redis = connect(url, max(PROBE_SECONDS, budget))
        self._budget = budget
        self._retention_days = retention_days
        self._account = account
        self._worker = os.urandom(8).hex()
        self._sequence = 0
        self._flushed = 0
        self._waiting: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._observe = observe
        self._sent = sent
        self._failed = failed

    async def admit(
        self, limits: Sequence[Limit], meter: Meter | None = None, *, deadline: float | None = None
    ) -> Tally:
        """A unit from each limit or from none. Raises LimiterUnavailable."""
        if not limits and not meter:
            return Tally(self.clock.now())
        if not self.available:
            raise LimiterUnavailable("Redis is left alone until it answers a probe")
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many callers are waiting")
        loop = asyncio.get_running_loop()
        expires = loop.time() + self._budget
        entry = _Entry(limits, meter, expires if deadline is None else min(expires, deadline), loop.create_future())
        self._waiting.append(entry)
        self._wake.set()
        try:
            async with asyncio.timeout_at(entry.expires):
                return await entry.answer
        except TimeoutError:
            raise LimiterUnavailable("no answer within the budget") from None

    async def run(self) -> None:
        """Send batches until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._gather():
                await self._serve(batch)

    async def probe(self) -> bool:
        """Whether Redis decides: an empty batch, by the same way as a full one, learns the clock besides."""
        loop = asyncio.get_running_loop()
        try:
            # The first may have to connect, which no caller pays for; the second has to keep to a caller's budget.
            await self._decide([], loop.time() + max(PROBE_SECONDS, self._budget))
            await self._decide([], self._expiry())
        except Exception as error:  # whatever a broken Redis does to us, we ask again
            self._failed(error)
            await self._hang_up()  # after a failover its name may stand for another server
            return False
        return True

    async def peek(self, limits: Sequence[Limit], meter: Meter | None) -> Tally:
        """The tally that `admit` would give now, spending nothing. Raises LimiterUnavailable."""
        entry = _Entry(limits, meter, self._expiry(), asyncio.get_running_loop().create_future())
        keys, requests = _encode([entry])
        try:
            async with asyncio.timeout_at(entry.expires):
                names, blob = [self._reply_key(), *keys.all()], self._blob(keys, requests, 0, dry=True)
                _, now, results = await self._ask(names, blob)
        except (RedisError, OSError, TimeoutError) as error:
            raise LimiterUnavailable(f"Redis cannot be asked: {type(error).__name__}: {error}") from error
        return _tally(entry, now, results[0])

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
            raise LimiterUnavailable(f"{type(error).__name__}: {error}") from error
        status, left = msgspec.msgpack.decode(reply, type=tuple[str, int])
        if status == "bad state":
            log.error("bad state in Redis; the value is left alone", keys=keys[1:], lost=spent.amount)
        self._flushed += 1
        return None if left < 0 else left

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _expiry(self) -> float:
        return asyncio.get_running_loop().time() + self._budget

    def _reply_key(self) -> str:
        return redis_key(self._account, "reply", self._worker)

    def _gather(self) -> list[_Entry]:
        """The next callers in order of arrival; those that have gone are passed over."""
        batch: list[_Entry] = []
        while self._waiting and len(batch) < MAX_BATCH:
            entry = self._waiting.popleft()
            if not entry.answer.done():
                batch.append(entry)
        return batch

    async def _serve(self, batch: list[_Entry]) -> None:
        """Decide a batch and tell each of its callers. Those who still waited when Redis was left alone hear so."""
        if not self.available:
            for entry in batch:
                entry.settle(LimiterUnavailable("Redis is left alone until it answers a probe"))
            return
        started, expires = time.perf_counter(), max(entry.expires for entry in batch)
        given = expires - asyncio.get_running_loop().time()
        try:
            now, results = await self._decide(batch, expires)
            self._sent(len(batch), time.perf_counter() - started)
            for entry, result in zip(batch, results, strict=True):
                self._settle(entry, now, result)
        except Exception as error:  # the loop must outlive whatever one batch does to it
            if not isinstance(error, TimeoutError) or given > self._budget * FAIR_SHARE:
                self._failed(error)
            for entry in batch:
                entry.settle(LimiterUnavailable(f"{type(error).__name__}: {error}"))

    def _settle(self, entry: _Entry, now: int, result: list[int]) -> None:
        if result[0] == BAD_STATE:
            keys = [*({entry.meter.ledger} if entry.meter else ()), *(limit.key for limit in entry.limits)]
            log.error("bad state in Redis; the value is left alone", keys=sorted(set(keys)))
            entry.settle(LimiterUnavailable("bad state in Redis"))
            return
        tally = _tally(entry, now, result)
        if tally.states:
            self._observe(entry.limits, tally.states)
        entry.settle(tally)

    async def _decide(self, batch: list[_Entry], expires: float) -> tuple[int, Results]:
        """Run the script; a batch that came too late by a clock that was off goes once more under a new number."""
        keys, requests = _encode(batch)
        async with self._sending:
            for _ in range(2):
                self._sequence += 1
                status, now, results = await self._send_until_known(keys, requests, expires)
                self.clock.learn(now)
                if status == "ok":
                    return now, results
        raise LimiterUnavailable(f"the batch was answered {status}")

    async def _send_until_known(self, keys: _Keys, requests: list[Any], expires: float) -> _Reply:
        """A batch of unknown fate is sent once more under its own number, so it is charged once at most."""
        loop = asyncio.get_running_loop()
        names, blob = [self._reply_key(), *keys.all()], self._blob(keys, requests, expires)
        try:
            async with asyncio.timeout_at(loop.time() + (expires - loop.time()) * FIRST_SENDING):
                return await self._ask(names, blob)
        except ResponseError:
            raise
        except (RedisError, OSError, TimeoutError):
            await self._hang_up()
        try:
            async with asyncio.timeout_at(expires):
                return await self._ask(names, blob)
        except (RedisError, OSError, TimeoutError):
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        """A reply that is still under way must not be read as the next one's."""
        with suppress(RedisError, OSError, TimeoutError):
            await self._redis.connection_pool.disconnect()

    def _blob(self, keys: _Keys, requests: list[Any], expires: float, *, dry: bool = False) -> bytes:
        """The script's argument. The deadline is told in Redis's time."""
        left = expires - asyncio.get_running_loop().time() if expires else 0
        deadline = self.clock.now() + int(left * 1_000_000) if expires else 0
        pinned = self.clock.pinned() if self.clock.pinned else 0
        return msgspec.msgpack.encode(
            (self._sequence, deadline, pinned, int(dry), len(keys.ledgers), self._retention_days, requests)
        )

    async def _ask(self, keys: list[str], blob: bytes) -> _Reply:
        reply: _Reply = REPLY.decode(await evaluate(self._redis, ADMIT, keys, blob))
        return reply


def _encode(batch: Sequence[_Entry]) -> tuple[_Keys, list[Any]]:
    """The keys and requests of a batch; a key that two requests share is sent once."""
    keys = _Keys()
    for entry in batch:
        if entry.meter:
            keys.ledgers[entry.meter.ledger] = entry.meter.history
    for entry in batch:
        keys.buckets.update(dict.fromkeys(limit.key for limit in entry.limits if limit.key not in keys.ledgers))
    at = keys.positions()
    return keys, [
        (
            at[entry.meter.ledger] if entry.meter else 0,
            [(at[limit.key], *wire) for limit, wire in zip(entry.limits, entry.wire, strict=True)],
        )
        for entry in batch
    ]


def _wire(limit: Limit, ledger: str | None) -> tuple[int, ...]:
    """The limit in the script's words. Raises ValueError where they cannot say it."""
    rule = limit.rule
    if isinstance(rule, Quota) and limit.key != ledger:
        raise ValueError(f"a quota lives in its caller's ledger, not in {limit.key}")
    numbers = (0, rule.n, rule.m, rule.burst) if isinstance(rule, Throttle) else (1, rule.limit, rule.start, rule.end)
    if max(numbers) > EXACT:
        raise ValueError(f"a number of {limit.key} is above 2**53, and so not exact in Lua")
    return (int(limit.shadow), *numbers)


def _tally(entry: _Entry, now: int, result: list[int]) -> Tally:
    code, refused, wait, shadowed, *states = result
    return Tally(
        now=now,
        states=tuple(states),
        refused_by=entry.limits[refused - 1] if refused else None,
        wait_us=None if wait < 0 else wait,
        shadowed_by=entry.limits[shadowed - 1] if shadowed else None,
        stale=code == STALE,
    )

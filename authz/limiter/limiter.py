"""The limits in Redis: callers that wait at the same time share one run of `lua/admit.lua`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

import structlog

from authz.check import LimiterUnavailable, Overloaded
from authz.core.limits import MICROSECONDS, Charge, Limit
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.verdict import Tally
from authz.limiter.batching import LINGER_SECONDS, Pace, Queue, Waiter, fail
from authz.limiter.clock import RedisClock
from authz.limiter.encoding import Batch, encoded_batch
from authz.limiter.holds import Holds
from authz.limiter.local import Spent
from authz.limiter.refusals import CALLERS, Refusals
from authz.limiter.sender import Reply, Sender

log = structlog.get_logger(__name__)

FAIR_SHARE = 0.5  # a batch that was sent with less of the budget left may come too late without Redis being slow
LINGER_SHARE = 0.1  # of the budget at most is spent on waiting for more callers
MAX_WAITING = 10_000
STALE, BAD_STATE, HELD = 2, 3, 4  # codes of a result
HOLD_SLACK_SECONDS = 0.002  # after the end of a hold, and before a caller's deadline

Report = tuple[Sequence[Limit], Sequence[int]]  # the limits of a call, and the state of each


class Observer(Protocol):
    """Is called for what happens between a limiter and Redis. What it raises is logged and fails no caller."""

    def on_states(self, reports: Sequence[Report]) -> None:
        """Redis has reported these states of the limits of a batch's calls."""

    def on_batch(self, size: int, seconds: float) -> None:
        """Redis has decided a batch of `size` calls in `seconds`."""

    def on_failure(self, error: Exception) -> None:
        """A batch or probe has failed."""


class Unobserved:
    """An observer that does nothing, and a base for one that needs only some of the calls."""

    def on_states(self, reports: Sequence[Report]) -> None: ...

    def on_batch(self, size: int, seconds: float) -> None: ...

    def on_failure(self, error: Exception) -> None: ...


UNOBSERVED: Final = Unobserved()


class Held(NamedTuple):
    """Units of a limit that are held ahead, and the number of processes that hold them."""

    units: int
    processes: int


class Peeked(NamedTuple):
    """What a call would meet now: its tally, and the held units of each limit.

    If `wait` is set, the call would neither be admitted nor refused yet: held units leave it no room, and the first of
    these holds ends in `wait` µs.
    """

    tally: Tally
    held: Sequence[Held]
    wait: int | None = None


class _Sent(NamedTuple):
    """When a batch left, in ticks, and the ages of the refusals and of the holds then."""

    ticks: int
    refusals_age: int
    holds_age: int


class RedisLimiter:
    """Asks Redis, one batch in flight; calls that arrive meanwhile form the next batch.

    `budget` is the longest wait of a caller, in seconds. The last refusals of `remembered` callers are remembered;
    `recalled` counts the calls that were refused from memory, `waited` those that waited for held units to come free.
    With `hold_ms`, `holds` admit calls that are far from their limits; a hold lasts at most `hold_ms` milliseconds.
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
        hold_ms: int = 0,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.clock = clock or RedisClock()
        self.recalled = self.waited = 0
        self._account = account
        self._retention_days = retention_days
        self._budget = budget
        self._linger = min(LINGER_SECONDS, budget * LINGER_SHARE)
        self._available = True
        self._refusals = Refusals(remembered)
        self.holds = Holds(hold_ms * 1000, self.clock) if hold_ms else None
        self._sender = Sender(
            url,
            account=account,
            budget=budget,
            retention_days=retention_days,
            clock=self.clock,
            forget=self.forget,
        )
        self._pace = Pace()
        self._queue = Queue()
        self._has_holds = asyncio.Event()
        self._turn = asyncio.Lock()  # held while a batch is gathered and sent
        self._runs = False
        self._observer = observer

    @property
    def available(self) -> bool:
        """Whether calls go to Redis. Setting it to False forgets remembered refusals."""
        return self._available

    @available.setter
    def available(self, available: bool) -> None:
        self._available = available
        if not available:
            self.forget()

    @property
    def master_changes(self) -> int:
        """How often another server has taken over from the master."""
        return self._sender.master_changes

    def forget(self, ledgers: Collection[str] | None = None) -> None:
        """Forget the refusals of these callers, or of all, and give their holds back.

        Call it when a limit or a usage counter was changed.
        """
        self._refusals.forget(ledgers)
        if self.holds:
            self.holds.end(ledgers)

    async def admit(self, charge: Charge) -> Tally:
        """Take a charge from each of its limits, or from none. Raises LimiterUnavailable.

        A call with a name, `once`, is never refused from memory: another worker may have admitted it before.
        """
        if not charge.limits and not charge.meter:
            return Tally(self.clock.now())
        if not self._available:
            raise LimiterUnavailable("Redis is left alone until it answers a probe")
        if self.holds and (held := self.holds.take(charge)):
            return held
        if self._refusals and not charge.once and (refusal := self._recall(charge)):
            return refusal
        if len(self._queue) + self._queue.resting >= MAX_WAITING:
            raise Overloaded("too many callers are waiting")
        now = time.monotonic()  # the loop's own clock, but uvloop's `time()` hands the interpreter to another thread
        expires = now + self._budget
        if charge.deadline is not None and charge.deadline < expires:
            expires = charge.deadline
            if expires <= now:
                raise LimiterUnavailable("no time is left to ask")
        tally: asyncio.Future[Tally] = asyncio.get_running_loop().create_future()
        waiter = Waiter(charge, expires, tally)
        if self._is_free:
            async with self._turn:
                await self._decide([waiter])
        else:
            self._queue.put(waiter)
        return await tally

    @property
    def _is_free(self) -> bool:
        """True if a lone caller may send its own batch: no other caller waits, is under way or is likely to come."""
        idle = self._pace.is_alone and not self._turn.locked() and not self._queue
        return idle and self._runs and self._sender.is_idle

    async def run(self) -> None:
        """Send batches until cancelled. On the way out, fail every caller that still waits."""
        self._runs = True
        giving_back = asyncio.create_task(self._keep_giving_back(self.holds)) if self.holds else None
        try:
            while True:
                await self._queue.filled(1)
                async with self._turn:
                    await self._queue.filled(self._pace.enough(), self._pace.linger(self._linger))
                    await self._serve(self._queue.take())
        finally:
            self._runs = False
            if giving_back:
                giving_back.cancel()
            self._queue.fail("the limiter has stopped")

    async def probe(self) -> bool:
        """True if Redis answers an empty batch in time. Also updates our estimate of Redis's clock."""
        try:
            await self._sender.probe()
        except Exception as error:  # of any kind: a broken Redis is probed again
            self._observer.on_failure(error)
            await self._sender.hang_up()  # after a failover its name may stand for another server
            return False
        return True

    async def peek(self, charge: Charge) -> Peeked:
        """What `admit` would meet in Redis now, without spending anything. Raises LimiterUnavailable."""
        expires = time.monotonic() + self._budget
        waiter = Waiter(charge, expires, asyncio.get_running_loop().create_future())
        batch = encoded_batch(self._account, self._retention_days, [waiter])
        if not batch.waiters:
            return Peeked(await waiter.tally, ())
        reply = await self._sender.peek(batch, expires)
        code, _, wait, *_ = result = reply.results[0]
        if code == BAD_STATE:
            raise LimiterUnavailable("bad state in Redis")
        by_position = {position: Held(units, processes) for position, units, processes in reply.holds}
        held = [by_position.get(k, Held(0, 0)) for k in range(1, len(charge.limits) + 1)]
        if code == HELD:
            return Peeked(Tally(reply.now, result[4:]), held, wait)
        return Peeked(_tally(charge.limits, reply.now, result), held)

    async def flush(self, spent: Spent) -> Sequence[int | None]:
        """Count a debt in Redis. After an error, send it again: it is counted once.

        Returns the used units of each quota, as `Sender.flush` does. Raises LimiterUnavailable.
        """
        return await self._sender.flush(spent)

    async def give_back(self) -> None:
        """Give all holds back, before the limiter is closed. Redis charges the others whole."""
        if self.holds:
            self.holds.end()
            async with self._turn:
                await self._decide([])

    async def aclose(self) -> None:
        await self._sender.aclose()

    async def _keep_giving_back(self, holds: Holds) -> None:
        """Give back each hold before its end, if no batch did."""
        while True:
            end = holds.next_end
            if end is None:
                self._has_holds.clear()
                await self._has_holds.wait()
                continue
            left = end - self.clock.ticks()
            if left > 0:
                await asyncio.sleep(min(left, holds.life) / MICROSECONDS)
                continue
            async with self._turn:
                await self._decide([])

    def _recall(self, charge: Charge) -> Tally | None:
        refusal = self._refusals.recall(charge, self.clock.ticks(), self.clock.now())
        if refusal:
            self.recalled += 1
        return refusal

    async def _serve(self, waiters: Sequence[Waiter]) -> None:
        """Decide one batch and finish each of its callers."""
        if not self._available:
            for waiter in waiters:
                waiter.finish(LimiterUnavailable("Redis is left alone until it answers a probe"))
            return
        await self._decide(self._unrefused(waiters))

    def _unrefused(self, waiters: Sequence[Waiter]) -> Sequence[Waiter]:
        """Refuse the callers whose refusal became known while they waited, and return the others."""
        if not self._refusals:
            return waiters
        others = []
        for waiter in waiters:
            if not waiter.charge.once and (refusal := self._recall(waiter.charge)):
                waiter.finish(refusal)
            else:
                others.append(waiter)
        return others

    async def _decide(self, waiters: Sequence[Waiter]) -> None:
        batch = encoded_batch(self._account, self._retention_days, waiters, self.holds)
        if not batch.waiters and not batch.ahead:
            return
        expires = max((waiter.expires for waiter in batch.waiters), default=time.monotonic() + self._budget)
        given = expires - time.monotonic()
        sent = _Sent(self.clock.ticks(), self._refusals.age, self.holds.age if self.holds else 0)
        try:
            reply = await self._timed(batch, expires)
        except Exception as error:  # of any kind: the loop must go on
            if not isinstance(error, TimeoutError) or given > self._budget * FAIR_SHARE:
                _notify(self._observer.on_failure, error)
            fail(batch.waiters, error)
            if self.holds and batch.ahead:
                self.holds.lost += len(batch.ahead.returns)  # Redis may have them back; it charges the others whole
            return
        finally:
            if self.holds:
                self.holds.settled(waiter.charge for waiter in batch.waiters)
        if batch.waiters:
            self._pace.learn(len(batch.waiters), len(self._queue))
        self._pace.spent(time.monotonic(), time.process_time())
        self._answer(batch, reply, sent)

    def _answer(self, batch: Batch, reply: Reply, sent: _Sent) -> None:
        """Finish each caller of a batch, and keep its refusals and holds for later calls."""
        tallies: list[Tally | None] = []
        reports: list[Report] = []
        for waiter, result in zip(batch.waiters, reply.results, strict=True):
            tallies.append(tally := self._finish(waiter, reply.now, result))
            if tally is None:
                continue
            if tally.states:
                reports.append((waiter.charge.limits, tally.states))
            if tally.refused_by and sent.refusals_age == self._refusals.age:
                self._refusals.remember(waiter.charge, tally, sent.ticks)
        _notify(self._observer.on_states, reports)
        if self.holds:
            self.holds.lost += reply.ended
            if reply.holds:
                self._has_holds.set()
            for position, calls, ends in reply.holds:
                if tally := tallies[position - 1]:
                    charge = batch.waiters[position - 1].charge
                    self.holds.granted(charge, calls, ends, tally, sent.ticks, sent.holds_age)

    async def _timed(self, batch: Batch, expires: float) -> Reply:
        started = time.perf_counter()
        reply = await self._sender.decide(batch, expires)
        if len(reply.results) != len(batch.waiters):
            raise LimiterUnavailable(f"{len(reply.results)} results for {len(batch.waiters)} requests")
        _notify(self._observer.on_batch, len(reply.results), time.perf_counter() - started)
        return reply

    def _wait_for_holds(self, waiter: Waiter, refusal: Tally) -> None:
        """Have a call decided again once the hold has ended that leaves no room for it: it may end unused.

        Refuse the call if its deadline is earlier.
        """
        self.waited += 1
        deadline, seconds = waiter.charge.deadline, (refusal.wait_us or 0) / MICROSECONDS + HOLD_SLACK_SECONDS
        again = time.monotonic() + seconds
        if deadline is not None and again + HOLD_SLACK_SECONDS > deadline:
            waiter.finish(refusal)
            return
        waiter.expires = min(again + self._budget, deadline or math.inf)
        self._queue.rest(waiter, seconds)

    def _finish(self, waiter: Waiter, now: int, result: tuple[int, ...]) -> Tally | None:
        """Finish one caller from its result, and return the tally. A malformed result fails that caller only."""
        if result and result[0] == BAD_STATE:
            charge = waiter.charge
            keys = {*([charge.meter.ledger] if charge.meter else ()), *(limit.key for limit in charge.limits)}
            log.error("bad state in Redis; the value is left alone", keys=sorted(keys))
            waiter.finish(LimiterUnavailable("bad state in Redis"))
            return None
        try:
            tally = _tally(waiter.charge.limits, now, result)
        except (ValueError, IndexError) as error:
            fail([waiter], error)
            return None
        if result[0] == HELD:
            self._wait_for_holds(waiter, tally)
            return None
        waiter.finish(tally)
        return tally


def _notify(observer: Callable[..., None], *what: Any) -> None:
    """Call an observer; log what it raises."""
    try:
        observer(*what)
    except Exception:
        log.exception("an observer failed")


def _tally(limits: Sequence[Limit], now: int, result: tuple[int, ...]) -> Tally:
    code, refused, wait, shadowed = result[:4]
    return Tally(
        now,
        result[4:],
        limits[refused - 1] if refused else None,
        None if wait < 0 else wait,
        limits[shadowed - 1] if shadowed else None,
        code == STALE,
    )

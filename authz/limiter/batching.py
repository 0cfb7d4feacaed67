"""Waiting calls: how they queue, when a batch of them is sent, and how their time runs out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from math import inf

from msgspec import Struct

from authz.check import LimiterUnavailable
from authz.core.limits import Charge
from authz.core.verdict import Tally
from authz.deadlines import Deadlines, Wait
from authz.redisio.url import in_words

MAX_BATCH = 64
LINGER_SECONDS = 0.002  # two ticks of uvloop's timers
PATIENCE = 3  # times as long, in a process that has no CPU to spare


class Waiter(Struct, eq=False):
    """A caller that waits for a tally, until `expires` (a time of `time.monotonic`)."""

    charge: Charge
    expires: float
    tally: asyncio.Future[Tally]

    def finish(self, outcome: Tally | Exception) -> None:
        """Give the caller its tally or raise the exception there. Does nothing if the caller has left."""
        if self.tally.done():
            return
        if isinstance(outcome, Exception):
            self.tally.set_exception(outcome)
        else:
            self.tally.set_result(outcome)


def fail(waiters: Iterable[Waiter], error: Exception) -> None:
    """Fail each caller with an exception of its own: a shared one would collect the traceback of every caller."""
    for waiter in waiters:
        waiter.finish(LimiterUnavailable(in_words(error)))


@dataclass(slots=True)
class Pace:
    """Chooses how many callers to wait for, from the number of recently active callers.

    One or two callers are sent at once, since no others would come. With more, the callers that were just answered
    soon send their next request. A gRPC server that hands over one request at a time hides how many callers there are,
    so now and then we wait for twice as many.
    """

    crowd: float = 1.0
    busy: float = 0.0  # the share of a core that this process has used lately
    _untried: int = 0
    _wall: float = 0.0
    _cpu: float = 0.0

    FADE = 0.05  # a crowd shrinks towards a smaller batch by this share of the difference
    ALONE = 0.3  # the same where the batch has fewer than `FEW`
    MOST = 0.75  # of a crowd is waited for; the rest is on its way when a batch leaves, and comes with the next one
    FEW = 3  # a smaller crowd is not waited for
    PAIR = 1.2
    TRY_AFTER = 32  # batches
    LATELY = 0.2  # the weight of the last batch
    FULL = 0.9  # of a core: from here on callers wait anyway, and larger batches shorten that wait

    @property
    def is_alone(self) -> bool:
        """True if the last batches had one caller each."""
        return self.crowd <= self.PAIR

    def learn(self, sent: int, waiting: int) -> None:
        """Note a reply for `sent` callers while `waiting` others waited. A crowd grows at once and shrinks slowly."""
        about = sent + waiting
        fade = self.ALONE if about < self.FEW else self.FADE
        self.crowd = max(about, self.crowd + (about - self.crowd) * fade)

    def spent(self, wall: float, cpu: float) -> None:
        """Note the wall time and this process's CPU time now, in seconds since any fixed moment."""
        if wall > self._wall:
            self.busy += ((cpu - self._cpu) / (wall - self._wall) - self.busy) * self.LATELY
        self._wall, self._cpu = wall, cpu

    def linger(self, seconds: float) -> float:
        """The longest wait for more callers: `seconds`, or more in a busy process."""
        return seconds * PATIENCE if self.busy >= self.FULL else seconds

    def enough(self) -> int:
        """The batch size to wait for."""
        self._untried += not self.is_alone
        if self._untried >= self.TRY_AFTER:
            self._untried = 0
            return min(MAX_BATCH, int(2 * self.crowd) + 1)
        if self.crowd < self.FEW:
            return 1
        return min(MAX_BATCH, max(self.FEW, int(self.crowd * self.MOST)))


@dataclass(slots=True)
class Queue:
    """Callers in order of arrival, and the callers of the batch that is in flight.

    A caller without an answer in time gets LimiterUnavailable.
    """

    in_flight: list[Waiter] = field(default_factory=list)
    _waiting: deque[Waiter] = field(default_factory=deque)
    _resting: set[Waiter] = field(default_factory=set)
    _deadlines: Deadlines = field(init=False)
    _wanted: float = inf
    _filled: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(self._waits, partial(LimiterUnavailable, "no answer within the budget"))

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def resting(self) -> int:
        """Callers that will wait again later."""
        return len(self._resting)

    def put(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)
        self._deadlines.expect(waiter.expires)
        if len(self._waiting) >= self._wanted:
            self._wake()

    def rest(self, waiter: Waiter, seconds: float) -> None:
        """Put a caller into the queue after `seconds`."""
        self._resting.add(waiter)
        asyncio.get_running_loop().call_later(seconds, self._resume, waiter)

    async def filled(self, enough: int, seconds: float | None = None) -> None:
        """Return when `enough` callers wait, or after `seconds`."""
        if len(self._waiting) >= enough:
            return
        loop = asyncio.get_running_loop()
        self._wanted, self._filled = enough, loop.create_future()
        timer = loop.call_later(seconds, self._wake) if seconds else None
        try:
            await self._filled
        finally:
            self._wanted = inf
            if timer:
                timer.cancel()

    def take(self) -> list[Waiter]:
        """Move the next callers to the batch in flight, and return them. Callers that have left are dropped."""
        batch: list[Waiter] = []
        while self._waiting and len(batch) < MAX_BATCH:
            waiter = self._waiting.popleft()
            if not waiter.tally.done():
                batch.append(waiter)
        self.in_flight = batch
        return batch

    def fail(self, why: str) -> None:
        """Raise LimiterUnavailable in every caller that waits or is in flight."""
        for waiter in (*self.in_flight, *self._waiting, *self._resting):
            waiter.finish(LimiterUnavailable(why))
        self._waiting.clear()
        self._resting.clear()

    def _resume(self, waiter: Waiter) -> None:
        self._resting.discard(waiter)
        if not waiter.tally.done():
            self.put(waiter)

    def _wake(self) -> None:
        if self._filled and not self._filled.done():
            self._filled.set_result(None)

    def _waits(self) -> Iterable[Wait]:
        return ((waiter.tally, waiter.expires) for waiter in (*self.in_flight, *self._waiting))

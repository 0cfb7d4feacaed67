"""Callers that wait for the same answer: how they queue, when they are sent, in what words, and how time runs out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from msgspec import Struct

from authz.check import LimiterUnavailable
from authz.core.limits import EXACT, Limit, Meter, Quota, Throttle, redis_key
from authz.core.verdict import Tally

MAX_BATCH = 64
LINGER_SECONDS = 0.002  # two ticks of uvloop's timers
PATIENCE = 3  # times as long, by a process that has no time to spare
SWEEP_SECONDS = 0.001  # between two looks for callers whose time is up
ONCE_DIGITS = 32

_prefix = lru_cache(16)(redis_key)  # the same for each request


class Call(Struct, eq=False):
    """One waiting caller. `expires` is a time of `time.monotonic`; `once` names a request that is charged once."""

    limits: Sequence[Limit]
    meter: Meter | None
    once: str
    expires: float
    answer: asyncio.Future[Tally]

    def settle(self, outcome: Tally | Exception) -> None:
        """A caller that has gone gets nothing, and disturbs nobody."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


@dataclass(slots=True)
class Pace:
    """How many callers are worth waiting for: most of those that were about lately.

    One or two are sent at once, as waiting would bring nobody. With more, those who were just answered are on their
    way with their next request. A host that hands over one request at a time shows few of however many there are; so
    where there is more than one, it is tried now and then whether twice as many come.
    """

    crowd: float = 1.0
    busy: float = 0.0  # the share of a core that this process has used lately
    _untried: int = 0
    _wall: float = 0.0
    _cpu: float = 0.0

    FADE = 0.05  # of what a crowd was larger, with each batch
    ALONE = 0.3  # the same where next to nobody is left of it
    MOST = 0.75  # of a crowd; the rest is still on its way when a batch leaves, and is the next one's
    FEW = 3  # a smaller crowd is not waited for
    PAIR = 1.2
    TRY_AFTER = 32  # batches
    LATELY = 0.2  # the weight of the last batch
    FULL = 0.9  # of a core: from here on callers wait anyway, and a larger batch shortens that

    def learn(self, sent: int, waiting: int) -> None:
        """A reply has come for so many callers, while so many others were waiting. More of them count at once."""
        about = sent + waiting
        fade = self.ALONE if about < self.FEW else self.FADE
        self.crowd = max(about, self.crowd + (about - self.crowd) * fade)

    def spent(self, wall: float, cpu: float) -> None:
        """So many seconds have gone by, and this process has used so many, both since any time in the past."""
        if wall > self._wall:
            self.busy += ((cpu - self._cpu) / (wall - self._wall) - self.busy) * self.LATELY
        self._wall, self._cpu = wall, cpu

    def linger(self, seconds: float) -> float:
        """How long to wait for others at most, where `seconds` are worth it with time to spare."""
        return seconds * PATIENCE if self.busy >= self.FULL else seconds

    def enough(self) -> int:
        """So many callers are sent at once; fewer may be joined by others."""
        self._untried += self.crowd > self.PAIR
        if self._untried >= self.TRY_AFTER:
            self._untried = 0
            return min(MAX_BATCH, int(2 * self.crowd) + 1)
        if self.crowd < self.FEW:
            return 1
        return min(MAX_BATCH, max(self.FEW, int(self.crowd * self.MOST)))


@dataclass(slots=True)
class Queue:
    """Callers in order of arrival, those that are waiting and those whose batch is under way.

    One timer watches over all of them: who is not answered in time raises LimiterUnavailable, a millisecond or two
    late at most.
    """

    under_way: list[Call] = field(default_factory=list)
    _waiting: deque[Call] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None
    _due: float = inf
    _wanted: float = inf
    _filled: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call) -> None:
        self._waiting.append(call)
        if call.expires < self._due:
            self._watch(call.expires)
        if len(self._waiting) >= self._wanted:
            self._wake()

    async def filled(self, enough: int, seconds: float | None = None) -> None:
        """Returns when so many are waiting, or after so many seconds."""
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

    def take(self) -> list[Call]:
        """The next callers, now under way; those that have gone are passed over."""
        batch: list[Call] = []
        while self._waiting and len(batch) < MAX_BATCH:
            call = self._waiting.popleft()
            if not call.answer.done():
                batch.append(call)
        self.under_way = batch
        return batch

    def fail(self, why: str) -> None:
        """Whoever waits, or is under way, hears that nobody can tell."""
        for call in self._all():
            call.settle(LimiterUnavailable(why))
        self._waiting.clear()

    def _all(self) -> list[Call]:
        return [*self.under_way, *self._waiting]

    def _wake(self) -> None:
        if self._filled and not self._filled.done():
            self._filled.set_result(None)

    def _watch(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._sweep)

    def _sweep(self) -> None:
        """Tell those whose time is up, and look again when the next one's is."""
        now = time.monotonic()
        self._timer, self._due = None, inf
        left = [call for call in self._all() if not call.answer.done()]
        for call in left:
            if call.expires <= now:
                call.settle(LimiterUnavailable("no answer within the budget"))
        due = min((call.expires for call in left if call.expires > now), default=inf)
        if due < inf:
            self._watch(max(due, now + SWEEP_SECONDS))


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls in the script's words: the keys behind the worker's own, how many of them are what, rules and requests."""

    calls: Sequence[Call]
    keys: list[str]
    callers: int
    buckets: int
    rules: list[tuple[int, ...]]
    requests: list[list[int]]
    onces: list[int]


class Encoder:
    """Numbers the keys and rules of a batch: what two requests share is sent once."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._ledgers: dict[str, int] = {}
        self._histories: list[str] = []
        self._buckets: dict[str, int] = {}
        self._onces: dict[str, int] = {}
        self._at: dict[int, int] = {}  # by the identity of a rule: the calls keep them alive
        self._rules: list[tuple[int, ...]] = []

    def batch(self, calls: Sequence[Call]) -> Batch:
        """A call that the script has no words for fails alone, and is left out."""
        said, requests, onces = [], [], []
        for call in calls:
            try:
                request = self._request(call.limits, call.meter)
                once = self._once(call) if call.once else 0
            except Exception as error:  # whatever it is about, it is this caller's
                call.settle(error)
                continue
            said.append(call)
            requests.append(request)
            onces.append(once)
        keys = [key for pair in zip(self._ledgers, self._histories, strict=True) for key in pair]
        keys += self._buckets
        keys += self._onces
        return Batch(
            said, keys, len(self._ledgers), len(self._buckets), self._rules, requests, onces if self._onces else []
        )

    def _request(self, limits: Sequence[Limit], meter: Meter | None) -> list[int]:
        ledger, caller, rules, buckets = None, 0, self._at, self._buckets
        if meter:
            ledger = meter.ledger
            caller = self._ledgers.get(ledger) or self._caller(meter)
        request = [caller]
        for limit in limits:
            key, rule = limit.key, limit.rule
            at = rules.get(id(rule)) or self._rule(rule)
            if key == ledger:
                value = caller
            elif type(rule) is Quota:
                raise ValueError(f"a quota lives in its caller's ledger, not in {key}")
            else:
                value = buckets.get(key) or self._bucket(key)
            request += (value, -at if limit.shadow else at)
        return request

    def _caller(self, meter: Meter) -> int:
        self._histories.append(meter.history)
        self._ledgers[meter.ledger] = at = len(self._histories)
        return at

    def _bucket(self, key: str) -> int:
        self._buckets[key] = at = -len(self._buckets) - 1
        return at

    def _rule(self, rule: Throttle | Quota) -> int:
        if isinstance(rule, Throttle):
            numbers = (0, rule.n, rule.m, rule.burst)
        else:
            numbers = (1, rule.limit, rule.start, rule.end)
        if max(numbers) > EXACT:
            raise ValueError("a number of the limit is above 2**53, and so not exact in Lua")
        self._rules.append(numbers)
        self._at[id(rule)] = at = len(self._rules)
        return at

    def _once(self, call: Call) -> int:
        key = once_key(self._account, call.once, call.limits, call.meter)
        return self._onces.setdefault(key, len(self._onces) + 1)


def once_key(account: str, once: str, limits: Sequence[Limit], meter: Meter | None) -> str:
    """Where the result of a request of that name is kept: by another key, or under other limits, it is another one."""
    bound = (once, meter.ledger if meter else "", *(limit.key for limit in limits))
    name = hashlib.sha256("\0".join(bound).encode()).hexdigest()[:ONCE_DIGITS]
    return _prefix(account, "once", "") + name

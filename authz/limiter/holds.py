"""Holds: calls that this process may admit by itself for a moment, since Redis keeps their units for it.

See "Units held ahead" in docs/explanation/rules.md.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from authz.core.limits import Charge, Limit, amount_of, refilled, scale
from authz.core.verdict import Tally
from authz.limiter.clock import RedisClock

CALLERS: Final = 10_000
# A hold is given back before its end, by a fifth of its longest life, or by twice the time that its own batch took.
MARGIN_SHARE: Final = 5
MARGIN_TRIPS: Final = 2
FREQUENT: Final = 4  # calls within the life of a hold: with fewer, giving holds back costs what they save


class Return(NamedTuple):
    """A hold to give back: it ends at `ends` (µs of Redis's time), and `admitted` of its `calls` were made."""

    charge: Charge
    ends: int
    calls: int
    admitted: int


@dataclass(slots=True, eq=False)
class _Hold:
    """Admits `calls` like `charge` until `until`, in ticks. Redis reported `tally` when it granted the hold.

    `weights` are what a call adds to the state of each limit.
    """

    charge: Charge
    calls: int
    ends: int
    until: int
    tally: Tally
    weights: Sequence[int]
    admitted: int = 0

    def take(self, now: int) -> Tally:
        """Admit a call, and return its tally as Redis would word it: the unused units of this hold count as free."""
        self.admitted += 1
        left, tally = self.calls - self.admitted, self.tally
        passed = max(0, now - tally.now)
        states = tuple(
            refilled(limit.rule, state - left * weight, passed)
            for limit, state, weight in zip(self.charge.limits, tally.states, self.weights, strict=True)
        )
        return Tally(now, states)

    def given_back(self) -> Return:
        return Return(self.charge, self.ends, self.calls, self.admitted)


def _key(charge: Charge) -> tuple[int | str, int]:
    """Tell callers apart by their limits. Callers without any all have the same empty tuple."""
    return id(charge.limits) if charge.limits or not charge.meter else charge.meter.ledger, charge.cost


@dataclass(slots=True, eq=False)
class _Caller:
    """The calls of one caller to one method, at one cost: their recent number, and the hold for them.

    `calls` came since `since` (ticks), `before` in the window before that. A caller is `asking` while a batch is in
    flight that wants a hold for it.
    """

    limits: Sequence[Limit]  # keeps the object alive whose identity is the key
    can_hold: bool
    since: int
    calls: int = 0
    before: int = 0
    asking: bool = False
    hold: _Hold | None = None

    def count(self, ticks: int, window: int) -> None:
        """Count a call."""
        passed = ticks - self.since
        if passed >= window:
            self.before = self.calls if passed < 2 * window else 0
            self.since, self.calls = ticks, 0
        self.calls += 1

    @property
    def wanted(self) -> int:
        """Twice the calls that came lately; 0 if they are few."""
        lately = max(self.calls, self.before)
        return 2 * lately if lately >= FREQUENT else 0


@dataclass(slots=True)
class Holds:
    """The holds of this process, by caller. `process` is its number in Redis.

    `life` is the longest life of a hold in µs. The last `callers` callers are kept. `admitted` counts the calls
    that were admitted from holds, and `lost` the holds that were not given back in time.
    """

    life: int
    clock: RedisClock
    callers: int = CALLERS
    process: int = field(default_factory=lambda: int.from_bytes(os.urandom(4)))
    admitted: int = 0
    lost: int = 0
    age: int = 0  # grows when holds end early: a hold that was requested before ends as well
    _callers: OrderedDict[tuple[int | str, int], _Caller] = field(default_factory=OrderedDict)
    _untils: list[tuple[int, int, _Caller, _Hold]] = field(default_factory=list)  # a heap
    _over: list[Return] = field(default_factory=list)

    @property
    def held(self) -> int:
        """Held calls that were neither admitted nor given back."""
        holds = (caller.hold for caller in self._callers.values())
        return sum(hold.calls - hold.admitted for hold in holds if hold)

    @property
    def next_end(self) -> int | None:
        """When the first hold is to be given back, in ticks; None without holds."""
        if self._over:
            return self.clock.ticks()
        return self._untils[0][0] if self._untils else None

    def take(self, charge: Charge) -> Tally | None:
        """Admit a call from its hold; None if Redis has to decide."""
        caller = self._callers.get(_key(charge))
        if caller is None or caller.hold is None or charge.once:
            return None
        hold, ticks = caller.hold, self.clock.ticks()
        if hold.admitted == hold.calls or ticks >= hold.until:
            self._end(caller)
            return None
        caller.count(ticks, self.life)
        self.admitted += 1
        return hold.take(self.clock.now())

    def wanted(self, charge: Charge) -> int:
        """The number of further calls to hold with a call that Redis decides. Call `settled` after its batch."""
        caller = self._caller(charge)
        caller.count(self.clock.ticks(), self.life)
        if charge.once or not caller.can_hold or caller.asking or caller.hold:
            return 0
        caller.asking = caller.wanted > 0
        return caller.wanted

    def granted(self, charge: Charge, calls: int, ends: int, tally: Tally, sent: int, age: int) -> None:
        """Keep a new hold. Its batch left at `sent` (ticks), in this `age`."""
        ticks = self.clock.ticks()
        until = sent + ends - tally.now - max(self.life // MARGIN_SHARE, MARGIN_TRIPS * (ticks - sent))
        weights = [amount_of(limit.rule, charge.cost) * scale(limit.rule)[1] for limit in charge.limits]
        hold = _Hold(charge, calls, ends, until, tally, weights)
        if age != self.age or until <= ticks:
            self._over.append(hold.given_back())
            return
        caller = self._caller(charge)
        caller.hold = hold
        heappush(self._untils, (until, id(hold), caller, hold))

    def settled(self, charges: Iterable[Charge]) -> None:
        """Note that the batch of these calls is over, with or without a reply."""
        for charge in charges:
            if caller := self._callers.get(_key(charge)):
                caller.asking = False

    def take_over(self) -> list[Return]:
        """Return the holds to give back now: used up, past their end, or ended early. Each is returned once."""
        ticks = self.clock.ticks()
        while self._untils and self._untils[0][0] <= ticks:
            _, _, caller, hold = heappop(self._untils)
            if caller.hold is hold:
                self._end(caller)
        over, self._over = self._over, []
        return over

    def end(self, ledgers: Collection[str] | None = None) -> None:
        """End the holds of these callers, or all: a limit or a counter was changed, or another server may answer."""
        self.age += 1
        named = None if ledgers is None else set(ledgers)
        for caller in self._callers.values():
            hold = caller.hold
            if hold and (named is None or hold.charge.meter is None or hold.charge.meter.ledger in named):
                self._end(caller)

    def _end(self, caller: _Caller) -> None:
        if caller.hold:
            self._over.append(caller.hold.given_back())
            caller.hold = None

    def _caller(self, charge: Charge) -> _Caller:
        key = _key(charge)
        caller = self._callers.get(key)
        if caller is None:
            can_hold = not any(limit.shadow for limit in charge.limits)
            self._callers[key] = caller = _Caller(charge.limits, can_hold, self.clock.ticks())
            if len(self._callers) > self.callers:
                self._end(self._callers.popitem(last=False)[1])
        else:
            self._callers.move_to_end(key)
        return caller

"""The model of `admit.lua`: the same decisions, in exact fractions. Hypothesis compares the two.

A debt is a fraction of a token here and an integer of 1/m tokens there. A bucket that changes its rate may be up to
three of those units above the exact value: see "A changed rate" in docs/explanation/rules.md. `_in_band` allows that
band, and no other code does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from authz.core.limits import Limit, Meter, Quota, Throttle
from authz.core.verdict import Tally

DAY_US = 86_400_000_000
BAND = 3

Row = tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """`debt` tokens are spent and not refilled at `at` (µs), at n/m tokens a µs; n = m = 0 before its first use."""

    at: int
    debt: Fraction = Fraction(0)
    n: int = 0
    m: int = 0

    def later(self, now: int) -> Bucket:
        """The debt at `now`; a step back of the clock refills nothing."""
        refilled = Fraction(self.n, self.m or 1) * max(0, now - self.at)
        return replace(self, at=now, debt=max(Fraction(0), self.debt - refilled))

    def packed(self) -> bytes:
        return struct.pack(">Bdddd", 1, *self.numbers())

    def numbers(self) -> tuple[int, int, int, int]:
        units = self.debt * self.m
        assert units.denominator == 1
        return units.numerator, self.at, self.n, self.m


@dataclass(frozen=True)
class Ledger:
    """A caller's bucket, the used units of the period that began at `start`, and the usage of a day."""

    bucket: Bucket
    start: int = 0
    used: int = 0
    day: int = 0
    day_used: int = 0
    day_left: int = -1

    def packed(self) -> bytes:
        usage = (self.start, self.used, self.day, self.day_used, self.day_left)
        return struct.pack(">Bddddddddd", 2, *self.bucket.numbers(), *usage)


@dataclass
class Model:
    """All state that a Redis holds, and what each request makes of it."""

    retention: int = 400
    buckets: dict[str, Bucket] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    histories: dict[str, dict[int, Row]] = field(default_factory=dict)

    def stored(self) -> dict[str, bytes]:
        """The bytes of each key but the histories."""
        return {key: kept.packed() for key, kept in (self.buckets | self.ledgers).items()}

    def admit(self, limits: Sequence[Limit], meter: Meter | None, now: int, told: Tally) -> Tally:
        """Return the expected answer; `told` is the script's, used only for a debt within the band of `_in_band`."""
        if any(isinstance(rule := limit.rule, Quota) and not rule.start <= now < rule.end for limit in limits):
            return Tally(now=now, stale=True)
        looks = [self._look(limit, meter, now, _before(told, at, limit)) for at, limit in enumerate(limits)]
        short = [look for look in looks if not look.has_room]
        refusals = [look for look in short if not look.limit.shadow]
        shadowed = next((look.limit for look in short if look.limit.shadow), None)
        charged = [not refusals and not (look.limit.shadow and shadowed) for look in looks]
        for look, is_charged in zip(looks, charged, strict=True):
            self._keep(look, meter, now, charged=is_charged, admitted=not refusals)
        if meter and not refusals:
            self._count(limits, meter, now)
        return Tally(
            now=now,
            states=tuple(look.state(is_charged) for look, is_charged in zip(looks, charged, strict=True)),
            refused_by=refusals[0].limit if refusals else None,
            wait_us=_longest(refusals, now),
            shadowed_by=shadowed,
        )

    def remain(self, meter: Meter, quota: Quota, remaining: int, now: int) -> None:
        """UpdateUsage: the period's used follows from what shall remain; the day has a row from then on."""
        ledger, today = self._ledger(meter, now), now // DAY_US
        history = self.histories.setdefault(meter.history, {})
        if not today <= ledger.day <= today + 1:
            ledger = self._turned(ledger, history, today)
        start = quota.start if _restarts(ledger.start, quota) else ledger.start
        ledger = replace(ledger, start=start, used=quota.limit - remaining, day_left=remaining)
        self.ledgers[meter.ledger], history[ledger.day] = ledger, (ledger.day_used, remaining)
        self._prune(history, today)

    def _look(self, limit: Limit, meter: Meter | None, now: int, told: int) -> _Look:
        """A limit brought to `now`, and whether a refusal writes that: a changed limit, a step back of the clock."""
        if isinstance(limit.rule, Quota):
            return _Look(limit, used=self._used(limit, limit.rule))
        kept = self._bucket(limit, meter, now)
        bucket, rule = kept.later(now), limit.rule
        changed = now < kept.at
        if (kept.n, kept.m) != (rule.n, rule.m):
            bucket, changed = replace(bucket, debt=_in_band(bucket.debt, rule, told), n=rule.n, m=rule.m), True
        writes = bucket.debt > 0 and (changed or bucket.debt > rule.burst)
        return _Look(limit, bucket=replace(bucket, debt=min(bucket.debt, Fraction(rule.burst))), writes=writes)

    def _bucket(self, limit: Limit, meter: Meter | None, now: int) -> Bucket:
        if meter and limit.key == meter.ledger:
            return self._ledger(meter, now).bucket
        return self.buckets.get(limit.key, Bucket(now))

    def _ledger(self, meter: Meter, now: int) -> Ledger:
        return self.ledgers.get(meter.ledger, Ledger(Bucket(now)))

    def _used(self, limit: Limit, quota: Quota) -> int:
        """Of the period that holds: the stored one, unless the sent one is later or the stored one a wrong clock's."""
        kept = self.ledgers.get(limit.key)
        return kept.used if kept and not _restarts(kept.start, quota) else 0

    def _keep(self, look: _Look, meter: Meter | None, now: int, *, charged: bool, admitted: bool) -> None:
        if isinstance(look.limit.rule, Quota):
            if charged and meter:
                self._use(meter, look.limit.rule, now)
            return
        own = meter is not None and look.limit.key == meter.ledger
        if not (charged or look.writes or (own and admitted)):
            return
        bucket = replace(look.bucket, debt=look.bucket.debt + charged)
        if own and meter:
            self.ledgers[meter.ledger] = replace(self._ledger(meter, now), bucket=bucket)
        else:
            self.buckets[look.limit.key] = bucket

    def _use(self, meter: Meter, quota: Quota, now: int) -> None:
        kept = self._ledger(meter, now)
        if _restarts(kept.start, quota):
            kept = replace(kept, start=quota.start, used=0)
        self.ledgers[meter.ledger] = replace(kept, used=kept.used + 1)

    def _count(self, limits: Sequence[Limit], meter: Meter, now: int) -> None:
        """A row of usage for the day; a later day, or a clock that was wrong, closes the one before."""
        ledger, today = self._ledger(meter, now), now // DAY_US
        if not today <= ledger.day <= today + 1:
            ledger = self._turned(ledger, self.histories.setdefault(meter.history, {}), today)
        lefts = [limit.rule.limit - self._used(limit, limit.rule) for limit in limits if isinstance(limit.rule, Quota)]
        left = max(0, lefts[0]) if lefts else -1
        self.ledgers[meter.ledger] = replace(ledger, day_used=ledger.day_used + 1, day_left=left)

    def _turned(self, ledger: Ledger, history: dict[int, Row], today: int) -> Ledger:
        if ledger.day_used:
            history[ledger.day] = (ledger.day_used, ledger.day_left)
        used, left = history.pop(today, (0, -1))
        self._prune(history, today)
        return replace(ledger, day=today, day_used=used, day_left=left)

    def _prune(self, history: dict[int, Row], today: int) -> None:
        for day in [day for day in history if day < today - self.retention]:
            del history[day]


@dataclass(frozen=True)
class _Look:
    """A limit as a request meets it: a bucket brought to now, or the used units of a quota."""

    limit: Limit
    bucket: Bucket = Bucket(0)
    used: int = 0
    writes: bool = False

    @property
    def has_room(self) -> bool:
        rule = self.limit.rule
        return self.used < rule.limit if isinstance(rule, Quota) else self.bucket.debt + 1 <= rule.burst

    def state(self, charged: bool) -> int:
        if isinstance(self.limit.rule, Quota):
            return self.used + charged
        return ((self.bucket.debt + charged) * self.bucket.m).numerator

    def wait(self, now: int) -> int | None:
        """Microseconds until there is room, None for never."""
        rule = self.limit.rule
        if isinstance(rule, Quota):
            return rule.end - now
        return ceil((self.bucket.debt + 1 - rule.burst) / Fraction(rule.n, rule.m)) if rule.n and rule.burst else None


def _longest(refusals: Sequence[_Look], now: int) -> int | None:
    waits = [look.wait(now) for look in refusals]
    return None if None in waits else max((wait for wait in waits if wait is not None), default=0)


def _restarts(stored: int, quota: Quota) -> bool:
    return quota.start > stored or stored > quota.end + DAY_US


def _before(told: Tally, at: int, limit: Limit) -> int:
    """The state that the script found: its reported state, less the unit that it took."""
    if told.stale or not isinstance(limit.rule, Throttle):
        return 0
    taken = told.refused_by is None and not (limit.shadow and told.shadowed_by)
    return told.states[at] - (limit.rule.m if taken else 0)


def _in_band(debt: Fraction, rule: Throttle, told: int) -> Fraction:
    """Never below the exact debt, at most three units above it; more than the burst counts as the burst."""
    exact, most = debt * rule.m, Fraction(rule.burst * rule.m)
    if exact >= most or not debt:
        return debt
    assert exact <= told <= min(most, exact + BAND), f"{told} is not within {BAND} above {exact}"
    return Fraction(told, rule.m)

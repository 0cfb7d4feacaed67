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

from authz.core.limits import Charge, Limit, Meter, Quota, Throttle
from authz.core.verdict import Tally

DAY_US = 86_400_000_000
BAND = 3

MOST_OF = 0.9  # of a period whose end is not stored

Row = tuple[int, int, int, int]  # requests, left, units, over


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
class Used:
    """The units used of a quota in the period that began at `start`. `finish` is its end, 0 where that is not kept."""

    start: int = 0
    finish: int = 0
    used: int = 0

    def packed(self) -> bytes:
        return struct.pack(">Bddd", 4, self.start, self.finish, self.used)

    def at(self, rule: Quota) -> Used:
        """The state as the rule's period finds it: begun anew, or with a changed end."""
        if self.restarts(rule):
            return Used(rule.start, rule.end if rule.moves else 0, 0)
        if rule.end <= self.start or not (rule.moves or self.finish):
            return self
        return Used(max(self.start, rule.start), rule.end, self.used)

    def restarts(self, rule: Quota) -> bool:
        if self.start > rule.end + DAY_US:  # a wrong clock's
            return True
        if rule.start <= self.start:
            return False
        if self.finish:
            return rule.start >= self.finish or 2 * (rule.end - rule.start) < self.finish - self.start
        return not rule.moves or rule.start >= self.start + (rule.end - rule.start) * MOST_OF


@dataclass(frozen=True)
class Ledger:
    """A caller's bucket, the used units of the period that began at `start`, and the usage of a day."""

    bucket: Bucket
    quota: Used = Used()
    day: int = 0
    row: Row = (0, -1, 0, 0)

    def packed(self) -> bytes:
        requests, left, units, over = self.row
        narrow = (*self.bucket.numbers(), self.quota.start, self.quota.used, self.day, requests, left)
        if not self.quota.finish and units == requests and not over:
            return struct.pack(">Bddddddddd", 2, *narrow)
        return struct.pack(">Bdddddddddddd", 3, *narrow, self.quota.finish, units, over)


@dataclass(frozen=True)
class Alert:
    """A call that took the used units of a quota to a percent of its limit."""

    key: str
    percent: int
    used: int
    start: int


@dataclass
class Model:
    """All state that a Redis holds, and what each request makes of it."""

    retention: int = 400
    buckets: dict[str, Bucket] = field(default_factory=dict)
    quotas: dict[str, Used] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    histories: dict[str, dict[int, Row]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)

    def stored(self) -> dict[str, bytes]:
        """The bytes of each key but the histories."""
        return {key: kept.packed() for key, kept in (self.buckets | self.quotas | self.ledgers).items()}

    def admit(self, charge: Charge, now: int, told: Tally) -> Tally:
        """Return the expected answer; `told` is the script's, used only for a debt within the band of `_in_band`."""
        limits, meter = charge.limits, charge.meter
        if any(isinstance(rule := limit.rule, Quota) and not rule.start <= now < rule.end for limit in limits):
            return Tally(now=now, stale=True)
        looks = [self._look(limit, charge, now, _before(told, at, charge)) for at, limit in enumerate(limits)]
        short = [look for look in looks if not look.has_room]
        refusals = [look for look in short if not look.limit.shadow]
        shadowed = next((look.limit for look in short if look.limit.shadow), None)
        charged = [not refusals and not (look.limit.shadow and shadowed) for look in looks]
        written = {look.limit.key for look, taken in zip(looks, charged, strict=True) if taken or look.writes}
        if meter and not refusals:
            written.add(meter.ledger)
        for look, is_charged in zip(looks, charged, strict=True):
            if look.limit.key in written:
                self._keep(look, meter, now, charged=is_charged)
        if meter and not refusals:
            paid = (look.over for look, taken in zip(looks, charged, strict=True) if taken and not look.limit.shadow)
            over = max(paid, default=0)
            self._count(charge, now, over)
        return Tally(
            now=now,
            states=tuple(look.state(is_charged) for look, is_charged in zip(looks, charged, strict=True)),
            refused_by=refusals[0].limit if refusals else None,
            wait_us=_longest(refusals, now),
            shadowed_by=shadowed,
        )

    def remain(self, meter: Meter, quota: Quota, remaining: int, now: int) -> None:
        """UpdateUsage: the period's used follows from what shall remain; the day has a row from then on."""
        ledger, today = self._ledger(meter.ledger, now), now // DAY_US
        history = self.histories.setdefault(meter.history, {})
        if not today <= ledger.day <= today + 1:
            ledger = self._turned(ledger, history, today)
        used = replace(ledger.quota.at(quota), used=quota.limit - remaining)
        requests, _, units, over = ledger.row
        ledger = replace(ledger, quota=used, row=(requests, remaining, units, over))
        self.ledgers[meter.ledger], history[ledger.day] = ledger, ledger.row
        self._prune(history, today)

    def _look(self, limit: Limit, charge: Charge, now: int, told: int) -> _Look:
        """A limit brought to `now`, and whether a refusal writes that: a changed limit, a step back of the clock."""
        amount = charge.cost if limit.rule.counts_units else 1
        if isinstance(limit.rule, Quota):
            kept_used = self._used(limit, charge.meter)
            used = kept_used.at(limit.rule)
            if not _in_ledger(limit, charge.meter) and not used.finish:
                used = replace(used, finish=limit.rule.end)
            adopts = not kept_used.restarts(limit.rule) and kept_used.at(limit.rule) != kept_used
            return _Look(limit, amount, used=used, writes=adopts)
        kept = self._bucket(limit, charge.meter, now)
        bucket, rule = kept.later(now), limit.rule
        changed = now < kept.at
        if (kept.n, kept.m) != (rule.n, rule.m):
            bucket, changed = replace(bucket, debt=_in_band(bucket.debt, rule, told), n=rule.n, m=rule.m), True
        writes = bucket.debt > 0 and (changed or bucket.debt > rule.burst)
        return _Look(limit, amount, bucket=replace(bucket, debt=min(bucket.debt, Fraction(rule.burst))), writes=writes)

    def _bucket(self, limit: Limit, meter: Meter | None, now: int) -> Bucket:
        if _in_ledger(limit, meter):
            return self._ledger(limit.key, now).bucket
        return self.buckets.get(limit.key, Bucket(now))

    def _ledger(self, key: str, now: int) -> Ledger:
        return self.ledgers.get(key, Ledger(Bucket(now)))

    def _used(self, limit: Limit, meter: Meter | None) -> Used:
        if _in_ledger(limit, meter):
            return self._ledger(limit.key, 0).quota
        return self.quotas.get(limit.key, Used())

    def _keep(self, look: _Look, meter: Meter | None, now: int, *, charged: bool) -> None:
        """Store a limit's new state. A ledger is written whole, so its bucket too."""
        key, own = look.limit.key, _in_ledger(look.limit, meter)
        if isinstance(look.limit.rule, Quota):
            if charged:
                self.alerts += look.alerts(key)
            if not (charged or look.writes):
                return
            used = replace(look.used, used=look.used.used + (look.amount if charged else 0))
            if own:
                self.ledgers[key] = replace(self._ledger(key, now), quota=used)
            else:
                self.quotas[key] = used
            return
        bucket = replace(look.bucket, debt=look.bucket.debt + (look.amount if charged else 0))
        if own:
            self.ledgers[key] = replace(self._ledger(key, now), bucket=bucket)
        else:
            self.buckets[key] = bucket

    def _count(self, charge: Charge, now: int, over: int) -> None:
        """A row of usage for the day; a later day, or a clock that was wrong, closes the one before."""
        meter = charge.meter
        assert meter
        ledger, today = self._ledger(meter.ledger, now), now // DAY_US
        if not today <= ledger.day <= today + 1:
            ledger = self._turned(ledger, self.histories.setdefault(meter.history, {}), today)
        lefts = [
            rule.limit - self._used(limit, meter).at(rule).used
            for limit in charge.limits
            if isinstance(rule := limit.rule, Quota)
        ]
        left = max(0, lefts[0]) if lefts else -1
        requests, _, units, overs = ledger.row
        row = (requests + 1, left, units + charge.cost, overs + over)
        self.ledgers[meter.ledger] = replace(ledger, row=row)

    def _turned(self, ledger: Ledger, history: dict[int, Row], today: int) -> Ledger:
        if ledger.row[0]:
            history[ledger.day] = ledger.row
        row = history.pop(today, (0, -1, 0, 0))
        self._prune(history, today)
        return replace(ledger, day=today, row=row)

    def _prune(self, history: dict[int, Row], today: int) -> None:
        for day in [day for day in history if day < today - self.retention]:
            del history[day]


@dataclass(frozen=True)
class _Look:
    """A limit as a request meets it: a bucket brought to now, or the used units of a quota. It takes `amount`."""

    limit: Limit
    amount: int
    bucket: Bucket = Bucket(0)
    used: Used = Used()
    writes: bool = False

    @property
    def has_room(self) -> bool:
        rule = self.limit.rule
        if not self.amount:
            return True
        if isinstance(rule, Quota):
            return self.used.used + self.amount <= rule.limit + rule.overage
        return self.bucket.debt + self.amount <= rule.burst

    @property
    def over(self) -> int:
        """Units of this call beyond the limit of a quota with overage."""
        rule = self.limit.rule
        if not isinstance(rule, Quota) or not rule.overage:
            return 0
        return max(0, min(self.amount, self.used.used + self.amount - rule.limit))

    def alerts(self, key: str) -> list[Alert]:
        rule, before = self.limit.rule, self.used.used
        assert isinstance(rule, Quota)
        after = before + self.amount
        marks = [(percent, Fraction(percent * rule.limit, 100)) for percent in rule.alerts]
        return [Alert(key, percent, after, rule.start) for percent, mark in marks if before < mark <= after]

    def state(self, charged: bool) -> int:
        amount = self.amount if charged else 0
        if isinstance(self.limit.rule, Quota):
            return self.used.used + amount
        return ((self.bucket.debt + amount) * self.bucket.m).numerator

    def wait(self, now: int) -> int | None:
        """Microseconds until there is room, None for never."""
        rule = self.limit.rule
        if isinstance(rule, Quota):
            return None if rule.end == 2**53 or self.amount > rule.limit + rule.overage else rule.end - now
        if not rule.n or not rule.burst or self.amount > rule.burst:
            return None
        return ceil((self.bucket.debt + self.amount - rule.burst) / Fraction(rule.n, rule.m))


def _in_ledger(limit: Limit, meter: Meter | None) -> bool:
    """True if the state is a slot of the caller's ledger, or of its customer's."""
    return meter is not None and limit.key in (meter.ledger, meter.shared)


def _longest(refusals: Sequence[_Look], now: int) -> int | None:
    waits = [look.wait(now) for look in refusals]
    return None if None in waits else max((wait for wait in waits if wait is not None), default=0)


def _before(told: Tally, at: int, charge: Charge) -> int:
    """The state that the script found: its reported state, less the tokens that it took."""
    limit = charge.limits[at]
    if told.stale or not isinstance(limit.rule, Throttle):
        return 0
    taken = told.refused_by is None and not (limit.shadow and told.shadowed_by)
    amount = charge.cost if limit.rule.counts_units else 1
    return told.states[at] - (amount * limit.rule.m if taken else 0)


def _in_band(debt: Fraction, rule: Throttle, told: int) -> Fraction:
    """Never below the exact debt, at most three units above it; more than the burst counts as the burst."""
    exact, most = debt * rule.m, Fraction(rule.burst * rule.m)
    if exact >= most or not debt:
        return debt
    assert exact <= told <= min(most, exact + BAND), f"{told} is not within {BAND} above {exact}"
    return Fraction(told, rule.m)

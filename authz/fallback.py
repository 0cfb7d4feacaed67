"""The bounded stand-in while Redis is away: this process's share of each limit, in memory (R19)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from authz.core.limits import Layer, Limit, Meter, Quota, Throttle, remaining
from authz.core.periods import DAY_US
from authz.core.verdict import Tally


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process admitted on its own under one quota on one day (days since 1970), to be counted in Redis."""

    meter: Meter
    quota: Quota | None
    day: int
    amount: int


@dataclass(slots=True)
class _Bucket:
    """A debt in 1/m tokens of the share's own rate, at a time in µs; exact, since Python's integers do not end."""

    debt: int = 0
    at: int = 0
    n: int = 0
    m: int = 1

    def reckon(self, rule: Throttle, now: int) -> None:
        """Bring the debt to `now` at the rate it was reckoned under, then to the rule that holds today."""
        self.debt = max(0, self.debt - self.n * max(0, now - self.at))
        self.debt = min(-(-self.debt * rule.m // self.m), rule.burst * rule.m)
        self.at, self.n, self.m = now, rule.n, rule.m


@dataclass(slots=True)
class _Units:
    """Units of a limit that does not refill, and the start of the period (µs; 0 without one) they belong to."""

    start: int
    amount: int


class LocalLimiter:
    """Admits on `1 / processes` of each limit, all or none, and remembers what has to be counted once Redis is back.

    The bound of one outage, over all processes: a bucket admits burst + rate·t, or one a process where the burst is
    smaller than their number; a quota what Redis last reported as left, or one a process. So many reports are kept,
    the latest; of who has none the whole quota is shared out.
    """

    def __init__(self, processes: int = 1, reports: int = 100_000) -> None:
        self._processes = processes
        self._reports = reports
        self._buckets: dict[str, _Bucket] = {}
        self._left: OrderedDict[tuple[str, Layer], _Units] = OrderedDict()
        self._used: dict[str, _Units] = {}
        self._spent: dict[tuple[Meter, Quota | None, int], int] = {}

    @property
    def unsettled(self) -> int:
        """Admitted calls that nobody has come to take yet."""
        return sum(self._spent.values())

    def observe(self, limits: Sequence[Limit], states: Sequence[int]) -> None:
        """Remember what Redis reports as left of the limits that do not refill: they are shared out by it."""
        for limit, state in zip(limits, states, strict=True):
            if isinstance(limit.rule, Quota) or not limit.rule.n:
                self._report(limit.key, limit.layer, _Units(_start(limit), remaining(limit.rule, state)))

    def forget(self, ledgers: Iterable[str] | None) -> None:
        """What was reported as left of these callers' quotas holds no more; None for all of them."""
        for ledger in [key for key, _ in self._left] if ledgers is None else ledgers:
            self._left.pop((ledger, Layer.PLAN_QUOTA), None)

    def admit(self, limits: Sequence[Limit], meter: Meter | None, now: int) -> Tally:
        """A unit from this process's share of each limit, or from none."""
        short = [limit for limit in limits if not self._has_room(limit, now)]
        refused = [limit for limit in short if not limit.shadow]
        shadowed = next((limit for limit in short if limit.shadow), None)
        if not refused:
            charged = [limit for limit in limits if not (limit.shadow and shadowed)]
            self._take(charged)
            self._count(charged, meter, now)
        return Tally(
            now=now,
            states=tuple(self._state(limit) for limit in limits),
            refused_by=refused[0] if refused else None,
            wait_us=self._longest_wait(refused, now),
            shadowed_by=shadowed,
            degraded=True,
        )

    def take_spent(self) -> list[Spent]:
        """What Redis has not been told yet, oldest day first; it is handed over, and not told twice."""
        spent, self._spent = self._spent, {}
        return [
            Spent(meter, quota, day, amount)
            for (meter, quota, day), amount in sorted(spent.items(), key=lambda item: item[0][2])
        ]

    def settled(self, flushed: Spent, left: int | None) -> None:
        """Redis has counted this, and reports what is `left` of the quota; None if it could not be counted.

        What is left is shared out anew. What could not be counted stays in this process's part.
        """
        if flushed.quota is None or left is None:
            return
        start, ledger = flushed.quota.start, flushed.meter.ledger
        self._report(ledger, Layer.PLAN_QUOTA, _Units(start, left))
        used = self._used.get(ledger)
        if used and used.start == start:
            used.amount = max(0, used.amount - flushed.amount)

    def _report(self, key: str, layer: Layer, left: _Units) -> None:
        self._left[key, layer] = left
        self._left.move_to_end((key, layer))
        if len(self._left) > self._reports:
            self._left.popitem(last=False)

    def _share(self, limit: Limit) -> Throttle | Quota:
        """This process's part of a rule: at least one unit, but 0 stays 0."""
        rule, parts = limit.rule, self._processes
        if isinstance(rule, Quota) or not rule.n:
            size = rule.limit if isinstance(rule, Quota) else rule.burst
            told = self._left.get((limit.key, limit.layer))
            left = min(size, told.amount) if told and told.start >= _start(limit) else size
            part = max(1, left // parts) if left else 0
            return replace(rule, limit=part) if isinstance(rule, Quota) else replace(rule, burst=part)
        return replace(rule, burst=max(1, rule.burst // parts) if rule.burst else 0, m=rule.m * parts)

    def _used_of(self, limit: Limit) -> int:
        """What this process admitted in the quota's period and Redis has not counted yet."""
        used = self._used.get(limit.key)
        return used.amount if used and used.start >= _start(limit) else 0

    def _has_room(self, limit: Limit, now: int) -> bool:
        share = self._share(limit)
        if isinstance(share, Quota):
            return self._used_of(limit) < share.limit
        bucket = self._buckets.setdefault(limit.key, _Bucket())
        bucket.reckon(share, now)
        return bucket.debt <= (share.burst - 1) * share.m

    def _take(self, limits: Sequence[Limit]) -> None:
        for limit in limits:
            if isinstance(limit.rule, Quota):
                used = self._used.get(limit.key)
                start = max(limit.rule.start, used.start if used else 0)  # a period only moves forward
                self._used[limit.key] = _Units(start, self._used_of(limit) + 1)
            else:
                self._buckets[limit.key].debt += self._buckets[limit.key].m

    def _count(self, charged: Sequence[Limit], meter: Meter | None, now: int) -> None:
        if meter:
            quota = next((limit.rule for limit in charged if isinstance(limit.rule, Quota)), None)
            key = (meter, quota, now // DAY_US)
            self._spent[key] = self._spent.get(key, 0) + 1

    def _state(self, limit: Limit) -> int:
        """The state in the limit's own units that leaves what this process has left."""
        share = self._share(limit)
        if isinstance(share, Quota):
            assert isinstance(limit.rule, Quota)
            return limit.rule.limit - max(0, share.limit - self._used_of(limit))
        assert isinstance(limit.rule, Throttle)
        return (limit.rule.burst - remaining(share, self._buckets[limit.key].debt)) * limit.rule.m

    def _longest_wait(self, refused: Sequence[Limit], now: int) -> int | None:
        """Microseconds until all of these would have room; None if one never will."""
        waits = list(self._waits(refused, now))
        return None if None in waits else max((wait for wait in waits if wait is not None), default=0)

    def _waits(self, refused: Sequence[Limit], now: int) -> Iterator[int | None]:
        for limit in refused:
            share = self._share(limit)
            if isinstance(share, Quota):
                yield share.end - now
            elif not share.n or not share.burst:
                yield None
            else:
                yield -(-(self._buckets[limit.key].debt - (share.burst - 1) * share.m) // share.n)


def _start(limit: Limit) -> int:
    return limit.rule.start if isinstance(limit.rule, Quota) else 0

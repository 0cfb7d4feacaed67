"""The bounded stand-in while Redis is away: this process's share of each limit, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from authz.core.limits import Layer, Limit, Meter, Quota, Throttle, remaining
from authz.core.periods import DAY_US
from authz.core.recent import Recent
from authz.core.verdict import Tally

LOOKED_AT: Final = 2  # of what is kept, with each newcomer: enough to shrink while newcomers come

T = TypeVar("T")


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

    def is_full_at(self, now: int) -> bool:
        """Whether it has nothing to remember: a new one would decide the same."""
        return self.debt <= self.n * max(0, now - self.at)

    def reckon(self, rule: Throttle, now: int) -> None:
        """Bring the debt to `now` at the rate it was reckoned under, then to the rule that holds today."""
        self.debt = max(0, self.debt - self.n * max(0, now - self.at))
        self.debt = min(-(-self.debt * rule.m // self.m), rule.burst * rule.m)
        self.at, self.n, self.m = now, rule.n, rule.m


@dataclass(slots=True)
class _Used:
    """Units of a quota that Redis has not counted, and the period [start, end) in µs they belong to."""

    start: int
    end: int
    amount: int

    def is_over_at(self, now: int) -> bool:
        """Whether the period ended so long ago that no clock steps back into it."""
        return self.end + DAY_US < now


class LocalLimiter:
    """Admits on `1 / processes` of each limit, all or none, and remembers what has to be counted once Redis is back.

    The bound of one outage, over all processes: a bucket admits burst + rate·t, or one a process where the burst is
    smaller than their number; a quota what Redis last reported as left, or one a process. At most so many reports are
    kept; of who has none the whole quota is shared out.

    What is spent is never evicted, or it could be spent again: it is kept until its bucket is full and its period over.
    Only callers that are known spend anything, so there is no more of it than the catalog and the memory of keys hold.
    """

    def __init__(self, processes: int = 1, reports: int = 100_000) -> None:
        self._processes = processes
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._used: OrderedDict[str, _Used] = OrderedDict()
        self._quotas: Recent[str, tuple[Quota, int]] = Recent(reports)  # by ledger, as reported
        self._finite: Recent[tuple[str, Layer], int] = Recent(reports)  # what is left of buckets that do not refill
        self._spent: dict[tuple[Meter, Quota | None, int], int] = {}

    @property
    def unsettled(self) -> int:
        """Admitted calls that nobody has come to take yet."""
        return sum(self._spent.values())

    def observe(self, limits: Sequence[Limit], states: Sequence[int]) -> None:
        """Remember what Redis reports of the limits that do not refill: what is left of them is shared out.

        This is called for every answer. So a quota's report is kept as it is, and reckoned when an outage needs it.
        """
        for position, limit in enumerate(limits):
            rule = limit.rule
            if isinstance(rule, Quota):
                self._quotas.put(limit.key, (rule, states[position]))
            elif not rule.n:
                self._finite.put((limit.key, limit.layer), remaining(rule, states[position]))

    def forget(self, ledgers: Iterable[str] | None) -> None:
        """What was reported as left of these callers' quotas holds no more; None for all of them."""
        if ledgers is None:
            self._quotas.clear()
        for ledger in ledgers or ():
            self._quotas.drop(ledger)

    def admit(self, limits: Sequence[Limit], meter: Meter | None, now: int) -> Tally:
        """A unit from this process's share of each limit, or from none."""
        buckets, callers = len(self._buckets), len(self._used)
        tally = self._decide(limits, meter, now)
        _shed(self._buckets, lambda bucket: bucket.is_full_at(now), len(self._buckets) - buckets)
        _shed(self._used, lambda used: used.is_over_at(now), len(self._used) - callers)
        return tally

    def _decide(self, limits: Sequence[Limit], meter: Meter | None, now: int) -> Tally:
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
        quota, ledger = flushed.quota, flushed.meter.ledger
        self._quotas.put(ledger, (quota, quota.limit - left))
        used = self._used.get(ledger)
        if used and used.start == quota.start:
            used.amount = max(0, used.amount - flushed.amount)

    def _share(self, limit: Limit) -> Throttle | Quota:
        """This process's part of a rule: at least one unit, but 0 stays 0."""
        rule, parts = limit.rule, self._processes
        if isinstance(rule, Quota):
            return replace(rule, limit=_part(self._left_of_quota(limit.key, rule), parts))
        if not rule.n:
            told = self._finite.get((limit.key, limit.layer))
            return replace(rule, burst=_part(rule.burst if told is None else min(rule.burst, told), parts))
        return replace(rule, burst=_part(rule.burst, parts), m=rule.m * parts)

    def _left_of_quota(self, ledger: str, quota: Quota) -> int:
        """What Redis last reported, if of this period or a later one."""
        told, used = self._quotas.get(ledger) or (quota, 0)
        return min(quota.limit, remaining(told, used)) if told.start >= quota.start else quota.limit

    def _used_of(self, limit: Limit) -> int:
        """What this process admitted in the quota's period and Redis has not counted yet."""
        used = self._used.get(limit.key)
        assert isinstance(limit.rule, Quota)
        return used.amount if used and used.start >= limit.rule.start else 0

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
                self._use(limit.key, limit.rule)
            else:
                self._buckets[limit.key].debt += self._buckets[limit.key].m

    def _use(self, ledger: str, quota: Quota) -> None:
        used = self._used.setdefault(ledger, _Used(quota.start, quota.end, 0))
        if used.start < quota.start:  # a period only moves forward
            used.start, used.end, used.amount = quota.start, quota.end, 0
        used.amount += 1

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


def _part(units: int, parts: int) -> int:
    return max(1, units // parts) if units else 0


def _shed(kept: OrderedDict[str, T], is_done: Callable[[T], bool], newcomers: int) -> None:
    """For each newcomer look at those that were looked at longest ago, and drop what is done."""
    for _ in range(min(LOOKED_AT * newcomers, len(kept))):
        key, value = kept.popitem(last=False)
        if not is_done(value):
            kept[key] = value

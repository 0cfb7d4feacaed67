"""The bounded stand-in while Redis is away: this process's share of each limit, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, refilled, remaining, room_us
from authz.core.periods import DAY_US
from authz.core.recent import Recent
from authz.core.verdict import Tally

LOOKED_AT: Final = 2  # entries that are checked for each new one: enough to shrink while new ones come

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spent:
    """Units that a process admitted without Redis, under one quota on one day (days since 1970)."""

    meter: Meter
    quota: Quota | None
    day: int
    amount: int


@dataclass(slots=True)
class _Bucket:
    """The debt of a share, in 1/m tokens of that share's rate, at a time in µs. Python's integers keep it exact."""

    share: Throttle
    at: int
    debt: int = 0

    def is_full_at(self, now: int) -> bool:
        """True if the bucket decides as a new one would."""
        return not refilled(self.share, self.debt, max(0, now - self.at))

    def reckon(self, share: Throttle, now: int) -> None:
        """Refill until `now` at the old rate, then convert the debt to today's share."""
        debt = refilled(self.share, self.debt, max(0, now - self.at))
        self.debt = min(-(-debt * share.m // self.share.m), share.burst * share.m)
        self.at, self.share = now, share


@dataclass(slots=True)
class _Used:
    """Units of a quota that Redis has not counted, and their period [start, end) in µs."""

    start: int
    end: int
    amount: int

    def is_over_at(self, now: int) -> bool:
        """True if the period ended so long ago that no clock steps back into it."""
        return self.end + DAY_US < now


class LocalLimiter:
    """Admits on `1 / processes` of each limit, all or none, and remembers the units to count once Redis is back.

    The bound of one outage, over all processes: a bucket admits burst + rate·t, or one unit a process where the burst
    is smaller than their number. A quota admits the units that Redis last reported as left, or one a process. At most
    `reports` such reports are kept; a caller without a report shares out the whole quota.

    An entry stays until its bucket is full or its period is over, or its units could be spent again. Only known callers
    have entries, so their number is bounded by the catalog and the key cache.
    """

    def __init__(self, processes: int = 1, reports: int = 100_000) -> None:
        self._processes = processes
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._used: OrderedDict[str, _Used] = OrderedDict()
        self._quotas: Recent[str, tuple[Quota, int]] = Recent(reports)  # the last report of each ledger
        self._finite: Recent[tuple[str, Layer], int] = Recent(reports)  # units left in buckets that do not refill
        self._spent: dict[tuple[Meter, Quota | None, int], int] = {}

    @property
    def owed(self) -> int:
        """Admitted calls that `take_spent` has not returned yet."""
        return sum(self._spent.values())

    def observe(self, limits: Sequence[Limit], states: Sequence[int]) -> None:
        """Remember Redis's report of the limits that do not refill: an outage shares out the units that are left.

        This runs for every answer, so a quota's report is stored as it is and evaluated only in an outage.
        """
        for position, limit in enumerate(limits):
            rule = limit.rule
            if isinstance(rule, Quota):
                self._quotas.put(limit.key, (rule, states[position]))
            elif not rule.n:
                self._finite.put((limit.key, limit.layer), remaining(rule, states[position]))

    def forget(self, ledgers: Iterable[str] | None) -> None:
        """Forget the reports of these callers' quotas, or of all."""
        if ledgers is None:
            self._quotas.clear()
        for ledger in ledgers or ():
            self._quotas.drop(ledger)

    def admit(self, charge: Charge, now: int) -> Tally:
        """Take a charge from this process's share of each limit, or from none."""
        buckets, callers = len(self._buckets), len(self._used)
        tally = self._decide(charge, now)
        _shed(self._buckets, lambda bucket: bucket.is_full_at(now), len(self._buckets) - buckets)
        _shed(self._used, lambda used: used.is_over_at(now), len(self._used) - callers)
        return tally

    def _decide(self, charge: Charge, now: int) -> Tally:
        limits, meter = charge.limits, charge.meter
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
        """Return the units that Redis does not know, oldest day first. Each is returned once."""
        spent, self._spent = self._spent, {}
        return [
            Spent(meter, quota, day, amount)
            for (meter, quota, day), amount in sorted(spent.items(), key=lambda item: item[0][2])
        ]

    def counted(self, flushed: Spent, left: int | None) -> None:
        """Note that Redis has counted these units and reports `left` of the quota; None if it could not count them.

        The units left are shared out anew. Units that could not be counted stay charged to this process's share.
        """
        if flushed.quota is None or left is None:
            return
        quota, ledger = flushed.quota, flushed.meter.ledger
        self._quotas.put(ledger, (quota, quota.limit - left))
        used = self._used.get(ledger)
        if used and used.start == quota.start:
            used.amount = max(0, used.amount - flushed.amount)

    def _share(self, limit: Limit) -> Throttle | Quota:
        """This process's share of a rule: at least one unit, but a limit of 0 stays 0."""
        rule, parts = limit.rule, self._processes
        if isinstance(rule, Quota):
            return replace(rule, limit=_part(self._left_of_quota(limit.key, rule), parts))
        if not rule.n:
            left = self._finite.get((limit.key, limit.layer))
            return replace(rule, burst=_part(rule.burst if left is None else min(rule.burst, left), parts))
        return replace(rule, burst=_part(rule.burst, parts), m=rule.m * parts)

    def _left_of_quota(self, ledger: str, quota: Quota) -> int:
        """The units that Redis last reported as left, if the report is of this period or a later one."""
        reported, used = self._quotas.get(ledger) or (quota, 0)
        return min(quota.limit, remaining(reported, used)) if reported.start >= quota.start else quota.limit

    def _state_of_share(self, limit: Limit) -> int:
        """The bucket's debt, or the units of the quota's period that Redis has not counted yet."""
        if not isinstance(limit.rule, Quota):
            return self._buckets[limit.key].debt
        used = self._used.get(limit.key)
        return used.amount if used and used.start >= limit.rule.start else 0

    def _has_room(self, limit: Limit, now: int) -> bool:
        share = self._share(limit)
        if isinstance(share, Throttle):
            self._buckets.setdefault(limit.key, _Bucket(share, now)).reckon(share, now)
        return remaining(share, self._state_of_share(limit)) > 0

    def _take(self, limits: Sequence[Limit]) -> None:
        for limit in limits:
            if isinstance(limit.rule, Quota):
                self._use(limit.key, limit.rule)
            else:
                bucket = self._buckets[limit.key]
                bucket.debt += bucket.share.m

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
        """The state of the whole limit that leaves as many units as this process's share has left."""
        rule, left = limit.rule, remaining(self._share(limit), self._state_of_share(limit))
        return rule.limit - left if isinstance(rule, Quota) else (rule.burst - left) * rule.m

    def _longest_wait(self, refused: Sequence[Limit], now: int) -> int | None:
        """Microseconds until all of these have room; None if one never will."""
        waits = [room_us(self._share(limit), self._state_of_share(limit), now) for limit in refused]
        return None if None in waits else max((wait for wait in waits if wait is not None), default=0)


def _part(units: int, parts: int) -> int:
    return max(1, units // parts) if units else 0


def _shed(kept: OrderedDict[str, T], is_done: Callable[[T], bool], newcomers: int) -> None:
    """Check a few entries for each newcomer, those checked longest ago first, and drop the entries that are done."""
    for _ in range(min(LOOKED_AT * newcomers, len(kept))):
        key, value = kept.popitem(last=False)
        if not is_done(value):
            kept[key] = value

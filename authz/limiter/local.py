"""The bounded stand-in while Redis is away: this process's share of each limit, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from authz.core.limits import (
    Charge,
    Layer,
    Limit,
    Meter,
    Quota,
    Throttle,
    amount_of,
    has_room,
    refilled,
    remaining,
    reset_us,
    room_us,
)
from authz.core.recent import Recent
from authz.core.verdict import Tally
from authz.core.zones import DAY_US

LOOKED_AT: Final = 2  # entries that are checked for each new one: enough to shrink while new ones come

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls that a process admitted without Redis, under the same quotas on one day (days since 1970)."""

    meter: Meter
    quotas: tuple[Limit, ...]
    day: int
    requests: int
    units: int

    def amount(self, limit: Limit) -> int:
        """What the calls took from one of the quotas."""
        return self.units if limit.rule.counts_units else self.requests


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
        self._spent: dict[tuple[Meter, tuple[Limit, ...], int], tuple[int, int]] = {}  # to requests and units

    @property
    def owed(self) -> int:
        """Admitted calls that `take_spent` has not returned yet."""
        return sum(requests for requests, _ in self._spent.values())

    def observe(self, limits: Sequence[Limit], states: Sequence[int]) -> None:
        """Remember Redis's report of the limits that do not refill: an outage shares out the units that are left.

        This runs for every answer, so a quota's report is stored as it is and evaluated only in an outage.
        """
        for position, limit in enumerate(limits):
            rule = limit.rule
            if isinstance(rule, Throttle):  # most rules are, and to see that one is not takes four times as long
                if not rule.n:
                    self._finite.put((limit.key, limit.layer), remaining(rule, states[position]))
            else:
                self._quotas.put(limit.key, (rule, states[position]))

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
        limits = charge.limits
        short = [limit for limit in limits if not self._has_room(limit, charge.cost, now)]
        refused = [limit for limit in short if not limit.shadow]
        shadowed = next((limit for limit in short if limit.shadow), None)
        if not refused:
            charged = [limit for limit in limits if not (limit.shadow and shadowed)]
            self._take(charged, charge.cost)
            if charge.meter:
                quotas = tuple(limit for limit in charged if isinstance(limit.rule, Quota))
                key = (charge.meter, quotas, now // DAY_US)
                requests, units = self._spent.get(key, (0, 0))
                self._spent[key] = requests + 1, units + charge.cost
        # Until all of them have room; None if one never will.
        waits = [self._wait(limit, amount_of(limit.rule, charge.cost), now) for limit in refused]
        return Tally(
            now=now,
            states=tuple(self._state(limit) for limit in limits),
            refused_by=refused[0] if refused else None,
            wait_us=None if None in waits else max((wait for wait in waits if wait is not None), default=0),
            shadowed_by=shadowed,
            degraded=True,
        )

    def take_spent(self) -> list[Spent]:
        """Return the units that Redis does not know, oldest day first. Each is returned once."""
        spent, self._spent = self._spent, {}
        return [
            Spent(meter, quotas, day, requests, units)
            for (meter, quotas, day), (requests, units) in sorted(spent.items(), key=lambda item: item[0][2])
        ]

    def counted(self, flushed: Spent, used_units: Sequence[int | None]) -> None:
        """Note that Redis has counted these calls and reports the used units of each quota, None for another period.

        The units left are shared out anew. Units that could not be counted stay charged to this process's share.
        """
        for limit, units in zip(flushed.quotas, used_units, strict=False):
            quota = limit.rule
            if units is None or not isinstance(quota, Quota):
                continue
            self._quotas.put(limit.key, (quota, units))
            used = self._used.get(limit.key)
            if used and used.start == quota.start:
                used.amount = max(0, used.amount - flushed.amount(limit))

    def _share(self, limit: Limit) -> Throttle | Quota:
        """This process's share of a rule: at least one unit, but a limit of 0 stays 0."""
        rule, parts = limit.rule, self._processes
        if isinstance(rule, Quota):
            return self._share_of_quota(limit.key, rule)
        if not rule.n:
            left = self._finite.get((limit.key, limit.layer))
            return replace(rule, burst=_part(rule.burst if left is None else min(rule.burst, left), parts))
        return replace(rule, burst=_part(rule.burst, parts), m=rule.m * parts)

    def _share_of_quota(self, key: str, quota: Quota) -> Quota:
        """This process's share of the units that Redis last reported as left, and of the overage that is left.

        A report counts if it is of this period or a later one.
        """
        reported, used = self._quotas.get(key) or (quota, 0)
        if reported.start < quota.start:
            reported, used = quota, 0
        limit = _part(min(quota.limit, remaining(reported, used)), self._processes)
        ceiling = _part(max(0, min(quota.ceiling, quota.ceiling - used)), self._processes)
        return replace(quota, limit=limit, overage=max(0, ceiling - limit) if quota.overage else 0)

    def _state_of_share(self, limit: Limit) -> int:
        """The bucket's debt, or the units of the quota's period that Redis has not counted yet."""
        if not isinstance(limit.rule, Quota):
            return self._buckets[limit.key].debt
        used = self._used.get(limit.key)
        return used.amount if used and used.start >= limit.rule.start else 0

    def _has_room(self, limit: Limit, cost: int, now: int) -> bool:
        share = self._share(limit)
        if isinstance(share, Throttle):
            self._buckets.setdefault(limit.key, _Bucket(share, now)).reckon(share, now)
        return has_room(share, self._state_of_share(limit), amount_of(share, cost))

    def _take(self, limits: Sequence[Limit], cost: int) -> None:
        for limit in limits:
            rule = limit.rule
            amount = amount_of(rule, cost)
            if isinstance(rule, Throttle):
                bucket = self._buckets[limit.key]
                bucket.debt += amount * bucket.share.m
                continue
            used = self._used.setdefault(limit.key, _Used(rule.start, rule.end, 0))
            if used.start < rule.start:  # a period only moves forward
                used.start, used.end, used.amount = rule.start, rule.end, 0
            used.amount += amount

    def _state(self, limit: Limit) -> int:
        """The state of the whole limit that leaves as many units as this process's share has left."""
        rule, share, state = limit.rule, self._share(limit), self._state_of_share(limit)
        left = remaining(share, state)
        if not isinstance(rule, Quota):
            return (rule.burst - left) * rule.m
        over = max(0, state - share.limit) if isinstance(share, Quota) and rule.overage else 0
        return rule.limit - left + over

    def _wait(self, limit: Limit, amount: int, now: int) -> int | None:
        """Microseconds until the share has room. An amount that only the whole limit has room for waits for Redis.

        Until when is unknown, so it is given the time in which the share is whole again.
        """
        rule, share, state = limit.rule, self._share(limit), self._state_of_share(limit)
        wait = room_us(share, state, now, amount)
        if wait is None and room_us(rule, state, now, amount) is not None:
            return max(1, reset_us(share, state, now) or 0)
        return wait


def _part(units: int, parts: int) -> int:
    return max(1, units // parts) if units else 0


def _shed(kept: OrderedDict[str, T], is_done: Callable[[T], bool], newcomers: int) -> None:
    """Check a few entries for each newcomer, those checked longest ago first, and drop the entries that are done."""
    for _ in range(min(LOOKED_AT * newcomers, len(kept))):
        key, value = kept.popitem(last=False)
        if not is_done(value):
            kept[key] = value

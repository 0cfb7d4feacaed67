"""Gathers the figures of an account from the records of its callers, some at a time, in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from authz.aws.usage import CallerUse, RefusedRow
from authz.core.holders import HeldQuota, Holder, held_quotas, used_in
from authz.core.stored import StoredPlan
from authz.store.figures import KEPT, KEPT_PLANS, CallerSums, NearQuota, Overview, PlanSums, Sums
from authz.store.ports import Survey

T = TypeVar("T")

NEAR: Final = 80  # percent of a quota
MAX_CUSTOMERS: Final = 100_000  # of one plan, counted with a quota near its limit


class Best(Generic[T]):
    """The `count` greatest of the items that were added; of equal ones, the first."""

    def __init__(self, count: int, size: Callable[[T], int]) -> None:
        self._count = count
        self._size = size
        self._heap: list[tuple[int, int, T]] = []
        self._added = 0

    def add(self, item: T) -> None:
        """Add an item, unless its size is 0."""
        size = self._size(item)
        self._added += 1
        if not size or (len(self._heap) == self._count and size <= self._heap[0][0]):
            return
        entry = (size, -self._added, item)
        (heapq.heappush if len(self._heap) < self._count else heapq.heapreplace)(self._heap, entry)

    def items(self) -> tuple[T, ...]:
        """The greatest first."""
        return tuple(item for *_, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))


@dataclass(slots=True)
class PlanGathering:
    """The figures of one plan so far. `days` has the sums of each day that is read, `figures` those of `day`."""

    plan: StoredPlan
    day: int
    days: dict[int, Sums]
    figures: PlanSums
    customers: set[str] = field(default_factory=set)


class Gathering:
    """The figures of an account so far: of the last of `days`, and the sums of them all. `days` ascend."""

    def __init__(self, days: Sequence[int]) -> None:
        self.days = days
        self.totals: dict[int, Sums] = {}
        self._day = days[-1]
        self._total = PlanSums("")
        self._plans = Best[PlanSums](KEPT_PLANS, _calls)
        self._top = Best[CallerSums](KEPT, lambda caller: caller.sums.requests)
        self._by_throttle = Best[CallerSums](KEPT, lambda caller: caller.sums.by_throttle)
        self._by_quota = Best[CallerSums](KEPT, lambda caller: caller.sums.by_quota)
        self._shadow = Best[CallerSums](KEPT, lambda caller: sum(caller.sums[-2:]))
        self._near = Best[NearQuota](KEPT, lambda near: near.used * 1_000_000 // near.limit)

    def begin(self, plan: StoredPlan) -> PlanGathering:
        return PlanGathering(plan, self._day, {}, PlanSums(plan.plan.id))

    def add(self, into: PlanGathering, held: Mapping[str, Held], survey: Survey) -> None:
        """Add some keys of a plan. `held` has their quotas, by key id."""
        into.figures = into.figures.plus(PlanSums(into.plan.plan.id, keys=len(held)))
        for key_id, record in survey.records.items():
            self._add_days(into, key_id, record)
        for key_id, (holder, quotas) in held.items():
            if quotas:
                self._add_quotas(into, holder, quotas, survey.records.get(key_id), survey)

    def end(self, plan: PlanGathering) -> None:
        self._plans.add(plan.figures)
        self._total = self._total.plus(plan.figures)
        for day, sums in plan.days.items():
            self.totals[day] = self.totals.get(day, Sums()).plus(sums)

    def overview(self, began: int, ended: int, first_day: int) -> Overview:
        return Overview(
            self._day,
            began,
            ended,
            first_day,
            self._total,
            self._plans.items(),
            self._top.items(),
            self._by_throttle.items(),
            self._by_quota.items(),
            self._shadow.items(),
            self._near.items(),
        )

    def _add_days(self, into: PlanGathering, key_id: str, record: CallerUse) -> None:
        for day in record.rows.keys() | record.refused.keys():
            if day not in self.days:
                continue
            row, refused = record.rows.get(day), record.refused.get(day, RefusedRow())
            sums = Sums(row.requests, row.units, row.over, *refused) if row else Sums(0, 0, 0, *refused)
            if not any(sums):
                continue
            into.days[day] = into.days[day].plus(sums) if day in into.days else sums
            if day == self._day:
                into.figures = into.figures.plus(PlanSums(into.plan.plan.id, callers=1, sums=sums))
                caller = CallerSums(into.plan.plan.id, key_id, sums)
                for best in (self._top, self._by_throttle, self._by_quota, self._shadow):
                    best.add(caller)

    def _add_quotas(
        self,
        into: PlanGathering,
        holder: Holder,
        quotas: Sequence[HeldQuota],
        record: CallerUse | None,
        survey: Survey,
    ) -> None:
        near = [one for quota in quotas if (one := _near(into.plan, holder, quota, record, survey))]
        if not near:
            return
        if holder.is_customer:
            # The quotas may have been added with another key. Customers past MAX_CUSTOMERS are left out.
            if holder.id in into.customers or len(into.customers) >= MAX_CUSTOMERS:
                return
            into.customers.add(holder.id)
        full = sum(one.used >= one.limit for one in near)
        into.figures = into.figures.plus(PlanSums(into.plan.plan.id, near=len(near) - full, full=full))
        for one in near:
            self._near.add(one)


def _calls(plan: PlanSums) -> int:
    """The calls of a plan; those of a plan without calls and with a quota near its limit count as a few."""
    return plan.sums.requests + plan.sums.by_throttle + plan.sums.by_quota or plan.near + plan.full


Held = tuple[Holder, tuple[HeldQuota, ...]]


def held_of(plan: StoredPlan, holders: Mapping[str, Holder]) -> dict[str, Held]:
    """The quotas of a plan for each holder, by key id."""
    if not plan.plan.all_quotas:
        return {key_id: (holder, ()) for key_id, holder in holders.items()}
    return {key_id: (holder, held_quotas(plan.plan, holder)) for key_id, holder in holders.items()}


def apart(held: Iterable[Held]) -> list[HeldQuota]:
    """The quotas whose state is not in a caller's ledger, each once."""
    return list({quota.name: quota for _, quotas in held for quota in quotas if quota.place != "ledger"}.values())


def _near(
    plan: StoredPlan, holder: Holder, quota: HeldQuota, record: CallerUse | None, survey: Survey
) -> NearQuota | None:
    """The quota, if at least NEAR percent of its limit are used."""
    in_ledger = record.state if record else None
    state = in_ledger if quota.place == "ledger" else survey.states.get(quota.name)
    settings = quota.settings
    if state is None or state.used * 100 < NEAR * settings.limit:
        return None
    rule = quota.at(survey.now)
    used = used_in(state, rule)
    if used * 100 < NEAR * settings.limit:
        return None
    return NearQuota(
        plan.plan.id,
        None if holder.is_customer else holder.id,
        holder.id if holder.is_customer else None,
        settings.period,
        settings.counts,
        settings.limit,
        used,
        rule.finite_end,
    )

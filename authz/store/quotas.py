"""The quotas of a key or customer in a plan, as an operator names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from authz.core.holders import HeldQuota, Holder, Terms, held_quotas, restarts, shares_limits
from authz.core.resources import Counts, LimitsPer, Period
from authz.core.stored import StoredCustomer, StoredKey, StoredPlan
from authz.core.zones import iso_time
from authz.store.audit import printable
from authz.store.keys import customer_terms
from authz.store.ports import ItemSource, StoreUnavailable, Usage

REASON_LENGTH: Final = 250  # characters, as of a warning in the audit


class UnknownName(LookupError):  # noqa: N818  (an answer to the caller)
    """There is no such plan or key, or the key is not in the plan. `kind` is the kind of the missing item."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name}")
        self.kind = kind


class UnfitName(ValueError):  # noqa: N818  (an answer to the caller)
    """The named key, customer or quota does not fit the plan. The message says what would."""


@dataclass(frozen=True, slots=True)
class Held:
    """A plan, the holder of its quotas, and those quotas."""

    plan: StoredPlan
    holder: Holder
    quotas: tuple[HeldQuota, ...]

    def quota(self, period: Period | None, counts: Counts | None) -> HeldQuota:
        """The quota of this period and measure; both may be left out where one quota is meant. Raises UnfitName."""
        found = [
            quota
            for quota in self.quotas
            if period in (None, quota.settings.period) and counts in (None, quota.settings.counts)
        ]
        if len(found) == 1:
            return found[0]
        plan_id = self.plan.plan.id
        if not self.quotas:
            raise UnfitName(f"usage plan {plan_id} has no quota")
        has = ", ".join(f"{quota.settings.period} {quota.settings.counts}" for quota in self.quotas)
        what = " ".join(filter(None, ("more than one quota" if found else "no quota", period, counts)))
        raise UnfitName(f"usage plan {plan_id} has {what}; it has: {has}")


@dataclass(frozen=True, slots=True)
class Standing:
    """The units used of a quota's period [start, end), in µs; `end` is None for a period that never ends."""

    quota: HeldQuota
    used: int
    start: int
    end: int | None

    @property
    def remaining(self) -> int:
        return max(0, self.quota.settings.limit - self.used)

    @property
    def overage(self) -> int:
        return max(0, self.used - self.quota.settings.limit)


async def find_held(source: ItemSource, plan_id: str, key_id: str | None, customer_id: str | None) -> Held:
    """Find the quotas of a key or a customer in a plan; the quotas of a key may be its customer's.

    Raises UnknownName and UnfitName.
    """
    plan = await source.get("usageplan", plan_id)
    if not isinstance(plan, StoredPlan):
        raise UnknownName("usageplan", plan_id)
    if (key_id is None) is (customer_id is None):
        raise UnfitName("name a key or a customer, and not both")
    if key_id is not None:
        key = await source.get("apikey", key_id)
        if not isinstance(key, StoredKey) or plan.ref not in key.plans:
            raise UnknownName("apikey", f"{key_id} in usage plan {plan_id}")
        holder = (await holders(source, plan, [key]))[key_id]
    elif plan.plan.limits_per is LimitsPer.CUSTOMER:
        (holder,) = await _customers(source, plan, [customer_id or ""])
    else:
        raise UnfitName(f"the limits of usage plan {plan_id} are per key; name a key")
    return Held(plan, holder, held_quotas(plan.plan, holder))


async def holders(source: ItemSource, plan: StoredPlan, keys: Sequence[StoredKey]) -> Mapping[str, Holder]:
    """The holders of a plan's quotas, by the ids of these keys."""
    ids = dict.fromkeys(key.key.customer_id or "" for key in keys if shares_limits(plan.plan, key.key.customer_id))
    customers = dict(zip(ids, await _customers(source, plan, list(ids)), strict=True))
    return {
        key.key.id: customers.get(key.key.customer_id or "")
        or Holder.of(key.key.id, Terms(key.key.billing_day, key.overrides), plan.ref)
        for key in keys
    }


async def standings(usage: Usage, held: Held) -> list[Standing]:
    """The standing of each quota now. Raises StoreUnavailable if a state in Redis is not ours."""
    reading = await usage.states(held.quotas)
    found = []
    for quota, state in zip(held.quotas, reading.states, strict=True):
        if state is None:
            raise StoreUnavailable("bad state in Redis")
        rule = quota.at(reading.now)
        is_new = restarts(state, rule)
        start = rule.start if is_new else max(rule.start, state.start)
        found.append(Standing(quota, 0 if is_new else state.used, start, rule.finite_end))
    return found


async def _customers(source: ItemSource, plan: StoredPlan, ids: Sequence[str]) -> list[Holder]:
    """A customer need not be listed; then nothing is overridden."""
    return [
        Holder.of(
            customer_id,
            customer_terms(found if isinstance(found, StoredCustomer) else None),
            plan.ref,
            is_customer=True,
        )
        for customer_id, found in zip(ids, await source.many("customer", ids) if ids else [], strict=True)
    ]


# --- in words -----------------------------------------------------------------------------------------------------


def quota_words(held: Held, quota: HeldQuota) -> str:
    """The plan, the holder and the quota, for a line of the audit."""
    holder, settings = held.holder, quota.settings
    who = f"customer {printable(holder.id)}" if holder.is_customer else holder.id
    return f"{held.plan.plan.id} {who} {settings.period} {settings.counts}"


def grant_line(operation: str, held: Held, quota: HeldQuota, units: int, name: str, reason: str) -> str:
    """The line of a grant in the audit."""
    return f"{operation} {quota_words(held, quota)} units=+{units} name={printable(name)} reason={printable(reason)}"


def standing_document(standing: Standing) -> dict[str, object]:
    """A quota's standing as JSON has it."""
    settings = standing.quota.settings
    period = {} if standing.end is None else {"start": iso_time(standing.start), "end": iso_time(standing.end)}
    return {
        "period": settings.period,
        "counts": settings.counts,
        "limit": settings.limit,
        "used": standing.used,
        "remaining": standing.remaining,
        "overage": standing.overage,
        **period,
    }

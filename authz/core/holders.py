"""Who has the quotas of a plan, under which numbers, and where Redis keeps their states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from authz.core.limits import EXACT, Quota, redis_key
from authz.core.periods import interval
from authz.core.resources import Anchor, Counts, LimitsPer, Override, Period, QuotaSettings, UsagePlan
from authz.core.zones import DAY_US

Place = Literal["ledger", "shared", "value"]  # of a state: the caller's ledger, a customer's ledger, a value of its own
Kind = Literal["ledger", "method", "quota"]  # of Redis keys, before the plan and its holder
NO_OVERRIDES: Final[Mapping[str, Override]] = MappingProxyType({})

MOST_OF = 0.9  # of a period: an unknown end is at least so far from its start
CUSTOMER = "customer/"  # before a customer's id where a change of the store names callers; no key's id has a slash


class Terms(Struct, frozen=True, gc=False):
    """What a key or a customer has of its own: a billing day, and numbers by the reference of their plan."""

    billing_day: int | None = None
    overrides: Mapping[str, Override] = NO_OVERRIDES


NO_TERMS: Final = Terms()


def terms_of(billing_day: int | None, overrides: Mapping[str, Override]) -> Terms:
    """The terms; nearly all keys share the empty ones."""
    return Terms(billing_day, overrides) if billing_day is not None or overrides else NO_TERMS


class Holder(Struct, frozen=True, gc=False):
    """The key that a plan's quotas are counted for, or the customer whose keys share them.

    `override` has the holder's numbers in place of the plan's, `billing_day` the day on which its months may begin.
    """

    id: str
    is_customer: bool = False
    billing_day: int | None = None
    override: Override | None = None

    @classmethod
    def of(cls, name: str, terms: Terms, plan_ref: str, *, is_customer: bool = False) -> Holder:
        """The holder with this id, on its terms for one plan."""
        return cls(name, is_customer, terms.billing_day, terms.overrides.get(plan_ref))

    @property
    def name(self) -> str:
        """The holder in a change of the store."""
        return CUSTOMER + self.id if self.is_customer else self.id


class HeldQuota(Struct, frozen=True, gc=False):
    """A quota of a holder: its settings with the holder's limit, and the place and the name of its state in Redis."""

    settings: QuotaSettings
    billing_day: int | None
    place: Place
    name: tuple[str, ...]

    def at(self, now: int) -> Quota:
        """The quota over the period that contains `now` (µs)."""
        return quota_at(self.settings, now, self.billing_day)


class QuotaState(Struct, frozen=True, gc=False):
    """The stored state of a quota: units `used` in the period [start, finish), in µs; a `finish` of 0 is unknown."""

    start: int = 0
    finish: int = 0
    used: int = 0


def quota_at(settings: QuotaSettings, now: int, billing_day: int | None = None) -> Quota:
    """The quota over the period that contains `now` (µs)."""
    period = interval(settings, now, billing_day)
    over = settings.overage.up_to if settings.overage else 0
    return Quota(
        settings.limit,
        period.start,
        period.end,
        settings.period,
        settings.counts is Counts.UNITS,
        EXACT if over == "UNLIMITED" else over,
        tuple(sorted(set(settings.alerts))),
        settings.time_zone is not None or settings.anchor is Anchor.BILLING_DAY,
    )


def restarts(state: QuotaState, quota: Quota) -> bool:
    """True if the quota's period replaces the stored one, as `restarts` of prelude/quota.lua decides it.

    A period only moves forward, but a stored one more than a day ahead comes from a wrong clock: see "Periods" in
    docs/explanation/rules.md. Where a time zone or a billing day has changed, the stored period ends at its own time.
    """
    if state.start > quota.end + DAY_US:
        return True
    if quota.start <= state.start:
        return False
    if state.finish:  # a much shorter period, as a day after a month, does not wait for the stored end
        return quota.start >= state.finish or (quota.end - quota.start) * 2 < state.finish - state.start
    return not quota.moves or quota.start >= state.start + (quota.end - quota.start) * MOST_OF


def used_in(state: QuotaState, quota: Quota) -> int:
    """The units used in the quota's period."""
    return 0 if restarts(state, quota) else state.used


def shares_limits(plan: UsagePlan, customer_id: str | None) -> bool:
    """True if the plan's limits are the customer's, so that another key gives nothing more."""
    return plan.limits_per is LimitsPer.CUSTOMER and bool(customer_id)


def held_quotas(plan: UsagePlan, holder: Holder) -> tuple[HeldQuota, ...]:
    """The plan's quotas as the holder has them, in the order in which they are checked."""
    return tuple(
        HeldQuota(
            replace(settings, limit=own_limit(settings, holder.override, plan.all_quotas)),
            holder.billing_day,
            *_state(plan.id, holder, None if settings is plan.quota else settings),
        )
        for settings in plan.all_quotas
    )


def state_keys(account: str, plan_id: str, name: str) -> Iterator[str]:
    """The Redis keys of all states that quotas of a holder may have; `name` is the holder's."""
    is_customer = name.startswith(CUSTOMER)
    holder = Holder(name.removeprefix(CUSTOMER), is_customer)
    yield redis_key(account, *_state(plan_id, holder, None)[1])
    for period in Period:
        for counts in Counts:
            yield redis_key(account, *_state(plan_id, holder, QuotaSettings(1, period, counts=counts))[1])


def _state(plan_id: str, holder: Holder, further: QuotaSettings | None) -> tuple[Place, tuple[str, ...]]:
    """Place and name of the state of AWS's quota, or of a further one."""
    if further is not None:
        return "value", (kind_of("quota", holder.is_customer), plan_id, holder.id, *further_name(further))
    return ("shared" if holder.is_customer else "ledger"), (kind_of("ledger", holder.is_customer), plan_id, holder.id)


def kind_of(kind: Kind, is_customer: bool) -> str:
    """The kind of the Redis keys for states of keys, or for those of customers."""
    return f"customer-{kind}" if is_customer else kind


def further_name(settings: QuotaSettings) -> tuple[str, str]:
    """The end of the name of a further quota's state: no other quota of its plan has it."""
    return settings.period, settings.counts


def own_limit(settings: QuotaSettings, override: Override | None, quotas: Sequence[QuotaSettings]) -> int:
    """The limit of one of the `quotas` of a plan for a holder with this override.

    An override that names no `counts` holds only while a single quota has its period.
    """
    for own in override.quotas if override else ():
        if own.period is settings.period and own.counts in (None, settings.counts):
            of_period = [quota for quota in quotas if quota.period is own.period]
            if own.counts or len(of_period) == 1:
                return own.limit
    return settings.limit

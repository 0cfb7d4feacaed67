"""The figures of an account: a day's use by plan, the callers with most of it, and the quotas near their limits."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from authz.core.zones import iso_time

KEPT: Final = 100  # callers in each list
KEPT_PLANS: Final = 1_000


class Sums(NamedTuple):
    """Admitted calls, their units, the units beyond a quota's limit, and refused calls by reason.

    The shadow ones are among the admitted calls: a plan in shadow would have refused them.
    """

    requests: int = 0
    units: int = 0
    overage: int = 0
    by_throttle: int = 0
    by_quota: int = 0
    shadow_by_throttle: int = 0
    shadow_by_quota: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class CallerSums(Struct, frozen=True):
    """The use of a key in a plan on one day."""

    plan_id: str
    key_id: str
    sums: Sums


class NearQuota(Struct, frozen=True):
    """A quota with at least NEAR percent used. Exactly one of key and customer is set. `end` is µs; None: never."""

    plan_id: str
    key_id: str | None
    customer_id: str | None
    period: str
    counts: str
    limit: int
    used: int
    end: int | None

    @property
    def percent(self) -> int:
        return self.used * 100 // self.limit


class PlanSums(Struct, frozen=True):
    """A plan's day: its keys, those with a call or a refusal, their use, and quotas that are near their limit or full.

    A full quota is not counted as near.
    """

    plan_id: str
    keys: int = 0
    callers: int = 0
    sums: Sums = Sums()
    near: int = 0
    full: int = 0

    def plus(self, other: PlanSums) -> PlanSums:
        return PlanSums(
            self.plan_id,
            self.keys + other.keys,
            self.callers + other.callers,
            self.sums.plus(other.sums),
            self.near + other.near,
            self.full + other.full,
        )


class Overview(Struct, frozen=True):
    """The figures of `day` (since 1970). They were read between `began` and `ended`, in µs of Unix time.

    Each list begins with the greatest and has at most KEPT callers; `plans` has KEPT_PLANS plans with any figure, the
    busiest first. Sums by day are kept from `first_day` on.
    """

    day: int
    began: int
    ended: int
    first_day: int
    total: PlanSums
    plans: tuple[PlanSums, ...] = ()
    top: tuple[CallerSums, ...] = ()
    by_throttle: tuple[CallerSums, ...] = ()
    by_quota: tuple[CallerSums, ...] = ()
    shadow: tuple[CallerSums, ...] = ()
    near: tuple[NearQuota, ...] = ()


_OVERVIEW: Final = msgspec.msgpack.Decoder(Overview)


def encoded(overview: Overview) -> bytes:
    return msgspec.msgpack.encode(overview)


def decoded(raw: bytes) -> Overview | None:
    """The overview in these bytes; None where another version of the program wrote them."""
    try:
        return _OVERVIEW.decode(raw)
    except msgspec.DecodeError:
        return None


# --- as JSON has them ---------------------------------------------------------------------------------------------


def sums_document(sums: Sums) -> dict[str, object]:
    return {
        "requests": sums.requests,
        "units": sums.units,
        "overage": sums.overage,
        "refused": {"throttle": sums.by_throttle, "quota": sums.by_quota},
        "shadow": {"throttle": sums.shadow_by_throttle, "quota": sums.shadow_by_quota},
    }


def plan_document(plan: PlanSums) -> dict[str, Any]:
    return {
        "usagePlanId": plan.plan_id,
        "keys": plan.keys,
        "callers": plan.callers,
        **sums_document(plan.sums),
        "nearQuota": plan.near,
        "fullQuota": plan.full,
    }


def caller_document(caller: CallerSums) -> dict[str, Any]:
    return {"usagePlanId": caller.plan_id, "keyId": caller.key_id, **sums_document(caller.sums)}


def near_document(near: NearQuota) -> dict[str, Any]:
    who = {"keyId": near.key_id} if near.customer_id is None else {"customerId": near.customer_id}
    return {
        "usagePlanId": near.plan_id,
        **who,
        "period": near.period,
        "counts": near.counts,
        "limit": near.limit,
        "used": near.used,
        "percent": near.percent,
        **({} if near.end is None else {"end": iso_time(near.end)}),
    }

"""Limits as data: the layers, the two kinds of limit, and the one function that names a Redis key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, isfinite

from msgspec import Struct

from authz.core.bounds import MAX_INT, MAX_RATE, MAX_REFILL_SECONDS, MIN_RATE

EXACT = 2**53  # integers up to here are exact in a double, and so in Lua
FOREVER_US = EXACT  # the end of a period that has none
MICROSECONDS = 1_000_000


class Layer(StrEnum):
    """The layers, in the order that names the refusal."""

    PLAN_THROTTLE = "plan_throttle"
    PLAN_METHOD_THROTTLE = "plan_method_throttle"
    PLAN_QUOTA = "plan_quota"
    STAGE_METHOD_THROTTLE = "stage_method_throttle"
    ACCOUNT_THROTTLE = "account_throttle"


def finite_end(end: int) -> int | None:
    """The end of a period in µs; None for the end of a period that never ends."""
    return None if end >= FOREVER_US else end


class Throttle(Struct, frozen=True, gc=False):
    """A token bucket that gains n/m tokens a microsecond and holds at most `burst`.

    `rate` and `burst` are as configured; n and m are coprime integers with burst·m at most 2⁵³, so that a debt
    counted in 1/m tokens is exact in Redis. Where no such fraction equals the rate, it is the closest one below.
    A call takes one token, or its cost if the bucket counts units.
    """

    rate: float
    burst: int
    n: int
    m: int
    counts_units: bool = False

    @property
    def exact(self) -> bool:
        """True if n/m is the configured rate itself, not the closest fraction below it."""
        return Fraction(self.n * MICROSECONDS, self.m) == Fraction(repr(self.rate))

    @property
    def window_seconds(self) -> int | None:
        """Seconds until an empty bucket is full, rounded up; None for a rate or burst of 0, which never fills."""
        return _window_seconds(self.rate, self.burst)


@lru_cache(maxsize=4096)
def _window_seconds(rate: float, burst: int) -> int | None:
    return ceil(burst / Fraction(repr(rate))) if rate and burst else None


class Quota(Struct, frozen=True, gc=False):
    """At most `limit` units within [start, end), both in microseconds of Unix time, and `overage` more at a price.

    A call takes its cost, or one if the quota counts requests. A period that never ends has `end` 2⁵³. `alerts` are
    percents of the limit: the call that takes the used units to one of them is reported. `moves` is True if the time
    zone or the billing day decides when periods begin: a change of those takes effect with the next period.
    """

    limit: int
    start: int
    end: int
    period: str = ""
    counts_units: bool = True
    overage: int = 0
    alerts: tuple[int, ...] = ()
    moves: bool = False

    @property
    def finite_end(self) -> int | None:
        """The end of the period; None if it never ends."""
        return finite_end(self.end)

    @property
    def ceiling(self) -> int:
        """The units that are admitted in a period, overage included."""
        return min(self.limit + self.overage, EXACT)


class Limit(Struct, frozen=True, gc=False):
    """A throttle or quota, its layer, and the Redis key of its state.

    A shadow limit is counted and reported, but never refuses. `name` tells a plan's further quotas apart.
    """

    layer: Layer
    key: str
    rule: Throttle | Quota
    shadow: bool = False
    name: str = ""

    @property
    def label(self) -> str:
        """The limit's name in headers, metadata and `explain`: of its layer, unless it has its own."""
        return self.name or self.layer.value


class Meter(Struct, frozen=True, gc=False):
    """The Redis keys that count an admitted call for usage: the caller's ledger and its history of days.

    `shared` is the ledger with the limits of a customer, whose keys share them; "" if the caller's own ledger has them.
    """

    ledger: str
    history: str
    shared: str = ""


class Kept(Struct, gc=False):
    """What calls with the same limits and meter share: the batch of a lone call, as the limiter sends it."""

    alone: tuple[list[str], bytes] | None = None


class Charge(Struct, frozen=True, gc=False):
    """The amounts that a call takes from its limits, all or none, and where it is counted.

    `cost` is what limits take that count units; the others take one. A call that is admitted again under the same name
    `once` and the same limits is not charged again; "" is no name. `deadline` is in seconds of `time.monotonic()`.
    Charges that share `kept` have the same limits and meter.
    """

    limits: Sequence[Limit]
    meter: Meter | None = None
    cost: int = 1
    once: str = ""
    deadline: float | None = None
    kept: Kept | None = None


def throttle(rate: float | None, burst: int | None) -> Throttle | None:
    """The bucket for a rate (tokens a second) and a burst; None without a rate, which is no limit.

    Without a burst the bucket holds one second's tokens. Raises ValueError with the rule that the numbers break.
    """
    if rate is None:
        return None
    if not isfinite(rate):
        raise ValueError("expected a finite number")
    per_second = Fraction(repr(float(rate)))
    if per_second != 0 and per_second < MIN_RATE:
        raise ValueError("expected 0 or a rate of at least 0.000001 a second")
    size = max(1, ceil(per_second)) if burst is None else burst
    if size > MAX_INT:
        raise ValueError(f"expected a burst of at most {MAX_INT}; give burstLimit with so high a rate")
    if per_second and size / per_second > MAX_REFILL_SECONDS:
        raise ValueError("expected burst ÷ rate of at most 100 years")
    fraction = _at_most(min(per_second / MICROSECONDS, Fraction(max(size, 1))), EXACT // max(size, 1))
    return Throttle(float(rate), size, fraction.numerator, fraction.denominator)


def check_throttle(rate: float | None, burst: int | None) -> None:
    """Raise ValueError with the rule that a newly configured rate and burst break.

    Stored rates may be above `MAX_RATE`, which is younger than they are, and go on.
    """
    throttle(rate, burst)
    if rate is not None and rate > MAX_RATE:
        raise ValueError(f"expected a rate of at most {MAX_RATE} a second, not {rate:g}")


def _at_most(x: Fraction, max_denominator: int) -> Fraction:
    """The greatest fraction that is at most x and has a denominator of at most `max_denominator`.

    Walks the Stern-Brocot tree: `low` ≤ x < `high`, and every fraction between them has a denominator of at least
    the sum of theirs.
    """
    if x.denominator <= max_denominator:
        return x
    (low_n, low_d), (high_n, high_d) = (floor(x), 1), (1, 0)
    while low_d + high_d <= max_denominator:
        steps = ceil((high_n - x * high_d) / (x * low_d - low_n)) - 1 if x * low_d > low_n else 0
        if high_d or steps:
            high_n, high_d = high_n + steps * low_n, high_d + steps * low_d
        if low_d + high_d > max_denominator:
            break
        steps = min(floor((x * low_d - low_n) / (high_n - x * high_d)), (max_denominator - low_d) // high_d)
        low_n, low_d = low_n + steps * high_n, low_d + steps * high_d
    return Fraction(low_n, low_d)


def redis_key(account: str, kind: str, *parts: str) -> str:
    """The one spelling of a Redis key: `{account}:v1:kind:part:…`.

    The account in braces comes first, so all keys of one account share a slot of a cluster. Every other part is
    percent-encoded outside `[A-Za-z0-9_-]`, so different parts spell different keys.
    """
    return ":".join((f"{{{account}}}", "v1", kind, *map(encoded, parts)))


def encoded(part: str) -> str:
    """The part with each byte outside `[A-Za-z0-9_-]` percent-encoded (`urllib.quote` would leave `.` and `~`)."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"%%%02X" % found[0][0], part.encode()).decode()


# --- states: a bucket's debt in 1/m tokens, or the used units of a quota ----------------------------------------------


def remaining(rule: Throttle | Quota, state: int) -> int:
    """The units left, never below 0."""
    left = rule.burst + -state // rule.m if isinstance(rule, Throttle) else rule.limit - state
    return left if left >= 0 else 0  # noqa: FURB136  (half of what `max` costs, a few times a call)


def scale(rule: Throttle | Quota) -> tuple[int, int]:
    """(units, parts): at a state, `units` less the state in `parts` of a unit, rounded up, are left."""
    return (rule.burst, rule.m) if isinstance(rule, Throttle) else (rule.limit, 1)


def reset_us(rule: Throttle | Quota, state: int, now: int) -> int | None:
    """Microseconds until a bucket is full or a quota's period ends; None if that never happens."""
    if isinstance(rule, Quota):
        return None if rule.finite_end is None else max(0, rule.end - now)
    return -(-state // rule.n) if rule.n and rule.burst else None


def amount_of(rule: Throttle | Quota, cost: int) -> int:
    """What a call of this cost takes from a limit."""
    return cost if rule.counts_units else 1


def has_room(rule: Throttle | Quota, state: int, amount: int) -> bool:
    """True if the amount fits. An amount of 0 always fits."""
    if isinstance(rule, Quota):
        return not amount or state + amount <= rule.ceiling
    return not amount or state <= (rule.burst - amount) * rule.m


def room_us(rule: Throttle | Quota, state: int, now: int, amount: int = 1) -> int | None:
    """Microseconds until a bucket or quota without room has room for this amount; None if it never will."""
    if isinstance(rule, Quota):
        return None if rule.finite_end is None or amount > rule.ceiling else rule.end - now
    if not rule.n or not rule.burst or amount > rule.burst:
        return None
    return -(-(state - (rule.burst - amount) * rule.m) // rule.n)


def refilled(rule: Throttle | Quota, state: int, passed: int) -> int:
    """The state after `passed` microseconds without a call, within the period of a quota."""
    return state if isinstance(rule, Quota) else max(0, state - rule.n * passed)

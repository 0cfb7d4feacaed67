"""Limits as data: the layers, the two kinds of limit, and the one function that names a Redis key."""

from __future__ import annotations

import re
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, isfinite

from msgspec import Struct

EXACT = 2**53  # integers up to here are exact in a double, and so in Lua
MICROSECONDS = 1_000_000
SMALLEST_RATE = Fraction(1, 1_000_000)
GREATEST_RATE = 2**31 - 1  # a second; far above what any Redis decides
LONGEST_REFILL_SECONDS = 100 * 366 * 86_400


class Layer(StrEnum):
    """The layers, in the order that names the refusal."""

    PLAN_THROTTLE = "plan_throttle"
    PLAN_METHOD_THROTTLE = "plan_method_throttle"
    PLAN_QUOTA = "plan_quota"
    STAGE_METHOD_THROTTLE = "stage_method_throttle"
    ACCOUNT_THROTTLE = "account_throttle"


class Throttle(Struct, frozen=True, gc=False):
    """A token bucket that gains n/m tokens a microsecond and holds at most `burst`.

    `rate` and `burst` are as configured; n and m are coprime integers with burst·m at most 2⁵³, so that a debt
    counted in 1/m tokens is exact in Redis. Where no such fraction equals the rate, it is the closest one below.
    """

    rate: float
    burst: int
    n: int
    m: int

    @property
    def exact(self) -> bool:
        """Whether n/m is the configured rate itself, not the closest fraction below it."""
        return Fraction(self.n * MICROSECONDS, self.m) == Fraction(repr(self.rate))

    @property
    def window_seconds(self) -> int | None:
        """The time in which an empty bucket fills, rounded up; None if it never does (rate 0, burst 0)."""
        return _window_seconds(self.rate, self.burst)


@lru_cache(maxsize=4096)
def _window_seconds(rate: float, burst: int) -> int | None:
    return ceil(burst / Fraction(repr(rate))) if rate and burst else None


class Quota(Struct, frozen=True, gc=False):
    """At most `limit` requests within [start, end), both in microseconds of Unix time."""

    limit: int
    start: int
    end: int


class Limit(Struct, frozen=True, gc=False):
    """A throttle or quota, the layer it belongs to and the Redis key that holds its state.

    A shadow limit is counted and reported, and never refuses.
    """

    layer: Layer
    key: str
    rule: Throttle | Quota
    shadow: bool = False


class Meter(Struct, frozen=True, gc=False):
    """Where an admitted call is counted for usage: the caller's ledger, and the history of days beside it."""

    ledger: str
    history: str


def throttle(rate: float | None, burst: int | None) -> Throttle | None:
    """The bucket for a configured rate a second and burst, or None where there is no limit.

    A burst without a rate is no throttle; a rate without a burst holds one second's tokens.
    Raises ValueError with the rule that the numbers break.
    """
    if rate is None:
        return None
    if not isfinite(rate):
        raise ValueError("expected a finite number")
    per_second = Fraction(repr(float(rate)))
    if per_second != 0 and per_second < SMALLEST_RATE:
        raise ValueError("expected 0 or a rate of at least 0.000001 a second")
    size = max(1, ceil(per_second)) if burst is None else burst
    if size > 2**31 - 1:
        raise ValueError("expected a burst of at most 2147483647; give burstLimit with so high a rate")
    if per_second and size / per_second > LONGEST_REFILL_SECONDS:
        raise ValueError("expected burst ÷ rate of at most 100 years")
    fraction = _at_most(min(per_second / MICROSECONDS, Fraction(max(size, 1))), EXACT // max(size, 1))
    return Throttle(float(rate), size, fraction.numerator, fraction.denominator)


def check_throttle(rate: float | None, burst: int | None) -> None:
    """Raise ValueError with the rule that a rate and burst break which somebody configures now.

    Stored ones may be older than the bound of rates, and count as they did.
    """
    throttle(rate, burst)
    if rate is not None and rate > GREATEST_RATE:
        raise ValueError(f"expected a rate of at most {GREATEST_RATE} a second, not {rate:g}")


def _at_most(x: Fraction, max_denominator: int) -> Fraction:
    """The closest fraction not above x whose denominator is not above the given one.

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

    The account in braces comes first, so that all keys of one account share a slot of a cluster; every other part
    is percent-encoded outside `[A-Za-z0-9_-]`, so different parts spell different keys.
    """
    return ":".join((f"{{{account}}}", "v1", kind, *map(encoded, parts)))


def encoded(part: str) -> str:
    """The part with each byte outside `[A-Za-z0-9_-]` percent-encoded (`urllib.quote` would leave `.` and `~`)."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"%%%02X" % found[0][0], part.encode()).decode()


def remaining(rule: Throttle | Quota, state: int) -> int:
    """The units left, never below 0. `state` is a bucket's debt in 1/m tokens, or the used units of a quota."""
    left = rule.burst + -state // rule.m if isinstance(rule, Throttle) else rule.limit - state
    return left if left >= 0 else 0  # noqa: FURB136  (half of what `max` costs, a few times a call)


def reset_us(rule: Throttle | Quota, state: int, now: int) -> int | None:
    """Microseconds until a bucket is full or a quota's period ends; None where neither will happen."""
    if isinstance(rule, Quota):
        return max(0, rule.end - now)
    return -(-state // rule.n) if rule.n and rule.burst else None

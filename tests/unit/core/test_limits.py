"""Limits as data: exact fractions, windows, units left, and the names of Redis keys."""

from __future__ import annotations

from fractions import Fraction

import pytest

from authz.core.limits import Quota, Throttle, redis_key, refilled, remaining, reset_us, room_us, throttle

DAY_US = 86_400_000_000


def bucket(rate: float, burst: int) -> Throttle:
    found = throttle(rate, burst)
    assert found
    return found


@pytest.mark.parametrize(
    ("rate", "burst", "n", "m"),
    [
        (1.0, 5, 1, 1_000_000),
        (3.0, 5, 3, 1_000_000),
        (0.3, 1, 3, 10_000_000),
        (0.1, 1, 1, 10_000_000),
        (9_999.0, 9_999, 9_999, 1_000_000),
        (700_000.0, 10, 7, 10),
        (0.000001, 1, 1, 10**12),
        (0.0, 3, 0, 1),
        (2.5e6, 10, 5, 2),
    ],
)
def test_a_rate_is_a_fraction_of_coprime_integers(rate: float, burst: int, n: int, m: int) -> None:
    """It counts tokens per microsecond, from the shortest decimal that prints the double."""
    found = bucket(rate, burst)
    assert (found.n, found.m, found.exact) == (n, m, True)


@pytest.mark.parametrize(("rate", "burst"), [(4 / 3, 2**31 - 1), (9_999.999999, 2**31 - 1), (1e-6 * 7, 10_000)])
def test_a_rate_that_does_not_fit_is_rounded_down(rate: float, burst: int) -> None:
    """Burst · m is at most 2⁵³, and the rate is never above the given one."""
    found = bucket(rate, burst)
    assert burst * found.m <= 2**53
    assert Fraction(found.n, found.m) <= Fraction(repr(rate)) / 1_000_000
    assert found.exact == (Fraction(found.n, found.m) == Fraction(repr(rate)) / 1_000_000)


@pytest.mark.parametrize(
    ("rate", "burst", "rule"),
    [
        (float("inf"), 1, "expected a finite number"),
        (float("nan"), 1, "expected a finite number"),
        (0.0000009, 1, "expected 0 or a rate of at least 0.000001 a second"),
        (3e9, None, "expected a burst of at most 2147483647; give burstLimit with so high a rate"),
        (0.000001, 5_000, "expected burst ÷ rate of at most 100 years"),
    ],
)
def test_numbers_that_cannot_be_kept_exactly_are_refused(rate: float, burst: int | None, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        throttle(rate, burst)


@pytest.mark.parametrize(("rate", "burst"), [(0.2, 1), (1.0, 1), (1.2, 2), (10.0, 10), (0.0, 1)])
def test_a_rate_without_a_burst_holds_a_seconds_tokens(rate: float, burst: int) -> None:
    """The burst is at least one."""
    found = throttle(rate, None)
    assert found
    assert found.burst == burst


def test_a_burst_without_a_rate_is_no_throttle() -> None:
    assert throttle(None, 5) is None


@pytest.mark.parametrize(
    ("rate", "burst", "seconds"), [(1.0, 5, 5), (3.0, 10, 4), (0.1, 1, 10), (0.0, 5, None), (5.0, 0, None)]
)
def test_the_window_is_the_time_that_a_bucket_takes_to_fill(rate: float, burst: int, seconds: int | None) -> None:
    assert bucket(rate, burst).window_seconds == seconds


@pytest.mark.parametrize(("debt", "left"), [(0, 5), (1, 4), (1_000_000, 4), (1_000_001, 3), (5_000_000, 0)])
def test_only_whole_tokens_remain(debt: int, left: int) -> None:
    assert remaining(bucket(1.0, 5), debt) == left


@pytest.mark.parametrize(("used", "left"), [(0, 3), (3, 0), (9, 0), (-2, 5)])
def test_a_quota_never_remains_below_zero(used: int, left: int) -> None:
    """A limit lowered below the use leaves 0."""
    assert remaining(Quota(3, 0, DAY_US), used) == left


def test_a_bucket_is_reset_when_its_debt_is_paid() -> None:
    assert reset_us(bucket(3.0, 5), 1_000_000, now=0) == 333_334
    assert reset_us(bucket(0.0, 5), 1, now=0) is None
    assert reset_us(bucket(5.0, 0), 0, now=0) is None


def test_a_quota_is_reset_when_its_period_ends() -> None:
    assert reset_us(Quota(3, 0, DAY_US), 1, now=DAY_US - 7) == 7
    assert reset_us(Quota(3, 0, DAY_US), 1, now=DAY_US + 7) == 0


@pytest.mark.parametrize(
    ("passed", "debt"), [(0, 3_000_000), (1, 2_999_999), (1_000_000, 2_000_000), (3_000_000, 0), (9_000_000, 0)]
)
def test_a_bucket_refills_until_it_owes_nothing(passed: int, debt: int) -> None:
    assert refilled(bucket(1.0, 5), 3_000_000, passed) == debt


def test_a_quota_does_not_refill_within_its_period() -> None:
    assert refilled(Quota(5, 0, DAY_US), 3, 9_000_000) == 3


@pytest.mark.parametrize(
    ("rule", "state", "microseconds"),
    [
        (bucket(1.0, 5), 5_000_000, 1_000_000),
        (bucket(1.0, 5), 4_000_001, 1),
        (bucket(3.0, 1), 1_000_000, 333_334),
        (bucket(0.0, 5), 5, None),
        (bucket(1.0, 0), 0, None),
        (Quota(5, 0, DAY_US), 5, DAY_US - 1),
    ],
)
def test_there_is_room_once_a_whole_token_is_back_or_the_period_ends(
    rule: Throttle | Quota, state: int, microseconds: int | None
) -> None:
    assert room_us(rule, state, 1) == microseconds


def test_a_key_begins_with_its_account_and_escapes_the_rest() -> None:
    """Braces in a path must not change the Redis slot, nor colons the parts."""
    assert redis_key("42", "stage", "a1", "prod", "/pets/{id}", "GET") == "{42}:v1:stage:a1:prod:%2Fpets%2F%7Bid%7D:GET"
    assert redis_key("42", "x", "a:b", "c.d~é") == "{42}:v1:x:a%3Ab:c%2Ed%7E%C3%A9"

"""Laws of keys and rates: one spelling per name, one slot per account, the best fraction below every rate."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, floor, gcd
from string import ascii_letters, digits
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz.core.bounds import MAX_REFILL_SECONDS, MIN_RATE
from authz.core.catalog import Catalog
from authz.core.limits import (
    EXACT,
    MICROSECONDS,
    _at_most,
    redis_key,
    remaining,
    reset_us,
    throttle,
)
from authz.core.request import Request
from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    Method,
    MethodSetting,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.verdict import Grant

ids = st.text(ascii_letters + digits + "-_", min_size=1, max_size=12)
parts = st.lists(st.text(max_size=6) | st.sampled_from(("{id}", "/pets/{id}", "a:b", "%3A", "}", "{", "")), max_size=5)
rates = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.sampled_from(
    (0.0, 1e-6, 0.1, 0.3, 1 / 3, 3.0, 7.0, 9999.0, 700_000.0, 1e9)
)
bursts = st.none() | st.integers(0, 2**31 - 1) | st.sampled_from((0, 1, 2, 5000, 2**31 - 1))


def hash_tag(key: str) -> str:
    """What Redis Cluster hashes: what stands between the first brace and the next closing one, unless that is empty."""
    found = re.search(r"\{([^}]*)\}", key)
    return found[1] if found and found[1] else key


@given(ids, ids, parts)
@example("0", "kind", ["a:b"])
@example("0", "kind", ["a", "b"])
def test_a_key_can_be_parsed_so_no_two_names_share_one(account: str, kind: str, named: list[str]) -> None:
    head, version, name, *rest = redis_key(account, kind, *named).split(":")
    assert (head, version, name) == (f"{{{account}}}", "v1", kind)
    assert [unquote(part) for part in rest] == named


@given(ids, ids, parts, parts)
def test_different_parts_spell_different_keys(account: str, kind: str, one: list[str], other: list[str]) -> None:
    assert (redis_key(account, kind, *one) == redis_key(account, kind, *other)) == (one == other)


@given(ids, ids, parts)
@example("0", "stage", ["/pets/{id}"])
def test_the_account_alone_picks_the_slot(account: str, kind: str, named: list[str]) -> None:
    """A `{id}` in a path is encoded, and could not move it."""
    assert hash_tag(redis_key(account, kind, *named)) == account


@given(
    account=ids, plan=ids, key=ids, api=ids, stage=ids, resource=st.sampled_from(("/", "/pets", "/pets/{id}", "/ä.b~"))
)
def test_the_catalog_spells_its_keys_as_the_one_function_does(
    account: str, plan: str, key: str, api: str, stage: str, resource: str
) -> None:
    """It composes them from ready parts, which must not make another spelling."""
    bucket, setting = ThrottleSettings(1.0, 1), MethodSetting(1.0, 1)
    covered = ApiStage(api, stage, throttle={f"{resource}/GET": bucket})
    catalog = Catalog.compile(
        Resources(
            apis=(
                Api(
                    id=api,
                    resources={resource: {"GET": Method()}},
                    stages=(Stage(stage, method_settings={"*/*": setting}),),
                ),
            ),
            usage_plans=(
                UsagePlan(
                    plan, plan, api_stages=(covered,), throttle=bucket, quota=QuotaSettings(1, Period.DAY), keys=(key,)
                ),
            ),
            api_keys=(ApiKey(id=key, value="v" * 20),),
        ),
        account,
    )
    extensions = {"api": api, "stage": stage, "resource": resource}
    grant = catalog.resolve(Request("GET", "host", "/", headers={"x-api-key": "v" * 20}, extensions=extensions), 0)
    assert isinstance(grant, Grant)
    assert grant.meter
    ledger = redis_key(account, "ledger", plan, key)
    assert [limit.key for limit in grant.limits] == [
        ledger,
        redis_key(account, "method", plan, key, api, stage, resource, "GET"),
        ledger,
        redis_key(account, "stage", api, stage, resource, "GET"),
        redis_key(account, "account"),
    ]
    assert (grant.meter.ledger, grant.meter.history) == (ledger, redis_key(account, "history", plan, key))


@given(st.fractions(min_value=0, max_value=50), st.integers(1, 60))
def test_the_fraction_is_the_closest_one_not_above(x: Fraction, largest: int) -> None:
    """Against every denominator there is."""
    assert _at_most(x, largest) == max(Fraction(floor(x * d), d) for d in range(1, largest + 1))


@given(rates, bursts)
@example(700_000.0, 2**31 - 1)
@example(1e-6, 1)
def test_a_throttle_is_exact_where_that_fits_and_never_above_its_rate(rate: float, burst: int | None) -> None:
    """Integers that a double holds, coprime; as burst · m may come to 2⁵³, no closer fraction would fit."""
    exact = Fraction(repr(rate))
    try:
        rule = throttle(rate, burst)
    except ValueError:
        assert _is_outside(exact, burst)
        return
    assert rule
    assert not _is_outside(exact, burst)
    assert rule.burst == (max(1, ceil(exact)) if burst is None else burst)
    assert gcd(rule.n, rule.m) == 1
    assert max(rule.burst, 1) * rule.m <= EXACT
    assert rule.n <= EXACT
    _assert_closest(Fraction(rule.n, rule.m), exact / MICROSECONDS, max(rule.burst, 1))
    assert rule.exact == (Fraction(rule.n, rule.m) == exact / MICROSECONDS)


def _is_outside(rate: Fraction, burst: int | None) -> bool:
    size = max(1, ceil(rate)) if burst is None else burst
    refill = size / rate if rate else 0
    return 0 < rate < MIN_RATE or size > 2**31 - 1 or refill > MAX_REFILL_SECONDS


def _assert_closest(chosen: Fraction, rate: Fraction, burst: int) -> None:
    """A bucket that is full again within a microsecond is as good as any faster one."""
    if rate > burst:
        assert chosen == burst
    else:
        assert rate - Fraction(1, EXACT // burst) < chosen <= rate
        assert chosen == rate or rate.denominator * burst > EXACT
        assert chosen > 0 or rate == 0


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, -0.5, 9e-7, 5e-324])
def test_other_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        throttle(rate, 1)


def test_a_burst_without_a_rate_is_no_throttle() -> None:
    assert throttle(None, 5) is None


@given(st.sampled_from((0.0, 0.3, 3.0, 9999.0)), st.integers(0, 1000), st.data())
def test_what_remains_is_whole_tokens_and_what_resets_is_the_whole_debt(
    rate: float, burst: int, data: st.DataObject
) -> None:
    """A token that is only partly there does not remain; a reset never comes too early."""
    rule = throttle(rate, burst)
    assert rule
    debt = data.draw(st.integers(0, rule.burst * rule.m))
    assert remaining(rule, debt) == floor(rule.burst - Fraction(debt, rule.m))
    reset = reset_us(rule, debt, 0)
    assert (reset is None) == (not rule.n or not rule.burst)
    if reset is not None:
        assert 0 <= rule.n * reset - debt < rule.n

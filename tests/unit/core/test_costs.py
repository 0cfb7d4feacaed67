"""The cost of a call from Envoy's dynamic metadata."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.costs import FALLBACKS, CostSource, Price, price
from authz.core.resources import CostFrom
from authz.core.verdict import Grant, Subject, priced
from tests.support.world import ask

TOKENS = CostFrom(("cost", "tokens"), max=4096)
METHOD_COST = 20


def of(value: object) -> tuple[int, str]:
    units, source = price(TOKENS, METHOD_COST, {"cost": {"tokens": value}})
    return units, str(source)


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (300, 300),
        (300.0, 300),
        ("300", 300),
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        ("0", 0),
        ("007", 7),
        ("0" * 5_000 + "7", 7),
        (4096, 4096),
    ],
)
def test_a_whole_number_is_the_cost(value: object, units: int) -> None:
    """`header_to_metadata` writes a string unless its rule says `type: NUMBER`."""
    assert of(value) == (units, "metadata")


@pytest.mark.parametrize("value", [4097, 4096.0 + 1, "4097", 1e9, 1e300, 10**400, "9" * 10_000])
def test_a_greater_cost_counts_as_the_maximum(value: object) -> None:
    assert of(value) == (4096, "max")


@pytest.mark.parametrize(
    "value",
    [
        *(-1, -0.5, 1.5, math.nan, math.inf, -math.inf, True, False),
        *("", " 7", "7 ", "+7", "-7", "7.0", "1e3", "0x7", "7,8", "many", "٣", "²"),
        *([], [7], {}, {"tokens": 7}),
    ],
)
def test_anything_else_costs_what_the_method_costs(value: object) -> None:
    assert of(value) == (METHOD_COST, "not_whole")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"cost": {}}, {"cost": {"other": 1}}, {"cost": {"tokens": None}}, {"cost": 7}, {"other": {"tokens": 7}}],
)
def test_without_a_number_a_call_costs_what_the_method_costs(metadata: dict[str, Any]) -> None:
    assert price(TOKENS, METHOD_COST, metadata) == Price(METHOD_COST, CostSource.ABSENT)


def test_the_number_may_stand_deeper() -> None:
    found = price(CostFrom(("ns", "usage", "total"), max=10), 1, {"ns": {"usage": {"total": 3}}})
    assert found == Price(3, CostSource.METADATA)


def test_a_maximum_of_zero_makes_every_number_free() -> None:
    assert price(CostFrom(("ns", "n"), max=0), 1, {"ns": {"n": 3}}) == Price(0, CostSource.MAX)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(ANYTHING, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_whatever_a_filter_wrote_a_call_has_a_cost_within_bounds(value: object, most: int, own: int) -> None:
    units, source = price(CostFrom(("ns", "n"), most), own, {"ns": {"n": value}})
    assert type(units) is int
    assert units == own if source in FALLBACKS else 0 <= units <= most


@given(st.integers(0, 10**20), st.integers(0, 1_000_000), st.sampled_from([int, float, str, "0{}".format]))
def test_a_number_means_the_same_in_each_form(number: int, most: int, form: Any) -> None:
    units, _ = price(CostFrom(("ns", "n"), most), 1, {"ns": {"n": form(number)}})
    assert units == min(number, most)


def test_a_grant_without_cost_from_stays_as_it_is() -> None:
    grant = Grant(Subject(), (), cost=7)
    assert priced(grant, ask()) is grant


def test_a_grant_is_priced_by_the_request() -> None:
    grant = Grant(Subject(), (), cost=7, cost_from=TOKENS)
    one = priced(grant, ask(metadata={"cost": {"tokens": 300.0}}))
    other = priced(grant, ask(metadata={"cost": {"tokens": 1.5}}))
    assert [(it.cost, it.cost_source) for it in (one, other)] == [(300, "metadata"), (7, "not_whole")]
    assert one.shared is grant.shared

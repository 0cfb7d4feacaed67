"""How a tally becomes a verdict."""

from __future__ import annotations

import pytest

from authz.core.limits import Layer, Limit, Quota, throttle
from authz.core.request import Request
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, judge, standings

BUCKET = throttle(1.0, 5)
assert BUCKET
LIMITS = tuple(Limit(layer, "k", Quota(3, 0, 9) if layer is Layer.PLAN_QUOTA else BUCKET) for layer in Layer)
REQUEST = Request("GET", "host", "/")
GRANT = Grant(Subject(key="k1"), LIMITS)


def test_a_call_that_no_limit_refuses_is_allowed() -> None:
    tally = Tally(now=0)
    assert judge(GRANT, tally, REQUEST) == Allowed(GRANT, tally)


def test_a_shadow_refusal_is_no_refusal() -> None:
    tally = Tally(now=0, shadowed_by=LIMITS[0])
    assert judge(GRANT, tally, REQUEST) == Allowed(GRANT, tally)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.layer)
def test_a_refusal_names_its_layer(limit: Limit) -> None:
    """The reason has the layer's name."""
    verdict = judge(GRANT, Tally(now=0, refused_by=limit), REQUEST)
    assert isinstance(verdict, Denied)
    assert verdict.layer is limit.layer
    assert verdict.subject is GRANT.subject
    assert verdict.reason.value == limit.layer.value


def test_a_refusal_by_no_limit_has_no_layer() -> None:
    assert Denied(Reason.KEY_MISSING).layer is None


def test_standings_show_the_rest_of_each_limit() -> None:
    tally = Tally(now=0, states=(1_000_000, 0, 2, 5_000_000, 1))
    assert [left for _, _, left in standings(GRANT, tally)] == [4, 5, 1, 0, 4]

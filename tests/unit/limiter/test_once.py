"""The name under which a request's charge is kept: one request, one caller, one set of limits."""

from __future__ import annotations

from msgspec.structs import replace

from authz.core.limits import Charge, Layer, Limit, Meter, Throttle
from authz.limiter.encoding import once_key

LIMIT = Limit(Layer.PLAN_THROTTLE, "{a}:v1:ledger:p1:k1", Throttle(1.0, 1, 1, 1_000_000))
METER = Meter("{a}:v1:ledger:p1:k1", "{a}:v1:history:p1:k1")


def _name(once: str = "id", limits: tuple[Limit, ...] = (LIMIT,), meter: Meter | None = METER) -> str:
    return once_key("a", Charge(limits, meter, once=once))


def test_one_request_has_one_name() -> None:
    assert _name() == _name()


def test_a_request_is_charged_again_for_another_key() -> None:
    """A client may send the id of another caller's request; it must not ride on that caller's charge."""
    assert _name(meter=replace(METER, ledger="{a}:v1:ledger:p1:k2")) != _name()
    assert _name(meter=None) != _name()


def test_a_request_is_charged_again_under_other_limits() -> None:
    other = replace(LIMIT, key="{a}:v1:bucket:other")
    names = {_name(limits=limits) for limits in ((), (LIMIT,), (other,), (LIMIT, other), (other, LIMIT))}
    assert len(names) == 5


def test_another_request_has_another_name() -> None:
    assert _name("another id") != _name()

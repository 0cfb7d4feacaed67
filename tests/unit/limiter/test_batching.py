"""Waiting callers are sent in time, and one caller's result affects no other caller."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.limits import Charge
from authz.core.verdict import Tally
from authz.limiter.batching import MAX_BATCH, Pace, Waiter


def _after(*batches: tuple[int, int]) -> Pace:
    """A pace that has seen these batches, as pairs (callers sent, callers waiting)."""
    pace = Pace()
    for sent, waiting in batches:
        pace.learn(sent, waiting)
    return pace


@pytest.mark.parametrize(
    "crowd",
    [pytest.param((1, 0), id="one about"), pytest.param((1, 1), id="two about"), pytest.param((2, 0), id="two")],
)
def test_one_or_two_callers_are_never_waited_for(crowd: tuple[int, int]) -> None:
    assert _after(*[crowd] * 1000).enough() == 1


@pytest.mark.parametrize(("crowd", "enough"), [((4, 4), 6), ((16, 16), 24), ((64, 400), MAX_BATCH)])
def test_a_crowd_is_waited_for_but_for_those_who_are_on_their_way(crowd: tuple[int, int], enough: int) -> None:
    assert enough - 1 <= _after(*[crowd] * 1000).enough() <= enough


def test_a_crowd_that_has_gone_is_soon_forgotten() -> None:
    """After a dozen calls a lone caller no longer waits for others, and waits at most 2 ms in each of them."""
    pace = _after(*[(64, 0)] * 100, *[(1, 0)] * 12)
    assert pace.enough() == 1


@pytest.mark.parametrize(("busy", "waits"), [(0.5, 2.0), (0.8, 2.0), (0.98, 6.0), (1.4, 6.0)])
def test_who_has_no_time_to_spare_waits_longer_for_a_larger_batch(busy: float, waits: float) -> None:
    pace = Pace()
    for second in range(100):
        pace.spent(100.0 + second, 7.0 + busy * second)
    assert pace.linger(2.0) == waits


def test_a_clock_that_stands_still_tells_nothing() -> None:
    pace = Pace()
    for _ in range(100):
        pace.spent(100.0, 7.0)
    assert pace.linger(2.0) == 2.0


@given(st.lists(st.tuples(st.integers(1, MAX_BATCH), st.integers(0, 10_000))))
def test_no_more_are_waited_for_than_go_into_a_batch(batches: list[tuple[int, int]]) -> None:
    assert 1 <= _after(*batches).enough() <= MAX_BATCH


@pytest.mark.parametrize("second", [Tally(2), ValueError("too late")])
async def test_a_caller_with_an_answer_keeps_it(second: Tally | Exception) -> None:
    """Setting the result of a future that is done would raise, and end the loop that serves all callers."""
    call = Waiter(Charge(()), 0.0, asyncio.get_running_loop().create_future())
    call.finish(Tally(1))
    call.finish(second)
    assert await call.tally == Tally(1)

"""The process's side of units held ahead: when it wants to hold, admits a call, and gives a hold back."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, throttle
from authz.core.verdict import Tally
from authz.limiter.clock import RedisClock
from authz.limiter.holds import Holds, Return
from tests.conftest import Clock, micros

LIFE = 100_000
NOW = micros("2026-03-04T10:00:00Z")


def _charge(ledger: str = "k", **more: object) -> Charge:
    """A call of a caller with a throttle of 10 a second and 100 at once, and a quota of 1000."""
    rule = throttle(10, 100)
    assert rule
    limits = (
        Limit(Layer.PLAN_THROTTLE, ledger, rule),
        Limit(Layer.PLAN_QUOTA, ledger, Quota(1000, NOW, NOW + 10**9)),
    )
    return Charge(limits, Meter(ledger, f"{ledger} history"), **more)  # type: ignore[arg-type]


def _debt(tokens: int) -> int:
    return tokens * 100_000  # 10 a second is 1/100,000 a µs


@dataclass
class World:
    clock: Clock = field(default_factory=lambda: Clock(NOW))
    holds: Holds = field(init=False)

    def __post_init__(self) -> None:
        self.holds = Holds(LIFE, RedisClock(self.clock), callers=3)

    def wanted(self, charge: Charge, calls: int = 1) -> list[int]:
        """What each of these calls, in a batch of its own, would hold."""
        found = []
        for _ in range(calls):
            found.append(self.holds.wanted(charge))
            self.holds.settled([charge])
        return found

    def grant(self, charge: Charge, calls: int = 4, *, sent: int | None = None, age: int | None = None) -> None:
        """Hold calls from now on, after 10 calls; all count as used in the tally, as Redis words it."""
        tally = Tally(self.clock(), (_debt(10 + calls), 10 + calls))
        left = self.clock() if sent is None else sent
        self.holds.granted(charge, calls, self.clock() + LIFE, tally, left, self.holds.age if age is None else age)


@pytest.fixture
def world() -> World:
    return World()


def test_twice_the_recent_calls_are_wanted_and_none_for_a_rare_caller(world: World) -> None:
    assert world.wanted(_charge(), 3) == [0, 0, 0]
    charge = _charge()
    assert world.wanted(charge, 5) == [0, 0, 0, 8, 10]


def test_the_calls_of_the_window_before_count_and_older_ones_do_not(world: World) -> None:
    charge = _charge()
    world.wanted(charge, 5)
    world.clock.now += LIFE
    assert world.wanted(charge) == [10]
    world.clock.now += 2 * LIFE
    assert world.wanted(charge) == [0]


def test_one_batch_wants_a_hold_of_a_caller_once(world: World) -> None:
    charge = _charge()
    world.wanted(charge, 3)
    assert [world.holds.wanted(charge) for _ in range(3)] == [8, 0, 0]
    world.holds.settled([charge])
    assert world.holds.wanted(charge) > 0


def test_a_caller_with_a_hold_wants_no_other_one(world: World) -> None:
    charge = _charge()
    world.wanted(charge, 3)
    world.grant(charge)
    assert world.wanted(charge) == [0]


def test_calls_with_a_name_and_shadow_limits_want_and_take_none(world: World) -> None:
    charge = _charge()
    world.wanted(charge, 3)
    named = Charge(charge.limits, charge.meter, once="request")
    assert world.wanted(named) == [0]
    world.grant(charge)
    assert world.holds.take(named) is None
    shadow = Charge((Limit(Layer.PLAN_QUOTA, "s", Quota(9, NOW, NOW + 10), shadow=True),), charge.meter)
    assert world.wanted(shadow, 5) == [0] * 5


def test_a_call_from_a_hold_is_worded_as_redis_would(world: World) -> None:
    """The calls that are still held count as free, and the bucket refills."""
    charge = _charge()
    world.grant(charge, 4)
    assert world.holds.take(charge) == Tally(NOW, (_debt(11), 11))
    world.clock.now += 1000
    assert world.holds.take(charge) == Tally(NOW + 1000, (_debt(12) - 1000, 12))
    assert world.holds.admitted == 2
    assert world.holds.held == 2


def test_a_hold_admits_its_calls_and_then_ends(world: World) -> None:
    charge = _charge()
    world.grant(charge, 2)
    assert [bool(world.holds.take(charge)) for _ in range(3)] == [True, True, False]
    assert world.holds.take_over() == [Return(charge, NOW + LIFE, 2, 2)]
    assert world.holds.take_over() == []


def test_another_cost_or_caller_has_a_hold_of_its_own(world: World) -> None:
    charge, other = _charge(), _charge("other")
    world.grant(charge)
    assert world.holds.take(Charge(charge.limits, charge.meter, cost=2)) is None
    assert world.holds.take(other) is None


def test_callers_without_limits_have_holds_of_their_own(world: World) -> None:
    """All of them have the same empty tuple."""
    one, other = (Charge((), Meter(ledger, "")) for ledger in ("one", "other"))
    world.holds.granted(one, 2, NOW + LIFE, Tally(NOW, ()), NOW, 0)
    assert world.holds.take(other) is None
    assert world.holds.take(one)


@pytest.mark.parametrize(("behind", "margin"), [(0, LIFE // 5), (1000, LIFE // 5), (LIFE // 4, LIFE // 2)])
def test_a_hold_is_used_until_a_fifth_of_its_life_before_its_end(world: World, behind: int, margin: int) -> None:
    """Counted from when its batch left: the reply may have taken long. Where batches take long, it ends earlier."""
    charge = _charge()
    world.grant(charge, sent=NOW - behind)
    world.clock.now = last = NOW - behind + LIFE - margin - 1
    assert world.holds.take(charge)
    assert world.holds.next_end == last + 1
    world.clock.now += 1
    assert world.holds.take(charge) is None
    assert world.holds.take_over() == [Return(charge, NOW + LIFE, 4, 1)]


def test_an_unused_hold_is_given_back_by_then(world: World) -> None:
    charge = _charge()
    world.grant(charge)
    world.clock.now += LIFE * 4 // 5 - 1
    assert world.holds.take_over() == []
    world.clock.now += 1
    assert world.holds.take_over() == [Return(charge, NOW + LIFE, 4, 0)]
    assert world.holds.next_end is None


def test_a_hold_that_came_too_late_is_given_back_at_once(world: World) -> None:
    charge = _charge()
    world.grant(charge, sent=NOW - LIFE)
    assert world.holds.take(charge) is None
    assert world.holds.next_end == NOW
    assert world.holds.take_over() == [Return(charge, NOW + LIFE, 4, 0)]


def test_a_hold_from_before_a_change_is_given_back_at_once(world: World) -> None:
    charge, age = _charge(), world.holds.age
    world.holds.end()
    world.grant(charge, age=age)
    assert world.holds.take(charge) is None
    assert world.holds.take_over() == [Return(charge, NOW + LIFE, 4, 0)]


def test_changed_counters_end_the_holds_of_their_callers_and_of_calls_without_a_key(world: World) -> None:
    named, other = _charge(), _charge("other")
    bare = Charge(named.limits[:1])
    for charge in (named, other, bare):
        world.grant(charge)
    world.holds.end(["k"])
    assert world.holds.take(other)
    assert [one.charge for one in world.holds.take_over()] == [named, bare]


def test_the_oldest_of_too_many_callers_gives_its_hold_back(world: World) -> None:
    charges = [_charge(name) for name in "abcd"]
    for charge in charges:
        world.grant(charge)
    assert world.holds.take(charges[0]) is None
    assert world.holds.take_over() == [Return(charges[0], NOW + LIFE, 4, 0)]
    assert all(world.holds.take(charge) for charge in charges[1:])


def test_a_caller_that_asks_again_is_not_the_oldest(world: World) -> None:
    """So a flood of callers that come once does not end the holds of busy ones."""
    charges = [_charge(name) for name in "abcd"]
    for charge in charges[:3]:
        world.grant(charge)
    world.wanted(charges[0])
    world.wanted(charges[3])
    assert world.holds.take(charges[0])
    assert world.holds.take(charges[1]) is None

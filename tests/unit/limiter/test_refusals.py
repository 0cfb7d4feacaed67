"""A remembered refusal equals Redis's own answer, for as long as it is remembered."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, throttle
from authz.core.verdict import Tally
from authz.limiter.refusals import Refusals
from tests.conftest import micros
from tests.support.model import Model

NOW = micros("2026-03-04T10:00:00Z")
METER = Meter("ledger", "history")
LONGEST_US = 1_000_000  # a refusal is remembered for this long at most
START, END = NOW - 500_000, NOW + 700_000


def _rule(rate: float, burst: int) -> Throttle:
    rule = throttle(rate, burst)
    assert rule
    return rule


rules = st.builds(
    lambda rate, burst, units: replace(_rule(rate, burst), counts_units=units),
    st.sampled_from((0.0, 0.3, 1.0, 7.0, 9999.0)),
    st.integers(0, 3),
    st.booleans(),
)
quotas = st.builds(Quota, st.integers(1, 3), st.just(START), st.just(END), overage=st.sampled_from((0, 0, 1)))
PLAN = Limit(Layer.PLAN_THROTTLE, METER.ledger, _rule(1.0, 1))
QUOTA = Limit(Layer.PLAN_QUOTA, METER.ledger, Quota(1, START, END))
METHOD = Limit(Layer.PLAN_METHOD_THROTTLE, "method", _rule(1.0, 1))
STAGE = Limit(Layer.STAGE_METHOD_THROTTLE, "stage", _rule(1.0, 1))
ACCOUNT = Limit(Layer.ACCOUNT_THROTTLE, "account", _rule(1.0, 1))


@st.composite
def _limits(draw: st.DrawFn) -> tuple[Limit, ...]:
    """Draw a caller's limits, in order; none is a shadow limit."""
    found = [
        Limit(Layer.PLAN_THROTTLE, METER.ledger, draw(rules)),
        Limit(Layer.PLAN_METHOD_THROTTLE, "method", draw(rules)),
        Limit(Layer.PLAN_QUOTA, METER.ledger, draw(quotas)),
        Limit(Layer.STAGE_METHOD_THROTTLE, "stage", draw(rules)),
        Limit(Layer.ACCOUNT_THROTTLE, "account", draw(rules)),
    ]
    return tuple(limit for limit in found if draw(st.booleans()))


def _refused(charge: Charge, model: Model, now: int) -> Tally | None:
    """Call until one is refused, and return that refusal; None if none comes."""
    for _ in range(5):
        tally = model.admit(charge, now, Tally(now, (0,) * len(charge.limits)))
        if tally.refused_by:
            return tally
    return None


@settings(deadline=None)
@given(
    limits=_limits(),
    has_key=st.booleans(),
    passed=st.integers(0, LONGEST_US + 1),
    behind=st.integers(0, 1000),
    cost=st.sampled_from((1, 1, 0, 2, 4)),
)
def test_a_recalled_refusal_equals_redis_own(
    limits: tuple[Limit, ...], has_key: bool, passed: int, behind: int, cost: int
) -> None:
    """Refusal, wait and all states are equal. The refused call began `behind` µs before Redis's answer."""
    if not has_key:
        limits = tuple(
            limit for limit in limits if limit.layer in (Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE)
        )
    assume(limits)
    model, charge = Model(), Charge(limits, METER if has_key else None, cost)
    tally = _refused(charge, model, NOW)
    assume(tally)
    assert tally
    refusals = Refusals()
    refusals.remember(charge, tally, 0)
    recalled = refusals.recall(charge, passed + behind, NOW + passed)
    assert refusals.recall(replace(charge, cost=cost + 1), behind, NOW) is None
    if recalled:
        assert passed + behind < LONGEST_US
        said = model.admit(charge, NOW + passed, recalled)
        assert (recalled.refused_by, recalled.states, recalled.now) == (said.refused_by, said.states, said.now)
        assert recalled.wait_us == said.wait_us


def _tally(by: Limit, *limits: Limit, wait: int | None = 1_000_000) -> Tally:
    """A refusal by limits that are all full."""
    states = tuple(1 if isinstance(limit.rule, Quota) else limit.rule.burst * limit.rule.m for limit in limits)
    return Tally(NOW, states, by, wait)


def _is_remembered(limits: tuple[Limit, ...], tally: Tally, meter: Meter | None = METER) -> bool:
    refusals = Refusals()
    refusals.remember(Charge(limits, meter), tally, 0)
    return refusals.recall(Charge(limits, meter), 1, NOW + 1) is not None


SHADOW = replace(PLAN, shadow=True)


@pytest.mark.parametrize(
    ("limits", "by", "meter", "remembered"),
    [
        pytest.param((PLAN, QUOTA), PLAN, METER, True, id="the plan's throttle"),
        pytest.param((PLAN, QUOTA), QUOTA, METER, True, id="the plan's quota"),
        pytest.param((PLAN, METHOD, QUOTA), METHOD, METER, False, id="the plan's throttle of a method"),
        pytest.param((PLAN, STAGE), STAGE, METER, False, id="the stage's throttle, with a key"),
        pytest.param((PLAN, ACCOUNT), ACCOUNT, METER, False, id="the account's throttle, with a key"),
        pytest.param((STAGE, ACCOUNT), STAGE, None, True, id="the stage's throttle, where no key is needed"),
        pytest.param((STAGE, ACCOUNT), ACCOUNT, None, True, id="the account's throttle, where no key is needed"),
        pytest.param((SHADOW, QUOTA), QUOTA, METER, False, id="behind a shadow limit"),
    ],
)
def test_only_some_kinds_are_remembered(
    limits: tuple[Limit, ...], by: Limit, meter: Meter | None, remembered: bool
) -> None:
    assert _is_remembered(limits, _tally(by, *limits), meter) is remembered


@pytest.mark.parametrize(
    "tally",
    [
        pytest.param(Tally(NOW, (1, 1)), id="admitted"),
        pytest.param(replace(_tally(QUOTA, PLAN, QUOTA), degraded=True), id="without Redis"),
        pytest.param(Tally(NOW, stale=True), id="stale"),
        pytest.param(replace(_tally(QUOTA, PLAN, QUOTA), now=END), id="nothing left to wait for"),
    ],
)
def test_only_a_lasting_refusal_by_redis_is_remembered(tally: Tally) -> None:
    assert not _is_remembered((PLAN, QUOTA), tally)


@pytest.mark.parametrize(
    ("limit", "holds"),
    [
        (Limit(Layer.PLAN_THROTTLE, METER.ledger, _rule(10.0, 1)), 100_000),
        (Limit(Layer.PLAN_THROTTLE, METER.ledger, _rule(0.1, 1)), LONGEST_US),
        (Limit(Layer.PLAN_THROTTLE, METER.ledger, _rule(0.0, 1)), LONGEST_US),
        (Limit(Layer.PLAN_THROTTLE, METER.ledger, _rule(5.0, 0)), LONGEST_US),
        (QUOTA, END - NOW),
        (replace(QUOTA, rule=Quota(1, START, NOW + 2 * LONGEST_US)), LONGEST_US),
    ],
)
def test_a_refusal_holds_for_the_limits_own_wait_and_a_second_at_most(limit: Limit, holds: int) -> None:
    """The time counts from before the call. The waits of the other limits do not matter."""
    refusals = Refusals()
    for moment, is_there in ((0, True), (holds - 1, True), (holds, False), (holds - 1, False)):
        if moment == 0:
            refusals.remember(Charge((limit, ACCOUNT), METER), _tally(limit, limit, ACCOUNT, wait=None), 0)
        assert (refusals.recall(Charge((limit, ACCOUNT), METER), moment, NOW) is not None) is is_there


def test_a_clock_that_steps_back_takes_the_memory_with_it() -> None:
    refusals = Refusals()
    refusals.remember(Charge((QUOTA,), METER), _tally(QUOTA, QUOTA), 10)
    assert refusals.recall(Charge((QUOTA,), METER), 9, NOW - 1) is None
    assert len(refusals) == 0


OTHER = Limit(Layer.PLAN_METHOD_THROTTLE, "other", _rule(1.0, 1))


@pytest.mark.parametrize(
    ("asked", "states", "kept"),
    [
        pytest.param((PLAN, METHOD, QUOTA, STAGE), 4, True, id="the same limits"),
        pytest.param((PLAN, METHOD, QUOTA, ACCOUNT), 3, True, id="others behind the one that refused"),
        pytest.param((PLAN, OTHER, QUOTA, STAGE), 0, True, id="another in front of it: another route"),
        pytest.param((PLAN, QUOTA), 0, True, id="fewer in front of it"),
        pytest.param((PLAN, METHOD, replace(QUOTA, rule=Quota(9, START, END)), STAGE), 0, False, id="a raised quota"),
        pytest.param((PLAN, METHOD, STAGE), 0, False, id="no quota any more"),
        pytest.param((), 0, False, id="no limits any more"),
    ],
)
def test_it_holds_for_the_same_limits_up_to_the_one_that_refused(
    asked: tuple[Limit, ...], states: int, kept: bool
) -> None:
    """Another route needs Redis and keeps the memory; a changed limit ends it."""
    limits = (PLAN, METHOD, QUOTA, STAGE)
    refusals = Refusals()
    refusals.remember(Charge(limits, METER), _tally(QUOTA, *limits), 0)
    recalled = refusals.recall(Charge(asked, METER), 1, NOW)
    assert (len(recalled.states) if recalled else 0) == states
    assert (refusals.recall(Charge(limits, METER), 1, NOW) is not None) is kept


def test_as_many_callers_are_remembered_as_were_said_and_the_oldest_go() -> None:
    refusals, meters = Refusals(2), [Meter(name, name) for name in "abc"]
    for meter in meters:
        quota = replace(QUOTA, key=meter.ledger)
        refusals.remember(Charge((quota,), meter), _tally(quota, quota), 0)
    recalled = [refusals.recall(Charge((replace(QUOTA, key=meter.ledger),), meter), 1, NOW) for meter in meters]
    assert [tally is not None for tally in recalled] == [False, True, True]


def test_a_memory_of_size_0_remembers_no_caller() -> None:
    refusals = Refusals(0)
    refusals.remember(Charge((QUOTA,), METER), _tally(QUOTA, QUOTA), 0)
    assert len(refusals) == 0


@pytest.mark.parametrize(("ledgers", "left"), [(None, 0), ([METER.ledger], 1), (["somebody else"], 2), ([], 2)])
def test_what_changed_is_forgotten_and_nothing_else(ledgers: list[str] | None, left: int) -> None:
    """Each time its age grows, so that an answer in flight is known to be from before."""
    refusals = Refusals()
    refusals.remember(Charge((QUOTA,), METER), _tally(QUOTA, QUOTA), 0)
    refusals.remember(Charge((STAGE,), None), _tally(STAGE, STAGE), 0)
    before = refusals.age
    refusals.forget(ledgers)
    assert len(refusals) == left
    assert refusals.age > before

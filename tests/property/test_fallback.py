"""The stand-in while Redis is away: exact alone, bounded together, and true to what Redis last said."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, Throttle, remaining, throttle
from authz.core.verdict import Tally
from authz.core.zones import DAY_US
from authz.limiter.local import LocalLimiter
from tests.support.model import Model

SECOND = 1_000_000
NOON = 20_000 * DAY_US + DAY_US // 2
METER = Meter("ledger", "history")
RATES = (0.0, 0.3, 1.0, 3.0, 7.0, 3000.0, 9999.0, 700_000.0)

Chosen = tuple[Throttle | None, Throttle | None, int | None, Throttle | None, Throttle | None]

rules = st.builds(
    lambda rate, burst: cast("Throttle", throttle(rate, burst)), st.sampled_from(RATES), st.integers(0, 8)
)
waits_us = st.sampled_from((0, 0, 0, 1, 143, 333_334, SECOND, 5 * SECOND))
gaps = st.lists(waits_us, min_size=1, max_size=40)
processes = st.integers(1, 5)
layers = st.tuples(
    st.none() | rules, st.none() | rules, st.none() | st.integers(1, 8), st.none() | rules, st.none() | rules
)


def _quota(limit: int) -> Quota:
    return Quota(limit, 20_000 * DAY_US, 20_001 * DAY_US)


def _limits(chosen: Chosen, shadow: bool) -> list[Limit]:
    plan, method, quota, stage, account = chosen
    found = [
        Limit(Layer.PLAN_THROTTLE, METER.ledger, plan, shadow) if plan else None,
        Limit(Layer.PLAN_METHOD_THROTTLE, "method", method, shadow) if method else None,
        Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(quota), shadow) if quota else None,
        Limit(Layer.STAGE_METHOD_THROTTLE, "stage", stage) if stage else None,
        Limit(Layer.ACCOUNT_THROTTLE, "account", account) if account else None,
    ]
    return [limit for limit in found if limit]


def _lefts(limits: Sequence[Limit], tally: Tally) -> list[int]:
    return [remaining(limit.rule, state) for limit, state in zip(limits, tally.states, strict=True)]


@given(layers, st.booleans(), gaps)
def test_a_single_process_decides_as_redis_would(
    chosen: Chosen,
    shadow: bool,
    waits: list[int],
) -> None:
    """Its share is the whole limit: the same refusals, waits and units left as the model."""
    local, model, limits, now = LocalLimiter(1), Model(), _limits(chosen, shadow), NOON
    for gap in waits:
        now += gap
        tally = local.admit(Charge(limits, METER), now)
        expected = model.admit(Charge(limits, METER), now, tally)
        assert (tally.refused_by, tally.wait_us) == (expected.refused_by, expected.wait_us)
        assert tally.shadowed_by == expected.shadowed_by
        assert _lefts(limits, tally) == _lefts(limits, expected)
        assert tally.degraded


unit_rules = st.builds(lambda rule, units: replace(rule, counts_units=units), rules, st.booleans())
day_quotas = st.builds(
    lambda limit, units, over: replace(_quota(limit), counts_units=units, overage=over),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from((0, 0, 1, 5, 2**53)),
)


@given(unit_rules, day_quotas, day_quotas, st.lists(st.tuples(st.sampled_from((0, 1, 2, 5, 9)), waits_us), max_size=40))
def test_a_single_process_decides_costs_as_redis_would(
    rule: Throttle, first: Quota, second: Quota, calls: list[tuple[int, int]]
) -> None:
    """Limits of units and of requests, two quotas, overage."""
    local, model, now = LocalLimiter(1), Model(), NOON
    limits = [
        Limit(Layer.PLAN_THROTTLE, METER.ledger, rule),
        Limit(Layer.PLAN_QUOTA, METER.ledger, first),
        Limit(Layer.PLAN_QUOTA, "another", second),
    ]
    for cost, gap in calls:
        now += gap
        charge = Charge(limits, METER, cost)
        tally = local.admit(charge, now)
        expected = model.admit(charge, now, tally)
        assert (tally.refused_by, tally.wait_us) == (expected.refused_by, expected.wait_us)
        assert tally.states[1:] == expected.states[1:]
        assert _lefts(limits, tally) == _lefts(limits, expected)
    owed = sum(spent.units for spent in local.take_spent())
    assert owed == model.ledgers[METER.ledger].row[2] if METER.ledger in model.ledgers else not owed


@dataclass(frozen=True)
class Turn:
    """A call that reaches one of the processes, this long after the one before."""

    process: int
    gap: int


turns = st.lists(
    st.builds(Turn, st.integers(0, 4), st.sampled_from((0, 0, 0, 0, 1, 40_000, SECOND))), min_size=1, max_size=80
)


def _admitted(fleet: Sequence[LocalLimiter], limits: Sequence[Limit], script: Sequence[Turn]) -> list[int]:
    """The times at which any of the processes admitted."""
    now, times = NOON, []
    for turn in script:
        now += turn.gap
        if fleet[turn.process % len(fleet)].admit(Charge(limits, METER), now).refused_by is None:
            times.append(now)
    return times


@given(rules, processes, turns)
def test_together_the_processes_admit_burst_and_rate_or_one_each(
    rule: Throttle, count: int, script: list[Turn]
) -> None:
    """In every window; a burst of 0 stays 0."""
    fleet = [LocalLimiter(count) for _ in range(count)]
    times = _admitted(fleet, [Limit(Layer.PLAN_THROTTLE, METER.ledger, rule)], script)
    bound, rate = max(rule.burst, count) if rule.burst else 0, Fraction(rule.n, rule.m)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= bound + rate * (times[last] - start)


@given(st.integers(1, 9), st.integers(0, 12), processes, turns)
def test_the_share_of_a_quota_comes_from_the_rest_that_redis_last_reported(
    limit: int, used: int, count: int, script: list[Turn]
) -> None:
    """At least one a process, but a reported 0 stays 0."""
    fleet = [LocalLimiter(count) for _ in range(count)]
    limits = [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(limit))]
    for local in fleet:
        local.observe(limits, [used])
    left = max(0, limit - used)
    assert len(_admitted(fleet, limits, script)) <= (max(left, count) if left else 0)


@given(st.integers(1, 9), st.integers(0, 9), processes, turns)
def test_the_share_of_a_limit_that_never_refills_comes_from_its_last_reported_rest(
    burst: int, spent: int, count: int, script: list[Turn]
) -> None:
    """Rate 0 is a quota without an end."""
    rule = throttle(0.0, burst)
    assert rule
    fleet = [LocalLimiter(count) for _ in range(count)]
    limits = [Limit(Layer.STAGE_METHOD_THROTTLE, "stage", rule)]
    for local in fleet:
        local.observe(limits, [spent * rule.m])
    left = max(0, burst - spent)
    assert len(_admitted(fleet, limits, script)) <= (max(left, count) if left else 0)


@given(st.integers(1, 9), processes)
def test_a_rest_reported_in_another_period_is_ignored(limit: int, count: int) -> None:
    local, quota = LocalLimiter(count), _quota(limit)
    over = replace(quota, start=quota.start - DAY_US, end=quota.start)
    local.observe([Limit(Layer.PLAN_QUOTA, METER.ledger, over)], [limit])
    assert local.admit(Charge([Limit(Layer.PLAN_QUOTA, METER.ledger, quota)], METER), NOON).refused_by is None


@given(layers, st.integers(1, 3), gaps)
def test_a_refused_request_takes_nothing_from_any_share(
    chosen: Chosen,
    count: int,
    waits: list[int],
) -> None:
    """One limiter hears the refused calls as well and the other does not; both go on alike."""
    full = cast("Throttle", throttle(1.0, 0))
    heard, spared, limits, now = LocalLimiter(count), LocalLimiter(count), _limits(chosen, shadow=False), NOON
    doomed = [*limits, Limit(Layer.ACCOUNT_THROTTLE, "full", full)]
    for gap in waits:
        now += gap
        assert heard.admit(Charge(doomed, METER), now).refused_by is not None
        assert heard.admit(Charge(limits, METER), now) == spared.admit(Charge(limits, METER), now)
    assert heard.take_spent() == spared.take_spent()


@given(layers, processes, gaps)
def test_a_shadow_plan_without_room_is_not_charged_and_never_refuses(
    chosen: Chosen,
    count: int,
    waits: list[int],
) -> None:
    local, now = LocalLimiter(count), NOON
    limits = _limits((chosen[0], chosen[1], chosen[2], None, None), shadow=True)
    for gap in waits:
        now += gap
        before = deepcopy(local)
        tally = local.admit(Charge(limits, METER), now)
        assert tally.refused_by is None
        if tally.shadowed_by:
            assert _lefts(limits, tally) == _lefts(limits, before.admit(Charge(limits, METER), now))
    assert local.owed == len(waits)


@given(rules, st.integers(1, 9), gaps)
def test_spent_units_are_handed_over_once_oldest_day_first(rule: Throttle, limit: int, waits: list[int]) -> None:
    """By day; no unit is lost, and none is reported twice."""
    local, now, admitted = LocalLimiter(), NOON, 0
    for gap in waits:
        now += gap * 20_000
        start = now // DAY_US * DAY_US
        limits = [
            Limit(Layer.PLAN_THROTTLE, METER.ledger, rule),
            Limit(Layer.PLAN_QUOTA, METER.ledger, Quota(limit, start, start + DAY_US)),
        ]
        admitted += local.admit(Charge(limits, METER), now).refused_by is None
        local.admit(Charge(limits, None), now)
    assert local.owed == admitted
    spent = local.take_spent()
    assert sum(part.requests for part in spent) == admitted
    assert [part.day for part in spent] == sorted({part.day for part in spent})
    assert all(
        kept.rule == Quota(limit, part.day * DAY_US, (part.day + 1) * DAY_US) for part in spent for kept in part.quotas
    )
    assert local.take_spent() == []
    assert local.owed == 0


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), processes, st.integers(0, 9))
def test_after_a_flush_the_share_comes_from_the_new_rest(
    limit: int, used: int, others: int, count: int, asked: int
) -> None:
    """Redis reports the units left after it has counted this process's part, and perhaps units that `others` spent."""
    local, limits = LocalLimiter(count), [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(limit))]
    local.observe(limits, [used])
    before = _asked(local, limits, asked)
    assert before == min(asked, _part(max(0, limit - used), count))
    left = max(0, limit - used - before - others)
    for spent in local.take_spent():
        local.counted(spent, [limit - left])
    expected = _part(left, count) if before else _part(max(0, limit - used), count)
    assert _asked(local, limits, 20) == expected


@given(st.integers(1, 9), st.integers(1, 9))
def test_what_could_not_be_counted_stays_in_the_process_part(limit: int, asked: int) -> None:
    local, limits = LocalLimiter(), [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(limit))]
    before = _asked(local, limits, asked)
    for spent in local.take_spent():
        local.counted(spent, [])
    assert before + _asked(local, limits, 20) == limit


def test_a_second_outage_knows_the_overage_that_the_first_has_used() -> None:
    """Redis reports all used units, those beyond the limit included."""
    quota = replace(_quota(10), overage=5)
    local, limits = LocalLimiter(), [Limit(Layer.PLAN_QUOTA, METER.ledger, quota)]
    local.observe(limits, [13])
    assert _asked(local, limits, 9) == 2
    for spent in local.take_spent():
        local.counted(spent, [15])
    assert _asked(local, limits, 9) == 0


@pytest.mark.parametrize("rule", [replace(cast("Throttle", throttle(1.0, 100)), counts_units=True), _quota(100)])
def test_an_amount_above_the_share_of_a_process_has_a_wait(rule: Throttle | Quota) -> None:
    """It fits into the whole limit, so Redis will have room for it."""
    local, limits = LocalLimiter(8), [Limit(Layer.PLAN_THROTTLE, METER.ledger, rule)]
    assert local.admit(Charge(limits, METER, cost=50), NOON).wait_us
    assert local.admit(Charge(limits, METER, cost=101), NOON).wait_us is None


def _part(left: int, count: int) -> int:
    return max(1, left // count) if left else 0


def _asked(local: LocalLimiter, limits: Sequence[Limit], times: int) -> int:
    """The number of admitted calls among `times` at one moment."""
    return sum(local.admit(Charge(limits, METER), NOON).refused_by is None for _ in range(times))


@given(st.integers(1, 9), processes, st.integers(1, 9))
def test_units_that_could_not_be_flushed_stay_in_the_share_of_the_process(limit: int, count: int, rounds: int) -> None:
    """A ledger in a bad state must not renew the share with every attempt to settle."""
    local, limits = LocalLimiter(count), [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(limit))]
    admitted = 0
    for _ in range(rounds):
        admitted += sum(local.admit(Charge(limits, METER), NOON).refused_by is None for _ in range(20))
        for spent in local.take_spent():
            local.counted(spent, [])
    assert admitted == max(1, limit // count)


@given(st.integers(1, 5), st.integers(1, 20))
def test_a_call_that_a_shadow_quota_would_refuse_is_not_charged_to_it(limit: int, calls: int) -> None:
    """It is still counted as usage."""
    local, limits = LocalLimiter(), [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(limit), shadow=True)]
    for _ in range(calls):
        local.admit(Charge(limits, METER), NOON)
    charged = {bool(spent.quotas): spent.requests for spent in local.take_spent()}
    assert charged.get(True, 0) == min(calls, limit)
    assert charged.get(False, 0) == max(0, calls - limit)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from((0, 1, 333_334, SECOND, 20 * SECOND))), max_size=60))
def test_dropping_full_buckets_gives_no_caller_a_token(calls: list[tuple[int, int]]) -> None:
    """Callers that share a process decide as if each had one to itself, where nothing is ever dropped."""
    together, alone, now = LocalLimiter(), [LocalLimiter() for _ in range(6)], NOON
    rule = cast("Throttle", throttle(1.0, 3))
    for caller, gap in calls:
        now += gap
        limits = [
            Limit(Layer.PLAN_THROTTLE, f"ledger{caller}", rule),
            Limit(Layer.PLAN_METHOD_THROTTLE, f"method{caller}", rule),
            Limit(Layer.PLAN_QUOTA, f"ledger{caller}", _quota(40)),
        ]
        assert together.admit(Charge(limits, METER), now) == alone[caller].admit(Charge(limits, METER), now)


def _kept(local: LocalLimiter) -> tuple[int, int]:
    return len(local._buckets), len(local._used)


def test_the_state_of_an_outage_is_dropped_when_it_decides_nothing() -> None:
    """A thousand callers, then a thousand others: of the first, buckets are full and periods over."""
    local, rule = LocalLimiter(), cast("Throttle", throttle(1.0, 3))
    for day in range(20_000, 20_010):
        quota = Quota(5, day * DAY_US, (day + 1) * DAY_US)
        for caller in range(1_000):
            name = f"{day}-{caller}"
            limits = [Limit(Layer.PLAN_THROTTLE, name, rule), Limit(Layer.PLAN_QUOTA, name, quota)]
            assert local.admit(Charge(limits, METER), day * DAY_US).refused_by is None
    assert _kept(local) <= (2_000, 4_000)


def test_spent_units_are_kept_with_any_number_of_later_callers() -> None:
    """A bucket that never refills and a quota whose period goes on: neither is given again."""
    local, never = LocalLimiter(reports=2), cast("Throttle", throttle(0.0, 1))

    def limits(caller: int) -> list[Limit]:
        return [Limit(Layer.PLAN_THROTTLE, f"l{caller}", never), Limit(Layer.PLAN_QUOTA, f"l{caller}", _quota(1))]

    assert all(local.admit(Charge(limits(caller), METER), NOON).refused_by is None for caller in range(500))
    assert all(local.admit(Charge(limits(caller), METER), NOON + 1).refused_by is not None for caller in range(500))
    assert all(local.admit(Charge(limits(caller)[1:], METER), NOON + 1).refused_by is not None for caller in range(500))


@given(st.integers(1, 9), st.lists(st.integers(0, 30), max_size=60))
def test_the_latest_reports_are_kept(limit: int, callers: list[int]) -> None:
    """For recent callers the last report of Redis counts; for forgotten ones the whole quota is shared out."""
    local = LocalLimiter(reports=4)
    for caller in callers:
        local.observe([Limit(Layer.PLAN_QUOTA, f"l{caller}", _quota(limit))], [limit])
    for caller in callers[-2:]:
        assert _asked(local, [Limit(Layer.PLAN_QUOTA, f"l{caller}", _quota(limit))], 1) == 0
    assert len(local._quotas) <= 4


def test_a_step_back_over_the_end_of_a_period_gives_no_quota_twice() -> None:
    """An earlier period is charged to the one that has begun."""
    local, limits = LocalLimiter(), [Limit(Layer.PLAN_QUOTA, METER.ledger, _quota(1))]
    rule = limits[0].rule
    assert isinstance(rule, Quota)
    earlier = [Limit(Layer.PLAN_QUOTA, METER.ledger, Quota(1, rule.start - DAY_US, rule.start))]
    assert local.admit(Charge(limits, METER), NOON).refused_by is None
    assert local.admit(Charge(earlier, METER), rule.start - 1).refused_by is earlier[0]

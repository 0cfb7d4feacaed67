"""Figures of an account: gathered some callers at a time, they are those of all callers at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.aws.usage import CallerUse, DayRow, RefusedRow
from authz.core.holders import Holder, QuotaState, Terms
from authz.core.resources import LimitsPer, Override, Period, QuotaOverride, QuotaSettings
from authz.core.stored import StoredPlan
from authz.core.zones import DAY_US
from authz.store.figures import Overview, PlanSums, Sums, decoded, encoded
from authz.store.gather import Best, Gathering, apart, held_of
from authz.store.ports import Survey
from authz.store.sweep import days_to_read
from tests.support import builders

TODAY = 20_516
NOW = TODAY * DAY_US + 36_000_000_000
DAYS = (TODAY - 1, TODAY)
MONTH = QuotaSettings(100, Period.MONTH)
MONTH_START = builders.held(MONTH)[1].at(NOW).start
few = st.integers(0, 5)
callers = st.dictionaries(
    st.integers(TODAY - 2, TODAY), st.tuples(st.tuples(few, few, few), st.tuples(few, few, few, few)), max_size=3
)


@given(sizes=st.lists(few, max_size=30), count=st.integers(1, 5))
def test_the_greatest_are_kept_and_of_equal_ones_the_first(sizes: list[int], count: int) -> None:
    best = Best[tuple[int, int]](count, lambda item: item[0])
    items = [(size, at) for at, size in enumerate(sizes)]
    for item in items:
        best.add(item)
    assert list(best.items()) == sorted([item for item in items if item[0]], key=lambda item: -item[0])[:count]


def record(days: Any) -> CallerUse:
    return CallerUse(
        rows={day: DayRow(calls, -1, units, over) for day, ((calls, units, over), _) in days.items()},
        refused={day: RefusedRow(*refused) for day, (_, refused) in days.items()},
    )


def gathered(plan: StoredPlan, uses: list[CallerUse], size: int) -> tuple[Overview, dict[int, Sums]]:
    """The figures of keys k0, k1, … that are read `size` at a time."""
    gathering = Gathering(DAYS)
    into = gathering.begin(plan)
    for start in range(0, len(uses), size):
        some = {f"k{start + at}": use for at, use in enumerate(uses[start : start + size])}
        held = held_of(plan, {key: Holder.of(key, Terms(), plan.ref) for key in some})
        gathering.add(into, held, Survey(NOW, some, {}))
    gathering.end(into)
    return gathering.overview(NOW, NOW, DAYS[0]), gathering.totals


@given(uses=st.lists(callers, max_size=12), size=st.integers(1, 5))
def test_figures_add_up_however_many_callers_are_read_at_once(uses: list[Any], size: int) -> None:
    plan, records = StoredPlan(builders.plan("p1")), [record(days) for days in uses]
    overview, totals = gathered(plan, records, size)
    assert (overview, totals) == gathered(plan, records, 100)
    for day in (TODAY - 1, TODAY):
        numbers = [(*days[day][0], *days[day][1]) for days in uses if day in days]
        assert totals.get(day, Sums()) == Sums(*map(sum, zip(*numbers, strict=True))) if numbers else True
    assert overview.total.sums == totals.get(TODAY, Sums())
    assert overview.total.callers == sum(any(sum(days[TODAY], ())) for days in uses if TODAY in days)
    assert TODAY - 2 not in totals


def near(
    plan: StoredPlan, holders: dict[str, Holder], states: dict[str, QuotaState], used: int = 0
) -> list[tuple[str | None, str | None, str, int]]:
    """The listed quotas. `states` are by the kind of their Redis key; each key's ledger has `used`."""
    gathering = Gathering(DAYS)
    into = gathering.begin(plan)
    held = held_of(plan, holders)
    found = {quota.name: states[quota.name[0]] for quota in apart(held.values()) if quota.name[0] in states}
    records = {key: CallerUse(QuotaState(MONTH_START, 0, used)) for key in holders}
    gathering.add(into, held, Survey(NOW, records, found))
    gathering.end(into)
    overview = gathering.overview(NOW, NOW, TODAY)
    assert overview.total.near + overview.total.full == len(overview.near)
    return [(one.key_id, one.customer_id, one.period, one.percent) for one in overview.near]


@pytest.mark.parametrize(
    ("used", "percents"), [(0, []), (79, []), (80, [80]), (99, [99]), (100, [100]), (150, [150]), (-5, [])]
)
def test_a_quota_is_listed_from_80_percent_on(used: int, percents: list[int]) -> None:
    plan = StoredPlan(builders.plan("p1", quota=MONTH))
    assert [one[-1] for one in near(plan, {"k": Holder("k")}, {}, used)] == percents


def test_the_numbers_of_a_key_are_compared_and_not_those_of_its_plan() -> None:
    plan = StoredPlan(builders.plan("p1", quota=MONTH))
    tighter = Holder("tight", override=Override(quotas=(QuotaOverride(Period.MONTH, 50),)))
    wider = Holder("wide", override=Override(quotas=(QuotaOverride(Period.MONTH, 1000),)))
    holders = {"plain": Holder("plain"), "tight": tighter, "wide": wider}
    assert near(plan, holders, {}, 45) == [("tight", None, "MONTH", 90)]


def test_a_customer_is_listed_once_however_many_keys_it_has() -> None:
    plan = StoredPlan(builders.plan("p1", quota=MONTH, limits_per=LimitsPer.CUSTOMER))
    acme = Holder("acme", is_customer=True)
    start = TODAY * DAY_US - 30 * DAY_US  # an earlier start than the month's is one of another month
    state = {"customer-ledger": QuotaState(MONTH_START, 0, 85)}
    assert near(plan, {"a": acme, "b": acme}, state) == [(None, "acme", "MONTH", 85)]
    assert near(plan, {"a": acme, "b": acme}, {"customer-ledger": QuotaState(start, 0, 85)}) == []


def test_further_quotas_are_listed_as_well() -> None:
    plan = StoredPlan(builders.plan("p1", quota=MONTH, quotas=(QuotaSettings(10, Period.TOTAL),)))
    assert near(plan, {"k": Holder("k")}, {"quota": QuotaState(0, 2**53, 9)}, 95) == [
        ("k", None, "MONTH", 95),
        ("k", None, "TOTAL", 90),
    ]


def overview(day: int, first: int) -> Overview:
    return Overview(day, 0, 0, first, PlanSums(""))


def back(*days: int) -> list[int]:
    return [TODAY - day for day in days]


@pytest.mark.parametrize(
    ("kept", "days", "first"),
    [
        (None, back(1, 0), 1),
        (overview(TODAY, TODAY - 200), back(1, 0), 200),
        (overview(TODAY - 1, TODAY - 200), back(1, 0), 200),
        (overview(TODAY - 4, TODAY - 200), back(4, 3, 2, 1, 0), 200),
        (overview(TODAY, TODAY - 1), back(8, 7, 6, 5, 4, 3, 2, 1, 0), 8),
        (overview(TODAY, TODAY - 50), back(57, 56, 55, 54, 53, 52, 51, 1, 0), 57),
        (overview(TODAY, TODAY - 87), back(89, 88, 1, 0), 89),
        (overview(TODAY, TODAY - 89), back(1, 0), 89),
        (overview(TODAY - 90, TODAY - 200), back(1, 0), 1),
        (overview(TODAY + 1, TODAY - 200), back(1, 0), 1),
    ],
)
def test_a_sweep_reads_yesterday_the_days_since_the_last_one_and_some_older_ones(
    kept: Overview | None, days: list[int], first: int
) -> None:
    assert days_to_read(kept, TODAY) == (days, TODAY - first)


def test_bytes_of_another_version_are_no_overview() -> None:
    assert decoded(encoded(overview(TODAY, TODAY))) == overview(TODAY, TODAY)
    assert decoded(b"\x93\x01\x02\x03") is None
    assert decoded(b"") is None

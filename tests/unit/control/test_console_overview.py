"""The first page of the console: near quotas, refusals, the busiest callers, sidecars, alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from authz.aws.usage import CallerUse, DayRow, Days, RefusedRow
from authz.control.console.overview import Live, live_of
from authz.core.holders import HeldQuota, QuotaState, quota_at
from authz.core.resources import LimitsPer, Mode, Period, QuotaSettings
from authz.core.stored import StoredKey, StoredPlan
from authz.core.zones import DAY_US
from authz.store.figures import CallerSums, NearQuota, Overview, PlanSums, Sums
from authz.store.ports import Alert, AlertPage, AlertQuery, Presence, Survey, UsageReading
from tests.support.builders import key, plan
from tests.support.pages import READER, Pages
from tests.support.plane import NoUsage

AT = 1_772_618_400_000_000  # 4 March 2026, 10:00 UTC
DAY = AT // DAY_US
QUOTA = QuotaSettings(limit=100, period=Period.MONTH)
EVIL = '"><script>alert(1)</script>'


class Figures(NoUsage):
    """A `Usage` on 4 March 2026 in which each key has used up a part of its quota, and had calls refused."""

    def __init__(self, used: dict[str, int], refused: RefusedRow | None = None, alerts: Sequence[Alert] = ()) -> None:
        self.used, self.refused, self.found = used, refused or RefusedRow(), list(alerts)

    async def redis_time(self) -> int:
        return AT

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        return AlertPage(self.found[:limit], None)

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        reading = await self.read(plan_id, key_ids, Days(DAY, DAY))
        shared = {quota.name: self._state(50) for quota in quotas}
        return Survey(AT, reading.records, shared)

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        rows = {
            key_id: CallerUse(self._state(used), {DAY: DayRow(used, 0, used, 0)}, {DAY: self.refused})
            for key_id, used in self.used.items()
            if key_id in key_ids
        }
        return UsageReading(AT, rows)

    def _state(self, used: int) -> QuotaState:
        quota = quota_at(QUOTA, AT)
        return QuotaState(int(quota.start), int(quota.end), used)


def stored(id_: str, **changes: Any) -> StoredKey:
    return StoredKey(key(id_, value_sha256=None, **changes), f"index of {id_}", 0, 0, plans=("p1",))


def pages(*keys: StoredKey, usage: NoUsage, as_: Any = None, **changes: Any) -> Pages:
    gold = StoredPlan(plan("p1", keys=(), **({"name": "Gold", "quota": QUOTA} | changes)))
    return Pages(gold, *keys, usage=usage, **({} if as_ is None else {"as_": as_}))


def text_of(console: Pages) -> str:
    answer = console.get("/console")
    assert answer.status_code == 200
    return answer.text


# --- figures ------------------------------------------------------------------------------------------------------


def test_a_key_near_its_quota_stands_first_with_its_links() -> None:
    keys = [stored("k1", name="Acme", customer_id="acme"), stored("k2", name="Beta"), stored("k3", name="Idle")]
    text = text_of(pages(*keys, usage=Figures({"k1": 85, "k2": 100, "k3": 10})))
    near = text.split("<h2>Near or over a quota</h2>")[1].split("<h2>")[0]
    assert near.index(">100 %<") < near.index(">85 %<")
    assert "Idle" not in near
    for link in ("/console/keys/id/k1", "/console/keys/customers/one?id=acme", "/console/plans/p1"):
        assert f'href="{link}"' in near
    assert "1 from 80 %, 1 full" in text


def test_refusals_are_listed_by_their_reason() -> None:
    text = text_of(pages(stored("k1", name="Acme"), usage=Figures({"k1": 5}, RefusedRow(12, 345))))
    by_quota, by_throttle = text.split("By a quota:")[1].split("By a throttle:")
    assert ">345<" in by_quota
    assert ">12<" in by_throttle
    assert "12 by throttles, 345 by quotas" in text


def test_a_plan_in_shadow_shows_whom_it_would_refuse() -> None:
    usage = Figures({"k1": 5}, RefusedRow(0, 0, 7, 9))
    text = text_of(pages(stored("k1"), usage=usage, mode=Mode.SHADOW))
    assert "<h2>Would be refused</h2>" in text
    assert "Would be refused" not in text_of(pages(stored("k1"), usage=Figures({"k1": 5})))


def test_the_busiest_callers_and_the_use_by_plan_and_by_day_are_shown() -> None:
    text = text_of(pages(stored("k1", name="Acme"), usage=Figures({"k1": 42})))
    top = text.split("<h2>Most calls today</h2>")[1]
    assert ">42<" in top
    assert 'id="days"' in top
    assert "2026-03-04 10:00:00 UTC" in text


def test_a_quota_that_customers_share_is_named_by_the_customer() -> None:
    shared = QuotaSettings(limit=55, period=Period.MONTH)
    console = pages(
        stored("k1", customer_id="acme"), usage=Figures({"k1": 3}), quota=shared, limits_per=LimitsPer.CUSTOMER
    )
    near = text_of(console).split("<h2>Near or over a quota</h2>")[1].split("<h2>")[0]
    assert "all of its keys" in near
    assert 'href="/console/keys/customers/one?id=acme"' in near


# --- sidecars and alerts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "counted"),
    [([], Live(0, 0)), ([("e", 7), ("e", 8)], Live(2, 2)), ([("e", 6), ("other", 9), ("e", 7)], Live(1, 3))],
)
def test_a_sidecar_is_current_if_it_serves_this_store_at_its_version(served: list[Any], counted: Live) -> None:
    sidecars = [{"id": "w", "epoch": epoch, "version": version} for epoch, version in served]
    assert live_of({"epoch": "e", "version": 7, "sidecars": sidecars}) == counted


def test_the_live_sidecars_are_counted_and_none_is_a_warning() -> None:
    console = pages(stored("k1"), usage=Figures({}))
    assert ">no sidecar<" in text_of(console)
    console.store.live = [Presence("w1", "epoch", 0), Presence("w2", "before", 9)]
    assert ">1 of 2<" in text_of(console)


def test_the_last_alerts_are_shown() -> None:
    crossed = Alert("1-1", "p1", "k1", None, "MONTH", "UNITS", 80, 80, 100, AT, AT, AT)
    text = text_of(pages(stored("k1"), usage=Figures({}, alerts=[crossed])))
    assert ">80 %<" in text.split("<h2>Alerts</h2>")[1]


# --- nothing yet --------------------------------------------------------------------------------------------------


def test_without_plans_and_without_keys_the_page_says_what_to_make() -> None:
    assert 'href="/console/plans-new">Make a plan.</a>' in text_of(Pages(usage=Figures({})))
    assert 'href="/console/keys/new">Make a key.</a>' in text_of(pages(usage=Figures({})))


def test_a_reader_is_not_led_to_forms() -> None:
    for text in (text_of(Pages(usage=Figures({}), as_=READER)), text_of(pages(usage=Figures({}), as_=READER))):
        main = text.partition("<main")[2].partition("</main>")[0]
        assert ("/new" in main, "<button" in main) == (False, False)


class Large(Figures):
    """The usage of an account that is too large to be read at once: it has the figures of the last sweep, if any."""

    def __init__(self, overview: Overview | None) -> None:
        super().__init__({})
        self.kept = overview

    async def overview(self) -> Overview | None:
        return self.kept


def large(overview: Overview | None) -> str:
    return text_of(pages(*(stored(f"k{number}") for number in range(1_001)), usage=Large(overview)))


def test_before_the_first_sweep_has_ended_the_page_says_to_wait() -> None:
    assert "The figures are gathered for the first time." in large(None)


def test_the_age_of_a_sweep_is_shown() -> None:
    sums = Sums(5, 5, 0, 1, 2)
    overview = Overview(
        DAY,
        AT,
        AT + 90_000_000,
        DAY - 3,
        PlanSums("", 1001, 1, sums, 1, 0),
        (PlanSums("p1", 1001, 1, sums, 1, 0),),
        (CallerSums("p1", "k7", sums),),
        near=(NearQuota("p1", "gone", None, "TOTAL", "UNITS", 100, 85, None),),
    )
    text = large(overview)
    assert "all keys were read in the 90 seconds that followed" in text
    assert "by 1 of 1,001 keys" in text
    assert "never: grant more" in text
    assert ">gone</a>" in text  # a key that was deleted since has no name


def test_markup_in_every_name_is_shown_as_text() -> None:
    usage = Figures(
        {"k1": 90}, RefusedRow(1, 1, 1, 1), [Alert("1-1", EVIL, EVIL, None, EVIL, EVIL, 1, 1, 1, AT, AT, AT)]
    )
    for limits_per in LimitsPer:
        console = pages(stored("k1", name=EVIL, customer_id=EVIL), usage=usage, name=EVIL, limits_per=limits_per)
        console.store.live = [Presence(EVIL, EVIL, 1)]
        text = text_of(console)
        assert "&lt;script&gt;" in text
        assert "<script>alert" not in text

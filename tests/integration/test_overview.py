"""Figures of the whole account: at once where it is small, and as of the last sweep where it is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from authz.aws.convert import from_resources
from authz.aws.usage import Days
from authz.core.holders import HeldQuota
from authz.core.limits import redis_key
from authz.core.resources import Counts, LimitsPer, Period, QuotaSettings, Resources
from authz.core.stored import Items
from authz.core.zones import DAY_US
from authz.limiter.refused import RefusedCount, RefusedSender
from authz.store import sweep
from authz.store.figures import Sums
from authz.store.ports import StoreUnavailable, Survey
from authz.store.quotas import find_held
from authz.store.store import Store
from authz.store.sweep import EVERY_SECONDS, LeaseLost, Sweep, Sweeper, overview_now
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.integration.test_metering import FIFTH, FOURTH, Shop
from tests.integration.test_metering import shop as shop
from tests.integration.test_usage import MONTH, Use
from tests.integration.test_usage import use as use
from tests.support import builders
from tests.support.control import Control, patiently, raw
from tests.support.control import control as control
from tests.support.servers import RedisServer


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every account is too large to be read at once."""
    monkeypatch.setattr(sweep, "FEW_KEYS", -1)


def swept(shop: Shop) -> bool:
    """Let the control plane sweep, if it is time to."""
    done: bool = shop.control.run(lambda context: Sweeper(context.store, context.usage, "").turn())
    return done


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["keyName"], row["requests"]) for row in rows]


# --- small accounts -----------------------------------------------------------------------------------------------


async def test_the_overview_of_a_small_account_is_as_of_now(shop: Shop, clock: Clock) -> None:
    silver, gold = shop.plans["silver"], shop.plans["gold"]
    body = shop.get("/usage/overview").json()
    assert body["ready"] is True
    assert (body["day"], body["asOf"], body["tookSeconds"]) == ("2026-03-05", "2026-03-05T10:00:00Z", 0)
    assert body["total"] == {
        "keys": 4,
        "plans": 2,
        "callers": 3,
        "requests": 6,
        "units": 6,
        "overage": 0,
        "refused": {"throttle": 0, "quota": 8},
        "shadow": {"throttle": 1, "quota": 2},
        "nearQuota": 0,
        "fullQuota": 0,
    }
    assert [(row["usagePlanId"], row["usagePlanName"], row["keys"], row["callers"]) for row in body["plans"]] == [
        (silver, "silver", 3, 2),
        (gold, "gold", 2, 1),
    ]
    assert brief(body["top"]) == [("beta", 4), ("alpha", 2)]
    assert body["top"][0]["customerId"] == "acme"
    assert body["refused"]["throttle"] == body["near"] == []
    (refused,) = body["refused"]["quota"]
    assert (refused["usagePlanId"], refused["keyName"], refused["refused"]) == (
        silver,
        "beta",
        {"throttle": 0, "quota": 8},
    )
    assert body["shadow"] == [refused]


async def test_the_days_of_a_small_account_are_as_of_now(shop: Shop) -> None:
    body = shop.get("/usage/overview/days?startDate=2026-03-01&endDate=2026-03-31").json()
    assert (body["ready"], body["asOf"]) == (True, "2026-03-05T10:00:00Z")
    assert [(row["day"], row["requests"], row["refused"]) for row in body["item"]] == [
        ("2026-03-04", 4, {"throttle": 7, "quota": 0}),
        ("2026-03-05", 6, {"throttle": 0, "quota": 8}),
    ]
    gold = shop.get(f"/usage/overview/days?startDate=2026-03-01&usagePlanId={shop.plans['gold']}&endDate=2026-03-31")
    assert [(row["day"], row["requests"]) for row in gold.json()["item"]] == [("2026-03-04", 1), ("2026-03-05", 4)]
    plans = "%2C".join(shop.plans.values())
    each = shop.get(f"/usage/overview/days?startDate=2026-03-01&usagePlanIds={plans}&endDate=2026-03-31").json()["item"]
    assert [row["requests"] for row in each if row["usagePlanId"] == shop.plans["gold"]] == [1, 4]
    assert {row["usagePlanId"] for row in each} <= set(shop.plans.values())
    assert sum(row["requests"] for row in each) == 4 + 6


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit=٣", "limt=3", "usagePlanId=x"])
async def test_a_query_of_the_overview_that_has_a_mistake_is_refused(control: Control, query: str) -> None:
    reply = patiently(control, "GET", f"/usage/overview?{query.replace('٣', '%D9%A3')}")
    assert reply.status == 400
    assert query.partition("=")[0] in reply.json()["message"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("groupBy=day", 400),
        ("startDate=2026-03-05&endDate=2026-03-04", 400),
        ("startDate=2020-03-05&endDate=2026-03-04", 400),
        ("usagePlanId=none", 404),
        ("usagePlanIds=none%2Cother", 404),
        ("usagePlanIds=none&usagePlanId=none", 400),
        ("usagePlanIds=" + "%2C".join(map(str, range(26))), 400),
    ],
)
async def test_queries_of_days(control: Control, query: str, status: int) -> None:
    assert patiently(control, "GET", f"/usage/overview/days?{query}").status == status


async def test_a_reader_may_see_the_overview(control: Control) -> None:
    for path in ("/usage/overview", "/usage/overview/days"):
        assert patiently(control.as_reader(), "GET", path).status == 200
        assert raw(control, "GET", path, sign=False).status == 403


async def test_lists_are_as_long_as_the_limit(shop: Shop) -> None:
    body = shop.get("/usage/overview?limit=1").json()
    assert (len(body["plans"]), brief(body["top"])) == (1, [("beta", 4)])


# --- quotas near their limits -------------------------------------------------------------------------------------


def plans() -> Items:
    """A file: `single` has two quotas for each key, `shared` one for each customer."""
    single = builders.plan(
        "single", quota=MONTH, quotas=(QuotaSettings(10, Period.DAY, counts=Counts.REQUESTS),), keys=("a", "b")
    )
    shared = builders.plan("shared", quota=MONTH, limits_per=LimitsPer.CUSTOMER, keys=("c", "d"))
    keys = [builders.key(name) for name in "ab"] + [builders.key(name, customer_id="acme") for name in "cd"]
    return from_resources(Resources(usage_plans=(single, shared), api_keys=tuple(keys)), 1, bytes.hex)


async def test_all_quotas_count_of_keys_and_of_customers_also_those_of_a_file(
    shared_redis: RedisServer, account: str, ledger: UsageLedger
) -> None:
    store = Store(shared_redis.url, account=account, fixed=plans)
    for name, period, remaining in (
        (("single", "a", None), Period.MONTH, 21),  # 79 %
        (("single", "a", None), Period.DAY, 1),  # 90 %
        (("single", "b", None), Period.MONTH, 0),
        (("shared", None, "acme"), Period.MONTH, 15),
    ):
        held = await find_held(store, *name)
        await ledger.set_remaining(name[0], held.holder, held.quota(period, None), remaining, who="ada", what="")
    overview = await overview_now(store, ledger)
    assert [(one.key_id, one.customer_id, one.period, one.percent) for one in overview.near] == [
        ("b", None, "MONTH", 100),
        ("a", None, "DAY", 90),
        (None, "acme", "MONTH", 85),
    ]
    assert {plan.plan_id: (plan.near, plan.full) for plan in overview.plans} == {"single": (1, 1), "shared": (1, 0)}
    await store.aclose()


async def test_a_quota_of_a_period_that_is_over_is_not_near_its_limit(
    shared_redis: RedisServer, account: str, ledger: UsageLedger, clock: Clock
) -> None:
    store = Store(shared_redis.url, account=account, fixed=plans)
    held = await find_held(store, "single", "a", None)
    await ledger.set_remaining("single", held.holder, held.quota(Period.DAY, None), 0, who="ada", what="")
    assert len((await overview_now(store, ledger)).near) == 1
    clock.advance(86_400)
    assert (await overview_now(store, ledger)).near == ()
    await store.aclose()


# --- sweeps -------------------------------------------------------------------------------------------------------


async def test_a_large_account_has_figures_after_the_first_sweep(shop: Shop, large: None) -> None:
    for path in ("/usage/overview", "/usage/overview/days"):
        body = shop.get(path).json()
        assert (body["ready"], body.get("asOf")) == (False, None)
    assert swept(shop)
    body = shop.get("/usage/overview").json()
    assert (body["ready"], body["asOf"], brief(body["top"])) == (
        True,
        "2026-03-05T10:00:00Z",
        [("beta", 4), ("alpha", 2)],
    )


async def test_the_figures_of_a_large_account_are_those_of_the_last_sweep(
    shop: Shop, large: None, use: Use, clock: Clock
) -> None:
    swept(shop)
    await use(10, MONTH, shop.plans["silver"], shop.keys["solo"])
    clock.advance(EVERY_SECONDS - 1)
    assert not swept(shop)
    assert shop.get("/usage/overview").json()["total"]["requests"] == 6
    clock.advance(1)
    assert swept(shop)
    body = shop.get("/usage/overview").json()
    assert (body["asOf"], brief(body["top"])[0]) == ("2026-03-05T10:01:00Z", ("solo", 10))


async def test_a_key_that_was_deleted_since_the_sweep_has_no_name(shop: Shop, large: None) -> None:
    swept(shop)
    shop.aws.delete_api_key(apiKey=shop.keys["beta"])
    first = shop.get("/usage/overview").json()["top"][0]
    assert (first["keyId"], "keyName" in first) == (shop.keys["beta"], False)


async def test_the_command_line_prints_the_overview(
    shop: Shop, large: None, run: Callable[..., Awaitable[str]]
) -> None:
    assert await run("overview") == "no control plane has swept this account yet\n"
    await asyncio.to_thread(swept, shop)
    silver, gold, beta, alpha = (*shop.plans.values(), shop.keys["beta"], shop.keys["alpha"])
    lines = [line.split() for line in (await run("overview")).splitlines()]
    assert lines[0] == ["as", "of", "2026-03-05T10:00:00Z,", "for", "2026-03-05", "(UTC)"]
    assert [silver, "-", "silver", "2", "0", "8", "3"] in lines
    assert [gold, beta, "beta", "4", "0", "0", "0"] in lines
    assert [silver, alpha, "alpha", "2", "0", "0", "0"] in lines
    assert json.loads(await run("overview", "--json", "--count", "1")) == shop.get("/usage/overview?limit=1").json()


async def test_days_of_a_large_account_are_kept_by_sweeps(shop: Shop, large: None, use: Use, clock: Clock) -> None:
    """A past day keeps the use of keys that have left their plan."""
    swept(shop)
    gold = shop.plans["gold"]
    query = f"/usage/overview/days?startDate=2026-03-01&endDate=2026-03-31&usagePlanId={gold}"
    assert [(row["day"], row["requests"]) for row in shop.get(query).json()["item"]] == [
        ("2026-03-04", 1),
        ("2026-03-05", 4),
    ]
    clock.advance(2 * 86_400)
    assert swept(shop)
    shop.aws.delete_usage_plan_key(usagePlanId=gold, keyId=shop.keys["gamma"])
    shop.aws.delete_usage_plan_key(usagePlanId=gold, keyId=shop.keys["beta"])
    clock.advance(86_400)
    assert swept(shop)
    body = shop.get(query).json()
    assert [(row["day"], row["requests"]) for row in body["item"]] == [("2026-03-04", 1), ("2026-03-05", 4)]
    assert (body["ready"], body["asOf"]) == (True, "2026-03-08T10:00:00Z")
    assert body["firstDay"] == "2026-02-18"
    everything = shop.get("/usage/overview/days?startDate=2026-03-01&endDate=2026-03-31").json()["item"]
    assert [(row["day"], row["requests"]) for row in everything] == [("2026-03-04", 4), ("2026-03-05", 6)]


async def test_todays_sums_follow_the_keys_that_a_plan_has(shop: Shop, large: None, clock: Clock) -> None:
    swept(shop)
    shop.aws.delete_usage_plan_key(usagePlanId=shop.plans["gold"], keyId=shop.keys["beta"])
    clock.advance(EVERY_SECONDS)
    swept(shop)
    rows = shop.get(f"/usage/overview/days?usagePlanId={shop.plans['gold']}").json()["item"]
    assert rows == []


async def test_todays_sums_of_a_small_account_are_never_old(
    shop: Shop, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its past days are those of the last sweep, where there are too many to be read at once."""
    swept(shop)
    monkeypatch.setattr("authz.control.operations.overview.FEW_KEY_DAYS", 0)
    await use(3, MONTH, shop.plans["silver"], shop.keys["solo"])
    rows = shop.get("/usage/overview/days?startDate=2026-03-01&endDate=2026-03-31").json()["item"]
    assert [(row["day"], row["requests"]) for row in rows] == [("2026-03-04", 4), ("2026-03-05", 9)]


async def test_of_several_processes_one_sweeps(store: Store, ledger: UsageLedger) -> None:
    turns = [Sweeper(store, ledger, "").turn() for _ in range(5)]
    assert sorted(await asyncio.gather(*turns)) == [False] * 4 + [True]


class Robbed(UsageLedger):
    """Another process takes the lease while callers are read."""

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        await self._database.ask("SET", self._database.key("figures-lease"), "another")
        return await super().survey(plan_id, key_ids, days, quotas)


async def test_a_process_that_lost_its_lease_stops(
    shared_redis: RedisServer, account: str, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    """The other process keeps the lease."""
    store = Store(shared_redis.url, account=account, fixed=plans)
    ledger = Robbed(shared_redis.url, account=account, clock=clock)
    with pytest.raises(LeaseLost):
        await Sweeper(store, ledger, "").turn()
    assert await spy.get(redis_key(account, "figures-lease")) == b"another"
    assert await ledger.overview() is None
    await store.aclose()
    await ledger.aclose()


# --- surveys -------------------------------------------------------------------------------------------------------


async def test_a_survey_has_the_rows_of_usage(
    ledger: UsageLedger, use: Use, clock: Clock, shared_redis: RedisServer, account: str
) -> None:
    """Whatever day the ledger has: the one before, today, and after a history of some days."""
    sender = RefusedSender(shared_redis.url, account=account, retention_days=400, pinned=clock)
    for calls in (3, 2, 0, 1, 0):
        await use(calls, MONTH)
        today = clock() // DAY_US
        if calls:
            await sender.send([RefusedCount("p", "k", today, reason, calls) for reason in ("throttle", "shadow_quota")])
        for before in range(5):
            days = Days(today - before, today)
            known = (await ledger.read("p", ["k", "none"], days, refused=True)).records["k"]
            found = (await ledger.survey("p", ["k", "none"], range(days.first, days.last + 1), [])).records
            assert list(found) == ["k"]
            inside = {day: row for day, row in found["k"].rows.items() if days.first <= day <= days.last}
            assert {day: (row.requests, row.units, row.over) for day, row in inside.items()} == {
                day: (row.requests, row.units, row.over)
                for day, row in known.rows.items()
                if days.first <= day <= days.last
            }
            assert (found["k"].refused, found["k"].state) == (known.refused, known.state)
        clock.advance(86_400)
    await sender.aclose()


async def test_a_caller_that_was_only_refused_is_surveyed(
    ledger: UsageLedger, clock: Clock, shared_redis: RedisServer, account: str
) -> None:
    sender = RefusedSender(shared_redis.url, account=account, retention_days=400, pinned=clock)
    await sender.send([RefusedCount("p", "k", FOURTH, "throttle", 2)])
    await sender.aclose()
    (record,) = (await ledger.survey("p", ["k"], [FOURTH], [])).records.values()
    assert record.refused[FOURTH].throttle == 2


async def test_values_that_are_not_ours_are_left_out(
    ledger: UsageLedger, use: Use, spy: redis.asyncio.Redis, account: str
) -> None:
    await use(1, MONTH, "p", "good")
    await spy.set(redis_key(account, "ledger", "p", "bad"), b"not ours")
    await spy.set(redis_key(account, "refused", "p", "good"), b"not ours")
    _, quota = builders.held(QuotaSettings(5, Period.TOTAL), "p", "bad")
    with capture_logs() as logs:
        survey = await ledger.survey("p", ["bad", "good"], [FOURTH], [quota])
    assert list(survey.records) == ["good"]
    assert len(logs[0]["keys"]) >= 2


async def test_a_sweep_in_small_steps_has_the_sums_of_one_in_a_large_step(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [FOURTH, FIFTH]

    async def figures(context: Any) -> Any:
        return await Sweep(context.store, context.usage, days, keeps=True).run()

    large_step = shop.control.run(figures)
    monkeypatch.setattr(sweep, "KEYS", 1)
    monkeypatch.setattr(sweep, "PLANS", 1)
    assert shop.control.run(figures) == large_step
    kept = shop.control.run(lambda context: context.usage.plan_days(None, Days(FOURTH, FIFTH)))
    assert kept[FOURTH] == Sums(4, 4, 0, 7)


class Faltering(UsageLedger):
    """Redis fails each first time that callers are read."""

    failed = False

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        self.failed = not self.failed
        if self.failed:
            raise StoreUnavailable("no answer in time")
        return await super().survey(plan_id, key_ids, days, quotas)


async def test_a_sweep_takes_a_step_again_after_a_fault_of_redis(
    shared_redis: RedisServer, account: str, ledger: UsageLedger, clock: Clock, use: Use
) -> None:
    """Nothing is counted twice. An answer that reads at once does not try again."""
    store = Store(shared_redis.url, account=account, fixed=plans)
    faltering = Faltering(shared_redis.url, account=account, clock=clock)
    await use(3, MONTH, "single", "a")
    with pytest.raises(StoreUnavailable):
        await overview_now(store, faltering)
    found = await Sweep(store, faltering, [FOURTH], keeps=True).run()
    assert (found.total.sums.requests, found) == (3, await overview_now(store, ledger))
    await store.aclose()
    await faltering.aclose()

"""Usage as sellers read it: rows of many keys in pages, as CSV and on the command line; alerts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio
from click.testing import CliRunner

from authz.cli.main import cli
from authz.core.limits import redis_key
from authz.core.zones import DAY_US
from authz.limiter.limiter import RedisLimiter
from authz.limiter.refused import RefusedCount, RefusedSender
from tests.conftest import Clock
from tests.integration.test_usage import MONTH, Use
from tests.integration.test_usage import use as use
from tests.support.control import Control, Reply, boto, patiently, raw
from tests.support.control import control as control
from tests.support.servers import RedisServer

FOURTH, FIFTH = 20516, 20517  # 4 and 5 March 2026
MARCH = "startDate=2026-03-01&endDate=2026-03-31"


class Shop:
    """Plans silver and gold with keys of customers, made by boto3, under the pinned clock."""

    def __init__(self, control: Control, clock: Clock) -> None:
        control.ledger.clock = clock
        self.control = control
        self.aws = boto(control, attempts=10)
        self.plans = {name: self.aws.create_usage_plan(name=name)["id"] for name in ("silver", "gold")}
        self.keys: dict[str, str] = {}

    def key(self, name: str, *plans: str, customer: str | None = None) -> str:
        more = {"customerId": customer} if customer else {}
        made: str = self.aws.create_api_key(name=name, enabled=True, **more)["id"]
        for plan in plans:
            self.aws.create_usage_plan_key(usagePlanId=self.plans[plan], keyId=made, keyType="API_KEY")
        self.keys[name] = made
        return made

    def get(self, path: str, **headers: str) -> Reply:
        return patiently(self.control, "GET", path, send=partial(raw, headers=headers))

    def rows(self, query: str, by: str) -> list[tuple[Any, ...]]:
        """The rows of all pages, each as the names that it is grouped by and its five numbers."""
        position, found = "", []
        while True:
            reply = self.get(f"/usage/days?{query}&groupBy={quote(by)}{position}").json()
            names = [NAMES[part] for part in by.split(",")]
            found += [(*map(item.get, names), numbers(item)) for item in reply["item"]]
            if "position" not in reply:
                return found
            position = f"&position={quote(reply['position'])}"


NAMES = {"plan": "usagePlanId", "customer": "customerId", "key": "keyName", "day": "day"}


def numbers(item: dict[str, Any]) -> tuple[int, ...]:
    refused = item["refused"]
    return item["requests"], item["units"], item["overage"], refused["throttle"], refused["quota"]


@pytest.fixture
async def shop(
    control: Control, clock: Clock, use: Use, limiter: RedisLimiter, shared_redis: RedisServer, account: str
) -> Shop:
    """Three days of two plans: `alpha` and `beta` are one customer's keys, `solo` has no customer and no calls."""
    shop = Shop(control, clock)
    for name, customer, plans in (
        ("alpha", "acme", ("silver",)),
        ("beta", "acme", ("silver", "gold")),
        ("gamma", "=cmd()", ("gold",)),
        ("solo", None, ("silver",)),
    ):
        shop.key(name, *plans, customer=customer)
    silver, gold = shop.plans["silver"], shop.plans["gold"]
    await use(3, MONTH, silver, shop.keys["alpha"])
    await use(1, MONTH, gold, shop.keys["gamma"])
    clock.advance(86_400)
    await use(2, MONTH, silver, shop.keys["alpha"])
    await use(4, MONTH, gold, shop.keys["beta"])
    sender = RefusedSender(shared_redis.url, account=account, retention_days=400, pinned=clock)
    await sender.send(
        [
            RefusedCount(silver, shop.keys["alpha"], FOURTH, "throttle", 7),
            RefusedCount(silver, shop.keys["beta"], FIFTH, "quota", 8),
            RefusedCount(silver, shop.keys["beta"], FIFTH, "shadow_throttle", 1),
            RefusedCount(silver, shop.keys["beta"], FIFTH, "shadow_quota", 2),
        ]
    )
    await sender.aclose()
    return shop


async def test_calls_that_a_shadow_plan_would_have_refused_stand_apart(shop: Shop) -> None:
    query = f"/usage/days?{MARCH}&usagePlanId={shop.plans['silver']}&groupBy=key"
    found = {row["keyName"]: row["shadow"] for row in shop.get(query).json()["item"]}
    assert found == {"alpha": {"throttle": 0, "quota": 0}, "beta": {"throttle": 1, "quota": 2}}


async def test_rows_by_plan_key_and_day(shop: Shop) -> None:
    silver, gold = shop.plans["silver"], shop.plans["gold"]
    assert sorted(shop.rows(MARCH, "plan,key,day")) == sorted(
        [
            (silver, "alpha", "2026-03-04", (3, 3, 0, 7, 0)),
            (silver, "alpha", "2026-03-05", (2, 2, 0, 0, 0)),
            (silver, "beta", "2026-03-05", (0, 0, 0, 0, 8)),
            (gold, "beta", "2026-03-05", (4, 4, 0, 0, 0)),
            (gold, "gamma", "2026-03-04", (1, 1, 0, 0, 0)),
        ]
    )


@pytest.mark.parametrize(
    ("query", "by", "expected"),
    [
        (MARCH, "customer", [("=cmd()", (1, 1, 0, 0, 0)), ("acme", (9, 9, 0, 7, 8))]),
        (MARCH, "day", [("2026-03-04", (4, 4, 0, 7, 0)), ("2026-03-05", (6, 6, 0, 0, 8))]),
        (MARCH, "key", [("alpha", (5, 5, 0, 7, 0)), ("beta", (4, 4, 0, 0, 8)), ("gamma", (1, 1, 0, 0, 0))]),
        (MARCH + "&customerId=acme", "key", [("alpha", (5, 5, 0, 7, 0)), ("beta", (4, 4, 0, 0, 8))]),
        ("startDate=2026-03-05&endDate=2026-03-05", "key", [("alpha", (2, 2, 0, 0, 0)), ("beta", (4, 4, 0, 0, 8))]),
        ("startDate=2026-02-01&endDate=2026-02-28", "key", []),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 500])
async def test_rows_of_all_pages_add_up(
    shop: Shop, query: str, by: str, expected: list[tuple[Any, ...]], limit: int
) -> None:
    """Whatever the size of a page; a group may have a row on each."""
    summed: dict[Any, tuple[int, ...]] = {}
    for name, numbers_ in shop.rows(f"{query}&limit={limit}", by):
        summed[name] = tuple(map(sum, zip(summed.get(name, (0,) * 5), numbers_, strict=True)))
    assert sorted(summed.items()) == expected


async def test_a_plan_or_a_key_filters(shop: Shop) -> None:
    gold, beta = shop.plans["gold"], shop.keys["beta"]
    assert [row[0] for row in shop.rows(f"{MARCH}&usagePlanId={gold}", "key")] == ["gamma", "beta"]
    assert sorted(row[0] for row in shop.rows(f"{MARCH}&keyId={beta}", "plan")) == sorted(shop.plans.values())
    assert shop.rows(f"{MARCH}&keyId={beta}&customerId=other", "plan") == []


async def test_a_key_that_has_left_a_plan_is_read_by_both_names(shop: Shop) -> None:
    """Its last invoice is still due."""
    silver, alpha = shop.plans["silver"], shop.keys["alpha"]
    shop.aws.delete_usage_plan_key(usagePlanId=silver, keyId=alpha)
    assert shop.rows(f"{MARCH}&usagePlanId={silver}&keyId={alpha}", "key") == [("alpha", (5, 5, 0, 7, 0))]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("groupBy=weather", 400),
        ("startdate=2026-03-01", 400),
        ("startDate=2026-03-05&endDate=2026-03-04", 400),
        ("position=x", 400),
        ("usagePlanId=none", 404),
        ("keyId=none", 404),
        ("customerId=none", 200),
        ("", 200),
    ],
)
async def test_a_query_that_cannot_be_answered_is_refused(shop: Shop, query: str, status: int) -> None:
    assert shop.get(f"/usage/days?{query}").status == status


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_csv_has_all_rows_at_once(shop: Shop) -> None:
    reply = shop.get(f"/usage/days?{MARCH}&groupBy=customer&limit=1", accept="text/csv")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert [(row["customerId"], row["requests"], row["refusedByQuota"]) for row in records(reply.body.decode())] == [
        ("'=cmd()", "1", "0"),
        ("acme", "9", "8"),
    ]


async def test_csv_of_an_unknown_plan_is_refused_in_json(shop: Shop) -> None:
    reply = shop.get("/usage/days?usagePlanId=none", accept="text/csv")
    assert (reply.status, reply.json()) == (404, {"message": "Invalid Usage Plan ID specified"})


async def test_a_reader_may_read_usage(shop: Shop, control: Control) -> None:
    assert patiently(control.as_reader(), "GET", f"/usage/days?{MARCH}").status == 200
    assert raw(control, "GET", f"/usage/days?{MARCH}", sign=False).status == 403


# --- the command line ---------------------------------------------------------------------------------------------


DATES = ("--start", "2026-03-01", "--end", "2026-03-31")


async def test_the_table_has_a_row_a_key_and_a_total(shop: Shop, run: Callable[..., Awaitable[str]]) -> None:
    silver = shop.plans["silver"]
    lines = [line.split() for line in (await run(*DATES, "--plan", silver)).splitlines()]
    shadow = ["shadow", "throttled", "shadow", "over", "quota"]
    assert lines[0] == [
        "plan",
        "customer",
        "key",
        "requests",
        "units",
        "overage",
        "throttled",
        "over",
        "quota",
        *shadow,
    ]
    assert sorted(lines[1:3]) == sorted(
        [
            [silver, "acme", shop.keys["alpha"], "5", "5", "0", "7", "0", "0", "0"],
            [silver, "acme", shop.keys["beta"], "0", "0", "0", "0", "8", "1", "2"],
        ]
    )
    assert lines[3] == ["total", "5", "5", "0", "7", "8", "1", "2"]
    assert await run("--start", "2026-02-01", "--end", "2026-02-02") == "no use in these days\n"


@pytest.mark.parametrize("by", ["plan", "customer", "key", "day", "plan,key", "customer,day", "plan,customer,key,day"])
@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
async def test_keys_with_and_without_a_customer_are_printed_together(
    shop: Shop, use: Use, run: Callable[..., Awaitable[str]], by: str, form: tuple[str, ...]
) -> None:
    await use(1, MONTH, shop.plans["silver"], shop.keys["solo"])
    out = await run(*DATES, "--group-by", by, *form)
    assert shop.keys["solo"] in out or "key" not in by


async def test_json_and_csv_on_the_command_line(shop: Shop, run: Callable[..., Awaitable[str]]) -> None:
    found = json.loads(await run(*DATES, "--customer", "acme", "--group-by", "day", "--json"))
    assert [(item["day"], numbers(item)) for item in found] == [
        ("2026-03-04", (3, 3, 0, 7, 0)),
        ("2026-03-05", (6, 6, 0, 0, 8)),
    ]
    rows = records(await run(*DATES, "--group-by", "customer", "--csv"))
    assert [(row["customerId"], row["units"]) for row in rows] == [("'=cmd()", "1"), ("acme", "9")]
    assert json.loads(await run(*DATES, "--customer", "none", "--json")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "--csv"),
        ("--group-by", "weather"),
        ("--start", "2026-03-01", "--days", "3"),
        ("--start", "yesterday"),
        ("--start", "2026-03-05", "--end", "2026-03-04"),
        ("--start", "2020-03-05"),
        ("--plan", "silver", "alerts"),
    ],
)
async def test_options_that_do_not_fit_are_refused(run: Callable[..., Awaitable[str]], words: tuple[str, ...]) -> None:
    assert "Error: " in await run(*words, code=2)


def test_an_unknown_plan_is_named(shared_redis: RedisServer, account: str) -> None:
    place = ["--redis-url", shared_redis.url, "--account-id", account]
    result = CliRunner().invoke(cli, ["usage", "--plan", "none", *place])
    assert "there is no usageplan none in the store; --config names a file with others" in result.output


# --- alerts -------------------------------------------------------------------------------------------------------


async def alert(spy: redis.asyncio.Redis, account: str, *value: str, percent: int = 80, end: int = FIFTH) -> str:
    """Append an alert as the limiter's script does; returns its id."""
    fields: dict[Any, Any] = {
        "value": redis_key(account, *value),
        "period": "DAY",
        "counts": "UNITS",
        "percent": percent,
        "used": 81,
        "limit": 100,
        "start": FOURTH * DAY_US,
        "end": end * DAY_US,
        "at": FOURTH * DAY_US + 36_000_000_000,
    }
    entry: Any = await spy.xadd(redis_key(account, "alerts"), fields)
    return str(entry.decode())


async def test_alerts_name_plan_and_key_or_customer(
    control: Control, run: Callable[..., Awaitable[str]], spy: redis.asyncio.Redis, account: str
) -> None:
    first = await alert(spy, account, "ledger", "silver", "k1")
    second = await alert(spy, account, "customer-quota", "gold", "a:b/c", "MONTH", "UNITS", percent=100)
    found = patiently(control, "GET", "/usage/alerts").json()
    assert found["item"] == [
        {
            "id": second,
            "at": "2026-03-04T10:00:00Z",
            "usagePlanId": "gold",
            "customerId": "a:b/c",
            "period": "DAY",
            "counts": "UNITS",
            "percent": 100,
            "used": 81,
            "limit": 100,
            "start": "2026-03-04T00:00:00Z",
            "end": "2026-03-05T00:00:00Z",
        },
        found["item"][1],
    ]
    assert (found["item"][1]["id"], found["item"][1]["keyId"]) == (first, "k1")
    assert "position" not in found
    assert [one["id"] for one in json.loads(await run("alerts", "--json", "--oldest-first"))] == [first, second]
    assert await run("alerts", "--customer", "a:b/c") == (
        f"{second}  2026-03-04T10:00:00Z  gold  customer a:b/c  DAY  100 % of 100 units\n"
    )


async def test_alerts_come_in_pages_by_their_ids(control: Control, spy: redis.asyncio.Redis, account: str) -> None:
    """A reader that goes on after the last id it saw misses none."""
    ids = [await alert(spy, account, "ledger", "silver", f"k{number % 2}") for number in range(5)]

    def page(query: str) -> tuple[list[str], str | None]:
        found = patiently(control, "GET", f"/usage/alerts?{query}").json()
        return [one["id"] for one in found["item"]], found.get("position")

    assert page("order=oldest&limit=2") == (ids[:2], ids[1])
    assert page(f"order=oldest&limit=9&position={ids[1]}") == (ids[2:], None)
    assert page("limit=3") == (ids[:1:-1], ids[2])
    assert page(f"position={ids[2]}") == (ids[1::-1], None)
    assert page("keyId=k1") == ([ids[3], ids[1]], None)
    assert page("usagePlanId=gold") == ([], None)
    for query in ("order=sideways", "position=x", "keyid=k1"):
        assert patiently(control, "GET", f"/usage/alerts?{query}").status == 400

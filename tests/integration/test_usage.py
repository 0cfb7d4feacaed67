"""Usage as it is counted, shown and set, by boto3 and on the ledger itself."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from botocore.exceptions import ClientError

from authz.aws.convert import from_resources
from authz.aws.usage import Days, DayUse, pairs
from authz.core.catalog import Catalog
from authz.core.holders import quota_at
from authz.core.limits import Charge, Layer, Limit, Meter, redis_key
from authz.core.resources import Period, QuotaSettings
from authz.core.zones import DAY_US
from authz.limiter.limiter import RedisLimiter
from authz.store.audit import audit
from authz.store.consistency import differences
from authz.store.ports import Event, Head, StoreUnavailable
from authz.store.store import Store
from authz.store.usage import CALLERS, UsageLedger
from tests.conftest import Clock
from tests.support import builders
from tests.support.control import Control, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer, free_port

QUOTA = QuotaSettings(5, Period.DAY)
MONTH = QuotaSettings(100, Period.MONTH)


Use = Callable[..., Any]


@pytest.fixture
def use(limiter: RedisLimiter, account: str, clock: Clock) -> Use:
    """Call with a key in a plan, `count` times; returns the number of admitted calls."""

    async def calls(count: int, quota: QuotaSettings | None, plan: str = "p", key: str = "k") -> int:
        meter = Meter(redis_key(account, "ledger", plan, key), redis_key(account, "history", plan, key))
        limits = [Limit(Layer.PLAN_QUOTA, meter.ledger, quota_at(quota, clock()))] if quota else []
        tallies = await asyncio.gather(*(limiter.admit(Charge(limits, meter)) for _ in range(count)))
        return sum(tally.refused_by is None for tally in tallies)

    return calls


async def _pairs(ledger: UsageLedger, quota: QuotaSettings | None, clock: Clock, before: int = 0) -> list[DayUse]:
    """The rows of key k in plan p, from `before` days ago until today."""
    today = clock() // DAY_US
    reading = await ledger.read("p", ["k"], Days(today - 31, today))
    return pairs(reading.records["k"], quota, Days(today - before, today), reading.now)


async def _set(ledger: UsageLedger, quota: QuotaSettings, remaining: int) -> int:
    return (
        await ledger.set_remaining("p", *builders.held(quota), remaining, who="ada", what="UpdateUsage p k")
    ).version


async def test_the_ledgers_day_is_shown_under_its_own_date(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    """Two days after the last call, before any other has closed that day."""
    await use(3, MONTH)
    clock.advance(2 * 86_400)
    assert await _pairs(ledger, MONTH, clock, 3) == [(0, 100), (3, 97), (0, 97), (0, 97)]


async def test_without_a_quota_calls_are_counted(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    await use(3, None)
    assert await _pairs(ledger, None, clock, 1) == [(0, -1), (3, -1)]


async def test_setting_the_remaining_units_keeps_todays_use(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    await use(4, QUOTA)
    await _set(ledger, QUOTA, 9)
    assert await _pairs(ledger, QUOTA, clock) == [(4, 9)]
    assert await use(20, QUOTA) == 9


async def test_set_remaining_units_hold_for_their_period_only(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    await _set(ledger, QUOTA, 9)
    clock.advance(86_400)
    assert await _pairs(ledger, QUOTA, clock, 1) == [(0, 9), (0, 5)]
    assert await use(20, QUOTA) == 5


async def test_a_day_without_calls_on_which_the_units_were_set_has_a_row(
    ledger: UsageLedger, use: Use, clock: Clock
) -> None:
    """AWS's own example: 5000, 5000, and on the third day the owner cuts it to 10."""
    quota = QuotaSettings(5000, Period.MONTH)
    await use(1, quota)
    clock.advance(86_400)
    await _set(ledger, quota, 10)
    clock.advance(86_400)
    await use(1, quota)
    assert await _pairs(ledger, quota, clock, 2) == [(1, 4999), (0, 10), (1, 9)]


async def test_setting_closes_the_day_before_and_drops_days_past_the_retention(
    shared_redis: RedisServer, account: str, use: Use, clock: Clock, spy: redis.asyncio.Redis
) -> None:
    short = UsageLedger(shared_redis.url, account=account, retention_days=3, budget=10.0, clock=clock)
    history, first = redis_key(account, "history", "p", "k"), clock() // DAY_US
    await use(2, MONTH)
    clock.advance(86_400)
    await _set(short, MONTH, 50)
    assert {int(day) for day in await spy.hkeys(history)} == {first, first + 1}
    clock.advance(3 * 86_400)
    await _set(short, MONTH, 50)
    assert {int(day) for day in await spy.hkeys(history)} == {first + 1, first + 4}
    assert 2 * 86_400 < await spy.ttl(history) <= 3 * 86_400
    await short.aclose()


class _Behind(UsageLedger):
    """On a host whose clock was never set."""

    def _now(self) -> int:
        return 0


async def test_setting_names_the_period_by_redis_clock(shared_redis: RedisServer, account: str) -> None:
    """Our own clock is only a first guess."""
    usage = _Behind(shared_redis.url, account=account, budget=10.0)
    written = await usage.set_remaining("p", *builders.held(QUOTA), 3, who="ada", what="")
    reading = await usage.read("p", ["k"])
    start = quota_at(QUOTA, reading.now).start
    assert (reading.records["k"].state.start, reading.records["k"].state.used) == (start, 2)
    assert written.result.now // DAY_US == reading.now // DAY_US
    await usage.aclose()


async def test_setting_is_a_commit_of_the_store(ledger: UsageLedger, store: Store) -> None:
    """A version, an event that names the one before it, and a line of the audit."""
    assert await store.head() == Head()
    first, second = await _set(ledger, QUOTA, 3), await _set(ledger, QUOTA, 4)
    assert (first, second) == (1, 2)
    one, two = await store.changes(0, 100)
    assert (one, two) == (
        Event(1, "", one.tag, usage=(("p", "k"),)),
        Event(2, one.tag, two.tag, usage=(("p", "k"),)),
    )
    head = await store.head()
    assert (head.version, head.tag, bool(head.epoch)) == (2, two.tag, True)
    assert [(line.version, line.who, line.what) for line in await audit(store.database)] == [
        (1, "ada", "UpdateUsage p k"),
        (2, "ada", "UpdateUsage p k"),
    ]
    assert await differences(store) == []


async def test_commits_and_settings_take_turns(ledger: UsageLedger, store: Store) -> None:
    """Each names its predecessor, whichever script wrote it; an epoch that is there stays."""
    plan = next(item for (kind, _), item in from_resources(builders.resources()).items() if kind == "usageplan")

    async def put(edit: Any) -> None:
        edit.put(plan)

    await _set(ledger, QUOTA, 3)
    epoch = (await store.head()).epoch
    await store.write(put, who="ada", what="put")
    await _set(ledger, QUOTA, 4)
    events = await store.changes(0, 100)
    assert [event.version for event in events] == [1, 2, 3]
    assert [event.previous for event in events] == ["", events[0].tag, events[1].tag]
    assert (await store.head()).epoch == epoch


@pytest.mark.parametrize("part", ["ledger", "history"])
@pytest.mark.parametrize("wrong", ["bytes", "type"])
async def test_a_foreign_value_is_left_alone_and_never_taken_for_empty(
    ledger: UsageLedger, store: Store, account: str, clock: Clock, spy: redis.asyncio.Redis, part: str, wrong: str
) -> None:
    today, key = clock() // DAY_US, redis_key(account, part, "p", "k")
    if wrong == "type":
        await spy.rpush(key, "x")
    elif part == "ledger":
        await spy.set(key, b"\x07" * 73)
    else:
        await spy.hset(key, str(today), "x")
    before = await spy.dump(key)
    assert (await ledger.read("p", ["k", "other"], Days(today, today))).records.keys() == {"other"}
    with pytest.raises(StoreUnavailable):
        await _set(ledger, QUOTA, 3)
    assert await spy.dump(key) == before
    assert await store.head() == Head()


async def test_a_long_range_of_many_keys_is_read_in_parts(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    """No script runs for long; each key's record is whole nevertheless."""
    today = clock() // DAY_US
    for key in ("k0", "k149"):
        await use(2, MONTH, key=key)
    reading = await ledger.read("p", [f"k{number}" for number in range(150)], Days(today - 400, today))
    assert [key for key, record in reading.records.items() if record.rows] == ["k0", "k149"]
    assert len(reading.records) == 150


async def test_the_keys_that_used_most_today(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    """Among more than fit one script; yesterday's calls do not count, and who has not called is left out."""
    last = f"k{CALLERS}"
    await use(9, MONTH, key="k1")
    clock.advance(86_400)
    for key, count in (("k0", 2), (last, 4), ("k5", 3)):
        await use(count, MONTH, key=key)
    keys = [f"k{number}" for number in range(CALLERS + 1)]
    assert await ledger.top("p", keys, 2) == [(last, 4), ("k5", 3)]
    assert await ledger.top("p", keys, 9) == [(last, 4), ("k5", 3), ("k0", 2)]


async def test_an_unreachable_redis_is_reported() -> None:
    usage = UsageLedger(f"redis://127.0.0.1:{free_port()}/0")
    for asked in (usage.read("p", ["k"]), usage.set_remaining("p", *builders.held(QUOTA), 1, who="", what="")):
        with pytest.raises(StoreUnavailable):
            await asked
    await usage.aclose()


async def test_the_ledger_is_the_one_that_the_catalog_names(account: str) -> None:
    """Both spell its keys alike."""
    catalog = Catalog.compile(builders.resources(usage_plans=(builders.plan(quota=QUOTA),)), account_id=account)
    usage = UsageLedger("redis://127.0.0.1", account=account)
    common = next(plan for plans in catalog.plans.values() for plan in plans.values())
    assert usage._keys("p1", "k1")[:2] == [f"{common.by_key.ledger}k1", f"{common.history}k1"]


# Through the API


class Tenant:
    """A plan with keys, made by boto3; the control plane reads their usage under the pinned clock."""

    def __init__(self, control: Control, clock: Clock, quota: dict[str, Any] | None, keys: int = 1) -> None:
        control.ledger.clock = clock
        self.client = boto(control)
        more = {"quota": quota} if quota else {}
        self.plan = self.client.create_usage_plan(name="Silver", **more)["id"]
        self.keys = [self._key(f"key {number}") for number in range(keys)]

    def _key(self, name: str) -> str:
        key_id: str = self.client.create_api_key(name=name, enabled=True)["id"]
        self.client.create_usage_plan_key(usagePlanId=self.plan, keyId=key_id, keyType="API_KEY")
        return key_id

    def usage(self, start: str, end: str, **more: Any) -> Any:
        return self.client.get_usage(usagePlanId=self.plan, startDate=start, endDate=end, **more)

    def update(self, op: str, path: str, value: str | None = None) -> Any:
        operation = {"op": op, "path": path} | ({} if value is None else {"value": value})
        return self.client.update_usage(usagePlanId=self.plan, keyId=self.keys[0], patchOperations=[operation])

    def quota(self) -> QuotaSettings:
        return QuotaSettings(**self.client.get_usage_plan(usagePlanId=self.plan)["quota"])


DAILY = {"limit": 10, "period": "DAY"}
TODAY = ("2026-03-04", "2026-03-04")


def _refused(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    told = error.value.response["Error"]
    return told["Code"], told["Message"]


async def test_usage_of_today(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, DAILY)
    await use(3, tenant.quota(), tenant.plan, tenant.keys[0])
    told = tenant.usage(*TODAY)
    assert told["items"] == {tenant.keys[0]: [[3, 7]]}
    assert (told["usagePlanId"], told["startDate"], told["endDate"]) == (tenant.plan, *TODAY)
    assert "position" not in told


async def test_usage_of_two_days_of_a_month(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, {"limit": 100, "period": "MONTH"})
    await use(3, tenant.quota(), tenant.plan, tenant.keys[0])
    clock.advance(86_400)
    await use(4, tenant.quota(), tenant.plan, tenant.keys[0])
    assert tenant.usage("2026-03-04", "2026-03-05")["items"] == {tenant.keys[0]: [[3, 97], [4, 93]]}
    assert tenant.usage("2026-03-03", "2026-03-31")["items"] == {tenant.keys[0]: [[0, 100], [3, 97], [4, 93]]}


async def test_usage_of_one_key(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, DAILY, keys=2)
    one, _ = tenant.keys
    await use(3, tenant.quota(), tenant.plan, one)
    assert tenant.usage(*TODAY, keyId=one)["items"] == {one: [[3, 7]]}


async def test_usage_in_pages(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, DAILY, keys=3)
    first = tenant.usage(*TODAY, limit=1)
    assert (list(first["items"]), bool(first["position"])) == ([tenant.keys[-1]], True)
    pages = tenant.client.get_paginator("get_usage").paginate(
        usagePlanId=tenant.plan, startDate=TODAY[0], endDate=TODAY[1], PaginationConfig={"PageSize": 1}
    )
    told = [page["items"] for page in pages]
    assert told == [{key: [[0, 10]]} for key in reversed(tenant.keys)]


async def test_the_remaining_units_are_replaced(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, DAILY)
    await use(3, tenant.quota(), tenant.plan, tenant.keys[0])
    told = tenant.update("replace", "/remaining", "15")
    assert (told["usagePlanId"], told["startDate"], told["endDate"]) == (tenant.plan, *TODAY)
    assert told["items"] == tenant.usage(*TODAY)["items"] == {tenant.keys[0]: [[3, 15]]}
    assert await use(20, tenant.quota(), tenant.plan, tenant.keys[0]) == 15


def test_remaining_units_cannot_be_added_to(control: Control, clock: Clock) -> None:
    tenant = Tenant(control, clock, DAILY)
    with pytest.raises(ClientError) as refused:
        tenant.update("add", "/extension", "5")
    text = "Invalid patch path  '/extension' specified for op 'add'. Must be one of: []"
    assert _refused(refused) == ("BadRequestException", text)


async def test_a_limit_below_its_use_leaves_nothing(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, {"limit": 5, "period": "DAY"})
    await use(3, tenant.quota(), tenant.plan, tenant.keys[0])
    lower = [{"op": "replace", "path": "/quota/limit", "value": "2"}]
    tenant.client.update_usage_plan(usagePlanId=tenant.plan, patchOperations=lower)
    assert await use(1, tenant.quota(), tenant.plan, tenant.keys[0]) == 0
    assert tenant.usage(*TODAY)["items"] == {tenant.keys[0]: [[3, 0]]}


async def test_granted_units_hold_until_the_period_ends(control: Control, clock: Clock, use: Use) -> None:
    tenant = Tenant(control, clock, {"limit": 5, "period": "DAY"})
    quota = tenant.quota()
    assert await use(9, quota, tenant.plan, tenant.keys[0]) == 5
    tenant.update("replace", "/remaining", "3")
    assert await use(9, quota, tenant.plan, tenant.keys[0]) == 3
    clock.advance(86_400)
    assert await use(9, quota, tenant.plan, tenant.keys[0]) == 5


def test_an_update_is_a_version_with_an_event_and_a_line_of_the_audit(control: Control, clock: Clock) -> None:
    tenant = Tenant(control, clock, DAILY)
    told = tenant.update("replace", "/remaining", "15")
    version = int(told["ResponseMetadata"]["HTTPHeaders"]["x-authz-version"])
    (event,) = control.run(lambda _: control.store.changes(version - 1, 1000))
    assert (event.version, event.usage) == (version, ((tenant.plan, tenant.keys[0]),))
    (line,) = control.run(lambda _: audit(control.store.database, 10, version - 1))
    assert line.what == f"UpdateUsage {tenant.plan} {tenant.keys[0]} DAY UNITS remaining=15"


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "2147483648", "9" * 30, None])
def test_only_a_number_of_requests_can_remain(control: Control, clock: Clock, value: str | None) -> None:
    tenant = Tenant(control, clock, DAILY)
    with pytest.raises(ClientError) as refused:
        tenant.update("replace", "/remaining", value)
    assert _refused(refused)[0] == "BadRequestException"
    assert tenant.usage(*TODAY)["items"] == {tenant.keys[0]: [[0, 10]]}


def test_nothing_remains_to_be_set_without_a_quota(control: Control, clock: Clock) -> None:
    tenant = Tenant(control, clock, None)
    assert tenant.usage(*TODAY)["items"] == {tenant.keys[0]: [[0, -1]]}
    with pytest.raises(ClientError) as refused:
        tenant.update("replace", "/remaining", "5")
    assert _refused(refused)[0] == "BadRequestException"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?startDate=2026-03-04", 400),
        ("?startDate=2026-03-04&endDate=04.03.2026", 400),
        ("?startDate=2026-03-04&endDate=2026-03-03", 400),
        ("?startDate=2020-03-04&endDate=2026-03-03", 400),
        ("?startDate=2026-03-04&endDate=2026-03-04&position=x", 400),
        ("?startDate=2026-03-04&endDate=2026-03-04&keyId=nobody", 404),
    ],
)
def test_an_unanswerable_query_is_refused(control: Control, clock: Clock, query: str, status: int) -> None:
    tenant = Tenant(control, clock, DAILY)
    assert raw(control, "GET", f"/usageplans/{tenant.plan}/usage{query}").status == status


def test_unknown_plans_and_keys_are_not_found(control: Control, clock: Clock) -> None:
    """A key outside the plan has no usage in it, and nothing that could be set."""
    tenant = Tenant(control, clock, DAILY)
    outsider = tenant.client.create_api_key(name="outsider")["id"]
    dates = "?startDate=2026-03-04&endDate=2026-03-04"
    patch = {"patchOperations": [{"op": "replace", "path": "/remaining", "value": "1"}]}
    assert raw(control, "GET", f"/usageplans/nobody/usage{dates}").code == "NotFoundException"
    assert tenant.usage(*TODAY, keyId=outsider)["items"] == {}
    for path in (f"nobody/keys/{tenant.keys[0]}", f"{tenant.plan}/keys/nobody", f"{tenant.plan}/keys/{outsider}"):
        reply = raw(control, "PATCH", f"/usageplans/{path}/usage", patch)
        assert (reply.status, reply.code) == (404, "NotFoundException")


async def test_the_wire_is_aws_own(control: Control, clock: Clock, use: Use) -> None:
    """The map is under `values`, its numbers are whole."""
    tenant = Tenant(control, clock, DAILY)
    await use(3, tenant.quota(), tenant.plan, tenant.keys[0])
    reply = raw(control, "GET", f"/usageplans/{tenant.plan}/usage?startDate=2026-03-04&endDate=2026-03-04")
    assert reply.json() == {
        "usagePlanId": tenant.plan,
        "startDate": "2026-03-04",
        "endDate": "2026-03-04",
        "values": {tenant.keys[0]: [[3, 7]]},
    }


async def test_usage_of_the_files_plans_is_shown_and_set(
    shared_redis: RedisServer, account: str, clock: Clock, use: Use
) -> None:
    """They are read-only, and their counters are not."""
    fixed = from_resources(builders.resources(usage_plans=(builders.plan(quota=QUOTA),)))
    await use(3, QUOTA, "p1", "k1")
    with running(shared_redis.url, account, fixed=lambda: fixed) as plane:
        plane.ledger.clock = clock
        client = boto(plane)
        dates = {"startDate": TODAY[0], "endDate": TODAY[1]}
        assert client.get_usage(usagePlanId="p1", **dates)["items"] == {"k1": [[3, 2]]}
        operations = [{"op": "replace", "path": "/remaining", "value": "7"}]
        client.update_usage(usagePlanId="p1", keyId="k1", patchOperations=operations)
        assert client.get_usage(usagePlanId="p1", keyId="k1", **dates)["items"] == {"k1": [[3, 7]]}
    assert await use(20, QUOTA, "p1", "k1") == 7


async def test_a_setting_keeps_the_plan_throttle_that_shares_its_ledger(
    ledger: UsageLedger, account: str, spy: redis.asyncio.Redis, clock: Clock
) -> None:
    """Debt, time and rate are the caller's bucket, and no part of its usage."""
    key = redis_key(account, "ledger", "p", "k")
    await spy.set(key, struct.pack(">B9d", 2, 7, clock() - 5, 1, 3, 0, 0, 0, 0, -1))
    await _set(ledger, QUOTA, 3)
    raw_ledger: Any = await spy.get(key)
    assert struct.unpack(">B9d", raw_ledger)[1:5] == (7, clock() - 5, 1, 3)

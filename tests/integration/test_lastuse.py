"""When a key was last used, and the keys that are not used: by ledger and history, over all of a key's plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio
from click.testing import CliRunner

from authz.cli.main import cli
from authz.core.limits import Charge, Meter, redis_key
from authz.core.resources import ApiKey, Period, QuotaSettings
from authz.core.stored import StoredKey
from authz.limiter.limiter import RedisLimiter
from authz.store.lastuse import KeyUse, last_use, unused_keys
from authz.store.ports import Draft
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.builders import held
from tests.support.control import Control, boto, raw
from tests.support.control import control as control
from tests.support.limiters import running_limiter
from tests.support.servers import RedisServer

QUOTA = QuotaSettings(5, Period.DAY)


Use = Callable[..., Any]


@pytest.fixture
def use(limiter: RedisLimiter, account: str) -> Use:
    """One counted call of a key in a plan."""

    async def call(key: str, plan: str = "p") -> None:
        meter = Meter(redis_key(account, "ledger", plan, key), redis_key(account, "history", plan, key))
        await limiter.admit(Charge((), meter))

    return call


def a_key(key_id: str, *plans: str, age: int = 1000, clock: Clock | None = None) -> StoredKey:
    created = (clock() // 1_000_000 if clock else 0) - age * 86_400
    return StoredKey(ApiKey(key_id), key_id.encode().hex() * 8, max(created, 1), 1, plans=plans)


async def kept(store: Store, *keys: StoredKey) -> None:
    async def put(edit: Draft) -> None:
        for key in keys:
            edit.put(key)

    await store.write(put, who="ada", what="")


async def days_ago(ledger: UsageLedger, *keys: StoredKey) -> list[int | None]:
    """The days since each key's last use."""
    today, found = await last_use(ledger, keys)
    return [None if use.last_day is None else today - use.last_day for use in found]


async def test_a_key_without_a_call_was_never_used(ledger: UsageLedger) -> None:
    assert await days_ago(ledger, a_key("k"), a_key("k", "p"), a_key("k", "p", "q.nonce")) == [None] * 3


async def test_the_last_day_is_that_of_the_last_counted_call(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    await use("k")
    assert await days_ago(ledger, a_key("k", "p")) == [0]
    clock.advance(3 * 86_400)
    assert await days_ago(ledger, a_key("k", "p.nonce")) == [3]
    await use("k")
    clock.advance(86_400)
    assert await days_ago(ledger, a_key("k", "p")) == [1]


async def test_the_latest_of_all_plans_counts(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    await use("k", "p")
    clock.advance(2 * 86_400)
    await use("k", "q")
    clock.advance(5 * 86_400)
    assert await days_ago(ledger, a_key("k", "p", "q"), a_key("k", "p"), a_key("k", "q"), a_key("k")) == [5, 7, 5, None]


async def test_a_set_quota_is_no_use(ledger: UsageLedger, use: Use, clock: Clock) -> None:
    """UpdateUsage begins a day in the ledger; the last call is then in the history."""
    await ledger.set_remaining("p", *held(QUOTA, key_id="fresh"), 3, who="ada", what="")
    assert await days_ago(ledger, a_key("fresh", "p")) == [None]
    await use("k")
    clock.advance(4 * 86_400)
    await ledger.set_remaining("p", *held(QUOTA), 3, who="ada", what="")
    assert await days_ago(ledger, a_key("k", "p"), a_key("fresh", "p")) == [4, None]


async def test_a_key_whose_ledger_cannot_be_read_is_left_out(
    ledger: UsageLedger, use: Use, account: str, shared_redis: RedisServer
) -> None:
    """It may be in use, so it must not be listed as unused."""
    client = redis.asyncio.Redis.from_url(shared_redis.url)
    await client.set(redis_key(account, "ledger", "p", "odd"), b"not ours")
    await client.aclose()
    await use("k")
    _, found = await last_use(ledger, [a_key("odd", "p"), a_key("k", "p")])
    assert [use.key.key.id for use in found] == ["k"]


async def listed(store: Store, ledger: UsageLedger, days: int, size: int = 2) -> list[str]:
    """The ids of all unused keys, by pages of `size`."""
    found: list[KeyUse] = []
    position: str | None = None
    while True:
        page = await unused_keys(store, ledger, days, size, position)
        found += page.items
        position = page.position
        if position is None:
            return sorted(use.key.key.id for use in found)


@pytest.mark.parametrize(
    ("days", "unused"),
    [
        (1, ["ten-days", "twenty-days", "never", "in-no-plan", "new-and-never-5", "moved"]),
        (5, ["ten-days", "twenty-days", "never", "in-no-plan", "new-and-never-5", "moved"]),
        (6, ["ten-days", "twenty-days", "never", "in-no-plan", "moved"]),
        (10, ["ten-days", "twenty-days", "never", "in-no-plan", "moved"]),
        (11, ["twenty-days", "never", "in-no-plan", "moved"]),
        (20, ["twenty-days", "never", "in-no-plan", "moved"]),
        (21, ["never", "in-no-plan", "moved"]),
    ],
)
async def test_keys_are_listed_by_the_days_without_use(
    store: Store, ledger: UsageLedger, use: Use, clock: Clock, days: int, unused: Sequence[str]
) -> None:
    """A key that is younger than that is not listed. A use in a plan that a key has left does not count."""
    await use("twenty-days")
    clock.advance(10 * 86_400)
    await use("ten-days")
    clock.advance(10 * 86_400)
    await use("today")
    await use("moved", "left")
    names = ("twenty-days", "ten-days", "today", "never", "moved")
    keys = [a_key(name, "p", age=100, clock=clock) for name in names]
    await kept(store, *keys, a_key("in-no-plan", age=100, clock=clock), a_key("new-and-never-5", age=5, clock=clock))
    assert await listed(store, ledger, days) == sorted(unused)
    assert await listed(store, ledger, days, size=500) == sorted(unused)


async def test_a_page_reads_a_bounded_number_of_ledgers(
    store: Store, ledger: UsageLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = tuple(f"plan-{n}" for n in range(10))
    for start in range(0, 120, 40):
        await kept(store, *(a_key(f"k{n}", *plans) for n in range(start, start + 40)))
    sent: list[int] = []
    run = ledger._database.run

    async def counted(script: Any, keys: Sequence[str], *rest: Any) -> Any:
        sent.append(len(keys))
        return await run(script, keys, *rest)

    monkeypatch.setattr(ledger._database, "run", counted)
    page = await unused_keys(store, ledger, 30, 100)
    assert (len(page.items), sent) == (100, [1500, 1500])  # three Redis keys a caller, 500 callers a script
    assert page.position


# --- the API and the command line ---------------------------------------------------------------------------------


def day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).date().isoformat()


def test_the_extension_shows_the_day(control: Control, shared_redis: RedisServer) -> None:
    aws = boto(control)
    key, plan = aws.create_api_key(name="a")["id"], aws.create_usage_plan(name="p")["id"]
    aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    path = f"/apikeys/{key}/extension"
    assert raw(control, "GET", path).json() == {}

    async def call(_: object) -> None:
        account = control.account
        async with running_limiter(shared_redis.url, account) as limiter:
            await limiter.admit(Charge((), Meter(*(redis_key(account, k, plan, key) for k in ("ledger", "history")))))

    before = day(0)
    control.run(call)
    assert raw(control, "GET", path).json()["lastUsedDate"] in (before, day(0))
    assert raw(control, "PUT", path, {"lastUsedDate": "1970-01-01"}).status == 200
    assert raw(control, "GET", path).json()["lastUsedDate"] in (before, day(0)), "it cannot be set"


@pytest.mark.parametrize(
    "query", ["", "?days=", "?days=0", "?days=401", "?days=-1", "?days=x", "?days=1.5", "?days=%D9%A3"]
)
def test_days_are_a_number_for_which_usage_is_kept(control: Control, query: str) -> None:
    answer = raw(control, "GET", f"/usage/unused-keys{query}")
    assert answer.status == 400
    assert "expected a number from 1 to 400" in answer.json()["message"]


def test_unused_keys_are_listed_in_pages(control: Control) -> None:
    old, names = int(datetime.now(UTC).timestamp()) - 40 * 86_400, ["a", "b", "c"]

    async def put(edit: Draft) -> None:
        for name in names:
            key = ApiKey(name, name=name.upper(), enabled=name == "a", customer_id="acme" if name == "b" else None)
            edit.put(StoredKey(key, name * 64, old, old))

    control.run(lambda context: context.store.write(put, who="ada", what=""))
    boto(control).create_api_key(name="new")
    found: list[Any] = []
    path, position = "/usage/unused-keys?days=30&limit=2", ""
    for _ in range(3):
        answer = raw(control.as_reader(), "GET", path + position)
        assert answer.status == 200, answer
        page = answer.json()
        found += page["item"]
        if "position" not in page:
            break
        position = f"&position={quote(page['position'], safe='')}"
    assert sorted(found, key=lambda one: str(one["id"])) == [
        {"id": "a", "name": "A", "enabled": True, "createdDate": old},
        {"id": "b", "name": "B", "customerId": "acme", "enabled": False, "createdDate": old},
        {"id": "c", "name": "C", "enabled": False, "createdDate": old},
    ]


async def test_the_command_prints_a_line_a_key(
    store: Store, account: str, shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Those of the store, and of a file if one is named."""
    now = int(datetime.now(UTC).timestamp())
    await kept(store, a_key("k1", "p"), StoredKey(ApiKey("new"), "1" * 64, now, now))
    file = tmp_path / "plans.yaml"
    file.write_text(f"apiKeys: [{{id: filed, name: In a file, valueSha256: {'a' * 64}}}]\n")
    place = ["--redis-url", shared_redis.url, "--account-id", account]

    async def printed(*words: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["usage", "unused-keys", *words, *place])

    result = await printed("--config", str(file))
    lines = result.output.splitlines()
    assert result.exit_code == 0, (result.output, result.exception)
    assert lines == [
        "k1                    never       enabled",
        "filed                 never       enabled   In a file",
    ]
    assert '{"id":"k1","enabled":true,"createdDate":' in (await printed("--json")).output
    refused = await printed("--days", "401")
    assert (refused.exit_code, "expected at most 400" in refused.output) == (2, True)

"""A store and counters that a release wrote before limits counted units: read as they are, and changed in place.

`tests/support/stores/requests_only.json` has every Redis key of such an account: an API with two methods, a deployment,
a stage, a plan in use and a shadow plan, two keys, calls on two days.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio
from msgspec import ValidationError
from msgspec.structs import replace

from authz.aws.convert import to_resources
from authz.aws.usage import Days
from authz.check import Checker
from authz.core.catalog import Catalog
from authz.core.limits import redis_key
from authz.core.request import Request
from authz.core.resources import Override, ThrottleSettings
from authz.core.stored import KINDS, StoredKey, StoredPlan
from authz.core.verdict import Allowed
from authz.core.zones import DAY_US
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from authz.store.consistency import differences
from authz.store.items import decode, encode
from authz.store.keys import StoreKeyCache
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.servers import RedisServer

WRITTEN: Final[Mapping[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "support" / "stores" / "requests_only.json").read_text()
)
FIRST_DAY: Final = 20_516  # since 1970: 4 March 2026, with 3 calls of the first key; as many on the next day


def plain(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.fixture
async def store(shared_redis: RedisServer, account: str) -> AsyncIterator[Store]:
    """The old account under the name of this test's."""
    client = redis.asyncio.Redis.from_url(shared_redis.url)
    for name, found in WRITTEN.items():
        key, value = name.replace("{old}", f"{{{account}}}"), found["value"]
        match found["type"]:
            case "string":
                await client.set(key, plain(value))
            case "hash":
                await client.hset(key, mapping={plain(one): plain(other) for one, other in value.items()})
            case "zset":
                await client.zadd(key, {plain(one): score for one, score in value})
            case "set":
                await client.sadd(key, *map(plain, value))
            case "stream":
                for entry_id, fields in value:
                    await client.xadd(key, {plain(one): plain(other) for one, other in fields}, entry_id)
    await client.aclose()
    store = Store(shared_redis.url, account=account)
    yield store
    await store.aclose()


async def keys_of(store: Store) -> dict[str, StoredKey]:
    page = await store.page("apikey", "apikey", 10)
    return {stored.key.name: stored for stored in page.items}


async def gold(store: Store) -> StoredPlan:
    page = await store.page("usageplan", "usageplan", 10)
    found: StoredPlan = next(stored for stored in page.items if stored.plan.name == "gold")
    return found


async def called(store: Store, account: str, limiter: RedisLimiter, clock: Clock) -> Allowed:
    """Call GET /pets with the first key, as a sidecar that follows the store."""
    resources, refs = to_resources((await store.snapshot()).items)
    catalog = Catalog.compile(resources, account, refs=refs)
    ring = StoreKeyCache(store.find)
    checker = Checker(lambda: catalog, limiter, LocalLimiter(), clock, ring)
    request = Request("GET", "example.org", "/prod/pets", {"x-api-key": "first-key-0000000000000000"})
    verdict = await checker.check(request)
    assert isinstance(verdict, Allowed)
    return verdict


def test_every_item_is_written_as_it_was_read() -> None:
    """So a release before this one reads a store in which no new field is set."""
    for kind in KINDS:
        for raw in WRITTEN.get(f"{{old}}:v1:store:item:{kind}", {"value": {}})["value"].values():
            assert encode(decode(kind, plain(raw))) == plain(raw)


async def test_the_indexes_are_those_of_now(store: Store) -> None:
    assert await differences(store) == []


async def test_usage_and_what_remains_are_kept_and_go_on(
    store: Store, limiter: RedisLimiter, shared_redis: RedisServer, account: str, clock: Clock
) -> None:
    plan, key = (await gold(store)).plan.id, (await keys_of(store))["first"].key.id
    ledger = UsageLedger(shared_redis.url, account=account, clock=clock)
    clock.now = (FIRST_DAY + 1) * DAY_US + DAY_US // 2

    async def used() -> tuple[int, dict[int, int]]:
        record = (await ledger.read(plan, [key], Days(FIRST_DAY, FIRST_DAY + 2))).records[key]
        return record.state.used, {day: row[0] for day, row in record.rows.items()}

    assert await used() == (6, {FIRST_DAY: 3, FIRST_DAY + 1: 3})
    await called(store, account, limiter, clock)
    assert await used() == (7, {FIRST_DAY: 3, FIRST_DAY + 1: 4})
    clock.advance(DAY_US / 1_000_000)
    await called(store, account, limiter, clock)
    assert await used() == (8, {FIRST_DAY: 3, FIRST_DAY + 1: 4, FIRST_DAY + 2: 1})
    await ledger.aclose()


async def test_an_item_takes_new_fields_when_it_is_written(store: Store) -> None:
    plan, keys = await gold(store), await keys_of(store)
    slow = Override(ThrottleSettings(1, 1))

    async def edit(edit: Any) -> None:
        edit.put(replace(keys["first"], overrides={plan.ref: slow}))

    await store.write(edit, who="test", what="override")
    found = await keys_of(store)
    assert found["first"].overrides == {plan.ref: slow}
    assert found["second"] == keys["second"]
    assert await differences(store) == []


async def test_a_key_comes_without_a_customer_until_one_is_made(store: Store) -> None:
    found = await store.find((await keys_of(store))["first"].index)
    assert (found.key and found.key.key.customer_id, found.customer) == ("acme", None)


async def test_an_item_with_a_field_of_a_later_release_is_refused_and_not_read_without_it(
    store: Store, shared_redis: RedisServer, account: str
) -> None:
    """As a release before this one refuses items with the fields of this one."""
    client = redis.asyncio.Redis.from_url(shared_redis.url)
    key = (await keys_of(store))["first"]
    raw = encode(key).replace(b'"name":"first"', b'"name":"first","later":1')
    await client.hset(redis_key(account, "store", "item", "apikey"), key.key.id, raw)
    await client.aclose()
    with pytest.raises(ValidationError, match="unknown field `later`"):
        await store.find(key.index)

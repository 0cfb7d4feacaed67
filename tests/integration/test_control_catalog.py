"""From AWS's API to an answer: a change through boto3, the store, its follower and the check.

The clock is pinned for the limiter and the control plane's ledger alike; everything in between is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from authz.check import Checker
from authz.core.catalog import Catalog
from authz.core.limits import redis_key
from authz.core.resources import Resources
from authz.envoy.edge import to_request
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from authz.sidecar.follower import Callers, StoreCatalog
from authz.store.keys import StoreKeyCache
from authz.store.store import Store
from tests.conftest import Clock
from tests.support.control import Control, boto, raw
from tests.support.control import control as control
from tests.support.servers import DEADLINE_SECONDS, RedisServer
from tests.support.world import REQUEST_ID, STANDARD, check_request, read, to_response


class Gateway:
    """A client of AWS's API, and callers of what it makes: APIs `a1` and `a2` with a stage prod, plan P, key K1."""

    def __init__(self, control: Control, checker: Checker, clock: Clock) -> None:
        self.control, self.boto, self.clock = control, boto(control), clock
        self._checker = checker
        self.apis: dict[str, str] = {}
        self.pets: dict[str, str] = {}
        self.plan = self.key = self.value = ""

    async def do(self, operation: str, **members: Any) -> Any:
        """A call of boto3's; back when the sidecar serves what it wrote."""
        answer = await asyncio.to_thread(getattr(self.boto, operation), **members)
        if version := answer["ResponseMetadata"]["HTTPHeaders"].get("x-authz-version"):
            waited = await asyncio.to_thread(raw, self.control, "GET", f"/catalog/version?wait={version}&timeout=30")
            assert waited.status == 200, waited.body
            assert len(waited.json()["sidecars"]) == 1
        return answer

    async def patch(self, operation: str, op: str, path: str, value: str, **named: str) -> Any:
        return await self.do(operation, **named, patchOperations=[{"op": op, "path": path, "value": value}])

    async def make_api(self, name: str, *, key: bool = True) -> None:
        made = await self.do("create_rest_api", name=name)
        pets = await self.do("create_resource", restApiId=made["id"], parentId=made["rootResourceId"], pathPart="pets")
        self.apis[name], self.pets[name] = made["id"], pets["id"]
        await self.do("put_method", **self.method(name), authorizationType="NONE", apiKeyRequired=key)
        await self.do("put_integration", **self.method(name), type="MOCK")
        await self.deploy(name)

    async def make(self, *, key: bool = True, **plan: Any) -> None:
        for name in ("a1", "a2"):
            await self.make_api(name, key=key)
        covered = [{"apiId": api, "stage": "prod"} for api in self.apis.values()]
        self.plan = (await self.do("create_usage_plan", name="P", apiStages=covered, **plan))["id"]
        made = await self.do("create_api_key", name="K1", enabled=True)
        self.key, self.value = made["id"], made["value"]
        await self.join()

    def method(self, name: str) -> dict[str, str]:
        return {"restApiId": self.apis[name], "resourceId": self.pets[name], "httpMethod": "GET"}

    async def deploy(self, name: str) -> None:
        await self.do("create_deployment", restApiId=self.apis[name], stageName="prod")

    async def join(self) -> None:
        await self.do("create_usage_plan_key", usagePlanId=self.plan, keyId=self.key, keyType="API_KEY")

    async def call(self, name: str = "a1", *, key: bool = True) -> str:
        sent = {"x-api-key": self.value} if key else {}
        request = to_request(check_request("GET", f"https://{self.apis[name]}.test/prod/pets", sent))
        assert request is not None
        verdict = await self._checker.check(request)
        return read(to_response(verdict, request, style=STANDARD, request_id=REQUEST_ID, version="1-test")).name

    async def calls(self, count: int) -> list[str]:
        return [await self.call() for _ in range(count)]

    async def used(self) -> list[list[int]]:
        """Today's row of the key: what it used, and what remains."""
        today = str(datetime.fromtimestamp(self.clock.now / 1_000_000, UTC).date())
        days = {"startDate": today, "endDate": today}
        answer = await self.do("get_usage", usagePlanId=self.plan, keyId=self.key, **days)
        rows: list[list[int]] = answer["items"][self.key]
        return rows


@pytest.fixture
async def gateway(
    control: Control, shared_redis: RedisServer, limiter: RedisLimiter, clock: Clock
) -> AsyncIterator[Gateway]:
    control.ledger.clock = clock
    lookups, store = (Store(shared_redis.url, account=control.account) for _ in range(2))
    ring = StoreKeyCache(lookups.find, control.sealer.index)

    def compiled(resources: Resources, refs: Mapping[str, str]) -> Catalog:
        return Catalog.compile(resources, control.account, refs=refs)

    def reset(callers: Callers | None) -> None:
        limiter.forget(None if callers is None else [redis_key(control.account, "ledger", *one) for one in callers])

    catalog = StoreCatalog(store, ring, compiled, worker="w1", reset=reset)
    watching = asyncio.create_task(catalog.watch())
    checker = Checker(lambda: catalog.current, limiter, LocalLimiter(), limiter.clock.now, ring)
    try:
        await asyncio.wait_for(catalog.loaded(), DEADLINE_SECONDS)
        yield Gateway(control, checker, clock)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await catalog.aclose()
        await lookups.aclose()


async def test_a_key_is_disabled_and_enabled(gateway: Gateway) -> None:
    await gateway.make()
    assert await gateway.call() == "OK"
    await gateway.patch("update_api_key", "replace", "/enabled", "false", apiKey=gateway.key)
    assert await gateway.call() == "F"
    await gateway.patch("update_api_key", "replace", "/enabled", "true", apiKey=gateway.key)
    assert await gateway.call() == "OK"


async def test_a_key_is_deleted(gateway: Gateway) -> None:
    await gateway.make()
    assert await gateway.call() == "OK"
    await gateway.do("delete_api_key", apiKey=gateway.key)
    assert await gateway.call() == "F"


async def test_a_key_leaves_its_plan_and_joins_again(gateway: Gateway) -> None:
    await gateway.make()
    assert await gateway.call() == "OK"
    await gateway.do("delete_usage_plan_key", usagePlanId=gateway.plan, keyId=gateway.key)
    assert await gateway.call() == "F"
    await gateway.join()
    assert await gateway.call() == "OK"


async def test_a_stage_leaves_the_plan(gateway: Gateway) -> None:
    await gateway.make()
    stage = f"{gateway.apis['a1']}:prod"
    await gateway.patch("update_usage_plan", "remove", "/apiStages", stage, usagePlanId=gateway.plan)
    assert (await gateway.call("a1"), await gateway.call("a2")) == ("F", "OK")
    await gateway.patch("update_usage_plan", "add", "/apiStages", stage, usagePlanId=gateway.plan)
    assert (await gateway.call("a1"), await gateway.call("a2")) == ("OK", "OK")


async def test_a_method_needs_a_key_from_the_next_deployment_on(gateway: Gateway) -> None:
    await gateway.make(key=False)
    await gateway.patch("update_method", "replace", "/apiKeyRequired", "true", **gateway.method("a1"))
    assert await gateway.call(key=False) == "OK"
    await gateway.deploy("a1")
    assert await gateway.call(key=False) == "F"
    assert await gateway.call("a2", key=False) == "OK"


async def test_a_quota_lowered_below_its_use_leaves_nothing(gateway: Gateway) -> None:
    await gateway.make(quota={"limit": 5, "period": "DAY"})
    assert await gateway.calls(3) == ["OK"] * 3
    await gateway.patch("update_usage_plan", "replace", "/quota/limit", "2", usagePlanId=gateway.plan)
    assert await gateway.call() == "LE"
    assert await gateway.used() == [[3, 0]]


async def test_the_remaining_units_are_set_for_this_period_only(gateway: Gateway) -> None:
    await gateway.make(quota={"limit": 5, "period": "DAY"})
    assert await gateway.calls(6) == ["OK"] * 5 + ["LE"]
    named = {"usagePlanId": gateway.plan, "keyId": gateway.key}
    await gateway.patch("update_usage", "replace", "/remaining", "3", **named)
    assert await gateway.calls(4) == ["OK"] * 3 + ["LE"]
    gateway.clock.at("2026-03-05T00:00:00Z")
    assert await gateway.calls(6) == ["OK"] * 5 + ["LE"]


async def test_a_gateway_response_changes_with_the_next_deployment(gateway: Gateway) -> None:
    await gateway.make()
    named = {"restApiId": gateway.apis["a1"], "responseType": "INVALID_API_KEY"}
    words = {"application/json": '{"say":"who are you"}'}
    await gateway.do("put_gateway_response", **named, statusCode="401", responseTemplates=words)
    assert await gateway.call(key=False) == "F"
    await gateway.deploy("a1")
    assert await gateway.call(key=False) == '401 {"say":"who are you"}'
    await gateway.do("delete_gateway_response", **named)
    assert await gateway.call(key=False) == '401 {"say":"who are you"}'
    await gateway.deploy("a1")
    assert await gateway.call(key=False) == "F"

"""What AWS does not have, from the control plane to the calls that it decides; boto3 beside it sees AWS's resources."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from authz.core.resources import Customer
from authz.core.stored import Items, StoredCustomer
from authz.store.consistency import differences
from tests.integration.test_control_catalog import Gateway
from tests.integration.test_control_catalog import gateway as gateway
from tests.support.control import Control, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

MONTH = {"limit": 2, "period": "MONTH"}


async def put(gateway: Gateway, path: str, body: Any = None, verb: str = "PUT") -> Any:
    """Write, and wait until the sidecar serves it."""
    reply = await asyncio.to_thread(raw, gateway.control, verb, path, body)
    assert reply.status in (200, 202), reply
    version = reply.headers["x-authz-version"]
    waited = await asyncio.to_thread(raw, gateway.control, "GET", f"/catalog/version?wait={version}&timeout=30")
    assert waited.status == 200, waited
    return reply.json() if reply.body else None


async def test_a_change_of_a_customer_reaches_the_keys_in_memory(gateway: Gateway) -> None:
    """The id has a blank, a slash and an umlaut: AWS takes any text."""
    name = "Acme & Söhne/1"
    await gateway.make(quota=MONTH)
    await gateway.patch("update_api_key", "replace", "/customerId", name, apiKey=gateway.key)
    await put(gateway, f"/usageplans/{gateway.plan}/extension", {"limitsPer": "CUSTOMER", "quotas": [MONTH]})
    assert await gateway.calls(3) == ["OK", "OK", "LE"]
    customer = f"/customers/{quote(name, safe='')}"
    await put(gateway, customer, {"overrides": {gateway.plan: {"quotas": [{"period": "MONTH", "limit": 3}]}}})
    assert await gateway.calls(2) == ["OK", "LE"]
    await put(gateway, customer, verb="DELETE")
    assert await gateway.calls(1) == ["LE"]
    assert gateway.control.run(lambda _: differences(gateway.control.store)) == []


async def test_a_key_has_numbers_of_its_own_as_long_as_it_is_in_the_plan(gateway: Gateway) -> None:
    await gateway.make(quota=MONTH)
    override = {"quotas": [{"period": "MONTH", "limit": 3}]}
    await put(gateway, f"/usageplans/{gateway.plan}/keys/{gateway.key}/extension", override)
    assert await gateway.calls(4) == ["OK", "OK", "OK", "LE"]
    await gateway.do("delete_usage_plan_key", usagePlanId=gateway.plan, keyId=gateway.key)
    await gateway.join()
    await put(gateway, f"/usageplans/{gateway.plan}/extension", {"quotas": [{"limit": 4, "period": "MONTH"}]})
    assert await gateway.calls(2) == ["OK", "LE"]


async def test_a_quota_that_aws_does_not_know_holds_and_outlives_awss_own(gateway: Gateway) -> None:
    await gateway.make(quota={"limit": 100, "period": "MONTH"})
    quotas = [{"limit": 100, "period": "MONTH"}, {"limit": 2, "period": "HOUR"}]
    await put(gateway, f"/usageplans/{gateway.plan}/extension", {"quotas": quotas})
    assert await gateway.calls(3) == ["OK", "OK", "LE"]
    await gateway.patch("update_usage_plan", "remove", "/quota", "", usagePlanId=gateway.plan)
    assert await gateway.calls(1) == ["LE"]
    gateway.clock.advance(3600)
    assert await gateway.calls(3) == ["OK", "OK", "LE"]


async def test_a_call_takes_the_deployed_cost(gateway: Gateway) -> None:
    await gateway.make(quota={"limit": 7, "period": "MONTH"})
    await put(gateway, f"/restapis/{gateway.apis['a1']}/extension", {"methods": {"/pets/GET": {"cost": 3}}})
    assert await gateway.calls(1) == ["OK"]
    await gateway.deploy("a1")
    assert await gateway.calls(3) == ["OK", "OK", "LE"]
    assert (await gateway.used())[0][0] == 7


async def test_boto3_sees_a_plan_as_it_made_it(gateway: Gateway) -> None:
    await gateway.make(quota=MONTH, throttle={"rateLimit": 10, "burstLimit": 20})
    before = await gateway.do("get_usage_plan", usagePlanId=gateway.plan)
    extension = {"limitsPer": "CUSTOMER", "throttle": {"counts": "UNITS"}, "quotas": [{**MONTH, "alerts": [50]}]}
    await put(gateway, f"/usageplans/{gateway.plan}/extension", extension)
    after = await gateway.do("get_usage_plan", usagePlanId=gateway.plan)
    assert _plain(after) == _plain(before)
    await gateway.patch("update_usage_plan", "replace", "/quota/limit", "5", usagePlanId=gateway.plan)
    found = await asyncio.to_thread(raw, gateway.control, "GET", f"/usageplans/{gateway.plan}/extension")
    assert found.json() == {**extension, "quotas": [{"limit": 5, "period": "MONTH", "alerts": [50]}]}


def _plain(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def test_customers_are_listed_the_newest_first_and_then_the_files(shared_redis: RedisServer, account: str) -> None:
    fixed: Items = {("customer", name): StoredCustomer(Customer(name), 1, 1) for name in ("f1", "f2")}
    with running(shared_redis.url, account, fixed=lambda: fixed) as control:
        for n in range(3):
            assert raw(control, "POST", "/customers", {"id": f"c{n}"}).status == 201
        ids, after = list[str](), ""
        for _ in range(3):
            page = raw(control, "GET", f"/customers?limit=2{after}").json()
            ids += [customer["id"] for customer in page["item"]]
            after = f"&position={quote(page['position'])}" if "position" in page else ""
    assert ids == ["c2", "c1", "c0", "f1", "f2"]


@pytest.mark.parametrize("verb", ["PUT", "DELETE"])
def test_a_read_only_caller_changes_no_customer(control: Control, verb: str) -> None:
    assert raw(control, "PUT", "/customers/acme", {"name": "Acme"}).status == 200
    reply = raw(control.as_reader(), verb, "/customers/acme", {})
    assert (reply.status, reply.code) == (403, "AccessDeniedException")
    assert raw(control.as_reader(), "GET", "/customers/acme").json()["name"] == "Acme"


def test_a_plan_whose_change_makes_overrides_idle_says_so(control: Control) -> None:
    aws = boto(control)
    plan = aws.create_usage_plan(name="P", quota=MONTH)["id"]
    key = aws.create_api_key(name="k", enabled=True)["id"]
    aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    path, override = f"/usageplans/{plan}", {"quotas": [{"period": "MONTH", "limit": 3}]}
    assert "x-authz-warning" not in raw(control, "PUT", f"{path}/keys/{key}/extension", override).headers
    assert "x-authz-warning" not in raw(control, "PUT", f"{path}/extension", {"quotas": [MONTH]}).headers
    reply = raw(control, "PUT", f"{path}/extension", {"quotas": [{"limit": 9, "period": "HOUR"}]})
    says = f"the override of the key {key}: the plan {plan} has no quota by MONTH, only by HOUR"
    assert says in reply.headers["x-authz-warning"]


def test_a_plan_whose_change_makes_a_customers_override_idle_says_so(control: Control) -> None:
    aws = boto(control)
    plan = aws.create_usage_plan(name="P", quota=MONTH)["id"]
    for name in ("k1", "k2"):
        key = aws.create_api_key(name=name, enabled=True, customerId="acme")["id"]
        aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    shared = {"quotas": [MONTH], "limitsPer": "CUSTOMER"}
    assert "x-authz-warning" not in raw(control, "PUT", f"/usageplans/{plan}/extension", shared).headers
    customer = {"overrides": {plan: {"quotas": [{"period": "MONTH", "limit": 3}]}}}
    assert "x-authz-warning" not in raw(control, "PUT", "/customers/acme", customer).headers
    assert "x-authz-warning" not in raw(control, "PUT", f"/usageplans/{plan}/extension", shared).headers
    for changed, rule in (
        ({"quotas": [MONTH]}, f"no effect: the plan {plan} limits each key"),
        (
            {"quotas": [{"limit": 9, "period": "HOUR"}], "limitsPer": "CUSTOMER"},
            f"the plan {plan} has no quota by MONTH",
        ),
    ):
        reply = raw(control, "PUT", f"/usageplans/{plan}/extension", changed)
        assert f"the override of the customer acme: {rule}" in reply.headers["x-authz-warning"]


def test_a_key_of_boto3_takes_a_customer_that_is_made_later(control: Control) -> None:
    made = boto(control).create_api_key(name="k", customerId="acme")
    assert raw(control, "PUT", "/customers/acme", {"billingDay": 3}).status == 200
    assert boto(control).get_api_key(apiKey=made["id"])["customerId"] == "acme"

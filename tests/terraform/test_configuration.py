"""A configuration in Terraform's order: it decides calls, a second plan is empty, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.integration.test_control_catalog import Gateway
from tests.integration.test_control_catalog import gateway as gateway
from tests.support.control import control as control
from tests.support.control import raw
from tests.terraform import newer
from tests.terraform.engine import Replay, Send, Table
from tests.terraform.tables import API_KEY, BY_RESOURCE, DEPLOYED_STAGE, DEPLOYMENT, DEPLOYMENT_5, STAGE_

BEFORE = ("rest_api without members", "resource", "method", "integration", "method_response", "integration_response")
AFTER = ("method_settings of */*", "usage_plan", "api_key", "usage_plan_key", "domain_name", "base_path_mapping")
DEPLOYMENTS = {"5": (DEPLOYMENT_5, STAGE_), "5, with a stage": (DEPLOYED_STAGE,), "6": (DEPLOYMENT, newer.STAGE_)}
LISTS = ("/restapis", "/usageplans", "/apikeys", "/domainnames")


def apply(replay: Replay, tables: Iterable[Table]) -> None:
    for table in tables:
        for send in table.create:
            replay.send(send)


def plan(replay: Replay, tables: Iterable[Table]) -> dict[str, object]:
    changes = {table.name: replay.drift(table, table.shows) for table in tables}
    return {name: drift for name, drift in changes.items() if drift}


def destroy(replay: Replay, tables: Iterable[Table]) -> None:
    for table in tables:
        for send in table.destroy:
            replay.send(send)
        assert replay.destroyed(table), table.name


@pytest.mark.parametrize("form", DEPLOYMENTS)
async def test_a_configuration_decides_calls_and_goes(gateway: Gateway, form: str) -> None:
    tables = [*(BY_RESOURCE[name] for name in BEFORE), *DEPLOYMENTS[form], *(BY_RESOURCE[name] for name in AFTER)]
    replay = Replay(gateway.control, BY_RESOURCE)
    await asyncio.to_thread(apply, replay, tables)
    assert await asyncio.to_thread(plan, replay, tables) == {}

    waited = await asyncio.to_thread(raw, gateway.control, "GET", f"/catalog/version?wait={replay.version}&timeout=30")
    assert waited.status == 200, waited
    gateway.apis, gateway.value = {"a1": replay.ids["api"]}, str(API_KEY.shows["value"])
    assert await gateway.call(key=False) == "F"
    assert await gateway.calls(3) == ["OK", "OK", "TMR"]  # the plan's throttle block: 2 at once for /pets/GET
    assert await asyncio.to_thread(plan, replay, tables) == {}

    await asyncio.to_thread(destroy, replay, tables[::-1])
    for path in LISTS:
        assert (await asyncio.to_thread(replay.send, Send("GET", path)))["item"] == []

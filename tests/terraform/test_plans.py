"""What Terraform's AWS provider sends for plans, keys and settings, in its order; a second plan is empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.control import Control, raw
from tests.support.control import control as control

Attributes = dict[str, Any]
PLAN: Attributes = {
    "name": "Silver",
    "description": "Managed by Terraform",
    "productCode": "MYCODE",
    "throttle": {"rateLimit": 50.0, "burstLimit": 100},
    "quota": {"limit": 5000, "period": "MONTH", "offset": 2},
}
KEY: Attributes = {
    "name": "acme",
    "description": "Managed by Terraform",
    "enabled": True,
    "value": "a-value-from-terraform-0123456789",
}
THROTTLES: Attributes = {"/pets/GET": {"rateLimit": 0.5, "burstLimit": 2}}
SETTINGS: dict[str, Attributes] = {  # by method_path, in the spellings that people give
    "*/*": {"throttlingRateLimit": 100.0, "throttlingBurstLimit": 50},
    "pets/GET": {"throttlingRateLimit": -1.0, "throttlingBurstLimit": -1},
    "~1pets~1{id}/GET": {"throttlingRateLimit": 0.3, "throttlingBurstLimit": 1},
}


@dataclass
class Provider:
    """Terraform's provider: each call's answer is a JSON document, or an error of that status."""

    control: Control

    def __call__(self, verb: str, path: str, body: Any = None, *, expect: int | None = None) -> Any:
        answer = raw(self.control, verb, path, body)
        assert answer.status == expect if expect else answer.status < 300, f"{verb} {path}: {answer}"
        assert (answer.code == "NotFoundException") == (answer.status == 404), answer
        return answer.json() if answer.body else None

    def patch(self, path: str, *operations: Mapping[str, str]) -> Any:
        return self("PATCH", path, {"patchOperations": list(operations)})


def add(path: str, value: str) -> dict[str, str]:
    return {"op": "add", "path": path, "value": value}


def replace(path: str, value: object) -> dict[str, str]:
    return {"op": "replace", "path": path, "value": str(value)}


def remove(path: str, value: str = "") -> dict[str, str]:
    return {"op": "remove", "path": path, "value": value}


@dataclass
class State:
    """Terraform's state: the objects that it created."""

    api: str
    resources: list[str]
    deployment: str
    stage: str = "prod"
    plan: str = ""
    key: str = ""
    attached: str = "prod"

    @property
    def stage_path(self) -> str:
        return f"/restapis/{self.api}/stages/{self.stage}"


def apply_api(call: Provider) -> State:
    """aws_api_gateway_rest_api, _resource, _method, _integration, _deployment, _stage."""
    made = call("POST", "/restapis", {"name": "Pets"}, expect=201)
    api = f"/restapis/{made['id']}"
    call("GET", api)
    root = next(one["id"] for one in call("GET", f"{api}/resources?limit=500")["item"] if one["path"] == "/")
    assert root == made["rootResourceId"]
    pets = call("POST", f"{api}/resources/{root}", {"pathPart": "pets"}, expect=201)["id"]
    pet = call("POST", f"{api}/resources/{pets}", {"pathPart": "{id}"}, expect=201)["id"]
    for resource in (pets, pet):
        method = f"{api}/resources/{resource}/methods/GET"
        call("GET", f"{api}/resources/{resource}")
        call("PUT", method, {"authorizationType": "NONE", "apiKeyRequired": True}, expect=201)
        assert call("GET", method)["apiKeyRequired"] is True
        call("PUT", f"{method}/integration", {"type": "MOCK"}, expect=201)
        assert call("GET", f"{method}/integration")["type"] == "MOCK"
    deployment = call("POST", f"{api}/deployments", {"description": ""}, expect=201)["id"]
    call("GET", f"{api}/deployments/{deployment}")
    state = State(made["id"], [pet, pets], deployment)
    for stage in ("prod", "beta"):
        call("POST", f"{api}/stages", {"stageName": stage, "deploymentId": deployment}, expect=201)
        call("GET", f"{api}/stages/{stage}")
    return state


def apply_plan(call: Provider, state: State) -> None:
    """aws_api_gateway_usage_plan: all at once, but the product code, which creation does not take."""
    stages = [{"apiId": state.api, "stage": state.stage, "throttle": THROTTLES}]
    given = {name: value for name, value in PLAN.items() if name != "productCode"}
    state.plan = call("POST", "/usageplans", {**given, "apiStages": stages, "tags": {"team": "a"}}, expect=201)["id"]
    call.patch(f"/usageplans/{state.plan}", add("/productCode", PLAN["productCode"]))
    call("GET", f"/usageplans/{state.plan}")


def apply_key(call: Provider, state: State) -> None:
    """aws_api_gateway_api_key and aws_api_gateway_usage_plan_key."""
    state.key = call("POST", "/apikeys", KEY, expect=201)["id"]
    call("GET", f"/apikeys/{state.key}?includeValue=true")
    call("POST", f"/usageplans/{state.plan}/keys", {"keyId": state.key, "keyType": "API_KEY"}, expect=201)
    call("GET", f"/usageplans/{state.plan}/keys/{state.key}")


def apply_settings(call: Provider, state: State) -> None:
    """aws_api_gateway_method_settings, one resource a method path."""
    for method, settings in SETTINGS.items():
        at = f"/{method}/throttling"
        rate = replace(f"{at}/rateLimit", settings["throttlingRateLimit"])
        call.patch(state.stage_path, replace(f"{at}/burstLimit", settings["throttlingBurstLimit"]), rate)


def plan(call: Provider, state: State) -> dict[str, Any]:
    """What Terraform would change: each attribute whose value, read back, is not the configuration's."""
    read = call("GET", f"/usageplans/{state.plan}")
    key = call("GET", f"/apikeys/{state.key}?includeValue=true")
    member = call("GET", f"/usageplans/{state.plan}/keys/{state.key}")
    stage = call("GET", state.stage_path)
    account = call("GET", "/account")
    assert {"throttleSettings", "features", "apiKeyVersion"} <= set(account)
    attached = [{"apiId": state.api, "stage": state.attached, "throttle": THROTTLES}]
    wanted = {**PLAN, "apiStages": attached, "tags": {"team": "a"}}
    return {
        **_changes("plan", wanted, read),
        **_changes("key", KEY, key),
        **_changes("plan_key", {"id": state.key, "type": "API_KEY", "name": "acme", "value": KEY["value"]}, member),
        **dict(_setting_changes(stage["methodSettings"])),
        **_changes("stage", {"deploymentId": state.deployment, "stageName": state.stage}, stage),
    }


def _changes(name: str, wanted: Attributes, read: Attributes) -> dict[str, Any]:
    return {
        f"{name}.{attribute}": (read.get(attribute), value)
        for attribute, value in wanted.items()
        if read.get(attribute) != value
    }


def _setting_changes(read: Mapping[str, Attributes]) -> Iterator[tuple[str, Any]]:
    """The provider looks a method path up as it was given; another spelling would be a change for ever."""
    for method, wanted in SETTINGS.items():
        assert method in read, f"{method} is not among {list(read)}"
        yield from _changes(method, wanted, read[method]).items()


def move_to_beta(call: Provider, state: State) -> None:
    """A changed api_stages: the old one goes, the new one comes, then its throttles."""
    new, at = f"{state.api}:beta", f"/usageplans/{state.plan}"
    throttles = (
        replace(f"/apiStages/{new}/throttle/{method}/{limit}", value)
        for method, limits in THROTTLES.items()
        for limit, value in limits.items()
    )
    call.patch(at, remove("/apiStages", f"{state.api}:{state.attached}"), add("/apiStages", new), *throttles)
    state.attached = "beta"


def destroy(call: Provider, state: State) -> None:
    """In the opposite order; after each the provider reads until it gets a 404."""
    member = f"/usageplans/{state.plan}/keys/{state.key}"
    call("DELETE", member, expect=202)
    call("GET", member, expect=404)
    for method in SETTINGS:
        call.patch(state.stage_path, remove(f"/{method}"))
    assert call("GET", state.stage_path)["methodSettings"] == {}
    call.patch(f"/usageplans/{state.plan}", remove("/apiStages", f"{state.api}:{state.attached}"))
    for thing in (f"/usageplans/{state.plan}", f"/apikeys/{state.key}"):
        call("DELETE", thing, expect=202)
        call("GET", thing, expect=404)
    _destroy_api(call, state)


def _destroy_api(call: Provider, state: State) -> None:
    api = f"/restapis/{state.api}"
    for stage in ("prod", "beta"):
        call("DELETE", f"{api}/stages/{stage}", expect=202)
    call("DELETE", f"{api}/deployments/{state.deployment}", expect=202)
    for resource in state.resources:
        method = f"{api}/resources/{resource}/methods/GET"
        call("DELETE", f"{method}/integration", expect=204)
        call("DELETE", method, expect=204)
        call("DELETE", f"{api}/resources/{resource}", expect=202)
    for path in (f"{api}/stages/prod", f"{api}/deployments/{state.deployment}"):
        call("GET", path, expect=404)
    call("DELETE", api, expect=202)
    call("GET", api, expect=404)


@pytest.fixture
def call(control: Control) -> Provider:
    return Provider(control)


def apply(call: Provider) -> State:
    state = apply_api(call)
    apply_plan(call, state)
    apply_key(call, state)
    apply_settings(call, state)
    return state


def test_a_second_plan_is_empty(call: Provider) -> None:
    state = apply(call)
    assert plan(call, state) == {}


def test_a_change_is_applied_and_the_next_plan_is_empty(call: Provider) -> None:
    state = apply(call)
    move_to_beta(call, state)
    assert plan(call, state) == {}


def test_every_attribute_of_a_plan_can_be_changed_and_removed(call: Provider) -> None:
    state = apply(call)
    at = f"/usageplans/{state.plan}"
    quota = (replace("/quota/limit", 7), replace("/quota/offset", 1), replace("/quota/period", "WEEK"))
    throttle = (replace("/throttle/rateLimit", "0.1"), replace("/throttle/burstLimit", 3))
    changed = call.patch(at, replace("/name", "Gold"), replace("/description", "d"), *quota, *throttle)
    assert changed["quota"] == {"limit": 7, "offset": 1, "period": "WEEK"}
    assert (changed["throttle"], changed["name"]) == ({"rateLimit": 0.1, "burstLimit": 3}, "Gold")
    bare = call.patch(at, remove("/throttle"), remove("/quota"), remove("/productCode"))
    assert {"throttle", "quota", "productCode"} & set(bare) == set()


def test_a_key_is_changed_in_place(call: Provider) -> None:
    state = apply(call)
    changes = (replace("/name", "n"), replace("/description", "d"), replace("/enabled", "false"))
    call.patch(f"/apikeys/{state.key}", *changes, replace("/customerId", "c"))
    read = call("GET", f"/apikeys/{state.key}?includeValue=true")
    assert [read[name] for name in ("name", "description", "enabled", "customerId")] == ["n", "d", False, "c"]
    assert read["value"] == KEY["value"]


def test_destroy_is_clean(call: Provider) -> None:
    destroy(call, apply(call))
    for things in ("/usageplans", "/apikeys", "/restapis"):
        assert call("GET", things)["item"] == []


def test_a_deleted_stage_leaves_the_plan(call: Provider) -> None:
    state = apply(call)
    call("DELETE", state.stage_path, expect=202)
    assert call("GET", f"/usageplans/{state.plan}")["apiStages"] == []

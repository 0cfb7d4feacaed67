"""Canaries through boto3, field by field as recorded of AWS.

A canary is stored and shown. It never changes what its stage serves: an operator promotes it by patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.test_control_restapis import SETTING_PATHS, Client, bare, refused
from tests.support.control import Control
from tests.support.control import control as control

DATES = ("createdDate", "lastUpdatedDate")


@pytest.fixture
def client(control: Control) -> Client:
    made = Client(control)
    made.method(made.resource())
    return made


def stage_of(answer: dict[str, Any]) -> dict[str, Any]:
    """A stage without its dates."""
    return {name: value for name, value in bare(answer).items() if name not in DATES}


def stage(name: str, deployment: str, **members: Any) -> dict[str, Any]:
    """A stage as AWS shows it, with these members besides."""
    return {
        "stageName": name,
        "deploymentId": deployment,
        "cacheClusterEnabled": False,
        "cacheClusterStatus": "NOT_AVAILABLE",
        "methodSettings": {},
        "tracingEnabled": False,
        **members,
    }


def canary(deployment: str, percent: float, **overrides: str) -> dict[str, Any]:
    shown = {"deploymentId": deployment, "percentTraffic": percent, "useStageCache": False}
    return shown | ({"stageVariableOverrides": overrides} if overrides else {})


def test_a_stage_is_made_with_a_canary(client: Client) -> None:
    first, second = client.deploy(), client.deploy()
    made = client.create_stage(
        restApiId=client.api,
        stageName="dev",
        deploymentId=first,
        description="dev stage",
        variables={"testVar": "default"},
        canarySettings={"deploymentId": second, "percentTraffic": 50, "stageVariableOverrides": {"testVar": "canary"}},
    )
    base = {"description": "dev stage", "variables": {"testVar": "default"}}
    assert stage_of(made) == stage("dev", first, **base, canarySettings=canary(second, 50.0, testVar="canary"))
    named = {"restApiId": client.api, "stageName": "dev"}
    assert stage_of(client.get_stage(**named)) == stage_of(made)
    override = "/canarySettings/stageVariableOverrides/testVar"
    changed = client.patch("update_stage", ("replace", override, "updated"), **named)
    assert changed["canarySettings"] == canary(second, 50.0, testVar="updated")
    removed = client.patch("update_stage", ("remove", "/canarySettings"), **named)
    assert stage_of(removed) == stage("dev", first, **base)


@pytest.mark.parametrize("percent", [0.0, 50.0, 100.0])
def test_a_canary_leaves_the_stage_its_deployment(client: Client, percent: float) -> None:
    first = client.deploy(stageName="dev", variables={"testVar": "default"})
    settings = {"percentTraffic": percent, "stageVariableOverrides": {"testVar": "canary"}}
    second = client.deploy(stageName="dev", canarySettings=settings)
    read = client.get_stage(restApiId=client.api, stageName="dev")
    shown = canary(second, percent, testVar="canary")
    assert stage_of(read) == stage("dev", first, variables={"testVar": "default"}, canarySettings=shown)


def test_an_empty_canary_is_a_canary_without_calls(client: Client) -> None:
    first = client.deploy(stageName="dev")
    second = client.deploy(stageName="dev", canarySettings={})
    assert stage_of(client.get_stage(restApiId=client.api, stageName="dev")) == stage(
        "dev", first, canarySettings=canary(second, 0.0)
    )


def test_a_canary_that_asks_for_no_key_opens_nothing(client: Client) -> None:
    first = client.deploy(stageName="dev")
    pets = next(one["id"] for one in client.get_resources(restApiId=client.api)["items"] if one["path"] == "/pets")
    method = {"restApiId": client.api, "resourceId": pets, "httpMethod": "GET"}
    client.patch("update_method", ("replace", "/apiKeyRequired", "false"), **method)
    client.deploy(stageName="dev", canarySettings={"percentTraffic": 100.0})
    served = client.get_stage(restApiId=client.api, stageName="dev")["deploymentId"]
    assert served == first
    summary = client.get_deployment(restApiId=client.api, deploymentId=served, embed=["apisummary"])["apiSummary"]
    assert summary["/pets"]["GET"]["apiKeyRequired"] is True


def test_a_new_canary_takes_the_place_of_the_old_one(client: Client) -> None:
    first = client.deploy()
    client.create_stage(
        restApiId=client.api,
        stageName="dev",
        deploymentId=first,
        canarySettings={"deploymentId": first, "percentTraffic": 40, "stageVariableOverrides": {"old": "1"}},
    )
    settings = {"percentTraffic": 50, "stageVariableOverrides": {"testVar": "canary2"}}
    second = client.deploy(stageName="dev", canarySettings=settings)
    read = client.get_stage(restApiId=client.api, stageName="dev")
    assert stage_of(read) == stage("dev", first, canarySettings=canary(second, 50.0, testVar="canary2"))


def test_a_deployment_that_is_no_canary_leaves_the_canary(client: Client) -> None:
    client.deploy(stageName="dev")
    second = client.deploy(stageName="dev", canarySettings={"percentTraffic": 50})
    third = client.deploy(stageName="dev")
    read = client.get_stage(restApiId=client.api, stageName="dev")
    assert stage_of(read) == stage("dev", third, canarySettings=canary(second, 50.0))


def test_a_patch_makes_a_canary_whole(client: Client) -> None:
    first, second = client.deploy(stageName="dev"), client.deploy()
    named = {"restApiId": client.api, "stageName": "dev"}
    changed = client.patch("update_stage", ("replace", "/canarySettings/deploymentId", second), **named)
    assert stage_of(changed) == stage("dev", first, canarySettings=canary(second, 0.0))
    client.patch("update_stage", ("remove", "/canarySettings"), **named)
    changed = client.patch("update_stage", ("replace", "/canarySettings/percentTraffic", "50"), **named)
    assert stage_of(changed) == stage("dev", first, canarySettings=canary(first, 50.0))


def test_a_canary_is_promoted_by_copies(client: Client) -> None:
    first = client.deploy(stageName="dev", variables={"testVar": "test", "testVar2": "test2"})
    named = {"restApiId": client.api, "stageName": "dev"}
    variables = {"testVar": "test", "testVar2": "test2"}
    promotion = [
        {"op": "replace", "value": "0.0", "path": "/canarySettings/percentTraffic"},
        {"op": "copy", "from": "/canarySettings/deploymentId", "path": "/deploymentId"},
        {"op": "copy", "from": "/canarySettings/stageVariableOverrides", "path": "/variables"},
    ]
    nothing = client.update_stage(**named, patchOperations=promotion)
    assert stage_of(nothing) == stage("dev", first, variables=variables, canarySettings=canary(first, 0.0))
    settings = {"percentTraffic": 50, "stageVariableOverrides": {"testVar": "override"}}
    second = client.deploy(stageName="dev", canarySettings=settings)
    promoted = client.update_stage(**named, patchOperations=promotion)
    expected = {"variables": variables | {"testVar": "override"}}
    shown = canary(second, 0.0, testVar="override")
    assert stage_of(promoted) == stage("dev", second, **expected, canarySettings=shown)


def test_a_promoted_canary_is_what_the_stage_serves(client: Client) -> None:
    client.deploy(stageName="dev")
    named = {"restApiId": client.api, "stageName": "dev"}
    second = client.deploy(stageName="dev", canarySettings={"percentTraffic": 10.0})
    copy = {"op": "copy", "from": "/canarySettings/deploymentId", "path": "/deploymentId"}
    client.update_stage(**named, patchOperations=[copy, {"op": "remove", "path": "/canarySettings"}])
    assert stage_of(client.get_stage(**named)) == stage("dev", second)


INVALID = "Invalid deployment content specified."
NO_NAME = f"{INVALID}Non null and non empty stageName must be provided for canary deployment. Provided value is "


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, f"{NO_NAME}null"),
        ({"stageName": ""}, NO_NAME),
        (
            {"stageName": "non-existing"},
            f"{INVALID}Stage non-existing must already be created before making a canary release deployment",
        ),
    ],
)
def test_a_canary_needs_a_stage(client: Client, named: dict[str, str], message: str) -> None:
    made: Callable[..., Any] = client.create_deployment
    answer = refused(made, restApiId=client.api, **named, canarySettings={"percentTraffic": 50})
    assert answer == (400, "BadRequestException", message)
    assert client.get_deployments(restApiId=client.api)["items"] == []


def test_a_canary_needs_a_deployment_that_is_there(client: Client) -> None:
    first = client.deploy(stageName="dev")
    named = {"restApiId": client.api, "stageName": "dev"}
    unknown = (400, "BadRequestException", "Deployment id does not exist")
    assert (
        refused(client.patch, "update_stage", ("replace", "/canarySettings/deploymentId", "none"), **named) == unknown
    )
    made: Callable[..., Any] = client.create_stage
    body = {"deploymentId": first, "canarySettings": {"deploymentId": "none"}}
    assert refused(made, restApiId=client.api, stageName="dev3", **body) == unknown


def test_a_deployment_of_a_canary_is_not_deleted(client: Client) -> None:
    client.deploy(stageName="dev")
    second = client.deploy(stageName="dev", canarySettings={"percentTraffic": 10.0})
    answer = refused(client.delete_deployment, restApiId=client.api, deploymentId=second)
    message = "Active stages with canary settings pointing to this deployment must be moved or deleted"
    assert answer == (400, "BadRequestException", message)
    client.patch("update_stage", ("remove", "/canarySettings"), restApiId=client.api, stageName="dev")
    client.delete_deployment(restApiId=client.api, deploymentId=second)


NOT_THERE = "Cannot remove method setting {} because there is no method setting for this method "
NO_PATH = "Invalid method setting path: PATH. Must be one of: " + SETTING_PATHS


@pytest.mark.parametrize(
    ("op", "path", "message"),
    [
        ("remove", "/canarySettings/stageVariableOverrides", NOT_THERE.format("canarySettings/stageVariableOverrides")),
        ("remove", "/canarySettings/badPath", NOT_THERE.format("canarySettings/badPath")),
        ("replace", "/canarySettings", NO_PATH.replace("PATH", "/canarySettings")),
        ("replace", "/canarySettings/badPath", NO_PATH.replace("PATH", "/canarySettings/badPath")),
        ("add", "/canarySettings/deploymentId", "Invalid add operation with path: /canarySettings/deploymentId"),
    ],
)
def test_a_patch_of_a_canary_is_refused_in_the_words_of_aws(client: Client, op: str, path: str, message: str) -> None:
    client.deploy(stageName="dev")
    client.deploy(stageName="dev", canarySettings={"percentTraffic": 50, "stageVariableOverrides": {"testVar": "c"}})
    answer = refused(client.patch, "update_stage", (op, path, "x"), restApiId=client.api, stageName="dev")
    assert answer == (400, "BadRequestException", message)


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("/canarySettings/stageVariableOverrides", "/variables"),
        ("/canarySettings/deploymentId", "/deploymentId"),
        ("/deploymentId", "/canarySettings/stageVariableOverrides"),
        ("/description", "/variables"),
    ],
)
def test_only_two_copies_promote(client: Client, path: str, origin: str) -> None:
    client.deploy(stageName="dev")
    client.deploy(stageName="dev", canarySettings={"percentTraffic": 50})
    copy = [{"op": "copy", "path": path, "from": origin}]
    answer = refused(client.update_stage, restApiId=client.api, stageName="dev", patchOperations=copy)
    message = (
        f"Invalid copy operation with path: {path} and from {origin}. Valid copy:path are [/deploymentId, /variables] "
        "and valid copy:from are [/canarySettings/deploymentId, /canarySettings/stageVariableOverrides]"
    )
    assert answer == (400, "BadRequestException", message)


def test_without_a_canary_nothing_is_promoted(client: Client) -> None:
    client.deploy(stageName="dev")
    copy = [{"op": "copy", "path": "/variables", "from": "/canarySettings/stageVariableOverrides"}]
    answer = refused(client.update_stage, restApiId=client.api, stageName="dev", patchOperations=copy)
    assert answer == (400, "BadRequestException", "Promotion not available. Canary does not exist.")


def test_a_share_of_the_calls_is_said_not_to_be_carried_out(client: Client) -> None:
    first = client.deploy(stageName="dev")
    named = {"restApiId": client.api, "stageName": "dev"}
    settings = {"percentTraffic": 12.5}
    made = client.create_deployment(**named, canarySettings=settings)
    warning = f"percentTraffic 12.5 is stored and not carried out: all calls go to {first}"
    assert made["ResponseMetadata"]["HTTPHeaders"]["x-authz-warning"] == warning
    patched = client.patch("update_stage", ("replace", "/canarySettings/percentTraffic", "0"), **named)
    assert "x-authz-warning" not in patched["ResponseMetadata"]["HTTPHeaders"]

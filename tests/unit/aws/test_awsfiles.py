"""The aws cli's output is recognised by its members, and a warning names each value that cannot be kept."""

from __future__ import annotations

from typing import Any

import pytest

from authz.aws.awsfiles import Wanted, owner_of, presentable, read, recognised, written
from authz.aws.convert import to_resources
from authz.core.resources import GatewayResponse, Method, MethodSetting, digest
from authz.core.stored import RestApi, StoredKey, StoredPlan, StoredStage
from tests.support.builders import value_of

DAY = "2024-05-01T00:00:00+00:00"
API = {"id": "a1b2c3", "name": "Pets", "createdDate": DAY, "apiKeySource": "HEADER", "endpointConfiguration": {}}
ROOT = {"id": "r0", "path": "/"}
PETS = {
    "id": "r1",
    "parentId": "r0",
    "pathPart": "pets",
    "path": "/pets",
    "resourceMethods": {
        "GET": {
            "httpMethod": "GET",
            "apiKeyRequired": True,
            "authorizationType": "NONE",
            "methodIntegration": {"type": "MOCK"},
        }
    },
}
STAGE = {
    "deploymentId": "d1",
    "stageName": "prod",
    "cacheClusterEnabled": False,
    "cacheClusterStatus": "NOT_AVAILABLE",
    "methodSettings": {"*/*": {"metricsEnabled": False, "throttlingRateLimit": 5.0, "throttlingBurstLimit": 9}},
    "tracingEnabled": False,
    "createdDate": DAY,
    "lastUpdatedDate": DAY,
}
PLAN = {
    "id": "p1",
    "name": "Silver",
    "apiStages": [{"apiId": "a1b2c3", "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 1.0, "burstLimit": 2}}}],
    "throttle": {"burstLimit": 100, "rateLimit": 50.0},
    "quota": {"limit": 5000, "offset": 0, "period": "MONTH"},
}
KEY = {"id": "k1", "value": value_of("k1"), "name": "K", "enabled": True, "createdDate": DAY, "stageKeys": []}
PLAN_KEY = {"id": "k1", "type": "API_KEY", "value": value_of("k1"), "name": "K"}


def printed(**changes: Any) -> dict[str, Any]:
    """The documents of one small account, by file name."""
    rows = {
        "account": {"throttleSettings": {"burstLimit": 5000, "rateLimit": 10000.0}, "features": ["UsagePlans"]},
        "apis": {"items": [API]},
        "resources": {"items": [ROOT, PETS]},
        "stages": {"item": [STAGE]},
        "plans": {"items": [PLAN]},
        "keys": {"items": [KEY]},
        "plan-keys-p1": {"items": [PLAN_KEY]},
    } | changes
    return {f"{name}.json": document for name, document in rows.items()}


def wanted(**changes: Any) -> Wanted:
    return read(printed(**changes), 7, bytes.hex)


def test_what_the_cli_printed_compiles_to_what_aws_served() -> None:
    found = wanted()
    assert found.warnings == []
    resources, _ = to_resources(found.items)
    (api,) = resources.apis
    (stage,) = api.stages
    assert stage.deployment is not None
    assert stage.deployment.resources == {"/pets": {"GET": Method()}}
    assert stage.method_settings == {"*/*": MethodSetting(5.0, 9)}
    assert found.members == {"p1": ("k1",)}
    key, plan = found.items["apikey", "k1"], found.items["usageplan", "p1"]
    assert isinstance(key, StoredKey)
    assert (key.index, key.created_date) == (digest(value_of("k1")).hex(), 1714521600)
    assert isinstance(plan, StoredPlan)
    assert plan.plan.quota is not None


def test_a_method_is_stored_as_given() -> None:
    api = wanted().items["restapi", "a1b2c3"]
    assert isinstance(api, RestApi)
    assert api.root_resource_id == "r0"
    assert api.resources["r1"].methods["GET"].method_integration == {"type": "MOCK"}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (API, "rest-apis"),
        (ROOT, "resources"),
        (STAGE, "stages"),
        (PLAN, "usage-plans"),
        ({"id": "p", "name": "bare", "apiStages": []}, "usage-plans"),
        ({"id": "p", "name": "anything's"}, None),
        (KEY, "api-keys"),
        (PLAN_KEY, "usage-plan-keys"),
        ({"responseType": "THROTTLED"}, "gateway-responses"),
        ({"id": "d1", "createdDate": DAY}, None),
        ({"domainName": "x.org"}, None),
        ("text", None),
    ],
)
def test_a_row_is_recognised_by_its_members(row: Any, kind: str | None) -> None:
    assert recognised(row) == kind


@pytest.mark.parametrize(
    ("name", "owners", "owner"),
    [
        ("stages-a1.json", ["a1", "b1"], "a1"),
        ("b1/get-stages.json", ["a1", "b1"], "b1"),
        ("stages-xa1.json", ["a1", "b1"], None),
        ("keys-gold-plus.json", ["plus", "gold-plus"], "gold-plus"),
        ("stages.json", ["a1"], "a1"),
        ("stages.json", ["a1", "b1"], None),
    ],
)
def test_a_documents_name_tells_whose_it_is(name: str, owners: list[str], owner: str | None) -> None:
    assert owner_of(name, owners) == owner


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"more": {"vpcLinks": 1}}, "more.json: not placed: expected what an `aws apigateway get-…` command prints"),
        (
            {"links": {"items": [{"targetArns": []}]}},
            "links.json: item 0 is not placed: none of keys, plans, plan keys, APIs, stages, resources",
        ),
        (
            {"apis": {"items": [API, {**API, "id": "b"}]}},
            "stages.json: not placed: put the id that the stages are of into its name: stages-ID.json",
        ),
        ({"keys": {"items": [KEY], "NextToken": "x"}}, "keys.json: only a part of the list"),
        ({"resources": {}}, "restapi a1b2c3: without get-resources it is one method"),
        (
            {"resources": {"items": [ROOT, {**PETS, "resourceMethods": {"GET": {}}}]}},
            "restapi a1b2c3: the methods are missing: print them with get-resources --embed methods",
        ),
        ({"keys": {"items": [{**KEY, "value": "short"}]}}, "apikey k1: not kept: its value: expected 20 to 128"),
        (
            {"plans": {"items": [{**PLAN, "throttle": {"rateLimit": 1e-9}}]}},
            "usageplan p1: the throttle is not kept: expected 0 or a rate of at least",
        ),
        ({"plans": {"items": [{**PLAN, "apiStages": ["what"]}]}}, "plans.json: p1: not kept: not of the shape"),
        (
            {"stages": {"item": [{**STAGE, "methodSettings": {"nonsense": {}}}]}},
            "stage a1b2c3/prod: nonsense: not kept: Invalid method",
        ),
        (
            {"resources": {"items": [ROOT, {**PETS, "path": "/a//b"}]}},
            "restapi a1b2c3: not kept: ",
        ),
        (
            {"responses": {"items": [{"responseType": "THROTTLED", "statusCode": "204"}]}},
            "restapi a1b2c3: gateway response THROTTLED: the status 204 is not kept",
        ),
    ],
)
def test_dropped_fields_are_named(changes: dict[str, Any], warning: str) -> None:
    found = wanted(**changes)
    assert any(text.startswith(warning) for text in found.warnings), found.warnings


def test_a_warning_never_repeats_a_value() -> None:
    found = wanted(keys={"items": [{**KEY, "enabled": value_of("k1")}, {**KEY, "id": "k2", "value": "x" * 200}]})
    assert len(found.warnings) == 2
    assert value_of("k1") not in "".join(found.warnings)
    assert "x" * 20 not in "".join(found.warnings)


def test_a_gateway_response_keeps_what_a_client_can_be_sent() -> None:
    given = GatewayResponse(
        "304",
        {"gatewayresponse.header.a": "'x'", "gatewayresponse.header.b": "context.nothingLikeIt"},
        {"application/json": "{}", "text/plain": "$context.nothingLikeIt"},
    )
    kept, lost = presentable(given)
    assert kept == GatewayResponse(None, {"gatewayresponse.header.a": "'x'"}, {"application/json": "{}"})
    assert len(lost) == 3


def test_the_sources_of_a_key_are_carried() -> None:
    row = {**KEY, "allowedSources": ["203.0.113.0/24", "2001:db8::7"]}
    key = wanted(keys={"items": [row]}).items["apikey", "k1"]
    assert isinstance(key, StoredKey)
    assert key.key.allowed_sources == ("203.0.113.0/24", "2001:db8::7")
    [again] = written({("apikey", "k1"): key}, {"k1": {}})["get-api-keys.json"]["items"]
    assert [*again["allowedSources"]] == row["allowedSources"]


@pytest.mark.parametrize("ranges", [[], ["10.1.2.3/8"], ["10.0.0.1", "x"], ["10.0.0.1"] * 101])
def test_a_key_with_sources_that_cannot_be_kept_is_left_out(ranges: list[str]) -> None:
    """Without them it would work from everywhere."""
    found = wanted(keys={"items": [{**KEY, "allowedSources": ranges}]})
    assert ("apikey", "k1") not in found.items
    assert any(text.startswith("apikey k1: not kept: allowedSources") for text in found.warnings)


def test_a_key_without_its_value_has_no_index() -> None:
    row = {name: value for name, value in KEY.items() if name != "value"}
    key = wanted(keys={"items": [row]}).items["apikey", "k1"]
    assert isinstance(key, StoredKey)
    assert key.index == ""


def test_a_stage_of_an_api_that_is_not_there_has_no_owner() -> None:
    found = wanted(apis={"items": []})
    assert not [item for item in found.items.values() if isinstance(item, StoredStage)]

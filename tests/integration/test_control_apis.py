"""The members of an API and the patches of APIs and stages through boto3, as recorded of AWS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.test_control_restapis import Client, bare, refused
from tests.support.control import Control, raw
from tests.support.control import control as control

BAD = "BadRequestException"


@pytest.fixture
def client(control: Control) -> Client:
    return Client(control)


# --- tags ---------------------------------------------------------------------------------------------------------


def test_an_api_without_tags_shows_none_where_it_is_made_and_an_empty_map_by_itself(client: Client) -> None:
    named = {"restApiId": client.api}
    assert "tags" not in client.create_rest_api(name="bare")
    assert all("tags" not in api for api in client.get_rest_apis()["items"])
    assert client.get_rest_api(**named)["tags"] == {}
    assert client.patch("update_rest_api", ("replace", "/name", "n"), **named)["tags"] == {}
    document = b'{"openapi": "3.0.1", "info": {"title": "t"}, "paths": {}}'
    assert client.put_rest_api(**named, body=document)["tags"] == {}
    assert "tags" not in client.import_rest_api(body=document)
    arn = f"arn:aws:apigateway:eu-central-1::/restapis/{client.api}"
    client.tag_resource(resourceArn=arn, tags={"k": "v"})
    assert client.get_rest_api(**named)["tags"] == {"k": "v"}
    client.untag_resource(resourceArn=arn, tagKeys=["k"])
    assert client.get_rest_api(**named)["tags"] == {}


# --- endpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, {"types": ["EDGE"], "ipAddressType": "ipv4"}),
        ({"types": ["REGIONAL"]}, {"types": ["REGIONAL"], "ipAddressType": "ipv4"}),
        ({"types": ["PRIVATE"]}, {"types": ["PRIVATE"], "ipAddressType": "dualstack"}),
        ({"types": ["EDGE"], "ipAddressType": "dualstack"}, {"types": ["EDGE"], "ipAddressType": "dualstack"}),
        ({"ipAddressType": "dualstack"}, {"types": ["EDGE"], "ipAddressType": "dualstack"}),
    ],
)
def test_an_api_has_an_endpoint(client: Client, given: Any, shown: dict[str, Any]) -> None:
    named = {} if given is None else {"endpointConfiguration": given}
    assert client.create_rest_api(name="a", **named)["endpointConfiguration"] == shown


WRONG_TYPE = (
    "Value '[wrong]' at 'createRestApiInput.endpointConfiguration.types' failed to satisfy constraint: Member must "
    "satisfy constraint: [Member must satisfy enum value set: [PRIVATE, EDGE, REGIONAL]]"
)
WRONG_ADDRESS = (
    "Value 'wrong' at 'createRestApiInput.endpointConfiguration.ipAddressType' failed to satisfy constraint: Member "
    "must satisfy enum value set: [ipv4, dualstack]"
)
NO_TEXT = "Description cannot be an empty string"
PRIVATE = "Only dualstack ipAddressType is supported for Private APIs."


@pytest.mark.parametrize(
    ("endpoint", "description", "refusal"),
    [
        ({"types": []}, None, (BAD, "REGIONAL Configuration and EDGE Configuration cannot be both DISABLED.")),
        ({"types": ["EDGE", "REGIONAL"]}, None, (BAD, "Cannot create an api with multiple Endpoint Types.")),
        ({"types": ["PRIVATE"], "ipAddressType": "ipv4"}, None, (BAD, PRIVATE)),
        ({"types": ["PRIVATE"], "ipAddressType": "ipv4"}, "", (BAD, NO_TEXT)),
        ({"types": []}, "", (BAD, NO_TEXT)),
        ({"types": ["wrong"]}, None, ("ValidationException", f"1 validation error detected: {WRONG_TYPE}")),
        (
            {"types": ["wrong"], "ipAddressType": "wrong"},
            None,
            ("ValidationException", f"2 validation errors detected: {WRONG_TYPE}; {WRONG_ADDRESS}"),
        ),
        (
            {"types": ["PRIVATE"], "ipAddressType": "wrong"},
            "",
            ("ValidationException", f"1 validation error detected: {WRONG_ADDRESS}"),
        ),
    ],
)
def test_an_endpoint_that_is_none_is_refused(
    client: Client, endpoint: dict[str, Any], description: str | None, refusal: tuple[str, str]
) -> None:
    members = {} if description is None else {"description": description}
    answer = refused(client.create_rest_api, name="a", endpointConfiguration=endpoint, **members)
    assert answer == (400, *refusal)


def test_an_endpoint_is_patched(client: Client) -> None:
    named = {"restApiId": client.api}
    types = "/endpointConfiguration/types/0"
    changed = client.patch("update_rest_api", ("replace", types, "REGIONAL"), ("replace", types, "PRIVATE"), **named)
    assert changed["endpointConfiguration"] == {"types": ["PRIVATE"], "ipAddressType": "dualstack"}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (("replace", "/endpointConfiguration/ipAddressType", "ipv4"), PRIVATE),
        (
            ("replace", "/endpointConfiguration/ipAddressType", "wrong"),
            "ipAddressType must be either ipv4 or dualstack.",
        ),
        (
            ("replace", "/endpointConfiguration/types/0", "wrong"),
            "Invalid EndpointTypes specified. Valid options are REGIONAL,EDGE,PRIVATE",
        ),
        (
            ("remove", "/endpointConfiguration/ipAddressType", "dualstack"),
            "Invalid patch operation specified. Must be one of: [replace]",
        ),
        (
            ("remove", "/endpointConfiguration/types/0", "EDGE"),
            "Invalid patch operation specified. Must be 'add'|'remove'|'replace'",
        ),
        (("add", "/minimumCompressionSize", "10"), "Invalid patch operation specified. Must be one of: [replace]"),
        (("add", "/binaryMediaTypes", "image/gif"), "Invalid patch path /binaryMediaTypes"),
        (("replace", "/binaryMediaTypes", "image/gif"), "Invalid patch path /binaryMediaTypes"),
        (("remove", "/binaryMediaTypes", "image/gif"), "Invalid patch path /binaryMediaTypes"),
        (("remove", "/name"), "Invalid patch operation specified. Must be one of: [replace]"),
    ],
)
def test_a_patch_of_an_api_is_refused_in_the_words_of_aws(
    client: Client, operation: tuple[str, ...], message: str
) -> None:
    api = client.create_rest_api(name="private", endpointConfiguration={"types": ["PRIVATE"]})["id"]
    assert refused(client.patch, "update_rest_api", operation, restApiId=api) == (400, BAD, message)


# --- texts that tools send empty ----------------------------------------------------------------------------------


def test_a_description_goes_by_removal_or_by_an_empty_text(client: Client) -> None:
    for gone in (("remove", "/description"), ("replace", "/description", "")):
        api = client.create_rest_api(name="a", description="d")["id"]
        assert "description" not in client.patch("update_rest_api", gone, restApiId=api)


def test_a_deployment_with_empty_members_makes_no_stage(client: Client) -> None:
    """What Terraform's provider sends up to 5.x for a deployment that names no stage."""
    client.method(client.resource())
    body = {"stageName": "", "stageDescription": "", "description": "", "variables": {}}
    made = raw(client.control, "POST", f"/restapis/{client.api}/deployments", body)
    assert (made.status, sorted(made.json())) == (201, ["createdDate", "id"])
    assert client.get_stages(restApiId=client.api)["item"] == []


def test_a_deployment_with_empty_members_keeps_those_of_the_stage(client: Client) -> None:
    client.method(client.resource())
    client.deploy(stageName="prod", stageDescription="d", variables={"a": "1"}, cacheClusterSize="0.5")
    body = {"stageName": "prod", "stageDescription": "", "description": "", "variables": {}, "cacheClusterSize": ""}
    made = raw(client.control, "POST", f"/restapis/{client.api}/deployments", body).json()
    stage = client.get_stage(restApiId=client.api, stageName="prod")
    shown = [stage[name] for name in ("deploymentId", "description", "variables", "cacheClusterSize")]
    assert shown == [made["id"], "d", {"a": "1"}, "0.5"]


def test_a_stage_with_empty_members_is_bare(client: Client) -> None:
    client.method(client.resource())
    body = {
        "stageName": "prod",
        "deploymentId": client.deploy(),
        **dict.fromkeys(("description", "documentationVersion", "cacheClusterSize"), ""),
        "variables": {},
        "tags": {},
    }
    made = raw(client.control, "POST", f"/restapis/{client.api}/stages", body).json()
    names = {"cacheClusterEnabled", "cacheClusterStatus", "createdDate", "deploymentId", "lastUpdatedDate"}
    assert made.keys() == names | {"methodSettings", "stageName", "tracingEnabled"}


@pytest.mark.parametrize("path", ["/description", "/clientCertificateId", "/documentationVersion", "/webAclArn"])
def test_a_member_of_a_stage_goes_by_an_empty_text(client: Client, path: str) -> None:
    stage = client.stage()
    assert client.patch("update_stage", ("replace", path, "x"), **stage)[path[1:]] == "x"
    assert path[1:] not in client.patch("update_stage", ("replace", path, ""), **stage)


# --- other members ------------------------------------------------------------------------------------------------


def test_the_security_policy_of_an_api_is_kept(client: Client) -> None:
    members = {"securityPolicy": "TLS_1_2", "endpointAccessMode": "STRICT"}
    made = client.create_rest_api(name="a", **members)
    assert {name: made[name] for name in members} == members
    patch = (("replace", "/securityPolicy", "TLS_1_0"), ("replace", "/endpointAccessMode", "BASIC"))
    client.patch("update_rest_api", *patch, restApiId=made["id"])
    read = client.get_rest_api(restApiId=made["id"])
    assert (read["securityPolicy"], read["endpointAccessMode"]) == ("TLS_1_0", "BASIC")
    wrong = ("replace", "/endpointAccessMode", "OPEN")
    assert refused(client.patch, "update_rest_api", wrong, restApiId=made["id"])[:2] == (400, BAD)


@pytest.mark.parametrize("name", ["prod-eu", "-", "a-b_c-1", "1", "x" * 128])
def test_a_stage_has_a_name(client: Client, name: str) -> None:
    client.method(client.resource())
    deployment = client.deploy(stageName=name)
    assert client.get_stage(restApiId=client.api, stageName=name)["deploymentId"] == deployment
    patch = ("replace", "/pets/GET/throttling/rateLimit", "1")
    assert client.patch("update_stage", patch, restApiId=client.api, stageName=name)["stageName"] == name
    plan = client.create_usage_plan(name="p", apiStages=[{"apiId": client.api, "stage": name}])
    assert plan["apiStages"] == [{"apiId": client.api, "stage": name}]


@pytest.mark.parametrize("name", ["a.b", "a b", "ä", "a/b", "x" * 129])
def test_a_name_that_is_none_is_refused(client: Client, name: str) -> None:
    client.method(client.resource())
    expected = (400, BAD, "Stage name only allows a-zA-Z0-9_-")
    assert refused(client.create_deployment, restApiId=client.api, stageName=name) == expected
    assert refused(client.create_stage, restApiId=client.api, stageName=name, deploymentId="x") == expected


# --- access logs of a stage ---------------------------------------------------------------------------------------

ARN = "arn:aws:logs:eu-central-1:000000000000:log-group:a"
NO_SUCH = (
    "Invalid accessLogSettings path. Must be one of : [/accessLogSettings/destinationArn, /accessLogSettings/format]"
)


def test_access_logs_are_added_as_they_are_replaced(client: Client) -> None:
    stage = client.stage()
    at = "/accessLogSettings"
    for op, path, value, shown in (
        ("add", f"{at}/destinationArn", ARN, {"destinationArn": ARN}),
        ("replace", f"{at}/destinationArn", f"{ARN}a", {"destinationArn": f"{ARN}a"}),
        ("add", f"{at}/format", "$context.requestId", {"destinationArn": f"{ARN}a", "format": "$context.requestId"}),
    ):
        assert client.patch("update_stage", (op, path, value), **stage)["accessLogSettings"] == shown
    assert "accessLogSettings" not in client.patch("update_stage", ("remove", at), **stage)


def no_setting(path: str) -> str:
    return f"Cannot remove method setting {path} because there is no method setting for this method "


@pytest.mark.parametrize(
    ("op", "path", "value", "message"),
    [
        ("add", "/accessLogSettings/randomValue", "x", NO_SUCH),
        ("replace", "/accessLogSettings/randomValue", "x", NO_SUCH),
        ("remove", "/accessLogSettings/randomValue", "x", no_setting("accessLogSettings/randomValue")),
        ("add", "/accessLogSettings/*", "x", NO_SUCH),
        ("replace", "/accessLogSettings/*", "x", NO_SUCH),
        ("remove", "/accessLogSettings/*", "x", no_setting("accessLogSettings/*")),
        ("add", "/accessLogSettings", "x", NO_SUCH),
        ("replace", "/accessLogSettings", "x", NO_SUCH),
        ("replace", "/accessLogSettings/destinationArn", "", "Access Log value must not be empty"),
        ("replace", "/accessLogSettings/format", "", "Access Log value must not be empty"),
        ("remove", "/accessLogSettings/destinationArn", "", no_setting("accessLogSettings/destinationArn")),
    ],
)
def test_a_patch_of_access_logs_is_refused_in_the_words_of_aws(
    client: Client, op: str, path: str, value: str, message: str
) -> None:
    stage = client.stage()
    client.patch("update_stage", ("add", "/accessLogSettings/destinationArn", ARN), **stage)
    assert refused(client.patch, "update_stage", (op, path, value), **stage) == (400, BAD, message)


# --- resources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (("replace", "/pathPart", "a"), "Root resource cannot update its pathPart."),
        (("replace", "/parentId", "a"), "Root resource cannot update its parentId."),
        (
            ("remove", "/pathPart"),
            "Invalid patch path  '/pathPart' specified for op 'remove'. Please choose supported operations",
        ),
        (
            ("add", "/pathPart", "a"),
            "Invalid patch path  '/pathPart' specified for op 'add'. Please choose supported operations",
        ),
    ],
)
def test_a_patch_of_the_root_is_refused_in_the_words_of_aws(
    client: Client, operation: tuple[str, ...], message: str
) -> None:
    named = {"restApiId": client.api, "resourceId": client.root}
    assert refused(client.patch, "update_resource", operation, **named) == (400, BAD, message)


def test_a_resource_does_not_become_its_own_child(client: Client) -> None:
    pets = client.resource()
    child = client.resource("{id}", pets)
    named = {"restApiId": client.api, "resourceId": pets}
    answer = refused(client.patch, "update_resource", ("replace", "/parentId", child), **named)
    assert answer == (400, BAD, "Resources cannot be cyclical.")
    assert bare(client.get_resource(**named))["path"] == "/pets"

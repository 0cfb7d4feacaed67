"""APIs, resources, methods, deployments, stages and gateway responses through boto3."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from authz.control.call import Context
from authz.core.stored import RestApi, StoredDeployment, StoredResource
from tests.support.control import Control, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

SETTING_PATHS = (
    "[/deploymentId, /description, /cacheClusterEnabled, /cacheClusterSize, /clientCertificateId, /accessLogSettings, "
    "/accessLogSettings/destinationArn, /accessLogSettings/format, /{resourcePath}/{httpMethod}/metrics/enabled, "
    "/{resourcePath}/{httpMethod}/logging/dataTrace, /{resourcePath}/{httpMethod}/logging/loglevel, "
    "/{resourcePath}/{httpMethod}/throttling/burstLimit/{resourcePath}/{httpMethod}/throttling/rateLimit"
    "/{resourcePath}/{httpMethod}/caching/ttlInSeconds, /{resourcePath}/{httpMethod}/caching/enabled, "
    "/{resourcePath}/{httpMethod}/caching/dataEncrypted, "
    "/{resourcePath}/{httpMethod}/caching/requireAuthorizationForCacheControl, "
    "/{resourcePath}/{httpMethod}/caching/unauthorizedCacheControlHeaderStrategy, /*/*/metrics/enabled, "
    "/*/*/logging/dataTrace, /*/*/logging/loglevel, /*/*/throttling/burstLimit /*/*/throttling/rateLimit "
    "/*/*/caching/ttlInSeconds, /*/*/caching/enabled, /*/*/caching/dataEncrypted, "
    "/*/*/caching/requireAuthorizationForCacheControl, /*/*/caching/unauthorizedCacheControlHeaderStrategy, "
    "/variables/{variable_name}, /tracingEnabled]"
)
DEFAULTS = {
    "cacheDataEncrypted": False,
    "cacheTtlInSeconds": 300,
    "cachingEnabled": False,
    "dataTraceEnabled": False,
    "metricsEnabled": False,
    "requireAuthorizationForCacheControl": True,
    "throttlingBurstLimit": 5000,
    "throttlingRateLimit": 10000.0,
    "unauthorizedCacheControlHeaderStrategy": "SUCCEED_WITH_RESPONSE_HEADER",
}


class Client:
    """boto3's client, and an API with one method to try it on."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.boto = boto(control)
        made = self.boto.create_rest_api(name="pets")
        self.api, self.root = made["id"], made["rootResourceId"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.boto, name)

    def resource(self, part: str = "pets", parent: str | None = None) -> str:
        made = self.create_resource(restApiId=self.api, parentId=parent or self.root, pathPart=part)
        return str(made["id"])

    def method(self, resource: str, verb: str = "GET", *, key: bool = True, integration: bool = True) -> dict[str, str]:
        """A method of a resource, as the arguments that name it."""
        named = {"restApiId": self.api, "resourceId": resource, "httpMethod": verb}
        self.put_method(**named, authorizationType="NONE", apiKeyRequired=key)
        if integration:
            self.put_integration(**named, type="MOCK")
        return named

    def deploy(self, **members: Any) -> str:
        return str(self.create_deployment(restApiId=self.api, **members)["id"])

    def stage(self) -> dict[str, str]:
        """A deployed stage, as the arguments that name it."""
        self.method(self.resource())
        self.deploy(stageName="prod")
        return {"restApiId": self.api, "stageName": "prod"}

    def patch(self, operation: str, *operations: tuple[str, ...], **named: str) -> Any:
        """An update operation with patches written as (op, path, value)."""
        patches = [dict(zip(("op", "path", "value"), one, strict=False)) for one in operations]
        return getattr(self, operation)(**named, patchOperations=patches)


@pytest.fixture
def client(control: Control) -> Client:
    return Client(control)


def refused(work: Any, *args: Any, **kwargs: Any) -> tuple[int, str, str]:
    """The status, code and message with which a call is refused."""
    with pytest.raises(ClientError) as fault:
        work(*args, **kwargs)
    answer: Any = fault.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


# --- APIs ---------------------------------------------------------------------------------------------------------


def test_an_api_comes_back_as_it_was_made(client: Client) -> None:
    made = client.create_rest_api(
        name="a", description="d", version="1", binaryMediaTypes=["image/png"], tags={"k": "v"}
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert len(made["id"]) == 10
    assert made["apiKeySource"] == "HEADER"
    assert made["endpointConfiguration"] == {"types": ["EDGE"], "ipAddressType": "ipv4"}
    assert made["disableExecuteApiEndpoint"] is False
    assert bare(client.get_rest_api(restApiId=made["id"])) == bare(made)
    assert [one["id"] for one in client.get_rest_apis()["items"]] == [made["id"], client.api]
    root = client.get_resources(restApiId=made["id"])["items"]
    assert root == [{"id": made["rootResourceId"], "path": "/"}]


def test_an_unknown_api_is_named_with_its_account(client: Client) -> None:
    expected = (404, "NotFoundException", f"Invalid API identifier specified {client.control.account}:none")
    for work in (client.get_rest_api, client.delete_rest_api, client.get_stages, client.get_gateway_responses):
        assert refused(work, restApiId="none") == expected


def test_an_api_is_refused_in_awss_words(client: Client) -> None:
    assert refused(client.create_rest_api, name="a", description="")[2] == "Description cannot be an empty string"
    message = (
        "1 validation error detected: Value 'X' at 'createRestApiInput.apiKeySource' failed to satisfy constraint: "
        "Member must satisfy enum value set: [AUTHORIZER, HEADER]"
    )
    assert refused(client.create_rest_api, name="a", apiKeySource="X") == (400, "ValidationException", message)


def test_the_source_of_keys_is_patched(client: Client) -> None:
    named = {"restApiId": client.api}
    changed = client.patch("update_rest_api", ("replace", "/apiKeySource", "AUTHORIZER"), **named)
    assert changed["apiKeySource"] == "AUTHORIZER"
    assert refused(client.patch, "update_rest_api", ("replace", "/apiKeySource", "X"), **named)[0] == 400
    assert client.get_rest_api(**named)["apiKeySource"] == "AUTHORIZER"


def test_an_api_is_patched_member_by_member_or_not_at_all(client: Client) -> None:
    named = {"restApiId": client.api}
    changed = client.patch(
        "update_rest_api",
        ("replace", "/name", "n"),
        ("replace", "/disableExecuteApiEndpoint", "true"),
        ("replace", "/endpointConfiguration/types/EDGE", "REGIONAL"),
        ("replace", "/minimumCompressionSize", "10"),
        ("add", "/binaryMediaTypes/image~1png"),
        ("add", "/binaryMediaTypes/image~1gif"),
        ("remove", "/binaryMediaTypes/image~1png"),
        **named,
    )
    assert changed["name"] == "n"
    assert changed["disableExecuteApiEndpoint"] is True
    assert changed["endpointConfiguration"]["types"] == ["REGIONAL"]
    assert changed["minimumCompressionSize"] == 10
    assert changed["binaryMediaTypes"] == ["image/gif"]
    address = "/endpointConfiguration/ipAddressType"
    changed = client.patch("update_rest_api", ("replace", address, "dualstack"), **named)
    assert changed["endpointConfiguration"] == {"types": ["REGIONAL"], "ipAddressType": "dualstack"}
    assert refused(client.patch, "update_rest_api", ("replace", address, "ipv5"), **named)[0] == 400
    failing = (("replace", "/name", "other"), ("replace", "/xyz", "1"))
    assert refused(client.patch, "update_rest_api", *failing, **named)[2] == "Invalid patch path /xyz"
    assert client.get_rest_api(**named)["name"] == "n"


def test_a_policy_comes_back_as_terraform_unquotes_it(client: Client) -> None:
    policy = '{"Version":"2012-10-17"}'
    made = client.create_rest_api(name="a", policy=policy)
    assert json.loads(f'"{made["policy"]}"') == policy


def test_an_api_of_the_file_is_seen_and_not_changed(shared_redis: RedisServer, account: str) -> None:
    root = StoredResource("root", "/")
    item = RestApi("filed", "of the file", 0, root.id, resources={root.id: root})
    with running(shared_redis.url, account, fixed=lambda: {("restapi", item.id): item}) as plane:
        client = Client(plane)
        assert [one["id"] for one in client.get_rest_apis()["items"]] == [client.api, "filed"]
        for work in (client.resource, client.method):
            client.api, client.root = "filed", "root"
            assert refused(work, "root")[:2] == (409, "ConflictException")
        assert refused(client.delete_rest_api, restApiId="filed")[:2] == (409, "ConflictException")


# --- resources and methods ----------------------------------------------------------------------------------------


def test_resources_form_a_tree(client: Client) -> None:
    pets = client.resource("pets")
    pet = client.create_resource(restApiId=client.api, parentId=pets, pathPart="{id}")
    assert bare(pet) == {"id": pet["id"], "parentId": pets, "pathPart": "{id}", "path": "/pets/{id}"}
    client.method(pet["id"])
    shown = client.get_resource(restApiId=client.api, resourceId=pet["id"], embed=["methods"])
    assert shown["resourceMethods"]["GET"]["apiKeyRequired"] is True
    moved = client.patch("update_resource", ("replace", "/pathPart", "animals"), restApiId=client.api, resourceId=pets)
    assert moved["path"] == "/animals"
    pages = [page["items"] for page in client.get_paginator("get_resources").paginate(restApiId=client.api)]
    assert [one["path"] for page in pages for one in page] == ["/", "/animals", "/animals/{id}"]
    first = client.get_resources(restApiId=client.api, limit=2)
    rest = client.get_resources(restApiId=client.api, limit=2, position=first["position"])
    assert [one["path"] for one in rest["items"]] == ["/animals/{id}"]
    assert "position" not in rest
    client.delete_resource(restApiId=client.api, resourceId=pets)
    assert [one["path"] for one in client.get_resources(restApiId=client.api)["items"]] == ["/"]


def test_a_resource_is_refused_in_awss_words(client: Client) -> None:
    greedy = client.resource("{proxy+}")
    client.resource("pets")

    def told(part: str, parent: str | None = None) -> tuple[int, str, str]:
        return refused(client.resource, part, parent)

    assert told("x", "none") == (404, "NotFoundException", "Invalid Resource identifier specified")
    same = "Another resource with the same parent already has this name: pets"
    assert told("pets") == (409, "ConflictException", same)
    assert told("{id}")[2] == (
        "A sibling ({proxy+}) of this resource already has a variable path part -- only one is allowed"
    )
    assert told("x", greedy)[2] == "Cannot create a child of a resource with a greedy path variable: {proxy+}"
    assert told("a/b")[2].startswith("Resource's path part only allow a-zA-Z0-9._-: or a valid greedy path variable")


def test_a_method_requires_a_key(client: Client) -> None:
    named = {"restApiId": client.api, "resourceId": client.root, "httpMethod": "GET"}
    made = client.put_method(**named, authorizationType="NONE", apiKeyRequired=True)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert bare(made) == {"httpMethod": "GET", "authorizationType": "NONE", "apiKeyRequired": True}
    assert bare(client.get_method(**named)) == bare(made)
    assert client.delete_method(**named)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(client.get_method, **named) == (404, "NotFoundException", "Invalid Method identifier specified")


def test_a_patched_method_leaves_the_deployment_as_it_is(client: Client) -> None:
    """The key is required from the next deployment on."""
    named = client.method(client.resource(), key=False)
    first = client.deploy(stageName="prod")
    assert client.patch("update_method", ("replace", "/apiKeyRequired", "true"), **named)["apiKeyRequired"] is True
    second = client.deploy()

    def required(deployment: str) -> bool:
        shown = client.get_deployment(restApiId=client.api, deploymentId=deployment, embed=["apisummary"])
        return bool(shown["apiSummary"]["/pets"]["GET"]["apiKeyRequired"])

    assert not required(first)
    assert required(second)
    assert client.get_stage(restApiId=client.api, stageName="prod")["deploymentId"] == first
    assert client.patch("update_method", ("replace", "/apiKeyRequired", "whatever"), **named)["apiKeyRequired"] is False


def test_a_method_is_refused_in_awss_words(client: Client) -> None:
    named = client.method(client.root)
    assert refused(client.put_method, **{**named, "httpMethod": "GOT"}, authorizationType="NONE")[2] == (
        "Invalid HttpMethod specified. Valid options are GET,PUT,POST,DELETE,PATCH,OPTIONS,HEAD,ANY"
    )
    unknown = (404, "NotFoundException", "Invalid Resource identifier specified")
    assert refused(client.get_method, **{**named, "restApiId": "none"}) == unknown
    assert refused(client.get_method, **{**named, "resourceId": "none"}) == unknown
    bad = refused(client.patch, "update_method", ("replace", "/httpMethod", "PUT"), **named)
    assert bad == (400, "BadRequestException", "Invalid patch path /httpMethod")
    bad = refused(client.patch, "update_method", ("add", "/apiKeyRequired", "true"), **named)
    assert bad[2] == "Invalid patch operation specified. Must be one of: [replace]"


def test_integrations_and_responses_are_kept_as_given(client: Client) -> None:
    named = client.method(client.root, integration=False)
    made = client.put_integration(
        **named, type="HTTP_PROXY", integrationHttpMethod="GET", uri="http://up", requestParameters={"a": "'b'"}
    )
    assert (made["httpMethod"], made["uri"], made["timeoutInMillis"]) == ("GET", "http://up", 29000)
    response = client.put_method_response(
        **named, statusCode="200", responseParameters={"method.response.header.X": True}
    )
    assert response["statusCode"] == "200"
    client.put_integration_response(**named, statusCode="200", selectionPattern="2..")
    changed = client.patch(
        "update_integration_response", ("replace", "/selectionPattern", ""), statusCode="200", **named
    )
    assert changed["selectionPattern"] == ""
    assert client.patch("update_integration", ("replace", "/uri", "http://b"), **named)["uri"] == "http://b"
    whole = client.get_method(**named)
    assert whole["methodResponses"]["200"]["responseParameters"] == {"method.response.header.X": True}
    assert list(whole["methodIntegration"]["integrationResponses"]) == ["200"]
    client.delete_integration_response(**named, statusCode="200")
    client.delete_method_response(**named, statusCode="200")
    client.delete_integration(**named)
    assert refused(client.get_integration, **named)[:2] == (404, "NotFoundException")
    wrong = refused(client.put_method_response, **named, statusCode="wrong")
    assert wrong[2] == (
        "1 validation error detected: Value 'wrong' at 'statusCode' failed to satisfy constraint: "
        r"Member must satisfy regular expression pattern: [1-5]\d\d"
    )


def test_an_integration_is_filled_in_as_aws_does(client: Client) -> None:
    named = client.method(client.root, integration=False)
    http = client.put_integration(**named, type="HTTP", integrationHttpMethod="GET", uri="http://up")
    assert bare(http) == {
        "type": "HTTP",
        "httpMethod": "GET",
        "uri": "http://up",
        "connectionType": "INTERNET",
        "passthroughBehavior": "WHEN_NO_MATCH",
        "timeoutInMillis": 29000,
        "cacheNamespace": client.root,
        "cacheKeyParameters": [],
    }
    mock = client.put_integration(
        **named,
        type="MOCK",
        passthroughBehavior="when_no_templates",
        responseTransferMode="STREAM",
        integrationTarget="a",
    )
    assert "connectionType" not in mock
    assert (mock["passthroughBehavior"], mock["responseTransferMode"]) == ("WHEN_NO_TEMPLATES", "STREAM")
    assert bare(client.get_integration(**named)) == bare(mock)


@pytest.mark.parametrize(
    ("member", "value"),
    [("passthroughBehavior", "SOMETIMES"), ("requestParameters", {"integration.request.path.a": "true"})],
)
def test_an_integration_is_refused_in_awss_words(client: Client, member: str, value: Any) -> None:
    named = client.method(client.root, integration=False)
    assert refused(client.put_integration, **named, type="MOCK", **{member: value})[:2] == (400, "BadRequestException")


def test_keys_of_the_cache_and_scopes_are_added_and_removed(client: Client) -> None:
    named = client.method(client.root)
    path = "/cacheKeyParameters/method.request.querystring.a"
    added = client.patch("update_integration", ("add", path), **named)
    assert added["cacheKeyParameters"] == ["method.request.querystring.a"]
    assert client.patch("update_integration", ("remove", path), **named)["cacheKeyParameters"] == []
    scoped = client.patch(
        "update_method", ("add", "/authorizationScopes", "a"), ("add", "/authorizationScopes", "b"), **named
    )
    assert scoped["authorizationScopes"] == ["a", "b"]
    assert client.patch("update_method", ("remove", "/authorizationScopes", "a"), **named)["authorizationScopes"] == [
        "b"
    ]


@pytest.mark.parametrize(
    ("operation", "where", "text"),
    [
        ("update_method", "/requestParameters/method.request.header.a", "Invalid parameter name specified"),
        ("update_method", "/requestModels/a~1b", "Content-Type specified was not found"),
        ("update_method_response", "/responseParameters/method.response.header.a", "Invalid parameter name specified"),
        ("update_method_response", "/responseModels/a~1b", "Content-Type specified was not found"),
        ("update_integration", "/requestParameters/integration.request.header.a", "Invalid parameter name specified"),
        ("update_integration", "/requestTemplates/a~1b", "Content-Type specified was not found"),
        ("update_integration_response", "/responseTemplates/a~1b", "Content-Type specified was not found"),
    ],
)
def test_an_entry_that_is_not_there_is_not_removed(client: Client, operation: str, where: str, text: str) -> None:
    named = client.method(client.root)
    client.put_method_response(**named, statusCode="200")
    client.put_integration_response(**named, statusCode="200")
    status = {"statusCode": "200"} if "response" in operation else {}
    bad = refused(client.patch, operation, ("remove", where, ""), **named, **status)
    assert bad == (404, "NotFoundException", text)


def test_the_last_entry_takes_its_member_along(client: Client) -> None:
    named = {**client.method(client.root), "statusCode": "200"}
    client.put_method_response(
        **named, responseParameters={"method.response.header.a": True}, responseModels={"application/json": "Empty"}
    )
    removals = (
        ("remove", "/responseParameters/method.response.header.a"),
        ("remove", "/responseModels/application~1json"),
    )
    assert bare(client.patch("update_method_response", *removals, **named)) == {"statusCode": "200"}


def test_a_parameter_stands_in_one_place(client: Client) -> None:
    named = {"restApiId": client.api, "resourceId": client.root, "httpMethod": "GET", "authorizationType": "NONE"}
    twice = {"method.request.header.a": True, "method.request.querystring.a": False}
    bad = refused(client.put_method, **named, requestParameters=twice)
    assert bad[2] == "Parameter names must be unique across querystring, header and path"


def test_the_resource_is_looked_up_before_the_verb(client: Client) -> None:
    unknown = (404, "NotFoundException", "Invalid Resource identifier specified")
    named = {"restApiId": client.api, "resourceId": "none", "httpMethod": "GOT"}
    assert refused(client.put_method, **named, authorizationType="NONE") == unknown
    assert refused(client.get_method, **named) == unknown
    named = {**named, "resourceId": client.root}
    assert refused(client.get_method, **named)[2] == "Invalid Method identifier specified"


def test_an_authorization_type_is_taken_in_any_case_and_needs_an_authorizer(client: Client) -> None:
    named = {"restApiId": client.api, "resourceId": client.root, "httpMethod": "GET"}
    for kind in ("CUSTOM", "cognito_user_pools"):
        bad = refused(client.put_method, **named, authorizationType=kind, authorizerId="abc123")
        assert bad[:2] == (400, "BadRequestException")
        assert bad[2].startswith("Invalid authorizer ID specified.")
    assert client.put_method(**named, authorizationType="none", authorizerId="abc123")["authorizationType"] == "NONE"
    changed = client.patch("update_method", ("replace", "/authorizerId", "abc123"), **named)
    assert "authorizerId" not in changed


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_template_is_shown_as_null(client: Client, empty: str | None) -> None:
    named = client.method(client.root)
    at = f"/restapis/{client.api}/resources/{client.root}/methods/GET/integration/responses/200"
    made = raw(client.control, "PUT", at, {"responseTemplates": {"application/json": empty}})
    assert (made.status, made.json()["responseTemplates"]) == (201, {"application/json": None})
    held = client.get_integration(**named)["integrationResponses"]["200"]
    assert held["responseTemplates"] == {"application/json": None}


def test_the_kinds_of_5xx_are_shown_with_the_default_ones_values(client: Client) -> None:
    client.put_gateway_response(restApiId=client.api, responseType="DEFAULT_5XX", statusCode="599")
    found = {one["responseType"]: one for one in client.get_gateway_responses(restApiId=client.api)["items"]}
    like = ("API_CONFIGURATION_ERROR", "AUTHORIZER_FAILURE", "INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT")
    assert [(found[kind]["statusCode"], found[kind]["defaultResponse"]) for kind in like] == [("599", True)] * 4
    assert found["THROTTLED"]["statusCode"] == "429"


# --- deployments --------------------------------------------------------------------------------------------------


def test_an_api_without_methods_is_not_deployed(client: Client) -> None:
    expected = (400, "BadRequestException", "The REST API doesn't contain any methods")
    assert refused(client.deploy) == expected
    client.method(client.root, integration=False)
    assert refused(client.deploy)[2] == "No integration defined for method"


def test_a_second_deployment_points_the_stage_to_itself(client: Client) -> None:
    stage = client.stage()
    second = client.deploy(stageName="prod", variables={"a": "1"})
    shown = client.get_stage(**stage)
    assert (shown["deploymentId"], shown["variables"]) == (second, {"a": "1"})
    assert len(client.get_deployments(restApiId=client.api)["items"]) == 2
    assert len(client.get_stages(restApiId=client.api)["item"]) == 1
    assert client.get_stages(restApiId=client.api, deploymentId="none")["item"] == []


def test_a_deployment_in_use_stays(client: Client) -> None:
    stage = client.stage()
    first = client.get_stage(**stage)["deploymentId"]
    named = {"restApiId": client.api, "deploymentId": first}
    message = "Active stages pointing to this deployment must be moved or deleted"
    assert refused(client.delete_deployment, **named) == (400, "BadRequestException", message)
    second = client.deploy()
    client.patch("update_stage", ("replace", "/deploymentId", second), **stage)
    assert client.delete_deployment(**named)["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert refused(client.get_deployment, **named)[2] == "Invalid Deployment identifier specified"
    bad = refused(client.patch, "update_stage", ("replace", "/deploymentId", first), **stage)
    assert bad[2] == "Deployment id does not exist"


# --- stages -------------------------------------------------------------------------------------------------------


def test_a_stage_comes_back_as_it_was_made(client: Client) -> None:
    client.method(client.root)
    named = {"restApiId": client.api, "stageName": "dev", "deploymentId": client.deploy()}
    made = bare(client.create_stage(**named, description="d", tags={"k": "v"}))
    assert made == {
        "stageName": "dev",
        "deploymentId": named["deploymentId"],
        "createdDate": made["createdDate"],
        "lastUpdatedDate": made["lastUpdatedDate"],
        "description": "d",
        "cacheClusterEnabled": False,
        "cacheClusterStatus": "NOT_AVAILABLE",
        "methodSettings": {},
        "tracingEnabled": False,
        "tags": {"k": "v"},
    }
    assert refused(client.create_stage, **named) == (409, "ConflictException", "Stage already exists")
    bad = refused(client.create_stage, **{**named, "stageName": "a.b"})
    assert bad == (400, "BadRequestException", "Stage name only allows a-zA-Z0-9_-")
    assert refused(client.get_stage, restApiId=client.api, stageName="none")[2] == "Invalid Stage identifier specified"


def test_a_method_setting_begins_with_the_defaults(client: Client) -> None:
    shown = client.patch("update_stage", ("replace", "/*/*/throttling/burstLimit", "123"), **client.stage())
    assert shown["methodSettings"] == {"*/*": {**DEFAULTS, "throttlingBurstLimit": 123}}


def test_a_specific_setting_begins_with_the_stages_values(client: Client) -> None:
    stage = client.stage()
    client.patch("update_stage", ("replace", "/*/*/throttling/burstLimit", "123"), **stage)
    client.patch("update_stage", ("replace", "/*/*/caching/enabled", "true"), **stage)
    shown = client.patch(
        "update_stage",
        ("replace", "/test/GET/throttling/burstLimit", "124"),
        ("replace", "/*/*/throttling/rateLimit", "-1"),
        **stage,
    )
    specific = {**DEFAULTS, "cachingEnabled": True, "throttlingBurstLimit": 124}
    assert shown["methodSettings"]["test/GET"] == specific
    assert shown["methodSettings"]["*/*"]["throttlingRateLimit"] == -1


def test_a_setting_is_removed_once(client: Client) -> None:
    stage = client.stage()
    client.patch("update_stage", ("replace", "/*/*/logging/loglevel", "INFO"), **stage)
    assert client.patch("update_stage", ("remove", "/*/*"), **stage)["methodSettings"] == {}
    message = "Cannot remove method setting */* because there is no method setting for this method "
    assert refused(client.patch, "update_stage", ("remove", "/*/*"), **stage) == (400, "BadRequestException", message)


def test_an_unknown_path_is_answered_with_all_of_them(client: Client) -> None:
    stage = client.stage()
    for path in ("/documentation_version", "/tags/tag1", "/a~1b/GOT/throttling/rateLimit"):
        message = f"Invalid method setting path: {path}. Must be one of: {SETTING_PATHS}"
        assert refused(client.patch, "update_stage", ("replace", path, "1"), **stage)[2] == message


@pytest.mark.parametrize("key", ["~1/GET", "~1users~1{id}/GET", "pets/GET", "users~1{id}/*"])
def test_a_setting_comes_back_in_the_spelling_it_was_given(client: Client, key: str) -> None:
    """Terraform looks for its own spelling, and would set it for ever."""
    stage = client.stage()
    client.patch("update_stage", ("replace", f"/{key}/throttling/rateLimit", "1.5"), **stage)
    assert client.get_stage(**stage)["methodSettings"] == {key: {**DEFAULTS, "throttlingRateLimit": 1.5}}
    assert client.patch("update_stage", ("remove", f"/{key}"), **stage)["methodSettings"] == {}


def test_a_removed_value_is_again_what_the_stage_says(client: Client) -> None:
    stage = client.stage()
    shown = client.patch(
        "update_stage",
        ("replace", "/pets/GET/throttling/rateLimit", "1"),
        ("replace", "/pets/GET/logging/loglevel", "INFO"),
        ("replace", "/*/*/throttling/rateLimit", "7"),
        ("remove", "/pets/GET/throttling/rateLimit"),
        ("remove", "/pets/GET/logging/loglevel"),
        **stage,
    )
    assert shown["methodSettings"]["pets/GET"] == {**DEFAULTS, "throttlingRateLimit": 7.0}


def test_two_spellings_are_one_method(client: Client) -> None:
    stage = client.stage()
    client.patch("update_stage", ("replace", "/pets/GET/throttling/rateLimit", "1"), **stage)
    shown = client.patch("update_stage", ("replace", "/~1pets/GET/throttling/burstLimit", "2"), **stage)
    expected = {**DEFAULTS, "throttlingRateLimit": 1.0, "throttlingBurstLimit": 2}
    assert shown["methodSettings"] == {"~1pets/GET": expected}


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("nothere/GET", "the deployment has no resource /nothere"),
        ("Pets/GET", "the deployment has no resource /Pets; did you mean /pets?"),
        ("pets/PUT", "the resource /pets has no method PUT, only GET"),
    ],
)
def test_a_setting_of_a_method_that_is_not_served_is_taken_with_a_warning(client: Client, key: str, why: str) -> None:
    changed = client.patch("update_stage", ("replace", f"/{key}/throttling/rateLimit", "1"), **client.stage())
    assert key in changed["methodSettings"]
    told = changed["ResponseMetadata"]["HTTPHeaders"]["x-authz-warning"]
    assert told == f"methodSettings['{key}'] acts on no call: {why}"


def test_settings_of_served_methods_are_taken_without_a_warning(client: Client) -> None:
    """A verb of a method ANY is one of them."""
    client.method(client.resource("cats"), "ANY")
    stage = client.stage()
    patches = (("replace", f"/{key}/throttling/rateLimit", "1") for key in ("pets/GET", "cats/PUT", "*/*", "cats/*"))
    changed = client.patch("update_stage", *patches, **stage)
    assert "x-authz-warning" not in changed["ResponseMetadata"]["HTTPHeaders"]


@pytest.mark.parametrize("value", ["-2", "NaN", "1e400", "many", ""])
def test_a_throttle_is_a_number(client: Client, value: str) -> None:
    patch = ("replace", "/*/*/throttling/rateLimit", value)
    assert refused(client.patch, "update_stage", patch, **client.stage())[:2] == (400, "BadRequestException")


def test_other_members_of_a_stage_are_patched(client: Client) -> None:
    stage = client.stage()
    shown = client.patch(
        "update_stage",
        ("replace", "/variables/a", "1"),
        ("replace", "/variables/b", "2"),
        ("remove", "/variables/a"),
        ("replace", "/tracingEnabled", "true"),
        ("replace", "/description", "d"),
        ("replace", "/accessLogSettings/format", "f"),
        **stage,
    )
    assert (shown["variables"], shown["tracingEnabled"], shown["description"]) == ({"b": "2"}, True, "d")
    assert shown["accessLogSettings"] == {"format": "f"}
    assert "accessLogSettings" not in client.patch("update_stage", ("remove", "/accessLogSettings"), **stage)
    canary = "/canarySettings/percentTraffic"
    assert client.patch("update_stage", ("replace", canary, "5"), **stage)["canarySettings"]["percentTraffic"] == 5.0
    assert refused(client.patch, "update_stage", ("replace", canary, "101"), **stage)[0] == 400


@pytest.mark.parametrize("whole_api", [False, True])
def test_a_deleted_stage_or_api_is_in_no_plan(client: Client, whole_api: bool) -> None:
    stage = client.stage()
    other = Client(client.control)
    other.stage()
    covered = [{"apiId": api, "stage": "prod"} for api in (client.api, other.api)]
    plan = client.create_usage_plan(name="p", apiStages=covered)["id"]
    if whole_api:
        client.delete_rest_api(restApiId=client.api)
        assert refused(client.get_rest_api, restApiId=client.api)[0] == 404
    else:
        client.delete_stage(**stage)
        assert client.get_stages(restApiId=client.api)["item"] == []
    assert client.get_usage_plan(usagePlanId=plan)["apiStages"] == covered[1:]


# --- OpenAPI ------------------------------------------------------------------------------------------------------


def pets(**get: Any) -> dict[str, Any]:
    return {
        "swagger": "2.0",
        "info": {"title": "imported"},
        "securityDefinitions": {"api_key": {"type": "apiKey", "name": "x-api-key", "in": "header"}},
        "paths": {"/pets": {"get": {"security": [{"api_key": []}], **get}}},
    }


YAML = b"""
openapi: 3.0.1
info: {title: written in YAML}
paths:
  /cats: {get: {responses: {200: {description: fine}}}}
"""


def test_an_imported_operation_requires_a_key(client: Client) -> None:
    made = client.import_rest_api(body=json.dumps(pets()).encode())
    assert (made["name"], made["ResponseMetadata"]["HTTPStatusCode"]) == ("imported", 201)
    items = client.get_resources(restApiId=made["id"], embed=["methods"])["items"]
    assert {one["path"]: one.get("resourceMethods", {}).get("GET", {}).get("apiKeyRequired") for one in items} == {
        "/": None,
        "/pets": True,
    }


def test_an_api_is_merged_with_a_document_or_overwritten(client: Client) -> None:
    client.resource("dogs")

    def paths() -> list[str]:
        return [one["path"] for one in client.get_resources(restApiId=client.api)["items"]]

    client.put_rest_api(restApiId=client.api, body=YAML)
    assert paths() == ["/", "/cats", "/dogs"]
    client.put_rest_api(restApiId=client.api, mode="overwrite", body=json.dumps(pets()).encode())
    assert paths() == ["/", "/pets"]


def test_a_document_is_refused_in_awss_words(client: Client) -> None:
    hint = "resolve the template's intrinsics first"
    title = {**pets(), "info": {"title": {"Fn::Sub": "${x}"}}}
    for template in (
        json.dumps(title).encode(),
        b"openapi: 3.0.1\ninfo: {title: !Sub x}",
        b"AWSTemplateFormatVersion: x",
    ):
        message = refused(client.import_rest_api, body=template)[2]
        assert message.startswith("Invalid OpenAPI input.")
        assert message.endswith(hint)
    for body in (b"[]", b'{"a": 1}', b"a: [", b"\xff", b'{"a": "\xff"}', b"", b"openapi.yaml", b"{'key:value}"):
        assert refused(client.import_rest_api, body=body) == (400, "BadRequestException", "Invalid OpenAPI input.")
    assert raw(client.control, "PUT", f"/restapis/{client.api}", b'{"a": "\xff"}').status == 400
    answer = raw(client.control, "PUT", f"/restapis/{client.api}?mode=wrong", b"{}")
    assert answer.json()["message"] == 'Enumeration value of OpenAPI import mode must be "overwrite" or "merge"'
    warned = json.dumps({**pets(), "x-amazon-apigateway-gateway-responses": {"NONE": {}}}).encode()
    assert client.import_rest_api(body=warned)["warnings"] == ["Unknown gateway response type 'NONE' is ignored"]
    assert client.import_rest_api(body=warned)["ResponseMetadata"]["HTTPHeaders"]["x-authz-warning"].startswith(
        "Unknown"
    )
    before = len(client.get_rest_apis()["items"])
    assert refused(client.import_rest_api, body=warned, failOnWarnings=True)[0] == 400
    assert len(client.get_rest_apis()["items"]) == before


@pytest.mark.parametrize("path", ["/restapis?mode=import", "/restapis/{api}"])
def test_an_authorizer_can_be_accepted_where_warnings_fail_an_import(client: Client, path: str) -> None:
    """As Terraform sends it, whose `parameters` go into the query."""
    token = {"type": "apiKey", "name": "auth", "in": "header", "x-amazon-apigateway-authorizer": {"type": "token"}}
    given = {**pets(), "securityDefinitions": {"api_key": token}}
    at = f"{path.format(api=client.api)}{'&' if '?' in path else '?'}failonwarnings=true"
    verb = "POST" if "import" in path else "PUT"
    for query, status in (("", 400), ("&accept=AWS_IAM", 400), ("&accept=none", 400), ("&accept=AWS_IAM%2CCUSTOM", 0)):
        answer = raw(client.control, verb, at + query, json.dumps(given).encode())
        assert answer.status == (status or {"POST": 201, "PUT": 200}[verb])
        assert "CUSTOM" in answer.body.decode()


@pytest.mark.parametrize("value", ["Prepend", "x", "PREPEND"])
def test_an_unknown_way_to_take_the_base_path_is_refused(client: Client, value: str) -> None:
    answer = raw(client.control, "POST", f"/restapis?mode=import&basepath={value}", json.dumps(pets()).encode())
    assert answer.json()["message"] == "Enumeration value of basepath must be ignore, prepend or split"


# --- gateway responses --------------------------------------------------------------------------------------------


def test_a_fresh_api_has_all_standard_responses(client: Client) -> None:
    items = client.get_gateway_responses(restApiId=client.api)["items"]
    assert len(items) == 21
    assert [one["responseType"] for one in items] == sorted(one["responseType"] for one in items)
    assert all(one["defaultResponse"] for one in items)
    assert client.get_gateway_response(restApiId=client.api, responseType="THROTTLED")["statusCode"] == "429"
    assert "statusCode" not in client.get_gateway_response(restApiId=client.api, responseType="DEFAULT_4XX")


def test_a_response_is_put_in_place_of_the_standard_one(client: Client) -> None:
    named = {"restApiId": client.api, "responseType": "THROTTLED"}
    parameters = {"gatewayresponse.header.Retry-After": "'60'"}
    made = client.put_gateway_response(**named, statusCode="429", responseParameters=parameters)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert bare(made) == {
        "responseType": "THROTTLED",
        "statusCode": "429",
        "responseParameters": parameters,
        "responseTemplates": {"application/json": '{"message":$context.error.messageString}'},
        "defaultResponse": False,
    }
    client.delete_gateway_response(**named)
    assert client.get_gateway_response(**named)["defaultResponse"] is True


def test_a_standard_response_is_not_deleted(client: Client) -> None:
    assert refused(client.delete_gateway_response, restApiId=client.api, responseType="THROTTLED") == (
        404,
        "NotFoundException",
        "Gateway response type not defined on api",
    )


def test_a_response_that_was_never_put_can_be_patched(client: Client) -> None:
    named = {"restApiId": client.api, "responseType": "DEFAULT_4XX"}
    changed = client.patch(
        "update_gateway_response",
        ("replace", "/statusCode", "444"),
        ("add", "/responseTemplates/application~1json", "{}"),
        ("add", "/responseParameters/gatewayresponse.header.X", "'a'"),
        **named,
    )
    assert (changed["statusCode"], changed["defaultResponse"]) == ("444", False)
    assert changed["responseTemplates"] == {"application/json": "{}"}
    assert changed["responseParameters"] == {"gatewayresponse.header.X": "'a'"}


@pytest.mark.parametrize(
    ("patch", "status", "message"),
    [
        (("add", "/statusCode", "444"), 400, "Invalid patch path /statusCode"),
        (("remove", "/statusCode"), 400, "Invalid patch path /statusCode"),
        (("replace", "/wrongPath", "x"), 400, "Invalid patch path /wrongPath"),
        (("replace", "/responseParameters/none", "'x'"), 404, "Invalid parameter name specified"),
        (("add", "/responseTemplates/application~1json"), 400, "Invalid null or empty value in responseTemplates"),
        (
            ("add", "/responseParameters/gatewayresponse.header.X"),
            400,
            "Invalid null or empty value in responseParameters",
        ),
    ],
)
def test_a_patch_of_a_response_is_refused_in_awss_words(
    client: Client, patch: tuple[str, ...], status: int, message: str
) -> None:
    named = {"restApiId": client.api, "responseType": "THROTTLED"}
    found = refused(client.patch, "update_gateway_response", patch, **named)
    assert (found[0], found[2]) == (status, message)


def test_a_patch_without_a_path_and_an_unknown_kind_are_refused(client: Client) -> None:
    at = f"/restapis/{client.api}/gatewayresponses"
    body = {"patchOperations": [{"op": "replace", "value": "x"}]}
    assert raw(client.control, "PATCH", f"{at}/THROTTLED", body).json() == {"message": "Invalid patch path null"}
    fake = raw(client.control, "GET", f"{at}/FAKE")
    assert (fake.status, fake.code) == (400, "ValidationException")
    assert fake.json()["message"].startswith(
        "1 validation error detected: Value 'FAKE' at 'responseType' failed to satisfy constraint: Member must satisfy "
        "enum value set: ["
    )


# --- domain names -------------------------------------------------------------------------------------------------


def test_a_base_path_leads_to_an_api(client: Client) -> None:
    stage, domain = client.stage(), {"domainName": "api.example.org"}
    made = client.create_domain_name(**domain, endpointConfiguration={"types": ["REGIONAL"]})
    assert made["endpointConfiguration"]["types"] == ["REGIONAL"]
    shop = client.create_base_path_mapping(**domain, basePath="shop/v2", restApiId=client.api, stage="prod")
    assert bare(shop) == {"basePath": "shop/v2", "restApiId": client.api, "stage": "prod"}
    bare_mapping = client.create_base_path_mapping(**domain, restApiId=client.api)
    assert bare(bare_mapping) == {"basePath": "(none)", "restApiId": client.api}
    assert bare(client.get_base_path_mapping(**domain, basePath="(none)")) == bare(bare_mapping)
    assert [one["basePath"] for one in client.get_base_path_mappings(**domain)["items"]] == ["(none)", "shop/v2"]
    again = refused(client.create_base_path_mapping, **domain, basePath="shop/v2", restApiId=client.api)
    assert again == (409, "ConflictException", "Base path already exists for this domain name")
    assert refused(client.delete_stage, **stage)[0] == 400
    patch = ("replace", "/basePath", "shop")
    assert client.patch("update_base_path_mapping", patch, **domain, basePath="shop/v2")["basePath"] == "shop"
    for base_path in ("shop", "(none)"):
        client.delete_base_path_mapping(**domain, basePath=base_path)
    client.delete_stage(**stage)
    assert [one["domainName"] for one in client.get_domain_names()["items"]] == ["api.example.org"]
    client.delete_domain_name(**domain)
    assert refused(client.get_domain_name, **domain)[0] == 404


def test_a_domain_name_is_patched_and_never_keeps_a_private_key(client: Client) -> None:
    domain = {"domainName": "api.example.org"}
    secret = "not-to-be-kept"
    client.create_domain_name(**domain, certificatePrivateKey=secret, certificateBody=secret)
    changed = client.patch("update_domain_name", ("replace", "/securityPolicy", "TLS_1_2"), **domain)
    assert changed["securityPolicy"] == "TLS_1_2"
    assert secret not in str(client.get_domain_name(**domain))
    bad = refused(client.patch, "update_domain_name", ("replace", "/none", "x"), **domain)
    assert bad[2] == "Invalid patch path /none"


def test_a_deployment_keeps_which_methods_have_an_authorization(client: Client, control: Control) -> None:
    """What a stage serves may differ from the draft: a later edit changes nothing of it."""
    named = client.method(client.resource())
    client.patch("update_method", ("replace", "/authorizationType", "AWS_IAM"), **named)
    made = client.deploy(stageName="prod")
    client.patch("update_method", ("replace", "/authorizationType", "NONE"), **named)

    async def kept(context: Context) -> object:
        return await context.store.get("deployment", f"{client.api}/{made}")

    found = control.run(kept)
    assert isinstance(found, StoredDeployment)
    assert found.authorizations == {"GET /pets": "AWS_IAM"}

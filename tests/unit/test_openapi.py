"""OpenAPI documents become resources, methods and gateway responses; what is not OpenAPI is refused in AWS's words."""

from __future__ import annotations

import contextlib
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from authz.core.errors import ApiError
from authz.core.openapi import Imported, Options, imported
from authz.core.restapis import snapshot
from authz.core.stored import RestApi, StoredMethod, StoredResource

KEY = {"type": "apiKey", "name": "X-API-Key", "in": "header"}
TOKEN = {**KEY, "x-amazon-apigateway-authorizer": {"type": "token"}}
SIBLING = (
    "Unable to create resource at path '/{b}': A sibling ({a}) of this resource already has a variable path part -- "
    "only one is allowed"
)
NEEDS_KEY: dict[str, Any] = {"security": [{"api_key": []}]}


def api(**fields: Any) -> RestApi:
    root = StoredResource("root", "/")
    return RestApi("api", "before", 0, root.id, resources={root.id: root}, **fields)


def document(paths: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    return {
        "openapi": "3.0.1",
        "info": {"title": "Pets", "version": "7"},
        "components": {"securitySchemes": {"api_key": KEY, "token": TOKEN}},
        "paths": paths or {},
        **members,
    }


def swagger(paths: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "swagger": "2.0",
        "info": {"title": "Pets"},
        "securityDefinitions": {"api_key": KEY},
        "paths": paths,
        **members,
    }


def read(given: dict[str, Any], base: RestApi | None = None, **options: Any) -> Imported:
    ids = count()
    return imported(base or api(), given, Options(lambda: f"r{next(ids)}", **options))


def methods(result: Imported) -> dict[str, dict[str, bool]]:
    """Whether each method requires a key, by path and verb."""
    served = snapshot(result.api).resources
    return {path: {verb: one.api_key_required for verb, one in verbs.items()} for path, verbs in served.items()}


def method(result: Imported, path: str, verb: str) -> StoredMethod:
    at = next(one for one in result.api.resources.values() if one.path == path)
    return next(held for name, held in at.methods.items() if name == verb)


@pytest.mark.parametrize("wording", [document, swagger])
def test_an_operation_that_names_the_key_scheme_requires_a_key(wording: Any) -> None:
    """C89, in both versions."""
    result = read(wording({"/pets/{id}": {"get": NEEDS_KEY, "put": {}}, "/": {"x-amazon-apigateway-any-method": {}}}))
    assert methods(result) == {"/pets/{id}": {"GET": True, "PUT": False}, "/": {"ANY": False}}
    assert result.api.name == "Pets"
    assert not result.warnings


def test_security_of_the_document_holds_where_an_operation_has_none() -> None:
    paths: dict[str, Any] = {"/a": {"get": {}, "put": {"security": []}}}
    assert methods(read(document(paths, security=[{"api_key": []}]))) == {"/a": {"GET": True, "PUT": False}}


def test_a_token_for_an_authorizer_is_not_an_api_key() -> None:
    result = read(document({"/a": {"get": {"security": [{"token": []}]}}}))
    assert methods(result) == {"/a": {"GET": False}}
    assert method(result, "/a", "GET").authorization_type == "CUSTOM"
    assert result.warnings == ("Authorization of type CUSTOM is stored and not carried out",)


def test_extensions_of_the_root_are_the_apis() -> None:
    members: dict[str, Any] = {
        "x-amazon-apigateway-api-key-source": "AUTHORIZER",
        "x-amazon-apigateway-binary-media-types": ["image/png"],
        "x-amazon-apigateway-policy": {"Version": "2012-10-17"},
        "x-amazon-apigateway-gateway-responses": {
            "THROTTLED": {
                "statusCode": 420,
                "responseParameters": {"gatewayresponse.header.Retry-After": "'60'"},
                "responseTemplates": {"application/json": "{}"},
            },
            "NONE_SUCH": {},
        },
    }
    result = read(document(**members)).api
    assert result.api_key_source == "AUTHORIZER"
    assert result.policy == '{"Version":"2012-10-17"}'
    assert result.binary_media_types == ("image/png",)
    assert result.gateway_responses["THROTTLED"].status_code == "420"
    assert list(result.gateway_responses) == ["THROTTLED"]


def test_integrations_parameters_and_responses_are_kept() -> None:
    given = {
        "operationId": "getPet",
        "parameters": [{"$ref": "#/components/parameters/id"}],
        "responses": {"200": {"description": "fine"}, "default": {}},
        "x-amazon-apigateway-integration": {
            "type": "http_proxy",
            "httpMethod": "GET",
            "uri": "http://upstream",
            "responses": {"default": {"statusCode": "200"}, "4..": {"statusCode": 400}},
        },
    }
    components = {"parameters": {"id": {"in": "path", "name": "id", "required": True}}}
    held = method(read(document({"/{id}": {"get": given}}, components=components)), "/{id}", "GET")
    assert held.operation_name == "getPet"
    assert held.request_parameters == {"method.request.path.id": True}
    assert held.method_responses == {"200": {"statusCode": "200"}}
    assert held.method_integration == {
        "type": "HTTP_PROXY",
        "httpMethod": "GET",
        "uri": "http://upstream",
        "integrationResponses": {
            "200": {"statusCode": "200"},
            "400": {"statusCode": "400", "selectionPattern": "4.."},
        },
    }


@pytest.mark.parametrize(
    ("basepath", "path"), [("ignore", "/pets"), ("prepend", "/v1/shop/pets"), ("split", "/shop/pets")]
)
def test_the_base_path_goes_where_it_is_told(basepath: str, path: str) -> None:
    servers = [{"url": "https://example.org/{base}", "variables": {"base": {"default": "v1/shop"}}}]
    paths: dict[str, Any] = {"/pets": {"get": {}}}
    for given in (document(paths, servers=servers), swagger(paths, basePath="/v1/shop")):
        assert list(methods(read(given, basepath=basepath))) == [path]


def test_merging_keeps_what_the_document_does_not_name() -> None:
    first = read(document({"/a": {"get": NEEDS_KEY}, "/b": {"get": NEEDS_KEY}})).api
    merged = imported(first, document({"/a": {"get": {}}, "/c": {"get": {}}}), Options(lambda: "new"))
    assert methods(merged) == {"/a": {"GET": False}, "/b": {"GET": True}, "/c": {"GET": False}}


def test_overwriting_keeps_nothing_but_who_the_api_is() -> None:
    first = read(document({"/a": {"get": NEEDS_KEY}})).api
    result = imported(first, document({"/c": {"get": {}}}), Options(lambda: "new", mode="overwrite"))
    assert methods(result) == {"/c": {"GET": False}}
    assert (result.api.id, result.api.root_resource_id) == (first.id, first.root_resource_id)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Invalid OpenAPI input."),
        ({"swagger": "1.2"}, "Invalid OpenAPI input."),
        ({"openapi": "4.0.0"}, "Only OpenAPI 3.x.x are currently supported"),
        (document({"a": {}}), "Failed to parse the uploaded OpenAPI document due to: the path a does not begin with /"),
        (
            document({"/{a}": {}, "/{b}": {}}),
            SIBLING,
        ),
    ],
)
def test_what_is_no_api_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(given)
    assert (refused.value.status, refused.value.message) == (400, message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**30) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
MEMBERS = st.sampled_from(
    [
        *("info", "paths", "components", "security", "servers", "securityDefinitions", "basePath"),
        *("x-amazon-apigateway-gateway-responses", "x-amazon-apigateway-api-key-source"),
        *("x-amazon-apigateway-minimum-compression-size", "x-amazon-apigateway-policy"),
        *("x-amazon-apigateway-endpoint-configuration", "x-amazon-apigateway-binary-media-types"),
    ]
)


@given_any(st.dictionaries(MEMBERS, JSON), st.sampled_from(["swagger", "openapi"]), JSON)
def test_a_document_is_refused_or_makes_an_api_that_can_be_kept(
    members: dict[str, Any], version: str, operation: Any
) -> None:
    given = {version: "2.0" if version == "swagger" else "3.1.0", **members}
    if not isinstance(given.get("paths"), dict):
        integration = {"uri": operation, "tlsConfig": operation}
        given["paths"] = {"/a": {"get": operation, "put": {"x-amazon-apigateway-integration": integration}}}
    with contextlib.suppress(ApiError):  # anything else that is raised is a failure
        result = read(given, basepath="prepend").api
        assert msgspec.json.decode(msgspec.json.encode(result), type=RestApi) == result

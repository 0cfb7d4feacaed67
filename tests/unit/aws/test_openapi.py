"""OpenAPI documents become resources, methods and gateway responses; others are refused in AWS's words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from authz.aws import oasdocument
from authz.aws.errors import ApiError
from authz.aws.openapi import Imported, Options, imported
from authz.aws.restapis import snapshot
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
    """In both versions of OpenAPI."""
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
    assert result.warnings == (
        "Authorization of type CUSTOM is stored and not carried out: GET /a ('token', every caller passes)",
    )


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
        "connectionType": "INTERNET",
        "timeoutInMillis": 29000,
        "passthroughBehavior": "WHEN_NO_MATCH",
        "cacheNamespace": "r0",
        "cacheKeyParameters": [],
        "integrationResponses": {
            "200": {"statusCode": "200"},
            "400": {"statusCode": "400", "selectionPattern": "4.."},
        },
    }


@pytest.mark.parametrize(
    ("basepath", "path"), [("ignore", "/pets"), ("prepend", "/v1/shop/pets"), ("split", "/shop/pets")]
)
def test_the_base_path_goes_where_the_parameter_says(basepath: str, path: str) -> None:
    servers = [{"url": "https://example.org/{base}", "variables": {"base": {"default": "v1/shop"}}}]
    paths: dict[str, Any] = {"/pets": {"get": {}}}
    for given in (document(paths, servers=servers), swagger(paths, basePath="/v1/shop")):
        assert list(methods(read(given, basepath=basepath))) == [path]


@pytest.mark.parametrize(
    ("servers", "path"),
    [
        ([{"url": "https://a.example", "variables": {"basePath": {"default": "/v1"}}}], "/v1/pets"),
        ([{"url": "https://a.example/other", "variables": {"basePath": {"default": "v1/"}}}], "/v1/pets"),
        ([{"url": "https://a.example/{basePath}", "variables": {"basePath": {"default": "v1"}}}], "/v1/pets"),
        ([{"url": "/first"}, {"url": "/", "variables": {"basePath": {"default": "v1"}}}], "/v1/pets"),
        (
            [
                {"url": "/", "variables": {"basePath": {"default": "v1"}}},
                {"url": "/", "variables": {"basePath": {"default": "v2"}}},
            ],
            "/v1/pets",
        ),
        ([{"url": "https://a.example/v1/?x=/y#/z"}, {"url": "/v2"}], "/v1/pets"),
        ([{"url": "{scheme}://{host}/v1", "variables": {"scheme": {"default": "https"}}}], "/v1/pets"),
        ([{"url": "//a.example/v1"}], "/v1/pets"),
        ([{"url": "a.example/v1"}], "/v1/pets"),
        ([{"url": "localhost:8080/v1"}], "/v1/pets"),
        ([{"url": "a.example"}], "/pets"),
        ([{"url": "/v1"}], "/v1/pets"),
        ([{"url": "v1"}], "/v1/pets"),
        ([{"url": "https://a.example//v1//"}], "/v1/pets"),
        ([], "/pets"),
        ([{"url": 5}], "/5/pets"),
        ([None], "/pets"),
    ],
)
def test_the_base_path_is_a_variable_or_a_path(servers: list[Any], path: str) -> None:
    """As AWS documents it: the first variable `basePath`, named by its URL or not; else the path of the first URL."""
    paths: dict[str, Any] = {"/pets": {"get": {}}}
    assert list(methods(read(document(paths, servers=servers), basepath="prepend"))) == [path]


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
def test_a_document_that_is_no_api_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(given)
    assert (refused.value.status, refused.value.message) == (400, message)


# --- who may call -------------------------------------------------------------------------------------------------


def asked_by(scheme: Any, **members: Any) -> dict[str, Any]:
    """A document whose one method names one security scheme."""
    components = {"securitySchemes": {"api_key": scheme}}
    return document({"/a": {"get": NEEDS_KEY}}, components=components, **members)


NOT_A_KEY = "is not an apiKey in the header x-api-key"


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (document({"/a": {"get": {"security": [{"apikey": []}]}}}), "the security scheme 'apikey' is not defined"),
        (
            document({"/a": {"get": {"security": [{"API_KEY": []}]}}}),
            "the security scheme 'API_KEY' is not defined; there is 'api_key'",
        ),
        (
            {**document({"/a": {"get": NEEDS_KEY}}, components={}), "securityDefinitions": {"api_key": KEY}},
            (
                "the security scheme 'api_key' is not defined in components.securitySchemes, where this version of "
                "OpenAPI looks for it"
            ),
        ),
        (
            {
                **swagger({"/a": {"get": NEEDS_KEY}}, securityDefinitions={}),
                "components": {"securitySchemes": {"api_key": KEY}},
            },
            (
                "the security scheme 'api_key' is not defined in securityDefinitions, where this version of OpenAPI "
                "looks for it"
            ),
        ),
        (
            asked_by({**KEY, "in": "query"}),
            f"the security scheme 'api_key' (type 'apiKey' in 'query' named 'X-API-Key') {NOT_A_KEY}",
        ),
        (
            asked_by({**KEY, "name": "Authorization"}),
            f"the security scheme 'api_key' (type 'apiKey' in 'header' named 'Authorization') {NOT_A_KEY}",
        ),
        (
            asked_by({**KEY, "name": "x-api-key "}),
            f"the security scheme 'api_key' (type 'apiKey' in 'header' named 'x-api-key ') {NOT_A_KEY}",
        ),
        (
            asked_by({**KEY, "type": "apikey", "in": "Header"}),
            f"the security scheme 'api_key' (type 'apikey' in 'Header' named 'X-API-Key') {NOT_A_KEY}",
        ),
        (asked_by({"type": "http", "scheme": "bearer"}), f"the security scheme 'api_key' (type 'http') {NOT_A_KEY}"),
        (asked_by({"type": "oauth2", "flows": {}}), f"the security scheme 'api_key' (type 'oauth2') {NOT_A_KEY}"),
        (asked_by({"type": "mutualTLS"}), f"the security scheme 'api_key' (type 'mutualTLS') {NOT_A_KEY}"),
        (asked_by({}), f"the security scheme 'api_key' (type '') {NOT_A_KEY}"),
        (asked_by(None), "the security scheme 'api_key' cannot be read: it is no mapping"),
        (asked_by([KEY]), "the security scheme 'api_key' cannot be read: it is no mapping"),
        (
            asked_by({"$ref": "x.yaml#/api_key"}),
            "the security scheme 'api_key' cannot be read: the reference 'x.yaml#/api_key' leads out of the document",
        ),
        (
            asked_by({"$ref": "#/components/nowhere"}),
            "the security scheme 'api_key' cannot be read: the reference '#/components/nowhere' leads nowhere",
        ),
        (
            asked_by({"$ref": "#/components/securitySchemes/api_key"}),
            (
                "the security scheme 'api_key' cannot be read: the reference '#/components/securitySchemes/api_key' "
                "is a circle or too long a chain"
            ),
        ),
        (document({"/a": {"get": {"security": {"api_key": []}}}}), "its security is no list"),
        (document({"/a": {"get": {"security": "api_key"}}}), "its security is no list"),
        (document({"/a": {"get": {"security": ["api_key"]}}}), "its security holds 'api_key' instead of a mapping"),
        (document({"/a": {"get": {"security": [["api_key"]]}}}), "its security holds 'list' instead of a mapping"),
        (document({"/a": {"get": {}}}, security={"api_key": []}), "its security is no list"),
        (
            document({"/a": {"get": {"x-amazon-apigateway-auth": {"type": "aws"}}}}),
            "its x-amazon-apigateway-auth has neither the type AWS_IAM nor NONE",
        ),
    ],
)
def test_a_method_that_asks_for_a_key_in_vain_is_named(given: dict[str, Any], cause: str) -> None:
    """It stays open, as at AWS, and the warning is grave."""
    result = read(given)
    assert methods(result) == {"/a": {"GET": False}}
    assert f"No key is required, because {cause}: GET /a" in result.warnings
    assert result.grave


@pytest.mark.parametrize(
    ("paths", "warning"),
    [
        (
            {"/a": {**NEEDS_KEY, "get": {}, "put": {}}},
            "The security of a path is left out; methods have their own: GET /a, PUT /a",
        ),
        ({"/a": {"get": {"Security": []}}}, "'Security' of an operation is not known and is left out: GET /a"),
        (
            {"/a": {"get": NEEDS_KEY}, "/a/": {"get": {}}},
            "Given more than once, and the last is taken: GET /a",
        ),
    ],
)
def test_a_method_that_is_open_by_a_slip_is_named(paths: dict[str, Any], warning: str) -> None:
    result = read(document(paths))
    assert warning in result.warnings
    assert not any(methods(result)["/a"].values())


def test_one_warning_names_all_methods_of_a_cause() -> None:
    paths: dict[str, Any] = {f"/p{n:03}": {"get": {"security": [{"none": []}]}} for n in range(500)}
    (warning,) = read(document(paths)).warnings
    assert warning.startswith(
        "No key is required, because the security scheme 'none' is not defined: GET /p000, GET /p001"
    )
    assert len(warning) < 2_100
    assert warning.endswith(" more")


def test_an_unreadable_scheme_beside_a_key_leaves_the_key() -> None:
    oauth = {"type": "oauth2", "flows": {}}
    components = {"securitySchemes": {"api_key": KEY, "oauth": oauth}}
    paths: dict[str, Any] = {
        "/and": {"get": {"security": [{"api_key": [], "oauth": []}]}},
        "/or": {"get": {"security": [{"oauth": []}, {"api_key": []}]}},
        "/maybe": {"get": {"security": [{}, {"api_key": []}]}},
    }
    result = read(document(paths, components=components))
    oauth_cause = f"the security scheme 'oauth' (type 'oauth2') {NOT_A_KEY}"
    assert methods(result) == {"/and": {"GET": True}, "/or": {"GET": True}, "/maybe": {"GET": True}}
    assert result.warnings == (
        f"The key alone is required, because {oauth_cause}: GET /and, GET /or",
        "The key is required, although the security names it as optional: GET /maybe",
    )


def test_null_security_is_the_documents() -> None:
    paths: dict[str, Any] = {"/a": {"get": {"security": None}, "put": {"security": []}}}
    result = read(document(paths, security=[{"api_key": []}]))
    assert methods(result) == {"/a": {"GET": True, "PUT": False}}
    assert not result.warnings


def test_authorization_by_awss_identities_is_stored_with_a_warning() -> None:
    auth = {"x-amazon-apigateway-auth": {"type": "aws_iam"}}
    result = read(document({"/a": {"get": auth, "put": {"x-amazon-apigateway-auth": {"type": "NONE"}}}}))
    assert method(result, "/a", "GET").authorization_type == "AWS_IAM"
    assert result.warnings == (
        "Authorization of type AWS_IAM is stored and not carried out: GET /a (every caller passes)",
    )


def test_a_type_of_authorization_can_be_accepted() -> None:
    """Otherwise `failonwarnings` would refuse every document with an authorizer. The warning stays."""
    given = document(
        {"/a": {"get": {"security": [{"token": []}]}, "put": {"security": [{"token": [], "api_key": []}]}}}
    )
    result = read(given, accept=("CUSTOM",))
    assert result.warnings == (
        (
            "Authorization of type CUSTOM is stored and not carried out: GET /a ('token', every caller passes), "
            "PUT /a ('token', a valid API key passes)"
        ),
    )
    assert not result.grave
    assert read(given, accept=("AWS_IAM",)).grave
    with pytest.raises(ApiError, match="Invalid value of accept"):
        read(given, accept=("custom",))


# --- references ---------------------------------------------------------------------------------------------------


def test_paths_and_methods_may_be_references() -> None:
    components = {
        "securitySchemes": {"api_key": {"$ref": "#/x-schemes/0"}},
        "pathItems": {"a": {"get": {"$ref": "#/components/x-operations/keyed"}, "put": {}}},
        "x-operations": {"keyed": NEEDS_KEY},
    }
    paths: dict[str, Any] = {
        "/a": {"$ref": "#/components/pathItems/a"},
        "/b": {"$ref": "#/paths/~1a", "post": NEEDS_KEY},
        "/c": {"$ref": "#/paths/%7E1a"},
    }
    result = read(document(paths, components=components, **{"x-schemes": [KEY]}))
    keyed = {"GET": True, "PUT": False}
    assert methods(result) == {"/a": keyed, "/b": {**keyed, "POST": True}, "/c": keyed}
    assert not result.warnings


@pytest.mark.parametrize(
    ("reference", "cause"),
    [
        ("paths.yaml#/a", "the reference 'paths.yaml#/a' leads out of the document"),
        ("https://a.example/a", "the reference 'https://a.example/a' leads out of the document"),
        ("#/paths/none", "the reference '#/paths/none' leads nowhere"),
        ("#/" + "a" * 2000, f"the reference '#/{'a' * 98}…' leads nowhere"),
        ("#/paths/~1a", "the reference '#/paths/~1a' is a circle or too long a chain"),
        (["#/a"], "the reference 'list' leads out of the document"),
    ],
)
def test_a_reference_that_cannot_be_followed_has_a_warning(reference: Any, cause: str) -> None:
    result = read(document({"/a": {"$ref": reference}, "/b": {"get": {"$ref": reference}}}))
    assert result.warnings[0] == f"A path is left out: {cause}: /a"
    assert any(warning.startswith("A method is left out: ") for warning in result.warnings)
    assert result.grave


# --- omissions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "warning"),
    [
        ({"GET": {}}, "'GET' of a path is not known and is left out: /a"),
        ({"query": {}}, "'query' of a path is not known and is left out: /a"),
        ({"trace": {}}, "Method TRACE of resource '/a' is ignored"),
        ({"Fn::If": ["x", {}, {}], "put": {}}, "'Fn::If' of a path is not known and is left out: /a"),
        (
            {"Fn::If": ["x", {}, {}]},
            "A path that is Fn::If (resolve the template's intrinsics first) is left out: it is no mapping: /a",
        ),
        ({"get": None}, "A method is left out: it is no mapping: GET /a"),
        ({"get": []}, "A method is left out: it is no mapping: GET /a"),
        (None, "A path is left out: it is no mapping: /a"),
        ([], "A path is left out: it is no mapping: /a"),
        (
            {"get": {"x-amazon-apigateway-integrations": {}}},
            "'x-amazon-apigateway-integrations' of an operation is not known and is left out: GET /a",
        ),
        (
            {"get": {"x-amazon-apigateway-api-key-source": "HEADER"}},
            "'x-amazon-apigateway-api-key-source' of an operation is not known and is left out: GET /a",
        ),
        (
            {"x-amazon-apigateway-integration": {}},
            "'x-amazon-apigateway-integration' of a path is not known and is left out: /a",
        ),
        ({"get": {"parameters": {}}}, "'parameters' is left out: it is no list: GET /a"),
        ({"get": {"parameters": [{"in": "cookie", "name": "c"}]}}, "A parameter in 'cookie' is left out: GET /a"),
        ({"get": {"responses": {"default": {}}}}, "The response 'default' is left out: it is no status: GET /a"),
        (
            {"get": {"x-amazon-apigateway-integration": {"type": "mock", "url": "x"}}},
            "'url' of an integration is not known and is left out: GET /a",
        ),
        (
            {"get": {"x-amazon-apigateway-integration": {"type": "mock", "uri": {"Fn::Sub": "x"}}}},
            "'uri' of an integration is left out: it is the intrinsic 'Fn::Sub': GET /a",
        ),
        (
            {"get": {"x-amazon-apigateway-integration": {"type": "mock", "requestParameters": {"a.b": True}}}},
            (
                "Invalid format for 'requestParameters'. Expected type string for property 'a.b' of resource '/a' "
                "and method 'GET' but got 'true'"
            ),
        ),
    ],
)
def test_each_dropped_part_has_a_warning(item: Any, warning: str) -> None:
    result = read(document({"/a": item, "/b": {"get": NEEDS_KEY}}))
    assert warning in result.warnings
    assert result.grave


@pytest.mark.parametrize(
    "member", ["securitySchemes", "basepath", "x-amazon-apigateway-cors", "x-amazon-apigateway-auth"]
)
def test_an_unknown_member_of_the_root_has_a_warning(member: str) -> None:
    assert read(document(**{member: {}})).warnings == (f"'{member}' at the root is not known and is left out",)


def test_extensions_of_others_are_nobodys_business() -> None:
    extended: dict[str, Any] = {"x-internal": 1, "/a": {"x-a": 1, "get": {"x-b": 1, **NEEDS_KEY}}, "x-c": {}}
    assert not read(document(extended, **{"x-d": []})).warnings


def test_parameters_of_gateway_responses_other_than_headers_are_left_out() -> None:
    parameters = {
        "gatewayresponse.header.X": "'1'",
        "gatewayresponse.path.x.y": "'2'",
        "gatewayresponse.querystring.z": "1",
    }
    given = document(**{"x-amazon-apigateway-gateway-responses": {"THROTTLED": {"responseParameters": parameters}}})
    result = read(given)
    assert result.api.gateway_responses["THROTTLED"].response_parameters == {"gatewayresponse.header.X": "'1'"}
    assert result.warnings == tuple(
        f"'{name}' of the gateway response THROTTLED is left out: only headers can be set"
        for name in ("gatewayresponse.path.x.y", "gatewayresponse.querystring.z")
    )


def test_a_refused_gateway_response_is_named_with_its_whole_address() -> None:
    parameters = {"gatewayresponse.header.x.y": "no quotes"}
    with pytest.raises(ApiError) as refused:
        read(document(**{"x-amazon-apigateway-gateway-responses": {"THROTTLED": {"responseParameters": parameters}}}))
    assert "the gateway response THROTTLED: responseParameters['gatewayresponse.header.x.y']: expected" in str(
        refused.value
    )


# --- values that AWS fills in -------------------------------------------------------------------------------------


def test_responses_and_requests_are_filled_in_as_aws_does() -> None:
    schema = {"schema": {"$ref": "#/components/schemas/Pet"}}
    given = {
        "requestBody": {"content": {"application/json": schema}},
        "responses": {"200": {"headers": {"X": {}}, "content": {"application/xml": schema}}, "404": {}},
        "x-amazon-apigateway-integration": {
            "type": "mock",
            "httpMethod": "POST",
            "passthroughBehavior": "never",
            "responses": {"default": {"contentHandling": "convert_to_text"}},
        },
    }
    components = {"schemas": {"Pet": {"type": "object"}}}
    held = method(read(document({"/{id}/{proxy+}": {"post": given}}, components=components)), "/{id}/{proxy+}", "POST")
    assert held.request_parameters == {"method.request.path.id": True, "method.request.path.proxy": True}
    assert held.request_models == {"application/json": "Pet"}
    assert held.method_responses == {
        "200": {
            "statusCode": "200",
            "responseParameters": {"method.response.header.X": False},
            "responseModels": {"application/xml": "Pet"},
        },
        "404": {"statusCode": "404"},
    }
    assert held.method_integration == {
        "type": "MOCK",
        "timeoutInMillis": 29000,
        "passthroughBehavior": "NEVER",
        "cacheNamespace": "r2",
        "cacheKeyParameters": [],
        "integrationResponses": {"200": {"statusCode": "200", "contentHandling": "CONVERT_TO_TEXT"}},
    }


def test_models_of_swagger_have_the_media_types_of_the_operation_or_the_document() -> None:
    pet = {"schema": {"$ref": "#/definitions/Pet"}}
    body = {"in": "body", "name": "Pet", **pet}
    given = {"parameters": [body], "responses": {"200": pet}, "produces": ["text/csv"]}
    definitions = {"Pet": {"type": "object"}}
    held = method(read(swagger({"/a": {"post": given}}, consumes=["text/xml"], definitions=definitions)), "/a", "POST")
    assert held.request_models == {"text/xml": "Pet"}
    assert held.method_responses["200"]["responseModels"] == {"text/csv": "Pet"}


def test_a_model_that_is_not_defined_has_a_warning() -> None:
    schema = {"schema": {"$ref": "#/components/schemas/Nowhere"}}
    given = {"requestBody": {"content": {"text/x": schema}}, "responses": {"200": {"content": {"text/x": schema}}}}
    result = read(document({"/a": {"post": given}}))
    assert result.warnings == ("The model 'Nowhere' is not defined: POST /a",)
    assert not method(result, "/a", "POST").request_models


def test_an_overwritten_path_keeps_the_id_of_its_resource() -> None:
    first = read(document({"/a/b": {"get": {}}})).api
    again = imported(first, document({"/a/b": {"put": {}}}), Options(lambda: "new", mode="overwrite")).api
    assert {one.path: one.id for one in again.resources.values()} == {
        one.path: one.id for one in first.resources.values()
    }


# --- bounds -------------------------------------------------------------------------------------------------------


def bombs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Small documents that take gigabytes, or hours, to expand."""
    nested = {f"v{n}": {"default": f"{{v{n + 1}}}" * 10} for n in range(9)}
    yield "variables", document(servers=[{"url": "/{v0}" * 10, "variables": nested}])
    yield "variable", document(servers=[{"url": "/{v}" * 400, "variables": {"v": {"default": "x" * 1900}}}])
    many = {str(status): {"$ref": "#/components/responses/r"} for status in range(100, 600)}
    headers: dict[str, Any] = {f"h{n}": {} for n in range(2000)}
    yield (
        "responses",
        document(
            {f"/p{n}": {"get": {"responses": many}} for n in range(200)},
            components={"responses": {"r": {"headers": headers}}},
        ),
    )
    parameters = [{"in": "cookie", "name": f"c{n}"} for n in range(5000)]
    item = {"parameters": parameters, **{verb: {} for verb in ("get", "put", "post", "delete", "patch")}}
    paths: dict[str, Any] = {f"/p{n}": {"$ref": "#/components/pathItems/i"} for n in range(1000)}
    yield "path items", document(paths, components={"pathItems": {"i": item}})
    template = {"type": "mock", "requestTemplates": {"application/json": "x" * 1_000_000}}
    keeper = {"get": {"x-amazon-apigateway-integration": {"$ref": "#/x-i"}}}
    yield "templates", document({f"/p{n}": keeper for n in range(1000)}, **{"x-i": template})
    yield "depth", document({"/" + "/".join(["a" * 100] * 2000): {"get": {}}})
    long = "#/" + "/".join(["a"] * 900)
    yield "pointers", document({f"/p{n}": {"$ref": f"#/x-{n % 10}"} for n in range(20_000)}, **{"x-0": {"$ref": long}})


@pytest.mark.parametrize(("name", "given"), list(bombs()))
def test_a_document_that_expands_is_refused(name: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oasdocument, "MAX_STEPS", 50_000)  # a tenth, to keep the tests short
    with contextlib.suppress(ApiError):
        result = read(given, basepath="prepend")
        assert len(msgspec.json.encode(result.api)) < 20_000_000, name
        assert sum(map(len, result.warnings)) < 250_000


def test_warnings_are_bounded_and_open_methods_come_first() -> None:
    paths: dict[str, Any] = {f"/p{n}": {"x-amazon-apigateway-any-method": {f"m{n}": 1}} for n in range(300)}
    paths["/z"] = {"get": {"security": [{"none": []}]}}
    warnings = read(document(paths)).warnings
    assert len(warnings) == 101
    assert warnings[0].startswith("No key is required")
    assert warnings[-1] == "201 more warnings are not shown"


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
    with contextlib.suppress(ApiError):  # any other exception fails the test
        result = read(given, basepath="prepend").api
        assert msgspec.json.decode(msgspec.json.encode(result), type=RestApi) == result

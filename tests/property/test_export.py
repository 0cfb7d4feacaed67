"""The export of an API, imported into a new one, makes the same API again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.aws.models import models
from authz.aws.oasexport import Exporter, ExportType
from authz.aws.openapi import VERBS, imported
from authz.aws.openapi import Options as ImportOptions
from authz.aws.restapis import add_resource, integration_defaults, snapshot
from authz.config.documents import as_yaml, read_document
from authz.core.resources import GatewayResponse, HttpMethod
from authz.core.stored import RequestValidator, RestApi, StoredMethod, StoredModel, StoredResource

WORDS = st.text("abcXYZ019", min_size=1, max_size=5)
TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=10)
PARTS = st.sampled_from(("pets", "v1.0", "a-b", "{id}", "{proxy+}", "~x".strip("~")))
JSON = "application/json"
STATUSES = st.sampled_from(("200", "404", "500"))
MODELS = ("Pet", "Toy")


def root() -> RestApi:
    node = StoredResource("root", "/")
    return RestApi("api", "before", 0, node.id, resources={node.id: node})


@st.composite
def integrations(draw: st.DrawFn, resource_id: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(("MOCK", "HTTP", "HTTP_PROXY", "AWS", "AWS_PROXY")))
    shown: dict[str, Any] = {} if kind == "MOCK" else {"httpMethod": "POST", "uri": draw(WORDS)}
    if draw(st.booleans()):
        shown["requestTemplates"] = {JSON: draw(TEXTS)}
        shown["passthroughBehavior"] = "NEVER"
        shown["timeoutInMillis"] = draw(st.integers(50, 29_000))
        shown["cacheKeyParameters"] = draw(st.lists(WORDS, max_size=2))
    patterns = draw(st.lists(st.sampled_from(("", "4..", "5..")), unique=True, max_size=3))
    statuses = draw(st.permutations(("200", "404", "500")))
    responses = {
        status: {
            "statusCode": status,
            **({"selectionPattern": pattern} if pattern else {}),
            **({"responseTemplates": {JSON: "{}"}} if pattern else {"contentHandling": "CONVERT_TO_TEXT"}),
        }
        for pattern, status in zip(patterns, statuses, strict=False)
    }
    return {
        **integration_defaults(kind, resource_id),
        **shown,
        **({"integrationResponses": responses} if responses else {}),
    }


@st.composite
def methods(draw: st.DrawFn, path: str, resource_id: str, form: ExportType) -> StoredMethod:
    variables = [part.strip("{}+") for part in path.split("/") if part.startswith("{")]
    listed = draw(st.dictionaries(st.sampled_from(("querystring.q", "header.H")), st.booleans()))
    kinds = st.just(JSON) if form == "swagger" else st.sampled_from((JSON, "text/plain"))
    named = st.dictionaries(kinds, st.sampled_from(MODELS), max_size=2)
    responses = {
        status: {
            "statusCode": status,
            **({"responseParameters": {"method.response.header.X": False}} if draw(st.booleans()) else {}),
            **({"responseModels": found} if (found := draw(named)) else {}),
        }
        for status in draw(st.sets(STATUSES))
    }
    authorization = draw(st.sampled_from(("NONE", "AWS_IAM", "CUSTOM", "COGNITO_USER_POOLS")))
    return StoredMethod(
        api_key_required=draw(st.booleans()),
        authorization_type=authorization,
        authorization_scopes=("read",) if authorization == "COGNITO_USER_POOLS" and draw(st.booleans()) else (),
        operation_name=draw(st.none() | WORDS),
        request_validator_id=draw(st.sampled_from((None, "v1"))),
        request_parameters={
            **{f"method.request.path.{name}": True for name in variables},
            **{f"method.request.{name}": required for name, required in listed.items()},
        },
        request_models=draw(named),
        method_responses=responses,
        method_integration=draw(integrations(resource_id)),
    )


@st.composite
def apis(draw: st.DrawFn, form: ExportType) -> RestApi:
    """An API of what OpenAPI has words for; each has at least one method."""
    api = replace(
        root(),
        name=draw(TEXTS),
        description=draw(st.none() | TEXTS),
        version=draw(WORDS),
        api_key_source=draw(st.sampled_from(("HEADER", "AUTHORIZER"))),
        binary_media_types=tuple(draw(st.lists(st.sampled_from(("image/png", "*/*")), unique=True))),
        minimum_compression_size=draw(st.none() | st.integers(0, 10_000)),
        policy=draw(st.none() | st.just('{"Version":"2012-10-17"}')),
        disable_execute_api_endpoint=draw(st.booleans()),
        gateway_responses=draw(
            st.dictionaries(
                st.sampled_from(("THROTTLED", "DEFAULT_4XX", "BAD_REQUEST_BODY")),
                st.builds(
                    GatewayResponse,
                    st.none() | st.just("418"),
                    st.dictionaries(st.just("gatewayresponse.header.X"), st.just("'y'")),
                    st.dictionaries(st.just(JSON), st.just("{}")),
                ),
            )
        ),
        models={
            name: StoredModel(f"m{name}", name, JSON, f'{{"type":"object","title":"{name}"}}', draw(st.none() | TEXTS))
            for name in MODELS
        }
        | {"Both": StoredModel("mBoth", "Both", JSON, BOTH)},
        request_validators={"v1": RequestValidator("v1", draw(WORDS), draw(st.booleans()), draw(st.booleans()))},
    )
    numbers = count()
    for _ in range(draw(st.integers(0, 4))):
        parent = draw(st.sampled_from([one for one in api.resources.values() if "+" not in one.path]))
        below = [one for one in api.resources.values() if one.parent_id == parent.id]
        part = draw(PARTS)
        taken = {one.path_part for one in below}
        is_variable = part.startswith("{")
        if part in taken or (is_variable and any(str(one).startswith("{") for one in taken)):
            continue
        if part in parent.path:
            continue
        api = add_resource(api, parent.id, part, f"r{next(numbers)}")
    made = {}
    for node in api.resources.values():
        verbs: set[HttpMethod] = draw(st.sets(st.sampled_from(sorted(VERBS.values())), max_size=3))
        if node.path == "/":
            verbs = verbs | {"GET"}
        held = {verb: draw(methods(node.path, node.id, form)) for verb in sorted(verbs)}
        made[node.id] = replace(node, methods=held)
    return replace(api, resources=made)


BOTH = '{"properties":{"a":{"$ref":"https://apigateway.amazonaws.com/restapis/api/models/Pet"}}}'


@dataclass(frozen=True)
class Plain:
    """An API without its ids, which an import makes anew, and without resources that have no method below them."""

    fields: dict[str, Any]
    methods: dict[str, Any]
    models: dict[str, Any]


def plain(api: RestApi) -> Plain:
    validators = {one.id: one.name for one in api.request_validators.values()}
    fields = msgspec.to_builtins(replace(api, resources={}, models=None, request_validators={}))
    fields["validators"] = sorted(
        (one.name, one.validate_request_body, one.validate_request_parameters)
        for one in api.request_validators.values()
    )
    held = {
        f"{verb} {node.path}": _without_ids(method, node.id, validators)
        for node in api.resources.values()
        for verb, method in node.methods.items()
    }
    schemas = {
        one.name: (msgspec.json.decode(one.schema) | {"description": one.description}) for one in models(api).values()
    }
    return Plain(fields, held, schemas)


def _without_ids(method: StoredMethod, resource_id: str, validators: dict[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(method)
    shown["requestValidatorId"] = validators.get(method.request_validator_id or "")
    integration = shown["methodIntegration"]
    assert integration["cacheNamespace"] == resource_id
    del integration["cacheNamespace"]
    return shown


@pytest.mark.parametrize("form", ["oas30", "swagger"])
@settings(max_examples=40)
@given(data=st.data())
def test_an_export_imports_to_the_same_api(form: ExportType, data: st.DataObject) -> None:
    api = data.draw(apis(form))
    found = Exporter(api, snapshot(api), "prod", form).exported()
    assert found.warnings == ()
    assert plain(read(msgspec.json.encode(found.document))) == plain(api)


def read(document: bytes) -> RestApi:
    """A new API, with what a document says."""
    numbers = count()
    return imported(replace(root(), models={}), read_document(document), ImportOptions(lambda: f"n{next(numbers)}")).api


def method_of(document: dict[str, Any], path: str = "/pets", verb: str = "get") -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][verb]
    return found


@pytest.fixture
def pets() -> RestApi:
    """GET /pets needs a key and has an integration; POST /pets is open."""
    api = add_resource(root(), "root", "pets", "pets")
    needs_key = StoredMethod(api_key_required=True, method_integration=integration_defaults("MOCK", "pets"))
    node = replace(
        api.resources["pets"], methods={"GET": needs_key, "POST": replace(needs_key, api_key_required=False)}
    )
    return replace(api, resources={**api.resources, "pets": node})


@pytest.mark.parametrize("extensions", ["", "integrations", "authorizers", "apigateway"])
def test_only_the_requested_extensions_are_written(pets: RestApi, extensions: Any) -> None:
    document = Exporter(pets, snapshot(pets), "prod", "oas30", extensions).exported().document
    has_integration = "x-amazon-apigateway-integration" in method_of(document)
    assert has_integration is (extensions in ("integrations", "apigateway"))
    assert method_of(document)["security"] == [{"api_key": []}]
    assert "security" not in method_of(document, verb="post")


def test_methods_are_exported_as_the_stage_serves_them(pets: RestApi) -> None:
    """A warning names the edited ones: a deployment keeps no integrations."""
    served = snapshot(pets)
    node = pets.resources["pets"]
    edited = replace(pets, resources={**pets.resources, "pets": replace(node, methods={"GET": node.methods["GET"]})})
    found = Exporter(edited, served, "prod").exported()
    assert method_of(found.document, verb="post") == {"responses": {}}
    assert found.warnings == ("edited since the deployment, and exported as it is served: POST /pets",)


def test_an_export_in_yaml_equals_the_one_in_json(pets: RestApi) -> None:
    document = Exporter(replace(pets, version="007", description="yes"), snapshot(pets), "prod").exported().document
    assert read_document(as_yaml(document).encode()) == document

"""Models, request validators and the things that are never here, through boto3, in AWS's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.test_control_restapis import Client, refused
from tests.integration.test_control_restapis import client as client
from tests.support.control import Control, boto
from tests.support.control import control as control

OBJECT = json.dumps({"type": "object"})
JSON_TYPE = "application/json"
NOT_HERE = "is stored and not carried out: requests are not validated here"


def warning(answer: dict[str, Any]) -> str | None:
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers.get("x-authz-warning")


def model(client: Client, name: str = "Pet", schema: str = OBJECT, **members: Any) -> Any:
    return client.create_model(restApiId=client.api, name=name, contentType=JSON_TYPE, schema=schema, **members)


def validator(client: Client, name: str = "body", **members: Any) -> str:
    return str(client.create_request_validator(restApiId=client.api, name=name, **members)["id"])


# --- models -------------------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was_made(client: Client) -> None:
    made = model(client, description="an animal")
    assert warning(made) == f"model Pet {NOT_HERE}"
    found = client.get_model(restApiId=client.api, modelName="Pet")
    assert {name: found[name] for name in ("id", "name", "description", "schema", "contentType")} == {
        "id": made["id"],
        "name": "Pet",
        "description": "an animal",
        "schema": OBJECT,
        "contentType": JSON_TYPE,
    }
    assert warning(found) is None
    client.delete_model(restApiId=client.api, modelName="Pet")
    missing = refused(client.get_model, restApiId=client.api, modelName="Pet")
    assert missing == (404, "NotFoundException", "Invalid model name specified: Pet")


def test_a_fresh_api_has_awss_two_models(client: Client) -> None:
    found = client.get_models(restApiId=client.api)["items"]
    assert [one["name"] for one in found] == ["Empty", "Error"]
    assert json.loads(found[0]["schema"])["title"] == "Empty Schema"
    assert json.loads(found[1]["schema"])["properties"] == {"message": {"type": "string"}}
    for name in ("Empty", "Error"):
        client.delete_model(restApiId=client.api, modelName=name)
    assert client.get_models(restApiId=client.api)["items"] == []


def test_models_are_listed_in_pages(client: Client) -> None:
    model(client)
    first = client.get_models(restApiId=client.api, limit=2)
    rest = client.get_models(restApiId=client.api, limit=2, position=first["position"])
    assert [one["name"] for one in (*first["items"], *rest["items"])] == ["Empty", "Error", "Pet"]


@pytest.mark.parametrize(
    ("name", "content_type", "schema", "expected"),
    [
        ("", JSON_TYPE, OBJECT, "Model name must be non-empty"),
        ("My-Pet", JSON_TYPE, OBJECT, "Model name must be alphanumeric: My-Pet"),
        ("Pet", JSON_TYPE, "", "Model schema must have at least 1 property or array items defined"),
        ("Pet", "application/xml", "", "Model schema must have at least 1 property or array items defined"),
        ("Pet", JSON_TYPE, "{", "Invalid model specified: Validation Result: warnings : [], errors : "),
        ("Pet", JSON_TYPE, "[]", "Invalid model specified: Validation Result: warnings : [], errors : "),
        ("Pet", JSON_TYPE, '"' + "a" * 400_001 + '"', "Model schema must not exceed 400000 characters"),
    ],
)
def test_a_model_is_refused_in_awss_words(
    client: Client, name: str, content_type: str, schema: str, expected: str
) -> None:
    call = {"restApiId": client.api, "name": name, "contentType": content_type, "schema": schema}
    status, code, message = refused(client.create_model, **call)
    assert (status, code) == (400, "BadRequestException")
    assert message.startswith(expected)


def test_a_second_model_of_a_name_is_a_conflict(client: Client) -> None:
    model(client)
    assert refused(model, client) == (409, "ConflictException", "Model name already exists for this REST API")


def test_a_model_is_patched(client: Client) -> None:
    model(client, description="before")
    named = {"restApiId": client.api, "modelName": "Pet"}
    changed = client.patch("update_model", ("replace", "/schema", '{"type":"array"}'), **named)
    assert changed["schema"] == '{"type":"array"}'
    assert "description" not in client.patch("update_model", ("replace", "/description", ""), **named)
    bad = refused(client.patch, "update_model", ("replace", "/name", "a"), **named)
    assert bad[2] == "Invalid patch path  '/name' specified for op 'replace'. Must be one of: [/description, /schema]"
    bad = refused(client.patch, "update_model", ("add", "/schema", "a"), **named)
    assert bad[2] == "Invalid patch path  '/schema' specified for op 'add'. Please choose supported operations"


def test_a_model_that_is_referred_to_stays(client: Client) -> None:
    address = f"https://apigateway.amazonaws.com/restapis/{client.api}/models"
    model(client)
    model(client, "Pets", json.dumps({"type": "array", "items": {"$ref": f"{address}/Pet"}}))
    named = client.method(client.root)
    client.patch("update_method", ("add", "/requestModels/application~1json", "Pets"), **named)
    client.put_method_response(**named, statusCode="200", responseModels={JSON_TYPE: "Empty"})
    for name, place in (
        ("Pets", "method request: //GET"),
        ("Empty", "method response: //GET/200"),
        ("Pet", "model: Pets"),
    ):
        kept = refused(client.delete_model, restApiId=client.api, modelName=name)
        assert kept == (409, "ConflictException", f"Cannot delete model '{name}', is referenced in {place}")
    client.delete_method(**named)
    client.delete_model(restApiId=client.api, modelName="Pets")
    client.delete_model(restApiId=client.api, modelName="Pet")


def test_a_flattened_model_holds_the_models_it_refers_to(client: Client) -> None:
    address = f"https://apigateway.amazonaws.com/restapis/{client.api}/models"
    model(client, "Pet", json.dumps({"properties": {"friends": {"$ref": f"{address}/Pets"}}}))
    model(client, "Pets", json.dumps({"type": "array", "items": {"$ref": f"{address}/Pet"}}))
    found = json.loads(client.get_model(restApiId=client.api, modelName="Pets", flatten=True)["schema"])
    assert found["items"] == {"$ref": "#/definitions/Pet"}
    assert found["definitions"]["Pet"]["properties"]["friends"] == {"$ref": "#/definitions/Pets"}


def test_a_method_names_models_and_validators_that_are_there(client: Client) -> None:
    named = {"restApiId": client.api, "resourceId": client.root, "httpMethod": "GET", "authorizationType": "NONE"}
    bad = refused(client.put_method, **named, requestModels={JSON_TYPE: "Pet"})
    assert bad == (400, "BadRequestException", "Invalid model identifier specified: Pet")
    bad = refused(client.put_method, **named, requestValidatorId="none")
    assert bad == (400, "BadRequestException", "Invalid Request Validator identifier specified")
    made = client.put_method(**named, requestModels={JSON_TYPE: "Error"}, requestValidatorId=validator(client))
    assert warning(made) == f"requestValidatorId {NOT_HERE}"
    del named["authorizationType"]
    bad = refused(client.patch, "update_method", ("replace", "/requestValidatorId", "none"), **named)
    assert bad[2] == "Invalid Request Validator identifier specified"
    bad = refused(client.put_method_response, **named, statusCode="200", responseModels={JSON_TYPE: "Pet"})
    assert bad[2] == "Invalid model identifier specified: Pet"


# --- request validators -------------------------------------------------------------------------------------------


def test_a_validator_comes_back_as_it_was_made(client: Client) -> None:
    made = client.create_request_validator(restApiId=client.api, name="all", validateRequestBody=True)
    assert warning(made) == f"request validator all {NOT_HERE}"
    named = {"restApiId": client.api, "requestValidatorId": made["id"]}
    found = client.get_request_validator(**named)
    assert (found["name"], found["validateRequestBody"], found["validateRequestParameters"]) == ("all", True, False)
    changed = client.patch("update_request_validator", ("replace", "/validateRequestBody", "false"), **named)
    assert (changed["validateRequestBody"], warning(changed)) == (False, None)
    assert [one["id"] for one in client.get_request_validators(restApiId=client.api)["items"]] == [made["id"]]
    client.delete_request_validator(**named)
    assert client.get_request_validators(restApiId=client.api)["items"] == []
    unknown = (404, "NotFoundException", "Invalid Request Validator identifier specified")
    assert refused(client.delete_request_validator, **named) == unknown
    assert refused(client.get_request_validator, **{**named, "restApiId": "none"}) == unknown


def test_a_validator_is_refused_in_awss_words(client: Client) -> None:
    bad = refused(client.create_request_validator, restApiId=client.api, name=" ")
    assert bad == (400, "BadRequestException", "Request Validator name cannot be blank")
    bad = refused(client.create_request_validator, restApiId="none", name="a")
    assert bad == (400, "BadRequestException", "Invalid REST API identifier specified")
    named = {"restApiId": client.api, "requestValidatorId": validator(client)}
    bad = refused(client.patch, "update_request_validator", ("replace", "/name", ""), **named)
    assert bad[2] == "Request Validator name cannot be blank"


def test_a_validator_that_a_method_names_stays(client: Client) -> None:
    made = validator(client)
    named = {"restApiId": client.api, "resourceId": client.root, "httpMethod": "GET"}
    client.put_method(**named, authorizationType="NONE", requestValidatorId=made)
    kept = refused(client.delete_request_validator, restApiId=client.api, requestValidatorId=made)
    assert kept[:2] == (409, "ConflictException")
    assert "//GET" in kept[2]
    client.patch("update_method", ("replace", "/requestValidatorId", ""), **named)
    client.delete_request_validator(restApiId=client.api, requestValidatorId=made)


# --- absent resources ----------------------------------------------------------------------------------------------


def test_lists_of_things_that_are_never_here_are_empty(client: Client) -> None:
    of_api = ("get_authorizers", "get_documentation_parts", "get_documentation_versions")
    of_account = ("get_client_certificates", "get_vpc_links", "get_sdk_types", "get_domain_name_access_associations")
    assert [getattr(client, name)(restApiId=client.api)["items"] for name in of_api] == [[], [], []]
    assert [getattr(client, name)()["items"] for name in of_account] == [[], [], [], []]
    for name in of_api:
        assert refused(getattr(client, name), restApiId="none")[:2] == (404, "NotFoundException")


def test_one_of_them_is_not_found(client: Client) -> None:
    calls: tuple[tuple[str, dict[str, str], str], ...] = (
        ("get_authorizer", {"restApiId": client.api, "authorizerId": "a"}, "Authorizer identifier"),
        ("delete_authorizer", {"restApiId": client.api, "authorizerId": "a"}, "Authorizer identifier"),
        ("get_vpc_link", {"vpcLinkId": "a"}, "Vpc Link identifier"),
        ("get_client_certificate", {"clientCertificateId": "a"}, "Client Certificate identifier"),
        (
            "get_documentation_part",
            {"restApiId": client.api, "documentationPartId": "a"},
            "Documentation part identifier",
        ),
        ("get_sdk_type", {"id": "java"}, "sdk type"),
    )
    for name, named, what in calls:
        assert refused(getattr(client, name), **named) == (404, "NotFoundException", f"Invalid {what} specified")


def test_making_one_of_them_is_not_implemented(client: Client) -> None:
    made = refused(client.create_authorizer, restApiId=client.api, name="a", type="TOKEN")
    assert made[:2] == (501, "NotImplementedException")


def test_caches_are_flushed_where_the_stage_is_there(client: Client) -> None:
    named = client.stage()
    for flush in (client.flush_stage_cache, client.flush_stage_authorizers_cache):
        assert flush(**named)["ResponseMetadata"]["HTTPStatusCode"] == 202
        assert refused(flush, **{**named, "stageName": "none"})[:2] == (404, "NotFoundException")
        assert refused(flush, **{**named, "restApiId": "none"})[:2] == (404, "NotFoundException")


def test_a_read_only_caller_sees_lists_and_flushes_nothing(control: Control, client: Client) -> None:
    named = client.stage()
    reader = boto(control.as_reader())
    assert reader.get_authorizers(restApiId=client.api)["items"] == []
    assert refused(reader.flush_stage_cache, **named)[1] == "AccessDeniedException"


# --- OpenAPI ------------------------------------------------------------------------------------------------------

DOCUMENT = {
    "openapi": "3.0.1",
    "info": {"title": "pets", "version": "1"},
    "paths": {
        "/pets": {
            "post": {
                "x-amazon-apigateway-request-validator": "all",
                "x-amazon-apigateway-integration": {"type": "mock"},
                "requestBody": {"content": {JSON_TYPE: {"schema": {"$ref": "#/components/schemas/Pets"}}}},
                "responses": {"200": {"description": "ok"}},
            }
        }
    },
    "components": {
        "schemas": {
            "Pet": {"type": "object", "description": "an animal"},
            "Pets": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}},
        }
    },
    "x-amazon-apigateway-request-validators": {"all": {"validateRequestBody": True, "validateRequestParameters": True}},
}


def test_an_imported_document_brings_its_models_and_validators(client: Client) -> None:
    made = client.import_rest_api(body=json.dumps(DOCUMENT), failOnWarnings=True)
    assert warning(made) == f"request validators {NOT_HERE.replace('is stored', 'are stored')}"
    found = {one["name"]: one for one in client.get_models(restApiId=made["id"])["items"]}
    assert (sorted(found), found["Pet"]["description"]) == (["Pet", "Pets"], "an animal")
    address = f"https://apigateway.amazonaws.com/restapis/{made['id']}/models/Pet"
    assert json.loads(found["Pets"]["schema"])["items"] == {"$ref": address}
    validators = client.get_request_validators(restApiId=made["id"])["items"]
    assert [(one["name"], one["validateRequestBody"]) for one in validators] == [("all", True)]
    pets = next(one for one in client.get_resources(restApiId=made["id"])["items"] if one["path"] == "/pets")
    method = client.get_method(restApiId=made["id"], resourceId=pets["id"], httpMethod="POST")
    assert (method["requestModels"], method["requestValidatorId"]) == ({JSON_TYPE: "Pets"}, validators[0]["id"])


def test_a_merge_keeps_existing_models_and_an_overwrite_does_not(client: Client) -> None:
    model(client, "Own")
    kept = validator(client, "all")
    client.put_rest_api(restApiId=client.api, mode="merge", body=json.dumps(DOCUMENT))
    names = [one["name"] for one in client.get_models(restApiId=client.api)["items"]]
    assert names == ["Empty", "Error", "Own", "Pet", "Pets"]
    assert [one["id"] for one in client.get_request_validators(restApiId=client.api)["items"]] == [kept]
    client.put_rest_api(restApiId=client.api, mode="overwrite", body=json.dumps(DOCUMENT))
    assert [one["name"] for one in client.get_models(restApiId=client.api)["items"]] == ["Pet", "Pets"]


@pytest.mark.parametrize("position", ["!!", "!", "%", "====", "YQ==!", "YQ=="])
def test_a_position_that_is_none_is_refused(client: Client, position: str) -> None:
    for listing in (client.get_models, client.get_resources, client.get_request_validators):
        assert refused(listing, restApiId=client.api, position=position)[:2] == (400, "BadRequestException")

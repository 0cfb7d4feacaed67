"""GetExport, through boto3: the document of a stage, which makes the same API again when it is imported."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.integration.test_control_restapis import Client, refused
from tests.integration.test_control_restapis import client as client
from tests.support.control import control as control

DOCUMENT = {
    "openapi": "3.0.1",
    "info": {"title": "Pets", "version": "7"},
    "paths": {
        "/pets": {
            "get": {
                "responses": {"200": {"description": "200 response"}},
                "security": [{"api_key": []}],
                "x-amazon-apigateway-integration": {"type": "mock"},
            }
        }
    },
    "components": {"securitySchemes": {"api_key": {"type": "apiKey", "name": "x-api-key", "in": "header"}}},
}


@pytest.fixture
def pets(client: Client) -> str:
    """An API, imported and deployed to the stage `prod`."""
    api_id = str(client.import_rest_api(body=json.dumps(DOCUMENT).encode())["id"])
    client.create_deployment(restApiId=api_id, stageName="prod")
    return api_id


def test_an_export_returns_the_imported_document(client: Client, pets: str) -> None:
    found = client.get_export(
        restApiId=pets, stageName="prod", exportType="oas30", parameters={"extensions": "apigateway"}
    )
    assert json.loads(found["body"].read()) == {**DOCUMENT, "servers": [{"url": "/prod"}]}
    assert (found["contentType"], found["contentDisposition"]) == (
        "application/octet-stream",
        'attachment; filename="prod.json"',
    )


def test_an_export_in_yaml_and_in_swagger(client: Client, pets: str) -> None:
    """Without extensions it is what any tool reads."""
    found = client.get_export(restApiId=pets, stageName="prod", exportType="swagger", accepts="application/yaml")
    document = yaml.safe_load(found["body"].read())
    assert (document["swagger"], document["basePath"]) == ("2.0", "/prod")
    assert document["paths"] == {
        "/pets": {"get": {"responses": {"200": {"description": "200 response"}}, "security": [{"api_key": []}]}}
    }
    assert found["contentDisposition"] == 'attachment; filename="prod.yaml"'


def test_an_edit_reaches_an_export_with_the_next_deployment(client: Client, pets: str) -> None:
    (root,) = [one["id"] for one in client.get_resources(restApiId=pets)["items"] if one["path"] == "/"]
    client.put_method(restApiId=pets, resourceId=root, httpMethod="GET", authorizationType="NONE")
    client.put_integration(restApiId=pets, resourceId=root, httpMethod="GET", type="MOCK")
    assert list(exported(client, pets)) == ["/pets"]
    client.create_deployment(restApiId=pets, stageName="prod")
    assert list(exported(client, pets)) == ["/", "/pets"]


def exported(client: Client, api_id: str) -> dict[str, object]:
    found = client.get_export(restApiId=api_id, stageName="prod", exportType="oas30")
    paths: dict[str, object] = json.loads(found["body"].read())["paths"]
    return paths


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"stageName": "nope"}, (404, "NotFoundException", "Invalid stage identifier specified")),
        (
            {"exportType": "wsdl"},
            (400, "BadRequestException", "Invalid export type specified. Must be one of: [oas30, swagger]"),
        ),
        (
            {"parameters": {"extensions": "all"}},
            (
                400,
                "BadRequestException",
                "Invalid extensions specified. Must be one of: [integrations, authorizers, apigateway]",
            ),
        ),
    ],
)
def test_an_export_with_an_unknown_name_is_refused(
    client: Client, pets: str, given: dict[str, object], refusal: tuple[int, str, str]
) -> None:
    words = {"restApiId": pets, "stageName": "prod", "exportType": "oas30", **given}
    assert refused(client.get_export, **words) == refusal

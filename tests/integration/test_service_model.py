"""AWS's own description of its API, member by member: bodies are read, answers filled, but for what a table names."""

from __future__ import annotations

import json
from typing import Any

import boto3

from authz.control.api import operations
from authz.control.operations import absent
from authz.control.operations.unsupported import UNSUPPORTED
from authz.control.unfilled import UNFILLED, UNREAD
from tests.support.control import Control, boto, raw
from tests.support.control import control as control

MODEL = boto3.client("apigateway", region_name="us-east-1").meta.service_model
SERVED = [
    operation
    for operation in operations()
    if operation not in (*UNSUPPORTED, *absent.OPERATIONS) and operation.name in MODEL.operation_names
]


class Named(dict[str, str]):
    """Words in the place of the parameters of paths."""

    def __missing__(self, name: str) -> str:
        return name


NAMED = Named(status_code="200", response_type="THROTTLED")


def ignored(control: Control) -> set[str]:
    """The members of bodies that no operation reads: a value of a wrong type there is not refused."""
    found = set()
    for operation in SERVED:
        shape = MODEL.operation_model(operation.name).input_shape
        path = operation.path.format_map(NAMED)
        for name, member in (shape.members if shape else {}).items():
            if member.serialization.get("location") or member.type_name == "blob" or operation.name == "UpdateUsage":
                continue  # UpdateUsage looks for the plan first, and takes no other member than the patches
            named = member.serialization.get("name", name)
            wrong = 1 if member.type_name in ("structure", "map", "list", "string", "timestamp") else [1]
            answer = raw(control, operation.verb, path, {named: wrong})
            if answer.code != "SerializationException" or f".{named}" not in answer.json()["message"]:
                found.add(f"{operation.name}.{named}")
    return found


def test_every_member_of_a_body_is_read(control: Control) -> None:
    assert sorted(ignored(control) ^ UNREAD.keys()) == []


class Seen:
    """The members of output shapes that answers have filled."""

    def __init__(self) -> None:
        self.members: set[str] = set()

    def note(self, http_response: Any, parsed: Any, model: Any, **_: Any) -> None:
        if model.output_shape is not None and http_response.status_code < 300:
            self._walk(model.output_shape, parsed)

    def _walk(self, shape: Any, value: Any) -> None:
        match shape.type_name:
            case "structure":
                for name, member in shape.members.items():
                    if value.get(name) is not None:
                        self.members.add(f"{shape.name}.{name}")
                        self._walk(member, value[name])
            case "map":
                for each in value.values():
                    self._walk(shape.value, each)
            case "list":
                for each in value:
                    self._walk(shape.member, each)


def members() -> set[str]:
    """All members of the output shapes of the operations that are served."""
    found: set[str] = set()
    for operation in SERVED:
        _collect(MODEL.operation_model(operation.name).output_shape, found)
    return found


def _collect(shape: Any, found: set[str]) -> None:
    match shape.type_name if shape else "":
        case "structure":
            for name, member in shape.members.items():
                if f"{shape.name}.{name}" not in found:
                    found.add(f"{shape.name}.{name}")
                    _collect(member, found)
        case "map":
            _collect(shape.value, found)
        case "list":
            _collect(shape.member, found)


def test_every_member_of_an_answer_is_filled(control: Control) -> None:
    client, seen = boto(control), Seen()
    client.meta.events.register("after-call.apigateway.*", seen.note)
    show_everything(client)
    assert sorted((members() - seen.members) ^ UNFILLED.keys()) == []


def show_everything(client: Any) -> None:
    """Make one of everything with all that it can have, and look at it."""
    api = client.create_rest_api(
        name="a", description="d", version="1", binaryMediaTypes=["a/b"], minimumCompressionSize=0, policy="{}",
        tags={"a": "b"}, endpointConfiguration={"types": ["PRIVATE"], "vpcEndpointIds": ["vpce-1"]},
        securityPolicy="SecurityPolicy_TLS13_1_3_2025_09", endpointAccessMode="STRICT",
    )  # fmt: skip
    at = {"restApiId": api["id"]}
    client.create_rest_api(name="b")
    client.get_rest_apis(limit=1)
    client.get_rest_api(**at)
    validator = client.create_request_validator(**at, name="v", validateRequestBody=True)
    client.create_request_validator(**at, name="w")
    client.get_request_validators(**at, limit=1)
    client.create_model(**at, name="M", contentType="application/json", schema="{}", description="d")
    client.get_models(**at, limit=1)
    pets = client.create_resource(**at, parentId=api["rootResourceId"], pathPart="pets")["id"]
    method = {**at, "resourceId": pets, "httpMethod": "GET"}
    client.put_method(
        **method, authorizationType="AWS_IAM", operationName="o", requestParameters={"method.request.header.a": True},
        requestModels={"application/json": "M"}, requestValidatorId=validator["id"], authorizationScopes=["s"],
        apiKeyRequired=True,
    )  # fmt: skip
    client.put_method_response(
        **method, statusCode="200", responseParameters={"method.response.header.a": True},
        responseModels={"application/json": "M"},
    )  # fmt: skip
    client.put_integration(
        **method, type="HTTP", integrationHttpMethod="GET", uri="http://a", connectionType="VPC_LINK", connectionId="c",
        credentials="c", requestParameters={"integration.request.header.a": "'a'"}, requestTemplates={"a/b": "t"},
        contentHandling="CONVERT_TO_TEXT", tlsConfig={"insecureSkipVerification": True}, integrationTarget="t",
        responseTransferMode="BUFFERED",
    )  # fmt: skip
    client.put_integration_response(
        **method, statusCode="200", selectionPattern="p", responseParameters={"method.response.header.a": "'a'"},
        responseTemplates={"a/b": "t"}, contentHandling="CONVERT_TO_TEXT",
    )  # fmt: skip
    client.get_resources(**at, limit=1, embed=["methods"])
    client.get_resource(**at, resourceId=pets, embed=["methods"])
    client.put_gateway_response(
        **at, responseType="THROTTLED", statusCode="429", responseParameters={"gatewayresponse.header.a": "'a'"}
    )
    client.get_gateway_responses(**at)
    first = client.create_deployment(**at, description="d")["id"]
    client.create_deployment(**at)
    client.get_deployments(**at, limit=1)
    client.get_deployment(**at, deploymentId=first, embed=["apisummary"])
    client.create_stage(
        **at, stageName="prod", deploymentId=first, description="d", cacheClusterEnabled=True, cacheClusterSize="0.5",
        variables={"a": "b"}, documentationVersion="1", tracingEnabled=True, tags={"a": "b"},
        canarySettings={"percentTraffic": 1.0, "deploymentId": first, "stageVariableOverrides": {"a": "c"},
                        "useStageCache": True},
    )  # fmt: skip
    patches = [
        ("/accessLogSettings/format", "$context.requestId"),
        ("/accessLogSettings/destinationArn", "arn:aws:logs:us-east-1:000000000000:log-group:a"),
        ("/*/*/throttling/rateLimit", "1"),
        ("/*/*/logging/loglevel", "INFO"),
        ("/clientCertificateId", "c"),
        ("/webAclArn", "arn:aws:wafv2:us-east-1:000000000000:regional/webacl/a/b"),
    ]
    for path, value in patches:
        client.update_stage(**at, stageName="prod", patchOperations=[{"op": "replace", "path": path, "value": value}])
    client.get_export(**at, stageName="prod", exportType="oas30")
    client.get_stages(**at)
    client.import_rest_api(body=json.dumps({"swagger": "2.0", "paths": {"/a": {"trace": {}}}, "info": {"title": "a"}}))
    plan = client.create_usage_plan(
        name="p", description="d", throttle={"rateLimit": 1.0, "burstLimit": 1}, tags={"a": "b"},
        quota={"limit": 1, "offset": 0, "period": "DAY"},
        apiStages=[
            {"apiId": api["id"], "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 1.0, "burstLimit": 1}}}
        ],
    )  # fmt: skip
    named = {"usagePlanId": plan["id"]}
    product = [{"op": "replace", "path": "/productCode", "value": "c"}]
    client.update_usage_plan(**named, patchOperations=product)
    client.create_usage_plan(name="q")
    client.get_usage_plans(limit=1)
    client.get_usage_plan(**named)
    key = client.create_api_key(
        name="k", description="d", enabled=True, customerId="c", tags={"a": "b"}, generateDistinctId=True
    )
    client.create_api_key(name="l")
    client.get_api_keys(limit=1, includeValues=True)
    client.get_api_key(apiKey=key["id"], includeValue=True)
    for each in (key, client.create_api_key(name="m")):
        client.create_usage_plan_key(**named, keyId=each["id"], keyType="API_KEY")
    client.get_usage_plan_keys(**named, limit=1)
    client.get_usage_plan_key(**named, keyId=key["id"])
    client.get_usage(**named, startDate="2026-01-01", endDate="2026-01-02", limit=1)
    client.import_api_keys(body=b"name,key\na,01234567890123456789\na,01234567890123456789\n", format="csv")
    role = [{"op": "replace", "path": "/cloudwatchRoleArn", "value": "arn:aws:iam::000000000000:role/a"}]
    client.update_account(patchOperations=role)
    client.get_account()
    client.create_domain_name(
        domainName="a.example", policy="{}", routingMode="BASE_PATH_MAPPING_ONLY", endpointAccessMode="STRICT",
        certificateName="n", certificateArn="arn:aws:acm:us-east-1:000000000000:certificate/a",
        regionalCertificateName="r", regionalCertificateArn="arn:aws:acm:us-east-1:000000000000:certificate/b",
        endpointConfiguration={"types": ["REGIONAL"]}, securityPolicy="TLS_1_2", tags={"a": "b"},
        mutualTlsAuthentication={"truststoreUri": "s3://a/b", "truststoreVersion": "1"},
        ownershipVerificationCertificateArn="arn:aws:acm:us-east-1:000000000000:certificate/c",
    )  # fmt: skip
    client.create_domain_name(domainName="b.example", certificateName="n")
    client.get_domain_names(limit=1)
    for path in ("v1", "v2"):
        client.create_base_path_mapping(domainName="a.example", basePath=path, restApiId=api["id"], stage="prod")
    client.get_base_path_mappings(domainName="a.example", limit=1)
    client.get_tags(resourceArn=f"arn:aws:apigateway:us-east-1::/restapis/{api['id']}")

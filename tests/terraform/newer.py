"""What 6.x of Terraform's AWS provider sends otherwise than 5.x, or in addition.

Its Go SDK v2 leaves out each false and each zero of a body, and a patch's value that is nothing.
"""

from __future__ import annotations

from typing import Final

from tests.terraform.engine import ABSENT, Send, Table, Update, patch
from tests.terraform.tables import (
    ACCOUNT,
    API,
    BEHIND,
    CHECK,
    DEPLOYMENT,
    DEPLOYMENT_PATH,
    DOMAIN,
    INTEGRATION,
    KEY,
    LOGS,
    MAPPING,
    METHOD,
    METHOD_,
    OPENAPI,
    PLAN,
    RESOURCE,
    ROLE,
    STAGE,
    USAGE_PLAN,
    replaced,
)

NEWER: Final = "6"
PARAMETER: Final = "method.request.querystring.n"
HEADER: Final = "integration.request.header.a"

REST_API: Final = Table(
    resource="rest_api with an address type",
    form=NEWER,
    create=[
        Send(
            "POST",
            "/restapis",
            {"name": "Pets", "endpointConfiguration": {"types": ["REGIONAL"], "ipAddressType": "ipv4"}},
            201,
            {"api": "id"},
        ),
        Send("PUT", f"{API}?mode=overwrite", OPENAPI, 200),
        patch(API, ("replace", "/endpointConfiguration/ipAddressType", "ipv4"), ("replace", "/name", "Pets")),
        Send("GET", f"{API}/resources", status=200),
    ],
    read=API,
    shows={"name": "Pets", "endpointConfiguration>ipAddressType": "ipv4", "disableExecuteApiEndpoint": False},
    updates=[
        replaced("ip_address_type", API, ("/endpointConfiguration/ipAddressType", "dualstack", "dualstack")),
    ],
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
PRIVATE_API: Final = Table(
    resource="rest_api that is private",
    form=NEWER,
    create=[
        Send(
            "POST",
            "/restapis",
            {
                "name": "Pets",
                "endpointConfiguration": {
                    "types": ["PRIVATE"],
                    "ipAddressType": "dualstack",
                    "vpcEndpointIds": ["vpce-1"],
                },
            },
            201,
            {"api": "id"},
        )
    ],
    read=API,
    shows={
        "endpointConfiguration": {"types": ["PRIVATE"], "ipAddressType": "dualstack", "vpcEndpointIds": ["vpce-1"]},
    },
    updates=[
        Update(
            "vpc_endpoint_ids: all go, and all come back",
            [
                patch(
                    API,
                    ("remove", "/endpointConfiguration/vpcEndpointIds", "vpce-1"),
                    ("add", "/endpointConfiguration/vpcEndpointIds", "vpce-1"),
                    ("add", "/endpointConfiguration/vpcEndpointIds", "vpce-2"),
                )
            ],
            {"endpointConfiguration>vpcEndpointIds": ["vpce-1", "vpce-2"]},
        ),
    ],
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
REQUEST_VALIDATOR: Final = Table(
    resource="request_validator that checks nothing",
    form=NEWER,
    needs=["rest_api without members"],
    create=[Send("POST", f"{API}/requestvalidators", {"name": "none"}, 201, {"validator": "id"})],
    read=CHECK,
    shows={"name": "none", "validateRequestBody": False, "validateRequestParameters": False},
    destroy=[Send("DELETE", CHECK, status=202)],
    gone=CHECK,
)
KEYLESS_METHOD: Final = Table(
    resource="method without a key",
    form=NEWER,
    needs=[*RESOURCE.needs, "resource", "model", "request_validator"],
    create=[Send("PUT", METHOD, {"authorizationType": "NONE", "requestParameters": {PARAMETER: True}}, 201)],
    read=METHOD,
    shows={
        "authorizationType": "NONE",
        "apiKeyRequired": False,
        "requestParameters": {PARAMETER: True},
        "requestModels": ABSENT,
        "operationName": ABSENT,
        "requestValidatorId": ABSENT,
    },
    updates=[
        replaced("api_key_required", METHOD, ("/apiKeyRequired", "true", True)),
        Update(
            "request_models",
            [patch(METHOD, ("add", "/requestModels/application~1json", "Pet"))],
            {"requestModels": {"application/json": "Pet"}},
        ),
        Update(
            "request_models: one that stays is replaced by itself",
            [
                patch(
                    METHOD,
                    ("replace", "/requestModels/application~1json", "Pet"),
                    ("add", "/requestModels/text~1plain", "Empty"),
                )
            ],
            {"requestModels": {"application/json": "Pet", "text/plain": "Empty"}},
        ),
        Update(
            "no request_models",
            [
                patch(
                    METHOD,
                    ("remove", "/requestModels/application~1json", None),
                    ("remove", "/requestModels/text~1plain", None),
                )
            ],
            {"requestModels": ABSENT},
        ),
        Update(
            "request_parameters",
            [patch(METHOD, ("replace", f"/requestParameters/{PARAMETER}", "false"))],
            {"requestParameters": {PARAMETER: False}},
        ),
        replaced("request_validator_id", METHOD, ("/requestValidatorId", "{validator}", "{validator}")),
        Update(
            "no request_validator_id",
            [patch(METHOD, ("replace", "/requestValidatorId", None))],
            {"requestValidatorId": ABSENT},
        ),
        replaced("operation_name", METHOD, ("/operationName", "list", "list")),
        Update("no operation_name", [patch(METHOD, ("replace", "/operationName", None))], {"operationName": ABSENT}),
    ],
    destroy=[Send("DELETE", METHOD, status=204)],
    gone=METHOD,
)
METHOD_IN_USE: Final = Table(
    resource="method with an integration",
    form=NEWER,
    needs=[*INTEGRATION.needs, "integration"],
    create=[
        patch(METHOD, ("replace", f"/requestParameters/{PARAMETER}", "false")),
        Send("GET", BEHIND, status=200),
    ],
    read=METHOD,
    shows={"requestParameters": {PARAMETER: False}},
)
STREAM: Final = Table(
    resource="integration that streams",
    form=NEWER,
    needs=[*METHOD_.needs, "method"],
    create=[
        Send(
            "PUT",
            BEHIND,
            {
                "type": "HTTP_PROXY",
                "httpMethod": "GET",
                "uri": "https://upstream.example/pets",
                "connectionType": "INTERNET",
                "responseTransferMode": "STREAM",
                "timeoutInMillis": 900000,
                "cacheKeyParameters": [PARAMETER],
                "cacheNamespace": "{pets}",
                "requestParameters": {HEADER: "'b'"},
                "tlsConfig": {},
            },
            201,
        )
    ],
    read=BEHIND,
    shows={
        "responseTransferMode": "STREAM",
        "timeoutInMillis": 900000,
        "cacheKeyParameters": [PARAMETER],
        "cacheNamespace": "{pets}",
        "requestParameters": {HEADER: "'b'"},
    },
    updates=[
        replaced(
            "response_transfer_mode",
            BEHIND,
            ("/responseTransferMode", "BUFFERED", "BUFFERED"),
            ("/timeoutInMillis", "29000", 29000),
        ),
        replaced("integration_target", BEHIND, ("/integrationTarget", "arn:aws:a:b:1:c", "arn:aws:a:b:1:c")),
        Update(
            "tls_config",
            [patch(BEHIND, ("replace", "/tlsConfig/insecureSkipVerification", "true"))],
            {"tlsConfig": {"insecureSkipVerification": True}},
        ),
        Update(
            "request_parameters: one goes with its value",
            [
                patch(
                    BEHIND,
                    ("remove", f"/requestParameters/{HEADER}", "'b'"),
                    ("add", "/requestParameters/integration.request.header.c", "'d'"),
                ),
                Send("GET", BEHIND, status=200),
            ],
            {"requestParameters": {"integration.request.header.c": "'d'"}},
        ),
        Update(
            "cache_key_parameters: after the others, in a patch of their own",
            [Send("GET", BEHIND, status=200), patch(BEHIND, ("remove", f"/cacheKeyParameters/{PARAMETER}", ""))],
            {"cacheKeyParameters": []},
        ),
        Update(
            "cache_key_parameters again",
            [Send("GET", BEHIND, status=200), patch(BEHIND, ("add", f"/cacheKeyParameters/{PARAMETER}", ""))],
            {"cacheKeyParameters": [PARAMETER]},
        ),
    ],
    destroy=[Send("DELETE", BEHIND, status=204)],
    gone=BEHIND,
)
RESPONSE: Final = f"{METHOD}/responses/200"
METHOD_RESPONSE: Final = Table(
    resource="method_response with a model",
    form=NEWER,
    needs=[*INTEGRATION.needs, "integration", "model"],
    create=[Send("PUT", RESPONSE, {"responseModels": {"application/json": "Pet"}}, 201)],
    read=RESPONSE,
    shows={"statusCode": "200", "responseModels": {"application/json": "Pet"}},
    updates=[
        Update(
            "response_models",
            [
                patch(
                    RESPONSE,
                    ("replace", "/responseModels/application~1json", "Empty"),
                    ("add", "/responseModels/text~1plain", "Empty"),
                )
            ],
            {"responseModels": {"application/json": "Empty", "text/plain": "Empty"}},
        ),
    ],
    destroy=[Send("DELETE", RESPONSE, status=204)],
    gone=RESPONSE,
)
STAGE_: Final = Table(
    resource="stage",
    form=NEWER,
    needs=[*DEPLOYMENT.needs, "deployment"],
    create=[
        Send("POST", f"{API}/deployments", {"description": "", "variables": {}}, 201, {"other": "id"}),
        Send(
            "POST",
            f"{API}/stages",
            {
                "stageName": "prod",
                "deploymentId": "{deployment}",
                "variables": {"a": "1"},
                "canarySettings": {"deploymentId": "{other}", "stageVariableOverrides": {"a": "3"}},
            },
            201,
        ),
        patch(
            STAGE,
            ("replace", "/accessLogSettings/destinationArn", LOGS),
            ("replace", "/accessLogSettings/format", "$context.requestId"),
        ),
    ],
    read=STAGE,
    shows={
        "deploymentId": "{deployment}",
        "canarySettings": {
            "deploymentId": "{other}",
            "percentTraffic": 0.0,
            "stageVariableOverrides": {"a": "3"},
            "useStageCache": False,
        },
        "tracingEnabled": False,
        "cacheClusterEnabled": False,
    },
    updates=[
        Update(
            "deployment_id: the canary keeps its own",
            [
                Send("POST", f"{API}/deployments", {"description": "", "variables": {}}, 201, {"next": "id"}),
                patch(STAGE, ("replace", "/deploymentId", "{next}")),
                Send("DELETE", DEPLOYMENT_PATH, status=202),
            ],
            {"deploymentId": "{next}"},
        ),
        Update(
            "canary_settings",
            [
                patch(
                    STAGE,
                    ("replace", "/canarySettings/stageVariableOverrides/a", "4"),
                    ("replace", "/canarySettings/percentTraffic", "10.000000"),
                    ("replace", "/canarySettings/useStageCache", "true"),
                    ("replace", "/canarySettings/deploymentId", "{next}"),
                )
            ],
            {
                "canarySettings": {
                    "deploymentId": "{next}",
                    "percentTraffic": 10.0,
                    "stageVariableOverrides": {"a": "4"},
                    "useStageCache": True,
                }
            },
        ),
        Update("no canary_settings", [patch(STAGE, ("remove", "/canarySettings", None))], {"canarySettings": ABSENT}),
        Update(
            "canary_settings again",
            [
                patch(
                    STAGE,
                    ("replace", "/canarySettings/stageVariableOverrides/a", "5"),
                    ("replace", "/canarySettings/percentTraffic", "20.000000"),
                    ("replace", "/canarySettings/deploymentId", "{other}"),
                )
            ],
            {
                "canarySettings": {
                    "deploymentId": "{other}",
                    "percentTraffic": 20.0,
                    "stageVariableOverrides": {"a": "5"},
                    "useStageCache": False,
                }
            },
        ),
    ],
    destroy=[Send("DELETE", STAGE, status=202)],
    gone=STAGE,
)
USAGE_PLAN_: Final = Table(
    resource="usage_plan with zeros",
    form=NEWER,
    needs=USAGE_PLAN.needs,
    create=[
        Send(
            "POST",
            "/usageplans",
            {
                "name": "Silver",
                "throttle": {"rateLimit": 50.0},
                "quota": {"limit": 5000, "period": "MONTH"},
                "apiStages": [{"apiId": "{api}", "stage": "prod", "throttle": {"/pets/GET": {"burstLimit": 2}}}],
            },
            201,
            {"plan": "id"},
        ),
    ],
    read=PLAN,
    shows={
        "throttle": {"rateLimit": 50.0},  # a number that is not there is read as 0
        "quota": {"limit": 5000, "period": "MONTH", "offset": 0},
        "apiStages": [{"apiId": "{api}", "stage": "prod", "throttle": {"/pets/GET": {"burstLimit": 2}}}],
    },
    updates=[
        Update(
            "throttle_settings",
            [patch(PLAN, ("replace", "/throttle/rateLimit", "60"), ("replace", "/throttle/burstLimit", "0"))],
            {"throttle": {"rateLimit": 60.0, "burstLimit": 0}},
        ),
    ],
    destroy=[patch(PLAN, ("remove", "/apiStages", "{api}:prod")), Send("DELETE", PLAN, status=202)],
    gone=PLAN,
)
API_KEY: Final = Table(
    resource="api_key that is disabled",
    form=NEWER,
    create=[
        Send(
            "POST",
            "/apikeys",
            {"name": "acme", "description": "Managed by Terraform", "value": ""},
            201,
            {"key": "id", "value": "value"},
        )
    ],
    read=f"{KEY}?includeValue=true",
    shows={"name": "acme", "enabled": False, "value": "{value}", "customerId": ABSENT},
    updates=[replaced("enabled", KEY, ("/enabled", "true", True))],
    destroy=[Send("DELETE", KEY, status=202)],
    gone=KEY,
)
DOMAIN_NAME: Final = Table(
    resource="domain_name with an owner's certificate",
    form=NEWER,
    create=[
        Send(
            "POST",
            "/domainnames",
            {
                "domainName": "API.example.com",
                "regionalCertificateArn": "arn:a",
                "endpointConfiguration": {"types": ["REGIONAL"]},
                "mutualTlsAuthentication": {"truststoreUri": "s3://b/k"},
                "ownershipVerificationCertificateArn": "arn:o",
            },
            201,
        )
    ],
    read=DOMAIN,
    shows={
        "domainNameId": ABSENT,
        "domainNameStatus": "AVAILABLE",
        "ownershipVerificationCertificateArn": "arn:o",
        "mutualTlsAuthentication": {"truststoreUri": "s3://b/k"},
        "policy": ABSENT,
    },
    updates=[
        Update(
            "mutual_tls_authentication",
            [
                patch(
                    DOMAIN,
                    ("replace", "/mutualTlsAuthentication/truststoreUri", "s3://b/l"),
                    ("replace", "/mutualTlsAuthentication/truststoreVersion", "2"),
                )
            ],
            {"mutualTlsAuthentication": {"truststoreUri": "s3://b/l", "truststoreVersion": "2"}},
        ),
        replaced(
            "ownership_verification_certificate_arn", DOMAIN, ("/ownershipVerificationCertificateArn", "arn:p", "arn:p")
        ),
    ],
    destroy=[Send("DELETE", DOMAIN, status=202)],
    gone=DOMAIN,
)
MOVED: Final = f"{DOMAIN}/basepathmappings/store"
MOVED_MAPPING: Final = Table(
    resource="base_path_mapping that moved",
    form=NEWER,
    needs=[*MAPPING.needs, "base_path_mapping"],
    create=[patch(MAPPING.read, ("replace", "/basePath", "store"), ("replace", "/stage", ""))],
    read=MOVED,
    shows={"basePath": "store", "restApiId": "{api}", "stage": ABSENT},
    destroy=[Send("DELETE", MOVED, status=202)],
    gone=MAPPING.read,
)
NO_ROLE: Final = patch("/account", ("replace", "/cloudwatchRoleArn", None))
ACCOUNT_: Final = Table(
    resource="account",
    form=NEWER,
    create=[NO_ROLE],
    read="/account",
    shows={**ACCOUNT.shows, "cloudwatchRoleArn": ABSENT},
    updates=[
        replaced("cloudwatch_role_arn", "/account", ("/cloudwatchRoleArn", ROLE, ROLE)),
        Update("destroyed: the role goes", [NO_ROLE], {"cloudwatchRoleArn": ABSENT}),
    ],
)

NEWER_TABLES: Final = (
    REST_API,
    PRIVATE_API,
    REQUEST_VALIDATOR,
    KEYLESS_METHOD,
    METHOD_IN_USE,
    STREAM,
    METHOD_RESPONSE,
    STAGE_,
    USAGE_PLAN_,
    API_KEY,
    DOMAIN_NAME,
    MOVED_MAPPING,
    ACCOUNT_,
)

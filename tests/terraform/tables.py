"""What Terraform's AWS provider sends for each resource of API Gateway, by the form of the provider: 5 and 6.

Written down from the source of 5.32 (Go SDK v1, which sends the empty texts, zeros and falses that it is given) and
compared with later source. A table of the form "5 and 6" is sent alike by both; `newer` has what 6.x sends otherwise.

6.x was read for `account`, `base_path_mapping`, `deployment`, `integration`, `method`, `method_response`, `model`,
`resource`, `rest_api`, `stage` and `usage_plan_key`. The source of `api_key`, `domain_name`, `gateway_response`,
`integration_response`, `method_settings`, `request_validator` and `usage_plan` is that of a late 5.x, on Go SDK v2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.terraform.engine import ABSENT, Send, Table, Update, patch

API: Final = "/restapis/{api}"
PETS: Final = f"{API}/resources/{{pets}}"
METHOD: Final = f"{PETS}/methods/GET"
BEHIND: Final = f"{METHOD}/integration"
STAGE: Final = f"{API}/stages/prod"
PLAN: Final = "/usageplans/{plan}"
KEY: Final = "/apikeys/{key}"
DOMAIN: Final = "/domainnames/API.example.com"
LOGS: Final = "arn:aws:logs:us-east-1:000000000000:log-group:a"
ROLE: Final = "arn:aws:iam::000000000000:role/logs"
BOTH: Final = "5 and 6"
VALUE: Final = "a-value-from-terraform-0123456789"
THROTTLES: Final = {"/pets/GET": {"rateLimit": 0.5, "burstLimit": 2}}
STAGES: Final = [{"apiId": "{api}", "stage": "prod", "throttle": THROTTLES}]
POLICY: Final = '{"Statement":[{"Action":"execute-api:Invoke","Effect":"Allow","Principal":"*","Resource":"*"}]}'
OPENAPI: Final = (
    b'{"openapi":"3.0.1","info":{"title":"from the body"},"paths":{"/pets":{"get":{'
    b'"x-amazon-apigateway-integration":{"type":"MOCK"}}}}}'
)


def replaced(name: str, path: str, *values: tuple[str, str, Any]) -> Update:
    """An update of one attribute: (path of the patch, value, member that shows it); the values follow each other."""
    sends = [patch(path, *(("replace", at, value) for at, value, _ in values))]
    return Update(name, sends, {at[1:].replace("/", ">"): shown for at, _, shown in values})


REST_API: Final = Table(
    resource="rest_api",
    form=BOTH,
    create=[
        Send(
            "POST",
            "/restapis",
            {
                "name": "Pets",
                "description": "d",
                "apiKeySource": "HEADER",
                "binaryMediaTypes": ["image/png"],
                "minimumCompressionSize": 10,
                "endpointConfiguration": {"types": ["REGIONAL"]},
                "policy": POLICY,
                "disableExecuteApiEndpoint": True,
                "tags": {"team": "a"},
            },
            201,
            {"api": "id", "root": "rootResourceId"},
        ),
    ],
    read=API,
    shows={
        "name": "Pets",
        "description": "d",
        "apiKeySource": "HEADER",
        "binaryMediaTypes": ["image/png"],
        "minimumCompressionSize": 10,
        "endpointConfiguration>types": ["REGIONAL"],
        "disableExecuteApiEndpoint": True,
        "policy": POLICY.replace('"', '\\"'),
        "tags": {"team": "a"},
    },
    updates=[
        replaced("name", API, ("/name", "n", "n")),
        replaced("description", API, ("/description", "e", "e")),
        Update("no description", [patch(API, ("replace", "/description", ""))], {"description": ABSENT}),
        replaced("api_key_source", API, ("/apiKeySource", "AUTHORIZER", "AUTHORIZER")),
        Update(
            "binary_media_types",
            [
                patch(
                    API,
                    ("remove", "/binaryMediaTypes/image~1png", None),
                    ("add", "/binaryMediaTypes/image~1gif", None),
                    ("add", "/binaryMediaTypes/*~1*", None),
                )
            ],
            {"binaryMediaTypes": ["image/gif", "*/*"]},
        ),
        replaced("minimum_compression_size", API, ("/minimumCompressionSize", "0", 0)),
        Update(
            "no minimum_compression_size",
            [patch(API, ("replace", "/minimumCompressionSize", None))],
            {"minimumCompressionSize": ABSENT},
        ),
        replaced("disable_execute_api_endpoint", API, ("/disableExecuteApiEndpoint", "false", False)),
        Update(
            "endpoint_configuration.types",
            [patch(API, ("replace", "/endpointConfiguration/types/0", "EDGE"))],
            {"endpointConfiguration>types": ["EDGE"]},
        ),
        Update("no policy", [patch(API, ("replace", "/policy", ""))], {"policy": ABSENT}),
        Update(
            "tags",
            [
                Send("DELETE", "/tags/arn%3Aaws%3Aapigateway%3Aus-east-1%3A%3A%2Frestapis%2F{api}?tagKeys=team"),
                Send("PUT", "/tags/arn%3Aaws%3Aapigateway%3Aus-east-1%3A%3A%2Frestapis%2F{api}", {"tags": {"b": "c"}}),
            ],
            {"tags": {"b": "c"}},
        ),
    ],
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
BARE_API: Final = Table(
    resource="rest_api without members",
    form=BOTH,
    create=[Send("POST", "/restapis", {"name": "Pets"}, 201, {"api": "id", "root": "rootResourceId"})],
    read=API,
    shows={
        "name": "Pets",
        "apiKeySource": "HEADER",
        "binaryMediaTypes": ABSENT,
        "minimumCompressionSize": ABSENT,
        "description": ABSENT,
        "policy": ABSENT,
        "endpointConfiguration>types": ["EDGE"],
        "disableExecuteApiEndpoint": False,
        "tags": {},
    },
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
API_WITH_BODY: Final = Table(
    resource="rest_api with a body",
    form=BOTH,
    create=[
        Send("POST", "/restapis", {"name": "Pets", "binaryMediaTypes": ["image/png"]}, 201, {"api": "id"}),
        Send("PUT", f"{API}?mode=overwrite", OPENAPI, 200),
        patch(API, ("add", "/binaryMediaTypes/image~1png", None), ("replace", "/name", "Pets")),
    ],
    read=API,
    shows={"name": "Pets", "binaryMediaTypes": ["image/png"], "tags": {}},
    updates=[
        Update(
            "body",
            [
                Send("PUT", f"{API}?mode=overwrite&failonwarnings=false", OPENAPI.replace(b"/pets", b"/cats"), 200),
                patch(API, ("add", "/binaryMediaTypes/image~1png", None), ("replace", "/name", "Pets")),
            ],
            {"name": "Pets"},
        ),
        replaced("name", API, ("/name", "Cats", "Cats")),
    ],
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
PRIVATE_API: Final = Table(
    resource="rest_api that is private",
    form=BOTH,
    create=[
        Send(
            "POST",
            "/restapis",
            {"name": "Pets", "endpointConfiguration": {"types": ["PRIVATE"], "vpcEndpointIds": ["vpce-1"]}},
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
            "vpc_endpoint_ids",
            [
                patch(
                    API,
                    ("remove", "/endpointConfiguration/vpcEndpointIds", "vpce-1"),
                    ("add", "/endpointConfiguration/vpcEndpointIds", "vpce-2"),
                )
            ],
            {"endpointConfiguration>vpcEndpointIds": ["vpce-2"]},
        ),
    ],
    destroy=[Send("DELETE", API, status=202)],
    gone=API,
)
RESOURCE: Final = Table(
    resource="resource",
    form=BOTH,
    needs=["rest_api without members"],
    create=[Send("POST", f"{API}/resources/{{root}}", {"pathPart": "pets"}, 201, {"pets": "id"})],
    read=PETS,
    shows={"path": "/pets", "pathPart": "pets", "parentId": "{root}"},
    updates=[
        Update(
            "path_part",
            [patch(PETS, ("replace", "/pathPart", "cats"))],
            {"pathPart": "cats", "path": "/cats"},
        ),
        Update(
            "parent_id",
            [
                Send("POST", f"{API}/resources/{{root}}", {"pathPart": "v1"}, 201, {"parent": "id"}),
                patch(PETS, ("replace", "/parentId", "{parent}")),
            ],
            {"parentId": "{parent}", "path": "/v1/cats"},
        ),
    ],
    destroy=[Send("DELETE", PETS, status=202)],
    gone=PETS,
)
PET: Final = f"{API}/models/Pet"
SCHEMA: Final = '{"type":"object","properties":{"name":{"type":"string"}}}'
MODEL: Final = Table(
    resource="model",
    form=BOTH,
    needs=["rest_api without members"],
    create=[
        Send(
            "POST",
            f"{API}/models",
            {"name": "Pet", "contentType": "application/json", "description": "d", "schema": SCHEMA},
            201,
            {"model": "id"},
        )
    ],
    read=PET,
    shows={"id": "{model}", "name": "Pet", "contentType": "application/json", "description": "d", "schema": SCHEMA},
    updates=[
        Update(
            "schema",
            [patch(PET, ("replace", "/schema", SCHEMA.replace("name", "age")))],
            {"schema": SCHEMA.replace("name", "age")},
        ),
        Update("no description", [patch(PET, ("replace", "/description", ""))], {"description": ABSENT}),
    ],
    destroy=[Send("DELETE", PET, status=202)],
    gone=PET,
)
CHECK: Final = f"{API}/requestvalidators/{{validator}}"
REQUEST_VALIDATOR: Final = Table(
    resource="request_validator",
    form="5",
    needs=["rest_api without members"],
    create=[
        Send(
            "POST",
            f"{API}/requestvalidators",
            {"name": "all", "validateRequestBody": True, "validateRequestParameters": False},
            201,
            {"validator": "id"},
        )
    ],
    read=CHECK,
    shows={"id": "{validator}", "name": "all", "validateRequestBody": True, "validateRequestParameters": False},
    updates=[
        replaced("name", CHECK, ("/name", "some", "some")),
        replaced("validate_request_body", CHECK, ("/validateRequestBody", "false", False)),
        replaced("validate_request_parameters", CHECK, ("/validateRequestParameters", "true", True)),
    ],
    destroy=[Send("DELETE", CHECK, status=202)],
    gone=CHECK,
)
METHOD_: Final = Table(
    resource="method",
    form=BOTH,
    needs=[*RESOURCE.needs, "resource"],
    create=[
        Send(
            "PUT",
            METHOD,
            {
                "authorizationType": "NONE",
                "apiKeyRequired": True,
                "operationName": "list",
                "requestParameters": {"method.request.querystring.n": True},
            },
            201,
        )
    ],
    read=METHOD,
    shows={
        "authorizationType": "NONE",
        "apiKeyRequired": True,
        "operationName": "list",
        "requestParameters": {"method.request.querystring.n": True},
    },
    updates=[
        replaced("api_key_required", METHOD, ("/apiKeyRequired", "false", False)),
        Update(
            "request_parameters",
            [
                patch(
                    METHOD,
                    ("remove", "/requestParameters/method.request.querystring.n", None),
                    ("add", "/requestParameters/method.request.header.m", "false"),
                )
            ],
            {"requestParameters": {"method.request.header.m": False}},
        ),
        Update("no operation_name", [patch(METHOD, ("replace", "/operationName", None))], {"operationName": ABSENT}),
        Update(
            "no request_validator_id",
            [patch(METHOD, ("replace", "/requestValidatorId", None))],
            {"requestValidatorId": ABSENT},
        ),
        Update(
            "authorization",
            [patch(METHOD, ("replace", "/authorizationType", "AWS_IAM"))],
            {
                "authorizationType": "AWS_IAM",
            },
        ),
    ],
    destroy=[Send("DELETE", METHOD, status=204)],
    gone=METHOD,
)
INTEGRATION: Final = Table(
    resource="integration",
    form=BOTH,
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
                "timeoutInMillis": 5000,
                "requestParameters": {"integration.request.header.a": "'b'"},
                "requestTemplates": {"application/json": "{}"},
            },
            201,
        )
    ],
    read=BEHIND,
    shows={
        "type": "HTTP_PROXY",
        "httpMethod": "GET",
        "uri": "https://upstream.example/pets",
        "timeoutInMillis": 5000,
        "cacheNamespace": "{pets}",
        "requestParameters": {"integration.request.header.a": "'b'"},
        "requestTemplates": {"application/json": "{}"},
    },
    updates=[
        replaced("uri", BEHIND, ("/uri", "https://upstream.example/cats", "https://upstream.example/cats")),
        replaced("timeout_milliseconds", BEHIND, ("/timeoutInMillis", "6000", 6000)),
        Update(
            "request_templates",
            [
                patch(
                    BEHIND,
                    ("remove", "/requestTemplates/application~1json", None),
                    ("add", "/requestTemplates/text~1plain", "x"),
                )
            ],
            {"requestTemplates": {"text/plain": "x"}},
        ),
        Update(
            "request_parameters",
            [patch(BEHIND, ("replace", "/requestParameters/integration.request.header.a", "'c'"))],
            {"requestParameters": {"integration.request.header.a": "'c'"}},
        ),
    ],
    destroy=[Send("DELETE", BEHIND, status=204)],
    gone=BEHIND,
)
METHOD_IN_USE: Final = Table(
    resource="method with an integration",
    form="5",
    needs=[*INTEGRATION.needs, "integration"],
    create=[
        patch(METHOD, ("replace", "/requestParameters/method.request.querystring.n", "false")),
        Send("GET", BEHIND, status=200),
        patch(BEHIND),  # the integration too, although nothing of it changes
    ],
    read=METHOD,
    shows={"requestParameters": {"method.request.querystring.n": False}},
)
METHOD_RESPONSE: Final = Table(
    resource="method_response",
    form=BOTH,
    needs=[*INTEGRATION.needs, "integration"],
    create=[Send("PUT", f"{METHOD}/responses/200", {"responseParameters": {"method.response.header.a": True}}, 201)],
    read=f"{METHOD}/responses/200",
    shows={"statusCode": "200", "responseParameters": {"method.response.header.a": True}},
    updates=[
        Update(
            "response_parameters",
            [
                patch(
                    f"{METHOD}/responses/200",
                    ("add", "/responseParameters/method.response.header.b", "false"),
                    ("remove", "/responseParameters/method.response.header.a", None),
                )
            ],
            {"responseParameters": {"method.response.header.b": False}},
        )
    ],
    destroy=[Send("DELETE", f"{METHOD}/responses/200", status=204)],
    gone=f"{METHOD}/responses/200",
)
INTEGRATION_RESPONSE: Final = Table(
    resource="integration_response",
    form=BOTH,
    needs=[*METHOD_RESPONSE.needs, "method_response"],
    create=[
        Send(
            "PUT",
            f"{BEHIND}/responses/200",
            {"selectionPattern": "2..", "responseTemplates": {"application/json": "{}"}},
            201,
        )
    ],
    read=f"{BEHIND}/responses/200",
    shows={"statusCode": "200", "selectionPattern": "2..", "responseTemplates": {"application/json": "{}"}},
    updates=[
        Update(
            "everything: it is put again",
            [Send("PUT", f"{BEHIND}/responses/200", {"responseParameters": {"method.response.header.a": "'x'"}}, 201)],
            {
                "responseParameters": {"method.response.header.a": "'x'"},
                "responseTemplates": ABSENT,
                "selectionPattern": ABSENT,
            },
        )
    ],
    destroy=[Send("DELETE", f"{BEHIND}/responses/200", status=204)],
    gone=f"{BEHIND}/responses/200",
)
DEPLOYMENT_PATH: Final = f"{API}/deployments/{{deployment}}"
DEPLOYMENT: Final = Table(
    resource="deployment",
    form="6",
    needs=[*INTEGRATION.needs, "integration"],
    create=[
        Send("POST", f"{API}/deployments", {"description": "", "variables": {}}, 201, {"deployment": "id"}),
    ],
    read=DEPLOYMENT_PATH,
    shows={"id": "{deployment}", "description": ABSENT},
    updates=[
        replaced("description", DEPLOYMENT_PATH, ("/description", "d", "d")),
        Update("no description", [patch(DEPLOYMENT_PATH, ("replace", "/description", ""))], {"description": ABSENT}),
        Update(
            "triggers: another one is made before this one goes",
            [
                Send("POST", f"{API}/deployments", {"description": "", "variables": {}}, 201, {"next": "id"}),
                Send("DELETE", DEPLOYMENT_PATH, status=202),
                Send("GET", f"{API}/deployments/{{next}}", status=200, keeps={"deployment": "id"}),
            ],
            {"id": "{next}"},
        ),
    ],
    destroy=[Send("DELETE", DEPLOYMENT_PATH, status=202)],
    gone=DEPLOYMENT_PATH,
)
DEPLOYMENT_5: Final = Table(
    resource="deployment",
    form="5",
    needs=DEPLOYMENT.needs,
    create=[
        Send(
            "POST",
            f"{API}/deployments",
            {"description": "", "stageDescription": "", "stageName": "", "variables": {}},
            201,
            {"deployment": "id"},
        )
    ],
    read=DEPLOYMENT_PATH,
    shows=DEPLOYMENT.shows,
    updates=DEPLOYMENT.updates,
    destroy=DEPLOYMENT.destroy,
    gone=DEPLOYMENT_PATH,
)
DEPLOYED_STAGE: Final = Table(
    resource="deployment with a stage",
    form="5",
    needs=DEPLOYMENT.needs,
    create=[
        Send(
            "POST",
            f"{API}/deployments",
            {"description": "d", "stageDescription": "s", "stageName": "prod", "variables": {"a": "1"}},
            201,
            {"deployment": "id"},
        )
    ],
    read=STAGE,
    shows={"deploymentId": "{deployment}", "description": "s", "variables": {"a": "1"}},
    destroy=[
        Send("GET", STAGE, status=200),
        Send("DELETE", STAGE, status=202),
        Send("DELETE", DEPLOYMENT_PATH, status=202),
    ],
    gone=DEPLOYMENT_PATH,
)
STAGE_: Final = Table(
    resource="stage",
    form="5",
    needs=[*DEPLOYMENT.needs, "deployment"],
    create=[
        Send(
            "POST",
            f"{API}/stages",
            {
                "stageName": "prod",
                "deploymentId": "{deployment}",
                "description": "d",
                "variables": {"a": "1", "b": "2"},
                "tracingEnabled": True,
                "canarySettings": {
                    "deploymentId": "{deployment}",
                    "percentTraffic": 0.0,
                    "stageVariableOverrides": {"a": "3"},
                    "useStageCache": False,
                },
                "tags": {"team": "a"},
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
        "description": "d",
        "variables": {"a": "1", "b": "2"},
        "tracingEnabled": True,
        "canarySettings>percentTraffic": 0.0,
        "canarySettings>useStageCache": False,
        "canarySettings>stageVariableOverrides": {"a": "3"},
        "accessLogSettings": {"destinationArn": LOGS, "format": "$context.requestId"},
        "cacheClusterEnabled": False,
        "tags": {"team": "a"},
    },
    updates=[
        Update(
            "deployment_id",
            [
                Send("POST", f"{API}/deployments", {"description": "", "variables": {}}, 201, {"next": "id"}),
                patch(
                    STAGE,
                    ("replace", "/deploymentId", "{next}"),
                    ("replace", "/canarySettings/deploymentId", "{next}"),
                ),
                Send("DELETE", DEPLOYMENT_PATH, status=202),
            ],
            {"deploymentId": "{next}", "canarySettings>deploymentId": "{next}"},
        ),
        Update(
            "canary_settings",
            [
                patch(
                    STAGE,
                    ("remove", "/canarySettings/stageVariableOverrides/a", None),
                    ("replace", "/canarySettings/percentTraffic", "33.333330"),
                    ("replace", "/canarySettings/useStageCache", "true"),
                )
            ],
            {
                "canarySettings>percentTraffic": 33.33333,
                "canarySettings>useStageCache": True,
                "canarySettings>stageVariableOverrides": ABSENT,
            },
        ),
        Update("no canary_settings", [patch(STAGE, ("remove", "/canarySettings", None))], {"canarySettings": ABSENT}),
        Update(
            "variables",
            [patch(STAGE, ("remove", "/variables/a", None), ("replace", "/variables/b", "4"))],
            {"variables": {"b": "4"}},
        ),
        Update(
            "no access_log_settings",
            [patch(STAGE, ("remove", "/accessLogSettings", None))],
            {"accessLogSettings": ABSENT},
        ),
        Update("no description", [patch(STAGE, ("replace", "/description", ""))], {"description": ABSENT}),
        replaced("xray_tracing_enabled", STAGE, ("/tracingEnabled", "false", False)),
        replaced("documentation_version", STAGE, ("/documentationVersion", "v1", "v1")),
        Update(
            "cache_cluster_enabled",
            [patch(STAGE, ("replace", "/cacheClusterEnabled", "true"), ("replace", "/cacheClusterSize", "0.5"))],
            {"cacheClusterEnabled": True, "cacheClusterSize": "0.5", "cacheClusterStatus": "AVAILABLE"},
        ),
    ],
    destroy=[Send("DELETE", STAGE, status=202)],
    gone=STAGE,
)


def settings(path: str, before: str) -> Table:
    """aws_api_gateway_method_settings for a method path in the spelling that a configuration gives it."""
    at = f"methodSettings>{path}"
    return Table(
        resource=f"method_settings of {path}",
        form=BOTH,
        needs=[*STAGE_.needs, "stage"],
        create=[
            patch(
                STAGE,
                ("replace", f"/{path}/metrics/enabled", "true"),
                ("replace", f"/{path}/logging/loglevel", "INFO"),
                ("replace", f"/{path}/throttling/burstLimit", "50"),
                ("replace", f"/{path}/throttling/rateLimit", "100.500000"),
            )
        ],
        read=STAGE,
        shows={
            f"{at}>metricsEnabled": True,
            f"{at}>loggingLevel": "INFO",
            f"{at}>throttlingBurstLimit": 50,
            f"{at}>throttlingRateLimit": 100.5,
        },
        updates=[
            Update(
                "throttling",
                [
                    patch(
                        STAGE,
                        ("replace", f"/{path}/throttling/burstLimit", "-1"),
                        ("replace", f"/{path}/throttling/rateLimit", "-1.000000"),
                    )
                ],
                {f"{at}>throttlingBurstLimit": -1, f"{at}>throttlingRateLimit": -1.0},
            ),
            Update(
                "caching",
                [
                    patch(
                        STAGE,
                        ("replace", f"/{path}/caching/enabled", "true"),
                        ("replace", f"/{path}/caching/ttlInSeconds", "60"),
                        ("replace", f"/{path}/caching/dataEncrypted", "true"),
                        ("replace", f"/{path}/caching/requireAuthorizationForCacheControl", "false"),
                        (
                            "replace",
                            f"/{path}/caching/unauthorizedCacheControlHeaderStrategy",
                            "SUCCEED_WITHOUT_RESPONSE_HEADER",
                        ),
                    )
                ],
                {
                    f"{at}>cachingEnabled": True,
                    f"{at}>cacheTtlInSeconds": 60,
                    f"{at}>cacheDataEncrypted": True,
                    f"{at}>requireAuthorizationForCacheControl": False,
                    f"{at}>unauthorizedCacheControlHeaderStrategy": "SUCCEED_WITHOUT_RESPONSE_HEADER",
                },
            ),
            Update(
                "data_trace_enabled",
                [patch(STAGE, ("replace", f"/{path}/logging/dataTrace", "true"))],
                {f"{at}>dataTraceEnabled": True},
            ),
            replaced_setting(path, before),
        ],
        destroy=[patch(STAGE, ("remove", f"/{path}", None))],
    )


def replaced_setting(path: str, level: str) -> Update:
    shows = {f"methodSettings>{path}>loggingLevel": level}
    return Update("logging_level", [patch(STAGE, ("replace", f"/{path}/logging/loglevel", level))], shows)


USAGE_PLAN: Final = Table(
    resource="usage_plan",
    form=BOTH,
    needs=[*STAGE_.needs, "stage"],
    create=[
        Send(
            "POST",
            "/usageplans",
            {
                "name": "Silver",
                "description": "d",
                "throttle": {"rateLimit": 50.0, "burstLimit": 100},
                "quota": {"limit": 5000, "period": "MONTH", "offset": 2},
                "apiStages": STAGES,
                "tags": {"team": "a"},
            },
            201,
            {"plan": "id"},
        ),
        patch(PLAN, ("add", "/productCode", "MYCODE")),
    ],
    read=PLAN,
    shows={
        "name": "Silver",
        "description": "d",
        "productCode": "MYCODE",
        "throttle": {"rateLimit": 50.0, "burstLimit": 100},
        "quota": {"limit": 5000, "period": "MONTH", "offset": 2},
        "apiStages": STAGES,
        "tags": {"team": "a"},
    },
    updates=[
        replaced("name", PLAN, ("/name", "Gold", "Gold")),
        Update("no description", [patch(PLAN, ("replace", "/description", ""))], {"description": ""}),
        Update("product_code", [patch(PLAN, ("replace", "/productCode", "B"))], {"productCode": "B"}),
        Update("no product_code", [patch(PLAN, ("remove", "/productCode", None))], {"productCode": ABSENT}),
        replaced("throttle_settings", PLAN, ("/throttle/rateLimit", "0.1", 0.1), ("/throttle/burstLimit", "3", 3)),
        replaced(
            "quota_settings",
            PLAN,
            ("/quota/limit", "7", 7),
            ("/quota/offset", "1", 1),
            ("/quota/period", "WEEK", "WEEK"),
        ),
        Update(
            "a throttle block of a stage: the stage goes and comes back",
            [
                patch(
                    PLAN,
                    ("remove", "/apiStages", "{api}:prod"),
                    ("add", "/apiStages", "{api}:prod"),
                    ("replace", "/apiStages/{api}:prod/throttle//pets/GET/rateLimit", "7"),
                    ("replace", "/apiStages/{api}:prod/throttle//pets/GET/burstLimit", "8"),
                )
            ],
            {
                "apiStages": [
                    {
                        "apiId": "{api}",
                        "stage": "prod",
                        "throttle": {"/pets/GET": {"rateLimit": 7.0, "burstLimit": 8}},
                    }
                ]
            },
        ),
        Update(
            "no limits",
            [patch(PLAN, ("remove", "/throttle", None), ("remove", "/quota", None))],
            {"throttle": ABSENT, "quota": ABSENT},
        ),
        Update(
            "limits again",
            [
                patch(
                    PLAN,
                    ("replace", "/throttle/rateLimit", "1"),
                    ("replace", "/throttle/burstLimit", "2"),
                    ("replace", "/quota/limit", "3"),
                    ("replace", "/quota/offset", "0"),
                    ("replace", "/quota/period", "DAY"),
                )
            ],
            {
                "throttle": {"rateLimit": 1.0, "burstLimit": 2},
                "quota": {"limit": 3, "offset": 0, "period": "DAY"},
            },
        ),
    ],
    destroy=[patch(PLAN, ("remove", "/apiStages", "{api}:prod")), Send("DELETE", PLAN, status=202)],
    gone=PLAN,
)
API_KEY: Final = Table(
    resource="api_key",
    form=BOTH,
    create=[
        Send(
            "POST",
            "/apikeys",
            {"name": "acme", "description": "d", "enabled": True, "value": VALUE, "customerId": "c"},
            201,
            {"key": "id"},
        )
    ],
    read=f"{KEY}?includeValue=true",
    shows={
        "name": "acme",
        "description": "d",
        "enabled": True,
        "value": VALUE,
        "customerId": "c",
        "tags": {},
    },
    updates=[
        replaced("name", KEY, ("/name", "n", "n")),
        replaced("enabled", KEY, ("/enabled", "false", False)),
        replaced("description", KEY, ("/description", "", "")),
        Update("no customer_id", [patch(KEY, ("replace", "/customerId", ""))], {"customerId": ABSENT}),
    ],
    destroy=[Send("DELETE", KEY, status=202)],
    gone=KEY,
)
BARE_KEY: Final = Table(
    resource="api_key without a value",
    form=BOTH,
    create=[
        Send(
            "POST",
            "/apikeys",
            {"name": "acme", "description": "Managed by Terraform", "enabled": True, "value": ""},
            201,
            {"key": "id", "value": "value"},
        )
    ],
    read=f"{KEY}?includeValue=true",
    shows={"name": "acme", "description": "Managed by Terraform", "enabled": True, "value": "{value}"},
    destroy=[Send("DELETE", KEY, status=202)],
    gone=KEY,
)
MEMBER: Final = f"{PLAN}/keys/{{key}}"
PLAN_KEY: Final = Table(
    resource="usage_plan_key",
    form=BOTH,
    needs=[*USAGE_PLAN.needs, "usage_plan", "api_key"],
    create=[Send("POST", f"{PLAN}/keys", {"keyId": "{key}", "keyType": "API_KEY"}, 201)],
    read=MEMBER,
    shows={"id": "{key}", "type": "API_KEY", "name": "acme", "value": VALUE},
    destroy=[Send("DELETE", MEMBER, status=202)],
    gone=MEMBER,
)
RESPONSE: Final = f"{API}/gatewayresponses/THROTTLED"
GATEWAY_RESPONSE: Final = Table(
    resource="gateway_response",
    form=BOTH,
    needs=["rest_api without members"],
    create=[
        Send(
            "PUT",
            RESPONSE,
            {
                "statusCode": "420",
                "responseTemplates": {"application/json": '{"message":$context.error.messageString}'},
                "responseParameters": {"gatewayresponse.header.X-A": "'b'"},
            },
            201,
        )
    ],
    read=RESPONSE,
    shows={
        "responseType": "THROTTLED",
        "statusCode": "420",
        "responseTemplates": {"application/json": '{"message":$context.error.messageString}'},
        "responseParameters": {"gatewayresponse.header.X-A": "'b'"},
    },
    updates=[
        Update(
            "everything: it is put again",
            [Send("PUT", RESPONSE, {"statusCode": "429", "responseTemplates": {"text/plain": "no"}}, 201)],
            {"statusCode": "429", "responseTemplates": {"text/plain": "no"}, "responseParameters": {}},
        )
    ],
    destroy=[Send("DELETE", RESPONSE, status=202)],
)
DOMAIN_NAME: Final = Table(
    resource="domain_name",
    form=BOTH,
    create=[
        Send(
            "POST",
            "/domainnames",
            {
                "domainName": "API.example.com",
                "regionalCertificateArn": "arn:a",
                "endpointConfiguration": {"types": ["REGIONAL"]},
                "securityPolicy": "TLS_1_2",
                "mutualTlsAuthentication": {"truststoreUri": "s3://b/k", "truststoreVersion": "1"},
                "tags": {"team": "a"},
            },
            201,
        )
    ],
    read=DOMAIN,
    shows={
        "domainName": "API.example.com",
        "domainNameStatus": "AVAILABLE",
        "regionalCertificateArn": "arn:a",
        "endpointConfiguration>types": ["REGIONAL"],
        "securityPolicy": "TLS_1_2",
        "mutualTlsAuthentication": {"truststoreUri": "s3://b/k", "truststoreVersion": "1"},
        "regionalDomainName": "no-domain-target.invalid",
        "certificateArn": ABSENT,
        "tags": {"team": "a"},
    },
    updates=[
        replaced("regional_certificate_arn", DOMAIN, ("/regionalCertificateArn", "arn:b", "arn:b")),
        replaced("security_policy", DOMAIN, ("/securityPolicy", "TLS_1_0", "TLS_1_0")),
        Update(
            "truststore_version",
            [patch(DOMAIN, ("replace", "/mutualTlsAuthentication/truststoreVersion", "2"))],
            {"mutualTlsAuthentication": {"truststoreUri": "s3://b/k", "truststoreVersion": "2"}},
        ),
        Update(
            "no mutual_tls_authentication",
            [patch(DOMAIN, ("replace", "/mutualTlsAuthentication/truststoreUri", ""))],
            {"mutualTlsAuthentication": ABSENT},
        ),
        Update(
            "endpoint_configuration.types",
            [
                patch(
                    DOMAIN,
                    ("replace", "/certificateArn", "arn:c"),
                    ("replace", "/endpointConfiguration/types/0", "EDGE"),
                    ("replace", "/regionalCertificateArn", ""),
                )
            ],
            {
                "endpointConfiguration>types": ["EDGE"],
                "certificateArn": "arn:c",
                "regionalCertificateArn": ABSENT,
                "regionalDomainName": ABSENT,
                "distributionDomainName": "no-domain-target.invalid",
            },
        ),
    ],
    destroy=[Send("DELETE", DOMAIN, status=202)],
    gone=DOMAIN,
)
MAPPING: Final = Table(
    resource="base_path_mapping",
    form=BOTH,
    needs=[*STAGE_.needs, "stage", "domain_name"],
    create=[
        Send("POST", f"{DOMAIN}/basepathmappings", {"restApiId": "{api}", "basePath": "shop", "stage": "prod"}, 201)
    ],
    read=f"{DOMAIN}/basepathmappings/shop",
    shows={"basePath": "shop", "restApiId": "{api}", "stage": "prod"},
    updates=[
        Update(
            "no stage_name",
            [patch(f"{DOMAIN}/basepathmappings/shop", ("replace", "/stage", ""))],
            {"stage": ABSENT},
        ),
        Update(
            "api_id",
            [patch(f"{DOMAIN}/basepathmappings/shop", ("replace", "/restapiId", "{api}"))],
            {"restApiId": "{api}"},
        ),
    ],
    destroy=[Send("DELETE", f"{DOMAIN}/basepathmappings/shop", status=202)],
    gone=f"{DOMAIN}/basepathmappings/shop",
)
BARE_MAPPING: Final = Table(
    resource="base_path_mapping of the whole domain",
    form=BOTH,
    needs=MAPPING.needs,
    create=[Send("POST", f"{DOMAIN}/basepathmappings", {"restApiId": "{api}", "basePath": "", "stage": ""}, 201)],
    read=f"{DOMAIN}/basepathmappings/(none)",
    shows={"basePath": "(none)", "restApiId": "{api}", "stage": ABSENT},
    destroy=[Send("DELETE", f"{DOMAIN}/basepathmappings/(none)", status=202)],
    gone=f"{DOMAIN}/basepathmappings/(none)",
)
ACCOUNT: Final = Table(
    resource="account",
    form="5",
    create=[patch("/account", ("replace", "/cloudwatchRoleArn", ROLE))],
    read="/account",
    shows={
        "cloudwatchRoleArn": ROLE,
        "apiKeyVersion": "4",
        "features": ["UsagePlans"],
        "throttleSettings": {"burstLimit": 5000, "rateLimit": 10000.0},
    },
    updates=[
        Update(
            "no cloudwatch_role_arn",
            [patch("/account", ("replace", "/cloudwatchRoleArn", ""))],
            {"cloudwatchRoleArn": ABSENT},
        )
    ],
)

TABLES: Final = (
    REST_API,
    BARE_API,
    API_WITH_BODY,
    PRIVATE_API,
    RESOURCE,
    MODEL,
    REQUEST_VALIDATOR,
    METHOD_,
    INTEGRATION,
    METHOD_IN_USE,
    METHOD_RESPONSE,
    INTEGRATION_RESPONSE,
    DEPLOYMENT_5,
    DEPLOYED_STAGE,
    DEPLOYMENT,
    STAGE_,
    settings("*/*", "ERROR"),
    settings("pets/GET", "OFF"),
    settings("~1pets~1{id}/GET", "ERROR"),
    USAGE_PLAN,
    API_KEY,
    BARE_KEY,
    PLAN_KEY,
    GATEWAY_RESPONSE,
    DOMAIN_NAME,
    MAPPING,
    BARE_MAPPING,
    ACCOUNT,
)
BY_RESOURCE: Final = {table.resource: table for table in TABLES}  # of two forms the newer one


@dataclass(frozen=True)
class DataSource:
    """The request of a data source, and the member that finds its item."""

    name: str
    needs: Sequence[str]
    read: str
    member: str
    value: str


DATA_SOURCES: Final = (
    DataSource("rest_api", ["rest_api"], "/restapis", "name", "Pets"),
    DataSource("resource", [*RESOURCE.needs, "resource"], f"{API}/resources", "path", "/pets"),
    DataSource("api_key", ["api_key"], f"{KEY}?includeValue=true", "value", VALUE),
    DataSource("api_keys", ["api_key"], "/apikeys?includeValues=true", "value", VALUE),
    DataSource("domain_name", ["domain_name"], DOMAIN, "domainName", "API.example.com"),
)

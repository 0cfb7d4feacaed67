"""The configuration that most tests here share: an API for each way to call, a plan for each way to be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    GatewayResponse,
    GatewayResponseType,
    Host,
    HttpMethod,
    KeySource,
    Method,
    Mode,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
)
from tests.e2e.stack import http_manager
from tests.support.builders import value_of

ORIGIN = "https://app.example.org"
ISSUER_SECRET = b"what the issuer of tokens and jwt_authn share"

OPEN: dict[HttpMethod, Method] = {"GET": Method(api_key_required=False)}
GET: dict[HttpMethod, Method] = {"GET": Method()}
ANY: dict[HttpMethod, Method] = {"ANY": Method()}
COMMON = {"/pets": GET, "/pets/{id}": GET, "/any": ANY, "/open": OPEN}
PROD = (Stage(name="prod"),)

EVERYWHERE = (
    KeySource(header="x-api-key"),
    KeySource(header="Authorization", scheme="Bearer"),
    KeySource(query="api_key"),
    KeySource(cookie="key"),
)

WORDED = {
    GatewayResponseType.THROTTLED: GatewayResponse(
        status_code="420",
        response_parameters={
            "gatewayresponse.header.Retry-After": "'60'",
            "gatewayresponse.header.X-Caller": "method.request.header.X-Caller",
            "gatewayresponse.header.X-Stage": "context.stage",
        },
        response_templates={"application/json": '{"m":$context.error.messageString}'},
    ),
    GatewayResponseType.QUOTA_EXCEEDED: GatewayResponse(
        response_templates={"text/plain": "$context.error.responseType of $context.identity.apiKeyId"}
    ),
    GatewayResponseType.DEFAULT_4XX: GatewayResponse(
        status_code="418", response_parameters={"gatewayresponse.header.X": "'y'"}
    ),
}

APIS = (
    Api(id="a1", resources=COMMON, stages=(*PROD, Stage(name="beta"))),
    Api(id="many", key_sources=EVERYWHERE, resources=COMMON, stages=PROD),
    Api(id="generous", forward_api_key=True, resources=COMMON, stages=PROD),
    Api(id="worded", resources=COMMON, stages=(Stage(name="prod", gateway_responses=WORDED),)),
    Api(id="login", api_key_source="AUTHORIZER", resources=COMMON, stages=PROD),
    Api(id="rpc", hosts=(Host(host="rpc.test", stage="prod"),), stages=PROD),
    Api(id="shop", hosts=(Host(host="shop.test", base_path="shop", stage="prod"),), resources=COMMON, stages=PROD),
    Api(id="shop2", hosts=(Host(host="shop.test", base_path="shop/v2"),), resources=COMMON, stages=PROD),
)

SLOW = ThrottleSettings(rate_limit=0.001, burst_limit=1)  # one call, and the next in a quarter of an hour
ONE = QuotaSettings(limit=1, period=Period.MONTH)
WIDE = QuotaSettings(limit=1000, period=Period.MONTH)


def plan(id: str, *keys: str, **changes: Any) -> UsagePlan:  # noqa: A002
    """A plan for every API's prod."""
    stages = tuple(ApiStage(api_id=api.id, stage="prod") for api in APIS)
    return UsagePlan(id=id, name=f"The plan {id}", api_stages=stages, keys=keys, **changes)


PLANS = (
    plan("free", "free", "customer"),
    plan("slow", "slow-1", "slow-2", "slow-3", "slow-4", "slow-rpc", "slow-head", throttle=SLOW),
    plan("once", "once-1", "once-2", "once-3", "once-4", "once-5", "once-rpc", "told", quota=ONE),
    plan("both", "both-1", "both-2", throttle=ThrottleSettings(rate_limit=5, burst_limit=7), quota=WIDE),
    plan("shadow", "shadow", quota=ONE, mode=Mode.SHADOW),
    UsagePlan(id="nowhere", name="Nowhere", keys=("stageless",)),
)
KEYS = (
    *(ApiKey(id=key, value=value_of(key)) for plan in PLANS for key in plan.keys if key not in ("customer", "free")),
    ApiKey(id="free", value_sha256=hashlib.sha256(value_of("free").encode()).hexdigest()),
    ApiKey(id="customer", value=value_of("customer"), customer_id="cust-1001"),
    ApiKey(id="disabled", value=value_of("disabled"), enabled=False),
    ApiKey(id="planless", value=value_of("planless")),
)
RESOURCES = Resources(apis=APIS, usage_plans=PLANS, api_keys=KEYS)


def token(claims: dict[str, str]) -> str:
    """A token that `with_extras`'s jwt_authn accepts."""
    head = _base64(json.dumps({"alg": "HS256"}).encode())
    signed = f"{head}.{_base64(json.dumps({'iss': 'issuer', **claims}).encode())}"
    return f"{signed}.{_base64(hmac.digest(ISSUER_SECRET, signed.encode(), 'sha256'))}"


def with_extras(envoy_config: Any) -> None:
    """What an operator adds: a filter that verifies tokens, and routes that name API, stage, resource and method."""
    manager = http_manager(envoy_config)
    manager["http_filters"].insert(1, {"name": "envoy.filters.http.jwt_authn", "typed_config": _jwt_authn()})
    manager["route_config"]["virtual_hosts"].append(_named_by_route())


def _jwt_authn() -> dict[str, Any]:
    keys = {"keys": [{"kty": "oct", "alg": "HS256", "k": _base64(ISSUER_SECRET)}]}
    provider = {
        "issuer": "issuer",
        "local_jwks": {"inline_string": json.dumps(keys)},
        "payload_in_metadata": "jwt_payload",
    }
    host = {"name": ":authority", "string_match": {"exact": "login.test"}}
    rule = {"match": {"prefix": "/", "headers": [host]}, "requires": {"provider_name": "issuer"}}
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"issuer": provider},
        "rules": [rule],
    }


def _named_by_route() -> dict[str, Any]:
    routes = [
        ("/old-pets", {"resource": "/pets/{id}", "method": "GET"}),
        ("/beta", {"stage": "beta", "resource": "/pets"}),
        ("/gone", {"resource": "/no-such-resource"}),
    ]
    return {
        "name": "named by route",
        "domains": ["routed.test"],
        "typed_per_filter_config": _extensions({"api": "a1", "stage": "prod"}),
        "routes": [
            {
                "match": {"prefix": prefix},
                "route": {"cluster": "upstream"},
                "typed_per_filter_config": _extensions(extensions),
            }
            for prefix, extensions in routes
        ]
        + [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    }


def _extensions(extensions: dict[str, str]) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
    return {
        "envoy.filters.http.ext_authz": {"@type": kind, "check_settings": {"context_extensions": extensions}},
    }


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

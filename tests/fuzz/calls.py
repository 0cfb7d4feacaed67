"""Calls of the control plane at random: the members that AWS describes, most of the right type, some of any."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import boto3
from hypothesis import strategies as st

from authz.aws import plans
from authz.aws.patch import PatchRule
from authz.control.api import MODULES, operations
from authz.control.call import Operation
from tests.support.control import Reply

OPERATIONS = operations()
TABLES = [
    value
    for module in (*MODULES, plans)
    for value in vars(module).values()
    if isinstance(value, tuple) and value and all(isinstance(each, PatchRule) for each in value)
]
VERBS_WITH_BODIES = ("POST", "PUT", "PATCH")


def address(operation: Operation, words: dict[str, str], otherwise: str) -> str:
    """The operation's path, with these words in the place of its parameters."""
    parts = (words.get(part[1:-1], otherwise) if part.startswith("{") else part for part in operation.path.split("/"))
    return "/".join(parts) + (f"?mode={operation.mode}" if operation.mode else "")


def assert_no_fault(answer: Reply, told: str) -> None:
    """A success, or an error in AWS's form that shows nothing of our code.

    On a machine that is busy enough the store may be away for a moment, which is 503.
    """
    assert answer.status < 500 or answer.status in (501, 503), f"{told}: {answer}"
    if answer.status >= 400:
        assert answer.code, told
        assert isinstance(answer.json()["message"], str), told
    assert b"Traceback" not in answer.body, told
    assert b"msgspec" not in answer.body, told


def furnish(call: Callable[[str, str, bytes], Reply], domain: str = "api.example.org") -> dict[str, str]:
    """Make one of everything; the parameters of paths that name it."""

    def made(verb: str, path: str, body: dict[str, Any]) -> Any:
        answer = call(verb, path, json.dumps(body).encode())
        assert answer.status < 300, answer
        return answer.json()

    api = made("POST", "/restapis", {"name": "Pets"})
    at = f"/restapis/{api['id']}"
    method = f"{at}/resources/{api['rootResourceId']}/methods/GET"
    made("PUT", method, {"authorizationType": "NONE", "apiKeyRequired": True})
    made("PUT", f"{method}/integration", {"type": "MOCK"})
    deployment = made("POST", f"{at}/deployments", {"stageName": "prod"})["id"]
    plan = made("POST", "/usageplans", {"name": "p", "apiStages": [{"apiId": api["id"], "stage": "prod"}]})["id"]
    key = made("POST", "/apikeys", {"name": "k", "enabled": True})["id"]
    made("POST", f"/usageplans/{plan}/keys", {"keyId": key, "keyType": "API_KEY"})
    made("POST", "/domainnames", {"domainName": domain})
    made("POST", f"/domainnames/{domain}/basepathmappings", {"restApiId": api["id"], "stage": "prod"})
    validator = made("POST", f"{at}/requestvalidators", {"name": "all"})["id"]
    arn = f"arn:aws:apigateway:us-east-1::/usageplans/{plan}"
    return {
        **dict.fromkeys(("restapi_id", "restApiId"), api["id"]),
        **dict.fromkeys(("resource_id", "resourceId", "parent_id", "parentId"), api["rootResourceId"]),
        **dict.fromkeys(("http_method", "httpMethod"), "GET"),
        **dict.fromkeys(("status_code", "statusCode"), "200"),
        **dict.fromkeys(("deployment_id", "deploymentId"), deployment),
        **dict.fromkeys(("stage_name", "stageName"), "prod"),
        **dict.fromkeys(("usageplanId", "usageplan_id"), plan),
        **dict.fromkeys(("api_Key", "keyId", "key_id"), key),
        "model_name": "Empty",
        "requestvalidator_id": validator,
        **dict.fromkeys(("response_type", "responseType"), "THROTTLED"),
        **dict.fromkeys(("domain_name", "domainName"), domain),
        **dict.fromkeys(("base_path", "basePath"), "%28none%29"),
        **dict.fromkeys(("resource_arn", "resourceArn"), quote(arn, safe="")),
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["-1", "1e400", "NaN", "a:prod", "/pets/GET", "DAY", "true", "0" * 400, "*/*", "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
POINTERS = (
    *sorted({re.sub(r"[<{][^>}]+[>}]", "a", row.pattern) for table in TABLES for row in table}),
    "/name", "/enabled", "/throttle", "/throttle/rateLimit", "/throttle/burstLimit", "/quota/limit", "/quota/period",
    "/quota/offset", "/apiStages", "/apiStages/a:prod/throttle", "/apiStages/a:prod/throttle//pets/GET/rateLimit",
    "/*/*/throttling/rateLimit", "/~1/GET/throttling/burstLimit", "/*/*", "/variables/a", "/deploymentId", "/remaining",
    "/apiKeyRequired", "/requestParameters/method.request.header.a", "/statusCode", "/responseTemplates/a~1b",
    "/basePath", "/restapiId", "/stage", "/binaryMediaTypes/a~1b", "/endpointConfiguration/types/EDGE", "/pathPart",
    "/parentId", "/customerId", "/throttleSettings/rateLimit", "/features", "/", "", "//", "/~", "/canarySettings",
)  # fmt: skip
PATCHES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "op": st.sampled_from(["add", "remove", "replace", "copy", "move", "test"]),
            "path": st.sampled_from(POINTERS) | st.text(max_size=8).map("/".__add__),
            "value": st.sampled_from(["1", "-1", "1e999", "nan", "a:prod", "{}", "[]", '{"/a/GET":7}', ""]) | JSON,
            "from": st.sampled_from(POINTERS),
        },
    ),
    max_size=4,
)


NUMBERS = st.sampled_from([0, 1, -1, 6, 7, 27, 28, 50, 5000, 29_000, 2**31 - 1, 2**31, -(2**31), 2**63, 0.5, 1e300])
TEXTS = st.sampled_from(
    ("", " ", "a", "A-b_1", "/", "*", "{a+}", "GET", "none", "DAY", "WEEK", "MONTH", "API_KEY", "HEADER", "MOCK",
     "application/json", "method.request.header.a", "$default", "a" * 2000, "ünï", "${stageVariables.a}", "200", "{}",
     "https://a.example/{b}", "arn:aws:apigateway:us-east-1::/restapis/a", "2030-01-31T23:59:59Z", '{"type":"object"}')
)  # fmt: skip


def members() -> dict[str, dict[str, st.SearchStrategy[Any]]]:
    """The members of each operation's body by AWS's own description, each with values of its own type."""
    model = boto3.client("apigateway", region_name="us-east-1").meta.service_model
    return {name: dict(_members(model.operation_model(name).input_shape)) for name in model.operation_names}


def _members(shape: Any) -> Iterator[tuple[str, st.SearchStrategy[Any]]]:
    for name, member in (shape.members if shape else {}).items():
        if member.serialization.get("location") is None:
            yield str(member.serialization.get("name", name)), typed(member)


def typed(shape: Any) -> st.SearchStrategy[Any]:
    """Values of a shape's type, at the edges of sensible ones or beyond."""
    match shape.type_name:
        case "structure":
            return st.fixed_dictionaries({}, optional={name: typed(each) for name, each in shape.members.items()})
        case "map":
            return st.dictionaries(TEXTS, typed(shape.value), max_size=2)
        case "list":
            return st.lists(typed(shape.member), max_size=2)
        case "boolean":
            return st.booleans()
        case "integer" | "long" | "double":
            return NUMBERS
    return st.sampled_from(shape.enum) | TEXTS if getattr(shape, "enum", None) else TEXTS


MEMBERS = members()


@st.composite
def shaped_body(draw: st.DrawFn, operation: Operation) -> dict[str, Any]:
    """The right members, most with values of their own type and some with values of any."""
    kinds = MEMBERS.get(operation.name, {})
    if "patchOperations" in kinds and draw(st.integers(0, 9)):
        return {"patchOperations": draw(PATCHES)}
    kept = [name for name in kinds if draw(st.integers(0, 3))]
    return {name: draw(kinds[name] if draw(st.integers(0, 7)) else JSON) for name in kept}

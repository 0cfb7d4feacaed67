"""The operations on gateway responses, the texts of an API's refusals. They apply from its next deployment on."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from authz.aws import restapis as rules
from authz.aws.errors import bad_request, not_found
from authz.aws.patch import Op, PatchOperation, PatchRule, PatchStep, member
from authz.aws.restapis import RESPONSE_STATUSES, STATUS_CODE
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import api_of, bare_style, edit_api, invalid_value, listed, patched
from authz.core.resources import GatewayResponse
from authz.core.stored import RestApi

KINDS_IN_AWSS_ORDER: Final = (
    "REQUEST_TOO_LARGE, RESOURCE_NOT_FOUND, AUTHORIZER_CONFIGURATION_ERROR, MISSING_AUTHENTICATION_TOKEN, "
    "BAD_REQUEST_BODY, INVALID_SIGNATURE, INVALID_API_KEY, BAD_REQUEST_PARAMETERS, AUTHORIZER_FAILURE, UNAUTHORIZED, "
    "INTEGRATION_TIMEOUT, ACCESS_DENIED, DEFAULT_4XX, DEFAULT_5XX, WAF_FILTERED, QUOTA_EXCEEDED, THROTTLED, "
    "API_CONFIGURATION_ERROR, UNSUPPORTED_MEDIA_TYPE, INTEGRATION_FAILURE, EXPIRED_TOKEN"
)


class NewResponse(Struct, frozen=True, rename="camel"):
    """The body of PutGatewayResponse."""

    status_code: str | None = None
    response_parameters: dict[str, str] = {}
    response_templates: dict[str, str] = {}


class PathlessOperation(Struct, frozen=True, rename={"from_": "from"}):
    """A patch operation whose path may be missing. AWS reports a missing path as `null` here."""

    op: Op
    path: str | None = None
    value: str | None = None
    from_: str | None = None


class ResponsePatch(Struct, frozen=True, rename="camel"):
    """The body of UpdateGatewayResponse."""

    patch_operations: tuple[PathlessOperation, ...] = ()


def _kind(call: Call) -> str:
    kind = call.params["response_type"]
    if kind not in RESPONSE_STATUSES:
        raise invalid_value(kind, "responseType", f"enum value set: [{KINDS_IN_AWSS_ORDER}]")
    return kind


def _status(text: str | None) -> str | None:
    if text and not STATUS_CODE.fullmatch(text):
        raise invalid_value(text, "statusCode", r"regular expression pattern: [1-5]\d\d")
    return text or None


async def put(call: Call) -> Answer:
    kind, body = _kind(call), call.read(NewResponse)
    made = GatewayResponse(_status(body.status_code), body.response_parameters, body.response_templates)
    api = await edit_api(call, lambda api: rules.with_response(api, kind, made))
    return Answer(201, rules.described_response(api, kind))


async def get(call: Call) -> Answer:
    kind = _kind(call)
    return Answer(body=rules.described_response(await api_of(call, call.context.store), kind))


async def get_all(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    return listed(rules.described_response(api, kind) for kind in RESPONSE_STATUSES)


async def delete(call: Call) -> Answer:
    kind = _kind(call)
    await edit_api(call, lambda api: rules.without_response(api, kind))
    return Answer(202)


# --- patches ------------------------------------------------------------------------------------------------------


def _entry(step: PatchStep) -> None:
    """Change an entry of the parameters or the templates. Raises ApiError for an empty value or an unknown entry."""
    where, name = step.path
    held: dict[str, Any] = step.draft.get(where, {})
    if step.op != "remove" and not step.value:
        raise bad_request(f"Invalid null or empty value in {where}")
    if step.op != "add" and name not in held and (step.op == "remove" or where == "responseParameters"):
        raise not_found("Invalid parameter name specified")
    member(step)


TABLE: Final = (
    PatchRule(("replace",), "/statusCode", effect=lambda step: step.draft.update(statusCode=_status(step.value))),
    PatchRule(("add", "replace", "remove"), "/responseParameters/{name}", effect=_entry),
    PatchRule(("add", "replace", "remove"), "/responseTemplates/{type}", effect=_entry),
)


async def update(call: Call) -> Answer:
    kind, given = _kind(call), call.read(ResponsePatch).patch_operations
    if any(one.path is None for one in given):
        raise bad_request("Invalid patch path null")
    operations = msgspec.convert(msgspec.to_builtins(given), tuple[PatchOperation, ...])

    def change(api: RestApi) -> RestApi:
        before = api.gateway_responses.get(kind, GatewayResponse())
        after = patched(before, TABLE, operations, bare_style)
        return rules.with_response(api, kind, after) if operations else api

    return Answer(body=rules.described_response(await edit_api(call, change), kind))


ALL: Final = "/restapis/{restapi_id}/gatewayresponses"
ONE: Final = f"{ALL}/{{response_type}}"

OPERATIONS: Final = (
    Operation("GetGatewayResponses", "GET", ALL, get_all, writes=False),
    Operation("GetGatewayResponse", "GET", ONE, get, writes=False),
    Operation("PutGatewayResponse", "PUT", ONE, put, writes=True),
    Operation("UpdateGatewayResponse", "PATCH", ONE, update, writes=True),
    Operation("DeleteGatewayResponse", "DELETE", ONE, delete, writes=True),
)

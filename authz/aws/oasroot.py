"""The root of an OpenAPI document, read as members of an API: name, key source, policy, gateway responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from authz.aws.decoded import Document, listing, mapping, text
from authz.aws.errors import ApiError
from authz.aws.oasdocument import EXTENSION, DocumentReader, Weight, is_integer, quoted, unreadable
from authz.aws.restapis import RESPONSE_STATUSES, STATUS_CODE, check_response
from authz.core.resources import GatewayResponse
from authz.core.rules import RESPONSE_HEADER
from authz.core.stored import RestApi


def described(api: RestApi, reader: DocumentReader, ignore: str | None) -> RestApi:
    """Apply the root's own members to an API; `ignore` is AWS's query parameter. Raises ApiError."""
    document = reader.document
    info = mapping(document.get("info"))
    source = document.get(f"{EXTENSION}api-key-source") or api.api_key_source
    if source not in ("HEADER", "AUTHORIZER"):
        raise unreadable(f"{EXTENSION}api-key-source must be HEADER or AUTHORIZER")
    if document.get(f"{EXTENSION}documentation") and ignore != "documentation":
        _leave_out(
            reader, f"'{EXTENSION}documentation' is left out; the query parameter ignore=documentation accepts it"
        )
    size = _typed(reader, f"{EXTENSION}minimum-compression-size", is_integer)
    types = _typed(reader, f"{EXTENSION}binary-media-types", lambda given: isinstance(given, list))
    policy = _typed(reader, f"{EXTENSION}policy", lambda given: isinstance(given, dict))
    return replace(
        _with_endpoint(api, reader),
        name=text(info.get("title")) or api.name,
        description=text(info.get("description")) or api.description,
        version=text(info.get("version")) or api.version,
        api_key_source=source,
        binary_media_types=tuple(dict.fromkeys((*api.binary_media_types, *map(str, listing(types))))),
        minimum_compression_size=api.minimum_compression_size if size is None else size,
        policy=msgspec.json.encode(policy).decode() if policy else api.policy,
    )


def _leave_out(reader: DocumentReader, cause: str) -> None:
    reader.notes.add(Weight.LEFT_OUT, cause)


def _typed(reader: DocumentReader, name: str, fits: Callable[[Any], bool]) -> Any:
    """Return an extension of the root; None, and a note, if it has another type."""
    given = reader.document.get(name)
    if given is None or fits(given):
        return given
    _leave_out(reader, f"'{name}' is left out: it is of another kind")
    return None


def _with_endpoint(api: RestApi, reader: DocumentReader) -> RestApi:
    """Apply the endpoint configuration."""
    name = f"{EXTENSION}endpoint-configuration"
    given = mapping(_typed(reader, name, lambda given: isinstance(given, dict)))
    reader.only(given, ("disableExecuteApiEndpoint", "vpcEndpointIds"), f"of '{name}'")
    disabled = (text(given.get("disableExecuteApiEndpoint")) or "").lower()
    endpoints = [one for one in listing(given.get("vpcEndpointIds")) if isinstance(one, str)]
    if endpoints:
        api = replace(api, endpoint_configuration={**api.endpoint_configuration, "vpcEndpointIds": endpoints})
    return replace(api, disable_execute_api_endpoint=disabled == "true") if disabled in ("true", "false") else api


def with_responses(api: RestApi, reader: DocumentReader) -> RestApi:
    """Apply the gateway responses. Raises ApiError."""
    held = dict(api.gateway_responses)
    name = f"{EXTENSION}gateway-responses"
    for kind, response in mapping(_typed(reader, name, lambda given: isinstance(given, dict))).items():
        if kind not in RESPONSE_STATUSES:
            _leave_out(reader, f"Unknown gateway response type '{kind[:100]}' is ignored")
        elif (found := reader.mapping(response, "A gateway response", kind)) is not None:
            held[kind] = _gateway_response(kind, found, reader)
    return replace(api, gateway_responses=held)


def _gateway_response(kind: str, given: Document, reader: DocumentReader) -> GatewayResponse:
    reader.only(given, ("statusCode", "responseParameters", "responseTemplates"), "of a gateway response", kind)
    status = text(given.get("statusCode"))
    if status and not STATUS_CODE.fullmatch(status):
        raise unreadable(f"the statusCode {quoted(status)} of the gateway response {kind} is no status")
    parameters = _texts(given.get("responseParameters"), kind, reader)
    for name in [name for name in parameters if not RESPONSE_HEADER.fullmatch(name)]:
        del parameters[name]
        _leave_out(reader, f"{quoted(name)} of the gateway response {kind} is left out: only headers can be set")
    response = GatewayResponse(status or None, parameters, _texts(given.get("responseTemplates"), kind, reader))
    try:
        check_response(response)
    except ApiError as refused:
        raise unreadable(f"the gateway response {kind}: {refused.message.partition(': ')[2]}") from None
    return response


def _texts(value: Any, kind: str, reader: DocumentReader) -> dict[str, str]:
    kept = {}
    for name, given in mapping(value).items():
        if (shown := text(given)) is None:
            _leave_out(reader, f"{quoted(name)} of the gateway response {kind} is left out: it is no text")
        else:
            kept[str(name)] = shown
    return kept

"""An OpenAPI document, version 2 or 3, read as edits of a RestApi."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from authz.core.errors import ApiError, bad_request
from authz.core.resources import GatewayResponse, HttpMethod
from authz.core.restapis import RESPONSE_STATUSES, check_api, ensure_path, with_method
from authz.core.stored import RestApi, StoredMethod

Mode = Literal["merge", "overwrite"]
Document = Mapping[str, Any]

EXTENSION: Final = "x-amazon-apigateway-"
VERBS: Final[dict[str, HttpMethod]] = {
    "get": "GET",
    "put": "PUT",
    "post": "POST",
    "delete": "DELETE",
    "patch": "PATCH",
    "options": "OPTIONS",
    "head": "HEAD",
    f"{EXTENSION}any-method": "ANY",
}
PLACES: Final = {"path": "path", "query": "querystring", "header": "header"}
# What an integration is shown with; the extension may hold more, which is not AWS's.
INTEGRATION: Final = (
    *("httpMethod", "uri", "connectionType", "connectionId", "credentials", "requestParameters", "requestTemplates"),
    *("passthroughBehavior", "contentHandling", "timeoutInMillis", "cacheNamespace", "cacheKeyParameters", "tlsConfig"),
)
LARGEST_NUMBER: Final = 2**31 - 1
LONGEST_REFERENCE: Final = 10  # references to references, before they are taken for a circle


@dataclass(frozen=True)
class Imported:
    """An API after an import, and what of the document was not taken over."""

    api: RestApi
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How to import: into what is there or in its place, and what becomes of the document's base path."""

    new_id: Callable[[], str]
    mode: Mode = "merge"
    basepath: str = "ignore"


def imported(api: RestApi, document: Document, options: Options) -> Imported:
    """The API with what an OpenAPI document says. Raises ApiError, and then nothing of it holds."""
    _check_version(document)
    base = _overwritten(api) if options.mode == "overwrite" else api
    warnings: list[str] = []
    prefix = _prefix(document, options.basepath)
    result = _described(base, document)
    for path, item in _mapping(document.get("paths")).items():
        result = _with_path(result, prefix + str(path), _mapping(item), _Reader(document, options, warnings))
    result = _with_responses(result, document, warnings)
    check_api(result)
    return Imported(result, tuple(warnings))


def _check_version(document: Document) -> None:
    if "swagger" in document:
        if str(document["swagger"]) not in ("2.0", "2"):
            raise bad_request("Invalid OpenAPI input.")
    elif "openapi" not in document:
        raise bad_request("Invalid OpenAPI input.")
    elif not str(document["openapi"]).startswith("3."):
        raise bad_request("Only OpenAPI 3.x.x are currently supported")


def _overwritten(api: RestApi) -> RestApi:
    """What an overwriting import keeps of an API: who it is, and its root without methods."""
    root = replace(api.resources[api.root_resource_id], methods={})
    return replace(
        api,
        description=None,
        version=None,
        api_key_source="HEADER",
        binary_media_types=(),
        minimum_compression_size=None,
        policy=None,
        resources={root.id: root},
        gateway_responses={},
    )


# --- the document's root ------------------------------------------------------------------------------------------


def _described(api: RestApi, document: Document) -> RestApi:
    info = _mapping(document.get("info"))
    source = document.get(f"{EXTENSION}api-key-source", api.api_key_source)
    if source not in ("HEADER", "AUTHORIZER"):
        raise _unreadable(f"{EXTENSION}api-key-source must be HEADER or AUTHORIZER")
    size = document.get(f"{EXTENSION}minimum-compression-size", api.minimum_compression_size)
    endpoint = _mapping(document.get(f"{EXTENSION}endpoint-configuration"))
    policy = _mapping(document.get(f"{EXTENSION}policy"))
    return replace(
        api,
        name=_text(info.get("title")) or api.name,
        description=_text(info.get("description")) or api.description,
        version=_text(info.get("version")) or api.version,
        api_key_source=source,
        binary_media_types=_merged(api.binary_media_types, document.get(f"{EXTENSION}binary-media-types")),
        minimum_compression_size=size if _is_integer(size) else api.minimum_compression_size,
        policy=msgspec.json.encode(policy).decode() if policy else api.policy,
        disable_execute_api_endpoint=bool(endpoint.get("disableExecuteApiEndpoint", api.disable_execute_api_endpoint)),
    )


def _merged(before: tuple[str, ...], given: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*before, *map(str, _list(given)))))


def _with_responses(api: RestApi, document: Document, warnings: list[str]) -> RestApi:
    held = dict(api.gateway_responses)
    for kind, response in _mapping(document.get(f"{EXTENSION}gateway-responses")).items():
        if kind in RESPONSE_STATUSES:
            held[kind] = _gateway_response(_mapping(response))
        else:
            warnings.append(f"Unknown gateway response type '{kind}' is ignored")
    return replace(api, gateway_responses=held)


def _gateway_response(given: Document) -> GatewayResponse:
    status = _text(given.get("statusCode"))
    if status and not (len(status) == 3 and status.isascii() and status.isdigit() and "1" <= status[0] <= "5"):
        raise _unreadable("the statusCode of a gateway response is no status")
    return GatewayResponse(
        status or None, _texts(given.get("responseParameters")), _texts(given.get("responseTemplates"))
    )


def _prefix(document: Document, basepath: str) -> str:
    """What stands before each path: the document's base path, or what is left of it without its first part."""
    whole = "/" + _base_path(document).strip("/")
    if whole == "/" or basepath == "ignore":
        return ""
    if basepath == "prepend":
        return whole
    if basepath == "split":
        return "".join(f"/{part}" for part in whole.split("/")[2:])
    raise bad_request("Enumeration value of basepath must be ignore, prepend or split")


def _base_path(document: Document) -> str:
    if "swagger" in document:
        return _text(document.get("basePath")) or ""
    server = _mapping(next(iter(_list(document.get("servers"))), None))
    url = _text(server.get("url")) or ""
    for name, variable in _mapping(server.get("variables")).items():
        url = url.replace(f"{{{name}}}", _text(_mapping(variable).get("default")) or "")
    return url.partition("://")[2].partition("/")[2] if "://" in url else url


# --- paths --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """A document with how to read it, and the warnings that come up."""

    document: Document
    options: Options
    warnings: list[str]

    def resolved(self, value: Any) -> Document:
        """A mapping, or what it refers to within the document."""
        for _ in range(LONGEST_REFERENCE):
            reference = _mapping(value).get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            value = self.document
            for part in reference[2:].split("/"):
                value = _mapping(value).get(part.replace("~1", "/").replace("~0", "~"))
        return _mapping(value)

    def schemes(self) -> Document:
        if "swagger" in self.document:
            return _mapping(self.document.get("securityDefinitions"))
        return _mapping(_mapping(self.document.get("components")).get("securitySchemes"))

    def required(self, operation: Document) -> Iterator[tuple[str, Document]]:
        """The security schemes of an operation: its own, or else the document's."""
        for requirement in _list(operation.get("security", self.document.get("security"))):
            for name in _mapping(requirement):
                yield str(name), self.resolved(self.schemes().get(name))


def _with_path(api: RestApi, path: str, item: Document, reader: _Reader) -> RestApi:
    if not path.startswith("/"):
        raise _unreadable(f"the path {path} does not begin with /")
    try:
        api, at = ensure_path(api, path.rstrip("/"), reader.options.new_id)
    except ApiError as refused:
        message = f"Unable to create resource at path '{path}': {refused.message}"
        raise ApiError(refused.code, message) from None
    common = _list(item.get("parameters"))
    for name, operation in item.items():
        if name in VERBS:
            read = _method(_mapping(operation), common, reader)
            api = with_method(api, at, VERBS[name], read)
        elif name == "trace":
            reader.warnings.append(f"Method TRACE of resource '{path}' is ignored")
    return api


def _method(operation: Document, common: Iterable[Any], reader: _Reader) -> StoredMethod:
    schemes = list(reader.required(operation))
    authorization = next(filter(None, (_authorization(scheme) for _, scheme in schemes)), "NONE")
    if authorization != "NONE":
        reader.warnings.append(f"Authorization of type {authorization} is stored and not carried out")
    parameters = [reader.resolved(one) for one in (*common, *_list(operation.get("parameters")))]
    return StoredMethod(
        api_key_required=any(_is_key(scheme) for _, scheme in schemes),
        authorization_type=authorization,
        operation_name=_text(operation.get("operationId")) or None,
        request_parameters={
            f"method.request.{PLACES[place]}.{name}": one.get("required") is True
            for one in parameters
            if (place := str(one.get("in"))) in PLACES and (name := _text(one.get("name")))
        },
        method_responses={
            str(status): {"statusCode": str(status)}
            for status in _mapping(operation.get("responses"))
            if str(status).isdigit()
        },
        method_integration=_integration(operation.get(f"{EXTENSION}integration"), reader),
    )


def _is_key(scheme: Document) -> bool:
    """Whether a security scheme is the API key, and not a token for an authorizer in the same place."""
    place = (scheme.get("type"), scheme.get("in"), str(scheme.get("name")).lower())
    return place == ("apiKey", "header", "x-api-key") and f"{EXTENSION}authorizer" not in scheme


def _authorization(scheme: Document) -> str | None:
    if f"{EXTENSION}authorizer" in scheme:
        kind = _mapping(scheme[f"{EXTENSION}authorizer"]).get("type")
        return "COGNITO_USER_POOLS" if kind == "cognito_user_pools" else "CUSTOM"
    return "AWS_IAM" if str(scheme.get(f"{EXTENSION}authtype")).lower() == "awssigv4" else None


def _integration(given: Any, reader: _Reader) -> dict[str, Any] | None:
    found = reader.resolved(given)
    if not found:
        return None
    shown = {name: _plain(found[name]) for name in INTEGRATION if found.get(name) is not None}
    responses = _mapping(found.get("responses"))
    answers = [_integration_response(str(pattern), _mapping(one)) for pattern, one in responses.items()]
    return {
        "type": (_text(found.get("type")) or "MOCK").upper(),
        **shown,
        **({"integrationResponses": {one["statusCode"]: one for one in answers}} if answers else {}),
    }


def _integration_response(pattern: str, given: Document) -> dict[str, Any]:
    return {
        "statusCode": _text(given.get("statusCode")) or "200",
        **({} if pattern == "default" else {"selectionPattern": pattern}),
        **{
            name: _texts(given[name])
            for name in ("responseParameters", "responseTemplates")
            if _mapping(given.get(name))
        },
    }


# --- what a document may hold anywhere ----------------------------------------------------------------------------


def _mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _plain(value: Any) -> Any:
    """A member of an integration: a scalar, or a flat list or mapping of them."""
    match value:
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items() if not isinstance(one, Mapping | list)}
        case list():
            return [str(one) for one in value if not isinstance(one, Mapping | list)]
    # JSON knows larger numbers than what keeps it does.
    return str(value) if isinstance(value, int) and abs(value) > LARGEST_NUMBER else value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _texts(value: Any) -> dict[str, str]:
    return {str(name): _text(text) or "" for name, text in _mapping(value).items()}


def _unreadable(cause: str) -> ApiError:
    return bad_request(f"Failed to parse the uploaded OpenAPI document due to: {cause}")

"""An OpenAPI document, version 2 or 3, read as edits of a RestApi. What it says and we do not take over is noted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request
from authz.aws.models import models
from authz.aws.oasdocument import (
    EXTENSION,
    Document,
    Notes,
    Reader,
    Weight,
    intrinsic,
    listing,
    mapping,
    quoted,
    text,
    too_large,
    unreadable,
)
from authz.aws.oasmethods import Methods, Place, is_integer
from authz.aws.oasmodels import validator_of, with_models, with_validators
from authz.aws.restapis import RESPONSE_STATUSES, add_resource, check_api, check_response
from authz.core.resources import GatewayResponse, HttpMethod
from authz.core.rules import RESPONSE_HEADER
from authz.core.stored import RestApi, StoredMethod

Mode = Literal["merge", "overwrite"]

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
ROOT: Final = (
    *("info", "paths", "security", "tags", "externalDocs"),
    *("swagger", "host", "basePath", "schemes", "consumes", "produces", "definitions", "parameters", "responses"),
    *("securityDefinitions", "openapi", "servers", "components", "webhooks", "jsonSchemaDialect", "$self"),
    *(
        f"{EXTENSION}{name}"
        for name in (
            *("api-key-source", "binary-media-types", "documentation", "endpoint-configuration", "gateway-responses"),
            *("importexport-version", "minimum-compression-size", "policy", "request-validator", "request-validators"),
        )
    ),
)
ITEM: Final = (*VERBS, "trace", "$ref", "summary", "description", "servers", "parameters", "security")
BASE_PATHS: Final = ("ignore", "prepend", "split")
AUTHORIZATIONS: Final = ("AWS_IAM", "CUSTOM", "COGNITO_USER_POOLS")
MAX_PATH: Final = 2_000  # characters of a path with the base path before it, and of a server's URL
URL_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
INTRINSICS: Final = "resolve the template's intrinsics first"


@dataclass(frozen=True)
class Imported:
    """An API after an import, and what of the document was not taken over.

    `grave` is true where a warning is not one that the caller has accepted beforehand.
    """

    api: RestApi
    warnings: tuple[str, ...]
    grave: bool


@dataclass(frozen=True)
class Options:
    """How to import: into what is there or in its place, and what becomes of the document's base path.

    `accept` names types of authorization whose warning does not count for `failonwarnings`; `ignore` is AWS's, and
    leaves out the documentation.
    """

    new_id: Callable[[], str]
    mode: Mode = "merge"
    basepath: str = "ignore"
    accept: tuple[str, ...] = ()
    ignore: str | None = None

    def check(self) -> None:
        """Raise ApiError where an option is none of AWS's or ours."""
        if self.basepath not in BASE_PATHS:
            raise bad_request("Enumeration value of basepath must be ignore, prepend or split")
        for name in self.accept:
            if name not in AUTHORIZATIONS:
                raise bad_request(f"Invalid value of accept. Valid options are {','.join(AUTHORIZATIONS)}")
        if self.ignore not in (None, "documentation"):
            raise bad_request("Enumeration value of ignore must be documentation")


def imported(api: RestApi, document: Document, options: Options) -> Imported:
    """The API with what an OpenAPI document says. Raises ApiError, and then nothing of it holds."""
    options.check()
    _check_version(document)
    notes = Notes()
    reader = Reader(document, notes)
    reader.only(document, ROOT, "at the root")
    base = _overwritten(api) if options.mode == "overwrite" else api
    result = _described(base, reader, options)
    result = with_validators(with_models(result, reader, options.new_id), reader, options.new_id)
    result = _Tree(result, api, reader, options).with_paths()
    result = _with_responses(result, reader)
    check_api(result)
    return Imported(result, notes.texts(), notes.grave)


def _check_version(document: Document) -> None:
    title = intrinsic(mapping(document.get("info")).get("title"))
    if title or intrinsic(document) or "AWSTemplateFormatVersion" in document:
        found = f" info.title is {title}:" if title else " This is a CloudFormation template:"
        raise bad_request(f"Invalid OpenAPI input.{found} {INTRINSICS}")
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
        models={},
        request_validators={},
    )


# --- the document's root ------------------------------------------------------------------------------------------


def _described(api: RestApi, reader: Reader, options: Options) -> RestApi:
    document = reader.document
    info = mapping(document.get("info"))
    source = document.get(f"{EXTENSION}api-key-source") or api.api_key_source
    if source not in ("HEADER", "AUTHORIZER"):
        raise unreadable(f"{EXTENSION}api-key-source must be HEADER or AUTHORIZER")
    if document.get(f"{EXTENSION}documentation") and options.ignore != "documentation":
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


def _leave_out(reader: Reader, cause: str) -> None:
    reader.notes.add(Weight.LEFT_OUT, cause)


def _typed(reader: Reader, name: str, fits: Callable[[Any], bool]) -> Any:
    """An extension of the root; None where it is absent or of another kind."""
    given = reader.document.get(name)
    if given is None or fits(given):
        return given
    _leave_out(reader, f"'{name}' is left out: it is of another kind")
    return None


def _with_endpoint(api: RestApi, reader: Reader) -> RestApi:
    name = f"{EXTENSION}endpoint-configuration"
    given = mapping(_typed(reader, name, lambda given: isinstance(given, dict)))
    reader.only(given, ("disableExecuteApiEndpoint", "vpcEndpointIds"), f"of '{name}'")
    disabled = (text(given.get("disableExecuteApiEndpoint")) or "").lower()
    endpoints = [one for one in listing(given.get("vpcEndpointIds")) if isinstance(one, str)]
    if endpoints:
        api = replace(api, endpoint_configuration={**api.endpoint_configuration, "vpcEndpointIds": endpoints})
    return replace(api, disable_execute_api_endpoint=disabled == "true") if disabled in ("true", "false") else api


def _with_responses(api: RestApi, reader: Reader) -> RestApi:
    held = dict(api.gateway_responses)
    name = f"{EXTENSION}gateway-responses"
    for kind, response in mapping(_typed(reader, name, lambda given: isinstance(given, dict))).items():
        if kind not in RESPONSE_STATUSES:
            _leave_out(reader, f"Unknown gateway response type '{kind[:100]}' is ignored")
        elif (found := reader.mapping(response, "A gateway response", kind)) is not None:
            held[kind] = _gateway_response(kind, found, reader)
    return replace(api, gateway_responses=held)


def _gateway_response(kind: str, given: Document, reader: Reader) -> GatewayResponse:
    reader.only(given, ("statusCode", "responseParameters", "responseTemplates"), "of a gateway response", kind)
    status = text(given.get("statusCode"))
    if status and not re.fullmatch(r"[1-5]\d\d", status, re.ASCII):
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


def _texts(value: Any, kind: str, reader: Reader) -> dict[str, str]:
    kept = {}
    for name, given in mapping(value).items():
        if (shown := text(given)) is None:
            _leave_out(reader, f"{quoted(name)} of the gateway response {kind} is left out: it is no text")
        else:
            kept[str(name)] = shown
    return kept


# --- the base path ------------------------------------------------------------------------------------------------


def _prefix(document: Document, basepath: str) -> str:
    """What stands before each path: the document's base path, or what is left of it without its first part."""
    if basepath == "ignore":
        return ""
    parts = [part for part in _base_path(document).split("/") if part]
    return "".join(f"/{part}" for part in (parts if basepath == "prepend" else parts[1:]))


def _base_path(document: Document) -> str:
    """The base path as AWS finds it: the first variable `basePath` of a server, or else the path of the first URL."""
    if "swagger" in document:
        return _bounded(document.get("basePath"))
    servers = [mapping(server) for server in listing(document.get("servers"))]
    for server in servers:
        variable = mapping(mapping(server.get("variables")).get("basePath"))
        if (default := text(variable.get("default"))) is not None:
            return _bounded(default)
    return _url_path(servers[0]) if servers else ""


def _url_path(server: Document) -> str:
    """The path of a server's URL. Variables stand for their defaults, which are not looked through again."""
    variables = mapping(server.get("variables"))
    room = MAX_PATH

    def default(found: re.Match[str]) -> str:
        nonlocal room
        value = _bounded(mapping(variables.get(found[1])).get("default", found[0]))
        room -= len(value)
        if room < 0:
            raise too_large()
        return value

    url = URL_VARIABLE.sub(default, _bounded(server.get("url")))
    url = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, slashes, rest = url.partition("//")
    if slashes and (not scheme or scheme.endswith(":")):
        return rest.partition("/")[2]
    first, _, below = url.partition("/")
    return below if "." in first or ":" in first else url  # a host without a scheme


def _bounded(value: Any) -> str:
    found = text(value) or ""
    if len(found) > MAX_PATH:
        raise unreadable(f"a server's URL, its variables and a base path have at most {MAX_PATH} characters")
    return found


# --- paths --------------------------------------------------------------------------------------------------------


class _Tree:
    """The resources of an API while an import adds to them."""

    def __init__(self, api: RestApi, before: RestApi, reader: Reader, options: Options) -> None:
        self._api = api
        self._reader = reader
        self._options = options
        self._ids = {one.path: one.id for one in api.resources.values()}
        self._before = {one.path: one.id for one in before.resources.values()}  # an overwritten path keeps its id
        self._made: dict[str, dict[HttpMethod, StoredMethod]] = {}
        self._methods = Methods(reader, options.accept, models(api))

    def with_paths(self) -> RestApi:
        paths = self._reader.document.get("paths")
        if paths is not None and not isinstance(paths, dict):
            raise unreadable("'paths' is no mapping")
        prefix = _prefix(self._reader.document, self._options.basepath)
        for path, item in mapping(paths).items():
            if not str(path).startswith("x-"):
                self._add_path(prefix, str(path), item)
        resources = {
            one.id: replace(one, methods={**one.methods, **made}) if (made := self._made.get(one.id)) else one
            for one in self._api.resources.values()
        }
        return replace(self._api, resources=resources)

    def _add_path(self, prefix: str, path: str, given: Any) -> None:
        if not path.startswith("/"):
            raise unreadable(f"the path {path[:200]} does not begin with /")
        item = self._item(path, given)
        if item is None:
            return
        whole = (prefix + path).rstrip("/") or "/"
        at = self._resource(whole, path)
        self._reader.only(item, ITEM, "of a path", path[:200])
        places = []
        for name, operation in self._operations(path, item):
            place = Place(VERBS[name], whole, at)
            if self._overrides(place):
                self._reader.notes.add(Weight.OPEN, "Given more than once, and the last is taken", str(place))
            places.append(str(place))
            method = self._methods.read(operation, item.get("parameters"), place)
            validator = validator_of(self._api, operation, self._reader, str(place))
            method = replace(method, request_validator_id=validator)
            self._made.setdefault(at, {})[place.verb] = method  # type: ignore[index]  # a value of VERBS
        if item.get("security") is not None:
            self._reader.notes.add(Weight.OPEN, "The security of a path is left out; methods have their own", *places)

    def _item(self, path: str, given: Any) -> Document | None:
        """A path item, with what it refers to below its own members."""
        what = "A path"
        if intrinsic(given):
            what = f"A path that is {intrinsic(given)} ({INTRINSICS})"
            given = None
        found = self._reader.mapping(given, what, path[:200])
        own = {name: one for name, one in mapping(given).items() if name != "$ref"}
        return None if found is None else {**found, **own}

    def _operations(self, path: str, item: Document) -> Iterator[tuple[str, Document]]:
        for name, given in item.items():
            if name in VERBS:
                found = self._reader.mapping(given, "A method", f"{VERBS[name]} {path[:200]}")
                if found is not None:
                    yield name, found
            elif name == "trace":
                _leave_out(self._reader, f"Method TRACE of resource '{path[:200]}' is ignored")

    def _overrides(self, place: Place) -> bool:
        return place.verb in self._made.get(place.resource_id, {})

    def _resource(self, whole: str, path: str) -> str:
        """The id of a path's resource, which is made with all above it where it is not there."""
        if len(whole) > MAX_PATH:
            raise unreadable(f"the path {path[:200]}… has more than {MAX_PATH} characters")
        known, missing = whole, list[str]()
        while known not in self._ids:
            known, _, part = known.rpartition("/")
            known = known or "/"
            missing.append(part)
        at = self._ids[known]
        for part in reversed(missing):
            at = self._add_resource(at, part, path)
        return at

    def _add_resource(self, parent_id: str, part: str, path: str) -> str:
        above = self._api.resources[parent_id].path.removesuffix("/")
        made = self._before.get(f"{above}/{part}") or self._options.new_id()
        try:
            self._api = add_resource(self._api, parent_id, part, made)
        except ApiError as refused:
            message = f"Unable to create resource at path '{path[:200]}': {refused.message}"
            raise ApiError(refused.code, message) from None
        self._ids[f"{above}/{part}"] = made
        return made

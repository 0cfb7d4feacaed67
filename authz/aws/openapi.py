"""Imports an OpenAPI document, version 2 or 3, into a RestApi. Warnings name each part that is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec.structs import replace

from authz.aws.decoded import Document, mapping
from authz.aws.errors import ApiError, bad_request
from authz.aws.models import models
from authz.aws.oasbasepath import MAX_PATH, prefix
from authz.aws.oasdocument import EXTENSION, DocumentReader, MethodPlace, Notes, Weight, intrinsic, unreadable
from authz.aws.oasmethods import Methods
from authz.aws.oasmodels import validator_of, with_models, with_validators
from authz.aws.oasroot import described, with_responses
from authz.aws.restapis import AUTHORIZATIONS, add_resource, check_api
from authz.core.resources import HttpMethod
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

INTRINSICS: Final = "resolve the template's intrinsics first"


@dataclass(frozen=True)
class Imported:
    """An API after an import, and the warnings. `grave` is true if the caller has not accepted all of them."""

    api: RestApi
    warnings: tuple[str, ...]
    grave: bool


@dataclass(frozen=True)
class Options:
    """The query parameters of an import.

    `mode` merges the document into the API or overwrites it. `basepath` is `ignore`, `prepend` or `split`. `accept`
    names types of authorization whose warning does not count for `failonwarnings`. `ignore` leaves out documentation.
    """

    new_id: Callable[[], str]
    mode: Mode = "merge"
    basepath: str = "ignore"
    accept: tuple[str, ...] = ()
    ignore: str | None = None

    def check(self) -> None:
        """Raise ApiError for an option that neither AWS nor we know."""
        if self.basepath not in BASE_PATHS:
            raise bad_request("Enumeration value of basepath must be ignore, prepend or split")
        for name in self.accept:
            if name not in AUTHORIZATIONS:
                raise bad_request(f"Invalid value of accept. Valid options are {','.join(AUTHORIZATIONS)}")
        if self.ignore not in (None, "documentation"):
            raise bad_request("Enumeration value of ignore must be documentation")


def imported(api: RestApi, document: Document, options: Options) -> Imported:
    """Apply an OpenAPI document to an API. Raises ApiError for a document that cannot be applied."""
    options.check()
    _check_version(document)
    notes = Notes()
    reader = DocumentReader(document, notes)
    reader.only(document, ROOT, "at the root")
    base = _overwritten(api) if options.mode == "overwrite" else api
    result = described(base, reader, options.ignore)
    result = with_validators(with_models(result, reader, options.new_id), reader, options.new_id)
    result = _Tree(result, api, reader, options).with_paths()
    result = with_responses(result, reader)
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
    """Reset an API for an overwriting import: it keeps its id, and its root without methods."""
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


class _Tree:
    """The resources of an API while an import adds to them."""

    def __init__(self, api: RestApi, before: RestApi, reader: DocumentReader, options: Options) -> None:
        self._api = api
        self._reader = reader
        self._options = options
        self._ids = {one.path: one.id for one in api.resources.values()}
        self._before = {one.path: one for one in before.resources.values()}  # an overwritten path keeps its id
        self._made: dict[str, dict[HttpMethod, StoredMethod]] = {}
        self._methods = Methods(reader, options.accept, models(api))

    def with_paths(self) -> RestApi:
        paths = self._reader.document.get("paths")
        if paths is not None and not isinstance(paths, dict):
            raise unreadable("'paths' is no mapping")
        base = prefix(self._reader.document, self._options.basepath)
        for path, item in mapping(paths).items():
            if not str(path).startswith("x-"):
                self._add_path(base, str(path), item)
        resources = {
            one.id: replace(one, methods={**one.methods, **made}) if (made := self._made.get(one.id)) else one
            for one in self._api.resources.values()
        }
        return replace(self._api, resources=resources)

    def _add_path(self, base: str, path: str, given: Any) -> None:
        if not path.startswith("/"):
            raise unreadable(f"the path {path[:200]} does not begin with /")
        item = self._item(path, given)
        if item is None:
            return
        whole = (base + path).rstrip("/") or "/"
        at = self._resource(whole, path)
        self._reader.only(item, ITEM, "of a path", path[:200])
        places = []
        for name, operation in self._operations(path, item):
            place = MethodPlace(VERBS[name], whole, at)
            if place.verb in self._made.get(at, {}):
                self._reader.notes.add(Weight.OPEN, "Given more than once, and the last is taken", str(place))
            places.append(str(place))
            method = self._methods.read(operation, item.get("parameters"), place)
            validator = validator_of(self._api, operation, self._reader, str(place))
            method = self._with_cost(replace(method, request_validator_id=validator), whole, VERBS[name])
            self._made.setdefault(at, {})[place.verb] = method  # type: ignore[index]  # a value of VERBS
        if item.get("security") is not None:
            self._reader.notes.add(Weight.OPEN, "The security of a path is left out; methods have their own", *places)

    def _with_cost(self, method: StoredMethod, path: str, verb: str) -> StoredMethod:
        """Give a method the cost that it had before the import: a document has none."""
        methods: Mapping[Any, StoredMethod] = self._before[path].methods if path in self._before else {}
        held = methods.get(verb)
        return replace(method, cost=held.cost, cost_from=held.cost_from) if held else method

    def _item(self, path: str, given: Any) -> Document | None:
        """Return a path item with the members that it refers to below its own. Note a broken one and return None."""
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
                self._reader.notes.add(Weight.LEFT_OUT, f"Method TRACE of resource '{path[:200]}' is ignored")

    def _resource(self, whole: str, path: str) -> str:
        """Return the id of a path's resource; add missing resources. Raises ApiError."""
        if len(whole) > MAX_PATH:
            raise unreadable(f"the path {path[:200]}… has more than {MAX_PATH} characters")
        known, missing = whole, list[str]()
        while known not in self._ids:
            known, _, part = known.rpartition("/")
            known = known or "/"
            missing.append(part)
        at = self._ids[known]
        for part in reversed(missing):
            below = f"{known.removesuffix('/')}/{part}"
            made = self._before[below].id if below in self._before else self._options.new_id()
            try:
                self._api = add_resource(self._api, at, part, made)
            except ApiError as refused:
                message = f"Unable to create resource at path '{path[:200]}': {refused.message}"
                raise ApiError(refused.code, message) from None
            self._ids[below] = at = made
            known = below
        return at

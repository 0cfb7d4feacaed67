"""An operation of an OpenAPI document as a method, with its security, parameters, responses and integration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from authz.aws.decoded import Document, listing, mapping, text
from authz.aws.oasdocument import EXTENSION, DocumentReader, MethodPlace, Weight, quoted
from authz.aws.oasintegrations import Integrations
from authz.aws.oassecurity import Schemes
from authz.aws.restapis import STATUS_CODE
from authz.core.stored import StoredMethod

PLACES: Final = {"path": "path", "query": "querystring", "header": "header"}
VARIABLE: Final = re.compile(r"\{([^{}/+]+)\+?\}")
OPERATION: Final = (
    *("tags", "summary", "description", "externalDocs", "operationId", "consumes", "produces", "parameters"),
    *("responses", "schemes", "deprecated", "security", "requestBody", "callbacks", "servers", "$ref"),
    *(f"{EXTENSION}{name}" for name in ("auth", "integration", "request-validator")),
)
MODEL: Final = re.compile(r"#/(?:components/schemas|definitions)/([A-Za-z0-9]+)")


class Methods:
    """Reads operations as methods."""

    def __init__(self, reader: DocumentReader, accepted: Iterable[str], model_names: Iterable[str]) -> None:
        """`accepted` are types of authorization that the caller accepts; `model_names` are the API's models."""
        self._reader = reader
        self._model_names = frozenset(model_names)
        self._schemes = Schemes(reader)
        self._integrations = Integrations(reader)
        self._accepted = frozenset(accepted)

    def read(self, operation: Document, common: Any, place: MethodPlace) -> StoredMethod:
        """Return an operation as a method. `common` are the parameters of its path item."""
        reader = self._reader
        reader.only(operation, OPERATION, "of an operation", str(place))
        security = self._schemes.security(operation)
        security.override(operation)
        security.note(place, reader, self._accepted)
        parameters = list(self._parameters(operation, common, place))
        listed = {
            f"method.request.{PLACES[where]}.{name}": one.get("required") is True
            for one in parameters
            if (where := str(one.get("in"))) in PLACES and (name := text(one.get("name")))
        }
        variables = {f"method.request.path.{name}": True for name in VARIABLE.findall(place.path)}
        method = StoredMethod(
            api_key_required=security.key_required,
            authorization_type=security.authorization,
            authorization_scopes=security.scopes,
            operation_name=text(operation.get("operationId")) or None,
            request_parameters={**variables, **listed},
            request_models=self._request_models(operation, parameters, place),
            method_responses=dict(self._responses(operation, place)),
            method_integration=self._integrations.read(operation.get(f"{EXTENSION}integration"), place),
        )
        reader.store(len(msgspec.json.encode(method)))
        return method

    def _parameters(self, operation: Document, common: Any, place: MethodPlace) -> Iterator[Document]:
        """Yield the parameters of the path item, then the operation's own."""
        for given in (common, operation.get("parameters")):
            if given is not None and not isinstance(given, list):
                self._leave_out("'parameters' is left out: it is no list", place)
            for one in listing(given):
                if found := self._reader.mapping(one, "A parameter", str(place)):
                    yield found
                    if found.get("in") not in (*PLACES, "body"):
                        self._leave_out(f"A parameter in {quoted(found.get('in'))} is left out", place)

    def _request_models(self, operation: Document, parameters: list[Document], place: MethodPlace) -> dict[str, str]:
        if self._reader.is_swagger:
            types = self._media_types(operation, "consumes")
            schemas = [one.get("schema") for one in parameters if one.get("in") == "body"]
            return {kind: name for schema in schemas if (name := self._model(schema, place)) for kind in types}
        body = operation.get("requestBody")
        found = self._reader.mapping(body, "A request body", str(place)) if body is not None else None
        return self._models(found, place)

    def _model(self, schema: Any, place: MethodPlace) -> str | None:
        """Return the name of the model that a schema refers to; None if it refers to none."""
        reference = mapping(schema).get("$ref")
        found = MODEL.fullmatch(reference) if isinstance(reference, str) else None
        if found and found[1] not in self._model_names:
            self._leave_out(f"The model {quoted(found[1])} is not defined", place)
            return None
        return found[1] if found else None

    def _models(self, holder: Document | None, place: MethodPlace) -> dict[str, str]:
        """Return the named models of a `content` by media type."""
        content = mapping(mapping(holder).get("content"))
        self._reader.step(len(content))
        named = {str(kind): self._model(mapping(one).get("schema"), place) for kind, one in content.items()}
        return {kind: name for kind, name in named.items() if name}

    def _media_types(self, operation: Document, member: str) -> list[str]:
        given = operation.get(member) or self._reader.document.get(member)
        self._reader.step(len(listing(given)))
        return [kind for kind in listing(given) if isinstance(kind, str)] or ["application/json"]

    def _responses(self, operation: Document, place: MethodPlace) -> Iterator[tuple[str, dict[str, Any]]]:
        given = operation.get("responses")
        if given is not None and not isinstance(given, Mapping):
            self._leave_out("'responses' is left out: it is no mapping", place)
        for code, one in mapping(given).items():
            status = str(code)
            if not STATUS_CODE.fullmatch(status):
                if not status.startswith("x-"):
                    self._leave_out(f"The response {quoted(status)} is left out: it is no status", place)
            elif (found := self._reader.mapping(one, f"The response {status}", str(place))) is not None:
                yield status, self._response(status, found, operation, place)

    def _response(self, status: str, found: Document, operation: Document, place: MethodPlace) -> dict[str, Any]:
        headers = mapping(found.get("headers"))
        self._reader.step(len(headers))
        if self._reader.is_swagger:
            name = self._model(found.get("schema"), place)
            models = dict.fromkeys(self._media_types(operation, "produces"), name) if name else {}
        else:
            models = self._models(found, place)
        parameters = {f"method.response.header.{header}": False for header in headers}
        return {
            "statusCode": status,
            **({"responseParameters": parameters} if parameters else {}),
            **({"responseModels": models} if models else {}),
        }

    def _leave_out(self, cause: str, place: MethodPlace) -> None:
        self._reader.notes.add(Weight.LEFT_OUT, cause, str(place))

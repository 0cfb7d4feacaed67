"""An operation of an OpenAPI document as a method: who may call it, its parameters, responses and integration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from authz.aws.oasdocument import EXTENSION, Document, Reader, Weight, intrinsic, listing, mapping, quoted, text
from authz.aws.restapis import STATUS_CODE, integration_defaults
from authz.core.stored import StoredMethod

PLACES: Final = {"path": "path", "query": "querystring", "header": "header"}
VARIABLE: Final = re.compile(r"\{([^{}/+]+)\+?\}")
OPERATION: Final = (
    *("tags", "summary", "description", "externalDocs", "operationId", "consumes", "produces", "parameters"),
    *("responses", "schemes", "deprecated", "security", "requestBody", "callbacks", "servers", "$ref"),
    *(f"{EXTENSION}{name}" for name in ("auth", "integration", "request-validator")),
)
# What an integration is shown with; the extension may hold more, which is not AWS's.
INTEGRATION: Final = (
    *("httpMethod", "uri", "connectionType", "connectionId", "credentials", "requestParameters", "requestTemplates"),
    *("passthroughBehavior", "contentHandling", "timeoutInMillis", "cacheNamespace", "cacheKeyParameters", "tlsConfig"),
    *("responseTransferMode", "integrationTarget"),
)
TYPES: Final = ("HTTP", "MOCK", "AWS_PROXY", "HTTP_PROXY", "AWS")
TEXTS: Final = ("requestParameters", "requestTemplates", "responseParameters", "responseTemplates")
CAPITALS: Final = ("passthroughBehavior", "contentHandling", "connectionType", "responseTransferMode")
LARGEST_NUMBER: Final = 2**31 - 1
MODEL: Final = re.compile(r"#/(?:components/schemas|definitions)/([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Place:
    """Where a method goes, and how a warning names it."""

    verb: str
    path: str
    resource_id: str

    def __str__(self) -> str:
        return f"{self.verb} {self.path[:200]}"


# --- who may call -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """What a security scheme asks for; or why it asks for nothing."""

    key_required: bool = False
    authorization: str = "NONE"
    cause: str | None = None


@dataclass
class Security:
    """What the security of an operation comes to."""

    key_required: bool = False
    authorization: str = "NONE"
    scheme: str | None = None
    scopes: tuple[str, ...] = ()
    optional: bool = False
    causes: list[str] = field(default_factory=list)


class Schemes:
    """The security schemes of a document, each looked at once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        v3 = mapping(mapping(reader.document.get("components")).get("securitySchemes"))
        v2 = mapping(reader.document.get("securityDefinitions"))
        self._given, self._elsewhere = (v2, v3) if reader.is_swagger else (v3, v2)
        self._home = "securityDefinitions" if reader.is_swagger else "components.securitySchemes"
        self._spellings = {str(name).lower(): str(name) for name in self._given}
        self._known: dict[str, Scheme] = {}

    def of(self, name: str) -> Scheme:
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> Scheme:
        shown = f"the security scheme {quoted(name)}"
        if name not in self._given:
            return Scheme(cause=f"{shown} is not defined{self._hint(name)}")
        found, cause = self._reader.follow(self._given[name])
        if cause or not isinstance(found, Mapping):
            return Scheme(cause=f"{shown} cannot be read: {cause or 'it is no mapping'}")
        authorizer = found.get(f"{EXTENSION}authorizer")
        if authorizer is not None:
            pools = str(mapping(authorizer).get("type")).lower() == "cognito_user_pools"
            return Scheme(authorization="COGNITO_USER_POOLS" if pools else "CUSTOM")
        if str(found.get(f"{EXTENSION}authtype")).lower() == "awssigv4":
            return Scheme(authorization="AWS_IAM")
        kind, place, header = (text(found.get(member)) or "" for member in ("type", "in", "name"))
        if (kind, place, header.lower()) == ("apiKey", "header", "x-api-key"):
            return Scheme(key_required=True)
        written = f"type {quoted(kind)}" + (f" in {quoted(place)} named {quoted(header)}" if place or header else "")
        return Scheme(cause=f"{shown} ({written}) is not an apiKey in the header x-api-key")

    def _hint(self, name: str) -> str:
        if name in self._elsewhere:
            return f" in {self._home}, where this version of OpenAPI looks for it"
        close = self._spellings.get(name.lower())
        return f"; there is {quoted(close)}" if close else ""


def security(operation: Document, schemes: Schemes, reader: Reader) -> Security:
    """The security of an operation: its own or else, where that is absent or null, the document's."""
    given = operation.get("security")
    given = reader.document.get("security") if given is None else given
    found = Security()
    if given is None:
        return found
    if not isinstance(given, list):
        found.causes.append("its security is no list")
    for requirement in listing(given):
        reader.step()
        if not isinstance(requirement, Mapping):
            found.causes.append(f"its security holds {quoted(requirement)} instead of a mapping")
        elif not requirement:
            found.optional = True
        for name, scopes in mapping(requirement).items():
            reader.step()
            _demand(found, str(name), scopes, schemes.of(str(name)))
    return found


def _demand(found: Security, name: str, scopes: Any, scheme: Scheme) -> None:
    if scheme.cause:
        found.causes.append(scheme.cause)
    found.key_required = found.key_required or scheme.key_required
    if scheme.authorization != "NONE" and found.authorization == "NONE":
        found.authorization, found.scheme = scheme.authorization, name
        if scheme.authorization == "COGNITO_USER_POOLS":
            found.scopes = tuple(scope for scope in listing(scopes) if isinstance(scope, str))


def _auth_extension(operation: Document, found: Security) -> None:
    """AWS's own way of saying NONE or AWS_IAM for one method."""
    given = operation.get(f"{EXTENSION}auth")
    if given is None:
        return
    kind = str(mapping(given).get("type")).upper()
    if kind == "AWS_IAM":
        found.authorization, found.scheme = kind, None
    elif kind != "NONE":
        found.causes.append(f"its {EXTENSION}auth has neither the type AWS_IAM nor NONE")


def _note_security(found: Security, place: Place, reader: Reader, accepted: Iterable[str]) -> None:
    notes = reader.notes
    for cause in dict.fromkeys(found.causes):
        if found.key_required:
            notes.add(Weight.LEFT_OUT, f"The key alone is required, because {cause}", str(place))
        else:
            notes.add(Weight.OPEN, f"No key is required, because {cause}", str(place))
    if found.optional and found.key_required:
        notes.add(Weight.LEFT_OUT, "The key is required, although the security names it as optional", str(place))
    if found.authorization != "NONE":
        by = f"{quoted(found.scheme)}, " if found.scheme else ""
        passes = "a valid API key passes" if found.key_required else "every caller passes"
        notes.add(
            Weight.AUTHORIZATION,
            f"Authorization of type {found.authorization} is stored and not carried out",
            f"{place} ({by}{passes})",
            accepted=found.authorization in accepted,
        )


# --- the method ---------------------------------------------------------------------------------------------------


class Methods:
    """Reads operations as methods."""

    def __init__(self, reader: Reader, accepted: Iterable[str], model_names: Iterable[str]) -> None:
        """`model_names` are the models that operations may name."""
        self._reader = reader
        self._model_names = frozenset(model_names)
        self._schemes = Schemes(reader)
        self._accepted = frozenset(accepted)

    def read(self, operation: Document, common: Any, place: Place) -> StoredMethod:
        reader = self._reader
        reader.only(operation, OPERATION, "of an operation", str(place))
        found = security(operation, self._schemes, reader)
        _auth_extension(operation, found)
        _note_security(found, place, reader, self._accepted)
        parameters = list(self._parameters(operation, common, place))
        method = StoredMethod(
            api_key_required=found.key_required,
            authorization_type=found.authorization,
            authorization_scopes=found.scopes,
            operation_name=text(operation.get("operationId")) or None,
            request_parameters=_request_parameters(parameters, place),
            request_models=self._request_models(operation, parameters, place),
            method_responses=dict(self._responses(operation, place)),
            method_integration=self._integration(operation.get(f"{EXTENSION}integration"), place),
        )
        reader.store(len(msgspec.json.encode(method)))
        return method

    def _parameters(self, operation: Document, common: Any, place: Place) -> Iterator[Document]:
        """The parameters, the operation's own after those that its path item has for all."""
        for given in (common, operation.get("parameters")):
            if given is not None and not isinstance(given, list):
                self._leave_out("'parameters' is left out: it is no list", place)
            for one in listing(given):
                if found := self._reader.mapping(one, "A parameter", str(place)):
                    yield found
                    if found.get("in") not in (*PLACES, "body"):
                        self._leave_out(f"A parameter in {quoted(found.get('in'))} is left out", place)

    def _request_models(self, operation: Document, parameters: list[Document], place: Place) -> dict[str, str]:
        if self._reader.is_swagger:
            types = self._media_types(operation, "consumes")
            schemas = [one.get("schema") for one in parameters if one.get("in") == "body"]
            return {kind: name for schema in schemas if (name := self._model(schema, place)) for kind in types}
        body = operation.get("requestBody")
        found = self._reader.mapping(body, "A request body", str(place)) if body is not None else None
        return self._models(found, place)

    def _model(self, schema: Any, place: Place) -> str | None:
        """The name of the model that a schema refers to; None for a schema that has no name."""
        reference = mapping(schema).get("$ref")
        found = MODEL.fullmatch(reference) if isinstance(reference, str) else None
        if found and found[1] not in self._model_names:
            self._leave_out(f"The model {quoted(found[1])} is not defined", place)
            return None
        return found[1] if found else None

    def _models(self, holder: Document | None, place: Place) -> dict[str, str]:
        """The named models of a `content`, by media type."""
        content = mapping(mapping(holder).get("content"))
        self._reader.step(len(content))
        named = {str(kind): self._model(mapping(one).get("schema"), place) for kind, one in content.items()}
        return {kind: name for kind, name in named.items() if name}

    def _media_types(self, operation: Document, member: str) -> list[str]:
        given = operation.get(member) or self._reader.document.get(member)
        self._reader.step(len(listing(given)))
        return [kind for kind in listing(given) if isinstance(kind, str)] or ["application/json"]

    def _responses(self, operation: Document, place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
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

    def _response(self, status: str, found: Document, operation: Document, place: Place) -> dict[str, Any]:
        headers = mapping(found.get("headers"))
        self._reader.step(len(headers))
        if self._reader.is_swagger:
            name = self._model(found.get("schema"), place)
            models = dict.fromkeys(self._media_types(operation, "produces"), name) if name else {}
        else:
            models = self._models(found, place)
        return {
            "statusCode": status,
            **(
                {"responseParameters": {f"method.response.header.{header}": False for header in headers}}
                if headers
                else {}
            ),
            **({"responseModels": models} if models else {}),
        }

    def _leave_out(self, cause: str, place: Place) -> None:
        self._reader.notes.add(Weight.LEFT_OUT, cause, str(place))

    # --- the integration ------------------------------------------------------------------------------------------

    def _integration(self, given: Any, place: Place) -> dict[str, Any] | None:
        found = self._reader.mapping(given, "The integration", str(place)) if given is not None else None
        if found is None:
            return None
        known = ("type", "responses", "payloadFormatVersion", "$ref", *INTEGRATION)
        for name in found:
            if name not in known:
                self._leave_out(f"{quoted(name)} of an integration is not known and is left out", place)
        kind = self._kind(found.get("type"), place)
        shown = {name: kept for name in INTEGRATION if (kept := self._kept(name, found.get(name), place)) is not None}
        if kind == "MOCK":
            shown.pop("httpMethod", None)
        answers = dict(self._integration_responses(found.get("responses"), place))
        return {
            **integration_defaults(kind, place.resource_id),
            **shown,
            **({"integrationResponses": answers} if answers else {}),
        }

    def _kind(self, given: Any, place: Place) -> str:
        kind = (text(given) or "").upper()
        if kind not in TYPES:
            self._leave_out(f"The integration's type {quoted(given)} is none of {', '.join(TYPES)}", place)
        return kind or "MOCK"

    def _kept(self, name: str, value: Any, place: Place) -> Any:
        """A member of an integration as it is stored; None where it is absent or of another kind."""
        if value is None:
            return None
        if name in TEXTS:
            return self._texts(name, value, place) or None
        if name == "cacheKeyParameters" and isinstance(value, list):
            return [one for one in value if isinstance(one, str)]
        if name == "timeoutInMillis" and is_integer(value):
            return value
        if name == "tlsConfig" and isinstance(value, Mapping):
            return {str(key): one for key, one in value.items() if isinstance(one, bool | str)}
        plain = None if name in ("cacheKeyParameters", "timeoutInMillis", "tlsConfig") else text(value)
        if plain is None:
            why = f"it is the intrinsic {quoted(intrinsic(value))}" if intrinsic(value) else "it is of another kind"
            self._leave_out(f"{quoted(name)} of an integration is left out: {why}", place)
            return None
        return plain.upper() if name in CAPITALS else plain

    def _texts(self, name: str, value: Any, place: Place) -> dict[str, str]:
        """A mapping of texts. What is none is left out, which AWS tells in these words."""
        if not isinstance(value, Mapping):
            self._leave_out(f"{quoted(name)} of an integration is left out: it is no mapping", place)
        kept = {}
        for key, one in mapping(value).items():
            self._reader.step()
            if isinstance(one, str):
                kept[str(key)] = one
                continue
            where = f"of resource '{place.path[:200]}' and method '{place.verb}'"
            got = text(one) or type(one).__name__
            self._reader.notes.add(
                Weight.LEFT_OUT,
                f"Invalid format for '{name}'. Expected type string for property '{str(key)[:100]}' {where} but got "
                f"'{got[:100]}'",
            )
        return kept

    def _integration_responses(self, given: Any, place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
        if given is not None and not isinstance(given, Mapping):
            self._leave_out("'responses' of an integration is left out: it is no mapping", place)
        statuses: set[str] = set()
        for pattern, one in mapping(given).items():
            self._reader.step()
            found = self._reader.mapping(one, "A response of an integration", str(place))
            if found is None:
                continue
            status = text(found.get("statusCode")) or "200"
            if status in statuses:
                self._leave_out(
                    f"Of several integration responses with status {quoted(status)} the last is taken", place
                )
            statuses.add(status)
            handling = text(found.get("contentHandling"))
            texts = {
                name: self._texts(name, found[name], place)
                for name in ("responseParameters", "responseTemplates")
                if found.get(name) is not None
            }
            yield (
                status,
                {
                    "statusCode": status,
                    **({} if pattern == "default" else {"selectionPattern": str(pattern)}),
                    **{name: kept for name, kept in texts.items() if kept},
                    **({"contentHandling": handling.upper()} if handling else {}),
                },
            )


def _request_parameters(parameters: Iterable[Document], place: Place) -> dict[str, bool]:
    """The parameters by AWS's names. Variables of the path are required, listed or not."""
    listed = {
        f"method.request.{PLACES[where]}.{name}": one.get("required") is True
        for one in parameters
        if (where := str(one.get("in"))) in PLACES and (name := text(one.get("name")))
    }
    variables = {f"method.request.path.{name}": True for name in VARIABLE.findall(place.path)}
    return {**variables, **listed}


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER

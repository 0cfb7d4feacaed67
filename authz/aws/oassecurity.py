"""The security of an OpenAPI operation: whether it requires a key, and which authorization it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from authz.aws.decoded import Document, listing, mapping, text
from authz.aws.oasdocument import EXTENSION, DocumentReader, MethodPlace, Weight, quoted
from authz.aws.restapis import who_passes


@dataclass(frozen=True)
class Scheme:
    """A security scheme: whether it requires a key, its authorization, and the cause if it requires neither."""

    key_required: bool = False
    authorization: str = "NONE"
    cause: str | None = None


@dataclass
class Security:
    """The sum of an operation's security requirements. `causes` say which of them were not understood."""

    key_required: bool = False
    authorization: str = "NONE"
    scheme: str | None = None
    scopes: tuple[str, ...] = ()
    optional: bool = False
    causes: list[str] = field(default_factory=list)

    def require(self, name: str, scheme: Scheme, scopes: Any) -> None:
        """Add one requirement. The first authorization counts."""
        if scheme.cause:
            self.causes.append(scheme.cause)
        self.key_required = self.key_required or scheme.key_required
        if scheme.authorization != "NONE" and self.authorization == "NONE":
            self.authorization, self.scheme = scheme.authorization, name
            if scheme.authorization == "COGNITO_USER_POOLS":
                self.scopes = tuple(scope for scope in listing(scopes) if isinstance(scope, str))

    def override(self, operation: Document) -> None:
        """Apply `x-amazon-apigateway-auth`, AWS's extension that sets AWS_IAM for one method."""
        given = operation.get(f"{EXTENSION}auth")
        if given is None:
            return
        kind = str(mapping(given).get("type")).upper()
        if kind == "AWS_IAM":
            self.authorization, self.scheme = kind, None
        elif kind != "NONE":
            self.causes.append(f"its {EXTENSION}auth has neither the type AWS_IAM nor NONE")

    def note(self, place: MethodPlace, reader: DocumentReader, accepted: Iterable[str]) -> None:
        """Note what the method will not check. `accepted` are types of authorization that the caller accepts."""
        for cause in dict.fromkeys(self.causes):
            if self.key_required:
                reader.notes.add(Weight.LEFT_OUT, f"The key alone is required, because {cause}", str(place))
            else:
                reader.notes.add(Weight.OPEN, f"No key is required, because {cause}", str(place))
        if self.optional and self.key_required:
            optional = "The key is required, although the security names it as optional"
            reader.notes.add(Weight.LEFT_OUT, optional, str(place))
        if self.authorization != "NONE":
            by = f"{quoted(self.scheme)}, " if self.scheme else ""
            reader.notes.add(
                Weight.AUTHORIZATION,
                f"Authorization of type {self.authorization} is stored and not carried out",
                f"{place} ({by}{who_passes(self.key_required)})",
                accepted=self.authorization in accepted,
            )


class Schemes:
    """The security schemes of a document. Each is read once."""

    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader
        v3 = mapping(mapping(reader.document.get("components")).get("securitySchemes"))
        v2 = mapping(reader.document.get("securityDefinitions"))
        self._given, self._elsewhere = (v2, v3) if reader.is_swagger else (v3, v2)
        self._home = "securityDefinitions" if reader.is_swagger else "components.securitySchemes"
        self._spellings = {str(name).lower(): str(name) for name in self._given}
        self._known: dict[str, Scheme] = {}

    def security(self, operation: Document) -> Security:
        """Return an operation's security: its own, or the document's if its own is absent or null."""
        given = operation.get("security")
        given = self._reader.document.get("security") if given is None else given
        total = Security()
        if given is not None and not isinstance(given, list):
            total.causes.append("its security is no list")
        for requirement in listing(given):
            self._reader.step()
            if not isinstance(requirement, Mapping):
                total.causes.append(f"its security holds {quoted(requirement)} instead of a mapping")
            elif not requirement:
                total.optional = True
            for name, scopes in mapping(requirement).items():
                self._reader.step()
                total.require(str(name), self.of(str(name)), scopes)
        return total

    def of(self, name: str) -> Scheme:
        """Return the scheme of this name, or one that requires nothing and has the cause."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> Scheme:
        shown = f"the security scheme {quoted(name)}"
        if name not in self._given:
            close = self._spellings.get(name.lower())
            hint = f"; there is {quoted(close)}" if close else ""
            if name in self._elsewhere:
                hint = f" in {self._home}, where this version of OpenAPI looks for it"
            return Scheme(cause=f"{shown} is not defined{hint}")
        scheme, cause = self._reader.follow(self._given[name])
        if cause or not isinstance(scheme, Mapping):
            return Scheme(cause=f"{shown} cannot be read: {cause or 'it is no mapping'}")
        authorizer = scheme.get(f"{EXTENSION}authorizer")
        if authorizer is not None:
            pools = str(mapping(authorizer).get("type")).lower() == "cognito_user_pools"
            return Scheme(authorization="COGNITO_USER_POOLS" if pools else "CUSTOM")
        if str(scheme.get(f"{EXTENSION}authtype")).lower() == "awssigv4":
            return Scheme(authorization="AWS_IAM")
        kind, place, header = (text(scheme.get(member)) or "" for member in ("type", "in", "name"))
        if (kind, place, header.lower()) == ("apiKey", "header", "x-api-key"):
            return Scheme(key_required=True)
        written = f"type {quoted(kind)}" + (f" in {quoted(place)} named {quoted(header)}" if place or header else "")
        return Scheme(cause=f"{shown} ({written}) is not an apiKey in the header x-api-key")

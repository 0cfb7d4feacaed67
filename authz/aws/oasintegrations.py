"""The integration of an OpenAPI operation, from the extension `x-amazon-apigateway-integration`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from authz.aws.decoded import mapping, text
from authz.aws.oasdocument import DocumentReader, MethodPlace, Weight, intrinsic, is_integer, quoted
from authz.aws.restapis import integration_defaults

# The members of an integration that AWS shows.
INTEGRATION: Final = (
    *("httpMethod", "uri", "connectionType", "connectionId", "credentials", "requestParameters", "requestTemplates"),
    *("passthroughBehavior", "contentHandling", "timeoutInMillis", "cacheNamespace", "cacheKeyParameters", "tlsConfig"),
    *("responseTransferMode", "integrationTarget"),
)
TYPES: Final = ("HTTP", "MOCK", "AWS_PROXY", "HTTP_PROXY", "AWS")
TEXTS: Final = ("requestParameters", "requestTemplates", "responseParameters", "responseTemplates")
CAPITALS: Final = ("passthroughBehavior", "contentHandling", "connectionType", "responseTransferMode")


class Integrations:
    """Reads integrations, and notes members that are left out."""

    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader

    def read(self, given: Any, place: MethodPlace) -> dict[str, Any] | None:
        """Return an integration as it is stored; None if there is none."""
        found = self._reader.mapping(given, "The integration", str(place)) if given is not None else None
        if found is None:
            return None
        known = ("type", "responses", "payloadFormatVersion", "$ref", *INTEGRATION)
        for name in found:
            if name not in known:
                self._leave_out(f"{quoted(name)} of an integration is not known and is left out", place)
        kind = (text(found.get("type")) or "").upper()
        if kind not in TYPES:
            self._leave_out(f"The integration's type {quoted(found.get('type'))} is none of {', '.join(TYPES)}", place)
        kind = kind or "MOCK"
        members = {name: kept for name in INTEGRATION if (kept := self._kept(name, found.get(name), place)) is not None}
        if kind == "MOCK":
            members.pop("httpMethod", None)
        answers = dict(self._responses(found.get("responses"), place))
        return {
            **integration_defaults(kind, place.resource_id),
            **members,
            **({"integrationResponses": answers} if answers else {}),
        }

    def _kept(self, name: str, value: Any, place: MethodPlace) -> Any:
        """Return a member of an integration as it is stored; None if it is absent or has another type."""
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

    def _texts(self, name: str, value: Any, place: MethodPlace) -> dict[str, str]:
        """Return the texts of a mapping. Other values are left out with AWS's own warning."""
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

    def _responses(self, given: Any, place: MethodPlace) -> Iterator[tuple[str, dict[str, Any]]]:
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

    def _leave_out(self, cause: str, place: MethodPlace) -> None:
        self._reader.notes.add(Weight.LEFT_OUT, cause, str(place))

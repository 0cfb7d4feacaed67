"""The parts of an HTTP request that decide its fate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name; one that was sent twice is joined with a bare comma, as Envoy does it."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def metadata_at(metadata: Mapping[str, Any], path: Iterable[str]) -> Any:
    """The value at a namespace of dynamic metadata and the fields below it; None if there is none."""
    value: Any = metadata
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


class Request(Struct, frozen=True, gc=False):
    """One HTTP request as Envoy describes it.

    `path` holds the query string, undecoded. `headers` has lower-case names; a header sent twice is joined with a
    comma. `extensions` are the route's context extensions, `metadata` what filters before us left, by namespace.
    `raw_cookie` is the Cookie header byte for byte, if it is known and not ASCII. `source` is the IP address at the
    other end of the connection, unparsed; "" if it is unknown.
    """

    method: str
    host: str
    path: str
    headers: Mapping[str, str] = NOTHING
    extensions: Mapping[str, str] = NOTHING
    metadata: Mapping[str, Any] = NOTHING
    id: str = ""
    raw_cookie: bytes | None = None
    source: str = ""

    @property
    def is_grpc(self) -> bool:
        """A gRPC caller reads a refusal from `grpc-status`, not from the HTTP status.

        Envoy's `grpc_web` filter, where it stands before ours, has made gRPC of gRPC-Web.
        """
        return re.match(r"application/grpc(?:[+;]|$)", self.headers.get("content-type", "")) is not None

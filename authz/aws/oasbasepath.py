"""The base path of an OpenAPI document, from its `basePath` or the URL of its first server."""

from __future__ import annotations

import re
from typing import Any, Final

from authz.aws.decoded import Document, listing, mapping, text
from authz.aws.oasdocument import too_large, unreadable

MAX_PATH: Final = 2_000  # characters of a path with its base path, and of a server's URL
URL_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")


def prefix(document: Document, basepath: str) -> str:
    """Return the prefix of each path: none for `ignore`, the base path for `prepend`, its later parts for `split`.

    Raises ApiError for a base path or URL that is too long.
    """
    if basepath == "ignore":
        return ""
    parts = [part for part in _base_path(document).split("/") if part]
    return "".join(f"/{part}" for part in (parts if basepath == "prepend" else parts[1:]))


def _base_path(document: Document) -> str:
    """Find the base path as AWS does: the first variable `basePath` of a server, or else the path of the first URL."""
    if "swagger" in document:
        return _bounded(document.get("basePath"))
    servers = [mapping(server) for server in listing(document.get("servers"))]
    for server in servers:
        variable = mapping(mapping(server.get("variables")).get("basePath"))
        if (default := text(variable.get("default"))) is not None:
            return _bounded(default)
    return _url_path(servers[0]) if servers else ""


def _url_path(server: Document) -> str:
    """Return the path of a server's URL. Each variable becomes its default; a default is not expanded again."""
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

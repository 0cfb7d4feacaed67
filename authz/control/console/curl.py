"""A line for a shell that makes a call with a key."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from authz.control.operations.examplecalls import ANY_DOMAIN

PLACEHOLDER: Final = "https://YOUR-API"
NO_EXAMPLE: Final = "No plan of the key covers a method that requires a key, so there is no call to try yet."
NO_KEY_SOURCE: Final = (
    "The API takes the key from a filter of Envoy, such as one that checks a token, so no line can show it."
)
NO_URL: Final = (
    "Put your API's address in place of https://YOUR-API. `authz control --public-url` sets it for all of these lines."
)


@dataclass(frozen=True, slots=True)
class CurlLine:
    """The line, or None, and a sentence about a part that is missing; "" without one."""

    text: str | None
    note: str = ""


def curl_line(example: Mapping[str, Any] | None, value: str, public_url: str | None) -> CurlLine:
    """The line for an answer of GetExampleCall. `public_url` is where callers reach Envoy."""
    if example is None:
        return CurlLine(None, NO_EXAMPLE)
    if "keySource" not in example:
        return CurlLine(None, NO_KEY_SOURCE)
    host = example.get("host")
    reaches = host is not None and not host.endswith(ANY_DOMAIN)
    base = (public_url or (f"https://{host}" if reaches else PLACEHOLDER)).rstrip("/")
    source, path = example["keySource"], quote(example["path"], safe="/~:@!$&'()*+,;=-._")
    words = ["curl", "-i"]
    if example["method"] != "GET":
        words += ["-X", example["method"]]
    if host and urlsplit(base).hostname != host.partition(":")[0].lower():
        words += ["-H", f"Host: {host}"]
    if "header" in source:
        words += ["-H", f"{source['header']}: {source['scheme'] + ' ' if source.get('scheme') else ''}{value}"]
    if "query" in source:
        path += f"?{quote(source['query'], safe='')}={quote(value, safe='')}"
    if "cookie" in source:
        words += ["-b", f"{source['cookie']}={value}"]
    note = "" if public_url or reaches else NO_URL
    return CurlLine(shlex.join([*words, base + path]), note)

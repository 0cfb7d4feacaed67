"""Where a client puts its key, and the parts of a request that must not reach the upstream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace

from authz.core.request import Request, metadata_at
from authz.core.resources import Api, Deployment, KeySource

# Headers that name the caller to the upstream, which may trust them: a client's own copies never reach it.
KEY_ID, PLAN_ID, PLAN_NAME, CUSTOMER_ID = "x-api-key-id", "x-usage-plan-id", "x-usage-plan-name", "x-customer-id"
IDENTITY = (KEY_ID, PLAN_ID, PLAN_NAME, CUSTOMER_ID)
OVERAGE: Final = "x-usage-overage"  # `true` on a call beyond the limit of a quota with overage
# Headers that no client may set. Envoy sets the last on requests that it lets through without a check.
UNTRUSTED: Final = (*IDENTITY, OVERAGE, "x-envoy-auth-failure-mode-allowed")
# Regular expressions, for Envoy and for us, of all spellings that an upstream may read as one of these: CGI, WSGI and
# PHP fold `x.api_key-id` into the same variable as `x-api-key-id`; some fold every character but letters and digits.
# One for each name, since Envoy refuses long expressions.
LOOKALIKES: Final = tuple("[^a-z0-9]+".join(name.split("-")) for name in UNTRUSTED)
_LOOKALIKE: Final = re.compile("|".join(LOOKALIKES))

COOKIE_ENDS = re.compile(r";|,(?=\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=)")
BYTES: Final = ("utf-8", "surrogateescape")  # marks bytes that are not UTF-8
SURROGATES: Final = re.compile("[\ud800-\udfff]")


class Strip(Struct, frozen=True, gc=False):
    """The changes that Envoy makes to a request before it forwards it.

    Envoy removes `headers` and `lookalikes`, which are headers whose names the client has chosen. `path`, with its
    query, and `cookie` replace those of the request. None keeps the request's; an empty `cookie` removes the header.
    """

    headers: tuple[str, ...] = ()
    path: str | None = None
    cookie: str | None = None
    lookalikes: tuple[str, ...] = ()


NO_STRIP: Final = Strip()


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API's key sources: finds the key of a request, and strips everything that could be one."""

    sources: tuple[KeySource, ...]
    metadata_path: tuple[str, ...] | None = None
    forward: bool = False
    only_header: Strip | None = None  # for requests with the header, if only one header can be a key

    @classmethod
    def of(cls, api: Api | Deployment) -> Credentials:
        """The sources of an API or a deployment; with AUTHORIZER only Envoy's metadata has the key."""
        path = (api.authorizer.namespace, *api.authorizer.path) if api.api_key_source == "AUTHORIZER" else None
        only = api.key_sources[0] if len(api.key_sources) == 1 else None
        only_header = Strip((only.header.lower(),)) if only and only.header and not only.scheme else None
        return cls(api.key_sources, path, api.forward_api_key, only_header)

    def find(self, request: Request) -> str | None:
        """The key's value as sent: the first source that is present and not empty, or None."""
        if self.metadata_path is not None:
            value = metadata_at(request.metadata, self.metadata_path)
            return value if isinstance(value, str) else None
        if self.only_header:
            return request.headers.get(self.only_header.headers[0]) or None
        for source in self.sources:
            if value := _read(source, request):
                return value
        return None

    def strip(self, request: Request) -> Strip:
        """Everything that could be a key, whichever source was used; nothing if the API forwards keys."""
        if self.forward:
            return NO_STRIP
        if self.only_header and self.only_header.headers[0] in request.headers:
            return self.only_header
        headers = tuple(s.header.lower() for s in self.sources if s.header and _could_be(s, request))
        path = _path_without({s.query for s in self.sources if s.query}, request.path)
        cookies = {s.cookie for s in self.sources if s.cookie}
        if not cookies or "cookie" not in request.headers:
            return Strip(headers, path)
        raw = request.raw_cookie
        pairs = _cookies(request.headers["cookie"] if raw is None else raw.decode(*BYTES))
        rest = [pair for pair in pairs if pair.partition("=")[0].strip() not in cookies]
        return Strip(headers, path, None if rest == pairs else "; ".join(filter(_is_text, rest)))


def strip_of(credentials: Credentials | None, request: Request) -> Strip:
    """Everything that an upstream must not see: possible keys, and headers that it could mistake for ours."""
    strip = credentials.strip(request) if credentials else NO_STRIP
    spoofed = lookalikes(request.headers)
    return replace(strip, lookalikes=tuple(spoofed)) if spoofed else strip


def lookalikes(headers: Iterable[str]) -> list[str]:
    """The names among `headers` that an upstream may read as one of `UNTRUSTED`, but that are spelled differently."""
    # All of them begin with an x. To compare takes half as long as `startswith`, and most names sort before.
    return [n for n in headers if n >= "x" and _LOOKALIKE.fullmatch(n) and n not in UNTRUSTED]


def _read(source: KeySource, request: Request) -> str | None:
    """The value in this place; None if it is absent, or if the header has another scheme."""
    if source.header:
        value = request.headers.get(source.header.lower())
        if value is None or not source.scheme:
            return value
        scheme, rest = _scheme(value)
        return rest if scheme == source.scheme.lower() else None
    if source.query:
        return _joined(query_values(request, source.query))
    pairs = (pair.partition("=") for pair in _cookies(request.headers.get("cookie", "")))
    return _joined(value.strip() for name, _, value in pairs if name == source.cookie)


def _could_be(source: KeySource, request: Request) -> bool:
    """True if the header may hold the source's key, which can follow another scheme's value in a header sent twice."""
    value = request.headers.get((source.header or "").lower())
    if value is None or not source.scheme:
        return value is not None
    return any(_scheme(copy)[0] == source.scheme.lower() for copy in value.split(","))


def _scheme(value: str) -> tuple[str, str]:
    """`Bearer abc` is `("bearer", "abc")`, however many blanks separate them."""
    words = value.split(None, 1)
    return "".join(words[:1]).lower(), "".join(words[1:]).strip()


def query_values(request: Request, name: str) -> Iterator[str]:
    """The decoded values of a query parameter. Compares `name` with the undecoded names."""
    query = request.path.partition("?")[2]
    return (unquote(found[1]) for found in re.finditer(rf"(?:^|&){re.escape(name)}=([^&]*)", query))


def _path_without(names: Collection[str], path: str) -> str | None:
    """The path without these query parameters, its rest as sent; None if it has none of them.

    Envoy's own `query_parameters_to_remove` would sort the rest, and turn `?wsdl` into `?wsdl=`.
    """
    before, _, query = path.partition("?")
    if not names or not query:
        return None
    pairs = query.split("&")
    rest = [pair for pair in pairs if pair.partition("=")[:2] not in ((name, "=") for name in names)]
    if len(rest) == len(pairs):
        return None
    return f"{before}?{'&'.join(rest)}" if rest else before


def _cookies(header: str) -> list[str]:
    """Pairs of a Cookie header; Envoy joins two such headers with a comma, which values may hold too."""
    return [pair for part in COOKIE_ENDS.split(header) if (pair := part.strip(" \t"))]


def _is_text(pair: str) -> bool:
    """True if Envoy accepts the pair in our answer: only UTF-8. A missing cookie is better than a changed one."""
    return pair.isascii() or not SURROGATES.search(pair)


def _joined(values: Iterator[str]) -> str | None:
    """Join values as Envoy joins headers, or return None. A credential sent twice gets a comma, which no key has."""
    return ",".join(values) or None

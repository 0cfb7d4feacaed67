"""Refuses requests that another web site may have caused, and gives each answer the headers that keep pages safe."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE: Final = frozenset({"GET", "HEAD"})
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
QUERY_FIELDS: Final = 100
NO_STORE: Final = "no-store"
HTTPS_ONLY: Final = "max-age=31536000"
LOCALHOST: Final = "localhost"
UNKNOWN_HOST: Final = (
    "This host name is not one of the console's own. Start `authz control` with --console-url and the URL that "
    "browsers use, such as https://plans.example.com\n"
)
CROSS_SITE: Final = "Another web site caused this request, so it was refused. Open the page itself and try again.\n"


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins under which browsers reach the pages.

    `url` is the public one, if there is a proxy or a host name. Without it browsers use an IP address or `localhost`,
    for no name that an attacker controls can be one of these.
    """

    is_tls: bool = False
    url: str | None = None

    def of(self, host: str) -> str | None:
        """The origin of a request with this Host header; None if the host is not ours."""
        if self.url is not None:
            public = urlsplit(self.url)
            if host.lower() == public.netloc.lower():
                return f"{public.scheme}://{host.lower()}"
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
            if name != LOCALHOST:
                ipaddress.ip_address(name)
        except ValueError:
            return None
        if parts.netloc != host or "@" in host:
            return None
        return f"{'https' if self.is_tls else 'http'}://{host.lower()}"

    def is_https_only(self, origin: str) -> bool:
        """True if browsers should never again reach this host by plain HTTP.

        The URL must say so: browsers obey for all ports of a name, and so `localhost` is left out.
        """
        public = urlsplit(self.url or "")
        return (
            public.scheme == "https" and public.hostname != LOCALHOST and origin == f"https://{public.netloc.lower()}"
        )


def origin_of(request: Request) -> str:
    """The origin under which the browser made this request. The guard has checked it."""
    origin: str = request.scope["authz.origin"]
    return origin


class Guard:
    """ASGI middleware before the pages."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        hosts = request.headers.getlist("host")
        origin = self._origins.of(hosts[0]) if len(hosts) == 1 else None

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", NO_STORE)
                if origin is not None and self._origins.is_https_only(origin):
                    headers["Strict-Transport-Security"] = HTTPS_ONLY
            await send(message)

        if origin is None:
            await PlainTextResponse(UNKNOWN_HOST, 421)(scope, receive, send_safely)
        elif scope["query_string"].count(b"&") >= QUERY_FIELDS:
            await PlainTextResponse("The URL has too many parameters\n", 400)(scope, receive, send_safely)
        elif request.method not in SAFE and not _is_own(request, origin):
            await PlainTextResponse(CROSS_SITE, 403)(scope, receive, send_safely)
        else:
            await self._app({**scope, "authz.origin": origin}, receive, send_safely)


def _is_own(request: Request, origin: str) -> bool:
    """True if the browser says that a page of ours caused the request. A browser without the header sends Origin."""
    sites = request.headers.getlist("sec-fetch-site")
    if sites:
        return sites == ["same-origin"]
    return request.headers.getlist("origin") == [origin]

"""The console in this process, over a store in a dictionary, and a browser's requests to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from html import unescape
from typing import Final

import httpx
from starlette.types import Message, Scope

from authz.control.api import Api, operations
from authz.control.auth import Authenticator, new_token
from authz.control.call import Alerts
from authz.control.console.app import console
from authz.control.pages.guard import Origins
from authz.control.pages.sessions import OwnerSession, Session, Sessions
from authz.control.pages.site import Parts
from authz.control.portal.invite import Invitations
from authz.core.stored import Item
from authz.doctor.facts import Redis
from tests.support.dictstore import DictStore
from tests.support.plane import SEALER, NoUsage, context_of

PUBLIC_URL: Final = "https://api.test"
ORIGIN: Final = "http://127.0.0.1:8085"
FORM: Final = "application/x-www-form-urlencoded"
OWN: Final = {"Sec-Fetch-Site": "same-origin"}
OWNER, READER = OwnerSession("owner"), OwnerSession("reader", read_only=True)


class DictTokens:
    """A `Tokens` in a dictionary. Nothing in it ends by itself; `seconds` are those that each value was given."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], bytes] = {}
        self.seconds: dict[tuple[str, str], int] = {}
        self.extended: list[int | None] = []  # of each value that was found, in order

    async def put(self, kind: str, token: str, value: bytes, seconds: int) -> None:
        self.values[kind, token], self.seconds[kind, token] = value, seconds

    async def add(self, kind: str, token: str, value: bytes, seconds: int) -> bool:
        if (kind, token) in self.values:
            return False
        await self.put(kind, token, value, seconds)
        return True

    async def replace(self, kind: str, token: str, value: bytes, seconds: int) -> None:
        if (kind, token) in self.values:
            await self.put(kind, token, value, seconds)

    async def find(self, kind: str, token: str, extend_seconds: int | None = None) -> bytes | None:
        self.extended.append(extend_seconds)
        return self.values.get((kind, token))

    async def take(self, kind: str, token: str) -> bytes | None:
        return self.values.pop((kind, token), None)


class Patient:
    """A throttle of keys, pages or attempts that admits every request until `seconds` is set. It keeps the subjects."""

    def __init__(self) -> None:
        self.seconds = 0
        self.subjects: list[str] = []

    async def wait(self, subject: str) -> int:
        self.subjects.append(subject)
        return self.seconds

    async def admits(self, subject: str) -> bool:
        return not await self.wait(subject)


class Pages:
    """The console over a store with these items. `as_` is the session of the signed-in person; None without one."""

    def __init__(
        self,
        *items: Item,
        usage: NoUsage | None = None,
        as_: Session | None = OWNER,
        alerts: Alerts | None = None,
        look_at_redis: Callable[[], Awaitable[Redis]] | None = None,
        grafana_url: str | None = None,
        origins: Origins = Origins(),  # noqa: B008  (frozen)
    ) -> None:
        self.store = DictStore(*items)
        self.tokens = DictTokens()
        self.token = new_token("admin", int(time.time()))
        self.store.items["credential", self.token.credential.id] = self.token.credential
        self.context = replace(context_of(self.store, usage or NoUsage()), alerts=alerts, look_at_redis=look_at_redis)
        self.sessions = Sessions(self.tokens, lambda: int(time.time()))
        gate = Authenticator(self.store, SEALER, self.context.now)
        table = (*operations(), Invitations(self.sessions, origins).operation())
        parts = Parts(Api(self.context, table), self.sessions, Patient(), origins, grafana_url, PUBLIC_URL)
        self.app = console(parts, gate.of_token, gate.credential)
        self.cookies = httpx.Cookies()
        if as_ is not None:
            self.cookies.set("authz-console", asyncio.run(self.sessions.begin(as_)), domain="127.0.0.1")

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, follow: bool = False) -> httpx.Response:
        return self._run(lambda client: client.get(path, headers=headers, follow_redirects=follow))

    def post(
        self,
        path: str,
        form: Mapping[str, str | list[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        own: bool = True,
        follow: bool = False,
    ) -> httpx.Response:
        """Send a form, as a page of ours does, or with `own` off as something else may."""
        given = {**(OWN if own else {}), **(headers or {})}
        return self._run(
            lambda client: client.post(
                path, data=form or {}, headers={"Content-Type": FORM, **given}, follow_redirects=follow
            )
        )

    def messages(self, path: str) -> list[Message]:
        """The messages of ASGI that answer a GET, as the server gets them."""
        where, _, query = path.partition("?")
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": where,
            "query_string": query.encode(),
            "headers": [(b"host", ORIGIN.removeprefix("http://").encode()), (b"cookie", cookie.encode())],
        }
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.Event().wait()  # the browser stays
            return {}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        return sent

    def _run(self, send: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, cookies=self.cookies) as client:
                answer = await send(client)
                self.cookies = client.cookies
                return answer

        return asyncio.run(run())


def next_page(page: str) -> str:
    """The path to which a page's link to the next page leads."""
    return unescape(page.partition('rel="next" href="')[2].partition('"')[0])

"""A site of pages for signed-in people: finds the session of a request, runs the view, and words what fails."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Send

from authz.aws.errors import ApiError
from authz.check import LimiterUnavailable
from authz.control.api import VERSION, WARNING, Api
from authz.control.app import SEND_SECONDS
from authz.control.call import Principal
from authz.control.connections import ADDRESS, PROVE
from authz.control.pages.forms import BadForm, Form, is_form, read_form
from authz.control.pages.guard import Guard, Origins, origin_of
from authz.control.pages.once import FIELD, once
from authz.control.pages.sessions import MAX_SECONDS, Session, Sessions
from authz.control.pages.templates import render
from authz.redisio.url import in_words
from authz.store.ports import StoreUnavailable

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=Session)

NOT_FOUND: Final = 404
TOO_OFTEN: Final = "Too many attempts from this address. Wait a minute, then try again."
REFRESH: Final = "authz-refresh"  # a header of the script: a page that renews itself is no sign of a person
SHOWN_ONCE: Final = frozenset({"message", "secret"})  # parameters of pages
ASSET_SECONDS: Final = 31_536_000  # a changed file has another URL


class Throttle(Protocol):
    """Counts attempts to sign in."""

    async def admits(self, address: str) -> bool:
        """False if this address has tried too often. Raises LimiterUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The values that the views of both sites share.

    `grafana_url` is linked from the page System, if it is set. `public_url` is where callers reach Envoy, if known.
    """

    api: Api
    sessions: Sessions
    throttle: Throttle
    origins: Origins
    grafana_url: str | None = None
    public_url: str | None = None


@dataclass(frozen=True, slots=True)
class Site(Generic[S]):
    """One of the two sites: its root path, its kind of sessions, and the values that each of its pages shows.

    Of a site that `trusts` its people, their connections are never closed in favour of others.
    """

    root: str
    kind: type[S]
    parts: Parts
    principal: Callable[[S], Principal]
    is_current: Callable[[S, Request], Awaitable[S | None]]
    trusts: bool = True

    def cookie(self, request: Request) -> str:
        """The name of the cookie. Browsers accept the prefix only together with Secure, and so over TLS."""
        name = f"authz{self.root.replace('/', '-')}"
        return f"__Host-{name}" if _is_tls(request) else name


def _is_tls(request: Request) -> bool:
    return origin_of(request).startswith("https:")


@dataclass(frozen=True, slots=True)
class Visit(Generic[S]):
    """One request of a signed-in person.

    `warnings` collects what the operations of the request have warned of; the page shows them. `versions` are the
    versions of the store that they wrote.
    """

    site: Site[S]
    request: Request
    session: S
    session_id: str
    warnings: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    _forms: list[Form] = field(default_factory=list)  # the form, once it is read

    def path(self, name: str) -> str:
        """A part of the path, decoded."""
        part: str = self.request.path_params[name]
        return part

    def query(self, name: str) -> str | None:
        """A query parameter; None if it is absent or empty."""
        return self.request.query_params.get(name) or None

    async def form(self) -> Form:
        """The form of the request. Raises BadForm."""
        if not self._forms:
            self._forms.append(await read_form(self.request))
        return self._forms[0]

    async def ask(
        self,
        name: str,
        params: Mapping[str, str] | None = None,
        query: Mapping[str, str | None] | None = None,
        body: Any = None,
    ) -> Any:
        """Run an operation of the API as this person. Returns its document.

        Query parameters that are None are left out. Raises ApiError, StoreUnavailable and LimiterUnavailable.
        """
        given = {field: value for field, value in (query or {}).items() if value is not None}
        answer = await self.site.parts.api.call(
            self.site.principal(self.session),
            name,
            params or {},
            given,
            body,
            host=self.request.headers.get("host", ""),
        )
        if warned := answer.headers.get(WARNING):
            self.warnings.append(warned)
        if version := answer.headers.get(VERSION):
            self.versions.append(version)
        return msgspec.to_builtins(answer.body)

    async def find(
        self,
        name: str,
        params: Mapping[str, str] | None = None,
        query: Mapping[str, str | None] | None = None,
        body: Any = None,
    ) -> Any | None:
        """Run an operation as `ask` does. None if there is no such thing."""
        try:
            return await self.ask(name, params, query, body)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def download(self, name: str, query: Mapping[str, str | None], accept: str, file: str) -> Response:
        """Run an operation that answers piece by piece, as a file to save. Raises ApiError and StoreUnavailable."""
        given = {field: value for field, value in query.items() if value is not None}
        answer = await self.site.parts.api.call(self.site.principal(self.session), name, {}, given, None, accept)
        headers = {**answer.headers, "Content-Disposition": f'attachment; filename="{file}"'}
        return Pieces(answer.body, answer.status, headers)

    async def page(self, template: str, /, *, status: int = 200, **values: Any) -> Response:
        """Render a page of this person's."""
        left = self.query("message")
        message = await self.site.parts.sessions.take_message(self.session_id, left) if left else None
        shared = {
            "root": self.site.root,
            "session": self.session,
            "may_write": self.session.may_write,
            "zone": self.session.zone,
            "path": self.request.url.path,
            "message": message,
            "warnings": self.warnings,
        }
        return HTMLResponse(render(template, **shared, **values), status)

    async def go(self, path: str, message: str = "", /, **query: str) -> Response:
        """Send the browser to another page of this site, which shows the message and the warnings once.

        Without a fragment of its own the browser keeps that of the form, and scrolls past the message.
        """
        text = "\n".join(filter(None, (message, *(f"Note: {each}" for each in self.warnings))))
        if text:
            query["message"] = await self.site.parts.sessions.leave_message(self.session_id, text)
        top = "#main" if query.keys() & SHOWN_ONCE else ""
        return RedirectResponse(f"{path}?{urlencode(query)}{top}" if query else path, 303)


Handler = Callable[[Visit[S]], Awaitable[Response]]


class View(NamedTuple, Generic[S]):
    """A page or a form of a site. `path` is below the site's root, such as `/plans/{plan_id}`."""

    method: str
    path: str
    handler: Handler[S]
    writes: bool = False


class Pieces(StreamingResponse):
    """A body in pieces. After a fault the connection is closed, so that the browser reports a broken download."""

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except (StoreUnavailable, TimeoutError) as fault:
            log.warning("a download was broken off", reason=in_words(fault))


class Assets(StaticFiles):
    """The files of `static/`, which browsers may keep."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = f"public, max-age={ASSET_SECONDS}, immutable"
        return response


def application(site: Site[S], views: Iterable[View[S]], open_routes: Iterable[Route] = ()) -> Guard:
    """The ASGI application of a site. The `open_routes` need no session."""

    async def http_fault(_: Request, fault: HTTPException) -> Response:
        text = "There is no such page." if fault.status_code == NOT_FOUND else str(fault.detail)
        return problem_page(site.root, fault.status_code, text)

    routes: list[Route | Mount] = [Mount(f"{site.root}/static", Assets(packages=[("authz.control.pages", "static")]))]
    routes += open_routes
    for view in views:
        endpoint = worded(site.root, partial(_visited, site, view))
        routes.append(Route(site.root + view.path, endpoint, methods=[view.method]))
    words: dict[Any, Any] = {HTTPException: http_fault}
    app = Starlette(routes=routes, exception_handlers=words)
    app.router.redirect_slashes = False  # it would redirect to http, also behind a proxy that ends TLS
    return Guard(app, site.parts.origins)


async def _visited(site: Site[S], view: View[S], request: Request) -> Response:
    session_id = request.cookies.get(site.cookie(request), "")
    in_use = REFRESH not in request.headers
    found = await site.parts.sessions.find(session_id, in_use=in_use) if session_id else None
    session = await site.is_current(found, request) if isinstance(found, site.kind) else None
    if session is None:
        there = f"?{request.url.query}" if request.url.query else ""
        next_ = request.url.path + there if request.method == "GET" else site.root
        return RedirectResponse(f"{site.root}/sign-in?next={quote(next_, safe='')}", 303)
    # A server other than ours, if it runs the application, gives no `PROVE`.
    if site.trusts and (prove := request.scope.get(PROVE)):
        prove()
    if view.writes and not session.may_write:
        return problem_page(site.root, 403, "You may look at everything here, and change nothing.")
    visit = Visit(site, request, session, session_id)
    name = (await visit.form()).text(FIELD) if view.writes and is_form(request) else ""
    if not name:
        return await view.handler(visit)
    return await once(site.parts.sessions, session_id, f"{request.url.path} {name}", lambda: view.handler(visit))


def worded(root: str, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers requests with `answer`. What fails becomes a page."""

    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request)
        except ApiError as error:
            return problem_page(root, error.status, error.message)
        except BadForm as error:
            return problem_page(root, error.status, str(error))
        except (StoreUnavailable, LimiterUnavailable):
            return problem_page(root, 503, "Redis does not answer. Nothing may have changed; try again in a moment.")
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            # Log neither the exception's text nor its locals: a key's value may be in them.
            frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            log.error("a page failed", error=type(error).__name__, frames=frames, path=request.url.path)
            return problem_page(root, 500, "This page failed. The control plane's log says where.")

    return endpoint


def problem_page(root: str, status: int, text: str) -> Response:
    return HTMLResponse(render("pages/problem.html", root=root, status=status, text=text), status)


# --- signing in and out ---------------------------------------------------------------------------------------------


def address_of(request: Request) -> str:
    """The address against which attempts to sign in are counted."""
    address: str = request.scope.get(ADDRESS, "")
    return address


def next_of(site: Site[Any], wanted: str) -> str:
    """The page to show after signing in: one of this site, whatever the link said."""
    is_ours = wanted == site.root or wanted.startswith((f"{site.root}/", f"{site.root}?"))
    return wanted if is_ours and not any(each in wanted for each in "\\\r\n") else site.root


def signed_in(site: Site[Any], request: Request, session_id: str, next_: str) -> Response:
    """Send the browser to its page, with the cookie of a new session."""
    response = RedirectResponse(next_, 303)
    response.set_cookie(
        site.cookie(request),
        session_id,
        max_age=MAX_SECONDS,
        path="/",
        secure=_is_tls(request),
        httponly=True,
        samesite="lax",
    )
    return response


def signed_out(site: Site[Any], request: Request) -> Response:
    response = RedirectResponse(f"{site.root}/sign-in", 303)
    response.delete_cookie(site.cookie(request), path="/", secure=_is_tls(request), httponly=True, samesite="lax")
    return response

"""Signing in to a site, by a secret that is pasted or by a link that works once. Signing out, and the time zone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from authz.control.pages.forms import read_form
from authz.control.pages.guard import SAFE
from authz.control.pages.sessions import Session, Sessions
from authz.control.pages.site import (
    TOO_OFTEN,
    S,
    Site,
    View,
    Visit,
    address_of,
    next_of,
    problem_page,
    signed_in,
    signed_out,
    worded,
)
from authz.control.pages.templates import render
from authz.core.zones import zone_names


@dataclass(frozen=True, slots=True)
class Access(Generic[S]):
    """The pages that need no session. The templates `sign-in.html` and `link.html` are the site's own.

    `session_of` returns the session that a pasted secret begins, or None; it gets the request too. `unknown` is the
    text for a secret that begins none, and `used_up` that for a link. `shown` are further values for the form.
    """

    site: Site[S]
    session_of: Callable[[str, Request], Awaitable[S | None]]
    unknown: str
    used_up: str
    shown: Mapping[str, object] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        root = self.site.root
        return [
            Route(f"{root}/sign-in", worded(root, self._sign_in), methods=["GET", "POST"]),
            Route(f"{root}/link", worded(root, self._link), methods=["GET", "POST"]),
        ]

    @property
    def _sessions(self) -> Sessions:
        return self.site.parts.sessions

    async def _sign_in(self, request: Request) -> Response:
        if request.method in SAFE:
            return self._form(next_of(self.site, request.query_params.get("next", "")))
        form = await read_form(request)
        next_ = next_of(self.site, form.text("next"))
        if not await self.site.parts.throttle.admits(address_of(request)):
            return self._form(next_, 429, TOO_OFTEN)
        secret = form.text("token")
        found = await self.session_of(secret, request) if secret else None
        if found is None:
            return self._form(next_, 403, self.unknown)
        session_id = await self._sessions.begin(found.in_zone(_zone(form.text("zone"))))
        return await self._begun(request, session_id, next_)

    def _form(self, next_: str, status: int = 200, problem: str = "") -> Response:
        return HTMLResponse(self._render("sign-in", next=next_, problem=problem, **self.shown), status)

    async def _link(self, request: Request) -> Response:
        """Show whom the link signs in; the button uses it up. A program that fetches links uses none up."""
        if request.method in SAFE:
            token = request.query_params.get("token", "")
            session = await self._session_of_link(token)
            if session is None:
                return problem_page(self.site.root, 403, self.used_up)
            return HTMLResponse(self._render("link", token=token, session=session))
        form = await read_form(request)
        token = form.text("token")
        is_ours = await self._session_of_link(token) is not None
        session_id = await self._sessions.follow(token, _zone(form.text("zone"))) if is_ours else None
        if session_id is None:
            return problem_page(self.site.root, 403, self.used_up)
        return await self._begun(request, session_id, self.site.root)

    async def _session_of_link(self, token: str) -> Session | None:
        """The session that a link of this site begins, if it still exists. The other site's links are none."""
        found = await self._sessions.linked(token) if token else None
        return found if isinstance(found, self.site.kind) else None

    async def _begun(self, request: Request, session_id: str, next_: str) -> Response:
        """Send the browser to its page. The session that it had before ends."""
        if before := request.cookies.get(self.site.cookie(request)):
            await self._sessions.end(before)
        return signed_in(self.site, request, session_id, next_)

    def _render(self, page: str, **values: Any) -> str:
        root = self.site.root
        return render(f"{root.strip('/')}/{page}.html", root=root, **values)


def _zone(name: str) -> str:
    """A time zone's name that the browser sent; UTC if it is not one."""
    return name if name in zone_names() else "UTC"


async def _sign_out(visit: Visit[Any]) -> Response:
    await visit.site.parts.sessions.end(visit.session_id)
    return signed_out(visit.site, visit.request)


async def _set_zone(visit: Visit[Any]) -> Response:
    form = await visit.form()
    await visit.site.parts.sessions.keep(visit.session_id, visit.session.in_zone(_zone(form.text("zone"))))
    return await visit.go(next_of(visit.site, form.text("next")))


ACCOUNT_VIEWS: Final[tuple[View[Any], ...]] = (View("POST", "/sign-out", _sign_out), View("POST", "/zone", _set_zone))

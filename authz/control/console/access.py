"""Signing in to the console: by a credential's bearer token, or by a link that works once. And signing out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from authz.control.pages.forms import read_form
from authz.control.pages.guard import SAFE
from authz.control.pages.sessions import OwnerSession, Sessions
from authz.control.pages.site import Site, Visit, address_of, next_of, problem_page, signed_in, signed_out, worded
from authz.control.pages.templates import render
from authz.core.stored import Credential
from authz.core.zones import zone_names

TOO_OFTEN = "Too many attempts from this address. Wait a minute, then try again."
USED_UP = (
    "This link was used already, or is older than 15 minutes. `authz console link` prints a new one; so does "
    "the next start of `authz up`."
)

CredentialOf = Callable[[str], Awaitable[Credential | None]]  # of a bearer token


@dataclass(frozen=True, slots=True)
class Access:
    """The pages that need no session."""

    site: Site[OwnerSession]
    credential_of: CredentialOf
    provider: str | None = None  # of OpenID Connect, for a button

    def routes(self) -> list[Route]:
        root = self.site.root
        return [
            Route(f"{root}/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route(f"{root}/link", self._link, methods=["GET", "POST"]),
        ]

    @property
    def _sessions(self) -> Sessions:
        return self.site.parts.sessions

    async def _sign_in(self, request: Request) -> Response:
        return await worded(self.site.root, request, lambda: self._signed_in(request))

    async def _signed_in(self, request: Request) -> Response:
        if request.method in SAFE:
            return self._form(next_of(self.site, request.query_params.get("next", "")))
        form = await read_form(request)
        next_ = next_of(self.site, form.text("next"))
        if not await self.site.parts.throttle.admits(address_of(request)):
            return self._form(next_, 429, TOO_OFTEN)
        token = form.text("token").removeprefix("Authorization:").strip().removeprefix("Bearer ").strip()
        found = await self.credential_of(token) if token else None
        if found is None:
            return self._form(next_, 403, "No credential has this token.")
        session = OwnerSession(found.name, 0, found.read_only, found.id, _zone(form.text("zone")))
        return signed_in(self.site, request, await self._sessions.begin(session), next_)

    def _form(self, next_: str, status: int = 200, problem: str = "") -> Response:
        return HTMLResponse(
            render("console/sign-in.html", root=self.site.root, next=next_, problem=problem, provider=self.provider),
            status,
        )

    async def _link(self, request: Request) -> Response:
        return await worded(self.site.root, request, lambda: self._linked(request))

    async def _linked(self, request: Request) -> Response:
        """Show whom the link signs in; the button uses it up. A program that fetches links uses none up."""
        root = self.site.root
        if request.method in SAFE:
            token = request.query_params.get("token", "")
            found = await self._sessions.linked(token) if token else None
            if not isinstance(found, OwnerSession):
                return problem_page(root, 403, USED_UP)
            return HTMLResponse(render("console/link.html", root=root, token=token, session=found))
        form = await read_form(request)
        token = form.text("token")
        is_ours = isinstance(await self._sessions.linked(token), OwnerSession) if token else False
        session_id = await self._sessions.follow(token, _zone(form.text("zone"))) if is_ours else None
        if session_id is None:
            return problem_page(root, 403, USED_UP)
        return signed_in(self.site, request, session_id, root)


def _zone(name: str) -> str:
    """A time zone's name that the browser sent; UTC if it is not one."""
    return name if name in zone_names() else "UTC"


async def sign_out(visit: Visit[OwnerSession]) -> Response:
    await visit.site.parts.sessions.end(visit.session_id)
    return signed_out(visit.site, visit.request)


async def set_zone(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    await visit.site.parts.sessions.keep(visit.session_id, visit.session.in_zone(_zone(form.text("zone"))))
    return await visit.go(next_of(visit.site, form.text("next")))

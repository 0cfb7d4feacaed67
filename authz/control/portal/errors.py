"""`/portal/errors`: the answers and headers that callers of the API get. It is public."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from authz.control.pages.guard import origin_of
from authz.control.pages.templates import render
from authz.control.portal.invite import ROOT

SECONDS: Final = 3600  # for which everybody may keep the page


async def show_errors(request: Request) -> Response:
    page = render("portal/errors.html", root=ROOT, origin=origin_of(request))
    return HTMLResponse(page, headers={"Cache-Control": f"public, max-age={SECONDS}", "Vary": "Host"})


ROUTES: Final = (Route(f"{ROOT}/errors", show_errors, methods=["GET"]),)

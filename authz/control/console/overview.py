"""The first page of the console."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit


async def overview(visit: Visit[OwnerSession]) -> Response:
    return await visit.page("console/overview.html")


VIEWS: Final = (View("GET", "", overview),)

"""The pages of usage plans."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

PAGE: Final = "50"


async def plans(visit: Visit[OwnerSession]) -> Response:
    found = await visit.ask("GetUsagePlans", query={"limit": PAGE, "position": visit.query("position")})
    return await visit.page("console/plans.html", plans=found["item"], position=found.get("position"))


VIEWS: Final = (View("GET", "/plans", plans),)

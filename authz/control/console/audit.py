"""The page of the audit: who changed what, the newest first."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

LINES: Final = "100"


async def audit(visit: Visit[OwnerSession]) -> Response:
    """A page may have few lines, or none, although others follow: each looks at a bounded number of lines."""
    wanted = {"id": visit.query("id"), "who": visit.query("who")}
    found = await visit.ask("GetAudit", query=wanted | {"limit": LINES, "position": visit.query("position")})
    return await visit.page(
        "console/audit.html",
        lines=found["item"],
        position=found.get("position"),
        wanted={name: text for name, text in wanted.items() if text},
    )


VIEWS: Final = (View("GET", "/audit", audit),)

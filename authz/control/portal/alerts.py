"""The portal's page of alerts: when use has reached a percent of a limit, and where the customer has them sent."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Visit
from authz.control.portal.scope import Holdings
from authz.control.portal.usage import EACH
from authz.control.portal.view import PortalView

ALERTS: Final = 25
BAD_REQUEST: Final = 400


async def show_alerts(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    name = visit.query("new")
    secret = await visit.site.parts.sessions.take_message(visit.session_id, name) if name else None
    return await _page(visit, holdings, secret=secret)


async def _page(visit: Visit[CustomerSession], holdings: Holdings, *, status: int = 200, **values: Any) -> Response:
    part = await holdings.alerts(ALERTS, visit.query("position"))
    shown = {"secret": None, "name": "", "url": "", "problem": "", **values}
    return await visit.page(
        "portal/alerts.html",
        status=status,
        alerts=part.items,
        position=part.position,
        each=EACH,
        has_targets=holdings.has_targets,
        targets=await holdings.targets(),
        **shown,
    )


async def create_target(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    """Create a target. The next page shows its secret once."""
    form = await visit.form()
    name, url = form.text("name"), form.text("url")
    try:
        made = await holdings.create_target(name, url)
    except ApiError as error:
        if error.status != BAD_REQUEST:
            raise
        return await _page(visit, holdings, status=BAD_REQUEST, name=name, url=url, problem=error.message)
    kept = await visit.site.parts.sessions.leave_message(visit.session_id, made["secret"])
    return await visit.go(f"{visit.site.root}/alerts", new=kept)


async def test_target(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    result = await holdings.test_target(visit.path("target_id"))
    why = result.get("error") or f"the answer was {result.get('status')}"
    text = "The test has arrived." if result["arrived"] else f"The test has not arrived: {why}"
    return await visit.go(f"{visit.site.root}/alerts", text)


async def delete_target(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    await holdings.delete_target(visit.path("target_id"))
    return await visit.go(f"{visit.site.root}/alerts", "The webhook is deleted.")


VIEWS: Final = (
    PortalView("GET", "/alerts", show_alerts),
    PortalView("POST", "/alerts/targets", create_target, writes=True),
    PortalView("POST", "/alerts/targets/{target_id}/test", test_target, writes=True),
    PortalView("POST", "/alerts/targets/{target_id}/delete", delete_target, writes=True),
)

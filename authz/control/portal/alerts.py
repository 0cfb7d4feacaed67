"""The portal's page of alerts: when use has reached a percent of a limit."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Visit
from authz.control.portal.scope import Holdings
from authz.control.portal.usage import EACH
from authz.control.portal.view import PortalView

ALERTS: Final = 25


async def show_alerts(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    part = await holdings.alerts(ALERTS, visit.query("position"))
    return await visit.page("portal/alerts.html", alerts=part.items, position=part.position, each=EACH)


VIEWS: Final = (PortalView("GET", "/alerts", show_alerts),)

"""A view of the portal: it gets the visit, and the holdings of the visitor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.responses import Response

from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Visit
from authz.control.portal.scope import Holdings

PortalHandler = Callable[[Visit[CustomerSession], Holdings], Awaitable[Response]]


class PortalView(NamedTuple):
    """A page or a form of the portal. `path` is below the portal's root."""

    method: str
    path: str
    handler: PortalHandler
    writes: bool = False

"""The portal's ASGI application: its views, each with the holdings of the session's customer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from authz.control.pages.access import ACCOUNT_VIEWS, Access
from authz.control.pages.guard import Guard
from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Parts, Site, Throttle, View, Visit, application, problem_page
from authz.control.portal import alerts, errors, keys, usage
from authz.control.portal.invite import ROOT
from authz.control.portal.pasted import GivenKeys
from authz.control.portal.scope import Holdings, principal_of
from authz.control.portal.view import PortalView

MODULES: Final = (usage, keys, alerts)
UNKNOWN: Final = "No key that works has this value."
TOO_MUCH: Final = "Too many requests. Wait a minute, then try again."
PACE, BURST = 2.0, 60  # pages of a customer: a second, and at once
USED_UP: Final = "This link was used already, or is older than 15 minutes. Open the page again from where you found it."


def portal(parts: Parts, given_keys: GivenKeys, pace: Throttle) -> Guard:
    """The application. `pace` counts the pages of each customer, and the throttle of `parts` also what it changes."""
    # `Visit.ask` runs operations whatever their arguments name. In the portal it knows none: see Holdings.
    site = Site(
        ROOT,
        CustomerSession,
        replace(parts, api=parts.api.without_operations()),
        principal=principal_of,
        is_current=given_keys.is_current,
        trusts=False,
    )
    views = (_scoped(parts, pace, view) for module in MODULES for view in module.VIEWS)
    open_routes = Access(site, given_keys.session_of, UNKNOWN, USED_UP).routes()
    return application(site, [*ACCOUNT_VIEWS, *views], [*open_routes, *errors.ROUTES])


def _scoped(parts: Parts, pace: Throttle, view: PortalView) -> View[CustomerSession]:
    """A view of the site, from one that also takes the holdings of the session.

    A customer that sends too much is refused: it must neither slow the owner down nor fill the audit.
    """
    throttle = parts.throttle if view.writes else pace

    async def handler(visit: Visit[CustomerSession]) -> Response:
        session = visit.session
        # A customer's requests are counted together; a key without a customer stands for itself.
        customer_id = session.customer_id or session.shares_with
        if not await throttle.admits(f"key {session.key_id}" if customer_id is None else f"customer {customer_id}"):
            return problem_page(ROOT, 429, TOO_MUCH)
        return await view.handler(visit, Holdings(parts.api, session))

    return View(view.method, view.path, handler, view.writes)

"""The console's ASGI application: its views, and what a session of an owner may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Final

from msgspec.structs import replace
from starlette.requests import Request

from authz.control.call import Principal
from authz.control.console import (
    alerts,
    apis,
    audit,
    customers,
    explaining,
    keys,
    newkey,
    onekey,
    overview,
    plans,
    system,
    usage,
)
from authz.control.console.access import CredentialOf, access
from authz.control.console.oidc import OpenIdConnect
from authz.control.pages.access import ACCOUNT_VIEWS
from authz.control.pages.guard import Guard
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import Parts, Site, View, application
from authz.core.stored import Credential

ROOT: Final = "/console"

MODULES: Final = (overview, plans, keys, newkey, customers, onekey, explaining, usage, apis, alerts, audit, system)

VIEWS: Final[tuple[View[OwnerSession], ...]] = (
    *ACCOUNT_VIEWS,
    *chain.from_iterable(module.VIEWS for module in MODULES),
)

CredentialById = Callable[[str], Awaitable[Credential | None]]


def console(
    parts: Parts, credential_of: CredentialOf, credential_by_id: CredentialById, oidc: OpenIdConnect | None = None
) -> Guard:
    """The application. `credential_of` finds the credential of a bearer token, `credential_by_id` one by its id."""

    async def is_current(session: OwnerSession, _: Request) -> OwnerSession | None:
        """The session with its credential's role of now; None if the credential was deleted."""
        if session.credential_id is None:
            return session
        found = await credential_by_id(session.credential_id)
        return None if found is None else replace(session, read_only=found.read_only)

    site = Site(ROOT, OwnerSession, parts, _principal, is_current)
    open_routes = access(site, credential_of, oidc.provider if oidc else None).routes()
    return application(site, VIEWS, [*open_routes, *(oidc.routes(site) if oidc else ())])


def _principal(session: OwnerSession) -> Principal:
    return Principal(session.name, session.read_only, credential_id=session.credential_id)

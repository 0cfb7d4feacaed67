"""Signing in to the console: by a credential's bearer token, or by a link that works once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from authz.control.pages.access import Access
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import Site
from authz.core.stored import Credential

UNKNOWN = "No credential has this token."
USED_UP = (
    "This link was used already, or is older than 15 minutes. `authz console link` prints a new one; so does "
    "the next start of `authz up`."
)

CredentialOf = Callable[[str], Awaitable[Credential | None]]  # of a bearer token


def access(site: Site[OwnerSession], credential_of: CredentialOf, provider: str | None = None) -> Access[OwnerSession]:
    """The pages that need no session. With the name of a `provider` of OpenID Connect there is a button for it."""

    async def session_of(secret: str, _: Request) -> OwnerSession | None:
        token = secret.removeprefix("Authorization:").strip().removeprefix("Bearer ").strip()
        found = await credential_of(token) if token else None
        return OwnerSession(found.name, 0, found.read_only, found.id) if found else None

    return Access(site, session_of, UNKNOWN, USED_UP, {"provider": provider})

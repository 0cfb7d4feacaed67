"""Signing in to the console with OpenID Connect: the provider's claims, compared exactly, give the role."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from authz.control.auth import is_loopback
from authz.control.pages.guard import origin_of
from authz.control.pages.sessions import OwnerSession, Sessions
from authz.control.pages.site import TOO_OFTEN, Site, address_of, next_of, problem_page, signed_in, worded
from authz.store.ports import Tokens

log = structlog.get_logger(__name__)

NAME: Final = "oidc"
COOKIE: Final = "authz-oidc"
FLOW_SECONDS: Final = 600  # from the button to the provider's answer
SCOPES: Final = "openid email profile"
MISSING: Final = "OpenID Connect needs more packages: pip install 'envoy-usage-plans[oidc]'"


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A claim of the ID token and the value that it must have, or contain if it is a list."""

    claim: str
    value: str

    @classmethod
    def parse(cls, text: str) -> ClaimRule:
        """Parse `CLAIM=VALUE`. Raises ValueError."""
        claim, separator, value = text.partition("=")
        if not (claim and separator and value):
            raise ValueError(f"expected CLAIM=VALUE, such as groups=api-admins, not {text!r}")
        return cls(claim, value)

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """True if the claim is this text exactly, or a list with it. An e-mail address must be verified."""
        if self.claim == "email" and claims.get("email_verified") is not True:
            return False
        found = claims.get(self.claim)
        return found == self.value if isinstance(found, str) else isinstance(found, list) and self.value in found


@dataclass(frozen=True, slots=True)
class OidcOptions:
    """A provider, our registration with it, and the claims of those who may sign in.

    `admins` and `readers` are lists of rules; one that holds is enough. `admins` are compared first.
    """

    issuer: str
    client_id: str
    client_secret: str | None = None
    admins: tuple[ClaimRule, ...] = ()
    readers: tuple[ClaimRule, ...] = ()

    def problem(self) -> str | None:
        """The first mistake, in words for the operator."""
        parts = urlsplit(self.issuer)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if not (is_safe and parts.netloc) or parts.query or parts.fragment:
            return f"expected --oidc-issuer to be an https URL, not {self.issuer}"
        if not self.client_id:
            return "--oidc-issuer needs --oidc-client-id"
        if not (self.admins or self.readers):
            return "--oidc-issuer needs --oidc-admin or --oidc-reader: without them no person may sign in"
        return None

    def session(self, claims: Mapping[str, Any]) -> OwnerSession | None:
        """The session of the person with these claims; None for one who may not sign in."""
        is_admin = any(rule.holds(claims) for rule in self.admins)
        if not (is_admin or any(rule.holds(claims) for rule in self.readers)):
            return None
        verified = claims.get("email") if claims.get("email_verified") is True else None
        name = str(verified or claims["sub"])
        return OwnerSession(f"{name} ({urlsplit(self.issuer).netloc})", read_only=not is_admin)


class Kept:
    """The state of flows under way, in the form that authlib asks for."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def get(self, key: str) -> str | None:
        found = await self._tokens.find(NAME, key)
        return None if found is None else found.decode()

    async def set(self, key: str, value: str, _expires: int | None = None) -> None:
        await self._tokens.put(NAME, key, value.encode(), FLOW_SECONDS)

    async def delete(self, key: str) -> None:
        await self._tokens.take(NAME, key)


class OpenIdConnect:
    """The two routes of the flow: to the provider, and back from it."""

    def __init__(self, options: OidcOptions, tokens: Tokens, sessions: Sessions) -> None:
        """Raises ValueError if the packages of the extra `oidc` are missing."""
        try:
            from authlib.integrations.starlette_client import OAuth
        except ModuleNotFoundError:
            raise ValueError(MISSING) from None
        self._options = options
        self._tokens = tokens
        self._sessions = sessions
        self._client = OAuth(cache=Kept(tokens)).register(
            NAME,
            client_id=options.client_id,
            client_secret=options.client_secret,
            server_metadata_url=f"{options.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={"scope": SCOPES, "code_challenge_method": "S256"},
        )

    def routes(self, site: Site[OwnerSession]) -> list[Route]:
        return [
            Route(f"{site.root}/oidc/start", worded(site.root, partial(self._start, site))),
            Route(f"{site.root}/oidc/callback", worded(site.root, partial(self._back, site))),
        ]

    @property
    def provider(self) -> str:
        """The provider's host, for the button."""
        return urlsplit(self._options.issuer).netloc

    async def _start(self, site: Site[OwnerSession], request: Request) -> Response:
        """Send the browser to the provider. A cookie ties the flow to this browser."""
        if request.headers.get("sec-fetch-site") == "cross-site":  # a picture on another page, say
            return problem_page(site.root, 403, "Another web site caused this sign-in. Begin it on this one.")
        if not await site.parts.throttle.admits(address_of(request)):  # each flow takes memory of Redis
            return problem_page(site.root, 429, TOO_OFTEN)
        request.scope["session"] = flow = dict[str, Any]()
        redirect_uri = f"{origin_of(request)}{site.root}/oidc/callback"
        try:
            response: RedirectResponse = await self._client.authorize_redirect(request, redirect_uri)
        except Exception as error:
            return self._failed(site, error)
        (key,) = flow
        state = key.rpartition("_")[2]
        next_ = next_of(site, request.query_params.get("next", ""))
        await self._tokens.put(NAME, f"next {state}", next_.encode(), FLOW_SECONDS)
        response.set_cookie(
            _cookie(request),
            state,
            max_age=FLOW_SECONDS,
            path="/",
            secure=origin_of(request).startswith("https:"),
            httponly=True,
            samesite="lax",
        )
        return response

    async def _back(self, site: Site[OwnerSession], request: Request) -> Response:
        state = request.cookies.get(_cookie(request), "")
        request.scope["session"] = {f"_state_{NAME}_{state}": {"exp": time.time() + FLOW_SECONDS}}
        next_ = await self._tokens.take(NAME, f"next {state}")
        if next_ is None or request.query_params.get("state") != state:
            return problem_page(site.root, 403, "This sign-in was not begun in this browser, or is too old. Try again.")
        try:
            token = await self._client.authorize_access_token(request)
        except Exception as error:
            return self._failed(site, error)
        claims = token.get("userinfo") or {}
        session = self._options.session(claims) if claims else None
        if session is None:
            log.warning("a sign-in was refused: no rule holds for the claims", sub=claims.get("sub"))
            return problem_page(site.root, 403, "Your account may not use this console. Ask its owner.")
        if before := request.cookies.get(site.cookie(request)):
            await self._sessions.end(before)
        return signed_in(site, request, await self._sessions.begin(session), next_.decode())

    def _failed(self, site: Site[OwnerSession], error: Exception) -> Response:
        """Word a failure between us and the provider, for which authlib and its HTTP client raise many exceptions."""
        log.error("signing in with OpenID Connect failed", issuer=self._options.issuer, error=repr(error)[:300])
        text = f"Signing in with {self.provider} failed. The control plane's log says why."
        return problem_page(site.root, 502, text)


def _cookie(request: Request) -> str:
    """The name of the cookie. With its prefix, over TLS, no other host of the domain can set it."""
    return f"__Host-{COOKIE}" if origin_of(request).startswith("https:") else COOKIE

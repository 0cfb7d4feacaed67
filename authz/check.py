"""The use case: is this request allowed? Start reading here.

Two pure functions decide a request, with one Redis call between them. `catalog.resolve` finds the caller, and the
limits that cover the call. The limiter takes a unit from all of those limits or from none. `judge` makes the verdict. A
key that is not in memory costs one more call to Redis, a look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from authz.core.catalog import UNLOOKED, Caller, Catalog, Find, KeyNeeded, Unlooked
from authz.core.limits import Charge
from authz.core.request import Request
from authz.core.resources import FailurePolicy
from authz.core.verdict import Denied, Grant, Reason, Tally, Verdict, allow, judge, priced


class LimiterUnavailable(Exception):  # noqa: N818  (named for what the caller can do about it)
    """The limiter did not answer. The plan's failure policy decides."""


class Overloaded(LimiterUnavailable):
    """More callers wait than can be served in time. The call is refused, whatever the failure policy."""


class KeysUnavailable(Exception):  # noqa: N818
    """The key is not in memory, and the store does not answer."""


class KeyCache(Protocol):
    """The store's keys, by the SHA-256 of their values. The file's keys are in the catalog."""

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        """The key from memory; None if there is no such key, UNLOOKED if only the store knows."""

    async def find(self, digest: bytes) -> Caller | None:
        """Look the key up in the store. Raises KeysUnavailable."""


class NoKeys:
    """The keys of no store."""

    def known(self, digest: bytes) -> Caller | Unlooked | None:  # noqa: ARG002
        return None

    async def find(self, digest: bytes) -> Caller | None:  # noqa: ARG002
        return None


NO_KEYS: Final = NoKeys()


class Limiter(Protocol):
    """Takes a charge from all its limits or from none, and counts an admitted call in the meter."""

    async def admit(self, charge: Charge) -> Tally:
        """Raises LimiterUnavailable."""


class Fallback(Protocol):
    """Decides while Redis is away, from this process's share of each limit."""

    def admit(self, charge: Charge, now: int) -> Tally: ...


async def resolved(catalog: Callable[[], Catalog | None], keys: KeyCache, request: Request, now: int) -> Grant | Denied:
    """Resolve a request, and look its key up if need be. Without a catalog the request is refused."""
    found = _resolve(catalog(), request, now, keys.known)
    return await _looked_up(found, catalog, keys, request, now) if isinstance(found, KeyNeeded) else found


async def _looked_up(
    first: KeyNeeded, catalog: Callable[[], Catalog | None], keys: KeyCache, request: Request, now: int
) -> Grant | Denied:
    """Look the key of a request up, and resolve the request by the catalog that is current afterwards."""
    try:
        caller = await keys.find(first.digest)
    except KeysUnavailable:
        return Denied(Reason.UNAVAILABLE, first.subject)
    again = _resolve(catalog(), request, now, lambda digest: caller if digest == first.digest else UNLOOKED)
    # Only a catalog that changed meanwhile can find another key in the request.
    return Denied(Reason.UNAVAILABLE, again.subject) if isinstance(again, KeyNeeded) else again


def _resolve(catalog: Catalog | None, request: Request, now: int, find: Find) -> Grant | Denied | KeyNeeded:
    if catalog is None:
        return Denied(Reason.UNAVAILABLE)
    found = catalog.resolve(request, now, find)
    return priced(found, request) if isinstance(found, Grant) else found


class Checker:
    """Decides requests by the catalog that is current when they arrive, or when their key has been looked up.

    `now` returns µs of Unix time. With `charge_once`, a retry by Envoy is not charged again.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        limiter: Limiter,
        fallback: Fallback,
        now: Callable[[], int],
        keys: KeyCache = NO_KEYS,
        charge_once: bool = False,
    ) -> None:
        self._catalog = catalog
        self._limiter = limiter
        self._fallback = fallback
        self._now = now
        self._keys = keys
        self._charge_once = charge_once

    async def check(self, request: Request, deadline: float | None = None) -> Verdict:
        now = self._now()
        grant = _resolve(self._catalog(), request, now, self._keys.known)
        if not isinstance(grant, Grant):  # not by `resolved`: a coroutine more for each call
            if isinstance(grant, KeyNeeded):
                grant = await _looked_up(grant, self._catalog, self._keys, request, now)
            if isinstance(grant, Denied):
                return grant
        charge = self._charge(grant, request, deadline)
        try:
            tally = await self._limiter.admit(charge)
            if not tally.stale:
                return judge(grant, tally, request)
            return await self._again(request, tally.now, deadline)
        except Overloaded:
            return Denied(Reason.OVERLOADED, grant.subject)
        except LimiterUnavailable:
            return self._without_redis(grant, charge, request)

    def _charge(self, grant: Grant, request: Request, deadline: float | None) -> Charge:
        once = ""
        if self._charge_once and request.id:
            # The name that a request has in common with Envoy's retries of it, and with no other request.
            subject = grant.subject
            route = (subject.route.method, subject.route.resource) if subject.route else ()
            once = " ".join((request.id, subject.api, subject.stage, *route))
        return Charge(grant.limits, grant.meter, grant.cost, once, deadline, grant.shared.kept)

    async def _again(self, request: Request, now: int, deadline: float | None) -> Verdict:
        """Resolve once more, at Redis's own time: a quota's period has ended, or our clock was off."""
        grant = await resolved(self._catalog, self._keys, request, now)
        if isinstance(grant, Denied):
            return grant
        tally = await self._limiter.admit(self._charge(grant, request, deadline))
        if tally.stale:
            raise LimiterUnavailable("the quota's period was stale twice")
        return judge(grant, tally, request)

    def _without_redis(self, grant: Grant, charge: Charge, request: Request) -> Verdict:
        """The caller is known, so only the limits are in doubt: the plan's failure policy decides."""
        match grant.failure_policy:
            case FailurePolicy.ALLOW:
                return allow(grant, None, request)
            case FailurePolicy.DENY:
                return Denied(Reason.UNAVAILABLE, grant.subject)
            case FailurePolicy.LOCAL:
                return judge(grant, self._fallback.admit(charge, self._now()), request)

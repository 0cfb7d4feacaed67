"""The use case: is this request allowed? Start reading here.

A request is decided by two pure functions with one Redis call between them: `catalog.resolve` says who is calling and
which limits cover the call, the limiter takes a unit from all of those limits or from none, `judge` words the answer.
Only a key that is not in memory costs a call more, to look it up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from authz.core.catalog import UNLOOKED, Caller, Catalog, Find, KeyNeeded, Unlooked
from authz.core.limits import Limit, Meter
from authz.core.request import Request
from authz.core.resources import FailurePolicy
from authz.core.verdict import Allowed, Denied, Grant, Reason, Tally, Verdict, judge


class LimiterUnavailable(Exception):  # noqa: N818  (named for what the caller can do about it)
    """The limits could not be asked. The plan's failure policy decides."""


class Overloaded(LimiterUnavailable):
    """More callers wait than can be served in time. The call is shed, whatever the failure policy."""


class KeysUnavailable(Exception):  # noqa: N818
    """Nobody can say whether the key exists: it is not in memory, and the store cannot be asked."""


class KeyCache(Protocol):
    """Knows the keys that are not the file's, by the SHA-256 of their values."""

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        """From memory alone; None if there is no such key."""

    async def find(self, digest: bytes) -> Caller | None:
        """Asks whoever knows. Raises KeysUnavailable."""


class NoKeys:
    """The ring without a store: the file has all the keys."""

    def known(self, digest: bytes) -> Caller | Unlooked | None:  # noqa: ARG002
        return None

    async def find(self, digest: bytes) -> Caller | None:  # noqa: ARG002
        return None


NO_KEYS: Final = NoKeys()


async def resolved(catalog: Callable[[], Catalog | None], ring: KeyCache, request: Request, now: int) -> Grant | Denied:
    """Who is calling what. A key that had to be looked up meets the catalog that is current then.

    Without any catalog nobody can tell, and nobody is let in.
    """
    found = _resolve(catalog(), request, now, ring.known)
    if not isinstance(found, KeyNeeded):
        return found
    try:
        caller = await ring.find(found.digest)
    except KeysUnavailable:
        return Denied(Reason.UNAVAILABLE, found.subject)
    again = _resolve(catalog(), request, now, lambda digest: caller if digest == found.digest else UNLOOKED)
    # Another key than before is meant only if the catalog was changed meanwhile.
    return Denied(Reason.UNAVAILABLE, again.subject) if isinstance(again, KeyNeeded) else again


def _resolve(catalog: Catalog | None, request: Request, now: int, find: Find) -> Grant | Denied | KeyNeeded:
    return catalog.resolve(request, now, find) if catalog else Denied(Reason.UNAVAILABLE)


class Limiter(Protocol):
    """Takes a unit from all limits or from none, and counts an admitted call in the meter."""

    async def admit(
        self, limits: Sequence[Limit], meter: Meter | None = None, *, deadline: float | None = None, once: str = ""
    ) -> Tally:
        """Raises LimiterUnavailable. `deadline` is in seconds of `time.monotonic()`.

        What is admitted again under the same `once`, by the same limits, is not charged again; "" is no name.
        """


class Fallback(Protocol):
    """Stands in for the limiter while Redis is away: the same promise, on this process's share of each limit."""

    def admit(self, limits: Sequence[Limit], meter: Meter | None, now: int) -> Tally: ...


class Checker:
    """Decides requests against whatever catalog is current when they arrive, or when their key has been found."""

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        limiter: Limiter,
        fallback: Fallback,
        now: Callable[[], int],
        ring: KeyCache = NO_KEYS,
        charge_once: bool = False,
    ) -> None:
        self._catalog = catalog
        self._limiter = limiter
        self._fallback = fallback
        self._now = now
        self._ring = ring
        self._charge_once = charge_once

    async def check(self, request: Request, deadline: float | None = None) -> Verdict:
        grant = await resolved(self._catalog, self._ring, request, self._now())
        if isinstance(grant, Denied):
            return grant
        try:
            tally = await self._admit(grant, request, deadline)
            if not tally.stale:
                return judge(grant, tally)
            return await self._again(request, tally.now, deadline)
        except Overloaded:
            return Denied(Reason.OVERLOADED, grant.subject)
        except LimiterUnavailable:
            return self._without_redis(grant)

    def _admit(self, grant: Grant, request: Request, deadline: float | None) -> Awaitable[Tally]:
        once = _once(request, grant) if self._charge_once and request.id else ""
        return self._limiter.admit(grant.limits, grant.meter, deadline=deadline, once=once)

    async def _again(self, request: Request, now: int, deadline: float | None) -> Verdict:
        """A period has turned, or our clock was off: resolve once more, at Redis's own time."""
        grant = await resolved(self._catalog, self._ring, request, now)
        if isinstance(grant, Denied):
            return grant
        tally = await self._admit(grant, request, deadline)
        if tally.stale:
            raise LimiterUnavailable("the quota's period was stale twice")
        return judge(grant, tally)

    def _without_redis(self, grant: Grant) -> Verdict:
        """The caller is known, since resolve said so; whether its call counts is the plan's choice."""
        match grant.failure_policy:
            case FailurePolicy.ALLOW:
                return Allowed(grant, None)
            case FailurePolicy.DENY:
                return Denied(Reason.UNAVAILABLE, grant.subject)
            case FailurePolicy.LOCAL:
                return judge(grant, self._fallback.admit(grant.limits, grant.meter, self._now()))


def _once(request: Request, grant: Grant) -> str:
    """What Envoy's second question about a request has in common with its first, and with no other request's."""
    subject = grant.subject
    route = (subject.route.method, subject.route.resource) if subject.route else ()
    return " ".join((request.id, subject.api, subject.stage, *route))

"""The use case: is this request allowed? Start reading here.

A request is decided by two pure functions with one Redis call between them: `catalog.resolve` says who is calling and
which limits cover the call, the limiter takes a unit from all of those limits or from none, `judge` words the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from authz.core.catalog import Catalog
from authz.core.limits import Limit, Meter
from authz.core.request import Request
from authz.core.resources import FailurePolicy
from authz.core.verdict import Allowed, Denied, Grant, Reason, Tally, Verdict, judge


class LimiterUnavailable(Exception):  # noqa: N818  (named for what the caller can do about it)
    """The limits could not be asked. The plan's failure policy decides."""


class Overloaded(LimiterUnavailable):
    """More callers wait than can be served in time. The call is shed, whatever the failure policy."""


class Limiter(Protocol):
    """Takes a unit from all limits or from none, and counts an admitted call in the meter."""

    async def admit(
        self, limits: Sequence[Limit], meter: Meter | None = None, *, deadline: float | None = None
    ) -> Tally:
        """Raises LimiterUnavailable. `deadline` is a time of the event loop's clock."""


class Fallback(Protocol):
    """Stands in for the limiter while Redis is away: the same promise, on this process's share of each limit."""

    def admit(self, limits: Sequence[Limit], meter: Meter | None, now: int) -> Tally: ...


class Checker:
    """Decides requests against whatever catalog is current when they arrive."""

    def __init__(
        self, catalog: Callable[[], Catalog], limiter: Limiter, fallback: Fallback, now: Callable[[], int]
    ) -> None:
        self._catalog = catalog
        self._limiter = limiter
        self._fallback = fallback
        self._now = now

    async def check(self, request: Request, deadline: float | None = None) -> Verdict:
        catalog = self._catalog()
        grant = catalog.resolve(request, self._now())
        if isinstance(grant, Denied):
            return grant
        try:
            tally = await self._limiter.admit(grant.limits, grant.meter, deadline=deadline)
            if not tally.stale:
                return judge(grant, tally)
            return await self._again(catalog, request, tally.now, deadline)
        except Overloaded:
            return Denied(Reason.OVERLOADED, grant.subject)
        except LimiterUnavailable:
            return self._without_redis(grant)

    async def _again(self, catalog: Catalog, request: Request, now: int, deadline: float | None) -> Verdict:
        """A period has turned, or our clock was off: resolve once more, at Redis's own time."""
        grant = catalog.resolve(request, now)
        if isinstance(grant, Denied):
            return grant
        tally = await self._limiter.admit(grant.limits, grant.meter, deadline=deadline)
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

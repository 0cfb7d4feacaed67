"""Limits attempts to sign in, and other requests, with the limiter that limits everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from authz.check import Limiter
from authz.core.limits import Charge, Layer, Limit, redis_key, throttle
from authz.core.responses import retry_after_seconds

RATE: Final = 0.2  # attempts a second of one address
BURST: Final = 10


@dataclass(frozen=True, slots=True)
class PageThrottle:
    """Counts requests by their subject, such as an address. Those behind one proxy share an address."""

    limiter: Limiter
    account: str
    name: str = "sign-in"
    rate: float = RATE
    burst: int = BURST

    async def admits(self, subject: str) -> bool:
        """Count a request. False if this subject has sent too many. Raises LimiterUnavailable."""
        return not await self.wait(subject)

    async def wait(self, subject: str) -> int:
        """Count a request. Returns the seconds to wait before the next; 0 if it is admitted."""
        rule = throttle(self.rate, self.burst)
        assert rule is not None
        limit = Limit(Layer.ACCOUNT_THROTTLE, redis_key(self.account, "page", self.name, subject), rule)
        tally = await self.limiter.admit(Charge((limit,)))
        return 0 if tally.refused_by is None else retry_after_seconds(tally) or 1

"""Limits attempts to sign in, with the limiter that limits everything else."""

from __future__ import annotations

from typing import Final

from authz.check import Limiter
from authz.core.limits import Charge, Layer, Limit, redis_key, throttle

RATE: Final = 0.2  # attempts a second of one address
BURST: Final = 10


class SignInThrottle:
    """Counts attempts per address. Those behind one proxy, or on a Unix socket, share an address."""

    def __init__(self, limiter: Limiter, account: str) -> None:
        self._limiter = limiter
        self._account = account

    async def admits(self, address: str) -> bool:
        """Count an attempt. False if this address has tried too often. Raises LimiterUnavailable."""
        rule = throttle(RATE, BURST)
        assert rule is not None
        limit = Limit(Layer.ACCOUNT_THROTTLE, redis_key(self._account, "page", "sign-in", address), rule)
        return (await self._limiter.admit(Charge((limit,)))).refused_by is None

"""Leaves Redis alone after a few failures, and finds out in the background when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from tenacity import AsyncRetrying, retry_if_result, wait_exponential_jitter

log = structlog.get_logger(__name__)

FAILURES = 3
FIRST_PROBE_SECONDS = 0.05
LONGEST_PROBE_SECONDS = 1.0


class Circuit:
    """Open while Redis is left alone. Only the failures that open it cost a caller anything (R18).

    `recover` says whether Redis answers again, and settles what has to be settled before callers go there.
    """

    def __init__(self, recover: Callable[[], Awaitable[bool]], switch: Callable[[bool], None]) -> None:
        self._recover = recover
        self._switch = switch
        self._opened = asyncio.Event()
        self._failures = 0

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Count a failure; enough of them in a row open the circuit."""
        self._failures += 1
        if self._failures >= FAILURES and not self.is_open:
            self.open(f"{type(error).__name__}: {error}")

    def open(self, reason: str) -> None:
        log.warning("redis circuit opened", reason=reason)
        self._switch(False)
        self._opened.set()

    async def run(self) -> None:
        """Probe while the circuit is open, until cancelled."""
        while True:
            await self._opened.wait()
            await AsyncRetrying(
                wait=wait_exponential_jitter(initial=FIRST_PROBE_SECONDS, max=LONGEST_PROBE_SECONDS, jitter=0.05),
                retry=retry_if_result(lambda recovered: not recovered),
            )(self._recover)
            self._close()

    def _close(self) -> None:
        self._failures = 0
        self._opened.clear()
        self._switch(True)
        log.info("redis circuit closed")

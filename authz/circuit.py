"""Leaves Redis alone after a few failures, and finds out in the background when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, wait_exponential, wait_random

log = structlog.get_logger(__name__)

FAILURES = 3
FIRST_PROBE_SECONDS = 0.05
LONGEST_PROBE_SECONDS = 1.0
BACK_OFF = wait_exponential(multiplier=FIRST_PROBE_SECONDS, max=LONGEST_PROBE_SECONDS) + wait_random(0, 0.05)


class Circuit:
    """Open while Redis is left alone. Only the failures that open it cost a caller anything (R18).

    `recover` says whether Redis answers again, and settles what has to be settled before callers go there. `sleep`
    waits between probes.
    """

    def __init__(
        self,
        recover: Callable[[], Awaitable[bool]],
        switch: Callable[[bool], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._recover = recover
        self._switch = switch
        self._sleep = sleep
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
            await self._sleep(FIRST_PROBE_SECONDS)  # it is left alone first, however soon it might answer
            await AsyncRetrying(
                sleep=self._sleep,
                wait=BACK_OFF,
                retry=retry_if_result(lambda recovered: not recovered) | retry_if_exception_type(),
            )(self._recover)
            self._close()

    def _close(self) -> None:
        self._failures = 0
        self._opened.clear()
        self._switch(True)
        log.info("redis circuit closed")

"""Stops calls to Redis after a few failures, and probes in the background until it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, wait_exponential, wait_random

from authz.notice import Notice
from authz.redisio.url import in_words

FAILURES = 3
FIRST_PROBE_SECONDS = 0.05
MAX_PROBE_SECONDS = 1.0
BACK_OFF = wait_exponential(multiplier=FIRST_PROBE_SECONDS, max=MAX_PROBE_SECONDS) + wait_random(0, 0.05)


class Circuit:
    """Open while no call goes to Redis. Callers wait only for the failures that open it.

    `recover` probes Redis and pays debts there; it returns True when callers may go there again. `switch` gets
    False when the circuit opens and True when it closes. `sleep` waits between probes. The log names `address`.
    """

    def __init__(
        self,
        recover: Callable[[], Awaitable[bool]],
        switch: Callable[[bool], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        address: str = "",
    ) -> None:
        self._notice = Notice("redis circuit opened", redis=address)
        self._last = "no answer"
        self._recover = recover
        self._switch = switch
        self._sleep = sleep
        self._opened = asyncio.Event()
        self._failures = 0

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def problem(self) -> str | None:
        """Why the circuit is open; None while it is closed."""
        return self._notice.reason

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Count a failure, and open the circuit after `FAILURES` in a row. While it is open, log the newest reason."""
        self._failures += 1
        self._last = in_words(error)
        if self.is_open:
            self._notice.says(self._last)
        elif self._failures >= FAILURES:
            self.open()

    def open(self) -> None:
        """Stop calls to Redis. The log names the last failure."""
        self._notice.says(self._last)
        self._switch(False)
        self._opened.set()

    async def run(self) -> None:
        """Probe while the circuit is open, until cancelled."""
        while True:
            await self._opened.wait()
            await self._sleep(FIRST_PROBE_SECONDS)
            await AsyncRetrying(
                sleep=self._sleep,
                wait=BACK_OFF,
                retry=retry_if_result(lambda recovered: not recovered) | retry_if_exception_type(),
            )(self._recover)
            self._failures = 0
            self._opened.clear()
            self._switch(True)
            self._notice.ended("redis circuit closed")

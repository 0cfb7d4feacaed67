"""Leaves Redis alone after a few failures, and finds out in the background when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, wait_exponential, wait_random

from authz.notice import Notice
from authz.redisio.url import in_words

FAILURES = 3
FIRST_PROBE_SECONDS = 0.05
LONGEST_PROBE_SECONDS = 1.0
BACK_OFF = wait_exponential(multiplier=FIRST_PROBE_SECONDS, max=LONGEST_PROBE_SECONDS) + wait_random(0, 0.05)


class Circuit:
    """Open while Redis is left alone. Only the failures that open it cost a caller anything.

    `recover` says whether Redis answers again, and settles what has to be settled before callers go there. `sleep`
    waits between probes. The log names `address`, and why it is left alone.
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
        """Why Redis is left alone; None while it is not."""
        return self._notice.reason

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Count a failure; enough of them in a row open the circuit. While it is open, say why it stays so."""
        self._failures += 1
        self._last = in_words(error)
        if self.is_open:
            self._notice.says(self._last)
        elif self._failures >= FAILURES:
            self.open()

    def open(self) -> None:
        """Leave Redis alone, for the reason of the last failure."""
        self._notice.says(self._last)
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
        self._notice.ended("redis circuit closed")

"""One timer for many waits, each with a deadline of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

SWEEP_SECONDS: Final = 0.001  # between two searches for waits whose time is up

Wait = tuple[asyncio.Future[Any], float]  # a future, and its end (of `time.monotonic`)


class Deadlines:
    """Fails futures whose time is up, at most a millisecond or two late.

    `waits` returns the present ones, and `late` makes the exception for one that is over.
    """

    def __init__(self, waits: Callable[[], Iterable[Wait]], late: Callable[[], Exception]) -> None:
        self._waits = waits
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf

    def expect(self, due: float) -> None:
        """Note a wait that has begun."""
        if due < self._due:
            self._start(due)

    def stop(self) -> None:
        """Fail no more futures."""
        if self._timer:
            self._timer.cancel()

    def _start(self, due: float) -> None:
        self.stop()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._sweep)

    def _sweep(self) -> None:
        """Fail the futures whose time is up, and set the timer for the next one."""
        now = time.monotonic()
        self._timer, self._due = None, inf
        left = [(future, expires) for future, expires in self._waits() if not future.done()]
        for future, expires in left:
            if expires <= now:
                future.set_exception(self._late())
        due = min((expires for _, expires in left if expires > now), default=inf)
        if due < inf:
            self._start(max(due, now + SWEEP_SECONDS))

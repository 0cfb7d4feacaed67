"""Requests that were admitted without Redis, and are counted there once it answers again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from authz.check import LimiterUnavailable
from authz.limiter.local import LocalLimiter, Spent
from authz.notice import Notice
from authz.redisio.url import in_words

PAUSE_SECONDS = 1.0
ROUNDS = 3  # for debts that an attempt has left, newer ones, and those that are made meanwhile


class Debts:
    """Pays what the stand-in has admitted. `flush` counts one debt in Redis, `failed` is called for each failure."""

    def __init__(
        self,
        fallback: LocalLimiter,
        flush: Callable[[Spent], Awaitable[Sequence[int | None]]],
        failed: Callable[[Exception], None],
        address: str,
    ) -> None:
        self._fallback = fallback
        self._flush = flush
        self._failed = failed
        self._unpaid: deque[Spent] = deque()
        self._paying = asyncio.Lock()
        self._notice = Notice("admitted requests are not counted in redis yet", redis=address)

    @property
    def owed(self) -> int:
        """Requests that Redis has not counted yet."""
        return self._fallback.owed + sum(spent.requests for spent in self._unpaid)

    async def pay(self) -> bool:
        """Count all debts in Redis. Returns False if one failed; it is kept and comes first the next time."""
        async with self._paying:
            try:
                for _ in range(ROUNDS):
                    if not self._unpaid:
                        self._unpaid.extend(self._fallback.take_spent())
                    while self._unpaid:
                        used = await self._flush(self._unpaid[0])
                        self._fallback.counted(self._unpaid.popleft(), used)
            except LimiterUnavailable as error:
                self._notice.says(in_words(error), requests=self.owed)
                self._failed(error)
                return False
        self._notice.ended("admitted requests are counted in redis")
        return True

    async def keep_paying(self, is_away: Callable[[], bool]) -> NoReturn:
        """Pay once a second unless Redis is away: a single failure makes debts without opening the circuit."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if not is_away() and self.owed:
                await self.pay()

"""Hands counts of refused calls to Redis: each command is applied at most once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import structlog

from authz.check import LimiterUnavailable
from authz.core.limits import redis_key
from authz.redisio.client import Script, connect, evaluate, hang_up
from authz.redisio.url import in_words

log = structlog.get_logger(__name__)

SECONDS: Final = 1.0  # for one command; no caller waits for it
REFUSED: Final = Script.load("refused.lua")


class RefusedCount(NamedTuple):
    """The refused calls of one caller on one day (days since 1970).

    `reason` is `throttle`, `quota`, or `shadow_throttle` and `shadow_quota` for those that a shadow plan let through.
    """

    plan: str
    key: str
    day: int
    reason: str
    amount: int


class RefusedSender:
    """Sends one command at a time, on a connection of its own. `pinned` replaces Redis's clock in tests."""

    def __init__(self, url: str, *, account: str, retention_days: int, pinned: Callable[[], int] = lambda: 0) -> None:
        self._redis = connect(url, SECONDS)
        self._account = account
        self._retention_days = retention_days
        self._pinned = pinned
        self._worker = os.urandom(8).hex()
        self._applied = 0

    async def send(self, counts: Sequence[RefusedCount]) -> None:
        """Add these counts. After an error, send the same counts again: they are added once.

        Raises LimiterUnavailable.
        """
        keys = [redis_key(self._account, "refused-number", self._worker)]
        numbers: dict[tuple[str, str], int] = {}
        entries = []
        for plan, key, day, reason, amount in counts:
            number = numbers.get((plan, key))
            if number is None:
                keys.append(redis_key(self._account, "refused", plan, key))
                numbers[plan, key] = number = len(keys)
            entries.append((number, day, reason, amount))
        blob = msgspec.msgpack.encode((self._pinned(), self._applied + 1, self._retention_days, entries))
        try:
            async with asyncio.timeout(SECONDS):
                reply = await evaluate(self._redis, REFUSED, keys, blob)
        except Exception as error:  # of any kind: the counts are kept and sent again later
            await hang_up(self._redis)
            raise LimiterUnavailable(in_words(error)) from error
        self._applied += 1
        _, bad = msgspec.msgpack.decode(reply, type=tuple[str, list[int]])
        if bad:
            names = sorted({keys[entries[position - 1][0] - 1] for position in bad})
            lost = sum(counts[position - 1].amount for position in bad)
            log.error("bad state in Redis; the value is left alone", keys=names, lost=lost)

    async def aclose(self) -> None:
        await self._redis.aclose()

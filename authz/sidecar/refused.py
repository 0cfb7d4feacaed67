"""Counts refused calls by plan, key, day and reason, and hands the counts to Redis once a second.

Calls that a shadow plan would have refused are counted in the same way.

See "Refusals by day" in docs/explanation/rules.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final, NoReturn

import structlog

from authz.check import LimiterUnavailable
from authz.core.limits import Layer
from authz.core.verdict import Verdict
from authz.core.zones import DAY_US
from authz.limiter.refused import RefusedCount
from authz.notice import Notice
from authz.redisio.url import in_words

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 1.0
MAX_COUNTS: Final = 100_000  # kept while Redis is away: callers times days times reasons
IN_ONE_COMMAND: Final = 2_000  # counts: a command of this size takes Redis some milliseconds
MAX_COMMANDS: Final = 10  # a second


class RefusedCalls:
    """The refused calls of known callers that Redis has not counted yet.

    `send` adds counts in Redis. After an error it receives the same counts again, which it must add once. `lost` is the
    number of refused calls since the last log line that MAX_COUNTS left no room for.
    """

    def __init__(self, send: Callable[[Sequence[RefusedCount]], Awaitable[None]], address: str) -> None:
        self._send = send
        self._counts: dict[tuple[str, str, int, str], int] = {}
        self._in_flight: list[RefusedCount] = []
        self.lost = 0
        self._late = Notice("refused calls are not counted in redis yet", redis=address)
        self._full = Notice("refused calls are lost to the count", level="error", kept=MAX_COUNTS)

    @property
    def waiting(self) -> int:
        """Refused calls that Redis has not counted."""
        return sum(self._counts.values()) + sum(count.amount for count in self._in_flight)

    def count(self, verdict: Verdict) -> None:
        """Count a refusal by a limit, if its caller has a key and a plan. Other refusals are not counted.

        An allowed call counts if a shadow plan would have refused it.
        """
        subject, tally = verdict.subject, verdict.tally
        limit = (tally.refused_by or tally.shadowed_by) if tally else None
        if tally is None or limit is None or not subject.key or not subject.plan:
            return
        kind = "quota" if limit.layer is Layer.PLAN_QUOTA else "throttle"
        reason = kind if tally.refused_by else f"shadow_{kind}"
        name = (subject.plan, subject.key, tally.now // DAY_US, reason)
        counts = self._counts
        if name in counts:
            counts[name] += 1
        elif len(counts) < MAX_COUNTS:
            counts[name] = 1
        else:
            self.lost += 1

    async def keep_sending(self, is_away: Callable[[], bool]) -> NoReturn:
        """Send what waits once a second, unless Redis is away or nothing was refused."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if not is_away():
                await self.send_waiting()
            if self.lost:
                self._full.says("too many callers are refused while redis is away", requests=self.lost)
                self.lost = 0
            else:
                self._full.ended()

    async def send_waiting(self) -> None:
        """Send one command, and more, up to MAX_COMMANDS, while the counts of a full one wait."""
        for _ in range(MAX_COMMANDS):
            if not await self.send() or len(self._counts) < IN_ONE_COMMAND:
                return

    async def send(self) -> bool:
        """Send the oldest counts in one command. Returns False if it failed; the counts are sent again next time."""
        if not self._in_flight:
            names = list(islice(self._counts, IN_ONE_COMMAND))
            self._in_flight = [RefusedCount(*name, self._counts.pop(name)) for name in names]
        if not self._in_flight:
            return True
        try:
            await self._send(self._in_flight)
        except LimiterUnavailable as error:
            self._late.says(in_words(error), requests=self.waiting)
            return False
        self._in_flight = []
        self._late.ended("refused calls are counted in redis")
        return True

    async def drain(self) -> None:
        """Send everything before the process ends, or log the loss."""
        while self._counts or self._in_flight:
            if not await self.send():
                log.error("refused calls are lost to the count", requests=self.waiting)
                return

"""Batches on their way to Redis and back: each is charged at most once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from authz.check import LimiterUnavailable
from authz.core.limits import redis_key
from authz.limiter.clock import RedisClock
from authz.limiter.encoding import Batch, encoded_batch, encoded_debt, unlisted
from authz.limiter.local import Spent
from authz.redisio.client import Script, connect, evaluate, hang_up, master_changes
from authz.redisio.url import in_words
from authz.redisio.wire import Line

log = structlog.get_logger(__name__)

FIRST_SENDING = 0.75  # of the time that is left; the rest is for sending a batch of unknown fate again
PROBE_SECONDS = 1.0

Results = list[tuple[int, ...]]


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The reply of `admit.lua`, as its header describes it."""

    status: str
    now: int
    results: Results
    holds: list[tuple[int, int, int]] = []
    ended: int = 0


REPLY = msgspec.msgpack.Decoder(Reply)
_reply_key = lru_cache(16)(redis_key)  # it does not differ between batches

ADMIT = Script.load("admit.lua")
FLUSH = Script.load("flush.lua")


class Sender:
    """Sends one batch at a time.

    `budget` is the longest wait of a caller, in seconds. `forget` is called when earlier replies may no longer hold:
    after a reconnect, behind which another server may answer, and when Redis's clock has stepped.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str,
        budget: float,
        retention_days: int,
        clock: RedisClock,
        forget: Callable[[], None],
    ) -> None:
        self._redis = connect(url, max(PROBE_SECONDS, budget), forget)
        self._line = Line(self._redis)
        self._account = account
        self._budget = budget
        self._retention_days = retention_days
        self._clock = clock
        self._forget = forget
        self._worker = os.urandom(8).hex()
        self._sequence = 0
        self._flushed = 0
        self._sending = asyncio.Lock()

    @property
    def master_changes(self) -> int:
        """How often another server has taken over from the master."""
        return master_changes(self._redis)

    @property
    def is_idle(self) -> bool:
        """True if the connection is open, and no reply is on its way.

        So callers that leave, each before its reply, cannot send one batch after the other.
        """
        return self._line.is_idle and not self._sending.locked()

    async def decide(self, batch: Batch, expires: float) -> Reply:
        """Run the script, and return its reply, with a result for each call. Raises what redis-py does.

        A batch that Redis took for late, since our estimate of its clock was wrong, is sent once more under a new
        number. Raises LimiterUnavailable if that is refused too.
        """
        async with self._sending:
            for _ in range(2):
                self._sequence += 1
                sent = self._clock.ticks()
                reply = await self._send_until_known(batch, expires)
                if self._clock.learn(reply.now, sent):
                    self._forget()
                if reply.status == "ok":
                    return reply
        raise LimiterUnavailable(f"the batch was answered {reply.status}")

    async def probe(self) -> None:
        """Run an empty batch twice. Raises whatever a broken Redis causes.

        The first may have to connect, while no caller waits. The second must keep to a caller's budget.
        """
        empty = encoded_batch(self._account, self._retention_days, [])
        await self.decide(empty, time.monotonic() + max(PROBE_SECONDS, self._budget))
        await self.decide(empty, time.monotonic() + self._budget)

    async def peek(self, batch: Batch, expires: float) -> Reply:
        """What `decide` would return now, without spending anything. Raises LimiterUnavailable."""
        try:
            return await self._ask(batch, self._blob(batch, 0, dry=True), expires)
        except (RedisError, OSError, TimeoutError) as error:
            raise LimiterUnavailable(f"Redis cannot be queried: {in_words(error)}") from error

    async def flush(self, spent: Spent) -> Sequence[int | None]:
        """Count a debt in Redis. After an error, send it again: it is counted once.

        Returns the used units of each quota; None where another period is stored. Nothing is returned if Redis could
        not count the debt. Raises LimiterUnavailable.
        """
        keys, blob = encoded_debt(self._account, spent, self._retention_days, self._clock.pin())
        keys = [redis_key(self._account, "flush", self._worker), *keys]
        blob = (self._flushed + 1, *blob)
        try:
            async with self._sending, asyncio.timeout(self._budget):
                reply = await evaluate(self._redis, FLUSH, keys, msgspec.msgpack.encode(blob))
        except Exception as error:  # of any kind: the debt is kept and flushed again later
            await self.hang_up()
            raise LimiterUnavailable(in_words(error)) from error
        status, used = msgspec.msgpack.decode(reply, type=tuple[str, list[int | bool]])
        if status == "bad state":
            log.error("bad state in Redis; the value is left alone", keys=keys[1:], lost=spent.requests)
        self._flushed += 1
        return [None if units is False else int(units) for units in used]

    async def hang_up(self) -> None:
        """Close the connection. The next server may hold an older state, so earlier replies are forgotten."""
        self._forget()
        await hang_up(self._redis)

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _send_until_known(self, batch: Batch, expires: float) -> Reply:
        """Send a batch. If its fate is unknown, send it once more under the same number: it is charged at most once."""
        blob, now = self._blob(batch, expires), time.monotonic()
        try:
            return await self._ask(batch, blob, now + (expires - now) * FIRST_SENDING)
        except ResponseError:
            raise
        except (RedisError, OSError, TimeoutError):
            await self.hang_up()
        try:
            return await self._ask(batch, blob, expires)
        except (RedisError, OSError, TimeoutError):
            await self.hang_up()
            raise

    def _reply_key(self) -> str:
        return _reply_key(self._account, "reply", self._worker)

    def _blob(self, batch: Batch, expires: float, *, dry: bool = False) -> bytes:
        """The script's argument: values one after the other, not a list. The deadline is in Redis's time."""
        left = expires - time.monotonic() if expires else 0
        deadline = self._clock.now() + int(left * 1_000_000) if expires else 0
        return unlisted((self._sequence, deadline, self._clock.pin(), int(dry))) + batch.packed

    async def _ask(self, batch: Batch, blob: bytes, expires: float) -> Reply:
        keys = [self._reply_key(), *batch.keys]
        return REPLY.decode(await self._line.evaluate(ADMIT, keys, blob, expires))

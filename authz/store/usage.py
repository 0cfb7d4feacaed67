"""The usage that the limiter counts, read and set in Redis: each caller's ledger and history in one script."""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import structlog
from redis.exceptions import RedisError

from authz.aws.usage import CallerUse, Days, window
from authz.core.limits import redis_key
from authz.core.periods import DAY_US
from authz.core.resources import DEFAULT_ACCOUNT, QuotaSettings
from authz.redisio.client import WAIT_SLACK_SECONDS, Script, Waited, connect, evaluate, evaluate_and_wait, replicas_for
from authz.redisio.url import in_words
from authz.store.store import REPLICA_MS, StoreUnavailable, Written

T = TypeVar("T")

log = structlog.get_logger(__name__)

READ: Final = Script.load("usage.lua")
REMAIN: Final = Script.load("remain.lua")

ROWS: Final = 20_000  # asked for in one script, which is a few ms in which Redis admits nobody
CALLERS: Final = 500  # read in one script, however few days are asked for
ATTEMPTS: Final = 3  # to name the period that holds by Redis's clock
NO_DAYS: Final = Days(1, 0)

_READING: Final = msgspec.msgpack.Decoder(tuple[int, list[list[Any]]])
_REMAIN: Final = msgspec.msgpack.Decoder(tuple[str, int, int, int])


@dataclass(frozen=True, slots=True)
class Reading:
    """Records by key id, and the time (µs) of the last one. A key whose bytes in Redis are not ours has none."""

    now: int
    records: dict[str, CallerUse]


@dataclass(frozen=True, slots=True)
class Remaining:
    """What UpdateUsage has set: at `now` (µs), on a day of which so much was used."""

    now: int
    used: int


class UsageLedger:
    """The ledgers of one account. `budget` in seconds for each script, `clock` in µs of Unix time pins it for tests.

    `replicas` is how many must have what is set, None for what the URL suggests.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        retention_days: int = 400,
        budget: float = 1.0,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
    ) -> None:
        self.clock = clock
        self._replicas = replicas_for(url, replicas)
        self._redis = connect(url, budget)
        self._account = account
        self._retention_days = retention_days
        self._budget = budget

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days = NO_DAYS) -> Reading:
        """The records of these keys in a plan, with the rows of these days. Raises StoreUnavailable."""
        now, records = self._now(), dict[str, CallerUse]()
        size = min(CALLERS, max(1, ROWS // max(1, days.last - days.first + 1)))
        for ids in _chunks(key_ids, size):
            blob = msgspec.msgpack.encode((self._pinned(), days.first, days.last))
            keys = [key for key_id in ids for key in self._keys(plan_id, key_id)]
            now, found = _READING.decode(await self._within_budget(evaluate(self._redis, READ, keys, blob)))
            for key_id, numbers in zip(ids, found, strict=True):
                if numbers:
                    records[key_id] = _record(*numbers)
                else:
                    _warn(plan_id, key_id)
        return Reading(now, records)

    async def top(self, plan_id: str, key_ids: Sequence[str], count: int) -> list[tuple[str, int]]:
        """The keys that used most today (UTC) with what they used; those without a call are left out."""
        best: list[tuple[str, int]] = []
        for ids in _chunks(key_ids, CALLERS):
            reading = await self.read(plan_id, ids)
            today = reading.now // DAY_US
            used = [(key_id, record.rows.get(today, (0, 0))[0]) for key_id, record in reading.records.items()]
            best = heapq.nlargest(count, [*best, *used], key=lambda pair: pair[1])
        return [(key_id, used) for key_id, used in best if used]

    async def set_remaining(
        self, plan_id: str, key_id: str, quota: QuotaSettings, remaining: int, *, who: str, what: str
    ) -> Written[Remaining]:
        """What is left of the period that holds now. Sent again, it comes to the same. Raises StoreUnavailable."""
        body = msgspec.msgpack.encode(((), (), ((plan_id, key_id),)))
        parts = ("head", "changes", "audit")
        keys = [*self._keys(plan_id, key_id), *(redis_key(self._account, "store", part) for part in parts)]
        now = self._now()
        for _ in range(ATTEMPTS):
            blob = msgspec.msgpack.encode((*self._setting(quota, remaining, now), who, what))
            waited = await self._write(keys, blob, body)
            status, now, used, version = _REMAIN.decode(waited.reply)
            if status == "bad state":
                _warn(plan_id, key_id)
                break
            if status == "done":
                return Written(Remaining(now, used), version, waited.at_risk)
        raise StoreUnavailable(f"what remains was not set: {status}")

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _setting(self, quota: QuotaSettings, remaining: int, now: int) -> tuple[int | str, ...]:
        current, random = window(quota, now), os.urandom(16).hex()
        bounds = (current.limit, current.start, current.end)
        return (self._pinned(), remaining, *bounds, self._retention_days, random[:16], random[16:])

    def _keys(self, plan_id: str, key_id: str) -> list[str]:
        return [redis_key(self._account, kind, plan_id, key_id) for kind in ("ledger", "history")]

    def _pinned(self) -> int:
        return self.clock() if self.clock else 0

    def _now(self) -> int:
        """Our own clock's: good for a first guess, and where Redis has not been asked."""
        return self.clock() if self.clock else time.time_ns() // 1000

    async def _write(self, keys: Sequence[str], *args: bytes) -> Waited:
        if not self._replicas:
            return Waited(await self._within_budget(evaluate(self._redis, REMAIN, keys, *args)), "")
        writing = evaluate_and_wait(self._redis, REMAIN, keys, *args, replicas=self._replicas, milliseconds=REPLICA_MS)
        return await self._within_budget(writing, REPLICA_MS / 1000 + WAIT_SLACK_SECONDS)

    async def _within_budget(self, reply: Awaitable[T], more: float = 0.0) -> T:
        try:
            async with asyncio.timeout(self._budget + more):
                return await reply
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis cannot be asked: {in_words(error)}") from error


def _chunks(key_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (key_ids[at : at + size] for at in range(0, len(key_ids), size))


def _record(start: int, used: int, rows: list[list[int]]) -> CallerUse:
    return CallerUse(start, used, {day: (amount, left) for day, amount, left in rows})


def _warn(plan_id: str, key_id: str) -> None:
    log.error("bad state in Redis; the value is left alone", plan=plan_id, key=key_id)

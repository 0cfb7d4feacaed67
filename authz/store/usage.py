"""Reads and sets the usage that the limiter counts in Redis. One script handles a caller's ledger and history."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from authz.aws.usage import CallerUse, DayRow, Days, window
from authz.core.periods import DAY_US
from authz.core.resources import DEFAULT_ACCOUNT, QuotaSettings
from authz.ids import random_hex
from authz.redisio.client import Script
from authz.store.alerts import read_alerts
from authz.store.database import Database, chunks
from authz.store.ports import AlertPage, AlertQuery, RemainingSet, StoreUnavailable, UsageReading, Written

log = structlog.get_logger(__name__)

READ: Final = Script.load("usage.lua")
REMAIN: Final = Script.load("remain.lua")

ROWS: Final = 20_000  # read by one script, which blocks Redis for a few ms
CALLERS: Final = 500  # read by one script, however few days are read
ATTEMPTS: Final = 3  # to find the current period by Redis's clock
NO_DAYS: Final = Days(1, 0)

_READING: Final = msgspec.msgpack.Decoder(tuple[int, list[list[Any]]])
_REMAIN: Final = msgspec.msgpack.Decoder(tuple[str, int, int, int])


class UsageLedger:
    """The ledgers of one account. `budget` is the seconds that each script may take.

    `clock` (µs of Unix time) replaces Redis's clock in tests.
    `replicas` is how many replicas must confirm a write; None takes what the URL suggests.
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
        self._database = Database(
            url, account=account, budget=budget, clock=lambda: self.clock() if self.clock else 0, replicas=replicas
        )
        self._retention_days = retention_days

    async def read(
        self, plan_id: str, key_ids: Sequence[str], days: Days = NO_DAYS, *, refused: bool = False
    ) -> UsageReading:
        """Read the records of these keys in a plan, with the rows of these days. Raises StoreUnavailable."""
        now, records = self._now(), dict[str, CallerUse]()
        fields = max(1, days.last - days.first + 1) * (3 if refused else 1)
        blob = msgspec.msgpack.encode((self._database.pinned(), days.first, days.last, int(refused)))
        for ids in chunks(key_ids, min(CALLERS, max(1, ROWS // fields))):
            keys = [key for key_id in ids for key in self._keys(plan_id, key_id)]
            now, replies = _READING.decode(await self._database.run(READ, keys, blob))
            for key_id, numbers in zip(ids, replies, strict=True):
                if numbers:
                    records[key_id] = _record(*numbers)
                else:
                    _warn(plan_id, key_id)
        return UsageReading(now, records)

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        """Read up to `limit` alerts after a position. Raises InvalidPosition and StoreUnavailable."""
        return await read_alerts(self._database, query, limit, position)

    async def top(self, plan_id: str, key_ids: Sequence[str], count: int) -> list[tuple[str, int]]:
        """Return up to `count` keys with the most calls today (UTC), and their calls; no key without a call."""
        best: list[tuple[str, int]] = []
        for ids in chunks(key_ids, CALLERS):
            reading = await self.read(plan_id, ids)
            today = reading.now // DAY_US
            used = [
                (key_id, record.rows[today].requests)
                for key_id, record in reading.records.items()
                if today in record.rows
            ]
            best = heapq.nlargest(count, [*best, *used], key=lambda pair: pair[1])
        return [(key_id, used) for key_id, used in best if used]

    async def set_remaining(
        self, plan_id: str, key_id: str, quota: QuotaSettings, remaining: int, *, who: str, what: str
    ) -> Written[RemainingSet]:
        """Set the remaining units of the current period. Repeating the call is safe. Raises StoreUnavailable."""
        body = msgspec.msgpack.encode(((), (), ((plan_id, key_id),)))
        keys = [*self._keys(plan_id, key_id)[:2], *map(self._database.store_key, ("head", "changes", "audit"))]
        now = self._now()
        for _ in range(ATTEMPTS):
            blob = msgspec.msgpack.encode((*self._setting(quota, remaining, now), who, what))
            waited = await self._database.run_and_wait(REMAIN, keys, blob, body)
            status, now, used, version = _REMAIN.decode(waited.reply)
            if status == "bad state":
                _warn(plan_id, key_id)
                break
            if status == "done":
                return Written(RemainingSet(now, used), version, waited.at_risk)
        raise StoreUnavailable(f"what remains was not set: {status}")

    async def aclose(self) -> None:
        await self._database.aclose()

    def _setting(self, quota: QuotaSettings, remaining: int, now: int) -> tuple[int | str, ...]:
        current = window(quota, now)
        bounds = (current.limit, current.start, current.end)
        return (self._database.pinned(), remaining, *bounds, self._retention_days, random_hex(), random_hex())

    def _keys(self, plan_id: str, key_id: str) -> list[str]:
        return [self._database.key(kind, plan_id, key_id) for kind in ("ledger", "history", "refused")]

    def _now(self) -> int:
        """Return the time (µs) of our own clock, a first guess until Redis reports its time."""
        return self._database.pinned() or time.time_ns() // 1000


def _record(start: int, used: int, rows: list[list[int]], refused: list[list[int]]) -> CallerUse:
    return CallerUse(
        start,
        used,
        {day: DayRow(*numbers) for day, *numbers in rows},
        {day: (throttle, quota) for day, throttle, quota in refused},
    )


def _warn(plan_id: str, key_id: str) -> None:
    log.error("bad state in Redis; the value is left alone", plan=plan_id, key=key_id)

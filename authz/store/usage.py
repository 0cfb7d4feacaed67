"""Reads and changes the usage that the limiter counts in Redis. One script reads a caller's ledger and history."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from authz.aws.usage import NO_QUOTA, CallerUse, DayRow, Days, RefusedRow
from authz.core.holders import HeldQuota, Holder, QuotaState
from authz.core.limits import encoded
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.zones import DAY_US
from authz.ids import random_hex
from authz.redisio.client import Script
from authz.redisio.rules import quota_rule
from authz.store import kept
from authz.store.alerts import read_alerts
from authz.store.database import Database, chunks
from authz.store.figures import Overview, Sums
from authz.store.ports import (
    Adjusted,
    AlertPage,
    AlertQuery,
    CallerName,
    StatesReading,
    StoreRefusal,
    StoreUnavailable,
    Survey,
    UsageReading,
    Written,
)

log = structlog.get_logger(__name__)

READ: Final = Script.load("usage.lua")
STATES: Final = Script.load("quotas.lua")
SURVEY: Final = Script.load("survey.lua")
REMAIN: Final = Script.load("remain.lua")

ROWS: Final = 20_000  # read by one script, which blocks Redis for a few ms
CALLERS: Final = 500  # read by one script, however few days are read
ATTEMPTS: Final = 3  # to find the current period by Redis's clock
LONGEST_PERIOD_DAYS: Final = 62  # as in prelude/ledger.lua
NO_DAYS: Final = Days(1, 0)
KINDS: Final = ("ledger", "history", "refused")  # of a caller's keys in Redis

_READING: Final = msgspec.msgpack.Decoder(tuple[int, list[list[Any]]])
_STATES: Final = msgspec.msgpack.Decoder(tuple[int, list[list[int]]])
_SURVEY: Final = msgspec.msgpack.Decoder(
    tuple[
        int,
        list[tuple[int, int, int, int, list[tuple[int, int, int, int]], list[tuple[int, int, int, int, int]]]],
        list[tuple[int, int, int, int]],
        list[int],
    ]
)
_REMAIN: Final = msgspec.msgpack.Decoder(tuple[str, int, int, int, int, int])


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
        now, records = await self._read([(plan_id, key_id) for key_id in key_ids], days, refused=refused)
        return UsageReading(now, {key_id: record for (_, key_id), record in records.items()})

    async def uses(self, callers: Sequence[CallerName], days: Days) -> dict[CallerName, CallerUse]:
        """Read the records of callers of any plans, with the rows and the refused calls. Raises StoreUnavailable."""
        _, records = await self._read(callers, days, refused=True)
        return records

    @property
    def kept_days(self) -> int:
        """The days after its last call for which a caller's ledger is kept."""
        return max(self._retention_days, LONGEST_PERIOD_DAYS)

    async def last_days(self, callers: Sequence[CallerName]) -> tuple[int, dict[CallerName, int | None]]:
        """Return today and each caller's last day with a counted call. Raises StoreUnavailable.

        The last day is that of the ledger. If UpdateUsage has begun that day and no call came, the history has it.
        """
        now, records = await self._read(callers)
        today = now // DAY_US
        found = {caller: _last_day(record) for caller, record in records.items()}
        begun = [caller for caller, record in records.items() if record.rows and found[caller] is None]
        _, older = await self._read(begun, Days(today - self._retention_days, today + 1))
        return today, found | {caller: _last_day(record) for caller, record in older.items()}

    async def _read(
        self, callers: Sequence[CallerName], days: Days = NO_DAYS, *, refused: bool = False
    ) -> tuple[int, dict[CallerName, CallerUse]]:
        """Return Redis's time (µs) and the records of callers. One that can't be read is logged and left out."""
        now, records = self._now(), dict[CallerName, CallerUse]()
        fields = max(1, days.last - days.first + 1) * (1 + (len(RefusedRow._fields) if refused else 0))
        blob = msgspec.msgpack.encode((self._database.pinned(), days.first, days.last, int(refused)))
        for some in chunks(callers, min(CALLERS, max(1, ROWS // fields))):
            keys = [key for caller in some for key in self._keys(*caller)]
            now, replies = _READING.decode(await self._database.run(READ, keys, blob))
            for caller, numbers in zip(some, replies, strict=True):
                if not numbers:
                    log.error("bad state in Redis; the value is left alone", plan=caller[0], key=caller[1])
                    continue
                start, finish, used, rows, refusals = numbers
                records[caller] = CallerUse(
                    QuotaState(start, finish, used),
                    {day: DayRow(*counts) for day, *counts in rows},
                    {day: RefusedRow(*counts) for day, *counts in refusals},
                )
        return now, records

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

    async def states(self, quotas: Sequence[HeldQuota]) -> StatesReading:
        """Read the stored states of these quotas. Raises StoreUnavailable."""
        now, states = self._now(), list[QuotaState | None]()
        for some in chunks(quotas, CALLERS):
            keys = [self._database.key(*quota.name) for quota in some]
            reply = await self._database.run(STATES, keys, msgspec.msgpack.encode((self._database.pinned(),)))
            now, found = _STATES.decode(reply)
            for key, numbers in zip(keys, found, strict=True):
                states.append(QuotaState(*numbers) if numbers else None)
                if not numbers:
                    log.error("bad state in Redis; the value is left alone", keys=[key])
        return StatesReading(now, states)

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        """Read what sums of days and quotas need, of up to CALLERS keys. Raises StoreUnavailable."""
        names = [encoded(key_id) for key_id in key_ids]
        prefixes = [self._database.key(kind, plan_id, "") for kind in KINDS]
        keys = [prefix + name for prefix in prefixes for name in names]
        keys += [self._database.key(*quota.name) for quota in quotas]
        blob = msgspec.msgpack.encode((self._database.pinned(), len(names), list(days)))
        now, callers, states, bad = _SURVEY.decode(await self._database.run(SURVEY, keys, blob))
        if bad:
            log.error("bad state in Redis; the value is left alone", keys=[keys[position - 1] for position in bad])
        records = {
            key_ids[at - 1]: CallerUse(
                QuotaState(*state),
                {day: DayRow(requests, NO_QUOTA, units, over) for day, requests, units, over in rows},
                {day: RefusedRow(*counts) for day, *counts in refused},
            )
            for at, *state, rows, refused in callers
        }
        return Survey(now, records, {quotas[at - 1].name: QuotaState(*state) for at, *state in states})

    async def redis_time(self) -> int:
        """Redis's time in µs. Raises StoreUnavailable."""
        if pinned := self._database.pinned():
            return pinned
        seconds, rest = await self._database.ask("TIME")
        return int(seconds) * 1_000_000 + int(rest)

    # --- kept figures ---

    async def overview(self) -> Overview | None:
        return await kept.read_overview(self._database)

    async def keep_overview(self, overview: Overview) -> None:
        await kept.keep_overview(self._database, overview)

    async def plan_days(self, plan_id: str | None, days: Days) -> dict[int, Sums]:
        return await kept.read_days(self._database, plan_id, days)

    async def keep_days(self, plan_id: str | None, days: Sequence[int], sums: Mapping[int, Sums]) -> None:
        await kept.keep_days(self._database, plan_id, days, sums, self._retention_days)

    async def lease(self, holder: str, seconds: int) -> bool:
        return await kept.lease(self._database, holder, seconds)

    async def release(self, holder: str) -> None:
        await kept.release(self._database, holder)

    # --- changes ---

    async def set_remaining(
        self, plan_id: str, holder: Holder, quota: HeldQuota, remaining: int, *, who: str, what: str
    ) -> Written[Adjusted]:
        """Set the remaining units of the current period. Repeating the call is safe. Raises StoreUnavailable."""
        return await self._adjust(plan_id, holder, quota, (remaining, 0, ""), [], who, what)

    async def grant(
        self, plan_id: str, holder: Holder, quota: HeldQuota, units: int, *, name: str, who: str, what: str
    ) -> Written[Adjusted]:
        """Add units to those that remain in the current period; once, however often the name is sent.

        Raises StoreRefusal if the name is another grant's, and StoreUnavailable.
        """
        grant = " ".join((*quota.name, str(units)))
        return await self._adjust(
            plan_id, holder, quota, (-1, units, grant), [self._database.key("grant", name)], who, what
        )

    async def _adjust(
        self,
        plan_id: str,
        holder: Holder,
        quota: HeldQuota,
        change: tuple[int, int, str],
        names: list[str],
        who: str,
        what: str,
    ) -> Written[Adjusted]:
        """Run `remain.lua`; `change` is remaining, units and what of its argument."""
        database = self._database
        body = msgspec.msgpack.encode(((), (), ((plan_id, holder.name),)))
        state = database.key(*quota.name)
        history = database.key("history", plan_id, holder.id) if quota.place == "ledger" else state
        keys = [*map(database.store_key, ("head", "changes", "audit")), state, history, *names]
        status, now = "", self._now()
        for _ in range(ATTEMPTS):
            commit = (self._retention_days, random_hex(), random_hex(), who, what)
            blob = (database.pinned(), quota.place, quota_rule(quota.at(now)), *change, *commit)
            waited = await database.run_and_wait(REMAIN, keys, msgspec.msgpack.encode(blob), body)
            status, now, used, requests, units, version = _REMAIN.decode(waited.reply)
            match status:
                case "done" | "repeated":
                    adjusted = Adjusted(now, used, requests, units, status == "repeated")
                    return Written(adjusted, version, waited.at_risk)
                case "other grant":
                    raise StoreRefusal("Another grant has this name")
                case "too much":
                    raise StoreRefusal("More was granted than can be counted exactly")
                case "bad state":
                    log.error("bad state in Redis; the value is left alone", keys=[state, history])
                    break
        raise StoreUnavailable(f"what remains was not changed: {status}")

    async def aclose(self) -> None:
        await self._database.aclose()

    def _keys(self, plan_id: str, key_id: str) -> list[str]:
        return [self._database.key(kind, plan_id, key_id) for kind in KINDS]

    def _now(self) -> int:
        """Return the time (µs) of our own clock, a first guess until Redis reports its time."""
        return self._database.pinned() or time.time_ns() // 1000


def _last_day(record: CallerUse) -> int | None:
    return max((day for day, row in record.rows.items() if row.requests), default=None)

"""The deliveries of alerts in Redis: turned from alerts, leased to a process, retried, and listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from authz.core.resources import DEFAULT_ACCOUNT
from authz.redisio.client import Script
from authz.store.alerts import alert_of
from authz.store.database import Database
from authz.store.ports import (
    Claimed,
    Delivery,
    DeliveryPage,
    DeliveryState,
    InvalidPosition,
    ListedDelivery,
    OutboxReading,
)

LOOK: Final = Script.load("alerts.lua")
ADD: Final = Script.load("deliveries.lua")
CLAIM: Final = Script.load("claim.lua")
SETTLE: Final = Script.load("settle.lua")
FORGET: Final = Script.load("forget.lua")

LEASE_SECONDS: Final = 60.0  # longer than an attempt may take
MAX_PENDING: Final = 20_000  # deliveries of a target
MAX_FAILED: Final = 1_000  # of a target that are kept
MAX_DELIVERED: Final = 100  # of a target that are kept
MAX_DUE_TARGETS: Final = 1_000  # in one reading
ENDED_AT_ONCE: Final = 500  # deliveries in one script
TOO_MANY: Final = f"not sent: {MAX_PENDING:,} deliveries of this target were pending"

CURSOR: Final = ("alerts-cursor",)
SHARED: Final = ("targets", "pending", "failed", "delivered", "failing")
OWN: Final = ("due", "failed", "delivered", "records")
POSITION: Final = re.compile(r"[0-9]{1,16}", re.ASCII)

_READING: Final = msgspec.msgpack.Decoder(
    tuple[int, str, int, int, list[tuple[str, list[str]]], list[str], int, int, int]
)
_CLAIMED: Final = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[str, str]]])
_RECORD: Final = msgspec.json.Decoder(Delivery)


class RedisOutbox:
    """The outbox of one account. Fulfils `ports.Outbox`.

    `budget` is the seconds that each script may take, `clock` µs of Unix time, for tests. `replicas` is how many
    replicas must confirm that alerts were turned into deliveries; None takes what the URL suggests.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 1.0,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._database = Database(url, account=account, budget=budget, clock=clock, replicas=replicas)
        self._lease = round(lease * 1_000_000)

    # --- from alerts to deliveries ---

    async def look(self, count: int) -> OutboxReading:
        database = self._database
        keys = [database.key("alerts"), database.key(*CURSOR), *map(self._shared, ("targets", "pending", "failing"))]
        blob = msgspec.msgpack.encode((database.pinned(), count, MAX_DUE_TARGETS))
        reply = _READING.decode(await database.run(LOOK, keys, blob))
        now, cursor, position, missed, entries, due, pending, oldest, failing = reply
        alerts = []
        for entry_id, flat in entries:
            words = [word.encode() for word in flat]
            alerts.append(alert_of(database, entry_id, dict(zip(words[::2], words[1::2], strict=True))))
        return OutboxReading(now, cursor, position, missed, alerts, due, pending, oldest or None, failing)

    async def add(self, reading: OutboxReading, deliveries: Sequence[Delivery]) -> bool:
        database = self._database
        numbers = {target_id: n for n, target_id in enumerate(dict.fromkeys(one.target_id for one in deliveries), 1)}
        room = {}
        for target_id in numbers:
            room[target_id] = MAX_PENDING - int(await database.ask("ZCARD", self._own("due", target_id)))
        rows = []
        for one in deliveries:
            room[one.target_id] -= 1
            is_too_many = room[one.target_id] < 0
            record = _encoded(replace(one, last_error=TOO_MANY) if is_too_many else one)
            rows.append((numbers[one.target_id], one.target_id, one.id, record, "failed" if is_too_many else "pending"))
        cursor = reading.alerts[-1].id if reading.alerts else reading.cursor
        blob = (database.pinned(), reading.cursor, cursor, reading.position, MAX_FAILED, rows)
        keys = [
            database.key(*CURSOR),
            *map(self._shared, ("targets", "pending", "failed")),
            *(self._own(name, target_id) for target_id in numbers for name in ("due", "failed", "records")),
        ]
        waited = await database.run_and_wait(ADD, keys, msgspec.msgpack.encode(blob))
        return bool(msgspec.msgpack.decode(waited.reply) == ["done"])

    # --- attempts ---

    async def claim(self, target_id: str) -> Claimed | None:
        return next(iter(await self._claim(target_id, 1)), None)

    async def _claim(self, target_id: str, count: int, *, all_: bool = False) -> list[Claimed]:
        database = self._database
        own = (self._own("due", target_id), self._own("records", target_id))
        keys = [self._shared("targets"), *own, self._shared("pending")]
        blob = (database.pinned(), target_id, count, self._lease, int(all_))
        at, until, rows = _CLAIMED.decode(await database.run(CLAIM, keys, msgspec.msgpack.encode(blob)))
        return [Claimed(_decoded(raw), at, until) for _, raw in rows]

    async def delivered(self, claimed: Claimed, delivery: Delivery) -> None:
        await self._settle(delivery.target_id, [_move(claimed, delivery, "delivered")], "works")

    async def retry(self, claimed: Claimed, delivery: Delivery, pause: float) -> None:
        await self._settle(delivery.target_id, [_move(claimed, delivery, "pending", pause)], "fails")

    async def failed(self, claimed: Claimed, delivery: Delivery) -> None:
        await self._settle(delivery.target_id, [_move(claimed, delivery, "failed")], "fails")

    async def end(self, target_id: str, reason: str) -> int:
        """Let all pending deliveries of the target fail. Returns how many."""
        ended = 0
        while claims := await self._claim(target_id, ENDED_AT_ONCE, all_=True):
            moves = [_move(one, replace(one.delivery, last_error=reason), "failed") for one in claims]
            ended += sum(await self._settle(target_id, moves, ""))
        return ended

    async def forget(self, target_id: str) -> None:
        await self._database.run(FORGET, self._keys(target_id), target_id.encode())

    async def failed_one(self, delivery_id: str) -> Delivery | None:
        found = await self._failed(delivery_id)
        return None if found is None else found[0]

    async def resend(self, delivery_id: str) -> bool:
        found = await self._failed(delivery_id)
        if found is None:
            return False
        delivery, score = found
        renewed = replace(delivery, since=(await self.look(0)).now, attempts=0)
        move = (delivery_id, "failed", score, "pending", 0, _encoded(renewed))
        return bool(sum(await self._settle(delivery.target_id, [move], "")))

    async def _failed(self, delivery_id: str) -> tuple[Delivery, int] | None:
        """A failed delivery, and its score in the list."""
        target_id = target_of(delivery_id)
        raw = await self._database.ask("HGET", self._own("records", target_id), delivery_id)
        score = await self._database.ask("ZSCORE", self._own("failed", target_id), delivery_id)
        return None if raw is None or score is None else (_decoded(raw), int(float(score)))

    async def _settle(self, target_id: str, moves: Sequence[Any], health: str) -> list[int]:
        blob = (self._database.pinned(), target_id, MAX_FAILED, MAX_DELIVERED, health, moves)
        reply = await self._database.run(SETTLE, self._keys(target_id), msgspec.msgpack.encode(blob))
        return msgspec.msgpack.decode(reply, type=list[int])

    # --- lists ---

    async def page(
        self, state: DeliveryState, limit: int, position: str | None = None, target_id: str | None = None
    ) -> DeliveryPage:
        if position is not None and not POSITION.fullmatch(position):
            raise InvalidPosition("Invalid position parameter")
        own = "due" if state == "pending" else state
        key = self._shared(state) if target_id is None else self._own(own, target_id)
        command, first, last = "ZREVRANGEBYSCORE", "+inf", "-inf"
        if state == "pending":
            command, first, last = "ZRANGEBYSCORE", "-inf", "+inf"
        start = first if position is None else f"({position}"
        found = await self._database.ask(command, key, start, last, "WITHSCORES", "LIMIT", 0, limit + 1)
        rows = [(member.decode(), int(float(score))) for member, score in zip(found[::2], found[1::2], strict=True)]
        here = rows[:limit]
        listed = await self._listed(state, here)
        return DeliveryPage(listed, str(here[-1][1]) if len(rows) > limit else None)

    async def _listed(self, state: DeliveryState, rows: Sequence[tuple[str, int]]) -> list[ListedDelivery]:
        """The deliveries of these rows, without those that are gone or in another state meanwhile."""
        own = "due" if state == "pending" else state
        found: dict[str, ListedDelivery] = {}
        by_target: dict[str, list[str]] = {}
        for delivery_id, _ in rows:
            by_target.setdefault(target_of(delivery_id), []).append(delivery_id)
        for target_id, ids in by_target.items():
            raws = await self._database.ask("HMGET", self._own("records", target_id), *ids)
            scores = await self._database.ask("ZMSCORE", self._own(own, target_id), *ids)
            for delivery_id, raw, score in zip(ids, raws, scores, strict=True):
                if raw is not None and score is not None:
                    found[delivery_id] = ListedDelivery(_decoded(raw), state, int(float(score)))
        return [found[delivery_id] for delivery_id, _ in rows if delivery_id in found]

    async def failing_since(self, target_ids: Sequence[str]) -> dict[str, int]:
        if not target_ids:
            return {}
        found = await self._database.ask("HMGET", self._shared("failing"), *target_ids)
        return {target_id: int(at) for target_id, at in zip(target_ids, found, strict=True) if at is not None}

    async def aclose(self) -> None:
        await self._database.aclose()

    # --- names ---

    def _shared(self, name: str) -> str:
        return self._database.key("webhook", name)

    def _own(self, name: str, target_id: str) -> str:
        return self._database.key("webhook", name, target_id)

    def _keys(self, target_id: str) -> list[str]:
        return [*map(self._shared, SHARED), *(self._own(name, target_id) for name in OWN)]


def delivery_id(alert_id: str, target_id: str) -> str:
    """The id of an alert's delivery to a target: the same whenever and wherever it is made."""
    return f"msg_{alert_id}_{target_id}"


def target_of(delivery_id: str) -> str:
    """The id of the target that a delivery's id names."""
    return delivery_id.rpartition("_")[2]


def _move(
    claimed: Claimed, delivery: Delivery, to: DeliveryState, pause: float = 0
) -> tuple[str, str, int, str, int, str]:
    return (delivery.id, "pending", claimed.until, to, round(pause * 1_000_000), _encoded(delivery))


def _encoded(delivery: Delivery) -> str:
    """A record as text: Lua's cmsgpack cannot read the bytes of MessagePack."""
    return msgspec.json.encode(delivery).decode()


def _decoded(raw: bytes | str) -> Delivery:
    return _RECORD.decode(raw)

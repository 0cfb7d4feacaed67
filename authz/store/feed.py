"""What a sidecar reads of the store: its head, keys, snapshots and changes. Sidecars announce here what they serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from authz.background import in_background
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.stored import StoredCustomer, StoredKey, id_of
from authz.redisio.client import Script, connect, hang_up
from authz.store.database import Database
from authz.store.items import decode
from authz.store.ports import (
    CallerName,
    ConnectionLost,
    Event,
    Head,
    KeyLookup,
    Name,
    Presence,
    StoreSnapshot,
    StoreUnavailable,
)

FIND: Final = Script.load("find.lua")
SNAPSHOT: Final = Script.load("snapshot.lua")
PRESENCE: Final = Script.load("presence.lua")

EVENTS: Final = 1000  # of the change stream in one reply
GRACE_SECONDS: Final = 0.2  # a blocking read may be answered this much after its time
PRESENCE_MS: Final = 3000  # after which a worker counts as gone
KEY_WORD: Final = "key/"  # the beginning of the unique words of key values
SNAPSHOT_KINDS: Final = ("customer", "stage", "deployment", "usageplan", "domain", "account")

_Body = tuple[tuple[Name, ...], tuple[str, ...], tuple[CallerName, ...]]  # of an event


class Feed:
    """Follows the store of one account. `budget` is in seconds for each command, `clock` in µs of Unix time, for tests.

    `replicas` is how many replicas must confirm a write; None takes what the URL suggests.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 1.0,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
    ) -> None:
        self.database = Database(url, account=account, budget=budget, clock=clock, replicas=replicas)
        self._stream = connect(url, budget)

    @property
    def address(self) -> str:
        return self.database.address

    async def head(self) -> Head:
        return await read_head(self.database)

    async def find(self, index: str) -> KeyLookup:
        """Look up a key and its customer by the digest (hex) of the value, or of the value before the last rotation.

        A caller waits for the answer, and nothing is written. So a lost connection is replaced once.
        """
        with suppress(ConnectionLost):
            return await _find(self.database, KEY_WORD + index)
        return await _find(self.database, KEY_WORD + index)

    async def snapshot(self, customers: Sequence[str] = ()) -> StoreSnapshot:
        """The items that a catalog is compiled from; of the customers only those of these ids.

        Read on a new connection: on an idle one that a network has dropped it would wait for its whole budget.
        """
        await self.database.connect_anew()
        database = self.database
        names = [database.store_key("head"), *map(database.items_key, SNAPSHOT_KINDS)]
        blob = msgspec.msgpack.encode(customers)
        return await in_background(_snapshot, SNAPSHOT_KINDS, await database.run(SNAPSHOT, names, blob))

    async def changes(self, after: int, block_ms: int) -> list[Event]:
        """The commits after a version, in order. Waits up to `block_ms` for the first, on its own connection."""
        wait = ("BLOCK", block_ms) if block_ms else ()
        key = self.database.store_key("changes")
        run: Callable[..., Awaitable[Any]] = self._stream.execute_command
        try:
            async with self.database.within(block_ms / 1000 + GRACE_SECONDS):
                streams = await run("XREAD", "COUNT", EVENTS, *wait, "STREAMS", key, f"{after}-0")
        except StoreUnavailable:
            await hang_up(self._stream)
            raise
        events = []
        for _, entries in streams or ():
            for entry_id, fields in entries:
                changes, touched, usage = msgspec.msgpack.decode(fields[b"body"], type=_Body)
                previous, tag = fields[b"previous"].decode(), fields[b"tag"].decode()
                events.append(Event(version_of(entry_id), previous, tag, changes, touched, usage))
        return events

    async def hang_up(self) -> None:
        """Close the connections, so that the next command connects anew: the server's name may have moved."""
        await hang_up(self._stream)
        await self.database.hang_up()

    async def drop_idle(self) -> None:
        """Close the connections that are idle: they may be as dead as one that has not answered."""
        await hang_up(self._stream, in_use=False)
        await self.database.hang_up()

    async def renew_presence(self, worker: str, served: Head, release: str = "") -> Head:
        """Announce for 3 s that `worker`, of this release, serves this state. Returns the state of the store."""
        return (await self._present(worker, served, release))[0]

    async def presences(self) -> list[Presence]:
        """The workers whose announcements have not expired."""
        return (await self._present("", Head()))[1]

    async def drop_presence(self, worker: str) -> None:
        await self.database.ask("HDEL", self._presences_key(), worker)

    async def aclose(self) -> None:
        await self.database.aclose()
        await self._stream.aclose()

    def _presences_key(self) -> str:
        return self.database.store_key("leases")  # their name in the layout v1

    async def _present(self, worker: str, served: Head, release: str = "") -> tuple[Head, list[Presence]]:
        database = self.database
        blob = msgspec.msgpack.encode((worker, served.epoch, served.version, PRESENCE_MS, database.pinned(), release))
        reply = await database.run(PRESENCE, [self._presences_key(), database.store_key("head")], blob)
        epoch, version, tag, rows = msgspec.msgpack.decode(reply)
        return Head(epoch, version, tag), [Presence(*row) for row in sorted(rows)]


async def read_head(database: Database) -> Head:
    return (await _find(database, "")).head


def finding(database: Database, word: str) -> tuple[list[str], bytes]:
    """The keys and the argument of `find.lua`; without a word it reads the head only."""
    keys = [*map(database.store_key, ("head", "unique")), *map(database.items_key, ("apikey", "customer"))]
    return keys, msgspec.msgpack.encode((word, len("apikey/")))


def version_of(entry_id: bytes) -> int:
    """The version in the id of a stream's entry."""
    return int(entry_id.partition(b"-")[0])


async def _find(database: Database, word: str) -> KeyLookup:
    reply = await database.run(FIND, *finding(database, word))
    epoch, version, tag, raw, raw_customer = msgspec.msgpack.decode(reply, type=tuple[str, int, str, str, str])
    key = cast("StoredKey", decode("apikey", raw)) if raw else None
    customer = cast("StoredCustomer", decode("customer", raw_customer)) if raw_customer else None
    return KeyLookup(Head(epoch, version, tag), key, customer)


def _snapshot(kinds: Iterable[str], reply: bytes) -> StoreSnapshot:
    epoch, version, tag, lists = msgspec.msgpack.decode(reply)
    pairs = [(kind, decode(kind, raw)) for kind, raws in zip(kinds, lists, strict=True) for raw in raws]
    # Sorted, because the order of a Redis hash changes while it grows, and differs between two servers.
    items = {(kind, id_of(item)): item for kind, item in pairs}
    return StoreSnapshot(Head(epoch, version, tag), dict(sorted(items.items(), key=lambda one: one[0])))

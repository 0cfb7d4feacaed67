"""Backups: every Redis key of the account in Redis's own form, taken and restored."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import Final

import msgspec
from redis.exceptions import WatchError

from authz.core.stored import KINDS
from authz.ids import random_hex
from authz.redisio.client import Script, evaluate, starting_with
from authz.store.commit import FIXED_KEYS
from authz.store.database import CHUNK, SLOW_SECONDS, Database, chunks
from authz.store.feed import FIND, finding, read_head
from authz.store.ports import BackupEntry, Contention, StoreUnavailable
from authz.store.store import ATTEMPTS, pause

DUMP: Final = Script.load("dump.lua")

READINGS: Final = 5  # of a store that others write to meanwhile
PASSING: Final = (
    "reply",
    "flush",
    "refused-number",
    "restoring",
    "page",
    "figures",
    "figures-lease",
)  # kinds of Redis keys that no backup holds
ASIDE: Final = "restoring"  # the kind of the keys of a restore before they replace the others


class Backups:
    """Takes and restores backups of one account. Fulfils `ports.Archive`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def dump(self) -> AsyncIterator[BackupEntry]:
        """The store as of one moment, and then the counters. Raises Contention if others write all the time."""
        for entry in await self._dump_store():  # not kept in memory while the counters are read
            yield entry
        store = self._database.name_of(self._database.store_key(""))
        async for names in scan(self._database, ""):
            counters = [name for name in names if not name.startswith(store) and name.split(":")[0] not in PASSING]
            for entry in await self._dumped(counters, "") or ():
                yield entry

    async def load(self, backup: AsyncIterable[BackupEntry]) -> int:
        """Replace the account's keys with a backup, under a new epoch. Returns the number of Redis keys it held.

        Raises Contention if others write all the time; nothing has changed then.
        """
        aside: dict[str, str] = {}
        await self._clear_aside()
        try:
            async for entry in backup:
                aside[entry.name] = self._database.key(ASIDE, random_hex())
                await self._database.ask_slowly("RESTORE", aside[entry.name], entry.lasts or 0, entry.value)
            epoch = await self._swap(aside)
            if self._database.replicas:  # enough of them must have all that this master has
                waited = await self._database.run_and_wait(FIND, *finding(self._database, ""))
                if msgspec.msgpack.decode(waited.reply)[0] != epoch:
                    self._database.at_risk = "another server has become the master meanwhile"
        except BaseException:
            with suppress(StoreUnavailable):
                await self._clear_aside()
            raise
        return len(aside)

    async def _dump_store(self) -> list[BackupEntry]:
        for _ in range(READINGS):
            version = str((await read_head(self._database)).version)
            entries = await self._dumped(await self._store_names(), version)
            if entries is not None:
                return entries
        raise Contention("the store is written to all the time")

    async def _dumped(self, names: Sequence[str], version: str) -> list[BackupEntry] | None:
        """The entries of these keys, without keys that are gone; None if the store has another version."""
        keys = [self._database.prefix + name for name in names]
        async with self._database.within(SLOW_SECONDS):
            reply = await evaluate(
                self._database.redis, DUMP, [self._database.store_key("head"), *keys], version.encode()
            )
        if reply is None:
            return None
        return [
            BackupEntry(name, value, None if lasts < 0 else lasts)
            for name, (value, lasts) in zip(names, reply, strict=True)
            if value is not None
        ]

    async def _store_names(self) -> list[str]:
        """The names of the store's own keys."""
        database = self._database
        keys = [*map(database.store_key, FIXED_KEYS), *map(database.items_key, KINDS)]
        keys += map(database.list_key, await list_names(database))
        return [database.name_of(key) for key in keys]

    async def _clear_aside(self) -> None:
        """Delete what an unfinished restore has left."""
        async for names in scan(self._database, f"{ASIDE}:"):
            if names:
                await self._database.ask_slowly("UNLINK", *(self._database.prefix + name for name in names))

    async def _swap(self, aside: Mapping[str, str]) -> str:
        """Replace all keys of the account with those put aside, in one step and under a new epoch. Returns the epoch.

        The counters are looked up first, which takes time, and then only the store's own keys. So another writer can
        get in between for a short moment only. If one does, the step is tried again.
        """
        epoch = random_hex()
        counters = {
            name async for names in scan(self._database, "") for name in names if not name.startswith(f"{ASIDE}:")
        }
        for attempt in range(ATTEMPTS):
            if await self._swapped(aside, counters, epoch):
                return epoch
            await pause(attempt)
        raise Contention(
            "the store is written to all the time, and nothing was restored: "
            "stop what writes (the control plane, authz import) and restore again"
        )

    async def _swapped(self, aside: Mapping[str, str], names: Set[str], epoch: str) -> bool:
        """False if another writer added a list meanwhile, which would stay behind. Nothing has changed then."""
        database = self._database
        async with database.within(SLOW_SECONDS), database.redis.pipeline(transaction=True) as steps:
            # A write that neither adds nor ends a list needs no watch: it is replaced whole.
            await steps.watch(database.store_key("lists"))
            old = {*names, *await self._store_names()}
            steps.multi()  # type: ignore[no-untyped-call]
            for some in chunks(sorted(old)):
                steps.unlink(*(database.prefix + name for name in some))
            for name, key in aside.items():
                steps.rename(key, database.prefix + name)
            steps.hset(database.store_key("head"), mapping={"epoch": epoch, "tag": random_hex()})
            try:
                await steps.execute()
            except WatchError:
                return False
        return True


async def list_names(database: Database) -> list[str]:
    """The names of all lists of the store."""
    return [name.decode() for name in await database.ask_slowly("SMEMBERS", database.store_key("lists"))]


async def scan(database: Database, prefix: str) -> AsyncIterator[list[str]]:
    """Yield the names of the account's Redis keys with this prefix, in chunks. A name may come twice."""
    pattern, cursor = starting_with(database.prefix + prefix), 0
    while True:
        cursor, keys = await database.ask_slowly("SCAN", cursor, "MATCH", pattern, "COUNT", CHUNK)
        yield [database.name_of(key.decode()) for key in keys]
        if int(cursor) == 0:
            return

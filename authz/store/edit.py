"""A draft of an edit: what it reads becomes conditions of its commit, and its writes wait for the commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.core.stored import Item, id_of, kind_of
from authz.store.database import Database
from authz.store.fixed import FixedItems
from authz.store.items import decode_if_any
from authz.store.ports import Name, ReadOnlyItem


class Edit:
    """Reads items and lists of the store, and collects what to write. Fulfils `ports.Draft`."""

    def __init__(self, database: Database, fixed: FixedItems) -> None:
        self.fixed: Final = fixed
        self.read: dict[Name, bytes | None] = {}
        self.read_lists: dict[str, list[str]] = {}
        self.new: dict[Name, Item | None] = {}
        self.taken: dict[Name, Exception] = {}
        self.drops: dict[str, None] = {}
        self.apart: list[tuple[str, str, Exception]] = []
        self.is_recorded = False
        self._database = database

    async def get(self, kind: str, item_id: str) -> Item | None:
        return (await self.many(kind, (item_id,)))[0]

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        """The items as this edit has them, None for each that does not exist."""
        await self.remember(kind, [item_id for item_id in ids if (kind, item_id) not in self.fixed.items])
        return [self._item(kind, item_id) for item_id in ids]

    async def members(self, list_: str) -> list[str]:
        """The ids in a list as they were before this edit."""
        if list_ not in self.read_lists:
            self.read_lists[list_] = await raw_members(self._database, list_)
        return [*self.read_lists[list_], *self.fixed.after(list_, None)]

    def put(self, item: Item, *, taken: Exception | None = None) -> None:
        """Raises ReadOnlyItem. The commit raises `taken` (default: NotUnique) if a unique word has another owner."""
        name = (kind_of(item), id_of(item))
        self._check_writable(*name)
        self.new[name] = item
        if taken:
            self.taken[name] = taken

    def delete(self, kind: str, item_id: str) -> None:
        """Raises ReadOnlyItem."""
        self._check_writable(kind, item_id)
        self.new[kind, item_id] = None

    def drop(self, list_: str) -> None:
        """Delete a list, although its members still name it."""
        self.drops[list_] = None

    def disjoint(self, list_a: str, list_b: str, otherwise: Exception) -> None:
        """Commit only if these lists, as they are before it, have no member in common."""
        if set(self.fixed.after(list_a, None)) & set(self.fixed.after(list_b, None)):
            raise otherwise
        self.apart.append((list_a, list_b, otherwise))

    def record(self) -> None:
        """Commit even without a change, so that the audit has a line."""
        self.is_recorded = True

    async def remember(self, kind: str, ids: Sequence[str]) -> None:
        """Read the items that were not read before, as conditions of the commit."""
        missing = [item_id for item_id in ids if (kind, item_id) not in self.read]
        for item_id, raw in zip(missing, await raw_items(self._database, kind, missing), strict=True):
            self.read[kind, item_id] = raw

    def _item(self, kind: str, item_id: str) -> Item | None:
        name = (kind, item_id)
        if name in self.fixed.items:
            return self.fixed.items[name]
        return self.new[name] if name in self.new else decode_if_any(kind, self.read[name])

    def _check_writable(self, kind: str, item_id: str) -> None:
        if (kind, item_id) in self.fixed.items:
            raise ReadOnlyItem(kind, item_id)


async def raw_items(database: Database, kind: str, ids: Sequence[str]) -> list[bytes | None]:
    """The store's items as Redis holds them, None for each that does not exist."""
    if not ids:
        return []
    raws: list[bytes | None] = await database.ask("HMGET", database.items_key(kind), *ids)
    return raws


async def raw_members(database: Database, list_: str) -> list[str]:
    """The store's members of a list, the newest first."""
    return [member.decode() for member in await database.ask("ZREVRANGE", database.list_key(list_), 0, -1)]

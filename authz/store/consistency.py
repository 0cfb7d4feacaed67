"""Checks the store: derives every index from the items again, and compares it with what Redis holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from authz.core.stored import KINDS, Items, StoredPlan, indexes, plan_keys
from authz.store.backup import READINGS, list_names, scan
from authz.store.database import Database
from authz.store.edit import raw_members
from authz.store.items import decode
from authz.store.ports import Contention
from authz.store.store import Store


async def differences(store: Store) -> list[str]:
    """Name every index that does not follow from the items. Raises Contention if others write all the time."""
    for _ in range(READINGS):
        before = await store.head()
        items: Items = {}
        for kind in KINDS:
            rows = await store.database.ask_slowly("HGETALL", store.database.items_key(kind))
            items.update({(kind, item_id.decode()): decode(kind, raw) for item_id, raw in rows.items()})
        plans = [item for item in (*items.values(), *store.fixed.items.values()) if isinstance(item, StoredPlan)]
        expected = _Indexes.of(items, frozenset(plan_keys(plan.ref) for plan in plans))
        found = expected.differences(await _stored_indexes(store.database))
        if await store.head() == before:
            return found
    raise Contention("the store is written to all the time")


@dataclass(slots=True)
class _Indexes:
    """All indexes of a store: the members of each list, the sorted words, the owner of each unique word."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    unique: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Items, alive: frozenset[str]) -> _Indexes:
        """The indexes of these items. Keys may still name deleted plans, whose lists were deleted with them."""
        derived = cls()
        for (kind, item_id), item in sorted(items.items(), key=lambda pair: pair[0]):
            index = indexes(item)
            for name in index.lists:
                if name in alive or not name.startswith(plan_keys("")):
                    derived.lists.setdefault(name, []).append(item_id)
            derived.words.update(dict.fromkeys(index.sorted, "there"))
            derived.unique.update(dict.fromkeys(index.unique, f"{kind}/{item_id}"))
        return derived

    def differences(self, stored: _Indexes) -> list[str]:
        parts = (
            ("list", self.lists, stored.lists),
            ("word", self.words, stored.words),
            ("unique word", self.unique, stored.unique),
        )
        return [
            f"{what} {word!r}: {have.get(word, 'nothing')} instead of {want.get(word, 'nothing')}"
            for what, want, have in parts
            for word in sorted(want.keys() | have.keys())
            if want.get(word) != have.get(word)
        ]


async def _stored_indexes(database: Database) -> _Indexes:
    """The indexes in Redis. A list that is not registered is named by its Redis key."""
    stored = _Indexes()
    keys = {name async for names in scan(database, database.name_of(database.list_key(""))) for name in names}
    for name in await list_names(database):
        keys.discard(database.name_of(database.list_key(name)))
        stored.lists[name] = sorted(await raw_members(database, name))
    stored.lists.update({key: ["a list that is not registered"] for key in keys})
    words = await database.ask_slowly("ZRANGE", database.store_key("sorted"), 0, -1)
    stored.words = {word.decode(): "there" for word in words}
    unique = await database.ask_slowly("HGETALL", database.store_key("unique"))
    stored.unique = {word.decode(): owner.decode() for word, owner in unique.items()}
    return stored

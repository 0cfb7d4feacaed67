"""The store as a dictionary: its rules without Redis and without races, for tests in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from authz.core.stored import Indexes, Item, Items, StoredCustomer, StoredKey, id_of, indexes, kind_of
from authz.store.ports import (
    AuditLine,
    AuditPage,
    AuditQuery,
    Draft,
    Head,
    InvalidPosition,
    KeyLookup,
    NotUnique,
    Page,
    Presence,
    ReadOnlyItem,
    StoreSnapshot,
    Written,
)

T = TypeVar("T")


class DictStore:
    """A `Writer` of these items. `lines` is its audit, `live` its sidecars, `fixed` the configuration file's items."""

    address = "a dictionary"

    def __init__(self, *items: Item, fixed: Items | None = None) -> None:
        self.items: Items = {(kind_of(item), id_of(item)): item for item in items}
        self.fixed: Items = fixed or {}
        self.version = 0
        self.lines: list[str] = []
        self.live: list[Presence] = []

    async def get(self, kind: str, item_id: str) -> Item | None:
        return self.fixed.get((kind, item_id)) or self.items.get((kind, item_id))

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        return [await self.get(kind, item_id) for item_id in ids]

    async def members(self, list_: str) -> list[str]:
        """In the order of the dictionary, which is good enough for rules."""
        return [id_of(item) for item in self.all() if list_ in indexes(item).lists]

    async def audit(self, query: AuditQuery, limit: int, position: str | None = None) -> AuditPage:
        lines = [
            AuditLine(version, version * 1_000_000, *line.split(" ", 1))
            for version, line in reversed(list(enumerate(self.lines, 1)))
        ]
        page = self._page([line for line in lines if query.matches(line)], limit, position)
        return AuditPage(page.items, page.position)

    async def page(self, kind: str, list_: str, limit: int, position: str | None = None) -> Page[Any]:
        ids = await self.members(list_)
        return self._page([item for item in await self.many(kind, ids) if item], limit, position)

    async def search(
        self, prefix: str, limit: int, position: str | None = None, within: str | None = None
    ) -> Page[StoredKey]:
        words = sorted(
            (word, item)
            for item in self.all()
            if within is None or within in indexes(item).lists
            for word in indexes(item).sorted
            if word.startswith(prefix)
        )
        return self._page([item for _, item in words], limit, position)

    async def count(self, list_: str) -> int:
        return len(await self.members(list_))

    async def owner(self, unique: str) -> str | None:
        return next((_name(item) for item in self.all() if unique in indexes(item).unique), None)

    async def head(self) -> Head:
        return Head("epoch", self.version, str(self.version))

    async def find(self, index: str) -> KeyLookup:
        key = next((item for item in self.items.values() if f"key/{index}" in indexes(item).unique), None)
        if not isinstance(key, StoredKey):
            return KeyLookup(await self.head(), None)
        customer = self.items.get(("customer", key.key.customer_id or ""))
        return KeyLookup(await self.head(), key, customer if isinstance(customer, StoredCustomer) else None)

    async def snapshot(self, customers: Sequence[str] = ()) -> StoreSnapshot:
        kept = {name: item for name, item in self.items.items() if name[0] != "customer" or name[1] in customers}
        return StoreSnapshot(await self.head(), kept)

    async def presences(self) -> list[Presence]:
        return self.live

    def draft(self) -> DictDraft:
        return DictDraft(self)

    async def write(
        self, edit: Callable[[Draft], Awaitable[T]], *, who: str, what: str, note: Callable[[], str] = str
    ) -> Written[T]:
        draft = self.draft()
        result = await edit(draft)
        await draft.commit()
        self.version += 1
        self.lines.append(f"{who} {what} {note()}".rstrip())
        return Written(result, self.version)

    def all(self) -> Iterator[Item]:
        yield from self.items.values()
        yield from self.fixed.values()

    def _page(self, items: list[Any], limit: int, position: str | None) -> Page[Any]:
        if position is not None and not position.isdecimal():
            raise InvalidPosition("Invalid position parameter")
        start = int(position or 0)
        return Page(items[start : start + limit], str(start + limit) if len(items) > start + limit else None)


class DictDraft:
    """A `Draft`: its writes wait for `commit`, which checks every rule before it writes."""

    def __init__(self, store: DictStore) -> None:
        self._store = store
        self._new: dict[tuple[str, str], Item | None] = {}
        self._taken: dict[tuple[str, str], Exception] = {}
        self._apart: list[tuple[str, str, Exception]] = []

    async def get(self, kind: str, item_id: str) -> Item | None:
        return self._new[kind, item_id] if (kind, item_id) in self._new else await self._store.get(kind, item_id)

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        return [await self.get(kind, item_id) for item_id in ids]

    async def members(self, list_: str) -> list[str]:
        return await self._store.members(list_)

    def put(self, item: Item, *, taken: Exception | None = None) -> None:
        name = (kind_of(item), id_of(item))
        self._check_writable(*name)
        self._new[name] = item
        self._taken[name] = taken or NotUnique(f"{_name(item)} is not unique")

    def delete(self, kind: str, item_id: str) -> None:
        self._check_writable(kind, item_id)
        self._new[kind, item_id] = None

    def drop(self, list_: str) -> None:
        """Nothing to do: lists follow from the items."""

    def disjoint(self, list_a: str, list_b: str, otherwise: Exception) -> None:
        self._apart.append((list_a, list_b, otherwise))

    def record(self) -> None:
        """Nothing to do: here every write has a line."""

    async def commit(self) -> None:
        for one, other, otherwise in self._apart:
            if set(await self.members(one)) & set(await self.members(other)):
                raise otherwise
        after = {name: item for name, item in ({**self._store.items, **self._new}).items() if item is not None}
        for name, otherwise in self._taken.items():
            unique = indexes(item).unique if (item := self._new[name]) else Indexes().unique
            others = (other for at, other in {**self._store.fixed, **after}.items() if at != name)
            if any(unique & indexes(other).unique for other in others):
                raise otherwise
        self._store.items = after

    def _check_writable(self, kind: str, item_id: str) -> None:
        if (kind, item_id) in self._store.fixed:
            raise ReadOnlyItem(kind, item_id)


def _name(item: Item) -> str:
    return f"{kind_of(item)}/{id_of(item)}"

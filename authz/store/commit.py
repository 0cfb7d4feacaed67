"""Commits an edit: works out the arguments of `commit.lua`, and words its reply."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from authz.core.stored import Indexes, Item, indexes
from authz.ids import random_hex
from authz.redisio.client import Script
from authz.store.database import Database
from authz.store.edit import Edit
from authz.store.feed import KEY_WORD, read_head
from authz.store.items import decode_if_any, encode
from authz.store.ports import Name, NotUnique

COMMIT: Final = Script.load("commit.lua")

FIXED_KEYS: Final = ("head", "changes", "audit", "unique", "sorted", "lists")
NAMED: Final = 20  # items in an audit line


@dataclass(frozen=True, slots=True)
class Committed:
    """The version that has an edit, and why a failover may lose it; "" if enough replicas have it."""

    version: int
    at_risk: str


async def commit(database: Database, edit: Edit, who: str, what: str, note: str) -> Committed | None:
    """Write an edit, whole or not at all; None if something that it read has changed meanwhile.

    Raises the exceptions that the edit named for a word that is taken, and for lists that overlap.
    """
    for kind, item_id in edit.new:
        await edit.remember(kind, [item_id])
    arguments = _Arguments.of(database, edit)
    if not (arguments.changes or arguments.drops or edit.is_recorded):
        return Committed((await read_head(database)).version, "")
    # After the operation, the written items that it does not name itself: above all the new ones.
    words = set(what.split())
    names = [f"{kind}/{item_id}" for kind, item_id in arguments.changes if item_id not in words]
    more = (f"and {len(names) - NAMED} more",) if len(names) > NAMED else ()
    line = " ".join((what, *names[:NAMED], *more)) + (f" ({note})" if note else "")
    blob = (random_hex(), random_hex(), database.pinned(), who, line, arguments.conditions, arguments.writes)
    body = msgspec.msgpack.encode((arguments.changes, sorted(arguments.indexes), ()))  # it sets no one's counters
    keys = [*map(database.store_key, FIXED_KEYS), *arguments.numbers]
    waited = await database.run_and_wait(COMMIT, keys, msgspec.msgpack.encode(blob), body)
    status, number, version = msgspec.msgpack.decode(waited.reply, type=tuple[str, int, int])
    match status:
        case "taken":
            raise arguments.taken[number - 1]
        case "overlap":
            raise edit.apart[number - 1][2]
    return Committed(version, waited.at_risk) if status == "done" else None


@dataclass(frozen=True, slots=True)
class _ItemChange:
    """An item before and after an edit."""

    kind: str
    item_id: str
    before: bytes | None
    new: Item | None

    @property
    def owner(self) -> str:
        return f"{self.kind}/{self.item_id}"

    @property
    def after(self) -> bytes | None:
        return None if self.new is None else encode(self.new)

    def indexes(self) -> tuple[Indexes, Indexes]:
        """The item's indexes before and after the edit."""
        old = decode_if_any(self.kind, self.before)
        return indexes(old) if old else Indexes(), indexes(self.new) if self.new else Indexes()


@dataclass(slots=True)
class _Arguments:
    """The arguments of `commit.lua`; `numbers` are the positions of Redis keys that items and lists refer to."""

    database: Database
    numbers: dict[str, int] = field(default_factory=dict)
    conditions: tuple[list[Any], ...] = field(default_factory=lambda: ([], [], [], []))
    sets: list[tuple[int, str, str]] = field(default_factory=list)
    dels: list[tuple[int, str]] = field(default_factory=list)
    joins: list[tuple[int, str, str]] = field(default_factory=list)
    leaves: list[tuple[int, str, str]] = field(default_factory=list)
    drops: list[tuple[int, str]] = field(default_factory=list)
    words: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    claims: dict[str, str] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    taken: list[Exception] = field(default_factory=list)
    changes: list[Name] = field(default_factory=list)
    indexes: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, database: Database, edit: Edit) -> _Arguments:
        """Raises the exception that the edit named for a word that an item of the configuration file owns."""
        arguments = cls(database)
        changes = [_ItemChange(*name, edit.read[name], new) for name, new in edit.new.items()]
        arguments._write([change for change in changes if change.before != change.after], edit)
        arguments.drops.extend((arguments._list(list_), list_) for list_ in edit.drops)
        arguments._require(edit)
        return arguments

    @property
    def writes(self) -> tuple[Any, ...]:
        released = [word for word in self.releases if word not in self.claims]
        claims = list(self.claims.items())
        return (self.sets, self.dels, self.joins, self.leaves, self.drops, self.words, claims, released)

    def _write(self, changes: Sequence[_ItemChange], edit: Edit) -> None:
        """Write these items and their indexes."""
        diffs = [(change, *change.indexes()) for change in changes]
        for change, old, new in diffs:
            self._set(change)
            self.joins.extend((self._list(name), name, change.item_id) for name in sorted(new.lists - old.lists))
            self.leaves.extend((self._list(name), name, change.item_id) for name in sorted(old.lists - new.lists))
            self.words[0].extend(sorted(new.sorted - old.sorted))
            self.words[1].extend(sorted(old.sorted - new.sorted))
            self.releases.update(dict.fromkeys(old.unique - new.unique, change.owner))
            both = old.unique | new.unique
            self.indexes.update(word.removeprefix(KEY_WORD) for word in both if word.startswith(KEY_WORD))
        for change, old, new in diffs:
            otherwise = edit.taken.get((change.kind, change.item_id)) or NotUnique(f"{change.owner} is not unique")
            for word in sorted(new.unique - old.unique):
                if word in edit.fixed.unique or word in self.claims:
                    raise otherwise
                self.claims[word] = change.owner
                # Another owner's word may be claimed if the same edit releases it.
                owners = [change.owner, self.releases[word]] if word in self.releases else [change.owner]
                self.conditions[2].append((word, owners))
                self.taken.append(otherwise)

    def _require(self, edit: Edit) -> None:
        """Make everything that the edit has read a condition: it must still be as it was."""
        items, lists, _, pairs = self.conditions
        for (kind, item_id), raw in edit.read.items():
            items.append((self._items(kind), item_id, _sha1(raw) if raw else ""))
        for list_, ids in edit.read_lists.items():
            lists.append((self._list(list_), _sha1("\0".join(ids).encode())))
        pairs.extend((self._list(one), self._list(other)) for one, other, _ in edit.apart)

    def _set(self, change: _ItemChange) -> None:
        self.changes.append((change.kind, change.item_id))
        after, at = change.after, self._items(change.kind)
        if after is None:
            self.dels.append((at, change.item_id))
        else:
            self.sets.append((at, change.item_id, after.decode()))

    def _items(self, kind: str) -> int:
        return self._number(self.database.items_key(kind))

    def _list(self, list_: str) -> int:
        return self._number(self.database.list_key(list_))

    def _number(self, key: str) -> int:
        return self.numbers.setdefault(key, len(self.numbers) + len(FIXED_KEYS) + 1)


def _sha1(raw: bytes) -> str:
    """The digest that Redis's `sha1hex` makes: it tells values apart, and guards nothing."""
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()

"""The configuration file's items, with their indexes: readable beside the store's items, never written."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from authz.core.stored import Items, indexes


@dataclass(frozen=True, slots=True)
class FixedItems:
    """The file's items by kind and id, and their lists, sorted words and unique words."""

    items: Items
    lists: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    unique: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Items) -> FixedItems:
        fixed = cls(items)
        for (kind, item_id), item in sorted(items.items(), key=lambda pair: pair[0]):
            index = indexes(item)
            for name in index.lists:
                fixed.lists.setdefault(name, []).append(item_id)
            fixed.words.extend(index.sorted)
            fixed.unique.update(dict.fromkeys(index.unique, f"{kind}/{item_id}"))
        fixed.words.sort()
        return fixed

    def after(self, list_: str, item_id: str | None) -> Iterator[str]:
        """The members of a list after `item_id`, or all of them."""
        return (member for member in self.lists.get(list_, ()) if item_id is None or member > item_id)

    def words_after(self, prefix: str, word: str | None, within: str | None) -> Iterator[str]:
        """The words with this prefix after `word`, or all of them; only of ids in the list `within`, if given."""
        members = None if within is None else set(self.lists.get(within, ()))
        for each in self.words[bisect_left(self.words, word or prefix) :]:
            if not each.startswith(prefix):
                return
            if each != word and (members is None or id_in(each) in members):
                yield each


def id_in(word: str) -> str:
    """The id at the end of a sorted word."""
    return word.rpartition("\0")[2]

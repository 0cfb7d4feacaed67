"""Bounded memory whose hits cost one look-up in a dict."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache of at most `size` values (at least two). It evicts whole generations, so a hit costs one look-up.

    A value that is used moves to the young generation. When that is full, it becomes the old generation, and the former
    old one is evicted: one value with each new one, since freeing all at once would hold up the process. So a value in
    use survives the next turn. None is no value.
    """

    __slots__ = ("_half", "_leaving", "_old", "young")

    def __init__(self, size: int) -> None:
        self._half = max(1, size // 2)
        self.young: dict[K, V] = {}  # public: a hit here needs no call
        self._old: dict[K, V] = {}
        self._leaving: dict[K, V] = {}

    def __len__(self) -> int:
        """The number of values in memory."""
        return len(self.young) + len(self._old) + len(self._leaving)

    def get(self, key: K) -> V | None:
        """The value, which counts as used."""
        found = self.young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self.young) >= self._half and key not in self.young:
            self.young, self._old, self._leaving = {}, self.young, self._old
        if self._leaving:
            self._leaving.popitem()
        self.young[key] = value

    def drop(self, key: K) -> None:
        self.young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self.young, self._old, self._leaving = {}, {}, {}

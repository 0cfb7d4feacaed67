"""Bounded memory whose hits cost one look-up in a dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache of at most `size` values (at least two). It evicts whole generations, so a hit costs one look-up.

    A value that is used moves to the young generation. When that is full, it becomes the old generation, and the former
    old one is evicted: one value with each new one, since freeing all at once would hold up the process. So a value in
    use survives the next turn. None is no value. `evicted` is called with each evicted key and value; the key may have
    been put again since.
    """

    __slots__ = ("_evicted", "_half", "_leaving", "_old", "young")

    def __init__(self, size: int, evicted: Callable[[K, V], None] | None = None) -> None:
        self._half = max(1, size // 2)
        self._evicted = evicted
        self.young: dict[K, V] = {}  # public: a hit here needs no call
        self._old: dict[K, V] = {}
        self._leaving: dict[K, V] = {}

    def __len__(self) -> int:
        """The number of values in memory."""
        return len(self.young) + len(self._old) + len(self._leaving)

    def __contains__(self, key: K) -> bool:
        """True if `get` would find a value. This does not count as a use."""
        return key in self.young or key in self._old

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
            gone = self._leaving.popitem()
            if self._evicted:
                self._evicted(*gone)
        self.young[key] = value

    def drop(self, key: K) -> V | None:
        """Remove and return the value."""
        old = self._old.pop(key, None)
        return self.young.pop(key, old)

    def clear(self) -> None:
        self.young, self._old, self._leaving = {}, {}, {}

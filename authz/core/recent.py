"""Bounded memory whose hits cost one look-up in a dict."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` values (two at the least), of which those used last stay, by generation and not one by one.

    What is used is in the young generation. When that is full it becomes the old one, and what was the old one is
    given up: one value with each that comes, since to free them all at once would hold up the process. So whatever was
    used since the last turn outlives the next one. None is no value.
    """

    __slots__ = ("_half", "_leaving", "_old", "young")

    def __init__(self, size: int) -> None:
        self._half = max(1, size // 2)
        self.young: dict[K, V] = {}  # for who counts nanoseconds: a hit here needs no call
        self._old: dict[K, V] = {}
        self._leaving: dict[K, V] = {}

    def __len__(self) -> int:
        """How many values take up memory."""
        return len(self.young) + len(self._old) + len(self._leaving)

    def get(self, key: K) -> V | None:
        """The value, which thereby is among those used last."""
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

"""The keys of the store, looked up when they are first used and kept in bounded memory while nobody changes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from msgspec.structs import replace

from authz.check import KeysUnavailable
from authz.core.catalog import UNLOOKED, Caller, Unlooked, caller_of
from authz.core.recent import Recent
from authz.core.stored import StoredKey
from authz.store.store import Found, StoreUnavailable

FRESH_SECONDS: Final = 0.5  # since the change stream was read: so long memory is as good as the store
UNKNOWN_KEYS: Final = 10_000  # kept apart, so that guesses evict no real key
MOST_FLIGHTS: Final = 1_000  # look-ups under way at once; guesses beyond that are not worth the store's time
TRIES: Final = 3

Result = Literal["known", "unknown", "failed"]


@dataclass(slots=True)
class _Flight:
    """A look-up under way, shared by all who wait for it; `floor` is the last change of its key seen meanwhile."""

    answer: asyncio.Task[Caller | None]
    floor: int = 0


class StoreRing:
    """Keys by digest. `look` asks the store for an index, `index` makes one of a value's SHA-256.

    Memory is trusted for FRESH_SECONDS after each `heard`; beyond that the store is asked again, unless Redis is
    `away`: then the keys that we know go on, and of the others nobody can tell.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[Found]],
        index: Callable[[bytes], str] = bytes.hex,
        *,
        size: int = 100_000,
        away: Callable[[], bool] = lambda: False,
        observe: Callable[[Result, Exception | None], None] = lambda _result, _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._index = index
        self._away = away
        self._observe = observe
        self._clock = clock
        self._callers: Recent[str, Caller] = Recent(size)
        self._unknown: Recent[str, bool] = Recent(UNKNOWN_KEYS)
        self._flights: dict[str, _Flight] = {}
        self._generation = 0
        self._version = 0  # of the last change that was told
        self._heard = float("-inf")

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        index = self._index(digest)
        if self._away():
            return self._callers.get(index) or UNLOOKED
        if self._clock() - self._heard > FRESH_SECONDS:
            return UNLOOKED
        if caller := self._callers.young.get(index) or self._callers.get(index):
            return caller
        return None if self._unknown.get(index) else UNLOOKED

    async def find(self, digest: bytes) -> Caller | None:
        index = self._index(digest)
        if not self._away():
            with suppress(StoreUnavailable):
                return await self._shared(index)
        if caller := self._callers.get(index):
            return caller
        raise KeysUnavailable("the key is not in memory, and Redis is away")

    def heard(self, at: float) -> None:
        """All changes up to this moment of our clock have been told by `touched`."""
        self._heard = at

    def touched(self, version: int, indexes: Iterable[str]) -> None:
        """These keys, if any, were changed by this version of the store."""
        self._version = version
        for index in indexes:
            self._callers.drop(index)
            self._unknown.drop(index)
            if flight := self._flights.get(index):
                flight.floor = version

    def forget(self, version: int = 0) -> None:
        """Nothing in memory, nor under way, is known to be true any more; changes are told from this version on."""
        self._generation += 1
        self._version = version
        for flight in self._flights.values():
            flight.floor = 0  # of a history that may be another
        self._callers.clear()
        self._unknown.clear()

    async def _shared(self, index: str) -> Caller | None:
        """One look-up for all who wait; one of them that goes away takes nobody with it."""
        flight = self._flights.get(index)
        if flight is None:
            if len(self._flights) >= MOST_FLIGHTS:
                raise KeysUnavailable("too many keys are being looked up")
            flight = self._flights[index] = _Flight(asyncio.create_task(self._fly(index)))
            flight.answer.add_done_callback(lambda _: self._landed(index))
        return await asyncio.shield(flight.answer)

    def _landed(self, index: str) -> None:
        """The exception, if there is one, counts as seen even if all who waited have gone."""
        answer = self._flights.pop(index).answer
        if not answer.cancelled():
            answer.exception()

    async def _fly(self, index: str) -> Caller | None:
        """What the store says; kept, unless a change of the key is already known that the answer does not have.

        Nor is it kept if the answer lacks any change that was told before we asked: a replica that lags gave it, or a
        master that was, and no event would ever correct it.
        """
        for _ in range(TRIES):
            generation, told = self._generation, self._version
            found = await self._ask(index)
            caller = _caller(found.key, index) if found.key else None
            if generation == self._generation and found.head.version >= max(told, self._flights[index].floor):
                self._keep(index, caller)
                break
        self._observe("known" if caller else "unknown", None)
        return caller

    async def _ask(self, index: str) -> Found:
        try:
            return await self._look(index)
        except StoreUnavailable as error:
            self._observe("failed", error)
            raise

    def _keep(self, index: str, caller: Caller | None) -> None:
        self._callers.drop(index)
        self._unknown.drop(index)
        if caller:
            self._callers.put(index, caller)
        else:
            self._unknown.put(index, True)


@lru_cache(maxsize=10_000)
def _shared(plans: tuple[str, ...]) -> tuple[str, ...]:
    """Keys in the same plans share one tuple: there are far fewer plans than keys."""
    return plans


def _caller(stored: StoredKey, index: str) -> Caller:
    """The key as found by one of its two secrets: that before the last rotation ends earlier."""
    caller = caller_of(stored.key, _shared(stored.plans))
    if index == stored.index:
        return caller
    ends = [(stored.previous_expires_at or 0) * 1_000_000]
    return replace(caller, expires_us=min([*ends, *([] if caller.expires_us is None else [caller.expires_us])]))

"""A bounded cache of the store's keys: looked up when first used, kept until a change of the store touches them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from msgspec.structs import replace

from authz.check import KeysUnavailable
from authz.core.catalog import UNLOOKED, Caller, Unlooked, caller_of
from authz.core.holders import NO_TERMS, Terms, terms_of
from authz.core.recent import Recent
from authz.core.stored import StoredCustomer, StoredKey
from authz.store.ports import KeyLookup, StoreUnavailable

FRESH_SECONDS: Final = 0.5  # for which the cache is trusted after each read of the change stream
MAX_UNKNOWN: Final = 10_000  # digests that no key has; kept apart, so that guesses evict no real key
MAX_FLIGHTS: Final = 1_000  # concurrent look-ups; more would only spend the store's time on guesses
TRIES: Final = 3

LookupResult = Literal["known", "unknown", "failed"]


@dataclass(slots=True)
class _Flight:
    """A look-up under way, shared by all its callers; `floor` is the last change of its key seen meanwhile."""

    answer: asyncio.Task[Caller | None]
    floor: int = 0


class StoreKeyCache:
    """Caches callers by the index of their key. `index` computes it from a value's SHA-256, `look` queries the store.

    The cache is trusted for FRESH_SECONDS after each `heard`; later the store is queried again. While Redis is `away`,
    cached keys stay valid, and other keys are unavailable.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[KeyLookup]],
        index: Callable[[bytes], str] = bytes.hex,
        *,
        size: int = 100_000,
        away: Callable[[], bool] = lambda: False,
        observe: Callable[[LookupResult, Exception | None], None] = lambda _result, _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._index = index
        self._away = away
        self._observe = observe
        self._clock = clock
        self._callers: Recent[str, Caller] = Recent(size, self._evicted)
        self._of_customer = _Indexes()
        self._unknown: Recent[str, bool] = Recent(MAX_UNKNOWN)
        self._flights: dict[str, _Flight] = {}
        self._generation = 0
        self._version = 0  # of the last change that was announced
        self._heard = float("-inf")

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        """Return the caller from memory, None if there is no such key, UNLOOKED if the store must be queried."""
        index = self._index(digest)
        if self._away():
            return self._callers.get(index) or UNLOOKED
        if self._clock() - self._heard > FRESH_SECONDS:
            return UNLOOKED
        if caller := self._callers.young.get(index) or self._callers.get(index):
            return caller
        return None if self._unknown.get(index) else UNLOOKED

    async def find(self, digest: bytes) -> Caller | None:
        """Look the key up in the store. If Redis is away or fails, take it from memory. Raises KeysUnavailable."""
        index = self._index(digest)
        if not self._away():
            with suppress(StoreUnavailable):
                return await self._shared(index)
        if caller := self._callers.get(index):
            return caller
        raise KeysUnavailable("the key is not in memory, and Redis is away")

    def heard(self, at: float) -> None:
        """Record that `touched` has announced all changes up to `at`, in seconds of our clock."""
        self._heard = at

    def touched(self, version: int, indexes: Iterable[str], customers: Collection[str] = ()) -> None:
        """Drop the keys of these indexes and of these customers: this version of the store has changed them."""
        self._version = version
        for index in indexes:
            self._drop(index)
            if flight := self._flights.get(index):
                flight.floor = version
        for customer in customers:
            for index in self._of_customer.pop(customer):
                self._drop(index)
        for flight in self._flights.values() if customers else ():  # the customer of its key is not known yet
            flight.floor = version

    def forget(self, version: int = 0) -> None:
        """Drop all cached keys and invalidate look-ups in flight; later changes start at `version`."""
        self._generation += 1
        self._version = version
        for flight in self._flights.values():
            flight.floor = 0  # versions before may belong to another history
        self._callers.clear()
        self._unknown.clear()
        self._of_customer = _Indexes()

    async def _shared(self, index: str) -> Caller | None:
        """Share one look-up among all its callers. A caller that is cancelled does not cancel it."""
        flight = self._flights.get(index)
        if flight is None:
            if len(self._flights) >= MAX_FLIGHTS:
                raise KeysUnavailable("too many keys are being looked up")
            flight = self._flights[index] = _Flight(asyncio.create_task(self._fly(index)))
            flight.answer.add_done_callback(lambda _: self._landed(index))
        return await asyncio.shield(flight.answer)

    def _landed(self, index: str) -> None:
        """Remove a look-up that has ended. Mark its exception as seen, even if all its callers were cancelled."""
        answer = self._flights.pop(index).answer
        if not answer.cancelled():
            answer.exception()

    async def _fly(self, index: str) -> Caller | None:
        """Look the key up, and cache the result unless it is older than a change that we know of.

        An older result comes from a replica that lags, or from a former master. No later event would correct it.
        """
        for _ in range(TRIES):
            generation, announced = self._generation, self._version
            try:
                lookup = await self._look(index)
            except StoreUnavailable as error:
                self._observe("failed", error)
                raise
            caller = caller_with(lookup.key, index, lookup.customer) if lookup.key else None
            if generation == self._generation and lookup.head.version >= max(announced, self._flights[index].floor):
                self._keep(index, caller)
                break
        self._observe("known" if caller else "unknown", None)
        return caller

    def _keep(self, index: str, caller: Caller | None) -> None:
        self._drop(index)
        if caller:
            self._callers.put(index, caller)
            self._of_customer.add(caller.customer, index)
        else:
            self._unknown.put(index, True)

    def _drop(self, index: str) -> None:
        self._unknown.drop(index)
        if caller := self._callers.drop(index):
            self._of_customer.discard(caller.customer, index)

    def _evicted(self, index: str, caller: Caller) -> None:
        if index not in self._callers:
            self._of_customer.discard(caller.customer, index)


class _Indexes:
    """The indexes of cached keys by their customer, of keys that have one.

    Most customers have one key, whose index stands without a set around it: there may be 100,000 of them.
    """

    def __init__(self) -> None:
        self._of: dict[str, str | set[str]] = {}

    def __len__(self) -> int:
        return sum(1 if isinstance(indexes, str) else len(indexes) for indexes in self._of.values())

    def add(self, customer: str, index: str) -> None:
        if not customer:
            return
        match self._of.setdefault(customer, index):
            case set() as several:
                several.add(index)
            case str() as one if one != index:
                self._of[customer] = {one, index}

    def discard(self, customer: str, index: str) -> None:
        match self._of.get(customer):
            case set() as several:
                several.discard(index)
                if not several:
                    del self._of[customer]
            case str() as one if one == index:
                del self._of[customer]

    def pop(self, customer: str) -> Collection[str]:
        """Remove and return the indexes of a customer."""
        found = self._of.pop(customer, ())
        return (found,) if isinstance(found, str) else found


def customer_terms(customer: StoredCustomer | None) -> Terms:
    """The terms on which the keys of a customer of the store are served."""
    return terms_of(customer.customer.billing_day, customer.overrides) if customer else NO_TERMS


@lru_cache(maxsize=10_000)
def _interned(plans: tuple[str, ...]) -> tuple[str, ...]:
    """Return one shared tuple for all keys in the same plans, to save memory: there are far fewer plans than keys."""
    return plans


def caller_with(stored: StoredKey, index: str, customer: StoredCustomer | None = None) -> Caller:
    """The caller who sends the value of this index. One from before the last rotation expires earlier than the key."""
    caller = caller_of(stored.key, _interned(stored.plans), stored.overrides, customer_terms(customer))
    if index == stored.index:
        return caller
    ends = [(stored.previous_expires_at or 0) * 1_000_000]
    return replace(caller, expires_us=min([*ends, *([] if caller.expires_us is None else [caller.expires_us])]))

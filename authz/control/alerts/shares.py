"""Divides the places of a process among customers, so that one customer's slow targets hold up no other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

TOTAL: Final = 64
OF_CUSTOMERS: Final = 48  # of all customers together; the rest is for the owner's targets
OF_ONE: Final = 8  # of one customer


@dataclass(slots=True)
class Place:
    """A place that was taken, until it is freed."""

    taken: list[asyncio.Semaphore] = field(default_factory=list)

    def free(self) -> None:
        while self.taken:
            self.taken.pop().release()


class Shares:
    """`TOTAL` places. Customers have at most `OF_CUSTOMERS` of them together, and at most `OF_ONE` each."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(TOTAL)
        self._of_customers = asyncio.Semaphore(OF_CUSTOMERS)
        self._of_one: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def take(self, customer_id: str | None) -> Place:
        """Wait for a place. None is the owner."""
        shares = [self._all]
        if customer_id is not None:
            own = self._of_one.setdefault(customer_id, asyncio.Semaphore(OF_ONE))
            # The narrowest first: a caller that waits for it keeps no place from others.
            shares = [own, self._of_customers, self._all]
        place = Place()
        try:
            for share in shares:
                await share.acquire()
                place.taken.append(share)
        except BaseException:
            place.free()
            raise
        return place

    @asynccontextmanager
    async def held(self, customer_id: str | None) -> AsyncIterator[None]:
        place = await self.take(customer_id)
        try:
            yield
        finally:
            place.free()

"""A sweeper that is stopped while Redis is away."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from authz.store.ports import StoreUnavailable
from authz.store.sweep import Sweeper


class Away:
    """A store and a usage whose Redis goes away once the lease is taken. `is_read` is set when a read waits."""

    def __init__(self) -> None:
        self.is_read = asyncio.Event()

    async def overview(self) -> None:
        return None

    async def redis_time(self) -> int:
        return 1_000_000

    async def lease(self, holder: str, seconds: int) -> bool:
        return True

    async def release(self, holder: str) -> None:
        raise StoreUnavailable("Redis is away")

    def __getattr__(self, name: str) -> Any:
        async def waits(*_: Any, **__: Any) -> None:
            self.is_read.set()
            await asyncio.Event().wait()

        return waits


async def test_a_sweeper_ends_although_it_cannot_give_its_lease_back() -> None:
    away = Away()
    sweeping = asyncio.create_task(Sweeper(cast("Any", away), cast("Any", away), "nowhere").run())
    async with asyncio.timeout(60):
        await away.is_read.wait()
        sweeping.cancel()
        await asyncio.wait([sweeping])
    assert sweeping.cancelled()

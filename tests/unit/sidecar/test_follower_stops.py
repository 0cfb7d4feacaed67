"""A follower that is stopped while it waits to read the store again."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from authz.sidecar.follower import StoreCatalog
from authz.store.ports import StoreUnavailable


class Away:
    """A store that cannot be read. `is_read` is set at each reading; other commands get no answer."""

    address = "nowhere"

    def __init__(self) -> None:
        self.is_read = asyncio.Event()

    async def snapshot(self, _: Any) -> None:
        self.is_read.set()
        raise StoreUnavailable("Redis is away")

    def __getattr__(self, name: str) -> Any:
        async def waits(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        return waits


@pytest.mark.parametrize("turns", range(6))
async def test_a_follower_ends_although_a_change_comes_at_the_same_moment(turns: int) -> None:
    """The change comes this many turns of the event loop before the end."""
    away = Away()
    catalog = StoreCatalog(cast("Any", away), cast("Any", None), cast("Any", None), worker="w")
    watching = asyncio.create_task(catalog.watch())
    await catalog.reload()
    await away.is_read.wait()
    for _ in range(20):  # it goes on to wait for its next try
        await asyncio.sleep(0)
    await catalog.reload()
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait([watching], timeout=60)
    assert done
    assert watching.cancelled()

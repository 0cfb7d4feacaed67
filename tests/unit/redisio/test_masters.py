"""The watch over the servers that name the master, when its last client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.exceptions import TimeoutError as RedisTimeoutError

from authz.redisio.masters import Cluster
from authz.redisio.url import read_url


class Silent(Cluster):
    """Its nodes answer nothing. Closing the client of one raises `fails`; asking one sets `is_asked`."""

    def __init__(self, fails: Exception) -> None:
        super().__init__(read_url("redis+cluster://127.0.0.1:1"), {}, is_tls=True, connect_seconds=1.0)
        self.fails = fails
        self.is_asked = asyncio.Event()

    @asynccontextmanager
    async def node(self, address: Any) -> AsyncIterator[redis.asyncio.Redis]:
        async with super().node(address) as client:
            try:
                yield client
            finally:
                raise self.fails

    async def ask(self, *_: Any) -> Any:
        self.is_asked.set()
        await asyncio.Event().wait()


async def test_the_watch_ends_although_a_connection_cannot_be_closed() -> None:
    masters = Silent(RedisTimeoutError("Timed out closing connection"))
    before = asyncio.all_tasks()
    masters.met(("127.0.0.1", 1))
    await masters.is_asked.wait()
    masters.close()
    await asyncio.wait_for(asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True), 60)

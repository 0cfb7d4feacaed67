"""A pool of connections to Redis that closes idle connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

IDLE_SECONDS: Final = 30.0  # after which an idle connection is closed, except the last one


class Pool(ConnectionPool):
    """Closes idle connections after IDLE_SECONDS, so that a burst of callers leaves no connections open for good."""

    _trimmer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """True if a connection is open."""
        return any(one.is_connected for one in (*self._available_connections, *self._in_use_connections))

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close connections without waiting for the server.

        Both ends close a TLS connection. For a dead server we would wait until the connection's timeout.
        """
        used = self._in_use_connections if inuse_connections else ()
        await _close([*self._available_connections, *used])

    async def aclose(self) -> None:
        """Close the pool, and wait until its connections are closed."""
        await super().disconnect()
        await super().aclose()

    async def release(self, connection: Any) -> None:
        await super().release(connection)
        connection.idle_since = time.monotonic()
        if self._trimmer is None and len(self._available_connections) > 1:
            self._trimmer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._trim)

    def _trim(self) -> None:
        """Close idle connections. The one used last stays open, so that a single caller does not have to reconnect."""
        kept: list[Any] = self._available_connections
        before = time.monotonic() - IDLE_SECONDS
        idle = [one for one in kept[:-1] if one.idle_since <= before]
        self._available_connections = [one for one in kept if one not in idle]
        loop = asyncio.get_running_loop()
        self._closing = loop.create_task(_close(idle))
        more = len(self._available_connections) > 1
        self._trimmer = loop.call_later(IDLE_SECONDS, self._trim) if more else None


async def _close(connections: Sequence[Any]) -> None:
    for connection in connections:
        with suppress(RedisError, OSError, TimeoutError):  # the connection is closed even so
            await connection.disconnect(nowait=True)

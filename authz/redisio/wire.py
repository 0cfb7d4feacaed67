"""A connection for one kind of command, sent many times: scripts, without the client's work around each command.

redis-py finds the master, connects, starts TLS and logs in. Then replies come here instead of to its stream reader, and
hiredis parses them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import hiredis
import redis.asyncio
from redis._parsers.base import BaseParser
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, MovedError, NoScriptError, ReadOnlyError

from authz.deadlines import Deadlines, Wait
from authz.redisio.client import FollowingClient, Script

INCOMPLETE: Final = object()


class Wire(asyncio.Protocol):
    """An open connection. Replies come in the order of the commands, also if a command is no longer waited for."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._transport: Any = connection._writer.transport  # type: ignore[union-attr]  # noqa: SLF001
        self._before: Any = self._transport.get_protocol()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=INCOMPLETE
        )
        self._asked = deque[Wait]()
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(lambda: self._asked, partial(TimeoutError, "no reply in time"))
        self._is_lost = False
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """False once the connection is lost, closed, or left since its server is no longer the master."""
        is_left: bool = self.connection.should_reconnect()  # type: ignore[no-untyped-call]
        is_lost = self._is_lost or self._transport.is_closing() or not self.connection.is_connected
        return not is_lost and not is_left

    @property
    def is_idle(self) -> bool:
        """True if it is open, and no reply is on its way."""
        return self.is_open and not self._asked

    async def evaluate(self, script: Script, keys: Sequence[str], blob: bytes, expires: float) -> Any:
        """Run a script by its digest. Send its text if Redis has not cached it.

        Raises TimeoutError at `expires` (of `time.monotonic`), and otherwise what redis-py does.
        """
        try:
            return await self._send(expires, "EVALSHA", script.digest, len(keys), *keys, blob)
        except NoScriptError:
            return await self._send(expires, "EVAL", script.text, len(keys), *keys, blob)

    def _send(self, expires: float, *words: Any) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = self._loop.create_future()
        if not self.is_open:
            reply.set_exception(RedisConnectionError("the connection was closed before the command"))
            return reply
        self._transport.write(hiredis.pack_command(words))
        self._asked.append((reply, expires))
        self._deadlines.expect(expires)
        return reply

    # --- what the event loop calls ---

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not INCOMPLETE:
                if not self._asked:
                    raise InvalidResponse("a reply without a command")
                future, _ = self._asked.popleft()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except InvalidResponse as error:
            self._fail(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)  # redis-py waits for this when it closes a connection
        self._fail(RedisConnectionError(str(exc) if exc else "Connection closed by server."))

    def pause_writing(self) -> None:
        """Commands are few and small: one waits for the other's reply."""

    def resume_writing(self) -> None: ...

    def _fail(self, error: Exception) -> None:
        self._is_lost = True
        self._deadlines.stop()
        for future, _ in self._asked:
            if not future.done():
                future.set_exception(error)
        self._asked.clear()


class Line:
    """Keeps a wire to the server that is the master, and opens another one when it is lost."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """True if a wire is open, and no reply is on its way."""
        return self._wire is not None and self._wire.is_idle

    async def evaluate(self, script: Script, keys: Sequence[str], blob: bytes, expires: float) -> Any:
        """Run a script as `Wire.evaluate` does. If a former master refuses it, send it to the new one."""
        for is_last in (False, True):
            wire = self._wire
            if wire is None or not wire.is_open:
                async with asyncio.timeout_at(expires):
                    wire = await self._open(script, keys)
            try:
                return await wire.evaluate(script, keys, blob, expires)
            except (ReadOnlyError, MovedError) as error:
                if is_last or not isinstance(self._client, FollowingClient):
                    raise
                await self._give_back()
                await self._client.redirect(error)
        raise AssertionError("the last sending returns or raises")

    async def _open(self, script: Script, keys: Sequence[str]) -> Wire:
        async with self._opening:
            if self._wire and self._wire.is_open:
                return self._wire
            await self._give_back()
            if isinstance(self._client, FollowingClient):
                self._client.know_slot(("EVALSHA", script.digest, len(keys), *keys))
            connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            self._wire = Wire(connection)
            return self._wire

    async def _give_back(self) -> None:
        """Close the wire, and return its connection to the pool, which connects it anew when it is used."""
        wire, self._wire = self._wire, None
        if wire:
            await wire.connection.disconnect(nowait=True)
            await self._client.connection_pool.release(wire.connection)

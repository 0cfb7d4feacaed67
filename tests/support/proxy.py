"""A proxy in front of Redis that a test holds in its hand: it counts commands, and delays, cuts or forges replies."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.support.servers import HOST, RedisServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Proxy:
    """Hands on one command and its reply at a time. What a test says holds for scripts, or for the one of that digest.

    The next `cuts` replies are cut half way, after Redis has run the command; an `answer` is given
    in place of Redis's; a `delay` in seconds comes before each reply; a reply waits until `open` is set.

    `elsewhere` names commands that another port answers: as if their connection had stayed with an old master.
    """

    port: int
    url: str = ""
    commands: Counter[str] = field(default_factory=Counter)
    carried: list[set[str]] = field(default_factory=list)  # the commands that came on each connection
    elsewhere: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    digest: str = ""
    cuts: int = 0
    answer: bytes = b""
    delay: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side hangs up, or a reply was cut."""
        with suppress(OSError, asyncio.IncompleteReadError):
            redis = await asyncio.open_connection(HOST, self.port)
            carried: set[str] = set()
            self.carried.append(carried)
            try:
                while await self._pass_on(reader, writer, redis, carried):
                    pass
            finally:
                redis[1].close()
        writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, redis: Streams, carried: set[str]
    ) -> bool:
        raw, words = await _read_command(reader)
        self._count(words)
        carried.add(words[0].decode())
        concerned = self._concerns(words)
        reply = self.answer if concerned else b""
        if not reply:
            port = self.elsewhere.get(words[0].decode())
            reply = await (_asked(redis, raw) if port is None else _asked_once(port, raw))
        if concerned:
            await self.open.wait()
            await asyncio.sleep(self.delay)
        cut = concerned and not reply.startswith(b"-NOSCRIPT") and self.cuts > 0
        self.cuts -= cut
        writer.write(reply[: len(reply) // 2] if cut else reply)
        await writer.drain()
        return not cut

    def _concerns(self, words: list[bytes]) -> bool:
        if words[0] == b"EVALSHA":
            return self.digest in ("", words[1].decode())
        return words[0] == b"EVAL" and self.digest in ("", hashlib.sha1(words[1]).hexdigest())

    def _count(self, words: list[bytes]) -> None:
        """A batch with callers names more keys than the worker's reply alone, which is all that a probe names."""
        self.commands[words[0].decode()] += 1
        self.batches += words[0] == b"EVALSHA" and int(words[2]) > 1


@asynccontextmanager
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """In front of a server that listens on a port."""
    between = Proxy(int(server.url.rpartition(":")[2].partition("/")[0]))
    between.open.set()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(between.serve(reader, writer)))

    listener = await asyncio.start_server(accept, HOST, 0)
    between.url = f"redis://{HOST}:{listener.sockets[0].getsockname()[1]}/0"
    try:
        yield between
    finally:
        listener.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _asked(redis: Streams, raw: bytes) -> bytes:
    redis[1].write(raw)
    return await _read_reply(redis[0])


async def _asked_once(port: int, raw: bytes) -> bytes:
    redis = await asyncio.open_connection(HOST, port)
    try:
        return await _asked(redis, raw)
    finally:
        redis[1].close()


async def _read_command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """`*N` and N strings with their lengths: the bytes as they came, and the words."""
    raw = await reader.readuntil(b"\r\n")
    words = []
    for _ in range(int(raw[1:])):
        head = await reader.readuntil(b"\r\n")
        body = await reader.readexactly(int(head[1:]) + 2)
        raw += head + body
        words.append(body[:-2])
    return raw, words


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n")
    if head[:1] == b"$" and head != b"$-1\r\n":
        return head + await reader.readexactly(int(head[1:]) + 2)
    if head[:1] == b"*":
        return head + b"".join([await _read_reply(reader) for _ in range(int(head[1:]))])
    return head

"""The connection on which batches travel, with a server that is slow, hangs up, or sends a reply without a command."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from authz.redisio.client import Script, connect
from authz.redisio.wire import Line
from tests.support.proxy import Proxy
from tests.support.servers import DEADLINE_SECONDS, RedisServer
from tests.support.topologies import say

PATIENT = 60.0
TEXT = "return redis.call('INCR', KEYS[1])"
COUNT = Script(TEXT, hashlib.sha1(TEXT.encode(), usedforsecurity=False).hexdigest())


class Counter:
    """Counts in a key of its own, and knows how often it connected."""

    def __init__(self, url: str) -> None:
        self.key = f"{{{uuid4().hex}}}"
        self.connects = 0
        self.client = connect(url, PATIENT, self._connected)
        self.line = Line(self.client)

    def _connected(self) -> None:
        self.connects += 1

    async def count(self, seconds: float = PATIENT) -> int:
        expires = time.monotonic() + seconds
        return int(await self.line.evaluate(COUNT, [self.key], b"", expires))


@asynccontextmanager
async def counting(url: str) -> AsyncIterator[Counter]:
    counter = Counter(url)
    yield counter
    async with asyncio.timeout(DEADLINE_SECONDS):
        await counter.client.aclose()


async def test_commands_share_a_connection_and_come_in_order(between: Proxy) -> None:
    async with counting(between.url) as counter:
        assert await counter.count() == 1
        assert await asyncio.gather(*(counter.count() for _ in range(20))) == list(range(2, 22))
        assert counter.connects == 1
        assert counter.line.is_idle


async def test_the_reply_to_an_abandoned_command_reaches_no_other_command(between: Proxy) -> None:
    async with counting(between.url) as counter:
        await counter.count()
        between.open.clear()
        left = asyncio.create_task(counter.count())
        await asyncio.sleep(0)  # on an open connection, that sends it
        left.cancel()
        stays = asyncio.create_task(counter.count())
        between.open.set()
        assert await stays == 3
        assert left.cancelled()
        assert counter.connects == 1


async def test_each_command_has_its_own_time(between: Proxy) -> None:
    async with counting(between.url) as counter:
        await counter.count()
        between.open.clear()
        waits = asyncio.create_task(counter.count())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await counter.count(0.1)
        with pytest.raises(TimeoutError):
            await counter.count(0.05)
        between.open.set()
        assert await waits == 2


@pytest.mark.parametrize("cut", ["by the server", "in the middle of a reply"])
async def test_a_lost_connection_fails_its_commands_and_is_made_anew(
    between: Proxy, server: RedisServer, cut: str
) -> None:
    async with counting(between.url) as counter:
        await counter.count()
        if cut == "by the server":
            between.open.clear()
            lost = asyncio.gather(counter.count(), counter.count(), return_exceptions=True)
            await asyncio.sleep(0)
            say(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            between.open.set()
        else:
            between.cuts = 1
            lost = asyncio.gather(counter.count(), counter.count(), return_exceptions=True)
        assert all(isinstance(outcome, RedisConnectionError) for outcome in await lost)
        assert await counter.count() > 1
        assert counter.connects == 2


@pytest.mark.parametrize(
    "answer", [b":1\r\n:2\r\n", b"what\r\n", b"$5\r\nab\r\n\r\nxx"], ids=["two", "no reply", "torn"]
)
async def test_a_server_that_sends_a_reply_without_a_command_is_left(between: Proxy, answer: bytes) -> None:
    async with counting(between.url) as counter:
        await counter.count()
        between.answer = answer
        await asyncio.gather(counter.count(0.2), return_exceptions=True)
        between.answer = b""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while counter.connects < 2:
                await asyncio.gather(counter.count(1.0), return_exceptions=True)
        assert await counter.count() > 1


async def test_a_refusal_is_raised_and_the_connection_stays(between: Proxy, server: RedisServer) -> None:
    async with counting(between.url) as counter:
        say(server, "SET", counter.key, "text")
        for _ in range(2):
            with pytest.raises(ResponseError, match="not an integer"):
                await counter.count()
        assert counter.connects == 1


async def test_a_script_that_redis_has_forgotten_is_sent_again(server: RedisServer) -> None:
    async with counting(server.url) as counter:
        assert await counter.count() == 1
        say(server, "SCRIPT", "FLUSH")
        assert await counter.count() == 2
        assert counter.connects == 1

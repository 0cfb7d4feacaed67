"""Fixtures of several files: the store and the usage of a test's account, and a connection that reads beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis.asyncio
from click.testing import CliRunner

from authz.cli.main import cli
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.proxy import Proxy, proxy
from tests.support.servers import Kind, RedisServer, redis_server


@pytest.fixture(scope="module")
def server(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server for the tests of one file: a proxy can stand in front of it."""
    with redis_server(redis_kind) as server:
        yield server


@pytest.fixture
async def between(server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the file's server, with which a test holds a batch in flight."""
    async with proxy(server) as between:
        yield between


@pytest.fixture
async def spy(shared_redis: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """A second connection, to read the stored values."""
    client = redis.asyncio.Redis.from_url(shared_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def ledger(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[UsageLedger]:
    usage = UsageLedger(shared_redis.url, account=account, budget=10.0, clock=clock)
    yield usage
    await usage.aclose()


@pytest.fixture
async def store(shared_redis: RedisServer, account: str) -> AsyncIterator[Store]:
    opened = Store(shared_redis.url, account=account, budget=10.0)
    yield opened
    await opened.aclose()


@pytest.fixture
def run(shared_redis: RedisServer, account: str) -> Callable[..., Awaitable[str]]:
    """Run `authz usage` in a thread: each command has an event loop of its own."""

    async def command(*words: str, code: int = 0) -> str:
        place = ["--redis-url", shared_redis.url, "--account-id", account]
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["usage", *words, *place])
        assert result.exit_code == code, result.output
        return result.output

    return command

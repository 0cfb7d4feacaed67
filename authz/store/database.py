"""The part of Redis that belongs to one account: names of keys, time budgets of commands, confirmation by replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from authz.core.limits import redis_key
from authz.core.resources import DEFAULT_ACCOUNT
from authz.redisio.client import (
    WAIT_SLACK_SECONDS,
    Script,
    Waited,
    connect,
    evaluate,
    evaluate_and_wait,
    hang_up,
    replicas_for,
)
from authz.redisio.url import in_words, mask_url
from authz.store.ports import ConnectionLost, StoreUnavailable

T = TypeVar("T")

REPLICA_MS: Final = 1000  # a write waits this long for replicas,
REPLICA_AGAIN_MS: Final = 100  # and the next write this long if they did not confirm
BYTES_A_SECOND: Final = 1_000_000  # extends the budget of a large write
SLOW_SECONDS: Final = 60.0  # the budget of each command of a backup or check
CHUNK: Final = 1000  # words, members or keys in one command where there may be any number


class Database:
    """Runs commands and scripts on one account's keys. `budget` is the seconds that each command may take.

    `replicas` is how many replicas must confirm a write; None takes what the URL suggests. `at_risk` says why a
    failover may lose the last write; "" if enough replicas have confirmed it. `clock` is µs of Unix time, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 1.0,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
    ) -> None:
        self.address = mask_url(url)
        self.at_risk = ""
        self.replicas = replicas_for(url, replicas)
        self.redis: redis.asyncio.Redis = connect(url, budget)
        self.prefix = redis_key(account, "")
        self._account = account
        self._budget = budget
        self._clock = clock

    # --- names of keys ---

    def key(self, *parts: str) -> str:
        """A key of the account."""
        return redis_key(self._account, *parts)

    def store_key(self, *parts: str) -> str:
        return self.key("store", *parts)

    def items_key(self, kind: str) -> str:
        return self.store_key("item", kind)

    def list_key(self, list_: str) -> str:
        return self.store_key("list", list_)

    def name_of(self, key: str) -> str:
        """The name of a Redis key within the account."""
        return key.removeprefix(self.prefix)

    # --- commands ---

    def pinned(self) -> int:
        """The time (µs) that a test pins for scripts; 0 for Redis's own clock."""
        return self._clock() if self._clock else 0

    async def ask(self, *words: Any) -> Any:
        """Run one command within the budget. Raises StoreUnavailable, as all methods below do."""
        return await self._command(self._budget, words)

    async def ask_slowly(self, *words: Any) -> Any:
        """Run a command of a backup or check, which may take a minute."""
        return await self._command(SLOW_SECONDS, words)

    async def run(self, script: Script, keys: Sequence[str], *args: bytes) -> Any:
        async with self.within(self._seconds_for(args)):
            return await evaluate(self.redis, script, keys, *args)

    async def run_and_wait(self, script: Script, keys: Sequence[str], *args: bytes) -> Waited:
        """Run a script that writes, and wait for replicas to confirm it. Sets `at_risk`."""
        if not self.replicas:
            return Waited(await self.run(script, keys, *args), "")
        milliseconds = REPLICA_AGAIN_MS if self.at_risk else REPLICA_MS
        async with self.within(self._seconds_for(args) + milliseconds / 1000 + WAIT_SLACK_SECONDS):
            waited = await evaluate_and_wait(
                self.redis, script, keys, *args, replicas=self.replicas, milliseconds=milliseconds
            )
        self.at_risk = waited.at_risk
        return waited

    @asynccontextmanager
    async def batch(self, replies: list[Any] | None = None) -> AsyncIterator[Any]:
        """Collect commands and send them together at the end of the block. Their replies are added to `replies`."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            yield pipeline
            async with self.within(self._budget):
                found = await pipeline.execute()
        if replies is not None:
            replies += found

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Limit a block of commands to `seconds`. Redis's faults and the timeout become StoreUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            await self.hang_up()  # other idle connections have most likely gone with the same Redis
            is_lost = isinstance(error, (RedisConnectionError, OSError)) and not isinstance(error, TimeoutError)
            kind = ConnectionLost if is_lost else StoreUnavailable
            raise kind(f"Redis failed: {in_words(error)}") from error

    async def hang_up(self) -> None:
        """Close the idle connections."""
        await hang_up(self.redis, in_use=False)

    async def connect_anew(self) -> None:
        """Let the next command use a new connection, to the server that is known."""
        await self.redis.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        await self.redis.aclose()

    async def _command(self, seconds: float, words: Sequence[Any]) -> Any:
        run: Callable[..., Awaitable[Any]] = self.redis.execute_command
        async with self.within(seconds):
            return await run(*words)

    def _seconds_for(self, args: Sequence[bytes]) -> float:
        return self._budget + sum(map(len, args)) / BYTES_A_SECOND


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The values in runs of at most `size`."""
    return (values[start : start + size] for start in range(0, len(values), size))

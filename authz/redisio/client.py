"""Connects to Redis and runs our Lua scripts there: on one server, or on the master of several.

All keys of an account lie in one slot, so a client talks to one server only. With Sentinels or a cluster, a new
connection first looks up the master, unless the master is known.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, RedisError

from authz.redisio.masters import Cluster, Masters, Run, Sentinels, slot_of
from authz.redisio.pool import Pool
from authz.redisio.url import in_words, read_url

PRELUDE: Final = re.compile(r"^-- prelude: (\w+)\n", re.MULTILINE)
PACKER: Final = HiredisRespSerializer()
WAIT_SLACK_SECONDS: Final = 1.0  # a server ends WAIT a little late


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which Redis caches it."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        """Load a script of `lua/`. Each line `-- prelude: NAME` stands for the text of `prelude/NAME.lua`."""
        folder = resources.files("authz.redisio.lua")
        text = PRELUDE.sub(
            lambda line: folder.joinpath("prelude", f"{line[1]}.lua").read_text("utf-8"),
            folder.joinpath(name).read_text("utf-8"),
        )
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def starting_with(prefix: str) -> str:
    """The pattern of SCAN for the Redis keys that start with a prefix, whatever characters it has."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"


def connect(url: str, connect_seconds: float, connected: Callable[[], None] = lambda: None) -> redis.asyncio.Redis:
    """Return a client that does not retry: only its caller knows which command may be sent twice.

    With Sentinels or a cluster (`redisio/url.py`), the client follows the master. A server that is no longer the master
    refuses a command without running it; the client then sends the command once to the new master. `connected` is
    called after each new connection. Raises ValueError for a URL that breaks a rule.
    """
    found = read_url(url)
    if found.kind == "server":
        return redis.asyncio.Redis.from_pool(Pool.from_url(url, **_manners(connect_seconds, connected)))
    options = {**parse_url(found.node), **_manners(connect_seconds, connected)}
    is_tls = options.pop("connection_class", None) is SSLConnection
    masters = (Cluster if found.kind == "cluster" else Sentinels)(found, options, is_tls, connect_seconds)
    kind = _SSLConnectionToMaster if is_tls else _ConnectionToMaster
    masters.pool = Pool(kind, masters=masters, **options)
    return FollowingClient.from_pool(masters.pool)


def master_changes(client: redis.asyncio.Redis) -> int:
    """Return how many times the client has connected to another master than before; 0 with one server."""
    return client.masters.changes if isinstance(client, FollowingClient) else 0


async def hang_up(client: redis.asyncio.Redis, *, in_use: bool = True) -> None:
    """Close the client's connections and forget the master. With `in_use` off, close only idle connections.

    On a connection that stays open, a late reply could be read as the reply to the next command. The server's name may
    also have moved to another server.
    """
    if isinstance(client, FollowingClient):
        client.masters.known = None
    await client.connection_pool.disconnect(inuse_connections=in_use)


async def evaluate(client: redis.asyncio.Redis, script: Script, keys: Sequence[str], *args: bytes) -> Any:
    """Run a script by its digest. Send its text if Redis has not cached it."""
    return await _evaluated(client.execute_command, script, keys, *args)


async def _evaluated(run: Run, script: Script, keys: Sequence[str], *args: bytes) -> Any:
    try:
        return await run("EVALSHA", script.digest, len(keys), *keys, *args)
    except NoScriptError:
        return await run("EVAL", script.text, len(keys), *keys, *args)


@dataclass(frozen=True, slots=True)
class Waited:
    """A script's reply. `at_risk` says why replicas may lack its writes; "" if enough replicas have confirmed them."""

    reply: Any
    at_risk: str


async def evaluate_and_wait(
    client: redis.asyncio.Redis, script: Script, keys: Sequence[str], *args: bytes, replicas: int, milliseconds: int
) -> Waited:
    """Run a script as `evaluate` does, then wait for `replicas` to confirm its writes.

    Both commands use one connection, because WAIT counts the replicas that have the writes of its own connection. If
    WAIT fails or too few replicas confirm, `at_risk` gives the reason; the script has run in either case.
    """
    for is_last in (False, True):
        async with client.pipeline(transaction=False) as steps:  # holds one connection
            run: Run = steps.immediate_execute_command
            try:
                reply = await _evaluated(run, script, keys, *args)
            except (ReadOnlyError, MovedError) as error:
                if is_last or not isinstance(client, FollowingClient):
                    raise
                await client.redirect(error)
                continue
            return Waited(reply, await _waited(run, replicas, milliseconds))
    raise AssertionError("the last sending returns or raises")


async def _waited(run: Run, replicas: int, milliseconds: int) -> str:
    try:
        async with asyncio.timeout(milliseconds / 1000 + WAIT_SLACK_SECONDS):
            acknowledged = await run("WAIT", replicas, milliseconds)
    except (RedisError, OSError, TimeoutError) as error:
        return f"WAIT is answered {in_words(error)}"
    return "" if acknowledged >= replicas else f"{acknowledged} of {replicas} replicas have it so far"


def replicas_for(url: str, wanted: int | None) -> int:
    """Return how many replicas must confirm a write: `wanted`, or one if Sentinels or a cluster may promote it."""
    if wanted is not None:
        return wanted
    return 0 if read_url(url).kind == "server" else 1


def _manners(connect_seconds: float, connected: Callable[[], None]) -> dict[str, Any]:
    async def greet(connection: Connection) -> None:
        # hiredis packs commands in C. redis-py uses it in its synchronous client only.
        connection.pack_command = PACKER.pack  # type: ignore[assignment,method-assign]
        await connection.on_connect()
        connected()

    return {
        "redis_connect_func": greet,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # callers set a timeout of their own; redis-py's would swallow cancellations
        "socket_connect_timeout": connect_seconds,
        "protocol": 2,
    }


class _ToMaster(Connection):
    """A connection to the server that is the master at the time of connecting."""

    def __init__(self, *, masters: Masters, **options: Any) -> None:
        self.masters = masters
        super().__init__(**options)

    async def connect(self) -> None:
        """Connect to the known master. If that fails, it may have been replaced: look up the master and try again."""
        if self.is_connected:
            return
        was_known = self.masters.known is not None
        try:
            await self._connect_to_master()
        except RedisError:
            if not was_known:
                raise
            await self._connect_to_master()

    async def _connect_to_master(self) -> None:
        try:
            self.host, self.port = self.masters.known or await self.masters.find()
            await super().connect()  # type: ignore[no-untyped-call]
        except BaseException:  # a cancellation too: the server may never answer
            self.masters.known = None
            raise
        self.masters.met((self.host, self.port))

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        await self.masters.confirm(self)


class _ConnectionToMaster(_ToMaster):
    pass


class _SSLConnectionToMaster(_ToMaster, SSLConnection):
    pass


class FollowingClient(redis.asyncio.Redis):
    """Follows the master. A command that a former master refused has not run, so it is sent once more."""

    @property
    def masters(self) -> Masters:
        masters: Masters = self.connection_pool.connection_kwargs["masters"]
        return masters

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        self.know_slot(words)
        run: Run = super().execute_command
        try:
            return await run(*words, **options)
        except (ReadOnlyError, MovedError) as error:
            await self.redirect(error)
        return await run(*words, **options)

    def know_slot(self, words: Sequence[Any]) -> None:
        """Take the slot of our keys from the words of the first command, or from its keys."""
        if self.masters.slot is None:
            self.masters.slot = slot_of(words)

    async def redirect(self, error: Exception) -> None:
        """Leave a server that is no longer the master of our keys. A MOVED error names the new master."""
        await hang_up(self, in_use=False)
        if isinstance(error, MovedError):
            self.masters.moved(error)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        self.masters.close()
        await super().aclose(close_connection_pool)

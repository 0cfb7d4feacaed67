"""Redis, and our scripts in it, for the modules that speak to it: one server, or the master of several.

All keys of an account lie in one slot, so a client talks to one server alone. Where there are several, each connecting
asks them which one that is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.crc import key_slot
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, RedisError

from authz.redisurl import Address, RedisUrl, read_url

Run = Callable[..., Awaitable[Any]]  # a command and its reply

PACKER: Final = HiredisRespSerializer()
SEED_SHARE: Final = 0.5  # of the time for connecting, that one Sentinel or node may take to name the master


class MasterUnknown(redis.exceptions.ConnectionError):
    """Nobody says now which server is the master."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which Redis keeps it."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        text = resources.files("authz.lua").joinpath(name).read_text("utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def connect(url: str, connect_seconds: float, connected: Callable[[], None] = lambda: None) -> redis.asyncio.Redis:
    """A client that never retries by itself: only we know which command may be sent twice (R15, R18).

    It follows the master where several servers share the work (`authz.redisurl`): when it connects, and when a server
    says that another one is to be asked, and so has done nothing. `connected` is called after each connecting. Raises
    ValueError for a URL that breaks a rule.
    """
    found = read_url(url)
    if found.kind == "server":
        return redis.asyncio.Redis.from_url(url, **_manners(connect_seconds, connected))
    options = {**parse_url(found.node), **_manners(connect_seconds, connected)}
    is_tls = options.pop("connection_class", None) is SSLConnection
    masters = (_Cluster if found.kind == "cluster" else _Sentinels)(found, options, is_tls, connect_seconds)
    kind = _SSLConnectionToMaster if is_tls else _ConnectionToMaster
    return _Client.from_pool(ConnectionPool(kind, masters=masters, **options))


def master_changes(client: redis.asyncio.Redis) -> int:
    """How often the client has met another master than before; never where there is one server."""
    return client.masters.changes if isinstance(client, _Client) else 0


async def hang_up(client: redis.asyncio.Redis, *, in_use: bool = True) -> None:
    """A reply that is still under way must not be read as the next one's; and the name may stand for another server.

    With `in_use` off, only what is idle is closed.
    """
    if isinstance(client, _Client):
        client.masters.known = None
    with suppress(RedisError, OSError, TimeoutError):
        await client.connection_pool.disconnect(inuse_connections=in_use)


async def evaluate(client: redis.asyncio.Redis, script: Script, keys: Sequence[str], *args: bytes) -> Any:
    """By digest; the text goes along once after Redis has forgotten it."""
    run: Run = client.execute_command
    try:
        return await run("EVALSHA", script.digest, len(keys), *keys, *args)
    except NoScriptError:
        return await run("EVAL", script.text, len(keys), *keys, *args)


def _manners(connect_seconds: float, connected: Callable[[], None]) -> dict[str, Any]:
    async def greet(connection: Connection) -> None:
        # In C: redis-py itself does so in its synchronous half only.
        connection.pack_command = PACKER.pack  # type: ignore[assignment,method-assign]
        await connection.on_connect()
        connected()

    return {
        "redis_connect_func": greet,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # each sending has a time-out of ours around it; redis-py's would swallow cancellations
        "socket_connect_timeout": connect_seconds,
        "protocol": 2,
    }


@dataclass
class _Masters:
    """Who is the master, by those that know: asked one after the other, who answered last time first.

    `known` is the master until something speaks against it, `changes` counts how often another one was met, `slot` is
    that of our keys, which the first command tells.
    """

    url: RedisUrl
    options: dict[str, Any]
    is_tls: bool
    connect_seconds: float
    known: Address | None = None
    changes: int = 0
    slot: int | None = None
    _met: Address | None = None
    _seeds: deque[Address] = field(init=False)

    def __post_init__(self) -> None:
        self._seeds = deque(self.url.seeds)

    async def find(self) -> Address:
        """Raises MasterUnknown if nobody can tell."""
        reason = ""
        for _ in range(len(self._seeds)):
            seed = self._seeds[0]
            self._seeds.rotate(-1)  # whoever lets us wait until we are cancelled is not the first again
            try:
                async with asyncio.timeout(self.connect_seconds * SEED_SHARE), self.node(seed) as client:
                    found = await self.ask(client.execute_command, seed)
            except (RedisError, OSError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            self._prefer(seed)
            return found
        raise MasterUnknown(f"nobody names the master; of the last one asked: {reason}")

    async def ask(self, run: Run, seed: Address) -> Address:
        """What this one says. Raises MasterUnknown."""
        raise NotImplementedError

    async def confirm(self, connection: Connection) -> None:
        """Raises MasterUnknown if the server that was connected to is no master (any more)."""

    def node(self, address: Address) -> redis.asyncio.Redis:
        """A client of this one server, for a few words."""
        kind = SSLConnection if self.is_tls else Connection
        options = {**self.options, **self.login(), "host": address[0], "port": address[1]}
        return redis.asyncio.Redis.from_pool(ConnectionPool(kind, **options))

    def login(self) -> dict[str, Any]:
        """What is told to those that are asked, where it is not what the master is told."""
        return {}

    def met(self, address: Address) -> None:
        """It was connected to, and is the master."""
        self.known = address
        self.changes += self._met not in (None, address)
        self._met = address

    def moved(self, error: MovedError) -> None:
        host = error.host or (self._met or self.url.seeds[0])[0]  # an empty one stands for the same
        self.slot, self.known = error.slot_id, (host, error.port)

    def _prefer(self, seed: Address) -> None:
        with suppress(ValueError):  # another search has changed them meanwhile
            self._seeds.remove(seed)
            self._seeds.appendleft(seed)


class _Sentinels(_Masters):
    def login(self) -> dict[str, Any]:
        user, password = self.url.login
        return {"username": user or None, "password": password or None, "db": 0}

    async def ask(self, run: Run, seed: Address) -> Address:
        found = await run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.url.service)
        if found is None:
            raise MasterUnknown(f"the Sentinel at {seed[0]}:{seed[1]} knows no master of that name")
        return found[0].decode(), int(found[1])

    async def confirm(self, connection: Connection) -> None:
        """A Sentinel may not have noticed yet that it is a replica now."""
        await connection.send_command("ROLE", check_health=False)
        if (await connection.read_response())[0] != b"master":
            raise MasterUnknown("the server is a replica")


class _Cluster(_Masters):
    async def ask(self, run: Run, seed: Address) -> Address:
        """The master of our slot. Whoever else is named is asked too from now on."""
        owner, nodes = None, dict[Address, None]()
        for first, last, *servers in await run("CLUSTER", "SLOTS"):
            addresses = [(server[0].decode() if server[0] else seed[0], int(server[1])) for server in servers]
            nodes.update(dict.fromkeys(addresses))
            if self.slot is not None and first <= self.slot <= last:
                owner = addresses[0]
        self._seeds = deque(dict.fromkeys((*nodes, *self.url.seeds)))
        if owner is None and self.slot is not None:
            raise MasterUnknown("the slot of our keys has no master")
        return owner or seed


def _slot(words: Sequence[Any]) -> int | None:
    """The slot of a command's keys: each begins with the account in braces, and so does a pattern for them."""
    named = words[3:4] if words[0] in ("EVAL", "EVALSHA") else words[1:]
    return next((key_slot(word.encode()) for word in named if isinstance(word, str) and word.startswith("{")), None)


class _ToMaster(Connection):
    """A connection to whoever is the master when it connects."""

    def __init__(self, *, masters: _Masters, **options: Any) -> None:
        self.masters = masters
        super().__init__(**options)

    async def connect(self) -> None:
        """A master that was known from before may have lost its part, so then it is looked for once more."""
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
        except BaseException:  # a cancellation too: the server may let everybody wait
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


class _Client(redis.asyncio.Redis):
    """Follows its master. A command that a server has passed on was not executed there, so it is sent once more."""

    @property
    def masters(self) -> _Masters:
        masters: _Masters = self.connection_pool.connection_kwargs["masters"]
        return masters

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        if self.masters.slot is None:
            self.masters.slot = _slot(words)
        run: Run = super().execute_command
        try:
            return await run(*words, **options)
        except ReadOnlyError:
            await hang_up(self, in_use=False)
        except MovedError as error:
            await hang_up(self, in_use=False)
            self.masters.moved(error)
        return await run(*words, **options)

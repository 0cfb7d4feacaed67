"""Finds the master among several Redis servers when a client connects, and notices when another server replaces it.

Sentinels or a cluster may promote another server while the old master still runs and admits calls. So we query them
twice a second, and at once when a Sentinel announces a switch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import redis.asyncio
import redis.exceptions
import structlog
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import MovedError, RedisError, ResponseError

from authz.cancelled import heed_cancellation
from authz.notice import Notice
from authz.redisio.pool import Pool
from authz.redisio.url import Address, RedisUrl, in_words

Run = Callable[..., Awaitable[Any]]  # a command and its reply

SEED_SHARE: Final = 0.5  # of the connect timeout, that one Sentinel or node may take to name the master
LOOK_SECONDS: Final = 0.5  # between two queries for the master
CHECK_SECONDS: Final = 1.0  # between two checks of the role of a server in use
ANSWER_SECONDS: Final = 1.0  # the timeout of a query or check
WATCHERS: Final = 5  # Sentinels or nodes that a process queries repeatedly, at most
LEFT_SECONDS: Final = 30.0  # for which a report that names a former master counts as outdated
SWITCHES: Final = ("+switch-master", "+promoted-slave", "+failover-state-reconf-slaves")

log = structlog.get_logger(__name__)


class MasterUnknown(redis.exceptions.ConnectionError):
    """No Sentinel or node names the master, or the server that we connected to is a replica."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A master, and the epoch of the configuration that names it. Of two reports, the higher epoch is the newer."""

    address: Address
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The report of one Sentinel or node: the owner of each range of slots, and the nodes of the cluster."""

    ranges: tuple[tuple[int, int, Owner], ...]
    nodes: tuple[Address, ...] = ()

    def owner(self, slot: int) -> Owner | None:
        return next((owner for first, last, owner in self.ranges if first <= slot <= last), None)


@dataclass(eq=False)
class Masters:
    """Finds the master for one client: queries Sentinels or nodes in turn, the last one that answered first.

    `known` is the master, None after a fault or a report that contradicts it. `changes` counts the connections to
    another master than before. `slot` is the slot of our keys, taken from the first command.
    """

    url: RedisUrl
    options: dict[str, Any]
    is_tls: bool
    connect_seconds: float
    known: Address | None = None
    changes: int = 0
    slot: int | None = None
    pool: Pool | None = None
    _met: Address | None = None
    _epoch: int = 0
    _left: dict[Address, float] = field(default_factory=dict)  # former masters, and until when each is distrusted
    _seeds: deque[Address] = field(init=False)
    _scout: _Scout | None = None

    def __post_init__(self) -> None:
        self._seeds = deque(self.url.seeds)

    async def find(self) -> Address:
        """Query Sentinels or nodes for the master. Raises MasterUnknown if none of them names it.

        One that lags behind may name a former master. Its report is used only if there is no newer one.
        """
        reason, lagging = "", list[Owner]()
        for _ in range(len(self._seeds)):
            seed = self._seeds[0]
            self._seeds.rotate(-1)  # if our caller gives up on this one, the next search begins with another
            try:
                async with asyncio.timeout(self.connect_seconds * SEED_SHARE), self.node(seed) as client:
                    view = await self.ask(client.execute_command, seed)
                    owner = self._owner(view, seed)
            except (RedisError, OSError, TimeoutError) as error:
                reason = in_words(error)
                continue
            self._take_in(view)
            if self._is_late(owner):
                lagging.append(owner)
                continue
            with suppress(ValueError):  # another search has replaced the list meanwhile
                self._seeds.remove(seed)
                self._seeds.appendleft(seed)
            self._epoch = owner.epoch
            return owner.address
        if lagging:
            self._left.clear()
            owner = max(lagging, key=lambda one: one.epoch)
            self._epoch = owner.epoch
            return owner.address
        raise MasterUnknown(f"no server names the master; the last one: {reason}")

    async def ask(self, run: Run, seed: Address) -> View:
        """Query one Sentinel or node. Raises MasterUnknown."""
        raise NotImplementedError

    async def confirm(self, connection: Connection) -> None:
        """Raises MasterUnknown if the server of this new connection is not a master."""

    async def check(self, client: redis.asyncio.Redis) -> None:
        """Leave the server in use if it reports that it is no longer a master."""

    @asynccontextmanager
    async def node(self, address: Address) -> AsyncIterator[redis.asyncio.Redis]:
        """A client of one Sentinel or node, for a few commands."""
        kind = SSLConnection if self.is_tls else Connection
        options = {**self.options, **self.login(), "host": address[0], "port": address[1]}
        client = redis.asyncio.Redis.from_pool(ConnectionPool(kind, **options))
        try:
            yield client
        finally:
            with suppress(RedisError, OSError):  # a server that does not answer cannot close a TLS connection
                await client.aclose()

    def login(self) -> dict[str, Any]:
        """Return the connection options of Sentinels or nodes that differ from the master's."""
        return {}

    def met(self, address: Address) -> None:
        """Record a connection to the master at `address`, and start watching whether it stays the master."""
        self.known = address
        self.changes += self._met not in (None, address)
        self._met = address
        if self._scout is None:
            self._scout = _Scout.of(self)
            self._scout.followers.append(self)

    def moved(self, error: MovedError) -> None:
        """Take the slot's new owner from a MOVED error. A node that lags behind must not send us back."""
        host = error.host or (self._met or self.url.seeds[0])[0]  # an empty host means that of the node that replied
        self.slot, self.known = error.slot_id, (host, error.port)
        if self._met and self._met != self.known:
            self._left[self._met] = time.monotonic() + LEFT_SECONDS

    def client_in_use(self) -> redis.asyncio.Redis | None:
        """Return a client for a command to the server in use; None if no connection is open."""
        if self.pool and self.pool.is_open:
            return redis.asyncio.Redis(connection_pool=self.pool)
        return None

    async def heard(self, view: View) -> None:
        """Process a report of a Sentinel or node. If it names a new master, leave the old one."""
        owner = view.owner(self.slot or 0)
        if owner is None or self.known is None:
            return
        if owner.address == self.known:
            self._epoch = max(self._epoch, owner.epoch)
        elif not self._is_late(owner):
            await self.leave(owner)

    async def leave(self, heir: Owner | None) -> None:
        """Leave the master. The next command goes to `heir`, or looks up the master if that is None.

        Idle connections are closed now, and connections in use after their command.
        """
        if self.known:
            if heir and heir.epoch > self._epoch:
                self._left.clear()
            self._left[self.known] = time.monotonic() + LEFT_SECONDS
            if self._scout:
                self._scout.tell(self.known, heir.address if heir else None)
        self.known = heir.address if heir else None
        self._epoch = heir.epoch if heir else self._epoch
        if self.pool:
            await self.pool.disconnect(inuse_connections=False)
            await self.pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._scout:
            self._scout.leave(self)
            self._scout = None

    def _is_late(self, owner: Owner) -> bool:
        """True for an outdated report: an earlier epoch, or a former master of this epoch."""
        was = self._left.get(owner.address, 0.0) > time.monotonic()
        return owner.epoch < self._epoch or (owner.epoch == self._epoch and was)

    def _owner(self, view: View, seed: Address) -> Owner:
        """Return the owner of our slot. Before the first command sets the slot, any node will do: it redirects us."""
        owner = view.owner(self.slot) if self.slot is not None else Owner(seed, self._epoch)
        if owner is None:
            raise MasterUnknown("the slot of our keys has no master")
        return owner

    def _take_in(self, view: View) -> None:
        """From now on, query the nodes that a report names, and then those of the URL."""
        if view.nodes:
            self._seeds = deque(dict.fromkeys((*view.nodes, *self.url.seeds)))


class Sentinels(Masters):
    """A master that Sentinels watch."""

    def login(self) -> dict[str, Any]:
        user, password = self.url.login
        return {"username": user or None, "password": password or None, "db": 0}

    async def ask(self, run: Run, seed: Address) -> View:
        try:
            state = await run("SENTINEL", "MASTER", self.url.service)
            epoch = int(dict(zip(state[::2], state[1::2], strict=False)).get(b"config-epoch", 0))
        except ResponseError:  # no such master, or no permission: the next query shows which
            epoch = 0
        found = await run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.url.service)
        if found is None:
            raise MasterUnknown(f"the Sentinel at {seed[0]}:{seed[1]} knows no master of that name")
        owner = Owner((found[0].decode(), int(found[1])), epoch)
        return View(((0, REDIS_CLUSTER_HASH_SLOTS - 1, owner),))

    async def confirm(self, connection: Connection) -> None:
        """Raises MasterUnknown if the server is a replica. A Sentinel may not have noticed this yet."""
        await connection.send_command("ROLE", check_health=False)
        if (await connection.read_response())[0] != b"master":
            raise MasterUnknown("the server is a replica")

    async def check(self, client: redis.asyncio.Redis) -> None:
        run: Run = client.execute_command
        role = await run("ROLE")
        if role[0] != b"master":
            await self.leave(None)

    def _owner(self, view: View, seed: Address) -> Owner:  # noqa: ARG002
        return view.ranges[0][2]


class Cluster(Masters):
    """The cluster node that owns the slot of our keys. A node that loses the slot replies with MOVED."""

    async def ask(self, run: Run, seed: Address) -> View:
        try:
            lines = bytes(await run("CLUSTER", "NODES")).splitlines()
        except ResponseError:  # our user may not run it
            lines = []
        epochs = {words[0]: int(words[6]) for words in (line.split() for line in lines) if len(words) > 6}
        ranges, nodes = [], dict[Address, None]()
        for first, last, *servers in await run("CLUSTER", "SLOTS"):
            addresses = [(server[0].decode() if server[0] else seed[0], int(server[1])) for server in servers]
            nodes.update(dict.fromkeys(addresses))
            epoch = epochs.get(servers[0][2], 0) if len(servers[0]) > 2 else 0
            ranges.append((first, last, Owner(addresses[0], epoch)))
        return View(tuple(ranges), tuple(nodes))


class _Scout:
    """Queries Sentinels or nodes for the master repeatedly, for all clients of an event loop that share a URL.

    Up to WATCHERS of them are queried side by side. One that does not answer makes room for the next.
    """

    _all: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Scout]] = WeakKeyDictionary()

    def __init__(self, masters: Masters) -> None:
        self.followers: list[Masters] = []
        self._masters = masters
        self._url = masters.url
        self._free = deque(masters.url.seeds)
        self._notices: dict[Address, Notice] = {}
        self._told: tuple[Address | None, Address | None] = (None, None)
        self._rung = asyncio.Event()
        # In a context of its own, so that log lines do not carry the fields of the call that started this task.
        self._task = asyncio.get_running_loop().create_task(self._watch(), context=Context())

    @classmethod
    def of(cls, masters: Masters) -> _Scout:
        scouts = cls._all.setdefault(asyncio.get_running_loop(), {})
        name = repr(masters.url)
        if name not in scouts or scouts[name].has_ended:
            scouts[name] = cls(masters)
        return scouts[name]

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    def leave(self, masters: Masters) -> None:
        """Remove a client. Removing the last one ends the task."""
        with suppress(ValueError):
            self.followers.remove(masters)
        if not self.followers:
            self._task.cancel()

    def tell(self, before: Address, after: Address | None) -> None:
        """Log a change of the master once, although several clients notice it."""
        if self._told != (before, after):
            self._told = before, after
            log.warning("redis master changed", before=_text(before), master=_text(after) if after else "looked for")

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_checking())
            for _ in range(WATCHERS if self._url.kind == "cluster" else min(WATCHERS, len(self._free))):
                tasks.create_task(self._keep_asking())

    async def _keep_asking(self) -> None:
        while True:
            if not self._free:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            seed = self._free.popleft()
            notice = self._notices.setdefault(seed, Notice("redis: who names the master is silent", at=_text(seed)))
            try:
                await self._ask_while_it_answers(seed, notice)
            except (RedisError, OSError, TimeoutError) as error:
                notice.says(in_words(error))
            except ExceptionGroup as group:
                notice.says(in_words(group.exceptions[0]))
            heed_cancellation()
            if seed in self._url.seeds:
                self._free.append(seed)
            else:  # it may have left the cluster; if not, another node names it again
                del self._notices[seed]
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask_while_it_answers(self, seed: Address, notice: Notice) -> None:
        async with self._masters.node(seed) as client, asyncio.TaskGroup() as tasks:
            if self._url.kind == "sentinel":
                tasks.create_task(self._listen(client))
            run: Run = client.execute_command
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    view = await self._masters.ask(run, seed)
                notice.ended("redis: who names the master answers again")
                self._take_in(view)
                for masters in list(self.followers):
                    await masters.heard(view)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._rung.wait()

    async def _listen(self, client: redis.asyncio.Redis) -> None:
        """Start a query at once when the Sentinel announces another master."""
        async with client.pubsub() as announcements:
            await announcements.subscribe(*SWITCHES)
            async for _ in announcements.listen():
                self._rung.set()
                await asyncio.sleep(0)
                self._rung.clear()

    async def _keep_checking(self) -> None:
        """Check the server in use with ROLE. A replica is not the master, whatever a Sentinel reports."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for masters in list(self.followers):
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        if client := masters.client_in_use():
                            await masters.check(client)
                except (RedisError, OSError, TimeoutError) as error:
                    log.debug("redis: no answer to ROLE", error=in_words(error))  # the next command fails too
                except Exception:  # the outermost loop: keep checking
                    log.exception("redis: the master was not checked")

    def _take_in(self, view: View) -> None:
        new = [node for node in view.nodes if node not in self._notices and node not in self._free]
        self._free.extend(new)


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def slot_of(words: Sequence[Any]) -> int | None:
    """Return the slot of a command's keys; None without keys.

    Each key, and each pattern for keys, begins with the account in braces.
    """
    named = words[3:4] if words[0] in ("EVAL", "EVALSHA") else words[1:]
    return next((key_slot(word.encode()) for word in named if isinstance(word, str) and word.startswith("{")), None)

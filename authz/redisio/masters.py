"""Who the master is, where several servers share the work: found when a client connects, watched while it serves.

A Sentinel or a cluster may move the master's part to another server while the old one lives on and goes on admitting.
So those that know are asked twice a second, and a Sentinel's announcement asks them at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
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

from authz.notice import Notice
from authz.redisio.pool import Pool
from authz.redisio.url import Address, RedisUrl, in_words

Run = Callable[..., Awaitable[Any]]  # a command and its reply

SEED_SHARE: Final = 0.5  # of the time for connecting, that one Sentinel or node may take to name the master
LOOK_SECONDS: Final = 0.5  # between two questions who the master is
CHECK_SECONDS: Final = 1.0  # between two looks at the role of a server in use
ANSWER_SECONDS: Final = 1.0  # that one may take to answer
WATCHERS: Final = 5  # Sentinels or nodes that a process keeps asking, at most
LEFT_SECONDS: Final = 30.0  # for which a Sentinel may lag behind the one that named another master
SWITCHES: Final = ("+switch-master", "+promoted-slave", "+failover-state-reconf-slaves")

log = structlog.get_logger(__name__)


class MasterUnknown(redis.exceptions.ConnectionError):
    """Nobody says now which server is the master."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A master, and the epoch of the configuration that names it: of two answers, the higher epoch is the later one."""

    address: Address
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """What one Sentinel or node says: the owner of each range of slots, and which other nodes can be asked."""

    ranges: tuple[tuple[int, int, Owner], ...]
    nodes: tuple[Address, ...] = ()

    def owner(self, slot: int) -> Owner | None:
        return next((owner for first, last, owner in self.ranges if first <= slot <= last), None)


@dataclass(eq=False)
class Masters:
    """Who is the master, for one client, by those that know: asked one after the other, who answered last time first.

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
    pool: Pool | None = None
    _met: Address | None = None
    _epoch: int = 0
    _left: dict[Address, float] = field(default_factory=dict)  # masters of this epoch that were, and until when
    _seeds: deque[Address] = field(init=False)
    _scout: _Scout | None = None

    def __post_init__(self) -> None:
        self._seeds = deque(self.url.seeds)

    async def find(self) -> Address:
        """Raises MasterUnknown if nobody can tell.

        One that lags behind may name the master that was: it is believed only if no other knows better.
        """
        reason, lagging = "", list[Owner]()
        for _ in range(len(self._seeds)):
            seed = self._seeds[0]
            self._seeds.rotate(-1)  # whoever lets us wait until we are cancelled is not the first again
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
            self._prefer(seed)
            self._epoch = owner.epoch
            return owner.address
        if lagging:
            self._left.clear()
            owner = max(lagging, key=lambda one: one.epoch)
            self._epoch = owner.epoch
            return owner.address
        raise MasterUnknown(f"nobody names the master; of the last one asked: {reason}")

    async def ask(self, run: Run, seed: Address) -> View:
        """What this one says. Raises MasterUnknown."""
        raise NotImplementedError

    async def confirm(self, connection: Connection) -> None:
        """Raises MasterUnknown if the server that was connected to is no master (any more)."""

    async def check(self, client: redis.asyncio.Redis) -> None:
        """Leave the server in use if it says itself that it is no master any more."""

    def node(self, address: Address) -> redis.asyncio.Redis:
        """A client of this one server, for a few words."""
        kind = SSLConnection if self.is_tls else Connection
        options = {**self.options, **self.login(), "host": address[0], "port": address[1]}
        return redis.asyncio.Redis.from_pool(ConnectionPool(kind, **options))

    def login(self) -> dict[str, Any]:
        """What is told to those that are asked, where it is not what the master is told."""
        return {}

    def met(self, address: Address) -> None:
        """It was connected to, and is the master. From now on it is watched whether it stays so."""
        self.known = address
        self.changes += self._met not in (None, address)
        self._met = address
        if self._scout is None:
            self._scout = _Scout.of(self)
            self._scout.followers.append(self)

    def moved(self, error: MovedError) -> None:
        """A node says who has the slot now; one that lags behind must not send us back."""
        host = error.host or (self._met or self.url.seeds[0])[0]  # an empty one stands for the same
        self.slot, self.known = error.slot_id, (host, error.port)
        if self._met and self._met != self.known:
            self._left[self._met] = time.monotonic() + LEFT_SECONDS

    def client_in_use(self) -> redis.asyncio.Redis | None:
        """A client for a word on a connection that is open; None where there is none."""
        if self.pool and self.pool.has_idle:
            return redis.asyncio.Redis(connection_pool=self.pool)
        return None

    async def heard(self, view: View) -> None:
        """One of those that know says who the master is; if that is news, the old one's connections are left."""
        owner = view.owner(self.slot or 0)
        if owner is None or self.known is None:
            return
        if owner.address == self.known:
            self._epoch = max(self._epoch, owner.epoch)
        elif not self._is_late(owner):
            await self.leave(owner)

    async def leave(self, heir: Owner | None) -> None:
        """Close what is idle and let what is in use end; the next command goes to the heir, or to whoever is found."""
        if self.known:
            if heir and heir.epoch > self._epoch:
                self._left.clear()
            self._left[self.known] = time.monotonic() + LEFT_SECONDS
            if self._scout:
                self._scout.tell(self.known, heir.address if heir else None)
        self.known = heir.address if heir else None
        self._epoch = heir.epoch if heir else self._epoch
        if self.pool:
            with suppress(RedisError, OSError, TimeoutError):  # of a connection that is closed all the same
                await self.pool.disconnect(inuse_connections=False)
            await self.pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._scout:
            self._scout.leave(self)
            self._scout = None

    def _is_late(self, owner: Owner) -> bool:
        """Whether the answer is older than what we know."""
        was = self._left.get(owner.address, 0.0) > time.monotonic()
        return owner.epoch < self._epoch or (owner.epoch == self._epoch and was)

    def _owner(self, view: View, seed: Address) -> Owner:
        """Before the first command tells the slot, any node will do: it says where to go."""
        owner = view.owner(self.slot) if self.slot is not None else Owner(seed, self._epoch)
        if owner is None:
            raise MasterUnknown("the slot of our keys has no master")
        return owner

    def _take_in(self, view: View) -> None:
        """Whoever else is named is asked too from now on."""
        if view.nodes:
            self._seeds = deque(dict.fromkeys((*view.nodes, *self.url.seeds)))

    def _prefer(self, seed: Address) -> None:
        with suppress(ValueError):  # another search has changed them meanwhile
            self._seeds.remove(seed)
            self._seeds.appendleft(seed)


class Sentinels(Masters):
    """A master that Sentinels watch."""

    def login(self) -> dict[str, Any]:
        user, password = self.url.login
        return {"username": user or None, "password": password or None, "db": 0}

    async def ask(self, run: Run, seed: Address) -> View:
        try:
            state = await run("SENTINEL", "MASTER", self.url.service)
            epoch = int(dict(zip(state[::2], state[1::2], strict=False)).get(b"config-epoch", 0))
        except ResponseError:  # no such master, or a user that may not ask: the next question tells
            epoch = 0
        found = await run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.url.service)
        if found is None:
            raise MasterUnknown(f"the Sentinel at {seed[0]}:{seed[1]} knows no master of that name")
        owner = Owner((found[0].decode(), int(found[1])), epoch)
        return View(((0, REDIS_CLUSTER_HASH_SLOTS - 1, owner),))

    async def confirm(self, connection: Connection) -> None:
        """A Sentinel may not have noticed yet that it is a replica now."""
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
    """A cluster's node that has the slot of our keys. One that loses it says so itself, with MOVED."""

    async def ask(self, run: Run, seed: Address) -> View:
        epochs = await _epochs(run)
        ranges, nodes = [], dict[Address, None]()
        for first, last, *servers in await run("CLUSTER", "SLOTS"):
            addresses = [(server[0].decode() if server[0] else seed[0], int(server[1])) for server in servers]
            nodes.update(dict.fromkeys(addresses))
            epoch = epochs.get(servers[0][2], 0) if len(servers[0]) > 2 else 0
            ranges.append((first, last, Owner(addresses[0], epoch)))
        return View(tuple(ranges), tuple(nodes))


async def _epochs(run: Run) -> dict[bytes, int]:
    """The epoch of each node's slots, by its id; none where our user may not ask."""
    try:
        lines = bytes(await run("CLUSTER", "NODES")).splitlines()
    except ResponseError:
        return {}
    return {words[0]: int(words[6]) for words in (line.split() for line in lines) if len(words) > 6}


class _Scout:
    """Asks those that know who the master is, again and again, for all clients of this loop with the same URL.

    A few are asked side by side; one that does not answer makes room for the next.
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
        # In a context of its own, so that no line of the log bears the marks of the call that came first.
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
        """The last one takes the watch with it."""
        with suppress(ValueError):
            self.followers.remove(masters)
        if not self.followers:
            self._task.cancel()

    def tell(self, before: Address, after: Address | None) -> None:
        """Several clients meet the same change; it is one line."""
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
            if seed in self._url.seeds:
                self._free.append(seed)
            else:  # it may have left the cluster for good; the others name it again if not
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
        """Ask at once when the Sentinel announces another master."""
        async with client.pubsub() as announcements:
            await announcements.subscribe(*SWITCHES)
            async for _ in announcements.listen():
                self._rung.set()
                await asyncio.sleep(0)
                self._rung.clear()

    async def _keep_checking(self) -> None:
        """ROLE, on a connection that is in use: whatever others say, a replica is no master."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for masters in list(self.followers):
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        if client := masters.client_in_use():
                            await masters.check(client)
                except (RedisError, OSError, TimeoutError) as error:
                    log.debug("redis: no answer to ROLE", error=in_words(error))  # the next command meets it too
                except Exception:  # the outermost loop: the watch goes on
                    log.exception("redis: the master was not checked")

    def _take_in(self, view: View) -> None:
        new = [node for node in view.nodes if node not in self._notices and node not in self._free]
        self._free.extend(new)


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def slot_of(words: Sequence[Any]) -> int | None:
    """The slot of a command's keys: each begins with the account in braces, and so does a pattern for them."""
    named = words[3:4] if words[0] in ("EVAL", "EVALSHA") else words[1:]
    return next((key_slot(word.encode()) for word in named if isinstance(word, str) and word.startswith("{")), None)

"""The resources in Redis: each write one atomic, versioned step that lands whole or not at all.

Items lie in a hash a kind; what finds them otherwise follows from them (`authz.core.stored.indexes`) and is written
in the same script. The configuration file's items (`fixed`) can be read here too, and are never written.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, WatchError

from authz.aws.errors import ApiError, bad_request, conflict
from authz.background import in_background
from authz.core.limits import redis_key
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.stored import KINDS, Indexes, Item, Items, StoredKey, StoredPlan, id_of, indexes, kind_of, plan_keys
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

T = TypeVar("T")
R = TypeVar("R", bound=Item)

COMMIT: Final = Script.load("commit.lua")
FIND: Final = Script.load("find.lua")
SNAPSHOT: Final = Script.load("snapshot.lua")
LEASE: Final = Script.load("lease.lua")
DUMP: Final = Script.load("dump.lua")

ATTEMPTS: Final = 20  # of a write that loses its race
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.25  # at most, before a write that lost is made again
READINGS: Final = 5  # of a store that is written to meanwhile
REPLICA_MS: Final = 1000  # for which a write waits for replicas,
REPLICA_AGAIN_MS: Final = 100  # and for which the next one does, where they did not answer
LEASE_MS: Final = 3000
GRACE_SECONDS: Final = 0.2  # for which an answer may be late that Redis was asked to hold back
BYTES_A_SECOND: Final = 1_000_000  # a large write has longer than the budget
SLOW_SECONDS: Final = 60.0  # for a command of a backup
CHUNK: Final = 1000  # words, members or keys that are asked for at once where there may be any number
NAMED: Final = 20  # items in an audit line
EVENTS: Final = 1000  # of the change stream in one reading
FIRST_KEY: Final = 7  # of those that the commit script is told by number
KEY_WORD: Final = "key/"  # how the unique words of key values begin
PASSING: Final = ("reply", "flush", "restoring")  # kinds of Redis keys that no backup holds

_SCORED: Final = ("WITHSCORES", "LIMIT")
_DECODERS: Final = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}

Name = tuple[str, str]  # of an item: kind and id
_Body = tuple[tuple[Name, ...], tuple[str, ...], tuple[tuple[str, str], ...]]  # of an event


class StoreUnavailable(Exception):  # noqa: N818  (a state of Redis, not a mistake)
    """Redis cannot be asked; what became of a write is then unknown."""


class ConnectionLost(StoreUnavailable):
    """It took no time to find that out: the connection was closed, perhaps long ago."""


@dataclass(frozen=True, slots=True)
class Head:
    """A state of the store: `version` counts its commits, `tag` is random for each, `epoch` for each life of it."""

    epoch: str = ""
    version: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some items of a list, and the position after them; None on the last page."""

    items: list[R]
    position: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One commit: `previous` is the tag of the one before it, `changes` the items (kind and id) that it wrote.

    `indexes` are the digests of all keys it touched, `usage` the callers (plan and key) whose counters were set.
    """

    version: int
    previous: str
    tag: str
    changes: tuple[Name, ...] = ()
    indexes: tuple[str, ...] = ()
    usage: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a digest stands for, and the state of the store that says so."""

    head: Head
    key: StoredKey | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a catalog is compiled from; no keys, and of the deployments those that stages use."""

    head: Head
    items: Items


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who wrote what; `at` in µs of Unix time."""

    version: int
    at: int
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Which state of the store a living worker serves."""

    worker: str
    epoch: str
    version: int


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """What an edit gave back, and the version of the store that has it.

    `at_risk` says why a failover may lose it: replicas that should have it have not said so. "" if they have.
    """

    result: T
    version: int
    at_risk: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A Redis key of the account in a backup: its name within the account, Redis's own form of it, its life in ms."""

    name: str
    value: bytes
    lasts: int | None = None


@dataclass(frozen=True, slots=True)
class _Fixed:
    """The configuration file's items, and where to find them."""

    items: Items
    lists: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    unique: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Items) -> _Fixed:
        fixed = cls(items)
        for (kind, item_id), item in sorted(items.items(), key=lambda pair: pair[0]):
            found = indexes(item)
            for name in found.lists:
                fixed.lists.setdefault(name, []).append(item_id)
            fixed.words.extend(found.sorted)
            fixed.unique.update(dict.fromkeys(found.unique, f"{kind}/{item_id}"))
        fixed.words.sort()
        return fixed

    def after(self, list_: str, item_id: str | None) -> Iterable[str]:
        """The members of a list behind this one."""
        return (member for member in self.lists.get(list_, ()) if item_id is None or member > item_id)

    def words_after(self, prefix: str, word: str | None, within: str | None) -> Iterable[str]:
        """The words of this prefix behind this one."""
        members = None if within is None else set(self.lists.get(within, ()))
        for found in self.words[bisect_left(self.words, word or prefix) :]:
            if not found.startswith(prefix):
                return
            if found != word and (members is None or _id_in(found) in members):
                yield found


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a page ends: at a mark of the store's, or of the file's, which come after them."""

    mark: str | None = None
    in_file: bool = False

    @classmethod
    def read(cls, position: str | None, pattern: str = "") -> _Cursor:
        """Raises BadRequestException for what is no position of ours."""
        if position is None:
            return cls()
        try:
            text = urlsafe_b64decode(position.encode()).decode()
        except ValueError:
            text = ""
        if text[:1] == "f" or (text[:1] == "s" and re.fullmatch(pattern, text[1:], re.DOTALL)):
            return cls(text[1:], text[0] == "f")
        raise bad_request("Invalid position parameter")

    def __str__(self) -> str:
        return urlsafe_b64encode(f"{'f' if self.in_file else 's'}{self.mark}".encode()).decode()


class Store:
    """The store of one account. `budget` is in seconds for each command, `clock` in µs of Unix time, for tests.

    `replicas` is how many must have a write, None for what the URL suggests. `at_risk` says why the last write may be
    lost in a failover.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 1.0,
        fixed: Callable[[], Items] = dict,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
    ) -> None:
        self.at_risk = ""
        self.address = mask_url(url)
        self._replicas = replicas_for(url, replicas)
        self._turn = asyncio.Lock()
        self._redis = connect(url, budget)
        self._stream = connect(url, budget)
        self._account = account
        self._budget = budget
        self._told = fixed
        self._known = _Fixed({})
        self._clock = clock or (lambda: 0)

    async def get(self, kind: str, item_id: str) -> Item | None:
        return (await self.many(kind, (item_id,)))[0]

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        """The items of these ids, None for each that is not there."""
        fixed = self.fixed.items
        asked = [item_id for item_id in ids if (kind, item_id) not in fixed]
        found = dict(zip(asked, await self.raw(kind, asked), strict=True))
        return [fixed.get((kind, item_id)) or _decoded(kind, found.get(item_id)) for item_id in ids]

    async def page(self, kind: str, list_: str, limit: int, position: str | None = None) -> Page[Any]:
        """Members of a list, the newest first, and then the file's. What joins it meanwhile is on no later page."""
        cursor = _Cursor.read(position, r"[0-9]{1,16}")
        marks: list[tuple[_Cursor, str]] = []
        if not cursor.in_file:
            top = "+inf" if cursor.mark is None else f"({cursor.mark}"
            rows = await self._ask("ZREVRANGEBYSCORE", self.list_key(list_), top, "-inf", *_SCORED, 0, limit + 1)
            marks = [
                (_Cursor(score.decode()), member.decode()) for member, score in zip(rows[::2], rows[1::2], strict=True)
            ]
        rest = self.fixed.after(list_, cursor.mark if cursor.in_file else None)
        marks.extend((_Cursor(member, in_file=True), member) for member in islice(rest, limit + 1 - len(marks)))
        return await self._page(kind, marks, limit)

    async def search(
        self, prefix: str, limit: int, position: str | None = None, within: str | None = None
    ) -> Page[StoredKey]:
        """Keys in the order of their words in `Indexes.sorted`, and then the file's; members of list `within` alone."""
        cursor = _Cursor.read(position, re.escape(prefix) + ".*")
        marks: list[tuple[_Cursor, str]] = []
        if not cursor.in_file:
            words = self._words(prefix, cursor.mark, limit + 1, within)
            marks = [(_Cursor(word), _id_in(word)) async for word in words]
        rest = self.fixed.words_after(prefix, cursor.mark if cursor.in_file else None, within)
        marks.extend((_Cursor(word, in_file=True), _id_in(word)) for word in islice(rest, limit + 1 - len(marks)))
        return await self._page("apikey", marks, limit)

    async def members(self, list_: str) -> list[str]:
        """The ids in a list, the newest first, and then the file's."""
        return [*await self.raw_members(list_), *self.fixed.after(list_, None)]

    async def count(self, list_: str) -> int:
        return int(await self._ask("ZCARD", self.list_key(list_))) + len(self.fixed.lists.get(list_, ()))

    async def owner(self, unique: str) -> str | None:
        """Whose word it is, as `kind/id`."""
        if unique in self.fixed.unique:
            return self.fixed.unique[unique]
        found = await self._ask("HGET", self._key("unique"), unique)
        return None if found is None else found.decode()

    async def write(
        self, edit: Callable[[Edit], Awaitable[T]], *, who: str, what: str, note: Callable[[], str] = str
    ) -> Written[T]:
        """Make an edit and commit it, whole or not at all; one that lost a race is made again.

        The audit line ends with `note()`, read after the edit.

        Raises what `edit` raises, what it has named for a word that is taken or lists that overlap,
        ConflictException if it loses again and again, and StoreUnavailable.
        """
        for attempt in range(ATTEMPTS):
            # Those that lost once take turns in this process; others may still come first, so the pauses differ.
            async with self._turn if attempt or self._turn.locked() else nullcontext():
                draft = Edit(self)
                result = await edit(draft)
                committed = await self._commit(draft, who, what, note())
            if committed is not None:
                return Written(result, *committed)
            await _pause(attempt)
        raise conflict("Unable to complete operation due to concurrent modification. Please try again later.")

    async def head(self) -> Head:
        return (await self._find("")).head

    async def find(self, index: str) -> Found:
        """The key whose value, or value before the last rotation, has this digest (hex).

        A caller waits for it, and nothing is written: so a connection that has died is made anew, once.
        """
        with suppress(ConnectionLost):
            return await self._find(KEY_WORD + index)
        return await self._find(KEY_WORD + index)

    async def snapshot(self) -> Snapshot:
        kinds = ("stage", "deployment", "usageplan", "domain", "account")
        names = [self._key("head"), *map(self.items_key, kinds)]
        return await in_background(_snapshot, kinds, await self._run(SNAPSHOT, names, b""))

    async def changes(self, after: int, block_ms: int) -> list[Event]:
        """The commits after a version; waits so long for the first, on a connection of its own."""
        seconds = block_ms / 1000 + GRACE_SECONDS
        wait = ("BLOCK", block_ms) if block_ms else ()
        try:
            async with asyncio.timeout(seconds):
                run: Callable[..., Awaitable[Any]] = self._stream.execute_command
                streams = await run("XREAD", "COUNT", EVENTS, *wait, "STREAMS", self._key("changes"), f"{after}-0")
        except (RedisError, OSError, TimeoutError) as error:
            await self.hang_up()  # half open, perhaps, as all the others
            raise _unavailable(error) from error
        return [_event(entry_id, fields) for _, entries in streams or () for entry_id, fields in entries]

    async def hang_up(self) -> None:
        """Connect anew: the name of the server may stand for another one."""
        await hang_up(self._stream)
        await hang_up(self._redis, in_use=False)

    async def audit(self, count: int = 100, after: int | None = None) -> list[AuditLine]:
        """The lines after a version in their order, or the last ones."""
        key = self._key("audit")
        if after is None:
            rows = (await self._ask("XREVRANGE", key, "+", "-", "COUNT", count))[::-1]
        else:
            rows = await self._ask("XRANGE", key, f"({after}-0", "+", "COUNT", count)
        return [_line(entry_id, fields) for entry_id, fields in rows]

    async def renew_lease(self, worker: str, served: Head) -> Head:
        """For 3 s; tells the state of the store at that moment."""
        return (await self._lease(worker, served))[0]

    async def leases(self) -> list[Lease]:
        """Those that have not expired."""
        return (await self._lease("", Head()))[1]

    async def drop_lease(self, worker: str) -> None:
        await self._ask("HDEL", self._key("leases"), worker)

    async def aclose(self) -> None:
        await self._redis.aclose()
        await self._stream.aclose()

    async def check(self) -> list[str]:
        """Derive all indexes from the items again, and name what differs from those that are there."""
        for _ in range(READINGS):
            before = await self.head()
            differences = await self._differences()
            if await self.head() == before:
                return differences
        raise conflict("the store is written to all the time")

    async def dump(self) -> AsyncIterator[Kept]:
        """A backup: the store as of one moment, and then the counters."""
        for _ in range(READINGS):
            kept = await self._dumped(await self._store_keys(), str((await self.head()).version))
            if kept is not None:
                break
        else:
            raise conflict("the store is written to all the time")
        for one in kept:
            yield one
        store = self._name_of(self._key(""))
        async for names in self._scan(""):
            counters = [name for name in names if not name.startswith(store) and name.split(":")[0] not in PASSING]
            for one in await self._dumped(counters, "") or ():
                yield one

    async def load(self, backup: AsyncIterable[Kept]) -> int:
        """Put a backup in the place of all that is there, under a new epoch. Returns how many Redis keys it held."""
        aside: dict[str, str] = {}
        await self._clear_aside()
        try:
            async for kept in backup:
                aside[kept.name] = redis_key(self._account, "restoring", os.urandom(8).hex())
                await self._slow("RESTORE", aside[kept.name], kept.lasts or 0, kept.value)
            epoch = await self._swap(aside)
            await self._wait_for(epoch)
        except BaseException:
            with suppress(StoreUnavailable):
                await self._clear_aside()
            raise
        return len(aside)

    # What an edit is made of.

    @property
    def fixed(self) -> _Fixed:
        """The file's items as of now; it may be reloaded."""
        told = self._told()
        if told is not self._known.items and told != self._known.items:
            self._known = _Fixed.of(told)
        return self._known

    async def raw(self, kind: str, ids: Sequence[str]) -> list[bytes | None]:
        """The store's items as they lie in Redis."""
        if not ids:
            return []
        return cast("list[bytes | None]", await self._ask("HMGET", self.items_key(kind), *ids))

    async def raw_members(self, list_: str) -> list[str]:
        """The store's members of a list, the newest first."""
        return [member.decode() for member in await self._ask("ZREVRANGE", self.list_key(list_), 0, -1)]

    def items_key(self, kind: str) -> str:
        return self._key("item", kind)

    def list_key(self, list_: str) -> str:
        return self._key("list", list_)

    # Redis.

    def _key(self, *parts: str) -> str:
        return redis_key(self._account, "store", *parts)

    def _name_of(self, key: str) -> str:
        """Of a Redis key within the account."""
        return key.removeprefix(redis_key(self._account, ""))

    async def _ask(self, *words: Any) -> Any:
        run: Callable[..., Awaitable[Any]] = self._redis.execute_command
        async with self._within(self._budget):
            return await run(*words)

    async def _slow(self, *words: Any) -> Any:
        run: Callable[..., Awaitable[Any]] = self._redis.execute_command
        async with self._within(SLOW_SECONDS):
            return await run(*words)

    async def _run(self, script: Script, keys: Sequence[str], *args: bytes) -> Any:
        async with self._within(self._budget + sum(map(len, args)) / BYTES_A_SECOND):
            return await evaluate(self._redis, script, keys, *args)

    async def _run_and_wait(self, script: Script, keys: Sequence[str], *args: bytes) -> Waited:
        """A script that writes. What it writes is known to enough replicas, or `at_risk`."""
        if not self._replicas:
            return Waited(await self._run(script, keys, *args), "")
        milliseconds = REPLICA_AGAIN_MS if self.at_risk else REPLICA_MS
        seconds = self._budget + sum(map(len, args)) / BYTES_A_SECOND + milliseconds / 1000 + WAIT_SLACK_SECONDS
        async with self._within(seconds):
            waited = await evaluate_and_wait(
                self._redis, script, keys, *args, replicas=self._replicas, milliseconds=milliseconds
            )
        self.at_risk = waited.at_risk
        return waited

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            await hang_up(self._redis, in_use=False)  # what else is idle has most likely gone with the same Redis
            raise _unavailable(error) from error

    async def _find(self, word: str) -> Found:
        reply = await self._run(FIND, *self._finding(word))
        epoch, version, tag, raw = msgspec.msgpack.decode(reply, type=tuple[str, int, str, str])
        return Found(Head(epoch, version, tag), cast("StoredKey", _item("apikey", raw)) if raw else None)

    def _finding(self, word: str) -> tuple[list[str], bytes]:
        keys = [self._key("head"), self._key("unique"), self.items_key("apikey")]
        return keys, msgspec.msgpack.encode((word, len("apikey/")))

    async def _lease(self, worker: str, served: Head) -> tuple[Head, list[Lease]]:
        blob = msgspec.msgpack.encode((worker, served.epoch, served.version, LEASE_MS, self._clock() // 1000))
        reply = await self._run(LEASE, [self._key("leases"), self._key("head")], blob)
        epoch, version, tag, rows = msgspec.msgpack.decode(reply)
        return Head(epoch, version, tag), [Lease(*row) for row in sorted(rows)]

    async def _page(self, kind: str, marks: Sequence[tuple[_Cursor, str]], limit: int) -> Page[Any]:
        """The page of these marks, of which there is one too many unless it is the last."""
        here = marks[:limit]
        items = await self.many(kind, [item_id for _, item_id in here])
        position = str(here[-1][0]) if len(marks) > limit else None
        return Page([item for item in items if item is not None], position)

    async def _words(self, prefix: str, after: str | None, count: int, within: str | None) -> AsyncIterator[str]:
        """So many words of this prefix; those outside of `within` are passed over in large steps."""
        step = count if within is None else CHUNK
        start, end = (
            b"[" + prefix.encode() if after is None else b"(" + after.encode(),
            b"[" + prefix.encode() + b"\xff",
        )
        while count > 0:
            words = await self._ask("ZRANGEBYLEX", self._key("sorted"), start, end, "LIMIT", 0, step)
            for word in await self._inside(within, [word.decode() for word in words]):
                yield word
                count -= 1
                if count == 0:
                    return
            if len(words) < step:
                return
            start = b"(" + words[-1]

    async def _inside(self, list_: str | None, words: list[str]) -> list[str]:
        if list_ is None or not words:
            return words
        scores = await self._ask("ZMSCORE", self.list_key(list_), *map(_id_in, words))
        return [word for word, score in zip(words, scores, strict=True) if score is not None]

    async def _commit(self, draft: Edit, who: str, what: str, note: str) -> tuple[int, str] | None:
        """The version that has it, and why it is at risk; None for a lost race."""
        plan = await draft.plan()
        if not (plan.changes or plan.drops or draft.usage):
            return (await self.head()).version, ""
        named = _naming(what, plan.changes) + (f" ({note})" if note else "")
        blob = (os.urandom(8).hex(), os.urandom(8).hex(), self._clock(), who, named, plan.conditions, plan.writes)
        fixed = [self._key(part) for part in ("head", "changes", "audit", "unique", "sorted", "lists")]
        body = msgspec.msgpack.encode((plan.changes, sorted(plan.indexes), draft.usage))
        waited = await self._run_and_wait(COMMIT, [*fixed, *plan.numbers], msgspec.msgpack.encode(blob), body)
        status, number, version = msgspec.msgpack.decode(waited.reply, type=tuple[str, int, int])
        match status:
            case "taken":
                raise plan.taken[number - 1]
            case "overlap":
                raise draft.overlaps[number - 1]
        return (version, waited.at_risk) if status == "done" else None

    # Checks and backups.

    async def _differences(self) -> list[str]:
        items = await self._all_items()
        plans = [item for item in (*items.values(), *self.fixed.items.values()) if isinstance(item, StoredPlan)]
        wanted = _Derived.of(items, frozenset(plan_keys(plan.ref) for plan in plans))
        return wanted.differences(await self._derived())

    async def _all_items(self) -> Items:
        found: Items = {}
        for kind in KINDS:
            rows = await self._slow("HGETALL", self.items_key(kind))
            found.update({(kind, item_id.decode()): _item(kind, raw) for item_id, raw in rows.items()})
        return found

    async def _derived(self) -> _Derived:
        """The indexes that are there; a list that is not registered shows under its Redis key."""
        derived = _Derived()
        keys = {name async for names in self._scan(self._name_of(self.list_key(""))) for name in names}
        for name in await self._list_names():
            keys.discard(self._name_of(self.list_key(name)))
            derived.lists[name] = sorted(await self.raw_members(name))
        derived.lists.update({key: ["a list that is not registered"] for key in keys})
        words = await self._slow("ZRANGE", self._key("sorted"), 0, -1)
        derived.words = {word.decode(): "there" for word in words}
        unique = await self._slow("HGETALL", self._key("unique"))
        derived.unique = {word.decode(): owner.decode() for word, owner in unique.items()}
        return derived

    async def _list_names(self) -> list[str]:
        return [name.decode() for name in await self._slow("SMEMBERS", self._key("lists"))]

    async def _store_keys(self) -> list[str]:
        parts = ("head", "changes", "audit", "unique", "sorted", "lists")
        keys = [*map(self._key, parts), *map(self.items_key, KINDS), *map(self.list_key, await self._list_names())]
        return [self._name_of(key) for key in keys]

    async def _dumped(self, names: Sequence[str], version: str) -> list[Kept] | None:
        """These keys, without those that are gone; None if the store has another version."""
        keys = [redis_key(self._account, "") + name for name in names]
        async with self._within(SLOW_SECONDS):
            reply = await evaluate(self._redis, DUMP, [self._key("head"), *keys], version.encode())
        if reply is None:
            return None
        return [
            Kept(name, value, None if lasts < 0 else lasts)
            for name, (value, lasts) in zip(names, reply, strict=True)
            if value is not None
        ]

    async def _scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names of the account's Redis keys that begin so, in chunks; a name may come twice."""
        pattern, cursor = re.sub(r"([\\*?\[\]])", r"\\\1", redis_key(self._account, "") + prefix) + "*", 0
        while True:
            cursor, keys = await self._slow("SCAN", cursor, "MATCH", pattern, "COUNT", CHUNK)
            yield [self._name_of(key.decode()) for key in keys]
            if int(cursor) == 0:
                return

    async def _clear_aside(self) -> None:
        """What a restore that ended half way has left."""
        async for names in self._scan("restoring:"):
            if names:
                await self._slow("UNLINK", *(redis_key(self._account, "") + name for name in names))

    async def _swap(self, aside: Mapping[str, str]) -> str:
        """All that was there makes room for what was put aside, in one step and under a new epoch.

        Counters of callers are looked for first, which takes time; then only the store's own keys, so that the moment
        in which a write of others would get in our way is short. If one does, it is tried again. Returns the epoch.
        """
        epoch = os.urandom(8).hex()
        counters = {name async for names in self._scan("") for name in names if not name.startswith("restoring:")}
        for attempt in range(ATTEMPTS):
            if await self._swapped(aside, counters, epoch):
                return epoch
            await _pause(attempt)
        raise conflict(
            "the store is written to all the time, and nothing was restored: "
            "stop what writes (the control plane, authz import) and restore again"
        )

    async def _wait_for(self, epoch: str) -> None:
        """Until enough replicas have all that this master has, or `at_risk` says that they do not."""
        if self._replicas:
            waited = await self._run_and_wait(FIND, *self._finding(""))
            if msgspec.msgpack.decode(waited.reply)[0] != epoch:
                self.at_risk = "another server has become the master meanwhile"

    async def _swapped(self, aside: Mapping[str, str], names: Set[str], epoch: str) -> bool:
        """False if somebody else added a list meanwhile, which would stay behind; nothing has changed then."""
        prefix, head = redis_key(self._account, ""), self._key("head")
        async with self._within(SLOW_SECONDS), self._redis.pipeline(transaction=True) as steps:
            await steps.watch(self._key("lists"))  # a write that neither adds nor ends a list is replaced whole
            old = {*names, *await self._store_keys()}
            steps.multi()  # type: ignore[no-untyped-call]
            for some in _chunks(sorted(old)):
                steps.unlink(*(prefix + name for name in some))
            for name, key in aside.items():
                steps.rename(key, prefix + name)
            steps.hset(head, mapping={"epoch": epoch, "tag": os.urandom(8).hex()})
            try:
                await steps.execute()
            except WatchError:
                return False
        return True


class Edit:
    """A change in the making: reads are remembered and become conditions of the commit, writes wait for it."""

    def __init__(self, store: Store) -> None:
        self.usage: list[tuple[str, str]] = []
        self.overlaps: list[ApiError] = []
        self._store = store
        self._fixed = store.fixed
        self._read: dict[Name, bytes | None] = {}
        self._members: dict[str, list[str]] = {}
        self._new: dict[Name, Item | None] = {}
        self._taken: dict[Name, ApiError] = {}
        self._dropped: dict[str, None] = {}
        self._disjoint: list[tuple[str, str]] = []

    async def get(self, kind: str, item_id: str) -> Item | None:
        return (await self.many(kind, (item_id,)))[0]

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        """The items as this edit has them."""
        await self._remember(kind, [item_id for item_id in ids if (kind, item_id) not in self._fixed.items])
        return [self._now(kind, item_id) for item_id in ids]

    async def members(self, list_: str) -> list[str]:
        """The ids in a list as they were before this edit."""
        if list_ not in self._members:
            self._members[list_] = await self._store.raw_members(list_)
        return [*self._members[list_], *self._fixed.after(list_, None)]

    def put(self, item: Item, *, taken: ApiError | None = None) -> None:
        """Raises ConflictException for the file's; the commit raises `taken` if a unique word has another owner."""
        name = (kind_of(item), id_of(item))
        self._check_writable(*name)
        self._new[name] = item
        if taken:
            self._taken[name] = taken

    def delete(self, kind: str, item_id: str) -> None:
        self._check_writable(kind, item_id)
        self._new[kind, item_id] = None

    def drop(self, list_: str) -> None:
        """The whole list, whatever its members say."""
        self._dropped[list_] = None

    def disjoint(self, list_a: str, list_b: str, otherwise: ApiError) -> None:
        """Commit only if these lists, as they are before it, have no member in common."""
        if set(self._fixed.after(list_a, None)) & set(self._fixed.after(list_b, None)):
            raise otherwise
        self._disjoint.append((list_a, list_b))
        self.overlaps.append(otherwise)

    def touch_usage(self, plan_id: str, key_id: str) -> None:
        """Tell the readers of the change stream that this caller's counters were set."""
        self.usage.append((plan_id, key_id))

    async def plan(self) -> _Plan:
        """All of it in the words of the commit script. Raises what `put` has named for a word of the file's."""
        for kind, item_id in self._new:
            await self._remember(kind, [item_id])
        changes = [_Change(*name, self._read[name], new) for name, new in self._new.items()]
        plan = _Plan(self._store)
        plan.write([change for change in changes if change.before != change.after], self._taken, self._fixed.unique)
        plan.drops.extend((plan.list_at(list_), list_) for list_ in self._dropped)
        plan.require(self._read, self._members, self._disjoint)
        return plan

    async def _remember(self, kind: str, ids: Sequence[str]) -> None:
        missing = [item_id for item_id in ids if (kind, item_id) not in self._read]
        for item_id, raw in zip(missing, await self._store.raw(kind, missing), strict=True):
            self._read[kind, item_id] = raw

    def _now(self, kind: str, item_id: str) -> Item | None:
        name = (kind, item_id)
        if name in self._fixed.items:
            return self._fixed.items[name]
        return self._new[name] if name in self._new else _decoded(kind, self._read[name])

    def _check_writable(self, kind: str, item_id: str) -> None:
        if (kind, item_id) in self._fixed.items:
            raise conflict(f"The {kind} {item_id} is defined in the configuration file, and so read-only here")


@dataclass(frozen=True, slots=True)
class _Change:
    """An item before and after an edit."""

    kind: str
    item_id: str
    before: bytes | None
    new: Item | None

    @property
    def owner(self) -> str:
        return f"{self.kind}/{self.item_id}"

    @property
    def after(self) -> bytes | None:
        return None if self.new is None else msgspec.json.encode(self.new)

    def indexes(self) -> tuple[Indexes, Indexes]:
        """What led to it before, and what does after."""
        old = _decoded(self.kind, self.before)
        return indexes(old) if old else Indexes(), indexes(self.new) if self.new else Indexes()


@dataclass(slots=True)
class _Plan:
    """An edit in the words of `lua/commit.lua`; `numbers` are those of its Redis keys."""

    store: Store
    numbers: dict[str, int] = field(default_factory=dict)
    conditions: tuple[list[Any], ...] = field(default_factory=lambda: ([], [], [], []))
    sets: list[tuple[int, str, str]] = field(default_factory=list)
    dels: list[tuple[int, str]] = field(default_factory=list)
    joins: list[tuple[int, str, str]] = field(default_factory=list)
    leaves: list[tuple[int, str, str]] = field(default_factory=list)
    drops: list[tuple[int, str]] = field(default_factory=list)
    words: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    claims: dict[str, str] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    taken: list[ApiError] = field(default_factory=list)
    changes: list[Name] = field(default_factory=list)
    indexes: set[str] = field(default_factory=set)

    @property
    def writes(self) -> tuple[Any, ...]:
        released = [word for word in self.releases if word not in self.claims]
        claims = list(self.claims.items())
        return (self.sets, self.dels, self.joins, self.leaves, self.drops, self.words, claims, released)

    def item_at(self, kind: str) -> int:
        return self._number(self.store.items_key(kind))

    def list_at(self, list_: str) -> int:
        return self._number(self.store.list_key(list_))

    def write(self, changes: Sequence[_Change], taken: Mapping[Name, ApiError], fixed: Mapping[str, str]) -> None:
        """These items, and what follows from them."""
        diffs = [(change, *change.indexes()) for change in changes]
        for change, old, new in diffs:
            self._set(change)
            self.joins.extend((self.list_at(name), name, change.item_id) for name in sorted(new.lists - old.lists))
            self.leaves.extend((self.list_at(name), name, change.item_id) for name in sorted(old.lists - new.lists))
            self.words[0].extend(sorted(new.sorted - old.sorted))
            self.words[1].extend(sorted(old.sorted - new.sorted))
            self.releases.update(dict.fromkeys(old.unique - new.unique, change.owner))
            both = old.unique | new.unique
            self.indexes.update(word.removeprefix(KEY_WORD) for word in both if word.startswith(KEY_WORD))
        for change, old, new in diffs:
            otherwise = taken.get((change.kind, change.item_id)) or conflict(f"{change.owner} is not unique")
            for word in sorted(new.unique - old.unique):
                if word in fixed or word in self.claims:
                    raise otherwise
                self._claim(word, change.owner, otherwise)

    def require(
        self, read: Mapping[Name, bytes | None], members: Mapping[str, list[str]], disjoint: Iterable[tuple[str, str]]
    ) -> None:
        """All that was read is as it was."""
        items, lists, _, pairs = self.conditions
        for (kind, item_id), raw in read.items():
            items.append((self.item_at(kind), item_id, _sha1(raw) if raw else ""))
        for list_, ids in members.items():
            lists.append((self.list_at(list_), _sha1("\0".join(ids).encode())))
        pairs.extend((self.list_at(one), self.list_at(other)) for one, other in disjoint)

    def _set(self, change: _Change) -> None:
        self.changes.append((change.kind, change.item_id))
        after, at = change.after, self.item_at(change.kind)
        if after is None:
            self.dels.append((at, change.item_id))
        else:
            self.sets.append((at, change.item_id, after.decode()))

    def _claim(self, word: str, owner: str, otherwise: ApiError) -> None:
        """Another owner's word is free to take if the same edit releases it."""
        self.claims[word] = owner
        self.conditions[2].append((word, [owner, self.releases[word]] if word in self.releases else [owner]))
        self.taken.append(otherwise)

    def _number(self, key: str) -> int:
        return self.numbers.setdefault(key, len(self.numbers) + FIRST_KEY)


@dataclass(slots=True)
class _Derived:
    """Indexes as a whole: the members of each list, the sorted words, the owner of each unique one."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    unique: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Items, alive: frozenset[str]) -> _Derived:
        """What should be there; keys may still name plans that are gone, whose lists are gone with them."""
        derived = cls()
        for (kind, item_id), item in sorted(items.items(), key=lambda pair: pair[0]):
            found = indexes(item)
            for name in found.lists:
                if name in alive or not name.startswith(plan_keys("")):
                    derived.lists.setdefault(name, []).append(item_id)
            derived.words.update(dict.fromkeys(found.sorted, "there"))
            derived.unique.update(dict.fromkeys(found.unique, f"{kind}/{item_id}"))
        return derived

    def differences(self, there: _Derived) -> list[str]:
        parts = (
            ("list", self.lists, there.lists),
            ("word", self.words, there.words),
            ("unique word", self.unique, there.unique),
        )
        return [
            f"{what} {word!r}: {have.get(word, 'nothing')} instead of {want.get(word, 'nothing')}"
            for what, want, have in parts
            for word in sorted(want.keys() | have.keys())
            if want.get(word) != have.get(word)
        ]


async def _pause(attempt: int) -> None:
    """Before what lost a race is tried again: longer each time, and never as long as the others' pause."""
    longest = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  (no secret)


def _unavailable(error: Exception) -> StoreUnavailable:
    lost = isinstance(error, (RedisConnectionError, OSError)) and not isinstance(error, TimeoutError)
    kind = ConnectionLost if lost else StoreUnavailable
    return kind(f"Redis cannot be asked: {in_words(error)}")


def _item(kind: str, raw: bytes | str) -> Item:
    return cast("Item", _DECODERS[kind].decode(raw))


def _decoded(kind: str, raw: bytes | None) -> Item | None:
    return None if raw is None else _item(kind, raw)


def _snapshot(kinds: Iterable[str], reply: bytes) -> Snapshot:
    epoch, version, tag, lists = msgspec.msgpack.decode(reply)
    found = [(kind, _item(kind, raw)) for kind, raws in zip(kinds, lists, strict=True) for raw in raws]
    # Sorted: the order of a hash in Redis changes while it grows, and is another one in each Redis.
    items = {(kind, id_of(item)): item for kind, item in found}
    return Snapshot(Head(epoch, version, tag), dict(sorted(items.items(), key=lambda one: one[0])))


def _event(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    changes, touched, usage = msgspec.msgpack.decode(fields[b"body"], type=_Body)
    return Event(_version(entry_id), fields[b"previous"].decode(), fields[b"tag"].decode(), changes, touched, usage)


def _line(entry_id: bytes, fields: Mapping[bytes, bytes]) -> AuditLine:
    return AuditLine(_version(entry_id), int(fields[b"at"]), fields[b"who"].decode(), fields[b"what"].decode())


def _naming(what: str, changes: Sequence[Name]) -> str:
    """What is done, and the items it writes that are not named there yet: above all those that are new."""
    words = set(what.split())
    names = [f"{kind}/{item_id}" for kind, item_id in changes if item_id not in words]
    more = (f"and {len(names) - NAMED} more",) if len(names) > NAMED else ()
    return " ".join((what, *names[:NAMED], *more))


def _version(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _id_in(word: str) -> str:
    """The id at the end of a sorted word."""
    return word.rpartition("\0")[2]


def _sha1(raw: bytes) -> str:
    """As Redis's `sha1hex`: to tell values apart, not to guard them."""
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + CHUNK] for at in range(0, len(names), CHUNK))

"""Keeps the catalog in step with the store: follows its change stream, compiles its resources, swaps one reference."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from authz.aws.convert import clashes, to_resources, unauthorized
from authz.background import PIECE, in_background, let_go
from authz.config.file import Config
from authz.config.live import LiveCatalog, Outcome, Version
from authz.core.catalog import Catalog
from authz.core.resources import Resources
from authz.core.stored import Items
from authz.notice import Notice
from authz.observe.metrics import VERSION
from authz.redisio.url import in_words
from authz.store.feed import EVENTS
from authz.store.keys import StoreKeyCache
from authz.store.ports import CallerName, ChangeFeed, Event, Head, StoreUnavailable

BLOCK_MILLISECONDS: Final = 200
ANSWER_SECONDS: Final = 0.4  # the timeout of head and presence; a slower connection counts as dead
RECONNECT_SECONDS: Final = 0.1
LONGEST_RECONNECT_SECONDS: Final = 2.0
PRESENCE_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.2  # when the store cannot be read
REFUSED_SECONDS: Final = 5.0  # when its resources cannot be compiled
MAX_TOLD: Final = 10  # methods without their authorization, in a log line and on the status page
COMPILED: Final = frozenset({"account", "domain", "stage", "usageplan"})  # the kinds of items that a catalog is made of

T = TypeVar("T")

log = structlog.get_logger(__name__)

Compile = Callable[[Resources, Mapping[str, str]], Catalog]
Callers = tuple[CallerName, ...]

NONE: Final = Version(0, "")


@dataclass(frozen=True, slots=True)
class _Taken:
    """The catalog in force, and the version of the store from which it was made.

    `life` counts the starts of the change stream: versions of different lives cannot be compared.
    """

    catalog: Catalog | None = None
    version: Version = NONE
    loaded_at: float = 0.0
    life: int = -1
    store: int = 0


class StoreCatalog:
    """The catalog of the store's resources and the file's, if there is a file; None until the store is first read.

    `ring` receives every change, and `observe` the outcome of every reload. `reset` receives the callers whose counters
    were set, or None if they are unknown. `worker` names us in our presence, for calls of the control plane that wait
    for a version. `rest` pauses before the stream is retried; tests replace it.
    """

    def __init__(
        self,
        store: ChangeFeed,
        ring: StoreKeyCache,
        compile_: Compile,
        *,
        worker: str,
        file: tuple[Path, Config] | None = None,
        observe: Callable[[Outcome], None] = lambda _: None,
        reset: Callable[[Callers | None], None] = lambda _: None,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._rest = rest
        self._ring = ring
        self._compile = compile_
        self._worker = worker
        self._observe = observe
        self._reset = reset
        self._file = LiveCatalog(*file, lambda resources: resources, self._file_read) if file else None
        self._taken = _Taken()
        self._stale: list[object] = []  # replaced catalogs that are not freed yet
        self._refusal: str | None = None
        self._unauthorized: tuple[str, ...] = ()
        self._position: Head | None = None  # of the last applied change
        self._named: frozenset[str] = frozenset()  # customers that the store defines for keys of the file
        self._needed = 0  # the version of the last change that affects the catalog
        self._life = 0
        self._behind = False
        self._heard_at = time.time()
        self._wanted, self._news, self._loaded = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._lost = Notice("change stream lost", redis=store.address)
        self._anew = Notice("store read anew", level="info", redis=store.address)
        self._not_understood = Notice("change stream not understood", level="error")
        self._unread = Notice("store not read", redis=store.address)
        self._uncompiled = Notice("catalog failed", level="error")
        self._unannounced = Notice("presence not renewed", redis=store.address)
        self._unchanged = Notice("catalog loaded", level="info", outcome="unchanged")

    @property
    def current(self) -> Catalog | None:
        return self._taken.catalog

    @property
    def version(self) -> Version:
        return self._taken.version

    @property
    def loaded_at(self) -> float:
        """When the catalog came into force, in seconds of Unix time; 0 without one."""
        return self._taken.loaded_at

    @property
    def checked_at(self) -> float:
        """The earlier of two times: the last read of the change stream to its end, and the last look at the file.

        In seconds of Unix time. Before the first read, the time of our start.
        """
        return min(self._heard_at, self._file.checked_at) if self._file else self._heard_at

    @property
    def problem(self) -> str | None:
        found = [self._file.problem if self._file else None, self._refusal]
        return "\n".join(filter(None, found)) or None

    @property
    def served(self) -> Head:
        """The last version of the store whose changes are all in force here; an empty head before the first."""
        if self._position is None or self._taken.life != self._life:
            return Head("", 0, "")
        if self._taken.store >= self._needed:
            return self._position
        return Head(self._position.epoch, self._taken.store, "")

    async def loaded(self) -> None:
        """Wait for the first catalog."""
        await self._loaded.wait()

    async def reload(self) -> None:
        """Read the file and the store again."""
        if self._file:
            await self._file.reload()
        self._wanted.set()

    async def watch(self) -> None:
        """Follow the store and the file, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for loop in (self._follow(), self._keep_compiled(), self._keep_present()):
                tasks.create_task(loop)
            if self._file:
                tasks.create_task(self._file.watch())

    async def aclose(self) -> None:
        """Drop the presence, so that no call waits for this sidecar, and close the connections to the store."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.drop_presence(self._worker)
        except (StoreUnavailable, TimeoutError):
            log.info("presence not dropped; it expires by itself")
        await self._store.aclose()

    # --- the change stream ---

    async def _follow(self) -> None:
        """Read the stream until cancelled. Retry with exponential back-off after a fault or a new start."""
        pause = RECONNECT_SECONDS
        while True:
            if await self._is_read():
                pause = RECONNECT_SECONDS
                continue
            await self._rest(pause)
            pause = min(2 * pause, LONGEST_RECONNECT_SECONDS)

    async def _is_read(self) -> bool:
        """Read the stream once, and log faults. True if it continues from our position."""
        try:
            goes_on = await self._read()
        except (StoreUnavailable, TimeoutError) as fault:
            self._lost.says(in_words(fault))
            return False
        except Exception as fault:  # the outermost loop: an unreadable event, perhaps of another release, is lost
            self._not_understood.says(in_words(fault), exc_info=self._not_understood.reason is None)
            self._position = None
            return False
        self._lost.ended("change stream read again")
        if goes_on:
            self._anew.ended()
            self._not_understood.ended()
        return goes_on

    async def _read(self) -> bool:
        """Apply one answer of the stream. After a mismatch, which means lost changes, start anew and return False."""
        if self._position is None:
            await self._start_anew(time.monotonic(), await self._head(), "nothing was read yet")
            return self._life == 1
        events = await self._store.changes(self._position.version, BLOCK_MILLISECONDS)  # has a timeout of its own
        answered = time.monotonic()
        follows = all(self._apply(event) for event in events)
        head = await self._head()
        # An empty answer although the store was ahead of us before this read: its stream has lost changes.
        starved = self._behind and not events
        self._behind = head.version > self._position.version
        if follows and not starved and self._is_ours(head):
            if len(events) < EVENTS:  # a full answer may leave changes for the next read
                self._heard(answered)
            return True
        # The stream or the head may come from a former master: connect anew for the next read.
        await self._store.hang_up()
        await self._start_anew(answered, head, "the stream has lost changes, or is another's")
        return False

    def _heard(self, answered: float) -> None:
        """Note that all changes up to `answered`, on the monotonic clock, are applied."""
        self._ring.heard(answered)
        self._heard_at = time.time() - (time.monotonic() - answered)

    async def _head(self) -> Head:
        return await self._in_time(self._store.head())

    async def _in_time(self, answer: Awaitable[T]) -> T:
        """The store's answer. Raises TimeoutError after ANSWER_SECONDS; then idle connections count as dead, too."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            await self._store.drop_idle()
            raise

    def _is_ours(self, head: Head) -> bool:
        """True if the store's history includes our position; False after FLUSHALL, a restore or lost writes."""
        ours = self._position
        if ours is None or head.epoch != ours.epoch:
            return False
        return head.version > ours.version or (head.version, head.tag) == (ours.version, ours.tag)

    def _apply(self, event: Event) -> bool:
        """Apply the event if it is the next one; otherwise return False."""
        ours = self._position
        if ours is None or (event.version, event.previous) != (ours.version + 1, ours.tag):
            return False
        customers = [item_id for kind, item_id in event.changes if kind == "customer"]
        self._ring.touched(event.version, event.indexes, customers)
        if any(kind in COMPILED for kind, _ in event.changes) or not self._named.isdisjoint(customers):
            self._needed = event.version
            self._wanted.set()
        if event.usage:
            self._reset(event.usage)
        self._position = Head(ours.epoch, event.version, event.tag)
        self._news.set()
        return True

    async def _start_anew(self, answered: float, head: Head, why: str) -> None:
        """Start the stream at the store's head. Drop cached keys, reset all callers, and request a new catalog."""
        self._anew.says(why, version=head.version)
        self._position, self._needed, self._behind = head, head.version, False
        self._life += 1
        self._ring.forget(head.version)
        self._heard(answered)
        self._reset(None)
        self._wanted.set()

    # --- the catalog ---

    def _file_read(self, outcome: Outcome) -> None:
        if outcome == "swapped":
            self._wanted.set()
        else:
            self._observe(outcome)

    async def _keep_compiled(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if pause := await self._take_over():
                with suppress(TimeoutError):  # the next change may be the remedy
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                self._wanted.set()

    async def _take_over(self) -> float | None:
        """Compile the store's current resources and swap them in. Return the seconds until a retry, if it fails."""
        try:
            if self._file:
                self._named = await in_background(_named_customers, self._file.current)
            life, snapshot = self._life, await self._store.snapshot(sorted(self._named))
            outcome = await self._swap(life, snapshot.head, snapshot.items)
        except StoreUnavailable as fault:
            self._unread.says(in_words(fault))
            return RETRY_SECONDS
        except Exception as fault:  # the outermost loop: the last good catalog stays in force after any fault
            self._uncompiled.says(in_words(fault), exc_info=self._uncompiled.reason is None)
            self._refusal = f"store: {type(fault).__name__}"
            self._observe("refused")
            return REFUSED_SECONDS
        self._unread.ended("store read again")
        self._uncompiled.ended()
        self._observe(outcome)
        self._loaded.set()
        self._news.set()
        await let_go(self._stale)
        return None

    async def _swap(self, life: int, head: Head, items: Items) -> Outcome:
        fixed, file = (self._file.current, self._file.version.content) if self._file else (Resources(), "")
        resources, refs, both, lacking = await in_background(_merged, items, fixed)
        content = await in_background(_content, resources, refs, file)
        taken, outcome = self._taken, "unchanged"
        if taken.catalog is None or content != taken.version.content:
            catalog = await in_background(self._compile, resources, refs)
            self._stale.append(taken.catalog)
            taken = _Taken(catalog, Version(taken.version.number + 1, content), time.time())
            outcome = "swapped"
        self._taken = _Taken(taken.catalog, taken.version, taken.loaded_at, life, head.version)
        self._refusal = f"in the file and in the store, where it is left aside: {', '.join(both)}" if both else None
        if lacking and lacking != self._unauthorized:
            why = "authorizationType is not carried out: only an API key protects a method"
            log.warning("methods served without their authorization", methods=_few(lacking), why=why)
        self._unauthorized = lacking
        if outcome == "unchanged":
            self._unchanged.says("the resources have not changed", version=str(self.version), store=head.version)
            return "unchanged"
        self._unchanged.ended()
        log.info("catalog loaded", outcome=outcome, version=str(self.version), store=head.version)
        return "swapped"

    @property
    def unauthorized(self) -> Sequence[str]:
        """The first served methods whose `authorizationType` has no effect, and the number of the others."""
        return _few(self._unauthorized)

    # --- the presence ---

    async def _keep_present(self) -> None:
        """Announce the served version: at once when it changes, and every PRESENCE_SECONDS."""
        while True:
            self._news.clear()
            try:
                await self._in_time(self._store.renew_presence(self._worker, self.served, VERSION))
            except (StoreUnavailable, TimeoutError) as fault:
                self._unannounced.says(in_words(fault))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._unannounced.ended("presence renewed again")
            try:
                async with asyncio.timeout(PRESENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue


def _named_customers(fixed: Resources) -> frozenset[str]:
    """The customers that keys of the file name, and that the file does not define: the store may."""
    named = {key.customer_id for key in fixed.api_keys if key.customer_id is not None}
    return frozenset(named - {customer.id for customer in fixed.customers})


def _merged(items: Items, fixed: Resources) -> tuple[Resources, dict[str, str], list[str], tuple[str, ...]]:
    """The resources to compile, the plans' references, the ids that file and store share, and methods that lack their
    authorization."""
    return *to_resources(items, fixed), clashes(items, fixed), unauthorized(items, fixed)


def _few(methods: Sequence[str]) -> list[str]:
    """The first MAX_TOLD methods, and an entry that counts the others: a log line and a status page stay small."""
    more = len(methods) - MAX_TOLD
    return [*methods[:MAX_TOLD], *([f"and {more} more"] if more > 0 else [])]


def _content(resources: Resources, refs: Mapping[str, str], file: str) -> str:
    """A digest of the resources to compile, equal in every sidecar. `file` is the digest of the file and its keys."""
    whole = hashlib.sha256(file.encode())
    plans, named, customers = resources.usage_plans, sorted(refs.items()), resources.customers
    whole.update(msgspec.msgpack.encode((resources.account, len(resources.apis), len(plans), len(named))))
    for api in resources.apis:
        whole.update(msgspec.msgpack.encode(api))
    for values in (plans, named, customers):
        for at in range(0, len(values), PIECE):
            whole.update(msgspec.msgpack.encode(values[at : at + PIECE]))
    return whole.hexdigest()[:12]

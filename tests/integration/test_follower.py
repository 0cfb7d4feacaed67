"""The data plane follows the store: a write there holds here, even if the stream between them fails."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
import yaml
from msgspec.structs import replace
from structlog.testing import capture_logs

from authz import notice
from authz.check import Checker
from authz.config.file import Config, load
from authz.core.catalog import Caller, Catalog
from authz.core.limits import redis_key
from authz.core.resources import (
    DEFAULT_ACCOUNT,
    ApiKey,
    ApiStage,
    Customer,
    Deployment,
    FailurePolicy,
    LimitsPer,
    Method,
    Period,
    QuotaSettings,
    Resources,
    UsagePlan,
    digest,
)
from authz.core.stored import Item, StoredCustomer, StoredDeployment, StoredKey, StoredPlan, StoredStage
from authz.core.verdict import Allowed, Tally
from authz.limiter.local import LocalLimiter
from authz.sidecar import follower
from authz.sidecar.follower import StoreCatalog
from authz.store import feed
from authz.store.edit import Edit
from authz.store.keys import StoreKeyCache
from authz.store.ports import Event
from authz.store.quotas import find_held
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.integration.test_server import check, document, get
from tests.support.builders import held, value_of
from tests.support.proxy import Proxy, Streams, proxy
from tests.support.servers import DEADLINE_SECONDS, HOST, RedisServer, authz_serve, redis_server, until
from tests.support.topologies import Certificates, needs_tls, port_of, say, tls_by_itself
from tests.support.world import ask

Rest = Callable[[float], Awaitable[None]]

SNAPSHOT = Deployment(resources={"/pets": {"GET": Method()}})


def stored_key(name: str = "k1", **changes: Any) -> StoredKey:
    """A key in plan p1; its value is `value_of(name)`."""
    key, rest = {"id": name}, dict(changes)
    key |= {member: rest.pop(member) for member in ("enabled", "customer_id") if member in rest}
    index = digest(value_of(name)).hex()
    fields = {"index": index, "created_date": 1, "last_updated_date": 1, "plans": ("p1.one",), **rest}
    return StoredKey(key=ApiKey(**key), **fields)  # type: ignore[arg-type]


def customer_of(name: str, billing_day: int) -> StoredCustomer:
    return StoredCustomer(Customer(id=name, billing_day=billing_day), 1, 1)


def stored_plan(nonce: str = "one", **changes: Any) -> StoredPlan:
    return StoredPlan(UsagePlan(id="p1", name="p1", api_stages=(ApiStage("a1", "prod"),), **changes), nonce)


def world(*more: Item) -> tuple[Item, ...]:
    """API a1 with its stage prod, plan p1 for it, key k1 in the plan."""
    stage = StoredStage("a1", "prod", "d1", created_date=1, last_updated_date=1)
    return (StoredDeployment("d1", "a1", 1, SNAPSHOT), stage, stored_plan(), stored_key(), *more)


class NoLimits:
    async def admit(self, *_: object, **__: object) -> Tally:
        return Tally(0, ())


class Sidecar:
    """A follower without its network: a writer's store, and the answers that Envoy would get."""

    def __init__(self, url: str, account: str, file: tuple[Path, Config] | None, budget: float, rest: Rest) -> None:
        self.writer = Store(url, account=account)
        self.redis = redis.Redis.from_url(url)
        self.url, self.account, self.compiled, self.broken = url, account, 0, ""
        self.reset: list[object] = []
        self.lookups = Store(url, account=account)
        self.ring = StoreKeyCache(self.lookups.find)
        self.store = store = Store(url, account=account, budget=budget)
        reset = self.reset.append
        self.catalog = StoreCatalog(store, self.ring, self._compile, worker="w1", file=file, reset=reset, rest=rest)
        limiter: Any = NoLimits()
        self.checker = Checker(lambda: self.catalog.current, limiter, LocalLimiter(), lambda: 1, self.ring)

    def _compile(self, resources: Resources, refs: Mapping[str, str]) -> Catalog:
        self.compiled += 1
        if any(plan.name == self.broken for plan in resources.usage_plans):
            raise ValueError("no catalog can be made of it")
        return Catalog.compile(resources, refs=refs)

    async def put(self, *items: Item) -> int:
        """Write these; the version that has them."""

        async def edit(edit: Edit) -> None:
            for item in items:
                edit.put(item)

        return (await self.writer.write(edit, who="test", what="put")).version

    async def delete(self, kind: str, name: str) -> int:
        async def edit(edit: Edit) -> None:
            edit.delete(kind, name)

        return (await self.writer.write(edit, who="test", what="delete")).version

    async def answer(self, key: str = "k1") -> str:
        verdict = await self.checker.check(ask(key=key))
        return "allowed" if isinstance(verdict, Allowed) else str(verdict.reason)

    async def is_at_rest(self) -> bool:
        """True if no command is in flight but the wait for changes."""
        pool: Any = self.store.database.redis.connection_pool
        return not pool._in_use_connections

    async def takes_over(self, version: int) -> None:
        """Until the presence names the version, as `GET /catalog/version?wait=V` does."""

        async def told() -> bool:
            head = await self.writer.head()
            presences = await self.writer.presences()
            return [(one.epoch, one.version >= version) for one in presences] == [(head.epoch, True)]

        await eventually(told)

    async def answers(self, expected: str, key: str = "k1") -> None:
        async def holds() -> bool:
            return await self.answer(key) == expected

        await eventually(holds)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = monotonic() + DEADLINE_SECONDS
    while not await holds():
        assert monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def following(
    url: str,
    account: str,
    file: tuple[Path, Config] | None = None,
    budget: float = 1.0,
    rest: Rest = asyncio.sleep,
) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(url, account, file, budget, rest)
    watching = asyncio.create_task(sidecar.catalog.watch())
    try:
        await asyncio.wait_for(sidecar.catalog.loaded(), DEADLINE_SECONDS)
        yield sidecar
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await sidecar.catalog.aclose()
        await sidecar.lookups.aclose()
        await sidecar.writer.aclose()
        sidecar.redis.close()


@pytest.fixture
async def sidecar(shared_redis: RedisServer, account: str) -> AsyncIterator[Sidecar]:
    """One that serves `world()`, and has key k1 in memory."""
    async with following(shared_redis.url, account) as sidecar:
        await sidecar.takes_over(await sidecar.put(*world()))
        assert await sidecar.answer() == "allowed"
        yield sidecar


# --- writes take effect -------------------------------------------------------------------------------------------


async def test_an_empty_store_is_a_catalog_too(shared_redis: RedisServer, account: str) -> None:
    async with following(shared_redis.url, account) as sidecar:
        assert await sidecar.answer() == "unknown_api"


async def test_a_warm_key_that_is_disabled_or_deleted_is_refused_once_the_version_is_served(sidecar: Sidecar) -> None:
    await sidecar.takes_over(await sidecar.put(stored_key(enabled=False)))
    assert await sidecar.answer() == "key_disabled"
    await sidecar.takes_over(await sidecar.delete("apikey", "k1"))
    assert await sidecar.answer() == "key_unknown"


async def test_a_key_is_let_in_although_it_was_refused_a_moment_before(sidecar: Sidecar) -> None:
    assert await sidecar.answer("k2") == "key_unknown"
    await sidecar.takes_over(await sidecar.put(stored_key("k2")))
    assert await sidecar.answer("k2") == "allowed"


async def test_a_key_that_changes_costs_no_new_catalog(sidecar: Sidecar) -> None:
    compiled = sidecar.compiled
    await sidecar.takes_over(await sidecar.put(stored_key("k2"), stored_key("k3")))
    assert sidecar.compiled == compiled


async def test_a_customers_change_reaches_its_warm_keys_once_the_version_is_served(sidecar: Sidecar) -> None:
    """It is made, changed and deleted, and compiles no catalog."""
    await sidecar.takes_over(await sidecar.put(stored_key(customer_id="Acme & Söhne/1")))
    compiled, days = sidecar.compiled, list[int | None]()
    for write in (
        sidecar.put(customer_of("Acme & Söhne/1", 7)),
        sidecar.put(customer_of("Acme & Söhne/1", 15)),
        sidecar.put(customer_of("another", 1)),
        sidecar.delete("customer", "Acme & Söhne/1"),
    ):
        assert await sidecar.answer() == "allowed"
        await sidecar.takes_over(await write)
        assert await sidecar.answer() == "allowed"
        found = sidecar.ring.known(digest(value_of("k1")))
        assert isinstance(found, Caller)
        days.append(found.customer_terms.billing_day)
    assert days == [7, 15, 15, None]
    assert sidecar.compiled == compiled


async def asked_for(sidecar: Sidecar, key: str, do: Callable[[], Awaitable[object]]) -> int:
    """How many commands that name this key's digest reach Redis meanwhile, not counting those that scripts call."""
    index, found = digest(value_of(key)).hex(), 0
    with sidecar.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        await do()
        sidecar.redis.echo("the end")
        while "the end" not in (line := monitor.next_command())["command"]:
            found += index in line["command"] and line["client_type"] != "lua"
    return found


async def test_a_miss_costs_one_round_trip_and_a_hit_none(sidecar: Sidecar) -> None:
    await sidecar.takes_over(await sidecar.put(stored_key("k2")))
    assert await asked_for(sidecar, "k2", lambda: sidecar.answer("k2")) == 1
    assert await asked_for(sidecar, "k2", lambda: sidecar.answer("k2")) == 0


@pytest.mark.parametrize("known", [True, False])
async def test_a_storm_of_one_missing_key_costs_one_round_trip(sidecar: Sidecar, known: bool) -> None:
    if known:
        await sidecar.takes_over(await sidecar.put(stored_key("k2")))

    async def storm() -> None:
        answers = await asyncio.gather(*(sidecar.answer("k2") for _ in range(100)))
        assert set(answers) == {"allowed" if known else "key_unknown"}

    assert await asked_for(sidecar, "k2", storm) == 1


async def test_a_plan_that_is_deleted_or_made_anew_has_no_keys(sidecar: Sidecar) -> None:
    await sidecar.takes_over(await sidecar.delete("usageplan", "p1"))
    assert await sidecar.answer() == "no_plan"
    await sidecar.takes_over(await sidecar.put(stored_plan("two")))
    assert await sidecar.answer() == "no_plan"
    await sidecar.takes_over(await sidecar.put(stored_key(plans=("p1.two",))))
    assert await sidecar.answer() == "allowed"


async def test_a_stage_follows_its_deployment(sidecar: Sidecar) -> None:
    other = StoredDeployment("d2", "a1", 2, Deployment(resources={"/toys": {"GET": Method()}}))
    await sidecar.takes_over(await sidecar.put(other))
    assert await sidecar.answer() == "allowed"
    stage = StoredStage("a1", "prod", "d2", created_date=1, last_updated_date=2)
    await sidecar.takes_over(await sidecar.put(stage))
    assert await sidecar.answer() == "unknown_method"


async def deploy(sidecar: Sidecar, name: str, *methods: str) -> None:
    """Let a1:prod serve a deployment whose named methods have an authorization."""
    made = StoredDeployment(name, "a1", 2, SNAPSHOT, authorizations=dict.fromkeys(methods, "AWS_IAM"))
    await sidecar.takes_over(
        await sidecar.put(made, StoredStage("a1", "prod", name, created_date=1, last_updated_date=2))
    )


async def test_methods_without_their_authorization_are_logged_once_a_change(sidecar: Sidecar) -> None:
    """With API, stage and type; the status page has them as long as they are served."""
    with capture_logs() as lines:
        await deploy(sidecar, "d2", "GET /pets")
        await sidecar.takes_over(await sidecar.put(stored_plan("two")))
        await deploy(sidecar, "d3", "GET /pets", "POST /pets")
        assert list(sidecar.catalog.unauthorized) == ["a1:prod GET /pets (AWS_IAM)", "a1:prod POST /pets (AWS_IAM)"]
        await deploy(sidecar, "d4")
    told = [line["methods"] for line in lines if line["event"] == "methods served without their authorization"]
    assert told == [
        ["a1:prod GET /pets (AWS_IAM)"],
        ["a1:prod GET /pets (AWS_IAM)", "a1:prod POST /pets (AWS_IAM)"],
    ]
    assert list(sidecar.catalog.unauthorized) == []


async def test_of_many_methods_without_their_authorization_a_few_are_listed(sidecar: Sidecar) -> None:
    await deploy(sidecar, "d2", *(f"GET /r{n}" for n in range(10_000)))
    told = list(sidecar.catalog.unauthorized)
    assert (len(told), told[-1]) == (11, "and 9990 more")


# --- what becomes of the stream -----------------------------------------------------------------------------------


def keys_of(sidecar: Sidecar, *names: str) -> list[str]:
    return [redis_key(sidecar.account, "store", name) for name in names]


def behind_its_back(sidecar: Sidecar) -> None:
    """Delete key k1 as no event tells: as if its event had been lost."""
    for kind in ("item", "items"):
        with suppress(redis.ResponseError):
            sidecar.redis.hdel(redis_key(sidecar.account, "store", kind, "apikey"), "k1")
    sidecar.redis.hdel(keys_of(sidecar, "unique")[0], f"key/{digest(value_of('k1')).hex()}")


async def test_a_store_that_is_emptied_is_noticed(sidecar: Sidecar) -> None:
    """FLUSHALL, as far as this account goes: no event tells of it."""
    found = list(sidecar.redis.scan_iter(match=f"{redis_key(sidecar.account, '')}*", count=1000))
    sidecar.redis.delete(*found)
    await sidecar.answers("unknown_api")


async def test_another_epoch_is_noticed(sidecar: Sidecar) -> None:
    behind_its_back(sidecar)
    sidecar.redis.hset(keys_of(sidecar, "head")[0], "epoch", "restored")
    await sidecar.answers("key_unknown")


async def test_lost_writes_are_noticed(sidecar: Sidecar) -> None:
    """After a failover the head is an older one, or has another tag."""
    behind_its_back(sidecar)
    before = len(sidecar.reset)
    sidecar.redis.hset(keys_of(sidecar, "head")[0], "tag", "another")

    async def began_anew() -> bool:
        return None in sidecar.reset[before:]

    await eventually(began_anew)
    await sidecar.answers("key_unknown")


async def test_a_stream_that_has_lost_its_end_is_noticed(sidecar: Sidecar) -> None:
    behind_its_back(sidecar)
    sidecar.redis.hincrby(keys_of(sidecar, "head")[0], "version", 1)
    await sidecar.answers("key_unknown")


async def test_many_writes_end_in_the_catalog_of_the_last(sidecar: Sidecar) -> None:
    compiled = sidecar.compiled
    version = 0
    for name in range(50):
        version = await sidecar.put(replace(stored_plan(), plan=replace(stored_plan().plan, name=f"n{name}")))
    await sidecar.takes_over(version)
    verdict = await sidecar.checker.check(ask())
    assert verdict.subject.plan_name == "n49"
    assert sidecar.compiled - compiled <= 50


class Seen(Catalog):
    """A catalog that can be seen to go."""

    __slots__ = ("__weakref__",)


async def test_a_replaced_catalog_is_freed(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that follows a store for months must not keep every catalog that it has served."""
    made: list[weakref.ref[Seen]] = []

    def compile_(resources: Resources, refs: Mapping[str, str]) -> Catalog:
        catalog = Seen.compile(resources, refs=refs)
        seen = Seen(*(getattr(catalog, each.name) for each in fields(Catalog)))
        made.append(weakref.ref(seen))
        return seen

    monkeypatch.setattr(sidecar.catalog, "_compile", compile_)
    for name in ("one", "two", "three"):
        await sidecar.takes_over(await sidecar.put(named(name)))

    async def all_but_the_last_are_gone() -> bool:
        gc.collect()
        return len(made) >= 3 and [one() is None for one in made] == [*[True] * (len(made) - 1), False]

    await eventually(all_but_the_last_are_gone)


def named(name: str) -> StoredPlan:
    return replace(stored_plan(), plan=replace(stored_plan().plan, name=name))


async def test_a_change_that_cannot_be_compiled_delays_no_later_change(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "REFUSED_SECONDS", 10 * DEADLINE_SECONDS)
    sidecar.broken = "bad"
    await sidecar.put(named("bad"))

    async def refused() -> bool:
        return sidecar.catalog.problem is not None

    await eventually(refused)
    assert await sidecar.answer() == "allowed"
    await sidecar.takes_over(await sidecar.put(named("good")))
    assert sidecar.catalog.problem is None


async def test_an_event_that_cannot_be_read_is_one_that_was_missed(sidecar: Sidecar) -> None:
    behind_its_back(sidecar)
    head, changes = keys_of(sidecar, "head", "changes")
    version = sidecar.redis.hincrby(head, "version", 1)
    sidecar.redis.xadd(changes, {"from": "another release"}, f"{version}-0")
    await sidecar.answers("key_unknown")


async def test_a_backlog_is_not_yet_all_that_there_is(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not trusted before the last change was applied, with any number of them."""
    told, heard, changes = [0], [], Store.changes

    async def spy(store: Store, after: int, block_ms: int) -> list[Event]:
        events = await changes(store, after, block_ms)
        told.append(len(events))
        return events

    monkeypatch.setattr(follower, "EVENTS", 1)
    monkeypatch.setattr(feed, "EVENTS", 1)
    monkeypatch.setattr(Store, "changes", spy)
    monkeypatch.setattr(sidecar.ring, "heard", lambda _: heard.append(told[-1]))
    for number in range(2, 12):
        await sidecar.put(stored_key(f"k{number}"))

    async def all_heard() -> bool:
        return sum(told) >= 9 and told[-1] == 0 and bool(heard)

    await eventually(all_heard)
    assert set(heard) == {0}


async def test_set_counters_are_reported_and_all_of_them_if_events_may_be_missing(sidecar: Sidecar) -> None:
    sidecar.reset.clear()
    async with aclosing(UsageLedger(sidecar.url, account=sidecar.account)) as ledger:
        quota = QuotaSettings(10, Period.DAY)
        written = await ledger.set_remaining("p1", *held(quota, "p1", "k1"), 3, who="test", what="set")
    await sidecar.takes_over(written.version)
    assert sidecar.reset == [(("p1", "k1"),)]
    sidecar.redis.hset(keys_of(sidecar, "head")[0], "epoch", "restored")

    async def anew() -> bool:
        return sidecar.reset[1:] == [None]

    await eventually(anew)


class Relay:
    """Between a sidecar and Redis. `freeze` leaves connections open, and answers on none of them."""

    def __init__(self, there: Callable[[], Awaitable[Streams]]) -> None:
        self._there = there
        self._links: list[tuple[bytearray, asyncio.Task[None]]] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, sent = await self._there(), bytearray()
        for source, sink, seen in ((reader, there[1], sent), (there[0], writer, bytearray())):
            self._links.append((sent, asyncio.create_task(_pump(source, sink, seen))))

    def freeze(self, spared: bytes = b"no word of a command") -> None:
        """Freeze the connections of now, but for those on which the sidecar has sent the word `spared`."""
        for sent, pump in self._links:
            if spared not in sent:
                pump.cancel()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            seen += data
            sink.write(data)
            await sink.drain()
        sink.close()


@asynccontextmanager
async def relay_to(there: Callable[[], Awaitable[Streams]]) -> AsyncIterator[tuple[Relay, str]]:
    """A relay, and the address where it listens."""
    relay = Relay(there)
    listener = await asyncio.start_server(relay.accept, HOST, 0)
    yield relay, f"{HOST}:{listener.sockets[0].getsockname()[1]}"
    relay.freeze()
    listener.close()


@pytest.mark.parametrize(
    "spared",
    [pytest.param(b"no word", id="all of them"), pytest.param(b"XREAD", id="all but the one that waits for changes")],
)
async def test_half_open_connections_hide_neither_a_key_nor_a_catalog(
    shared_redis: RedisServer, account: str, spared: bytes
) -> None:
    """Connections that were idle when the network dropped them keep nothing waiting for the store's own timeout."""
    socket_ = urlsplit(shared_redis.url).path
    direct = Store(shared_redis.url, account=account)
    async with (
        relay_to(lambda: asyncio.open_unix_connection(socket_)) as (relay, address),
        following(f"redis://{address}/0", account, budget=10 * DEADLINE_SECONDS) as sidecar,
    ):
        sidecar.writer = direct
        await sidecar.takes_over(await sidecar.put(*world()))
        assert await sidecar.answer() == "allowed"
        await asyncio.gather(*(sidecar.store.head() for _ in range(3)))  # each on a connection of its own
        await eventually(sidecar.is_at_rest)
        compiled = sidecar.compiled
        relay.freeze(spared)
        await sidecar.takes_over(await sidecar.put(stored_key(enabled=False), named("changed")))
        assert await sidecar.answer() != "allowed"
        await sidecar.answers("key_disabled")
        assert sidecar.compiled == compiled + 1


@needs_tls
async def test_closing_tls_does_not_wait_for_a_dead_server(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is closed by both ends; asyncio waits half a minute for the other one, and redis-py as long as it may."""
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 10 * DEADLINE_SECONDS)
    files = Certificates.make(tmp_path / "files")
    with tls_by_itself(files) as (_server, port):
        async with relay_to(lambda: asyncio.open_connection(HOST, port)) as (relay, address):
            own = f"ssl_certfile={files.certificate}&ssl_keyfile={files.key}"
            url = f"rediss://{address}/0?ssl_ca_certs={files.ca}&{own}"
            store = Store(url, account=account, budget=10 * DEADLINE_SECONDS)
            await store.head()
            relay.freeze()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await store.hang_up()
                await store.head()
                await store.aclose()


class Rests:
    """The pauses of a follower: each lasts until the test lets it go on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._over: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self._over.get()

    def end(self) -> None:
        self._over.put_nowait(None)


@contextmanager
def parted_masters(account: str, *, goes_its_own_way: bool) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A new master, and the old one, which was written to after they parted; its changes fit the new one's, or not."""
    with redis_server() as old, redis_server() as new:
        asyncio.run(_write(old.url, world(), account))
        say(new, "REPLICAOF", HOST, port_of(old))
        until(lambda: say(new, "INFO", "replication").get("master_link_status") == "up", "it is not linked", new)
        say(new, "REPLICAOF", "NO", "ONE")
        for number in range(5):
            asyncio.run(_write(old.url, (stored_key(f"old{number}"),), account))
        if goes_its_own_way:
            asyncio.run(_write(new.url, (stored_key("new"),), account))
        yield old, new


ROUNDS = 9


@pytest.mark.parametrize("goes_its_own_way", [True, False])
def test_a_stream_that_stays_with_an_old_master_is_read_ever_more_rarely(
    account: str, monkeypatch: pytest.MonkeyPatch, goes_its_own_way: bool
) -> None:
    """A name that stands for two servers, such as a virtual IP: the store is not read again without a pause."""
    for module, name in ((follower, "ANSWER_SECONDS"), (feed, "GRACE_SECONDS"), (follower, "PRESENCE_SECONDS")):
        monkeypatch.setattr(module, name, 10 * DEADLINE_SECONDS)  # only the stream makes it ask
    monkeypatch.setattr(notice, "REPEAT_SECONDS", 10 * DEADLINE_SECONDS)
    with parted_masters(account, goes_its_own_way=goes_its_own_way) as (old, new), capture_logs() as lines:
        between, rests = asyncio.run(_follow_for_rounds(account, old, new))
    assert rests.seconds == [min(0.1 * 2**number, 2.0) for number in range(ROUNDS)]
    assert between.commands["XREAD"] == ROUNDS
    assert between.commands["EVALSHA"] <= 6 * (ROUNDS + 1)  # the head, the snapshot, and the scripts of the reports
    assert sum("XREAD" in carried for carried in between.carried) == ROUNDS, "each on a connection of its own"
    told = Counter(line["event"] for line in lines)
    assert told["store read anew"] == 2  # with a reason each: at the start, and then
    assert told["catalog loaded"] <= 2
    assert "change stream lost" not in told


async def _follow_for_rounds(account: str, old: RedisServer, new: RedisServer) -> tuple[Proxy, Rests]:
    rests = Rests()
    async with _astray(account, old, new, rests) as (between, sidecar):
        for number in range(1, ROUNDS):
            await eventually(partial(_rests, between, rests, number))
            rests.end()
        await eventually(partial(_rests, between, rests, ROUNDS))
        assert await sidecar.answer() == "allowed"
        assert await sidecar.answer("old0") == "key_unknown"
    return between, rests


@asynccontextmanager
async def _astray(
    account: str, old: RedisServer, new: RedisServer, rests: Rests
) -> AsyncIterator[tuple[Proxy, Sidecar]]:
    """A sidecar of the new master's whose stream is the old one's."""
    async with proxy(new) as between:
        between.elsewhere["XREAD"] = port_of(old)
        async with following(between.url, account, budget=10 * DEADLINE_SECONDS, rest=rests) as sidecar:
            yield between, sidecar


async def _rests(between: Proxy, rests: Rests, times: int) -> bool:
    assert between.commands["XREAD"] <= times, "it asks again without a pause"
    return len(rests.seconds) == times


def test_a_stream_that_is_the_masters_again_goes_on_and_forgets_the_long_pause(
    account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((follower, "ANSWER_SECONDS"), (feed, "GRACE_SECONDS")):
        monkeypatch.setattr(module, name, 10 * DEADLINE_SECONDS)
    with parted_masters(account, goes_its_own_way=True) as (old, new):
        asyncio.run(_come_back_and_stray_again(account, old, new))


async def _come_back_and_stray_again(account: str, old: RedisServer, new: RedisServer) -> None:
    rests = Rests()
    async with _astray(account, old, new, rests) as (between, sidecar):
        for number in range(1, 4):
            await eventually(partial(_rests, between, rests, number))
            if number == 3:
                del between.elsewhere["XREAD"]
            rests.end()
        await sidecar.takes_over(await sidecar.put(named("back")))
        between.elsewhere["XREAD"] = port_of(old)

        async def has_strayed() -> bool:
            return len(rests.seconds) > 3

        await eventually(has_strayed)
        assert rests.seconds == [0.1, 0.2, 0.4, 0.1]


async def test_both_connections_to_a_store_are_hung_up_together(account: str) -> None:
    """Else one would stay with the old master, and the other go to the new one."""
    with redis_server() as server:
        async with proxy(server) as between:
            store = Store(between.url, account=account, budget=10 * DEADLINE_SECONDS)
            for _ in range(2):
                await store.head()
                await store.changes(0, 0)
                await store.hang_up()
            await store.aclose()
    assert sorted("XREAD" in carried for carried in between.carried) == [False, False, True, True]


# --- with the file ------------------------------------------------------------------------------------------------


async def test_the_files_resources_are_served_beside_the_stores(
    shared_redis: RedisServer, account: str, tmp_path: Path
) -> None:
    path = tmp_path / "plans.yaml"
    apis = [{"id": "a2", "stages": [{"name": "prod"}]}]
    plans = [{"id": "p2", "name": "F", "keys": ["kf"], "apiStages": [{"apiId": "a2", "stage": "prod"}]}]
    content = {"apis": apis, "apiKeys": [{"id": "kf", "value": value_of("kf")}], "usagePlans": plans}
    path.write_text(yaml.safe_dump(content))
    async with following(shared_redis.url, account, (path, load(path))) as sidecar:
        await sidecar.takes_over(await sidecar.put(*world()))
        assert await sidecar.answer() == "allowed"
        verdict = await sidecar.checker.check(ask(key="kf", host="a2.example.org"))
        assert isinstance(verdict, Allowed)
        assert sidecar.catalog.problem is None
        path.write_text(yaml.safe_dump({**content, "apiKeys": [], "usagePlans": []}))
        refused = "key_unknown"

        async def gone() -> bool:
            found = await sidecar.checker.check(ask(key="kf", host="a2.example.org"))
            return not isinstance(found, Allowed) and found.reason == refused

        await eventually(gone)


async def test_a_customer_of_the_store_serves_the_files_keys_unless_the_file_has_it(
    shared_redis: RedisServer, account: str, tmp_path: Path
) -> None:
    path = tmp_path / "plans.yaml"
    keys = [
        {"id": f"k{n}", "value": value_of(f"f{n}"), "customerId": name} for n, name in enumerate(("ours", "theirs"))
    ]
    path.write_text(yaml.safe_dump({"apiKeys": keys, "customers": [{"id": "ours", "billingDay": 3}]}))
    async with following(shared_redis.url, account, (path, load(path))) as sidecar:
        customers = (customer_of("ours", 9), customer_of("theirs", 9), customer_of("a stranger's", 9))
        await sidecar.takes_over(await sidecar.put(*customers))

        def days() -> dict[str, int | None]:
            assert sidecar.catalog.current is not None
            return {name: terms.billing_day for name, terms in sidecar.catalog.current.customers.items()}

        assert days() == {"ours": 3, "theirs": 9}
        await sidecar.takes_over(await sidecar.put(customer_of("theirs", 10)))
        assert days() == {"ours": 3, "theirs": 10}


async def test_where_both_have_an_id_the_file_wins_with_a_report(
    shared_redis: RedisServer, account: str, tmp_path: Path
) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(yaml.safe_dump({"apis": [{"id": "a1", "stages": [{"name": "dev"}]}]}))
    async with following(shared_redis.url, account, (path, load(path))) as sidecar:
        await sidecar.takes_over(await sidecar.put(*world()))
        assert await sidecar.answer() == "unknown_stage"
        assert sidecar.catalog.problem is not None
        assert "API a1" in sidecar.catalog.problem


# --- the process --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_a_sidecar_serves_the_store_without_a_file_and_outlives_redis(own_redis: RedisServer) -> None:
    """Cached keys go on, others get 503, and then all is as before."""
    asyncio.run(_write(own_redis.url, world(stored_key("k2"))))
    flags = ("--redis-url", own_redis.url, "--drain-seconds", "0", "--store")
    with authz_serve(None, *flags) as server:
        assert check(server.grpc, value_of("k1"), value_of("k9")) == [200, 403]
        own_redis.kill()
        asked = [value_of(name) for name in ("k1", "k2", "k9")]
        until(lambda: check(server.grpc, *asked) == [200, 503, 503], "nobody can tell of k2 and k9")
        until(lambda: bool(check(server.grpc, *asked)) and _left_alone(server.http), "the circuit opens")
        assert check(server.grpc, *asked) == [200, 503, 503]
        own_redis.restart(empty=False)
        until(lambda: check(server.grpc, value_of("k2"), value_of("k9")) == [200, 403], "it recovers")
        assert server.stop() == 0


class HangsUp:
    """In the place of a Redis that is away: closes each connection at once, and counts them."""

    def __init__(self, port: int) -> None:
        self.met = 0
        self._listener = socket.create_server((HOST, port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self._listener.accept()[0].close()
                self.met += 1

    def close(self) -> None:
        """Ends `accept` too, which closing alone does not."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_sidecar_with_a_store_says_once_that_redis_is_away_however_often_it_tries(own_redis: RedisServer) -> None:
    """A line for each event and reason, another one after a minute."""
    asyncio.run(_write(own_redis.url, world()))
    flags = ("--redis-url", own_redis.url, "--drain-seconds", "0", "--store")
    with authz_serve(None, *flags) as server:
        began, before = monotonic(), len(server.log_text)
        own_redis.kill()
        until(lambda: "change stream lost" in server.log_text, "it says that Redis is away", server)
        until(lambda: "presence not renewed" in server.log_text, "it says what follows from that", server)
        with closing(HangsUp(port_of(own_redis))) as listener:
            until(lambda: listener.met >= 20, "it tries again and again", server)
            said = Counter(_what_is_said(server.log_text[before:]))
            allowed = 1 + int((monotonic() - began) / notice.REPEAT_SECONDS)
    assert {"change stream lost", "presence not renewed"} <= {event for event, _ in said}
    assert {said_of: times for said_of, times in said.items() if times > allowed} == {}


def _what_is_said(log: str) -> Iterator[tuple[str, str | None]]:
    for line in log.splitlines():
        told = json.loads(line)
        yield told["event"], told.get("reason")


def test_set_units_are_not_refused_by_an_earlier_report_of_redis(own_redis: RedisServer) -> None:
    """UpdateUsage, and then Redis goes away: the stand-in shares out no remainder of before."""
    quota = QuotaSettings(2, Period.MONTH)
    plan = replace(stored_plan(), plan=replace(stored_plan().plan, quota=quota, failure_policy=FailurePolicy.LOCAL))
    asyncio.run(_write(own_redis.url, (*world(), plan)))
    with authz_serve(None, "--redis-url", own_redis.url, "--drain-seconds", "0", "--store") as server:
        assert check(server.grpc, *[value_of("k1")] * 3) == [200, 200, 429]
        asyncio.run(_set_remaining(own_redis.url, quota, 2))
        own_redis.kill()
        until(lambda: check(server.grpc, value_of("k1")) == [200], "the stand-in admits")


TWO_IN_ALL = QuotaSettings(2, Period.TOTAL)
A_MONTH = QuotaSettings(2, Period.MONTH)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"quota": A_MONTH}, id="AWS's quota"),
        pytest.param({"quotas": (TWO_IN_ALL,)}, id="a further quota"),
        pytest.param({"quota": A_MONTH, "limits_per": LimitsPer.CUSTOMER}, id="a customer's AWS quota"),
        pytest.param({"quotas": (TWO_IN_ALL,), "limits_per": LimitsPer.CUSTOMER}, id="a customer's further quota"),
    ],
)
def test_granted_units_are_admitted_although_a_refusal_was_remembered(
    own_redis: RedisServer, limits: dict[str, Any]
) -> None:
    """And shared out by the stand-in once Redis goes away."""
    plan = replace(stored_plan(), plan=replace(stored_plan().plan, failure_policy=FailurePolicy.LOCAL, **limits))
    keys = [stored_key(name, customer_id="acme") for name in ("k1", "k2")]
    asyncio.run(_write(own_redis.url, (*world(), plan, *keys)))
    with authz_serve(None, "--redis-url", own_redis.url, "--drain-seconds", "0", "--store") as server:
        assert check(server.grpc, *[value_of("k1")] * 4) == [200, 200, 429, 429]
        asyncio.run(_grant(own_redis.url, 1, "first"))
        assert check(server.grpc, *[value_of("k1")] * 3) == [200, 429, 429]
        asyncio.run(_grant(own_redis.url, 3, "second"))
        own_redis.kill()
        until(lambda: check(server.grpc, value_of("k1")) == [200], "the stand-in admits")


async def _grant(url: str, units: int, name: str) -> None:
    """Grant units to the first quota of k1, and wait until the change is live."""
    ledger, store = UsageLedger(url), Store(url)
    found = await find_held(store, "p1", "k1", None)
    written = await ledger.grant("p1", found.holder, found.quotas[0], units, name=name, who="test", what="grant")

    async def told() -> bool:
        return [one.version >= written.version for one in await store.presences()] == [True]

    await eventually(told)
    await ledger.aclose()
    await store.aclose()


async def _set_remaining(url: str, quota: QuotaSettings, remaining: int) -> None:
    """Set the remaining units, and wait until the change is live."""
    ledger, store = UsageLedger(url), Store(url)
    version = (await ledger.set_remaining("p1", *held(quota, "p1", "k1"), remaining, who="test", what="set")).version

    async def told() -> bool:
        return [one.version >= version for one in await store.presences()] == [True]

    await eventually(told)
    await ledger.aclose()
    await store.aclose()


def test_a_sidecar_that_has_never_read_the_store_refuses_all_and_is_not_ready(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """Not even the file's keys are let in, for the store may have more to say of them."""
    path = tmp_path / "plans.yaml"
    path.write_text(yaml.safe_dump(document()))
    own_redis.kill()
    flags = ("--redis-url", own_redis.url, "--drain-seconds", "0", "--store")
    with authz_serve(path, *flags, wait=False) as server:
        until(lambda: _answers(server.http), "it answers")
        assert get(f"{server.http}/readyz").status_code == 503
        assert check(server.grpc, value_of("k1")) == [503]
        own_redis.restart(empty=False)
        server.wait_until_ready()
        until(lambda: check(server.grpc, value_of("k1")) == [200], "it serves")


def _left_alone(http: str) -> bool:
    return bool(get(f"{http}/readyz").json()["redis"] == "left alone")


def _answers(http: str) -> bool:
    try:
        return get(f"{http}/healthz").status_code == 200
    except httpx.TransportError:
        return False


async def _write(url: str, items: tuple[Item, ...], account: str = DEFAULT_ACCOUNT) -> None:
    store = Store(url, account=account)

    async def edit(edit: Edit) -> None:
        for item in items:
            edit.put(item)

    await store.write(edit, who="test", what="put")
    await store.aclose()

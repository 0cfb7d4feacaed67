"""A Sentinel, a cluster, TLS: the master is found and followed, and a failover loses only unreplicated units."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
import redis
import yaml

from authz.check import LimiterUnavailable
from authz.core.limits import Charge, Layer, Limit, Meter, Quota, redis_key
from authz.core.resources import ApiKey, UsagePlan
from authz.core.stored import StoredKey, StoredPlan
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.limiter.limiter import RedisLimiter
from authz.redisio.client import connect, master_changes
from authz.store.audit import audit
from authz.store.backup import Backups
from authz.store.consistency import differences
from authz.store.ports import BackupEntry, Draft, StoreUnavailable, Written
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.integration.test_outage import Answer, asks, document, quota
from tests.support.builders import value_of
from tests.support.ledger import Ledger
from tests.support.limiters import running_limiter
from tests.support.servers import DEADLINE_SECONDS, HOST, Kind, RedisServer, authz_serve, kinds, redis_server, until
from tests.support.topologies import (
    MASTERS,
    PASSWORD,
    SENTINEL_PASSWORD,
    SERVICE,
    Certificates,
    Fleet,
    account_of,
    cluster,
    needs_tls,
    node_id,
    port_of,
    role,
    say,
    sentinels,
    slot_of,
    tls_by_envoy,
    tls_by_itself,
    tls_cluster,
)

FAR_FUTURE = 2**52
CALLERS, LIMIT, BEFORE = 8, 3000, 200
BUDGET = 5.0

Make = Callable[[Kind], AbstractContextManager[Fleet]]


@pytest.fixture(scope="module")
def steady(redis_kind: Kind) -> Iterator[Fleet]:
    """A cluster that loses no master; slots may move."""
    with cluster(redis_kind) as fleet:
        yield fleet


@dataclass
class Traffic:
    """Callers of one key: how many were admitted, refused, and left without Redis."""

    limiter: RedisLimiter
    account: str
    admitted: int = 0
    refused: int = 0
    failed: int = 0
    warm: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ledger(self) -> str:
        return redis_key(self.account, "ledger", "p", "k")

    async def call(self) -> None:
        limit = Limit(Layer.PLAN_QUOTA, self.ledger, Quota(LIMIT, 0, FAR_FUTURE))
        try:
            tally = await self.limiter.admit(
                Charge([limit], Meter(self.ledger, redis_key(self.account, "history", "p", "k")))
            )
        except LimiterUnavailable:
            self.failed += 1
            await asyncio.sleep(0.01)
        else:
            self.admitted += tally.refused_by is None
            self.refused += tally.refused_by is not None
        if self.failed or self.admitted >= BEFORE:
            self.warm.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Calls from all callers until something holds and the last call is answered."""
        deadline = monotonic() + 2 * DEADLINE_SECONDS

        async def keep_calling() -> None:
            while not holds():
                assert monotonic() < deadline, f"it never came to hold: {self}"
                await self.call()

        await asyncio.gather(*(keep_calling() for _ in range(CALLERS)))

    def used(self, server: RedisServer) -> int:
        """As far as this server knows: a replica on a busy machine may not have any call yet."""
        raw = say(server, "GET", self.ledger)
        return Ledger.of(raw).used if raw else 0


@asynccontextmanager
async def _traffic(url: str, account: str) -> AsyncIterator[Traffic]:
    async with running_limiter(url, account, BUDGET) as limiter:
        yield Traffic(limiter, account)


@pytest.mark.parametrize("make", [sentinels, cluster])
async def test_a_failover_is_followed_and_nothing_replicated_is_given_away(make: Make, redis_kind: Kind) -> None:
    """The replica has all when the master dies: the ceiling holds to the unit, and no process was restarted."""
    with make(redis_kind) as fleet:
        async with _traffic(fleet.url, fleet.account) as traffic:
            await traffic.until(lambda: traffic.admitted >= BEFORE)
            fleet.replicate()
            fleet.master.kill()
            await traffic.until(lambda: traffic.refused > 0)
            assert traffic.failed > 0
            assert (traffic.admitted, traffic.used(fleet.replica)) == (LIMIT, LIMIT)
            assert master_changes(traffic.limiter._sender._redis) == 1


@pytest.mark.parametrize("make", [sentinels, cluster])
async def test_a_failover_in_mid_traffic_loses_at_most_what_replication_lost(make: Make, redis_kind: Kind) -> None:
    """What the new master does not know of can be had once more, and not a unit beyond."""
    with make(redis_kind) as fleet:
        async with _traffic(fleet.url, fleet.account) as traffic:
            racing = asyncio.create_task(traffic.until(lambda: traffic.failed > 0))
            await traffic.warm.wait()
            fleet.master.kill()
            await racing
            before = traffic.admitted
            assert before < LIMIT
            until(fleet.is_promoted, "nobody was promoted")
            known = traffic.used(fleet.replica)
            await traffic.until(lambda: traffic.refused > 0)
            assert known <= before + traffic.failed
            assert traffic.admitted - before == LIMIT - known
            assert traffic.used(fleet.replica) == LIMIT


def _by_sentinel(fleet: Fleet) -> None:
    """It closes the old master's connections."""
    assert fleet.sentinel
    assert say(fleet.sentinel, "SENTINEL", "FAILOVER", SERVICE)
    until(lambda: fleet.is_promoted() and role(fleet.master) == b"slave", "the roles have not changed")


def _by_hand(fleet: Fleet) -> None:
    """Connections stay open, to a server that is a replica now."""
    assert fleet.sentinel
    say(fleet.sentinel, "SENTINEL", "REMOVE", SERVICE)
    say(fleet.replica, "REPLICAOF", "NO", "ONE")
    say(fleet.master, "REPLICAOF", HOST, port_of(fleet.replica))
    say(fleet.sentinel, "SENTINEL", "MONITOR", SERVICE, HOST, port_of(fleet.replica), 1)


@pytest.mark.parametrize("change", [_by_sentinel, _by_hand])
async def test_a_master_that_steps_down_is_left_without_a_failed_call(
    redis_kind: Kind, change: Callable[[Fleet], None]
) -> None:
    """The old master lives on as a replica, where nothing is counted any more."""
    with sentinels(redis_kind) as fleet:
        async with _traffic(fleet.url, fleet.account) as traffic:
            await traffic.until(lambda: traffic.admitted >= BEFORE)
            fleet.replicate()
            change(fleet)
            await traffic.until(lambda: traffic.refused > 0)
            assert (traffic.failed, traffic.admitted, traffic.used(fleet.replica)) == (0, LIMIT, LIMIT)
            assert master_changes(traffic.limiter._sender._redis) == 1


def _beside(fleet: Fleet) -> None:
    """The Sentinel names the replica, and the old master lives on as one: it would admit all calls once more."""
    assert fleet.sentinel
    say(fleet.sentinel, "SENTINEL", "REMOVE", SERVICE)
    say(fleet.replica, "REPLICAOF", "NO", "ONE")
    say(fleet.sentinel, "SENTINEL", "MONITOR", SERVICE, HOST, port_of(fleet.replica), 1)
    say(fleet.sentinel, "SENTINEL", "SET", SERVICE, "auth-pass", PASSWORD)


async def test_a_master_that_lives_on_is_left_when_the_sentinel_names_another(redis_kind: Kind) -> None:
    """No connection is closed and no command refused: only a new query to the Sentinels shows the change."""
    with sentinels(redis_kind) as fleet:
        async with _traffic(fleet.url, fleet.account) as traffic:
            await traffic.until(lambda: traffic.admitted >= BEFORE)
            fleet.replicate()
            _beside(fleet)
            known = traffic.used(fleet.replica)
            await traffic.until(lambda: traffic.used(fleet.replica) > known)
            assert role(fleet.master) == b"master"
            assert (traffic.failed, master_changes(traffic.limiter._sender._redis)) == (0, 1)


async def test_a_planned_failover_of_a_cluster_is_followed_and_gives_nothing_away(redis_kind: Kind) -> None:
    with cluster(redis_kind) as fleet:
        async with _traffic(fleet.url, fleet.account) as traffic:
            await traffic.until(lambda: traffic.admitted >= BEFORE)
            fleet.replicate()
            assert say(fleet.replica, "CLUSTER", "FAILOVER")
            await traffic.until(lambda: traffic.refused > 0)
            assert (traffic.admitted, traffic.used(fleet.replica)) == (LIMIT, LIMIT)
            assert master_changes(traffic.limiter._sender._redis) == 1


@pytest.mark.parametrize("make", [sentinels, cluster])
async def test_a_write_says_when_no_replica_has_it(make: Make, redis_kind: Kind) -> None:
    """The write is made. The next one, which a replica has, has no warning."""
    with make(redis_kind) as fleet:
        store = Store(fleet.url, account=fleet.account, budget=BUDGET)
        assert (await _written(store, "before")).at_risk == ""
        fleet.replica.pause()
        written = await _written(store, "meanwhile")
        assert (written.version, written.at_risk) == (2, "0 of 1 replicas have it so far")
        fleet.replica.resume()
        assert (await _eventually(lambda: _safely(store))).at_risk == ""
        await store.aclose()


async def _safely(store: Store) -> Written[None]:
    written = await _written(store, "after")
    if written.at_risk:
        raise StoreUnavailable(written.at_risk)
    return written


@pytest.mark.parametrize("make", [sentinels, cluster])
async def test_what_a_replica_has_acknowledged_survives_a_planned_failover(make: Make, redis_kind: Kind) -> None:
    """The old master lives on and takes writes; those that it takes alone say so."""
    with make(redis_kind) as fleet:
        if fleet.sentinel:
            say(fleet.sentinel, "SENTINEL", "DEBUG", "INFO-PERIOD", 10_000)  # as it is in production
        store, kept, warm = Store(fleet.url, account=fleet.account, budget=BUDGET), list[str](), asyncio.Event()

        async def keep_writing(writer: int) -> None:
            deadline = monotonic() + 2 * DEADLINE_SECONDS
            for number in count():
                if warm.is_set() and fleet.is_promoted() and _is_behind(fleet):
                    return
                assert monotonic() < deadline, f"it never left the old master: {len(kept)} writes"
                with suppress(StoreUnavailable):
                    if not (await _written(store, f"{writer}-{number}")).at_risk:
                        kept.append(f"{writer}-{number}")
                if len(kept) >= BEFORE // 4:
                    warm.set()

        writing = asyncio.gather(*map(keep_writing, range(4)))
        await warm.wait()
        _fail_over(fleet)
        await writing
        found = await store.many("usageplan", kept)
        assert [name for name, item in zip(kept, found, strict=True) if item is None] == []
        assert await differences(store) == []
        await store.aclose()


def _fail_over(fleet: Fleet) -> None:
    if fleet.sentinel:
        say(fleet.sentinel, "SENTINEL", "FAILOVER", SERVICE)
    else:
        say(fleet.replica, "CLUSTER", "FAILOVER")


def _is_behind(fleet: Fleet) -> bool:
    """The new master has a write that the old one has not."""
    ours, theirs = (_version(server, fleet.account) for server in (fleet.replica, fleet.master))
    return ours > theirs or role(fleet.master) == b"slave"


def _version(server: RedisServer, account: str) -> int:
    try:
        return int(say(server, "HGET", redis_key(account, "store", "head"), "version") or 0)
    except redis.exceptions.RedisError:
        return 0


@pytest.mark.parametrize("make", [sentinels, cluster])
async def test_the_store_follows_a_failover(make: Make, redis_kind: Kind) -> None:
    """Its versions go on, its change stream too, and its writes are whole."""
    with make(redis_kind) as fleet:
        store = Store(fleet.url, account=fleet.account, budget=BUDGET)
        assert await _put(store, "before") == 1
        fleet.replicate()
        fleet.master.kill()
        assert await _eventually(lambda: _put(store, "after")) == 2
        assert [event.version for event in await _eventually(lambda: store.changes(0, 200))] == [1, 2]
        assert await differences(store) == []
        await store.aclose()


async def _eventually(act: Callable[[], Any]) -> Any:
    deadline = monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return await act()
        except StoreUnavailable:
            assert monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("make", [sentinels, cluster])
def test_a_sidecar_goes_on_after_a_failover_without_a_restart(make: Make, tmp_path: Path) -> None:
    """It answers by policy while there is no master; the quota then goes on where it was."""
    config, limit, answers = tmp_path / "plans.yaml", 60, Counter[int]()
    config.write_text(yaml.safe_dump(document(p={"failurePolicy": "deny", **quota(limit)})))
    with make("valkey") as fleet:
        place = ("--redis-url", fleet.url, "--account-id", fleet.account)
        flags = ("--redis-timeout-ms", "2000", "--drain-seconds", "0")
        with authz_serve(config, *place, *flags) as sidecar, grpc.insecure_channel(sidecar.grpc) as channel:
            check = ext_authz_pb2_grpc.AuthorizationStub(channel).Check  # type: ignore[no-untyped-call]

            def answered(status: int, times: int) -> bool:
                answers[Answer.read(check(asks("p"), timeout=DEADLINE_SECONDS)).status] += 1
                return answers[status] >= times

            until(lambda: answered(200, limit // 2), "it does not admit", sidecar)
            fleet.replicate()
            fleet.master.kill()
            until(lambda: answered(503, 1), "it does not notice", sidecar)
            until(lambda: answered(429, 1), "it does not recover", sidecar)
            assert answers[200] == limit
        assert re.search(f"plan_quota: {limit} .* 0 left", _explained(config, *place))


def _explained(config: Path, *place: str) -> str:
    """By the command, which asks the new master."""
    words = ("explain", "GET", "https://api.example.com/prod/pets", "-H", f"x-api-key: {value_of('p')}", "--redis")
    command = (sys.executable, "-m", "authz", *words, "--config", str(config), *place)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS).stdout


async def _put(store: Store, plan_id: str) -> int:
    return (await _written(store, plan_id)).version


async def _written(store: Store, plan_id: str) -> Written[None]:
    async def edit(draft: Draft) -> None:
        draft.put(StoredPlan(UsagePlan(plan_id, plan_id), nonce="n"))
        draft.put(StoredKey(ApiKey(plan_id, plan_id), f"{plan_id}-digest", 1, 1))

    return await store.write(edit, who="ann", what="Test")


@pytest.mark.parametrize("number", range(MASTERS))
async def test_each_slot_of_a_cluster_is_found_from_any_node(steady: Fleet, number: int) -> None:
    """Whichever node is named: limits, usage, the store, and a backup of it."""
    nodes = [steady.master, *steady.others]
    for node in nodes:
        account = account_of(number)
        url = f"redis+cluster://:{PASSWORD}@{HOST}:{port_of(node)}"
        async with _traffic(url, account) as traffic:
            await traffic.call()
            assert traffic.used(nodes[number]) == 1
            assert master_changes(traffic.limiter._sender._redis) == 0
        ledger = UsageLedger(url, account=account)
        assert (await ledger.read("p", ["k"])).records["k"].state.used == 1
        await ledger.aclose()
        await _store_works(url, account)


async def _store_works(url: str, account: str) -> None:
    """The first command of a restore is a SCAN, which names no key; it must reach the right node too."""
    store = Store(url, account=account)
    assert await _put(store, "one") == 1
    assert (await store.find("one-digest")).key is not None
    assert len((await store.snapshot()).items) == 1
    kept = [one async for one in Backups(store.database).dump()]
    left, client = redis_key(account, "restoring", "left"), connect(url, 1.0)
    assert await client.set(left, "by a restore that ended half way")
    await store.aclose()
    again = Store(url, account=account)
    assert await Backups(again.database).load(_each(kept)) == len(kept)
    assert await differences(again) == []
    await again.renew_presence("w", await again.head())
    assert [one.worker for one in await again.presences()] == ["w"]
    assert (
        len(
            await audit(
                again.database,
            )
        )
        == 1
    )
    assert await client.get(left) is None
    await client.aclose()
    await again.aclose()


async def _each(kept: list[BackupEntry]) -> AsyncIterator[BackupEntry]:
    for one in kept:
        yield one


async def test_a_slot_that_moves_is_followed_and_charged_once(steady: Fleet) -> None:
    """Key by key, a slot is of no use while it moves: no call is admitted, and nothing is counted twice."""
    account = account_of(0)
    async with _traffic(steady.url, account) as traffic:
        await traffic.until(lambda: traffic.admitted >= BEFORE)
        before, heir = traffic.admitted, steady.others[0]
        with _moving(steady.master, heir, slot_of(account)):
            await traffic.call()
            assert (traffic.admitted, traffic.failed) == (before, 1)
        await traffic.until(lambda: traffic.refused > 0)
        assert traffic.failed == 1
        assert (traffic.admitted, traffic.used(heir)) == (LIMIT, LIMIT)
        assert master_changes(traffic.limiter._sender._redis) == 1


@contextmanager
def _moving(source: RedisServer, heir: RedisServer, slot: int) -> Iterator[None]:
    say(heir, "CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
    say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(heir))
    yield
    keys = say(source, "CLUSTER", "GETKEYSINSLOT", slot, 100)
    say(source, "MIGRATE", HOST, port_of(heir), "", 0, 5000, "AUTH", PASSWORD, "KEYS", *keys)
    for node in (heir, source):
        say(node, "CLUSTER", "SETSLOT", slot, "NODE", node_id(heir))


async def test_a_silent_node_is_not_tried_first_again(steady: Fleet) -> None:
    """Its time ends with the caller's; the next caller tries another node, and has the answer in less than its time."""
    silent, other = steady.others
    url = f"redis+cluster://:{PASSWORD}@{HOST}:{port_of(silent)},{HOST}:{port_of(other)}"
    client, key = connect(url, 20.0), redis_key(account_of(0), "x")
    silent.pause()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.get(key)
        async with asyncio.timeout(9.0):
            assert await client.set(key, "1")
    finally:
        silent.resume()
    await client.aclose()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"redis+sentinel://{HOST}:1,{HOST}:2/main", "MasterUnknown: no server names the master"),
        (f"redis+cluster://{HOST}:1", "MasterUnknown: no server names the master"),
    ],
)
async def test_no_server_answers(url: str, error: str, account: str) -> None:
    async with _traffic(url, account) as traffic:
        with pytest.raises(LimiterUnavailable, match=error):
            await traffic.limiter.peek(Charge([], Meter(traffic.ledger, redis_key(account, "history"))))


async def test_a_sentinel_may_not_know_the_name_or_be_behind(redis_kind: Kind) -> None:
    """The server that it names is checked for its role."""
    with sentinels(redis_kind) as fleet:
        client = connect(fleet.url.replace("/main", "/other"), 1.0)
        with pytest.raises(redis.exceptions.ConnectionError, match="knows no master of that name"):
            await client.get("x")
        await client.aclose()
        client = connect(fleet.url.replace(SENTINEL_PASSWORD, "wrong"), 1.0)
        with pytest.raises(redis.exceptions.ConnectionError, match="AuthenticationError"):
            await client.get("x")
        await client.aclose()
        client = connect(fleet.url, 1.0)
        client.masters.known = (HOST, port_of(fleet.replica))  # type: ignore[attr-defined]
        run: Callable[..., Awaitable[Any]] = client.execute_command
        assert (await run("ROLE"))[0] == b"master"
        await client.aclose()


@pytest.fixture(scope="module", params=["envoy", *(["itself"] if "redis" in kinds() else [])])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Certificates]]:
    """A Redis behind TLS that wants a certificate of its authority."""
    files = Certificates.make(tmp_path_factory.mktemp("tls") / "right")
    if request.param == "itself":
        with tls_by_itself(files) as (_, port):
            yield port, files
    else:
        with redis_server("valkey") as server, tls_by_envoy(server, files) as port:
            yield port, files


def _tls_url(port: int, files: Certificates, with_own: bool = True) -> str:
    own = f"&ssl_certfile={files.certificate}&ssl_keyfile={files.key}" if with_own else ""
    return f"rediss://{HOST}:{port}/0?ssl_ca_certs={files.ca}{own}"


async def test_tls_works_with_the_right_authority(tls: tuple[int, Certificates], account: str) -> None:
    async with _traffic(_tls_url(*tls), account) as traffic:
        await traffic.call()
        assert traffic.admitted == 1


@pytest.mark.parametrize("right", [True, False])
@needs_tls
async def test_tls_works_between_the_nodes_of_a_cluster(account: str, tmp_path: Path, right: bool) -> None:
    """The servers that name the master, and the master itself."""
    files = Certificates.make(tmp_path / "right")
    trusted = files if right else replace(files, ca=Certificates.make(tmp_path / "wrong").ca)
    with tls_cluster(files) as port:
        url = _tls_url(port, trusted).replace("rediss://", "rediss+cluster://")
        async with _traffic(url, account) as traffic:
            await traffic.call()
            assert (traffic.admitted, traffic.failed) == (int(right), int(not right))


@pytest.mark.parametrize("wrong", ["authority", "no certificate"])
async def test_tls_is_refused_with_the_wrong_one(
    tls: tuple[int, Certificates], account: str, wrong: str, tmp_path: Path
) -> None:
    port, files = tls
    if wrong == "authority":
        files = replace(files, ca=Certificates.make(tmp_path / "wrong").ca)
    async with _traffic(_tls_url(port, files, with_own=wrong == "authority"), account) as traffic:
        await traffic.call()
        assert (traffic.admitted, traffic.failed) == (0, 1)

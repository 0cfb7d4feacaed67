"""Each trap of a Redis is planted in a real one: the doctor finds it, and nothing where none is planted."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from authz.core.limits import redis_key
from authz.core.resources import Period, QuotaSettings, UsagePlan
from authz.core.stored import AlertTarget, StoredPlan
from authz.doctor.examine import examine
from authz.doctor.facts import Facts, Redis
from authz.doctor.fetch import Targets, look
from authz.doctor.rules.redis import REDIS_RULES
from authz.store.items import encode
from tests.support.servers import HOST, Kind, RedisServer, free_port, redis_server, until
from tests.support.topologies import port_of, say

ACCOUNT = "doctored"
CLEAN = ("--appendfsync", "everysec")

Plant = Callable[[RedisServer], object]


def seen(url: str, **more: Any) -> Facts:
    facts = asyncio.run(look(Targets(redis=url, account=ACCOUNT, **more)))
    assert facts.silent == {}
    return facts


def found(facts: Facts) -> list[str]:
    return [finding.id for finding in examine(facts)]


def info(server: RedisServer, name: str) -> str:
    return str(say(server, "INFO")[name])


def fill(server: RedisServer) -> None:
    """Until something had to go."""
    say(server, "CONFIG", "SET", "maxmemory", int(info(server, "used_memory")) + 2_000_000)
    for number in range(400):
        say(server, "SET", f"filler-{number}", "x" * 20_000)
    assert int(info(server, "evicted_keys"))
    say(server, "CONFIG", "SET", "maxmemory", 0)


def bound_memory(server: RedisServer) -> None:
    say(server, "CONFIG", "SET", "maxmemory", int(int(info(server, "used_memory")) / 0.9))


def fail_to_save(server: RedisServer) -> None:
    shutil.rmtree(server.data)
    say(server, "BGSAVE")
    until(lambda: info(server, "rdb_last_bgsave_status") == "err", "the snapshot does not fail", server)


def lasting_counter(server: RedisServer) -> None:
    """And one of the store, which lasts for ever and is fine."""
    say(server, "SET", redis_key(ACCOUNT, "ledger", "p1", "k1"), "a counter")
    say(server, "SET", redis_key(ACCOUNT, "stage", "a1", "prod", "/", "GET"), "a counter", "PX", 60_000)
    say(server, "HSET", redis_key(ACCOUNT, "store", "head"), "version", 1)


def plant(server: RedisServer, **ages: float) -> None:
    """A delivery of this age, in seconds, in each of these lists; `failing` has a target."""
    for name, seconds in ages.items():
        at = int((time.time() - seconds) * 1e6)
        key = redis_key(ACCOUNT, "webhook", name)
        say(server, *(("HSET", key, "t1", at) if name == "failing" else ("ZADD", key, at, f"msg_1-0_{name}")))


def plan_with_alerts(server: RedisServer) -> None:
    plan = StoredPlan(UsagePlan("gold", "Gold", quota=QuotaSettings(10, Period.DAY, alerts=(80,))))
    say(server, "HSET", redis_key(ACCOUNT, "store", "item", "usageplan"), "gold", encode(plan))


def plan_with_alerts_and_target(server: RedisServer) -> None:
    plan_with_alerts(server)
    target = AlertTarget("t1", "pager", "https://x.example", 1, 1, "sealed")
    say(server, "HSET", redis_key(ACCOUNT, "store", "item", "alerttarget"), "t1", encode(target))


@dataclass(frozen=True)
class Trap:
    """A planted mistake, by options or by a deed: its finding, and others that follow from it."""

    id: str
    options: tuple[str, ...] = ()
    plant: Plant = lambda _: None
    also: tuple[str, ...] = ()
    seen: str = ""


TRAPS = (
    Trap("eviction-policy", ("--maxmemory-policy", "volatile-lru"), seen="volatile-lru"),
    Trap("keys-evicted", ("--maxmemory-policy", "allkeys-lru"), fill, also=("eviction-policy",)),
    Trap("memory-near", plant=bound_memory, seen="%"),
    Trap("no-persistence", ("--appendonly", "no")),
    Trap("snapshots-only", ("--appendonly", "no", "--save", "60 1"), seen="save 60 1"),
    Trap("never-synced", ("--appendfsync", "no")),
    Trap("persistence-fails", plant=fail_to_save, seen="rdb_last_bgsave_status err"),
    Trap("counter-without-expiry", plant=lasting_counter, seen=f"1 of 2 keys, such as {{{ACCOUNT}}}:v1:ledger:p1:k1"),
    Trap("busy-threshold", ("--busy-reply-threshold", "100"), seen="100 ms"),
    Trap(
        "cluster-url",
        ("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
        lambda server: say(server, "CLUSTER", "ADDSLOTSRANGE", 0, 16383),
        seen="cluster_enabled 1",
    ),
    Trap("alerts-stay-here", plant=plan_with_alerts, seen="plans with alerts: 1"),
    Trap("alert-target-fails", plant=partial(plant, failing=7_300, pending=7_300), seen="target t1, for 2 h"),
    Trap("alerts-wait", plant=partial(plant, pending=7_300), seen="1 pending, the oldest for 2 h"),
    Trap("alerts-given-up", plant=partial(plant, failed=7_300), seen="1 given up"),
    Trap("without-password", ("--bind", f"{HOST} -192.0.2.1", "--protected-mode", "no"), seen="192.0.2.1"),
)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.id)
def test_a_planted_trap_is_found_and_nothing_else(trap: Trap, redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN, *trap.options) as server:
        trap.plant(server)
        findings = examine(seen(server.url))
    assert {finding.id for finding in findings} == {trap.id, *trap.also}, findings
    [finding] = [finding for finding in findings if finding.id == trap.id]
    assert finding.where == f"Redis redis://{HOST}:{port_of(server)}/0"
    assert trap.seen in finding.seen


def test_alerts_with_a_target_and_deliveries_of_this_hour_are_fine(redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN) as server:
        plan_with_alerts_and_target(server)
        plant(server, failing=600, pending=600, failed=100_000)
        assert found(seen(server.url)) == []


@pytest.mark.parametrize("options", [{}, {"unix": True}, {"password": "se cret"}], ids=["tcp", "unix", "password"])
def test_nothing_is_found_in_a_good_one(options: Any, redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN, **options) as server:
        url = server.url.replace("se cret", "se%20cret")
        facts = seen(url)
    assert examine(facts) == []
    assert facts.redis is not None
    assert "se" not in facts.redis.url.replace("redis", "")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("/0", "/99", "DB index is out of range"),
        ("127.0.0.1", ":wrong@127.0.0.1", "invalid username-password pair"),
        ("127.0.0.1", "nobody:wrong@127.0.0.1", "invalid username-password pair"),
    ],
    ids=["database", "password", "user"],
)
def test_a_connection_that_redis_refuses_is_reported_with_the_reason(
    before: str, after: str, reason: str, redis_kind: Kind
) -> None:
    """And not as a user who may not say the doctor's commands."""
    with redis_server(redis_kind, *CLEAN, password="secret") as server:
        address = f"redis://{HOST}:{port_of(server)}/0" if "wrong" in after else server.url
        facts = asyncio.run(look(Targets(redis=address.replace(before, after), account=ACCOUNT)))
    assert facts.redis is None
    [finding] = examine(facts)
    assert (finding.id, finding.severity) == ("unreachable", "error")
    assert reason in finding.seen
    assert "wrong" not in f"{finding}"


def test_a_missing_login_for_redis_is_reported(redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN, password="secret") as server:
        facts = asyncio.run(look(Targets(redis=f"redis://{HOST}:{port_of(server)}/0", account=ACCOUNT)))
    [finding] = examine(facts)
    assert (finding.id, "NOAUTH" in finding.seen or "Authentication required" in finding.seen) == ("unreachable", True)


def test_a_password_keeps_strangers_out_wherever_it_listens(redis_kind: Kind) -> None:
    reachable = ("--bind", f"{HOST} -192.0.2.1", "--protected-mode", "no")
    with redis_server(redis_kind, *CLEAN, *reachable, password="secret") as server:
        assert found(seen(server.url)) == []


def test_a_replica_and_a_master_that_writes_without_it_are_found(redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN) as master:
        follow = ("--replicaof", f"{HOST} {port_of(master)}")
        with redis_server(redis_kind, *CLEAN, *follow) as replica:
            until(lambda: info(master, "connected_slaves") == "1", "the replica does not follow", master)
            assert found(seen(replica.url)) == ["reads-a-replica"]
            assert found(seen(master.url)) == ["lone-master-writes"]
            say(master, "CONFIG", "SET", "min-replicas-to-write", 1)
            assert found(seen(master.url)) == []


def test_a_clock_that_is_off_is_found(redis_kind: Kind) -> None:
    """Redis's cannot be set, so it is ours that is."""
    with redis_server(redis_kind, *CLEAN) as server:
        [finding] = examine(seen(server.url, clock=lambda: time.time() - 60))
    assert (finding.id, finding.seen) == ("redis-clock", "+60.0 s from this machine")


def test_a_redis_that_hides_its_configuration_is_reported(redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN) as server:
        say(server, "ACL", "SETUSER", "doctor", "on", ">secret", "~*", "+@all", "-config", "-acl")
        url = server.url.replace("redis://", "redis://doctor:secret@")
        findings = examine(seen(url))
    assert [finding.id for finding in findings] == ["redis-not-seen"]
    assert "secret" not in str(findings)


def test_an_unread_setting_is_not_reported_as_a_mistake(redis_kind: Kind) -> None:
    """Snapshots may be written for all we know."""
    with redis_server(redis_kind, "--appendonly", "no", "--save", "60 1") as server:
        say(server, "ACL", "SETUSER", "doctor", "on", ">secret", "~*", "+@all", "-config")
        assert found(seen(server.url.replace("redis://", "redis://doctor:secret@"))) == ["redis-not-seen"]


SECURITY = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
USERS = re.findall(r"^user (\w+) on >PASSWORD (.*)$", SECURITY, re.MULTILINE)


@pytest.mark.parametrize(("name", "rights"), USERS, ids=[name for name, _ in USERS])
def test_a_user_as_we_recommend_it_is_no_reason_to_call_redis_unreachable(
    name: str, rights: str, redis_kind: Kind
) -> None:
    with redis_server(redis_kind, *CLEAN) as server:
        say(server, "ACL", "SETUSER", name, "on", ">secret", *rights.split())
        findings = examine(seen(server.url.replace("redis://", f"redis://{name}:secret@")))
    assert [finding.id for finding in findings] == ["redis-not-seen"]
    assert "INFO" in findings[0].seen


@asynccontextmanager
async def slowed(port: int, seconds: float) -> AsyncIterator[int]:
    """The port of a way to Redis on which each answer takes this long."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(pause)
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, words = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pass_on(reader, words, 0), pass_on(answers, writer, seconds), return_exceptions=True)

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_slow_redis_is_found(redis_kind: Kind) -> None:
    with redis_server(redis_kind, *CLEAN) as server:
        async with slowed(port_of(server), 0.03) as port:
            facts = await look(Targets(redis=f"redis://{HOST}:{port}/0", account=ACCOUNT))
    assert found(facts) == ["slow-answers"]


def off_the_disk(redis: Redis) -> Redis:
    return replace(redis, info={**redis.info, "aof_delayed_fsync": 3})


def of_version_6(redis: Redis) -> Redis:
    return replace(redis, info={**redis.info, "redis_version": "6.2.14"})


def far_away(redis: Redis) -> Redis:
    return replace(redis, hosts=("redis.example.org",), has_login=True, default_user_is_open=False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [(off_the_disk, "slow-disk"), (of_version_6, "redis-too-old"), (far_away, "redis-in-the-clear")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_what_no_server_here_can_be_is_found_in_the_answers_of_one(
    change: Callable[[Redis], Redis], expected: str, redis_kind: Kind
) -> None:
    """A slow disk, an old version and another machine: a real server's answers, changed in one place."""
    with redis_server(redis_kind, *CLEAN) as server:
        facts = seen(server.url)
    assert facts.redis is not None
    assert found(replace(facts, redis=change(facts.redis))) == [expected]


def test_each_rule_of_redis_is_planted_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [rule.id for rule in REDIS_RULES if f'"{rule.id}"' not in text] == []

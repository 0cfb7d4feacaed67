"""A Redis that refuses: the log, `/healthz` and the doctor name the address and Redis's own words, and no password."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from structlog.testing import capture_logs

from authz.config import file as config
from authz.config.file import Config
from authz.config.settings import Settings
from authz.redisio.client import connect
from authz.redisio.url import mask_url
from authz.sidecar.parts import Parts
from authz.sidecar.sidecar import Sidecar
from authz.store.store import Store
from tests.integration.test_outage import document
from tests.support.servers import HOST, RedisServer, free_port, redis_server
from tests.support.topologies import port_of, say

PASSWORD = "s3cret-and-long"
OWN_DATABASE = 7
LOOKS, WAIT_SECONDS = 600, 0.05


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """With users that may do too little; of one kind, as the words are the same in both."""
    with redis_server(password=PASSWORD) as server:
        say(server, "ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "~*", "+@all", "-eval", "-evalsha")
        say(server, "ACL", "SETUSER", "blind", "on", f">{PASSWORD}", "~other", "+@all")
        yield server


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, Config]:
    path = tmp_path / "plans.yaml"
    path.write_text(yaml.safe_dump(document(p={})))
    return path, config.load(path)


CAUSES = [
    ("redis://:wrong-password@{at}/0", "AuthenticationError: invalid username-password pair"),
    ("redis://{at}/0", "AuthenticationError: Authentication required"),
    ("redis://weak:{password}@{at}/0", "NoPermissionError: .*eval"),
    ("redis://blind:{password}@{at}/0", "NoPermissionError: .*key"),
    ("redis://:{password}@{at}/16", "DB index is out of range"),
    ("redis+cluster://:{password}@{at}", "MasterUnknown: no server names the master.*cluster support disabled"),
    (
        "redis+sentinel://:{password}@{at}/main?sentinel_password={password}",
        "no server names the master.*unknown command",
    ),
    ("redis+sentinel://:{password}@{at}/main", "no server names the master.*AuthenticationError"),
    ("redis://:{password}@no-such-host.invalid:6379/0", "ConnectionError: .*no-such-host.invalid"),
    ("redis://:{password}@" + HOST + ":{free}/0", "ConnectionError: .*Connect call failed"),
    ("rediss://:{password}@{at}/0", "Error"),
    ("unix:///not/there/redis.sock?password={password}", "ConnectionError: .*No such file"),
]


@pytest.mark.parametrize(("url", "words"), CAUSES)
async def test_a_sidecar_that_starts_says_why_redis_is_left_alone(
    server: RedisServer, file: tuple[Path, Config], url: str, words: str
) -> None:
    told = url.format(at=f"{HOST}:{port_of(server)}", password=PASSWORD, free=free_port())
    with capture_logs() as lines:
        sidecar = Sidecar(Parts.build(Settings(redis_url=told, redis_timeout_ms=2000), file))
        await sidecar.connect()
        details = sidecar.details()
        await sidecar.parts.limiter.aclose()
    (opened,) = [line for line in lines if line["event"] == "redis circuit opened"]
    assert (opened["redis"], opened["reason"]) == (mask_url(told), details["redisProblem"])
    assert _matches(words, opened["reason"]), opened["reason"]
    assert (details["redis"], details["redisAddress"]) == ("left alone", mask_url(told))
    assert not any(secret in repr((lines, details)) for secret in (PASSWORD, "wrong-password"))


def _matches(words: str, reason: str) -> bool:
    """In this order, and whatever the case."""
    at = 0
    for part in words.lower().split(".*"):
        at = reason.lower().find(part, at)
        if at < 0:
            return False
    return True


RUNNING = [
    (("CONFIG", "SET", "requirepass", "another"), "AuthenticationError"),
    (("ACL", "SETUSER", "default", "-eval", "-evalsha"), "NoPermissionError"),
    (("CONFIG", "SET", "min-replicas-to-write", "1"), "NOREPLICAS"),
]


@pytest.mark.parametrize(("change", "words"), RUNNING)
async def test_a_sidecar_that_runs_says_why_redis_is_left_alone_and_that_it_is_back(
    file: tuple[Path, Config], change: tuple[Any, ...], words: str
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(redis_server(password=PASSWORD))
        lines = stack.enter_context(capture_logs())
        sidecar = Sidecar(Parts.build(Settings(redis_url=server.url, redis_timeout_ms=2000), file))
        await sidecar.connect()
        assert sidecar.details()["redisProblem"] is None
        with redis.Redis.from_url(server.url, single_connection_client=True) as operator:
            run: Callable[..., Any] = operator.execute_command
            run(*change)
            run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        probing = asyncio.create_task(sidecar.parts.circuit.run())
        for _ in range(3):
            await sidecar.parts.limiter.probe()
        await _until(lambda: words in (sidecar.details()["redisProblem"] or ""))
        server.restart(empty=True)
        await _until(lambda: sidecar.details()["redisProblem"] is None)
        probing.cancel()
        await sidecar.parts.limiter.aclose()
    events = [line["event"] for line in lines]
    assert {"redis circuit opened", "redis circuit closed"} <= set(events)
    assert PASSWORD not in repr(lines)


async def _until(holds: Any) -> None:
    for _ in range(LOOKS):
        if holds():
            return
        await asyncio.sleep(WAIT_SECONDS)
    raise AssertionError("it never came to hold")


async def test_connections_of_a_busy_moment_are_closed_when_they_are_idle(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last one, with which the next caller need not wait."""
    monkeypatch.setattr("authz.redisio.pool.IDLE_SECONDS", 0.2)
    client = connect(f"{server.url.rpartition('/')[0]}/{OWN_DATABASE}", 20.0)
    ask: Callable[..., Any] = client.execute_command
    await asyncio.gather(*(ask("XREAD", "BLOCK", 300, "STREAMS", "x", "$") for _ in range(20)))
    await _until(lambda: _clients(server) == 1)
    assert await ask("PING")
    assert _clients(server) == 1
    await client.aclose()


def _clients(server: RedisServer) -> int:
    """How many are connected to our database; those of other tests may still be on their way out."""
    return sum(client["db"] == str(OWN_DATABASE) for client in say(server, "CLIENT LIST"))


async def test_a_store_says_what_redis_said(server: RedisServer) -> None:
    """As the commands of the command line print it."""
    store = Store(server.url.replace(PASSWORD, "wrong-password"), budget=2.0)
    with pytest.raises(Exception, match="Redis failed: AuthenticationError: invalid username") as failed:
        await store.head()
    assert "wrong-password" not in str(failed.value)
    await store.aclose()

"""Sidecars behind an Envoy, and one of them gets TERM under traffic."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from authz.core.limits import redis_key
from authz.core.resources import ThrottleSettings
from tests.e2e.stack import TIMEOUT_SECONDS, Stack, stack
from tests.support.builders import key, plan, resources, value_of
from tests.support.ledger import SIZE, Ledger
from tests.support.servers import AuthzServer, EchoServer, Host, RedisServer, until

CLIENTS = 4
MOST = 5_000  # requests of a client: the traffic ends, whatever happens
AFTER = 20  # requests of a client when the sidecar has ended
PAUSE_SECONDS = 0.005
DRAIN = "6"  # the default of `authz serve`; the other tests here drain nothing
HOLD_MS = "500"  # the longest: a hold that is not given back is in Redis yet when the sidecar has ended
CATALOG = resources(
    usage_plans=(plan(throttle=ThrottleSettings(rate_limit=10_000, burst_limit=10_000)),),
    api_keys=(key(value=value_of("k1"), value_sha256=None),),
)


@pytest.fixture(scope="module")
def pair(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    with stack(CATALOG, redis.url, echo.address, "--drain-seconds", DRAIN, sidecars=2, host=served_by) as it:
        yield it
        it.sidecars[1].kill()  # without a drain


def client(stack: Stack, over: threading.Event) -> Counter[int]:
    """The statuses of calls on one connection, until it is over and some more."""
    statuses: Counter[int] = Counter()
    headers = {"host": "a1.test", "x-api-key": value_of("k1")}
    with httpx.Client(base_url=stack.envoy.url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as envoy:
        left = MOST
        while left:
            statuses[envoy.get("/prod/pets").status_code] += 1
            left = min(left - 1, AFTER) if over.is_set() else left - 1
            over.wait(PAUSE_SECONDS)
    return statuses


@pytest.fixture(scope="module")
def holding(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    with stack(CATALOG, redis.url, echo.address, "--hold-ms", HOLD_MS, host=served_by) as it:
        yield it


def metric(sidecar: AuthzServer, name: str) -> float:
    """The sum of a metric's series."""
    exposed = httpx.get(f"{sidecar.http}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in exposed if line.startswith((f"{name}{{", f"{name} ")))


def checks(sidecar: AuthzServer) -> float:
    """How many calls a sidecar has decided."""
    return metric(sidecar, "authz_checks_total")


def test_a_sidecar_that_is_stopped_fails_no_request(pair: Stack) -> None:
    """Both have a share; one leaves under traffic, with exit status 0; the other answers from then on."""
    leaving, staying = pair.sidecars
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, pair, over) for _ in range(CLIENTS)]
        try:
            until(lambda: checks(leaving) > 0 and checks(staying) > 0, "one of them has no share", staying)
            leaving.send(signal.SIGTERM)
            assert leaving.wait() == 0, leaving.log_text
        finally:
            over.set()
    statuses = sum((client.result() for client in clients), Counter[int]())
    assert set(statuses) == {200}, statuses


def test_a_sidecar_that_is_stopped_gives_its_holds_back(holding: Stack, redis: RedisServer) -> None:
    """It leaves at once, under traffic. Redis then holds no units, and has counted the calls that were admitted.

    A call of each client may have been counted although its answer was lost.
    """
    sidecar, over = holding.sidecar, threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, holding, over) for _ in range(CLIENTS)]
        try:
            until(lambda: metric(sidecar, "authz_held_calls") > 0, "it holds nothing", sidecar)
            sidecar.send(signal.SIGTERM)
            assert sidecar.wait() == 0, sidecar.log_text
        finally:
            over.set()
    statuses = sum((client.result() for client in clients), Counter[int]())
    with Redis.from_url(redis.url) as store:
        ledger = store.get(redis_key(holding.account, "ledger", "p1", "k1"))
    assert isinstance(ledger, bytes)
    assert len(ledger) == SIZE, "a hold is left"
    assert 0 <= Ledger.of(ledger).day_used - statuses[200] <= CLIENTS

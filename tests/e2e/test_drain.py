"""Two sidecars behind one Envoy, and one of them gets TERM."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from authz.core.resources import ThrottleSettings
from tests.e2e.stack import TIMEOUT_SECONDS, Stack, stack
from tests.support.builders import key, plan, resources, value_of
from tests.support.servers import AuthzServer, EchoServer, Host, RedisServer, until

CLIENTS = 4
MOST = 5_000  # requests of a client: the traffic ends, whatever happens
AFTER = 20  # requests of a client when the sidecar has ended
PAUSE_SECONDS = 0.005
DRAIN = "6"  # the default of `authz serve`; the other tests here drain nothing


@pytest.fixture(scope="module")
def pair(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    wide = plan(throttle=ThrottleSettings(rate_limit=10_000, burst_limit=10_000))
    catalog = resources(usage_plans=(wide,), api_keys=(key(value=value_of("k1"), value_sha256=None),))
    with stack(catalog, redis.url, echo.address, "--drain-seconds", DRAIN, sidecars=2, host=served_by) as it:
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


def checks(sidecar: AuthzServer) -> float:
    """How many calls a sidecar has decided."""
    told = httpx.get(f"{sidecar.http}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in told if line.startswith("authz_checks_total{"))


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

"""Several workers behind a real Envoy: one after the other replaced, and one killed, under traffic."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from authz.core.resources import Period, QuotaSettings, Resources
from tests.e2e.stack import TIMEOUT_SECONDS, Stack, items, stack
from tests.support.builders import key, plan, resources, value_of
from tests.support.hosts import HOSTS
from tests.support.servers import EchoServer, Host, RedisServer, until

CLIENTS = 4
PLENTY = 1_000_000
MOST = 20_000  # requests of a client: the traffic ends, whatever happens
AFTER = 50  # requests of a client after the event
PAUSE_SECONDS = 0.005
HEALTH_SECONDS = 0.2
DRAIN = ("--drain-seconds", "1")  # longer than two checks of health


def catalog(limit: int) -> Resources:
    quota = QuotaSettings(limit=limit, period=Period.MONTH)
    known = (key(value=value_of("k1"), value_sha256=None),)
    return resources(usage_plans=(plan(quota=quota),), api_keys=known)


def often(envoy_config: Any) -> None:
    """Health is checked five times a second."""
    [authz] = [one for one in envoy_config["static_resources"]["clusters"] if one["name"] == "authz"]
    interval = f"{HEALTH_SECONDS}s"
    authz["health_checks"][0] |= {"interval": interval, "no_traffic_interval": interval, "timeout": interval}


def told(stack: Stack) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = stack.healthz()["workers"]
    return workers


def pids(stack: Stack) -> list[int]:
    return [worker.get("pid", 0) for worker in told(stack)]


def calls(stack: Stack) -> Iterator[int]:
    """The statuses of calls on one connection, one after the other."""
    headers = {"host": "a1.test", "x-api-key": value_of("k1")}
    with httpx.Client(base_url=stack.envoy.url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as envoy:
        for _ in range(MOST):
            yield envoy.get("/prod/pets").status_code


def client(stack: Stack, over: threading.Event) -> Counter[int]:
    """The answers until the event is over, and some more."""
    statuses: Counter[int] = Counter()
    left = AFTER
    for status in calls(stack):
        statuses[status] += 1
        left -= over.is_set()
        if not left:
            break
        over.wait(PAUSE_SECONDS)
    return statuses


def under_traffic(stack: Stack, act: Callable[[], None]) -> Counter[int]:
    """What clients were answered before, while and after that was done."""
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, stack, over) for _ in range(CLIENTS)]
        try:
            act()
        finally:
            over.set()
    return sum((client.result() for client in clients), Counter[int]())


@contextmanager
def pair(redis: RedisServer, echo: EchoServer, limit: int, *flags: str, host: Host = "grpcio") -> Iterator[Stack]:
    """Two workers, and an Envoy that finds both healthy."""
    with stack(catalog(limit), redis.url, echo.address, *DRAIN, *flags, workers=2, host=host, patch=often) as it:
        until(lambda: healthy(it) == 2, "Envoy has not found both", it.sidecar)
        yield it


def healthy(stack: Stack) -> int:
    """How many workers Envoy would ask."""
    stats = httpx.get(f"{stack.envoy.admin}/stats?filter=cluster.authz.membership_healthy", trust_env=False).text
    return int(stats.rpartition(":")[2])


@pytest.mark.parametrize("host", HOSTS)
def test_a_rolling_restart_fails_no_request(redis: RedisServer, echo: EchoServer, host: Host) -> None:
    """USR2 under traffic; every request is answered as if nothing had happened, and is charged once."""
    with pair(redis, echo, PLENTY, "--rate-limit-headers-on-success", "true", host=host) as it:
        before = pids(it)

        def act() -> None:
            it.sidecar.send(signal.SIGUSR2)
            until(lambda: "workers replaced" in it.sidecar.log_text, "not replaced", it.sidecar)

        statuses = under_traffic(it, act)
        assert set(statuses) == {200}, (statuses, [one for one in it.access_log() if one["status"] != 200])
        assert not set(before) & set(pids(it))
        assert used(it) == statuses.total()


def used(stack: Stack) -> int:
    """The used units of the quota, read from an answer, without the call that reads them."""
    layers = dict(items(stack.get("/prod/pets", "k1").headers["ratelimit"]))
    return PLENTY - int(layers["plan_quota"]["r"]) - 1


def test_a_killed_worker_costs_no_wrong_answer(redis: RedisServer, echo: EchoServer) -> None:
    """Only checks in flight at the dead worker may fail, with 503. Their charges stay."""
    limit = 1_000
    with pair(redis, echo, limit) as it:

        def act() -> None:
            os.kill(pids(it)[0], signal.SIGKILL)
            until(lambda: told(it)[0]["ready"] and healthy(it) == 2, "it is not back", it.sidecar)

        statuses = under_traffic(it, act)
        for status in calls(it):
            statuses[status] += 1
            if status == 429:
                break
        assert set(statuses) <= {200, 429, 503}, statuses
        assert statuses[503] <= CLIENTS, statuses
        assert limit - statuses[503] <= statuses[200] <= limit, statuses
        assert [worker["restarts"] for worker in told(it)] == [1, 0]

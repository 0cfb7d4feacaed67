"""Parts that die under traffic through Envoy: known keys go on while Redis is away, strangers never get in."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from authz.core.resources import Period, QuotaSettings, ThrottleSettings
from tests.e2e.stack import WRONG, Stack, stack
from tests.support.builders import key, plan, resources, value_of
from tests.support.servers import EchoServer, Host, RedisServer, redis_server, until

MOST = 5_000  # requests of one traffic: it ends, whatever happens
PAUSE_SECONDS = 0.01  # between two requests of a client: a pulse, no load test

WIDE = ThrottleSettings(rate_limit=10_000, burst_limit=10_000)
THREE = QuotaSettings(limit=3, period=Period.MONTH)
NAMES = ("known", "spent", "doomed")
KEYS = tuple(key(name, value=value_of(name), value_sha256=None) for name in NAMES)
PLANS = (plan("wide", keys=("known", "doomed"), throttle=WIDE), plan("three", keys=("spent",), quota=THREE))
CATALOG = resources(usage_plans=PLANS, api_keys=KEYS)


@pytest.fixture(scope="module")
def mortal() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def exposed(mortal: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    with stack(CATALOG, mortal.url, echo.address, host=served_by) as it:
        yield it


@contextmanager
def traffic(stack: Stack) -> Iterator[dict[str, Counter[int]]]:
    """One client with a known key, one with an unknown: how often each got which status."""
    counted: dict[str, Counter[int]] = {"known": Counter(), "unknown": Counter()}
    over = threading.Event()

    def call(name: str, value: str) -> None:
        for _ in range(MOST):
            counted[name][stack.get("/prod/pets", headers=[("x-api-key", value)]).status] += 1
            if over.wait(PAUSE_SECONDS):
                return

    callers = [
        threading.Thread(target=call, args=caller) for caller in (("known", value_of("known")), ("unknown", WRONG))
    ]
    for caller in callers:
        caller.start()
    try:
        yield counted
    finally:
        over.set()
        for caller in callers:
            caller.join()


def more(counted: dict[str, Counter[int]], calls: int = 20) -> None:
    """Until each client was answered that many times more."""
    goal = {name: answers.total() + calls for name, answers in counted.items()}
    until(lambda: all(counted[name].total() >= enough for name, enough in goal.items()), "the traffic stands still")


def end(redis: RedisServer, stack: Stack) -> None:
    """Redis is gone, and authz has noticed: by the calls of a caller who is of no interest else."""
    redis.kill()
    until(lambda: stack.get("/prod/pets", "doomed").status == 200 and redis_is("left alone", stack), "Redis is asked")


def bring_back(redis: RedisServer, stack: Stack) -> None:
    redis.start()
    until(lambda: redis_is("answering", stack), "Redis is left alone")


def redis_is(state: str, stack: Stack) -> bool:
    return bool(stack.healthz()["redis"] == state)


def test_redis_dies_and_returns_under_traffic(exposed: Stack, mortal: RedisServer) -> None:
    """Not one known caller is refused, and not one unknown admitted."""
    with traffic(exposed) as counted:
        more(counted)
        end(mortal, exposed)
        more(counted)
        bring_back(mortal, exposed)
        more(counted)
    assert {name: set(answers) for name, answers in counted.items()} == {"known": {200}, "unknown": {403}}


def test_calls_admitted_without_redis_are_counted_when_it_returns(exposed: Stack, mortal: RedisServer) -> None:
    """Three a month, whether Redis was there or not."""
    assert exposed.get("/prod/pets", "spent").status == 200
    end(mortal, exposed)
    assert exposed.get("/prod/pets", "spent").status == 200
    bring_back(mortal, exposed)
    assert [exposed.get("/prod/pets", "spent").status for _ in range(2)] == [200, 429]


def test_a_degraded_decision_is_marked(exposed: Stack, mortal: RedisServer) -> None:
    end(mortal, exposed)
    exposed.get("/prod/pets/degraded", "known")
    bring_back(mortal, exposed)
    until(lambda: any(line["path"] == "/prod/pets/degraded" for line in exposed.access_log()), "no line in the log")
    [line] = [line for line in exposed.access_log() if line["path"] == "/prod/pets/degraded"]
    assert (line["status"], line["authz"]["degraded"]) == (200, True)


def test_without_a_sidecar_no_request_is_admitted(exposed: Stack) -> None:
    """503, because Envoy cannot tell a good key from a bad one. When the sidecar is back, calls are decided again."""
    exposed.sidecar.kill()
    answers = [exposed.get(path, name) for path in ("/prod/pets", "/prod/open") for name in ("", "known") * 5]
    assert {answer.status for answer in answers} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert {answer.headers.get("retry-after") for answer in answers} == {"1"}  # Envoy's own words
    exposed.sidecar.start()
    until(lambda: exposed.get("/prod/pets", "known").status == 200, "it does not recover", exposed.sidecar)
    assert exposed.get("/prod/pets").status == 403


def test_a_hanging_sidecar_admits_no_request(exposed: Stack) -> None:
    """Envoy's own deadline ends the wait."""
    exposed.sidecar.pause()
    assert exposed.get("/prod/pets", "known").status == HTTPStatus.SERVICE_UNAVAILABLE
    exposed.sidecar.resume()
    until(lambda: exposed.get("/prod/pets", "known").status == 200, "it does not recover", exposed.sidecar)

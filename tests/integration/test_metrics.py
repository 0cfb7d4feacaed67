"""What a running sidecar and a running control plane expose: bounded, and true while things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from authz.envoy.pb import ext_authz_pb2_grpc
from tests.e2e.stack import ControlServer
from tests.e2e.test_cli import authz
from tests.integration.test_server import asks, document
from tests.monitoring.monitored import control_plane
from tests.support.builders import value_of
from tests.support.servers import HOST, AuthzServer, RedisServer, authz_serve, free_port, redis_server, until

KEYS, FEW, PLANS, AT_ONCE = 10_000, 100, 20, 64


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def crowd() -> dict[str, Any]:
    """Keys k0, k1 and so on, in turn in one of the plans; each plan's quota is two calls."""
    names = [f"k{n}" for n in range(KEYS)]
    quota = {"limit": 2, "period": "MONTH"}
    plans = [
        {
            "id": f"p{n}",
            "name": f"p{n}",
            "keys": names[n::PLANS],
            "apiStages": [{"apiId": "a1", "stage": "prod"}],
            "quota": quota,
        }
        for n in range(PLANS)
    ]
    return document(apiKeys=[{"id": name, "value": value_of(name)} for name in names], usagePlans=plans)


async def call(address: str, values: Sequence[str]) -> None:
    """Each value's holder calls once."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]

        async def one(value: str) -> None:
            async with turn:
                await stub.Check(asks(value), timeout=30)

        await asyncio.gather(*map(one, values))


def exposed(http: str) -> dict[str, float]:
    """Each series, its labels included, and its value."""
    text = httpx.get(f"{http}/metrics", trust_env=False).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {f"{sample.name}{sorted(sample.labels.items())}": sample.value for sample in samples}


@contextmanager
def serving(tmp_path: Path, whole: dict[str, Any], redis: RedisServer, workers: int = 1) -> Iterator[AuthzServer]:
    config = tmp_path / "plans.yaml"
    config.write_text(yaml.safe_dump(whole))
    own = (
        "--redis-url",
        redis.url,
        "--account-id",
        tmp_path.name,
        "--drain-seconds",
        "0",
        "--redis-timeout-ms",
        "5000",
    )
    with authz_serve(config, *own, workers=workers) as server:
        yield server


async def test_ten_thousand_keys_make_no_more_series_than_a_hundred(tmp_path: Path, redis: RedisServer) -> None:
    """After every outcome that there is for a key, and as many guesses as there are keys."""

    def callers(number: int) -> list[str]:
        known = [value_of(f"k{n}") for n in range(number)]
        return [*known * 3, *(f"guess-{n}" for n in range(number))]

    with serving(tmp_path, crowd(), redis) as server:
        await call(server.grpc, callers(FEW))
        few = exposed(server.http)
        await call(server.grpc, callers(KEYS))
        many = exposed(server.http)
    assert set(many) == set(few)
    counted = [name for name in many if name.startswith("authz_checks_total")]
    assert len(counted) == 2 * PLANS + 1  # allowed and quota for each plan, and unknown keys
    assert sum(many[name] for name in counted) == 4 * (FEW + KEYS)


# --- the catalog --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_the_file_is_reported_until_it_is_mended(tmp_path: Path, redis: RedisServer, workers: int) -> None:
    def problem() -> float:
        return exposed(server.http)["authz_catalog_problem[]"]

    config = tmp_path / "plans.yaml"
    with serving(tmp_path, document(), redis, workers) as server:
        assert problem() == 0
        config.write_text("nonsense: true\n")
        until(lambda: problem() == 1, "the mistake is not reported", server)
        config.write_text(yaml.safe_dump(document()))
        until(lambda: problem() == 0, "it is told although it was mended", server)


def test_a_file_that_does_not_change_is_still_read(tmp_path: Path, redis: RedisServer) -> None:
    """Otherwise a quiet file would look like a watcher that has stopped."""
    name = "authz_catalog_checked_timestamp_seconds[]"
    with serving(tmp_path, document(), redis) as server:
        first = exposed(server.http)[name]
        until(lambda: exposed(server.http)[name] > first + 1, "it is not looked at", server)


# --- the control plane --------------------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path, redis: RedisServer) -> Iterator[tuple[ControlServer, str]]:
    """And where its metrics are."""
    config, key, http = tmp_path / "plans.yaml", tmp_path / "sealing-key", f"{HOST}:{free_port()}"
    config.write_text(yaml.safe_dump(document()))
    key.write_text("5" * 64)
    own = ("--redis-url", redis.url, "--account-id", tmp_path.name, "--sealing-key-file", str(key))
    with control_plane(tmp_path, config, http, *own) as server:
        yield server, f"http://{http}"


def requests(http: str) -> dict[tuple[str, str], float]:
    text = httpx.get(f"{http}/metrics", trust_env=False).text
    return {
        (sample.labels["operation"], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "authz_control_requests_total"
    }


def test_answers_are_counted_whatever_they_are(control: tuple[ControlServer, str]) -> None:
    """An unknown path has an empty name: calls of unknown paths must not make series."""
    server, http = control
    assert server.get("/usageplans").status_code == 200
    assert server.get("/usageplans/nothing").status_code == 404
    for guess in ("/a", "/b", "/c"):
        assert server.get(guess).status_code == 404
    assert httpx.get(f"{server.url}/apikeys", trust_env=False).status_code == 403
    assert requests(http) == {
        ("GetUsagePlans", "200"): 1,
        ("GetUsagePlan", "404"): 1,
        ("", "404"): 3,
        ("GetApiKeys", "403"): 1,
    }


def test_a_control_plane_without_its_store_lives_and_is_not_ready(tmp_path: Path) -> None:
    key, http = tmp_path / "sealing-key", f"{HOST}:{free_port()}"
    key.write_text("5" * 64)
    config = tmp_path / "plans.yaml"
    config.write_text(yaml.safe_dump(document()))

    def state() -> tuple[int, int, float]:
        ready, alive = (
            httpx.get(f"http://{http}/{page}", trust_env=False).status_code for page in ("readyz", "healthz")
        )
        return ready, alive, exposed(f"http://{http}")["authz_control_store_up[]"]

    with redis_server() as own:
        options = ("--redis-url", own.url, "--sealing-key-file", str(key))
        with control_plane(tmp_path, config, http, *options) as server:
            assert state() == (200, 200, 1)
            own.kill()
            until(lambda: state() == (503, 200, 0), "nobody notices", server)
            own.restart(empty=False)
            until(lambda: state() == (200, 200, 1), "it does not come back", server)


def test_metrics_hold_no_secret_and_no_caller(control: tuple[ControlServer, str]) -> None:
    """Any client that reaches the address reads them."""
    server, http = control
    server.get("/apikeys?includeValues=true")
    text = httpx.get(f"{http}/metrics", trust_env=False).text
    assert [word for word in (server.access_key, server.secret, value_of("k1"), "k1") if word in text] == []


def test_an_address_that_is_taken_stops_the_control_plane(control: tuple[ControlServer, str], tmp_path: Path) -> None:
    """It reports the address, and nothing runs half."""
    _, http = control
    address, listen = http.removeprefix("http://"), f"{HOST}:{free_port()}"
    run = authz("control", "--no-auth", "--listen", listen, "--http-listen", address)
    assert run.returncode == 2
    assert f"{address} cannot be listened on" in run.stderr

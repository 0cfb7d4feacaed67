"""`authz serve` as its operator meets it: a process with two addresses, signals, logs and an exit status."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from authz.envoy.edge import SERVICE
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.observe.metrics import CONTENT_TYPE
from tests.support.builders import value_of
from tests.support.hosts import HOSTS
from tests.support.proxy import Proxy, proxy
from tests.support.servers import (
    DEADLINE_SECONDS,
    HOST,
    AuthzServer,
    Host,
    RedisServer,
    authz_serve,
    free_port,
    redis_server,
    until,
)

DAY_SECONDS = 86_400
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
METRICS = {
    "authz_admitted_units": "counter",
    "authz_bad_calls": "counter",
    "authz_cost_fallbacks": "counter",
    "authz_overage_units": "counter",
    "authz_build_info": "gauge",
    "authz_catalog_checked_timestamp_seconds": "gauge",
    "authz_catalog_loaded_timestamp_seconds": "gauge",
    "authz_catalog_problem": "gauge",
    "authz_catalog_reloads": "counter",
    "authz_catalog_version": "gauge",
    "authz_check_duration_seconds": "histogram",
    "authz_checks": "counter",
    "authz_checks_cancelled": "counter",
    "authz_checks_degraded": "counter",
    "authz_checks_in_flight": "gauge",
    "authz_checks_held": "counter",
    "authz_checks_recalled": "counter",
    "authz_checks_waited": "counter",
    "authz_cpu_seconds": "counter",
    "authz_fallback_unsettled_requests": "gauge",
    "authz_held_calls": "gauge",
    "authz_holds_lost": "counter",
    "authz_key_lookups": "counter",
    "authz_redis_batch_duration_seconds": "histogram",
    "authz_redis_batch_requests": "histogram",
    "authz_redis_circuit_open": "gauge",
    "authz_redis_errors": "counter",
    "authz_redis_master_changes": "counter",
    "authz_shadow_refusals": "counter",
    "authz_tls_certificate_expiry_timestamp_seconds": "gauge",
}


def document(**changes: Any) -> dict[str, Any]:
    """One API, one plan with a quota of two, one key."""
    covered = {"apiId": "a1", "stage": "prod"}
    quota = {"limit": 2, "period": "MONTH"}
    return {
        "apis": [{"id": "a1", "stages": [{"name": "prod"}]}],
        "apiKeys": [{"id": "k1", "value": value_of("k1")}],
        "usagePlans": [{"id": "p1", "name": "Tiny", "keys": ["k1"], "apiStages": [covered], "quota": quota}],
        **changes,
    }


@pytest.fixture(params=HOSTS, autouse=True)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    """All of this holds for whichever host serves gRPC."""
    host: Host = request.param
    monkeypatch.setenv("AUTHZ_SERVER", host)
    return host


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Of one kind: what Redis makes of it is tested elsewhere."""
    with redis_server() as server:
        yield server


@contextmanager
def serving(config: Path, redis: RedisServer, *flags: str) -> Iterator[AuthzServer]:
    """A sidecar with an account of its own, which drains at once."""
    own = ("--redis-url", redis.url, "--account-id", str(config.parent.name), "--drain-seconds", "0")
    with authz_serve(config, *own, *flags) as server:
        yield server


def asks(value: str = "") -> pb.CheckRequest:
    http = pb.AttributeContext.HttpRequest(method="GET", path="/prod/pets", host="api.example.com")
    http.headers["x-api-key"] = value
    return pb.CheckRequest(attributes=pb.AttributeContext(request=pb.AttributeContext.Request(http=http)))


def status(response: pb.CheckResponse) -> int:
    if response.HasField("ok_response"):
        return 200
    return int(
        (response.denied_response if response.HasField("denied_response") else response.error_response).status.code
    )


def check(address: str, *values: str) -> list[int]:
    with grpc.insecure_channel(address) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
        return [status(stub.Check(asks(value), timeout=DEADLINE_SECONDS)) for value in values]


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS)
        return int(answer.status)


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, timeout=DEADLINE_SECONDS, **options)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, until it ends; where it should have stayed, the test fails by the time limit."""
    command = (sys.executable, "-m", "authz", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


# --- starting -----------------------------------------------------------------------------------------------------


def test_it_starts_without_redis_and_says_so(config: Path) -> None:
    """Ready means able to answer by policy."""
    with authz_serve(config, "--redis-url", f"redis://{HOST}:{free_port()}/0", "--drain-seconds", "0") as server:
        ready = get(f"{server.http}/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert (ready.json()["status"], ready.json()["redis"]) == ("degraded", "left alone")
        assert check(server.grpc, value_of("k1"), "a-stranger-s-key-0123456789", "") == [200, 403, 403]
        assert server.stop() == 0


@pytest.mark.parametrize("option", ["--grpc-listen", "--http-listen"])
def test_an_address_in_use_is_reported_in_one_line(option: str, config: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        others = {"--grpc-listen": f"{HOST}:{free_port()}", "--http-listen": f"{HOST}:{free_port()}"} | {
            option: address
        }
        ended = run("serve", "--config", str(config), *(word for pair in others.items() for word in pair))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{address} cannot be listened on: Address already in use\n"


def test_an_address_of_another_machine_is_reported_in_one_line(config: Path) -> None:
    grpc = ("--grpc-listen", f"{HOST}:{free_port()}")  # the default may be in use on this machine
    ended = run("serve", "--config", str(config), *grpc, "--http-listen", "192.0.2.1:9190")
    assert ended.returncode == 2
    assert ended.stderr == "192.0.2.1:9190 cannot be listened on: Cannot assign requested address\n"


def test_a_socket_in_a_missing_directory_is_reported_in_one_line(config: Path, tmp_path: Path) -> None:
    ended = run("serve", "--config", str(config), "--grpc-listen", f"unix:{tmp_path}/no/s")
    assert ended.returncode == 2
    assert ended.stderr == f"unix:{tmp_path}/no/s cannot be listened on: No such file or directory\n"


def test_a_bad_file_ends_the_start_with_every_address(config: Path) -> None:
    text = document(account={"throttleSettings": {"rateLimit": -1}}, usagePlans=[{"id": "p1"}])
    config.write_text(yaml.safe_dump(text))
    ended = run("serve", "--config", str(config))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in ended.stderr.splitlines()] == [
        [str(config), "$.account.throttleSettings.rateLimit"],
        [str(config), "$.usagePlans[0].name"],
    ]


def test_a_missing_file_ends_the_start_in_one_line(tmp_path: Path) -> None:
    ended = run("serve", "--config", str(tmp_path / "none.yaml"))
    assert (ended.returncode, ended.stderr) == (2, f"{tmp_path}/none.yaml: no such file\n")


# --- gRPC beside the checks ---------------------------------------------------------------------------------------


def test_health_is_served_for_the_whole_and_for_the_service(config: Path, redis: RedisServer) -> None:
    with serving(config, redis) as server:
        assert (health(server.grpc), health(server.grpc, SERVICE)) == (SERVING, SERVING)
        with pytest.raises(grpc.RpcError) as unknown:
            health(server.grpc, "another.Service")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def reflected(address: str) -> set[str]:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answer = next(iter(stub.ServerReflectionInfo(iter([question]), timeout=DEADLINE_SECONDS)))
        return {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize("host", ["grpcio"], indirect=True)
def test_reflection_is_served_only_by_its_setting(config: Path, redis: RedisServer) -> None:
    with serving(config, redis, "--reflection", "true") as server:
        assert {SERVICE, "grpc.health.v1.Health"} <= reflected(server.grpc)
    with serving(config, redis) as server, pytest.raises(grpc.RpcError) as refused:
        reflected(server.grpc)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- HTTP beside it -----------------------------------------------------------------------------------------------


def test_metrics_have_their_names_units_and_labels(config: Path, redis: RedisServer) -> None:
    with serving(config, redis) as server:
        assert check(server.grpc, *[value_of("k1")] * 3, "a-stranger-s-key-0123456789") == [200, 200, 429, 403]
        answer = get(f"{server.http}/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {name: family.type for name, family in families.items() if not name.endswith("_created")} == METRICS
    counted = {
        tuple(sample.labels[name] for name in ("api", "stage", "plan", "decision", "reason")): sample.value
        for sample in families["authz_checks"].samples
        if sample.name == "authz_checks_total"
    }
    assert counted == {
        ("a1", "prod", "p1", "allowed", ""): 2,
        ("a1", "prod", "p1", "denied", "plan_quota"): 1,
        ("a1", "prod", "", "denied", "key_unknown"): 1,
    }
    assert value_of("k1") not in answer.text
    told = {sample.name: sample.value for family in families.values() for sample in family.samples if not sample.labels}
    assert told["authz_redis_batch_requests_sum"] == 3
    assert told["authz_redis_batch_duration_seconds_count"] == told["authz_redis_batch_requests_count"] > 0
    assert told["authz_catalog_version"] == 1
    assert told["authz_catalog_loaded_timestamp_seconds"] > 0


def test_plans_beyond_the_settings_bound_share_a_label(config: Path, redis: RedisServer) -> None:
    with serving(config, redis, "--max-plan-labels", "0") as server:
        assert check(server.grpc, value_of("k1")) == [200]
        assert 'plan="other"' in get(f"{server.http}/metrics").text


def test_usage_is_kept_as_long_as_the_settings_say(config: Path, redis: RedisServer) -> None:
    with serving(config, redis, "--usage-retention-days", "70") as server:
        assert check(server.grpc, value_of("k1")) == [200]
    with Redis.from_url(redis.url) as client:
        (ledger,) = client.keys(f"{{{config.parent.name}}}:v1:ledger:*")
        assert 69 * DAY_SECONDS < client.ttl(ledger) <= 70 * DAY_SECONDS


def test_health_and_readiness_are_json_with_details(config: Path, redis: RedisServer) -> None:
    with serving(config, redis) as server:
        healthy, ready = get(f"{server.http}/healthz"), get(f"{server.http}/readyz")
    assert healthy.json() == ready.json()
    assert (healthy.status_code, ready.status_code) == (200, 200)
    details = ready.json()
    assert {name: details[name] for name in ("ready", "status", "redis")} == {
        "ready": True,
        "status": "ok",
        "redis": "answering",
    }
    assert details["catalog"]["version"].startswith("1-")
    assert details["catalog"]["problem"] is None


# --- signals ------------------------------------------------------------------------------------------------------


def test_a_stop_is_announced_before_calls_are_turned_away(config: Path, redis: RedisServer) -> None:
    """NOT_SERVING and not ready, while new calls are still answered; then exit 0."""
    with serving(config, redis, "--drain-seconds", "5") as server:
        server.send(signal.SIGTERM)
        until(lambda: health(server.grpc) == NOT_SERVING, "it does not drain", server)
        assert health(server.grpc, SERVICE) == NOT_SERVING
        ready = get(f"{server.http}/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert get(f"{server.http}/healthz").status_code == 200
        assert check(server.grpc, value_of("k1")) == [200]
        assert server.wait() == 0


def test_an_interrupt_stops_it_as_well(config: Path, redis: RedisServer) -> None:
    with serving(config, redis) as server:
        server.send(signal.SIGINT)
        assert server.wait() == 0


@asynccontextmanager
async def call_in_flight(
    config: Path, redis: RedisServer, grace: int
) -> AsyncIterator[tuple[AuthzServer, Proxy, Awaitable[pb.CheckResponse]]]:
    """A call that waits for Redis, for up to a minute. There is no drain."""
    async with proxy(redis) as between:
        own = ("--redis-url", between.url, "--redis-timeout-ms", "60000")
        stopping = ("--drain-seconds", "0", "--grace-seconds", str(grace))
        with authz_serve(config, *own, *stopping, wait=False) as server:
            await asyncio.to_thread(server.wait_until_ready)
            between.open.clear()
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
                call = stub.Check(asks(value_of("k1")))
                await asyncio.to_thread(until, lambda: between.batches == 1, "it is not asked", server)
                yield server, between, call
            assert await asyncio.to_thread(server.wait) == 0


async def test_a_call_in_flight_is_answered_before_the_exit(config: Path, redis: RedisServer) -> None:
    """Redis answers only after the drain has begun."""
    async with call_in_flight(config, redis, grace=60) as (server, between, call):
        server.send(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: '"draining"' in server.log_text, "it does not drain", server)
        between.open.set()
        assert status(await call) == 200


async def test_a_call_that_does_not_end_holds_the_exit_up_for_the_grace_and_no_longer(
    config: Path, redis: RedisServer
) -> None:
    """It would have waited for a minute."""
    async with call_in_flight(config, redis, grace=1) as (server, _, call):
        server.send(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            await call


def test_hup_reads_the_file_again(config: Path, redis: RedisServer) -> None:
    with serving(config, redis) as server:
        server.send(signal.SIGHUP)
        until(lambda: '"unchanged"' in server.log_text, "it does not reload", server)
        config.write_text("apis: [{id: a b}]")
        server.send(signal.SIGHUP)
        until(lambda: get(f"{server.http}/readyz").json()["catalog"]["problem"], "no problem is told", server)
        assert get(f"{server.http}/readyz").status_code == 200
        assert check(server.grpc, value_of("k1")) == [200]


def test_usr2_finds_no_workers_to_replace(config: Path, redis: RedisServer) -> None:
    """Sent to the wrong process, it must not end it."""
    with serving(config, redis) as server:
        server.send(signal.SIGUSR2)
        until(lambda: "USR2 replaces workers" in server.log_text, "nothing is said", server)
        assert check(server.grpc, value_of("k1")) == [200]


# --- Unix sockets -------------------------------------------------------------------------------------------------


def on_sockets(directory: Path) -> tuple[str, str, str, str]:
    return "--grpc-listen", f"unix:{directory}/grpc.sock", "--http-listen", f"unix:{directory}/http.sock"


def is_ready(directory: Path) -> bool:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{directory}/http.sock")) as client:
            return client.get("http://sidecar/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_it_serves_on_unix_sockets_and_takes_over_those_of_a_killed_process(
    config: Path, redis: RedisServer, tmp_path: Path
) -> None:
    own = ("--redis-url", redis.url, "--account-id", tmp_path.name, "--drain-seconds", "0")
    with authz_serve(config, *own, *on_sockets(tmp_path), wait=False) as server:
        until(lambda: is_ready(tmp_path), "it is not ready", server)
        assert check(f"unix:{tmp_path}/grpc.sock", value_of("k1")) == [200]
        server.kill()
        assert (tmp_path / "grpc.sock").is_socket()
        assert (tmp_path / "http.sock").is_socket()
        server.start(wait=False)
        until(lambda: is_ready(tmp_path), "it is not ready again", server)
        assert check(f"unix:{tmp_path}/grpc.sock", value_of("k1")) == [200]
        assert server.stop() == 0


def test_the_sockets_of_a_running_process_are_left_to_it(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    own = ("--redis-url", redis.url, "--drain-seconds", "0")
    with authz_serve(config, *own, *on_sockets(tmp_path), wait=False) as server:
        until(lambda: is_ready(tmp_path), "it is not ready", server)
        ended = run("serve", "--config", str(config), *on_sockets(tmp_path))
        assert ended.returncode == 2
        assert ended.stderr == f"unix:{tmp_path}/grpc.sock cannot be listened on: Address already in use\n"
        assert health(f"unix:{tmp_path}/grpc.sock") == SERVING
        assert is_ready(tmp_path)


# --- logs ---------------------------------------------------------------------------------------------------------


def test_every_log_line_is_json_and_none_holds_a_key_or_a_password(config: Path, redis: RedisServer) -> None:
    """Through a start without Redis, refusals, a reload and a stop, with everything logged that can be."""
    stranger = "a-stranger-s-key-0123456789"
    at = redis.url.removeprefix("redis://")
    flags = ("--redis-url", f"redis://user:hush-hush@{at}", "--log-level", "debug", "--refusal-log-sample", "1")
    with authz_serve(config, *flags, "--drain-seconds", "0") as server:
        assert check(server.grpc, value_of("k1"), value_of("k1"), value_of("k1"), stranger) == [200, 200, 429, 403]
        server.send(signal.SIGHUP)
        until(lambda: '"unchanged"' in server.log_text, "it does not reload", server)
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log_text.splitlines()]
    events = {line["event"] for line in lines}
    assert {"serving", "redis circuit opened", "refused", "catalog loaded", "draining", "stopped"} <= events
    assert {line["key_id"] for line in lines if line["event"] == "refused"} == {"k1", ""}
    assert {line["level"] for line in lines if line["event"] == "refused"} == {"info"}
    assert all({"level", "timestamp", "logger"} <= line.keys() for line in lines)
    for secret in (value_of("k1"), stranger, "hush-hush"):
        assert not any(secret in json.dumps(line) for line in lines)

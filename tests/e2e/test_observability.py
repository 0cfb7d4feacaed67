"""The reports on a request: dynamic metadata in Envoy's access log, metrics, logs. None of them has a key."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from redis import Redis

from authz.core.resources import Resources
from authz.envoy.config import EnvoyOptions, render
from authz.envoy.edge import SERVICE
from tests.e2e.stack import WRONG, Answer, Stack
from tests.support.builders import value_of
from tests.support.servers import HOST, RedisServer, envoy, free_port, until


def logged(stack: Stack, path: str) -> dict[str, Any]:
    """The line of the access log about a path, once it is written."""
    until(lambda: any(line["path"] == path for line in stack.access_log()), f"{path} is not logged", stack.envoy)
    return next(line for line in stack.access_log() if line["path"] == path)


def metadata(stack: Stack, key: str, **changes: Any) -> tuple[Answer, dict[str, Any]]:
    """Ask for a path of its own; the answer, and what ext_authz left of it in the access log."""
    path = f"/prod/pets/{uuid4()}"
    answer = stack.get(path, key, **changes)
    return answer, logged(stack, path)["authz"]


def test_metadata_of_an_admitted_request_is_complete(shared: Stack) -> None:
    _, told = metadata(shared, "both-2")
    found = {name: told[name] for name in ("decision", "reason", "layer", "api", "stage", "resource", "method")}
    assert found == {
        "decision": "allowed", "reason": "", "layer": "", "api": "a1", "stage": "prod", "resource": "/pets/{id}",
        "method": "GET",
    }  # fmt: skip
    assert (told["plan"], told["key_id"], told["degraded"], told["shadow"]) == ("both", "both-2", False, "")
    assert told["remaining"] == {"plan_throttle": 6, "plan_quota": 999, "account_throttle": 4999}
    assert told["catalog_version"] == shared.healthz()["catalog"]["version"]


def test_metadata_of_a_refused_request_has_its_layer_and_wait(shared: Stack) -> None:
    metadata(shared, "once-5")
    answer, told = metadata(shared, "once-5")
    found = (told["decision"], told["reason"], told["layer"], told["key_id"])
    assert found == ("denied", "plan_quota", "plan_quota", "once-5")
    assert told["retry_after"] == int(answer.headers["retry-after"])
    assert told["remaining"]["plan_quota"] == 0


@pytest.mark.parametrize(
    ("key", "reason"),
    [("", "key_missing"), ("disabled", "key_disabled"), ("planless", "no_plan"), ("stageless", "no_plan")],
)
def test_metadata_of_a_forbidden_request_has_the_reason_that_the_client_does_not_get(
    key: str, reason: str, shared: Stack
) -> None:
    answer, told = metadata(shared, key)
    assert (answer.status, told["reason"], told["key_id"]) == (403, reason, key)
    assert reason not in answer.body + str(answer.headers)


def test_a_shadow_plan_lets_through_and_tells(shared: Stack) -> None:
    _, first = metadata(shared, "shadow")
    answer, second = metadata(shared, "shadow")
    assert (answer.status, first["shadow"], second["shadow"]) == (200, "", "plan_quota")
    assert 'authz_shadow_refusals_total{layer="plan_quota",plan="shadow"} 1.0' in metrics(shared)


def test_the_access_log_has_the_reason_for_the_answer(shared: Stack) -> None:
    path = f"/prod/pets/{uuid4()}"
    answer = shared.get(path)
    line = logged(shared, path)
    assert (line["status"], line["flags"], line["details"]) == (403, "UAEX", "ext_authz_denied")
    assert line["amzn_request_id"] == answer.headers["x-amzn-requestid"]


def test_the_line_of_a_refused_callers_id_is_explained(shared: Stack, redis: RedisServer, tmp_path: Path) -> None:
    """From Envoy's own line, which has no key: the caller, and the units left in the plan."""
    shared.get(f"/prod/pets/{uuid4()}", "once-5")
    path = f"/prod/pets/{uuid4()}"
    answer = shared.get(path, "once-5")
    logged(shared, path)
    log = tmp_path / "envoy.log"
    log.write_text(shared.envoy.log_text)
    request_id = answer.headers["x-amzn-requestid"]
    asked = ("--redis", "--redis-url", redis.url, "--account-id", shared.account)
    words = ["explain", "--config", str(shared.config), "--request-id", request_id, "--access-log", str(log), *asked]
    told = subprocess.run([sys.executable, "-m", "authz", *words], capture_output=True, text=True, check=True).stdout
    lines = told.splitlines()
    assert lines[0].startswith("then      429, denied, plan_quota, plan once, key once-5 at ")
    assert {f"request   GET a1.test{path}", "key       once-5", "reason    plan_quota", "answer    429"} <= set(lines)
    assert value_of("once-5") not in told


def metrics(stack: Stack) -> str:
    return httpx.get(f"{stack.sidecar.http}/metrics", trust_env=False).text


def test_checks_are_counted_by_outcome(shared: Stack) -> None:
    shared.get("/prod/pets", "disabled")
    shared.get("/prod/pets", "free")
    told = metrics(shared)
    assert 'authz_checks_total{api="a1",decision="denied",plan="",reason="key_disabled",stage="prod"}' in told
    assert 'authz_checks_total{api="a1",decision="allowed",plan="free",reason="",stage="prod"}' in told


def test_a_refusal_is_logged_with_the_keys_id(shared: Stack) -> None:
    """At debug; its request id is the one in the client's answer."""
    answer = shared.get("/prod/pets", "disabled")
    lines = [json.loads(line) for line in shared.sidecar.log_text.splitlines()]
    [line] = [line for line in lines if line.get("request_id") == answer.headers["x-amzn-requestid"]]
    assert (line["event"], line["key_id"], line["reason"]) == ("refused", "disabled", "key_disabled")


def test_no_key_appears_in_any_log_metric_or_answer(shared: Stack) -> None:
    """Keys good and bad in every place, admitted and refused; then every log, metric, answer and access log."""
    for key in (value_of("free"), value_of("slow-1"), value_of("once-1"), value_of("disabled"), WRONG):
        for host, path, name, value in (
            ("a1.test", "/prod/pets", "x-api-key", key),
            ("a1.test", "/prod/open", "x-api-key", key),
            ("a1.test", "/prod/none", "x-api-key", key),
            ("worded.test", "/prod/pets", "x-api-key", key),
            ("many.test", "/prod/pets", "authorization", f"Bearer {key}"),
            ("many.test", "/prod/pets", "cookie", f"a=1; key={key}"),
            ("many.test", f"/prod/pets?api_key={key}", "accept", "*/*"),
            ("many.test", f"/prod/open?api_key={key}", "accept", "*/*"),
        ):
            shared.get(path, host=host, headers=[(name, value)])
    path = f"/prod/pets/{uuid4()}"
    shared.get(f"{path}?api_key={value_of('free')}", host="many.test")
    logged(shared, path)  # what came before it is written by now
    assert shared.leaks() == []


def test_redis_holds_no_key(shared: Stack, redis: RedisServer) -> None:
    """Neither as a name nor in a value."""
    for caller in ("free", "both-1", "slow-2"):
        shared.get("/prod/pets", caller)
    with Redis.from_url(redis.url) as asked:
        names = list(asked.scan_iter(match=f"{{{shared.account}}}*"))
        held = b"\n".join([*names, *(asked.dump(name) for name in names)])
    assert b":ledger:both:both-1" in held
    assert not [secret for secret in shared.secrets if secret.encode() in held]


def test_the_search_for_keys_would_find_one(shared: Stack) -> None:
    kept = [*shared.seen]
    shared.seen.append(f"x {value_of('free')} y")
    assert shared.leaks() == [f"x {value_of('free')} y"]
    shared.seen[:] = kept


def test_a_check_without_an_http_request_is_reported_and_refused(shared: Stack) -> None:
    """No answer is empty: Envoy would read that as allow."""
    with grpc.insecure_channel(shared.sidecar.grpc) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Check")
        assert check(b"", timeout=30) != b""
    assert 'reason="not_http"' in metrics(shared)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/stats/prometheus", 200),
        ("/stats/prometheus?usedonly", 200),
        ("/ready", 200),
        ("/config_dump", 404),
        ("/stats", 404),
        ("/stats/prometheus/../../quitquitquit", 404),
        ("/quitquitquit", 404),
    ],
)
def test_who_scrapes_envoy_cannot_administer_it(path: str, status: int, scraped: str) -> None:
    assert httpx.get(scraped + path, trust_env=False).status_code == status


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """An Envoy's listener for its statistics."""
    listen, admin, stats = (f"{HOST}:{free_port()}" for _ in range(3))
    options = EnvoyOptions(listen=listen, admin=admin, stats_listen=stats)
    with envoy(render(Resources(), options)):
        yield f"http://{stats}"

"""docker-compose.yml as it stands: its promises, seen from outside, with real traffic and real accidents."""

from __future__ import annotations

import logging
import os
import re
import signal
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.compose.stack import PROGRAMS, RUNNING, Product, Project, calling, ports_of, wait_until
from tests.e2e.test_docs import DEFAULT_PORTS, Reader, elsewhere, read, steps

pytestmark = pytest.mark.timeout(600)

log = logging.getLogger(__name__)

DEBIANS, TODAYS = PROGRAMS
IN_DEPTH = pytest.mark.parametrize("stack", [DEBIANS], indirect=True)
FORBIDDEN = (403, '{"message":"Forbidden"}')
LIMIT_EXCEEDED = (429, '{"message":"Limit Exceeded"}')
TOO_MANY = (429, '{"message":"Too Many Requests"}')
PUBLISHED = {"envoy": 10000, "control": 8085, "prometheus": 9090}
USERS = {"envoy": 101, "redis": 999, "prometheus": 65534}
OURS = 10001


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.text


# Both of Compose.


def test_the_file_is_understood_and_grafana_waits_for_its_profile(stack: Project) -> None:
    assert set(stack.compose("config", "--services").split()) - {"grafana"} == set(RUNNING)
    assert "grafana" not in {it.service for it in stack.containers(stopped=True)}
    assert "grafana/grafana:" in stack.compose("--profile", "grafana", "config")


def test_each_service_starts_after_those_it_needs_are_healthy(stack: Project) -> None:
    needs = [("authz", "redis"), ("control", "redis"), ("envoy", "authz"), ("envoy", "echo")]
    at = stack.story.index
    too_early = [it for it in needs if at((it[0], "start")) < at((it[1], "health_status: healthy"))]
    assert too_early == [], stack.story


def test_nothing_is_published_but_four_ports_on_loopback(stack: Project) -> None:
    """The fourth is Grafana's, which does not run here."""
    bound = {
        (it.service, port): [binding["HostIp"] for binding in bindings]
        for it in stack.containers()
        for port, bindings in it.details["NetworkSettings"]["Ports"].items()
        if bindings
    }
    assert bound == {(service, f"{port}/tcp"): ["127.0.0.1"] for service, port in PUBLISHED.items()}


def test_no_container_is_root_or_can_gain_or_write_anything(stack: Project) -> None:
    for it in stack.containers():
        status = dict(re.findall(r"^(\w+):\s+(\S+)", it.sh("cat /proc/1/status"), re.MULTILINE))
        assert (it.service, status["Uid"]) == (it.service, str(USERS.get(it.service, OURS)))
        assert (it.service, status["CapEff"], status["CapBnd"]) == (it.service, "0" * 16, "0" * 16)
        assert (it.service, status["NoNewPrivs"], status["Seccomp"]) == (it.service, "1", "2")
        assert "Read-only file system" in it.sh("echo > /written"), it.service


def test_every_container_has_limits_and_a_health_check(stack: Project) -> None:
    for it in stack.containers():
        given = it.details["HostConfig"]
        limits = (given["Memory"], given["NanoCpus"], given["PidsLimit"])
        assert all(limit and limit > 0 for limit in limits), (it.service, limits)
        assert given["MemorySwap"] == given["Memory"], it.service
        assert it.is_healthy


def test_no_secret_is_in_the_environment_or_on_a_command_line(stack: Project) -> None:
    files = {path.name: path.read_text() for path in (stack.directory / "deploy/compose/secrets").iterdir()}
    keys = [line.partition("=")[2] for line in files.pop("api-keys").splitlines()]
    assert (len(files), len(keys)) == (4, 7)
    secrets = [*files.values(), *keys]
    for it in stack.containers():
        told = str(
            (it.details["Config"], it.details["Args"], it.sh("cat /proc/*/environ /proc/*/cmdline | tr '\\0' ' '"))
        )
        assert [secret for secret in secrets if secret in told] == [], it.service


def test_the_plans_to_begin_with_answer_403_and_200_and_429(stack: Project) -> None:
    assert refusal(stack.call()) == FORBIDDEN
    admitted = stack.call(stack.key("acme"))
    assert (admitted.status_code, admitted.json()["headers"]["x-api-key-id"]) == (200, "acme")
    assert Counter(stack.call(stack.key("sparrow")).status_code for _ in range(12))[429] > 0


def test_a_key_that_the_repository_publishes_opens_nothing(stack: Project) -> None:
    assert refusal(stack.call("demo-key-acme-0000000000")) == FORBIDDEN


def test_the_workflow_of_a_usage_plan_403_then_200_then_429_by_quota(stack: Project) -> None:
    product = Product.make(stack, throttle={"rateLimit": 50, "burstLimit": 100}, quota={"limit": 3, "period": "DAY"})
    key_id, value = product.key()
    assert refusal(product.call()) == FORBIDDEN
    assert refusal(product.call("no-such-key")) == FORBIDDEN
    assert product.statuses(value, 3) == [200, 200, 200]
    assert refusal(product.call(value)) == LIMIT_EXCEEDED
    assert used(product, key_id) == [3, 0]


def test_the_workflow_of_a_usage_plan_429_by_throttle(stack: Project) -> None:
    product = Product.make(stack, throttle={"rateLimit": 0.001, "burstLimit": 2})
    _, value = product.key()
    assert product.statuses(value, 2) == [200, 200]
    assert refusal(product.call(value)) == TOO_MANY


def test_the_console_is_reached_by_the_link_that_its_container_prints(stack: Project) -> None:
    link = httpx.URL(stack.compose("exec", "-T", "control", "authz", "console", "link").split()[0])
    assert (link.host, link.port) == ("127.0.0.1", stack.ports["CONTROL_PORT"])
    origin = f"http://{link.host}:{link.port}"
    with httpx.Client(base_url=origin, headers={"Origin": origin}) as browser:
        assert browser.post("/console/link", data={"token": link.params["token"]}).status_code == 303
        assert "Studio" in browser.get("/console/plans").text


def test_three_replicas_all_get_calls_through_envoys_dns(stack: Project) -> None:
    stack.scale(3)
    replicas = stack.containers("authz")
    before = {it.id: it.counted() for it in replicas}

    def all_were_asked() -> bool:
        stack.call(stack.key("globex"))
        return all(it.counted() > before[it.id] for it in replicas)

    wait_until(all_were_asked, lambda: [(before[it.id], it.counted()) for it in replicas])


# The rest with docker-compose 1.29.2 alone: it is our program that is looked at.


@pytest.fixture
def two(stack: Project) -> Project:
    """With two containers of authz."""
    if stack.replicas != 2:
        stack.scale(2)
    return stack


@IN_DEPTH
def test_the_image_is_what_the_project_says(stack: Project) -> None:
    authz = stack.containers("authz")[0]
    version = tomllib.loads((stack.directory / "pyproject.toml").read_text())["project"]["version"]
    assert authz.details["Config"]["Image"] == f"envoy-usage-plans:{version}"
    assert version in authz.sh("authz --version")
    assert (authz.details["Config"]["User"], authz.details["Config"]["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert "No module named pip" in authz.sh("python -m pip --version")


@IN_DEPTH
def test_a_key_is_disabled_within_a_second_on_two_replicas(two: Project) -> None:
    product = Product.make(two)
    key_id, value = product.key()
    replicas = two.containers("authz")
    wait_until(
        lambda: product.call(value).status_code == 200 and all(it.counted(plan=product.plan) > 0 for it in replicas),
        lambda: "a replica was never asked for this key",
    )
    off = [{"op": "replace", "path": "/enabled", "value": "false"}]
    two.control.client().update_api_key(apiKey=key_id, patchOperations=off)
    done = last = datetime.now(UTC)
    while (datetime.now(UTC) - done).total_seconds() < 2:
        if product.call(value).status_code != 403:
            last = datetime.now(UTC)
    log.info("admitted for %.3f s after the change was answered", (last - done).total_seconds())
    assert (last - done).total_seconds() < 1
    for it in replicas:
        assert it.counted(reason="key_disabled") > 0


@IN_DEPTH
def test_prometheus_has_our_series_and_each_replica_once(two: Project) -> None:
    Product.make(two)
    two.call(two.key("globex"))
    jobs = {"authz": 2, "authz-control": 1, "envoy": 1}
    wait_until(lambda: ups(two) == jobs, lambda: two.query("up"))
    names = ("authz_checks_total", "authz_control_requests_total", "envoy_cluster_upstream_rq_total")
    wait_until(lambda: all(two.query(name) for name in names), lambda: [name for name in names if not two.query(name)])


@IN_DEPTH
def test_the_rules_that_are_mounted_are_loaded(stack: Project) -> None:
    groups = stack.client.get(f"{stack.url('PROMETHEUS_PORT')}/api/v1/rules").json()["data"]["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    files = (stack.directory / "deploy/prometheus").glob("*.yml")
    written = {name for file in files for name in re.findall(r"- (?:alert|record): (\S+)", file.read_text())}
    assert loaded == written
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []


@IN_DEPTH
def test_no_alert_fires_and_with_redis_stopped_the_right_one_does_and_goes_again(stack: Project) -> None:
    product = Product.make(stack)
    _, value = product.key()
    wait_until(lambda: not stack.firing(), stack.firing)
    assert set(product.statuses(value, 100)) == {200}  # so that each worker knows the key
    calls = {
        "good": lambda: product.call(value),
        "in the file": lambda: stack.call(stack.key("globex")),
        "unknown": lambda: product.call("no-such-key"),
    }
    with without_redis(stack), calling(calls) as seen:
        wait_until(lambda: "AuthzRedisCircuitOpen" in stack.firing(), lambda: (stack.firing(), seen))
        assert stack.firing() <= {"AuthzRedisCircuitOpen", "AuthzEnvoyErrors"}
    log.info("answers without Redis: %s", sorted(seen.items()))
    # 403: a key that was known not to exist half a second before. After that the store cannot tell, and it is 503.
    right = {"good": {200, 503}, "in the file": {200, 503}, "unknown": {403, 503}}
    assert {it: seen[it] for it in seen if it[1] not in right[it[0]]} == {}
    assert seen["unknown", 503] > seen["unknown", 403]
    for known in ("good", "in the file"):
        assert seen[known, 503] < seen[known, 200] / 20, known
    wait_until(lambda: "AuthzRedisCircuitOpen" not in stack.firing(), stack.firing)
    until_all_have_met_redis(stack)


@contextmanager
def without_redis(stack: Project) -> Iterator[None]:
    """Stop it, and start it again for the next test."""
    stack.compose("stop", "redis")
    try:
        yield
    finally:
        stack.compose("start", "redis")
        stack.until_healthy()


@IN_DEPTH
def test_a_new_redis_container_has_the_counters_the_plans_and_the_keys(stack: Project) -> None:
    product = Product.make(stack, quota={"limit": 3, "period": "DAY"})
    key_id, value = product.key()
    assert product.statuses(value, 2) == [200, 200]
    before = stack.one("redis").id
    stack.compose("up", "--detach", "--force-recreate", "--no-deps", "redis")
    stack.until_healthy()
    assert stack.one("redis").id != before
    wait_until(lambda: used(product, key_id) == [2, 1], lambda: used(product, key_id))
    until_all_have_met_redis(stack)
    assert product.statuses(value, 3) == [200, 429, 429]
    assert used(product, key_id) == [3, 0]


@IN_DEPTH
def test_redis_killed_with_no_time_to_say_goodbye_comes_back_with_its_data(stack: Project) -> None:
    product = Product.make(stack, quota={"limit": 3, "period": "DAY"})
    key_id, value = product.key()
    assert product.statuses(value, 2) == [200, 200]
    assert used(product, key_id) == [2, 1]
    killed = kill(stack, "redis")
    wait_until(lambda: stack.one("redis").state["Pid"] not in (0, killed), lambda: stack.one("redis").state)
    stack.until_healthy()
    wait_until(lambda: used(product, key_id) == [2, 1], lambda: used(product, key_id))
    until_all_have_met_redis(stack)
    assert product.statuses(value, 3) == [200, 429, 429]


@IN_DEPTH
def test_a_killed_authz_container_gives_no_wrong_answer(two: Project) -> None:
    """503 is what Envoy says of a call whose sidecar died twice; anything else would be wrong."""
    product, small = Product.make(two), Product.make(two, quota={"limit": 100, "period": "DAY"})
    _, good = product.key()
    _, limited = small.key()
    calls = {
        "good": lambda: product.call(good),
        "unknown": lambda: product.call("no-such-key"),
        "none": lambda: product.call(),
        "limited": lambda: small.call(limited),
    }
    with calling(calls) as seen:
        wait_until(lambda: seen["good", 200] > 100, lambda: seen)
        victim = two.containers("authz")[0]
        os.kill(victim.state["Pid"], signal.SIGKILL)
        wait_until(lambda: [it.is_healthy for it in two.containers("authz")] == [True, True], lambda: seen)
        enough = seen["good", 200] + 300
        wait_until(lambda: seen["good", 200] > enough and seen["limited", 429] > 0, lambda: seen)
    log.info("answers around the kill: %s", sorted(seen.items()))
    wrong = {"good": {200, 503}, "unknown": {403, 503}, "none": {403, 503}, "limited": {200, 429, 503}}
    assert {it: seen[it] for it in seen if it[1] not in wrong[it[0]]} == {}
    assert seen["limited", 200] <= 100
    assert seen["good", 503] < seen["good", 200] / 20
    wait_until(lambda: restarts(two, victim.id) == 1, lambda: "it was not started again")


@IN_DEPTH
def test_a_changed_plans_file_is_in_force(stack: Project) -> None:
    file = stack.directory / "deploy/compose/plans/plans.yaml"
    was = file.read_text()
    assert stack.call(stack.key("acme")).status_code == 200
    new = file.with_suffix(".new")  # as editors do it: another file in the place of the old one
    new.write_text(was.replace("keys: [acme]", "keys: []"))
    new.replace(file)
    wait_until(lambda: stack.call(stack.key("acme")).status_code == 403, lambda: "still admitted")
    file.write_text(was)
    wait_until(lambda: stack.call(stack.key("acme")).status_code == 200, lambda: "still refused")


def test_a_stop_is_clean_and_a_new_start_has_all_of_it(stack: Project) -> None:
    product = Product.make(stack, quota={"limit": 2, "period": "DAY"})
    key_id, value = product.key()
    assert product.call(value).status_code == 200
    stack.compose("stop")
    ended = {it.service: it.state["ExitCode"] for it in stack.containers(stopped=True)}
    assert ended == dict.fromkeys(RUNNING, 0)
    stack.compose("down")
    assert stack.containers(stopped=True) == []
    stack.scale(1)
    assert product.statuses(value, 2) == [200, 429]
    assert used(product, key_id) == [2, 0]


def test_the_page_does_what_it_says(fresh_clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/run-with-compose.md with today's Compose, as Docker's own plugin."""
    cache = os.environ["AUTHZ_TEST_COMPOSE"]
    plugins = fresh_clone / ".docker/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(PROGRAMS[TODAYS](cache))
    stack = Project(fresh_clone, PROGRAMS[TODAYS](cache), f"authz-page-{os.getpid()}")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", stack.name)
    monkeypatch.setattr("tests.e2e.test_docs.PAGE_SECONDS", 500)
    ours = {port: stack.ports[name] for name, port in ports_of(fresh_clone / ".env.example").items()}
    ports = {**{port: port for port in DEFAULT_PORTS.values()}, **ours}
    reader = Reader(fresh_clone, ports)
    text = (fresh_clone / "docs/how-to/run-with-compose.md").read_text("utf-8")
    try:
        read(reader, steps(elsewhere(text, ports)))
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


def used(product: Product, key_id: str) -> list[int]:
    """Of today: used and remaining."""
    today = str(datetime.now(UTC).date())
    aws = product.stack.control.client()
    rows = aws.get_usage(usagePlanId=product.plan, keyId=key_id, startDate=today, endDate=today)["items"].get(
        key_id, []
    )
    return list(rows[-1]) if rows else []


def until_all_have_met_redis(stack: Project) -> None:
    """A worker that finds a connection of its own dead may answer one call with 503."""
    product = Product.make(stack)
    _, value = product.key()
    wait_until(lambda: set(product.statuses(value, 50)) == {200}, lambda: product.statuses(value, 50))


def ups(stack: Project) -> dict[str, int]:
    return dict(Counter(it["metric"]["job"] for it in stack.query("up") if it["value"][1] == "1"))


def kill(stack: Project, service: str) -> int:
    """Kill the process itself: after `docker kill` nothing would start it again. Returns the process id."""
    process = int(stack.one(service).state["Pid"])
    os.kill(process, signal.SIGKILL)
    return process


def restarts(stack: Project, container: str) -> int:
    return next(int(it.details["RestartCount"]) for it in stack.containers("authz") if it.id == container)

"""`authz serve --workers`: each on an endpoint of its own, all under one supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from authz.config.file import parse
from authz.envoy.pb import ext_authz_pb2_grpc
from tests.integration.test_server import NOT_SERVING, asks, check, document, health, status
from tests.support.builders import value_of
from tests.support.hosts import HOSTS
from tests.support.servers import (
    DEADLINE_SECONDS,
    HOST,
    AuthzServer,
    Host,
    RedisServer,
    authz_serve,
    free_port,
    free_ports,
    redis_server,
    until,
)

KEY = value_of("k1")
MANY = 100


def limited(limit: int, **changes: Any) -> dict[str, Any]:
    """The document with a monthly quota of `limit`."""
    whole = document(**changes)
    whole["usagePlans"][0]["quota"]["limit"] = limit
    return whole


def write(path: Path, whole: dict[str, Any]) -> str:
    """In one step, as an editor does; returns the digest of the file."""
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(whole))
    digest = parse(draft.read_text(), "plans.yaml").content
    draft.replace(path)
    return digest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    write(path, limited(MANY))
    return path


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@contextmanager
def pair(config: Path, redis: RedisServer, *flags: str, host: Host = "grpcio") -> Iterator[AuthzServer]:
    """Two workers with an account of their own, which drain at once; their files are below the configuration's."""
    own = ("--redis-url", redis.url, "--account-id", config.parent.name, "--drain-seconds", "0", *flags)
    with authz_serve(config, *own, host=host, workers=2, env={"TMPDIR": str(config.parent)}) as server:
        yield server


def told(server: AuthzServer) -> list[dict[str, Any]]:
    """What `/healthz` says of each worker."""
    workers: list[dict[str, Any]] = httpx.get(f"{server.http}/healthz", trust_env=False).json()["workers"]
    return workers


def pids(server: AuthzServer) -> list[int | None]:
    return [worker.get("pid") for worker in told(server)]


def contents(server: AuthzServer) -> list[str]:
    """The digest of the catalog that each worker serves; "" for one that is down."""
    return [worker.get("catalog", {}).get("version", "").partition("-")[2] for worker in told(server)]


def metrics(server: AuthzServer) -> Counter[str]:
    """Each name's values, added up over all labels; 0 for a missing name."""
    text = httpx.get(f"{server.http}/metrics", trust_env=False).text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value  # type: ignore[assignment]
    return found


def all_ready(server: AuthzServer) -> bool:
    return all(worker["ready"] for worker in told(server))


def end(server: AuthzServer, slot: int) -> int:
    """Kill a worker, and wait for the next in its place; the pid of the one that was killed."""
    before = pids(server)[slot]
    assert before
    os.kill(before, signal.SIGKILL)
    until(lambda: pids(server)[slot] not in (before, None) and all_ready(server), "not started again", server)
    return before


def lives(pid: int | None) -> bool:
    """Whether a process runs; one that has ended and is still listed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- one limit, several processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_workers_share_limits_and_metrics(config: Path, redis: RedisServer, host: Host) -> None:
    """One quota for both; one `/metrics` that has what both have counted."""
    write(config, limited(2))
    with pair(config, redis, host=host) as server:
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200], [200]]
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[429], [429]]
        until(lambda: metrics(server)["authz_checks_total"] == 4, "not all is counted", server)
        assert metrics(server)["authz_workers"] == 2


def test_redis_distinguishes_the_workers(config: Path, redis: RedisServer) -> None:
    """Forked from one process, each has an id of its own. With one id a worker would get the other's answers."""
    with pair(config, redis) as server, ThreadPoolExecutor(8) as pool:
        given = [pool.submit(check, server.endpoints[n % 2], *[KEY] * 20) for n in range(8)]
        found = Counter(one for answers in given for one in answers.result())
    assert found == {200: MANY, 429: 8 * 20 - MANY}


def test_a_check_that_envoy_repeats_at_another_worker_is_charged_once(config: Path, redis: RedisServer) -> None:
    """With `chargeOnce` the retry has the id of the first try; of three calls of an id each, the third is refused."""
    write(config, limited(2))
    with pair(config, redis, "--charge-once", "true") as server:
        tries = [(endpoint, name) for name in ("7", "8", "9") for endpoint in server.endpoints]
        assert [identified(*one) for one in tries] == [200, 200, 200, 200, 429, 429]


def identified(endpoint: str, id: str) -> int:  # noqa: A002
    """The status of a check with Envoy's id of the request."""
    asked = asks(KEY)
    asked.attributes.request.http.id = id
    with grpc.insecure_channel(endpoint) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
        return status(stub.Check(asked, timeout=DEADLINE_SECONDS))


def test_what_one_worker_remembers_is_no_other_workers_refusal(config: Path, redis: RedisServer) -> None:
    """And every worker learns of a raised limit."""
    write(config, limited(2))
    with pair(config, redis) as server:
        assert check(server.endpoints[0], KEY, KEY, KEY, KEY) == [200, 200, 429, 429]
        raised = write(config, limited(4))
        until(lambda: contents(server) == [raised, raised], "the change is not in force", server)
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200], [200]]
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[429], [429]]


def test_workers_listen_on_sockets_side_by_side(config: Path, redis: RedisServer) -> None:
    with pair(config, redis, "--grpc-listen", f"unix:{config.parent}/s") as server:
        assert [check(f"unix:{config.parent}/s.{slot}", KEY) for slot in (0, 1)] == [[200], [200]]
        assert [worker["grpc"] for worker in told(server)] == [f"unix:{config.parent}/s.{slot}" for slot in (0, 1)]


def test_without_redis_each_worker_has_its_part(config: Path, redis: RedisServer) -> None:
    """The quota is shared by `replicas` times workers: of 8, each of four has 2."""
    write(config, limited(8))
    nowhere = f"redis://{HOST}:{free_port()}"
    with pair(config, redis, "--redis-url", nowhere, "--replicas", "2", "--failure-policy", "local") as server:
        assert [check(endpoint, KEY, KEY, KEY) for endpoint in server.endpoints] == [[200, 200, 429]] * 2


def test_log_lines_name_the_slot(config: Path, redis: RedisServer) -> None:
    with pair(config, redis) as server:
        lines = server.log_text.splitlines()
    serving = [line for line in lines if '"serving"' in line]
    assert len(serving) == 2
    assert all(any(f'"slot": {slot}' in line for line in serving) for slot in (0, 1)), serving


# --- restarts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_dead_worker_is_started_again(config: Path, redis: RedisServer, host: Host) -> None:
    """The other goes on, and what both have counted stays counted, in as many files as before."""

    def files() -> list[str]:
        return sorted(file.name for file in config.parent.glob("authz-metrics-*/*.db"))

    with pair(config, redis, host=host) as server:
        other = pids(server)[1]
        assert [check(endpoint, KEY, KEY) for endpoint in server.endpoints] == [[200, 200]] * 2
        until(lambda: metrics(server)["authz_checks_total"] == 4, "not all is counted", server)
        before = files()
        end(server, 0)
        assert pids(server)[1] == other
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200]] * 2
        until(lambda: metrics(server)["authz_checks_total"] == 6, "the count began anew", server)
        assert metrics(server)["authz_worker_restarts_total"] == 1
        assert [worker["restarts"] for worker in told(server)] == [1, 0]
        assert files() == before
        assert before


def test_a_worker_that_hangs_is_started_again(config: Path, redis: RedisServer) -> None:
    with pair(config, redis) as server:
        before = pids(server)[0]
        assert before
        os.kill(before, signal.SIGSTOP)
        until(lambda: pids(server)[0] not in (before, None) and all_ready(server), "it hangs still", server)
        assert not lives(before)
        assert "worker hangs" in server.log_text


def test_a_worker_that_starts_later_has_the_file_of_today(config: Path, redis: RedisServer) -> None:
    """Its first catalog is of the file as it is, not as it was when the template read it."""
    with pair(config, redis) as server:
        new = write(config, limited(MANY + 1))
        until(lambda: contents(server) == [new, new], "the change is not in force", server)
        end(server, 0)
        assert [worker["catalog"]["version"] for worker in told(server)] == [f"1-{new}", f"2-{new}"]


def test_a_worker_that_starts_later_has_the_last_good_file(config: Path, redis: RedisServer) -> None:
    with pair(config, redis) as server:
        good = contents(server)
        config.write_text("apis: [")
        end(server, 0)
        assert contents(server) == good
        assert check(server.endpoints[0], KEY) == [200]


def test_a_killed_template_disturbs_no_worker(config: Path, redis: RedisServer) -> None:
    with pair(config, redis) as server:
        [template] = children(server.pid) - set(pids(server))
        os.kill(template, signal.SIGKILL)
        end(server, 0)
        assert check(server.endpoints[0], KEY) == [200]


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize("host", HOSTS)
def test_a_worker_that_cannot_start_ends_everything(config: Path, redis: RedisServer, host: Host) -> None:
    """With the message of the worker and its status; and no process is left."""
    first = free_ports(2)
    with socket.socket() as taken:
        taken.bind((HOST, first + 1))
        taken.listen()
        listen = ("--grpc-listen", f"{HOST}:{first}", "--http-listen", f"{HOST}:{free_port()}", "--server", host)
        command = (sys.executable, "-m", "authz", "serve", "--config", str(config), *listen, "--workers", "2")
        ended = subprocess.run(
            [*command, "--redis-url", redis.url], capture_output=True, text=True, timeout=DEADLINE_SECONDS
        )
    assert ended.returncode == 2, ended.stderr
    assert f"{HOST}:{first + 1} cannot be listened on" in ended.stderr
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, first)) != 0


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_term_drains_all_at_the_same_time(config: Path, redis: RedisServer, host: Host) -> None:
    """NOT_SERVING everywhere while calls are still answered; then the end, with status 0."""
    with pair(config, redis, "--drain-seconds", "2", host=host) as server:
        server.send(signal.SIGTERM)
        until(lambda: [health(endpoint) for endpoint in server.endpoints] == [NOT_SERVING] * 2, "serving", server)
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200], [200]]
        assert httpx.get(f"{server.http}/readyz", trust_env=False).status_code == 503
        assert server.wait() == 0, server.log_text


@pytest.mark.parametrize("host", HOSTS)
def test_hup_reaches_every_worker(config: Path, redis: RedisServer, host: Host) -> None:

    def reloads() -> float:
        return metrics(server)["authz_catalog_reloads_total"]

    with pair(config, redis, host=host) as server:
        before = pids(server)
        server.send(signal.SIGHUP)
        until(lambda: reloads() == 2, "not both have read the file", server)
        assert pids(server) == before


@pytest.mark.parametrize("host", HOSTS)
def test_usr2_replaces_every_worker(config: Path, redis: RedisServer, host: Host) -> None:
    """By processes with the settings of today, on the same endpoints; and it counts as no restart."""
    with pair(config, redis, host=host) as server:
        before = pids(server)
        write(config, limited(MANY, settings={"rateLimitHeadersOnSuccess": True}))
        server.send(signal.SIGUSR2)
        until(lambda: "workers replaced" in server.log_text, "not replaced", server)
        assert all_ready(server)
        assert not set(before) & set(pids(server))
        assert not any(map(lives, before))
        assert all("ratelimit" in admitted_headers(endpoint) for endpoint in server.endpoints)
        assert metrics(server)["authz_worker_restarts_total"] == 0


def admitted_headers(endpoint: str) -> set[str]:
    """The names of the headers that an admitted call's answer is given."""
    with grpc.insecure_channel(endpoint) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
        answer = stub.Check(asks(KEY), timeout=DEADLINE_SECONDS)
    return {option.header.key.lower() for option in answer.ok_response.response_headers_to_add}


def test_usr2_keeps_the_workers_that_it_cannot_replace(config: Path, redis: RedisServer) -> None:
    """A file that is wrong is found before any worker is stopped."""
    with pair(config, redis) as server:
        before = pids(server)
        config.write_text("apis: [")
        server.send(signal.SIGUSR2)
        until(lambda: "workers not replaced" in server.log_text, "no word of it", server)
        assert pids(server) == before
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200], [200]]


def test_usr2_stops_at_the_first_that_does_not_become_ready(config: Path, redis: RedisServer) -> None:
    """The others stay as they are, and its place is taken by a worker like the one before."""
    with pair(config, redis) as server:
        before = pids(server)
        missing = {"tlsCertFile": str(config.parent / "none"), "tlsKeyFile": str(config.parent / "none")}
        write(config, limited(MANY, settings=missing))
        until(lambda: "settings need a restart" in server.log_text, "the file is not noticed", server)
        server.send(signal.SIGUSR2)
        until(lambda: "replacing stopped" in server.log_text, "no word of it", server)
        write(config, limited(MANY))
        until(lambda: all_ready(server), "its place is empty", server)
        assert pids(server)[1] == before[1]
        assert [check(endpoint, KEY) for endpoint in server.endpoints] == [[200], [200]]


@pytest.mark.parametrize("host", HOSTS)
def test_workers_do_not_outlive_their_supervisor(config: Path, redis: RedisServer, host: Host) -> None:
    """However it ends, the endpoints are free for a new start."""
    with pair(config, redis, host=host) as server:
        family = children(server.pid)
        assert len(family) >= 2
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not any(map(lives, family)), "a process is left", server)


def test_a_single_sidecar_has_no_files_of_metrics(config: Path, redis: RedisServer) -> None:
    with authz_serve(config, "--redis-url", redis.url, env={"TMPDIR": str(config.parent)}):
        assert not [*config.parent.glob("authz-metrics-*")]


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_catalog_is_in_memory_once(config: Path, redis: RedisServer) -> None:
    """Of a worker that serves 20,000 keys, and has looked some up, little is its own."""
    ids = [f"k{n}" for n in range(20_000)]
    whole = document(apiKeys=[{"id": name, "value": value_of(name)} for name in ids])
    whole["usagePlans"][0]["keys"] = ids
    write(config, whole)
    with pair(config, redis) as server:
        assert {*check(server.endpoints[0], *map(value_of, ids[::200]))} == {200}
        rss, pss, own = (memory(pids(server)[0], what) for what in ("Rss", "Pss", "Private_Dirty"))
    assert pss < rss * 0.6
    assert own < rss * 0.33


def memory(pid: int | None, what: str) -> int:
    """A line of the kernel's reckoning of a process's memory, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))

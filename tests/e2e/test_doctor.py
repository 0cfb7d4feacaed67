"""`authz doctor` as its users meet it: a whole system, sidecars and a control plane gone wrong, and the command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from msgspec import structs

from authz.config.file import load
from authz.core.stored import RequestValidator, RestApi, StoredResource
from authz.doctor import fetch
from authz.doctor.examine import examine
from authz.doctor.facts import Facts
from authz.doctor.fetch import GrpcTls, Targets, look
from authz.doctor.rules.processes import PROCESS_RULES
from authz.envoy.config import EnvoyOptions, render
from authz.store.ports import Draft
from authz.store.store import Store
from tests.e2e.stack import ext_authz
from tests.support.servers import (
    HOST,
    AuthzServer,
    EnvoyServer,
    RedisServer,
    Server,
    authz_serve,
    envoy,
    free_port,
    is_ok,
    redis_server,
    until,
)
from tests.support.topologies import Certificates

ROOT = Path(__file__).parents[2]
FILE = ROOT / "authz/samples/plans.yaml"
SAMPLE = load(FILE).resources
PASSWORD = "a-password-of-redis"


def seen(**targets: Any) -> Facts:
    return asyncio.run(look(Targets(**targets)))


def found(**targets: Any) -> list[str]:
    return [finding.id for finding in examine(seen(**targets))]


# --- a whole system -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept() -> Iterator[RedisServer]:
    """A Redis as one should be."""
    with redis_server("valkey", "--appendfsync", "everysec", password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def environment(kept: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    sealing_key = tmp_path_factory.mktemp("secrets") / "sealing-key"
    sealing_key.write_text("a" * 64)
    return {"AUTHZ_REDIS_URL": kept.url, "AUTHZ_SEALING_KEY_FILE": str(sealing_key)}


@pytest.fixture(scope="module")
def sidecar(environment: dict[str, str]) -> Iterator[AuthzServer]:
    with authz_serve(FILE, "--store", env=environment) as server:
        yield server


@contextmanager
def running_control(scratch: Path, environment: dict[str, str], *flags: str) -> Iterator[str]:
    """A control plane's status pages."""
    http = f"{HOST}:{free_port()}"
    listen = ("--listen", f"{HOST}:{free_port()}", "--http-listen", http)
    server = Server(
        command=(sys.executable, "-m", "authz", "control", "--config", str(FILE), *listen, *flags),
        log=scratch / "control.log",
        is_ready=lambda: is_ok(f"http://{http}/readyz"),
        env=environment,
    )
    try:
        server.start()
        yield f"http://{http}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def control(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_control(tmp_path_factory.mktemp("control"), environment) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(sidecar: AuthzServer) -> Iterator[EnvoyServer]:
    with envoy(envoy_config(sidecar)) as server:
        yield server


def envoy_config(sidecar: AuthzServer) -> str:
    listen, admin = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    return render(SAMPLE, EnvoyOptions(listen, admin, authz=tuple(sidecar.endpoints), store=True))


@pytest.fixture
def whole(proxy: EnvoyServer, sidecar: AuthzServer, control: str, kept: RedisServer, tmp_path: Path) -> list[str]:
    """The flags that name all of it."""
    file = tmp_path / "own-keys.yaml"
    file.write_text(FILE.read_text("utf-8").replace("demo-key", "own-key"), "utf-8")
    return [
        *("--envoy", proxy.admin, "--sidecar", sidecar.http, "--control", control),
        *("--grpc", sidecar.grpc, "--redis", kept.url, "--config", str(file)),
    ]


def doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "authz", "doctor", *flags)
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})


def test_a_clean_system_is_met_with_silence(whole: list[str]) -> None:
    """Envoy, a sidecar with a store, a control plane and a Redis, each as we print or recommend it."""
    run = doctor(*whole)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.strip().endswith("nothing found.")
    report = json.loads(doctor(*whole, "--json").stdout)
    assert report["summary"] == {"error": 0, "warning": 0, "info": 0}
    assert report["findings"] == []
    assert len(report["lookedAt"]) == 5


def test_each_part_alone_is_enough(proxy: EnvoyServer, sidecar: AuthzServer, control: str, kept: RedisServer) -> None:
    for part in (
        {"envoys": [proxy.admin]},
        {"sidecars": [sidecar.http]},
        {"controls": [control]},
        {"grpc": [sidecar.grpc]},
        {"redis": kept.url},
    ):
        assert found(**part) == [], part


def test_no_secret_is_printed(whole: list[str]) -> None:
    for more in ((), ("--json",)):
        run = doctor(*whole, *more)
        assert PASSWORD not in run.stdout + run.stderr
        assert ":***@" in run.stdout.replace("\n", "")


@pytest.fixture(scope="module")
def fail_open(sidecar: AuthzServer) -> Iterator[EnvoyServer]:
    """With an error, a warning and an info."""
    broken = yaml.safe_load(envoy_config(sidecar))
    ext_authz(broken).update(failure_mode_allow=True, clear_route_cache=True)
    del ext_authz(broken)["charge_cluster_response_stats"]
    with envoy(yaml.safe_dump(broken)) as server:
        yield server


@pytest.fixture(scope="module")
def only_info(sidecar: AuthzServer) -> Iterator[EnvoyServer]:
    broken = yaml.safe_load(envoy_config(sidecar))
    del ext_authz(broken)["charge_cluster_response_stats"]
    with envoy(yaml.safe_dump(broken)) as server:
        yield server


@pytest.mark.parametrize(("level", "status"), [("error", 1), ("warning", 1), ("never", 0)])
def test_the_exit_status_depends_on_the_severity(level: str, status: int, fail_open: EnvoyServer) -> None:
    assert doctor("--envoy", fail_open.admin, "--fail-on", level).returncode == status


def test_a_finding_of_severity_info_fails_nothing(only_info: EnvoyServer) -> None:
    run = doctor("--envoy", only_info.admin)
    assert run.returncode == 0
    assert "refusals-charged-to-upstream" in run.stdout


def test_the_report_in_a_pipe_has_plain_lines_and_a_summary(fail_open: EnvoyServer) -> None:
    text = doctor("--envoy", fail_open.admin).stdout
    order = [text.index(f"{line}: ") for line in ("error: fail-open", "warning: clear-route-cache", "info")]
    assert order == sorted(order)
    assert "fix: failure_mode_allow: false" in text
    assert text.strip().endswith("1 error, 1 warning, 1 info.")
    assert "\x1b" not in text


def test_the_json_report_has_each_finding_in_full(fail_open: EnvoyServer) -> None:
    [first, *_] = json.loads(doctor("--envoy", fail_open.admin, "--json").stdout)["findings"]
    assert list(first) == ["id", "severity", "where", "seen", "why", "fix"]
    assert (first["id"], first["severity"], first["fix"]) == ("fail-open", "error", "failure_mode_allow: false")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give at least one of --envoy"),
        (("--redis", "http://example.org"), "flag --redis: expected a URL that begins with redis://"),
        (("--redis", "redis://:secret@h:port/0"), "flag --redis: expected a URL with a host and a port number"),
        (("--envoy", "http://me:secret@127.0.0.1:1"), "Invalid value for '--envoy': expected http://host:port"),
        (("--sidecar", "file:///etc/hostname"), "Invalid value for '--sidecar': expected http://host:port"),
        (("--envoy", "http://127.0.0.1:1", "--config", "/nowhere"), "/nowhere: no such file"),
        (("--grpc", "h:1", "--grpc-cert", str(FILE)), "--grpc-cert and --grpc-key belong together"),
        (("--envoy", "h:1", "--grpc-ca", str(FILE)), "--grpc-ca and its like are for --grpc"),
        (("--envoy", "h:1", "--redis-password-file", str(FILE)), "--redis-password-file is for --redis"),
        (("--redis", "redis://h", "--redis-password-file", os.devnull), f"password in {os.devnull}, and it is empty"),
    ],
    ids=["nothing", "no redis", "bad redis", "login", "no HTTP", "no file", "half of TLS", "no gRPC", "whose", "empty"],
)
def test_an_unreachable_program_is_reported(flags: tuple[str, ...], words: str) -> None:
    run = doctor(*flags)
    assert run.returncode == 2
    assert words in " ".join(run.stderr.split())
    assert "secret" not in run.stderr
    assert "Traceback" not in run.stderr


def test_the_password_of_redis_may_be_in_a_file(kept: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    bare = kept.url.replace(f":{PASSWORD}@", "")
    assert doctor("--redis", bare, "--redis-password-file", str(file)).returncode == 0
    run = doctor("--redis", bare)
    assert (run.returncode, "unreachable" in run.stdout) == (1, True)
    assert doctor("--redis", kept.url, "--redis-password-file", str(file)).returncode == 2


# --- sidecars and control planes gone wrong ---------------------------------------------------------------------------


def test_who_does_not_answer_is_an_error() -> None:
    dead = f"{HOST}:{free_port()}"
    findings = examine(
        seen(
            envoys=[dead], sidecars=[f"http://{dead}", "unix:/nowhere.sock"], controls=[dead], redis=f"redis://{dead}/0"
        )
    )
    assert [(finding.id, finding.severity) for finding in findings] == [("unreachable", "error")] * 5


def test_an_address_of_another_program_is_reported(proxy: EnvoyServer) -> None:
    [finding] = examine(seen(sidecars=[proxy.admin]))
    assert finding.id == "unreachable"
    assert "not as a sidecar does" in finding.seen


class Odd(BaseHTTPRequestHandler):
    """Answers each path with one body, in pieces, each after a pause."""

    body, pause, piece = b"", 0.0, 1 << 20

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        with suppress(OSError):
            for at in range(0, len(self.body), self.piece):
                self.wfile.write(self.body[at : at + self.piece])
                time.sleep(self.pause)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(body: bytes, **more: Any) -> Iterator[str]:
    kind = type("Kind", (Odd,), {"body": body, **more})
    with ThreadingHTTPServer((HOST, 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'"ready"', b'{"configs": [7]}', b'{"configs": [{"@type"', b"\xff"],
)
def test_a_malformed_answer_is_reported(body: bytes) -> None:
    with answering(body) as url:
        facts = seen(envoys=[url], sidecars=[url], controls=[url])
    assert [finding.id for finding in examine(facts)] == ["unreachable"] * 3


def test_a_sidecar_of_an_old_version_with_odd_figures_is_looked_at() -> None:
    """It shows no settings; malformed figures are left out."""
    with answering(b'{"ready": true}') as url:
        assert found(sidecars=[url]) == []
    assert fetch._samples("authz_x many\nauthz_x 1\nauthz_y NaN").keys() == {"authz_x", "authz_y"}


def test_an_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, so that no single wait is too long."""
    monkeypatch.setattr(fetch, "WHOLE_SECONDS", 0.2)
    with answering(b"x" * 100_000, piece=1, pause=0.01) as url:
        [finding] = examine(seen(envoys=[url]))
    assert "does not end" in finding.seen


def test_an_answer_that_is_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1 << 20)
    with answering(b"x" * (2 << 20)) as url:
        [finding] = examine(seen(envoys=[url]))
    assert "more than 1 MiB" in finding.seen


def test_a_sidecar_that_drains_is_found(environment: dict[str, str]) -> None:
    with authz_serve(FILE, "--drain-seconds", "60", env=environment) as server:
        assert found(sidecars=[server.http], grpc=[server.grpc]) == []
        server.send(signal.SIGTERM)
        until(lambda: not is_ok(f"{server.http}/readyz"), "it does not drain", server)
        findings = examine(seen(sidecars=[server.http], grpc=[server.grpc]))
        server.kill()
    assert [(finding.id, finding.seen) for finding in findings] == [
        ("grpc-not-serving", "NOT_SERVING"),
        ("sidecar-not-ready", "draining"),
    ]


def test_a_grpc_address_without_a_server_is_found() -> None:
    [finding] = examine(seen(grpc=[f"{HOST}:{free_port()}"]))
    assert finding.id == "grpc-not-serving"
    assert finding.seen.startswith("UNAVAILABLE")


def test_a_sidecar_without_its_redis_is_found() -> None:
    with authz_serve(FILE, "--redis-url", f"redis://{HOST}:{free_port()}/0", workers=2) as server:
        findings = examine(seen(sidecars=[server.http]))
    assert [(finding.id, finding.where) for finding in findings] == [
        ("redis-left-alone", f"sidecar {server.http}, worker {slot}") for slot in (0, 1)
    ]


def test_methods_that_are_served_without_their_authorization_are_found() -> None:
    """Of each worker's, each once."""
    lacking = ["a1:prod GET /pets (AWS_IAM)", "a1:prod POST /pets (CUSTOM)"]
    workers = [{"ready": True, "catalog": {"unauthorized": lacking}}, {"ready": True, "catalog": {"version": "1-a"}}]
    with answering(json.dumps({"ready": True, "workers": workers}).encode()) as url:
        [finding] = examine(seen(sidecars=[url]))
    assert (finding.id, finding.severity) == ("authorization-not-carried-out", "error")
    assert finding.seen == ", ".join(lacking)


def test_a_configuration_that_was_refused_is_found(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(FILE.read_text())
    with authz_serve(file, env=environment) as server:
        file.write_text("apis: 7")
        until(lambda: found(sidecars=[server.http]) != [], "nothing is refused", server)
        [finding] = examine(seen(sidecars=[server.http]))
    assert (finding.id, "$.apis" in finding.seen) == ("catalog-refused", True)


def test_keys_of_the_sample_are_reported(sidecar: AuthzServer) -> None:
    report = json.loads(doctor("--sidecar", sidecar.http, "--config", str(FILE), "--json").stdout)
    [finding] = report["findings"]
    assert (finding["id"], finding["severity"]) == ("sample-keys-disabled", "info")
    assert finding["seen"] == "API keys tester, acme, globex, sparrow, guest, site, app"


async def test_a_request_validator_in_the_store_is_reported(sidecar: AuthzServer, kept: RedisServer) -> None:
    """The models that each API has from the start are no finding."""
    store = Store(kept.url)
    plain = RestApi("plain", "a", 0, "root", resources={"root": StoredResource("root", "/")})
    checked = structs.replace(plain, id="checked", request_validators={"v": RequestValidator("v", "body")})

    async def put(edit: Draft) -> None:
        edit.put(plain)
        edit.put(checked)

    async def delete(edit: Draft) -> None:
        await edit.many("restapi", ["plain", "checked"])
        edit.delete("restapi", "plain")
        edit.delete("restapi", "checked")

    await store.write(put, who="test", what="test")
    try:
        [finding] = examine(await look(Targets(sidecars=[sidecar.http], redis=kept.url)))
        assert (finding.id, finding.seen) == ("validation-not-carried-out", "APIs checked")
    finally:
        await store.write(delete, who="test", what="test")
        await store.aclose()


def test_a_control_plane_without_its_store_is_found(tmp_path: Path) -> None:
    with redis_server() as server, running_control(tmp_path, {"AUTHZ_REDIS_URL": server.url}) as url:
        assert found(controls=[url]) == []
        server.kill()
        until(lambda: not is_ok(f"{url}/readyz"), "it stays ready")
        assert found(controls=[url]) == ["control-not-ready"]


def test_a_console_that_the_network_can_read_is_found(environment: dict[str, str], tmp_path: Path) -> None:
    with running_control(tmp_path, environment, "--console-url", "http://plans.example.com") as url:
        assert found(controls=[url]) == ["console-in-clear"]


def test_sidecars_that_do_not_agree_are_found(
    sidecar: AuthzServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """In settings, in what they serve, and on how many there are."""
    other = tmp_path / "plans.yaml"
    other.write_text(FILE.read_text().replace("rateLimit: 50", "rateLimit: 51"))
    with authz_serve(other, "--store", "--response-profile", "aws", env=environment) as second:
        findings = {finding.id: finding for finding in examine(seen(sidecars=[sidecar.http, second.http]))}
    assert set(findings) == {"settings-skew", "catalog-skew", "replicas-too-low"}
    assert findings["settings-skew"].where == "settings.responseProfile"
    assert findings["replicas-too-low"].fix == "settings.replicas: 2"


def test_holds_beside_an_older_sidecar_and_with_charge_once_are_found(
    sidecar: AuthzServer, environment: dict[str, str]
) -> None:
    """No older sidecar is at hand, so one forgets a setting. A sidecar that holds nothing may stand beside one that
    does."""
    with authz_serve(FILE, "--store", "--hold-ms", "100", "--charge-once", env=environment) as holding:
        facts = seen(sidecars=[sidecar.http, holding.http])
        assert "chargeOnce has every check decided in Redis" in holding.log_text
    ids = {"settings-skew", "replicas-too-low", "charge-once-with-holds"}
    assert {finding.id for finding in examine(facts)} == ids
    one, other = facts.sidecars
    older = replace(one, details={**one.details, "settings": {**one.settings}})
    del older.details["settings"]["holdMs"]
    findings = {finding.id: finding for finding in examine(replace(facts, sidecars=[older, other]))}
    assert set(findings) == ids | {"holds-beside-older-sidecar"}
    assert findings["holds-beside-older-sidecar"].seen == f"100, and without it sidecar {sidecar.http}"


@pytest.mark.parametrize(
    ("lost", "admitted", "expected"),
    [(9, 0, []), (10, 1000, []), (11, 1000, ["11 holds lost, 1000 checks admitted from holds"])],
)
def test_holds_that_were_given_back_too_late_are_found(
    lost: float, admitted: float, expected: list[str], sidecar: AuthzServer
) -> None:
    facts = seen(sidecars=[sidecar.http])
    [one] = facts.sidecars
    counts = {"authz_holds_lost_total": [lost], "authz_checks_held_total": [admitted / 2] * 2}
    assert counts.keys() <= one.metrics.keys()
    findings = examine(replace(facts, sidecars=[replace(one, metrics={**one.metrics, **counts})]))
    assert [(finding.id, finding.seen) for finding in findings] == [("holds-lost", what) for what in expected]


def test_more_followers_of_a_store_than_replicas_are_found(
    sidecar: AuthzServer, kept: RedisServer, environment: dict[str, str]
) -> None:
    """By their presences, whether or not their addresses were given."""
    with authz_serve(FILE, "--store", env=environment) as second:
        one = {"sidecars": [sidecar.http], "redis": kept.url}
        until(lambda: found(**one) != [], "no second presence", second)
        assert found(**one) == ["replicas-too-low"]
    until(lambda: found(**one) == [], "the presence does not expire", sidecar)


def test_clocks_that_differ_are_found(sidecar: AuthzServer, control: str) -> None:
    """Theirs cannot be set here, so it is ours that is."""
    ids = found(sidecars=[sidecar.http], controls=[control], clock=lambda: time.time() + 60)
    assert ids == ["clock-skew", "clock-skew"]


def test_versions_that_differ_are_found(sidecar: AuthzServer, control: str) -> None:
    """No other version is at hand, so an answer is changed."""
    facts = seen(sidecars=[sidecar.http], controls=[control])
    [one] = facts.controls
    assert one.version == facts.sidecars[0].version
    [finding] = examine(replace(facts, controls=[replace(one, version="0.0.1")]))
    assert finding.id == "version-skew"


def test_uncounted_calls_are_found_while_redis_answers(sidecar: AuthzServer) -> None:
    """A sidecar counts it within a second, so an answer is changed."""
    facts = seen(sidecars=[sidecar.http])
    [one] = facts.sidecars
    assert one.metrics["authz_fallback_unsettled_requests"] == [0.0]
    owing = replace(one, metrics={**one.metrics, "authz_fallback_unsettled_requests": [2.0, 1.0]})
    [finding] = examine(replace(facts, sidecars=[owing]))
    assert (finding.id, finding.seen) == ("unsettled", "3 requests")


def test_a_certificate_that_expires_is_found(environment: dict[str, str], tmp_path: Path) -> None:
    """It is for a day. Its sidecar answers over TLS to who trusts it."""
    files = Certificates.make(tmp_path / "tls")
    own = ("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key))
    with authz_serve(FILE, *own, env=environment) as server:
        targets = {"sidecars": [server.http], "grpc": [server.grpc]}
        [finding] = examine(seen(**targets, tls=GrpcTls(files.ca)))
        assert found(**targets, tls=GrpcTls(files.ca, name="localhost")) == ["certificate-expires"]
        for stranger in (None, GrpcTls(files.ca, name="somebody.example.org")):
            assert "grpc-not-serving" in found(**targets, tls=stranger)
    assert (finding.id, finding.seen) == ("certificate-expires", "in 1.0 days")


def test_readyz_shows_the_settings_to_compare_and_no_secret(sidecar: AuthzServer) -> None:
    told = httpx.get(f"{sidecar.http}/readyz", trust_env=False)
    assert told.json()["settings"]["grpcListen"] == [sidecar.grpc]
    assert told.json()["settings"]["redisTimeoutMs"] == 50
    assert PASSWORD not in told.text
    assert "redisUrl" not in told.text


def test_each_rule_of_processes_is_planted_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [rule.id for rule in PROCESS_RULES if f'"{rule.id}"' not in text] == []

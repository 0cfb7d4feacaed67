"""What the pages on security and upgrades promise of Redis's users, a changed pepper, and a store that is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import redis as redis_py

from authz.core.resources import LimitsPer, Period, QuotaSettings
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb.ext_authz_pb2_grpc import AuthorizationStub
from authz.redisio.client import Script
from tests.e2e.stack import write
from tests.support.builders import key, plan, resources, value_of
from tests.support.servers import AuthzServer, Kind, RedisServer, authz_serve, redis_server, until

ROOT = Path(__file__).parents[2]
ZEROS = "{000000000000}"
COUNTING, STORING = ("admit", "flush", "refused"), ("find", "snapshot", "presence")
USER = re.compile(r"^user (\w+) (.*)$", re.MULTILINE)
PASSWORD = "PASSWORD"
SECONDS = 300  # for a command, on a busy machine
FLAGS = ("--redis-timeout-ms", "2000", "--drain-seconds", "0")


def users() -> dict[str, list[str]]:
    """The rules of each user that the page suggests."""
    return {name: rules.split() for name, rules in USER.findall((ROOT / "docs" / "security.md").read_text("utf-8"))}


@pytest.fixture(scope="module")
def redis(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server with these users, on which tests may delete everything."""
    with redis_server(redis_kind) as server:
        with redis_py.Redis.from_url(server.url) as admin:
            for name, rules in users().items():
                admin.execute_command("ACL", "SETUSER", name, *rules)
        yield server


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """For tests that need one kind of server only."""
    with redis_server() as server:
        yield server


def url_of(server: RedisServer, user: str) -> str:
    return server.url.replace("redis://", f"redis://{user}:{PASSWORD}@")


def authz(*words: str, **environment: str) -> str:
    command = (sys.executable, "-m", "authz", *words)
    env = {**os.environ, **environment}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def answer(sidecar: AuthzServer, key_id: str = "k1") -> tuple[str, bool]:
    """The reason of a refusal or "", and whether Redis had no part in it."""
    asked = pb.CheckRequest()
    http = asked.attributes.request.http
    http.method, http.host, http.path, http.id = "GET", "a1.test", "/prod/pets", uuid4().hex
    http.headers["x-api-key"] = value_of(key_id)
    with grpc.insecure_channel(sidecar.grpc) as channel:
        got = AuthorizationStub(channel).Check(asked, timeout=SECONDS)  # type: ignore[no-untyped-call]
    return got.status.message, got.dynamic_metadata.fields["degraded"].bool_value


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    write(tmp_path / "plans.yaml", resources())
    return tmp_path / "plans.yaml"


@pytest.mark.parametrize(("user", "scripts"), [("sidecar", COUNTING), ("stored", COUNTING + STORING)])
def test_a_user_may_run_every_command_of_its_scripts(user: str, scripts: tuple[str, ...]) -> None:
    """Also of those branches that a test of a sidecar does not come to."""
    texts = (Script.load(f"{name}.lua").text for name in scripts)
    called = {f"+{name.lower()}" for text in texts for name in re.findall(r"call\(\s*'([A-Z]+)'", text)}
    assert called
    assert called <= set(users()[user])


@pytest.mark.parametrize("flags", [(), ("--charge-once", "true")])
def test_a_sidecar_with_a_file_counts_as_a_user_with_few_rights(
    redis: RedisServer, plans: Path, flags: tuple[str, ...]
) -> None:
    with authz_serve(plans, "--redis-url", url_of(redis, "sidecar"), *FLAGS, *flags) as sidecar:
        assert [answer(sidecar) for _ in range(3)] == [("", False)] * 3


def test_plans_of_sellers_count_as_that_user_too(redis: RedisServer, tmp_path: Path) -> None:
    """Quotas, customers, alerts and refusals have keys of their own."""
    quotas = tuple(QuotaSettings(2, period, alerts=(50,)) for period in (Period.MONTH, Period.TOTAL))
    plans = [plan(per, quotas=quotas, keys=(f"k-{per}",), limits_per=per) for per in LimitsPer]
    keys = [key(f"k-{one.id}", customer_id="acme") for one in plans]
    write(tmp_path / "plans.yaml", resources(usage_plans=tuple(plans), api_keys=tuple(keys)))
    with authz_serve(tmp_path / "plans.yaml", "--redis-url", url_of(redis, "sidecar"), *FLAGS) as sidecar:
        for one in keys:
            said = [answer(sidecar, one.id) for _ in range(3)]
            assert said == [("", False), ("", False), ("plan_quota", False)]
    with redis_py.Redis.from_url(redis.url) as admin:
        assert {name.decode().split(":")[2] for name in admin.keys(f"{ZEROS}:v1:*")} >= {"refused", "alerts", "quota"}
        for per in LimitsPer:
            assert admin.exists(f"{ZEROS}:v1:refused:{per}:k-{per}")


def test_a_sidecar_with_a_store_runs_as_its_user_too(redis: RedisServer, plans: Path) -> None:
    authz("import", str(plans), "--redis-url", url_of(redis, "control"))
    with authz_serve(None, "--store", "true", "--redis-url", url_of(redis, "stored"), *FLAGS) as sidecar:
        assert answer(sidecar) == ("", False)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("sidecar", ("GET", f"{ZEROS}:v1:store:head")),
        ("sidecar", ("HGET", f"{ZEROS}:v1:store:item:apikey", "k1")),
        ("sidecar", ("HSET", f"{ZEROS}:v1:store:item:usageplan", "p1", "{}")),
        ("sidecar", ("GET", "{another}:v1:account")),
        ("stored", ("HGET", "{another}:v1:store:item:apikey", "k1")),
        *((user, words) for user in ("sidecar", "stored") for words in (("FLUSHALL",), ("KEYS", "*"))),
        ("control", ("CONFIG", "GET", "requirepass")),
        ("control", ("FLUSHALL",)),
    ],
)
def test_a_user_may_do_nothing_else(redis: RedisServer, user: str, words: tuple[str, ...]) -> None:
    with (
        redis_py.Redis.from_url(url_of(redis, user)) as client,
        pytest.raises(redis_py.exceptions.NoPermissionError),
    ):
        client.execute_command(*words)


def test_the_operators_user_runs_the_operators_commands(redis: RedisServer, tmp_path: Path) -> None:
    place, file = {"AUTHZ_REDIS_URL": url_of(redis, "control")}, str(tmp_path / "backup")
    assert "Bearer" in authz("credentials", "create", "x", "--token", **place)
    assert "CreateCredential" in authz("audit", **place)
    assert "Redis keys" in authz("backup", file, **place)
    assert "restored" in authz("restore", file, "--yes", **place)


def test_with_another_pepper_no_key_of_the_store_is_known(valkey: RedisServer, plans: Path, tmp_path: Path) -> None:
    place = store_of(valkey, tmp_path, "the pepper of old")
    authz("import", str(plans), **place)
    for pepper, reason in (("the pepper of old", ""), ("another pepper here", "key_unknown")):
        with authz_serve(None, "--store", "true", *FLAGS, env={**place, "AUTHZ_PEPPER": pepper}) as sidecar:
            assert answer(sidecar)[0] == reason


def test_sealed_keys_move_to_an_account_with_another_pepper(valkey: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    page = (ROOT / "docs" / "migration" / "aws.md").read_text("utf-8")
    for name, text in re.findall(r'title="(aws/[^"]+)"\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(text)
    old = store_of(valkey, tmp_path, "the pepper of old")
    authz("import", str(tmp_path / "aws"), **old)
    authz("export", "--format", "aws", "--include-values", str(tmp_path / "moved"), **old)
    new = store_of(valkey, tmp_path, "another pepper here")
    authz("import", str(tmp_path / "moved"), **new)
    (readable,) = re.findall(r"value: (aws-demo-key-acme\S+)", authz("export", "--include-values", **new))
    assert readable in page


def test_an_export_is_for_its_owners_eyes_also_in_the_place_of_a_file_that_all_may_read(
    valkey: RedisServer, tmp_path: Path
) -> None:
    there, new = tmp_path / "plans.yaml", tmp_path / "new.yaml"
    there.write_text("{}")
    there.chmod(0o644)
    for path in (there, new):
        authz("export", str(path), **store_of(valkey, tmp_path, "the pepper of old"))
    assert [path.stat().st_mode & 0o777 for path in (there, new)] == [0o600, 0o600]


def store_of(server: RedisServer, scratch: Path, pepper: str) -> Mapping[str, str]:
    """An account of its own, and where its secrets are."""
    (scratch / "sealing-key").write_text("ab" * 32)
    return {
        "AUTHZ_REDIS_URL": server.url,
        "AUTHZ_ACCOUNT_ID": uuid4().hex,
        "AUTHZ_PEPPER": pepper,
        "AUTHZ_SEALING_KEY_FILE": str(scratch / "sealing-key"),
    }


def test_a_store_that_is_lost_refuses_all_until_it_is_restored(plans: Path, tmp_path: Path) -> None:
    with redis_server() as server:
        place = {"AUTHZ_REDIS_URL": server.url}
        authz("import", str(plans), **place)
        authz("backup", str(tmp_path / "backup"), **place)
        with authz_serve(None, "--store", "true", *FLAGS, env=place) as sidecar:
            assert answer(sidecar)[0] == ""
            server.restart(empty=True)
            until(lambda: answer(sidecar)[0] == "unknown_api", "still served", sidecar)
            authz("restore", str(tmp_path / "backup"), "--yes", **place)
            until(lambda: answer(sidecar)[0] == "", "not served again", sidecar)

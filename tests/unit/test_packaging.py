"""Versions that CI installs fit the requirements of pyproject.toml, and the files for the code's host are YAML."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKED = [
    Requirement(line)
    for line in (ROOT / "requirements" / "constraints.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
EXTRAS = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS])
def test_a_requirement_has_a_locked_version_that_fits(text: str) -> None:
    wanted = Requirement(text)
    found = [one for one in LOCKED if canonicalize_name(one.name) == canonicalize_name(wanted.name)]
    assert found, "run make lock"
    for one in found:
        (version,) = (each.version for each in one.specifier)
        assert wanted.specifier.contains(version), "run make lock"


def test_each_supported_python_is_classified() -> None:
    """CI runs the tests on each of them."""
    named = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "python: [" + ", ".join(f'"{one}"' for one in named) + "]" in workflow
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_a_file_for_the_codes_host_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_a_job_runs_only_targets_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    called = {name for path in workflows for name in re.findall(r"- run: make (\w+)", path.read_text("utf-8"))}
    assert called >= {"lint", "test", "docs", "dist"}
    assert [name for name in called if f"\n{name}:" not in makefile] == []

"""`authz init`, `schema` and `new-key`: a person's first plans file, and one more key in it."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.config.faults import ConfigError
from authz.config.file import load
from authz.core.resources import digest


def authz(*words: str) -> str:
    """Return the output of a command that succeeds."""
    outcome = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_init_writes_a_file_without_a_fault_and_prints_the_value_of_its_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    value = re.search(r"value of the key: (upk_[A-Za-z0-9]{33})\n", authz("init", str(path)))
    assert value
    assert value[1] not in path.read_text("utf-8")
    assert load(path).resources.api_keys[0].value_sha256 == digest(value[1]).hex()
    assert authz("check-config", str(path)) == f"{path}: 1 API, 1 plan, 1 key; nothing wrong\n"
    assert json.loads((tmp_path / "plans.schema.json").read_text("utf-8")) == json.loads(authz("schema"))


def test_init_leaves_a_file_that_exists_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("apis: []\n", "utf-8")
    with pytest.raises(ConfigError, match="exists already"):
        authz("init", str(path))
    assert path.read_text("utf-8") == "apis: []\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_key_is_in_the_file_and_its_value_is_not(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    authz("init", str(path))
    path.chmod(0o640)
    printed = authz("new-key", "--into", str(path), "--id", "acme", "--name", "ACME Corp.", "--plan", "basic")
    shown = dict(re.findall(r"^(\w+): +(\w+)$", printed, re.MULTILINE))
    assert shown["valueSha256"] == digest(shown["value"]).hex()
    assert shown["value"] not in path.read_text("utf-8")
    found = load(path).resources
    assert [(key.id, key.name) for key in found.api_keys] == [("first", "First caller"), ("acme", "ACME Corp.")]
    assert found.api_keys[1].value_sha256 == shown["valueSha256"]
    assert found.usage_plans[0].keys == ("first", "acme")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert authz("check-config", str(path)).endswith("2 keys; nothing wrong\n")


def test_a_new_key_names_its_customer(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("apiKeys: []\n", "utf-8")
    authz("new-key", "--into", str(path), "--id", "acme-app", "--customer", "1001")
    (key,) = load(path).resources.api_keys
    assert (key.id, key.customer_id) == ("acme-app", "1001")


def test_a_new_key_without_an_id_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(b"\xef\xbb\xbfapis: []\r\n")
    printed = authz("new-key", "--into", str(path))
    (key,) = load(path).resources.api_keys
    assert f"id:          {key.id}\n" in printed
    assert path.read_bytes().startswith(b"\xef\xbb\xbfapis: []\r\napiKeys:\r\n")


def test_a_file_with_a_mistake_takes_no_key(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("apiz: []\n", "utf-8")
    with pytest.raises(ConfigError, match="did you mean apis"):
        authz("new-key", "--into", str(path))
    assert path.read_text("utf-8") == "apiz: []\n"


def test_options_for_a_file_need_one() -> None:
    outcome = CliRunner().invoke(cli, ["new-key", "--plan", "basic"])
    assert outcome.exit_code == 2
    assert "--id, --name, --plan and --customer are for --into" in outcome.output


def test_a_new_keys_prefix_is_the_flags_else_the_environments_else_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("settings: {keyPrefix: file}\napiKeys: []\n", "utf-8")

    def made(*words: str) -> str:
        return str(re.findall(r"^value: +(\w+)_\w{33}$", authz("new-key", *words), re.MULTILINE)[0])

    assert made() == "upk"
    assert made("--into", str(path)) == "file"
    monkeypatch.setenv("AUTHZ_KEY_PREFIX", "environment")
    assert made("--into", str(path)) == "environment"
    assert made("--into", str(path), "--key-prefix", "flag_live") == "flag_live"


def test_without_a_prefix_a_new_key_is_as_awss() -> None:
    assert re.search(r"^value: +[0-9A-Za-z]{40}$", authz("new-key", "--key-prefix", ""), re.MULTILINE)

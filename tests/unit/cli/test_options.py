"""How commands take files, and how they are listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.cli.options import Grouped
from authz.config.faults import ConfigError

READERS = {
    "check-config": (),
    "envoy-config": (),
    "explain": ("GET", "https://host/prod/pets"),
    "serve": (),
    "control": ("--no-auth",),
    "up": (),
    "import": ("--dry-run",),
    "doctor": ("--redis", "redis://127.0.0.1:1"),
}


@pytest.mark.parametrize("as_option", [False, True], ids=["argument", "--config"])
@pytest.mark.parametrize("command", READERS)
def test_a_file_that_is_none_is_said_in_one_way_by_each_command_that_reads_one(
    command: str, as_option: bool, tmp_path: Path
) -> None:
    """Missing, a directory, and no name at all; as an argument and as --config."""
    for name, says in (
        (f"{tmp_path}/nope.yaml", f"{tmp_path}/nope.yaml: no such file"),
        (str(tmp_path), f"{tmp_path}: a directory, not a file"),
        ("", f"{'--config' if as_option else 'FILE'}: expected a file's name, got ''"),
    ):
        if command == "import" and name == str(tmp_path):
            continue  # it reads directories
        words = [command, *READERS[command], *(["--config", name] if as_option else [name])]
        outcome = CliRunner().invoke(cli, words)
        assert isinstance(outcome.exception, ConfigError), (words, outcome.output)
        assert str(outcome.exception) == says


@pytest.mark.parametrize("command", ["check-config", "envoy-config", "explain"])
def test_a_file_may_be_an_argument_and_not_both(command: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text("apis: [{id: a, stages: [{name: prod}]}]")
    words = [command, *READERS[command]]
    one, other = (CliRunner().invoke(cli, [*words, *more]) for more in ([str(file)], ["--config", str(file)]))
    assert (one.exit_code, one.output) == (0, other.output)
    both = CliRunner().invoke(cli, [*words, str(file), "--config", str(file)])
    assert both.exit_code == 2
    assert "the file is given twice" in both.output


def test_each_command_stands_in_one_section_of_the_help() -> None:
    assert isinstance(cli, Grouped)
    listed = [name for commands in cli.sections.values() for name in commands]
    assert sorted(listed) == sorted(cli.commands)
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert "..." not in shown.partition("[ARGS]...")[2]
    assert max(map(len, shown.splitlines())) <= 80
    for title, commands in cli.sections.items():
        below = shown.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in below.splitlines()] == list(commands)


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_shell_completes_commands_as_the_page_says(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/cli.md").read_text("utf-8")
    assert f'eval "$(_AUTHZ_COMPLETE={name}_source authz)"' in page
    authz = Path(sys.executable).with_name("authz")
    environ = {**os.environ, "_AUTHZ_COMPLETE": f"{name}_complete", "COMP_WORDS": "authz check", "COMP_CWORD": "1"}
    printed = subprocess.run([authz], env=environ, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "check-config" in printed

"""Long commands show a person a bar and counts; a pipe gets the counts alone, on standard error."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "authz" / "samples" / "plans.yaml"
# Each command needs the results of those before it.
COMMANDS = (
    (("import", str(FILE)), "1 API, 6 plans, 7 keys, 1 customer", "Importing"),
    (("export", "exported.yaml"), "1 API, 6 plans, 7 keys, 1 customer, ", "Reading"),
    (("backup", "account.backup"), "1 API, 6 plans, 7 keys, 1 customer, 0 counters, ", "Reading"),
    (("restore", "account.backup", "--yes"), "1 API, 6 plans, 7 keys, 1 customer, 0 counters, ", "Restoring"),
)


@dataclass(frozen=True)
class Operator:
    """An operator who works on one account's store, in a directory."""

    environ: dict[str, str]
    place: Path

    def run(self, *words: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "authz", *words]
        environ = {**os.environ, **self.environ}
        return subprocess.run(
            command,
            cwd=self.place,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=120,
            check=True,
        )


@pytest.fixture
def operator(valkey_url: str, account: str, tmp_path: Path) -> Operator:
    return Operator({"AUTHZ_REDIS_URL": valkey_url, "AUTHZ_ACCOUNT_ID": account}, tmp_path)


def test_in_a_pipe_the_counts_alone_stand_on_standard_error(operator: Operator) -> None:
    for words, counts, label in COMMANDS:
        ended = operator.run(*words)
        assert counts in ended.stderr
        assert label not in ended.stderr
        assert counts not in ended.stdout


def test_quiet_leaves_out_both(operator: Operator) -> None:
    for words, counts, label in COMMANDS:
        ours, theirs = pty.openpty()
        operator.run(*words, "--quiet", stderr=theirs)
        os.close(theirs)
        shown = read(ours)
        assert counts not in shown
        assert label not in shown


def test_a_terminal_shows_a_bar(operator: Operator) -> None:
    for words, counts, label in COMMANDS:
        ours, theirs = pty.openpty()
        operator.run(*words, stderr=theirs)
        os.close(theirs)
        shown = read(ours)
        assert label in shown
        assert counts in shown


def read(terminal: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        try:
            return (file.read(100_000) or b"").decode()
        except OSError:  # Linux's way to say that nothing was written
            return ""

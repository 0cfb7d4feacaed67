"""`bench.compare` reads its options, writes what rivals read, and puts their filters in order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import compare
from bench.load.inputs import value_of
from bench.measure import report, rows
from bench.rivals.gates import Rival, Rivals

ROOT = Path(__file__).parents[3]
HERE = ("--pid", str(os.getpid()))
RLS, CHECK = Rival("counts", "127.0.0.1:1"), Rival("keys", "127.0.0.1:2")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected --rls, --ext-authz or both"),
        (["--rls", "h:1"], "expected --pid"),
        (["--rls", "h"], "expected HOST:PORT or NAME=HOST:PORT: h"),
        (["--rls", "h:"], "expected HOST:PORT or NAME=HOST:PORT: h:"),
        (["--ext-authz", "name=:1"], "expected HOST:PORT or NAME=HOST:PORT: name=:1"),
        (["--rls", "h:1", *HERE, "--pid", "999999999"], "no process has the id 999999999"),
        (["--rls", "h:1", *HERE, "--redis-pid", "999999999"], "no process has the id 999999999"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], expected: str) -> None:
    answer = CliRunner().invoke(compare.main, arguments)
    assert answer.exit_code == 2
    assert expected in " ".join(answer.output.split())


def test_help_says_how_each_rival_is_started() -> None:
    told = CliRunner().invoke(compare.main, ["--help"]).output
    assert all(word in told for word in ("RUNTIME_ROOT=rivals", "limitador-server", "opa-envoy-plugin run --server"))


def test_the_page_starts_the_rivals_as_help_does() -> None:
    blocks = str(compare.__doc__).split("\n\n")
    commands = [block.strip("\b\n ") for block in blocks if "taskset -c" in block]
    assert len(commands) == 3
    page = (ROOT / "docs/explanation/performance.md").read_text()
    assert [command for command in commands if f"```sh\n{command}\n```" not in page] == []


def test_without_wrk_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    answer = CliRunner().invoke(compare.main, ["--rls", "h:1", *HERE])
    assert answer.exit_code == 1
    assert "missing: wrk (apt install wrk)" in answer.output


def test_the_files_of_the_rivals_have_the_same_limits(tmp_path: Path) -> None:
    answer = CliRunner().invoke(compare.main, ["--configs", str(tmp_path)])
    written = [Path(line) for line in answer.output.splitlines()]
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        "ratelimit/config/bench.yaml",
        "limitador.yaml",
        "opa/policy.rego",
        "opa/keys.json",
    }
    limits = json.loads((tmp_path / "ratelimit/config/bench.yaml").read_text())["descriptors"]
    assert {limit["key"]: limit["rate_limit"] for limit in limits}["tight"] == {"unit": "day", "requests_per_unit": 100}
    assert [one["max_value"] for one in json.loads((tmp_path / "limitador.yaml").read_text())] == [
        limit["rate_limit"]["requests_per_unit"] for limit in limits
    ]
    keys = json.loads((tmp_path / "opa/keys.json").read_text())["keys"]
    assert len(keys) == 10_000
    assert keys[value_of(9_999)]


@pytest.mark.parametrize(
    ("rivals", "names", "checking"),
    [
        (Rivals(RLS, None, [1]), ["counts"], []),
        (Rivals(None, CHECK, [1]), ["keys"], ["keys"]),
        (Rivals(RLS, CHECK, [1]), ["counts", "keys", "keys, then counts"], ["keys", "keys, then counts"]),
    ],
)
def test_each_rival_has_a_row_and_both_have_one_together(rivals: Rivals, names: list[str], checking: list[str]) -> None:
    assert list(rivals.gates()) == names
    assert rivals.base == names[-1]
    assert rivals.checking == checking


def test_in_the_chain_the_key_is_checked_first() -> None:
    chain = Rivals(RLS, CHECK, [1]).gates()["keys, then counts"]
    assert [one["name"] for one in chain.filters] == ["envoy.filters.http.ext_authz", "envoy.filters.http.ratelimit"]
    assert len(chain.clusters) == 2
    assert len(chain.rate_limits) == 4


def test_a_redis_without_an_id_is_not_counted() -> None:
    assert Rivals(RLS, None, [1]).target.redis is None
    counted = Rivals(RLS, None, [1, 2], 3).target
    assert counted.redis
    assert ([one.pid for one in counted.server], counted.redis.pid) == ([1, 2], 3)


def test_bars_are_drawn_and_written_into_a_report_of_their_own(tmp_path: Path) -> None:
    bars = rows.Bars("bars", "CPU", "µs", ["theirs", "ours"], {"deciders": [2.0, 1.0], "Envoy": [3.0, 3.0]})
    path = report.write(tmp_path, [rows.Section("Cost", "Text.", plots=[bars])], [], [], "2026-01-01", compare.REPORT)
    assert path.name == "COMPARISON.md"
    assert "Written by `python -m bench.compare` on 2026-01-01" in path.read_text()
    svg = (tmp_path / "plots" / "bars.svg").read_text()
    assert "theirs" in svg
    assert "<script" not in svg
    assert report.drawn(bars) == svg.encode()

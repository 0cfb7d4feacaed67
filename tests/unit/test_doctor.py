"""What the doctor knows: its rules, its page, the table of versions, and how headers are matched."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from authz.cli import cli
from authz.doctor.cves import CVES, MINIMUM, holes
from authz.doctor.envoyrules import header_not_shown
from authz.doctor.examine import RULES, examine
from authz.doctor.facts import Check, Cluster, Envoy, Facts, Filter, Manager, is_loopback, seconds, version_of
from authz.doctor.finding import SEVERITIES, Finding
from authz.doctor.report import reference, show
from tests.builders import api

PAGE = Path(__file__).parents[2] / "docs/reference/doctor.md"


def test_the_page_is_what_the_doctor_prints() -> None:
    """authz doctor --list > docs/reference/doctor.md"""
    printed = CliRunner().invoke(cli, ["doctor", "--list"])
    assert (printed.exit_code, printed.output) == (0, PAGE.read_text("utf-8"))


def test_each_rule_is_on_the_page_once() -> None:
    assert re.findall("^### (.*)$", reference(), re.MULTILINE) == [rule.id for rule in RULES]


def test_rules_have_names_of_their_own_and_say_all() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", rule.id)
        assert rule.severity in SEVERITIES
        assert rule.when.endswith("."), rule.id
        assert rule.why.endswith("."), rule.id
        assert rule.fix, rule.id


def test_nothing_is_found_where_nothing_was_looked_at() -> None:
    assert examine(Facts()) == []


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("1.15.9", len(CVES)),
        ("1.16.4", len(CVES)),
        ("1.16.5", len(CVES) - 2),
        ("1.19.1", len(CVES) - 2),
        ("1.20.0", len(CVES) - 2),
        ("1.25.3", len(CVES) - 2),
        ("1.25.4", len(CVES) - 3),
        ("1.29.1", 5),
        ("1.31.2", 3),
        ("1.36.10", 0),
        ("1.38.3", 3),
        ("1.38.4", 0),
        ("1.39.0", 3),
        ("1.39.1-dev", 0),
        (MINIMUM, 0),
        ("1.40.0", 0),
    ],
)
def test_each_branch_was_mended_at_a_version_of_its_own(version: str, known: int) -> None:
    assert len(list(holes(version))) == known


def check(**config: Any) -> Facts:
    """An Envoy whose ext_authz filter has this configuration."""
    found = Filter("ext_authz", "ExtAuthz", {"grpc_service": {}, **config})
    manager = Manager("listener one", {}, [found], None)
    dump = Envoy("here", MINIMUM, {}, [manager], [Check(manager, found, None)], {}, {})
    return Facts(envoys=[dump], apis=[api()])


EVERY = [{"safe_regex": {"regex": "(accept|access-control-.*|content-type|origin)"}}]


@pytest.mark.parametrize(
    ("pattern", "is_shown"),
    [
        ({"exact": "x-api-key"}, True),
        ({"exact": "X-Api-Key"}, False),
        ({"exact": "X-Api-Key", "ignore_case": True}, True),
        ({"prefix": "x-api"}, True),
        ({"prefix": "api"}, False),
        ({"suffix": "-key"}, True),
        ({"contains": "api"}, True),
        ({"safe_regex": {"regex": "x-.*"}}, True),
        ({"safe_regex": {"regex": "api"}}, False),
        ({"safe_regex": {"regex": r"\pL("}}, True),
    ],
)
def test_headers_are_matched_as_envoy_does(pattern: dict[str, Any], is_shown: bool) -> None:
    """What only RE2 can read is not held against anybody."""
    shown = check(allowed_headers={"patterns": [*EVERY, pattern]})
    hidden = check(disallowed_headers={"patterns": [pattern]})
    assert [one.what for one in header_not_shown.look(shown)] == ([] if is_shown else ["x-api-key is kept back"])
    assert ("x-api-key is kept back" in [one.what for one in header_not_shown.look(hidden)]) == is_shown


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", True), ("0.0.0.0", False), ("redis", False)],
)
def test_only_this_machine_can_mean_a_loopback_address(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_small_readings() -> None:
    assert (seconds("0.200s", 1), seconds(None, 1)) == (0.2, 1)
    assert (version_of("1.39.3"), version_of("7.2.4-rc1")) == ((1, 39, 3), (7, 2, 4))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"http2_protocol_options": {}}, True),
        ({}, False),
        ({"typed_extension_protocol_options": {"o": {"@type": "a.HttpProtocolOptions", "auto_config": {}}}}, True),
        (
            {"typed_extension_protocol_options": {"o": {"@type": "a.HttpProtocolOptions", "explicit_http_config": {}}}},
            False,
        ),
    ],
)
def test_http2_is_said_in_several_ways(config: dict[str, Any], expected: bool) -> None:
    assert Cluster("one", config).is_http2 is expected


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    """Virtual hosts and files may be called anything."""
    odd = Finding("one", "error", "virtual host [bold]x[/]", "[red]", "why.", "a: [1]")
    out = io.StringIO()
    show([odd], ["here"], out)
    for text in ("[bold]x[/]", "[red]", "a: [1]"):
        assert text in out.getvalue()

"""`authz explain` reads lines of Envoy's access log."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cli.main import cli
from authz.config.faults import ConfigError
from authz.core.catalog import Catalog
from authz.core.resources import CostFrom, Method, Resources, Stage
from authz.envoy.accesslog import MAX_LINE, LogLine, find, parse, read_one
from authz.explain import explain
from tests.conftest import micros
from tests.support.builders import api, key, plan, resources, value_of

ID, OTHER = "5f8e1c2a-0000-4000-8000-000000000001", "5f8e1c2a-0000-4000-8000-000000000002"
NOW = micros("2026-03-04T10:00:00Z")
TOLD = {"decision": "denied", "reason": "plan_quota", "layer": "plan_quota", "api": "a1", "stage": "prod"}
TOLD |= {"resource": "/pets", "method": "GET", "plan": "p1", "key_id": "k1"}
LINE = {"time": "2026-03-03T10:00:00Z", "method": "GET", "host": "a1.example.org", "path": "/prod/pets", "status": 429}
LINE |= {"flags": "UAEX", "request_id": OTHER, "amzn_request_id": ID}
GIVE = "give the caller's with -H, or in a body's `headers`"
TWO = resources(apis=(api(), api("a2", stages=(Stage("v1"),))))


def text(told: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """Return a line; `told` changes the fields of its part `authz`."""
    return json.dumps({**LINE, "authz": {**TOLD, **(told or {})}, **changes})


def refusal(line: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(line, "here")
    return str(caught.value)


async def story(line: str, changed: Resources | None = None, headers: dict[str, str] | None = None) -> list[str]:
    found = parse(line, "here")
    catalog = Catalog.compile(changed or resources())
    return (await explain(catalog, found.request(headers or {}, {}), NOW, line=found)).splitlines()


def notes(lines: list[str]) -> list[str]:
    """Return the notes, without the one that every line gets."""
    found = [line.removeprefix("note      ") for line in lines if line.startswith("note ")]
    return [note for note in found if "holds no headers" not in note]


# The line


def test_a_line_is_read_with_what_authz_said() -> None:
    line = parse(text(), "here")
    assert (line.method, line.host, line.path, line.status) == ("GET", "a1.example.org", "/prod/pets", 429)
    assert line.authz
    assert (line.authz.reason, line.authz.plan, line.authz.key_id) == ("plan_quota", "p1", "k1")


PRICED = CostFrom(("cost", "tokens"), max=4096)


@pytest.mark.parametrize(
    ("told", "cost"),
    [({}, "1, from"), ({"cost": 300}, "300, from"), ({"cost": 0}, "0, from"), ({"cost": -1}, "7, the")],
)
async def test_the_cost_of_then_is_taken_from_the_line(told: dict[str, Any], cost: str) -> None:
    """The line has it unless it was 1; the metadata itself is in no line."""
    priced = resources(apis=(api(resources={"/pets": {"GET": Method(cost=7, cost_from=PRICED)}}),))
    lines = await story(text(told), priced)
    assert [line for line in lines if line.startswith(f"cost      {cost}")]
    assert f"the metadata was taken from the cost in the line, {told.get('cost', 1)}" in notes(lines)


def test_what_another_program_writes_before_a_line_is_passed_over() -> None:
    assert parse(f"envoy-1  | {text()}", "here") == parse(text(), "here")


@pytest.mark.parametrize("name", ["method", "host", "path"])
@pytest.mark.parametrize("value", [None, "", "-"])
def test_a_field_that_is_missing_is_named(name: str, value: str | None) -> None:
    assert refusal(text({}, **{name: value})).startswith(
        f"here: {name}: not in the line, or empty; expected a JSON object"
    )


@pytest.mark.parametrize(
    "line",
    ['[2026-03-03T10:00:00Z] "GET /prod/pets HTTP/1.1" 200', "", "{", "[1]", "7", "{" * 50_000, b'{"path": "\xff"}'],
)
def test_a_line_that_is_no_json_object_is_refused(line: str | bytes) -> None:
    assert "expected a JSON object" in refusal(line)


def test_a_field_of_another_kind_is_named() -> None:
    assert "$.authz.api" in refusal(text({"api": 7}))
    assert "$.status" in refusal(text(status="often"))
    assert "$.authz" in refusal(text(authz="denied"))


def test_what_would_write_to_the_terminal_is_refused() -> None:
    assert refusal(text(path="/prod/\x1b[2J")) == "here: path: has characters that cannot be printed"
    assert refusal(text({"key_id": "k\n"})) == "here: authz.key_id: has characters that cannot be printed"


def test_a_line_that_is_too_long_is_refused() -> None:
    assert refusal(text(path="/" + "x" * MAX_LINE)) == f"here: longer than {MAX_LINE} bytes"


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_bytes_are_read_or_refused(line: str | bytes) -> None:
    assert refusal(line)


@pytest.mark.parametrize(
    ("given_", "fault"),
    [
        ("", "nothing there"),
        ("\n", "nothing there"),
        (f"{text()}\n{text()}\n", "more than one line; --request-id with --access-log picks one"),
        ("x" * (MAX_LINE + 2), f"longer than {MAX_LINE} bytes"),
    ],
)
def test_one_line_is_wanted(given_: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_one(io.BytesIO(given_.encode()), "standard input")
    assert str(caught.value) == f"standard input: {fault}"


# The line of an id


def found(*lines: str, request_id: str = ID) -> LogLine:
    return find(io.BytesIO("\n".join(lines).encode()), "envoy.log", request_id)


def test_the_line_of_an_id_is_found_among_others() -> None:
    lines = ("[info] starting", text(path="/other", amzn_request_id=None), "x" * (2 * MAX_LINE), text(path="/this"))
    for request_id in (ID, ID.upper(), f" {ID}\n"):
        assert found(*lines, request_id=request_id).path == "/this"
    assert found(*lines, request_id=OTHER).path == "/this"  # the last of several wins


def test_a_caller_cannot_pass_for_another_by_an_id_in_his_path() -> None:
    forged = text(path=f"/prod/{ID}", amzn_request_id=None)
    assert found(text(), forged).path == "/prod/pets"
    with pytest.raises(ConfigError, match="no line has this id"):
        found(forged)


def test_an_id_that_no_line_has_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        found(text(), request_id="5f8e")
    assert str(caught.value) == "envoy.log: no line has this id as its amzn_request_id or request_id"
    with pytest.raises(ConfigError, match="skipped: 1"):
        found("x" * (MAX_LINE + 1), text(), request_id="5f8e")
    with pytest.raises(ConfigError, match="--request-id: expected"):
        found(text(), request_id=" ")


def test_a_line_that_has_the_id_and_is_no_json_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^envoy\.log:2: not JSON"):
        found("{}", f'"GET /prod/pets" 429 {ID}')
    with pytest.raises(ConfigError, match=r"^envoy\.log:1: host: not in the line"):
        found(text(host=None))


# The story


async def test_a_key_is_taken_by_its_id() -> None:
    lines = await story(text())
    assert lines[0] == ("then      429, denied, plan_quota, plan p1, key k1 at 2026-03-03T10:00:00Z")
    assert (
        lines[1]
        == "note      the log line holds no headers, query nor metadata; what the limits are now, and not then, follows"
    )
    assert notes(lines) == ["the key was taken by its id, k1; a log line has no key's value"]
    assert {"route     GET /pets, requires a key", "key       k1", "plan      p1 (p1)"} <= set(lines)


async def test_a_key_that_is_given_wins_over_the_id() -> None:
    more = resources(api_keys=(key(), key("k2")), usage_plans=(plan(),))
    lines = await story(text({"key_id": "k2"}), more, {"x-api-key": value_of("k1")})
    assert ("key       k1" in lines, notes(lines)) == (True, [])


@pytest.mark.parametrize(
    ("told", "reason", "note"),
    [
        ({"key_id": "k9"}, "key_unknown", ["no key has the id k9 now"]),
        (
            {"key_id": "", "reason": "key_unknown"},
            "key_unknown",
            [f"the key was unknown then, and a log line has no key's value: {GIVE}"],
        ),
        ({"key_id": "", "reason": "key_missing"}, "key_missing", []),
        (
            {"key_id": "", "reason": ""},
            "key_missing",
            [f"the log line names no key: {GIVE}"],
        ),
    ],
)
async def test_a_key_that_no_id_leads_to_is_said(told: dict[str, str], reason: str, note: list[str]) -> None:
    lines = await story(text(told))
    assert (notes(lines), f"reason    {reason}" in lines) == (note, True)


async def test_a_disabled_key_is_refused_by_its_id() -> None:
    assert "reason    key_disabled" in await story(text(), resources(api_keys=(key(enabled=False),)))


async def test_a_line_without_what_authz_said_tells_so() -> None:
    lines = await story(text(authz=None))
    assert lines[0] == "then      429 at 2026-03-03T10:00:00Z"
    assert notes(lines)[0].startswith("the log line has no `authz`")
    assert "route     GET /pets, requires a key" in lines


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"host": "other.test"}, "-e api=a1"),
        ({"host": "other.test", "path": "/pets"}, "-e api=a1 -e stage=prod"),
        ({"path": "/somewhere"}, "-e api=a1 -e stage=prod -e resource=/pets"),
    ],
)
async def test_what_a_route_of_envoys_said_is_taken_from_the_line(changes: dict[str, str], taken: str) -> None:
    lines = await story(text({}, **changes), TWO)
    assert notes(lines)[0] == f"host and path alone lead elsewhere than they led then; taken from the line: {taken}"
    assert {"api       a1", "stage     prod", "route     GET /pets, requires a key"} <= set(lines)


async def test_a_method_that_was_unknown_then_and_is_known_now_is_found() -> None:
    lines = await story(text({"resource": "", "reason": "unknown_method", "key_id": ""}))
    assert ("route     GET /pets, requires a key" in lines, "taken from" in str(lines)) == (True, False)


async def test_an_api_that_is_gone_is_not_made_up() -> None:
    lines = await story(text({"api": "a9"}, host="other.test"), TWO)
    assert ("reason    unknown_api" in lines, any("taken from" in note for note in notes(lines))) == (True, False)


async def test_no_key_in_a_query_is_printed() -> None:
    assert value_of("k1") not in "\n".join(await story(text(path=f"/prod/pets?api_key={value_of('k1')}")))


# The command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--request-id", ID), "belong together"),
        (("--access-log", "-"), "belong together"),
        (("--log-line", "-", "--request-id", ID), "--log-line is a line already"),
        (("GET", "http://a1.test/prod/pets", "--log-line", text()), "name the plans' file with --config"),
        (("plans.yaml", "--log-line", text()), "name the plans' file with --config"),
        ((), "Missing argument 'METHOD'"),
        (("GET",), "Missing argument 'URL'"),
    ],
)
def test_a_request_is_given_once(words: tuple[str, ...], says: str) -> None:
    outcome = CliRunner().invoke(cli, ["explain", *words])
    assert (outcome.exit_code, says in outcome.output) == (2, True)


def test_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(cli, ["explain", "--request-id", ID, "--access-log", f"{tmp_path}/no.log"])
    assert str(outcome.exception) == f"{tmp_path}/no.log: no such file"


def test_a_line_is_explained_from_each_place_that_has_it(tmp_path: Path) -> None:
    file, log = tmp_path / "plans.yaml", tmp_path / "envoy.log"
    file.write_text("apis: [{id: a1, stages: [{name: prod}], resources: {/pets: {GET: {apiKeyRequired: false}}}}]")
    log.write_text(f"[info] starting\n{text()}\n")
    by_id = ["explain", "--config", str(file), "--request-id", ID, "--access-log"]
    by_line = ["explain", "--config", str(file), "--log-line"]
    outcomes = [
        CliRunner().invoke(cli, [*by_line, text()]),
        CliRunner().invoke(cli, [*by_line, "-"], input=text()),
        CliRunner().invoke(cli, [*by_id, str(log)]),
        CliRunner().invoke(cli, [*by_id, "-"], input=log.read_text()),
    ]
    assert {outcome.exit_code for outcome in outcomes} == {0}, outcomes[0].output
    assert len({outcome.output for outcome in outcomes}) == 1
    assert "route     GET /pets, requires no key" in outcomes[0].output

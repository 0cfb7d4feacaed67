"""Whatever is sent to the control plane, and wherever: an error of AWS's own, never a fault of ours."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.calls import OPERATIONS, VERBS_WITH_BODIES, address, assert_no_fault, furnish, shaped_body
from tests.support.control import Control, raw
from tests.support.control import control as control

DEPTH = 100_000
BODIES: dict[str, bytes] = {
    "a brace": b"{",
    "a list": b"[]",
    "a number": b"7",
    "text": b'"text"',
    "two documents": b"{}{}",
    "a comma too many": b'{"name":"a",}',
    "single quotes": b"{'name':'a'}",
    "not UTF-8": b'{"name":"\xff\xfe"}',
    "UTF-16": '{"name":"a"}'.encode("utf-16"),
    "NUL bytes": b"\0" * 100,
    "not a number": b'{"name":NaN}',
    "infinity": b'{"name":Infinity}',
    "a form": b"name=a&value=b",
    "XML": b"<?xml version='1.0'?><a/>",
    "deep lists": b"[" * DEPTH + b"]" * DEPTH,
    "deep objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "never closed": b'{"a":[' * DEPTH,
    "large": b'{"name":"' + b"a" * 900_000 + b'"',
}
PATHS = (
    "/%", "/%zz", "/%00", "/%ff%fe", "//", "/../etc/passwd", "/%2e%2e/%2e%2e", "/apikeys/%2f", "/apikeys/" + "a" * 5000,
    "/apikeys/a/b/c/d", "/tags/", "/tags/arn%3Aaws", "/tags/%00", "/restapis/%E2%98%83", "/usageplans/{id}/keys/[]",
    "/apikeys?limit=x&limit=y", "/apikeys?limit=99999999999999999999", "/apikeys?position=%00%ff", "/apikeys?name=%ff",
    "/apikeys?includeValues=%", "/usageplans?position=AAAA&keyId=%2a", "/?" + "a=b&" * 2000, "/apikeys;a=b", "/APIKEYS",
)  # fmt: skip
WORDS = ("a", "%00", "%ff", "..%2F..", "*", "%7Bid%7D", "%E2%98%83", "a%3Ab", "%2Fpets%2FGET", "a" * 300)


@pytest.fixture
def ids(control: Control) -> dict[str, str]:
    """Parameters of paths that name something which is there."""
    return furnish(partial(raw, control))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_object_is_refused_everywhere(control: Control, ids: dict[str, str], body: bytes) -> None:
    for operation in OPERATIONS:
        if operation.verb in VERBS_WITH_BODIES and operation.mode != "import":
            answer = raw(control, operation.verb, address(operation, ids, "a"), body)
            assert_no_fault(answer, operation.name)
            assert answer.status >= 400, f"{operation.name} took it: {answer}"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_an_import_of_something_else_is_refused(control: Control, body: bytes) -> None:
    for operation in OPERATIONS:
        if operation.mode == "import":
            answer = raw(control, operation.verb, f"{operation.path}?mode=import&format=csv", body)
            assert_no_fault(answer, operation.name)
            assert answer.status >= 400, f"{operation.name} took it: {answer}"


@pytest.mark.parametrize("word", WORDS)
def test_a_path_that_names_nothing_is_no_fault(control: Control, word: str) -> None:
    for operation in OPERATIONS:
        for body in (b"", b"{}"):
            assert_no_fault(raw(control, operation.verb, address(operation, {}, word), body), operation.name)


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_an_odd_path_is_no_fault(control: Control, path: str) -> None:
    for verb in ("GET", "DELETE", "PATCH"):
        assert_no_fault(raw(control, verb, path, b""), f"{verb} {path}")


def test_an_unknown_verb_is_no_fault(control: Control) -> None:
    for verb in ("BREW", "TRACE", "PROPFIND", "OPTIONS"):
        assert_no_fault(raw(control, verb, "/apikeys", b""), verb)


@pytest.mark.timeout(900)
@settings(
    max_examples=2_500,  # on each kind of Redis; `python -m tests.fuzz api` makes as many as one likes
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller example would cost as many calls again
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_members_of_any_type_are_no_fault(control: Control, ids: dict[str, str], data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from([one for one in OPERATIONS if one.verb in VERBS_WITH_BODIES]))
    body = data.draw(shaped_body(operation))
    answer = raw(control, operation.verb, address(operation, ids, "a"), json.dumps(body).encode())
    assert_no_fault(answer, f"{operation.name} {body}")

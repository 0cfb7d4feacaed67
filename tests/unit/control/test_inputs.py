"""Every body becomes a struct, or an error in the words of AWS's framework."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from authz.aws.errors import ApiError
from authz.control.inputs import MAX_DEPTH, document, read


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Step(Struct, frozen=True, rename="camel"):
    op: Literal["add", "remove", "copy"] | None = None
    path: str | None = None


class Thing(Struct, frozen=True, rename="camel"):
    name: str
    colour: Colour | None = None
    status_code: Annotated[str, Meta(pattern=r"^[1-5]\d\d$")] | None = None
    rate_limit: Annotated[float, Meta(ge=0)] | None = None
    burst: Annotated[int, Meta(ge=1, le=9)] | None = None
    value: Annotated[str, Meta(min_length=3, max_length=5)] | None = None
    enabled: bool = False
    tags: dict[str, str] = {}
    steps: tuple[Step, ...] = ()
    rest: Any = None


def refusal(body: Any) -> ApiError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as raised:
        read(content, Thing, "UpdateThing")
    return raised.value


def test_a_body_becomes_a_struct_and_what_it_does_not_know_is_passed_over() -> None:
    body = {"name": "a", "burst": 3.0, "rateLimit": 5, "steps": [{"op": "add"}], "unknown": 1, "colour": None}
    assert read(json.dumps(body).encode(), Thing, "X") == Thing("a", burst=3, rate_limit=5.0, steps=(Step("add"),))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Value null at 'updateThingInput.name' failed to satisfy constraint: Member must not be null"),
        (
            {"name": "a", "steps": [{"op": "add"}, {"op": "wrong-op"}]},
            (
                "Value 'wrong-op' at 'updateThingInput.steps.2.member.op' failed to satisfy constraint: "
                "Member must satisfy enum value set: [add, remove, copy]"
            ),
        ),
        (
            {"name": "a", "colour": "green"},
            (
                "Value 'green' at 'updateThingInput.colour' failed to satisfy constraint: "
                "Member must satisfy enum value set: [red, blue]"
            ),
        ),
        (
            {"name": "a", "statusCode": "wrong"},
            (
                "Value 'wrong' at 'updateThingInput.statusCode' failed to satisfy constraint: "
                r"Member must satisfy regular expression pattern: [1-5]\d\d"
            ),
        ),
        (
            {"name": "a", "burst": 0},
            (
                "Value '0' at 'updateThingInput.burst' failed to satisfy constraint: "
                "Member must have value greater than or equal to 1"
            ),
        ),
        (
            {"name": "a", "value": "toolongvalue"},
            (
                "Value '***' at 'updateThingInput.value' failed to satisfy constraint: "
                "Member must have length less than or equal to 5"
            ),
        ),
        (
            {"name": "a", "tags": {"k": None}},
            "Value null at 'updateThingInput.tags.k.member' failed to satisfy constraint: Member must not be null",
        ),
    ],
)
def test_a_broken_constraint_is_worded_as_aws_does(body: Any, message: str) -> None:
    error = refusal(body)
    assert (error.code, error.message) == ("ValidationException", f"1 validation error detected: {message}")


def test_several_broken_constraints_are_reported_at_once() -> None:
    error = refusal({"colour": "green", "burst": 10})
    assert error.message.startswith("3 validation errors detected: Value null at 'updateThingInput.name'")
    assert error.message.count("; Value") == 2


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"name": "\\ud800"}',
        b'{"name": "a", "rateLimit": 1e999}',
        b'{"name": "a", "rateLimit": ' + b"9" * 400 + b"}",
        b'{"name": "a", "burst": 1e300}',
        b'{"name": "a", "rateLimit": NaN}',
        b'{"rest": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"rest": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        {"name": 1},
        {"name": "a\0b"},
        {"name": "a", "enabled": "true"},
        {"name": "a", "burst": 1.5},
        {"name": "a", "burst": True},
        {"name": "a", "steps": {}},
        {"name": "a", "steps": ["x"]},
        {"name": "a", "tags": []},
    ],
)
def test_an_unreadable_body_is_a_serialization_exception(body: Any) -> None:
    assert refusal(body).code == "SerializationException"


def test_64_lists_and_objects_within_one_another_are_the_most() -> None:
    lists = b"[" * 63 + b"1" + b"]" * 63
    assert document(b'{"rest": ' + lists + b"}")
    with pytest.raises(ApiError) as refused:
        document(b'{"rest": [' + lists + b"]}")
    assert refused.value.code == "SerializationException"


def test_too_many_patch_operations_are_refused() -> None:
    assert "at most 100" in refusal({"patchOperations": [{}] * 101}).message


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*Thing.__struct_fields__]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([field.encode_name for field in msgspec.structs.fields(Thing)]), NESTED))
def test_whatever_comes_is_read_or_refused(body: dict[str, Any]) -> None:
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    try:
        read(content, Thing, "CreateThing")
    except ApiError as refused:
        error = refused
    else:
        return
    assert error.status == 400

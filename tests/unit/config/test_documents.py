"""Clients' documents are read as JSON or YAML, in any Unicode encoding; reading any document is bounded."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.config.documents import DocumentError, RefusedError, TagError, read_document


def read(text: str) -> dict[str, Any]:
    return read_document(text.encode())


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", ['{"a": "\u00fc"}', "a: \u00fc\n"])
def test_any_unicode_encoding_is_read(encoding: str, text: str) -> None:
    assert read_document(text.encode(encoding)) == {"a": "\u00fc"}


def test_keys_are_texts() -> None:
    """YAML 1.1 reads some words as booleans, and ~ as null."""
    words = ["on", "off", "yes", "no", "y", "n", "true", "null", "~", "200", "1.5", "0755", "12:30", "2020-01-01", "="]
    assert read("".join(f"{word}: 1\n" for word in words)) == dict.fromkeys(words, 1)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(
            (text, text)
            for text in ("0755", "12:30:45", "0x1F", "0b11", "1_000", "2020-01-01", ".inf", ".nan", "1e400x")
        ),
        *(("9" * 200, "9" * 200), ("1.2.3", "1.2.3"), ("12:30:45.5", "12:30:45.5")),
        *(("5", 5), ("-5", -5), ("0", 0), ("1.5", 1.5), ("true", True), ("~", None), ("yes", True)),
    ],
)
def test_numbers_that_json_would_not_write_are_texts(written: str, value: object) -> None:
    assert read(f"example: {written}") == {"example": value}


def test_merges_and_aliases_are_written_out() -> None:
    text = "base: &b {on: 1, x: 2}\nmade: {<<: *b, x: 3}\nboth: {<<: [*b, {y: 4}]}\nsame: *b\n"
    assert read(text) == {
        "base": {"on": 1, "x": 2},
        "made": {"on": 1, "x": 3},
        "both": {"on": 1, "x": 2, "y": 4},
        "same": {"on": 1, "x": 2},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "openapi.yaml",
        "[]",
        "- a",
        "a: [",
        "{'key:value}",
        "a: \t- b",
        "\0",
        "a: 1\n---\nb: 2",
        "? [a]\n: 1",
        '{"a": "\\ud800"}',
    ],
)
def test_a_document_without_a_mapping_has_a_message_of_its_own(text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        read(text)
    assert not isinstance(refused.value, RefusedError)


def test_bytes_that_are_no_text_have_a_message_of_their_own() -> None:
    for body in (b"\xff", b'{"a": "\xff"}', b"\xff\xfe\xff"):
        with pytest.raises(DocumentError):
            read_document(body)


@pytest.mark.parametrize("tag", ["!Sub '${x}'", "!Ref x", "!GetAtt a.b", "!If [a, b, c]", "!FindInMap {a: b}"])
def test_a_templates_tag_is_named_with_its_place(tag: str) -> None:
    with pytest.raises(TagError, match=r"line 2, column 5: the tag !\w+"):
        read(f"a: 1\nb:  {tag}")


@pytest.mark.parametrize(
    "text", ['{"a": {"b": 1, "b": 2}}', "a:\n  b: 1\n  b: 2\n", "{on: 1, 'on': 2}", '{"a": 1, "\\u0061": 2}']
)
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    """Otherwise one of the two would be lost silently, such as the `security` of an operation."""
    with pytest.raises(RefusedError, match="is given twice"):
        read(text)


def bombs() -> list[tuple[str, str]]:
    names = [f"a{n}" for n in range(12)]
    doubling = ["a0: &a0 [" + "x, " * 10 + "]"]
    doubling += [f"{new}: &{new} [" + f"*{old}, " * 10 + "]" for old, new in itertools.pairwise(names)]
    keys = ", ".join(f"k{n}: 1" for n in range(20_000))
    merging = ["a: &a {" + keys + "}", "b: {<<: [" + "*a, " * 50_000 + "]}"]
    merged_often = ["a: &a {" + keys + "}", *(f"b{n}: {{<<: *a}}" for n in range(5_000))]
    return [
        ("aliases of aliases", "\n".join(doubling)),
        ("a long text often", "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 100_000 + "]"),
        ("merges of one mapping", "\n".join(merging)),
        ("one mapping merged often", "\n".join(merged_often)),
        ("an alias within itself", "a: &a [*a]"),
        ("a merge within itself", "a: &a {<<: *a}"),
        ("deep JSON", '{"a":' * 100_000 + "1" + "}" * 100_000),
        ("deep lists of JSON", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("JSON a little too deep", '{"a":' * 150 + "1" + "}" * 150),
        ("deep flow", "{a: " * 100_000),
        ("deep blocks", "a: " + "- " * 100_000),
        ("many values", "a: [" + "x, " * 1_000_000 + "]"),
        ("many keys", "".join(f"k{n}:\n" for n in range(450_000))),
    ]


@pytest.mark.parametrize(("name", "text"), bombs(), ids=[name for name, _ in bombs()])
def test_a_document_that_expands_or_nests_is_refused(name: str, text: str) -> None:
    with pytest.raises(DocumentError):
        read(text)


@pytest.mark.parametrize("opening", ["{a: ", '{"a":'], ids=["YAML", "JSON"])
def test_a_hundred_mappings_within_one_another_are_the_most(opening: str) -> None:
    assert read(opening * 100 + "1" + "}" * 100)
    with pytest.raises(RefusedError, match="nested too deeply"):
        read(opening * 101 + "1" + "}" * 101)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.sampled_from(ENCODINGS))
def test_any_json_is_read_as_it_is(value: dict[str, Any], encoding: str) -> None:
    assert read_document(json.dumps(value, ensure_ascii=False).encode(encoding)) == value


@given(st.binary(max_size=40) | st.text("a:-[]{}&*<!,'\"\n #?|>%@`~0", max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    limit = sys.getrecursionlimit()
    with contextlib.suppress(DocumentError):
        assert isinstance(read_document(body), dict)
    assert sys.getrecursionlimit() == limit

"""The check of our English catches each phrase that is hard to read, and lets plain sentences pass."""

from __future__ import annotations

import pytest

from tests.words import FORMS, Text, findings, texts

CAUGHT = [
    ("so many", "Yield up to so many words."),
    ("so long", "Wait so long at most."),
    ("so long", "So much of it."),
    ("somebody", "Somebody else than we."),
    ("somebody", "In anybody's favour."),
    ("of which", "Three replicas, of which two answer."),
    ("of which", "Callers, of whom two wait."),
    ("whoever", "Returns to whoever waits."),
    ("whoever", "Whomever it concerns."),
    ("nobody", "Nobody waits any more."),
    ("nobody", "It is nobody's business."),
    ("what is", "Refuses what is too much."),
    ("what is", "Keep what it was given."),
    ("what is", "What was read is kept."),
    ("told", "The observer is told each reply."),
    ("told", "One that was told\nto stop."),
    ("asked", "Redis is asked once."),
    ("hears of", "No caller hears of it."),
    ("the same", "The other host does the same."),
    ("the same", "Two of them, and the same for each request."),
    ("number", "An unknown key is refused (R12)."),
    ("number", "P6: no answer is empty."),
    ("the oracle", "The oracle says so, too."),
]

PLAIN = [
    "It ended so long ago that no clock steps back.",
    "Resolve one caller from its result. A malformed result fails that caller only.",
    "What is a usage plan?",
    "The order in which they came.",
    "It counts at the same time, in the same way as AWS.",
    "Two catalogs with equal content are the same.",
    "Store the export in S3, and look at the p99.",
    "`told` and `what is` are names here, and [so is this](R12.md).",
    "The period is P1D.",
]


@pytest.mark.parametrize(("form", "words"), CAUGHT)
def test_each_form_is_caught(form: str, words: str) -> None:
    assert form in [one.form for one in findings(Text("a.md", 1, "page", words))]


def test_every_form_has_an_example() -> None:
    assert {form for form, _ in CAUGHT} == {*FORMS}


@pytest.mark.parametrize("words", PLAIN)
def test_plain_sentences_pass(words: str) -> None:
    assert [*findings(Text("a.md", 1, "page", words))] == []


def test_a_finding_names_its_line_and_the_text() -> None:
    [found] = findings(Text("a.py", 7, "docstring", "One line.\n\nThen whoever waits."))
    assert str(found).startswith("a.py:9: whoever: …One line. Then whoever waits.…")


PYTHON = '''"""Of a module."""
# A comment
# of two lines.
raise ValueError("a message of several words")


def test_r4_a_promise():  # noqa: S101, S102  (as a reader types it)
    """Of a test."""
    return "short one"
'''

OTHERS = [
    ("authz/a.lua", "-- A comment.\nlocal x = 1 -- another", [(1, "A comment.\nanother")]),
    ("a.go", "x := 1 // A comment.\n", [(1, "A comment.")]),
    ("a.sh", "#!/bin/sh\n\necho x # why", [(3, "why")]),
    ("a.md", "# Head\n\ntext\ntext\n\n```sh\ncode\n```\n\nlast\n", [(1, "# Head"), (3, "text\ntext"), (10, "last")]),
    ("a.svg", "<text>told</text>", []),
]


def test_python_has_docstrings_comments_messages_and_names_of_tests() -> None:
    found = {(one.line, one.kind, one.words) for one in texts("authz/a.py", PYTHON)}
    assert found >= {
        (1, "docstring", "Of a module."),
        (2, "comment", "A comment\nof two lines."),
        (4, "message", "a message of several words"),
        (7, "test name", "test R4 a promise"),
        (7, "comment", "(as a reader types it)"),
        (8, "docstring", "Of a test."),
    }
    assert "short one" not in {words for _, _, words in found}


@pytest.mark.parametrize(("path", "source", "expected"), OTHERS)
def test_each_kind_of_file_is_read(path: str, source: str, expected: list[tuple[int, str]]) -> None:
    assert [(one.line, one.words.strip()) for one in texts(path, source) if one.words] == expected

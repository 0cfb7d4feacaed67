"""AWS's file of API keys: one customer's text never becomes another's key, and a warning names each omission."""

from __future__ import annotations

import contextlib
import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.aws import keyfile
from authz.aws.errors import ApiError
from authz.aws.keyfile import KeyRow, Warnings, rows
from authz.aws.plans import checked_value

KEYS = [f"key-{letter * 26}" for letter in "abcdef"]
HEADER = "Name,Key,Description,Enabled,UsagePlanIds"


def read(*lines: str, header: str = HEADER, end: str = "\n") -> tuple[list[KeyRow], list[str]]:
    warnings = Warnings()
    return rows(end.join((header, *lines)), warnings, lambda _value, _document: None), warnings.texts()


def refusal(*lines: str) -> str:
    with pytest.raises(ApiError) as refused:
        read(*lines)
    assert refused.value.status == 400
    return refused.value.message


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (f'acme,{KEYS[0]},"unclosed,true,', "line 2: a quotation mark is opened and never closed"),
        (f'"acme,{KEYS[0]},d,true,', "line 2: a quotation mark is opened and never closed"),
        (f'acme,{KEYS[0]},"a"b,true,', "line 2: a closing quotation mark is followed by text"),
        (f'acme,{KEYS[0]},d,true,"p1,p2', "line 2: a quotation mark is opened and never closed"),
    ],
)
def test_a_quotation_mark_too_few_refuses_the_file(line: str, cause: str) -> None:
    assert refusal(line, f"next,{KEYS[1]},,true,") == f"The file cannot be read: {cause}. Nothing was imported"


@pytest.mark.parametrize(
    "closing", [f'next,{KEYS[1]},"', f'next,{KEYS[1]},",', f'{KEYS[1]}"', f'next\t{KEYS[1]}"', f'next,{KEYS[1]},","']
)
def test_two_quotation_marks_too_few_do_not_join_two_records(closing: str) -> None:
    """RFC 4180 alone would read everything between the two marks as one field."""
    assert KEYS[1] not in refusal(f'acme,{KEYS[0]},"unclosed', closing, f"third,{KEYS[2]},,,")


def test_a_quoted_field_may_hold_commas_marks_and_lines() -> None:
    (row,), warnings = read(f'"a ""b"", c",{KEYS[0]}, "one\r\ntwo" ,TRUE,"p1, p2,p1"')
    assert (row.document["name"], row.document["description"]) == ('a "b", c', "one\r\ntwo")
    assert (row.plans, row.document["enabled"], warnings) == (("p1", "p2"), True, [])


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\v", "\f", "\x85", "\x1c", "\x1e", "\u00a0"])
def test_only_cr_lf_and_crlf_end_a_record(mark: str) -> None:
    name = f"{mark}a{mark}b{mark}"
    for end in ("\r", "\n", "\r\n"):
        found, warnings = read(f"{name},{KEYS[0]},d,true,p", f"next,{KEYS[1]},,true,", end=end)
        assert [row.document["name"] for row in found] == [name, "next"]
        assert not warnings


@pytest.mark.parametrize("name", ["'t Hooft", "'", "''", "'a", "a'", "o'b'c", "'quoted'"])
def test_apostrophes_are_text(name: str) -> None:
    (row,), warnings = read(f"{name},{KEYS[0]},{name},true,")
    assert (row.document["name"], row.document["description"], warnings) == (name, name, [])


def test_plans_may_stand_in_single_quotes() -> None:
    """AWS's own example has them."""
    (row,), warnings = read(f"a,{KEYS[0]},d,true, 'p1, p2' ")
    assert (row.plans, warnings) == (("p1", "p2"), [])


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        (
            f'5" nail,{KEYS[0]},d,true,',
            "Skipped invalid record: 1. A quotation mark stands within a field that does not begin with one (line 2)",
        ),
        (f"a,{KEYS[0]},b, c,true,p", "Skipped invalid record: 1. It has 6 fields where the header has 5 (line 2)"),
        (f"a,{KEYS[0]},d,true,'p1,p2", "Skipped invalid record: 1. It has 6 fields where the header has 5 (line 2)"),
        (f"a,{KEYS[0]},d,no,p", "Record 1: Expected true or false as enabled, got 'no': the key is disabled"),
        (
            f"a,{KEYS[0]},d,{KEYS[1]},p",
            "Record 1: Expected true or false as enabled, got '(30 characters)': the key is disabled",
        ),
        (f"a,{KEYS[0]}", "Record 1: It has 2 fields where the header has 5: the others are empty"),
    ],
)
def test_a_dropped_part_of_a_record_has_a_warning(line: str, warning: str) -> None:
    found, warnings = read(line, f"next,{KEYS[2]},d,true,p")
    assert warnings == [warning]
    assert [row.value for row in found][-1] == KEYS[2]


@pytest.mark.parametrize(
    ("header", "warning"),
    [
        ("Name,Key,Name", "The column 'name' is given 2 times: the first is taken"),
        (
            "Name,Key,usage_plan_id",
            "The column 'usage_plan_id' is not known and is left out; did you mean usageplanids?",
        ),
        ("Name,Key,colour", "The column 'colour' is not known and is left out"),
        (f"Name,Key,{KEYS[0]}", "The column '(30 characters)' is not known and is left out"),
    ],
)
def test_a_column_that_is_not_taken_over_has_a_warning(header: str, warning: str) -> None:
    (row,), warnings = read(f"first,{KEYS[0]},second", header=header)
    assert (row.document["name"], warnings) == ("first", [warning])


def test_there_is_a_bound_to_warnings() -> None:
    _, warnings = read(*["a,b,c,d,e,f,g"] * 1000)
    assert len(warnings) == 101
    assert warnings[-1] == "900 more warnings are not shown"


def test_there_is_a_bound_to_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "MAX_RECORDS", 1_000)
    assert refusal("a\n" * 1_001) == "A file can hold 1,000 records: split it. Nothing was imported"


TEXT = st.text(st.sampled_from("ab ,\"'\n\r\t\u2028é0"), max_size=12)


def written(records: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue()


def _check_value(value: str, _document: object) -> None:
    checked_value(value)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6), st.data())
@settings(max_examples=400)
def test_no_missing_mark_moves_a_key_into_a_text(texts: list[tuple[str, str]], data: st.DataObject) -> None:
    """If quotation marks are missing, a value is read as the value of a key or not at all."""
    records = [[name, key, words, "true", ""] for (name, words), key in zip(texts, KEYS, strict=False)]
    whole = written([HEADER.split(","), *records])
    marks = [at for at, letter in enumerate(whole) if letter == '"']
    lost = set(data.draw(st.lists(st.sampled_from(marks), max_size=3))) if marks else set()
    broken = "".join(letter for at, letter in enumerate(whole) if at not in lost)
    try:
        found = rows(broken, Warnings(), _check_value)
    except ApiError:
        return
    for row in found:
        held = f"{row.document['name']} {row.document['description']} {row.plans}"
        assert not [key for key in KEYS if key in held]


@given(st.text(st.sampled_from("a,\"'\r\n \t"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found, _ = read(text)
    except ApiError:
        return
    assert len(found) <= text.count("\n") + text.count("\r") + 1


@pytest.mark.parametrize(
    "unit", ["'a,", '"a",', "'", '"', ",", '""', " ", "a\n", "'\n", '"\n"', "\r", "\t'", "a,b,c,d,'e\n"]
)
def test_a_file_of_any_form_is_read_in_one_pass(unit: str) -> None:
    """A reader that searches the rest of the text for each field would not finish within the test's timeout."""
    text = HEADER + "\n" + unit * (100_000 // len(unit))
    with contextlib.suppress(ApiError):
        rows(text, Warnings(), lambda _value, _document: None)

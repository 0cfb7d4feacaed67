"""Generated values have a form that scanners find, and a mistyped one is known by its checksum."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from authz.core.catalog import UNLOOKED, Caller, Compiler, KeyNeeded, Unlooked
from authz.core.keyform import KeyForm
from authz.core.resources import Resources
from authz.core.verdict import Denied, Reason
from authz.ids import random_key_value
from tests.support.builders import api, key, resources
from tests.support.world import ask

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUMBERS = st.integers(0, 2**160 - 1)
PREFIXES = st.from_regex(r"[a-z]([a-z0-9_]{0,28}[a-z0-9])?", fullmatch=True)
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


def form_of(prefix: str = "upk") -> KeyForm:
    form = KeyForm.of(prefix)
    assert form
    return form


UPK = form_of()


def is_good(form: KeyForm, value: str) -> bool:
    return form.has(value) and not form.is_mistyped(value)


@pytest.mark.parametrize(
    ("number", "body"),
    [
        (0, "000000000000000000000000000"),
        (61, "00000000000000000000000000z"),
        (62, "000000000000000000000000010"),
        (2**160 - 1, "aWgEPTl1tmebfsQzFP4bxwgy80V"),
    ],
)
def test_the_form_is_a_prefix_27_digits_and_the_crc_32_in_6(number: int, body: str) -> None:
    value = UPK.value(number)
    assert value[:31] == "upk_" + body
    crc = 0
    for digit in value[31:]:
        crc = crc * 62 + ALPHABET.index(digit)
    assert (len(value), crc) == (37, zlib.crc32(value[:31].encode()))


@given(PREFIXES, NUMBERS)
def test_a_generated_value_is_good(prefix: str, number: int) -> None:
    form = form_of(prefix)
    assert is_good(form, form.value(number))
    assert form.problem(form.value(number)) is None
    assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{33}}", form.value(number))


@given(NUMBERS, NUMBERS)
def test_each_number_has_a_value_of_its_own(one: int, other: int) -> None:
    assert (UPK.value(one) == UPK.value(other)) is (one == other)


@given(PREFIXES, NUMBERS, st.data())
def test_no_value_with_one_other_character_is_good(prefix: str, number: int, data: st.DataObject) -> None:
    form = form_of(prefix)
    value = form.value(number)
    at, other = data.draw(st.integers(0, len(value) - 1)), data.draw(VISIBLE)
    assume(other != value[at])
    changed = value[:at] + other + value[at + 1 :]
    assert not is_good(form, changed)
    if at >= len(form.start) and other in ALPHABET:
        assert form.is_mistyped(changed)


@given(PREFIXES, NUMBERS, st.data())
def test_no_value_with_two_neighbours_swapped_is_good(prefix: str, number: int, data: st.DataObject) -> None:
    form = form_of(prefix)
    value = form.value(number)
    at = data.draw(st.integers(0, len(value) - 2))
    assume(value[at] != value[at + 1])
    changed = value[:at] + value[at + 1] + value[at] + value[at + 2 :]
    assert not is_good(form, changed)


@given(NUMBERS)
def test_every_substitution_of_a_letter_or_digit_is_known(number: int) -> None:
    value = UPK.value(number)
    for at in range(4, 37):
        for other in ALPHABET[number % 7 :: 7]:
            assert other == value[at] or UPK.is_mistyped(value[:at] + other + value[at + 1 :])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "upk_",
        "A" * 40,  # as AWS's
        "0123456789abcdefghijABCDEFGHIJ0123456789",
        "upk-" + "0" * 33,
        "UPK_" + "0" * 33,
        "upk_" + "0" * 32,
        "upk_" + "0" * 34,
        "upk_" + "0" * 32 + "-",
        "upk_" + "0" * 32 + "\u00e9",
        "upk_" + "0" * 32 + "\u0660",
        "acme_" + "0" * 33,
    ],
)
def test_a_value_of_another_form_is_never_mistyped(value: str) -> None:
    assert not UPK.is_mistyped(value)
    assert UPK.problem(value) is None


def test_a_problem_does_not_repeat_the_value() -> None:
    rule = UPK.problem("upk_" + "0" * 33)
    assert rule == (
        "it begins with upk_ and has 37 characters, as generated keys do, and its checksum is wrong: "
        "copy it again, or take a value of another form"
    )


def test_without_a_prefix_values_are_as_awss() -> None:
    assert KeyForm.of("") is None
    assert re.fullmatch("[0-9A-Za-z]{40}", random_key_value(""))


def test_random_values_differ_and_are_good() -> None:
    values = {random_key_value("acme") for _ in range(1000)}
    assert len(values) == 1000
    assert all(is_good(form_of("acme"), value) for value in values)


# --- the catalog --------------------------------------------------------------------------------------------------

GOOD = UPK.value(7)
MISTYPED = UPK.value(7)[:-1] + ("0" if UPK.value(7)[-1] != "0" else "1")
STORED = resources(api_keys=(), usage_plans=())


def found(value: str, known: Unlooked | Caller | None, changed: Resources = STORED, prefix: str = "upk") -> object:
    """Return the reason of a refusal, or the kind of another answer, where the store's cache says `known`."""
    catalog = Compiler(form=KeyForm.of(prefix))(changed)
    answer = catalog.resolve(ask(headers={"x-api-key": value}), 1_000_000, lambda _: known)
    return answer.reason if isinstance(answer, Denied) else type(answer)


K9 = Caller("k9", enabled=True, expires_us=None, customer="", plans=())


@pytest.mark.parametrize(
    ("value", "known", "prefix", "answer"),
    [
        (GOOD, UNLOOKED, "upk", KeyNeeded),
        (MISTYPED, UNLOOKED, "upk", Reason.KEY_UNKNOWN),
        (MISTYPED, UNLOOKED, "acme", KeyNeeded),
        (MISTYPED, UNLOOKED, "", KeyNeeded),
        ("A" * 40, UNLOOKED, "upk", KeyNeeded),
        ("my-own-value-of-long-ago", UNLOOKED, "upk", KeyNeeded),
        (MISTYPED, None, "upk", Reason.KEY_UNKNOWN),
        (MISTYPED, K9, "upk", Reason.NO_PLAN),  # in memory, so it is one that is good
    ],
)
def test_a_mistyped_value_is_unknown_without_a_look_up(
    value: str, known: Unlooked | Caller | None, prefix: str, answer: object
) -> None:
    assert found(value, known, prefix=prefix) is answer


def test_a_key_of_the_file_opens_whatever_its_value_looks_like() -> None:
    """A file may have the digest alone, of a value from long ago."""
    changed = resources(apis=(api(),), api_keys=(key(value=MISTYPED),))
    assert found(MISTYPED, UNLOOKED, changed) is not Reason.KEY_UNKNOWN

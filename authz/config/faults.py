"""Mistakes in a configuration, in words for an operator, and without the wrong value."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from authz.core.problem import Problem, shortened

WORDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
    "datetime": "a time such as 2030-01-31T23:59:59Z",
}
PATTERNS: Final = {
    "^([a-z]([a-z0-9_]": "expected at most 30 lower-case letters, digits and _, the first a letter and the last not _",
    "^[A-Za-z0-9_-]": "expected 1 to 128 letters, digits, - or _",
    "^[0-9a-f]": "expected 64 hexadecimal digits in lower case",
    "^[1-5]": "expected a status of three digits, such as '429'",
}

CLOSE: Final = 0.7  # how alike two words are, from 0 to 1, for one to be taken for the other
DIGITS: Final = re.compile(r"0*([1-9][0-9]{0,9})%?")  # digits that YAML reads as a text: 08, '5', 80%


class ConfigError(Exception):
    """The mistakes that an operator has to correct, each with its place."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.problems = tuple(found)
        super().__init__("\n".join(map(str, self.problems)))


def rule_of(message: str, kind: Any, quotable: bool = True) -> str:
    """msgspec's message as a rule that an operator understands, without the value."""
    if len(kinds := alternatives(kind)) > 1:
        return f"expected {' or '.join(map(_in_words, kinds))}"
    if message.startswith("Invalid enum value"):
        return f"expected one of {', '.join(choices(kind))}"
    if message.startswith("Invalid RFC3339"):
        return f"expected {WORDS['datetime']}"
    if found := re.search(r"matching regex ['\"](.*)['\"]", message):
        return next(rule for start, rule in PATTERNS.items() if found[1].startswith(start))
    if found := re.match(r"Expected `(\w+)` of length ([<>])= (\d+)", message):
        parts = ("item" if found[1] == "array" else "character") + ("s" if int(found[3]) > 1 else "")
        return f"expected at {'most' if found[2] == '<' else 'least'} {found[3]} {parts}"
    if found := re.match(r"Expected `(\w+)` ([<>])= ([\d.-]+)", message):
        return f"expected {WORDS[found[1]]} {'≤' if found[2] == '<' else '≥'} {found[3].removesuffix('.0')}"
    if found := re.match(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", message):
        return f"expected {WORDS[found[1]]}" + _instead(found[1], found[2], quotable)
    return message[:1].lower() + message[1:]


def _in_words(kind: Any) -> str:
    """One of several kinds that a value may have: certain words, or a whole number within bounds."""
    if words := choices(kind):
        return ", ".join(words)
    (bounds,) = kind.__metadata__
    return f"{WORDS['int']} from {bounds.ge} to {bounds.le}"


def _instead(expected: str, got: str, quotable: bool) -> str:
    if not quotable:
        return ""
    if expected == "str" and got in ("int", "float", "bool"):
        return f", not {WORDS[got]}: put it in quotes"
    return f", not {WORDS.get(got, got)}"


def choices(kind: Any) -> tuple[str, ...]:
    bare = bare_kind(kind)
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return tuple(member.value for member in bare)
    return get_args(bare) if get_origin(bare) is Literal else ()


def bare_kind(kind: Any) -> Any:
    """The kind without `| None` and annotations. A kind with alternatives stays as it is."""
    if get_origin(kind) is Annotated:
        return bare_kind(get_args(kind)[0])
    found = alternatives(kind)
    return bare_kind(found[0]) if len(found) == 1 else kind


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The kinds that a value may have besides None, if it is a union; nothing otherwise."""
    if get_origin(kind) not in (Union, UnionType):
        return ()
    return tuple(one for one in get_args(kind) if one is not NoneType)


def not_known(what: str, name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"unknown {what}" + (f"; did you mean {close[0]}?" if close else "")


def hint(value: Any, kind: Any) -> str:
    """The end of a rule with what an operator probably meant by a value of another kind; "" without a guess."""
    return next((f"; did you mean {guess}?" for guess in _guesses(value, bare_kind(kind))), "")


def _guesses(value: Any, kind: Any) -> Iterator[str]:
    """Yield the values of the kind that are written almost like this one. A text that may be a secret is no guess."""
    if isinstance(value, str):
        words = [word for one in (kind, *alternatives(kind)) for word in choices(one)]
        spelled = {_bare_word(word): word for word in words}
        yield from (spelled[word] for word in difflib.get_close_matches(_bare_word(value), spelled, n=1, cutoff=CLOSE))
        if kind is int and (digits := DIGITS.fullmatch(value.replace(",", ""))):
            yield digits[1]
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, dict | list) or shortened(shown) != shown:
        return
    if get_origin(kind) is tuple and _takes([value], kind):
        yield f"[{shown}]"
    if isinstance(kind, type) and issubclass(kind, Struct) and len(fields := msgspec.structs.fields(kind)) == 1:
        name = fields[0].encode_name
        if _takes({name: value}, kind):
            yield f"{{{name}: {shown}}}"


def _bare_word(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()


def _takes(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True

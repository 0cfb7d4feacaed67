"""Mistakes in a configuration, in words for an operator, and without the wrong value."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from authz.core.rules import Problem

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
    "^[A-Za-z0-9_-]": "expected 1 to 128 letters, digits, - or _",
    "^[0-9a-f]": "expected 64 hexadecimal digits in lower case",
    "^[1-5]": "expected a status of three digits, such as '429'",
}


class ConfigError(Exception):
    """The mistakes that an operator has to correct, each with its place."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.problems = tuple(found)
        super().__init__("\n".join(map(str, self.problems)))


def rule_of(message: str, kind: Any, quotable: bool = True) -> str:
    """msgspec's message as a rule that an operator understands, without the value."""
    if message.startswith("Invalid enum value"):
        return f"expected one of {', '.join(choices(kind))}"
    if message.startswith("Invalid RFC3339"):
        return f"expected {WORDS['datetime']}"
    if found := re.search(r"matching regex ['\"](.*)['\"]", message):
        return next(rule for start, rule in PATTERNS.items() if found[1].startswith(start))
    if found := re.match(r"Expected `(\w+)` of length >= (\d+)", message):
        return f"expected at least {found[2]} character{'s' if int(found[2]) > 1 else ''}"
    if found := re.match(r"Expected `(\w+)` ([<>])= ([\d.-]+)", message):
        return f"expected {WORDS[found[1]]} {'≤' if found[2] == '<' else '≥'} {found[3].removesuffix('.0')}"
    if found := re.match(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", message):
        return f"expected {WORDS[found[1]]}" + _instead(found[1], found[2], quotable)
    return message[:1].lower() + message[1:]


def _instead(expected: str, got: str, quotable: bool) -> str:
    if not quotable:
        return ""
    if expected == "str" and got in ("int", "float", "bool"):
        return f", not {WORDS[got]}: put it in quotes"
    return f", not {WORDS.get(got, got)}"


def choices(kind: Any) -> tuple[str, ...]:
    bare = bare_kind(kind)
    bare = get_args(bare)[0] if get_origin(bare) is Annotated else bare
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return tuple(member.value for member in bare)
    return get_args(bare) if get_origin(bare) is Literal else ()


def bare_kind(kind: Any) -> Any:
    """The kind without `| None`."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(one for one in get_args(kind) if one is not NoneType)


def not_known(what: str, name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"unknown {what}" + (f"; did you mean {close[0]}?" if close else "")

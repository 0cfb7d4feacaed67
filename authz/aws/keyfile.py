"""AWS's file of API keys: comma-separated values, read as strictly as RFC 4180 says, in one pass.

A quotation mark too few must never move one customer's key into another's description. So a file whose quotation marks
do not add up is refused as a whole, with the line, and a record that is no record is left out with a warning.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.aws.errors import ApiError, bad_request
from authz.core.rules import shortened

REQUIRED: Final = ("name", "key")
PLANS: Final = "usageplanids"
COLUMNS: Final = (*REQUIRED, "description", "enabled", PLANS)
MAX_FIELDS: Final = 100  # of a record; AWS's file has five
MAX_RECORDS: Final = 100_000
MAX_WARNINGS: Final = 100
KEY_LIKE: Final = 20  # characters: a line of that length without a blank may be a key's value

BLANKS: Final = " \t"
# Possessive (`++`, `*+`): each character is looked at once, whatever the file holds.
QUOTED: Final = re.compile(r'[ \t]*+"((?:[^"]++|"")*+)"[ \t]*+')
OPENED: Final = re.compile(r'[ \t]*+"')
APOSTROPHES: Final = re.compile(r"[ \t]*+'([^'\r\n]*+)'[ \t]*+(?=[,\r\n]|\Z)")
PLAIN: Final = re.compile(r"[^,\r\n]*+")
BREAK: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Row:
    """A record that describes a key. `number` counts records from 1, `warnings` tell what of it is not taken over."""

    number: int
    value: str
    document: Mapping[str, Any]
    plans: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Warnings:
    """The warnings of an import, in the order of its records: the first hundred, and how many more there were."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, str]] = []
        self._more = 0

    def add(self, number: int, text: str) -> None:
        if len(self._kept) < MAX_WARNINGS:
            self._kept.append((number, text))
        else:
            self._more += 1

    def add_all(self, found: Iterable[tuple[int, str]]) -> None:
        for number, text in found:
            self.add(number, text)

    def skip(self, number: int, cause: str) -> None:
        self.add(number, f"Skipped invalid record: {number}. {cause}")

    def texts(self) -> list[str]:
        more = [f"{self._more} more warnings are not shown"] if self._more else []
        return [text for _, text in sorted(self._kept, key=lambda kept: kept[0])] + more


@dataclass(frozen=True, slots=True)
class _Record:
    """A record as it was written: its fields, the line on which it begins, and what is wrong with it."""

    fields: list[str]
    line: int
    cause: str | None = None


def rows(text: str, warnings: Warnings, check: Callable[[str, Mapping[str, Any]], None]) -> list[Row]:
    """The keys that a file describes. Raises ApiError where the file is none.

    `check` gets a key's value and its document and raises ApiError for a record that is not to be taken.
    """
    columns, records = _header(text, warnings)
    found = []
    for number, record in enumerate(records, 1):
        if number > MAX_RECORDS:
            raise bad_request(f"A file can hold {MAX_RECORDS:,} records: split it. Nothing was imported")
        try:
            row = _row(number, record, columns)
            check(row.value, row.document)
        except ApiError as refused:
            warnings.skip(number, refused.message)
            continue
        for warning in row.warnings:
            warnings.add(number, f"Record {number}: {warning}")
        found.append(row)
    return found


# --- the columns --------------------------------------------------------------------------------------------------


def _header(text: str, warnings: Warnings) -> tuple[list[str], Iterator[_Record]]:
    """The names of the columns in lower case, and the records below them."""
    at, line, names = 0, 1, list[str]()
    while at < len(text) and not any(names):
        record, at, breaks = _record(text, at, line, None)
        if record.cause:
            raise _unreadable(line, record.cause)
        line += breaks
        names = [name.lower() for name in record.fields]
    for required in REQUIRED:
        if required not in names:
            raise bad_request(f"Missing required column '{required}'")
    _warn_of_columns(names, warnings)
    return names, _records(text, at, line, names.index(PLANS) if PLANS in names else None)


def _warn_of_columns(names: Sequence[str], warnings: Warnings) -> None:
    for name, count in Counter(filter(None, names)).items():
        if name not in COLUMNS:
            close = difflib.get_close_matches(name[:KEY_LIKE], COLUMNS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.add(0, f"The column '{shortened(name)}' is not known and is left out{hint}")
        elif count > 1:
            warnings.add(0, f"The column '{name}' is given {count} times: the first is taken")


# --- a record -----------------------------------------------------------------------------------------------------


def _row(number: int, record: _Record, columns: Sequence[str]) -> Row:
    fields = record.fields
    if record.cause:
        raise bad_request(f"{record.cause} (line {record.line})")
    if len(fields) > len(columns):
        raise bad_request(f"It has {len(fields)} fields where the header has {len(columns)} (line {record.line})")
    given: dict[str, str] = {}
    for name, field in zip(columns, fields, strict=False):
        given.setdefault(name, field)
    enabled, warned = _enabled(given.get("enabled", ""))
    plans = (plan.strip(BLANKS) for plan in given.get(PLANS, "").split(","))
    document = {"name": given.get("name"), "description": given.get("description"), "enabled": enabled}
    if any("\0" in field for field in fields):
        raise bad_request("A record cannot contain NUL")
    if len(fields) < len(columns):
        warned = (*warned, f"It has {len(fields)} fields where the header has {len(columns)}: the others are empty")
    return Row(number, given.get("key", ""), document, tuple(dict.fromkeys(filter(None, plans))), warned)


def _enabled(text: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the key is to work, and a warning where the file says neither true nor false: then it is disabled."""
    word = text.lower()
    if word in ("", "true", "false"):
        return word != "false", ()
    return False, (f"Expected true or false as enabled, got '{shortened(text)}': the key is disabled",)


# --- the characters -----------------------------------------------------------------------------------------------


def _records(text: str, at: int, line: int, plans: int | None) -> Iterator[_Record]:
    """The records from a place on, without those that are blank."""
    while at < len(text):
        record, at, breaks = _record(text, at, line, plans)
        line += breaks
        if record.cause or any(record.fields):
            yield record


def _record(text: str, at: int, line: int, plans: int | None) -> tuple[_Record, int, int]:
    """A record, the place behind it and the line breaks in it."""
    fields: list[str] = []
    cause, breaks = None, 0
    while True:
        place = line + breaks
        if quoted := QUOTED.match(text, at):
            field, end = quoted[1].replace('""', '"'), quoted.end()
            breaks += _check_quoted(text, end, field, place)
        elif OPENED.match(text, at):
            raise _unreadable(place, "a quotation mark is opened and never closed")
        elif len(fields) == plans and (listed := APOSTROPHES.match(text, at)):
            field, end = listed[1], listed.end()
        else:
            end = PLAIN.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
            field = text[at:end]
            if '"' in field:
                cause = "A quotation mark stands within a field that does not begin with one"
        if len(fields) < MAX_FIELDS:
            fields.append(field.strip(BLANKS))
        elif field:
            cause = f"It has more than {MAX_FIELDS} fields"
        if not text.startswith(",", end):
            ended = BREAK.match(text, end)
            return _Record(fields, line, cause), ended.end() if ended else end, breaks + 1
        at = end + 1


def _check_quoted(text: str, end: int, field: str, line: int) -> int:
    """Count the line breaks of a quoted field. Raises ApiError where it may be two fields with a mark too few.

    RFC 4180 allows a line break there. But a mark too few in each of two records reads as one field that holds all
    between them, so a line within a field must not look like a record, nor like a key alone, and the line on which
    such a field begins must not go on with a key.
    """
    if end < len(text) and text[end] not in ",\r\n":
        raise _unreadable(line, "a closing quotation mark is followed by text")
    first, *others = BREAK.split(field)
    if others and any(_is_key_like(cell) for cell in first.split(",")[1:]):
        raise _unreadable(line, "a quoted field goes on with what looks like a key: a quotation mark is missing")
    for within in others:
        if "," in within or any(len(word) >= KEY_LIKE for word in within.split()):
            raise _unreadable(line, "a quoted field holds a line that looks like a record: a quotation mark is missing")
    return len(others)


def _is_key_like(cell: str) -> bool:
    word = cell.strip(BLANKS)
    return len(word) >= KEY_LIKE and not any(blank in word for blank in BLANKS)


def _unreadable(line: int, cause: str) -> ApiError:
    return bad_request(f"The file cannot be read: line {line}: {cause}. Nothing was imported")

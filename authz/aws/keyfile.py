"""AWS's file of API keys: comma-separated values, read in one pass, as strictly as RFC 4180 says.

A missing quotation mark must never move one customer's key into another customer's description. So a file with
unmatched quotation marks is refused as a whole, and the message gives the line. Any other broken record is skipped with
a warning.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.aws.errors import ApiError, bad_request
from authz.core.problem import shortened

REQUIRED: Final = ("name", "key")
PLANS: Final = "usageplanids"
COLUMNS: Final = (*REQUIRED, "description", "enabled", PLANS)
MAX_FIELDS: Final = 100  # in a record; AWS's file has five
MAX_RECORDS: Final = 100_000
MAX_WARNINGS: Final = 100
KEY_LIKE: Final = 20  # characters: a word of this length may be the value of a key

BLANKS: Final = " \t"
# Possessive (`++`, `*+`): each character is examined once, in any file.
QUOTED: Final = re.compile(r'[ \t]*+"((?:[^"]++|"")*+)"[ \t]*+')
OPENED: Final = re.compile(r'[ \t]*+"')
APOSTROPHES: Final = re.compile(r"[ \t]*+'([^'\r\n]*+)'[ \t]*+(?=[,\r\n]|\Z)")
PLAIN: Final = re.compile(r"[^,\r\n]*+")
BREAK: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A record that describes a key. `number` counts from 1; `warnings` say which parts of it are left out."""

    number: int
    value: str
    document: Mapping[str, Any]
    plans: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Warnings:
    """The warnings of an import, in the order of its records: the first hundred, and a count of the others."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, str]] = []
        self._more = 0

    def add(self, number: int, text: str) -> None:
        if len(self._kept) < MAX_WARNINGS:
            self._kept.append((number, text))
        else:
            self._more += 1

    def add_all(self, warnings: Iterable[tuple[int, str]]) -> None:
        for number, text in warnings:
            self.add(number, text)

    def texts(self) -> list[str]:
        more = [f"{self._more} more warnings are not shown"] if self._more else []
        return [text for _, text in sorted(self._kept, key=lambda kept: kept[0])] + more


def skipped(number: int, cause: str) -> tuple[int, str]:
    """Word the warning that a record is left out, as AWS does."""
    return number, f"Skipped invalid record: {number}. {cause}"


@dataclass(frozen=True, slots=True)
class _Record:
    """A record as written: its fields, the line on which it begins, and the cause if it is broken."""

    fields: list[str]
    line: int
    cause: str | None = None


def rows(text: str, warnings: Warnings, check: Callable[[str, Mapping[str, Any]], None]) -> list[KeyRow]:
    """Read the keys that a file describes. Raises ApiError if the file cannot be read.

    `check` gets a key's value and its document, and raises ApiError to skip the record.
    """
    columns, records = _header(text, warnings)
    keys = []
    for number, record in enumerate(records, 1):
        if number > MAX_RECORDS:
            raise bad_request(f"A file can hold {MAX_RECORDS:,} records: split it. Nothing was imported")
        try:
            row = _row(number, record, columns)
            check(row.value, row.document)
        except ApiError as refused:
            warnings.add(*skipped(number, refused.message))
            continue
        warnings.add_all((number, f"Record {number}: {warning}") for warning in row.warnings)
        keys.append(row)
    return keys


# --- the columns --------------------------------------------------------------------------------------------------


def _header(text: str, warnings: Warnings) -> tuple[list[str], Iterator[_Record]]:
    """Return the names of the columns in lower case, and the records below them. Raises ApiError."""
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
    for name, count in Counter(filter(None, names)).items():
        if name not in COLUMNS:
            close = difflib.get_close_matches(name[:KEY_LIKE], COLUMNS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.add(0, f"The column '{shortened(name)}' is not known and is left out{hint}")
        elif count > 1:
            warnings.add(0, f"The column '{name}' is given {count} times: the first is taken")
    return names, _records(text, at, line, names.index(PLANS) if PLANS in names else None)


# --- a record -----------------------------------------------------------------------------------------------------


def _row(number: int, record: _Record, columns: Sequence[str]) -> KeyRow:
    fields = record.fields
    if record.cause:
        raise bad_request(f"{record.cause} (line {record.line})")
    if len(fields) > len(columns):
        raise bad_request(f"It has {len(fields)} fields where the header has {len(columns)} (line {record.line})")
    given: dict[str, str] = {}
    for name, field in zip(columns, fields, strict=False):
        given.setdefault(name, field)
    enabled = given.get("enabled", "")
    warned: tuple[str, ...] = ()
    if enabled.lower() not in ("", "true", "false"):
        warned = (f"Expected true or false as enabled, got '{shortened(enabled)}': the key is disabled",)
    plans = (plan.strip(BLANKS) for plan in given.get(PLANS, "").split(","))
    document = {
        "name": given.get("name"),
        "description": given.get("description"),
        "enabled": enabled.lower() in ("", "true"),
    }
    if any("\0" in field for field in fields):
        raise bad_request("A record cannot contain NUL")
    if len(fields) < len(columns):
        warned = (*warned, f"It has {len(fields)} fields where the header has {len(columns)}: the others are empty")
    return KeyRow(number, given.get("key", ""), document, tuple(dict.fromkeys(filter(None, plans))), warned)


# --- the characters -----------------------------------------------------------------------------------------------


def _records(text: str, at: int, line: int, plans: int | None) -> Iterator[_Record]:
    """Yield the records from `at` on, without blank ones."""
    while at < len(text):
        record, at, breaks = _record(text, at, line, plans)
        line += breaks
        if record.cause or any(record.fields):
            yield record


def _record(text: str, at: int, line: int, plans: int | None) -> tuple[_Record, int, int]:
    """Read one record. Also return the place after it and the number of its line breaks. Raises ApiError.

    `plans` is the index of the field that lists plans, which may stand between apostrophes.
    """
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
    """Return the number of line breaks in a quoted field. Raises ApiError if a quotation mark seems to be missing.

    RFC 4180 allows line breaks in a field. But if two records lack a mark each, the text between them reads as one
    field. So no line within a field may look like a record or a key, and its first line may not go on with a key.
    """
    if end < len(text) and text[end] not in ",\r\n":
        raise _unreadable(line, "a closing quotation mark is followed by text")
    first, *others = BREAK.split(field)
    cells = [cell.strip(BLANKS) for cell in first.split(",")[1:]]
    if others and any(len(cell) >= KEY_LIKE and not any(blank in cell for blank in BLANKS) for cell in cells):
        raise _unreadable(line, "a quoted field goes on with what looks like a key: a quotation mark is missing")
    for within in others:
        if "," in within or any(len(word) >= KEY_LIKE for word in within.split()):
            raise _unreadable(line, "a quoted field holds a line that looks like a record: a quotation mark is missing")
    return len(others)


def _unreadable(line: int, cause: str) -> ApiError:
    return bad_request(f"The file cannot be read: line {line}: {cause}. Nothing was imported")

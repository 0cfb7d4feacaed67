"""The patch engine: a table of what may be patched, one for each resource, and one function that applies operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from authz.aws.errors import bad_request

Op = Literal["add", "remove", "move", "test", "replace", "copy"]  # in the order in which AWS lists them
Document = dict[str, Any]
Effect = Callable[["Change"], None]

NUMBER: Final = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class PatchOperation(Struct, frozen=True, rename={"from_": "from"}):
    """One operation, as a client sends it; the value is always a text."""

    op: Op
    path: str
    value: str | None = None
    from_: str | None = None


class Patch(Struct, frozen=True, rename="camel"):
    """The body of every Update operation."""

    patch_operations: tuple[PatchOperation, ...] = ()


class Type(Enum):
    """How the text of a value is read."""

    TEXT = "text"
    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    JSON = "json"


@dataclass(frozen=True)
class Change:
    """An operation that found its row: the draft to change, the parts of the path by name, the value as it was read.

    `origin` is the path that a copy is made from.
    """

    draft: Document
    op: Op
    names: Mapping[str, str]
    path: tuple[str, ...]
    value: Any
    origin: str | None = None


def member(change: Change) -> None:
    """The usual effect: sets or removes the member that the path points to. What lies above it is made."""
    *above, last = change.path
    where = change.draft
    for name in above:
        if not isinstance(where.get(name), dict):
            where[name] = {}
        where = where[name]
    if change.op == "remove":
        where.pop(last, None)
    else:
        where[last] = change.value


@dataclass(frozen=True)
class Row:
    """Which operations a path takes, how its value reads, and what follows.

    In a pattern `<name>` or `{name}` stands for one part of the path; `<rest>`, and a resource path with its method
    after it, for one or more. `hidden` rows are our own: AWS's error lists do not name them.
    """

    ops: tuple[Op, ...]
    pattern: str
    type: Type = Type.TEXT
    effect: Effect = member
    hidden: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        written = re.sub(r"[<{]resourcePath[>}]/[<{]httpMethod[>}]", "<method>", self.pattern)
        parts = re.split(r"[<{]([^>}]+)[>}]", written)
        return re.compile("".join(map(_part, parts, range(len(parts)))), re.DOTALL)


def _part(text: str, number: int) -> str:
    """One piece of a pattern: literal text and names take turns."""
    if number % 2 == 0:
        return re.escape(text)
    return f"(?P<{re.sub('[^a-zA-Z]', '_', text)}>{'.+' if text in ('method', 'rest') else '[^/]+'})"


Style = Callable[[PatchOperation, Sequence[str]], str]


def invalid_path(operation: PatchOperation, allowed: Sequence[str]) -> str:
    """AWS's text for what a table does not have; two blanks after "path" are AWS's."""
    choice = f"Must be one of: [{', '.join(allowed)}]" if allowed else "Please choose supported operations"
    return f"Invalid patch path  '{operation.path}' specified for op '{operation.op}'. {choice}"


def apply(
    table: Sequence[Row], document: Document, operations: Iterable[PatchOperation], style: Style = invalid_path
) -> Document:
    """The document with all operations applied in order; the given one is left as it is.

    Raises ApiError for the first operation that cannot be applied.
    """
    draft = deepcopy(document)
    for operation in operations:
        _apply(table, draft, operation, style)
    return draft


def _apply(table: Sequence[Row], draft: Document, operation: PatchOperation, style: Style) -> None:
    rows = [row for row in table if operation.op in row.ops]
    for row in rows:
        if found := row.regex.fullmatch(operation.path):
            names = {name: unescape(text) for name, text in found.groupdict().items()}
            path = tuple(map(unescape, operation.path.split("/")[1:]))
            row.effect(Change(draft, operation.op, names, path, _value(row, operation), operation.from_))
            return
    raise bad_request(style(operation, [row.pattern for row in rows if not row.hidden]))


def unescape(part: str) -> str:
    """A part of a JSON pointer as it is meant."""
    return part.replace("~1", "/").replace("~0", "~")


def _value(row: Row, operation: PatchOperation) -> Any:
    """The value, read as the row says; what is removed needs none."""
    text = operation.value or ""
    if row.type is Type.TEXT or operation.op == "remove":
        return text
    if row.type is Type.BOOL:
        return text.lower() == "true"
    try:
        return READ[row.type](text.strip())
    except (ValueError, RecursionError):
        raise bad_request(f"Invalid patch value specified for path '{operation.path}'") from None


def _number(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _integer(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


READ: Final[dict[Type, Callable[[str], Any]]] = {
    Type.INT: _integer,
    Type.DOUBLE: _number,
    Type.JSON: msgspec.json.decode,  # its errors are ValueErrors
}

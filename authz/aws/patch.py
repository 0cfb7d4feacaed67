"""AWS's patch operations: each resource has a table of rules, and `apply` applies operations by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from authz.aws.errors import bad_request

Op = Literal["add", "remove", "move", "test", "replace", "copy"]  # in AWS's order
Document = dict[str, Any]
Effect = Callable[["PatchStep"], None]

NUMBER: Final = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class PatchOperation(Struct, frozen=True, rename={"from_": "from"}):
    """One operation as a client sends it. The value is always text."""

    op: Op
    path: str
    value: str | None = None
    from_: str | None = None


class PatchBody(Struct, frozen=True, rename="camel"):
    """The body of every Update operation."""

    patch_operations: tuple[PatchOperation, ...] = ()


class Type(Enum):
    """How to read the text of a value."""

    TEXT = "text"
    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    JSON = "json"


@dataclass(frozen=True)
class PatchStep:
    """One operation with its rule applied: the draft to change, the path's parts by name, and the value as read.

    `origin` is the path that a `copy` operation copies from.
    """

    draft: Document
    op: Op
    names: Mapping[str, str]
    path: tuple[str, ...]
    value: Any
    origin: str | None = None


def member(step: PatchStep) -> None:
    """Set or remove the member at the path; create missing parents. Rules without an `effect` of their own use this."""
    *above, last = step.path
    where = step.draft
    for name in above:
        if not isinstance(where.get(name), dict):
            where[name] = {}
        where = where[name]
    if step.op == "remove":
        where.pop(last, None)
    else:
        where[last] = step.value


def member_or_removed(step: PatchStep) -> None:
    """Set the member at the path, or remove it if the value is empty: Terraform unsets a text by an empty value."""
    if step.value:
        member(step)
        return
    *above, last = step.path
    where = step.draft
    for name in above:
        where = where.get(name, {})
    where.pop(last, None)


def entry_of(name: str, entry: Callable[[PatchStep], str] = attrgetter("value")) -> Effect:
    """Make an effect that adds an entry to the list `name` or removes it; `entry` reads it from the step."""

    def effect(step: PatchStep) -> None:
        others = [one for one in step.draft.get(name, ()) if one != entry(step)]
        step.draft[name] = others if step.op == "remove" else [*others, entry(step)]

    return effect


def one_of(choices: Sequence[str], refusal: str) -> Effect:
    """Make an effect that sets the member at the path to one of `choices`. For any other value it raises ApiError."""

    def effect(step: PatchStep) -> None:
        if step.value not in choices:
            raise bad_request(f"{refusal}. Must be one of [{', '.join(choices)}]")
        member(step)

    return effect


@dataclass(frozen=True)
class PatchRule:
    """A path that can be patched: the operations it takes, the type of its value, and the effect on the draft.

    In a pattern `<name>` or `{name}` matches one part of the path. `<rest>` matches one or more parts, and so does a
    resource path followed by its method. `hidden` rules are our own: AWS's error lists do not name them.
    """

    ops: tuple[Op, ...]
    pattern: str
    type: Type = Type.TEXT
    effect: Effect = member
    hidden: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        written = re.sub(r"[<{]resourcePath[>}]/[<{]httpMethod[>}]", "<method>", self.pattern)
        literal, *others = re.split(r"[<{]([^>}]+)[>}]", written)
        expression = re.escape(literal)
        for name, literal in zip(others[::2], others[1::2], strict=True):
            group = re.sub("[^a-zA-Z]", "_", name)
            expression += f"(?P<{group}>{'.+' if name in ('method', 'rest') else '[^/]+'}){re.escape(literal)}"
        return re.compile(expression, re.DOTALL)


Style = Callable[[PatchOperation, Sequence[str]], str]


def invalid_path(operation: PatchOperation, allowed: Sequence[str]) -> str:
    """Word the refusal of an operation without a rule, as AWS does; the two blanks after "path" are AWS's."""
    choice = f"Must be one of: [{', '.join(allowed)}]" if allowed else "Please choose supported operations"
    return f"Invalid patch path  '{operation.path}' specified for op '{operation.op}'. {choice}"


def apply(
    table: Sequence[PatchRule], document: Document, operations: Iterable[PatchOperation], style: Style = invalid_path
) -> Document:
    """Return a copy of the document with all operations applied, in order.

    Raises ApiError for the first operation that cannot be applied; `style` words the refusal of an unknown path.
    """
    draft = deepcopy(document)
    for operation in operations:
        rules = [rule for rule in table if operation.op in rule.ops]
        for rule in rules:
            if match := rule.regex.fullmatch(operation.path):
                names = {name: unescape(text) for name, text in match.groupdict().items()}
                path = tuple(map(unescape, operation.path.split("/")[1:]))
                rule.effect(PatchStep(draft, operation.op, names, path, _value(rule, operation), operation.from_))
                break
        else:
            raise bad_request(style(operation, [rule.pattern for rule in rules if not rule.hidden]))
    return draft


def unescape(part: str) -> str:
    """Undo the escapes of a JSON pointer: `~1` is a slash, `~0` a tilde."""
    return part.replace("~1", "/").replace("~0", "~")


def _value(rule: PatchRule, operation: PatchOperation) -> Any:
    """Read the value as the type that the rule names. Returns the bare text for `remove`. Raises ApiError."""
    text = operation.value or ""
    if rule.type is Type.TEXT or operation.op == "remove":
        return text
    if rule.type is Type.BOOL:
        return text.lower() == "true"
    try:
        if rule.type is Type.JSON:
            return msgspec.json.decode(text.strip())  # its errors are ValueErrors
        pattern, number = (INTEGER, int) if rule.type is Type.INT else (NUMBER, float)
        if pattern.fullmatch(text.strip()):
            return number(text.strip())
    except (ValueError, RecursionError):
        pass
    raise bad_request(f"Invalid patch value specified for path '{operation.path}'")

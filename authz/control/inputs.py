"""Reads a JSON body into a struct. Errors follow from the struct's types, in the words of AWS's framework."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from authz.aws.errors import ApiError, bad_request
from authz.aws.plans import refuse_any
from authz.config.documents import nests_deeper
from authz.config.shape import faults
from authz.core.bounds import MAX_INT

T = TypeVar("T")

MAX_DEPTH: Final = 64  # of nested lists and mappings: Python can still read them inside a stored item
MAX_OPERATIONS: Final = 100
QUOTED: Final = 200  # characters of a refused value that an answer repeats
REDACTED: Final = "***"


def read(body: bytes, kind: type[T], operation: str) -> T:
    """Read a body as `kind`. An empty body counts as an empty object, and a null member as absent."""
    found = document(body)
    operations = found.get("patchOperations")
    if isinstance(operations, list) and len(operations) > MAX_OPERATIONS:
        raise bad_request(f"Too many patch operations: at most {MAX_OPERATIONS} are allowed")
    path = f"{operation[:1].lower()}{operation[1:]}Input"
    failures = list(_faults(found, kind, path))
    if failures:
        plural = "error" if len(failures) == 1 else "errors"
        raise ApiError("ValidationException", f"{len(failures)} validation {plural} detected: {'; '.join(failures)}")
    try:
        # The types are already checked, more strictly. `strict=False` only lets 3.0 pass as an integer.
        return msgspec.convert(_without_nulls(found, kind), kind, strict=False)
    except (msgspec.ValidationError, OverflowError):
        raise _serialization() from None


def read_strictly(body: bytes, kind: type[T]) -> T:
    """Read a body of ours as `kind`. Raises BadRequestException with the address of each mistake.

    Unlike AWS's bodies, one with an unknown member is refused: no field is accepted and left without effect.
    """
    found = document(body)
    refuse_any(faults(found, kind, "$"))
    return msgspec.convert(found, kind)


def document(body: bytes) -> dict[str, Any]:
    """The JSON object in a body."""
    try:
        found = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _serialization() from None
    if not isinstance(found, dict) or nests_deeper(found, MAX_DEPTH):
        raise _serialization()
    return found


def _serialization(path: str = "", expected: str = "") -> ApiError:
    where = f"; expected {expected} at '{path}'" if path else ""
    return ApiError("SerializationException", f"The request body cannot be read{where}")


def _without_nulls(value: Any, kind: Any) -> Any:
    """The value without its null members, which count as absent. A map whose type allows null keeps them."""
    bare, _ = _bare(kind)
    match value:
        case dict():
            members = _member_kinds(bare)
            kept = {name: each for name, each in value.items() if each is not None or _optional(members(name))}
            return {name: each if each is None else _without_nulls(each, members(name)) for name, each in kept.items()}
        case list():
            each_kind = (get_args(bare) or (Any,))[0]
            return [_without_nulls(each, each_kind) for each in value]
    return value


def _member_kinds(kind: Any) -> Callable[[str], Any]:
    """A function from a member's name to its type. A struct's members lose their `| None`: their null is absence."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        members = _members(kind)
        return lambda name: _bare(members[name][0])[0] if name in members else Any
    inner = (get_args(kind) or (str, Any))[-1] if (get_origin(kind) or kind) is dict else Any
    return lambda _: inner


def _optional(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType) and type(None) in get_args(kind)


def _faults(value: Any, kind: Any, path: str) -> Iterator[str]:
    """The constraints of `kind` that a value breaks. Raises SerializationException if it has another type."""
    kind, meta = _bare(kind)
    origin = get_origin(kind) or kind
    if kind is Any:
        return
    if isinstance(origin, type) and issubclass(origin, Struct):
        given = _typed(value, dict, path, "an object")
        for name, (member, required) in _members(origin).items():
            each = given.get(name)
            if each is not None:
                yield from _faults(each, member, f"{path}.{name}")
            elif required:
                yield _fault(None, f"{path}.{name}", "Member must not be null")
    elif origin is dict:
        member = (get_args(kind) or (str, Any))[1]
        for name, each in _typed(value, dict, path, "an object").items():
            if each is None and _optional(member):
                continue
            yield from _member_faults(each, member, f"{path}.{name[:QUOTED]}.member")
    elif origin in (list, tuple, set, frozenset):
        yield from _list_faults(_typed(value, list, path, "a list"), (get_args(kind) or (Any,))[0], path)
        yield from _length_faults(value, meta, path)
    else:
        yield from _scalar_faults(value, kind, origin, meta, path)


def _bare(kind: Any) -> tuple[Any, tuple[Meta, ...]]:
    """The type inside `Annotated` and `| None`, and its constraints."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *notes = get_args(kind)
        bare, metas = _bare(inner)
        return bare, (*metas, *(note for note in notes if isinstance(note, Meta)))
    if origin in (typing.Union, types.UnionType):
        first = next((each for each in get_args(kind) if each not in (type(None), msgspec.UnsetType)), Any)
        return _bare(first)
    return kind, ()


def _typed(value: Any, kind: type[T], path: str, expected: str) -> T:
    if not isinstance(value, kind):
        raise _serialization(path, expected)
    return value


@cache
def _members(kind: type[Struct]) -> Mapping[str, tuple[Any, bool]]:
    """The members of a struct by their names in JSON: type, and whether it is required."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {member.encode_name: (hints[member.name], member.required) for member in msgspec.structs.fields(kind)}


def _list_faults(value: list[Any], kind: Any, path: str) -> Iterator[str]:
    if words := _words(kind, get_origin(kind)):  # AWS quotes such a list as a whole
        if not all(_text(each, path) in words for each in value):
            rule = f"Member must satisfy constraint: [Member must satisfy enum value set: [{', '.join(words)}]]"
            yield _fault(f"[{', '.join(value)}]", path, rule)
        return
    for number, each in enumerate(value, 1):
        yield from _member_faults(each, kind, f"{path}.{number}.member")


def _member_faults(value: Any, kind: Any, path: str) -> Iterator[str]:
    if value is None and kind is not Any:
        yield _fault(None, path, "Member must not be null")
    else:
        yield from _faults(value, kind, path)


def _scalar_faults(value: Any, kind: Any, origin: Any, metas: tuple[Meta, ...], path: str) -> Iterator[str]:
    words = _words(kind, origin)
    if words:
        if _text(value, path) not in words:
            yield _fault(value, path, f"Member must satisfy enum value set: [{', '.join(words)}]")
    elif kind is bool:
        _typed(value, bool, path, "true or false")
    elif kind in (int, float):
        yield from _range_faults(_number(value, kind, path), metas, path)
    else:  # text, or a value that JSON holds as text: a moment, an id
        yield from _pattern_faults(_text(value, path), metas, path)
        yield from _length_faults(value, metas, path)


def _words(kind: Any, origin: Any) -> tuple[str, ...]:
    if origin is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(word.value) for word in kind)
    return ()


def _text(value: Any, path: str) -> str:
    """A string without NUL: no name holds it, and the store separates words by it."""
    text = _typed(value, str, path, "a string")
    if "\0" in text:
        raise _serialization(path, "a string without NUL")
    return text


def _number(value: Any, kind: type, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _serialization(path, "a number")
    if (isinstance(value, int) and value.bit_length() > 1023) or not math.isfinite(value):
        raise _serialization(path, "a number of 64 bits")
    if kind is int and not (value == int(value) and abs(value) <= MAX_INT):
        raise _serialization(path, "an integer of 32 bits")
    return value


def _range_faults(value: float, metas: tuple[Meta, ...], path: str) -> Iterator[str]:
    for meta in metas:
        if meta.ge is not None and value < meta.ge:
            yield _fault(value, path, f"Member must have value greater than or equal to {meta.ge}")
        if meta.le is not None and value > meta.le:
            yield _fault(value, path, f"Member must have value less than or equal to {meta.le}")


def _pattern_faults(value: str, metas: tuple[Meta, ...], path: str) -> Iterator[str]:
    for meta in metas:
        if meta.pattern is not None and not re.search(meta.pattern, value):
            shown = re.sub(r"^\^|(\$|\\[zZ])$", "", meta.pattern)  # AWS's patterns are anchored without saying so
            yield _fault(value, path, f"Member must satisfy regular expression pattern: {shown}")


def _length_faults(value: str | list[Any], metas: tuple[Meta, ...], path: str) -> Iterator[str]:
    for meta in metas:
        if meta.min_length is not None and len(value) < meta.min_length:
            yield _fault(value, path, f"Member must have length greater than or equal to {meta.min_length}")
        if meta.max_length is not None and len(value) > meta.max_length:
            yield _fault(value, path, f"Member must have length less than or equal to {meta.max_length}")


def _fault(value: Any, path: str, constraint: str) -> str:
    """A broken constraint in AWS's words, with the value cut to QUOTED characters, or redacted if it may be a key's."""
    text = REDACTED if path.endswith(".value") else str(value)
    quoted = "null" if value is None else f"'{text[:QUOTED]}'"
    return f"Value {quoted} at '{path}' failed to satisfy constraint: {constraint}"

"""Finds the mistakes in a document: values that do not have the shape of their struct, each with its address."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct, ValidationError

from authz.config.faults import bare_kind, choices, hint, not_known, rule_of
from authz.core.problem import Problem, shortened


def faults(value: Any, kind: Any, at: str) -> Iterator[Problem]:
    """Yield all mistakes in a value of a kind. msgspec names only the first one, so each part is tried by itself."""
    try:
        msgspec.convert(value, kind)
    except ValidationError as fault:
        bare = bare_kind(kind)
        found = [*_misfits(value, bare, at), *(one for part in _parts(value, bare, at) for one in faults(*part))]
        yield from found or [Problem(at, rule_of(str(fault), kind) + hint(value, kind))]


def _parts(value: Any, kind: Any, at: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield the parts of a value, each with its kind and address."""
    if _is_struct(kind) and isinstance(value, dict):
        fields = _fields(kind)
        yield from ((part, fields[name].type, f"{at}.{name}") for name, part in value.items() if name in fields)
    elif get_origin(kind) is tuple and isinstance(value, list):
        yield from ((part, get_args(kind)[0], f"{at}[{n}]") for n, part in enumerate(value))
    elif get_origin(kind) is dict and isinstance(value, dict):
        key_kind, part_kind = get_args(kind)
        for key, part in value.items():
            # In full where it is a path, a header or a word of ours.
            is_shown = str(key).startswith(("/", "~1", "gatewayresponse.")) or key in choices(key_kind)
            place = f"{at}['{key if is_shown else shortened(key)}']"
            yield key, key_kind, place
            yield part, part_kind, place


def _misfits(value: Any, kind: Any, at: str) -> Iterator[Problem]:
    """Yield a mistake for each unknown or missing field."""
    if not (_is_struct(kind) and isinstance(value, dict)):
        return
    fields = _fields(kind)
    for name in value:
        if name not in fields:
            yield Problem(f"{at}.{shortened(name)}", not_known("field", name, fields))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(f"{at}.{name}", "required")


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


@cache
def _fields(kind: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}

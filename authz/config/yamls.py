"""What readers of YAML share: PyYAML's loaders, in C where its wheel has them, and the size of a document."""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: ten times slower
    from yaml import SafeLoader  # type: ignore[assignment]

__all__ = ["SafeLoader", "TimelessLoader", "written_size"]

TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
VALUE_SIZE: Final = 16


class TimelessLoader(SafeLoader):
    """YAML whose times stay texts, as in JSON."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }


def written_size(value: Any) -> int:
    """The size of a document with its aliases written out: VALUE_SIZE for each value, and its characters.

    A few lines of aliases can stand for more than the memory holds. A value that several aliases share is measured once
    and counted for each. Raises RecursionError for an alias within the value that it stands for.
    """
    return _size(value, {})


def _size(value: Any, sizes: dict[int, int]) -> int:
    if not isinstance(value, dict | list):
        return VALUE_SIZE + (len(value) if isinstance(value, str) else 0)
    if id(value) not in sizes:
        parts = chain(value, value.values()) if isinstance(value, dict) else value
        sizes[id(value)] = VALUE_SIZE + sum(_size(part, sizes) for part in parts)
    return sizes[id(value)]

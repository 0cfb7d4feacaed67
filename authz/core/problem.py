"""A breach of a rule, and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from authz.core.bounds import MIN_KEY_VALUE


class Problem(NamedTuple):
    """A rule that a configuration breaks, and where."""

    address: str
    rule: str

    def __str__(self) -> str:
        return f"{self.address}: {self.rule}"


Problems = Iterator[Problem]


def shortened(name: object) -> str:
    """A name from the file. A name as long as a key's value may be one by mistake, so only its length is given."""
    return str(name) if len(str(name)) < MIN_KEY_VALUE else f"({len(str(name))} characters)"

"""Where a page ends, as text that callers send back for the next page."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from authz.store.ports import InvalidPosition


@dataclass(frozen=True, slots=True)
class Position:
    """The end of a page: a mark among the store's items, or among the file's items, which come after them."""

    mark: str | None = None
    in_file: bool = False

    @classmethod
    def read(cls, text: str | None, pattern: str = "") -> Position:
        """Parse a position; `pattern` is what a mark of the store looks like. Raises InvalidPosition."""
        if text is None:
            return cls()
        try:
            plain = urlsafe_b64decode(text.encode()).decode()
        except ValueError:
            plain = ""
        if plain[:1] == "f" or (plain[:1] == "s" and re.fullmatch(pattern, plain[1:], re.DOTALL)):
            return cls(plain[1:], plain[0] == "f")
        raise InvalidPosition("Invalid position parameter")

    def __str__(self) -> str:
        return urlsafe_b64encode(f"{'f' if self.in_file else 's'}{self.mark}".encode()).decode()

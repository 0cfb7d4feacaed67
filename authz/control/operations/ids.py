"""Ids and key values in the form that AWS gives them."""

from __future__ import annotations

from typing import Final

from authz.ids import LETTERS, LOWER, random_word
from authz.store.ports import Draft

VALUE_LENGTH: Final = 40


def new_id(length: int = 10) -> str:
    """Draw an id of lower-case letters and digits."""
    return random_word(LOWER, length)


def new_value() -> str:
    """Draw the value of a key."""
    return random_word(LETTERS, VALUE_LENGTH)


async def unused_id(edit: Draft, kind: str, length: int) -> str:
    """Draw ids until no item of the kind has the id."""
    while await edit.get(kind, drawn := new_id(length)):
        pass
    return drawn

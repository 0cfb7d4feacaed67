"""Ids in the form that AWS gives them."""

from __future__ import annotations

from authz.ids import LOWER, random_word
from authz.store.ports import Draft


def new_id(length: int = 10) -> str:
    """Draw an id of lower-case letters and digits."""
    return random_word(LOWER, length)


async def unused_id(edit: Draft, kind: str, length: int) -> str:
    """Draw ids until no item of the kind has the id."""
    while await edit.get(kind, drawn := new_id(length)):
        pass
    return drawn

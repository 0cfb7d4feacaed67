"""Random ids and key values, as AWS makes them."""

from __future__ import annotations

import secrets
import string
from typing import Final

from authz.store.store import Edit

ID_LETTERS: Final = string.ascii_lowercase + string.digits
VALUE_LETTERS: Final = string.ascii_letters + string.digits
VALUE_LENGTH: Final = 40


def new_id(length: int = 10) -> str:
    """Draw an id of lower-case letters and digits."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(length))


def new_value() -> str:
    """Draw the value of a key."""
    return "".join(secrets.choice(VALUE_LETTERS) for _ in range(VALUE_LENGTH))


async def unused_id(edit: Edit, kind: str, length: int) -> str:
    """Draw ids until no item of the kind has the id."""
    while await edit.get(kind, drawn := new_id(length)):
        pass
    return drawn

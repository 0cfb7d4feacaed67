"""Random ids and words, from the operating system's generator."""

from __future__ import annotations

import secrets
import string
from typing import Final

from authz.core.keyform import BITS, DEFAULT_PREFIX, KeyForm

KEY_LENGTH: Final = 40  # of AWS's values

LOWER: Final = string.ascii_lowercase + string.digits
LETTERS: Final = string.ascii_letters + string.digits


def random_word(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))


def random_key_value(prefix: str = DEFAULT_PREFIX) -> str:
    """A random value of an API key, in the form with this prefix; without one, 40 letters and digits as AWS's."""
    form = KeyForm.of(prefix)
    return form.value(secrets.randbits(BITS)) if form else random_word(LETTERS, KEY_LENGTH)


def random_hex(size: int = 8) -> str:
    """`size` random bytes, as twice as many hex digits."""
    return secrets.token_hex(size)

"""The form of the key values that we make: a prefix, 160 random bits and a checksum, as GitHub's tokens have it.

`upk_` `1HxFr9dbKsSnLFxLuurn4FMBHTa` `4k7Dae`: a prefix and `_`, 27 digits in base 62, and in 6 more the CRC-32 of all
before. Secret scanners find such a value by its form, and a mistyped one is known without a look-up.
"""

from __future__ import annotations

import string
import zlib
from typing import Final

from msgspec import Struct

DEFAULT_PREFIX: Final = "upk"
BITS: Final = 160
BODY, CHECKSUM = 27, 6  # digits: enough for 160 and for 32 bits
DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase


class KeyForm(Struct, frozen=True, gc=False):
    """The values with one prefix."""

    start: str
    length: int

    @classmethod
    def of(cls, prefix: str) -> KeyForm | None:
        """The form with this prefix; None without one, as for AWS's values."""
        return cls(f"{prefix}_", len(prefix) + 1 + BODY + CHECKSUM) if prefix else None

    def value(self, number: int) -> str:
        """The value for a number of 160 bits."""
        text = self.start + _in_base_62(number, BODY)
        return text + _checksum(text)

    def has(self, value: str) -> bool:
        """True if a value has this form, whatever its checksum is."""
        if not value.startswith(self.start) or len(value) != self.length:
            return False
        digits = value[len(self.start) :]
        return digits.isascii() and digits.isalnum()

    def is_mistyped(self, value: str) -> bool:
        """True if a value has this form and a wrong checksum: we never made it."""
        return self.has(value) and _checksum(value[:-CHECKSUM]) != value[-CHECKSUM:]

    def problem(self, value: str) -> str | None:
        """The rule that a mistyped value breaks, without the value; None for any other."""
        if not self.is_mistyped(value):
            return None
        return (
            f"it begins with {self.start} and has {self.length} characters, as generated keys do, and its checksum is "
            "wrong: copy it again, or take a value of another form"
        )


def _checksum(text: str) -> str:
    return _in_base_62(zlib.crc32(text.encode()), CHECKSUM)


def _in_base_62(number: int, digits: int) -> str:
    """A number in base 62, with leading zeros."""
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, len(DIGITS))
        text = DIGITS[digit] + text
    return text

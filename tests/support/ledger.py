"""A caller's ledger as Redis holds it (layout: redisio/lua/prelude/ledger.lua)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

FORMAT: Final = ">Bddddddddd"
SIZE: Final = struct.calcsize(FORMAT)  # holds may follow (redisio/lua/prelude/holds.lua)


@dataclass(frozen=True)
class Ledger:
    """The numbers of a ledger in its first form."""

    debt: int
    at: int
    n: int
    m: int
    start: int
    used: int
    day: int
    day_used: int
    day_left: int

    @classmethod
    def of(cls, raw: bytes) -> Ledger:
        """Raises struct.error if anything follows, such as a hold."""
        return cls(*map(int, struct.unpack(FORMAT, raw)[1:]))

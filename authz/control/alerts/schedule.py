"""When a delivery is tried again, and what follows from an attempt: arithmetic on values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    """The end of an attempt: the status of the answer, or None and `error` in words.

    `retry_after` are the seconds that the receiver asks for.
    """

    status: int | None = None
    error: str = ""
    retry_after: float | None = None

    @property
    def arrived(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Next(Enum):
    """What follows from an attempt."""

    DONE = "done"
    AGAIN = "again"
    GIVE_UP = "give up"
    DISABLE = "disable"  # the receiver answered 410 Gone: it wants no more


@dataclass(frozen=True, slots=True)
class Schedule:
    """The pauses between attempts: each `factor` times as long as the one before it, in seconds.

    `jitter` is the part of a pause that is drawn at random, so that deliveries that failed together do not return
    together.
    """

    first: float = 5.0
    factor: float = 3.0
    longest: float = 7_200.0
    jitter: float = 0.2
    lasts: float = 86_400.0

    def pause(self, attempts: int, chance: float) -> float:
        """The pause after this many attempts; `chance` is drawn from 0 to 1."""
        full = self.first
        for _ in range(attempts - 1):
            full = min(full * self.factor, self.longest)
            if full == self.longest:
                break
        return full * (1 - self.jitter * chance)

    def after(self, attempt: Attempt, attempts: int, age: float, chance: float) -> tuple[Next, float]:
        """What follows from the last of `attempts` attempts, `age` seconds after the first was due; with the pause.

        The last attempt is made when the time ends, however long the receiver asks to wait.
        """
        if attempt.arrived:
            return Next.DONE, 0.0
        if attempt.status == GONE:
            return Next.DISABLE, 0.0
        left = self.lasts - age
        if left <= 0:
            return Next.GIVE_UP, 0.0
        return Next.AGAIN, min(left, max(self.pause(attempts, chance), attempt.retry_after or 0.0))


def retry_after_of(text: str, now: float) -> float | None:
    """The seconds that a `Retry-After` header asks for, which is a number or a date; None if it is neither."""
    word = text.strip()
    if word.isascii() and word.isdigit():
        return float(word[:9])
    try:
        date = parsedate_to_datetime(word)
    except (ValueError, OverflowError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - now)

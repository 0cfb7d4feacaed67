"""Redis's clock, estimated from its replies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

STEP_US = 2_000  # two clocks may differ by this much between two replies before one of them counts as stepped
DRIFT = 1_000  # and by 1 µs more for each `DRIFT` µs between the replies


@dataclass(slots=True)
class RedisClock:
    """Redis's time in µs: this machine's own until the first reply. A step of this machine's clock does not show.

    `pinned` replaces both clocks in tests.
    """

    pinned: Callable[[], int] | None = None
    _offset: int = field(default_factory=lambda: time.time_ns() // 1000 - time.monotonic_ns() // 1000)
    _ahead: tuple[int, int] | None = None  # bounds of the lead of Redis's clock over our ticks, in µs
    _learnt: int = 0

    def now(self) -> int:
        return self.pinned() if self.pinned else time.monotonic_ns() // 1000 + self._offset

    def pin(self) -> int:
        """The time that tests pin for Redis's scripts; 0 lets them use the server's clock."""
        return self.pinned() if self.pinned else 0

    def ticks(self) -> int:
        """Monotonic time in µs. Only a pinned clock can step."""
        return self.pinned() if self.pinned else time.monotonic_ns() // 1000

    def learn(self, reported: int, sent: int | None = None) -> bool:
        """Take over Redis's time from a reply; `sent` is when the command left, in ticks.

        Returns True if Redis's clock has certainly stepped since the last reply.
        """
        ticks = self.ticks()
        before, ahead = self._ahead, (reported - ticks, reported - (ticks if sent is None else sent))
        slack = STEP_US + (ticks - self._learnt) // DRIFT
        self._offset = reported - time.monotonic_ns() // 1000
        self._ahead, self._learnt = ahead, ticks
        return before is not None and not (before[0] - slack <= ahead[1] and ahead[0] <= before[1] + slack)

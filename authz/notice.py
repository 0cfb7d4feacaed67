"""Logs a condition that lasts: when it begins, when its reason changes, and once a minute until it ends.

This is the one rule for everything that cannot be reached or acted upon (docs/explanation/silence.md).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

REPEAT_SECONDS: Final = 60.0  # between two lines with one reason
MAX_LINES: Final = 10  # of one notice within that time, however often the reason changes

log = structlog.get_logger(__name__)


class Notice:
    """One condition, such as "Redis does not answer". `reason` is why it holds now, None while it does not.

    >>> notice = Notice("redis does not answer", redis="redis://127.0.0.1:6379/0")
    >>> notice.says("ConnectionError: refused")  # a line
    >>> notice.says("ConnectionError: refused")  # none before a minute has passed
    >>> notice.ended("redis answers again")  # a line, if the beginning had one
    """

    def __init__(
        self, event: str, *, level: str = "warning", clock: Callable[[], float] = time.monotonic, **fields: Any
    ) -> None:
        """`fields` stand in each line."""
        self.reason: str | None = None
        self._event = event
        self._level = level
        self._clock = clock
        self._fields = fields
        self._said: dict[str, float] = {}  # by reason, since the condition began
        self._lines: deque[float] = deque(maxlen=MAX_LINES)
        self._unsaid = 0

    def says(self, reason: str, **fields: Any) -> None:
        """The condition holds, for this reason. Logs a line where one is due."""
        now = self._clock()
        self.reason = reason
        said = self._said.get(reason)
        is_due = said is None or now - said >= REPEAT_SECONDS
        # A condition that comes and goes all the time must not fill a disk.
        is_full = len(self._lines) == MAX_LINES and now - self._lines[0] < REPEAT_SECONDS
        if not is_due or is_full:
            self._unsaid += 1
            return
        self._lines.append(now)
        self._said = {one: at for one, at in self._said.items() if now - at < REPEAT_SECONDS}
        self._said[reason] = now
        left_out = {"left_out": self._unsaid} if self._unsaid else {}
        self._unsaid = 0
        getattr(log, self._level)(self._event, **self._fields, reason=reason, **fields, **left_out)

    def ended(self, event: str | None = None, **fields: Any) -> None:
        """The condition holds no longer. Logs `event`, if there is one and the beginning was logged."""
        was_said, self._said, self.reason = bool(self._said), {}, None
        if event and was_said:
            log.info(event, **self._fields, **fields)

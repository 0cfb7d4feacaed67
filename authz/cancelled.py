"""Lets a loop that goes on after any fault still end when it is cancelled."""

from __future__ import annotations

import asyncio


def heed_cancellation() -> None:
    """Raise CancelledError if the current task was cancelled, although another exception has reached its loop.

    A fault while a connection closes, or of a second task in a group, takes the place of the CancelledError.
    """
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError

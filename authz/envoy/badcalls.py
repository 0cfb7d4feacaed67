"""Calls at the gRPC port that no Envoy makes on purpose: all are counted, and each problem is logged once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import structlog

from authz.observe.metrics import Metrics

QUIET_SECONDS: Final = 60.0  # between two lines about the same problem

log = structlog.get_logger(__name__)


class CallFault(StrEnum):
    """A fault of a call."""

    TOO_LARGE = "too_large"
    ENDED = "ended"
    NO_MESSAGE = "no_message"
    MALFORMED = "malformed"
    UNDECODABLE = "undecodable"
    UNKNOWN_METHOD = "unknown_method"


BODY: Final = "the filter's with_request_body may send bodies, which are never read: leave it out"
HINTS: Final = {
    CallFault.TOO_LARGE: f"a message is larger than the bound; {BODY}",
    CallFault.ENDED: "a call ended before it was read or answered: "
    f"the message is larger than the bound, or damaged, or the caller left; {BODY}",
    CallFault.NO_MESSAGE: "a call has no message",
    CallFault.MALFORMED: "a call is not one message of gRPC",
    CallFault.UNDECODABLE: "a message is no CheckRequest",
    CallFault.UNKNOWN_METHOD: "a call names a method that is not served",
}


class BadCalls:
    """Counts calls by their problem. A flood of them costs a line a minute."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._count = metrics.bad_calls
        self._now = now
        self._quiet_until: dict[CallFault, float] = {}
        self._unlogged: dict[CallFault, int] = {}

    def __call__(self, problem: CallFault) -> None:
        self._count(problem)
        calls, now = self._unlogged.get(problem, 0) + 1, self._now()
        if now < self._quiet_until.get(problem, now):
            self._unlogged[problem] = calls
            return
        self._quiet_until[problem], self._unlogged[problem] = now + QUIET_SECONDS, 0
        log.warning("bad call", problem=problem, calls=calls, hint=HINTS[problem])

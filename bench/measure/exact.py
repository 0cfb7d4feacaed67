"""Whether a limit holds: many calls at once, calls on both sides of a window's edge, and the cost of refused calls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from bench.load.h2 import Connection
from bench.load.inputs import always
from bench.load.loops import Judge, Outcome, closed

CALLS = 2_000
CONNECTIONS = 40
FEW = 16
TIGHT, EDGE, WIDE = 100, 100, 1_000  # the limits: for good, a second, for good
EACH_SIDE = 2 * EDGE
BEFORE_SECONDS, AFTER_SECONDS = 0.05, 0.005  # of the whole second


@dataclass(frozen=True, slots=True)
class Questions:
    """What to ask a server, and how to read its answers. Each message is one call, serialised.

    `tight` takes from a limit of 100 and one of 1,000, `wide` from the latter alone, `edge` from one of 100 a second.
    """

    address: str
    path: str
    judge: Judge
    tight: bytes
    wide: bytes
    edge: bytes


@dataclass(frozen=True, slots=True)
class Exactness:
    """The findings. `edge_most` is how many a bucket of 100 that gains 100 a second could have let through.

    `charged` is what the refused calls took from the limit of 1,000.
    """

    admitted: int
    failed: int
    edge_admitted: int
    edge_most: int
    edge_seconds: float
    charged: int


def exactness(ask: Questions) -> Exactness:
    """Raises OSError where the server cannot be reached. Its limits must be unspent."""
    crowd = _at_once(ask, ask.tight, CALLS)
    left = _at_once(ask, ask.wide, WIDE + EACH_SIDE, in_flight=FEW)  # too few to be shed
    edge, seconds = _across_the_edge(ask)
    return Exactness(
        admitted=crowd.admitted,
        failed=crowd.failed + left.failed + edge.failed,
        edge_admitted=edge.admitted,
        edge_most=most_of_a_bucket(EDGE, seconds),
        edge_seconds=seconds,
        charged=WIDE - crowd.admitted - left.admitted,
    )


def most_of_a_bucket(limit: int, seconds: float) -> int:
    """What a full bucket of this size, that gains as much each second, can let through in that time."""
    return math.floor(limit + limit * seconds)


def _at_once(ask: Questions, message: bytes, calls: int, in_flight: int | None = None) -> Outcome:
    with _connections(ask) as connections:
        return closed(connections, always(message), ask.judge, in_flight=in_flight or calls, total=calls)


def _across_the_edge(ask: Questions) -> tuple[Outcome, float]:
    """Twice the limit just before a second turns, as much just after; and the time from first to last."""
    with _connections(ask) as connections:
        turn = math.ceil(time.time() + 2 * BEFORE_SECONDS)
        _sleep_until(turn - BEFORE_SECONDS)
        began = perf_counter()
        before = closed(connections, always(ask.edge), ask.judge, in_flight=EACH_SIDE, total=EACH_SIDE)
        _sleep_until(turn + AFTER_SECONDS)
        after = closed(connections, always(ask.edge), ask.judge, in_flight=EACH_SIDE, total=EACH_SIDE)
        seconds = perf_counter() - began
    both = Outcome(seconds, before.admitted + after.admitted, before.refused + after.refused)
    both.failed = before.failed + after.failed
    return both, seconds


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.time()))


@contextmanager
def _connections(ask: Questions) -> Iterator[Sequence[Connection]]:
    connections = [Connection(ask.address, ask.path, "10S") for _ in range(CONNECTIONS)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()

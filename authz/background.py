"""Heavy work beside a serving event loop: in a thread, and in pieces between which the loop gets its turn.

One interpreter runs one thread at a time. The loop gives up its turn whenever it waits for a socket, and gets it back
when the other thread's turn is over, or its call into C. So turns are short, and what C does in one go is cut up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from authz.core.catalog import Catalog
from authz.core.resources import Resources

TURN_SECONDS: Final = 0.0005
PIECE: Final = 1_000  # values that C may make or free in one go

P = ParamSpec("P")
T = TypeVar("T")


class _Turns:
    """How long a thread may run while another waits, and how much heavy work is under way."""

    under_way = 0
    usual = 0.0


async def in_background(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, done in a thread while the loop goes on."""
    with _short_turns():
        return await asyncio.to_thread(work, *args, **kwargs)


async def let_go(values: list[object]) -> None:
    """Free catalogs and resources, to which nobody else refers, and empty the list."""
    if not values:
        return
    pieces = await in_background(lambda: [part for value in values for part in _large_parts(value)])
    values.clear()
    await in_background(_shrink, pieces)


@contextmanager
def _short_turns() -> Iterator[None]:
    if not _Turns.under_way:
        _Turns.usual = sys.getswitchinterval()
        sys.setswitchinterval(TURN_SECONDS)
    _Turns.under_way += 1
    try:
        yield
    finally:
        _Turns.under_way -= 1
        if not _Turns.under_way:
            sys.setswitchinterval(_Turns.usual)


def _large_parts(value: object) -> list[list[object]]:
    """Lists of what grows with the number of keys and plans: they keep it alive when the value itself goes."""
    match value:
        case Catalog(callers=callers, plans=plans):
            return [list(callers), list(callers.values()), list(plans.values())]
        case Resources(api_keys=keys, usage_plans=plans):
            return [list(keys), [name for plan in plans for name in plan.keys], list(plans)]
        case _:
            return []


def _shrink(lists: list[list[object]]) -> None:
    for values in lists:
        while values:
            del values[-PIECE:]

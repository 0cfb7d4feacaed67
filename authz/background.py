"""Heavy work beside a serving event loop: in a thread, and in pieces, so that the loop runs in between.

One interpreter runs one thread at a time. The loop gives up its turn whenever it waits for a socket, and gets it back
when the other thread's turn is over, or its call into C. So turns are short, and what C does in one go is cut up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from authz.core.catalog import Catalog
from authz.core.resources import Resources

TURN_SECONDS: Final = 0.0005
PIECE: Final = 1_000  # values that C may make or free in one go

P = ParamSpec("P")
T = TypeVar("T")


class _Turns:
    """The usual switch interval of threads, and the number of heavy tasks in flight."""

    under_way = 0
    usual = 0.0


async def in_background(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread while the loop goes on, and return its result."""
    if not _Turns.under_way:
        _Turns.usual = sys.getswitchinterval()
        sys.setswitchinterval(TURN_SECONDS)
    _Turns.under_way += 1
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    finally:
        _Turns.under_way -= 1
        if not _Turns.under_way:
            sys.setswitchinterval(_Turns.usual)


async def let_go(values: list[object]) -> None:
    """Free catalogs and resources that have no other reference, and empty the list."""
    if not values:
        return
    pieces = await in_background(lambda: [part for value in values for part in _large_parts(value)])
    values.clear()
    await in_background(_shrink, pieces)


def _large_parts(value: object) -> list[list[object]]:
    """The parts that grow with the number of keys and plans, as lists: they stay alive when the value itself goes."""
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

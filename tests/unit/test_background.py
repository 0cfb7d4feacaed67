"""Heavy work beside the loop: the loop goes on, and released values are freed."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import pytest

from authz.background import PIECE, TURN_SECONDS, in_background, let_go
from authz.core.catalog import Catalog
from authz.core.resources import Resources
from authz.sidecar.memory import THRESHOLDS, freeze
from tests.support.builders import key, resources


async def test_turns_are_short_while_any_work_is_under_way_and_only_then() -> None:
    usual, release = sys.getswitchinterval(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> float:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return sys.getswitchinterval()

    first, second = asyncio.create_task(in_background(wait)), asyncio.create_task(in_background(wait))
    assert await in_background(sys.getswitchinterval) == pytest.approx(TURN_SECONDS)
    release.set()
    assert await asyncio.gather(first, second) == pytest.approx([TURN_SECONDS] * 2)
    assert sys.getswitchinterval() == pytest.approx(usual)


async def test_work_that_fails_fails_its_caller_and_leaves_turns_as_they_were() -> None:
    usual = sys.getswitchinterval()
    with pytest.raises(ValueError, match="invalid literal"):
        await in_background(int, "no number")
    assert sys.getswitchinterval() == pytest.approx(usual)


class _Watched(dict):  # type: ignore[type-arg]
    """A dict that can be weakly referenced."""


async def test_released_catalogs_are_freed() -> None:
    keys = tuple(key(id=f"k{n}") for n in range(3 * PIECE))
    values: list[object] = [resources(api_keys=keys), Catalog.compile(Resources())]
    callers = _Watched(Catalog.compile(resources()).callers)
    seen = weakref.ref(callers)
    values.append(Catalog({}, {}, {}, {}, callers, None))  # type: ignore[arg-type]
    del callers
    before = sys.getrefcount(keys[0])
    await let_go(values)
    gc.collect()
    after = sys.getrefcount(keys[0])
    assert (values, seen(), after) == ([], None, before)


async def test_who_still_holds_it_keeps_it_whole() -> None:
    catalog = Catalog.compile(resources())
    callers = dict(catalog.callers)
    await let_go([catalog])
    assert catalog.callers == callers
    assert callers


def test_settled_objects_are_set_aside() -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        freeze()
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)

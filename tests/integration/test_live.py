"""The catalog follows its file: however it is replaced, a good change is swapped in and a bad one changes nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from authz import notice
from authz.config import live
from authz.config.file import load
from authz.config.live import LiveCatalog, Outcome, _Patience
from authz.core.catalog import Catalog
from authz.core.resources import Resources

DEADLINE_SECONDS = 20.0


def document(name: str, extra: str = "") -> str:
    """A file whose one plan has such a name."""
    return f"usagePlans: [{{id: p1, name: {name}}}]\n{extra}"


def write(path: Path, name: str, extra: str = "") -> None:
    path.write_text(document(name, extra))


class Watched:
    """A live catalog of plan names, with its outcomes along the way."""

    def __init__(self, path: Path) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.compiled = 0
        self.live = LiveCatalog(path, load(path), self._names, self._observe)

    def _names(self, resources: Resources) -> tuple[str, ...]:
        self.compiled += 1
        return tuple(plan.name for plan in resources.usage_plans)

    def _observe(self, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = monotonic() + DEADLINE_SECONDS
        while not holds():
            assert monotonic() < deadline, (self.live.current, self.live.problem, self.outcomes)
            await asyncio.sleep(0.02)

    async def serves(self, name: str) -> None:
        await self.until(lambda: self.live.current == (name,))


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Watched]:
    watched = Watched(path)
    task = asyncio.create_task(watched.live.watch())
    try:
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def logged() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a directory of its own."""
    path = tmp_path / "etc" / "plans.yaml"
    path.parent.mkdir()
    write(path, "one")
    return path


async def test_a_file_written_in_place_is_swapped_in(path: Path) -> None:
    async with watching(path) as watched:
        assert (watched.live.current, str(watched.live.version)[:2]) == (("one",), "1-")
        write(path, "two")
        await watched.serves("two")
        assert watched.live.version.number == 2
        assert watched.outcomes == {"swapped": 1}


async def test_a_file_renamed_into_place_is_swapped_in(path: Path) -> None:
    """As editors do: the new text gets the old name, and the old file is gone."""
    async with watching(path) as watched:
        for name in ("two", "three"):
            draft = path.with_suffix(".tmp")
            draft.write_text(document(name))
            draft.rename(path)
            await watched.serves(name)


async def test_a_configmap_is_swapped_in(tmp_path: Path) -> None:
    """As Kubernetes does: the file is a link through `..data`, which is replaced, and the old directory removed."""
    mount = tmp_path / "mount"

    def publish(name: str) -> None:
        (mount / f"..{name}").mkdir(parents=True)
        (mount / f"..{name}" / "plans.yaml").write_text(document(name))
        (mount / "..data_tmp").symlink_to(f"..{name}")
        (mount / "..data_tmp").rename(mount / "..data")

    publish("one")
    (mount / "plans.yaml").symlink_to("..data/plans.yaml")
    async with watching(mount / "plans.yaml") as watched:
        for old, new in (("one", "two"), ("two", "three")):
            publish(new)
            shutil.rmtree(mount / f"..{old}")
            await watched.serves(new)


async def test_a_linked_file_is_followed_into_its_own_directory(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.yaml"
    target.parent.mkdir()
    shutil.move(path, target)
    os.symlink(target, path)  # noqa: PTH211
    async with watching(path) as watched:
        target.write_text(document("two"))
        await watched.serves("two")


async def test_a_watcher_that_fails_again_and_again_is_logged_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And meanwhile the file is still read; a minute is longer than any test."""
    tries, works = [], live._changes

    async def fails(ground: live._Ground) -> AsyncIterator[object]:
        tries.append(ground)
        raise OSError("no inotify instance is left")
        yield

    monkeypatch.setattr(notice, "REPEAT_SECONDS", 3600.0)
    monkeypatch.setattr(live, "POLL_MILLISECONDS", 10)
    monkeypatch.setattr(live, "_changes", fails)
    with logged() as lines:
        async with watching(path) as watched:
            await watched.until(lambda: len(tries) >= 5)
            write(path, "two")
            await watched.serves("two")
            monkeypatch.setattr(live, "_changes", works)
            again = "the configuration is watched again"
            await watched.until(lambda: any(line["event"] == again for line in lines))
    told = [line["reason"] for line in lines if line["event"] == "watching the configuration failed"]
    assert told == ["OSError: no inotify instance is left"]


async def test_a_bad_file_leaves_the_last_good_catalog_in_force(path: Path) -> None:
    problem = f"{path}: $.apis[0].id: expected 1 to 128 letters, digits, - or _, got 'a b' (line 2, in a b)"
    with logged() as lines:
        async with watching(path) as watched:
            before = watched.live.version
            write(path, "two", "apis: [{id: a b}]")
            await watched.until(lambda: watched.live.problem is not None)
            assert watched.live.problem == problem
            assert (watched.live.current, watched.live.version) == (("one",), before)
            assert watched.outcomes == {"refused": 1}
            write(path, "two")
            await watched.serves("two")
            assert watched.live.problem is None
    refused = next(line for line in lines if line["event"] == "catalog refused")
    assert refused["problems"] == [problem]
    assert refused["serving"] == str(before)


async def test_a_deleted_file_is_a_problem_until_it_is_there_again(path: Path) -> None:
    async with watching(path) as watched:
        os.remove(path)  # noqa: PTH107  (Path's own is refused in async functions)
        await watched.until(lambda: watched.live.problem == f"{path}: no such file")
        assert watched.live.current == ("one",)
        write(path, "two")
        await watched.serves("two")


async def test_a_directory_that_is_removed_and_made_again_is_watched_again(path: Path) -> None:
    async with watching(path) as watched:
        shutil.rmtree(path.parent)
        await watched.until(lambda: watched.live.problem is not None)
        path.parent.mkdir()
        for name in ("two", "three"):
            write(path, name)
            await watched.serves(name)


async def test_a_change_before_the_watch_begins_is_not_missed(path: Path) -> None:
    watched = Watched(path)
    write(path, "two")
    task = asyncio.create_task(watched.live.watch())
    await watched.serves("two")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_same_content_makes_no_new_version(path: Path) -> None:
    async with watching(path) as watched:
        write(path, "one", "# a remark\n")
        await watched.until(lambda: watched.outcomes["unchanged"] == 1)
        assert watched.live.version.number == 1
        assert watched.compiled == 1


async def test_a_version_names_the_same_content_in_every_process(path: Path) -> None:
    assert Watched(path).live.version == Watched(path).live.version


async def test_a_file_on_which_the_loader_crashes_is_not_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look costs a process; whatever else happens in the directory makes us look."""
    watched = Watched(path)
    write(path, "two")
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONHASHSEED", "a Python that reads this ends at once")
        for _ in range(3):
            await watched.live.look()
    assert (watched.live.problem, watched.outcomes) == (f"{path}: the loader ended with status 1", {"refused": 1})
    write(path, "three")
    await watched.live.look()
    assert watched.live.current == ("three",)


async def test_a_loader_that_was_kept_from_it_tries_later_and_another_file_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(path)
    write(path, "two")
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        for _ in range(3):
            await watched.live.look()
        assert watched.outcomes == {"refused": 1}
        write(path, "three")
        await watched.live.look()
        assert watched.outcomes == {"refused": 2}
    await watched.live.reload()
    assert watched.live.current == ("three",)


def test_each_wait_for_another_try_is_twice_the_last() -> None:
    patience, waits = _Patience(), []
    for _ in range(8):
        patience = patience.after(None, 100.0)
        waits.append(patience.due - 100)
        assert not patience.is_over(None, patience.due - 0.1)
        assert patience.is_over(None, patience.due)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_reloads_that_overlap_share_one_more_reading(path: Path) -> None:
    watched = Watched(path)
    await asyncio.gather(*(watched.live.reload() for _ in range(10)))
    assert watched.outcomes.total() <= 2


async def test_a_reload_covers_every_earlier_write(path: Path) -> None:
    """A caller that comes while an older state is being read waits for the newer one."""
    watched = Watched(path)
    first = asyncio.create_task(watched.live.reload())
    await asyncio.sleep(0)
    write(path, "two")
    await watched.live.reload()
    assert watched.live.current == ("two",)
    await first


async def test_a_cancelled_reload_leaves_the_next_one_working(path: Path) -> None:
    watched = Watched(path)
    first = asyncio.create_task(watched.live.reload())
    await asyncio.sleep(0)
    first.cancel()
    write(path, "two")
    await watched.live.reload()
    assert watched.live.current == ("two",)


async def test_changed_settings_are_named_and_ask_for_a_restart(path: Path) -> None:
    watched = Watched(path)
    write(path, "one", "settings: {redisUrl: 'redis://:secret@h'}\n")
    with logged() as lines:
        await watched.live.reload()
        await watched.live.reload()
    warnings = [line for line in lines if line["event"] == "settings need a restart"]
    assert [line["changed"] for line in warnings] == [["redisUrl"]]
    assert "secret" not in str(lines)


async def test_a_catalog_that_does_not_compile_is_refused(path: Path) -> None:
    def compile_(resources: Resources) -> str:
        if resources.usage_plans[0].name == "two":
            raise ZeroDivisionError
        return resources.usage_plans[0].name

    live = LiveCatalog(path, load(path), compile_)
    write(path, "two")
    with logged():
        await live.reload()
    assert (live.current, live.problem) == ("one", f"{path}: ZeroDivisionError")


async def test_the_real_catalog_is_compiled_and_swapped(path: Path) -> None:
    live = LiveCatalog(path, load(path), Catalog.compile)
    assert live.current.apis.keys() == set()
    write(path, "two", "apis: [{id: a1}]")
    await live.reload()
    assert live.current.apis.keys() == {"a1"}


class Compiled:
    """Something compiled; it can be seen to go."""


async def test_a_replaced_catalog_is_freed(tmp_path: Path) -> None:
    """A process that reloads for months must not keep every catalog that it has served."""
    path = tmp_path / "plans.yaml"
    write(path, "one")
    live = LiveCatalog(path, load(path), lambda _: Compiled())
    replaced = []
    for name in ("two", "three"):
        replaced.append(weakref.ref(live.current))
        write(path, name)
        await live.reload()
    gc.collect()
    assert [one() for one in replaced] == [None, None]
    assert isinstance(live.current, Compiled)

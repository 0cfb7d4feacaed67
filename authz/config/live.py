"""The catalog in force. It follows the plans file, and a new catalog replaces the old one by one reference."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

import structlog
from watchfiles import awatch

from authz.background import in_background, let_go
from authz.cancelled import heed_cancellation
from authz.config.faults import ConfigError
from authz.config.file import Config, LoaderStoppedError, Stamp, load_in_child, stamp
from authz.core.resources import Resources
from authz.notice import Notice
from authz.redisio.url import in_words

Outcome = Literal["swapped", "unchanged", "refused"]
C = TypeVar("C")

# A file that is written in place is read after the shorter time without a change, or after the longer one with changes.
QUIET_MILLISECONDS = 50
RESTLESS_MILLISECONDS = 400
POLL_MILLISECONDS = 1000
# Waits between two tries to read a file after a failure that may not be the file's fault.
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Version:
    """A catalog's place in this process's life, and a digest of its resources that is the same in every sidecar."""

    number: int
    content: str

    def __str__(self) -> str:
        return self.text

    @cached_property
    def text(self) -> str:
        """As it stands in each answer's metadata."""
        return f"{self.number}-{self.content}"


@dataclass(frozen=True, slots=True)
class _Snapshot(Generic[C]):
    catalog: C
    version: Version
    loaded_at: float


@dataclass(frozen=True, slots=True)
class _Patience:
    """The file that could not be read to its end, and when the next try is due, in monotonic seconds."""

    stamp: Stamp | None = None
    seconds: float = 0.0
    due: float = 0.0

    def is_over(self, found: Stamp | None, now: float) -> bool:
        """True if the next try is due. A file that has changed since the failure is tried at once."""
        return found != self.stamp or now >= self.due

    def after(self, tried: Stamp | None, now: float) -> _Patience:
        """The state after one more failure. Each wait is twice the last."""
        again = self.seconds > 0 and tried == self.stamp
        seconds = min(2 * self.seconds, LAST_RETRY_SECONDS) if again else FIRST_RETRY_SECONDS
        return _Patience(tried, seconds, now + seconds)


class LiveCatalog(Generic[C]):
    """The last good catalog. A change that can't be compiled leaves it in force, and `problem` has the reason."""

    def __init__(
        self,
        path: Path,
        config: Config,
        compile_: Callable[[Resources], C],
        observe: Callable[[Outcome], None] = lambda _: None,
        catalog: C | None = None,
    ) -> None:
        """`catalog` is the compiled configuration, for a caller that has it already."""
        self.path = path
        self.problem: str | None = None
        self.checked_at = time.time()
        """The time of the last look at the file, or of our start, in seconds of Unix time."""
        self._compile = compile_
        self._observe = observe
        self._settings = config.settings
        first = compile_(config.resources) if catalog is None else catalog
        self._snapshot = _Snapshot(first, Version(1, config.content), time.time())
        self._seen = config.stamp
        self._warn(config)
        self._patience = _Patience()
        self._stale: list[object] = []  # replaced values that are still to be freed
        self._turn = asyncio.Lock()
        self._unwatched = Notice("watching the configuration failed", path=str(path))
        self._asked = self._answered = 0

    @property
    def current(self) -> C:
        """The catalog; a request takes it once and keeps to it."""
        return self._snapshot.catalog

    @property
    def version(self) -> Version:
        return self._snapshot.version

    @property
    def loaded_at(self) -> float:
        """When the catalog came into force, in seconds of Unix time."""
        return self._snapshot.loaded_at

    async def loaded(self) -> None:
        """Return when there is a catalog. Here there is one from the start."""

    async def reload(self) -> None:
        """Read the file again. Callers that come while it is being read share one more reading."""
        self._asked = asked = self._asked + 1
        async with self._turn:
            if self._answered < asked:
                answering = self._asked
                await self._read()
                self._answered = answering

    async def watch(self) -> None:
        """Reload whenever the file changes, until cancelled. Outlives a lost directory and a watcher that fails."""
        while True:
            try:
                await self._follow()
            except Exception as fault:  # the outermost loop: without a watcher the file is looked at once a second
                heed_cancellation()
                self._unwatched.says(in_words(fault))
                await asyncio.sleep(POLL_MILLISECONDS / 1000)

    async def _follow(self) -> None:
        """Reload on every change, until the directories to watch are different ones."""
        ground = _ground(self.path)
        await self.look()
        async with contextlib.aclosing(_changes(ground)) as changes:
            async for _ in changes:
                self._unwatched.ended("the configuration is watched again")
                await self.look()
                if _ground(self.path) != ground:
                    return

    async def look(self) -> None:
        """Reload if the file has changed since it was last read, unless a failed try is too recent."""
        found = stamp(self.path)
        if found != self._seen and self._patience.is_over(found, time.monotonic()):
            await self.reload()
        self.checked_at = time.time()

    async def _read(self) -> None:
        seen = stamp(self.path)
        try:
            outcome = await self._swap(await load_in_child(self.path))
        except (LoaderStoppedError, OSError) as fault:  # perhaps not the file's fault: a later look tries again
            self._patience = self._patience.after(seen, time.monotonic())
            outcome, seen = self._refuse([str(fault)]), self._seen
        except ConfigError as refused:
            outcome = self._refuse([str(problem) for problem in refused.problems])
        except Exception as fault:  # the outermost loop: the last good catalog serves, whatever happened to this one
            log.exception("catalog failed", path=str(self.path))
            outcome = self._refuse([f"{self.path}: {type(fault).__name__}"])
        else:
            self._patience = _Patience()
        self._seen = seen
        self._observe(outcome)
        await let_go(self._stale)

    async def _swap(self, config: Config) -> Outcome:
        self._warn(config)
        self._warn_of_settings(config)
        outcome: Outcome = "unchanged"
        self._stale.append(config.resources)
        if config.content != self.version.content:
            catalog = await in_background(self._compile, config.resources)
            version = Version(self.version.number + 1, config.content)
            self._stale.append(self.current)
            self._snapshot, outcome = _Snapshot(catalog, version, time.time()), "swapped"
        self.problem = None
        log.info("catalog loaded", path=str(self.path), outcome=outcome, version=str(self.version))
        return outcome

    def _refuse(self, problems: list[str]) -> Outcome:
        self.problem = "\n".join(problems)
        log.error("catalog refused", path=str(self.path), problems=problems, serving=str(self.version))
        return "refused"

    def _warn(self, config: Config) -> None:
        if config.warning:
            log.warning("catalog with a warning", path=str(self.path), warning=config.warning)

    def _warn_of_settings(self, config: Config) -> None:
        """Warn that changed settings need a restart, by name only, since a value may be a password."""
        changed = config.settings.keys() ^ self._settings.keys() | {
            name
            for name in config.settings.keys() & self._settings.keys()
            if config.settings[name] != self._settings[name]
        }
        if changed:
            log.warning("settings need a restart", path=str(self.path), changed=sorted(changed))
        self._settings = config.settings


_Ground = dict[Path, tuple[int, int]]


def _ground(path: Path) -> _Ground:
    """The directories to watch for changes of the file: that of its name, and that of its real path.

    Each with its identity: a directory that was removed and made again has to be watched anew.
    """
    directories = {path.absolute().parent, Path(os.path.realpath(path)).parent}
    ground: _Ground = {}
    for directory in directories:
        with contextlib.suppress(OSError):
            found = directory.stat()
            ground[directory] = found.st_dev, found.st_ino
    return ground


def _changes(ground: _Ground) -> AsyncGenerator[object, None]:
    """Yield an item for every change in the directories, and one a second for changes that no watcher reports."""
    return awatch(
        *ground,
        watch_filter=None,
        recursive=False,
        step=QUIET_MILLISECONDS,
        debounce=RESTLESS_MILLISECONDS,
        rust_timeout=POLL_MILLISECONDS,
        yield_on_timeout=True,
    )

"""The store of one account in Redis: items and lists to read, and edits to commit.

Items lie in one hash a kind. Lists, sorted words and unique words follow from the items (`authz.core.stored.indexes`),
and one script writes them together with the items. The configuration file's items can be read here, and not written.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Final, TypeVar

from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.stored import Item, Items, StoredKey, indexes
from authz.store.audit import read_audit
from authz.store.commit import commit
from authz.store.database import CHUNK
from authz.store.edit import Edit, raw_items, raw_members
from authz.store.feed import Feed
from authz.store.fixed import FixedItems, id_in
from authz.store.items import decode, decode_if_any
from authz.store.paging import Position
from authz.store.ports import AuditPage, AuditQuery, Contention, Page, Written

T = TypeVar("T")

ATTEMPTS: Final = 20  # at a write that loses its race
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.005, 0.25  # upper bounds of the random pause before the next attempt

FEW_MEMBERS: Final = 5_000  # of a list whose keys are read to search for names
SCANNED: Final = 20  # chunks of words that a search in a longer list reads for a page

_SCORED: Final = ("WITHSCORES", "LIMIT")


class Store(Feed):
    """Reads and writes the store. Fulfils `ports.Writer` and `ports.ChangeFeed`. `fixed` gives the file's items.

    `budget` is in seconds for each command, `clock` in µs of Unix time, for tests. `replicas` is how many replicas must
    confirm a write; None takes what the URL suggests.
    """

    def __init__(
        self,
        url: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        budget: float = 1.0,
        fixed: Callable[[], Items] = dict,
        clock: Callable[[], int] | None = None,
        replicas: int | None = None,
    ) -> None:
        super().__init__(url, account=account, budget=budget, clock=clock, replicas=replicas)
        self._turn = asyncio.Lock()
        self._fixed_items = fixed
        self._fixed = FixedItems({})

    @property
    def fixed(self) -> FixedItems:
        """The file's items as of now; the file may be reloaded."""
        items = self._fixed_items()
        if items is not self._fixed.items and items != self._fixed.items:
            self._fixed = FixedItems.of(items)
        return self._fixed

    # --- read ---

    async def get(self, kind: str, item_id: str) -> Item | None:
        return (await self.many(kind, (item_id,)))[0]

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        """The items of these ids, None for each that does not exist."""
        fixed = self.fixed.items
        stored = [item_id for item_id in ids if (kind, item_id) not in fixed]
        raws = dict(zip(stored, await raw_items(self.database, kind, stored), strict=True))
        return [fixed.get((kind, item_id)) or decode_if_any(kind, raws.get(item_id)) for item_id in ids]

    async def members(self, list_: str) -> list[str]:
        """The ids in a list, the newest first, and then the file's."""
        return [*await raw_members(self.database, list_), *self.fixed.after(list_, None)]

    async def count(self, list_: str) -> int:
        return int(await self.database.ask("ZCARD", self.database.list_key(list_))) + len(
            self.fixed.lists.get(list_, ())
        )

    async def owner(self, unique: str) -> str | None:
        """The item that owns a unique word, as `kind/id`."""
        if unique in self.fixed.unique:
            return self.fixed.unique[unique]
        owner = await self.database.ask("HGET", self.database.store_key("unique"), unique)
        return None if owner is None else owner.decode()

    async def audit(self, query: AuditQuery, limit: int, position: str | None = None) -> AuditPage:
        """Lines of the audit, the newest first. Raises InvalidPosition."""
        return await read_audit(self.database, query, limit, position)

    async def page(self, kind: str, list_: str, limit: int, position: str | None = None) -> Page[Any]:
        """Items of a list, the newest first, and then the file's. An item that joins later is on no later page.

        Raises InvalidPosition.
        """
        start = Position.read(position, r"[0-9]{1,16}")
        ends: list[tuple[Position, str]] = []
        if not start.in_file:
            top = "+inf" if start.mark is None else f"({start.mark}"
            key = self.database.list_key(list_)
            rows = await self.database.ask("ZREVRANGEBYSCORE", key, top, "-inf", *_SCORED, 0, limit + 1)
            scored = zip(rows[::2], rows[1::2], strict=True)
            ends = [(Position(score.decode()), member.decode()) for member, score in scored]
        rest = self.fixed.after(list_, start.mark if start.in_file else None)
        ends.extend((Position(member, in_file=True), member) for member in islice(rest, limit + 1 - len(ends)))
        return await self._page(kind, ends, limit)

    async def search(
        self, prefix: str, limit: int, position: str | None = None, within: str | None = None
    ) -> Page[StoredKey]:
        """Keys in the order of their words in `Indexes.sorted`, and then the file's.

        With `within`, only members of that list; a page may then be short, or empty, and have a position.
        Raises InvalidPosition.
        """
        start = Position.read(position, re.escape(prefix) + ".*")
        words, stopped = list[str](), None
        if not start.in_file:
            words, stopped = await self._words(prefix, start.mark, limit + 1, within)
        ends = [(Position(word), id_in(word)) for word in words]
        if stopped is not None:
            items = (await self._page("apikey", ends, limit + 1)).items
            return Page(items, str(Position(stopped)))
        rest = self.fixed.words_after(prefix, start.mark if start.in_file else None, within)
        ends.extend((Position(word, in_file=True), id_in(word)) for word in islice(rest, limit + 1 - len(ends)))
        return await self._page("apikey", ends, limit)

    async def _page(self, kind: str, ends: Sequence[tuple[Position, str]], limit: int) -> Page[Any]:
        """The page of these ids. There is one id too many unless it is the last page."""
        here = ends[:limit]
        items = await self.many(kind, [item_id for _, item_id in here])
        position = str(here[-1][0]) if len(ends) > limit else None
        return Page([item for item in items if item is not None], position)

    async def _words(
        self, prefix: str, after: str | None, count: int, within: str | None
    ) -> tuple[list[str], str | None]:
        """Return up to `count` words with this prefix.

        Where few of the words are `within` a list, the search stops after SCANNED chunks; then the second value is the
        word after which it goes on.
        """
        if within is None:
            return await self._chunk(prefix, after, count), None
        if await self.database.ask("ZCARD", self.database.list_key(within)) <= FEW_MEMBERS:
            return (await self._words_of_members(prefix, after, within))[:count], None
        found = list[str]()
        for _ in range(SCANNED):
            words = await self._chunk(prefix, after, CHUNK)
            if words:
                scores = await self.database.ask("ZMSCORE", self.database.list_key(within), *map(id_in, words))
                found += [word for word, score in zip(words, scores, strict=True) if score is not None]
            if len(found) >= count or len(words) < CHUNK:
                return found[:count], None
            after = words[-1]
        return found, after

    async def _chunk(self, prefix: str, after: str | None, count: int) -> list[str]:
        start = b"[" + prefix.encode() if after is None else b"(" + after.encode()
        end = b"[" + prefix.encode() + b"\xff"
        words = await self.database.ask("ZRANGEBYLEX", self.database.store_key("sorted"), start, end, "LIMIT", 0, count)
        return [word.decode() for word in words]

    async def _words_of_members(self, prefix: str, after: str | None, list_: str) -> list[str]:
        """The words of a short list's members, from the items themselves: reading all words would take longer."""
        items = await raw_items(self.database, "apikey", await raw_members(self.database, list_))
        keys = (decode("apikey", raw) for raw in items if raw is not None)
        words = sorted(word for key in keys for word in indexes(key).sorted)
        return [word for word in words if word.startswith(prefix) and (after is None or word > after)]

    # --- write ---

    def draft(self) -> Edit:
        """An edit that can be tried and is never committed."""
        return Edit(self.database, self.fixed)

    async def write(
        self, edit: Callable[[Edit], Awaitable[T]], *, who: str, what: str, note: Callable[[], str] = str
    ) -> Written[T]:
        """Run `edit` and commit it, whole or not at all; run it again if it lost a race.

        The audit line ends with `note()`, read after the edit.

        Raises what `edit` raises, the exceptions that it named for words that are taken and lists that overlap,
        Contention if other writers win every attempt, and StoreUnavailable.
        """
        for attempt in range(ATTEMPTS):
            # Writers that lost once take turns in this process. Other processes may still win, so the pauses differ.
            async with self._turn if attempt or self._turn.locked() else nullcontext():
                draft = self.draft()
                result = await edit(draft)
                committed = await commit(self.database, draft, who, what, note())
            if committed is not None:
                return Written(result, committed.version, committed.at_risk)
            await pause(attempt)
        raise Contention("other writers changed the same items at every attempt")


async def pause(attempt: int) -> None:
    """Wait before the next attempt: longer each time, and at random, so that two writers do not meet again."""
    longest = min(FIRST_PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS)
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  (no secret)

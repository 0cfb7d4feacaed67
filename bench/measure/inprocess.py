"""What needs no server: the limiter driven by itself, and the cost of one answer by the catalog's size."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from time import perf_counter, process_time
from typing import Any

import msgspec

from authz.check import Checker
from authz.core.catalog import Catalog
from authz.core.limits import Charge
from authz.core.request import Request
from authz.core.resources import Resources, digest
from authz.core.verdict import Grant, Tally
from authz.envoy.edge import Authorization
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from authz.observe.metrics import Metrics
from bench.load.inputs import PATH, check_request, document, value_of

NOW = 1_800_000_000_000_000  # µs
BUDGET_SECONDS = 5.0
MANY = 64
DRAWN = 10_000  # calls that one measurement draws from


def compiled(content: dict[str, Any]) -> Catalog:
    """The catalog of a file with this content, without the file: keys by their digests."""
    keys = [{"id": key["id"], "valueSha256": digest(key["value"]).hex()} for key in content["apiKeys"]]
    return Catalog.compile(msgspec.convert(content | {"apiKeys": keys}, Resources))


def grants(catalog: Catalog, numbers: Sequence[int], now: int) -> list[Grant]:
    found = [catalog.resolve(Request("GET", "a1.bench", PATH, {"x-api-key": value_of(n)}), now) for n in numbers]
    assert all(isinstance(grant, Grant) for grant in found), "a key of the file is not known"
    return found  # type: ignore[return-value]


@asynccontextmanager
async def _running(url: str, limiters: int) -> AsyncIterator[list[RedisLimiter]]:
    made = [RedisLimiter(url, budget=BUDGET_SECONDS) for _ in range(limiters)]
    running = [asyncio.create_task(limiter.run()) for limiter in made]
    try:
        for limiter in made:
            assert await limiter.probe(), "Redis does not answer"
        yield made
    finally:
        for task in running:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for limiter in made:
            await limiter.aclose()


async def drive(
    url: str, grants: Sequence[Grant], *, limiters: int, batch: int, seconds: float, mark: Callable[[], None]
) -> int:
    """Decisions of `limiters` limiters; `batch` callers call each at once, and again when all have their answers.

    `mark` is called when all are connected, and when the last answer has come.
    """
    async with _running(url, limiters) as made:
        mark()
        ends = perf_counter() + seconds
        asked = sum(await asyncio.gather(*(_ask(limiter, grants, batch, ends) for limiter in made)))
        mark()
    return asked


async def touch(url: str, grants: Sequence[Grant]) -> None:
    """One call for each grant, so that Redis holds the state of each."""
    async with _running(url, 1) as (limiter,):
        for start in range(0, len(grants), MANY):
            await asyncio.gather(
                *(limiter.admit(Charge(grant.limits, grant.meter)) for grant in grants[start : start + MANY])
            )


async def _ask(limiter: RedisLimiter, grants: Sequence[Grant], batch: int, ends: float) -> int:
    draw, asked = Random(batch), 0
    while perf_counter() < ends:
        chosen = draw.choices(grants, k=batch)
        tallies = await asyncio.gather(*(limiter.admit(Charge(grant.limits, grant.meter)) for grant in chosen))
        assert not any(tally.refused_by for tally in tallies), "a call was refused that has room"
        asked += batch
    return asked


class Admitting:
    """A limiter that has room for everything, at no cost."""

    async def admit(self, charge: Charge) -> Tally:
        return Tally(NOW, (1,) * len(charge.limits))


def answering(catalog: Catalog, **options: Any) -> Callable[[bytes], bytes]:
    """All of an answer but the server and Redis: parse, resolve, judge, word and serialise it."""
    checker = Checker(lambda: catalog, Admitting(), LocalLimiter(1), lambda: NOW)
    service = Authorization(checker, Metrics(), version=lambda: "1", **options)
    return lambda message: _now(service.answer(message, None))


def _now(answer: Awaitable[bytes]) -> bytes:
    """The result of a coroutine that waits for nothing."""
    assert isinstance(answer, Coroutine)
    try:
        answer.send(None)
    except StopIteration as found:
        return bytes(found.value)
    raise AssertionError("the answer waits for something")


def answer_us(catalog: Catalog, keys: int, seconds: float) -> float:
    """CPU of an answer (µs), over keys drawn uniformly."""
    answer = answering(catalog)
    draw = Random(keys)
    messages = [check_request(value_of(draw.randrange(keys))) for _ in range(min(DRAWN, max(200, keys)))]
    for message in messages[:500]:
        answer(message)
    gc.collect()
    calls, began, ends = 0, process_time(), perf_counter() + seconds
    while perf_counter() < ends:
        for message in messages[calls % len(messages) :][:200]:
            answer(message)
            calls += 1
    return 1e6 * (process_time() - began) / calls


def allocations(catalog: Catalog, keys: int) -> dict[str, float]:
    """Of an answer: the most bytes it holds at a time, blocks that stay behind, and garbage collections in 1,000."""
    answer = answering(catalog)
    messages = [check_request(value_of(n % keys)) for n in range(2_000)]
    for message in messages:
        answer(message)
    gc.collect()
    collections, blocks = _collections(), sys.getallocatedblocks()
    for message in messages:
        answer(message)
    gc.collect()
    stay = (sys.getallocatedblocks() - blocks) / len(messages)
    per_thousand = (_collections() - collections) * 1000 / len(messages)
    return {"peak_bytes": _peak_bytes(answer, messages[:50]), "blocks": stay, "collections": per_thousand}


def _collections() -> int:
    return sum(int(generation["collections"]) for generation in gc.get_stats())


def _peak_bytes(answer: Callable[[bytes], bytes], messages: Sequence[bytes]) -> float:
    tracemalloc.start()
    try:
        total = 0
        for message in messages:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            answer(message)
            total += tracemalloc.get_traced_memory()[1] - before
        return total / len(messages)
    finally:
        tracemalloc.stop()


def curves(quick: bool) -> dict[str, list[dict[str, int]]]:
    """What the cost of an answer is drawn over, each by itself: the changes to `inputs.document`."""
    keys = (1, 100, 10_000) if quick else (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
    return {
        "keys": [{"keys": n, "plans": min(n, 100)} for n in keys],
        "plans": [{"keys": 10_000, "plans": n} for n in ((1, 100, 1_000) if quick else (1, 10, 100, 1_000, 10_000))],
        "routes of an API": [{"keys": 1_000, "routes": n} for n in (1, 10, 100, 1_000)],
        "layers": [{"keys": 1_000, "layers": n} for n in (1, 2, 3, 4, 5)],
    }


def catalog_of(changes: dict[str, int]) -> Catalog:
    return compiled(document(**changes))

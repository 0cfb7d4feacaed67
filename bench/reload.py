"""How long a change of the file or of the store takes to be in force, and how long it holds up the server.

    python -m bench.reload [--sizes 100/10/1,5000/1000/10] [--rounds 5]

A size is keys/plans/routes; of the store one plan changes, and its keys are no part of a catalog. Five changes
each have a longest pause of the loop. The least and the middle one are printed, since other work on the machine shows
as a pause, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import structlog
import uvloop

from authz.config.file import load_in_child
from authz.config.live import LiveCatalog
from authz.core.catalog import Compiler
from authz.core.resources import (
    ApiStage,
    Deployment,
    HttpMethod,
    Method,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.stored import Item, StoredDeployment, StoredPlan, StoredStage
from authz.sidecar import memory
from authz.sidecar.follower import StoreCatalog
from authz.store.keys import StoreKeyCache
from authz.store.ports import Draft
from authz.store.store import Store
from bench.measure.servers import redis

SIZES = "100/10/1,10000/10000/1000,100000/1000/10,100000/10000/1000"
DEADLINE_SECONDS = 120.0
SETTLED_SECONDS = 0.5
TICK_SECONDS = 0.001
STORE_SECONDS = 30.0
WRITTEN = 500  # plans in one commit


@dataclass(frozen=True, slots=True)
class Size:
    """What a file holds; the routes are of its one API."""

    keys: int
    plans: int
    routes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What one change of a file came to."""

    swapped_s: float
    child_cpu_s: float
    own_cpu_s: float
    stall_ms: float


STORE_SIZES = (Size(0, 10, 1), Size(0, 10_000, 1_000))


def document(keys: int, plans: int, rate: int, routes: int = 0) -> str:
    """A file with `keys` keys, spread evenly over the plans of one stage; without routes it is one method."""
    return "\n".join(_lines(keys, plans, rate, routes)) + "\n"


def _lines(keys: int, plans: int, rate: int, routes: int) -> Iterator[str]:
    resources = ", ".join(f'"/r{route}/{{id}}": {{GET: {{}}}}' for route in range(routes))
    yield f"apis: [{{id: a1, stages: [{{name: prod}}], resources: {{{resources}}}}}]"
    yield "usagePlans:"
    for plan in range(plans):
        yield f"  - id: p{plan}"
        yield f"    name: Plan {plan}"
        yield f"    throttle: {{rateLimit: {rate}, burstLimit: 100}}"
        yield "    quota: {limit: 5000, period: MONTH}"
        yield "    apiStages: [{apiId: a1, stage: prod}]"
        yield f"    keys: [{', '.join(f'k{key}' for key in range(plan, keys, plans))}]"
    yield "apiKeys:"
    for key in range(keys):
        yield f"  - id: k{key}"
        yield f"    value: k{key}-{'a' * 24}"


class Stall:
    """The longest time for which the event loop did not come round."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def run(self) -> None:
        while True:
            began = perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            self.seconds = max(self.seconds, perf_counter() - began - TICK_SECONDS)


async def measure(directory: Path, size: Size, rounds: int) -> list[Result]:
    path = directory / "plans.yaml"
    path.write_text(document(size.keys, size.plans, 50, size.routes))
    swapped = asyncio.Event()
    live = LiveCatalog(path, await load_in_child(path), Compiler(), lambda _: swapped.set())
    memory.freeze()
    stall = Stall()
    tasks = [asyncio.create_task(live.watch()), asyncio.create_task(stall.run())]
    await asyncio.sleep(0.5)  # the watch is in place
    results = [await change(path, document(*_fields(size, 60 + turn)), swapped, stall) for turn in range(rounds)]
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return results


async def measure_store(url: str, size: Size, rounds: int) -> list[Result]:
    """As above, where the plans and the API are the store's."""
    writer, store = Store(url, budget=STORE_SECONDS), Store(url, budget=STORE_SECONDS)
    routes: dict[str, dict[HttpMethod, Method]] = {f"/r{n}/{{id}}": {"GET": Method()} for n in range(size.routes)}
    await _put(
        writer, [StoredDeployment("d1", "a1", 1, Deployment(resources=routes)), StoredStage("a1", "prod", "d1", 1, 1)]
    )
    for first in range(0, size.plans, WRITTEN):
        await _put(writer, [_plan(number, "a plan") for number in range(first, min(first + WRITTEN, size.plans))])
    swapped = asyncio.Event()
    ring = StoreKeyCache(writer.find)
    catalog = StoreCatalog(store, ring, Compiler(), worker="bench", observe=lambda _: swapped.set())
    stall = Stall()
    tasks = [asyncio.create_task(catalog.watch()), asyncio.create_task(stall.run())]
    await catalog.loaded()
    memory.freeze()
    results = [await _change_plan(writer, f"round {turn}", swapped, stall) for turn in range(rounds)]
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await catalog.aclose()
    await writer.aclose()
    return results


async def _change_plan(writer: Store, name: str, swapped: asyncio.Event, stall: Stall) -> Result:
    await asyncio.sleep(SETTLED_SECONDS)
    swapped.clear()
    stall.seconds = 0.0
    own, began = process_time(), perf_counter()
    await _put(writer, [_plan(0, name)])
    async with asyncio.timeout(DEADLINE_SECONDS):
        await swapped.wait()
    elapsed = perf_counter() - began
    await asyncio.sleep(SETTLED_SECONDS)
    return Result(elapsed, 0.0, process_time() - own, stall.seconds * 1000)


def _plan(number: int, name: str) -> StoredPlan:
    limit = ThrottleSettings(50.0, 100)
    plan = UsagePlan(
        id=f"p{number}",
        name=name,
        api_stages=(ApiStage("a1", "prod", {"/r0/{id}/GET": limit}),),
        throttle=limit,
        quota=QuotaSettings(5000, Period.MONTH),
    )
    return StoredPlan(plan, "once")


async def _put(store: Store, items: list[Item]) -> None:
    async def edit(edit: Draft) -> None:
        for item in items:
            edit.put(item)

    await store.write(edit, who="bench", what="put")


def _fields(size: Size, rate: int) -> tuple[int, int, int, int]:
    return size.keys, size.plans, rate, size.routes


async def change(path: Path, text: str, swapped: asyncio.Event, stall: Stall) -> Result:
    """Put another file in the place of this one, and wait until it is in force and the old catalog is freed."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    del text
    await asyncio.sleep(0.2)
    swapped.clear()
    stall.seconds = 0.0
    child, own, began = _child_cpu(), process_time(), perf_counter()
    draft.replace(path)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await swapped.wait()
    elapsed = perf_counter() - began
    await asyncio.sleep(SETTLED_SECONDS)
    return Result(elapsed, _child_cpu() - child, process_time() - own, stall.seconds * 1000)


def _child_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(size: Size, results: list[Result]) -> str:
    stalls = [result.stall_ms for result in results]
    middle = [median(getattr(result, name) for result in results) for name in ("swapped_s", "child_cpu_s", "own_cpu_s")]
    swapped, child, own = middle
    return (
        f"| {size.keys:,} | {size.plans:,} | {size.routes:,} | {swapped:.2f} | {child:.2f} | {own:.2f} "
        f"| {min(stalls):.1f} | {median(stalls):.1f} |"
    )


HEAD = (
    "| keys | plans | routes | change to swap, s | child's CPU, s | own CPU, s | pause, least, ms | pause, middle, ms |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help="keys/plans/routes, … (default: %(default)s)")
    parser.add_argument("--rounds", default=5, type=int)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    print("A file is replaced:\n", HEAD, "|" + "---:|" * 8, sep="\n")
    for text in given.sizes.split(","):
        size = Size(*map(int, text.split("/")))
        with tempfile.TemporaryDirectory() as directory:
            print(row(size, uvloop.run(measure(Path(directory), size, given.rounds))), flush=True)
    print("\nA plan of the store changes:\n", HEAD, "|" + "---:|" * 8, sep="\n")
    for size in STORE_SIZES:
        with redis(os.sched_getaffinity(0)) as server:
            print(row(size, uvloop.run(measure_store(server.address, size, given.rounds))), flush=True)


if __name__ == "__main__":
    main()

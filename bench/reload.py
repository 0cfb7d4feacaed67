"""How long a change of the file takes to be in force, and how long it holds up the process that serves.

python bench/reload.py [--sizes 100,5000]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import structlog

from authz.config import load_in_child
from authz.core.catalog import Catalog
from authz.live import LiveCatalog

PLANS_OF = {100: 10, 5_000: 1_000, 20_000: 1_000, 100_000: 1_000}
DEADLINE_SECONDS = 120.0
TICK_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Result:
    """One change of a file with so many keys."""

    keys: int
    plans: int
    megabytes: float
    swapped_s: float
    child_cpu_s: float
    own_cpu_s: float
    stall_ms: float


def document(keys: int, plans: int, rate: int) -> str:
    """A file with so many keys, spread evenly over the plans of one stage."""
    return "\n".join(_lines(keys, plans, rate)) + "\n"


def _lines(keys: int, plans: int, rate: int) -> Iterator[str]:
    yield "apis: [{id: a1, stages: [{name: prod}]}]"
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


async def measure(directory: Path, keys: int, plans: int) -> Result:
    path, draft = directory / "plans.yaml", directory / "draft"
    path.write_text(document(keys, plans, 50))
    swapped = asyncio.Event()
    live = LiveCatalog(path, await load_in_child(path), Catalog.compile, lambda _: swapped.set())
    draft.write_text(document(keys, plans, 60))
    stall = Stall()
    watching, stalling = asyncio.create_task(live.watch()), asyncio.create_task(stall.run())
    await asyncio.sleep(0.5)  # the watch is in place
    stall.seconds = 0.0
    child, own, began = _child_cpu(), process_time(), perf_counter()
    draft.replace(path)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await swapped.wait()
    elapsed, own = perf_counter() - began, process_time() - own
    for task in (watching, stalling):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    size = path.stat().st_size / 1e6
    return Result(keys, plans, size, elapsed, _child_cpu() - child, own, stall.seconds * 1000)


def _child_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(results: list[Result]) -> str:
    rows = [
        f"| {r.keys:,} | {r.plans:,} | {r.megabytes:.1f} | {r.swapped_s:.2f} | {r.child_cpu_s:.2f} | {r.own_cpu_s:.2f} "
        f"| {r.stall_ms:.0f} |"
        for r in results
    ]
    head = "| keys | plans | file, MB | change to swap, s | child's CPU, s | own CPU, s | longest stall, ms |"
    return "\n".join([head, "|" + "---:|" * 7, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, PLANS_OF)), help="numbers of keys (default: %(default)s)")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    results = []
    for keys in map(int, parser.parse_args().sizes.split(",")):
        with tempfile.TemporaryDirectory() as directory:
            results.append(asyncio.run(measure(Path(directory), keys, PLANS_OF.get(keys, max(1, keys // 5)))))
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()

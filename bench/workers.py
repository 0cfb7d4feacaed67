"""What workers cost in memory, and how long a reload holds up one that serves.

    python -m bench.workers [--keys 100000] [--workers 2] [--calls 12000] [--own] [--plans 10000] [--routes 1000]

Memory is shown after the start, after some calls, and after a reload. Calls write to reference counts, and so copy
memory that was shared. After a reload each worker has a catalog of its own. With `--own` each worker reads the file
itself, as where there is no template: compare the two to see what a template saves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from authz.config.file import load_in_child
from authz.config.live import LiveCatalog
from authz.core.catalog import Catalog
from bench.load.h2 import Connection, framed
from bench.load.inputs import CHECK, admits, check_request
from bench.load.loops import closed
from bench.measure.servers import redis
from bench.reload import Stall, document

START_SECONDS = 180.0
WATCH_SECONDS = 0.5
IN_FLIGHT = 16  # for each worker
# `authz serve` whose supervisor makes no template.
WITHOUT_TEMPLATE = """
from authz.workers import supervisor
supervisor.SHARES = False
from authz.__main__ import main
main()
"""


def routed(plans: int, routes: int, rate: int) -> str:
    """A file with one API of `routes` routes, `plans` plans for it, and a key for each plan."""
    return "\n".join(_lines(plans, routes, rate)) + "\n"


def _lines(plans: int, routes: int, rate: int) -> Iterator[str]:
    yield "apis:\n  - id: a1\n    stages: [{name: prod}]\n    resources:"
    yield from (f"      /r{route}/{{id}}: {{GET: {{}}}}" for route in range(routes))
    yield "usagePlans:"
    for plan in range(plans):
        yield (
            f"  - {{id: p{plan}, name: P{plan}, throttle: {{rateLimit: {rate}, burstLimit: 100}}, keys: [k{plan}], "
            "apiStages: [{apiId: a1, stage: prod}]}"
        )
    yield "apiKeys:"
    yield from (f"  - {{id: k{key}, value: k{key}-{'a' * 24}}}" for key in range(plans))


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port if port + count < 65536 else free_ports(count)


@contextmanager
def serving(
    config: Path, redis_url: str, workers: int, *, own: bool
) -> Iterator[tuple[subprocess.Popen[bytes], str, list[str]]]:
    """`authz serve`, once all of its workers are ready, the address of its status, and those of the workers."""
    port, http = free_ports(workers), f"127.0.0.1:{free_ports(1)}"
    grpc = [f"127.0.0.1:{port + n}" for n in range(workers)]
    flags = ("--config", str(config), "--grpc-listen", grpc[0], "--http-listen", http, "--redis-url", redis_url)
    program = ("-c", WITHOUT_TEMPLATE) if own else ("-m", "authz")
    command = (sys.executable, *program, "serve", *flags, "--workers", str(workers), "--drain-seconds", "0")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not all(one["ready"] for one in told(http)):
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it is not ready"
            time.sleep(0.1)
        yield process, http, grpc
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def told(http: str) -> list[dict[str, Any]]:
    """What `/healthz` says of each worker, or of one that does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://{http}/healthz", timeout=5) as answer:
            details = msgspec.json.decode(answer.read())
    except OSError:
        return [{"ready": False}]
    workers: list[dict[str, Any]] = details.get("workers", [{**details, "pid": None}])
    return workers


def memory(pid: int) -> tuple[float, float, float]:
    """Resident, proportional and private memory of a process, in MB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kb = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return kb["Rss"] / 1e3, kb["Pss"] / 1e3, (kb["Private_Clean"] + kb["Private_Dirty"]) / 1e3


def memory_tables(keys: int, workers: int, calls: int, *, own: bool) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory, redis(os.sched_getaffinity(0)) as server:
        config = Path(directory, "plans.yaml")
        config.write_text(document(keys, 1_000, 50))
        with serving(config, server.address, workers, own=own) as (supervisor, http, grpc):
            yield f"{keys:,} keys, {workers} workers {'of their own' if own else 'of a template'}, after the start"
            yield from memory_table(supervisor.pid, http)
            call(grpc, keys, calls)
            yield f"\nafter {calls:,} calls"
            yield from memory_table(supervisor.pid, http)
            change(config, document(keys, 1_000, 60), http)
            call(grpc, keys, calls)
            yield f"\nafter a reload, and {calls:,} calls more"
            yield from memory_table(supervisor.pid, http)


def change(config: Path, text: str, http: str) -> None:
    """Replace the file, and wait until each worker serves its new content."""
    draft, before = config.with_suffix(".draft"), {_version(one) for one in told(http)}
    draft.write_text(text)
    draft.replace(config)
    deadline = time.monotonic() + START_SECONDS
    while {_version(one) for one in told(http)} & {*before, None}:
        assert time.monotonic() < deadline, "the new file is not in force"
        time.sleep(0.1)


def _version(worker: Mapping[str, Any]) -> str | None:
    """The version of a worker's catalog; None for one that does not answer."""
    version: str | None = worker.get("catalog", {}).get("version")
    return version


def call(addresses: list[str], keys: int, calls: int) -> None:
    """Call with random keys, spread evenly over the workers."""
    connections, draw = [Connection(address, CHECK) for address in addresses], random.Random(1)
    outcome = closed(
        connections,
        lambda: framed(check_request(f"k{draw.randrange(keys)}-{'a' * 24}")),
        admits,
        in_flight=IN_FLIGHT * len(connections),
        total=calls,
    )
    assert outcome.answered, "no call was answered"
    for connection in connections:
        connection.close()


def memory_table(supervisor: int, http: str) -> Iterator[str]:
    yield "| process | RSS, MB | PSS, MB | private, MB |\n|---|---:|---:|---:|"
    pids = {f"worker {one['slot']}": int(one["pid"]) for one in told(http)}
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    template = [("template", pid) for pid in map(int, children) if pid not in pids.values()]
    total = 0.0
    for name, pid in (("supervisor", supervisor), *template, *pids.items()):
        rss, pss, private = memory(pid)
        total += pss
        yield f"| {name} | {rss:.0f} | {pss:.0f} | {private:.0f} |"
    yield f"| all | | {total:.0f} | |"


def pause(plans: int, routes: int) -> str:
    """The longest time for which a process's loop stands still while it takes over a changed file."""
    with tempfile.TemporaryDirectory() as directory:
        path, draft = Path(directory, "plans.yaml"), Path(directory, "draft")
        path.write_text(routed(plans, routes, 50))
        draft.write_text(routed(plans, routes, 60))
        return asyncio.run(_pause(path, draft, f"{plans:,} plans and {routes:,} routes"))


async def _pause(path: Path, draft: Path, what: str) -> str:
    swapped, stall = asyncio.Event(), Stall()
    live = LiveCatalog(path, await load_in_child(path), Catalog.compile, lambda _: swapped.set())
    tasks = [asyncio.create_task(live.watch()), asyncio.create_task(stall.run())]
    await asyncio.sleep(WATCH_SECONDS)
    idle, stall.seconds = stall.seconds, 0.0
    began = time.perf_counter()
    os.replace(draft, path)  # noqa: PTH105  (in one step, as an editor does)
    async with asyncio.timeout(START_SECONDS):
        await swapped.wait()
    elapsed = time.perf_counter() - began
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return (
        f"reload with {what}: in force after {elapsed:.1f} s, "
        f"longest pause {stall.seconds * 1e3:.0f} ms (idle: {idle * 1e3:.0f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("keys", 100_000), ("workers", 2), ("calls", 12_000), ("plans", 10_000), ("routes", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    parser.add_argument("--own", action="store_true", help="workers that read the file themselves, without a template")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    for line in memory_tables(given.keys, given.workers, given.calls, own=given.own):
        sys.stdout.write(line + "\n")
    sys.stdout.write("\n" + pause(given.plans, given.routes) + "\n")


if __name__ == "__main__":
    main()

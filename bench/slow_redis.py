"""A Redis that answers late: what waits, and that nothing else grows.

    python -m bench.slow_redis [--server grpcio] [--seconds 4]

A proxy adds 0, 5, 20 and 100 ms to each reply, with as many calls in flight as clients: 64, over the default
budget of 50 ms and the policy `deny`, then over a patient one. Prints the calls admitted a second, how many calls one
script run decided, the latency, and the sidecar's memory, descriptors and connections to Redis.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from redis import Redis

from bench.load.h2 import Connection
from bench.load.inputs import CHECK, admits, document, of_keys, written
from bench.load.loops import closed
from bench.measure.machine import Cores, descriptors, memory
from bench.measure.servers import HERE, Host, Running, redis, sidecar

KEYS = 10_000
IN_FLIGHT = 64
ADDED_MS = (0, 5, 20, 100)
BUDGETS_MS = (50, 2_000)
RECEIVE_BYTES = 1 << 18
HEAD = ("added ms", "budget ms", "admitted/s", "refused/s", "a batch", "p50 ms", "p99 ms", "MB", "fds", "to Redis")


class Late:
    """Hands on bytes, those from Redis later by `seconds`, in their order; in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.seconds = 0.0
        self.port = 0
        self._redis = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Late:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        listener = await asyncio.start_server(self._connected, HERE, 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection(HERE, self._redis)
        with suppress(OSError):
            await asyncio.gather(
                self._hand_on(reader, to_redis, late=False), self._hand_on(from_redis, writer, late=True)
            )

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        """Each piece after the one before it, as an equal delay would have it."""
        loop = asyncio.get_running_loop()
        while got := await reader.read(RECEIVE_BYTES):
            if late and self.seconds:
                loop.call_later(self.seconds, writer.write, got)
            else:
                writer.write(got)
        writer.close()


def measured(server: Running, url: str, seconds: float) -> tuple[str, ...]:
    connection = Connection(server.address, CHECK, "10S")
    with Redis.from_url(url) as client:
        before = _scripts(client)
        outcome = closed([connection], of_keys(KEYS), admits, in_flight=IN_FLIGHT, seconds=seconds)
        runs, clients = _scripts(client) - before, len(client.client_list()) - 1
    connection.close()
    return (
        f"{outcome.admitted / outcome.seconds:.0f}",
        f"{outcome.refused / outcome.seconds:.0f}",
        f"{outcome.admitted / runs if runs else 0:.1f}",
        f"{outcome.milliseconds(0.5):.1f}",
        f"{outcome.milliseconds(0.99):.1f}",
        f"{memory([server.pid]).rss:.0f}",
        f"{descriptors([server.pid])}",
        f"{clients}",
    )


def _scripts(client: Redis) -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


@contextmanager
def servers(host: Host, budget_ms: int, cores: Cores) -> Iterator[tuple[Running, Late, str]]:
    with TemporaryDirectory() as scratch, redis(cores.load) as store:
        config = written(document(keys=KEYS), Path(scratch))
        port = int(store.address.rpartition(":")[2].partition("/")[0])
        with Late(port) as late:
            flags = ("--redis-timeout-ms", str(budget_ms))
            with sidecar(config, f"redis://{HERE}:{late.port}/0", *flags, host=host, cores=cores.server) as server:
                yield server, late, store.address


@click.command(help=__doc__)
@click.option("--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=4.0, show_default=True, help="Of each row.")
def main(host: Host, seconds: float) -> None:
    cores = Cores.here()
    os.sched_setaffinity(0, cores.load)
    click.echo("  ".join(f"{cell:>10}" for cell in HEAD))
    for budget in BUDGETS_MS:
        with servers(host, budget, cores) as (server, late, url):
            for added in ADDED_MS:
                late.seconds = added / 1000
                cells = (str(added), str(budget), *measured(server, url, seconds))
                click.echo("  ".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()

"""What a batch saves Redis, and how much memory an active key takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import uvloop
from redis import Redis

from authz.core.verdict import Grant
from bench.load.inputs import document
from bench.measure.inprocess import compiled, grants, touch
from bench.measure.rows import (
    Bench,
    Section,
    interleaved,
    table,
)
from bench.measure.servers import Running, redis
from bench.measure.stats import Spread, short
from bench.sections.common import ALONE, KEYS, MANY, ONE_KEY, driven_row, now_us


def batches_section(bench: Bench) -> Section:
    """What a decision costs Redis by the size of its batch."""
    catalog = compiled(document(keys=KEYS))
    with redis(bench.cores.server) as store:
        rows = []
        for many, numbers in ((ONE_KEY, [0]), (KEYS, range(KEYS))):
            found = grants(catalog, numbers, now_us())
            word = f"{many:,} key{'s' * (many > 1)}"
            rows += [
                driven_row(bench, f"{word}, batch {batch}", store, found, batch=batch) for batch in (1, 4, 16, MANY)
            ]
            rows.append(driven_row(bench, f"{word}, {ALONE}", store, found, limiters=MANY))
        samples = interleaved(bench, rows)
        size = _active_key_bytes(store, found)
    busiest = Spread.of([1e6 / sample["redis_us"] for sample in samples[f"{KEYS:,} keys, batch {MANY}"]])
    columns = {"redis_us": "CPU of Redis a decision, µs", "scripts": "scripts a decision", "rate": "decisions/s"}
    return Section(
        "Batches",
        f"The limiter by itself, five layers. One core of Redis carries {busiest} decisions a second at batch {MANY}, "
        f"with {KEYS:,} keys; a key that has called takes {short(size)} bytes there.",
        [table(samples, columns)],
    )


def _active_key_bytes(store: Running, found: Sequence[Grant]) -> float:
    """What Redis holds for a caller that has called, over what an empty one does."""
    with Redis.from_url(store.address) as client:
        client.flushall()
        empty = used_bytes(client)
        uvloop.run(touch(store.address, found))
        return (used_bytes(client) - empty) / len(found)


def used_bytes(client: Redis) -> int:
    told: Mapping[str, int] = client.info("memory")
    return told["used_memory"]

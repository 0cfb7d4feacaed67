"""How long a sidecar takes from start to ready."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.load.h2 import Connection
from bench.load.inputs import CHECK, admits, document, of_keys, written
from bench.load.loops import closed
from bench.measure.machine import cpu_seconds, memory
from bench.measure.rows import (
    Bench,
    Row,
    Section,
    interleaved,
    table,
)
from bench.measure.servers import Host, Running, redis, sidecar
from bench.measure.stats import Sample
from bench.sections.common import KEYS, MANY


def start_section(bench: Bench) -> Section:
    """Until a sidecar is ready, and what it holds."""
    config = written(document(keys=KEYS), bench.scratch)
    with redis(bench.cores.load) as store:
        rows = [Row(host, partial(_start, bench, config, host, store)) for host in bench.hosts]
        samples = interleaved(bench, rows)
    columns = {
        "started_s": "ready after, s",
        "rss_mb": "resident, MB",
        "pss_mb": "its share of it, MB",
        "cpu_s": "CPU, s",
    }
    text = f"A file of {KEYS:,} keys in 100 plans; after 2,000 calls."
    return Section("Start and memory", text, [table(samples, columns, "server")])


def _start(bench: Bench, config: Path, host: Host, store: Running) -> Sample:
    with sidecar(config, store.address, host=host, cores=bench.cores.server) as server:
        used = cpu_seconds([server.pid])
        connection = Connection(server.address, CHECK)
        closed([connection], of_keys(KEYS), admits, in_flight=MANY, total=2_000)
        connection.close()
        held = memory([server.pid])
    return {"started_s": server.started_s, "rss_mb": held.rss, "pss_mb": held.pss, "cpu_s": used}

"""Time bare Redis round trips, one after the other: `python -m bench.load.roundtrip URL SECONDS` prints ms."""

from __future__ import annotations

import json
import sys
from time import perf_counter

import uvloop

from authz.redisio.client import connect
from bench.measure.stats import percentile


async def measure(url: str, seconds: float) -> dict[str, float]:
    """Median and 99th percentile of PING, in ms."""
    client = connect(url, 1.0)
    took: list[float] = []
    try:
        ends = perf_counter() + seconds
        while (began := perf_counter()) < ends:
            await client.execute_command("PING")  # type: ignore[no-untyped-call]
            took.append(1000 * (perf_counter() - began))
    finally:
        await client.aclose()
    took.sort()
    return {"p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99), "rate": len(took) / seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(measure(sys.argv[1], float(sys.argv[2])))))

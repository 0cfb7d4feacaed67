"""The hard ceiling: four processes race for one key, and exactly the ceiling is admitted."""

from __future__ import annotations

import asyncio
import sys

import pytest

from authz.core.limits import Charge, Layer, Limit, Meter, Quota, redis_key, throttle
from authz.limiter.limiter import RedisLimiter
from tests.support.racers import await_start, start_together
from tests.support.servers import RedisServer

PROCESSES, REQUESTS, CEILING = 4, 500, 700
FAR_FUTURE = 2**52


def _limits(account: str, kind: str, ledger: str) -> list[Limit]:
    """One limit that is not refilled while the test runs."""
    match kind:
        case "quota":
            return [Limit(Layer.PLAN_QUOTA, ledger, Quota(CEILING, 0, FAR_FUTURE))]
        case "never refilled":
            rule = throttle(0.0, CEILING)
        case _:
            rule = throttle(1e-6, CEILING)
    assert rule
    return [Limit(Layer.PLAN_THROTTLE, ledger, rule)]


async def _race(url: str, account: str, kind: str) -> int:
    """Connect, wait for the word, and ask at once; how many were admitted."""
    limiter = RedisLimiter(url, account=account, budget=60.0)
    sending = asyncio.create_task(limiter.run())
    meter = Meter(redis_key(account, "ledger"), redis_key(account, "history"))
    limits = _limits(account, kind, meter.ledger)
    assert await limiter.probe()
    await_start()
    tallies = await asyncio.gather(*(limiter.admit(Charge(limits, meter)) for _ in range(REQUESTS)))
    sending.cancel()
    await limiter.aclose()
    return sum(tally.refused_by is None for tally in tallies)


@pytest.mark.parametrize("kind", ["quota", "never refilled", "hardly refilled"])
def test_four_processes_admit_exactly_the_ceiling(shared_redis: RedisServer, account: str, kind: str) -> None:
    """Each asks 500 times at once, of the same key; no process gets a unit too many, and no unit is kept back."""
    racers = start_together("tests.integration.test_p1", [(shared_redis.url, account, kind)] * PROCESSES)
    admitted = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(admitted) == CEILING


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(_race(*sys.argv[1:4]))))

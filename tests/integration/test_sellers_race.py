"""Four processes spend what a customer's three keys share, while Redis is restarted: no unit too many, none lost."""

from __future__ import annotations

import asyncio
import json
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from authz.check import LimiterUnavailable
from authz.core.limits import FOREVER_US, Charge, Layer, Limit, Meter, Quota, redis_key
from authz.limiter.limiter import RedisLimiter
from tests.support.servers import Kind, RedisServer, redis_server

PROCESSES, CALLS, KEYS = 4, 500, ("k1", "k2", "k3")
ACCOUNT = "race"
UNITS, OVERAGE, REQUESTS = 2_500, 500, 1_500
ALERTS = (50, 80, 100, 110)
RESTARTS = 4
DEADLINE_SECONDS = 300.0
ROOT = Path(__file__).parents[2]
LEDGER = redis_key(ACCOUNT, "customer-ledger", "gold", "acme")
MONTHLY = redis_key(ACCOUNT, "customer-quota", "gold", "acme", "TOTAL", "REQUESTS")


def limits() -> list[Limit]:
    """A quota of units with overage, and one of requests; neither ends while the test runs."""
    units = Quota(UNITS, 0, FOREVER_US, "MONTH", overage=OVERAGE, alerts=ALERTS)
    requests = Quota(REQUESTS, 0, FOREVER_US, "TOTAL", counts_units=False, alerts=(100,))
    return [Limit(Layer.PLAN_QUOTA, LEDGER, units), Limit(Layer.PLAN_QUOTA, MONTHLY, requests)]


def meter(key: str) -> Meter:
    return Meter(redis_key(ACCOUNT, "ledger", "gold", key), redis_key(ACCOUNT, "history", "gold", key), LEDGER)


async def _spend(url: str, seed: str) -> Mapping[str, Any]:
    """Ask for every call at once, and again under its own name while Redis does not answer."""
    limiter = RedisLimiter(url, account=ACCOUNT, budget=1.0, remembered=0)
    sending = asyncio.create_task(limiter.run())
    drawn = random.Random(seed)
    admitted: Counter[str] = Counter()

    async def call(number: int, key: str, cost: int, wait: float) -> None:
        await asyncio.sleep(wait)
        charge = Charge(limits(), meter(key), cost, once=f"{seed}-{number}")
        ends = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < ends:
            try:
                tally = await limiter.admit(charge)
            except LimiterUnavailable:
                await asyncio.sleep(0.02)
                continue
            if tally.refused_by is None:
                admitted.update({f"{key} requests": 1, f"{key} units": cost})
            return
        raise AssertionError("Redis has not answered")

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    draws = [(number, drawn.choice(KEYS), drawn.choice((0, 1, 1, 2, 5)), drawn.random() * 3) for number in range(CALLS)]
    await asyncio.gather(*(call(*one) for one in draws))
    sending.cancel()
    await limiter.aclose()
    return admitted


def _start(url: str, seed: int) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "tests.integration.test_sellers_race", url, str(seed))
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _usage(spy: redis.Redis) -> Counter[str]:
    """Requests and units of each key, over all days; `over` of all keys."""
    found: Counter[str] = Counter()
    for key in KEYS:
        rows: Any = spy.hgetall(meter(key).history)
        raw: Any = spy.get(meter(key).ledger)
        numbers = [struct.unpack(f">{len(row) // 8}d", row) for row in rows.values()]
        if raw:
            _, *ledger = struct.unpack(f">B{len(raw) // 8}d", raw)
            numbers.append((*ledger[7:9], *ledger[10:]))
        for requests, _, *more in numbers:
            units, over = more or (requests, 0)
            found.update({f"{key} requests": int(requests), f"{key} units": int(units), "over": int(over)})
    return found


def _race(server: RedisServer, *, killed: bool) -> tuple[list[Counter[str]], redis.Redis]:
    racers = [_start(server.url, seed) for seed in range(PROCESSES)]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for _ in range(RESTARTS):
        time.sleep(0.5)  # the calls are spread over three seconds
        server.restart(empty=False)
    if killed:
        racers.pop().kill()
    results = [Counter(json.loads(racer.communicate(timeout=DEADLINE_SECONDS)[0])) for racer in racers]
    return results, redis.Redis.from_url(server.url)


def _crossings(spy: redis.Redis) -> list[tuple[str, int]]:
    entries: Any = spy.xrange(redis_key(ACCOUNT, "alerts"))
    return [(said[b"value"].decode(), int(said[b"percent"])) for _, said in entries]


def test_a_customers_limits_hold_for_all_its_keys_in_all_processes(redis_kind: Kind) -> None:
    """Redis is killed and started again with its data, four times. Rows of usage equal the callers' own counts."""
    with redis_server(redis_kind, "--appendfsync", "always") as server:
        results, spy = _race(server, killed=False)
        admitted = sum(results, Counter())
        usage = _usage(spy)
        units = sum(count for name, count in admitted.items() if name.endswith("units"))
        requests = sum(count for name, count in admitted.items() if name.endswith("requests"))
        assert units <= UNITS + OVERAGE
        assert requests <= REQUESTS
        assert {name: count for name, count in usage.items() if count and name != "over"} == admitted
        assert usage["over"] == max(0, units - UNITS)
        crossed = [(LEDGER, percent) for percent in ALERTS if units * 100 >= percent * UNITS]
        crossed += [(MONTHLY, 100)] if requests == REQUESTS else []
        assert Counter(_crossings(spy)) == Counter(crossed)
        spy.close()


def test_a_killed_process_passes_no_ceiling(redis_kind: Kind) -> None:
    """Its own count is lost; what the others were given is counted, and no alert comes twice."""
    with redis_server(redis_kind, "--appendfsync", "always") as server:
        results, spy = _race(server, killed=True)
        admitted, usage = sum(results, Counter()), _usage(spy)
        assert all(usage[name] >= count for name, count in admitted.items())
        assert sum(count for name, count in usage.items() if name.endswith("units")) <= UNITS + OVERAGE
        assert sum(count for name, count in usage.items() if name.endswith("requests")) <= REQUESTS
        assert max(Counter(_crossings(spy)).values(), default=1) == 1
        spy.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_spend(*sys.argv[1:3]))))

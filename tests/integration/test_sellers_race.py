"""Four processes spend what a customer's three keys share: no unit too many, none lost.

Meanwhile Redis is restarted with its data, and each process loads other catalogs.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import cycle
from typing import Any

import redis
import structlog

from authz.check import Checker
from authz.core.catalog import Compiler
from authz.core.limits import Layer, redis_key
from authz.core.resources import (
    Api,
    ApiStage,
    Counts,
    FailurePolicy,
    HttpMethod,
    LimitsPer,
    Method,
    Overage,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    UsagePlan,
)
from authz.core.verdict import Allowed, Denied, Reason
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from authz.limiter.refused import RefusedSender
from authz.sidecar.refused import RefusedCalls
from tests.conftest import micros
from tests.support.builders import key
from tests.support.racers import await_start, start_together
from tests.support.servers import Kind, RedisServer, redis_server
from tests.support.world import ask

PROCESSES, CALLS, KEYS = 4, 500, ("k1", "k2", "k3")
CALLS_A_CATALOG = 25
COSTS = (0, 1, 1, 2, 5)
NOW = micros("2026-03-04T10:00:00Z")  # all the time, so that no period ends
ACCOUNT = "race"
UNITS, OVERAGE, LESS_OVERAGE, REQUESTS = 2_500, 500, 300, 1_500
ALERTS = (50, 80, 100, 110)
RESTARTS = 4
DEADLINE_SECONDS = 300.0
LEDGER = redis_key(ACCOUNT, "customer-ledger", "gold", "acme")
MONTHLY = redis_key(ACCOUNT, "customer-quota", "gold", "acme", "TOTAL", "REQUESTS")


def resources(overage: int) -> Resources:
    """A plan with a quota of units with overage, and one of requests, for all keys of a customer together."""
    methods: dict[str, dict[HttpMethod, Method]] = {f"/{cost}": {"GET": Method(cost=cost)} for cost in COSTS}
    units = QuotaSettings(UNITS, Period.MONTH, overage=Overage(overage), alerts=ALERTS)
    requests = QuotaSettings(REQUESTS, Period.TOTAL, counts=Counts.REQUESTS, alerts=(100,))
    plan = UsagePlan(
        id="gold",
        name="gold",
        keys=KEYS,
        api_stages=(ApiStage("a1", "prod"),),
        quota=units,
        quotas=(requests,),
        limits_per=LimitsPer.CUSTOMER,
        failure_policy=FailurePolicy.DENY,
    )
    return Resources(
        apis=(Api(id="a1", resources=methods, stages=(Stage("prod"),)),),
        usage_plans=(plan,),
        api_keys=tuple(key(name, customer_id="acme") for name in KEYS),
    )


class Racer:
    """A sidecar without its port. Every CALLS_A_CATALOG calls it loads a catalog with another overage."""

    def __init__(self, url: str, seed: str) -> None:
        self.clock = RedisClock(lambda: NOW)
        self.limiter = RedisLimiter(url, account=ACCOUNT, budget=1.0, clock=self.clock, remembered=0)
        self.sender = RefusedSender(url, account=ACCOUNT, retention_days=400, pinned=lambda: NOW)
        self.refused = RefusedCalls(self.sender.send, "")
        self.compile = Compiler(ACCOUNT)
        self.overages = cycle((OVERAGE, LESS_OVERAGE))
        self.own: Counter[str] = Counter()
        self.answered = 0
        self.seed = seed
        self.load()
        limiter, now = self.limiter, self.clock.now
        self.checker = Checker(lambda: self.catalog, limiter, LocalLimiter(), now, charge_once=True)

    def load(self) -> None:
        self.catalog = self.compile(resources(next(self.overages)))
        self.limiter.forget(None)

    async def call(self, number: int, name: str, cost: int, wait: float) -> None:
        """Ask for one call, and again under its own name while Redis does not answer."""
        await asyncio.sleep(wait)
        request = ask(f"/prod/{cost}", name, id=f"{self.seed}-{number}")
        ends = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < ends:
            match await self.checker.check(request):
                case Denied(reason=Reason.UNAVAILABLE | Reason.OVERLOADED):
                    await asyncio.sleep(0.02)
                    continue
                case Allowed():
                    self.own.update({f"{name} requests": 1, f"{name} units": cost})
                case denied:
                    self.own.update({f"{name} refused": 1})
                    assert denied.layer is Layer.PLAN_QUOTA
                    self.refused.count(denied)
            self.answered += 1
            if self.answered % CALLS_A_CATALOG == 0:
                self.load()
            return
        raise AssertionError("Redis has not answered")

    async def hand_over(self) -> None:
        while self.refused.waiting:
            await self.refused.drain()
            await asyncio.sleep(0.02)


async def _spend(url: str, seed: str) -> Mapping[str, Any]:
    racer, drawn = Racer(url, seed), random.Random(seed)
    tasks = [asyncio.create_task(racer.limiter.run()), asyncio.create_task(racer.refused.keep_sending(lambda: False))]
    await_start()
    draws = [(number, drawn.choice(KEYS), drawn.choice(COSTS), drawn.random() * 3) for number in range(CALLS)]
    await asyncio.gather(*(racer.call(*one) for one in draws))
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await racer.hand_over()
    await racer.sender.aclose()
    await racer.limiter.aclose()
    return racer.own


def _usage(spy: redis.Redis) -> Counter[str]:
    """Requests, units and refused calls of each key, over all days; `over` of all keys."""
    found: Counter[str] = Counter()
    for name in KEYS:
        rows: Any = spy.hgetall(redis_key(ACCOUNT, "history", "gold", name))
        raw: Any = spy.get(redis_key(ACCOUNT, "ledger", "gold", name))
        refused: Any = spy.hgetall(redis_key(ACCOUNT, "refused", "gold", name))
        found[f"{name} refused"] = sum(int(count) for field, count in refused.items() if field.endswith(b":quota"))
        numbers = [struct.unpack(f">{len(row) // 8}d", row) for row in rows.values()]
        if raw:
            _, *ledger = struct.unpack(f">B{len(raw) // 8}d", raw)
            numbers.append((*ledger[7:9], *ledger[10:]))
        for requests, _, *more in numbers:
            units, over = more or (requests, 0)
            found.update({f"{name} requests": int(requests), f"{name} units": int(units), "over": int(over)})
    return found


def _race(server: RedisServer, *, killed: bool) -> tuple[list[Counter[str]], redis.Redis]:
    racers = start_together(
        "tests.integration.test_sellers_race", [(server.url, str(seed)) for seed in range(PROCESSES)]
    )
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
    """Redis is killed and started again with its data, four times. All counts equal the callers' own."""
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
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the result goes to stdout
    sys.stdout.write(json.dumps(asyncio.run(_spend(*sys.argv[1:3]))))

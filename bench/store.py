"""What a store of many keys costs Redis and a sidecar, and how long a change takes to the last of three sidecars.

python bench/store.py [--keys 1000000] [--plans 1000] [--changes 100]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import grpc
import httpx
from redis.asyncio import Redis

from authz.aws.convert import from_resources
from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
)
from authz.core.stored import StoredKey, StoredPlan
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.store.ports import Draft
from authz.store.store import Store
from tests.support.servers import HOST, AuthzServer, Server, authz_serve, free_port, is_ok, redis_server

CHUNK = 1000  # keys in one write
SIDECARS = 3
COLD = 20_000  # keys that one sidecar looks up once each
AT_ONCE = 50
DEADLINE_SECONDS = 30.0
STAGE = ApiStage(api_id="a1", stage="prod")
CREATED = 1_700_000_000


def value_of(number: int) -> str:
    return f"value-of-key-{number:027}"  # as long as those that AWS makes


def plan(number: int) -> StoredPlan:
    throttle, quota = ThrottleSettings(rate_limit=50, burst_limit=100), QuotaSettings(limit=5000, period=Period.MONTH)
    return StoredPlan(
        UsagePlan(id=f"plan{number}", name=f"Plan {number}", throttle=throttle, quota=quota, api_stages=(STAGE,)),
        nonce=f"{number:016x}",
    )


def key(number: int, plan: StoredPlan) -> StoredKey:
    return StoredKey(
        ApiKey(id=f"k{number:09}", name=f"Customer {number}", enabled=True),
        index=digest(value_of(number)).hex(),
        created_date=CREATED,
        last_updated_date=CREATED,
        plans=(plan.ref,),
    )


async def fill(store: Store, keys: int, plans: Sequence[StoredPlan]) -> None:
    """The API and the plans, then the keys in chunks, spread evenly over the plans."""
    api = from_resources(Resources(apis=(Api(id="a1", stages=(Stage(name="prod"),)),)), CREATED)

    async def first(edit: Draft) -> None:
        for item in (*api.values(), *plans):
            edit.put(item)

    await store.write(first, who="bench", what="plans")
    for start in range(0, keys, CHUNK):

        async def some(edit: Draft, start: int = start) -> None:
            for number in range(start, min(start + CHUNK, keys)):
                edit.put(key(number, plans[number % len(plans)]))

        await store.write(some, who="bench", what="keys")


async def used_memory(url: str) -> int:
    async with Redis.from_url(url) as redis:
        return int((await redis.info("memory"))["used_memory"])


@contextmanager
def sidecars(url: str, count: int) -> Iterator[list[AuthzServer]]:
    with TemporaryDirectory() as scratch, ExitStack() as running:
        config = Path(scratch, "plans.yaml")
        config.write_text("{}\n")
        flags = ("--redis-url", url, "--store", "true", "--drain-seconds", "0", "--redis-timeout-ms", "1000")
        yield [running.enter_context(authz_serve(config, *flags)) for _ in range(count)]


@contextmanager
def control(url: str) -> Iterator[str]:
    with TemporaryDirectory() as scratch:
        at = f"{HOST}:{free_port()}"
        server = Server(
            command=(sys.executable, "-m", "authz", "control", "--no-auth", "--listen", at, "--redis-url", url),
            log=Path(scratch, "log"),
            is_ready=lambda: is_ok(f"http://{at}/account"),
        )
        try:
            server.start()
            yield f"http://{at}"
        finally:
            server.stop()


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


Ask = Any  # a stub's method


@asynccontextmanager
async def asking(sidecar: AuthzServer) -> AsyncIterator[Ask]:
    async with grpc.aio.insecure_channel(sidecar.grpc) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
        yield stub.Check


async def admits(ask: Ask, value: str) -> bool:
    headers = {"x-api-key": value}
    http = pb.AttributeContext.HttpRequest(method="GET", host="a1.test", path="/prod/pets", headers=headers)
    request = pb.CheckRequest(attributes=pb.AttributeContext(request=pb.AttributeContext.Request(http=http)))
    answer = await ask(request, timeout=DEADLINE_SECONDS)
    return bool(answer.status.code == 0)


async def size(url: str, keys: int, plans: int) -> None:
    """Print the cost of `keys` keys."""
    store, before = Store(url, budget=DEADLINE_SECONDS), await used_memory(url)
    began = perf_counter()
    await fill(store, keys, [plan(number) for number in range(plans)])
    await store.aclose()
    filled, used = perf_counter() - began, await used_memory(url) - before
    say(f"{keys:,} keys in {plans:,} plans, written in {filled:.0f} s: {used / 1e6:.0f} MB in Redis")
    say(f"  {used / keys:.0f} bytes of Redis a key")
    began = perf_counter()
    with sidecars(url, 1) as (sidecar,):
        started, empty = perf_counter() - began, rss_mb(sidecar.pid)
        asked = min(COLD, keys)
        rate = await cold_rate(sidecar, asked)
        say(f"  a sidecar is ready after {started:.2f} s and holds {empty:.0f} MB")
        say(f"  after {asked:,} cold keys ({rate:,.0f}/s, {AT_ONCE} at once): {rss_mb(sidecar.pid):.0f} MB")


async def cold_rate(sidecar: AuthzServer, count: int) -> float:
    async with asking(sidecar) as ask:
        numbers = iter(range(count))

        async def some() -> list[bool]:
            return [await admits(ask, value_of(number)) for number in numbers]

        began = perf_counter()
        answers = await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        assert all(all(some) for some in answers), "a key of the store was refused"
        return count / (perf_counter() - began)


async def changes(url: str, count: int) -> None:
    """Prints how long it takes from a write's answer until the last sidecar enforces it."""
    took: list[float] = []
    with sidecars(url, SIDECARS) as running, control(url) as endpoint:
        async with (
            httpx.AsyncClient(base_url=endpoint, trust_env=False) as client,
            asking(running[0]) as one,
            asking(running[1]) as two,
            asking(running[2]) as three,
        ):
            asks = (one, two, three)
            await settled(asks, wanted=True)
            for number in range(count):
                enabled = number % 2 == 1
                operation = {"op": "replace", "path": "/enabled", "value": str(enabled).lower()}
                answer = await client.patch(f"/apikeys/k{0:09}", json={"patchOperations": [operation]})
                answered = perf_counter()
                answer.raise_for_status()
                took.append(1000 * (await settled(asks, wanted=enabled) - answered))
    cuts = quantiles(took, n=100, method="inclusive")
    say(f"from a write's answer to the last of {SIDECARS} sidecars, {count} changes, in ms:")
    say(f"  median {cuts[49]:.1f}, 90 % {cuts[89]:.1f}, 99 % {cuts[98]:.1f}, longest {max(took):.1f}")


async def settled(asks: Sequence[Ask], *, wanted: bool) -> float:
    """When the last of them decided so."""

    async def one(ask: Ask) -> float:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await admits(ask, value_of(0)) != wanted:
                pass
        return perf_counter()

    return max(await asyncio.gather(*map(one, asks)))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys in the store (default: %(default)s)")
    parser.add_argument("--plans", type=int, default=1_000, help="plans they are in (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=100, help="changes that are timed (default: %(default)s)")
    options = parser.parse_args()
    with redis_server() as redis:
        say(time.strftime("%Y-%m-%d"))
        asyncio.run(size(redis.url, options.keys, options.plans))
        asyncio.run(changes(redis.url, options.changes))


if __name__ == "__main__":
    main()

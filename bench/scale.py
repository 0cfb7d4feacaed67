"""What a check costs this process as keys, plans, routes and layers grow. It should not, but for the layers.

    python -m bench.scale [--calls 5000] [--most 1000000]

µs of CPU a call, without any server or Redis: parse, resolve, judge, encode, count. The keys of the calls are drawn
from all that there are, at most 20,000 of them, so what grows with their number is what the processor's caches miss.
"""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable, Iterator

import click
import uvloop

from authz.check import NO_KEYS, Checker, KeyCache
from authz.core.catalog import Caller, Catalog
from authz.core.resources import (
    Account,
    Api,
    ApiKey,
    ApiStage,
    Method,
    MethodSetting,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
)
from authz.core.stored import StoredKey
from authz.envoy.edge import Authorization
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.observe import log
from authz.observe.metrics import Metrics
from authz.store.keys import StoreKeyCache
from authz.store.ports import Head, KeyLookup
from bench.answer import Says, value

DRAWN, ROUNDS = 20_000, 5
PLANS, ROUTES, LAYERS = 100, 10, 5  # where they are not what grows
IN_FILE = 100_000
CACHE = 2_000  # keys in memory, where each call shall have to look up its own
LIMIT = ThrottleSettings(rate_limit=1e5, burst_limit=100_000)

Curve = list[tuple[int, float]]


def world(keys: int, plans: int = PLANS, routes: int = ROUTES, layers: int = LAYERS) -> Resources:
    """One API, its keys spread evenly over the plans; as many layers of limits out of reach."""
    setting = MethodSetting(throttling_rate_limit=1e5, throttling_burst_limit=100_000)
    quota = QuotaSettings(limit=10**9, period=Period.MONTH)
    stage = Stage(name="prod", method_settings={"*/*": setting} if layers >= 4 else {})
    covered = ApiStage(api_id="a1", stage="prod", throttle={"*/*": LIMIT} if layers >= 5 else {})
    return Resources(
        account=Account(),
        apis=(Api(id="a1", resources={f"/r{n}/{{id}}": {"GET": Method()} for n in range(routes)}, stages=(stage,)),),
        api_keys=tuple(ApiKey(id=f"k{n}", value_sha256=digest(value(n)).hex()) for n in range(keys)),
        usage_plans=tuple(
            UsagePlan(
                id=f"p{n}",
                name=f"Plan {n}",
                api_stages=(covered,),
                keys=tuple(f"k{key}" for key in range(n, keys, plans)),
                throttle=LIMIT if layers >= 2 else None,
                quota=quota if layers >= 3 else None,
            )
            for n in range(plans)
        ),
    )


def question(key: str, route: int) -> bytes:
    """About what Envoy asks with `allowed_headers` set."""
    message = pb.CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path, http.id = "GET", "a1.example.org", f"/prod/r{route}/7", "1234567890123456789"
    http.headers.update({":authority": http.host, ":path": http.path, "x-api-key": key, "accept": "*/*"})
    return message.SerializeToString()


def questions(keys: int, routes: int = ROUTES) -> list[bytes]:
    drawn = random.Random(1)
    return [question(value(drawn.randrange(keys)), drawn.randrange(routes)) for _ in range(DRAWN)]


def cost(catalog: Catalog, asked: list[bytes], calls: int, ring: KeyCache = NO_KEYS) -> float:
    """µs of CPU a call, the least of some rounds; a first one asks everything once, to warm up."""
    checker = Checker(lambda: catalog, Says(), None, lambda: time.time_ns() // 1000, ring)  # type: ignore[arg-type]
    service = Authorization(checker, Metrics(), version=lambda: "1-abc")

    async def run() -> float:
        found, drawn = list[float](), itertools.cycle(asked)
        for _ in range(ROUNDS + 1):
            began = time.process_time()
            for _ in range(calls if found else len(asked)):
                await service.answer(next(drawn), 0.2)
            found.append(time.process_time() - began)
        return min(found[1:]) / calls * 1e6

    return uvloop.run(run())


def filled(keys: int, size: int) -> StoreKeyCache:
    """The memory of a store's keys, as full as it gets; the store itself answers at once."""

    async def look(index: str) -> KeyLookup:
        name = names[index]
        stored = StoredKey(
            ApiKey(id=name), index, created_date=1, last_updated_date=1, plans=(f"p{int(name[1:]) % PLANS}",)
        )
        return KeyLookup(Head("e", 1, ""), stored)

    names = {digest(value(n)).hex(): f"k{n}" for n in range(keys)} if size < keys else {}
    ring = StoreKeyCache(look, size=size)
    ring.heard(float("inf"))
    refs = [(f"p{n}",) for n in range(PLANS)]
    for n in range(min(keys, size)):
        ring._keep(
            digest(value(n)).hex(), Caller(f"k{n}", enabled=True, expires_us=None, customer="", plans=refs[n % PLANS])
        )
    return ring


def sizes(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 10


def curves(calls: int = 5_000, most: int = 1_000_000) -> dict[str, Curve]:
    """By what grows: its size, and µs of CPU a call."""
    random.seed(1)

    def points(least: int, top: int, point: Callable[[int], float]) -> Curve:
        found = []
        for n in sizes(top):
            if n >= least:
                found.append((n, point(n)))
                gc.collect()
        return found

    bare = Catalog.compile(world(0))
    return {
        "keys of a file": points(1, min(most, IN_FILE), lambda n: cost(Catalog.compile(world(n)), questions(n), calls)),
        "keys of a store, in memory": points(1, most, lambda n: cost(bare, questions(n), calls, filled(n, 2 * n))),
        "keys of a store, each looked up": points(
            most, most, lambda n: cost(bare, questions(n), calls, filled(n, CACHE))
        ),
        "plans": points(1, 10_000, lambda n: cost(Catalog.compile(world(10_000, plans=n)), questions(10_000), calls)),
        "routes of an API": points(
            1, 1_000, lambda n: cost(Catalog.compile(world(10_000, routes=n)), questions(10_000, n), calls)
        ),
        "layers": [
            (n, cost(Catalog.compile(world(10_000, layers=n)), questions(10_000), calls)) for n in range(1, LAYERS + 1)
        ],
    }


def table(found: dict[str, Curve]) -> str:
    lines = ["| what grows | " + "how many: µs of CPU a call |", "|---|---|"]
    for name, curve in found.items():
        lines.append(f"| {name} | {', '.join(f'{n:,}: **{us:.1f}**' for n, us in curve)} |")
    return "\n".join(lines)


@click.command()
@click.option("--calls", default=5_000, show_default=True)
@click.option("--most", default=1_000_000, show_default=True, help="Keys.")
def main(calls: int, most: int) -> None:
    log.configure("info", "json")
    print(table(curves(calls, most)))


if __name__ == "__main__":
    main()

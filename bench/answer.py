"""What one answer costs this process without any server or Redis: parse, resolve, judge, encode, count.

    python bench/answer.py [--calls 20000]

Prints µs a call for an admitted call with five limits, a call that a quota refuses, and one with an unknown key; keys
are drawn from 10,000. It goes by wall time on an idle core: compare only figures of one run.
"""

from __future__ import annotations

import gc
import itertools
import random
import time

import click
import uvloop

from authz.check import Checker
from authz.core.catalog import Catalog
from authz.core.limits import Charge, Layer
from authz.core.resources import (
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
)
from authz.core.verdict import Tally
from authz.envoy.edge import Authorization
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.observe import log
from authz.observe.metrics import Metrics

KEYS, PLANS, ROUNDS = 10_000, 100, 5


def value(i: int) -> str:
    return f"key-{i:06d}-0123456789abcdefghij"


def resources() -> Resources:
    """One API, 100 plans of 100 keys, five layers, limits out of reach."""
    limit = ThrottleSettings(rate_limit=1e5, burst_limit=100_000)
    setting = MethodSetting(throttling_rate_limit=1e5, throttling_burst_limit=100_000)
    covered = ApiStage(api_id="a1", stage="prod", throttle={"/pets/GET": limit})
    return Resources(
        apis=(
            Api(
                id="a1",
                resources={"/pets": {"GET": Method()}},
                stages=(Stage(name="prod", method_settings={"*/*": setting}),),
            ),
        ),
        api_keys=tuple(ApiKey(id=f"k{i}", value=value(i)) for i in range(KEYS)),
        usage_plans=tuple(
            UsagePlan(
                id=f"p{i}",
                name=f"Plan {i}",
                throttle=limit,
                quota=QuotaSettings(limit=10**9, period=Period.MONTH),
                api_stages=(covered,),
                keys=tuple(f"k{j}" for j in range(i, KEYS, PLANS)),
            )
            for i in range(PLANS)
        ),
    )


def question(key: str) -> bytes:
    """About what Envoy asks with `allowed_headers` set."""
    message = pb.CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path, http.id = "GET", "a1.example.org", "/prod/pets", "1234567890123456789"
    headers = {":authority": "a1.example.org", ":method": "GET", ":path": "/prod/pets", ":scheme": "https"}
    headers |= {"x-api-key": key, "accept": "*/*", "x-forwarded-proto": "https", "x-request-id": "0" * 36}
    http.headers.update(headers)
    return message.SerializeToString()


class Says:
    """A limiter that answers at once."""

    def __init__(self, refused_by: Layer | None = None) -> None:
        self._refused_by = refused_by

    async def admit(self, charge: Charge) -> Tally:
        limits = charge.limits
        states = tuple(1 for _ in limits)
        refused = next((limit for limit in limits if limit.layer is self._refused_by), None)
        return Tally(now=time.time_ns() // 1000, states=states, refused_by=refused, wait_us=5_000_000)


async def per_call(authorization: Authorization, questions: list[bytes], calls: int) -> float:
    """µs a call, the least of some rounds."""
    best, drawn = float("inf"), itertools.cycle(questions)
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(calls):
            await authorization.answer(next(drawn), 0.2)
        best = min(best, time.perf_counter() - started)
    return best / calls * 1e6


@click.command()
@click.option("--calls", default=20_000, show_default=True)
def main(calls: int) -> None:
    log.configure("info", "json")
    catalog = Catalog.compile(resources())
    known = [question(value(i)) for i in random.sample(range(KEYS), KEYS)]
    gc.freeze()

    def service(refused_by: Layer | None = None) -> Authorization:
        checker = Checker(lambda: catalog, Says(refused_by), None, lambda: time.time_ns() // 1000)  # type: ignore[arg-type]
        return Authorization(checker, Metrics(), version=lambda: "1-abc")

    async def run() -> None:
        print(f"admitted, five limits   {await per_call(service(), known, calls):6.1f} µs")
        print(f"refused by the quota    {await per_call(service(Layer.PLAN_QUOTA), known, calls // 4):6.1f} µs")
        print(f"unknown key             {await per_call(service(), [question('nobody')], calls // 4):6.1f} µs")

    uvloop.run(run())


if __name__ == "__main__":
    main()

"""A store with very many keys without limits."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final

from redis.asyncio import Redis

from authz.aws.convert import from_resources
from authz.core.resources import (
    Account,
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
from authz.store.ports import Draft
from authz.store.store import Store
from bench.load.inputs import HIGH, value_of

KEYS: Final = 1_000_000
QUICK_KEYS: Final = 20_000
PLANS: Final = 100
CHUNK: Final = 1_000  # keys in one write
CREATED: Final = 1_700_000_000
SECONDS: Final = 30.0  # for one write
# What stands beside the store: limits of the account that are never reached.
DOCUMENT: Final[dict[str, Any]] = {"account": {"throttleSettings": HIGH}}

HIGH_THROTTLE: Final = ThrottleSettings(rate_limit=1_000_000, burst_limit=1_000_000)
STAGE: Final = ApiStage(api_id="a1", stage="prod", throttle={"/*/*": HIGH_THROTTLE})


def plan(number: int) -> StoredPlan:
    quota = QuotaSettings(limit=2**31 - 1, period=Period.MONTH)
    name = f"Plan {number}"
    made = UsagePlan(id=f"plan{number}", name=name, throttle=HIGH_THROTTLE, quota=quota, api_stages=(STAGE,))
    return StoredPlan(made, nonce=f"{number:016x}")


def key(number: int, of: StoredPlan) -> StoredKey:
    return StoredKey(
        ApiKey(id=f"k{number:09}", name=f"Customer {number}", enabled=True),
        index=digest(value_of(number)).hex(),
        created_date=CREATED,
        last_updated_date=CREATED,
        plans=(of.ref,),
    )


async def fill(url: str, keys: int) -> tuple[float, float]:
    """Write the API, the plans and `keys` keys, spread evenly over them; the seconds that took, and MB in Redis."""
    plans = [plan(number) for number in range(PLANS)]
    resources = Resources(account=Account(HIGH_THROTTLE), apis=(Api(id="a1", stages=(Stage(name="prod"),)),))
    store, began = Store(url, budget=SECONDS), perf_counter()

    async def first(edit: Draft) -> None:
        for item in (*from_resources(resources, CREATED).values(), *plans):
            edit.put(item)

    try:
        await store.write(first, who="bench", what="plans")
        for start in range(0, keys, CHUNK):

            async def some(edit: Draft, start: int = start) -> None:
                for number in range(start, min(start + CHUNK, keys)):
                    edit.put(key(number, plans[number % PLANS]))

            await store.write(some, who="bench", what="keys")
    finally:
        await store.aclose()
    async with Redis.from_url(url) as client:
        return perf_counter() - began, int((await client.info("memory"))["used_memory"]) / 1e6

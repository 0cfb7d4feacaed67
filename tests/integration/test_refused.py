"""Refused calls are counted by plan, key, day and reason, in one command a second, and each once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import yaml
from structlog.testing import capture_logs

from authz.check import LimiterUnavailable
from authz.core.limits import redis_key
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.zones import DAY_US
from authz.limiter.refused import RefusedCount, RefusedSender
from authz.sidecar.refused import RefusedCalls
from tests.conftest import Clock
from tests.integration.test_outage import document, eventually, running
from tests.integration.test_server import check
from tests.support.builders import value_of
from tests.support.proxy import proxy
from tests.support.servers import Kind, RedisServer, authz_serve, free_port, redis_server, until

TODAY = 20516  # 4 March 2026


@pytest.fixture
async def spy(shared_redis: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(shared_redis.url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
async def sender(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[RefusedSender]:
    opened = RefusedSender(shared_redis.url, account=account, retention_days=3, pinned=clock)
    yield opened
    await opened.aclose()


@pytest.fixture
def server(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server that the test may break."""
    with redis_server(redis_kind) as server:
        yield server


def one(amount: int, day: int = TODAY, reason: str = "throttle", key: str = "k") -> RefusedCount:
    return RefusedCount("p", key, day, reason, amount)


async def counts(spy: redis.asyncio.Redis, account: str, key: str = "k") -> dict[Any, Any]:
    found: dict[Any, Any] = await spy.hgetall(redis_key(account, "refused", "p", key))
    found.pop("oldest", None)
    return found


async def test_counts_add_up_by_day_and_reason(
    sender: RefusedSender, spy: redis.asyncio.Redis, account: str, clock: Clock
) -> None:
    assert clock() // DAY_US == TODAY
    await sender.send([one(2), one(3, reason="quota"), one(1, key="other")])
    await sender.send([one(5), one(7, TODAY - 1)])
    assert await counts(spy, account) == {
        f"{TODAY}:throttle": "7",
        f"{TODAY}:quota": "3",
        f"{TODAY - 1}:throttle": "7",
    }
    assert await counts(spy, account, "other") == {f"{TODAY}:throttle": "1"}


async def test_days_past_the_retention_are_dropped(
    sender: RefusedSender, spy: redis.asyncio.Redis, account: str, clock: Clock
) -> None:
    """Also the days that a pause of the caller has left behind."""
    await sender.send([one(1), one(1, reason="quota"), one(1, reason="shadow_throttle"), one(1, reason="shadow_quota")])
    clock.advance(86_400)
    await sender.send([one(1, TODAY + 1, "quota")])
    clock.advance(3 * 86_400)
    await sender.send([one(1, TODAY + 4)])
    assert await counts(spy, account) == {f"{TODAY + 1}:quota": "1", f"{TODAY + 4}:throttle": "1"}
    clock.advance(3 * 86_400)
    await sender.send([one(2, TODAY + 7)])
    assert await counts(spy, account) == {f"{TODAY + 4}:throttle": "1", f"{TODAY + 7}:throttle": "2"}
    assert 2 * 86_400 < await spy.ttl(redis_key(account, "refused", "p", "k")) <= 3 * 86_400


async def test_a_lost_reply_does_not_count_twice(server: RedisServer, account: str, clock: Clock) -> None:
    async with proxy(server) as between:
        sender = RefusedSender(between.url, account=account, retention_days=3, pinned=clock)
        await sender.send([one(1)])
        between.cuts = 1
        with pytest.raises(LimiterUnavailable):
            await sender.send([one(10)])
        await sender.send([one(10)])
        await sender.send([one(100)])
        await sender.aclose()
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:
        assert (await counts(client, account))[f"{TODAY}:throttle"] == "111"


async def test_two_workers_count_side_by_side(
    sender: RefusedSender, shared_redis: RedisServer, spy: redis.asyncio.Redis, account: str, clock: Clock
) -> None:
    other = RefusedSender(shared_redis.url, account=account, retention_days=3, pinned=clock)
    for amount in (1, 10):
        await sender.send([one(amount)])
        await other.send([one(100 * amount)])
    await other.aclose()
    assert (await counts(spy, account))[f"{TODAY}:throttle"] == "1111"


async def test_a_foreign_value_is_left_alone_and_costs_no_other_caller(
    sender: RefusedSender, spy: redis.asyncio.Redis, account: str
) -> None:
    foreign = redis_key(account, "refused", "p", "k")
    await spy.set(foreign, "x")
    with capture_logs() as logs:
        await sender.send([one(4), one(1, key="other")])
    assert await spy.get(foreign) == "x"
    assert await counts(spy, account, "other") == {f"{TODAY}:throttle": "1"}
    assert [(line["keys"], line["lost"]) for line in logs] == [([foreign], 4)]


# --- a whole sidecar ----------------------------------------------------------------------------------------------

PLANS: dict[str, dict[str, Any]] = {
    "slow": {"throttle": {"rateLimit": 0, "burstLimit": 2}},
    "small": {"quota": {"limit": 3, "period": "MONTH"}},
    "trial": {"mode": "shadow", "quota": {"limit": 1, "period": "MONTH"}},
}


async def refused_in(spy: redis.asyncio.Redis, account: str, name: str) -> dict[str, int]:
    """The refused calls of a key by reason, over all days."""
    found: dict[str, int] = {}
    rows: dict[Any, Any] = await spy.hgetall(redis_key(account, "refused", name, name))
    for field, count in rows.items():
        if field != "oldest":
            reason = field.partition(":")[2]
            found[reason] = found.get(reason, 0) + int(count)
    return found


async def test_each_429_of_a_known_caller_is_counted(
    shared_redis: RedisServer, spy: redis.asyncio.Redis, account: str, tmp_path: Path
) -> None:
    """Remembered refusals too; strangers and calls without a key are not counted, a shadow plan's calls apart."""
    async with running(tmp_path, shared_redis, plans=PLANS, account_id=account) as run:
        assert await run.calls("slow", 5) == [200] * 2 + [429] * 3
        assert await run.calls("small", 9) == [200] * 3 + [429] * 6
        assert await run.calls("trial", 3) == [200] * 3
        assert await run.calls("stranger", 2) == [403] * 2
        assert (await run.call(None)).status == 403
        assert run.metric("authz_checks_recalled_total") > 0
        await eventually(lambda: not run.sidecar.parts.refused.waiting)
        assert await refused_in(spy, account, "slow") == {"throttle": 3}
        assert await refused_in(spy, account, "small") == {"quota": 6}
        assert await refused_in(spy, account, "trial") == {"shadow_quota": 2}


async def test_a_stop_hands_over_the_last_counts(
    shared_redis: RedisServer, spy: redis.asyncio.Redis, account: str, tmp_path: Path
) -> None:
    async with running(tmp_path, shared_redis, plans=PLANS, account_id=account) as run:
        assert await run.calls("slow", 40) == [200] * 2 + [429] * 38
    assert await refused_in(spy, account, "slow") == {"throttle": 38}


def test_a_killed_sidecar_loses_the_refusals_since_its_last_command_at_most(
    server: RedisServer, tmp_path: Path
) -> None:
    """Refusals are counted once a second. What Redis has counted stays, and no refusal is made up."""
    file = tmp_path / "plans.yaml"
    file.write_text(yaml.safe_dump(document(**PLANS)))
    with (
        redis.Redis.from_url(server.url, decode_responses=True) as client,
        authz_serve(file, "--redis-url", server.url) as sidecar,
    ):

        def counted() -> int:
            rows: Any = client.hgetall(redis_key(DEFAULT_ACCOUNT, "refused", "slow", "slow"))
            return sum(int(count) for field, count in rows.items() if field != "oldest")

        handed_over = check(sidecar.grpc, *[value_of("slow")] * 40).count(429)
        until(lambda: counted() == handed_over, "the refusals are not counted", sidecar)
        late = check(sidecar.grpc, *[value_of("slow")] * 40).count(429)
        sidecar.kill()
        assert handed_over <= counted() <= handed_over + late


async def test_refusals_of_the_stand_in_are_counted_when_redis_is_back(server: RedisServer, tmp_path: Path) -> None:
    account = "outage"
    async with running(tmp_path, server, plans=PLANS, account_id=account) as run:
        assert await run.calls("slow", 1) == [200]
        server.kill()
        await run.calls("slow", 5)
        await run.is_left_alone()
        before = run.sidecar.parts.refused.waiting
        assert await run.calls("slow", 3) == [429] * 3
        assert run.sidecar.parts.refused.waiting == before + 3
        server.restart(empty=False)
        await run.is_asked_again()
        await eventually(lambda: not run.sidecar.parts.refused.waiting)
        async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:
            assert (await refused_in(client, account, "slow"))["throttle"] >= before + 3


async def test_counts_are_kept_while_redis_is_unreachable() -> None:
    sender = RefusedSender(f"redis://127.0.0.1:{free_port()}/0", account="a", retention_days=3)
    calls = RefusedCalls(sender.send, "")
    calls._counts["p", "k", TODAY, "quota"] = 5
    assert not await calls.send()
    assert not await calls.send()
    assert calls.waiting == 5
    with capture_logs() as logs:
        await calls.drain()
    assert [line["requests"] for line in logs if line["log_level"] == "error"] == [5]
    await sender.aclose()

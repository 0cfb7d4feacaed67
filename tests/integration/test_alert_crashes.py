"""Control planes are killed at random while they send alerts: each alert arrives, always under one id.

A longer run: `python -m tests.integration.test_alert_crashes --alerts 10000`.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import redis

from authz.cli.up import die_with_parent
from authz.control.alerts.sending import new_secret
from authz.core.limits import redis_key
from authz.core.stored import AlertTarget
from authz.store.ports import Draft
from authz.store.store import Store
from tests.integration.test_alerting import entry
from tests.support.dispatching import SEALER
from tests.support.receiver import Answer, Receiver, receiver
from tests.support.servers import DEADLINE_SECONDS, RedisServer, redis_server

PLANES = 2


@dataclass(frozen=True)
class Outcome:
    """What arrived: messages in all, kills, alerts that did not arrive, and alerts with several ids or bodies."""

    messages: int
    kills: int
    lost: int
    with_several_ids: int


def half(draw: random.Random) -> Callable[[int], Answer]:
    """An answer that fails half of the time, in several ways."""
    return lambda _: (draw.choice((200, 204)) if draw.random() < 0.5 else draw.choice((400, 429, 500, 503)), {})


async def target_at(redis_url: str, account: str, url: str) -> str:
    """Make a target; returns its secret."""
    secret = new_secret()
    store = Store(redis_url, account=account, budget=10.0)

    async def edit(draft: Draft) -> None:
        draft.put(AlertTarget("t1", "pager", url, 1, 1, SEALER.seal(secret, "t1")))

    await store.write(edit, who="tests", what="CreateAlertTarget")
    await store.aclose()
    return secret


def started(redis_url: str, account: str) -> subprocess.Popen[bytes]:
    """A process that sends alerts."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.dispatching", redis_url, account],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent(os.getpid()),
    )


def race(redis_url: str, account: str, alerts: int, kills: int, seed: int) -> Outcome:
    """Append alerts while two processes send them to a receiver that fails half of its calls.

    One of the processes is killed after a random number of messages, about `kills` times in all.
    """
    draw, share = random.Random(seed), 4 * alerts // kills
    with receiver(half(draw)) as hooks, redis.Redis.from_url(redis_url) as client:
        secret = asyncio.run(target_at(redis_url, account, hooks.url))
        client.hset(redis_key(account, "alerts-cursor"), mapping={"id": "0-0", "position": "0"})
        planes = [started(redis_url, account) for _ in range(PLANES)]
        killed, written, next_kill = 0, 0, draw.randrange(1, share)
        deadline = time.monotonic() + DEADLINE_SECONDS + alerts / 10
        try:
            while len({one.id for one in hooks.accepted}) < alerts and time.monotonic() < deadline:
                for _ in range(min(alerts - written, draw.randrange(1, 2 + alerts // 10))):
                    client.xadd(redis_key(account, "alerts"), entry(account, "ledger", "p", f"k{written}"))
                    written += 1
                time.sleep(draw.uniform(0.0, 0.5))
                if len(hooks.got) >= next_kill:
                    victim = draw.randrange(PLANES)
                    planes[victim].kill()
                    planes[victim].wait()
                    planes[victim] = started(redis_url, account)
                    killed, next_kill = killed + 1, len(hooks.got) + draw.randrange(1, share)
        finally:
            for process in planes:
                process.kill()
                process.wait()
        return outcome(hooks, secret, alerts, killed)


def outcome(hooks: Receiver, secret: str, alerts: int, kills: int) -> Outcome:
    assert all(one.is_signed_by(secret) for one in hooks.got)
    names = {f"k{number}" for number in range(alerts)}
    pairs = {(one.json["data"]["keyId"], one.id, one.body) for one in hooks.got}
    several = sum(count > 1 for count in Counter(name for name, *_ in pairs).values())
    arrived = {one.json["data"]["keyId"] for one in hooks.accepted}
    return Outcome(len(hooks.got), kills, len(names - arrived), several)


def test_each_alert_arrives_under_one_id_whenever_a_control_plane_is_killed(
    shared_redis: RedisServer, account: str
) -> None:
    found = race(shared_redis.url, account, alerts=300, kills=6, seed=1)
    assert (found.lost, found.with_several_ids) == (0, 0)
    assert found.kills > 0
    assert found.messages > 300


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with redis_server(unix=True) as server:
        began = time.monotonic()
        found = race(server.url, uuid4().hex, given.alerts, given.kills, given.seed)
    print(f"{given.alerts} alerts, {found}, {time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()

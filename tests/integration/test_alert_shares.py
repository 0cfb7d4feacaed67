"""Receivers that do not answer: whose deliveries wait, and whose go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from authz.control.alerts.addresses import Rules
from authz.control.alerts.dispatcher import Dispatcher
from authz.control.alerts.schedule import Attempt
from authz.control.alerts.sending import Message
from authz.core.stored import AlertTarget
from authz.observe.metrics import ControlMetrics
from authz.store.outbox import RedisOutbox
from authz.store.ports import Delivery, Draft
from authz.store.sealing import Sealer
from authz.store.store import Store
from tests.support.servers import RedisServer

SEALER = Sealer([b"s" * 32])
SECONDS = 60.0  # the longest wait, on a busy machine


class Receivers:
    """A `Sender` whose targets answer at once if their names begin with `quick`, and otherwise never."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.waiting: Counter[str | None] = Counter()
        self.arrived, self.begun = asyncio.Queue[str | None](), asyncio.Queue[None]()

    async def send(self, message: Message) -> Attempt:
        if message.url.startswith("https://quick"):
            self.arrived.put_nowait(message.customer_id)
            return Attempt(204)
        self.waiting[message.customer_id] += 1
        self.begun.put_nowait(None)
        await asyncio.Event().wait()
        raise AssertionError

    async def wait_for(self, attempts: int) -> None:
        """Wait until this number of attempts waits for an answer."""
        for _ in range(attempts):
            await self.begun.get()


@pytest.fixture
async def parts(shared_redis: RedisServer, account: str) -> AsyncIterator[tuple[Store, RedisOutbox, str]]:
    async with AsyncExitStack() as closing:
        store = Store(shared_redis.url, account=account, budget=SECONDS)
        closing.push_async_callback(store.aclose)
        outbox = RedisOutbox(shared_redis.url, account=account, budget=SECONDS)
        closing.push_async_callback(outbox.aclose)
        yield store, outbox, account


async def due(store: Store, outbox: RedisOutbox, host: str, customer_id: str | None, targets: int, each: int) -> None:
    """Targets with deliveries that are due."""
    ids = [f"{host}-{number}" for number in range(targets)]

    async def make(edit: Draft) -> None:
        for id_ in ids:
            sealed = SEALER.seal("whsec_" + "A" * 44, id_)
            edit.put(AlertTarget(id_, id_, f"https://{host}.example/", 1, 1, sealed, True, customer_id))

    await store.write(make, who="test", what="targets")
    reading = await outbox.look(1)
    deliveries = [
        Delivery(f"msg_{number}_{id_}", id_, "{}", reading.now, reading.now) for id_ in ids for number in range(each)
    ]
    assert await outbox.add(reading, deliveries)


@asynccontextmanager
async def dispatching(store: Store, outbox: RedisOutbox, receivers: Receivers, account: str) -> AsyncIterator[None]:
    """A dispatcher that runs meanwhile. Raises TimeoutError after SECONDS."""
    dispatcher = Dispatcher(
        store, outbox, receivers, SEALER, account, ControlMetrics(), lambda: int(time.time()), look_seconds=0.05
    )
    running = asyncio.create_task(dispatcher.run())
    try:
        async with asyncio.timeout(SECONDS):
            yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_receivers_of_one_customer_that_never_answer_do_not_hold_up_others(
    parts: tuple[Store, RedisOutbox, str],
) -> None:
    """Ten customers with ten targets each could wait for 100 answers; there are 64 places."""
    store, outbox, account = parts
    receivers = Receivers()
    slow = [f"slow{number}" for number in range(10)]
    for one in slow:
        await due(store, outbox, one, one, 10, 4)
    async with dispatching(store, outbox, receivers, account):
        await receivers.wait_for(48)
        await due(store, outbox, "quick", None, 1, 3)
        assert [await receivers.arrived.get() for _ in range(3)] == [None] * 3
    assert receivers.waiting.total() == 48
    assert max(receivers.waiting.values()) <= 8


async def test_one_customer_waits_for_eight_answers_and_another_is_served(
    parts: tuple[Store, RedisOutbox, str],
) -> None:
    store, outbox, account = parts
    receivers = Receivers()
    await due(store, outbox, "slow", "slow", 10, 4)
    async with dispatching(store, outbox, receivers, account):
        await receivers.wait_for(8)
        await due(store, outbox, "quick", "other", 1, 3)
        assert [await receivers.arrived.get() for _ in range(3)] == ["other"] * 3
    assert receivers.waiting == {"slow": 8}

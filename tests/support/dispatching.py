"""A process that sends alerts as a control plane does, with short pauses. Tests kill it at any moment.

`python -m tests.support.dispatching REDIS_URL ACCOUNT`
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from authz.control.alerts.addresses import Rules
from authz.control.alerts.dispatcher import Dispatcher
from authz.control.alerts.schedule import Schedule
from authz.control.alerts.sending import WebhookSender
from authz.observe.metrics import ControlMetrics
from authz.store.outbox import RedisOutbox
from authz.store.sealing import Sealer
from authz.store.store import Store

SEALER = Sealer([b"s" * 32])
QUICK = Schedule(first=0.05, factor=2.0, longest=0.5)
LEASE_SECONDS = 2.0
BUDGET_SECONDS = 10.0  # for a busy machine


async def dispatch(url: str, account: str) -> None:
    """Send the account's alerts until cancelled."""
    store = Store(url, account=account, budget=BUDGET_SECONDS)
    outbox = RedisOutbox(url, account=account, budget=BUDGET_SECONDS, lease=LEASE_SECONDS)
    sender = WebhookSender(Rules(private=True), seconds=LEASE_SECONDS / 2)
    metrics = ControlMetrics()
    async with AsyncExitStack() as closing:
        closing.push_async_callback(store.aclose)
        closing.push_async_callback(outbox.aclose)
        dispatcher = Dispatcher(
            store,
            outbox,
            sender,
            SEALER,
            account,
            metrics,
            lambda: int(time.time()),
            schedule=QUICK,
            look_seconds=0.1,
        )
        await dispatcher.run()


if __name__ == "__main__":
    asyncio.run(dispatch(*sys.argv[1:]))

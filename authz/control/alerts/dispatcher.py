"""Turns alerts into deliveries and sends them, beside other control planes.

Each alert becomes a delivery for each target that matches, in one atomic step of Redis. A process leases a delivery,
sends it, and writes down the end of the attempt. If it dies in between, the lease ends and another process sends the
same delivery again, under the same id.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from msgspec import structs

from authz.cancelled import heed_cancellation
from authz.control.alerts.matching import Named, body_of, matching
from authz.control.alerts.schedule import Attempt, Next, Schedule
from authz.control.alerts.sending import Message, Sender
from authz.control.alerts.shares import Shares
from authz.core.stored import AlertTarget, StoredKey, StoredPlan, alert_targets, good_until
from authz.notice import Notice
from authz.redisio.url import in_words
from authz.store.outbox import delivery_id
from authz.store.ports import Alert, Claimed, Delivery, Draft, Outbox, OutboxReading, StoreUnavailable, Writer
from authz.store.sealing import Sealer, SealError

log = structlog.get_logger(__name__)

READ: Final = 200  # alerts in one step
LOOK_SECONDS: Final = 1.0  # between two looks at the stream
WIDTH: Final = 4  # attempts to one target at once
DOUBTS: Final = 3  # failures of a target in a row, after which it gets one attempt at a time
PATIENCE: Final = 10  # failures of a target in a row, after which this process rests before each further attempt
MAX_REST_SECONDS: Final = 60.0
DISABLED: Final = "not sent: the target is disabled"
GONE: Final = "answered 410 Gone, so the target was disabled"
SEALED: Final = "not sent: the target's secret was sealed with a key that is not given here"


class Observer(Protocol):
    """Counts deliveries: each attempt by its result, and alerts that were lost."""

    def attempted(self, result: str) -> None: ...

    def missed(self, alerts: int) -> None: ...

    def waiting(self, pending: int, oldest_seconds: float, failing: int) -> None: ...


@dataclass(slots=True)
class _Line:
    """The attempts of this process to one target. `rest_until` is on the event loop's clock."""

    workers: int = 0
    failures: int = 0
    rest_until: float = 0.0

    def note(self, attempt: Attempt, now: float) -> None:
        if attempt.arrived:
            self.failures, self.rest_until = 0, 0.0
            return
        self.failures += 1
        rest = min(MAX_REST_SECONDS, 2.0 ** min(self.failures - PATIENCE, 10)) if self.failures >= PATIENCE else 0.0
        self.rest_until = now + max(rest, min(attempt.retry_after or 0.0, MAX_REST_SECONDS))


class Dispatcher:
    """Sends the alerts of one account until it is cancelled.

    `now` is Unix time in seconds, `chance` draws from 0 to 1, and `look_seconds` pass between two looks.
    """

    def __init__(
        self,
        store: Writer,
        outbox: Outbox,
        sender: Sender,
        sealer: Sealer,
        account_id: str,
        observer: Observer,
        now: Callable[[], int],
        *,
        schedule: Schedule | None = None,
        chance: Callable[[], float] = random.random,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._sender = sender
        self._sealer = sealer
        self._account_id = account_id
        self._observer = observer
        self._now = now
        self._schedule = schedule or Schedule()
        self._chance = chance
        self._look_seconds = look_seconds
        self._shares = Shares()
        self._lines: dict[str, _Line] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._unavailable = Notice("alerts are not sent: the store is unavailable", redis=store.address)
        self._sealed = Notice("alerts are not sent: their target's secret was sealed with a key that is not given here")

    async def run(self) -> None:
        """Turn alerts into deliveries and send them, until cancelled."""
        try:
            while True:
                if not await self._step():
                    await asyncio.sleep(self._look_seconds)
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)

    async def _step(self) -> bool:
        """Look once. True if there are more alerts to read at once."""
        try:
            reading = await self._outbox.look(READ)
            waited = 0.0 if reading.oldest is None else max(0, reading.now - reading.oldest) / 1_000_000
            self._observer.waiting(reading.pending, waited, reading.failing)
            planned = await self._plan(reading) if reading.alerts or reading.missed else set[str]()
            now = asyncio.get_running_loop().time()
            for target_id in {*reading.due, *planned}:
                line = self._lines.setdefault(target_id, _Line())
                if line.workers == 0 and line.rest_until <= now:
                    self._add_worker(target_id, line)
        except StoreUnavailable as fault:
            self._unavailable.says(in_words(fault))
            return False
        except Exception as error:
            _log_fault("alerts are not sent", error)
            return False
        self._unavailable.ended("alerts are sent again")
        return len(reading.alerts) == READ

    # --- from alerts to deliveries ---

    async def _plan(self, reading: OutboxReading) -> set[str]:
        """Add the deliveries of these alerts. Returns the ids of their targets."""
        named = await self._named(reading.alerts)
        customers = dict.fromkeys([None, *(one.customer_id for one in named)])
        targets = {customer: await self._targets(customer) for customer in customers}
        deliveries = [
            Delivery(
                delivery_id(one.alert.id, target.id),
                target.id,
                body_of(self._account_id, one),
                reading.now,
                reading.now,
            )
            for one in named
            for target in matching(
                [*targets[None], *(targets[one.customer_id] if one.customer_id is not None else [])], one
            )
        ]
        if not await self._outbox.add(reading, deliveries):
            return set()
        if reading.missed:
            log.error("alerts were lost: the stream dropped them before they were read", alerts=reading.missed)
            self._observer.missed(reading.missed)
        return {one.target_id for one in deliveries}

    async def _named(self, alerts: list[Alert]) -> list[Named]:
        key_ids = list(dict.fromkeys(alert.key_id for alert in alerts if alert.key_id is not None))
        plan_ids = list(dict.fromkeys(alert.plan_id for alert in alerts))
        keys = dict(zip(key_ids, await self._store.many("apikey", key_ids), strict=True))
        plans = dict(zip(plan_ids, await self._store.many("usageplan", plan_ids), strict=True))
        named = []
        for alert in alerts:
            key, plan = keys.get(alert.key_id or ""), plans.get(alert.plan_id)
            plan_name = plan.plan.name if isinstance(plan, StoredPlan) else None
            if isinstance(key, StoredKey):
                named.append(Named(alert, key.key.customer_id, plan_name, key.key.name))
            else:
                named.append(Named(alert, alert.customer_id, plan_name))
        return named

    async def _targets(self, customer_id: str | None) -> list[AlertTarget]:
        ids = await self._store.members(alert_targets(customer_id))
        return [item for item in await self._store.many("alerttarget", ids) if isinstance(item, AlertTarget)]

    # --- from deliveries to attempts ---

    def _add_worker(self, target_id: str, line: _Line) -> None:
        line.workers += 1
        worker = asyncio.create_task(self._work(target_id, line))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, target_id: str, line: _Line) -> None:
        """Send deliveries of the target, one after the other, while some are due."""
        try:
            target = await self._store.get("alerttarget", target_id)
            customer_id = target.customer_id if isinstance(target, AlertTarget) else None
            while await self._send_one(target_id, customer_id, line):
                if line.workers < WIDTH and line.failures == 0:
                    self._add_worker(target_id, line)
        except StoreUnavailable as fault:
            self._unavailable.says(in_words(fault))
        except Exception as error:
            _log_fault("a delivery is not sent now", error)
        finally:
            line.workers -= 1
            if line.workers == 0 and line.failures == 0:
                self._lines.pop(target_id, None)

    async def _send_one(self, target_id: str, customer_id: str | None, line: _Line) -> bool:
        """Send a delivery in a place of the customer, or of the owner. True if this worker may go on."""
        loop = asyncio.get_running_loop()
        async with self._shares.held(customer_id):
            claimed = await self._outbox.claim(target_id)
            if claimed is None:
                return False
            target = await self._store.get("alerttarget", target_id)
            if not isinstance(target, AlertTarget):
                await self._outbox.forget(target_id)
                return False
            if not target.enabled:
                await self._end(target_id, DISABLED)
                return False
            started = loop.time()
            attempt = await self._attempt(target, claimed.delivery)
            line.note(attempt, loop.time())
            await self._settle(claimed, attempt, claimed.at + round((loop.time() - started) * 1_000_000))
        is_steady = line.failures < DOUBTS or line.workers == 1
        return attempt.arrived or (is_steady and line.rest_until <= loop.time())

    async def _attempt(self, target: AlertTarget, delivery: Delivery) -> Attempt:
        try:
            secrets = secrets_of(target, self._sealer, self._now())
        except SealError:
            self._sealed.says(SEALED, target=target.id)
            return Attempt(error=SEALED)
        message = Message(delivery.id, delivery.body, target.url, secrets, target.customer_id)
        try:
            return await self._sender.send(message)
        except Exception as error:  # a delivery that meets a fault of ours is given up after a day, as any other
            heed_cancellation()
            _log_fault("a delivery was not sent", error)
            return Attempt(error=f"not sent: {type(error).__name__}")

    async def _settle(self, claimed: Claimed, attempt: Attempt, at: int) -> None:
        """Write down the end of an attempt at this time (µs), and what follows."""
        delivery = replace(
            claimed.delivery,
            attempts=claimed.delivery.attempts + 1,
            last_at=at,
            last_status=attempt.status,
            last_error=attempt.error,
        )
        age = (at - delivery.since) / 1_000_000
        following, pause = self._schedule.after(attempt, delivery.attempts, age, self._chance())
        match following:
            case Next.DONE:
                await self._outbox.delivered(claimed, delivery)
                self._observer.attempted("delivered")
            case Next.AGAIN:
                await self._outbox.retry(claimed, delivery, pause)
                self._observer.attempted("retried")
            case Next.GIVE_UP:
                await self._outbox.failed(claimed, delivery)
                self._observer.attempted("failed")
                log.warning("an alert was given up", delivery=delivery.id, error=attempt.error)
            case Next.DISABLE:
                await self._outbox.failed(claimed, replace(delivery, last_error=GONE))
                self._observer.attempted("failed")
                await self._disable(delivery.target_id)

    async def _disable(self, target_id: str) -> None:
        async def edit(draft: Draft) -> None:
            found = await draft.get("alerttarget", target_id)
            if isinstance(found, AlertTarget) and found.enabled:
                draft.put(disabled(found, self._now()))

        await self._store.write(edit, who="alerts", what=f"UpdateAlertTarget {target_id} (410 Gone)")
        log.warning("a target of alerts was disabled: it answered 410 Gone", target=target_id)
        await self._end(target_id, GONE)

    async def _end(self, target_id: str, reason: str) -> None:
        for _ in range(await self._outbox.end(target_id, reason)):
            self._observer.attempted("failed")


def secrets_of(target: AlertTarget, sealer: Sealer, now: int) -> tuple[str, ...]:
    """The secrets that sign now. Raises SealError."""
    current = sealer.open(target.sealed_secret, target.id)
    if target.previous_sealed_secret is None or good_until(target.previous_expires_at, now) is None:
        return (current,)
    with suppress(SealError):
        return (current, sealer.open(target.previous_sealed_secret, target.id))
    return (current,)


def disabled(target: AlertTarget, now: int) -> AlertTarget:
    """The target, switched off."""
    return structs.replace(target, enabled=False, last_updated_date=max(now, target.created_date))


def _log_fault(event: str, error: Exception) -> None:
    """Log neither the exception's text nor its locals: a secret may be in them."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error(event, error=type(error).__name__, frames=frames)

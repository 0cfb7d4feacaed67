"""The parts of a sidecar, built and connected once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from authz.check import NO_KEYS, Checker, KeyCache
from authz.config.file import Config
from authz.config.live import LiveCatalog, Outcome
from authz.config.settings import Settings
from authz.core.catalog import Catalog, Compiler
from authz.core.holders import CUSTOMER, state_keys
from authz.core.keyform import KeyForm
from authz.core.limits import redis_key
from authz.envoy.answers import Style
from authz.envoy.edge import Authorization
from authz.limiter.circuit import Circuit
from authz.limiter.limiter import RedisLimiter, Report
from authz.limiter.local import LocalLimiter
from authz.limiter.refused import RefusedSender
from authz.observe.metrics import Metrics
from authz.redisio.url import mask_url
from authz.sidecar.certificates import Certificates
from authz.sidecar.debts import Debts
from authz.sidecar.follower import Callers, StoreCatalog
from authz.sidecar.refused import RefusedCalls
from authz.sidecar.seat import Seat
from authz.store.feed import Feed
from authz.store.keys import LookupResult, StoreKeyCache
from authz.store.sealing import Sealer

STORE_SECONDS = 5.0  # for a command that no caller waits for

File = tuple[Path, Config] | None


@dataclass(frozen=True, slots=True)
class Parts:
    """One process's parts.

    `seat` is set in a worker of several. `lookups` is the connection that finds keys of the store, if there is one.
    """

    settings: Settings
    seat: Seat | None
    metrics: Metrics
    certificates: Certificates | None
    fallback: LocalLimiter
    limiter: RedisLimiter
    circuit: Circuit
    debts: Debts
    refused: RefusedCalls
    refused_sender: RefusedSender
    live: LiveCatalog[Catalog] | StoreCatalog
    lookups: Feed | None
    service: Authorization

    @classmethod
    def build(cls, settings: Settings, file: File, sealer: Sealer | None = None, seat: Seat | None = None) -> Parts:
        """Without a file, all resources are the store's. Raises OSError for certificates that cannot be used."""
        if seat:
            seat.take()
        metrics = Metrics(settings.max_plan_labels)
        certificates = Certificates.of(settings, metrics.certificate_expires)
        fallback = LocalLimiter(settings.replicas * settings.workers, settings.key_cache_size)
        address = mask_url(settings.redis_url)

        async def recover() -> bool:
            """Debts are paid before callers return, or the same units would be admitted twice."""
            return await limiter.probe() and await debts.pay()

        def switch(available: bool) -> None:
            limiter.available = available
            metrics.circuit_open.set(not available)

        circuit = Circuit(recover, switch, address=address)
        redis = RedisEffects(metrics, circuit, fallback)
        limiter = RedisLimiter(
            settings.redis_url,
            account=settings.account_id,
            budget=settings.redis_timeout_ms / 1000,
            retention_days=settings.usage_retention_days,
            hold_ms=settings.hold_ms,
            observer=redis,
        )
        debts = Debts(fallback, limiter.flush, redis.on_failure, address)
        sender = RefusedSender(
            settings.redis_url, account=settings.account_id, retention_days=settings.usage_retention_days
        )
        refused = RefusedCalls(sender.send, address)
        effects = CatalogEffects(settings.account_id, metrics, limiter, fallback)
        lookups: Feed | None = None
        keys: KeyCache = NO_KEYS
        live: LiveCatalog[Catalog] | StoreCatalog
        compile_ = Compiler(settings.account_id, settings.failure_policy, KeyForm.of(settings.key_prefix))
        if settings.store or file is None:
            # A look-up has a caller's budget; background reads have more time.
            lookups = _store(settings, settings.redis_timeout_ms / 1000)
            keys = ring = StoreKeyCache(
                lookups.find,
                (sealer or Sealer()).index,
                size=settings.key_cache_size,
                away=lambda: circuit.is_open,
                observe=redis.on_lookup,
            )
            live = StoreCatalog(
                _store(settings, STORE_SECONDS),
                ring,
                compile_,
                worker=os.urandom(8).hex(),
                file=file,
                observe=effects.on_reload,
                reset=effects.on_reset,
            )
        else:
            live = LiveCatalog(*file, compile_, effects.on_reload, seat.catalog if seat else None)
        service = Authorization(
            Checker(lambda: live.current, limiter, fallback, limiter.clock.now, keys, settings.charge_once),
            metrics,
            version=lambda: live.version.text,
            style=Style(settings.response_profile, settings.rate_limit_headers_on_success, settings.dynamic_metadata),
            log_sample=settings.refusal_log_sample,
            max_in_flight=settings.max_in_flight,
            on_refusal=refused.count,
        )
        parts = cls(
            settings,
            seat,
            metrics,
            certificates,
            fallback,
            limiter,
            circuit,
            debts,
            refused,
            sender,
            live,
            lookups,
            service,
        )
        metrics.at_flush(Gauges(parts).update)
        return parts

    @property
    def unauthorized(self) -> Sequence[str]:
        """Methods of the store whose authorization is not carried out."""
        return self.live.unauthorized if isinstance(self.live, StoreCatalog) else ()

    async def aclose(self) -> None:
        """Close the connections, and hand over the last metrics."""
        await self.limiter.aclose()
        await self.refused_sender.aclose()
        if isinstance(self.live, StoreCatalog):
            await self.live.aclose()
        if self.lookups:
            await self.lookups.aclose()
        self.metrics.flush()


def _store(settings: Settings, budget: float) -> Feed:
    return Feed(settings.redis_url, account=settings.account_id, budget=budget)


class RedisEffects:
    """What answers and failures of Redis mean to the metrics, the circuit and the stand-in."""

    def __init__(self, metrics: Metrics, circuit: Circuit, fallback: LocalLimiter) -> None:
        self.circuit = circuit
        self._metrics = metrics
        self._fallback = fallback

    def on_states(self, reports: Sequence[Report]) -> None:
        for limits, states in reports:
            self._fallback.observe(limits, states)

    def on_batch(self, size: int, seconds: float) -> None:
        self.circuit.succeeded()
        if size:  # a batch without calls gives holds back
            self._metrics.batch_size.observe(size)
        self._metrics.redis_seconds.observe(seconds)

    def on_failure(self, error: Exception) -> None:
        self._metrics.redis_errors(type(error).__name__)
        self.circuit.failed(error)

    def on_lookup(self, result: LookupResult, error: Exception | None) -> None:
        self._metrics.key_lookups(result)
        if error:
            self.circuit.failed(error)
        else:
            self.circuit.succeeded()


class CatalogEffects:
    """What a new catalog and counters that were set mean to the limiter and the stand-in."""

    def __init__(self, account: str, metrics: Metrics, limiter: RedisLimiter, fallback: LocalLimiter) -> None:
        self._account = account
        self._metrics = metrics
        self._limiter = limiter
        self._fallback = fallback

    def on_reload(self, outcome: Outcome) -> None:
        self._metrics.reloads(outcome)
        if outcome == "swapped":
            self._limiter.forget(None)  # under other limits a refused call may have room

    def on_reset(self, callers: Callers | None) -> None:
        """The counters of these callers were set, or unknown ones: forget what Redis reported of them before."""
        if callers is None:
            self._fallback.forget(None)
            self._limiter.forget(None)
            return
        self._fallback.forget([key for plan, name in callers for key in state_keys(self._account, plan, name)])
        # Refusals are remembered by key. Those of a customer's keys are not known to be the customer's.
        is_shared = any(name.startswith(CUSTOMER) for _, name in callers)
        ledgers = [redis_key(self._account, "ledger", plan, name) for plan, name in callers]
        self._limiter.forget(None if is_shared else ledgers)


class Counter(Protocol):
    """A metric that only grows."""

    def inc(self, amount: float = 1) -> None: ...


class Gauges:
    """Copies into the metrics what the parts count themselves."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._counted: dict[Counter, int] = {}  # the totals that the counters have

    def update(self) -> None:
        parts, metrics, limiter = self._parts, self._parts.metrics, self._parts.limiter
        metrics.catalog_version.set(parts.live.version.number)
        metrics.catalog_loaded.set(parts.live.loaded_at)
        metrics.catalog_checked.set(parts.live.checked_at)
        metrics.catalog_problem.set(parts.live.problem is not None)
        metrics.in_flight.set(parts.service.in_flight)
        metrics.owed.set(parts.debts.owed)
        self._count(metrics.recalled, limiter.recalled)
        self._count(metrics.waited, limiter.waited)
        self._count(metrics.master_changes, limiter.master_changes)
        if holds := limiter.holds:
            metrics.held.set(holds.held)
            self._count(metrics.admitted_from_holds, holds.admitted)
            self._count(metrics.holds_lost, holds.lost)

    def _count(self, counter: Counter, total: int) -> None:
        """Bring a counter to a total."""
        counter.inc(total - self._counted.get(counter, 0))
        self._counted[counter] = total

"""The composition root: builds the parts, runs them in one TaskGroup, stops them in order. A host serves gRPC."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import structlog

from authz.check import NO_KEYS, Checker, KeyRing, LimiterUnavailable
from authz.config.file import Config
from authz.config.live import LiveCatalog, Outcome
from authz.config.settings import Settings
from authz.core.catalog import Catalog, Compiler
from authz.core.limits import redis_key
from authz.envoy.answers import Style
from authz.envoy.edge import Authorization
from authz.limiter.circuit import Circuit
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter, Spent
from authz.notice import Notice
from authz.observe.metrics import Metrics
from authz.observe.status import HttpServer, about, app, check_listen, http_server
from authz.redisio.url import in_words, mask_url
from authz.sidecar.certificates import Certificates
from authz.sidecar.follower import Callers, StoreCatalog
from authz.sidecar.memory import settle
from authz.sidecar.port import HostEnded, Port
from authz.sidecar.seat import Seat
from authz.store.keys import Result, StoreRing
from authz.store.sealing import Sealer
from authz.store.store import Store

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 1.0
SETTLE_SECONDS = 1.0
SETTLE_ROUNDS = 3  # what was kept from the last time, what was admitted since, what is admitted meanwhile
STORE_SECONDS = 5.0  # for a command of those that no caller waits for


class Host(Protocol):
    """What serves gRPC: hands each serialised CheckRequest to `Authorization.answer`, and answers health checks."""

    async def start(self) -> None:
        """Listen; calls are answered from now on. Raises OSError where nobody can listen."""

    async def until_ended(self) -> None:
        """Returns when it has stopped as told. Raises HostEnded if it ended by itself."""

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, and give those in flight so long. May be called again."""


class Sidecar:
    """One process that answers Envoy: all of its parts, wired."""

    def __init__(
        self,
        settings: Settings,
        file: tuple[Path, Config] | None,
        sealer: Sealer | None = None,
        seat: Seat | None = None,
    ) -> None:
        """Without a file, all resources are the store's. With a `seat` it is one of several workers."""
        self.settings = settings
        self.seat = seat
        self._compile = Compiler(settings.account_id, settings.failure_policy)
        if seat:
            seat.take()
        self.metrics = Metrics(settings.max_plan_labels)
        self.certificates = Certificates.of(settings, self.metrics.certificate_expires)
        self.fallback = LocalLimiter(settings.replicas * settings.workers, settings.key_cache_size)
        self.limiter = RedisLimiter(
            settings.redis_url,
            account=settings.account_id,
            budget=settings.redis_timeout_ms / 1000,
            retention_days=settings.usage_retention_days,
            observe=self.fallback.observe,
            sent=self._sent,
            failed=self._failed,
        )
        address = mask_url(settings.redis_url)
        self.circuit = Circuit(self._recover, self._switch, address=address)
        self._unflushed = Notice("admitted requests are not counted in redis yet", redis=address)
        self.ring: KeyRing = NO_KEYS
        self.live: LiveCatalog[Catalog] | StoreCatalog
        self._lookups: Store | None = None
        if settings.store or file is None:
            self.live = self._follow_store(file, sealer or Sealer())
        else:
            self.live = LiveCatalog(*file, self._compile, self._reloaded, seat.catalog if seat else None)
        self._note_catalog()
        self.checker = Checker(
            lambda: self.live.current,
            self.limiter,
            self.fallback,
            self.limiter.clock.now,
            self.ring,
            settings.charge_once,
        )
        self.service = Authorization(
            self.checker,
            self.metrics,
            version=lambda: str(self.live.version),
            style=Style(settings.response_profile, settings.rate_limit_headers_on_success, settings.dynamic_metadata),
            log_sample=settings.refusal_log_sample,
            max_in_flight=settings.max_in_flight,
        )
        self.serving = self.draining = False
        self.port = Port(settings)
        self._unsettled: deque[Spent] = deque()
        self._settling = asyncio.Lock()
        self._recalled = self._master_changes = 0
        self.metrics.at_flush(self._count)

    def _follow_store(self, file: tuple[Path, Config] | None, sealer: Sealer) -> StoreCatalog:
        """Keys are looked up within a caller's patience; what is read in the background has longer."""
        url, account = self.settings.redis_url, self.settings.account_id
        self._lookups = Store(url, account=account, budget=self.settings.redis_timeout_ms / 1000)
        self.ring = ring = StoreRing(
            self._lookups.find,
            sealer.index,
            size=self.settings.key_cache_size,
            away=lambda: self.circuit.is_open,
            observe=self._looked_up,
        )
        store = Store(url, account=account, budget=STORE_SECONDS)
        return StoreCatalog(
            store,
            ring,
            self._compile,
            worker=os.urandom(8).hex(),
            file=file,
            observe=self._reloaded,
            reset=self._counters_set,
        )

    def details(self) -> dict[str, Any]:
        """What `/readyz` and `/healthz` tell. Ready means able to answer by policy: with Redis down we still are."""
        return {
            "ready": self.serving and not self.draining and not self.port.problem,
            "alive": not self.port.problem,
            "status": self._status(),
            "port": self.port.problem or "answering",
            "redis": "left alone" if self.circuit.is_open else "answering",
            "redisAddress": mask_url(self.settings.redis_url),
            "redisProblem": self.circuit.problem,
            "catalog": {
                "version": str(self.live.version),
                "loadedAt": self.live.loaded_at,
                "problem": self.live.problem,
                "unauthorized": self.live.unauthorized if isinstance(self.live, StoreCatalog) else [],
            },
        }

    def _status(self) -> str:
        if self.draining:
            return "draining"
        if self.port.problem:
            return "down"
        if not self.serving:
            return "starting"
        return "degraded" if self.circuit.is_open else "ok"

    async def connect(self) -> None:
        """Learn Redis's clock. Without Redis we start all the same, and answer by policy."""
        if not await self.limiter.probe():
            self.circuit.open()

    async def run(self, host: Host, stop: asyncio.Event, hup: asyncio.Event) -> None:
        """Answer until `stop` is set, then drain: NOT_SERVING, a delay in which Envoy notices, the last calls."""
        http = None if self.seat else self._http()
        await self.connect()
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._run(host, http, tasks, stop, hup)
        finally:
            await self._close(host)
        log.info("stopped")

    def _http(self) -> HttpServer:
        check_listen(self.settings.http_listen)
        return http_server(app(self.metrics, self.details, about(self.settings)), self.settings.http_listen)

    async def _run(
        self,
        host: Host,
        http: HttpServer | None,
        tasks: asyncio.TaskGroup,
        stop: asyncio.Event,
        hup: asyncio.Event,
    ) -> None:
        loops = (
            self.limiter.run(),
            self.circuit.run(),
            self.live.watch(),
            self._keep_settled(),
            self._reload_on(hup),
            self._keep_counted(),
        )
        running = [tasks.create_task(loop) for loop in loops]
        if self.certificates:
            running.append(tasks.create_task(self.certificates.watch()))
        if self.seat:
            running.append(tasks.create_task(self.seat.report(self.details, stop.set)))
        serving = tasks.create_task(serve_http(http, stop)) if http else None
        await host.start()
        await host.set_serving(False)
        running += [tasks.create_task(loop) for loop in (self._announce(host), self._mind(host))]
        self._port_watch = tasks.create_task(self.port.watch())
        await stop.wait()
        await self._drain(host)
        if http and serving:
            http.should_exit = True
            await serving
        for task in running:
            task.cancel()

    async def _announce(self, host: Host) -> None:
        """Calls are answered before, too; but who has no catalog yet refuses them all."""
        await self.live.loaded()
        if self.seat is None or self.seat.catalog is None:  # else it was done before the fork
            settle()
        if not self.draining:
            await host.set_serving(True)
            self.serving = True
            log.info("serving", grpc=self.settings.grpc_listen, http=self.settings.http_listen)

    async def _mind(self, host: Host) -> None:
        """Raises HostEnded when the host has ended by itself."""
        await host.until_ended()
        if not self.draining:
            raise HostEnded("the gRPC server has stopped")

    async def _close(self, host: Host) -> None:
        """However we stop, nobody is left waiting; what was admitted without Redis is counted, or told to be lost."""
        await host.stop(0)
        if not await self._settle():
            log.error("admitted requests are lost to the count", requests=self._owed())
        await self.limiter.aclose()
        if isinstance(self.live, StoreCatalog):
            await self.live.aclose()
        if self._lookups:
            await self._lookups.aclose()
        self.metrics.flush()

    async def _drain(self, host: Host) -> None:
        self.draining = True
        log.info("draining", seconds=self.settings.drain_seconds)
        await host.set_serving(False)
        await asyncio.sleep(self.settings.drain_seconds)
        self._port_watch.cancel()  # it closes now
        await host.stop(self.settings.grace_seconds)

    async def _reload_on(self, hup: asyncio.Event) -> None:
        while True:
            await hup.wait()
            hup.clear()
            if self.certificates:
                self.certificates.reload()
            await self.live.reload()

    async def _keep_counted(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.metrics.flush()

    def _reloaded(self, outcome: Outcome) -> None:
        self.metrics.reloads(outcome)
        if outcome == "swapped":
            self.limiter.forget(None)  # what was refused may have room under other limits
        self._note_catalog()

    def _counters_set(self, callers: Callers | None) -> None:
        """Neither the stand-in nor remembered refusals go by what Redis said of them before."""
        account = self.settings.account_id
        ledgers = None if callers is None else [redis_key(account, "ledger", *caller) for caller in callers]
        self.fallback.forget(ledgers)
        self.limiter.forget(ledgers)

    def _note_catalog(self) -> None:
        self.metrics.catalog_version.set(self.live.version.number)
        self.metrics.catalog_loaded.set(self.live.loaded_at)

    def _sent(self, size: int, seconds: float) -> None:
        self.circuit.succeeded()
        self.metrics.batch_size(size)
        self.metrics.redis_seconds(seconds)

    def _failed(self, error: Exception) -> None:
        self.metrics.redis_errors(type(error).__name__)
        self.circuit.failed(error)

    def _looked_up(self, result: Result, error: Exception | None) -> None:
        self.metrics.key_lookups(result)
        if error:
            self.circuit.failed(error)
        else:
            self.circuit.succeeded()

    def _switch(self, available: bool) -> None:
        self.limiter.available = available
        self.metrics.circuit_open.set(not available)

    async def _recover(self) -> bool:
        """Whether Redis decides again. What was admitted without it is counted there before callers return."""
        return await self.limiter.probe() and await self._settle()

    async def _settle(self) -> bool:
        """Count in Redis what was admitted without it. One that fails is kept, and goes first the next time."""
        async with self._settling:
            try:
                for _ in range(SETTLE_ROUNDS):
                    if not self._unsettled:
                        self._unsettled.extend(self.fallback.take_spent())
                    await self._flush()
            except LimiterUnavailable as error:
                self._unflushed.says(in_words(error), requests=self._owed())
                self._failed(error)
                return False
        self._unflushed.ended("admitted requests are counted in redis")
        return True

    async def _flush(self) -> None:
        while self._unsettled:
            left = await self.limiter.flush(self._unsettled[0])
            self.fallback.settled(self._unsettled.popleft(), left)

    async def _keep_settled(self) -> None:
        """A single failure spends locally without opening the circuit: that is counted within a second or so."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            if not self.circuit.is_open and self._owed():
                await self._settle()

    def _count(self) -> None:
        """What others count for themselves."""
        self.metrics.in_flight.set(self.service.in_flight)
        self.metrics.catalog_checked.set(self.live.checked_at)
        self.metrics.catalog_problem.set(self.live.problem is not None)
        self.metrics.unsettled.set(self._owed())
        self._recalled, before = self.limiter.recalled, self._recalled
        self.metrics.recalled.inc(self._recalled - before)
        self._master_changes, before = self.limiter.master_changes, self._master_changes
        self.metrics.master_changes.inc(self._master_changes - before)

    def _owed(self) -> int:
        """Requests that were admitted without Redis and are not counted there yet."""
        return self.fallback.unsettled + sum(spent.amount for spent in self._unsettled)


async def serve_http(http: HttpServer, stop: asyncio.Event) -> None:
    """Uvicorn logs why it cannot listen and returns, or exits; both stop us."""
    try:
        await http.serve()
    except SystemExit:
        raise OSError("the HTTP address cannot be listened on; the line above says why") from None
    finally:
        stop.set()

"""The composition root: builds the parts, runs them in one TaskGroup, stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from authz.check import NO_KEYS, Checker, KeyRing, LimiterUnavailable
from authz.circuit import Circuit
from authz.config import Config
from authz.core.catalog import NO_REFS, Catalog
from authz.core.limits import redis_key
from authz.core.resources import Resources
from authz.extauthz import SERVICE, Authorization, Style
from authz.fallback import LocalLimiter, Spent
from authz.follower import Callers, StoreCatalog
from authz.keyring import Result, StoreRing
from authz.limiter import RedisLimiter
from authz.live import LiveCatalog, Outcome
from authz.metrics import Metrics
from authz.pb import ext_authz_pb2_grpc
from authz.sealing import Sealer, load_sealer
from authz.settings import Settings
from authz.status import HttpServer, app, check_listen, http_server
from authz.store import Store

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 1.0
SETTLE_ROUNDS = 3  # what was kept from the last time, what was admitted since, what is admitted meanwhile
STORE_SECONDS = 5.0  # for a command of those that no caller waits for
STREAMS = 10_000  # Envoy multiplexes all checks of a worker thread on one connection


class Sidecar:
    """One process that answers Envoy: all of its parts, wired."""

    def __init__(self, settings: Settings, file: tuple[Path, Config] | None, sealer: Sealer | None = None) -> None:
        """Without a file, all resources are the store's."""
        self.settings = settings
        self.metrics = Metrics(settings.max_plan_labels)
        self.fallback = LocalLimiter(settings.replicas, settings.key_cache_size)
        self.limiter = RedisLimiter(
            settings.redis_url,
            account=settings.account_id,
            budget=settings.redis_timeout_ms / 1000,
            retention_days=settings.usage_retention_days,
            observe=self.fallback.observe,
            sent=self._sent,
            failed=self._failed,
        )
        self.circuit = Circuit(self._recover, self._switch)
        self.ring: KeyRing = NO_KEYS
        self.live: LiveCatalog[Catalog] | StoreCatalog
        self._lookups: Store | None = None
        if settings.store or file is None:
            self.live = self._follow_store(file, sealer or Sealer())
        else:
            self.live = LiveCatalog(*file, self._compile, self._reloaded)
        self._note_catalog()
        self.checker = Checker(
            lambda: self.live.current, self.limiter, self.fallback, self.limiter.clock.now, self.ring
        )
        self.service = Authorization(
            self.checker,
            self.metrics,
            version=lambda: str(self.live.version),
            style=Style(settings.response_profile, settings.rate_limit_headers_on_success),
            log_sample=settings.refusal_log_sample,
        )
        self.health = health.aio.HealthServicer()
        self.serving = self.draining = False
        self._unsettled: deque[Spent] = deque()
        self._settling = asyncio.Lock()
        self.metrics.unsettled.set_function(self._owed)

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
            "ready": self.serving and not self.draining,
            "status": self._status(),
            "redis": "left alone" if self.circuit.is_open else "answering",
            "catalog": {
                "version": str(self.live.version),
                "loadedAt": self.live.loaded_at,
                "problem": self.live.problem,
            },
        }

    def _status(self) -> str:
        if self.draining:
            return "draining"
        if not self.serving:
            return "starting"
        return "degraded" if self.circuit.is_open else "ok"

    async def connect(self) -> None:
        """Learn Redis's clock. Without Redis we start all the same, and answer by policy."""
        if not await self.limiter.probe():
            self.circuit.open("no answer at the start")

    async def serve(self, stop: asyncio.Event, hup: asyncio.Event) -> None:
        """Answer until `stop` is set, then drain: NOT_SERVING, a delay in which Envoy notices, the last calls."""
        for address in (self.settings.grpc_listen, self.settings.http_listen):
            check_listen(address)
        await self.connect()
        server, http = self._grpc_server(), http_server(app(self.metrics, self.details), self.settings.http_listen)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._run(server, http, tasks, stop, hup)
        finally:
            await self._close(server)
        log.info("stopped")

    async def _run(
        self,
        server: grpc.aio.Server,
        http: HttpServer,
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
        )
        running = [tasks.create_task(loop) for loop in loops]
        serving = tasks.create_task(_serve_http(http, stop))
        await server.start()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        running.append(tasks.create_task(self._announce()))
        await stop.wait()
        await self._drain(server)
        http.should_exit = True
        await serving
        for task in running:
            task.cancel()

    async def _announce(self) -> None:
        """Calls are answered before, too; but who has no catalog yet refuses them all."""
        await self.live.loaded()
        if not self.draining:
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            self.serving = True
            log.info("serving", grpc=self.settings.grpc_listen, http=self.settings.http_listen)

    async def _close(self, server: grpc.aio.Server) -> None:
        """However we stop, nobody is left waiting; what was admitted without Redis is counted, or told to be lost."""
        await server.stop(0)
        if not await self._settle():
            log.error("admitted requests are lost to the count", requests=self._owed())
        await self.limiter.aclose()
        if isinstance(self.live, StoreCatalog):
            await self.live.aclose()
        if self._lookups:
            await self._lookups.aclose()

    async def _drain(self, server: grpc.aio.Server) -> None:
        self.draining = True
        log.info("draining", seconds=self.settings.drain_seconds)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(self.settings.drain_seconds)
        await server.stop(self.settings.grace_seconds)

    async def _reload_on(self, hup: asyncio.Event) -> None:
        while True:
            await hup.wait()
            hup.clear()
            await self.live.reload()

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=[("grpc.max_concurrent_streams", STREAMS), ("grpc.so_reuseport", 0)],
        )
        ext_authz_pb2_grpc.add_AuthorizationServicer_to_server(self.service, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if self.settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            server.add_insecure_port(self.settings.grpc_listen)
        except RuntimeError as error:
            raise OSError(f"{self.settings.grpc_listen} cannot be listened on: {error}") from None
        return server

    async def _set_health(self, status: int) -> None:
        for service in ("", SERVICE):
            await self.health.set(service, status)

    def _compile(self, resources: Resources, refs: Mapping[str, str] = NO_REFS) -> Catalog:
        return Catalog.compile(resources, self.settings.account_id, self.settings.failure_policy, refs)

    def _reloaded(self, outcome: Outcome) -> None:
        self.metrics.reloads.labels(outcome).inc()
        self._note_catalog()

    def _counters_set(self, callers: Callers | None) -> None:
        """The stand-in must not go by what Redis said of them before."""
        account = self.settings.account_id
        ledgers = None if callers is None else [redis_key(account, "ledger", *caller) for caller in callers]
        self.fallback.forget(ledgers)

    def _note_catalog(self) -> None:
        self.metrics.catalog_version.set(self.live.version.number)
        self.metrics.catalog_loaded.set(self.live.loaded_at)

    def _sent(self, size: int, seconds: float) -> None:
        self.circuit.succeeded()
        self.metrics.batch_size.observe(size)
        self.metrics.redis_seconds.observe(seconds)

    def _failed(self, error: Exception) -> None:
        self.metrics.redis_errors.labels(type(error).__name__).inc()
        self.circuit.failed(error)

    def _looked_up(self, result: Result) -> None:
        self.metrics.key_lookups.labels(result).inc()
        if result == "failed":
            self.circuit.failed(LimiterUnavailable("a key could not be looked up"))
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
                log.warning("flush failed", error=str(error))
                self._failed(error)
                return False
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

    def _owed(self) -> int:
        """Requests that were admitted without Redis and are not counted there yet."""
        return self.fallback.unsettled + sum(spent.amount for spent in self._unsettled)


async def _serve_http(http: HttpServer, stop: asyncio.Event) -> None:
    """Uvicorn logs why it cannot listen and returns, or exits; both stop us."""
    try:
        await http.serve()
    except SystemExit:
        raise OSError("the HTTP address cannot be listened on; the line above says why") from None
    finally:
        stop.set()


async def serve(settings: Settings, file: tuple[Path, Config] | None) -> None:
    """Run a sidecar until TERM or INT; HUP reloads the catalog. Returns when all that was asked is answered."""
    sealer = load_sealer(os.environ, settings.pepper_file)
    stop, hup = asyncio.Event(), asyncio.Event()
    _on_signals(stop.set, signal.SIGTERM, signal.SIGINT)
    _on_signals(hup.set, signal.SIGHUP)
    try:
        await Sidecar(settings, file, sealer).serve(stop, hup)
    except ExceptionGroup as group:  # one fault stops all the parts, and is the one to be told
        raise group.exceptions[0] from None


def _on_signals(act: Callable[[], None], *signals: signal.Signals) -> None:
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, partial(act))

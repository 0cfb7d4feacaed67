"""One sidecar, from start to stop: its parts run in one TaskGroup, beside a gRPC server, and stop in order."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import structlog

from authz.observe.status import HttpServer, about, app, check_listen, http_server
from authz.redisio.url import mask_url
from authz.sidecar.memory import freeze
from authz.sidecar.parts import Parts
from authz.sidecar.port import PortProbe, ServerEnded

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 1.0
UNUSED_HOLDS = "chargeOnce has every check decided in Redis, so holdMs has no effect"


class GrpcServer(Protocol):
    """Hands each serialised CheckRequest to `Authorization.answer`, and answers health checks."""

    async def start(self) -> None:
        """Listen; from now on calls are answered. Raises OSError if the address cannot be listened on."""

    async def until_ended(self) -> None:
        """Return when `stop` has ended the server. Raises ServerEnded if it ended by itself."""

    async def set_serving(self, serving: bool) -> None:
        """Set the status that health checks report."""

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, and wait `grace_seconds` for those in flight. May be called again."""


class Sidecar:
    """Runs the parts of one process."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.serving = self.draining = False
        self.probe = PortProbe(parts.settings)

    def details(self) -> dict[str, Any]:
        """The body of `/readyz` and `/healthz`. Ready means able to answer by policy, which needs no Redis."""
        parts = self.parts
        return {
            "ready": self.serving and not self.draining and not self.probe.problem,
            "alive": not self.probe.problem,
            "status": self._status(),
            "port": self.probe.problem or "answering",
            "redis": "left alone" if parts.circuit.is_open else "answering",
            "redisAddress": mask_url(parts.settings.redis_url),
            "redisProblem": parts.circuit.problem,
            "catalog": {
                "version": str(parts.live.version),
                "loadedAt": parts.live.loaded_at,
                "problem": parts.live.problem,
                "unauthorized": parts.unauthorized,
            },
        }

    def _status(self) -> str:
        if self.draining:
            return "draining"
        if self.probe.problem:
            return "down"
        if not self.serving:
            return "starting"
        return "degraded" if self.parts.circuit.is_open else "ok"

    async def connect(self) -> None:
        """Read Redis's clock. If Redis is away, open the circuit and go on: calls are answered by policy."""
        if not await self.parts.limiter.probe():
            self.parts.circuit.open()

    async def run(self, server: GrpcServer, stop: asyncio.Event, hup: asyncio.Event) -> None:
        """Answer until `stop` is set, then drain: NOT_SERVING, a delay for Envoy to notice, the last calls."""
        settings = self.parts.settings
        http: HttpServer | None = None
        if not self.parts.seat:
            check_listen(settings.http_listen)
            http = http_server(app(self.parts.metrics, self.details, about(settings)), settings.http_listen)
        await self.connect()
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._run(server, http, tasks, stop, hup)
        finally:
            await self._close(server)
        log.info("stopped")

    async def _run(
        self,
        server: GrpcServer,
        http: HttpServer | None,
        tasks: asyncio.TaskGroup,
        stop: asyncio.Event,
        hup: asyncio.Event,
    ) -> None:
        parts = self.parts
        loops = (
            parts.limiter.run(),
            parts.circuit.run(),
            parts.live.watch(),
            parts.debts.keep_paying(lambda: parts.circuit.is_open),
            parts.refused.keep_sending(lambda: parts.circuit.is_open),
            self._reload_on(hup),
            self._keep_flushed(),
        )
        running = [tasks.create_task(loop) for loop in loops]
        if parts.certificates:
            running.append(tasks.create_task(parts.certificates.watch()))
        if parts.seat:
            running.append(tasks.create_task(parts.seat.report(self.details, stop.set)))
        serving = tasks.create_task(serve_http(http, stop)) if http else None
        await server.start()
        await server.set_serving(False)
        running += [tasks.create_task(loop) for loop in (self._announce(server), self._mind(server))]
        probing = tasks.create_task(self.probe.watch())
        await stop.wait()
        await self._drain(server, probing)
        if http and serving:
            http.should_exit = True
            await serving
        for task in running:
            task.cancel()

    async def _announce(self, server: GrpcServer) -> None:
        """Report SERVING once there is a catalog. Calls before that are answered too, with a refusal."""
        parts = self.parts
        await parts.live.loaded()
        if parts.seat is None or parts.seat.catalog is None:  # else it was done before the fork
            freeze()
        if not self.draining:
            await server.set_serving(True)
            self.serving = True
            if parts.settings.charge_once and parts.settings.hold_ms:
                log.warning("settings without effect", why=UNUSED_HOLDS)
            log.info("serving", grpc=parts.settings.grpc_listen, http=parts.settings.http_listen)

    async def _mind(self, server: GrpcServer) -> None:
        """Raises ServerEnded when the server has ended by itself."""
        await server.until_ended()
        if not self.draining:
            raise ServerEnded("the gRPC server has stopped")

    async def _drain(self, server: GrpcServer, probing: asyncio.Task[None]) -> None:
        settings = self.parts.settings
        self.draining = True
        log.info("draining", seconds=settings.drain_seconds)
        await server.set_serving(False)
        await asyncio.sleep(settings.drain_seconds)
        probing.cancel()  # the port closes now
        await server.stop(settings.grace_seconds)

    async def _close(self, server: GrpcServer) -> None:
        """Always stop the server, hand the last counts to Redis (or log the loss), and close the connections."""
        await server.stop(0)
        await self.parts.limiter.give_back()
        if not await self.parts.debts.pay():
            log.error("admitted requests are lost to the count", requests=self.parts.debts.owed)
        await self.parts.refused.drain()
        await self.parts.aclose()

    async def _reload_on(self, hup: asyncio.Event) -> None:
        while True:
            await hup.wait()
            hup.clear()
            if self.parts.certificates:
                self.parts.certificates.reload()
            await self.parts.live.reload()

    async def _keep_flushed(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.parts.metrics.flush()


async def serve_http(http: HttpServer, stop: asyncio.Event) -> None:
    """Serve until stopped, and then set `stop`. Uvicorn logs why it cannot listen and exits; that raises OSError."""
    try:
        await http.serve()
    except SystemExit:
        raise OSError("the HTTP address cannot be listened on; the line above says why") from None
    finally:
        stop.set()

"""The HTTP side of the sidecar: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from authz.config.settings import Settings, endpoints_of
from authz.core.address import Address
from authz.observe.metrics import CONTENT_TYPE, VERSION, ControlMetrics, Gathered, Metrics

Details = Callable[[], dict[str, Any]]
NOTHING: Mapping[str, Any] = MappingProxyType({})
SHUTDOWN_SECONDS = 1  # that a slow reader gets for the rest of its answer


class HttpServer(uvicorn.Server):
    """Uvicorn, leaving signals to the one place that owns them."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def about(settings: Settings) -> dict[str, Any]:
    """What runs here: its version, and the settings that have to fit Envoy's and other sidecars'. None is a secret."""
    told = {
        "accountId": settings.account_id,
        "chargeOnce": settings.charge_once,
        "drainSeconds": settings.drain_seconds,
        "failurePolicy": str(settings.failure_policy),
        "grpcListen": endpoints_of(settings.grpc_listen, settings.workers),
        "holdMs": settings.hold_ms,
        "maxInFlight": settings.max_in_flight,
        "redisTimeoutMs": settings.redis_timeout_ms,
        "replicas": settings.replicas,
        "responseProfile": settings.response_profile,
        "server": settings.server,
        "store": settings.store,
        "tls": settings.tls_cert_file is not None,
        "workers": settings.workers,
    }
    return {"version": VERSION, "settings": told}


def app(
    metrics: Metrics | Gathered | ControlMetrics, details: Details, constant: Mapping[str, Any] = NOTHING
) -> Starlette:
    """`details()` has at least `ready`, a bool: `/readyz` is 503 while it is false.

    `/healthz` is 200 while we run, unless the details say that we are not `alive`. Both include `constant`, too.
    """

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def healthz(_: Request) -> Response:
        found = {**details(), **constant}
        return JSONResponse(found, status_code=200 if found.get("alive", True) else 503)

    async def readyz(_: Request) -> Response:
        found = {**details(), **constant}
        return JSONResponse(found, status_code=200 if found["ready"] else 503)

    return Starlette(routes=[Route("/metrics", exposition), Route("/healthz", healthz), Route("/readyz", readyz)])


def http_server(application: Starlette, listen: str) -> HttpServer:
    """A server for `host:port` or `unix:/path`; run it with `serve()`, stop it by `should_exit`."""
    address = Address.parse(listen)
    place: dict[str, Any] = {"uds": address.path} if address.path else {"host": address.host, "port": address.port}
    return HttpServer(
        uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            **place,
        )
    )


def check_listen(listen: str) -> None:
    """Raises OSError, in words for the operator, if the address cannot be listened on.

    The servers themselves would take over the socket file of a running process, and say less about the fault.
    """
    try:
        address = Address.parse(listen)
        if address.path:
            _check_path(Path(address.path))
        else:
            _check_port(address.host, address.port)
    except OSError as error:
        raise OSError(f"{listen} cannot be listened on: {error.strerror or error}") from error


def _check_port(host: str, port: int) -> None:
    """One address of the name is enough."""
    for family, kind, protocol, _, at in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(at)
            except OSError as error:
                problem = error
            else:
                return
    raise problem


def _check_path(path: Path) -> None:
    """Raises OSError. A socket file without a listener was left by a killed process, and is removed."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if stat.S_ISSOCK(path.stat().st_mode) and probe.connect_ex(os.fspath(path)) != 0:
            path.unlink()
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(os.fspath(path))
    path.unlink()

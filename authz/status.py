"""The HTTP side of the sidecar: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from authz.metrics import CONTENT_TYPE, Metrics

Details = Callable[[], dict[str, Any]]


class HttpServer(uvicorn.Server):
    """Uvicorn, leaving signals to the one place that owns them."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def app(metrics: Metrics, details: Details) -> Starlette:
    """`details()` has at least `ready`, a bool; `/readyz` is 503 while it is false, `/healthz` is 200 while we run."""

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def healthz(_: Request) -> Response:
        return JSONResponse(details())

    async def readyz(_: Request) -> Response:
        found = details()
        return JSONResponse(found, status_code=200 if found["ready"] else 503)

    return Starlette(routes=[Route("/metrics", exposition), Route("/healthz", healthz), Route("/readyz", readyz)])


def http_server(application: Starlette, listen: str) -> HttpServer:
    """A server for `host:port` or `unix:/path`; run it with `serve()`, stop it by `should_exit`."""
    if listen.startswith("unix:"):
        place: dict[str, Any] = {"uds": listen.removeprefix("unix:")}
    else:
        host, _, port = listen.rpartition(":")
        place = {"host": host.strip("[]"), "port": int(port)}
    return HttpServer(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off", **place))

"""Runs a sidecar under the gRPC server that the settings name, and owns its signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
import uvloop

from authz.config.file import Config
from authz.config.settings import Settings
from authz.hosts.grpcio import GrpcioServer
from authz.hosts.pyvoy_launch import NO_WORKERS, replace_by_envoy
from authz.observe.status import check_listen
from authz.sidecar.parts import Parts
from authz.sidecar.port import ServerEnded
from authz.sidecar.seat import Seat
from authz.sidecar.sidecar import Sidecar
from authz.store.sealing import load_sealer

FAILED = 1  # exit status; 2 is an operator's mistake

log = structlog.get_logger(__name__)


def run(settings: Settings, file: tuple[Path, Config] | None, seat: Seat | None = None) -> None:
    """Run a sidecar until TERM or INT; HUP reloads the catalog. Raises ConfigError and OSError if it cannot start.

    With pyvoy it does not return: this process becomes an Envoy. Raises SystemExit(1) if the gRPC server ends by
    itself, so that a supervisor starts the process again.
    """
    if settings.server == "pyvoy":
        load_sealer(os.environ, settings.pepper_file)
        check_listen(settings.grpc_listen)
        if not seat:
            check_listen(settings.http_listen)
        replace_by_envoy(settings, file)
    try:
        uvloop.run(serve(settings, file, seat))
    except ServerEnded as ended:
        log.error("ended", error=str(ended))
        sys.exit(FAILED)


async def serve(settings: Settings, file: tuple[Path, Config] | None, seat: Seat | None = None) -> None:
    """Serve with grpcio. Returns when every call is answered."""
    sealer = load_sealer(os.environ, settings.pepper_file)
    stop, hup = asyncio.Event(), asyncio.Event()
    _on_signals(stop.set, signal.SIGTERM, signal.SIGINT)
    _on_signals(hup.set, signal.SIGHUP)
    _on_signals(lambda: log.warning(NO_WORKERS), signal.SIGUSR2)
    try:
        check_listen(settings.grpc_listen)
        parts = Parts.build(settings, file, sealer, seat)
        service = parts.service
        await Sidecar(parts).run(GrpcioServer(settings, service.answer, service.bad, parts.certificates), stop, hup)
    except ExceptionGroup as group:  # one fault stops all the parts, and is the one to report
        raise group.exceptions[0] from None


def _on_signals(act: Callable[[], None], *signals: signal.Signals) -> None:
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, partial(act))

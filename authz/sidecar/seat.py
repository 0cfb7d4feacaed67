"""A worker's seat under its supervisor: its slot, its address, and the line for its reports."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec
import structlog
from msgspec import Struct

from authz.config.settings import Settings, endpoints_of
from authz.core.catalog import Catalog
from authz.observe.metrics import keep_in

# No setting, so without their prefix: what a supervisor tells the processes that it starts.
VARIABLE: Final = "_AUTHZ_WORKER"
LOOK_SECONDS: Final = 0.1
HEARTBEATS: Final = 10  # looks, after which a word is due even if nothing has changed

log = structlog.get_logger(__name__)


class Ticket(Struct, frozen=True):
    """What a process that was started by a supervisor is for: a slot, or none for the template of all workers.

    `descriptor` is its end of the line to the supervisor, `metrics` the directory of all workers' metrics.
    """

    slot: int | None
    descriptor: int
    metrics: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Ticket | None:
        """None for a process without a supervisor."""
        return msgspec.json.decode(environ[VARIABLE], type=cls) if VARIABLE in environ else None

    def text(self) -> str:
        """What stands in the environment."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's: it serves no HTTP, for the supervisor does. `catalog` was compiled before the fork, if it was."""

    slot: int
    line: socket.socket
    metrics: str
    catalog: Catalog | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Seat | None:
        """The seat of a process that was started for a slot; None for any other."""
        ticket = Ticket.of(environ)
        if ticket is None or ticket.slot is None:
            return None
        return cls(ticket.slot, socket.socket(fileno=ticket.descriptor), ticket.metrics)

    def settings(self, settings: Settings) -> Settings:
        """Those of all workers, with the address of this one."""
        endpoint = endpoints_of(settings.grpc_listen, settings.workers)[self.slot]
        return msgspec.structs.replace(settings, grpc_listen=endpoint)

    def take(self) -> None:
        """From now on log lines name the slot, and metrics are kept where the supervisor finds them."""
        structlog.contextvars.bind_contextvars(slot=self.slot)
        keep_in(self.metrics, self.slot)

    async def report(self, details: Callable[[], Mapping[str, Any]], orphaned: Callable[[], None]) -> NoReturn:
        """Report the details to the supervisor when they change, and a sign of life once a second.

        `orphaned` is called when the supervisor has gone.
        """
        loop, told, looks = asyncio.get_running_loop(), None, 0
        os.set_inheritable(self.line.fileno(), False)
        self.line.setblocking(False)
        while True:
            found, looks = dict(details()), looks + 1
            if found != told or looks >= HEARTBEATS:
                words = msgspec.json.encode({"pid": os.getpid(), **found} if found != told else None)
                try:
                    await loop.sock_sendall(self.line, words + b"\n")
                except OSError:
                    log.error("the supervisor has gone")
                    orphaned()
                told, looks = found, 0
            await asyncio.sleep(LOOK_SECONDS)

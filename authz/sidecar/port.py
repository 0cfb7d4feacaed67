"""Probes our own gRPC port from outside, as Envoy does: a process whose port does not answer ends."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import structlog

from authz.config.settings import Settings
from authz.core.address import Address

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
SILENT_LOOKS: Final = 2  # in a row without an answer, until we report not ready
MAX_LOOKS: Final = 10  # until the process ends; counted, not timed, since a paused process has missed nothing

FRAME: Final = 9  # bytes before a frame's content: its length (3), type, flags, stream (4)
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4

log = structlog.get_logger(__name__)


class ServerEnded(Exception):  # noqa: N818
    """The gRPC server has ended by itself or does not answer. The process ends too, so that it is started again."""


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def _header(name: bytes, value: bytes) -> bytes:
    """A header field that is neither indexed nor compressed."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


# One health check, always in the same bytes.
QUESTION: Final = b"".join(
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _frame(SETTINGS, 0, 0),
        _frame(
            HEADERS,
            END_HEADERS,
            1,
            _header(b":method", b"POST")
            + _header(b":scheme", b"http")
            + _header(b":path", b"/grpc.health.v1.Health/Check")
            + _header(b":authority", b"localhost")
            + _header(b"content-type", b"application/grpc")
            + _header(b"te", b"trailers"),
        ),
        _frame(DATA, END_STREAM, 1, bytes(5)),
    )
)


class PortProbe:
    """Probes one port. `problem` says why the port seems to be dead; None while it answers."""

    def __init__(self, settings: Settings) -> None:
        self.problem: str | None = None
        self._address = Address.parse(settings.grpc_listen)
        self._tls = _any_certificate() if settings.tls_cert_file else None
        self._refuses_us = settings.tls_client_ca_file is not None
        self._misses = 0

    async def watch(self) -> None:
        """Probe once a second. Raises ServerEnded after `MAX_LOOKS` probes in a row without an answer."""
        if self._address.is_any_port:
            return  # we do not know it
        while self._misses < MAX_LOOKS:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()
        raise ServerEnded(f"the gRPC port {self._address} does not answer: {self.problem}")

    async def look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._ask()
        except TimeoutError:
            self._missed(f"no answer in {ANSWER_SECONDS:g} s")
        except OSError as error:
            self._missed(str(error))
        except EOFError:
            self._missed("the connection was closed")
        else:
            self._misses, self.problem = 0, None

    def _missed(self, problem: str) -> None:
        self._misses += 1
        if self._misses == SILENT_LOOKS:
            log.error("the gRPC port does not answer", grpc=str(self._address), problem=problem)
        if self._misses >= SILENT_LOOKS:
            self.problem = problem

    async def _ask(self) -> None:
        """Send a health check and wait for any answer. Raises OSError or EOFError."""
        tls = None if self._refuses_us else self._tls
        at = self._address.target
        if at.path:
            reader, writer = await asyncio.open_unix_connection(at.path, ssl=tls, server_hostname="" if tls else None)
        else:
            reader, writer = await asyncio.open_connection(at.host, at.port, ssl=tls)
        try:
            if self._refuses_us:  # we have no client certificate; then a connection has to do
                return
            writer.write(QUESTION)
            while True:  # until a frame about our call, such as a refusal under load
                head = await reader.readexactly(FRAME)
                await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] in (HEADERS, RST_STREAM, GOAWAY):
                    return
        finally:
            writer.transport.abort()


def _any_certificate() -> ssl.SSLContext:
    """Accepts every certificate: the port is our own, and we only ask whether it answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context

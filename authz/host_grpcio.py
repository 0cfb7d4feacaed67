"""The default host: grpcio's asyncio server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from authz.extauthz import SERVICE
from authz.settings import Settings

Answer = Callable[[bytes, float | None], Awaitable[bytes]]

FEW = 100  # calls may always wait to be taken on, so that Python can say in words why they are refused
LARGEST = 1 << 20  # bytes of a message; Envoy's questions have some hundreds
LARGEST_HEADERS = 16 << 10  # bytes of a call's headers
UNREAD_SECONDS = 1  # for which a call may wait to be taken on; its caller's deadline is shorter as a rule
PAUSE_MS, ANSWER_MS = 60_000, 20_000  # between pings to a silent connection, and until one without an answer is closed


class GrpcioHost:
    """Serves `answer` (a serialised CheckRequest and the seconds left in, a serialised CheckResponse out)."""

    def __init__(self, settings: Settings, answer: Answer) -> None:
        """Raises OSError where the address cannot be listened on, or a certificate cannot be read."""
        self._server = grpc.aio.server(options=_options(settings.max_in_flight))
        self._health = health.aio.HealthServicer()
        self._server.add_generic_rpc_handlers((_handlers(answer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._listen(settings)

    def _listen(self, settings: Settings) -> None:
        credentials = _credentials(settings)
        try:
            if credentials:
                self._server.add_secure_port(settings.grpc_listen, credentials)
            else:
                self._server.add_insecure_port(settings.grpc_listen)
        except RuntimeError as error:
            raise OSError(f"{settings.grpc_listen} cannot be listened on: {error}") from None

    async def start(self) -> None:
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


def _options(most: int) -> list[tuple[str, int]]:
    """What keeps calls away from Python, where a refusal costs half as much as an answer.

    A connection has at most twice as many calls open as are worked on: one more is refused as if it had never been
    sent. (Not once as many: a call is counted until a while after its answer, and whoever keeps to the number would
    be refused now and then.) Of all connections, twice as many may wait to be taken on, so that whoever is taken on
    still has time; then some are refused at random, and of four times as many all.
    """
    waiting = max(FEW, 2 * most)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 2 * most),
        ("grpc.server.max_pending_requests", waiting),
        ("grpc.server.max_pending_requests_hard_limit", 2 * waiting),
        ("grpc.server_max_unrequested_time_in_server", UNREAD_SECONDS),
        ("grpc.max_receive_message_length", LARGEST),
        ("grpc.max_metadata_size", LARGEST_HEADERS),
        ("grpc.absolute_max_metadata_size", 2 * LARGEST_HEADERS),
        ("grpc.keepalive_time_ms", PAUSE_MS),
        ("grpc.keepalive_timeout_ms", ANSWER_MS),
    ]


def _handlers(answer: Answer) -> grpc.GenericRpcHandler:
    """Bytes in, bytes out: what they mean is the edge's business, the same for every host."""

    async def check(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return await answer(message, context.time_remaining())

    return grpc.method_handlers_generic_handler(SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(check)})


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Of the files that the settings name; None without any. Raises OSError where one cannot be read."""
    if not (settings.tls_cert_file and settings.tls_key_file):
        return None
    pair = Path(settings.tls_key_file).read_bytes(), Path(settings.tls_cert_file).read_bytes()
    ca = Path(settings.tls_client_ca_file).read_bytes() if settings.tls_client_ca_file else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)

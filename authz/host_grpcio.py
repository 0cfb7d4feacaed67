"""The default host: grpcio's asyncio server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from authz.extauthz import SERVICE
from authz.settings import Settings
from authz.tls import Certificates, Material

Answer = Callable[[bytes, float | None], Awaitable[bytes]]

FEW = 100  # calls may always wait to be taken on, so that Python can say in words why they are refused
LARGEST = 1 << 20  # bytes of a message; Envoy's questions have some hundreds
LARGEST_HEADERS = 16 << 10  # bytes of a call's headers
UNREAD_SECONDS = 1  # for which a call may wait to be taken on; its caller's deadline is shorter as a rule
PAUSE_MS, ANSWER_MS = 60_000, 20_000  # between pings to a silent connection, and until one without an answer is closed


class GrpcioHost:
    """Serves `answer` (a serialised CheckRequest and the seconds left in, a serialised CheckResponse out)."""

    def __init__(self, settings: Settings, answer: Answer, certificates: Certificates | None = None) -> None:
        """Over TLS with `certificates`. Raises OSError where the address cannot be listened on."""
        self._server = grpc.aio.server(options=_options(settings.max_in_flight))
        self._health = health.aio.HealthServicer()
        self._server.add_generic_rpc_handlers((_handlers(answer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._credentials = _credentials(certificates) if certificates else None  # kept: gRPC calls back into it
        self._listen(settings.grpc_listen)

    def _listen(self, address: str) -> None:
        try:
            if self._credentials:
                self._server.add_secure_port(address, self._credentials)
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be listened on: {error}") from None

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


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """gRPC asks before each handshake, from a thread of its own, whether there are others by now."""
    given = certificates.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        current = certificates.current
        if current is given:
            return None
        given = current
        return _configuration(current)

    asked = given.client_ca is not None
    # The stubs know nothing of None, which gRPC takes for no change.
    return grpc.dynamic_ssl_server_credentials(_configuration(given), fetch, asked)  # type: ignore[arg-type]


def _configuration(of: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(of.key, of.certificate)], of.client_ca)

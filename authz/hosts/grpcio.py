"""The default server: grpcio's asyncio server, kept alive where grpcio alone would end itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from authz.config.settings import Settings
from authz.envoy.badcalls import CallFault
from authz.envoy.edge import SERVICE
from authz.hosts.asgi_grpc import MAX_MESSAGE, NO_MESSAGE, UNIMPLEMENTED, UNKNOWN_METHOD, Bad, Health, Refused
from authz.sidecar.certificates import Certificates, Material
from authz.sidecar.port import ServerEnded

Answer = Callable[[bytes, float | None], Awaitable[bytes]]
Context = grpc.aio.ServicerContext[bytes, bytes]

HEALTH: Final = "grpc.health.v1.Health"
FEW = 100  # calls may always wait to be taken on, so that Python can say in words why they are refused
MAX_HEADERS = 16 << 10  # bytes of a call's headers
UNREAD_SECONDS = 1  # a call's longest wait to be taken on; its caller's deadline is shorter as a rule
MESSAGE_SECONDS = 30  # a call's longest wait for its message, as with pyvoy
LOOK_SECONDS = 60  # between two looks whether the server has ended; it is woken when that happens
PAUSE_MS, ANSWER_MS = 60_000, 20_000  # between pings to a silent connection, and until one without an answer is closed
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

CALLERS: Final = {
    "Invalid encoding on ": CallFault.MALFORMED,
    "ExecuteBatchError raised in core by servicer method": CallFault.ENDED,
}
GRPC_LOG: Final = logging.getLogger("grpc._cython.cygrpc")
log = structlog.get_logger(__name__)


class GrpcioServer:
    """Serves `answer` (a serialised CheckRequest and the seconds left in, a serialised CheckResponse out)."""

    def __init__(self, settings: Settings, answer: Answer, bad: Bad, certificates: Certificates | None = None) -> None:
        """Over TLS with `certificates`. Raises OSError where the address cannot be listened on."""
        self._server = _server(_options(settings.max_in_flight), bad)
        self._health = Health([SERVICE])
        handlers = _Handlers(answer, self._health, bad)
        self._server.add_registered_method_handlers(SERVICE, {"Check": handlers.unary(handlers.check)})
        health = {"Check": handlers.unary(handlers.health), "Watch": handlers.watching()}
        self._server.add_registered_method_handlers(HEALTH, health)
        if settings.reflection:
            reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), self._server)
        self._credentials = _credentials(certificates) if certificates else None  # kept: gRPC calls back into it
        self._callers = _Callers(bad)
        GRPC_LOG.addFilter(self._callers)
        try:
            if self._credentials:
                self._server.add_secure_port(settings.grpc_listen, self._credentials)
            else:
                self._server.add_insecure_port(settings.grpc_listen)
        except RuntimeError as error:
            raise OSError(f"{settings.grpc_listen} cannot be listened on: {error}") from None

    async def start(self) -> None:
        await self._server.start()

    async def until_ended(self) -> None:
        """Return when `stop` has ended the server. Raises ServerEnded if it ended by a fault of its own."""
        try:
            # With a timeout only: without one, to cancel this wait would cancel the stop itself.
            while await self._server.wait_for_termination(LOOK_SECONDS):
                pass
        except Exception as error:
            raise ServerEnded(f"the gRPC server has ended: {error!r}") from error

    async def set_serving(self, serving: bool) -> None:
        self._health.set_serving(serving)

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)
        GRPC_LOG.removeFilter(self._callers)


class _Callers(logging.Filter):
    """Counts what grpcio logs with a traceback for each call, and is no fault of ours: drops those records.

    A header that is not UTF-8 is read as Latin-1; an answer cannot be sent to a caller that has just left.
    """

    def __init__(self, bad: Bad) -> None:
        super().__init__()
        self._bad = bad

    def filter(self, record: logging.LogRecord) -> bool:
        words = str(record.msg)
        problem = next((found for start, found in CALLERS.items() if words.startswith(start)), None)
        if problem:
            self._bad(problem)
        return problem is None


def _options(most: int) -> list[tuple[str, int]]:
    """What keeps calls away from Python, where a refusal costs half as much as an answer.

    A connection has at most twice as many calls open as are worked on: one more is refused as if it had never been
    sent. (Not once as many: a call counts for a while after its answer, and a caller that keeps to the number would
    be refused now and then.) Of all connections, twice as many may wait to be taken on, so that a call that is taken on
    still has time; then some are refused at random, and of four times as many all.
    """
    waiting = max(FEW, 2 * most)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 2 * most),
        ("grpc.server.max_pending_requests", waiting),
        ("grpc.server.max_pending_requests_hard_limit", 2 * waiting),
        ("grpc.server_max_unrequested_time_in_server", UNREAD_SECONDS),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_metadata_size", MAX_HEADERS),
        ("grpc.absolute_max_metadata_size", 2 * MAX_HEADERS),
        ("grpc.keepalive_time_ms", PAUSE_MS),
        ("grpc.keepalive_timeout_ms", ANSWER_MS),
    ]


# --- the server ---------------------------------------------------------------------------------------------------


class _Shielded(cygrpc.AioServer):  # type: ignore[misc]
    """Refuses calls of methods that are not registered, before grpcio looks at them.

    grpcio decodes the path of such a call in the loop that accepts calls. A path that is not UTF-8 ends the loop, and
    with it the server: https://github.com/grpc/grpc, `_server_main_loop` of the asyncio server. Registered methods are
    recognised by their bytes.
    """

    def __init__(self, bad: Bad, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bad = bad
        self._refusing: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> None:
        """Never returns a call: this is what grpcio's loop awaits. Raises when the server stops."""
        while True:
            call = await super()._request_call()
            self._bad(CallFault.UNKNOWN_METHOD)
            task = asyncio.create_task(_refuse(call))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)


async def _refuse(call: Any) -> None:
    start = cygrpc.SendInitialMetadataOperation((), 0)
    loop = asyncio.get_running_loop()
    try:
        await cygrpc._send_error_status_from_server(call, UNIMPLEMENTED, UNKNOWN_METHOD, (), start, loop)  # noqa: SLF001
    except grpc.aio.BaseError:
        return  # the caller has left


def _server(options: list[tuple[str, int]], bad: Bad) -> grpc.aio.Server:
    """A shielded server, as far as this grpcio lets us make one: its insides are not ours.

    Otherwise one path that is not UTF-8 ends the server, and the process with it.
    """
    server = grpc.aio.server(options=options)
    arguments = (asyncio.get_running_loop(), None, (), (), tuple(options), None)
    try:
        shielded = _Shielded(bad, *arguments)
    except TypeError:
        shielded = None
    if shielded is None or not hasattr(server, "_server") or not hasattr(cygrpc, "_send_error_status_from_server"):
        log.warning("grpcio cannot be shielded", version=grpc.__version__)
        return server
    server._server = shielded  # noqa: SLF001
    return server


# --- the methods --------------------------------------------------------------------------------------------------


class _Handlers:
    """Bytes in, bytes out: what they mean is the edge's business.

    Each method reads its message itself. grpcio's own handlers of one message never answer a call that has none.
    """

    def __init__(self, answer: Answer, health: Health, bad: Bad) -> None:
        self._answer = answer
        self._health = health
        self._bad = bad

    async def check(self, message: bytes, context: Context) -> bytes:
        return await self._answer(message, context.time_remaining())

    async def health(self, message: bytes, context: Context) -> bytes:  # noqa: ARG002
        return await self._health.check(message)

    def unary(self, method: Callable[[bytes, Context], Awaitable[bytes]]) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(_: object, context: Context) -> bytes:
            message = await self._message(context)
            try:
                return b"" if message is None else await method(message, context)
            except Refused as refused:
                return await self._refuse(context, refused)

        return grpc.stream_unary_rpc_method_handler(handle)

    def watching(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def watch(_: object, context: Context) -> None:
            message = await self._message(context)
            try:
                if message is not None:
                    async for status in self._health.changes(message):
                        await context.write(status)
            except Refused as refused:
                await self._refuse(context, refused)

        return grpc.stream_stream_rpc_method_handler(watch)

    async def _message(self, context: Context) -> bytes | None:
        """The first message of a call; None for a call that is over, and answered if it can be."""
        message: Any = None
        with suppress(TimeoutError):
            async with asyncio.timeout(MESSAGE_SECONDS):
                message = await context.read()
        if isinstance(message, bytes):
            return message
        try:
            await context.abort(grpc.StatusCode.INTERNAL, NO_MESSAGE)
        except grpc.aio.AbortError:
            self._bad(CallFault.NO_MESSAGE)
        except grpc.aio.BaseError:
            self._bad(CallFault.ENDED)  # gRPC has answered, or the caller has left
        return None

    async def _refuse(self, context: Context, refused: Refused) -> bytes:
        if refused.problem:
            self._bad(refused.problem)
        await context.abort(CODES[refused.code], refused.message)
        raise AssertionError("abort has not raised")


# --- TLS ----------------------------------------------------------------------------------------------------------


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

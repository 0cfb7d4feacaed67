"""gRPC over ASGI, with the guards that a gRPC library would have: framing, statuses, deadlines, health.

pyvoy would turn an exception into status 0 without a message, and an unfinished reply would hang until its deadline. So
every call ends in one of the replies below.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from authz.envoy.badcalls import CallFault

log = structlog.get_logger(__name__)

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
# A serialised request and the seconds that its caller still waits, None for ever; a serialised answer.
Unary = Callable[[bytes, float | None], Awaitable[bytes]]
# Counts a call that no Envoy makes on purpose.
Bad = Callable[[CallFault], None]

DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 4, 5, 8, 12, 13, 14

MAX_MESSAGE: Final = 1 << 20  # bytes of a message, as with grpcio; Envoy's questions have some hundreds
TOO_LARGE: Final = f"a message is larger than {MAX_MESSAGE} bytes"
NO_MESSAGE: Final = "expected a message"
UNKNOWN_METHOD: Final = "unknown method"
PREFIX: Final = 5  # bytes before a message: compressed or not, and its length
MAX_SECONDS: Final = 60.0  # for a caller that names no deadline of its own
LATE_SECONDS: Final = 1.0  # past its deadline, before a call is ended; the answer minds the deadline itself
SWEEP_SECONDS: Final = 1.0
PACE_SECONDS: Final = 0.02
BEHIND_SECONDS: Final = 0.01  # that the loop is late, when callers may have left before they are met
WATCH_SECONDS: Final = 1.0  # until a watcher that has gone is noticed
REPEAT_ROUNDS: Final = 30  # of those, until a watcher gets its status again, so that its stream is not idle

UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
START: Final[Event] = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
TRAILERS: Final[Event] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
NO_BODY: Final[Event] = {"type": "http.response.body", "body": b""}
NOT_GRPC: Final[Event] = {"type": "http.response.start", "status": 415, "headers": []}

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


class Refused(Exception):  # noqa: N818  (an answer, not a fault)
    """The call ends with a status other than OK, and these words; `problem` if no Envoy makes such a call."""

    def __init__(self, code: int, message: str, problem: CallFault | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.problem = problem


class Gone(Exception):  # noqa: N818
    """The caller has left, so no answer can be sent."""


class NotGrpc(Exception):  # noqa: N818
    """A request of another protocol."""


class CallHead(NamedTuple):
    """The path and the timeout of a call, from its headers."""

    path: str
    seconds_left: float | None


# --- reading ------------------------------------------------------------------------------------------------------


def asked(scope: Event) -> CallHead:
    """Raises NotGrpc or Refused for what a gRPC client would not send."""
    headers = dict(scope["headers"])
    if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
        raise NotGrpc
    if scope["method"] != "POST":
        raise Refused(UNIMPLEMENTED, "expected POST", CallFault.MALFORMED)
    # Without it pyvoy drops the trailers, and an answer without a status is none.
    if headers.get(b"te") != b"trailers":
        raise Refused(INTERNAL, "expected te: trailers", CallFault.MALFORMED)
    timeout = headers.get(b"grpc-timeout")
    return CallHead(scope["path"], None if timeout is None else seconds_of(timeout))


@lru_cache(maxsize=1024)
def seconds_of(timeout: bytes) -> float:
    """A `grpc-timeout` such as `500m`. Raises Refused."""
    if not re.fullmatch(rb"\d{1,8}[HMSmun]", timeout):
        raise Refused(INTERNAL, "bad grpc-timeout", CallFault.MALFORMED)
    return int(timeout[:-1]) * UNITS[timeout[-1:]]


async def read(receive: Receive) -> bytes:
    """The body of a call. Raises Refused for one that is too large, and Gone.

    It comes first, whatever the headers say: an answer to a request that is not over is cut off, its status with it.
    """
    event = await receive()
    if event["type"] != "http.request":
        raise Gone
    body: bytes = event["body"]
    if not event["more_body"]:
        return body
    whole = bytearray(body)
    while event["more_body"]:
        if len(whole) > PREFIX + MAX_MESSAGE:
            raise Refused(RESOURCE_EXHAUSTED, TOO_LARGE, CallFault.TOO_LARGE)
        event = await receive()
        if event["type"] != "http.request":
            raise Gone
        whole += event["body"]
    return bytes(whole)


async def check_here(receive: Receive) -> None:
    """Raises Gone where the caller of a message that was read has left."""
    if (await receive())["type"] != "http.request":
        raise Gone


def unframed(body: bytes) -> bytes:
    """The message of a body that holds exactly one, not compressed. Raises Refused."""
    length = int.from_bytes(body[1:PREFIX])
    if len(body) < PREFIX or length != len(body) - PREFIX or length > MAX_MESSAGE or body[0]:
        raise _fault(body, length)
    return body[PREFIX:]


def _fault(body: bytes, length: int) -> Refused:
    if len(body) < PREFIX:
        return Refused(INTERNAL, NO_MESSAGE, CallFault.NO_MESSAGE)
    if length > MAX_MESSAGE or len(body) - PREFIX > MAX_MESSAGE:
        return Refused(RESOURCE_EXHAUSTED, TOO_LARGE, CallFault.TOO_LARGE)
    if length != len(body) - PREFIX:
        return Refused(INTERNAL, "expected exactly one message", CallFault.MALFORMED)
    if body[0] == 1:
        return Refused(UNIMPLEMENTED, "compression is not supported", CallFault.MALFORMED)
    return Refused(INTERNAL, "bad message prefix", CallFault.MALFORMED)


# --- answering ----------------------------------------------------------------------------------------------------


async def reply(send: Send, body: bytes) -> None:
    """With a framed message."""
    await send(START)
    await send({"type": "http.response.body", "body": body})
    await send(TRAILERS)


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


async def refuse(send: Send, code: int, message: str) -> None:
    """Trailers only: the status stands in the headers, and nothing follows them."""
    told = quote(message, safe=" ,:;/()'<>=!?").encode()
    headers = [CONTENT_TYPE, (b"grpc-status", b"%d" % code), (b"grpc-message", told)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(NO_BODY)


# --- health -------------------------------------------------------------------------------------------------------


class Health:
    """The standard health service: of the whole, named "", and of each service; NOT_SERVING until `set_serving`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._changed = asyncio.Event()
        self._serving = False

    def set_serving(self, serving: bool) -> None:
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(self, message: bytes, seconds_left: float | None = None) -> bytes:  # noqa: ARG002
        """The answer to a serialised HealthCheckRequest. Raises Refused."""
        service = _service(message)
        if service not in self._services:
            raise Refused(NOT_FOUND, "unknown service")
        return self._status(service)

    async def changes(self, message: bytes) -> AsyncIterator[bytes]:
        """Yields the status now and whenever it changes. Raises Refused."""
        service = _service(message)
        while True:
            changed = self._changed
            yield self._status(service)
            await changed.wait()

    async def watch(self, message: bytes, receive: Receive, send: Send) -> None:
        """Tells the status now, and each time it changes, until the watcher leaves. Raises Gone, and Refused."""
        service = _service(message)
        await send(START)
        while True:
            changed = self._changed
            await send({"type": "http.response.body", "body": framed(self._status(service)), "more_body": True})
            for _ in range(REPEAT_ROUNDS):
                if await _is_set(changed):
                    break
                await check_here(receive)

    def _status(self, service: str) -> bytes:
        response = health_pb2.HealthCheckResponse
        known = response.SERVING if self._serving else response.NOT_SERVING
        return response(status=known if service in self._services else response.SERVICE_UNKNOWN).SerializeToString()


def _service(message: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise Refused(INTERNAL, "no HealthCheckRequest", CallFault.UNDECODABLE) from None


async def _is_set(changed: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(WATCH_SECONDS):
            await changed.wait()
    except TimeoutError:
        return False
    return True


# --- the service --------------------------------------------------------------------------------------------------


class GrpcApp:
    """Unary methods by path, and the health service, for one event loop."""

    def __init__(self, methods: Mapping[str, Unary], health: Health, bad: Bad) -> None:
        self._methods = {**methods, CHECK: health.check}
        self._bad = bad
        self._health = health
        self._loop = asyncio.get_running_loop()
        # The calls that are being answered: until when, by `time.monotonic`, each is waited for.
        self._calls: dict[asyncio.Task[Any], float] = {}
        self._lag = 0.0  # seconds that a call has waited, at most, before this loop came to it

    @property
    def in_flight(self) -> int:
        """Calls that are being answered; watchers of the health do not count."""
        return len(self._calls)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """One call. Nothing is raised that pyvoy could tell as success."""
        try:
            await self._serve(scope, receive, send)
        except (Gone, OSError):  # pyvoy's word for a caller that has gone is an OSError
            return
        except (Exception, asyncio.CancelledError):
            log.exception("call failed")
            with suppress(
                Exception
            ):  # a caller that has left, or has half an answer, gets no status; the log has the fault
                await refuse(send, INTERNAL, "internal error")

    async def _serve(self, scope: Event, receive: Receive, send: Send) -> None:
        try:
            body = await read(receive)
            path, seconds_left = asked(scope)
            message = unframed(body)
            unary = self._methods.get(path)
            if unary is None:
                if path != WATCH:
                    raise Refused(UNIMPLEMENTED, UNKNOWN_METHOD, CallFault.UNKNOWN_METHOD)
                await self._health.watch(message, receive, send)
                return
            if self._lag > BEHIND_SECONDS:
                seconds_left = await self._after_waiting(receive, seconds_left)
            answer = await self._answer(unary, message, seconds_left)
        except Refused as refused:
            if refused.problem:
                self._bad(refused.problem)
            await refuse(send, refused.code, refused.message)
        except NotGrpc:
            self._bad(CallFault.MALFORMED)
            await send(NOT_GRPC)
            await send(NO_BODY)
        else:
            await reply(send, answer)

    async def _after_waiting(self, receive: Receive, seconds_left: float | None) -> float | None:
        """The rest of a deadline for a call that stood in line. Raises Gone: a caller that has left is not charged.

        To look for the caller takes a turn of the loop, a tenth of what a call costs; it is done when it can matter.
        """
        lag = self._lag
        await check_here(receive)
        return None if seconds_left is None else seconds_left - lag

    async def _answer(self, unary: Unary, message: bytes, seconds_left: float | None) -> bytes:
        """The answer, framed. Raises Refused, whatever was raised."""
        call = asyncio.current_task(self._loop)
        if call is None:
            raise Refused(INTERNAL, "internal error")
        self._calls[call] = end = time.monotonic() + (MAX_SECONDS if seconds_left is None else seconds_left)
        try:
            answer = framed(await unary(message, seconds_left))
        except Refused:
            raise
        except asyncio.CancelledError:
            if time.monotonic() < end:
                raise Refused(UNAVAILABLE, "stopping") from None
            log.warning("a call was not answered by its deadline")
            raise Refused(DEADLINE_EXCEEDED, "deadline exceeded") from None
        except (Exception, SystemExit, KeyboardInterrupt):  # the latter two would end the loop
            log.exception("call failed")
            raise Refused(INTERNAL, "internal error") from None
        finally:
            del self._calls[call]
        if len(answer) == PREFIX:  # to Envoy an empty message is consent
            log.error("call failed", reason="its answer was empty, and an empty answer would let the request in")
            raise Refused(INTERNAL, "internal error")
        return answer

    def cancel(self) -> None:
        """End the calls that are being answered, with UNAVAILABLE."""
        for call in list(self._calls):
            call.cancel()

    async def pace(self) -> None:
        """Measures how late the loop is, for ever."""
        while True:
            due = time.monotonic() + PACE_SECONDS
            await asyncio.sleep(PACE_SECONDS)
            self._lag = time.monotonic() - due

    async def sweep(self) -> None:
        """End calls that hang, for ever. Their callers have given up."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            late = time.monotonic() - LATE_SECONDS
            for call, end in list(self._calls.items()):
                if end < late:
                    call.cancel()

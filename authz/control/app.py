"""The control plane's ASGI application: routes each HTTP request by its raw path, and words errors as AWS does."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from authz.aws.errors import ApiError, bad_request
from authz.check import LimiterUnavailable
from authz.control.api import operations, permit, run
from authz.control.bodies import Body, Budget
from authz.control.call import Answer, Call, Context, Fields, Operation, Principal
from authz.control.connections import ADDRESS, PROVE
from authz.notice import Notice
from authz.redisio.url import in_words
from authz.store.ports import StoreUnavailable

log = structlog.get_logger(__name__)

BODY_BYTES: Final = 1_000_000
IMPORT_BYTES: Final = 6_000_000
IMPORTS: Final = frozenset({"ImportApiKeys", "ImportRestApi", "PutRestApi"})
HEADER_BYTES: Final = 32_768
SEND_SECONDS: Final = 30.0
QUERY_FIELDS: Final = 100


@dataclass(frozen=True, slots=True)
class Received:
    """The parts of a request that a signature covers, as received: path and query encoded, the body not yet read."""

    verb: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: Body

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in lower case."""
        return next((value for each, value in self.headers if each == name), None)


Gate = Callable[[Received], Awaitable[Principal]]
Observe = Callable[[str, int, float], None]  # the operation's name, the status and the seconds of an answer


class Router:
    """Finds the operation of a verb, a raw path and a `mode`."""

    def __init__(self, table: Iterable[Operation]) -> None:
        # A `{name}` in the path of an operation stands for one part of it.
        self._table = [
            (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(operation.path))), operation)
            for operation in table
        ]

    def find(self, verb: str, path: str, mode: str | None) -> tuple[Operation, dict[str, str]] | None:
        """The operation and the decoded parts of the path, or None. One with this `mode` wins over one without."""
        matches = [
            (operation, found)
            for pattern, operation in self._table
            if operation.verb == verb and (found := pattern.fullmatch(path)) and operation.mode in (None, mode)
        ]
        if not matches:
            return None
        operation, found = max(matches, key=lambda match: match[0].mode is not None)
        return operation, {name: _decoded(value) for name, value in found.groupdict().items()}


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise bad_request("Invalid path: expected UTF-8") from None
    if "\0" in decoded:
        raise bad_request("Invalid path: expected no NUL")
    return decoded


class ControlPlane:
    """The ASGI application."""

    def __init__(
        self,
        context: Context,
        gate: Gate,
        table: Iterable[Operation] | None = None,
        observe: Observe = lambda _name, _status, _seconds: None,
    ) -> None:
        """`observe` is called for each answer, with an empty name if no operation has the path."""
        self._context = context
        self._gate = gate
        self._observe = observe
        self._router = Router(operations() if table is None else table)
        self._budget = Budget()
        self._unavailable = Notice("a call was answered 503: the store is unavailable", redis=context.store.address)
        self._failing = ""  # the operation last answered 503; its next success ends the notice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, request_id = time.perf_counter(), str(uuid4())
        raw: bytes | None = scope.get("raw_path")
        path = raw.partition(b"?")[0].decode("latin-1") if raw else scope["path"]
        request = Request({**scope, "path": path}, receive)
        try:
            answer = await self._answer(request)
        except ClientDisconnect:
            return
        except (StoreUnavailable, LimiterUnavailable) as fault:
            # The log names the fault, the answer does not: callers without credentials get this answer too.
            self._failing = getattr(request.state, "operation", "")
            self._unavailable.says(in_words(fault), operation=self._failing)
            error = ApiError("ServiceUnavailableException", "The store is unavailable; try again", retry_after=1)
            answer = _refusal(error)
        except Exception as error:
            answer = _failure(error, request_id)
        else:
            if self._unavailable.reason and getattr(request.state, "operation", "") == self._failing:
                self._unavailable.ended("calls are answered again", operation=self._failing)
        self._observe(getattr(request.state, "operation", ""), answer.status, time.perf_counter() - started)
        if isinstance(answer.body, AsyncIterator):
            await _stream(answer, answer.body, request_id, request, send)
            return
        async with asyncio.timeout(SEND_SECONDS):
            await _response(answer, request_id)(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
        # The server limits only headers that arrive in pieces.
        if sum(len(name) + len(value) for name, value in request.headers.raw) > HEADER_BYTES:
            raise bad_request(f"Request headers exceed {HEADER_BYTES} bytes")
        fields = _fields(query)
        route = self._router.find(request.method, path, next(iter(fields.get("mode", ())), None))
        request.state.operation = route[0].name if route else ""
        limit = IMPORT_BYTES if route and route[0].name in IMPORTS else BODY_BYTES
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        with closing(Body(request.stream(), limit, self._budget, request.scope.get(ADDRESS, ""))) as body:
            principal = await self._gate(Received(request.method, path, query, headers, body))
            body.prove()
            if prove := request.scope.get(PROVE):  # absent if a server other than ours runs the application
                prove()
            if route is None:
                raise ApiError("NotFoundException", "Not Found")
            permit(route[0], principal, fields)
            call = Call(
                self._context,
                route[0].name,
                route[1],
                fields,
                await body.read(),
                principal,
                request.headers.get("accept", ""),
                request.headers.get("host", ""),
            )
        return await run(route[0], call)


def _fields(query: str) -> Fields:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS, errors="strict")
    except ValueError:
        raise bad_request("Invalid query string") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        if "\0" in value:
            raise bad_request("Invalid query string: expected no NUL")
        fields.setdefault(name, []).append(value)
    return fields


def _failure(error: Exception, request_id: str) -> Answer:
    if isinstance(error, ApiError):
        return _refusal(error)
    # Log neither the exception's text nor its locals: a key's value may be in them.
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("a call failed", error=type(error).__name__, frames=frames, request_id=request_id)
    return Answer(500, {"message": "Internal failure"}, {"x-amzn-ErrorType": "InternalFailure"})


def _refusal(error: ApiError) -> Answer:
    headers = {"x-amzn-ErrorType": error.code}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status in (400, 413):
        headers["Connection"] = "close"  # a part of the request's body may still be unread
    return Answer(error.status, {"message": error.message}, headers)


async def _stream(answer: Answer, body: AsyncIterator[bytes], request_id: str, request: Request, send: Send) -> None:
    """Send a body piece by piece. After a fault the connection is closed, so that the client sees a broken body."""
    headers = {**_marks(request_id), **answer.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        async for piece in body:
            if await request.is_disconnected():
                return
            if piece:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except (StoreUnavailable, TimeoutError) as fault:
        log.warning("an answer was broken off", operation=request.state.operation, reason=in_words(fault))


def _marks(request_id: str) -> dict[str, str]:
    """The headers of every answer: two that AWS gives it, and one that keeps keys and secrets out of caches."""
    return {
        "Cache-Control": "no-store",
        "x-amzn-RequestId": request_id,
        "x-amz-apigw-id": base64.urlsafe_b64encode(secrets.token_bytes(11)).decode(),
    }


def _response(answer: Answer, request_id: str) -> Response:
    body = answer.body if isinstance(answer.body, bytes) else b""
    headers = _marks(request_id)
    if answer.body is not None and not isinstance(answer.body, bytes):
        body = msgspec.json.encode(answer.body)
        headers["Content-Type"] = "application/json"
    return Response(body, answer.status, {**headers, **answer.headers})

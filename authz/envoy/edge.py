"""The Envoy edge: a CheckRequest's bytes -> Request, Verdict -> a CheckResponse's bytes. Protobuf goes no further.

Every fault has an answer too: `answers.py` builds it, with an explicit status.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from authz.check import Checker
from authz.core.request import Request, joined
from authz.core.verdict import Allowed, Denied, Reason, Verdict
from authz.envoy.answers import STANDARD, Style, encode
from authz.envoy.badcalls import BadCalls, CallFault
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.observe.metrics import Metrics

log = structlog.get_logger(__name__)

PARSE: Final = pb.CheckRequest.FromString
SERVICE = "envoy.service.auth.v3.Authorization"
# The part of a deadline that is kept for the way back: a share of the remaining time, and at least these seconds.
MARGIN_SHARE, MARGIN_SECONDS = 0.05, 0.002


def to_request(message: pb.CheckRequest) -> Request | None:
    """The HTTP request in a CheckRequest; None if there is none."""
    attributes = message.attributes
    http = attributes.request.http
    method, path, headers = http.method, http.path, http.headers
    if not method or not (path or method == "CONNECT"):  # a tunnel has no path
        return None
    metadata = {}
    if attributes.HasField("metadata_context"):
        metadata = {name: _plain_struct(struct) for name, struct in attributes.metadata_context.filter_metadata.items()}
    return Request(
        method,
        http.host,
        path,
        headers or _raw_headers(http.header_map),  # not copied: few of them are looked at
        attributes.context_extensions,  # not copied either
        metadata,
        http.id,
        None if headers else _raw_cookie(http.header_map),
        attributes.source.address.socket_address.address,
    )


def _plain_struct(struct: Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    """Any value that a filter may write, NaN and infinite numbers included; JSON has no words for those."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return _plain_struct(value.struct_value)
        case "list_value":
            return [_plain(entry) for entry in value.list_value.values]
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _raw_headers(header_map: pb.HeaderMap) -> dict[str, str]:
    """Envoy's `encode_raw_headers`: repeated entries of bytes."""
    return joined(
        (header.key, header.raw_value.decode("utf-8", "replace") if header.raw_value else header.value)
        for header in header_map.headers
    )


def _raw_cookie(header_map: pb.HeaderMap) -> bytes | None:
    """The Cookie header byte for byte, which `_raw_headers` may change by reading it as text; None if it is ASCII."""
    values = [header.raw_value for header in header_map.headers if header.key.lower() == "cookie"]
    return None if all(map(bytes.isascii, values)) else b",".join(values)


class Authorization:
    """Envoy's authorization service on top of a Checker: bytes in, bytes out, over any gRPC server."""

    def __init__(
        self,
        checker: Checker,
        metrics: Metrics,
        *,
        version: Callable[[], str],
        style: Style = STANDARD,
        log_sample: float = 0.0,
        max_in_flight: int = 1_000,
        on_refusal: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        """`on_refusal` is called for each request that a limit has refused, or would have in a shadow plan.

        Only requests whose answer is sent are reported.
        """
        self.bad = BadCalls(metrics)
        self._checker = checker
        self._metrics = metrics
        self._version = version
        self._style = style
        self._log_sample = log_sample
        self._max_in_flight = max_in_flight
        self._on_refusal = on_refusal
        self._logs_all = log.bind().is_enabled_for(logging.DEBUG)
        self.in_flight = 0

    def answer(self, message: bytes, seconds_left: float | None) -> Coroutine[Any, Any, bytes]:
        """Answer a serialised CheckRequest with a CheckResponse. Only Envoy giving up leaves it without an answer.

        A call that is late, or one too many, is refused before any work is spent on it.
        """
        started = time.perf_counter()
        if seconds_left is not None:
            seconds_left -= max(MARGIN_SECONDS, MARGIN_SHARE * seconds_left)
            if seconds_left <= 0:
                return self._refuse(Reason.DEADLINE, started)
        if self.in_flight >= self._max_in_flight:
            return self._refuse(Reason.OVERLOADED, started)
        return self._check(message, seconds_left, started)

    async def _refuse(self, reason: Reason, started: float) -> bytes:
        verdict = Denied(reason)
        self._metrics.observe(verdict, time.perf_counter() - started)
        return self._encoded(verdict, None)

    async def _check(self, message: bytes, seconds_left: float | None, started: float) -> bytes:
        verdict: Verdict = Denied(Reason.NOT_HTTP)
        self.in_flight += 1
        try:
            asked = to_request(PARSE(message))
            if asked is not None:
                deadline = None if seconds_left is None else time.monotonic() + seconds_left
                verdict = await self._checker.check(asked, deadline)
            response = self._encoded(verdict, asked)
        except asyncio.CancelledError:
            self._metrics.cancelled()
            raise
        except DecodeError:
            self.bad(CallFault.UNDECODABLE)
            response = self._encoded(verdict, None)
        except Exception:
            log.exception("check failed")
            verdict = Denied(Reason.INTERNAL)
            response = encode(verdict, None, style=self._style, request_id=str(uuid.uuid4()))
        finally:
            self.in_flight -= 1
        self._metrics.observe(verdict, time.perf_counter() - started)
        tally = verdict.tally
        if tally and (tally.refused_by or tally.shadowed_by):
            self._on_refusal(verdict)
        return response

    def _encoded(self, verdict: Verdict, request: Request | None) -> bytes:
        request_id = ""
        if not isinstance(verdict, Allowed):
            request_id = str(uuid.uuid4())
            if self._logs_all or random.random() < self._log_sample:  # noqa: S311
                self._log(verdict, request_id)
        return encode(verdict, request, style=self._style, request_id=request_id, version=self._version())

    def _log(self, denied: Denied, request_id: str) -> None:
        """One line a refusal: at debug, and a sample at info."""
        write = log.info if not self._logs_all or random.random() < self._log_sample else log.debug  # noqa: S311
        subject = denied.subject
        write(
            "refused",
            reason=str(denied.reason),
            layer=str(denied.layer or ""),
            api=subject.api,
            stage=subject.stage,
            resource=subject.route.resource if subject.route else "",
            method=subject.route.method if subject.route else "",
            plan=subject.plan,
            key_id=subject.key,
            request_id=request_id,
        )

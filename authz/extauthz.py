"""The Envoy edge: CheckRequest -> Request, Verdict -> CheckResponse. Protobuf goes no further than this.

Envoy reads a CheckResponse of zero bytes, or one whose status is 0, as ALLOW. So every answer is built here, with an
explicit status, and whatever goes wrong has an answer too.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from authz.check import Checker
from authz.core.credentials import CUSTOMER_ID, IDENTITY, KEY_ID, PLAN_ID, PLAN_NAME, Strip
from authz.core.request import Request, joined
from authz.core.responses import Profile, ratelimit_headers, render, retry_after_seconds
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, Verdict, standings
from authz.metrics import Metrics
from authz.pb import ext_authz_pb2 as pb
from authz.pb import ext_authz_pb2_grpc

log = structlog.get_logger(__name__)

SERVICE = "envoy.service.auth.v3.Authorization"
# Of what is left of a deadline, kept for the way back: this share, and at least so many seconds.
MARGIN_SHARE, MARGIN_SECONDS = 0.05, 0.002

UNTRUSTED = (*IDENTITY, "x-envoy-auth-failure-mode-allowed")

CANNOT_DECIDE = frozenset({Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE, Reason.NOT_HTTP, Reason.INTERNAL})
OK, PERMISSION_DENIED, UNAVAILABLE = 0, 7, 14
OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@dataclass(frozen=True, slots=True)
class Style:
    """How answers look: AWS's own (`aws`) or with rate limit headers (`standard`), optionally on 200s too."""

    profile: Profile = "standard"
    headers_on_success: bool = False


def to_request(message: pb.CheckRequest) -> Request | None:
    """The HTTP request that Envoy asks about; None where it does not say."""
    attributes = message.attributes
    http = attributes.request.http
    if not http.method or not http.path:
        return None
    return Request(
        method=http.method,
        host=http.host,
        path=http.path,
        headers=dict(http.headers) or _raw_headers(http.header_map),
        extensions=dict(attributes.context_extensions),
        metadata={name: MessageToDict(struct) for name, struct in attributes.metadata_context.filter_metadata.items()},
        id=http.id,
    )


def _raw_headers(header_map: pb.HeaderMap) -> dict[str, str]:
    """Envoy's `encode_raw_headers`: repeated entries of bytes."""
    return joined(
        (header.key, header.raw_value.decode("utf-8", "replace") if header.raw_value else header.value)
        for header in header_map.headers
    )


def to_response(
    verdict: Verdict, request: Request | None, *, style: Style = Style(), request_id: str = "", version: str = ""
) -> pb.CheckResponse:
    """The answer to Envoy; never an empty one."""
    if isinstance(verdict, Allowed) and request is not None:
        return _allow(verdict, request, style, version)
    denied = verdict if isinstance(verdict, Denied) else Denied(Reason.INTERNAL)
    return _deny(denied, request or Request("", "", ""), style, request_id, version)


def _allow(allowed: Allowed, request: Request, style: Style, version: str) -> pb.CheckResponse:
    credentials = allowed.subject.credentials
    strip = credentials.strip(request) if credentials else Strip()
    added = _trusted(allowed.subject) | ({"cookie": strip.cookie} if strip.cookie else {})
    removed = (*UNTRUSTED, *strip.headers, *(["cookie"] if strip.cookie == "" else []))
    return pb.CheckResponse(
        status=pb.Status(code=OK),
        ok_response=pb.OkHttpResponse(
            headers=_headers(added),
            headers_to_remove=[name for name in removed if name not in added],
            query_parameters_to_remove=strip.query,
            response_headers_to_add=_headers(_success_headers(allowed, style)),
        ),
        dynamic_metadata=_metadata(allowed, version),
    )


def _trusted(subject: Subject) -> dict[str, str]:
    """Who called, for the upstream; nothing on a keyless method."""
    names = {
        KEY_ID: subject.key,
        PLAN_ID: subject.plan,
        PLAN_NAME: _printable(subject.plan_name),
        CUSTOMER_ID: _printable(subject.customer),
    }
    return {name: value for name, value in names.items() if value}


def _success_headers(allowed: Allowed, style: Style) -> dict[str, str]:
    if allowed.tally is None or not style.headers_on_success or style.profile == "aws":
        return {}
    return ratelimit_headers(allowed.grant, allowed.tally)


def _deny(denied: Denied, request: Request, style: Style, request_id: str, version: str) -> pb.CheckResponse:
    """A refusal is a `denied_response`; what we could not decide is an `error_response`, which older Envoys ignore.

    Both carry a status other than 0, so that an Envoy which ignores the field refuses all the same.
    """
    answer = render(denied, request, request_id, style.profile)
    http = pb.DeniedHttpResponse(
        status=pb.HttpStatus(code=answer.status),  # type: ignore[arg-type]  # an open enum: any status goes
        headers=_headers(answer.headers),
        body=answer.body,
    )
    metadata = _metadata(denied, version)
    if denied.reason in CANNOT_DECIDE:
        status = pb.Status(code=UNAVAILABLE, message=denied.reason)
        return pb.CheckResponse(status=status, error_response=http, dynamic_metadata=metadata)
    status = pb.Status(code=PERMISSION_DENIED, message=denied.reason)
    return pb.CheckResponse(status=status, denied_response=http, dynamic_metadata=metadata)


def _headers(headers: Mapping[str, str]) -> list[pb.HeaderValueOption]:
    """Envoy appends a second copy unless told to overwrite."""
    return [
        pb.HeaderValueOption(header=pb.HeaderValue(key=name, value=value), append_action=OVERWRITE)
        for name, value in headers.items()
    ]


def _printable(value: str) -> str:
    """A name of the configuration as a header's value: a byte that breaks the line would cost the request a 503."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def _metadata(verdict: Verdict, version: str) -> Struct:
    """What access logs and later filters may read under `envoy.filters.http.ext_authz`."""
    subject, tally = verdict.subject, verdict.tally
    grant = verdict.grant
    fields: dict[str, Any] = {
        "decision": "allowed" if isinstance(verdict, Allowed) else "denied",
        "reason": verdict.reason if isinstance(verdict, Denied) else "",
        "layer": (verdict.layer if isinstance(verdict, Denied) else None) or "",
        "api": subject.api,
        "stage": subject.stage,
        "resource": subject.route.resource if subject.route else "",
        "method": subject.route.method if subject.route else "",
        "plan": subject.plan,
        "key_id": subject.key,
        "catalog_version": version,
        "degraded": _is_degraded(verdict),
        "shadow": (tally and tally.shadowed_by and tally.shadowed_by.layer) or "",
        **_standing(grant, tally),
    }
    metadata = Struct()
    metadata.update({name: str(value) if isinstance(value, str) else value for name, value in fields.items()})
    return metadata


def _is_degraded(verdict: Verdict) -> bool:
    """Whether Redis had no part in it, though it should have."""
    if verdict.tally:
        return verdict.tally.degraded
    return isinstance(verdict, Allowed) or verdict.reason is Reason.UNAVAILABLE


def _standing(grant: Grant | None, tally: Tally | None) -> dict[str, Any]:
    """What is left of each limit, and the wait of a refusal in seconds."""
    if grant is None or tally is None:
        return {}
    left = {str(limit.layer): units for limit, _, units in standings(grant, tally)}
    seconds = retry_after_seconds(tally) if tally.refused_by else None
    return {"remaining": left} | ({} if seconds is None else {"retry_after": seconds})


class Authorization(ext_authz_pb2_grpc.AuthorizationServicer):
    """Envoy's authorization service, on top of a Checker."""

    def __init__(
        self,
        checker: Checker,
        metrics: Metrics,
        *,
        version: Callable[[], str],
        style: Style = Style(),
        log_sample: float = 0.0,
    ) -> None:
        self._checker = checker
        self._metrics = metrics
        self._version = version
        self._style = style
        self._log_sample = log_sample

    async def Check(  # noqa: N802  gRPC's name
        self, request: pb.CheckRequest, context: grpc.aio.ServicerContext[pb.CheckRequest, pb.CheckResponse]
    ) -> pb.CheckResponse:
        """Answer one request. Only Envoy giving up leaves it without an answer."""
        started = time.perf_counter()
        asked, verdict = None, None
        try:
            asked = to_request(request)
            verdict = await self._decide(asked, context.time_remaining())
            response = self._answer(verdict, asked)
        except asyncio.CancelledError:
            self._metrics.cancelled.inc()
            raise
        except Exception:
            log.exception("check failed")
            verdict = Denied(Reason.INTERNAL)
            response = to_response(verdict, None, style=self._style, request_id=str(uuid.uuid4()))
        self._metrics.observe(verdict, time.perf_counter() - started)
        return response

    async def _decide(self, request: Request | None, seconds_left: float | None) -> Verdict:
        if request is None:
            return Denied(Reason.NOT_HTTP)
        if seconds_left is None:
            return await self._checker.check(request)
        seconds_left -= max(MARGIN_SECONDS, MARGIN_SHARE * seconds_left)
        if seconds_left <= 0:
            return Denied(Reason.DEADLINE)
        return await self._checker.check(request, asyncio.get_running_loop().time() + seconds_left)

    def _answer(self, verdict: Verdict, request: Request | None) -> pb.CheckResponse:
        request_id = str(uuid.uuid4())
        if isinstance(verdict, Denied):
            self._log(verdict, request_id)
        return to_response(verdict, request, style=self._style, request_id=request_id, version=self._version())

    def _log(self, denied: Denied, request_id: str) -> None:
        """One line a refusal: at debug, and a sample at info."""
        write = log.info if random.random() < self._log_sample else log.debug  # noqa: S311
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

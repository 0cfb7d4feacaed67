"""Verdict -> CheckResponse: which fields an answer has, and what stands in them.

Envoy reads a CheckResponse of zero bytes, or one whose status is 0, as ALLOW. So every answer is built here, with an
explicit status.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from authz.core.credentials import CUSTOMER_ID, KEY_ID, OVERAGE, PLAN_ID, PLAN_NAME, UNTRUSTED, Strip
from authz.core.limits import Quota
from authz.core.request import Request
from authz.core.responses import Profile, ratelimit_headers, render, retry_after_seconds
from authz.core.sources import client_address
from authz.core.verdict import Allowed, Denied, Reason, Subject, Verdict, units_left
from authz.envoy.wire import (
    BODY,
    DENIED,
    ERROR,
    HEADERS,
    METADATA,
    OK_RESPONSE,
    REMOVE,
    RESPONSE_HEADERS,
    entries,
    entry_name,
    field,
    header,
    headers,
    http_status,
    number_entry,
    numbers_entry,
    status,
    text_entry,
)

CANNOT_DECIDE: Final = frozenset(
    {Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE, Reason.NOT_HTTP, Reason.INTERNAL}
)
OK, PERMISSION_DENIED, UNAVAILABLE = 0, 7, 14
ALLOWED: Final = status(OK)
NO_REQUEST: Final = Request("", "", "")
PLAN, KEY, SOURCE, PERIOD = entry_name("plan"), entry_name("key_id"), entry_name("source"), entry_name("period")


@dataclass(frozen=True, slots=True)
class Style:
    """How answers look: AWS's own (`aws`) or with rate limit headers (`standard`), optionally on 200s too."""

    profile: Profile = "standard"
    headers_on_success: bool = False
    metadata: bool = True  # for access logs and later filters


STANDARD: Final = Style()


def encode(
    verdict: Verdict, request: Request | None, *, style: Style = STANDARD, request_id: str = "", version: str = ""
) -> bytes:
    """The answer to Envoy, serialised; never an empty one."""
    if isinstance(verdict, Allowed) and request is not None:
        answer = _allow(verdict, style)
    else:
        denied = verdict if isinstance(verdict, Denied) else Denied(Reason.INTERNAL)
        answer = _deny(denied, request or NO_REQUEST, style, request_id)
        verdict = denied
    if not style.metadata:
        return answer
    metadata = _metadata(verdict, version)
    if not isinstance(verdict, Allowed) and verdict.reason is Reason.SOURCE_NOT_ALLOWED and request is not None:
        metadata += text_entry(SOURCE, _printable(client_address(request)))  # for the access log
    return answer + field(METADATA, metadata)


# --- admitted requests ------------------------------------------------------------------------------------------------


def _allow(allowed: Allowed, style: Style) -> bytes:
    """All calls under one grant get the same bytes, except for counting headers and rare things to strip."""
    grant, strip = allowed.grant, allowed.strip
    over = allowed.overage > 0
    if style.headers_on_success and style.profile != "aws" and allowed.tally is not None:
        counts = headers(RESPONSE_HEADERS, ratelimit_headers(grant, allowed.tally))
        return ALLOWED + field(OK_RESPONSE, _forward(grant.subject, strip, over) + counts)
    if strip.lookalikes or strip.path is not None or strip.cookie is not None or over:
        return ALLOWED + field(OK_RESPONSE, _forward(grant.subject, strip, over))
    shared = grant.shared.admitted
    answer = shared.get(strip.headers)
    if answer is None:
        answer = shared[strip.headers] = ALLOWED + field(OK_RESPONSE, _forward(grant.subject, strip, False))
    return answer


def _forward(subject: Subject, strip: Strip, over: bool) -> bytes:
    """How Envoy changes the request: it adds who called, marks overage, and takes off the stripped parts."""
    change = b""
    if subject.key:
        change = header(HEADERS, KEY_ID, subject.key) + _plan_headers(subject.plan, subject.plan_name)
        if subject.customer:
            change += header(HEADERS, CUSTOMER_ID, _printable(subject.customer))
    if over:
        change += header(HEADERS, OVERAGE, "true")
    if strip.path is not None:
        change += header(HEADERS, ":path", strip.path)
    if strip.cookie is not None:
        change += header(HEADERS, "cookie", strip.cookie) if strip.cookie else field(REMOVE, b"cookie")
    change += _removed(bool(subject.key), bool(subject.plan_name), bool(subject.customer), over, strip.headers)
    for name in strip.lookalikes:  # the client chooses these names, so they are not cached
        change += field(REMOVE, name.encode())
    return change


@lru_cache(maxsize=16_384)
def _plan_headers(plan: str, name: str) -> bytes:
    return headers(HEADERS, {PLAN_ID: plan} | ({PLAN_NAME: _printable(name)} if name else {}))


def _printable(value: str) -> str:
    """A configured name as a header's value. A byte that breaks the line would make Envoy answer 503."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)


@lru_cache(maxsize=1024)
def _removed(key: bool, name: bool, customer: bool, over: bool, stripped: tuple[str, ...]) -> bytes:
    """The headers to remove, without those that `_forward` overwrites."""
    added = {KEY_ID: key, PLAN_ID: key, PLAN_NAME: name, CUSTOMER_ID: customer, OVERAGE: over}
    names = (*UNTRUSTED, *stripped)
    return b"".join(field(REMOVE, name.encode()) for name in names if not added.get(name))


# --- refused requests -------------------------------------------------------------------------------------------------


def _deny(denied: Denied, request: Request, style: Style, request_id: str) -> bytes:
    """A refusal is a `denied_response`. A request that could not be decided gets an `error_response`.

    Envoys that do not know `error_response` refuse too, by the status.
    """
    answer = render(denied, request, request_id, style.profile)
    http = http_status(answer.status) + headers(HEADERS, answer.headers)
    if answer.body:
        http += field(BODY, answer.body.encode())
    if denied.reason in CANNOT_DECIDE:
        return status(UNAVAILABLE, denied.reason) + field(ERROR, http)
    return status(PERMISSION_DENIED, denied.reason) + field(DENIED, http)


# --- dynamic metadata -------------------------------------------------------------------------------------------------


def _metadata(verdict: Verdict, version: str) -> bytes:
    """What access logs and later filters may read under `envoy.filters.http.ext_authz`: the fields of a Struct."""
    grant, tally = verdict.grant, verdict.tally
    shadow = tally.shadowed_by.layer if tally and tally.shadowed_by else ""
    # Degraded if Redis should have decided and did not.
    degraded = tally.degraded if tally else isinstance(verdict, Allowed) or verdict.reason is Reason.UNAVAILABLE
    if isinstance(verdict, Allowed):
        fields = _outcome("allowed", "", "", version, degraded, shadow)
    else:
        fields = _outcome("denied", verdict.reason, verdict.layer or "", version, degraded, shadow)
    if grant is None:
        return fields + _about(verdict.subject)
    shared = grant.shared
    if not shared.about:
        shared.about = _about(grant.subject)
        shared.names = _names(tuple([limit.name or limit.layer for limit in grant.limits]))
    fields += shared.about
    if grant.cost != 1:
        fields += number_entry("cost", grant.cost)
    if tally is None:
        return fields
    lefts = units_left(grant, tally)
    fields += numbers_entry("remaining", shared.names[: len(lefts)], lefts)
    if isinstance(verdict, Allowed):
        return fields + number_entry("overage", verdict.overage) if verdict.overage else fields
    if tally.refused_by and isinstance(quota := tally.refused_by.rule, Quota):
        fields += text_entry(PERIOD, quota.period)
    seconds = retry_after_seconds(tally) if tally.refused_by else None
    return fields if seconds is None else fields + number_entry("retry_after", seconds)


@lru_cache(maxsize=256)
def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return one tuple for all grants whose limits have these names, to save memory."""
    return names


def _about(subject: Subject) -> bytes:
    """The request's place, plan and key, as far as they are known."""
    route = subject.route
    about = _place(subject.api, subject.stage, route.resource if route else "", route.method if route else "")
    if subject.plan:
        about += text_entry(PLAN, subject.plan)
    if subject.key:
        about += text_entry(KEY, subject.key)
    return about


# Without the plan: the combinations of ten thousand plans and a thousand methods would fit no cache.
@lru_cache(maxsize=4096)
def _place(api: str, stage: str, resource: str, method: str) -> bytes:
    return entries({"api": api, "stage": stage, "resource": resource, "method": str(method)})


@lru_cache(maxsize=1024)
def _outcome(decision: str, reason: str, layer: str, catalog_version: str, degraded: bool, shadow: str) -> bytes:
    return entries(
        {
            "decision": decision,
            "reason": str(reason),
            "layer": str(layer),
            "plan": "",
            "catalog_version": catalog_version,
            "degraded": degraded,
            "shadow": str(shadow),
            "key_id": "",  # a later entry of the same name is the one that counts
        }
    )

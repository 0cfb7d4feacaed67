"""Verdict -> the bytes of a CheckResponse, put together field by field: what varies between two calls is little.

Envoy reads a CheckResponse of zero bytes, or one whose status is 0, as ALLOW. So every answer is built here, with an
explicit status. Numbers of fields are those of `protos/authz/envoy/pb/ext_authz.proto`; a test reads every answer back.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from authz.core.credentials import CUSTOMER_ID, KEY_ID, NO_STRIP, PLAN_ID, PLAN_NAME, UNTRUSTED, Strip, lookalikes
from authz.core.limits import Layer
from authz.core.request import Request
from authz.core.responses import Profile, ratelimit_headers, render, retry_after_seconds
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, Verdict, standings
from authz.envoy.pb import ext_authz_pb2 as pb

CANNOT_DECIDE: Final = frozenset(
    {Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE, Reason.NOT_HTTP, Reason.INTERNAL}
)
OK, PERMISSION_DENIED, UNAVAILABLE = 0, 7, 14
NOBODY: Final = Request("", "", "")

# Tags: a field's number and its wire type, which is a length and bytes everywhere here.
DENIED, OK_RESPONSE, METADATA, ERROR = b"\x12", b"\x1a", b"\x22", b"\x2a"  # of CheckResponse
HEADERS, REMOVE, RESPONSE_HEADERS = b"\x12", b"\x2a", b"\x32"  # of OkHttpResponse
HTTP_STATUS, BODY = b"\x0a", b"\x1a"  # of DeniedHttpResponse, whose headers have the tag of the above
FIRST, SECOND = b"\x0a", b"\x12"  # key and value of a map's entry, and of a header
NUMBER, STRING, STRUCT = b"\x11", b"\x1a", b"\x2a"  # of Value; a number is eight bytes without a length
# Envoy appends a second copy of a header unless told to overwrite.
OVERWRITE: Final = pb.HeaderValueOption(
    append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
).SerializeToString()
ALLOWED: Final = pb.CheckResponse(status=pb.Status(code=OK)).SerializeToString()


class _Sizes(dict[int, bytes]):
    """Lengths as varints; the small ones, which are nearly all, are looked up."""

    def __missing__(self, size: int) -> bytes:
        found, left = bytearray(), size
        while left > 127:
            found.append(left & 127 | 128)
            left >>= 7
        found.append(left)
        if size < 1 << 14:
            self[size] = bytes(found)
        return bytes(found)


SIZE: Final = _Sizes()


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
        answer = _allow(verdict, request, style)
    else:
        denied = verdict if isinstance(verdict, Denied) else Denied(Reason.INTERNAL)
        answer = _deny(denied, request or NOBODY, style, request_id)
        verdict = denied
    return answer + _field(METADATA, _metadata(verdict, version)) if style.metadata else answer


def _allow(allowed: Allowed, request: Request, style: Style) -> bytes:
    """All calls under one grant are answered alike, but for what is stripped, and for headers that count."""
    grant = allowed.grant
    credentials = grant.subject.credentials
    strip = credentials.strip(request) if credentials else NO_STRIP
    spoofed = lookalikes(request.headers)
    if style.headers_on_success and style.profile != "aws" and allowed.tally is not None:
        counts = _headers(RESPONSE_HEADERS, ratelimit_headers(grant, allowed.tally))
        return ALLOWED + _field(OK_RESPONSE, _forward(grant.subject, strip, spoofed) + counts)
    if spoofed or strip.path is not None or strip.cookie is not None:
        return ALLOWED + _field(OK_RESPONSE, _forward(grant.subject, strip, spoofed))
    answer: bytes | None = grant.notes.get(strip.headers)
    if answer is None:
        answer = grant.notes[strip.headers] = ALLOWED + _field(OK_RESPONSE, _forward(grant.subject, strip))
    return answer


def _forward(subject: Subject, strip: Strip, spoofed: Sequence[str] = ()) -> bytes:
    """What Envoy changes about the request: who called is added; `spoofed` headers and what could be a key go."""
    found = _trusted(subject)
    if strip.path is not None:
        found += _header(HEADERS, ":path", strip.path)
    if strip.cookie is not None:
        found += _header(HEADERS, "cookie", strip.cookie) if strip.cookie else _field(REMOVE, b"cookie")
    found += _removed(bool(subject.key), bool(subject.plan_name), bool(subject.customer), strip.headers)
    for name in spoofed:
        found += _field(REMOVE, name.encode())
    return found


def _trusted(subject: Subject) -> bytes:
    """Who called, for the upstream; nothing on a keyless method."""
    if not subject.key:
        return b""
    found = _header(HEADERS, KEY_ID, subject.key) + _plan_headers(subject.plan, subject.plan_name)
    return found + _header(HEADERS, CUSTOMER_ID, _printable(subject.customer)) if subject.customer else found


@lru_cache(maxsize=16_384)
def _plan_headers(plan: str, name: str) -> bytes:
    return _headers(HEADERS, {PLAN_ID: plan} | ({PLAN_NAME: _printable(name)} if name else {}))


def _printable(value: str) -> str:
    """A name of the configuration as a header's value: a byte that breaks the line would cost the request a 503."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)


@lru_cache(maxsize=1024)
def _removed(key: bool, name: bool, customer: bool, stripped: tuple[str, ...]) -> bytes:
    """The headers that are taken off, but for those that are set anyway."""
    added = {KEY_ID: key, PLAN_ID: key, PLAN_NAME: name, CUSTOMER_ID: customer}
    names = (*UNTRUSTED, *stripped)
    return b"".join(_field(REMOVE, name.encode()) for name in names if not added.get(name))


def _deny(denied: Denied, request: Request, style: Style, request_id: str) -> bytes:
    """A refusal is a `denied_response`; what we could not decide is an `error_response`, which older Envoys ignore.

    Both carry a status other than 0, so that an Envoy which ignores the field refuses all the same.
    """
    answer = render(denied, request, request_id, style.profile)
    http = _http_status(answer.status) + _headers(HEADERS, answer.headers)
    if answer.body:
        http += _field(BODY, answer.body.encode())
    return _status(denied.reason) + _field(ERROR if denied.reason in CANNOT_DECIDE else DENIED, http)


@lru_cache
def _status(reason: Reason) -> bytes:
    code = UNAVAILABLE if reason in CANNOT_DECIDE else PERMISSION_DENIED
    return pb.CheckResponse(status=pb.Status(code=code, message=reason)).SerializeToString()


@lru_cache
def _http_status(code: int) -> bytes:
    status = pb.HttpStatus(code=code)  # type: ignore[arg-type]  # an open enum: any status goes
    return _field(HTTP_STATUS, status.SerializeToString())


def _headers(tag: bytes, headers: Mapping[str, str]) -> bytes:
    return b"".join(_header(tag, name, value) for name, value in headers.items())


def _header(tag: bytes, name: str, value: str) -> bytes:
    text = value.encode()
    pair = _named(name) + SIZE[len(text)] + text
    option = FIRST + SIZE[len(pair)] + pair + OVERWRITE
    return tag + SIZE[len(option)] + option


@lru_cache(maxsize=1024)
def _named(name: str) -> bytes:
    return _field(FIRST, name.encode()) + SECOND


def _metadata(verdict: Verdict, version: str) -> bytes:
    """What access logs and later filters may read under `envoy.filters.http.ext_authz`: the fields of a Struct."""
    grant, tally = verdict.grant, verdict.tally
    degraded = _is_degraded(verdict)
    shadow = tally.shadowed_by.layer if tally and tally.shadowed_by else ""
    if isinstance(verdict, Denied):
        found = _outcome("denied", verdict.reason, verdict.layer or "", version, degraded, shadow)
    else:
        found = _outcome("allowed", "", "", version, degraded, shadow)
    if grant is None:
        return found + _about(verdict.subject)
    about = grant.notes.get(_about)
    if about is None:
        about = grant.notes[_about] = _about(grant.subject)
    found += about
    if tally is None:
        return found
    found += _remaining(grant, tally)
    seconds = retry_after_seconds(tally) if tally.refused_by else None
    return found if seconds is None else found + _entry("retry_after", NUMBER + struct.pack("<d", seconds))


def _about(subject: Subject) -> bytes:
    """Who asked for what, as far as that is known."""
    route = subject.route
    found = _place(subject.api, subject.stage, route.resource if route else "", route.method if route else "")
    if subject.plan:
        found += _text(PLAN_ENTRY, subject.plan)
    if subject.key:
        found += _text(KEY_ENTRY, subject.key)
    return found


def _text(name: bytes, value: str) -> bytes:
    """An entry of a Struct by its name, spelt as the key of a map."""
    text = value.encode()
    entry = name + SIZE[len(text) + len(SIZE[len(text)]) + 1] + STRING + SIZE[len(text)] + text
    return FIRST + SIZE[len(entry)] + entry


# What varies is kept apart: ten thousand plans times a thousand methods would fit no cache.
@lru_cache(maxsize=4096)
def _place(api: str, stage: str, resource: str, method: str) -> bytes:
    metadata = Struct()
    metadata.update({"api": api, "stage": stage, "resource": resource, "method": str(method)})
    return metadata.SerializeToString()


@lru_cache(maxsize=1024)
def _outcome(decision: str, reason: str, layer: str, catalog_version: str, degraded: bool, shadow: str) -> bytes:
    fields: dict[str, Any] = {
        "decision": decision,
        "reason": str(reason),
        "layer": str(layer),
        "plan": "",
        "catalog_version": catalog_version,
        "degraded": degraded,
        "shadow": str(shadow),
        "key_id": "",  # a later entry of the same name is the one that counts
    }
    metadata = Struct()
    metadata.update(fields)
    return metadata.SerializeToString()


def _is_degraded(verdict: Verdict) -> bool:
    """Whether Redis had no part in it, though it should have."""
    if verdict.tally:
        return verdict.tally.degraded
    return isinstance(verdict, Allowed) or verdict.reason is Reason.UNAVAILABLE


def _remaining(grant: Grant, tally: Tally) -> bytes:
    """What is left of each limit. For given layers the numbers lie at fixed places."""
    known = standings(grant, tally)
    form, parts = _form(tuple([limit.layer for limit, _, _ in known]))
    parts = parts[:]
    parts[1::2] = [left for _, _, left in known]
    return form.pack(*parts)


@lru_cache(maxsize=256)
def _form(layers: tuple[Layer, ...]) -> tuple[struct.Struct, list[Any]]:
    """The layout of `remaining` for these layers: before each of its numbers, the text that leads there."""
    entries = [_entry(str(layer), NUMBER + bytes(8)) for layer in layers]
    whole = _entry("remaining", _field(STRUCT, b"".join(entries)))
    texts = [entry[:-8] for entry in entries]
    if texts:
        texts[0] = whole[: len(whole) - sum(map(len, entries))] + texts[0]
    parts = [part for text in texts for part in (text, 0)]
    return struct.Struct("<" + "".join(f"{len(text)}sd" for text in texts)), parts


def _entry(name: str, value: bytes) -> bytes:
    """One field of a Struct."""
    return _field(FIRST, _field(FIRST, name.encode()) + _field(SECOND, value))


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + SIZE[len(content)] + content


KEY_ENTRY: Final = _field(FIRST, b"key_id") + SECOND
PLAN_ENTRY: Final = _field(FIRST, b"plan") + SECOND

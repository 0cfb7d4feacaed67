"""Requests as Envoy sends them, and the plans files that cover them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from authz.core.resources import DEFAULT_ACCOUNT
from authz.envoy.pb import ext_authz_pb2 as pb
from bench.load.h2 import framed
from bench.load.loops import Draw

CHECK = "/envoy.service.auth.v3.Authorization/Check"
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
ACCOUNT = DEFAULT_ACCOUNT

HIGH = {"rateLimit": 1_000_000, "burstLimit": 1_000_000}  # never reached: n/m is 1, exact
HIGH_STAGE = {"throttlingRateLimit": 1_000_000, "throttlingBurstLimit": 1_000_000}
ROOMY = {"limit": 2**31 - 1, "period": "MONTH"}
LAYERS = 5
PLANS = 100
PATH = "/prod/pets/7"


def value_of(number: int) -> str:
    """A key's value: as long as those that AWS makes, and all of one length."""
    return f"value-of-key-{number:027}"


def check_request(value: str, path: str = PATH, request_id: str = "7d2a3c1e-5b0f-4f1e-9b1a-2f6f7c1d0e35") -> bytes:
    """A CheckRequest as Envoy sends it when only the key's header is allowed, serialised."""
    headers = {":authority": "a1.bench", ":method": "GET", ":path": path, ":scheme": "http", "x-api-key": value}
    http = pb.AttributeContext.HttpRequest(
        id=request_id,
        method="GET",
        headers=headers,
        path=path,
        host="a1.bench",
        scheme="http",
        protocol="HTTP/1.1",
    )
    request = pb.AttributeContext.Request(http=http)
    request.time.FromMicroseconds(1_700_000_000_000_000)
    attributes = pb.AttributeContext(request=request, context_extensions={"api": "a1"})
    return pb.CheckRequest(attributes=attributes).SerializeToString(deterministic=True)


def of_keys(keys: int, *, new_ids: bool = False) -> Draw:
    """Calls with keys drawn uniformly from `keys`; with `new_ids` each has a request id of its own."""
    id_of = "00000000-0000-4000-8000-{:012d}".format
    sample = framed(check_request(value_of(0), request_id=id_of(0)))
    before, after = sample.split(value_of(0).encode())
    draw, digits = random.Random(1).random, b"value-of-key-%027d"
    if not new_ids:
        return lambda: b"".join((before, digits % int(draw() * keys), after))
    mark, count = id_of(0).encode(), iter(range(10**12))
    head, tail = before.split(mark)
    return lambda: b"".join((head, id_of(next(count)).encode(), tail, digits % int(draw() * keys), after))


def always(message: bytes) -> Draw:
    """One and the same call."""
    body = framed(message)
    return lambda: body


def admits(answer: bytes) -> bool:
    """Whether a CheckResponse lets the request through, by its first bytes: our status comes first, and 0 is empty."""
    return answer.startswith(b"\x0a\x00")


def admits_any(answer: bytes) -> bool:
    """True if another server's CheckResponse admits the call."""
    return bool(pb.CheckResponse.FromString(answer).status.code == 0)


def within_limit(answer: bytes) -> bool:
    """Whether a RateLimitResponse says OK: overall_code is field 1, and OK is 1."""
    return answer.startswith(b"\x08\x01")


def rate_limit_request(domain: str, *descriptors: tuple[tuple[str, str], ...]) -> bytes:
    """A RateLimitRequest of envoyproxy/ratelimit, serialised: descriptors of (key, value) entries."""
    return _field(1, domain.encode()) + b"".join(
        _field(2, b"".join(_field(1, _field(1, key.encode()) + _field(2, value.encode())) for key, value in entries))
        for entries in descriptors
    )


def _field(number: int, content: bytes) -> bytes:
    """A field with a length, of a protocol buffer."""
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def document(
    *, keys: int, plans: int = PLANS, routes: int = 1, layers: int = LAYERS, quota: int = 0, nth: int = 0
) -> dict[str, Any]:
    """A file's content: keys spread evenly over the plans of one stage, with `layers` layers of limits that admit all.

    With a `quota` every key has just that many requests a month. `nth` makes two documents differ in each plan.
    """
    resources: dict[str, Any] = {"/pets/{id}": {"GET": {}}} | {f"/r{n}/{{id}}": {"GET": {}} for n in range(1, routes)}
    stage: dict[str, Any] = {"name": "prod"}
    if layers >= 4:
        stage["methodSettings"] = {"*/*": HIGH_STAGE}
    account = HIGH if layers >= 5 else {}
    return {
        "account": {"throttleSettings": account},
        "apis": [{"id": "a1", "resources": resources, "stages": [stage]}],
        "usagePlans": [_plan(n, range(n, keys, plans), layers, quota, nth) for n in range(plans)],
        "apiKeys": [{"id": f"k{n:09}", "value": value_of(n)} for n in range(keys)],
    }


def _plan(number: int, keys: range, layers: int, quota: int, nth: int) -> dict[str, Any]:
    covers: dict[str, Any] = {"apiId": "a1", "stage": "prod"}
    if layers >= 2:
        covers["throttle"] = {"/pets/{id}/GET": HIGH}
    plan: dict[str, Any] = {
        "id": f"p{number}",
        "name": f"Plan {number}, {nth}",
        "throttle": HIGH,
        "apiStages": [covers],
        "keys": [f"k{key:09}" for key in keys],
    }
    if layers >= 3:
        plan["quota"] = {"limit": quota, "period": "MONTH"} if quota else ROOMY
    return plan


def written(content: dict[str, Any], directory: Path, name: str = "plans.yaml") -> Path:
    """The file with this content; JSON is YAML."""
    path = directory / name
    path.write_text(json.dumps(content))
    return path

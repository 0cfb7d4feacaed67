"""A world to call into: a catalog, a real limiter and a pinned clock.

Calls come as Envoy sends them, and answers as a client sees them. Answers have short names: OK, F (Forbidden), TMR
(Too Many Requests), LE (Limit Exceeded), MAT (Missing Authentication Token).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToDict
from msgspec.structs import replace

from authz.check import Checker
from authz.core.catalog import Catalog
from authz.core.limits import redis_key
from authz.core.request import Request
from authz.core.resources import (
    Api,
    ApiStage,
    FailurePolicy,
    GatewayResponse,
    GatewayResponseType,
    HttpMethod,
    Method,
    MethodSetting,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.rules import problems
from authz.core.verdict import Verdict
from authz.envoy.answers import Style, encode
from authz.envoy.edge import to_request
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.limiter.limiter import RedisLimiter
from authz.limiter.local import LocalLimiter
from tests.conftest import Clock
from tests.support.builders import key, value_of
from tests.support.ledger import Ledger

STANDARD = Style()
REQUEST_ID = "5f8e1c2a-0000-4000-8000-000000000001"
NEEDS_KEY, OPEN = Method(), Method(api_key_required=False)
METHODS: dict[str, dict[HttpMethod, Method]] = {
    "/": {"GET": NEEDS_KEY},
    "/open": {"GET": OPEN},
    "/pets": {"GET": NEEDS_KEY, "POST": NEEDS_KEY},
    "/pets/{id}": {"GET": NEEDS_KEY},
    "/any": {"ANY": NEEDS_KEY},
    "/files/{proxy+}": {"GET": NEEDS_KEY},
}
ANSWERS = {
    (403, '{"message":"Forbidden"}', "ForbiddenException"): "F",
    (403, '{"message":"Missing Authentication Token"}', "MissingAuthenticationTokenException"): "MAT",
    (429, '{"message":"Too Many Requests"}', "TooManyRequestsException"): "TMR",
    (429, '{"message":"Limit Exceeded"}', "LimitExceededException"): "LE",
}


def limited(rate: float, burst: int) -> ThrottleSettings:
    return ThrottleSettings(rate_limit=rate, burst_limit=burst)


def setting(rate: float, burst: int) -> MethodSetting:
    return MethodSetting(throttling_rate_limit=rate, throttling_burst_limit=burst)


def quota(limit: int, period: Any = "DAY", offset: int = 0) -> QuotaSettings:
    return QuotaSettings(limit, period, offset)


def covers(**throttles: ThrottleSettings) -> tuple[ApiStage, ...]:
    """The plan's stages a1:prod, with throttles for methods of it, and a2:prod."""
    return ApiStage(api_id="a1", stage="prod", throttle=throttles), ApiStage(api_id="a2", stage="prod")


def fixture(
    *,
    plan: Mapping[str, Any] | None = None,
    settings: Mapping[str, MethodSetting] | None = None,
    responses: Mapping[GatewayResponseType, GatewayResponse] | None = None,
    a1: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Resources:
    """APIs, keys and a plan P, with changes to the plan, the stage a1:prod, the API a1 and the whole."""
    prod = Stage(name="prod", method_settings=dict(settings or {}), gateway_responses=dict(responses or {}))
    first = Api(id="a1", resources=METHODS, stages=(prod, Stage(name="dev")))
    second = Api(id="a2", resources=METHODS, stages=(Stage(name="prod"),))
    signed = UsagePlan(id="P", name="P", api_stages=covers(), throttle=limited(1.0, 5), keys=("K1", "K2", "KD"))
    everything = Resources(
        apis=(replace(first, **(a1 or {})), second),
        usage_plans=(replace(signed, **(plan or {})),),
        api_keys=(key("K1"), key("K2"), key("KD", enabled=False), key("KN")),
    )
    return replace(everything, **changes)


@dataclass(frozen=True)
class Answer:
    """The answer to Envoy, read as HTTP: 200 and the upstream's view of the request, or the client's response."""

    status: int
    headers: Mapping[str, str]
    body: str
    upstream: Mapping[str, str]
    removed: tuple[str, ...]
    metadata: Mapping[str, Any]
    is_error: bool

    @property
    def name(self) -> str:
        """The short name of the answer; its status and body where it has none."""
        if self.status == 200:
            return "OK"
        known = ANSWERS.get((self.status, self.body, self.headers.get("x-amzn-errortype", "")))
        return known or f"{self.status} {self.body}"


class World:
    """Calls, answered by the whole path but for the wire; the catalog may be changed between them."""

    def __init__(
        self,
        resources: Resources,
        limiter: RedisLimiter,
        clock: Clock,
        *,
        account: str,
        style: Style = STANDARD,
        failure_policy: FailurePolicy = FailurePolicy.LOCAL,
    ) -> None:
        self.limiter, self.clock, self.style = limiter, clock, style
        self._account, self._failure_policy = account, failure_policy
        self.change(resources)
        self.checker = Checker(lambda: self.catalog, limiter, LocalLimiter(), limiter.clock.now)

    def change(self, resources: Resources) -> None:
        """Take over other resources; spent units stay spent."""
        assert problems(resources) == []
        self.catalog = Catalog.compile(resources, self._account, self._failure_policy)

    async def call(
        self,
        method: str,
        url: str,
        key: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        raw_headers: bool = False,
    ) -> Answer:
        """`key` is the id of a key whose value is sent; `raw_headers` sends names as written, in `header_map`."""
        sent = {**({"x-api-key": value_of(key)} if key else {}), **(headers or {})}
        request = to_request(check_request(method, url, sent, metadata or {}, raw_headers=raw_headers))
        assert request is not None
        verdict = await self.checker.check(request)
        return read(to_response(verdict, request, style=self.style, request_id=REQUEST_ID, version="1-test"))

    async def ledger_bytes(self, plan: str, key: str) -> bytes | None:
        return await self.limiter._sender._redis.get(redis_key(self._account, "ledger", plan, key))  # type: ignore[return-value]

    async def ledger(self, plan: str, key: str) -> Ledger | None:
        raw = await self.ledger_bytes(plan, key)
        return None if raw is None else Ledger.of(raw)

    async def usage(self, plan: str, key: str) -> int:
        """What the key has used of its quota."""
        ledger = await self.ledger(plan, key)
        return ledger.used if ledger else 0


def ask(path: str = "/prod/pets", key: str | None = "k1", method: str = "GET", **changes: Any) -> Request:
    """A request to a1.example.org; `key` is the id of a key whose value is sent."""
    headers = {"x-api-key": value_of(key)} if key else {}
    return Request(**{"method": method, "host": "a1.example.org", "path": path, "headers": headers, **changes})


def check_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    metadata: Mapping[str, Any] | None = None,
    *,
    extensions: Mapping[str, str] | None = None,
    raw_headers: bool = False,
) -> pb.CheckRequest:
    """What Envoy asks about a request; it lowers the names of headers."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    http = pb.AttributeContext.HttpRequest(id="1", method=method, path=path, host=parts.netloc)
    if raw_headers:
        http.header_map.headers.extend(
            pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()
        )
    else:
        http.headers.update({name.lower(): value for name, value in headers.items()})
    message = pb.CheckRequest(attributes={"request": {"http": http}, "context_extensions": dict(extensions or {})})
    for namespace, fields in (metadata or {}).items():
        message.attributes.metadata_context.filter_metadata[namespace].update(fields)
    return message


def to_response(verdict: Verdict, request: Request | None, **more: Any) -> pb.CheckResponse:
    """The answer as Envoy parses it."""
    return pb.CheckResponse.FromString(encode(verdict, request, **more))


def read(response: pb.CheckResponse) -> Answer:
    """A CheckResponse as Envoy reads it; one without a status of its own would be an allow by accident."""
    assert response.HasField("status")
    assert response.SerializeToString()
    kind = response.WhichOneof("http_response")
    assert (response.status.code == 0) == (kind == "ok_response")
    ok = response.ok_response
    refusal = response.error_response if kind == "error_response" else response.denied_response
    options = [*ok.headers, *ok.response_headers_to_add, *refusal.headers]
    assert all(option.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD for option in options)
    return Answer(
        status=200 if kind == "ok_response" else refusal.status.code,
        headers=_pairs(ok.response_headers_to_add if kind == "ok_response" else refusal.headers),
        body=refusal.body,
        upstream=_pairs(ok.headers),
        removed=tuple(ok.headers_to_remove),
        metadata=MessageToDict(response.dynamic_metadata),
        is_error=kind == "error_response",
    )


def _pairs(options: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}

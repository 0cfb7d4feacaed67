"""The wording of refusals: AWS's statuses, headers and bodies, unless an API's owner has set others."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import unquote

from authz.core.credentials import query_values
from authz.core.limits import Quota, Throttle, reset_us
from authz.core.request import Request
from authz.core.resources import GatewayResponse, GatewayResponseType
from authz.core.routes import segments_of, without
from authz.core.verdict import Denied, Grant, Reason, Subject, Tally, standings

Profile = Literal["standard", "aws"]

JSON = "application/json"
AS_AWS: Final = GatewayResponse()
DEFAULT_TEMPLATES = {JSON: '{"message":$context.error.messageString}'}
HEADER_MAPPING = "gatewayresponse.header."
SHED_RETRY_SECONDS = 1
# All names in `$context`: `_context` gives exactly these.
CONTEXT_NAMES = frozenset(
    {
        "apiId",
        "domainName",
        "error.message",
        "error.messageString",
        "error.responseType",
        "error.retryAfter",
        "httpMethod",
        "identity.apiKeyId",
        "identity.userAgent",
        "path",
        "requestId",
        "resourcePath",
        "stage",
    }
)
BODILESS = frozenset({204, 205, 304})  # Envoy would send a body anyway, and clients would read it as the next answer


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response to a refused client. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class _Wording:
    """AWS's wording of one kind of refusal; `grpc_status` is for callers that speak gRPC."""

    status: int
    message: str
    error_type: str
    grpc_status: int
    type: GatewayResponseType | None = None


_FORBIDDEN = _Wording(403, "Forbidden", "ForbiddenException", 7)
_INVALID_KEY = _Wording(403, "Forbidden", "ForbiddenException", 7, GatewayResponseType.INVALID_API_KEY)
_THROTTLED = _Wording(429, "Too Many Requests", "TooManyRequestsException", 8, GatewayResponseType.THROTTLED)
_UNAVAILABLE = _Wording(503, "Service Unavailable", "ServiceUnavailableException", 14, GatewayResponseType.DEFAULT_5XX)
_WORDINGS = {
    Reason.UNKNOWN_API: _FORBIDDEN,
    Reason.UNKNOWN_STAGE: _FORBIDDEN,
    Reason.UNKNOWN_METHOD: _Wording(
        403,
        "Missing Authentication Token",
        "MissingAuthenticationTokenException",
        7,
        GatewayResponseType.MISSING_AUTHENTICATION_TOKEN,
    ),
    Reason.KEY_MISSING: _INVALID_KEY,
    Reason.KEY_UNKNOWN: _INVALID_KEY,
    Reason.KEY_DISABLED: _INVALID_KEY,
    Reason.KEY_EXPIRED: _INVALID_KEY,
    Reason.SOURCE_NOT_ALLOWED: _INVALID_KEY,  # so that a thief does not learn that the key is good elsewhere
    Reason.NO_PLAN: _INVALID_KEY,
    Reason.PLAN_THROTTLE: _THROTTLED,
    Reason.PLAN_METHOD_THROTTLE: _THROTTLED,
    Reason.STAGE_METHOD_THROTTLE: _THROTTLED,
    Reason.ACCOUNT_THROTTLE: _THROTTLED,
    Reason.PLAN_QUOTA: _Wording(429, "Limit Exceeded", "LimitExceededException", 8, GatewayResponseType.QUOTA_EXCEEDED),
    Reason.UNAVAILABLE: _UNAVAILABLE,
    Reason.OVERLOADED: _UNAVAILABLE,
    Reason.DEADLINE: _UNAVAILABLE,
    Reason.NOT_HTTP: _UNAVAILABLE,
    Reason.INTERNAL: _UNAVAILABLE,
}


class _Template(string.Template):
    """`$context.error.message` and its like: plain substitution, no expressions, as AWS defines it."""

    idpattern = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
    flags = re.ASCII


def template_variables(template: str) -> list[str]:
    """The variables that a body template names, each once."""
    return _Template(template).get_identifiers()


class _Variables(Mapping[str, str]):
    """The variables of one refusal; one that does not exist is empty."""

    def __init__(self, find: Callable[[str], str | None]) -> None:
        self._find = find

    def __getitem__(self, name: str) -> str:
        return self._find(name) or ""

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def render(denied: Denied, request: Request, request_id: str, profile: Profile) -> HttpResponse:
    """The refusal as the client sees it. The profile `aws` sends only AWS's own headers."""
    wording = _WORDINGS[denied.reason]
    custom = _custom(denied.subject.responses, wording)
    headers = {
        "content-type": JSON,
        "x-amzn-requestid": request_id,
        "x-amzn-errortype": wording.error_type,
        **(_standard_headers(denied) if profile == "standard" else {}),
    }
    status, body = wording.status, _plain_body(wording.message)
    if custom is not AS_AWS:  # most refusals have AWS's own wording
        variables = _Variables(lambda name: _variable(name, denied, wording, request, request_id))
        headers["content-type"], template = _template(custom.response_templates or DEFAULT_TEMPLATES, request)
        headers |= _mapped_headers(custom, variables)
        status = int(custom.status_code or wording.status)
        body = "" if status in BODILESS else _Template(template).safe_substitute(variables)
    if request.is_grpc:
        # Envoy writes the content-type itself. For gRPC-Web it keeps the HTTP status, which clients read first, and
        # derives another grpc-status from it if there is a body.
        headers |= {"grpc-status": str(wording.grpc_status), "grpc-message": wording.message}
        del headers["content-type"]
        return HttpResponse(200 if wording.status < 500 else wording.status, headers, "")
    return HttpResponse(status, headers, body)


def _custom(responses: Mapping[GatewayResponseType, GatewayResponse], wording: _Wording) -> GatewayResponse:
    """The owner's response for a refusal: of its own type, else of DEFAULT_4XX or DEFAULT_5XX, else an empty one."""
    if not responses or wording.type is None:
        return AS_AWS
    fallback = GatewayResponseType.DEFAULT_4XX if wording.status < 500 else GatewayResponseType.DEFAULT_5XX
    return responses.get(wording.type) or responses.get(fallback) or AS_AWS


@lru_cache
def _plain_body(message: str) -> str:
    """The body of the default template."""
    return _Template(DEFAULT_TEMPLATES[JSON]).substitute({"context.error.messageString": json.dumps(message)})


def _standard_headers(denied: Denied) -> dict[str, str]:
    if denied.reason in (Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE):
        return {"retry-after": str(SHED_RETRY_SECONDS)}
    if denied.grant is None or denied.tally is None:
        return {}
    headers = ratelimit_headers(denied.grant, denied.tally)
    seconds = retry_after_seconds(denied.tally)
    return headers if seconds is None else {"retry-after": str(seconds), **headers}


def retry_after_seconds(tally: Tally) -> int | None:
    """The wait in whole seconds, rounded up; None if waiting does not help."""
    return None if tally.wait_us is None else _seconds(tally.wait_us)


def ratelimit_headers(grant: Grant, tally: Tally) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10), one item an enforced layer."""
    enforced = [item for item in standings(grant, tally) if not item[0].shadow]
    if not enforced:
        return {}
    lefts = []
    for limit, state, left in enforced:
        reset = reset_us(limit.rule, state, tally.now)
        lefts.append(f'"{limit.label}";r={left}' + ("" if reset is None else f";t={_seconds(reset)}"))
    return {
        "ratelimit": ", ".join(lefts),
        "ratelimit-policy": ", ".join([_policy(limit.label, limit.rule) for limit, _, _ in enforced]),
    }


@lru_cache(maxsize=4096)
def _policy(name: str, rule: Throttle | Quota) -> str:
    if isinstance(rule, Quota):
        period = None if rule.finite_end is None else _seconds(rule.end - rule.start)
        return _item(name, q=rule.limit, w=period)
    return _item(name, q=rule.burst, w=rule.window_seconds)


def _item(label: str, **parameters: int | None) -> str:
    return f'"{label}"' + "".join([f";{name}={value}" for name, value in parameters.items() if value is not None])


def _seconds(microseconds: int | None) -> int | None:
    return None if microseconds is None else -(-microseconds // 1_000_000)


def _template(templates: Mapping[str, str], request: Request) -> tuple[str, str]:
    """The template whose media type the client accepts or sent, else JSON's, else the first."""
    offered = {_bare(media_type): (media_type, template) for media_type, template in templates.items()}
    wanted = ",".join((request.headers.get("accept", ""), request.headers.get("content-type", ""), JSON))
    known = (offered[media_type] for media_type in map(_bare, wanted.split(",")) if media_type in offered)
    return next(known, None) or next(iter(templates.items()))


def _bare(media_type: str) -> str:
    """The media type in lower case, without parameters such as a charset."""
    return media_type.partition(";")[0].strip().lower()


def _mapped_headers(custom: GatewayResponse, variables: _Variables) -> dict[str, str]:
    """The owner's headers, without those of an empty variable. No value can break the header's line."""
    mapped = {
        name.removeprefix(HEADER_MAPPING).lower(): value[1:-1] if value.startswith("'") else variables[value]
        for name, value in custom.response_parameters.items()
    }
    return {name: re.sub(r"[^\x20-\x7e]", "?", value) for name, value in mapped.items() if value}


def _variable(name: str, denied: Denied, wording: _Wording, request: Request, request_id: str) -> str | None:
    scope, _, rest = name.partition(".")
    if scope == "stageVariables":
        return denied.subject.stage_variables.get(rest)
    if name.startswith("method.request."):
        return _of_request(rest.removeprefix("request."), denied.subject, request)
    return _context(denied, wording, request, request_id).get(rest) if scope == "context" else None


def _context(denied: Denied, wording: _Wording, request: Request, request_id: str) -> dict[str, str]:
    """AWS's `$context`, and `error.retryAfter` (seconds), which is ours."""
    subject = denied.subject
    wait = retry_after_seconds(denied.tally) if denied.tally else None
    return {
        "error.message": wording.message,
        "error.messageString": json.dumps(wording.message),
        "error.responseType": str(wording.type or ""),
        "error.retryAfter": "" if wait is None else str(wait),
        "requestId": request_id,
        "apiId": subject.api,
        "stage": subject.stage,
        "resourcePath": subject.route.resource if subject.route else "",
        "httpMethod": request.method,
        "path": request.path.partition("?")[0],
        "domainName": request.host,
        "identity.apiKeyId": subject.key,
        "identity.userAgent": request.headers.get("user-agent", ""),
    }


def _of_request(name: str, subject: Subject, request: Request) -> str | None:
    place, _, field = name.partition(".")
    match place.removeprefix("multivalue"):
        case "header":
            return request.headers.get(field.lower())
        case "querystring":
            return next(query_values(request, field), None)
        case "path" if subject.route:
            return path_variables(subject.route.resource, without(request.path.partition("?")[0], subject.skip)).get(
                field
            )
    return None


def path_variables(template: str, path: str) -> dict[str, str]:
    """The values of a template's variables: `/pets/{id}` and `/pets/7` give `{"id": "7"}`."""
    found: dict[str, str] = {}
    segments = segments_of(path)
    for at, part in enumerate(segments_of(template)):
        if part.endswith("+}"):
            found[part[1:-2]] = unquote("/".join(segments[at:]))
        elif part.startswith("{"):
            found[part[1:-1]] = unquote("".join(segments[at : at + 1]))
    return found

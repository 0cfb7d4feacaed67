"""Refusals in words: AWS's own byte for byte, the owner's, and the RateLimit headers."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import http_sf
import pytest
from msgspec.structs import replace

from authz.core.limits import Layer, Limit, Quota, Throttle, throttle
from authz.core.request import Request
from authz.core.resources import GatewayResponse, GatewayResponseType
from authz.core.responses import (
    _WORDINGS,
    HttpResponse,
    Profile,
    _context,
    path_variables,
    ratelimit_headers,
    render,
)
from authz.core.routes import Route
from authz.core.verdict import Denied, Grant, Reason, Subject, Tally
from tests.support.builders import value_of
from tests.support.world import ask

DAY_US = 86_400_000_000
NOW = 10 * DAY_US
ID = "0b6c7d8e-0000-4000-8000-00000000000f"


def bucket(rate: float, burst: int) -> Throttle:
    found = throttle(rate, burst)
    assert found
    return found


def limit(layer: Layer, rule: Throttle | Quota, shadow: bool = False) -> Limit:
    return Limit(layer, "key", rule, shadow)


THROTTLE = limit(Layer.PLAN_THROTTLE, bucket(2.0, 5))
QUOTA = limit(Layer.PLAN_QUOTA, Quota(100, NOW, NOW + DAY_US))
GRANT = Grant(Subject(), (THROTTLE, QUOTA))


def throttled(wait_us: int | None = 1_500_000, **subject: Any) -> Denied:
    """A call refused by an empty bucket of 5, with 40 of a quota of 100 used."""
    tally = Tally(NOW, (5 * THROTTLE.rule.m, 40), refused_by=THROTTLE, wait_us=wait_us)  # type: ignore[union-attr]
    return Denied(Reason.PLAN_THROTTLE, Subject(**subject), GRANT, tally)


def answer(denied: Denied, request: Request | None = None, profile: Profile = "aws") -> HttpResponse:
    return render(denied, request or ask(), ID, profile)


# --- AWS's wording ------------------------------------------------------------------------------------------------

FORBIDDEN = (403, '{"message":"Forbidden"}', "ForbiddenException")
UNAVAILABLE = (503, '{"message":"Service Unavailable"}', "ServiceUnavailableException")
THROTTLES = (
    Reason.PLAN_THROTTLE,
    Reason.PLAN_METHOD_THROTTLE,
    Reason.STAGE_METHOD_THROTTLE,
    Reason.ACCOUNT_THROTTLE,
)
AWS = {
    Reason.UNKNOWN_API: FORBIDDEN,
    Reason.UNKNOWN_STAGE: FORBIDDEN,
    Reason.UNKNOWN_METHOD: (403, '{"message":"Missing Authentication Token"}', "MissingAuthenticationTokenException"),
    Reason.KEY_MISSING: FORBIDDEN,
    Reason.KEY_UNKNOWN: FORBIDDEN,
    Reason.KEY_DISABLED: FORBIDDEN,
    Reason.KEY_EXPIRED: FORBIDDEN,
    Reason.SOURCE_NOT_ALLOWED: FORBIDDEN,
    Reason.NO_PLAN: FORBIDDEN,
    **dict.fromkeys(THROTTLES, (429, '{"message":"Too Many Requests"}', "TooManyRequestsException")),
    Reason.PLAN_QUOTA: (429, '{"message":"Limit Exceeded"}', "LimitExceededException"),
    Reason.UNAVAILABLE: UNAVAILABLE,
    Reason.OVERLOADED: UNAVAILABLE,
    Reason.DEADLINE: UNAVAILABLE,
    Reason.NOT_HTTP: UNAVAILABLE,
    Reason.INTERNAL: UNAVAILABLE,
}


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_worded_as_by_aws(reason: Reason) -> None:
    """It has AWS's status, body and headers, and no other header."""
    status, body, error_type = AWS[reason]
    headers = {"content-type": "application/json", "x-amzn-requestid": ID, "x-amzn-errortype": error_type}
    assert answer(Denied(reason)) == HttpResponse(status, headers, body)


def test_the_profile_aws_says_nothing_about_waiting() -> None:
    assert answer(throttled()).headers.keys() == answer(Denied(Reason.KEY_MISSING)).headers.keys()


# --- headers of a refusal ------------------------------------------------------------------------------------------


def standard(denied: Denied) -> dict[str, str]:
    """Return the headers that the profile `standard` adds."""
    plain = answer(denied).headers
    return {name: v for name, v in answer(denied, profile="standard").headers.items() if name not in plain}


def items(header: str) -> dict[str, dict[str, Any]]:
    """Read a list of strings with parameters, by a library for structured fields."""
    parsed = cast("list[tuple[str, dict[str, Any]]]", http_sf.parse(header.encode(), tltype="list"))
    return {name: dict(parameters) for name, parameters in parsed}


@pytest.mark.parametrize(("wait_us", "seconds"), [(1, "1"), (1_000_000, "1"), (1_000_001, "2"), (None, None)])
def test_retry_after_is_whole_seconds_rounded_up(wait_us: int | None, seconds: str | None) -> None:
    """The header is missing if waiting does not help."""
    assert standard(throttled(wait_us)).get("retry-after") == seconds


def test_a_refusal_tells_each_limit_and_where_it_stands() -> None:
    headers = standard(throttled())
    assert items(headers["ratelimit"]) == {"plan_throttle": {"r": 0, "t": 3}, "plan_quota": {"r": 60, "t": 86_400}}
    assert items(headers["ratelimit-policy"]) == {
        "plan_throttle": {"q": 5, "w": 3},
        "plan_quota": {"q": 100, "w": 86_400},
    }


@pytest.mark.parametrize("rule", [bucket(0.0, 5), bucket(0.0, 0), bucket(3.0, 0)])
def test_a_bucket_that_never_fills_has_no_window_and_no_reset(rule: Throttle) -> None:
    grant = Grant(Subject(), (limit(Layer.PLAN_THROTTLE, rule),))
    headers = ratelimit_headers(grant, Tally(NOW, (0,)))
    assert items(headers["ratelimit"])["plan_throttle"].keys() == {"r"}
    assert items(headers["ratelimit-policy"])["plan_throttle"] == {"q": rule.burst}


def test_no_header_speaks_of_a_shadow_layer() -> None:
    shadow, account = replace(THROTTLE, shadow=True), limit(Layer.ACCOUNT_THROTTLE, bucket(2.0, 5))
    headers = ratelimit_headers(Grant(Subject(), (shadow, account)), Tally(NOW, (0, 0)))
    assert [list(items(value)) for value in headers.values()] == [["account_throttle"]] * 2
    assert ratelimit_headers(Grant(Subject(), (shadow,)), Tally(NOW, (0,))) == {}


@pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE])
def test_a_shed_call_may_come_again_in_a_second(reason: Reason) -> None:
    assert standard(Denied(reason)) == {"retry-after": "1"}


@pytest.mark.parametrize("reason", [Reason.KEY_UNKNOWN, Reason.UNKNOWN_METHOD, Reason.INTERNAL])
def test_other_refusals_tell_nothing_of_limits(reason: Reason) -> None:
    assert standard(Denied(reason)) == {}


# --- gRPC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;x=y"])
@pytest.mark.parametrize(
    ("denied", "status", "message"),
    [
        (Denied(Reason.KEY_UNKNOWN), "7", "Forbidden"),
        (Denied(Reason.UNKNOWN_METHOD), "7", "Missing Authentication Token"),
        (throttled(), "8", "Too Many Requests"),
        (Denied(Reason.PLAN_QUOTA), "8", "Limit Exceeded"),
        (Denied(Reason.UNAVAILABLE), "14", "Service Unavailable"),
    ],
)
def test_a_grpc_caller_reads_a_status_of_its_own(content_type: str, denied: Denied, status: str, message: str) -> None:
    """Envoy would turn a 429 into UNAVAILABLE, which clients retry; for gRPC-Web, any answer with a body."""
    found = answer(denied, ask(headers={"content-type": content_type}))
    assert (found.headers["grpc-status"], found.headers["grpc-message"], found.body) == (status, message, "")
    assert found.status == (503 if status == "14" else 200)
    assert "content-type" not in found.headers


@pytest.mark.parametrize("content_type", ["application/grpc-web", "application/grpcfoo", "text/plain"])
def test_a_call_that_envoy_treats_as_http_is_answered_as_http(content_type: str) -> None:
    assert "grpc-status" not in answer(throttled(), ask(headers={"content-type": content_type})).headers


def test_an_owners_words_do_not_reach_a_grpc_caller() -> None:
    owned = worded(status_code="418", response_templates={"text/plain": "x"})
    found = answer(owned, ask(headers={"content-type": "application/grpc"}))
    assert (found.status, found.headers["grpc-message"], found.body) == (200, "Too Many Requests", "")


# --- the owner's wording ------------------------------------------------------------------------------------------


def worded(kind: str = "THROTTLED", **fields: Any) -> Denied:
    """A throttled call to a stage with a gateway response of the kind `kind`."""
    responses = {GatewayResponseType(kind): GatewayResponse(**fields)}
    return throttled(
        responses=responses,
        api="a1",
        stage="prod",
        key="k1",
        route=Route("/pets/{id}", "GET"),
        skip=1,
        stage_variables={"color": "blue"},
    )


REQUEST = Request(
    "GET",
    "a1.example.org",
    "/prod/pets/a%20b?q=x%26y&empty=",
    {"user-agent": "curl", "origin": "https://o", "a-b": "h"},
)


def said(template: str, kind: str = "THROTTLED") -> str:
    return answer(worded(kind, response_templates={"application/json": template}), REQUEST).body


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("$context.error.message", "Too Many Requests"),
        ('{"m":$context.error.messageString}', '{"m":"Too Many Requests"}'),
        ('"$context.error.responseType".', '"THROTTLED".'),
        ("$context.error.retryAfter", "2"),
        ("$context.requestId", ID),
        ("$context.apiId/$context.stage", "a1/prod"),
        ("$context.resourcePath $context.httpMethod", "/pets/{id} GET"),
        ("$context.path", "/prod/pets/a%20b"),
        ("$context.domainName", "a1.example.org"),
        ("$context.identity.apiKeyId", "k1"),
        ("$context.identity.userAgent", "curl"),
        ("$stageVariables.color", "blue"),
        ("$method.request.header.Origin", "https://o"),
        ("$method.request.header.a-b", "h"),
        ("$method.request.querystring.q", "x&y"),
        ("$method.request.path.id", "a b"),
        ("${context.stage}s", "prods"),
        ("[$context.nothing$stageVariables.x$method.request.header.x$method.request.querystring.x$method.x$x]", "[]"),
        ("[$method.request.path.other$method.request.querystring.empty$context.identity.apiKey]", "[]"),
        ("costs $5, 100%, a$ and $", "costs $5, 100%, a$ and $"),
        ("", '{"message":"Too Many Requests"}'),
        ("#if($context.stage)x#end", "#if(prod)x#end"),
    ],
)
def test_a_template_is_plain_substitution(template: str, text: str) -> None:
    """Expressions are not evaluated; an unknown variable is empty."""
    fields: dict[str, Any] = {"response_templates": {"application/json": template}} if template else {}
    assert answer(worded(**fields), REQUEST).body == text


def test_a_type_that_is_not_set_takes_the_default_of_its_class() -> None:
    assert said("D", "DEFAULT_4XX") == "D"
    assert said("D", "DEFAULT_5XX") == '{"message":"Too Many Requests"}'
    assert said("D", "QUOTA_EXCEEDED") == '{"message":"Too Many Requests"}'


def test_a_type_that_is_set_ignores_the_default() -> None:
    default = GatewayResponse(status_code="418", response_templates={"application/json": "D"})
    own = GatewayResponse(response_parameters={"gatewayresponse.header.X": "'own'"})
    responses = {GatewayResponseType.DEFAULT_4XX: default, GatewayResponseType.THROTTLED: own}
    found = answer(throttled(responses=responses))
    assert (found.status, found.body, found.headers["x"]) == (429, '{"message":"Too Many Requests"}', "own")


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (
            "INVALID_API_KEY",
            {
                Reason.KEY_MISSING,
                Reason.KEY_UNKNOWN,
                Reason.KEY_DISABLED,
                Reason.KEY_EXPIRED,
                Reason.SOURCE_NOT_ALLOWED,
                Reason.NO_PLAN,
            },
        ),
        ("MISSING_AUTHENTICATION_TOKEN", {Reason.UNKNOWN_METHOD}),
        ("THROTTLED", set(THROTTLES)),
        ("QUOTA_EXCEEDED", {Reason.PLAN_QUOTA}),
        ("DEFAULT_5XX", {Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE, Reason.NOT_HTTP, Reason.INTERNAL}),
    ],
)
def test_a_type_words_the_refusals_that_aws_gives_it(kind: str, reasons: set[Reason]) -> None:
    subject = Subject(responses={GatewayResponseType(kind): GatewayResponse(status_code="418")})
    assert {reason for reason in Reason if answer(Denied(reason, subject)).status == 418} == reasons


@pytest.mark.parametrize("status", ["204", "205", "304"])
def test_a_status_without_a_body_has_none(status: str) -> None:
    """Envoy would send the body, and the client would read it as the beginning of the next answer."""
    assert answer(worded(status_code=status)) == dataclasses.replace(answer(worded()), status=int(status), body="")


def test_an_outage_may_be_worded_too() -> None:
    responses = {GatewayResponseType.DEFAULT_5XX: GatewayResponse(status_code="502")}
    assert answer(Denied(Reason.UNAVAILABLE, Subject(responses=responses))).status == 502


def test_an_unknown_stage_is_nobodys_to_word() -> None:
    """Without a stage there is no owner, so the answer has AWS's default status."""
    responses = {GatewayResponseType.DEFAULT_4XX: GatewayResponse(status_code="418")}
    assert answer(Denied(Reason.UNKNOWN_STAGE, Subject(responses=responses))).status == 403


@pytest.mark.parametrize(
    ("headers", "media_type"),
    [
        ({}, "application/json"),
        ({"accept": "application/xml"}, "application/xml"),
        ({"accept": "text/html, Application/XML;q=0.9, */*"}, "application/xml"),
        ({"accept": "*/*"}, "application/json"),
        ({"content-type": "application/xml; charset=utf-8"}, "application/xml"),
        ({"accept": "text/plain", "content-type": "application/xml"}, "text/plain"),
        ({"accept": "image/png"}, "application/json"),
    ],
)
def test_the_body_has_a_media_type_that_the_client_speaks(headers: dict[str, str], media_type: str) -> None:
    """It is the type in Accept or Content-Type, else JSON."""
    templates = {name: name for name in ("text/plain", "application/xml", "application/json")}
    found = answer(worded(response_templates=templates), ask(headers=headers))
    assert (found.headers["content-type"], found.body) == (media_type, media_type)


@pytest.mark.parametrize("json", ["Application/JSON", "application/json; charset=utf-8"])
def test_a_templates_media_type_is_compared_without_case_and_parameters(json: str) -> None:
    """It is sent as its owner wrote it."""
    found = answer(worded(response_templates={"text/plain": "p", json: "j"}))
    assert (found.headers["content-type"], found.body) == (json, "j")


def test_without_json_the_first_template_is_sent() -> None:
    found = answer(worded(response_templates={"text/plain": "p", "text/html": "h"}))
    assert (found.headers["content-type"], found.body) == ("text/plain", "p")


def mapped(value: str, request: Request = REQUEST) -> str | None:
    found = answer(worded(response_parameters={"gatewayresponse.header.X-Out": value}), request)
    return found.headers.get("x-out")


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("'60'", "60"),
        ("'it''s'", "it''s"),
        ("method.request.header.Origin", "https://o"),
        ("method.request.multivalueheader.Origin", "https://o"),
        ("method.request.querystring.q", "x&y"),
        ("method.request.multivaluequerystring.q", "x&y"),
        ("method.request.path.id", "a b"),
        ("context.error.responseType", "THROTTLED"),
        ("context.requestId", ID),
        ("stageVariables.color", "blue"),
        ("stageVariables.none", None),
        ("method.request.header.none", None),
        ("''", None),
    ],
)
def test_a_header_is_mapped_from_a_text_or_a_variable(value: str, header: str | None) -> None:
    """A variable without a value leaves the header out."""
    assert mapped(value) == header


@pytest.mark.parametrize("evil", ["a%0d%0aset-cookie:%20x", "a%00", "%C3%A9", "a%7f"])
def test_no_value_breaks_the_line_of_its_header(evil: str) -> None:
    value = mapped("method.request.querystring.q", Request("GET", "a1", f"/?q={evil}"))
    assert value
    assert value.isascii()
    assert value.isprintable()


def test_an_owners_header_replaces_ours() -> None:
    owned = worded(response_parameters={"gatewayresponse.header.Retry-After": "'60'"})
    assert answer(owned, profile="standard").headers["retry-after"] == "60"


CONTEXT = {
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


def test_the_names_that_a_configuration_may_use_are_those_that_have_a_value() -> None:
    assert _context(throttled(), _WORDINGS[Reason.PLAN_THROTTLE], ask(), ID).keys() == CONTEXT


def test_no_variable_holds_a_key() -> None:
    """Not even AWS's own `$context.identity.apiKey`."""
    assert value_of("k1") not in answer(worded(response_templates={"a/b": "$context.identity.apiKey"}), ask()).body


@pytest.mark.parametrize(
    ("template", "path", "variables"),
    [
        ("/pets/{id}", "/pets/7", {"id": "7"}),
        ("/pets/{id}", "/pets/7/", {"id": "7"}),
        ("/{a}/x/{b}", "/1/x/2%2F3", {"a": "1", "b": "2/3"}),
        ("/files/{proxy+}", "/files/a/b%20c", {"proxy": "a/b c"}),
        ("/pets", "/pets", {}),
        ("/", "/", {}),
        ("/pets/{id}", "/", {"id": ""}),
    ],
)
def test_a_templates_variables_are_decoded(template: str, path: str, variables: dict[str, str]) -> None:
    assert path_variables(template, path) == variables

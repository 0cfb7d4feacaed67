"""The rules that a configuration must follow: one row for each way to break one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from authz.core.resources import (
    Account,
    ApiStage,
    AuthorizerSource,
    Customer,
    GatewayResponse,
    GatewayResponseType,
    Host,
    HttpMethod,
    KeySource,
    Method,
    MethodSetting,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
)
from authz.core.rules import problems, value_problem, warnings
from tests.support.builders import api, key, plan, resources, value_of

ONE = ThrottleSettings(rate_limit=1.0, burst_limit=1)


def get(*paths: str) -> dict[str, dict[HttpMethod, Method]]:
    """Resources that have GET and nothing else."""
    return {path: {"GET": Method()} for path in paths}


def an_api(**changes: Any) -> Resources:
    return resources(apis=(api(**changes),))


def a_host(**changes: Any) -> Resources:
    return an_api(hosts=(Host(**{"host": "api.example.org", **changes}),))


def a_source(**fields: Any) -> Resources:
    return an_api(key_sources=(KeySource(**fields),))


def a_setting(name: str, rate: float = 1.0, burst: int = 1) -> Resources:
    setting = MethodSetting(throttling_rate_limit=rate, throttling_burst_limit=burst)
    return an_api(stages=(Stage(name="prod", method_settings={name: setting}),))


def a_response(**fields: Any) -> Resources:
    responses = {GatewayResponseType.THROTTLED: GatewayResponse(**fields)}
    return an_api(stages=(Stage(name="prod", gateway_responses=responses),))


def a_parameter(name: str, value: str) -> Resources:
    return a_response(response_parameters={name: value})


def a_plan(**changes: Any) -> Resources:
    return resources(usage_plans=(plan(**changes),))


def a_method_throttle(*names: str, **api_changes: Any) -> Resources:
    covered = ApiStage(api_id="a1", stage="prod", throttle=dict.fromkeys(names, ONE))
    return resources(apis=(api(**api_changes),), usage_plans=(plan(api_stages=(covered,)),))


def some_keys(*keys: Any) -> Resources:
    return resources(api_keys=(key(), *keys))


PROD = "$.apis[0].stages[0]"
THROTTLED = f"{PROD}.gatewayResponses['THROTTLED']"
COVERED = "$.usagePlans[0].apiStages[0]"
WHOLE = "the API a1 lists no methods, so it is one method: expected */* or //ANY"
HOST_NAME = "expected a host name in lower case, without scheme, port or path"
WILDCARD_HOST = "expected * only as the whole first label, as in *.example.com"
BASE_PATH = "expected segments with single slashes between them, such as orders/v2"
SEGMENTS = "expected segments such as pets, {id} or {proxy+}"
UPPER = f"{THROTTLED}.responseParameters['gatewayresponse.header.A']"
VALUES = (
    "expected 'a text in single quotes', method.request.header.x, method.request.querystring.x, "
    "method.request.path.x, context.x or stageVariables.x"
)
UNREAD = "expected only with the apiKeySource AUTHORIZER: it would not be read"
FINITE = "expected a finite number"
CUSTOMER = "expected printable ASCII characters, the first and last not blank: it is sent to the upstream in a header"

REFUSED = {
    # the account
    "account rate": (
        resources(account=Account(throttle_settings=ThrottleSettings(rate_limit=float("inf")))),
        "$.account.throttleSettings.rateLimit",
        FINITE,
    ),
    # APIs
    "api twice": (
        resources(apis=(api(), api())),
        "$.apis[1].id",
        "the name a1 is already used by $.apis[0].id",
    ),
    "stage twice": (
        an_api(stages=(Stage(name="prod"), Stage(name="prod"))),
        "$.apis[0].stages[1].name",
        f"the name prod is already used by {PROD}.name",
    ),
    "base path twice": (
        resources(apis=(api(hosts=(Host("h", "v1"),)), api("a2", hosts=(Host("h", "v2"), Host("h", "v1"))))),
        "$.apis[1].hosts[1]",
        "the name h/v1 is already used by $.apis[0].hosts[0]",
    ),
    "host with a port": (a_host(host="api.example.org:80"), "$.apis[0].hosts[0].host", f"{HOST_NAME}: api.example.org"),
    "host with a scheme": (
        a_host(host="https://api.example.org:443/v1"),
        "$.apis[0].hosts[0].host",
        f"{HOST_NAME}: api.example.org",
    ),
    "host in upper case": (a_host(host="Api.example.org"), "$.apis[0].hosts[0].host", f"{HOST_NAME}: api.example.org"),
    "host with a line end": (a_host(host="api.example.org\n"), "$.apis[0].hosts[0].host", HOST_NAME),
    "host of one word too many": (a_host(host="api example"), "$.apis[0].hosts[0].host", HOST_NAME),
    "host with a dot at its end": (
        a_host(host="api.example.org."),
        "$.apis[0].hosts[0].host",
        "expected no dot at the end: api.example.org",
    ),
    "host beyond ASCII": (
        a_host(host="München.example"),
        "$.apis[0].hosts[0].host",
        "expected the form in which clients send the name: xn--mnchen-3ya.example",
    ),
    "wildcard beyond ASCII": (
        a_host(host="*.straße.example"),
        "$.apis[0].hosts[0].host",
        "expected the form in which clients send the name: *.xn--strae-oqa.example",
    ),
    "wildcard alone": (a_host(host="*"), "$.apis[0].hosts[0].host", WILDCARD_HOST),
    "wildcard in the middle": (a_host(host="api.*.example.org"), "$.apis[0].hosts[0].host", WILDCARD_HOST),
    "wildcard of part of a label": (a_host(host="api-*.example.org"), "$.apis[0].hosts[0].host", WILDCARD_HOST),
    "resource of two dots": (
        an_api(resources={"/x/..": {}}),
        "$.apis[0].resources['/x/..']",
        "expected no segment . or ..: no request reaches it",
    ),
    "resource of a dot and a parameter": (
        an_api(resources={"/.;v=1/x": {}}),
        "$.apis[0].resources['/.;v=1/x']",
        "expected no segment . or ..: no request reaches it",
    ),
    "base path with a slash": (a_host(base_path="/v1"), "$.apis[0].hosts[0].basePath", BASE_PATH),
    "base path with a gap": (a_host(base_path="v1//x"), "$.apis[0].hosts[0].basePath", BASE_PATH),
    "mapping to no stage": (a_host(stage="beta"), "$.apis[0].hosts[0].stage", "the API a1 has no stage beta"),
    # where a key may be
    "no sources": (an_api(key_sources=()), "$.apis[0].keySources", "expected at least one source of keys"),
    "empty source": (a_source(), "$.apis[0].keySources[0]", "expected exactly one of header, query and cookie"),
    "two places": (
        a_source(header="a", query="b"),
        "$.apis[0].keySources[0]",
        "expected exactly one of header, query and cookie",
    ),
    "scheme of a cookie": (
        a_source(cookie="a", scheme="Bearer"),
        "$.apis[0].keySources[0].scheme",
        "expected only beside header",
    ),
    "scheme of two words": (
        a_source(header="a", scheme="Api Key"),
        "$.apis[0].keySources[0].scheme",
        "expected one word, such as Bearer",
    ),
    "pseudo header": (a_source(header=":path"), "$.apis[0].keySources[0].header", "expected the name of a header"),
    "host header": (
        a_source(header="Host"),
        "$.apis[0].keySources[0].header",
        "expected another header: Envoy cannot remove Host, so the key would reach the upstream",
    ),
    "framing header of a key": (
        a_source(header="Transfer-Encoding"),
        "$.apis[0].keySources[0].header",
        "expected another header: Transfer-Encoding frames the request, and is not the caller's to set",
    ),
    "query name": (a_source(query="a&b"), "$.apis[0].keySources[0].query", "expected the name of a query parameter"),
    "cookie name": (a_source(cookie="a;b"), "$.apis[0].keySources[0].cookie", "expected the name of a cookie"),
    "authorizer path": (
        an_api(api_key_source="AUTHORIZER", authorizer=AuthorizerSource(path=())),
        "$.apis[0].authorizer.path",
        "expected the names that lead to the key, none of them empty",
    ),
    "authorizer without its source": (
        an_api(authorizer=AuthorizerSource(path=("sub",))),
        "$.apis[0].authorizer",
        UNREAD,
    ),
    "authorizer as it is anyway": (an_api(authorizer=AuthorizerSource()), "$.apis[0].authorizer", UNREAD),
    # resources
    "relative template": (
        an_api(resources=get("pets")),
        "$.apis[0].resources['pets']",
        "expected a path that begins with /",
    ),
    "empty segment": (
        an_api(resources=get("/pets/")),
        "$.apis[0].resources['/pets/']",
        "expected no empty segment, and no slash at the end",
    ),
    "half a variable": (an_api(resources=get("/{id")), "$.apis[0].resources['/{id']", SEGMENTS),
    "variable in a text": (an_api(resources=get("/a{id}")), "$.apis[0].resources['/a{id}']", SEGMENTS),
    "wildcard": (an_api(resources=get("/*")), "$.apis[0].resources['/*']", SEGMENTS),
    "greedy inside": (
        an_api(resources=get("/{proxy+}/x")),
        "$.apis[0].resources['/{proxy+}/x']",
        "expected a greedy variable only as the last segment",
    ),
    "variable twice": (
        an_api(resources=get("/{id}/x/{id}")),
        "$.apis[0].resources['/{id}/x/{id}']",
        "expected each variable once",
    ),
    "sibling variables": (
        an_api(resources=get("/pets/{id}", "/pets/{name}/toys")),
        "$.apis[0].resources['/pets/{name}/toys']",
        "a sibling of {name} is already the variable {id}",
    ),
    # method settings of a stage
    "setting malformed": (
        a_setting("badkey"),
        f"{PROD}.methodSettings['badkey']",
        "Invalid method {resourcePath: badkey,method: } specified",
    ),
    "setting of no resource": (
        a_setting("dogs/GET"),
        f"{PROD}.methodSettings['dogs/GET']",
        "the API a1 has no resource /dogs",
    ),
    "setting of no method": (
        a_setting("~1pets~1{id}/PUT"),
        f"{PROD}.methodSettings['~1pets~1{{id}}/PUT']",
        "the resource /pets/{id} has no method PUT, only GET",
    ),
    "setting between -1 and 0": (
        a_setting("*/*", -0.5),
        f"{PROD}.methodSettings['*/*'].throttlingRateLimit",
        "expected -1 for no limit, or a number ≥ 0",
    ),
    "setting too slow": (
        a_setting("*/*", 1e-7),
        f"{PROD}.methodSettings['*/*'].throttlingRateLimit",
        "expected 0 or a rate of at least 0.000001 a second",
    ),
    # gateway responses
    "status 1xx": (
        a_response(status_code="101"),
        f"{THROTTLED}.statusCode",
        "expected 200 to 599: a 1xx status does not end a request",
    ),
    **{
        f"status {status}": (
            a_response(status_code=status),
            f"{THROTTLED}.statusCode",
            f"expected a status that can have a body: {status} cannot",
        )
        for status in ("204", "205", "304")
    },
    "not a header": (
        a_parameter("header.X", "'1'"),
        f"{THROTTLED}.responseParameters['header.X']",
        "expected gatewayresponse.header.<name of a header>",
    ),
    "framing header": (
        a_parameter("gatewayresponse.header.Content-Length", "'1'"),
        f"{THROTTLED}.responseParameters['gatewayresponse.header.Content-Length']",
        "expected a header other than Content-Length: Envoy sets it itself",
    ),
    "header twice": (
        a_response(response_parameters={"gatewayresponse.header.A": "'1'", "gatewayresponse.header.a": "'1'"}),
        f"{THROTTLED}.responseParameters['gatewayresponse.header.a']",
        f"the header gatewayresponse.header.a is already used by {UPPER}",
    ),
    "value without quotes": (
        a_parameter("gatewayresponse.header.A", "60"),
        UPPER,
        VALUES,
    ),
    "value with a line end": (
        a_parameter("gatewayresponse.header.A", "'a\r\nb: c'"),
        UPPER,
        VALUES,
    ),
    "body of the request": (
        a_parameter("gatewayresponse.header.A", "method.request.body.x"),
        UPPER,
        VALUES,
    ),
    "header of no such spelling": (
        a_parameter("gatewayresponse.header.A", "method.request.header.X!Y"),
        UPPER,
        VALUES,
    ),
    "context of no such name": (
        a_parameter("gatewayresponse.header.A", "context.requestID"),
        UPPER,
        "there is no variable context.requestID; did you mean context.requestId?",
    ),
    "context of no such name in a template": (
        a_response(response_templates={"text/plain": "$context.requestId $stageVariables.x ${context.zone}. $5"}),
        f"{THROTTLED}.responseTemplates['text/plain']",
        "there is no variable context.zone",
    ),
    "media type": (
        a_response(response_templates={"json": "{}"}),
        f"{THROTTLED}.responseTemplates['json']",
        "expected a media type, such as application/json",
    ),
    # usage plans
    "plan twice": (
        resources(usage_plans=(plan(), plan(keys=()))),
        "$.usagePlans[1].id",
        "the name p1 is already used by $.usagePlans[0].id",
    ),
    "plan name": (
        a_plan(name="Silver\n"),
        "$.usagePlans[0].name",
        "expected no control characters: it is sent to the upstream in a header",
    ),
    "plan rate": (
        a_plan(throttle=ThrottleSettings(rate_limit=0.000001, burst_limit=1_000_000)),
        "$.usagePlans[0].throttle.rateLimit",
        "expected burst ÷ rate of at most 100 years",
    ),
    "day offset": (
        a_plan(quota=QuotaSettings(limit=1, period=Period.DAY, offset=1)),
        "$.usagePlans[0].quota.offset",
        "expected 0 with the period DAY",
    ),
    "week offset": (
        a_plan(quota=QuotaSettings(limit=1, period=Period.WEEK, offset=7)),
        "$.usagePlans[0].quota.offset",
        "expected a number from 0 to 6 with the period WEEK",
    ),
    "month offset": (
        a_plan(quota=QuotaSettings(limit=1, period=Period.MONTH, offset=28)),
        "$.usagePlans[0].quota.offset",
        "expected a number from 0 to 27 with the period MONTH",
    ),
    "plan of no api": (
        a_plan(api_stages=(ApiStage(api_id="a9", stage="prod"),)),
        f"{COVERED}.apiId",
        "there is no API a9",
    ),
    "plan of no stage": (
        a_plan(api_stages=(ApiStage(api_id="a1", stage="beta"),)),
        f"{COVERED}.stage",
        "the API a1 has no stage beta",
    ),
    "stage twice in a plan": (
        a_plan(api_stages=(ApiStage(api_id="a1", stage="prod"),) * 2),
        "$.usagePlans[0].apiStages[1]",
        f"the stage a1:prod is already used by {COVERED}",
    ),
    "plan of no key": (a_plan(keys=("k1", "k9")), "$.usagePlans[0].keys[1]", "there is no API key k9"),
    "value of a key in a plan": (
        a_plan(keys=("k1", value_of("k1"))),
        "$.usagePlans[0].keys[1]",
        "this is the value of $.apiKeys[0]; expected its id",
    ),
    "long id of no key": (
        a_plan(keys=("k1", "x" * 20)),
        "$.usagePlans[0].keys[1]",
        "there is no API key (20 characters)",
    ),
    "key twice in a plan": (
        a_plan(keys=("k1", "k1")),
        "$.usagePlans[0].keys[1]",
        "the key k1 is already used by $.usagePlans[0].keys[0]",
    ),
    "key in two plans of a stage": (
        resources(usage_plans=(plan(), plan("p2"))),
        "$.usagePlans[1].keys[0]",
        "the key k1 is already in the plan p1 for the stage a1:prod",
    ),
    "21 methods": (
        a_method_throttle(*(f"/r{n}/GET" for n in range(21)), resources=get(*(f"/r{n}" for n in range(21)))),
        f"{COVERED}.throttle",
        "expected at most 20 methods, not 21",
    ),
    "throttle malformed": (
        a_method_throttle("badkey"),
        f"{COVERED}.throttle['badkey']",
        "Invalid method {resourcePath: badkey,method: } specified",
    ),
    "throttle of no method": (
        a_method_throttle("/any/GET", resources={"/any": {"ANY": Method()}}),
        f"{COVERED}.throttle['/any/GET']",
        "the resource /any has no method GET, only ANY",
    ),
    "one method, two spellings": (
        a_method_throttle("/pets/GET", "pets/GET"),
        f"{COVERED}.throttle['pets/GET']",
        "the same method as '/pets/GET'",
    ),
    "method of a whole stage": (
        a_method_throttle("/pets/GET", resources={}),
        f"{COVERED}.throttle['/pets/GET']",
        WHOLE,
    ),
    "throttle of a method without a key": (
        a_method_throttle("/pets/GET", "/pets/*", resources={"/pets": {"GET": Method(api_key_required=False)}}),
        f"{COVERED}.throttle['/pets/GET']",
        "the method requires no key, so no plan throttles it",
    ),
    "verb of a whole stage": (a_method_throttle("//GET", resources={}), f"{COVERED}.throttle['//GET']", WHOLE),
    # API keys
    "key id twice": (
        some_keys(key(value=value_of("k2"))),
        "$.apiKeys[1].id",
        "the name k1 is already used by $.apiKeys[0].id",
    ),
    "key value twice": (
        some_keys(key("k2", value=value_of("k1"))),
        "$.apiKeys[1]",
        "the value is already that of $.apiKeys[0]",
    ),
    "no value": (
        some_keys(key("k2", value=None)),
        "$.apiKeys[1]",
        "expected exactly one of value and valueSha256",
    ),
    "two values": (
        some_keys(key("k2", value=value_of("k2"), value_sha256="0" * 64)),
        "$.apiKeys[1]",
        "expected exactly one of value and valueSha256",
    ),
    "expiry without zone": (
        some_keys(key("k2", expires_at=datetime(2030, 1, 1))),  # noqa: DTZ001
        "$.apiKeys[1].expiresAt",
        "expected a time with its zone, such as 2030-01-31T23:59:59Z",
    ),
    "customer id": (
        some_keys(key("k2", customer_id="a\x00")),
        "$.apiKeys[1].customerId",
        CUSTOMER,
    ),
    "customer id beyond ASCII": (some_keys(key("k2", customer_id="café")), "$.apiKeys[1].customerId", CUSTOMER),
    "customer id that begins blank": (some_keys(key("k2", customer_id=" a")), "$.apiKeys[1].customerId", CUSTOMER),
    "customer id that ends blank": (some_keys(key("k2", customer_id="a ")), "$.apiKeys[1].customerId", CUSTOMER),
    "no allowed sources": (
        some_keys(key("k2", allowed_sources=())),
        "$.apiKeys[1].allowedSources",
        "expected at least one range; without allowedSources every address may use the key",
    ),
    "too many allowed sources": (
        some_keys(key("k2", allowed_sources=("192.0.2.1",) * 101)),
        "$.apiKeys[1].allowedSources",
        "expected at most 100 ranges, got 101",
    ),
    "allowed source with host bits": (
        some_keys(key("k2", allowed_sources=("192.0.2.1", "10.1.2.3/8"))),
        "$.apiKeys[1].allowedSources[1]",
        "expected the first address of the range: 10.0.0.0/8, or 10.1.2.3 for that address alone, got '10.1.2.3/8'",
    ),
    "allowed source that may be a key": (
        some_keys(key("k2", allowed_sources=(value_of("k1"),))),
        "$.apiKeys[1].allowedSources[0]",
        "expected an IPv4 or IPv6 address or range, such as 203.0.113.0/24 or 2001:db8::/32, got '(23 characters)'",
    ),
    "empty customer id": (some_keys(key("k2", customer_id="")), "$.apiKeys[1].customerId", CUSTOMER),
    "expiry after the last year": (
        some_keys(key("k2", expires_at=datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14))))),
        "$.apiKeys[1].expiresAt",
        "expected a time that is in the years 1 to 9999 in UTC, too",
    ),
    "expiry before the first year": (
        some_keys(key("k2", expires_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))),
        "$.apiKeys[1].expiresAt",
        "expected a time that is in the years 1 to 9999 in UTC, too",
    ),
    "value as an id": (
        some_keys(key(value_of("k1"), value=value_of("k2"))),
        "$.apiKeys[1].id",
        "this is the value of $.apiKeys[0]; expected its id",
    ),
}


@pytest.mark.parametrize(("refused", "address", "rule"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_is_reported_with_its_address(refused: Resources, address: str, rule: str) -> None:
    assert problems(refused) == [(address, rule)]


ACCEPTED = {
    "smallest": resources(),
    "empty": Resources(),
    "one method": a_method_throttle("*/*", "//ANY", resources={}),
    "a verb of ANY in a stage": resources(
        apis=(
            api(
                resources={"/any": {"ANY": Method()}},
                stages=(Stage("prod", {"any/GET": MethodSetting(1.0, 1), "any/ANY": MethodSetting(1.0, 1)}),),
            ),
        )
    ),
    "wildcards": a_method_throttle("/*/*", "/pets/*", "/pets/GET"),
    "20 methods": a_method_throttle(*(f"/r{n}/GET" for n in range(20)), resources=get(*(f"/r{n}" for n in range(20)))),
    "root and variables": an_api(resources=get("/", "/{id}", "/{proxy+}", "/{id}/toys", "/v1.0/a:b")),
    "no limit": a_setting("*/*", -1.0, -1),
    "burst of -1": a_setting("pets/GET", 5.0, -1),
    "last days": a_plan(quota=QuotaSettings(limit=1, period=Period.MONTH, offset=27)),
    "mapping": a_host(base_path="orders/v2", stage="prod"),
    "address as host": a_host(host="[::1]"),
    "scheme": a_source(header="Authorization", scheme="Bearer"),
    "no sources needed": an_api(api_key_source="AUTHORIZER", key_sources=()),
    "key of two plans with a stage each": resources(
        apis=(api(stages=(Stage(name="prod"), Stage(name="dev"))),),
        usage_plans=(plan(), plan("p2", api_stages=(ApiStage("a1", "dev"),))),
    ),
    "customer id": some_keys(key("k2", customer_id="Acme & Sons (7)")),
    "static header": a_parameter("gatewayresponse.header.Retry-After", "'60'"),
    "mapped header": a_parameter("gatewayresponse.header.A", "method.request.header.Origin"),
    "status and template": a_response(status_code="420", response_templates={"text/plain; charset=utf-8": "slow"}),
    "key in plans of two stages": resources(
        apis=(api(), api("a2")), usage_plans=(plan(), plan("p2", api_stages=(ApiStage(api_id="a2", stage="prod"),)))
    ),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
def test_what_keeps_to_the_rules_is_left_alone(accepted: Resources) -> None:
    assert problems(accepted) == []


def test_no_problem_repeats_a_value_in_the_place_of_an_id() -> None:
    """This holds when the value breaks several rules."""
    value = value_of("k1")
    wrong = plan(keys=(value, value), api_stages=(ApiStage(value, value), ApiStage("a1", value)))
    broken = resources(usage_plans=(wrong, plan("p2", keys=(value,))), api_keys=(key(), key(value), key(value)))
    assert len(problems(broken)) > 6
    assert value not in str(problems(broken))


def test_every_problem_is_reported_at_once() -> None:
    both = resources(usage_plans=(plan(keys=("k8", "k9"), quota=QuotaSettings(limit=1, period=Period.DAY, offset=3)),))
    assert [problem.address for problem in problems(both)] == [
        "$.usagePlans[0].quota.offset",
        "$.usagePlans[0].keys[0]",
        "$.usagePlans[0].keys[1]",
    ]


@pytest.mark.parametrize("value", ["a" * 20, "a" * 128, "!#$%&'()*+-./:;<=>?@[]^_`{|}~"])
def test_a_key_may_hold_any_printable_ascii_but_blank_and_comma(value: str) -> None:
    assert value_problem(value) is None


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("a" * 19, "expected 20 to 128 characters, not 19"),
        ("a" * 129, "expected 20 to 128 characters, not 129"),
        ("", "expected 20 to 128 characters, not 0"),
        *(
            ("a" * 20 + forbidden, "expected printable ASCII characters other than blank and comma")
            for forbidden in (",", " ", "\t", "\n", "\x00", "\x7f", "é")
        ),
    ],
)
def test_a_bad_value_is_refused_without_being_repeated(value: str, rule: str) -> None:
    assert value_problem(value) == rule


def test_keys_that_can_call_nothing_are_no_broken_rule_and_worth_a_warning() -> None:
    bare = resources(
        usage_plans=(plan(), plan("p2", api_stages=(), keys=("k2", "k3"))), api_keys=(key(), key("k2"), key("k3"))
    )
    assert problems(bare) == []
    [warning] = warnings(bare)
    assert warning.address == "$.usagePlans[1].apiStages"
    assert "each of its 2 keys (k2 and others) can call nothing by it and gets 403" in warning.rule
    assert warnings(resources(usage_plans=(plan(), plan("p2", api_stages=(), keys=())))) == []


def test_a_customer_that_no_key_names_and_a_key_of_a_customer_in_another_case_are_worth_a_warning() -> None:
    customers = (Customer("acme"), Customer("Globex"))
    given = resources(
        customers=customers,
        api_keys=(key(customer_id="acme"), key("k2", customer_id="GLOBEX"), key("k3", customer_id="unlisted")),
    )
    assert problems(given) == []
    assert list(map(str, warnings(given))) == [
        (
            "$.apiKeys[1].customerId: GLOBEX is another customer than Globex, which is listed; "
            "ids of customers differ by upper and lower case"
        ),
        "$.customers[1].id: no key of this file names the customer Globex in its customerId",
    ]
    assert warnings(resources(customers=customers, usage_plans=(), api_keys=())) == []


@pytest.mark.parametrize("name", [" acme", "ac\tme", "Zoë", "a\r\nx: y"])
def test_a_customer_s_id_is_one_that_a_header_can_carry(name: str) -> None:
    found = problems(resources(customers=(Customer(name),), api_keys=(key(customer_id=name),)))
    assert [problem.address for problem in found] == ["$.apiKeys[0].customerId", "$.customers[0].id"]


@pytest.mark.parametrize(("rate", "is_told"), [(2**31 - 1, False), (2**31, True), (1e20, True)])
def test_rates_have_a_bound(rate: float, is_told: bool) -> None:
    found = problems(a_plan(throttle=ThrottleSettings(rate_limit=rate, burst_limit=5)))
    assert [problem.address for problem in found] == ["$.usagePlans[0].throttle.rateLimit"] * is_told
    assert all("expected a rate of at most 2147483647 a second" in problem.rule for problem in found)

"""The Envoy edge reads each check, and Envoy can misread none of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import product
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from authz.check import Checker, LimiterUnavailable
from authz.core.catalog import Catalog
from authz.core.limits import Charge, Layer, Limit, Quota, throttle
from authz.core.request import Request
from authz.core.resources import Account, FailurePolicy, KeySource, Method, Resources, ThrottleSettings
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, Verdict, allow, judge
from authz.envoy.answers import Style
from authz.envoy.edge import Authorization, to_request
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.observe.metrics import Metrics
from tests.support.builders import api, key, plan, resources, value_of
from tests.support.world import Answer, ask, check_request, read, to_response

ANY_TIME = 1_772_618_400_000_000
URL = "https://a1.example.org/prod/pets"
SUCCESS_TOO = Style(headers_on_success=True)
BUCKET = throttle(1.0, 5)
assert BUCKET
THROTTLE = Limit(Layer.PLAN_THROTTLE, "k", BUCKET)
QUOTA = Limit(Layer.PLAN_QUOTA, "k", Quota(100, 0, 86_400_000_000))


def grant(request: Request, changed: Resources | None = None) -> Grant:
    found = Catalog.compile(changed or resources()).resolve(request, ANY_TIME)
    assert isinstance(found, Grant)
    return found


def allowed(request: Request, changed: Resources | None = None, style: Style = Style()) -> Answer:  # noqa: B008
    """Return the answer to a call that was allowed without a tally."""
    return read(to_response(allow(grant(request, changed), None, request), request, style=style))


# --- the request --------------------------------------------------------------------------------------------------


def test_a_request_is_read_from_its_attributes() -> None:
    extensions = {"api": "a1"}
    message = check_request("GET", f"{URL}?q=%2F", {"X-A": "1"}, {"ns": {"claim": ["x"]}}, extensions=extensions)
    assert to_request(message) == Request(
        method="GET",
        host="a1.example.org",
        path="/prod/pets?q=%2F",
        headers={"x-a": "1"},
        extensions=extensions,
        metadata={"ns": {"claim": ["x"]}},
        id="1",
    )


def test_raw_headers_are_read_and_joined_as_envoy_joins_them() -> None:
    """The filter's `encode_raw_headers` fills `header_map` and leaves `headers` empty."""
    message = check_request("GET", URL, {})
    message.attributes.request.http.header_map.headers.extend(
        [
            pb.HeaderValue(key="X-Api-Key", raw_value=b"K1"),
            pb.HeaderValue(key="x-api-key", value="K2"),
            pb.HeaderValue(key="x-odd", raw_value=b"a\xffb"),
            pb.HeaderValue(key="x-empty"),
        ]
    )
    request = to_request(message)
    assert request
    assert request.headers == {"x-api-key": "K1,K2", "x-odd": "a\N{REPLACEMENT CHARACTER}b", "x-empty": ""}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_metadata_may_hold_any_number(number: float) -> None:
    """JSON cannot express these numbers, but a filter before ours may write them."""
    message = check_request("GET", URL, {}, {"ns": {"odd": number, "in": {"a": [number, None, True]}, "key": "K"}})
    message.attributes.metadata_context.filter_metadata["ns"].fields["unset"].Clear()
    request = to_request(message)
    assert request
    assert (request.metadata["ns"]["key"], request.metadata["ns"]["unset"]) == ("K", None)
    assert repr(request.metadata["ns"]["in"]) == f"{{'a': [{number!r}, None, True]}}"


@pytest.mark.parametrize("missing", ["method", "path"])
def test_a_check_without_an_http_request_is_none(missing: str) -> None:
    message = check_request("GET", URL, {})
    message.attributes.request.http.ClearField(cast("Any", missing))
    assert to_request(message) is None
    assert to_request(pb.CheckRequest()) is None


def test_a_tunnel_has_no_path_and_is_a_request() -> None:
    message = check_request("CONNECT", URL, {})
    message.attributes.request.http.ClearField("path")
    request = to_request(message)
    assert request
    assert (request.method, request.path) == ("CONNECT", "")


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", ""])
def test_the_source_is_the_other_end_of_the_connection(address: str) -> None:
    message = check_request("GET", URL, {"x-forwarded-for": "198.51.100.1"})
    message.attributes.source.address.socket_address.address = address
    request = to_request(message)
    assert request
    assert request.source == address


def test_a_refusal_for_its_source_names_the_address_in_metadata() -> None:
    """With it, the access log shows why a customer is refused. The client does not get it."""
    request = ask(source="198.51.100.1")
    found = Catalog.compile(resources(api_keys=(key(allowed_sources=("203.0.113.0/24",)),))).resolve(request, ANY_TIME)
    assert isinstance(found, Denied)
    answer = read(to_response(found, request))
    assert answer.name == "F"
    told = {name: answer.metadata[name] for name in ("reason", "key_id", "plan", "source")}
    assert told == {"reason": "source_not_allowed", "key_id": "k1", "plan": "p1", "source": "198.51.100.1"}
    assert "198.51.100.1" not in f"{answer.headers}{answer.body}"


def test_other_answers_have_no_source_in_metadata() -> None:
    request = ask(source="198.51.100.1", key="k9")
    assert "source" not in read(to_response(Denied(Reason.KEY_UNKNOWN), request)).metadata
    assert "source" not in allowed(ask(source="198.51.100.1")).metadata


# --- no answer by accident ----------------------------------------------------------------------------------------

WITH_LIMITS = Grant(Subject(), (THROTTLE, QUOTA))
COUNTED = Tally(ANY_TIME, (0, 1))
VERDICTS: list[Verdict] = [
    Allowed(WITH_LIMITS, None),
    Allowed(WITH_LIMITS, COUNTED),
    judge(WITH_LIMITS, Tally(ANY_TIME, (0, 1), refused_by=QUOTA, wait_us=None), ask()),
    *(Denied(reason) for reason in Reason),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda v: getattr(v, "reason", "allowed"))
def test_no_answer_is_empty_and_each_has_a_status(verdict: Verdict) -> None:
    """Envoy reads zero bytes, and status 0 whatever else is set, as ALLOW. `read` asserts it for every test here."""
    for style, request in product((Style(), SUCCESS_TOO, Style("aws")), (ask(), None)):
        response = to_response(verdict, request, style=style)
        may_pass = isinstance(verdict, Allowed) and request is not None
        assert (read(response).status == 200) == (response.status.code == 0) == may_pass


UNDECIDED = {"unavailable", "overloaded", "deadline", "not_http", "internal"}


@pytest.mark.parametrize("reason", Reason)
def test_only_a_check_without_a_decision_is_an_error(reason: Reason) -> None:
    """An Envoy too old for `error_response` refuses by the status beside it."""
    response = to_response(Denied(reason), ask())
    assert read(response).is_error == (reason in UNDECIDED)
    assert response.status.code == (14 if reason in UNDECIDED else 7)


def test_an_allow_without_a_request_is_an_error() -> None:
    answer = read(to_response(Allowed(WITH_LIMITS, None), None))
    assert (answer.status, answer.is_error) == (503, True)


# --- to the upstream ----------------------------------------------------------------------------------------------

SIGNED = resources(usage_plans=(plan(name="Gold"),), api_keys=(key(customer_id="c9"),))
KEYLESS = resources(apis=(api(resources={"/pets": {"GET": Method(api_key_required=False)}}),))


# A client that sets one of these must not reach the upstream with it. Envoy sets the last on unchecked requests.
SPOOFABLE = {
    "x-api-key-id",
    "x-usage-plan-id",
    "x-usage-plan-name",
    "x-customer-id",
    "x-usage-overage",
    "x-envoy-auth-failure-mode-allowed",
}


def test_the_upstream_gets_the_caller_in_headers() -> None:
    assert allowed(ask(), SIGNED).upstream == {
        "x-api-key-id": "k1",
        "x-usage-plan-id": "p1",
        "x-usage-plan-name": "Gold",
        "x-customer-id": "c9",
    }


def test_a_clients_own_copies_are_removed_where_ours_do_not_replace_them() -> None:
    answer = allowed(ask())
    assert {*answer.upstream} | {*answer.removed} >= SPOOFABLE
    assert not {*answer.upstream} & {*answer.removed}


def test_on_a_keyless_method_all_copies_are_removed() -> None:
    answer = allowed(ask(key=None), KEYLESS)
    assert (answer.upstream, {*answer.removed}) == ({}, SPOOFABLE)


@pytest.mark.parametrize("changed", [SIGNED, KEYLESS])
def test_other_spellings_of_our_names_are_removed_where_a_client_sent_them(changed: Resources) -> None:
    spelt = {"x.api.key.id": "spoofed", "x_usage-plan_id": "", "x~customer~id": "spoofed"}
    sent = ask(headers={"x-api-key": value_of("k1"), **spelt})
    assert {*spelt} <= {*allowed(sent, changed).removed}
    assert not {*spelt} & {*allowed(ask(), changed).removed}


@pytest.mark.parametrize("changed", [SIGNED, KEYLESS])
def test_the_key_is_not_forwarded(changed: Resources) -> None:
    """This holds for keyless methods too."""
    assert "x-api-key" in allowed(ask(), changed).removed


def test_a_name_cannot_break_a_headers_line() -> None:
    changed = resources(usage_plans=(plan(name="Gold\r\nx: y é"),))
    assert allowed(ask(), changed).upstream["x-usage-plan-name"] == "Gold??x: y ?"


QUERY_AND_COOKIE = resources(apis=(api(key_sources=(KeySource(query="api_key"), KeySource(cookie="key"))),))


@pytest.mark.parametrize(
    ("cookie", "left", "is_removed"),
    [("a=1; key=K; b=2", "a=1; b=2", False), ("key=K", None, True), ("a=1", None, False)],
)
def test_of_the_cookies_only_the_key_is_taken(cookie: str, left: str | None, is_removed: bool) -> None:
    request = ask(f"/prod/pets?api_key={value_of('k1')}", headers={"cookie": cookie})
    answer = allowed(request, QUERY_AND_COOKIE)
    assert (answer.upstream.get("cookie"), "cookie" in answer.removed) == (left, is_removed)


def test_the_named_query_parameter_is_removed() -> None:
    request = ask(f"/prod/pets?api_key={value_of('k1')}", headers={})
    assert allowed(request, QUERY_AND_COOKIE).upstream[":path"] == "/prod/pets"


def test_a_query_without_a_key_is_not_touched() -> None:
    request = ask("/prod/pets?b=1&a=2", headers={"cookie": f"key={value_of('k1')}"})
    assert ":path" not in allowed(request, QUERY_AND_COOKIE).upstream


def test_headers_to_the_client_of_an_admitted_call_are_a_choice() -> None:
    verdict = judge(WITH_LIMITS, COUNTED, ask())
    shown = {
        style: set(read(to_response(verdict, ask(), style=style)).headers)
        for style in (Style(), SUCCESS_TOO, Style("aws", headers_on_success=True))
    }
    assert [*shown.values()] == [set(), {"ratelimit", "ratelimit-policy"}, set()]


# --- dynamic metadata ---------------------------------------------------------------------------------------------


def metadata(verdict: Verdict) -> dict[str, Any]:
    return dict(read(to_response(verdict, ask(), version="7-abc")).metadata)


PLACE = {
    "api": "a1",
    "stage": "prod",
    "resource": "/pets",
    "method": "GET",
    "plan": "p1",
    "key_id": "k1",
    "catalog_version": "7-abc",
}


def test_metadata_describes_an_allowed_call() -> None:
    found = grant(ask())
    assert metadata(judge(found, Tally(ANY_TIME, (0,)), ask())) == PLACE | {
        "decision": "allowed",
        "reason": "",
        "layer": "",
        "degraded": False,
        "shadow": "",
        "remaining": {"account_throttle": 5_000.0},
    }


def test_metadata_describes_a_refused_call_and_the_layer() -> None:
    found = Grant(grant(ask()).subject, (THROTTLE, QUOTA))
    tally = Tally(ANY_TIME, (5 * THROTTLE.rule.m, 1), refused_by=THROTTLE, wait_us=1_500_000)  # type: ignore[union-attr]
    assert metadata(judge(found, tally, ask())) == PLACE | {
        "decision": "denied",
        "reason": "plan_throttle",
        "layer": "plan_throttle",
        "degraded": False,
        "shadow": "",
        "remaining": {"plan_throttle": 0.0, "plan_quota": 99.0},
        "retry_after": 2.0,
    }


@pytest.mark.parametrize(("cost", "told"), [(1, {}), (0, {"cost": 0.0}), (300, {"cost": 300.0})])
def test_metadata_has_the_cost_unless_it_is_one(cost: int, told: dict[str, float]) -> None:
    found = replace(grant(ask()), cost=cost)
    allowed_, denied = Tally(ANY_TIME, (0,)), Tally(ANY_TIME, (0,), refused_by=found.limits[0])
    for tally in (allowed_, denied):
        said = metadata(judge(found, tally, ask()))
        assert {name: said[name] for name in said if name == "cost"} == told


def test_calls_of_one_grant_may_cost_differently() -> None:
    """They share the bytes of an answer, and not the cost."""
    found = grant(ask())
    costs = [metadata(judge(replace(found, cost=cost), Tally(ANY_TIME, (0,)), ask())).get("cost") for cost in (7, 1, 9)]
    assert costs == [7.0, None, 9.0]


def test_metadata_tells_what_a_shadow_plan_would_have_refused() -> None:
    assert metadata(judge(WITH_LIMITS, Tally(ANY_TIME, (0, 1), shadowed_by=QUOTA), ask()))["shadow"] == "plan_quota"


@pytest.mark.parametrize(
    ("verdict", "degraded"),
    [
        (Allowed(WITH_LIMITS, None), True),
        (Allowed(WITH_LIMITS, Tally(ANY_TIME, (0, 1), degraded=True)), True),
        (Denied(Reason.UNAVAILABLE), True),
        (Denied(Reason.KEY_UNKNOWN), False),
        (Allowed(WITH_LIMITS, COUNTED), False),
    ],
)
def test_metadata_tells_what_redis_had_no_part_in(verdict: Verdict, degraded: bool) -> None:
    assert metadata(verdict)["degraded"] is degraded


# --- the service --------------------------------------------------------------------------------------------------

Admit = Callable[[Charge], Coroutine[Any, Any, Tally]]


class FakeLimiter:
    """A limiter that calls `admit`."""

    def __init__(self, admit: Admit) -> None:
        self._admit = admit

    async def admit(self, charge: Charge) -> Tally:
        return await self._admit(charge)


class NoFallback:
    def admit(self, charge: Charge, now: int) -> Tally:
        raise AssertionError("no test here falls back")


async def admits(charge: Charge) -> Tally:
    return Tally(ANY_TIME, (0,) * len(charge.limits))


def service(admit: Admit = admits, changed: Resources | None = None, **options: Any) -> tuple[Authorization, Metrics]:
    catalog, metrics = Catalog.compile(changed or resources()), Metrics()
    checker = Checker(lambda: catalog, FakeLimiter(admit), NoFallback(), lambda: ANY_TIME)
    return Authorization(checker, metrics, version=lambda: "7-abc", **options), metrics


async def answered(
    admit: Admit = admits,
    message: pb.CheckRequest | None = None,
    seconds: float | None = None,
    changed: Resources | None = None,
) -> tuple[Answer, str]:
    """Return the answer, and the reason that the metric counts."""
    asked, metrics = service(admit, changed)
    question = message or check_request("GET", URL, {"x-api-key": value_of("k1")})
    answer = read(pb.CheckResponse.FromString(await asked.answer(question.SerializeToString(), seconds)))
    assert metrics.registry.get_sample_value("authz_check_duration_seconds_count") == 1.0
    [reason] = [
        s.labels["reason"] for f in metrics.registry.collect() for s in f.samples if s.name == "authz_checks_total"
    ]
    return answer, reason


async def test_a_known_caller_is_answered() -> None:
    answer, reason = await answered()
    assert (answer.status, answer.upstream["x-api-key-id"], reason) == (200, "k1", "")


async def test_a_stranger_is_refused_under_a_request_id_of_its_own() -> None:
    stranger = check_request("GET", URL, {})
    answers = [(await answered(message=stranger))[0] for _ in range(2)]
    assert [answer.status for answer in answers] == [403, 403]
    assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 2


async def test_an_exception_inside_is_an_error_and_no_allow() -> None:
    async def fails(*_: object, **__: object) -> Tally:
        raise RuntimeError("a fault of ours")

    with capture_logs() as lines:
        answer, reason = await answered(fails)
    assert (answer.status, answer.is_error, reason) == (503, True, "internal")
    assert [line["event"] for line in lines] == ["check failed"]


async def test_a_tally_that_makes_no_sense_is_an_error_and_no_allow() -> None:
    """Here wording the answer fails."""

    async def nonsense(*_: object, **__: object) -> Tally:
        return Tally(ANY_TIME, (1, 2, 3, 4))

    with capture_logs():
        answer, reason = await answered(nonsense)
    assert (answer.status, answer.is_error, reason) == (503, True, "internal")


@pytest.mark.parametrize("message", [pb.CheckRequest(), check_request("", URL, {})])
async def test_a_request_without_http_attributes_is_an_error(message: pb.CheckRequest) -> None:
    answer, reason = await answered(message=message)
    assert (answer.status, answer.is_error, reason) == (503, True, "not_http")


@pytest.mark.parametrize("seconds", [0.002, 0.0, -1.0])
async def test_a_deadline_that_has_passed_is_an_error_and_costs_nothing(seconds: float) -> None:
    async def charges(*_: object, **__: object) -> Tally:
        raise AssertionError("charged after the deadline")

    answer, reason = await answered(charges, seconds=seconds)
    assert (answer.status, answer.is_error, reason) == (503, True, "deadline")


async def test_the_limiter_gets_the_callers_deadline() -> None:
    """A twentieth of the time left is reserved for the answer's way back."""
    told: list[float | None] = []

    async def listens(charge: Charge) -> Tally:
        told.append(charge.deadline)
        return await admits(charge)

    before = asyncio.get_running_loop().time()
    await answered(listens, seconds=5.0)
    await answered(listens)
    after = asyncio.get_running_loop().time()
    assert told[0] is not None
    left = 5.0 * 0.95
    assert before + left <= told[0] <= after + left
    assert told[1] is None


async def test_a_call_that_envoy_gives_up_is_counted() -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def waits(*_: object, **__: object) -> Tally:
        asked.set()
        await given_up.wait()
        raise AssertionError("never reached")

    authorization, metrics = service(waits)
    question = check_request("GET", URL, {"x-api-key": value_of("k1")})
    call = asyncio.create_task(authorization.answer(question.SerializeToString(), None))
    await asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert metrics.registry.get_sample_value("authz_checks_cancelled_total") == 1.0


async def test_a_process_works_on_max_in_flight_checks_and_refuses_one_more() -> None:
    """Two are in flight, the third is refused, and an answer makes room for the next one."""
    entered, full, release = [], asyncio.Event(), asyncio.Event()

    async def waits(charge: Charge) -> Tally:
        entered.append(charge)
        if len(entered) == 2:
            full.set()
        if len(entered) <= 2:
            await release.wait()
        return await admits(charge)

    authorization, _ = service(waits, max_in_flight=2)
    question = check_request("GET", URL, {"x-api-key": value_of("k1")}).SerializeToString()

    async def status() -> int:
        return read(pb.CheckResponse.FromString(await authorization.answer(question, None))).status

    calls = [asyncio.create_task(status()) for _ in range(2)]
    await asyncio.wait([asyncio.create_task(full.wait()), *calls], return_when=asyncio.FIRST_COMPLETED)
    assert [call.done() for call in calls] == [False, False]
    assert (authorization.in_flight, await status()) == (2, 503)
    release.set()
    assert await asyncio.gather(*calls) == [200, 200]
    assert (authorization.in_flight, await status()) == (0, 200)


async def test_without_redis_deny_answers_with_an_error_to_come_again() -> None:
    """The answer is a 503 with Retry-After, in `error_response`."""

    async def away(*_: object, **__: object) -> Tally:
        raise LimiterUnavailable("away")

    denied = resources(usage_plans=(plan(failure_policy=FailurePolicy.DENY),))
    answer, reason = await answered(away, changed=denied)
    assert (answer.status, answer.is_error, answer.headers["retry-after"]) == (503, True, "1")
    assert reason == "unavailable"


async def test_a_call_without_any_limit_is_answered() -> None:
    """The answer is not empty, although there is nothing to count."""
    unlimited = resources(apis=KEYLESS.apis, account=Account(ThrottleSettings()))
    answer, _ = await answered(message=check_request("GET", URL, {}), changed=unlimited)
    assert answer.status == 200


@pytest.mark.parametrize(("sample", "level"), [(0.0, "debug"), (1.0, "info")])
async def test_a_refusal_is_one_line_without_the_key(sample: float, level: str) -> None:
    """It names only the key's id, and at level info only a sample is logged."""
    authorization, _ = service(changed=resources(usage_plans=()), log_sample=sample)
    with capture_logs() as lines:
        question = check_request("GET", URL, {"x-api-key": value_of("k1")})
        await authorization.answer(question.SerializeToString(), None)
    [line] = lines
    assert (line["log_level"], line["reason"], line["key_id"]) == (level, "no_plan", "k1")
    assert value_of("k1") not in repr(line)

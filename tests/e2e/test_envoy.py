"""Verdicts, as a client of a real Envoy sees them."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.e2e.catalog import ORIGIN
from tests.e2e.stack import WRONG, Answer, Stack, items
from tests.support.builders import value_of

FORBIDDEN = (403, '{"message":"Forbidden"}')
NO_SUCH_METHOD = (403, '{"message":"Missing Authentication Token"}')
THROTTLED = (429, '{"message":"Too Many Requests"}')
EXCEEDED = (429, '{"message":"Limit Exceeded"}')


def assert_worded(answer: Answer, error_type: str) -> None:
    """The headers that AWS puts on every refusal, each once."""
    assert answer.headers.get_list("content-type") == ["application/json"]
    assert answer.headers.get_list("x-amzn-errortype") == [error_type]
    assert str(UUID(answer.headers["x-amzn-requestid"])) == answer.headers["x-amzn-requestid"]
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_a_good_key_reaches_the_upstream(shared: Stack) -> None:
    answer = shared.get("/prod/pets", "free")
    assert (answer.status, answer.path) == (200, "/prod/pets")


@pytest.mark.parametrize("key", ["", "disabled", "planless", "stageless"])
def test_a_key_that_opens_nothing_is_403(key: str, shared: Stack) -> None:
    answer = shared.get("/prod/pets", key)
    assert answer.refusal == FORBIDDEN
    assert_worded(answer, "ForbiddenException")


def test_an_unknown_key_is_403(shared: Stack) -> None:
    assert shared.get("/prod/pets", headers=[("x-api-key", WRONG)]).refusal == FORBIDDEN


def test_a_stage_that_the_plan_does_not_open_is_403(shared: Stack) -> None:
    assert shared.get("/beta/pets", "free").refusal == FORBIDDEN


def test_a_method_without_a_key_is_open(shared: Stack) -> None:
    assert shared.get("/prod/open").status == 200


def test_a_spent_throttle_is_429(shared: Stack) -> None:
    first, second = shared.get("/prod/pets", "slow-1"), shared.get("/prod/pets", "slow-1")
    assert (first.status, second.refusal) == (200, THROTTLED)
    assert_worded(second, "TooManyRequestsException")
    assert 0 < int(second.headers["retry-after"]) <= 1000


def test_a_spent_quota_is_429_in_other_words(shared: Stack) -> None:
    first, second = shared.get("/prod/pets", "once-1"), shared.get("/prod/pets", "once-1")
    assert (first.status, second.refusal) == (200, EXCEEDED)
    assert_worded(second, "LimitExceededException")
    assert 0 < int(second.headers["retry-after"]) <= 31 * 86400


def test_a_refusal_shows_its_limits_in_structured_fields(shared: Stack) -> None:
    """One item a layer, in order, each with its limit and the units left."""
    shared.get("/prod/pets", "slow-2")
    headers = shared.get("/prod/pets", "slow-2").headers
    [(plan, left), (account, _)] = items(headers["ratelimit"])
    [(_, policy), _] = items(headers["ratelimit-policy"])
    assert (plan, account) == ("plan_throttle", "account_throttle")
    assert (left["r"], policy) == (0, {"q": 1, "w": 1000})


def test_a_success_says_nothing_of_limits(shared: Stack) -> None:
    """Unless `rateLimitHeadersOnSuccess` is set."""
    headers = shared.get("/prod/pets", "both-1").headers
    assert not {"ratelimit", "ratelimit-policy", "retry-after", "x-amzn-requestid"} & set(headers)


def test_head_has_the_same_headers_and_no_body(shared: Stack) -> None:
    first = shared.request("HEAD", "/prod/any", "slow-head")
    second = shared.request("HEAD", "/prod/any", "slow-head")
    assert (first.status, second.refusal) == (200, (429, ""))
    assert second.headers["x-amzn-errortype"] == "TooManyRequestsException"
    assert second.headers["content-length"] == str(len(THROTTLED[1]))


def test_head_is_not_implied_by_get(shared: Stack) -> None:
    assert shared.request("HEAD", "/prod/pets", "free").status == 403


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/prod/none"), ("DELETE", "/prod/pets"), ("GET", "/prod"), ("GET", "/prod/")]
)
def test_a_method_that_does_not_exist_is_403_in_other_words(method: str, path: str, shared: Stack) -> None:
    """Also with a good key."""
    answer = shared.request(method, path, "free")
    assert answer.refusal == NO_SUCH_METHOD
    assert_worded(answer, "MissingAuthenticationTokenException")


@pytest.mark.parametrize("path", ["/nostage/pets", "/", "/pets"])
def test_an_unknown_stage_is_403(path: str, shared: Stack) -> None:
    assert shared.get(path, "free").refusal == FORBIDDEN


def test_an_unknown_host_is_403(shared: Stack) -> None:
    assert shared.get("/prod/pets", "free", host="elsewhere.test").refusal == FORBIDDEN


def test_a_base_path_leads_to_its_api(shared: Stack) -> None:
    """The upstream gets the path as it came."""
    answer = shared.get("/shop/pets", "free", host="shop.test:8443")
    assert (answer.status, answer.path) == (200, "/shop/pets")


def test_the_longest_base_path_wins(shared: Stack) -> None:
    """`shop/v2` leaves the stage to the path, so that `pets` is none there."""
    assert shared.get("/shop/v2/prod/pets", "free", host="shop.test").status == 200
    assert shared.get("/shop/v2/pets", "free", host="shop.test").refusal == FORBIDDEN


def test_a_custom_domain_answers_below_its_base_paths_only(shared: Stack) -> None:
    assert shared.get("/prod/pets", "free", host="shop.test").refusal == FORBIDDEN


def test_a_route_names_resource_and_method(shared: Stack) -> None:
    """Nothing is matched, and nothing removed from the path."""
    assert shared.request("POST", "/old-pets/whatever", "free", host="routed.test").status == 200
    assert shared.get("/gone", "free", host="routed.test").refusal == NO_SUCH_METHOD


def test_a_route_names_the_stage_against_its_host(shared: Stack) -> None:
    """Of the plan's stages beta is none; what the host says of prod holds elsewhere."""
    assert shared.get("/beta", "free", host="routed.test").refusal == FORBIDDEN
    assert shared.get("/pets", "free", host="routed.test").status == 200


def test_a_preflight_is_answered_without_a_check(shared: Stack) -> None:
    asked = [("origin", ORIGIN), ("access-control-request-method", "GET")]
    answer = shared.request("OPTIONS", "/prod/pets", headers=asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "x-api-key" in answer.headers["access-control-allow-headers"]


def test_a_browser_may_read_the_refusal(shared: Stack) -> None:
    answer = shared.get("/prod/pets", headers=[("origin", ORIGIN)])
    assert answer.refusal == FORBIDDEN
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "retry-after" in answer.headers["access-control-expose-headers"]


def test_a_gateway_response_has_the_owners_status_body_and_headers(shared: Stack) -> None:
    """With a status that Envoy has no name for."""
    caller = [("x-caller", "somebody")]
    shared.get("/prod/pets", "slow-3", host="worded.test")
    answer = shared.get("/prod/pets", "slow-3", host="worded.test", headers=caller)
    assert answer.refusal == (420, '{"m":"Too Many Requests"}')
    assert answer.headers.get_list("retry-after") == ["60"]
    assert (answer.headers["x-caller"], answer.headers["x-stage"]) == ("somebody", "prod")


def test_a_gateway_response_has_the_owners_media_type(shared: Stack) -> None:
    shared.get("/prod/pets", "once-2", host="worded.test")
    answer = shared.get("/prod/pets", "once-2", host="worded.test")
    assert answer.refusal == (429, "QUOTA_EXCEEDED of once-2")
    assert answer.headers["content-type"] == "text/plain"


def test_a_default_response_stands_in(shared: Stack) -> None:
    answer = shared.get("/prod/pets", host="worded.test")
    assert answer.refusal == (418, FORBIDDEN[1])
    assert answer.headers["x"] == "y"


def test_one_key_is_one_caller_on_all_its_stages(shared: Stack) -> None:
    """A unit spent on one API is spent on the next."""
    assert shared.get("/prod/pets", "once-3").status == 200
    assert shared.get("/prod/pets", "once-3", host="many.test").refusal == EXCEEDED


def test_two_keys_of_a_plan_are_two_callers(shared: Stack) -> None:
    assert [shared.get("/prod/pets", key).status for key in ("slow-4", "once-4")] == [200, 200]


def test_the_key_is_known_by_its_digest_alone(shared: Stack) -> None:
    """The key `free` stands in the file as `valueSha256`."""
    assert value_of("free") not in shared.config.read_text()
    assert shared.get("/prod/pets", "free").status == 200

"""The headers about limits in an answer: the profile `aws`, and headers on success."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.catalog import RESOURCES
from tests.e2e.stack import Stack, items, stack
from tests.support.servers import EchoServer, Host, RedisServer

OURS = {"ratelimit", "ratelimit-policy", "retry-after"}


@pytest.fixture(scope="module")
def like_aws(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    flags = ("--response-profile", "aws", "--rate-limit-headers-on-success", "true")
    with stack(RESOURCES, redis.url, echo.address, *flags, host=served_by) as it:
        yield it


@pytest.fixture(scope="module")
def talkative(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    with stack(RESOURCES, redis.url, echo.address, "--rate-limit-headers-on-success", "true", host=served_by) as it:
        yield it


@pytest.mark.parametrize(
    ("key", "body"),
    [("slow-1", '{"message":"Too Many Requests"}'), ("once-1", '{"message":"Limit Exceeded"}')],
)
def test_as_aws_answers(key: str, body: str, like_aws: Stack) -> None:
    """Neither the 200 nor the 429 has a header of ours."""
    first, second = like_aws.get("/prod/pets", key), like_aws.get("/prod/pets", key)
    assert (first.status, second.refusal) == (200, (429, body))
    assert not OURS & {*first.headers, *second.headers}
    assert {"x-amzn-requestid", "x-amzn-errortype"} < set(second.headers)


def test_an_owners_retry_after_stays_in_the_profile_aws(like_aws: Stack) -> None:
    like_aws.get("/prod/pets", "slow-2", host="worded.test")
    assert like_aws.get("/prod/pets", "slow-2", host="worded.test").headers["retry-after"] == "60"


def test_a_success_shows_the_units_left(talkative: Stack) -> None:
    """Each layer in order; the upstream's own headers stay."""
    headers = talkative.get("/prod/pets", "both-1").headers
    limits, policies = items(headers["ratelimit"]), items(headers["ratelimit-policy"])
    names = [name for name, _ in limits]
    assert names == [name for name, _ in policies] == ["plan_throttle", "plan_quota", "account_throttle"]
    assert [item["r"] for _, item in limits] == [6, 999, 4999]
    assert [policy["q"] for _, policy in policies] == [7, 1000, 5000]
    assert headers["content-type"] == "application/json"


def test_a_success_without_a_key_shows_only_the_shared_limits(talkative: Stack) -> None:
    [(name, _)] = items(talkative.get("/prod/open").headers["ratelimit"])
    assert name == "account_throttle"

"""`allowedSources`: the address that counts is the one that Envoy knows, whatever headers a client sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Headers, Stack, stack
from tests.support.builders import api, key, plan, resources
from tests.support.servers import EchoServer, Host, RedisServer, until
from tests.support.world import limited

FORBIDDEN = (403, '{"message":"Forbidden"}')
KEYS = (
    key("open"),
    key("home", allowed_sources=("127.0.0.0/8", "::1")),
    key("office", allowed_sources=("203.0.113.0/24", "2001:db8::/32")),
    key("once", allowed_sources=("203.0.113.7",)),
)
RESOURCES = resources(
    apis=(api(),),
    usage_plans=(plan(keys=("open", "home", "office")), plan("p2", keys=("once",), throttle=limited(0.0, 1))),
    api_keys=KEYS,
)
SPOOFS: Headers = [
    (name, "203.0.113.7")
    for name in ("x-authz-client-address", "x-envoy-external-address", "x-real-ip", "true-client-ip", "client-ip")
]


@pytest.fixture(scope="module")
def direct(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    """An Envoy that clients reach themselves, from 127.0.0.1."""
    with stack(RESOURCES, redis.url, echo.address, host=served_by) as it:
        yield it


@pytest.fixture(scope="module")
def behind(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    """An Envoy behind one proxy, at 127.0.0.1, which adds its client's address to x-forwarded-for."""
    with stack(RESOURCES, redis.url, echo.address, trusted_hops=1, host=served_by) as it:
        yield it


def forwarded(*addresses: str) -> Headers:
    return [("x-forwarded-for", ", ".join(addresses))]


@pytest.mark.parametrize(
    ("key_id", "headers", "status"),
    [
        ("open", [], 200),
        ("home", [], 200),
        ("office", [], 403),
        ("office", forwarded("203.0.113.7"), 403),
        ("office", forwarded("203.0.113.7", "203.0.113.8"), 403),
        ("office", [("forwarded", "for=203.0.113.7"), *forwarded("203.0.113.7")], 403),
        ("office", SPOOFS, 403),
        ("home", forwarded("203.0.113.7"), 200),
    ],
)
def test_a_direct_client_cannot_choose_its_address(direct: Stack, key_id: str, headers: Headers, status: int) -> None:
    answer = direct.get("/prod/pets", key_id, headers=headers)
    assert answer.refusal == FORBIDDEN if status == 403 else answer.status == status


@pytest.mark.parametrize(
    ("key_id", "headers", "status"),
    [
        ("open", forwarded("198.51.100.1"), 200),
        ("office", forwarded("203.0.113.7"), 200),
        ("office", forwarded("2001:db8::7"), 200),
        ("office", forwarded("::ffff:203.0.113.7"), 200),
        ("office", forwarded("198.51.100.1"), 403),
        ("office", forwarded("203.0.113.7", "198.51.100.1"), 403),
        ("office", forwarded("203.0.113.7", "203.0.113.8", "198.51.100.1"), 403),
        ("office", forwarded("198.51.100.1", "203.0.113.7"), 200),
        ("office", [*forwarded("203.0.113.7"), *forwarded("198.51.100.1")], 403),
        ("office", [*SPOOFS, *forwarded("198.51.100.1")], 403),
        ("home", forwarded("203.0.113.7"), 403),
        ("home", [], 200),
        ("office", [], 403),
        ("office", forwarded("203.0.113.7", "unreadable"), 403),
    ],
)
def test_behind_a_proxy_the_address_that_the_proxy_added_counts(
    behind: Stack, key_id: str, headers: Headers, status: int
) -> None:
    """What a client wrote before it does not. Without a readable one, the proxy's own address counts."""
    answer = behind.get("/prod/pets", key_id, headers=headers)
    assert answer.refusal == FORBIDDEN if status == 403 else answer.status == status


def test_the_upstream_does_not_see_the_header_that_carries_the_address(behind: Stack) -> None:
    for headers in (forwarded("203.0.113.7"), [*SPOOFS, *forwarded("203.0.113.7")]):
        seen = behind.get("/prod/pets", "office", headers=headers).upstream
        assert "x-authz-client-address" not in seen


def test_without_trusted_hops_a_proxy_hides_its_clients(direct: Stack) -> None:
    """The proxy's address counts then: its clients are refused, or all of them are let in."""
    assert direct.get("/prod/pets", "office", headers=forwarded("203.0.113.7")).status == 403
    assert direct.get("/prod/pets", "home", headers=forwarded("198.51.100.1")).status == 200


def test_with_more_hops_than_proxies_a_client_chooses_its_address(redis: RedisServer, echo: EchoServer) -> None:
    """Why the number has to be right: here two are trusted, and there is one."""
    with stack(RESOURCES, redis.url, echo.address, trusted_hops=2) as it:
        spoofed = forwarded("203.0.113.7", "198.51.100.1")
        assert it.get("/prod/pets", "office", headers=spoofed).status == 200


def test_a_refused_call_costs_nothing(behind: Stack) -> None:
    elsewhere = [behind.get("/prod/pets", "once", headers=forwarded("198.51.100.1")).status for _ in range(3)]
    at_home = [behind.get("/prod/pets", "once", headers=forwarded("203.0.113.7")).status for _ in range(2)]
    assert (elsewhere, at_home) == ([403] * 3, [200, 429])


def test_the_access_log_tells_the_reason_and_the_address(behind: Stack) -> None:
    behind.get("/prod/pets", "office", headers=forwarded("198.51.100.77"))
    until(lambda: "198.51.100.77" in str(behind.access_log()), "the access log lacks the refusal")
    [told] = [line["authz"] for line in behind.access_log() if "198.51.100.77" in str(line)]
    assert (told["reason"], told["key_id"], told["source"]) == ("source_not_allowed", "office", "198.51.100.77")

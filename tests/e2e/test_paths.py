"""Spellings of a path: what authz decides about is what the upstream gets, and none leads past a check."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.catalog import RESOURCES
from tests.e2e.stack import Answer, Stack, http_manager, stack
from tests.support.builders import value_of
from tests.support.servers import EchoServer, RedisServer

KEY = f"x-api-key: {value_of('free')}"
HOST = "Host: a1.test"


def ask(stack: Stack, target: str, *lines: str) -> Answer:
    return stack.raw(target, *(lines or (HOST, KEY)))


@pytest.mark.parametrize(
    ("sent", "reached"),
    [
        ("/prod/pets/", "/prod/pets/"),
        ("/prod//pets", "/prod/pets"),
        ("//prod///pets", "/prod/pets"),
        ("/prod/./pets", "/prod/pets"),
        ("/prod/none/../pets", "/prod/pets"),
        ("/../../prod/pets", "/prod/pets"),
        ("/prod/open/%2e%2e/pets", "/prod/pets"),
        ("/prod/open\\..\\pets", "/prod/pets"),
        ("/prod/pets?a=/../none&b=%2F", "/prod/pets?a=/../none&b=%2F"),
        ("/%70rod/p%65ts", "/prod/pets"),
        ("/prod/pets/a%20b", "/prod/pets/a%20b"),
        ("http://a1.test/prod/pets", "/prod/pets"),
    ],
)
def test_a_path_is_brought_into_one_form(sent: str, reached: str, shared: Stack) -> None:
    answer = ask(shared, sent)
    assert (answer.status, answer.path) == (200, reached)


@pytest.mark.parametrize(
    "target",
    [
        "/prod/open/../pets",
        "/prod/open/%2e%2e/pets",
        "/prod/open/%2E%2E/pets",
        "/prod/open\\..\\pets",
        "/prod//open/..//pets",
        "/prod/open/%252e%252e/pets",
        "/prod/open;/../pets",
    ],
)
def test_an_open_method_is_no_way_to_one_that_requires_a_key(target: str, shared: Stack) -> None:
    assert ask(shared, target, HOST).status == 403


@pytest.mark.parametrize(
    "target", ["/prod/pets%2F7", "/prod%2fpets", "/prod/open%2F..%2Fpets", "/prod/open%5c..%5cpets"]
)
def test_an_escaped_slash_is_sent_back_to_be_spelt_out(target: str, shared: Stack) -> None:
    answer = ask(shared, target)
    assert answer.status == 307
    assert "%2" not in answer.headers["location"]


@pytest.mark.parametrize("target", ["/prod/none", "/prod/pets/7/8", "/prod/PETS", "/prod/pets/7/%252e%252e"])
def test_a_path_that_is_no_method_is_refused(target: str, shared: Stack) -> None:
    assert ask(shared, target).refusal == (403, '{"message":"Missing Authentication Token"}')


@pytest.mark.parametrize("target", ["/prod/pets/%00", "/prod/p\xe9ts", "/prod/pets#x", "*", "a1.test:443"])
def test_a_malformed_path_gets_no_further_than_envoy(target: str, shared: Stack) -> None:
    assert ask(shared, target).status in (400, 404)


@pytest.mark.parametrize(
    "target",
    [
        "/prod/open/%2e%2e;/pets",
        "/prod/open/.%2e;/pets",
        "/prod/open/%2e.;x=1/pets",
        "/prod/any/%2e%2e;/%2e%2e;/beta/pets",
    ],
)
@pytest.mark.parametrize("lines", [(HOST,), (HOST, KEY)])
def test_dots_that_envoy_leaves_are_refused_with_or_without_a_key(
    target: str, lines: tuple[str, ...], shared: Stack
) -> None:
    """Servlet containers take off what follows the semicolon, and resolve the dots."""
    assert ask(shared, target, *lines).refusal == (403, '{"message":"Missing Authentication Token"}')


@pytest.mark.parametrize("target", ["/PROD/pets", "/prod;v=1/pets", "/%2570rod/pets"])
def test_another_spelling_of_a_stage_is_none(target: str, shared: Stack) -> None:
    assert ask(shared, target).refusal == (403, '{"message":"Forbidden"}')


def test_a_tunnel_is_refused_as_no_method(redis: RedisServer, echo: EchoServer) -> None:
    """Where Envoy has a route for CONNECT it asks, and names no path."""

    def patch(envoy_config: Any) -> None:
        manager = http_manager(envoy_config)
        manager["upgrade_configs"] = [{"upgrade_type": "CONNECT"}]
        tunnel = {"match": {"connect_matcher": {}}, "route": {"cluster": "upstream"}}
        manager["route_config"]["virtual_hosts"][-1]["routes"].insert(0, tunnel)

    with stack(RESOURCES, redis.url, echo.address, patch=patch) as it:
        answers = [
            it.raw("elsewhere.test:443", "Host: elsewhere.test:443", *lines, method="CONNECT") for lines in ((), (KEY,))
        ]
        assert [answer.refusal for answer in answers] == [(403, '{"message":"Missing Authentication Token"}')] * 2
        assert "retry-after" not in answers[0].headers


def test_the_host_of_an_absolute_target_counts(shared: Stack) -> None:
    """What Envoy routes on is what authz decides about."""
    answer = ask(shared, "http://shop.test/shop/pets", HOST, KEY)
    assert (answer.status, answer.upstream["host"]) == (200, "shop.test")
    assert ask(shared, "http://elsewhere.test/prod/pets", HOST, KEY).status == 403


@pytest.mark.parametrize("lines", [("Host: A1.TEST", KEY), ("Host: a1.test:8443", KEY), ("Host: a1.test.", KEY)])
def test_a_host_is_known_in_any_spelling(lines: tuple[str, ...], shared: Stack) -> None:
    assert ask(shared, "/prod/pets", *lines).status == 200

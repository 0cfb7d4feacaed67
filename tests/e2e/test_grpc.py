"""A gRPC caller, through Envoy's HTTP/2: a refusal is a status that its library understands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.e2e.catalog import ORIGIN, RESOURCES
from tests.e2e.stack import WRONG, Stack, http_manager, stack
from tests.support.builders import value_of
from tests.support.servers import EchoServer, RedisServer


@pytest.fixture(scope="module")
def channel(shared: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared.address, options=[("grpc.default_authority", "rpc.test")]) as it:
        yield it


def refused(channel: grpc.Channel, key: str, method: str = "/pets.v1.Pets/List") -> grpc.RpcError:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", metadata=(("x-api-key", key),) if key else (), timeout=30)
    return raised.value


def told(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    assert isinstance(error, grpc.Call)
    return error.code(), error.details()


@pytest.mark.parametrize("key", ["", WRONG], ids=["none", "unknown"])
def test_a_bad_key_is_permission_denied(key: str, channel: grpc.Channel) -> None:
    assert told(refused(channel, key)) == (grpc.StatusCode.PERMISSION_DENIED, "Forbidden")


def test_a_spent_throttle_is_resource_exhausted(channel: grpc.Channel) -> None:
    """Not UNAVAILABLE, which clients repeat at once. The echo upstream, no gRPC server, answers the first."""
    admitted, over = (refused(channel, value_of("slow-rpc")) for _ in range(2))
    assert told(admitted)[0] is not grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told(over) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too Many Requests")


def test_a_spent_quota_says_when_to_come_back(channel: grpc.Channel) -> None:
    _, over = (refused(channel, value_of("once-rpc")) for _ in range(2))
    assert isinstance(over, grpc.Call)
    assert told(over) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Limit Exceeded")
    assert "retry-after" in {name for name, _ in (*over.initial_metadata(), *over.trailing_metadata())}


# --- gRPC-Web -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(redis: RedisServer, echo: EchoServer) -> Iterator[Stack]:
    """An Envoy that translates gRPC-Web before it asks."""

    def patch(envoy_config: Any) -> None:
        kind = "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"
        it = {"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": kind}}
        http_manager(envoy_config)["http_filters"].insert(1, it)

    with stack(RESOURCES, redis.url, echo.address, cors=(ORIGIN,), patch=patch) as it:
        yield it


@pytest.mark.parametrize(
    "content_type", ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"]
)
@pytest.mark.parametrize(
    ("key", "times", "status", "message"),
    [
        ("", 1, "7", "Forbidden"),
        ("slow-rpc", 2, "8", "Too Many Requests"),
        ("once-rpc", 2, "8", "Limit Exceeded"),
    ],
)
def test_a_browser_reads_the_same_status(
    content_type: str, key: str, times: int, status: str, message: str, web: Stack
) -> None:
    headers = [("content-type", content_type), ("x-grpc-web", "1"), ("origin", ORIGIN)]
    for _ in range(times):
        answer = web.request("POST", "/pets.v1.Pets/List", key, host="rpc.test", headers=headers)
    assert (answer.status, answer.headers["grpc-status"], answer.headers["grpc-message"]) == (200, status, message)
    assert answer.headers["content-type"].startswith("application/grpc-web")
    assert answer.body == ""
    exposed = answer.headers["access-control-expose-headers"].split(",")
    assert {"grpc-status", "grpc-message"} <= {*exposed}


def test_a_browser_may_send_what_grpc_web_needs(web: Stack) -> None:
    asks = [("origin", ORIGIN), ("access-control-request-method", "POST")]
    answer = web.request("OPTIONS", "/pets.v1.Pets/List", host="rpc.test", headers=asks)
    assert {"x-grpc-web", "x-user-agent", "grpc-timeout"} <= {
        *answer.headers["access-control-allow-headers"].split(",")
    }

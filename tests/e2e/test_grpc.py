"""A gRPC caller, through Envoy's HTTP/2: a refusal is a status that its library understands."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.builders import value_of
from tests.e2e.stack import WRONG, Stack


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

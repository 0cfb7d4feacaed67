"""Fixtures: one Redis and one upstream for all, and the stack that most tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.catalog import ORIGIN, RESOURCES, with_extras
from tests.e2e.stack import Stack, ext_authz, stack
from tests.support.hosts import HOSTS
from tests.support.servers import EchoServer, Host, RedisServer, echo_server, redis_server


@pytest.fixture(scope="session", params=HOSTS)
def served_by(request: pytest.FixtureRequest) -> Host:
    """The gRPC server: each test of a stack runs with both."""
    host: Host = request.param
    return host


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """For stacks that leave it running; each has an account, and so keys, of its own."""
    with redis_server(unix=True) as server:
        yield server


@pytest.fixture(scope="session")
def echo() -> Iterator[EchoServer]:
    with echo_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    """The whole catalog of these tests, in the profile `standard`."""
    with stack(RESOURCES, redis.url, echo.address, cors=(ORIGIN,), patch=with_extras, host=served_by) as it:
        yield it


@pytest.fixture(scope="module")
def text_headers(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    """A stack whose Envoy sends headers as text; as bytes it sends them where a key may be in a cookie."""

    def patch(envoy_config: Any) -> None:
        assert ext_authz(envoy_config).pop("encode_raw_headers")

    with stack(RESOURCES, redis.url, echo.address, patch=patch, host=served_by) as it:
        yield it

"""Fixtures: a real Redis of each kind for the session, a pinned clock, and a limiter on both."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import pytest
import structlog
from hypothesis import HealthCheck, settings

from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter
from tests.support.limiters import running_limiter
from tests.support.servers import Kind, RedisServer, kinds, redis_server

# No test depends on the speed of the machine; Hypothesis calls a machine slow at a fifth of a second. Its check of
# fixtures is off because a property's server and its pinned clock serve all examples, each with an account of its own.
settings.register_profile(
    "random",
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
# In CI each run draws the same examples, so that a change cannot fail by chance; at night there are more of them.
settings.register_profile("ci", settings.get_profile("random"), derandomize=True, print_blob=True)
settings.register_profile("nightly", settings.get_profile("random"), max_examples=3_000, print_blob=True)
settings.load_profile(os.environ.get("AUTHZ_TEST_EXAMPLES", "random"))


@dataclass
class Clock:
    """A pinned clock, in µs of Unix time; call it to read it."""

    now: int

    def __call__(self) -> int:
        return self.now

    def at(self, moment: str) -> None:
        """Set it: `2026-03-04T10:00:00Z`."""
        self.now = micros(moment)

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


def micros(moment: str) -> int:
    """A moment in ISO form, as µs of Unix time."""
    return round(datetime.fromisoformat(moment).timestamp() * 1_000_000)


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """A command that ran in this process has configured its logs; the next test meets the defaults again."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", params=kinds())
def redis_kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="session")
def shared_redis(redis_kind: Kind) -> Iterator[RedisServer]:
    """One server for all tests that leave it running; each test has an account, and so keys, of its own."""
    with redis_server(redis_kind, unix=True) as server:
        yield server


@pytest.fixture
def account() -> str:
    return uuid4().hex


@pytest.fixture
def clock() -> Clock:
    """Wednesday, 4 March 2026, 10:00 UTC."""
    return Clock(micros("2026-03-04T10:00:00Z"))


@pytest.fixture
async def limiter(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[RedisLimiter]:
    """A limiter on the shared Redis whose time is the pinned clock's."""
    async with running_limiter(shared_redis.url, account, clock=RedisClock(clock)) as limiter:
        yield limiter

"""Random frames and random CheckRequests at the gRPC port, in short; `python -m tests.fuzz` runs more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import yaml

from tests.fuzz import checkrequests, frames
from tests.support.hosts import HOSTS
from tests.support.servers import AuthzServer, Host, authz_serve, redis_server

SEQUENCES = int(os.environ.get("AUTHZ_TEST_FUZZ_FRAMES", "150"))
MESSAGES = int(os.environ.get("AUTHZ_TEST_FUZZ_MESSAGES", "5000"))
SECONDS = 1_800  # for a long run, or a busy machine


@pytest.fixture(scope="module", params=HOSTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthzServer]:
    config = tmp_path_factory.mktemp("fuzz") / "plans.yaml"
    config.write_text(yaml.safe_dump(checkrequests.CATALOG))
    with redis_server() as redis:
        flags = ("--redis-url", redis.url, "--drain-seconds", "0", "--redis-timeout-ms", "2000")
        with authz_serve(Path(config), *flags, host=cast("Host", request.param)) as server:
            yield server


@pytest.mark.timeout(SECONDS)
def test_the_port_answers_after_any_frames(server: AuthzServer) -> None:
    frames.run(server, range(SEQUENCES))


@pytest.mark.timeout(SECONDS)
def test_no_message_passes_without_a_key_and_none_is_a_fault(server: AuthzServer) -> None:
    outcome = checkrequests.run(server, seed=1, count=MESSAGES)
    assert outcome.counts["allowed"]
    assert outcome.counts["denied"]

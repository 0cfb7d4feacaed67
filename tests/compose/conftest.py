"""The stack of docker-compose.yml, once under each Compose. Only `make test-compose` collects these tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import PROGRAMS, Project, clone, project

CACHE = os.environ.get("AUTHZ_TEST_COMPOSE", "")

# Without an engine and its images there is nothing to collect; a skip would be a failure in CI.
collect_ignore_glob = [] if CACHE else ["test_*.py"]


@pytest.fixture(scope="session", params=PROGRAMS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Everything is up and healthy; what a test changes, it puts back."""
    with project(clone(tmp_path_factory.mktemp("clone"), Path(CACHE)), PROGRAMS[request.param](CACHE)) as it:
        it.compose("build")
        it.up()
        it.sign_in()
        yield it


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    return clone(tmp_path / "clone", Path(CACHE))


@pytest.fixture(autouse=True, scope="session")
def no_line_a_request() -> None:
    """What tests log is for the reader of CI's log."""
    for name in ("httpx", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)

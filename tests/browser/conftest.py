"""Fixtures: one browser, and one system, for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.world import World
from tests.browser.world import world as running
from tests.support.browser import chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="package")
def world(browser: Browser) -> Iterator[World]:
    with running(browser) as it:
        yield it


@pytest.fixture(params=[True, False], ids=["scripts", "no-scripts"])
def scripts(request: pytest.FixtureRequest) -> bool:
    """Whether the browser runs JavaScript."""
    on: bool = request.param
    return on

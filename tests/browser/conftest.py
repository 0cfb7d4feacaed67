"""Fixtures: one browser, and one system, for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from authz.control.console.app import VIEWS
from authz.control.portal.app import MODULES
from tests.browser.crawl import Site, Views, crawl
from tests.browser.furniture import Furniture, furnish
from tests.browser.world import World
from tests.browser.world import world as running
from tests.support.browser import chromium

PORTAL = Views(
    "/portal", (*(view.path for module in MODULES for view in module.VIEWS if view.method == "GET"), "/errors")
)
CONSOLE = Views("/console", tuple(view.path for view in VIEWS if view.method == "GET"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="Keep a picture of each page in this folder")


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


@pytest.fixture(scope="package")
def furniture(world: World) -> Furniture:
    """Plans, customers and keys in the world, some of them used up, some with awkward names."""
    return furnish(world)


@pytest.fixture(scope="package")
def console(world: World, furniture: Furniture) -> Site:
    """The pages of the console, found by its links."""
    with world.owner() as tab:
        state = tab.page.context.storage_state()
    return crawl(world.url, state, CONSOLE, furniture.paths())


@pytest.fixture(scope="package")
def customer(world: World, furniture: Furniture) -> Any:
    """The browser's state in a session of the customer of the furniture."""
    with world.customer(furniture.acme) as tab:
        return tab.page.context.storage_state()


@pytest.fixture(scope="package")
def portal(world: World, customer: Any) -> Site:
    """The pages of the portal, found by its links."""
    return crawl(world.url, customer, PORTAL)

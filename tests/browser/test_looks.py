"""How each page looks: to axe-core, at the width of a phone, in light and dark; and in pictures, for a person."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.crawl import Site
from tests.browser.world import World
from tests.support.browser import LOOKS, Look, Tab


@pytest.fixture(params=LOOKS, ids=[look.name for look in LOOKS])
def look(request: pytest.FixtureRequest) -> Look:
    it: Look = request.param
    return it


def test_links_lead_to_every_page(console: Site, portal: Site) -> None:
    assert [*console.unmet(), *portal.unmet()] == []


def test_no_link_is_broken(console: Site, portal: Site) -> None:
    answers = console.answers | portal.answers
    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200} == {}


@pytest.mark.parametrize(
    "path", ["/console/sign-in", "/console/link?token=unknown", "/portal/sign-in", "/portal/link?token=unknown"]
)
def test_pages_before_signing_in_are_accessible_and_fit(
    world: World, look: Look, path: str, request: pytest.FixtureRequest
) -> None:
    with world.stranger(look=look) as tab:
        tab.expect(403).open(path)
        _picture(request, tab, look, path)
        assert faults(tab) == []


def test_every_page_of_the_console_is_accessible_and_fits(
    world: World, console: Site, look: Look, request: pytest.FixtureRequest
) -> None:
    with world.owner(look=look) as tab:
        assert _all_faults(tab, console, look, request) == {}


def test_every_page_of_the_portal_is_accessible_and_fits(
    world: World, portal: Site, customer: Any, look: Look, request: pytest.FixtureRequest
) -> None:
    with world.customer("", look=look, state=customer) as tab:
        assert _all_faults(tab, portal, look, request) == {}


def _all_faults(tab: Tab, site: Site, look: Look, request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """The faults of the pages that have some, by view."""
    found = {}
    for view, path in site.pages().items():
        tab.open(path)
        _picture(request, tab, look, f"{site.views.root}{view}")
        found[view] = faults(tab)
    return {view: several for view, several in found.items() if several}


def faults(tab: Tab) -> list[str]:
    wider = tab.wider_by()
    return [*tab.grave(), *([f"wider than the window by {wider} pixels"] if wider else [])]


def _picture(request: pytest.FixtureRequest, tab: Tab, look: Look, name: str) -> None:
    folder: Path | None = request.config.getoption("--screenshots")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = re.sub(r"[^\w-]+", "-", name).strip("-")
        tab.page.screenshot(path=folder / f"{file}-{look.name}.png", full_page=True)

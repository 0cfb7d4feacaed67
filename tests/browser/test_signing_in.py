"""Signing in to the console, and out."""

from __future__ import annotations

from tests.browser.world import World
from tests.support.browser import tab as tab_in


def test_a_link_signs_in_once(world: World, scripts: bool) -> None:
    link = world.link()
    with world.stranger(scripts=scripts) as tab:
        tab.open(link).press("Sign in")
        assert tab.path == "/console"
        assert "Overview" in tab.text
    with world.stranger(scripts=scripts) as tab:
        tab.expect(403).open(link)
        assert "used already" in tab.text


def test_a_token_signs_in_and_leads_back_to_the_page_that_was_wanted(world: World, scripts: bool) -> None:
    token = world.token()
    with world.stranger(scripts=scripts) as tab:
        tab.open("/console/plans")
        assert tab.path.startswith("/console/sign-in")
        tab.expect(403).fill("Bearer token", "wrong").press("Sign in")
        assert "No credential has this token" in tab.text
        tab.fill("Bearer token", token).press("Sign in")
        assert tab.path == "/console/plans"


def test_signing_out_ends_the_session(world: World, scripts: bool) -> None:
    with world.stranger(scripts=scripts) as tab:
        tab.open(world.link()).press("Sign in")
        kept = tab.page.context.cookies()
        tab.press("Sign out")
        tab.page.context.add_cookies([{**cookie} for cookie in kept])  # type: ignore[typeddict-item]
        tab.open("/console/plans")
        assert tab.path.startswith("/console/sign-in")


def test_the_pages_show_times_in_the_browsers_zone(world: World) -> None:
    with tab_in(world.browser, world.url, zone="Europe/Helsinki") as tab:
        tab.open(world.link()).press("Sign in")
        assert tab.page.get_by_label("Times in").input_value() == "Europe/Helsinki"

"""Steps of the stories: the forms that a person fills in."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass

from playwright.sync_api import Page

from tests.support.browser import Tab
from tests.support.servers import until


@dataclass(frozen=True, slots=True)
class Shown:
    """A key that a page has just made: the one time that its value is shown."""

    key_id: str
    value: str
    curl: str


def until_shows(tab: Tab, words: str, path: str | None = None) -> None:
    """Open a page again until it shows the words: sidecars count refused calls a moment later."""
    at = path or tab.path
    until(lambda: words in tab.open(at).text, f"{at} does not show {words!r}")


def make_plan(tab: Tab, name: str, api: str, *, limit: int, mode: str = "enforce", rate: str = "") -> str:
    """Fill in the form of a new plan with a quota a day for a stage. Returns the plan's id."""
    tab.open("/console/plans").follow("New plan").fill("Name", name).fill("Mode", mode)
    if rate:
        tab.fill("Rate", rate).fill("Burst", rate)
    tab.fill("Period", "DAY").fill("Limit", str(limit))
    tab.fill("Another stage", f"{api}/prod").press("Add the stage").press("Make the plan")
    assert name in tab.text
    found = re.match(r"/console/plans/(\w+)", tab.path)
    assert found, tab.path
    return found[1]


def make_key(tab: Tab, name: str, plan: str, customer: str = "") -> Shown:
    """Make a key on the page of its plan, and read the value of the key."""
    tab.open(f"/console/plans/{plan}").follow("New key in this plan").fill("Name", name)
    if customer:
        tab.fill("Customer's id", customer)
    tab.press("Make the key")
    return shown(tab.page)


def shown(page: Page) -> Shown:
    """Read the value that this page shows, and no other."""
    found = re.search(r"/keys/id/([^/?]+)", page.url)
    assert found, page.url
    return Shown(found[1], shown_value(page), page.locator("pre#curl").inner_text())


def shown_value(page: Page) -> str:
    return page.locator(".secret").first.inner_text().strip()


def run(line: str) -> int:
    """The status that a pasted curl line gets."""
    words = [*shlex.split(line), "--silent", "--noproxy", "*"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout.split()[1])

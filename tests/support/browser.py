"""A real browser for the pages: Debian's Chromium, driven by Playwright.

A tab notes each violation of the content security policy, error in the browser's console, request that failed, and
answer of 400 and above. `Tab.check` fails on what a test has not expected.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Literal

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    sync_playwright,
)

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
DEADLINE_MS: Final = 120_000.0  # for a busy machine
AXE: Final = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
ABORTED: Final = "net::ERR_ABORTED"  # by the browser: a download, or a request of a page that was left
GRAVE: Final = frozenset({"serious", "critical"})

Colours = Literal["light", "dark"]


@dataclass(frozen=True, slots=True)
class Look:
    """The window and the colours in which a page is looked at."""

    name: str
    width: int
    height: int
    colours: Colours


LOOKS: Final = (
    Look("desktop-light", 1280, 900, "light"),
    Look("desktop-dark", 1280, 900, "dark"),
    Look("phone-light", 390, 844, "light"),
    Look("phone-dark", 390, 844, "dark"),
)


def chromium_binary() -> str:
    """The path of the browser. Skips the test without one; where AUTHZ_TEST_BROWSER is `required`, fails it."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        assert os.environ.get("AUTHZ_TEST_BROWSER") != "required", "chromium is not on PATH"
        pytest.skip("chromium is not on PATH")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Its sandbox is off: root has none, and it opens only pages of ours."""
    binary = chromium_binary()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=binary, timeout=DEADLINE_MS, args=["--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """A tab of a browser. Paths are below `url`; `expected` are the statuses of 400 and above that a test provokes."""

    page: Page
    url: str
    expected: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(DEADLINE_MS)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(f"{self.page.url}: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.page.on("dialog", lambda dialog: dialog.accept())

    def open(self, path: str) -> Tab:
        """Go to a path of the site, or to a whole URL."""
        self.page.goto(path if path.startswith("http") else self.url + path)
        return self

    @property
    def path(self) -> str:
        return self.page.url.removeprefix(self.url).partition("#")[0]  # with it, a browser that is there loads nothing

    @property
    def main(self) -> Locator:
        return self.page.locator("#main")

    @property
    def text(self) -> str:
        """The text of the page's content."""
        return self.main.inner_text()

    def follow(self, name: str, exact: bool = True) -> Tab:
        """Click the first link of this name, and wait for its page."""
        self.page.get_by_role("link", name=name, exact=exact).first.click()
        self.page.wait_for_load_state()
        return self

    def fill(self, label: str, value: str) -> Tab:
        """Fill the field with this label, or choose the option of this label or value."""
        found = self.page.get_by_label(label, exact=True).first
        if found.evaluate("each => each.tagName") == "SELECT":
            found.select_option(value)
        else:
            found.fill(value)
        return self

    def press(self, name: str, exact: bool = True) -> Tab:
        """Press the first button of this name, and wait for the page that follows."""
        self.page.get_by_role("button", name=name, exact=exact).first.click()
        self.page.wait_for_load_state()
        return self

    def expect(self, *statuses: int) -> Tab:
        self.expected |= set(statuses)
        return self

    def check(self) -> None:
        """Fail on what the browser has reported so far."""
        assert self.problems == []

    # --- looking closer ---

    def grave(self) -> list[str]:
        """What axe-core finds on this page and calls serious or critical: the rule, and the elements."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [_told(each) for each in found["violations"] if each["impact"] in GRAVE]

    def wider_by(self) -> int:
        """The pixels by which the page is wider than its window: 0 if it scrolls up and down only."""
        wide: int = self.page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"
        )
        return max(0, wide)

    def links(self) -> list[str]:
        """The paths below the site's root to which this page links, without fragments."""
        hrefs: list[str] = self.page.eval_on_selector_all("a[href]", "all => all.map(each => each.href.split('#')[0])")
        return [href.removeprefix(self.url) for href in hrefs if href.startswith(f"{self.url}/")]

    def _said(self, message: ConsoleMessage) -> None:
        # `_answered` judges answers by their status.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.problems.append(f"{self.page.url}: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure != ABORTED:
            self.problems.append(f"{request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.problems.append(f"{response.request.method} {response.url}: {response.status}")


def _told(violation: dict[str, Any]) -> str:
    nodes = "; ".join(f"{each['html'][:200]} ({each['failureSummary']})" for each in violation["nodes"])
    return f"{violation['id']} ({violation['impact']}): {nodes}"


@contextmanager
def tab(
    browser: Browser,
    url: str,
    *,
    scripts: bool = True,
    look: Look = LOOKS[0],
    state: Any = None,
    zone: str = "UTC",
) -> Iterator[Tab]:
    """A tab in a context of its own, with the cookies of `state`. Checks what the browser reported when it closes."""
    context = _context(browser, scripts, look, state, zone)
    try:
        it = Tab(context.new_page(), url)
        yield it
        it.check()
    finally:
        context.close()


def _context(browser: Browser, scripts: bool, look: Look, state: Any, zone: str) -> BrowserContext:
    context = browser.new_context(
        java_script_enabled=scripts,
        viewport={"width": look.width, "height": look.height},
        color_scheme=look.colours,
        storage_state=state,
        timezone_id=zone,
        locale="en-GB",
    )
    if scripts:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    return context

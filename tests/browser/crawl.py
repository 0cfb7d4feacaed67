"""Finds the pages of a site by its links, as a person would who clicks everything."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from tests.e2e.stack import TIMEOUT_SECONDS

HREF: Final = re.compile(r'<a\b[^>]*\bhref="([^"#]+)')
MAX_PAGES: Final = 400
OF_A_VIEW: Final = 3  # pages of one view that are looked at: lists have many links to the same kind of page


@dataclass(frozen=True, slots=True)
class Views:
    """The paths of the GET views of a site, as patterns."""

    root: str
    paths: tuple[str, ...]

    def of(self, path: str) -> str | None:
        """The pattern that a path belongs to. Fixed words go before names."""
        found = urlsplit(path).path.removeprefix(self.root)
        fits = [pattern for pattern in self.paths if _regex(pattern).fullmatch(found)]
        return min(fits, key=lambda pattern: pattern.count("{"), default=None)


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+(:path)?\\}", lambda found: ".+" if found[1] else "[^/]+", re.escape(pattern)))


@dataclass
class Site:
    """The answers of a site's pages, by path."""

    views: Views
    answers: dict[str, httpx.Response] = field(default_factory=dict)

    def unmet(self) -> list[str]:
        """The views to which no link led."""
        met = {self.views.of(path) for path in self.answers}
        return [f"{self.views.root}{pattern}" for pattern in self.views.paths if pattern not in met]

    def pages(self) -> dict[str, str]:
        """A path of each view that answers with HTML: the one with the longest page."""
        best: dict[str, tuple[int, str]] = {}
        for path, answer in self.answers.items():
            view = self.views.of(path)
            if view is not None and "html" in answer.headers.get("content-type", ""):
                best[view] = max(best.get(view, (0, "")), (len(answer.text), path))
        return {view: path for view, (_, path) in sorted(best.items())}


def crawl(url: str, state: Any, views: Views, start: Iterable[str] = ()) -> Site:
    """Follow all links below the site's root, with the cookies of a browser. At most a few pages of each view."""
    cookies = {each["name"]: each["value"] for each in state["cookies"]} if state else {}
    site, seen = Site(views), dict[str | None, int]()
    waiting = [views.root, *start]
    with httpx.Client(base_url=url, cookies=cookies, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        while waiting and len(site.answers) < MAX_PAGES:
            path = waiting.pop(0)
            view = views.of(path)
            seen[view] = seen.get(view, 0) + 1
            if path in site.answers or seen[view] > OF_A_VIEW:
                continue
            site.answers[path] = answer = client.get(path)
            waiting += [each for each in _links(answer, views.root) if each not in site.answers]
    return site


def _links(answer: httpx.Response, root: str) -> Iterator[str]:
    if "html" not in answer.headers.get("content-type", ""):
        return
    for href in map(html.unescape, HREF.findall(answer.text)):
        path = answer.url.join(href).raw_path.decode()
        if path == root or path.startswith((f"{root}/", f"{root}?")):
            yield path

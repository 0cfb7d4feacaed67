"""What zensical's strict build does not check: the menu, raw links, images, and Markdown outside docs/.

`python -m tests.site FOLDER` checks the site that was built there, and the links of the Markdown files beside docs/.
Standard output names each mistake; exit status 1 if there is one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
NOT_FETCHED = {"canonical", "prev", "next"}  # what a <link> may be besides
NOT_RENDERED = {
    '<pre class="mermaid">': "a browser fetches Mermaid from another host: draw an SVG in docs/img",
    **{f"[!{kind}]": "an admonition as plain text" for kind in ("NOTE", "TIP", "IMPORTANT", "WARNING", "CAUTION")},
}
MARKDOWN_LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)")
CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


@dataclass
class Html(HTMLParser):
    """A built page: its anchors, its links, and the files that a browser fetches for it."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if given.get("rel") in NOT_FETCHED:
            return
        for name in given.keys() & {"href", "src"}:
            (self.fetched if (tag, name) in FETCHED else self.links).append(given[name])


@cache
def html(file: Path) -> Html:
    page = Html()
    page.feed(file.read_text("utf-8"))
    return page


def mistakes(site: Path, root: Path = ROOT) -> list[str]:
    """The mistakes of a built site and of the Markdown of its repository, a line each.

    A mistake in the menu is on every page, and is the only one reported.
    """
    return [*menu_mistakes(root)] or [*site_mistakes(site), *markdown_mistakes(root)]


def menu_mistakes(root: Path) -> Iterator[str]:
    """Pages that the menu does not name, and names in it that are no page."""
    project = tomllib.loads((root / "zensical.toml").read_text("utf-8"))["project"]
    named = list(named_in(project["nav"]))
    there = {str(file.relative_to(root / "docs")) for file in (root / "docs").rglob("*.md")}
    yield from (f"docs/{name}: in the menu of zensical.toml, and no file" for name in sorted({*named} - there))
    yield from (f"docs/{name}: not in the menu of zensical.toml" for name in sorted(there - {*named}))
    yield from (f"docs/{name}: twice in the menu" for name in sorted({*named}) if named.count(name) > 1)


def named_in(entry: Any) -> Iterator[str]:
    match entry:
        case str():
            yield entry
        case dict():
            yield from named_in(list(entry.values()))
        case list():
            for one in entry:
                yield from named_in(one)


def site_mistakes(site: Path) -> Iterator[str]:
    """Links into nowhere, and what a browser would fetch from another host."""
    for file in sorted(site.rglob("*.html")):
        page, name = html(file), file.relative_to(site)
        for link in page.fetched:
            if urlsplit(link).netloc:
                yield f"{name}: fetches {link} from another host"
        yield from (f"{name}: {wrong}" for sign, wrong in NOT_RENDERED.items() if sign in file.read_text("utf-8"))
        for link in (*page.links, *page.fetched):
            if wrong := _broken(link, file, site):
                yield f"{name}: {link}: {wrong}"


def _broken(link: str, file: Path, site: Path) -> str:
    """Why a link of a built page leads nowhere; nothing if it leads somewhere, or to another host."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    path = unquote(parts.path)
    base = site if path.startswith("/") else file.parent
    target = (base / path.lstrip("/")).resolve() if path else file.resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.is_relative_to(site.resolve()) or not target.is_file():
        return "no such page"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in html(target).ids | {"__top"}:
        return "no such heading"
    return ""


def markdown_mistakes(root: Path) -> Iterator[str]:
    """Links of the Markdown files at the top, in envoy/, bench/ and deploy/ that lead to no file or no heading."""
    for file in sorted({*root.glob("*.md"), *root.glob("[a-z]*/**/*.md")} - {*root.glob("docs/**/*.md")}):
        text = CODE.sub("", file.read_text("utf-8"))
        for link in MARKDOWN_LINK.findall(text):
            parts = urlsplit(link)
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if parts.scheme:
                continue
            if not target.exists():
                yield f"{file.relative_to(root)}: {link}: no such file"
            elif parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
                yield f"{file.relative_to(root)}: {link}: no such heading"


def anchors(file: Path) -> set[str]:
    """The headings of a Markdown file, as links spell them."""
    bare = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(bare)]
    return {word.strip().replace(" ", "-") for word in words}


def main(site: str) -> int:
    found = mistakes(Path(site))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Takes the pictures of the documentation: `python -m tests.browser.pictures docs/img`, or `make pictures`.

They show the walk of the tests, over the sample that `authz up` brings.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.browser.walk import LIMIT, walk
from tests.e2e.test_up import ports, up
from tests.support.browser import Look, Tab, chromium, tab

LIGHT, DARK = Look("light", 1280, 800, "light"), Look("dark", 1280, 800, "dark")
MAX_BYTES: Final = 120_000
SAMPLE_LINES: Final = 6
OVERVIEW: Final = "Near or over a quota"


def main(folder: Path) -> None:
    started = time.monotonic()
    with TemporaryDirectory() as scratch, chromium() as browser, up(Path(scratch), *ports()) as it:
        it.until_ready()
        for nth in range(SAMPLE_LINES):
            it.curl(nth)
        ready = time.monotonic()
        with tab(browser, it.control_url, look=LIGHT) as tab_:
            walk(tab_, it.console_link, lambda name: _take(tab_, folder / f"console-{name}.png"))
            state = tab_.page.context.storage_state()
        walked = time.monotonic()
        for look in (LIGHT, DARK):
            with tab(browser, it.control_url, look=look, state=state) as tab_:
                tab_.open("/console")
                tab_.page.get_by_text(OVERVIEW).first.wait_for()
                _take(tab_, folder / f"console-overview-{look.name}.png")
    print(f"Started in {ready - started:.0f} s; walked, with {LIMIT} calls and more, in {walked - ready:.0f} s")  # noqa: T201


def _take(tab_: Tab, file: Path) -> None:
    tab_.page.screenshot(path=file)
    assert file.stat().st_size <= MAX_BYTES, f"{file} has {file.stat().st_size} bytes"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

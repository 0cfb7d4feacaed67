"""`authz up`, and then a browser alone."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from tests.browser.walk import walk
from tests.e2e.test_up import ports, up
from tests.support.browser import tab


def test_the_walk_from_the_printed_link_to_a_key_that_may_call_again(
    browser: Browser, tmp_path: Path, scripts: bool
) -> None:
    with up(tmp_path, *ports()) as it:
        it.until_ready()
        with tab(browser, it.control_url, scripts=scripts) as tab_:
            walked = walk(tab_, it.console_link)
            said = [tab_.open(f"/console/keys/id/{walked.key_id}").page.content()]
        assert [text for text in said if walked.value in text] == []
        assert walked.value not in it.text

"""The walk of a first hour, in a browser alone: a plan, a customer and a key, calls until 429, more, calls again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.browser.steps import make_plan, run, shown, until_shows
from tests.support.browser import Tab
from tests.support.servers import until

LIMIT = 5

Picture = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Walked:
    """The value that was shown on the way."""

    key_id: str
    value: str


def walk(tab: Tab, link: str, picture: Picture = lambda _: None) -> Walked:
    """Walk from the link that `authz up` prints. `picture` is called with the name of each station."""
    tab.open(link).press("Sign in")
    picture("signed-in")
    make_plan(tab, "Gold", "pets", limit=LIMIT, rate="10")
    until_shows(tab, "live on 1 of 1 sidecars")
    picture("plan")
    tab.follow("New key in this plan")
    tab.fill("Name", "Ada's shop").fill("Customer's id", "ada").fill("Name of a new customer", "Ada Ltd")
    tab.press("Make the key")
    made = shown(tab.page)
    picture("key")
    until(lambda: run(made.curl) == 200, "the shown line does not work")
    until(lambda: run(made.curl) == 429, "the quota is not used up")
    page = f"/console/keys/id/{made.key_id}"
    tab.open(page)
    assert "used up" in tab.text
    until(lambda: re.search(r"[1-9]\d* by quotas", tab.open(page).text) is not None, "no refusal by the quota is shown")
    picture("refused")
    tab.fill("Add", "10").fill("Reason", "Launch day").press("Grant")
    assert "10 were added" in tab.text
    picture("granted")
    assert run(made.curl) == 200
    return Walked(made.key_id, made.value)

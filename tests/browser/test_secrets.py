"""After a key's value was shown once, it stands on no page, in no log, and not in Redis."""

from __future__ import annotations

from tests.browser.conftest import CONSOLE, PORTAL
from tests.browser.crawl import crawl
from tests.browser.steps import make_key, shown_value
from tests.browser.world import World
from tests.e2e.stack import kept


def test_a_value_that_was_shown_once_stands_nowhere(world: World) -> None:
    customer = "keeps-a-secret"
    plan = world.tour.plan(world.tour.api(), name="Secretive")
    with world.owner() as tab:
        made = make_key(tab, "secret", plan, customer)
        page = tab.path
        again = tab.open(page).page.content()
        tab.press("Make a new value")
        values = {world.keep_secret(value) for value in (made.value, shown_value(tab.page))}
        assert len(values) == 2
        owner = tab.page.context.storage_state()
    with world.customer(customer) as tab:
        tab.follow("Keys").follow("secret").press("Roll")
        values.add(world.keep_secret(shown_value(tab.page)))
        guest = tab.page.context.storage_state()

    start = [f"/console/keys/id/{made.key_id}", f"/console/plans/{plan}", page]
    pages = crawl(world.url, owner, CONSOLE, start).answers | crawl(world.url, guest, PORTAL).answers
    assert [path for path, answer in pages.items() if any(value in answer.text for value in values)] == []
    assert not any(value in again for value in values)
    kept_by_browsers = {path for path, answer in pages.items() if answer.headers.get("cache-control") != "no-store"}
    assert kept_by_browsers == {"/portal/errors"}, "only this page is the same for all"
    assert world.stack.leaks() == []
    assert kept(world.redis, world.stack.secrets) == []

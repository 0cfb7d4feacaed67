"""A form that is sent twice, by a double click or by two control planes: it makes one thing."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.responses import RedirectResponse, Response

from authz.aws.errors import bad_request
from authz.control.alerts.addresses import Rules
from authz.control.call import Alerts
from authz.control.pages.forms import BadForm
from authz.control.pages.once import once
from authz.control.pages.sessions import CustomerSession, Sessions
from authz.core.resources import UsagePlan
from authz.core.stored import AlertTarget, StoredPlan
from tests.support.outbox import ListedDeliveries, Sent
from tests.support.pages import DictTokens, Pages
from tests.support.plane import SEALER
from tests.support.portal import PortalPages, key_of

if TYPE_CHECKING:
    from authz.store.ports import Outbox

ID = "the session"
ITEMS: Any = (
    StoredPlan(UsagePlan(id="p1", name="gold"), nonce="0" * 16),
    key_of("k1", "the value of one", "acme", "p1"),
    AlertTarget("t1", "pager", "https://x.example/", 1, 1, SEALER.seal("whsec_" + "A" * 44, "t1")),
)


# --- each form ----------------------------------------------------------------------------------------------------


def name_on(page: str, action: str) -> str:
    """The random name in the form with this action."""
    found = re.search(rf'action="{re.escape(action)}[^"]*"[^>]*>.*?name="once" value="([\w-]+)"', page, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("page", "action", "form", "kind"),
    [
        ("/console/plans-new", "/console/plans-new", {"name": "n", "do": "save"}, "usageplan"),
        ("/console/keys/new", "/console/keys/new", {"name": "n", "plan": "p1", "enabled": "on"}, "apikey"),
        ("/console/keys/customers/new", "/console/keys/customers/new", {"id": "c1"}, "customer"),
        ("/console/alerts/new", "/console/alerts/new", {"name": "n", "url": "https://y.example/"}, "alerttarget"),
        ("/console/keys/id/k1", "/console/keys/id/k1/rotate", {"overlap": "3600"}, "apikey"),
        ("/console/alerts/targets/t1", "/console/alerts/targets/t1/rotate", {"overlap": "1"}, "alerttarget"),
    ],
)
def test_a_form_of_the_console_that_is_sent_twice_makes_one_thing(
    page: str, action: str, form: dict[str, str], kind: str
) -> None:
    pages = Pages(*ITEMS, alerts=Alerts(cast("Outbox", ListedDeliveries()), Sent()))
    sent = {**form, "once": name_on(pages.get(page).text, action)}
    first = pages.post(action, sent)
    after = {id_: item for id_, item in pages.store.items.items() if id_[0] == kind}
    second = pages.post(action, sent)
    assert (first.status_code, second.status_code) == (303, 303)
    assert second.headers["location"] == first.headers["location"]
    assert {id_: item for id_, item in pages.store.items.items() if id_[0] == kind} == after
    assert pages.post(action, {**sent, "once": "another", "id": "c2"}).headers["location"] != first.headers["location"]


@pytest.mark.parametrize(
    ("page", "action", "form"),
    [
        ("/portal/keys/k1", "/portal/keys/k1/roll", {"overlap": "3600"}),
        ("/portal/alerts", "/portal/alerts/targets", {"name": "n", "url": "https://y.example/"}),
    ],
)
def test_a_form_of_the_portal_that_is_sent_twice_makes_one_thing(page: str, action: str, form: dict[str, str]) -> None:
    session = CustomerSession(customer_id="acme", may_rotate=True)
    pages = PortalPages(*ITEMS, as_=session, rules=Rules())
    sent = {**form, "once": name_on(pages.get(page).text, action)}
    first = pages.post(action, sent)
    after = dict(pages.store.items)
    second = pages.post(action, sent)
    assert (first.status_code, second.headers["location"]) == (303, first.headers["location"])
    assert pages.store.items == after


def test_the_secret_waits_for_the_answer_that_the_browser_shows() -> None:
    """A browser drops the answer to the first click."""
    pages = Pages(*ITEMS)
    sent = {"name": "n", "enabled": "on", "once": "one"}
    pages.post("/console/keys/new", sent)
    assert "The key was made." in pages.post("/console/keys/new", sent, follow=True).text


def test_a_form_that_was_refused_may_be_sent_again() -> None:
    pages = Pages(*ITEMS)
    sent = {"id": "c1", "billing_day": "99", "once": "one"}
    assert pages.post("/console/keys/customers/new", sent).status_code == 400
    assert pages.post("/console/keys/customers/new", {**sent, "billing_day": "9"}).status_code == 303


def test_the_forms_of_two_people_are_two() -> None:
    """The name of another person's form leads to no result of that person."""
    tokens = DictTokens()
    places = set()
    for _ in range(2):
        pages = Pages(*ITEMS)
        pages.tokens.values |= tokens.values
        answer = pages.post("/console/keys/new", {"name": "n", "once": "one"})
        tokens.values |= pages.tokens.values
        places.add(answer.headers["location"])
    assert len(places) == 2


# --- several copies at once ---------------------------------------------------------------------------------------


class Making:
    """The answer to a form: it waits until it is let go, and then is the given one."""

    def __init__(self, end: Response | Exception) -> None:
        self.end = end
        self.begun = 0
        self.started, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> Response:
        self.begun += 1
        self.started.set()
        await self.go.wait()
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


async def copies(making: Making, number: int) -> list[Response | BaseException]:
    """The answers to copies of one form, each of another control plane."""
    tokens = DictTokens()
    planes = [Sessions(tokens, lambda: 1) for _ in range(number)]
    sent = [asyncio.create_task(once(plane, ID, "name", making)) for plane in planes]
    await making.started.wait()
    making.go.set()
    return await asyncio.gather(*sent, return_exceptions=True)


async def test_a_copy_waits_for_the_answer_to_the_first() -> None:
    making = Making(RedirectResponse("/made", 303))
    answers = await copies(making, 5)
    assert making.begun == 1
    assert {answer.headers["location"] for answer in answers if isinstance(answer, Response)} == {"/made"}


async def test_a_copy_of_a_form_that_is_refused_is_refused_too() -> None:
    making = Making(bad_request("no"))
    answers = await copies(making, 2)
    assert (making.begun, [str(answer) for answer in answers]) == (2, [str(answers[0])] * 2)


async def test_a_copy_of_a_form_whose_end_is_unknown_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have made it, so the second reads where to look."""
    monkeypatch.setattr("authz.control.pages.once.WAIT_SECONDS", 0.05)
    making = Making(RuntimeError("broken"))
    answers = await copies(making, 2)
    assert making.begun == 1
    assert isinstance(answers[1], BadForm)
    assert answers[1].status == 409

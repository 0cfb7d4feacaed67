"""The pages of alerts: targets and their secrets, tests, deliveries, crossed thresholds."""

from __future__ import annotations

import re
from typing import cast

import msgspec
import pytest

from authz.control.alerts.schedule import Attempt
from authz.control.call import Alerts
from authz.core.stored import AlertTarget, StoredPlan
from authz.store.ports import (
    Alert,
    AlertPage,
    AlertQuery,
    Delivery,
    Outbox,
)
from tests.support.builders import plan
from tests.support.outbox import AT, ListedDeliveries, Sent
from tests.support.pages import OWNER, READER, Pages, next_page
from tests.support.plane import NoUsage

EVIL = '"><script>alert(1)</script>'
FORM = {"name": "billing", "url": "https://hooks.example.com/in", "enabled": "on"}


class Crossed(NoUsage):
    """A `Usage` with these alerts."""

    def __init__(self, *alerts: Alert) -> None:
        self.found = list(alerts)

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        return AlertPage([one for one in self.found if query.matches(one)][:limit], None)


def delivery(id_: str = "d1", target_id: str = "t1", body: object = None) -> Delivery:
    data = {"percent": 80, "limit": 5000, "usagePlanId": "p1", "usagePlanName": "Gold", "keyId": "k1"}
    given = body or {"type": "usage.threshold", "data": data}
    return Delivery(id_, target_id, msgspec.json.encode(given).decode(), AT, AT, 3, AT, 503, "too busy")


OF_KEY = Alert("1-1", "p1", "k1", None, "MONTH", "UNITS", 80, 4000, 5000, AT, AT + 1, AT)


def stored(id_: str = "t1", **changes: object) -> AlertTarget:
    target = AlertTarget(id_, "billing", "https://hooks.example.com/in", 1, 1, "sealed")
    return msgspec.structs.replace(target, **changes)


def pages(
    *targets: AlertTarget,
    outbox: ListedDeliveries | None = None,
    sender: Sent | None = None,
    usage: NoUsage | None = None,
    reader: bool = False,
) -> Pages:
    alerts = Alerts(cast("Outbox", outbox or ListedDeliveries()), sender or Sent())
    as_ = READER if reader else OWNER
    return Pages(StoredPlan(plan("p1", name="Gold", keys=())), *targets, usage=usage, as_=as_, alerts=alerts)


def made(console: Pages) -> str:
    """Make a target. Returns the path of its page, with the name of its secret."""
    answer = console.post("/console/alerts/new", FORM)
    assert answer.status_code == 303
    return answer.headers["location"]


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_new_target_shows_its_secret_once() -> None:
    console = pages()
    path = made(console)
    assert "whsec_" not in path
    first, second = console.get(path).text, console.get(path).text
    assert (len(re.findall("whsec_[A-Za-z0-9+/]{40,}", first)), "whsec_" in second) == (1, False)


def test_a_secret_is_shown_to_the_session_that_made_it_alone() -> None:
    console = pages()
    path, other = made(console), pages()
    other.tokens.values = console.tokens.values | other.tokens.values
    other.store.items |= console.store.items
    assert "whsec_" not in other.get(path).text


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"url": "http://hooks.example.com/in"}, "url"),
        ({"url": "https://127.0.0.1/in"}, "url"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": ""}, "url"),
        ({"name": ""}, "name"),
        ({"name": "a\x01b"}, "name"),
        ({"description": "d" * 1001}, "description"),
        ({"customer": "c\x02"}, "customer"),
        ({"plan": "nope"}, "plan"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_the_rest_stays_typed(wrong: dict[str, str], field: str) -> None:
    console = pages()
    answer = console.post("/console/alerts/new", {**FORM, "description": "of the team", **wrong})
    assert answer.status_code in (400, 404)
    piece = answer.text.split(f'id="h-{field}"')[1].split("</small>")[0] if f'id="h-{field}"' in answer.text else ""
    assert "<strong>" in piece
    if "description" not in wrong:
        assert 'value="of the team"' in answer.text
    assert not [item for kind, item in console.store.items.items() if kind[0] == "alerttarget"]


def test_a_target_can_be_changed_disabled_and_bound_to_a_plan() -> None:
    console = pages()
    path = made(console).partition("?")[0]
    console.post(path, {"name": "ops", "url": "https://ops.example.com/", "plan": "p1", "customer": "acme"})
    text = console.get(path).text
    assert 'href="/console/plans/p1">Gold</a>' in text
    assert '<span class="tag">disabled</span>' in text
    listed = console.get("/console/alerts").text
    assert "https://ops.example.com/" in listed


def test_a_wrong_change_keeps_the_target_and_the_typed_texts() -> None:
    console = pages()
    path = made(console).partition("?")[0]
    answer = console.post(path, {"name": "ops", "url": "ftp://x"})
    assert (answer.status_code, 'value="ftp://x"' in answer.text, "<h1>billing</h1>" in answer.text) == (
        400,
        True,
        True,
    )


def test_a_new_secret_replaces_the_old_one_after_the_hours_that_were_typed() -> None:
    console = pages()
    path = made(console).partition("?")[0]
    rotated = console.post(f"{path}/rotate", {"overlap": "2"}, follow=True).text
    assert "whsec_" in rotated
    assert "For 2 hours both secrets sign." in rotated
    assert "signs too until" in rotated
    ended = console.post(f"{path}/rotate", {"overlap": "0"}, follow=True).text
    assert ("The old one has ended." in ended, "signs too until" in ended) == (True, False)


@pytest.mark.parametrize("hours", ["x", "-1", "721", "1.5"])
def test_hours_that_are_no_overlap_are_refused_beside_their_field(hours: str) -> None:
    console = pages()
    path = made(console).partition("?")[0]
    answer = console.post(f"{path}/rotate", {"overlap": hours})
    assert answer.status_code == 400
    assert "<strong>" in answer.text.split('id="h-overlap"')[1].split("</small>")[0]


def test_a_deleted_target_is_gone_with_its_deliveries() -> None:
    outbox = ListedDeliveries()
    console = pages(stored(), outbox=outbox)
    assert console.post("/console/alerts/targets/t1/delete").headers["location"].startswith("/console/alerts?message=")
    assert (outbox.forgotten, console.get("/console/alerts/targets/t1").status_code) == (["t1"], 404)


# --- a test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (Attempt(204), "The test arrived: the receiver answered with 204."),
        (Attempt(500), "The test did not arrive: the receiver answered with 500."),
        (Attempt(None, "no answer in time"), "The test did not arrive: no answer in time."),
        (Attempt(None, EVIL), "&#34;&gt;&lt;script&gt;"),
    ],
)
def test_the_result_of_a_test_is_shown(attempt: Attempt, words: str) -> None:
    sender = Sent(attempt)
    console = pages(sender=sender)
    path = made(console).partition("?")[0]
    assert words in console.post(f"{path}/test", follow=True).text
    assert len(sender.messages) == 1


# --- deliveries ---------------------------------------------------------------------------------------------------


def test_a_failed_delivery_says_why_and_can_be_sent_again() -> None:
    outbox = ListedDeliveries(failed=[delivery()])
    console = pages(stored(), outbox=outbox)
    for path in ("/console/alerts", "/console/alerts/deliveries", "/console/alerts/targets/t1"):
        text = console.get(path).text
        assert "80 % of 5,000 in Gold, by k1" in text
        assert "answered 503: too busy" in text
    answer = console.post("/console/alerts/deliveries/d1/resend", follow=True)
    assert (answer.url.params["state"], "It is sent again, at once." in answer.text) == ("pending", True)
    assert (outbox.deliveries["failed"], len(outbox.deliveries["pending"])) == ([], 1)


@pytest.mark.parametrize("target", [None, stored(enabled=False)], ids=["no delivery", "a disabled target"])
def test_a_delivery_that_cannot_be_sent_again_says_why(target: AlertTarget | None) -> None:
    outbox = ListedDeliveries(failed=[delivery()] if target else [])
    text = pages(*filter(None, [target]), outbox=outbox).post("/console/alerts/deliveries/d1/resend", follow=True).text
    assert "It was not sent again." in text


def test_deliveries_come_in_pages_of_one_state_and_one_target() -> None:
    outbox = ListedDeliveries(delivered=[delivery(f"d{at}", "t1" if at % 2 else "t2") for at in range(130)])
    console = pages(stored(), outbox=outbox)
    first = console.get("/console/alerts/deliveries?state=delivered&target=t1").text
    second = console.get(next_page(first)).text
    assert (first.count("<tr>"), second.count("<tr>"), "t2" in first + second) == (51, 16, False)


@pytest.mark.parametrize("query", ["state=lost", "position=x"])
def test_a_list_of_deliveries_that_does_not_exist_is_refused(query: str) -> None:
    assert pages().get(f"/console/alerts/deliveries?{query}").status_code == 400


# --- crossed thresholds -------------------------------------------------------------------------------------------


def test_crossed_thresholds_link_to_the_key_or_customer_and_the_plan() -> None:
    of_customer = Alert("2-1", "p1", None, "acme", "TOTAL", "REQUESTS", 100, 50, 50, AT, None, AT)
    console = pages(usage=Crossed(OF_KEY, of_customer))
    for path in ("/console/alerts", "/console/alerts/crossed"):
        text = console.get(path).text
        assert ">k1</a>" in text
        assert ">acme</a>" in text
        assert 'href="/console/plans/p1">Gold</a>' in text
        assert "never ends" in text
    only = console.get("/console/alerts/crossed?customer=acme").text
    assert ("acme</a>" in only, "k1</a>" in only) == (True, False)


# --- who may, and what strangers wrote ----------------------------------------------------------------------------


def test_a_reader_sees_everything_and_no_button() -> None:
    outbox = ListedDeliveries(failed=[delivery()])
    console = pages(stored(), outbox=outbox, reader=True)
    for path in ("/console/alerts", "/console/alerts/deliveries", "/console/alerts/targets/t1"):
        text = console.get(path).text.partition("<main")[2].partition("<footer")[0]
        assert ("billing" in text, "<button" in text, 'href="/console/alerts/new"' in text) == (True, False, False)


@pytest.mark.parametrize(
    "path", ["new", "targets/t1", "targets/t1/delete", "targets/t1/rotate", "targets/t1/test", "deliveries/d1/resend"]
)
def test_a_reader_may_change_nothing(path: str) -> None:
    outbox = ListedDeliveries(failed=[delivery()])
    sender = Sent()
    console = pages(stored(), outbox=outbox, sender=sender, reader=True)
    before = dict(console.store.items)
    assert console.post(f"/console/alerts/{path}", FORM).status_code == 403
    assert (console.store.items, outbox.forgotten, len(outbox.deliveries["failed"])) == (before, [], 1)
    assert sender.messages == []


def test_a_reader_gets_no_form_of_a_new_target() -> None:
    assert pages(reader=True).get("/console/alerts/new").status_code == 403


def test_empty_pages_say_what_to_do() -> None:
    text = pages().get("/console/alerts").text
    assert 'href="/console/alerts/new">Make a target.</a>' in text
    assert "Thresholds, such as 80 and 100 percent, belong to the quotas of a plan." in text


def test_markup_in_every_field_is_shown_as_text() -> None:
    data = {
        "percent": EVIL,
        "limit": 1,
        "usagePlanId": EVIL,
        "usagePlanName": EVIL,
        "keyId": EVIL,
        "keyName": EVIL,
        "customerId": EVIL,
    }
    bodies = [{"type": EVIL, "data": {}}, {"type": EVIL, "data": data}]
    failed = [delivery(f"d{at}{EVIL}", "t1", body) for at, body in enumerate(bodies)]
    outbox = ListedDeliveries(failed=failed, delivered=failed, pending=failed)
    target = stored(name=EVIL, url=EVIL, customer_id=EVIL, usage_plan_id=EVIL, description=EVIL)
    crossed = Alert("1-1", EVIL, EVIL, None, EVIL, EVIL, 80, 1, 2, AT, None, AT)
    console = pages(target, outbox=outbox, usage=Crossed(crossed))
    paths = ["", "/crossed", "/targets/t1", *(f"/deliveries?state={state}" for state in outbox.deliveries)]
    texts = [console.get(f"/console/alerts{path}") for path in paths]
    wrong = dict.fromkeys(("name", "url", "plan", "customer", "description", "overlap"), EVIL)
    texts += [console.post(f"/console/alerts/{path}", wrong) for path in ("new", "targets/t1", "targets/t1/rotate")]
    assert [answer.status_code for answer in texts] == [200] * len(paths) + [400] * 3
    assert not [answer for answer in texts if "<script>alert" in answer.text]

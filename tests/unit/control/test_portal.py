"""The portal: invitations, signing in, and the pages of a customer, in one process over a store in a dictionary."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from authz.control.alerts.addresses import Rules
from authz.control.alerts.schedule import Attempt
from authz.control.pages.sessions import CustomerSession, OwnerSession
from authz.control.portal.usage import pace_words, throttle_words
from authz.core.resources import Counts, Customer, LimitsPer, Mode, Period, QuotaSettings, ThrottleSettings, UsagePlan
from authz.core.stored import AlertTarget, StoredCustomer, StoredPlan
from tests.support.plane import SEALER
from tests.support.portal import Counted, PortalPages, key_of

ACME, EVE = "customer acme", "customer eve"
VALUE, OTHER, LONE = "value-of-acme-0123456789", "value-of-eve-0123456789", "value-of-lone-0123456789"
PLAN = StoredPlan(
    UsagePlan(
        "p1",
        "Gold",
        throttle=ThrottleSettings(10.0, 20),
        quota=QuotaSettings(1000, Period.MONTH, counts=Counts.REQUESTS),
    ),
    nonce="n",
)
SHARED = StoredPlan(
    UsagePlan("p2", "Platinum", quota=QuotaSettings(9000, Period.DAY), limits_per=LimitsPer.CUSTOMER), nonce="n"
)
SESSION = CustomerSession(customer_id=ACME, may_rotate=True)


def world(*more: Any, as_: Any = SESSION, numbers: dict[str, int] | None = None) -> PortalPages:
    """Acme with two keys and two plans, Eve with one key, and a key without a customer."""
    return PortalPages(
        PLAN,
        SHARED,
        key_of("a1", VALUE, ACME, "p1.n", "p2.n"),
        key_of("a2", "second-value-of-acme-01234", ACME, "p1.n", "p2.n"),
        key_of("e1", OTHER, EVE, "p1.n"),
        key_of("lone", LONE, None, "p1.n"),
        *more,
        usage=Counted(numbers or {"a1": 111, "a2": 222, "e1": 777, ACME: 333, EVE: 888}),
        as_=as_,
    )


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


# --- invitations --------------------------------------------------------------------------------------------------


def test_the_owners_site_gets_a_link_that_signs_its_customer_in_once() -> None:
    pages = world(as_=None)
    before = int(time.time())
    answer = pages.invite({"customerId": ACME})
    assert answer.status_code == 201
    url = answer.json()["url"]
    assert url.startswith("http://127.0.0.1:8085/portal/link?token=")
    assert before <= datetime.fromisoformat(answer.json()["expires"]).timestamp() - 900 <= time.time()
    assert ACME in pages.get(url).text
    token = url.partition("token=")[2]
    assert pages.post("/portal/link", {"token": token}).headers["location"] == "/portal"
    assert pages.get("/portal").status_code == 200
    assert pages.post("/portal/link", {"token": token}).status_code == 403


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({"customerId": ACME}, "admin CreatePortalSession customer customer acme"),
        ({"keyId": "lone", "mayRotate": False}, "admin CreatePortalSession key lone mayRotate=false"),
    ],
)
def test_the_audit_names_the_guest_and_not_the_token(body: dict[str, Any], line: str) -> None:
    pages = world(as_=None)
    token = pages.invite(body).json()["url"].partition("token=")[2]
    assert pages.store.lines == [line]
    assert token not in str(pages.store.items)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "expected customerId, or keyId of a key without a customer"),
        ({"customerId": ACME, "keyId": "lone"}, 400, "expected customerId, or keyId"),
        ({"customerId": "none"}, 404, "Invalid Customer identifier"),
        ({"customerId": ""}, 404, "Invalid Customer identifier"),
        ({"keyId": "nothing"}, 404, "Invalid API Key identifier"),
        ({"keyId": "a1"}, 400, "this key has a customer; give its customerId"),
        ({"customerID": ACME}, 400, "did you mean customerId?"),
        ({"customerId": ACME, "mayRotate": "no"}, 400, "$.mayRotate"),
    ],
)
def test_a_wrong_invitation_is_refused_with_its_mistake(body: Any, status: int, says: str) -> None:
    answer = world(as_=None).invite(body)
    assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text


def test_a_customer_without_a_key_can_be_invited_if_it_is_listed() -> None:
    pages = world(StoredCustomer(Customer("new"), 1, 1), as_=None)
    assert pages.invite({"customerId": "new"}).status_code == 201


def test_a_link_and_its_session_end_with_the_credential_that_made_it() -> None:
    pages = world(as_=None)
    first, second = (pages.invite({"customerId": ACME}).json()["url"].partition("token=")[2] for _ in range(2))
    assert pages.post("/portal/link", {"token": first}).status_code == 303
    assert pages.get("/portal").status_code == 200
    del pages.store.items["credential", pages.token.credential.id]
    assert pages.get("/portal").status_code == 303
    assert pages.post("/portal/keys/a1/roll", {"overlap": "3600"}).headers["location"].startswith("/portal/sign-in")
    pages.post("/portal/link", {"token": second})
    assert pages.get("/portal").status_code == 303


def test_only_a_credential_that_may_write_makes_links() -> None:
    pages = world(as_=None)
    assert pages.invite({"customerId": ACME}, {"Authorization": "Bearer wrong"}).status_code == 403
    assert pages.send("POST", "/portal/sessions", json={"customerId": ACME}).status_code == 403


def test_a_host_that_browsers_cannot_use_gets_no_link() -> None:
    answer = world(as_=None).invite({"customerId": ACME}, {"Host": "plans.internal"})
    assert (answer.status_code, "--console-url" in answer.json()["message"]) == (400, True)


# --- signing in ---------------------------------------------------------------------------------------------------


def test_a_pasted_key_shows_itself_and_rolls_nothing() -> None:
    pages = world(as_=None)
    signed = pages.post("/portal/sign-in", {"token": VALUE, "zone": "Europe/Berlin"})
    assert (signed.status_code, signed.headers["location"]) == (303, "/portal")
    shown = pages.get("/portal/keys").text
    assert ("name of a1" in shown, "name of a2" in shown) == (True, False)
    assert pages.get("/portal/keys/a2").status_code == 404
    assert '<form class="card"' not in pages.get("/portal/keys/a1").text
    assert pages.post("/portal/keys/a1/roll", {"overlap": "0"}).status_code == 403
    assert VALUE not in str(pages.tokens.values)


@pytest.mark.parametrize(
    "key",
    [
        {"enabled": False},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"allowed_sources": ("203.0.113.0/24",)},
        None,
    ],
    ids=["disabled", "expired", "for other addresses", "unknown"],
)
def test_a_key_that_the_api_refuses_opens_nothing_and_every_refusal_is_the_same(key: Any) -> None:
    value = "some-value-0123456789012"
    pages = world(*([] if key is None else [key_of("k", value, ACME, **key)]), as_=None)
    form = pages.post("/portal/sign-in", {"token": value})
    program = pages.send("GET", "/portal/usage", headers={"x-api-key": value})
    assert (form.status_code, program.status_code, program.json()) == (403, 403, {"message": "Forbidden"})
    assert "No key that works has this value." in form.text
    assert value not in form.text + str(form.headers) + program.text
    assert "set-cookie" not in form.headers


def test_a_session_ends_with_the_value_that_began_it() -> None:
    """A value that leaked and was rolled shows nothing any more."""
    pages = world(as_=None)
    pages.post("/portal/sign-in", {"token": VALUE})
    thief = pages.cookies
    pages.sign_in(SESSION)
    pages.post("/portal/keys/a1/roll", {"overlap": "3600"})
    owner, pages.cookies = pages.cookies, thief
    assert pages.get("/portal").status_code == 200, "the old value is still valid"
    pages.cookies = owner
    pages.post("/portal/keys/a1/end-old")
    pages.cookies = thief
    assert pages.get("/portal").status_code == 303


def test_a_session_of_a_key_ends_with_the_key() -> None:
    pages = world(as_=CustomerSession(key_id="lone"))
    assert pages.get("/portal").status_code == 200
    del pages.store.items["apikey", "lone"]
    assert pages.get("/portal").status_code == 303


def test_a_session_of_a_key_ends_when_the_key_is_given_to_a_customer() -> None:
    pages = world(as_=CustomerSession(key_id="lone", may_rotate=True))
    pages.store.items["apikey", "lone"] = key_of("lone", LONE, EVE, "p1.n")
    assert "new=" not in pages.post("/portal/keys/lone/roll", {"overlap": "0"}).headers.get("location", "")
    assert pages.get("/portal").status_code == 303


def test_the_sessions_and_links_of_one_site_do_not_open_the_other() -> None:
    pages = world(as_=OwnerSession("owner"))
    assert pages.get("/portal").headers["location"].startswith("/portal/sign-in")
    for path, session in (("/portal", OwnerSession("o")), ("/console", SESSION)):
        token = asyncio.run(pages.sessions.new_link(session))
        assert pages.get(f"{path}/link?token={token}").status_code == 403
        assert pages.post(f"{path}/link", {"token": token}).status_code == 403
        assert asyncio.run(pages.sessions.linked(token)) is not None
    pages.cookies.set("authz-console", asyncio.run(pages.sessions.begin(SESSION)), domain="127.0.0.1")
    assert pages.get("/console").headers["location"].startswith("/console/sign-in")


# --- pages --------------------------------------------------------------------------------------------------------


def test_the_first_page_shows_each_limit_once_with_its_numbers() -> None:
    shown = text_of(world().get("/portal").text)
    assert "Gold name of a1" in shown
    assert "Gold name of a2" in shown
    assert shown.count("shared by all your keys") == 1, "the limits of Platinum are the customer's"
    for words in ("111 of 1,000 requests", "222 of 1,000 requests", "333 of 9,000 units", "Full again at"):
        assert words in shown
    assert "At most 10 requests a second, and 20 at once." in shown
    assert "A call takes one unit" in shown
    assert "777" not in shown


def test_times_are_in_the_viewers_zone_with_utc_beside_them() -> None:
    session = CustomerSession(customer_id=ACME, zone="Asia/Kolkata")
    assert re.search(
        r"Full again at \d{4}-\d\d-\d\d 05:30:00 IST \(00:00 UTC\)", world(as_=session).get("/portal").text
    )


def test_a_plan_in_shadow_is_not_shown_to_customers() -> None:
    plan = StoredPlan(UsagePlan("p9", "Draft plan", quota=QuotaSettings(5, Period.DAY), mode=Mode.SHADOW), nonce="n")
    session = CustomerSession(customer_id="c")
    pages = world(plan, key_of("k", "v" * 20, "c", "p9.n"), as_=session)
    assert "Draft plan" not in pages.get("/portal").text


def test_a_customer_without_keys_reads_what_to_do() -> None:
    pages = world(as_=CustomerSession(customer_id="new"))
    for path in ("/portal", "/portal/keys"):
        assert "You have no key yet." in pages.get(path).text
    assert "No alert here." in pages.get("/portal/alerts").text


def test_alerts_are_those_of_the_customer_and_of_its_keys() -> None:
    shown = text_of(world().get("/portal/alerts").text)
    assert ("name of a1" in shown, "all your keys" in shown, "777" in shown, "888" in shown) == (
        True,
        True,
        False,
        False,
    )
    assert "Gold" in shown


@pytest.mark.parametrize(
    ("used", "at", "says"),
    [
        (0, 50, ""),
        (100, 50, ""),
        (10, 0.5, ""),
        (10, 50, "At this pace 20 are used by then."),
        (80, 50, "At this pace it is used up at 1970-01-01 00:01:02 UTC."),
    ],
)
def test_a_pace_is_shown_where_it_says_something(used: int, at: float, says: str) -> None:
    quota = {"used": used, "limit": 100, "start": "1970-01-01T00:00:00Z", "end": "1970-01-01T00:01:40Z"}
    assert pace_words(quota, at, "UTC") == says  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("throttle", "says"),
    [
        (None, ""),
        ({"rateLimit": 10.0, "burstLimit": 20}, "At most 10 requests a second, and 20 at once."),
        ({"rateLimit": 0.5}, "At most 0.5 requests a second."),
        ({"rateLimit": 2e6}, "At most 2,000,000 requests a second."),
        ({"rateLimit": 0.000001}, "At most 0.000001 requests a second."),
        ({"burstLimit": 3, "counts": "UNITS"}, "At most 3 units at once."),
        ({}, ""),
    ],
)
def test_a_throttle_is_a_sentence(throttle: Any, says: str) -> None:
    assert throttle_words(throttle) == says


def test_a_customer_that_sends_too_much_is_refused() -> None:
    pages = world()
    pages.attempts.seconds = 1
    assert pages.get("/portal").status_code == 200
    assert pages.post("/portal/keys/a1/roll", {"overlap": "0"}).status_code == 429
    assert pages.store.lines == []
    pages.pace.seconds = 1
    for path in ("/portal", "/portal/keys", "/portal/keys/a1", "/portal/alerts"):
        assert pages.get(path).status_code == 429


# --- webhooks -----------------------------------------------------------------------------------------------------

HOOK = {"name": "ops", "url": "https://hooks.example.com/in"}


def target(target_id: str, customer_id: str | None) -> AlertTarget:
    sealed = SEALER.seal("whsec_c2VjcmV0c2VjcmV0", target_id)
    return AlertTarget(
        target_id, f"hook {customer_id} {target_id}", "https://hooks.example.com/", 1, 1, sealed, True, customer_id
    )


def test_a_customer_has_its_alerts_sent_and_sees_the_secret_once() -> None:
    pages = world()
    added = pages.post("/portal/alerts/targets", HOOK)
    shown = pages.get(added.headers["location"]).text
    secret = re.search(r'id="value">(whsec_[^<]+)<', shown)
    assert secret is not None
    assert "https://hooks.example.com/in" in shown
    assert secret[1] not in pages.get(added.headers["location"]).text + str(pages.tokens.values) + str(added.headers)
    (made,) = (item for item in pages.store.items.values() if isinstance(item, AlertTarget))
    assert (made.customer_id, made.url) == (ACME, HOOK["url"])
    path = f"/portal/alerts/targets/{made.id}"
    assert "The test has arrived." in pages.post(f"{path}/test", follow=True).text
    pages.sender.attempt = Attempt(500)
    assert "The test has not arrived: the answer was 500" in pages.post(f"{path}/test", follow=True).text
    assert [message.url for message in pages.sender.messages] == [HOOK["url"]] * 2
    assert "No webhook yet." in pages.post(f"{path}/delete", follow=True).text


def test_a_wrong_webhook_is_shown_again_with_its_mistake() -> None:
    answer = world().post("/portal/alerts/targets", HOOK | {"url": "https://127.0.0.1/<b>"})
    assert answer.status_code == 400
    assert 'value="https://127.0.0.1/&lt;b&gt;"' in answer.text
    assert "the address 127.0.0.1 is" in answer.text


def test_the_targets_of_others_are_not_the_customers() -> None:
    pages = world(target("t1", EVE), target("t2", None), target("t3", ACME))
    shown = pages.get("/portal/alerts").text
    assert [name in shown for name in (" t1<", " t2<", " t3<")] == [False, False, True]
    for target_id in ("t1", "t2", "nothing"):
        for end in ("test", "delete"):
            assert pages.post(f"/portal/alerts/targets/{target_id}/{end}").status_code == 404
    assert pages.sender.messages == []
    assert {"t1", "t2"} <= {name for _, name in pages.store.items}


@pytest.mark.parametrize(
    "session",
    [CustomerSession(customer_id=ACME), CustomerSession(key_id="lone", may_rotate=True)],
    ids=["may only look", "has no customer"],
)
def test_some_sessions_have_no_webhooks(session: CustomerSession) -> None:
    pages = world(target("t3", ACME), as_=session)
    assert "Add a webhook" not in pages.get("/portal/alerts").text
    for path, form in (("", HOOK), ("/t3/test", {}), ("/t3/delete", {})):
        assert pages.post(f"/portal/alerts/targets{path}", form).status_code in (403, 404)
    assert (pages.sender.messages, pages.store.lines) == ([], [])


def test_customers_have_no_webhooks_where_targets_may_be_in_the_owners_network() -> None:
    pages = PortalPages(PLAN, target("t3", ACME), as_=SESSION, rules=Rules(private=True))
    assert "Webhooks" not in pages.get("/portal/alerts").text
    assert pages.post("/portal/alerts/targets", HOOK | {"url": "http://10.0.0.1/"}).status_code == 404
    assert pages.post("/portal/alerts/targets/t3/test").status_code == 404


@pytest.mark.parametrize(
    ("token", "subject"),
    [(None, f"customer {ACME}"), (VALUE, f"customer {ACME}"), (LONE, "key lone")],
    ids=["a link", "a pasted key of the customer", "a pasted key without a customer"],
)
def test_all_sessions_of_a_customer_share_one_pace(token: str | None, subject: str) -> None:
    pages = world(as_=None if token else SESSION)
    if token:
        pages.post("/portal/sign-in", {"token": token})
    assert pages.get("/portal").status_code == 200
    assert pages.pace.subjects == [subject]


# --- rolling ------------------------------------------------------------------------------------------------------


def test_a_rolled_key_shows_its_new_value_once_and_the_old_one_goes_on() -> None:
    pages = world()
    rolled = pages.post("/portal/keys/a1/roll", {"overlap": "3600"})
    shown = pages.get(rolled.headers["location"]).text
    value = re.search(r'id="value">(upk_\w+)<', shown)
    assert value is not None
    assert value[1] not in rolled.headers["location"] + str(pages.tokens.values)
    assert "valid until" in shown
    assert value[1] not in pages.get(rolled.headers["location"]).text
    for good in (VALUE, value[1]):
        assert pages.send("GET", "/portal/usage", headers={"x-api-key": good}).status_code == 200
    assert pages.store.lines == ["portal, customer customer acme RotateApiKey a1"]
    assert pages.post("/portal/keys/a1/end-old", follow=True).text.count("The old value has ended.") == 1
    assert pages.send("GET", "/portal/usage", headers={"x-api-key": VALUE}).status_code == 403


@pytest.mark.parametrize("overlap", ["", "1", "-1", "99999999999", "3600 "])
def test_only_the_offered_overlaps_are_taken(overlap: str) -> None:
    pages = world()
    status = pages.post("/portal/keys/a1/roll", {"overlap": overlap}).status_code
    assert (status, len(pages.store.lines)) == ((303, 1) if overlap.strip() == "3600" else (400, 0))


def test_the_key_of_another_customer_is_like_no_key() -> None:
    pages = world()
    before = dict(pages.store.items)
    for key_id in ("e1", "lone", "nothing", "../e1", "%00", "a1/../e1"):
        for verb, end in (("GET", ""), ("POST", "/roll"), ("POST", "/end-old")):
            path = f"/portal/keys/{key_id}{end}"
            answer = pages.get(path) if verb == "GET" else pages.post(path, {"overlap": "0"})
            assert answer.status_code in (404, 405), (path, answer.text)
    assert pages.store.items == before


def test_a_link_that_may_only_look_rolls_nothing() -> None:
    pages = world(as_=CustomerSession(customer_id=ACME))
    for end in ("roll", "end-old"):
        assert pages.post(f"/portal/keys/a1/{end}", {"overlap": "0"}).status_code == 403
    assert pages.store.lines == []


def test_another_site_cannot_roll_a_key() -> None:
    pages = world()
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        assert pages.post("/portal/keys/a1/roll", {"overlap": "0"}, headers, own=False).status_code == 403
    assert pages.store.lines == []


# --- texts of strangers -----------------------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


def test_markup_in_every_field_stays_text() -> None:
    plan = StoredPlan(UsagePlan("p9", MARKUP, quota=QuotaSettings(5, Period.DAY)), nonce="n")
    key = key_of("k9", "v" * 20, MARKUP, "p9.n", name=MARKUP, description=MARKUP)
    pages = PortalPages(
        PLAN,
        plan,
        key,
        target("t9", MARKUP),
        usage=Counted({"k9": 4}),
        as_=CustomerSession(customer_id=MARKUP, may_rotate=True),
    )
    link = pages.invite({"customerId": MARKUP}).json()["url"]
    shown = [pages.get(path) for path in ("/portal", "/portal/keys", "/portal/keys/k9", "/portal/alerts", link)]
    shown.append(pages.get(f"/portal/sign-in?next=/portal?{MARKUP}"))
    shown.append(pages.get(f"/portal/{MARKUP}"))
    shown.append(pages.post("/portal/sign-in", {"token": MARKUP, "next": f"/portal?{MARKUP}"}))
    assert [page.status_code for page in shown] == [200, 200, 200, 200, 200, 200, 404, 403]
    for page in shown:
        assert "<script>alert" not in page.text
        assert "<img" not in page.text
    for page in shown[:3]:
        assert "&lt;script&gt;" in page.text
        assert "{{7*7}}" in page.text


# --- the public page ----------------------------------------------------------------------------------------------


def test_errors_and_limits_are_explained_to_everybody() -> None:
    page = world(as_=None).get("/portal/errors")
    assert (page.status_code, page.headers["cache-control"]) == (200, "public, max-age=3600")
    for word in ("403", "429", "Retry-After", "RateLimit-Policy", "x-usage-overage", "LimitExceededException"):
        assert word in page.text
    assert "http://127.0.0.1:8085/portal/usage" in page.text


# --- programs -----------------------------------------------------------------------------------------------------


def usage(pages: PortalPages, query: str = "", **headers: str) -> Any:
    given = {"x-api-key": VALUE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return pages.send("GET", f"/portal/usage{query}", headers=given)


def test_a_program_reads_the_use_of_its_key() -> None:
    answer = usage(world(as_=None))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    assert (body["keyId"], body["keyName"]) == ("a1", "name of a1")
    gold, platinum = body["plans"]
    assert gold["throttle"] == {"rateLimit": 10.0, "burstLimit": 20}
    (quota,) = gold["quotas"]
    assert {name: quota[name] for name in ("period", "counts", "limit", "used", "left", "overage")} == {
        "period": "MONTH",
        "counts": "REQUESTS",
        "limit": 1000,
        "used": 111,
        "left": 889,
        "overage": 0,
    }
    assert quota["starts"] < quota["resets"]
    assert (platinum["sharedByCustomer"], platinum["quotas"][0]["used"]) == (True, 333)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert body["days"][-1] == {
        "day": today,
        "requests": 222,
        "units": 222,
        "overage": 0,
        "refused": {"throttle": 6, "quota": 4},
    }


def test_the_reference_shows_an_answer_as_it_is() -> None:
    """Member by member: the page's example of a plan that no customer shares, and of a day."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "portal.md").read_text("utf-8")
    shown = next(each for each in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "keyId" in each)
    assert _members(json.loads(shown)) == _members(usage(world(as_=None)).json())


def _members(value: Any) -> Any:
    """The names of members and the types of values; of a list its first."""
    match value:
        case dict():
            return {name: _members(each) for name, each in value.items()}
        case list():
            return [_members(each) for each in value[:1]]
    return type(value)


def test_an_unchanged_answer_is_not_sent_again() -> None:
    pages = world(as_=None)
    first = usage(pages)
    tag = first.headers["etag"]
    assert (first.headers["cache-control"], first.headers["vary"]) == ("private, max-age=15", "x-api-key")
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = usage(pages, if_none_match=given)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert usage(pages, if_none_match='"x"').status_code == 200
    pages.context.usage.numbers["a1"] = 112  # type: ignore[attr-defined]
    assert usage(pages, if_none_match=tag).status_code == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [("?days=1", 200), ("?days=90", 200), ("?days=0", 400), ("?days=91", 400), ("?days=x", 400), ("?keyId=e1", 400)],
)
def test_the_days_are_a_number_and_nothing_else_is_taken(query: str, status: int) -> None:
    answer = usage(world(as_=None), query)
    assert answer.status_code == status
    if status == 400:
        assert (list(answer.json()), answer.headers["x-amzn-errortype"]) == (["message"], "BadRequestException")


def test_too_many_requests_of_a_key_are_refused_with_the_wait() -> None:
    pages = world(as_=None)
    pages.throttle.seconds = 7
    answer = usage(pages)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (
        429,
        "7",
        {"message": "Too Many Requests"},
    )
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_programs_can_only_read(verb: str) -> None:
    answer = world(as_=None).send(verb, "/portal/usage", headers={"x-api-key": VALUE, "Origin": "https://a.example"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_cookie_is_no_key_and_two_keys_are_none() -> None:
    pages = world()
    assert pages.send("GET", "/portal/usage").status_code == 403
    headers = [("x-api-key", VALUE), ("x-api-key", OTHER)]
    assert pages.send("GET", "/portal/usage", headers=headers).status_code == 403


# --- what caches keep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path", "more", "status"),
    [
        ("POST", "/apikeys", {"json": {"name": "new"}}, 201),
        ("GET", "/apikeys?includeValues=true", {}, 200),
        ("GET", "/apikeys/k1?includeValue=true", {}, 200),
        ("GET", "/usage/days?startDate=2026-01-01&endDate=2026-01-02", {"headers": {"Accept": "text/csv"}}, 200),
        ("GET", "/account", {"headers": {"Authorization": "Bearer wrong"}}, 403),
        ("GET", "/no/such/path", {}, 404),
    ],
)
def test_no_answer_of_the_api_may_be_kept_in_a_cache(verb: str, path: str, more: Any, status: int) -> None:
    """Answers hold values of keys, and their URLs do not say so."""
    pages = PortalPages(key_of("k1", "the value of one"))
    sent = {"headers": {"Authorization": f"Bearer {pages.token.secret}", **more.pop("headers", {})}, **more}
    answer = pages.send(verb, path, **sent)
    assert (answer.status_code, answer.headers.get("cache-control")) == (status, "no-store")

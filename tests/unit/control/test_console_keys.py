"""The pages of keys and customers, and the page Explain, in one process over a dictionary store."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from authz.aws.errors import ApiError
from authz.control.console.curl import curl_line
from authz.control.console.explaining import Answer, kind_of
from authz.core.resources import (
    ApiKey,
    ApiStage,
    Customer,
    LimitsPer,
    Override,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
    digest,
)
from authz.core.stored import StoredCustomer, StoredKey, StoredPlan, StoredStage
from authz.store.ports import Adjusted, StoreUnavailable, Written
from tests.support.pages import OWNER, READER, Pages
from tests.support.plane import SEALER, NoUsage

VALUE = "a-value-that-stands-out-of-all"
MARKUP = "<script>alert(1)</script>\"'&<b>"
ESCAPED = "&lt;script&gt;"

GOLD = StoredPlan(
    UsagePlan(
        "gold",
        "Gold",
        throttle=ThrottleSettings(rate_limit=10.0, burst_limit=20),
        quota=QuotaSettings(limit=1000, period=Period.MONTH),
    ),
    nonce="n",
)
SHARED = StoredPlan(
    UsagePlan("shared", "Shared", limits_per=LimitsPer.CUSTOMER, quota=QuotaSettings(limit=50, period=Period.DAY)),
    nonce="m",
)


def key(id_: str = "k1", name: str = "acme app", *plans: StoredPlan, **fields: Any) -> StoredKey:
    refs = tuple(plan.ref for plan in plans)
    value = SEALER.index(digest(VALUE))
    return StoredKey(ApiKey(id_, name, **fields), value, 1_700_000_000, 1_700_000_000, plans=refs)


def customer(id_: str = "acme", **fields: Any) -> StoredCustomer:
    return StoredCustomer(Customer(id_, **fields), 1_700_000_000, 1_700_000_000)


def stored(pages: Pages, id_: str = "k1") -> StoredKey:
    found = pages.store.items["apikey", id_]
    assert isinstance(found, StoredKey)
    return found


def whats(pages: Pages) -> list[str]:
    """The operations that wrote something."""
    return [line.split()[1] for line in pages.store.lines]


# --- every page ---------------------------------------------------------------------------------------------------

PAGES = [
    "/console/keys",
    "/console/keys?name=acme",
    "/console/keys?customer=acme",
    "/console/keys/unused?days=30",
    "/console/keys/customers",
    "/console/keys/customers/one?id=acme",
    "/console/keys/id/k1",
    "/console/explain",
    "/console/explain?key=k1",
]
FORMS = [
    "/console/keys/new",
    "/console/keys/customers/new",
    "/console/keys/customers/delete?id=acme",
    "/console/keys/id/k1/delete",
]
WRITES = [
    *FORMS,
    *(f"/console/keys/id/k1/{name}" for name in ("enabled", "rotate", "end-previous", "extend", "join", "leave")),
    *(f"/console/keys/id/k1/{name}" for name in ("override", "details", "tags")),
    *(f"/console/keys/customers/{name}?id=acme" for name in ("details", "override", "extend")),
]


def world() -> tuple[Any, ...]:
    return GOLD, SHARED, customer(), key("k1", "acme app", GOLD, SHARED, customer_id="acme")


@pytest.mark.parametrize("path", PAGES)
def test_a_reader_sees_each_page_without_a_form_that_writes(path: str) -> None:
    answer = Pages(*world(), as_=READER).get(path)
    assert answer.status_code == 200, answer.text
    actions = set(re.findall(r'<form[^>]*method="post" action="([^"]*)"', answer.text))
    assert actions <= {"/console/sign-out", "/console/zone", "/console/keys/search", "/console/explain"}
    assert "/keys/new" not in answer.text


@pytest.mark.parametrize("path", FORMS)
def test_a_reader_may_not_open_a_form_that_writes(path: str) -> None:
    assert Pages(*world(), as_=READER).get(path).status_code == 403


@pytest.mark.parametrize("path", WRITES)
def test_a_reader_may_not_send_a_form_that_writes(path: str) -> None:
    pages = Pages(*world(), as_=READER)
    assert pages.post(path, {"enabled": "false", "name": "x", "units": "1"}).status_code == 403
    assert pages.store.lines == []


@pytest.mark.parametrize("path", [*PAGES, *FORMS])
def test_an_owner_sees_each_page(path: str) -> None:
    answer = Pages(*world()).get(path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", [*PAGES, *FORMS])
def test_a_store_without_anything_has_pages_that_say_what_to_do(path: str) -> None:
    named = "k1" in path or "id=" in path
    assert Pages().get(path).status_code == (404 if named and "explain" not in path else 200)


# --- text of strangers --------------------------------------------------------------------------------------------


def stranger() -> tuple[Any, ...]:
    """Markup in every field that a stranger may have written."""
    odd = StoredPlan(UsagePlan("p1", MARKUP, throttle=ThrottleSettings(rate_limit=1.0, burst_limit=1)), nonce="n")
    shared = replace(SHARED, plan=replace(SHARED.plan, name=MARKUP))
    key_ = key("k1", MARKUP, odd, shared, customer_id=MARKUP, description=MARKUP, tags={MARKUP: MARKUP})
    return odd, shared, customer(MARKUP, name=MARKUP, tags={MARKUP: MARKUP}), key_


CUSTOMER_QUERY = urlencode({"id": MARKUP})


@pytest.mark.parametrize("reader", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "/console/keys",
        f"/console/keys?{urlencode({'name': MARKUP})}",
        f"/console/keys?{urlencode({'customer': MARKUP})}",
        "/console/keys/unused",
        f"/console/keys/unused?{urlencode({'days': MARKUP})}",
        "/console/keys/customers",
        f"/console/keys/customers/one?{CUSTOMER_QUERY}",
        f"/console/keys/customers/delete?{CUSTOMER_QUERY}",
        f"/console/keys/new?{urlencode({'customer': MARKUP})}",
        "/console/keys/id/k1",
        "/console/keys/id/k1/delete",
        f"/console/keys/id/{urlencode({'': MARKUP})[1:]}",
        f"/console/explain?{urlencode({'key': MARKUP})}",
    ],
)
def test_markup_in_any_field_is_text(path: str, reader: bool) -> None:
    pages = Pages(*stranger(), as_=READER if reader else OWNER)
    pages.store.lines.append(f"{MARKUP.replace(' ', '')} UpdateApiKey k1 {MARKUP}")
    answer = pages.get(path)
    assert "<script>alert" not in answer.text
    assert "<b>" not in answer.text


SENT = (
    (
        "/console/keys/new",
        ("name", "customer", "customer_name", "description", "sources", "billing_day", "expires", "plan"),
    ),
    ("/console/keys/customers/new", ("id", "name", "billing_day")),
    ("/console/keys/id/k1/extend", ("quota", "units", "reason", "grant")),
    ("/console/keys/id/k1/rotate", ("overlap",)),
    ("/console/keys/id/k1/join", ("join",)),
    ("/console/keys/id/k1/leave", ("leave",)),
    ("/console/keys/id/k1/override", ("override", "rate.gold", "burst.gold", "limit.gold.MONTH.UNITS")),
    ("/console/keys/id/k1/details", ("name", "description", "customer", "expires", "sources", "billing_day")),
    ("/console/keys/id/k1/tags", ("tags",)),
    ("/console/keys/customers/details?id=acme", ("name", "billing_day", "tags", "seen")),
    ("/console/keys/customers/override?id=acme", ("override", "rate.shared", "limit.shared.DAY.UNITS", "seen")),
    ("/console/keys/customers/extend?id=acme", ("quota", "units", "reason", "grant")),
    ("/console/keys/search", ("q",)),
    ("/console/explain", ("what", "url", "method", "headers", "source")),
)


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, fields in SENT for field in fields])
def test_markup_that_is_sent_in_any_field_is_text(path: str, field: str) -> None:
    answer = Pages(*world()).post(path, {"name": "n", "id": "i", "override": "gold", field: MARKUP}, follow=True)
    assert answer.status_code < 500, answer.text
    assert "<script>alert" not in answer.text


# --- lists and search ---------------------------------------------------------------------------------------------


def test_keys_are_listed_in_pages_that_keep_the_filter() -> None:
    keys = [replace(key(f"k{n:03}", f"acme {n:03}"), index=f"{n:064x}") for n in range(60)]
    pages = Pages(*keys)
    first = pages.get("/console/keys?name=acme")
    assert (first.text.count('<th scope="row">'), "/console/keys?name=acme&amp;position=50" in first.text) == (50, True)
    second = pages.get("/console/keys?name=acme&position=50")
    assert (second.text.count('<th scope="row">'), 'rel="next"' in second.text) == (10, False)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("k1", "/console/keys/id/k1"),
        (VALUE, "/console/keys/id/k1"),
        ("acme", "/console/keys/customers/one?id=acme"),
        ("acme a", "/console/keys?name=acme+a"),
        ("", "/console/keys"),
    ],
)
def test_one_search_finds_keys_and_customers(text: str, location: str) -> None:
    answer = Pages(*world()).post("/console/keys/search", {"q": text})
    assert (answer.status_code, answer.headers["location"].split("&message")[0]) == (303, location)


@pytest.mark.parametrize("text", ["upk_00000000000000000000000000000000000000", "x" * 20])
def test_a_value_that_no_key_has_stands_neither_in_a_url_nor_in_the_page(text: str) -> None:
    answer = Pages(*world()).post("/console/keys/search", {"q": text})
    assert (answer.status_code, text in answer.text) == (200, False)
    assert "There is no key or customer for this text." in answer.text


def test_days_that_make_no_sense_are_refused_beside_the_field() -> None:
    answer = Pages().get("/console/keys/unused?days=0")
    assert answer.status_code == 400
    assert "Invalid days: expected a number from 1 to 400" in answer.text


# --- a new key ----------------------------------------------------------------------------------------------------

NEW = {"name": "shop", "customer": "new-1", "customer_name": "New", "plan": "gold", "enabled": "on"}


def test_a_new_key_comes_with_its_customer_and_plans_and_its_value_is_shown_once() -> None:
    pages = Pages(GOLD)
    answer = pages.post("/console/keys/new", NEW | {"sources": "10.0.0.0/8, 192.0.2.1"})
    assert whats(pages) == [
        "CreateCustomer",
        "CreateApiKey",
        "PutApiKeyExtension",
        "CreateUsagePlanKey",
        "UpdateApiKey",
    ]
    location = answer.headers["location"]
    shown = pages.get(location)
    value = re.search(r'id="secret">(upk_\w+)<', shown.text)
    assert value is not None
    (made,) = [item for (kind, _), item in pages.store.items.items() if kind == "apikey"]
    assert isinstance(made, StoredKey)
    assert made.index == SEALER.index(digest(value[1]))
    assert (made.key.enabled, made.plans, made.key.customer_id) == (True, (GOLD.ref,), "new-1")
    assert made.key.allowed_sources == ("10.0.0.0/8", "192.0.2.1")
    assert value[1] not in location
    again = pages.get(location)
    assert (value[1] in again.text, "The value was shown once" in again.text) == (False, True)
    assert value[1].encode() not in b"".join(pages.tokens.values.values())


def test_a_value_is_shown_to_the_session_and_on_the_page_of_its_key_only() -> None:
    pages = Pages(*world())
    location = pages.post("/console/keys/id/k1/rotate", {"overlap": "0"}).headers["location"]
    pages.store.items["apikey", "k2"] = replace(key("k2"), index="2" * 64)
    assert 'id="secret"' not in pages.get(location.replace("/k1?", "/k2?")).text
    assert 'id="secret"' not in pages.get(location).text, "a look at another page has used it up"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"plan": "nothing"}, "Invalid Usage Plan ID specified"),
        ({"sources": "300.1.1.1"}, "Invalid $.allowedSources[0]"),
        ({"expires": "tomorrow"}, "Invalid expiresAt"),
        ({"billing_day": "31"}, "$.billingDay"),
        ({"billing_day": "x"}, "Expected a whole number."),
        ({"name": "n" * 1025}, "Invalid API Key name"),
        ({"customer": ""}, "A new customer needs an id"),
        ({"customer": "acme", "customer_name": "Another"}, "under another name"),
        ({"customer": "acme", "customer_name": "", "billing_day": "9"}, "has a billing day of its own"),
    ],
)
def test_a_new_key_with_a_mistake_leaves_nothing_and_keeps_the_form(changed: dict[str, str], text: str) -> None:
    pages = Pages(GOLD, customer("acme", name="Acme", billing_day=5))
    before = dict(pages.store.items)
    answer = pages.post("/console/keys/new", NEW | changed)
    assert (answer.status_code in (400, 404), text in answer.text) == (True, True), answer.text
    assert pages.store.items == before
    assert f'value="{(NEW | changed)["name"]}"' in answer.text
    assert re.search(r'value="gold" checked', answer.text) or "plan" in changed


def test_a_second_plan_of_the_same_stage_is_refused_whole() -> None:
    stages = (ApiStage("a1", "prod"),)
    one = StoredPlan(UsagePlan("one", "One", api_stages=stages), nonce="1")
    two = StoredPlan(UsagePlan("two", "Two", api_stages=stages), nonce="2")
    pages = Pages(one, two, StoredStage("a1", "prod", "d1", 1, 1))
    before = dict(pages.store.items)
    answer = pages.post("/console/keys/new", {"name": "x", "plan": ["one", "two"]})
    assert (answer.status_code, pages.store.items == before) == (409, True)


def test_a_break_in_the_middle_says_what_exists() -> None:
    """Redis goes away after the customer was made."""
    pages = Pages(GOLD)
    write = pages.store.write

    async def breaking(edit: Any, *, who: str, what: str, **rest: Any) -> Any:
        if what.startswith("CreateUsagePlanKey"):
            raise StoreUnavailable("gone")
        return await write(edit, who=who, what=what, **rest)

    pages.store.write = breaking  # type: ignore[method-assign]
    answer = pages.post("/console/keys/new", NEW)
    (made,) = [item for (kind, _), item in pages.store.items.items() if kind == "apikey"]
    assert isinstance(made, StoredKey)
    assert (answer.status_code, made.key.enabled) == (503, False)
    assert f"the customer new-1 and the key, which is disabled, {made.key.id} exist" in answer.text


# --- one key ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "is_enabled"), [("true", True), ("false", False)])
def test_a_key_is_disabled_and_enabled(sent: str, is_enabled: bool) -> None:
    pages = Pages(key("k1", enabled=not is_enabled))
    assert pages.post("/console/keys/id/k1/enabled", {"enabled": sent}).status_code == 303
    assert stored(pages).key.enabled is is_enabled


@pytest.mark.parametrize(("overlap", "is_kept"), [("3600", True), ("0", False)])
def test_a_key_is_rotated_with_and_without_overlap(overlap: str, is_kept: bool) -> None:
    pages = Pages(key())
    old = stored(pages).index
    answer = pages.post("/console/keys/id/k1/rotate", {"overlap": overlap}, follow=True)
    assert ('id="secret">upk_' in answer.text, stored(pages).index != old) == (True, True)
    assert (stored(pages).previous_index == old, "End the old value now" in answer.text) == (is_kept, is_kept)
    if is_kept:
        pages.post("/console/keys/id/k1/end-previous")
        assert stored(pages).previous_index is None


def test_a_rotation_without_a_choice_is_refused() -> None:
    """An absent field must not end the old value at once."""
    pages = Pages(key())
    assert pages.post("/console/keys/id/k1/rotate").status_code == 400
    assert pages.store.lines == []


class Grants(NoUsage):
    """Remembers the grants that were made."""

    def __init__(self) -> None:
        self.made: list[tuple[int, str, str]] = []

    async def grant(
        self, plan_id: str, holder: Any, quota: Any, units: int, *, name: str, who: str, what: str
    ) -> Written[Adjusted]:
        self.made.append((units, name, what))
        return await super().grant(plan_id, holder, quota, units, name=name, who=who, what=what)


def test_a_grant_has_a_reason_and_a_name_that_a_second_sending_repeats() -> None:
    usage = Grants()
    pages = Pages(*world(), usage=usage)
    page = pages.get("/console/keys/id/k1").text
    name = re.search(r'name="grant" value="([^"]+)"', page)
    choice = re.search(r'<option value="(gold MONTH \w+)"', page)
    assert name is not None
    assert choice is not None
    form = {"grant": name[1], "quota": choice[1], "units": "1,000", "reason": "order 7"}
    for _ in range(2):
        assert pages.post("/console/keys/id/k1/extend", form).status_code == 303
    assert {(units, given) for units, given, _ in usage.made} == {(1000, f"console/{name[1]}")}
    assert all(what.endswith("reason=order 7") for _, _, what in usage.made)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"units": ""}, "Expected a number of at least 1."),
        ({"units": "0"}, "Expected a number of at least 1."),
        ({"units": "-5"}, "Expected a whole number."),
        ({"reason": ""}, "Say why"),
        ({"quota": "gold DAY REQUESTS"}, "it has: MONTH"),
        ({"quota": "none MONTH UNITS"}, "Invalid Usage Plan ID specified"),
        ({"quota": ""}, "Invalid"),
    ],
)
def test_a_grant_with_a_mistake_is_not_made(changed: dict[str, str], text: str) -> None:
    usage = Grants()
    form = {"grant": "g", "quota": "gold MONTH UNITS", "units": "5", "reason": "why"} | changed
    answer = Pages(*world(), usage=usage).post("/console/keys/id/k1/extend", form)
    assert (400 <= answer.status_code < 500, text in answer.text, usage.made) == (True, True, [])
    assert 'name="grant" value="g"' in answer.text


def test_a_key_joins_and_leaves_a_plan_and_has_numbers_of_its_own_there() -> None:
    pages = Pages(GOLD, key())
    pages.post("/console/keys/id/k1/join", {"join": "gold"})
    assert stored(pages).plans == (GOLD.ref,)
    form = {"override": "gold", "rate.gold": "2.5", "burst.gold": "", "limit.gold.MONTH.UNITS": "9,000"}
    pages.post("/console/keys/id/k1/override", form)
    own = stored(pages).overrides[GOLD.ref]
    assert own.throttle == ThrottleSettings(rate_limit=2.5)
    assert [(quota.period, quota.limit) for quota in own.quotas] == [(Period.MONTH, 9000)]
    shown = pages.get("/console/keys/id/k1").text
    assert ('value="2.5"' in shown, 'value="9000"' in shown) == (True, True)
    pages.post("/console/keys/id/k1/override", {"override": "gold"})
    assert stored(pages).overrides == {}
    pages.post("/console/keys/id/k1/leave", {"leave": "gold"})
    assert stored(pages).plans == ()


@pytest.mark.parametrize("rate", ["0,5", "1,00", "1,0000", "5 or 6", "."])
def test_a_rate_that_could_be_read_in_two_ways_is_refused(rate: str) -> None:
    """In many countries 0,5 is a half. It must not become 5."""
    pages = Pages(*world())
    answer = pages.post("/console/keys/id/k1/override", {"override": "gold", "rate.gold": rate})
    assert (answer.status_code, "Expected a number, such as 10 or 0.5." in answer.text) == (400, True)
    assert (stored(pages).overrides, pages.store.lines) == ({}, [])


def test_the_smallest_rate_is_shown_in_full_and_saved_as_it_is_shown() -> None:
    slow = StoredPlan(UsagePlan("slow", "Slow", throttle=ThrottleSettings(rate_limit=0.000001)), nonce="s")
    own = {slow.ref: Override(throttle=ThrottleSettings(rate_limit=0.000002))}
    pages = Pages(slow, replace(key("k1", "acme", slow), overrides=own))
    page = pages.get("/console/keys/id/k1").text
    assert ('value="0.000002"' in page, "e-06" in page + pages.get("/console/plans").text) == (True, False)
    sent = {"override": "slow", "rate.slow": "0.000002"}
    assert pages.post("/console/keys/id/k1/override", sent).status_code == 303
    assert stored(pages).overrides == own


def test_details_change_the_edited_fields_alone() -> None:
    pages = Pages(key("k1", "acme", customer_id="c", tags={"a": "b"}))
    form = {"name": "acme", "customer": "", "sources": "10.0.0.1\n10.0.0.2", "billing_day": "5", "expires": ""}
    assert pages.post("/console/keys/id/k1/details", form).status_code == 303
    found = stored(pages).key
    assert (found.name, found.description, found.customer_id, found.billing_day) == ("acme", None, None, 5)
    assert (found.allowed_sources, found.tags) == (("10.0.0.1", "10.0.0.2"), {"a": "b"})


def test_tags_are_added_changed_and_removed() -> None:
    pages = Pages(key("k1", tags={"a": "1", "b": "2"}))
    pages.post("/console/keys/id/k1/tags", {"tags": "b=3\nc = 4 = 5"})
    assert stored(pages).key.tags == {"b": "3", "c": "4 = 5"}


@pytest.mark.parametrize("sent", ["a", "=1", "a=1\na=2"])
def test_tags_that_cannot_all_be_kept_are_refused(sent: str) -> None:
    pages = Pages(key("k1", tags={"a": "0"}))
    answer = pages.post("/console/keys/id/k1/tags", {"tags": sent})
    assert (answer.status_code, "each name once" in answer.text) == (400, True)
    assert stored(pages).key.tags == {"a": "0"}


def test_a_key_is_deleted_after_a_question() -> None:
    pages = Pages(key())
    asked = pages.get("/console/keys/id/k1/delete")
    assert ("Delete the key k1" in asked.text, ("apikey", "k1") in pages.store.items) == (True, True)
    pages.post("/console/keys/id/k1/delete")
    assert ("apikey", "k1") not in pages.store.items
    assert pages.get("/console/keys/id/k1").status_code == 404


def test_a_key_of_the_file_has_no_buttons_that_could_not_work() -> None:
    pages = Pages(customer("acme"))
    plan = replace(GOLD, nonce="")
    pages.store.fixed = {("usageplan", "gold"): plan, ("apikey", "k1"): key("k1", "filed", plan)}
    answer = pages.get("/console/keys/id/k1")
    actions = re.findall(r'action="/console/keys/id/k1/(\w+)', answer.text)
    assert ("The configuration file defines this key." in answer.text, actions) == (True, ["extend"])
    assert pages.post("/console/keys/id/k1/enabled", {"enabled": "false"}).status_code == 409
    assert 'name="plan"' not in pages.get("/console/keys/new").text


@pytest.mark.parametrize("key_id", ["%2e%2e", "nothing", "k1%00", "k1%2Fx", "a" * 3000])
def test_a_key_that_does_not_exist_is_a_404(key_id: str) -> None:
    assert Pages(key()).get(f"/console/keys/id/{key_id}").status_code == 404


# --- customers ----------------------------------------------------------------------------------------------------


def test_a_customer_is_made_and_its_id_may_be_any_text() -> None:
    pages = Pages()
    made = pages.post("/console/keys/customers/new", {"id": "a/b? &c", "name": "C", "billing_day": "28"}, follow=True)
    assert (made.status_code, "The customer was made." in made.text) == (200, True)
    found = pages.store.items["customer", "a/b? &c"]
    assert isinstance(found, StoredCustomer)
    assert found.customer.billing_day == 28
    again = pages.post("/console/keys/customers/new", {"id": "a/b? &c"})
    assert (again.status_code, "Customer already exists" in again.text) == (409, True)


def test_a_customer_that_only_keys_name_has_a_page_and_can_be_listed() -> None:
    pages = Pages(key("k1", customer_id="c"))
    assert "it is not listed" in pages.get("/console/keys/customers/one?id=c").text
    pages.post("/console/keys/customers/details?id=c", {"name": "Corp"})
    assert ("customer", "c") in pages.store.items


def test_a_customers_numbers_change_in_one_plan_and_stay_in_others() -> None:
    other = Override(throttle=ThrottleSettings(rate_limit=1.0))
    acme = replace(customer("acme", name="A", tags={"t": "1"}), overrides={GOLD.ref: other})
    gold = replace(GOLD, plan=replace(GOLD.plan, limits_per=LimitsPer.CUSTOMER))
    pages = Pages(gold, SHARED, acme, key("k1", "", gold, SHARED, customer_id="acme"))
    page = pages.get("/console/keys/customers/one?id=acme").text
    seen = re.search(r'name="seen" value="(\d+)"', page)
    assert seen is not None
    form = {"override": "shared", "limit.shared.DAY.UNITS": "77", "seen": seen[1]}
    assert pages.post("/console/keys/customers/override?id=acme", form).status_code == 303
    found = pages.store.items["customer", "acme"]
    assert isinstance(found, StoredCustomer)
    assert (found.overrides[GOLD.ref], found.overrides[SHARED.ref].quotas[0].limit) == (other, 77)
    assert (found.customer.name, found.customer.tags) == ("A", {"t": "1"})


def test_two_people_do_not_overwrite_each_other() -> None:
    pages = Pages(customer("acme", name="A"))
    pages.post("/console/keys/customers/details?id=acme", {"name": "B", "seen": "1700000000"})
    late = pages.post("/console/keys/customers/details?id=acme", {"name": "C", "seen": "1700000000"})
    assert (late.status_code, "Another person changed the customer" in late.text) == (400, True)
    found = pages.store.items["customer", "acme"]
    assert isinstance(found, StoredCustomer)
    assert found.customer.name == "B"


def test_a_customer_is_deleted_after_a_question_and_its_keys_stay() -> None:
    pages = Pages(*world())
    assert "Its keys (1) stay" in pages.get("/console/keys/customers/delete?id=acme").text
    pages.post("/console/keys/customers/delete?id=acme")
    assert (("customer", "acme") in pages.store.items, ("apikey", "k1") in pages.store.items) == (False, True)


def test_a_link_into_the_portal_is_made_for_the_customer() -> None:
    pages = Pages(*world())
    answer = pages.post("/console/keys/customers/invite?id=acme", {"may_rotate": "on"}, follow=True)
    link = re.search(r"http://127\.0\.0\.1:8085/portal/link\?token=[\w-]+", answer.text)
    assert link is not None
    assert link[0] not in pages.get(str(answer.url)).text, "it is shown once"


# --- explain ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"method": "GET"}', "line"),
        ('envoy-1 | {"method": "GET"}', "line"),
        ("5f8e1c2a-0b1d-4c3e-9f00-1234567890ab", "request id"),
        ("k1", "key"),
        (VALUE, "key"),
    ],
)
def test_a_pasted_text_is_a_line_a_requests_id_or_a_key(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_an_explanation_is_read_for_its_headline() -> None:
    lines = ["then      429, denied", "key       k1", "plan      p (P)", "reason    plan_quota", "answer    429"]
    found = Answer.of([*lines, "          retry-after: 60"], datetime(2026, 3, 4, tzinfo=UTC))
    assert (found.key, found.reason, found.answer, found.then) == ("k1", "plan_quota", "429", "429, denied")
    assert found.free_at == int(datetime(2026, 3, 4, 0, 1, tzinfo=UTC).timestamp()) * 1_000_000


def test_an_explanation_of_a_call_without_a_key_has_no_key() -> None:
    found = Answer.of(["key       (none)", "answer    forwarded"], datetime(2026, 3, 4, tzinfo=UTC))
    assert (found.key, found.is_refusal, found.free_at) == ("", False, None)


def test_a_requests_id_alone_leads_to_the_log() -> None:
    answer = Pages(*world()).post("/console/explain", {"what": "5f8e1c2a-0b1d-4c3e-9f00-1234567890ab"})
    assert (answer.status_code, "The control plane keeps no requests" in answer.text) == (200, True)


@pytest.mark.parametrize("what", ["k1", VALUE])
def test_a_key_without_a_url_shows_how_it_stands(what: str) -> None:
    answer = Pages(*world()).post("/console/explain", {"what": what})
    assert (answer.status_code, "Quotas now" in answer.text, VALUE in answer.text) == (200, True, False)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"what": ""}, "Expected a key&#39;s id, a request&#39;s id or a line of the access log"),
        ({"what": "nothing"}, "No key has this id or value."),
        ({"what": "{broken"}, "Expected a line of Envoy&#39;s access log"),
        ({"what": "{}"}, "logLine: method"),
        ({"what": "k1", "url": "/prod/pets"}, "Invalid url"),
        ({"what": "k1", "url": "https://h/x", "source": "here"}, "Invalid source"),
        ({"what": "k1", "url": "https://h/x", "headers": "nonsense"}, "Expected a line for each header"),
    ],
)
def test_a_form_with_a_mistake_is_refused_beside_the_field(form: dict[str, str], text: str) -> None:
    answer = Pages(*world()).post("/console/explain", form)
    assert (answer.status_code, text in answer.text) == (400, True), answer.text


@pytest.mark.parametrize("field", ["what", "headers"])
def test_a_value_in_a_form_is_not_shown_again(field: str) -> None:
    sent = VALUE + "-unknown" if field == "what" else f"x-api-key: {VALUE}"
    for form in (
        {field: sent},
        {"what": "k1", "url": "no", field: sent},
        {"what": "k1", "url": "https://h/x", field: sent},
        {"what": "k1", field: sent},
        {"what": "5f8e1c2a-0b1d-4c3e-9f00-1234567890ab", field: sent},
    ):
        assert VALUE not in Pages(*world()).post("/console/explain", form).text


# --- curl ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "url", "line"),
    [
        ({"keySource": {"header": "x-api-key"}}, "https://a.test", "curl -i -H 'x-api-key: V' https://a.test/p"),
        ({"keySource": {"header": "x-api-key"}}, "http://a:1/b/", "curl -i -H 'x-api-key: V' http://a:1/b/p"),
        ({"keySource": {"header": "x-api-key"}}, None, "curl -i -H 'x-api-key: V' https://YOUR-API/p"),
        ({"keySource": {"header": "x"}, "host": "h.test"}, None, "curl -i -H 'x: V' https://h.test/p"),
        (
            {"keySource": {"header": "x"}, "host": "h.test"},
            "http://127.0.0.1:1",
            "curl -i -H 'Host: h.test' -H 'x: V' http://127.0.0.1:1/p",
        ),
        (
            {"keySource": {"header": "authorization", "scheme": "Bearer"}, "method": "POST"},
            "https://a",
            "curl -i -X POST -H 'authorization: Bearer V' https://a/p",
        ),
        ({"keySource": {"query": "k"}}, "https://a", "curl -i 'https://a/p?k=V'"),
        ({"keySource": {"cookie": "k"}}, "https://a", "curl -i -b k=V https://a/p"),
    ],
)
def test_a_line_for_a_shell_puts_the_key_where_the_api_looks(
    example: dict[str, Any], url: str | None, line: str
) -> None:
    assert curl_line({"method": "GET", "path": "/p"} | example, "V", url).text == line


@pytest.mark.parametrize("example", [None, {"method": "GET", "path": "/p"}])
def test_without_a_call_there_is_a_sentence_in_place_of_a_line(example: dict[str, Any] | None) -> None:
    found = curl_line(example, "V", None)
    assert (found.text, bool(found.note)) == (None, True)


def test_a_line_for_a_shell_quotes_what_a_shell_would_run() -> None:
    example = {"method": "GET", "path": "/a;rm -rf $(x)", "keySource": {"header": "x"}}
    text = curl_line(example, "v'; reboot; '", "https://a").text
    assert text is not None
    assert shlex.split(text) == ["curl", "-i", "-H", "x: v'; reboot; '", "https://a/a;rm%20-rf%20$(x)"]


# --- where a mistake is shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "form", "near"),
    [
        ("id/k1/override", {"override": "gold", "limit.gold.MONTH.UNITS": "0"}, 'aria-label="Gold"'),
        ("id/k1/leave", {"leave": "shared"}, 'aria-label="Shared"'),
        ("id/k1/join", {"join": "nothing"}, 'action="/console/keys/id/k1/join#plans"'),
        ("id/k1/extend", {"quota": "gold DAY UNITS", "units": "1", "reason": "r"}, "/extend#extend"),
        ("id/k1/rotate", {"overlap": "99999999999"}, 'action="/console/keys/id/k1/rotate#rotate"'),
        ("id/k1/details", {"name": "n", "expires": "x"}, 'action="/console/keys/id/k1/details#details"'),
        ("customers/override?id=acme", {"override": "shared", "limit.shared.DAY.UNITS": "0"}, "/plans/shared"),
        ("customers/details?id=acme", {"billing_day": "40"}, "#details"),
        ("customers/details?id=acme", {"seen": "1"}, "#details"),
        ("customers/extend?id=acme", {"quota": "shared DAY UNITS", "units": "1"}, "/extend?id=acme#extend"),
    ],
)
def test_a_mistake_is_shown_in_the_part_of_the_page_that_the_browser_scrolls_to(
    path: str, form: dict[str, str], near: str
) -> None:
    pages = Pages(*world())
    if "leave" in form:
        pages.store.write = _refusing  # type: ignore[method-assign]
    answer = pages.post(f"/console/keys/{path}", form)
    assert 400 <= answer.status_code < 500, answer.text
    part = answer.text.partition(near)[2]
    assert re.search(r'role="alert"|class="field wrong"', part[:2500]), answer.text


async def _refusing(*_: Any, **__: Any) -> Any:
    raise ApiError("ConflictException", "Not now")

"""The console's pages of plans and APIs: forms, mistakes, shadow, versions that sidecars serve."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from authz.aws.usage import CallerUse, DayRow, Days, RefusedRow
from authz.control.console.apis import throttle_of
from authz.control.console.planform import (
    MethodRow,
    PlanForm,
    QuotaRow,
    StageRow,
    by_field,
    document_of,
    method_key,
    read_plan_form,
)
from authz.control.console.planpage import live, refused_in_shadow
from authz.control.pages.forms import Form
from authz.core.problem import Problem
from authz.core.resources import (
    ApiStage,
    Deployment,
    Method,
    Mode,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.stored import Item, RestApi, StoredDeployment, StoredKey, StoredPlan, StoredStage
from authz.core.zones import DAY_US
from authz.store.ports import Presence, UsageReading
from tests.support.builders import key
from tests.support.pages import READER, Pages
from tests.support.plane import NoUsage

MARKUP = "<script>alert('x')</script>\"'&"
SHOP: tuple[Item, ...] = (
    RestApi("a", "Pets", 0, "r"),
    StoredDeployment("d", "a", 0, Deployment(resources={"/pets": {"GET": Method(), "POST": Method()}})),
    StoredStage(
        "a", "prod", "d", 0, 0, method_settings={"pets/GET": {"throttlingRateLimit": 7.0, "throttlingBurstLimit": 9}}
    ),
    StoredStage("a", "test", "d", 0, 0),
)
TYPED = {
    "do": "save",
    "name": "Gold",
    "description": "two\nlines",
    "mode": "shadow",
    "failurePolicy": "deny",
    "limitsPer": "CUSTOMER",
    "rate": "2.5",
    "burst": "1,000",
    "counts": "UNITS",
    "q0-period": "MONTH",
    "q0-limit": "5,000",
    "q0-counts": "UNITS",
    "q0-anchor": "BILLING_DAY",
    "q0-overage": "unlimited",
    "q0-alerts": "80 %, 100 %",
    "q0-zone": "Europe/Berlin",
    "q2-period": "WEEK",
    "q2-limit": "7",
    "q2-counts": "REQUESTS",
    "q2-anchor": "CALENDAR",
    "q2-offset": "1",
    "s0-place": "a/prod",
    "s0-m0-method": "get /pets",
    "s0-m0-rate": "1",
    "s0-m0-burst": "",
    "s0-m0-counts": "REQUESTS",
    "s0-m1-method": "",
    "s0-m1-rate": "",
    "s0-m1-burst": "",
    "s0-m1-counts": "REQUESTS",
    "s1-place": "a/test",
    "s1-out": "on",
    "tags": "team = pets\ncolour=",
}
GOLD = {
    "name": "Gold",
    "description": "two\nlines",
    "mode": "shadow",
    "failurePolicy": "deny",
    "limitsPer": "CUSTOMER",
    "throttle": {"rateLimit": 2.5, "burstLimit": 1000, "counts": "UNITS"},
    "quotas": [
        {
            "limit": 5000,
            "period": "MONTH",
            "counts": "UNITS",
            "timeZone": "Europe/Berlin",
            "anchor": "BILLING_DAY",
            "overage": {"upTo": "UNLIMITED"},
            "alerts": [80, 100],
        },
        {"limit": 7, "period": "WEEK", "offset": 1, "counts": "REQUESTS", "anchor": "CALENDAR"},
    ],
    "apiStages": [{"apiId": "a", "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 1.0, "counts": "REQUESTS"}}}],
    "tags": {"team": "pets", "colour": ""},
}


def stored(**changes: Any) -> StoredPlan:
    return StoredPlan(UsagePlan(**{"id": "p", "name": "Gold", **changes}), nonce="n")


def form(values: dict[str, str]) -> Form:
    return Form({name: [value] for name, value in values.items()})


def plan_of(pages: Pages, name: str = "Gold") -> UsagePlan:
    plans = [item.plan for item in pages.store.items.values() if isinstance(item, StoredPlan)]
    (found,) = [plan for plan in plans if plan.name == name]
    return found


def wrong(page: str) -> dict[str, str]:
    """The problems beside fields, by the names of the fields."""
    found = re.findall(r'<p class="field wrong">.*?name="([^"]+)".*?<strong>(.*?)</strong>', page, re.DOTALL)
    return {name: unescape(text) for name, text in found}


# --- the form -------------------------------------------------------------------------------------------------------


def test_the_fields_make_a_document() -> None:
    assert document_of(read_plan_form(form(TYPED))) == (GOLD, {})


def test_an_edit_begins_with_the_plan_as_it_is_and_saves_it_unchanged() -> None:
    pages = Pages(*SHOP)
    assert pages.post("/console/plans-new", TYPED).status_code == 303
    made = plan_of(pages)
    page = pages.get(f"/console/plans/{made.id}/edit").text
    shown = read_plan_form(form(fields_of(page)))
    assert document_of(shown) == ({**GOLD, "revision": shown.revision}, {})
    assert pages.post(f"/console/plans/{made.id}/edit", {**fields_of(page), "do": "save"}).status_code == 303
    assert plan_of(pages) == made


def test_a_plan_of_the_file_may_have_any_word_of_our_paths_for_an_id() -> None:
    pages = Pages(*SHOP)
    for id_ in ("new", "id", "edit", "static", "plans-new"):
        pages.store.fixed = {("usageplan", id_): replace(stored(), plan=replace(stored().plan, id=id_, name="Odd"))}
        assert f'href="/console/plans/{id_}"' in pages.get("/console/plans").text
        assert "<h1>Odd" in pages.get(f"/console/plans/{id_}").text


def test_a_plan_with_many_methods_is_saved_and_one_with_too_many_is_refused_in_words() -> None:
    pages = Pages(*SHOP, stored())
    rows = {f"s{stage}-m{row}-rate": "" for stage in range(70) for row in range(20)}
    assert pages.post("/console/plans/p/edit", {**TYPED, **rows, "do": "draw"}).status_code == 200
    many = {f"x{n}": "" for n in range(4000)}
    large = {"description": "x" * 65_536}
    for more, words in ((many, "has more than 4000 fields. Nothing was changed"), (large, "larger than 65536 bytes")):
        answer = pages.post("/console/plans/p/edit", {**TYPED, **more})
        assert (answer.status_code, words in answer.text) == (413, True)


def fields_of(page: str) -> dict[str, str]:
    """The fields of a page's form as a browser would send them."""
    page = page.partition('<form method="post" action="/console/plans')[2].partition("</form>")[0]
    inputs = re.findall(r'<input(?: id="[^"]*")?(?: type="hidden")? name="([^"]+)"[^>]*? value="([^"]*)"', page)
    areas = re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)
    selects = re.findall(r'<select[^>]* name="([^"]+)"[^>]*>.*?<option value="([^"]*)" selected>', page, re.DOTALL)
    return {name: unescape(value) for name, value in (*inputs, *areas, *selects)}


def test_a_new_plan_is_written_in_one_step_and_its_page_is_shown() -> None:
    pages = Pages(*SHOP)
    answer = pages.post("/console/plans-new", TYPED)
    assert [line.split()[:2] for line in pages.store.lines] == [["owner", "CreateWholePlan"]]
    assert answer.headers["location"].startswith(f"/console/plans/{plan_of(pages).id}?since=1&message=")
    assert "The plan Gold was made." in pages.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"name": ""}, "name", "needs a name"),
        ({"name": "a\x7fb"}, "name", "no control characters"),
        ({"rate": "1e3"}, "rate", "expected a number"),
        ({"rate": "-1"}, "rate", "expected a number"),
        ({"rate": "", "burst": "", "counts": "UNITS"}, "rate", "needs a rate"),
        ({"rate": "", "burst": "5", "counts": "UNITS"}, "counts", "expected only beside rateLimit"),
        ({"rate": "99999999999"}, "rate", "2147483647"),
        ({"burst": "1.5"}, "burst", "expected a whole number"),
        ({"burst": "1,00"}, "burst", "expected a whole number"),
        ({"burst": "\u0661"}, "burst", "expected a whole number"),
        ({"burst": "9999999999"}, "burst", "whole number"),
        ({"mode": "on"}, "mode", "expected one of enforce, shadow"),
        ({"q0-limit": ""}, "q0-limit", "needs a limit"),
        ({"q0-limit": "0"}, "q0-limit", "\u2265 1"),
        ({"q0-period": ""}, "q0-period", "choose a period"),
        ({"q0-period": "YEAR"}, "q0-period", "expected one of HOUR"),
        ({"q0-zone": "Berlin"}, "q0-zone", "did you mean Europe/Berlin?"),
        ({"q0-overage": "much"}, "q0-overage", "unlimited"),
        ({"q0-overage": "0"}, "q0-overage", "expected"),
        ({"q0-alerts": "80 or so"}, "q0-alerts", "expected percents"),
        ({"q0-alerts": "80 80"}, "q0-alerts", "given twice"),
        ({"q0-overage": "", "q0-alerts": "101"}, "q0-alerts", "more than the quota ever admits"),
        ({"q2-offset": "7"}, "q2-offset", "from 0 to 6"),
        ({"q2-anchor": "BILLING_DAY"}, "q2-anchor", "only with the period MONTH"),
        ({"q1-alerts": "80"}, "q1-period", "choose a period"),
        ({"q3-period": "WEEK", "q3-limit": "1", "q3-counts": "REQUESTS"}, "q3-period", "another quota by WEEK"),
        ({"s0-m0-method": "GET /dogs"}, "s0-m0-method", "no resource /dogs"),
        ({"s0-m0-method": "PETS"}, "s0-m0-method", "Invalid method"),
        ({"s0-m0-method": ""}, "s0-m0-method", "name a method"),
        ({"s0-m0-rate": ""}, "s0-m0-rate", "needs a rate"),
        ({"s0-m1-method": "GET /pets", "s0-m1-rate": "2"}, "s0-m1-method", "named twice"),
        ({"tags": "team"}, "tags", "expected a tag on each line"),
        ({"tags": "a=1\na=2"}, "tags", "each name once"),
        ({"tags": "aws:a=1"}, "tags", "aws:"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_nothing_is_saved(typed: dict[str, str], field: str, words: str) -> None:
    pages = Pages(*SHOP)
    answer = pages.post("/console/plans-new", {**TYPED, **typed})
    assert answer.status_code == 400
    assert words in wrong(answer.text).get(field, ""), wrong(answer.text)
    assert not pages.store.lines
    assert fields_of(answer.text)["description"] == "two\nlines"


def test_mistakes_without_a_field_stand_above_the_form() -> None:
    pages = Pages(*SHOP)
    answer = pages.post("/console/plans-new", {**TYPED, "s0-place": "a/beta"})
    assert (answer.status_code, "the API a has no stage beta" in answer.text) == (400, True)
    other = stored(id="o", name="other", api_stages=(ApiStage("a", "prod"),))
    mine = stored(name="mine")
    member = StoredKey(key("k"), "i" * 64, 0, 0, plans=(other.ref, mine.ref))
    pages = Pages(*SHOP, other, mine, member)
    revision = fields_of(pages.get("/console/plans/p/edit").text)["revision"]
    answer = pages.post("/console/plans/p/edit", {**TYPED, "revision": revision})
    assert (answer.status_code, "cannot reference multiple Usage Plans" in answer.text) == (409, True)


def test_a_plan_that_was_changed_since_is_not_overwritten() -> None:
    pages = Pages(*SHOP, stored())
    typed = fields_of(pages.get("/console/plans/p/edit").text) | {"name": "Mine", "do": "save"}
    pages.post("/console/plans/p/mode", {"mode": "shadow"})
    answer = pages.post("/console/plans/p/edit", typed)
    assert (answer.status_code, "was changed after it was read" in answer.text) == (409, True)
    assert (fields_of(answer.text)["name"], plan_of(pages).mode) == ("Mine", Mode.SHADOW)


def test_an_edit_keeps_what_the_form_does_not_show() -> None:
    pages = Pages(*SHOP, StoredPlan(UsagePlan(id="p", name="Gold"), nonce="n", product_code="code"))
    pages.post(
        "/console/plans/p/edit", {**fields_of(pages.get("/console/plans/p/edit").text), "do": "save", "rate": "1"}
    )
    kept = pages.store.items["usageplan", "p"]
    assert isinstance(kept, StoredPlan)
    assert (kept.product_code, kept.plan.throttle) == ("code", ThrottleSettings(1.0))


def test_a_draft_is_drawn_with_its_layers_and_not_saved() -> None:
    pages = Pages(*SHOP)
    answer = pages.post("/console/plans-new", {**TYPED, "do": "draw", "q0-limit": "x"})
    assert (answer.status_code, list(wrong(answer.text)), pages.store.lines) == (200, ["q0-limit"], [])
    for words in (
        "2.5 units a second, 1,000 at once",
        "7 requests a week",
        "GET /pets of a/prod: 7 a second, 9 at once",
    ):
        assert words in answer.text
    assert fields_of(answer.text)["q0-limit"] == "x"


def test_the_enter_key_draws_and_saves_nothing() -> None:
    """A browser presses the first button of a form."""
    page = Pages(*SHOP).get("/console/plans-new").text
    values = re.findall(r'<button name="do" value="(\w+)"', page)
    assert (values[0], values[-1]) == ("draw", "save")


def test_stages_are_added_and_taken_out_before_anything_is_saved() -> None:
    pages = Pages(*SHOP)
    added = pages.post("/console/plans-new", {**TYPED, "do": "stage", "stage": "a/test", "s1-place": "a/gone"})
    places = {name: value for name, value in fields_of(added.text).items() if name.endswith("-place")}
    assert places == {"s0-place": "a/prod", "s1-place": "a/test"}
    again = pages.post("/console/plans-new", {**fields_of(added.text), "do": "stage", "stage": "a/test"})
    assert {name for name in fields_of(again.text) if name.endswith("-place")} == set(places)
    assert '<option value="GET /pets">' in added.text
    assert not pages.store.lines


@pytest.mark.parametrize(
    ("text", "key_"),
    [
        ("GET /pets/{id}", "/pets/{id}/GET"),
        ("get  pets", "/pets/GET"),
        ("* *", "/*/*"),
        ("ANY /", "//ANY"),
        ("/pets/GET", "/pets/GET"),
    ],
)
def test_a_method_is_written_as_people_do(text: str, key_: str) -> None:
    assert method_key(text) == key_


def test_problems_of_a_second_quota_stand_in_its_own_row() -> None:
    """An empty row before it is no quota of the document."""
    typed = PlanForm(quotas=(QuotaRow(), QuotaRow("DAY", "1"), QuotaRow(), QuotaRow("HOUR", "1")))
    problems = [
        Problem("$.quotas[1].timeZone", "a"),
        Problem("$.quotas[0].alerts[2]", "b"),
        Problem("$.quotas[1].overage.upTo", "c"),
        Problem("$.quotas[7].limit", "d"),
        Problem("$", "e"),
    ]
    expected = {"q3-zone": "a", "q1-alerts": "b", "q3-overage": "c"}
    assert by_field(problems, typed) == (expected, ["$.quotas[7].limit: d", "$: e"])


def test_problems_of_methods_stand_beside_them() -> None:
    methods = (MethodRow("GET /pets", "1"), MethodRow("PUT /it's/here", "1"), MethodRow("POST pets", "1"))
    typed = PlanForm(stages=(StageRow("a", "test"), StageRow("a", "prod", methods)))
    problems = [
        Problem("$.apiStages[1].throttle['/it's/here/PUT'].rateLimit", "a"),
        Problem("$.apiStages[1].throttle['/pets/POST']", "b"),
        Problem("$.apiStages[1].throttle", "c"),
        Problem("$.apiStages[0].stage", "d"),
    ]
    expected = {"s1-m1-rate": "a", "s1-m2-method": "b", "s1-place": "c", "s0-place": "d"}
    assert by_field(problems, typed) == (expected, [])


# --- a plan's page --------------------------------------------------------------------------------------------------


def test_a_plan_in_shadow_is_enforced_by_one_button() -> None:
    pages = Pages(*SHOP, stored(mode=Mode.SHADOW))
    assert '<input type="hidden" name="mode" value="enforce">' in pages.get("/console/plans/p").text
    answer = pages.post("/console/plans/p/mode", {"mode": "enforce"})
    assert (answer.status_code, plan_of(pages).mode) == (303, Mode.ENFORCE)
    page = pages.get(answer.headers["location"]).text
    assert ("The plan Gold is enforced now." in page, 'name="mode" value="shadow"' in page) == (True, True)
    assert pages.post("/console/plans/p/mode", {"mode": "maybe"}).status_code == 400
    assert pages.post("/console/plans/none/mode", {"mode": "enforce"}).status_code == 404


def catalog(*versions: int, head: int = 9, epoch: str = "e") -> dict[str, Any]:
    sidecars = [{"id": str(n), "epoch": epoch, "version": version} for n, version in enumerate(versions)]
    return {"version": head, "epoch": "e", "sidecars": sidecars}


@pytest.mark.parametrize(
    ("document", "since", "version", "count", "total"),
    [
        (catalog(9, 8, 7), "8", 8, 2, 3),
        (catalog(9, 9), "9", 9, 2, 2),
        (catalog(9, 8), None, 9, 1, 2),
        (catalog(), "9", 9, 0, 0),
        (catalog(9, epoch="other"), "1", 1, 0, 1),
        (catalog(9), "10", 9, 1, 1),
        (catalog(9), "<b>", 9, 1, 1),
        (catalog(9), "9" * 400, 9, 1, 1),
    ],
    ids=["a change", "everywhere", "no change", "no sidecar", "before a restore", "of the future", "markup", "long"],
)
def test_a_change_is_live_on_the_sidecars_that_serve_its_version(
    document: dict[str, Any], since: str | None, version: int, count: int, total: int
) -> None:
    found = live(document, since)
    assert (found.version, found.count, found.total) == (version, count, total)


def test_the_page_of_a_change_refreshes_until_every_sidecar_serves_it() -> None:
    pages = Pages(*SHOP, stored())
    sidecars = [Presence("w1", "epoch", 0), Presence("w2", "epoch", 1)]

    async def presences() -> list[Presence]:
        return sidecars

    pages.store.presences = presences  # type: ignore[method-assign]
    location = pages.post("/console/plans/p/mode", {"mode": "shadow"}).headers["location"]
    page = pages.get(location).text
    assert ("live on 1 of 2 sidecars" in page, 'data-refresh="1"' in page) == (True, True)
    assert 'href="/console/plans/p?since=1">Look again' in page
    sidecars[0] = Presence("w1", "epoch", 1)
    page = pages.get(location).text
    assert ("live on 2 of 2 sidecars" in page, 'data-refresh="1"' in page) == (True, False)


def test_keys_that_a_shadow_plan_would_have_refused_are_listed_worst_first() -> None:
    def item(key_id: str, requests: int, throttle: int, quota: int) -> dict[str, Any]:
        return {"keyId": key_id, "requests": requests, "shadow": {"throttle": throttle, "quota": quota}}

    rows = refused_in_shadow([item("a", 5, 0, 0), item("b", 8, 1, 0), item("c", 10, 2, 3), item("d", 0, 1, 0)])
    assert [(row.key_id, row.total, row.percent) for row in rows] == [("c", 5, 50.0), ("b", 1, 12.5), ("d", 1, 100.0)]


class Used(NoUsage):
    """Each key has had two calls today; of them a plan in shadow would have refused one by its quota."""

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        today = int(time.time()) // 86_400
        use = CallerUse(
            rows={today: DayRow(2, 0, 2, 0)}, refused={today: RefusedRow(shadow_quota=1)} if refused else {}
        )
        return UsageReading(today * DAY_US, dict.fromkeys(key_ids, use))


def test_the_page_of_a_plan_in_shadow_shows_whom_it_would_have_refused() -> None:
    shadow = stored(mode=Mode.SHADOW)
    keys = [StoredKey(key(f"k{n}", name=f"<i>{n}"), f"{n}" * 64, 0, 0, plans=(shadow.ref,)) for n in range(3)]
    page = Pages(*SHOP, shadow, *keys, usage=Used()).get("/console/plans/p").text
    assert "it would have refused 0 by throttles and 3 by quotas" in page
    assert page.count('href="/console/keys/id/k1">&lt;i&gt;1</a>') == 2
    assert page.count("50.0 %") == 3
    enforced = stored()
    page = Pages(*SHOP, enforced, usage=Used()).get("/console/plans/p").text
    assert "would have refused" not in page


def test_keys_of_a_plan_are_found_by_the_beginning_of_their_name() -> None:
    plan = stored()
    keys = [
        StoredKey(key(f"k{n}", name=name), f"{n}" * 64, 0, 0, plans=(plan.ref,))
        for n, name in enumerate(("Acme", "Bob"))
    ]
    pages = Pages(*SHOP, plan, *keys)
    assert 'href="/console/keys/id/k0">Acme</a>' in pages.get("/console/plans/p").text
    found = pages.get("/console/plans/p?name=Bo").text
    assert ("Bob" in found, "Acme" in found) == (True, False)
    assert "No key of this plan" in pages.get("/console/plans/p?name=x").text
    assert pages.get("/console/plans/p?position=x").status_code == 400


def test_a_plan_is_deleted_after_its_stages_were_taken_out_and_a_question() -> None:
    pages = Pages(*SHOP, stored(api_stages=(ApiStage("a", "prod"),)))
    page = pages.get("/console/plans/p/delete").text
    assert ("take them out first" in page, '<form method="post" action="/console/plans/p/delete"' in page) == (
        True,
        False,
    )
    assert pages.post("/console/plans/p/delete").status_code == 400
    pages = Pages(*SHOP, stored())
    assert 'action="/console/plans/p/delete"' in pages.get("/console/plans/p/delete").text
    assert pages.post("/console/plans/p/delete", follow=True).status_code == 200
    assert ("usageplan", "p") not in pages.store.items


WRITES = [
    ("GET", "/console/plans-new"),
    ("POST", "/console/plans-new"),
    ("GET", "/console/plans/p/edit"),
    ("POST", "/console/plans/p/edit"),
    ("POST", "/console/plans/p/mode"),
    ("GET", "/console/plans/p/delete"),
    ("POST", "/console/plans/p/delete"),
]


@pytest.mark.parametrize(("verb", "path"), WRITES)
def test_a_reader_may_change_no_plan(verb: str, path: str) -> None:
    pages = Pages(*SHOP, stored(), as_=READER)
    before = dict(pages.store.items)
    answer = pages.get(path) if verb == "GET" else pages.post(path, {**TYPED, "mode": "shadow"})
    assert (answer.status_code, pages.store.items) == (403, before)


def test_a_reader_sees_no_button_that_writes() -> None:
    pages = Pages(*SHOP, stored(mode=Mode.SHADOW), as_=READER)
    for path in ("/console/plans", "/console/plans/p", "/console/apis", "/console/apis/a"):
        actions = re.findall(r'(?:action|href)="([^"]+)"', pages.get(path).text)
        assert not [at for at in actions if at.endswith(("/new", "-new", "/edit", "/mode", "/delete")) or "/new?" in at]


def test_a_plan_of_the_configuration_file_is_shown_without_buttons() -> None:
    pages = Pages(*SHOP)
    pages.store.fixed = {("usageplan", "p"): stored()}
    page = pages.get("/console/plans/p").text
    assert ("The configuration file defines this plan" in page, "/plans/p/edit" in page) == (True, False)
    typed = {**TYPED, "revision": ""}
    assert "read-only here" in pages.post("/console/plans/p/edit", typed).text
    assert pages.post("/console/plans/p/mode", {"mode": "shadow"}).status_code == 409


@pytest.mark.parametrize("path", ["/console/plans/none", "/console/plans/none/edit", "/console/apis/none"])
def test_a_page_of_nothing_is_404(path: str) -> None:
    assert Pages(*SHOP).get(path).status_code == 404


def test_empty_lists_say_what_to_do_next() -> None:
    pages = Pages()
    assert "Make the first one." in pages.get("/console/plans").text
    assert "authz import" in pages.get("/console/apis").text
    pages = Pages(*SHOP, stored())
    page = pages.get("/console/plans/p").text
    for words in ("The plan covers no stage", "The plan has no key", "No sidecar follows this store"):
        assert words in page


# --- APIs -----------------------------------------------------------------------------------------------------------


def test_the_page_of_an_api_shows_what_its_stages_serve() -> None:
    pages = Pages(*SHOP, stored(api_stages=(ApiStage("a", "prod"),)))
    assert 'href="/console/apis/a">Pets</a>' in pages.get("/console/apis").text
    assert "10,000 a second, 5,000 at once" in pages.get("/console/apis").text
    page = pages.get("/console/apis/a").text
    for words in ("Stage prod", "Stage test", 'href="/console/plans/p">Gold</a>', "7 a second, 9 at once"):
        assert words in page
    assert page.count("<code>GET /pets</code>") == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, ""),
        ({"throttlingRateLimit": None}, ""),
        ({"throttlingRateLimit": -1, "throttlingBurstLimit": -1}, "no limit"),
        ({"throttlingRateLimit": 0.5, "throttlingBurstLimit": -1}, "0.5 a second"),
        ({"throttlingRateLimit": 0, "throttlingBurstLimit": 0}, "0 a second, 0 at once"),
    ],
)
def test_a_stages_throttle_in_words(settings: dict[str, Any] | None, words: str) -> None:
    assert throttle_of(settings) == words


# --- texts of strangers ---------------------------------------------------------------------------------------------


def test_no_text_of_a_resource_becomes_markup() -> None:
    """Any writer chooses names, descriptions, tags and paths."""
    plan = stored(
        name=MARKUP,
        description=MARKUP,
        tags={MARKUP: MARKUP},
        mode=Mode.SHADOW,
        quota=QuotaSettings(5, Period.DAY, time_zone=MARKUP),
        api_stages=(ApiStage("a", "prod", throttle={f"/{MARKUP}/GET": ThrottleSettings(1.0, 1)}),),
    )
    served = Deployment(resources={f"/{MARKUP}": {"GET": Method()}})
    pages = Pages(
        RestApi("a", MARKUP, 0, "r", description=MARKUP),
        StoredDeployment("d", "a", 0, served, description=MARKUP),
        StoredStage("a", "prod", "d", 0, 0, description=MARKUP),
        plan,
        StoredKey(key("k", name=MARKUP, customer_id=MARKUP), "i" * 64, 0, 0, plans=(plan.ref,)),
    )
    paths = ["/plans", "/plans-new", "/plans/p", "/plans/p/edit", "/plans/p/delete", "/apis", "/apis/a"]
    answers = [pages.get(f"/console{path}") for path in paths]
    typed = dict.fromkeys((*TYPED, "stage", "otherStage"), MARKUP)
    answers += [pages.post("/console/plans-new", {**typed, "do": do}) for do in ("draw", "save", "stage", MARKUP)]
    answers.append(pages.post("/console/plans/p/mode", {"mode": MARKUP}))
    answers.append(pages.get("/console/plans/p?" + urlencode(dict.fromkeys(("name", "since", "message"), MARKUP))))
    for answer in answers:
        assert answer.status_code in (200, 400)
        assert "&lt;script&gt;alert" in answer.text or answer.request.url.path.endswith("/mode")
        assert ("<script>alert" in answer.text, "alert('x')" in answer.text) == (False, False)

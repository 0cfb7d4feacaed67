"""What people come to the console for, each as a story: with JavaScript, and without."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import httpx

from tests.browser.steps import make_key, make_plan, run, shown, shown_value, until_shows
from tests.browser.world import World
from tests.support.servers import until


def unique(name: str, scripts: bool) -> str:
    return f"{name} {'with' if scripts else 'without'} scripts"


# --- the owner ------------------------------------------------------------------------------------------------------


def test_monday_morning_shows_who_is_refused_and_who_is_near_a_quota(world: World, scripts: bool) -> None:
    name = unique("monday", scripts)
    api = world.tour.api()
    key_id, value = world.tour.key(
        world.tour.plan(api, name=f"Plan {name}", quota={"limit": 3, "period": "DAY"}), name=name
    )
    assert world.call(api, value, 9) == [200] * 3 + [429] * 6
    with world.owner(scripts=scripts) as tab:
        until_shows(tab, name, "/console")
        until_shows(tab, "quota", "/console")
        tab.follow(name)
        assert key_id in tab.path


def test_a_plan_is_made_tried_in_shadow_enforced_and_watched_go_live(world: World, scripts: bool) -> None:
    name = unique("Gold", scripts)
    api = world.tour.api()
    with world.owner(scripts=scripts) as tab:
        plan = make_plan(tab, name, api, limit=2, mode="shadow")
        until_shows(tab, "live on 3 of 3 sidecars")
        _, value = world.tour.key(plan, name=f"caller of {name}")
        assert world.call(api, value, 5) == [200] * 5
        until_shows(tab, f"caller of {name}", f"/console/plans/{plan}")
        row = tab.page.get_by_role("row").filter(has_text=f"caller of {name}").first
        until(lambda: "60" in tab.open(f"/console/plans/{plan}").text, "three of five calls are not 60 %")
        assert row.inner_text().split("\t")[2:5] == ["0", "3", "5"]
        tab.press("Enforce")
        until_shows(tab, "live on 3 of 3 sidecars")
        assert world.call(api, value, 3) == [429] * 3


def test_a_new_customer_gets_a_key_whose_line_works(world: World, scripts: bool) -> None:
    name = unique("newcomer", scripts)
    api = world.tour.api()
    plan = world.tour.plan(api, name=f"Plan {name}")
    with world.owner(scripts=scripts) as tab:
        made = make_key(tab, name, plan, name.replace(" ", "-"))
        world.keep_secret(made.value)
        until(lambda: run(made.curl) == 200, "the shown line does not work")
        tab.open(tab.path)
        assert made.value not in tab.page.content()
        assert "was shown once" in tab.text


def test_support_grants_more_for_this_period_with_a_reason(world: World, scripts: bool) -> None:
    name = unique("granted", scripts)
    api = world.tour.api()
    key_id, value = world.tour.key(
        world.tour.plan(api, name=f"Plan {name}", quota={"limit": 2, "period": "DAY"}), name=name
    )
    assert world.call(api, value, 3) == [200, 200, 429]
    with world.owner(scripts=scripts) as tab:
        tab.open(f"/console/keys/id/{key_id}")
        assert "used up" in tab.text
        tab.fill("Add", "2").fill("Reason", f"They asked nicely, {name}").press("Grant")
        assert "2 were added" in tab.text
        assert world.call(api, value, 3) == [200, 200, 429]
        tab.open("/console/audit")
        assert f"They asked nicely, {name}" in tab.text


def test_a_leaked_key_is_rotated_with_overlap_and_its_old_value_ended(world: World, scripts: bool) -> None:
    name = unique("leaked", scripts)
    api = world.tour.api()
    key_id, old = world.tour.key(world.tour.plan(api, name=f"Plan {name}"), name=name)
    assert world.call(api, old) == [200]
    with world.owner(scripts=scripts) as tab:
        tab.open(f"/console/keys/id/{key_id}")
        tab.press("Make a new value")
        new = world.keep_secret(shown(tab.page).value)
        until(lambda: world.call(api, new) == [200], "the new value does not work")
        assert world.call(api, old) == [200]
        tab.press("End the old value now")
        until(lambda: world.call(api, old, 6) == [403] * 6, "the old value still works")
        assert world.call(api, new, 6) == [200] * 6
        tab.press("Disable")
        until(lambda: world.call(api, new, 6) == [403] * 6, "the disabled key still works")
        tab.press("Enable")
        until(lambda: world.call(api, new, 6) == [200] * 6, "the enabled key does not work")


def test_finance_exports_the_days_by_key_as_csv_with_the_ledgers_sums(
    world: World, scripts: bool, tmp_path: Path
) -> None:
    name = unique("billed", scripts)
    api = world.tour.api()
    plan = world.tour.plan(api, name=f"Plan {name}", quota={"limit": 4, "period": "DAY"})
    one, two = (world.tour.key(plan, name=f"{name} {each}") for each in ("one", "two"))
    assert world.call(api, one[1], 3) == [200] * 3
    assert world.call(api, two[1], 6) == [200] * 4 + [429] * 2
    with world.owner(scripts=scripts) as tab:
        tab.open("/console/usage")
        tab.fill("A row for each", "key").fill("Plan", plan).press("Show")
        with tab.page.expect_download() as download:
            tab.page.get_by_role("link", name="Export CSV").click()
        download.value.save_as(tmp_path / "usage.csv")
    rows = [*csv.DictReader(io.StringIO((tmp_path / "usage.csv").read_text()))]
    calls = {row["keyId"]: int(row["requests"]) for row in rows}
    ledger = {key_id: world.tour.used(plan, key_id)[0] for key_id, _ in (one, two)}
    assert calls == ledger == {one[0]: 3, two[0]: 4}


def test_the_audit_shows_who_changed_what(world: World, scripts: bool) -> None:
    api = world.tour.api()
    plan = world.tour.plan(api, name=unique("audited", scripts))
    with world.owner(scripts=scripts) as tab:
        tab.open("/console/audit").fill("Of", plan).press("Show")
        assert "CreateUsagePlan" in tab.text
        assert "tests" in tab.text  # the credential that made it


def test_support_explains_a_429_by_the_keys_id_and_by_a_line_of_the_access_log(world: World, scripts: bool) -> None:
    name = unique("explained", scripts)
    api = world.tour.api()
    key_id, value = world.tour.key(
        world.tour.plan(api, name=f"Plan {name}", quota={"limit": 1, "period": "DAY"}), name=name
    )
    assert world.call(api, value, 2) == [200, 429]
    until(lambda: refused_line(world, key_id) != "", "Envoy has logged no refused call")
    with world.owner(scripts=scripts) as tab:
        tab.open("/console/explain")
        tab.fill("A key's id, a request's id, or a line of Envoy's access log", key_id)
        tab.fill("URL", f"https://{api}.example.org/prod/pets").press("Explain")
        assert "Refused by plan_quota" in tab.text
        assert "Room again at" in tab.text
        tab.open("/console/explain")
        tab.fill("A key's id, a request's id, or a line of Envoy's access log", refused_line(world, key_id))
        tab.press("Explain")
        assert "Refused by plan_quota" in tab.text


def refused_line(world: World, key_id: str) -> str:
    """The line of Envoy's access log of a refused call with this key; "" if there is none yet."""
    lines = world.stack.envoy.log_text.splitlines()
    return next((line for line in lines if line.startswith("{") and key_id in line and "429" in line), "")


def test_the_operator_sees_all_sidecars_at_one_version_and_what_the_doctor_finds(world: World, scripts: bool) -> None:
    world.tour.plan(world.tour.api(), name=unique("seen", scripts))
    with world.owner(scripts=scripts) as tab:
        until_shows(tab, "3 of 3 live sidecars serve version", "/console/system")
        assert "What the doctor finds" in tab.text


# --- the customer ---------------------------------------------------------------------------------------------------


def test_a_customer_sees_the_rest_of_a_quota_its_reset_and_the_refused_calls(world: World, scripts: bool) -> None:
    name = unique("portal", scripts)
    api = world.tour.api()
    plan = world.tour.plan(api, name=f"Plan {name}", quota={"limit": 4, "period": "DAY"})
    mine = world.tour.key(plan, name=name, customerId=name)
    world.tour.key(plan, name=f"another customer than {name}", customerId=f"not {name}")
    assert world.call(api, mine[1], 6) == [200] * 4 + [429] * 2
    with world.customer(name, scripts=scripts) as tab:
        until_shows(tab, "4 of 4", "/portal")
        assert "Full again at" in tab.text
        tab.page.locator("summary", has_text="Numbers").last.click()
        row = tab.page.get_by_role("row").filter(has_text="4").last
        until(lambda: "2" in row.inner_text().split(), "the refused calls are not shown")
        tab.follow("Keys")
        assert name in tab.text
        assert "another customer" not in tab.text


def test_a_customer_rolls_a_key_and_reads_the_numbers_by_a_program(world: World, scripts: bool) -> None:
    name = unique("rolled", scripts)
    api = world.tour.api()
    plan = world.tour.plan(api, name=f"Plan {name}", quota={"limit": 100, "period": "DAY"})
    _, old = world.tour.key(plan, name=name, customerId=name)
    with world.customer(name, scripts=scripts) as tab:
        tab.follow("Keys").follow(name).press("Roll")
        new = world.keep_secret(shown_value(tab.page))
        until(lambda: world.call(api, new) == [200], "the new value does not work")
        assert world.call(api, old) == [200]
        tab.press("End the old value now")
        until(lambda: world.call(api, old, 6) == [403] * 6, "the old value still works")
    answer = httpx.get(f"{world.url}/portal/usage", headers={"x-api-key": new}, trust_env=False, timeout=60)
    assert answer.status_code == 200
    assert name in answer.text
    assert '"left"' in answer.text


def test_a_customer_with_a_key_alone_looks_and_does_not_roll(world: World, scripts: bool) -> None:
    name = unique("pasted", scripts)
    _, value = world.tour.key(world.tour.plan(world.tour.api(), name=f"Plan {name}"), name=name)
    with world.stranger(scripts=scripts) as tab:
        tab.open("/portal/sign-in").fill("API key", value).press("Show the use of this key")
        assert tab.path == "/portal"
        tab.follow("Keys").follow(name)
        assert tab.page.get_by_role("button", name="Roll").count() == 0


def test_a_used_up_quota_reaches_the_customers_alerts(world: World, scripts: bool) -> None:
    name = unique("warned", scripts)
    api = world.tour.api()
    plan = world.ask(
        "POST",
        "/plans",
        {
            "name": f"Plan {name}",
            "apiStages": [{"apiId": api, "stage": "prod"}],
            "quotas": [{"limit": 5, "period": "DAY", "counts": "REQUESTS", "alerts": [80, 100]}],
        },
    )["id"]
    _, value = world.tour.key(plan, name=name, customerId=name)
    assert world.call(api, value, 5) == [200] * 5
    with world.customer(name, scripts=scripts) as tab:
        until_shows(tab, "80 %", "/portal/alerts")
        until_shows(tab, "100 %", "/portal/alerts")


# --- what a reader may not do ----------------------------------------------------------------------------------------


def test_a_read_only_session_sees_no_buttons_that_change_things(world: World, scripts: bool) -> None:
    api = world.tour.api()
    plan = world.tour.plan(api, name=unique("looked at", scripts))
    key_id, _ = world.tour.key(plan)
    with world.owner(scripts=scripts, read_only=True) as tab:
        for path in (f"/console/plans/{plan}", f"/console/keys/id/{key_id}", "/console/plans", "/console/keys"):
            tab.open(path)
            posts = tab.main.locator("form[method=post]")
            actions = {posts.nth(at).get_attribute("action") for at in range(posts.count())}
            assert actions <= {"/console/keys/search", "/console/explain"}, path
        tab.expect(403).open("/console/plans-new")
        assert "change nothing" in tab.text

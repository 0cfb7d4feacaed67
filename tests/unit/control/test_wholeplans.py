"""Whole plans: one document reads and writes all of a plan, in one step."""

from __future__ import annotations

from typing import Any

import pytest

from authz.core.resources import Deployment, Method, UsagePlan
from authz.core.stored import RestApi, StoredDeployment, StoredKey, StoredPlan, StoredStage
from tests.support.builders import key
from tests.support.dictstore import DictStore
from tests.support.plane import Plane

SERVED = Deployment(resources={"/pets": {"GET": Method(cost=5)}, "/open": {"GET": Method(api_key_required=False)}})
PROD = {"apiId": "a", "stage": "prod"}
GOLD: dict[str, Any] = {
    "name": "Gold",
    "description": "for the big ones",
    "apiStages": [{**PROD, "throttle": {"/pets/GET": {"rateLimit": 2.5, "burstLimit": 5, "counts": "UNITS"}}}],
    "throttle": {"rateLimit": 10.0, "burstLimit": 20, "counts": "UNITS"},
    "quotas": [
        {"limit": 5000, "period": "MONTH", "anchor": "BILLING_DAY", "overage": {"upTo": 100}, "alerts": [80, 100]},
        {"limit": 9, "period": "HOUR", "counts": "REQUESTS", "timeZone": "Europe/Berlin"},
    ],
    "limitsPer": "CUSTOMER",
    "mode": "shadow",
    "failurePolicy": "deny",
    "productCode": "pc",
    "tags": {"team": "pets"},
}


def plane(*more: Any) -> Plane:
    """A control plane with the API `a` and its stages prod and test."""
    return Plane(
        DictStore(
            RestApi("a", "Pets", 0, "r"),
            StoredDeployment("d", "a", 0, SERVED),
            *(StoredStage("a", name, "d", 0, 0) for name in ("prod", "test")),
            *more,
        )
    )


def test_a_plan_is_created_read_and_written_back_whole() -> None:
    control = plane()
    made = control.call("POST", "/plans", GOLD)
    assert (made.status, {name: made.body[name] for name in GOLD}) == (201, GOLD)
    place = f"/plans/{made.body['id']}"
    assert control.call("GET", place).body == made.body
    assert control.call("PUT", place, made.body).body == made.body
    assert control.call("GET", "/plans").body["item"] == [made.body]


def test_aws_sees_the_plan_too() -> None:
    control = plane()
    plan = control.call("POST", "/plans", GOLD).body["id"]
    seen = control.call("GET", f"/usageplans/{plan}").body
    assert (seen["name"], seen["throttle"]["rateLimit"], seen["quota"]["limit"], seen["mode"]) == (
        "Gold",
        10,
        5000,
        "shadow",
    )
    assert control.call("GET", f"/usageplans/{plan}/extension").body["quotas"] == GOLD["quotas"]


def test_a_put_removes_the_members_that_it_lacks() -> None:
    control = plane()
    plan = control.call("POST", "/plans", GOLD).body["id"]
    bare = control.call("PUT", f"/plans/{plan}", {"name": "Bare"}).body
    assert {name for name in bare if name not in ("id", "revision")} == {"name"}


def test_a_plan_that_was_changed_since_is_not_written() -> None:
    control = plane()
    read = control.call("POST", "/plans", GOLD).body
    place = f"/plans/{read['id']}"
    control.call("PATCH", f"/usageplans/{read['id']}", {"patchOperations": [{"op": "remove", "path": "/mode"}]})
    refused = control.call("PUT", place, {**read, "name": "Silver"})
    assert (refused.status, control.call("GET", place).body["name"]) == (409, "Gold")
    assert control.call("PUT", place, {"name": "Silver"}).status == 200


@pytest.mark.parametrize(
    ("change", "address"),
    [
        ({"name": ""}, "$.name"),
        ({"name": "a\nb"}, "$.name"),
        ({"name": None}, "$.name"),
        ({"keys": ["k"]}, "$.keys"),
        ({"id": "other"}, "$.id"),
        ({"throttle": {"rateLimit": -1}}, "$.throttle.rateLimit"),
        ({"throttle": {"rateLimit": 1, "burstLimit": 4, "counts": "UNITS"}}, "$.throttle.burstLimit"),
        ({"quotas": [{"limit": 0, "period": "DAY"}]}, "$.quotas[0].limit"),
        ({"quotas": [{"limit": 4, "period": "DAY"}]}, "$.quotas[0].limit"),
        ({"quotas": [{"limit": 9, "period": "YEAR"}]}, "$.quotas[0].period"),
        ({"quotas": [{"limit": 9, "period": "DAY"}, {"limit": 9, "period": "DAY"}]}, "$.quotas[1].period"),
        (
            {"quotas": [{"limit": 9, "period": "HOUR"}, {"limit": 9, "period": "WEEK", "offset": 7}]},
            "$.quotas[1].offset",
        ),
        ({"quotas": [{"limit": 9, "period": "DAY", "timeZone": "Berlin"}]}, "$.quotas[0].timeZone"),
        ({"quotas": [{"limit": n, "period": "DAY"} for n in range(1, 6)]}, "$.quotas"),
        ({"apiStages": [{"apiId": "b", "stage": "prod"}]}, "$.apiStages[0].apiId"),
        ({"apiStages": [{"apiId": "a", "stage": "beta"}]}, "$.apiStages[0].stage"),
        ({"apiStages": [PROD, PROD]}, "$.apiStages[1]"),
        (
            {"apiStages": [{**PROD, "throttle": {"/dogs/GET": {"rateLimit": 1}}}]},
            "$.apiStages[0].throttle['/dogs/GET']",
        ),
        (
            {"apiStages": [{**PROD, "throttle": {"/open/GET": {"rateLimit": 1}}}]},
            "$.apiStages[0].throttle['/open/GET']",
        ),
        ({"throttle": {}}, "$.throttle"),
        ({"apiStages": [{**PROD, "throttle": {"/pets/GET": {}}}]}, "$.apiStages[0].throttle['/pets/GET']"),
        ({"mode": "shaddow"}, "$.mode"),
        ({"tags": {"aws:x": "1"}}, "$.tags"),
    ],
)
def test_a_mistake_has_its_address_and_nothing_is_written(change: dict[str, Any], address: str) -> None:
    control = plane()
    read = control.call("POST", "/plans", GOLD).body
    refused = control.call("PUT", f"/plans/{read['id']}", {**read, **change})
    assert (refused.status, f"Invalid {address}: " in refused.body["message"]) == (400, True), refused.body
    assert control.call("GET", f"/plans/{read['id']}").body == read
    new = {name: value for name, value in {**GOLD, **change}.items() if name not in ("id", "revision")}
    assert control.call("POST", "/plans", new | ({"id": "other"} if "id" in change else {})).status == 400


def test_a_stage_that_stays_is_not_checked_again() -> None:
    """A deployment may have dropped the method since."""
    control = plane()
    read = control.call("POST", "/plans", GOLD).body
    control.store.items["deployment", "a/d"] = StoredDeployment(
        "d", "a", 0, Deployment(resources={"/cats": {"GET": Method()}})
    )
    assert control.call("PUT", f"/plans/{read['id']}", {**read, "name": "Silver"}).status == 200


def test_no_key_gets_a_second_plan_of_a_stage() -> None:
    other = StoredPlan(UsagePlan(id="o", name="o"), nonce="n")
    control = plane(other)
    mine = control.call("POST", "/plans", {"name": "mine", "apiStages": [PROD]}).body
    held = control.store.items["usageplan", mine["id"]]
    assert isinstance(held, StoredPlan)
    member = StoredKey(key("k"), "i" * 64, 0, 0, plans=(other.ref, held.ref))
    control.store.items["apikey", "k"] = member
    refused = control.call("PUT", "/plans/o", {"name": "o", "apiStages": [PROD]})
    assert (refused.status, "multiple Usage Plans" in refused.body["message"]) == (409, True)


def test_plans_of_a_stage_are_listed() -> None:
    control = plane()
    for name, stages in (("one", [PROD]), ("two", []), ("three", [PROD])):
        control.call("POST", "/plans", {"name": name, "apiStages": stages})
    listed = control.call("GET", "/plans?apiId=a&stage=prod").body["item"]
    assert sorted(plan["name"] for plan in listed) == ["one", "three"]
    assert control.call("GET", "/plans?apiId=a").status == 400
    assert control.call("GET", "/plans?apiID=a&stage=prod").status == 400


def test_a_reader_writes_no_plan() -> None:
    control = plane()
    assert control.call("POST", "/plans", GOLD, by=control.reader).status == 403
    assert control.call("GET", "/plans", by=control.reader).status == 200

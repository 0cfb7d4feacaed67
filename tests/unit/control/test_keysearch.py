"""Finding keys: with their last use, by value, by the plans of a customer; and a call that a key can make."""

from __future__ import annotations

from typing import Any

import pytest

from authz.control.operations.examplecalls import ExampleCall, example_call
from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    Deployment,
    Host,
    KeySource,
    LimitsPer,
    Method,
    Resources,
    Stage,
    UsagePlan,
    digest,
)
from authz.core.stored import StoredKey, StoredPlan
from tests.support.dictstore import DictStore
from tests.support.plane import SEALER, Plane

VALUE = "a-value-that-stands-out"


def _key(id_: str, name: str = "", customer: str | None = None, *plans: str, value: str = "") -> StoredKey:
    return StoredKey(ApiKey(id_, name, customer_id=customer), SEALER.index(digest(value or id_)), 1, 1, plans=plans)


def _get(path: str, *items: Any) -> Any:
    return Plane(DictStore(*items)).call("GET", path).body


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["k1", "k2", "k3"]),
        ("?name=ac", ["k1", "k2"]),
        ("?customerId=acme", ["k2", "k3"]),
        ("?customerId=acme&name=ac", ["k2"]),
        ("?customerId=nobody", []),
    ],
)
def test_keys_are_listed_with_their_last_use(query: str, ids: list[str]) -> None:
    keys = _key("k1", "acme app"), _key("k2", "acme web", "acme"), _key("k3", "other", "acme")
    assert [one["id"] for one in _get(f"/usage/keys{query}", *keys)["item"]] == ids


def test_a_key_is_found_by_its_value_which_stands_in_no_answer() -> None:
    plane = Plane(DictStore(_key("k1", value=VALUE)))
    found = plane.call("POST", "/apikeys/find", {"value": VALUE}, by=plane.reader)
    assert (found.status, found.body) == (200, {"keyId": "k1", "isPrevious": False})
    missing = plane.call("POST", "/apikeys/find", {"value": VALUE + "x"})
    assert (missing.status, VALUE in str(missing.body)) == (404, False)


@pytest.mark.parametrize(("overlap", "status"), [(60, 200), (0, 404)])
def test_a_key_is_found_by_its_old_value_while_that_works(overlap: int, status: int) -> None:
    plane = Plane(DictStore(_key("k1", value=VALUE)))
    plane.call("POST", "/apikeys/k1/rotate", {"overlapSeconds": overlap})
    found = plane.call("POST", "/apikeys/find", {"value": VALUE})
    assert (found.status, found.body.get("isPrevious")) == (status, True if status == 200 else None)


def test_the_plans_of_a_customer_are_those_of_its_keys() -> None:
    gold = StoredPlan(UsagePlan("gold", "Gold", limits_per=LimitsPer.CUSTOMER), nonce="n")
    remade = StoredPlan(UsagePlan("old", "Remade"), nonce="2")
    keys = _key("k1", "", "a/b", gold.ref, "old.1"), _key("k2", "", "a/b", gold.ref), _key("k3", "", "c", remade.ref)
    found = _get("/customers/a%2Fb/plans", gold, remade, *keys)["item"]
    assert [(plan["id"], plan["limitsPer"]) for plan in found] == [("gold", "CUSTOMER")]


# --- a call -------------------------------------------------------------------------------------------------------

HEADER = KeySource(header="x-api-key")
PLAN = UsagePlan("p", "Plan", api_stages=(ApiStage("a", "prod"),))


def _api(**fields: Any) -> Api:
    return Api("a", **({"stages": (Stage("prod"),)} | fields))


@pytest.mark.parametrize(
    ("api", "call"),
    [
        (_api(), ExampleCall("GET", "/prod/", None, HEADER)),
        (_api(resources={"/pets": {"POST": Method()}}), ExampleCall("POST", "/prod/pets", None, HEADER)),
        (
            _api(resources={"/": {"GET": Method(False)}, "/{id}/{all+}": {"GET": Method()}}),
            ExampleCall("GET", "/prod/1/1", None, HEADER),
        ),
        (
            _api(resources={"/{id}": {"GET": Method()}, "/pets": {"ANY": Method(), "GET": Method()}}),
            ExampleCall("GET", "/prod/pets", None, HEADER),
        ),
        (_api(hosts=(Host("x.test"),)), ExampleCall("GET", "/prod/", "x.test", HEADER)),
        (_api(hosts=(Host("x.test", "v1", "prod"),)), ExampleCall("GET", "/v1/", "x.test", HEADER)),
        (_api(hosts=(Host("*.x.test"), Host("y.test", "", "dev"))), ExampleCall("GET", "/prod/", None, HEADER)),
        (_api(api_key_source="AUTHORIZER"), ExampleCall("GET", "/prod/", None, None)),
        (_api(key_sources=(KeySource(query="k"),)), ExampleCall("GET", "/prod/", None, KeySource(query="k"))),
        (
            _api(stages=(Stage("prod", deployment=Deployment(resources={"/new": {"GET": Method()}})),)),
            ExampleCall("GET", "/prod/new", None, HEADER),
        ),
        (_api(resources={"/open": {"GET": Method(False)}}), None),
        (_api(stages=(Stage("dev"),)), None),
    ],
)
def test_an_example_is_a_call_that_needs_a_key(api: Api, call: ExampleCall | None) -> None:
    assert example_call(Resources(apis=(api,)), PLAN) == call


def test_beside_other_apis_the_first_label_of_the_host_names_the_api() -> None:
    found = example_call(Resources(apis=(_api(), Api("b"))), PLAN)
    assert found == ExampleCall("GET", "/prod/", "a.example.org", HEADER)


def test_a_plan_without_stages_has_no_example() -> None:
    found = _get("/usageplans/p/example", StoredPlan(UsagePlan("p", "Plan")))
    assert found == {"usagePlanId": "p"}

"""Fields beside AWS's members: each is written whole, comes back as written, and outlives AWS's own operations."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from authz.core.resources import (
    ApiKey,
    ApiStage,
    CostFrom,
    Customer,
    Deployment,
    LimitsPer,
    Method,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.stored import (
    Items,
    RestApi,
    StoredCustomer,
    StoredDeployment,
    StoredKey,
    StoredMethod,
    StoredPlan,
    StoredResource,
    StoredStage,
)
from tests.support.dictstore import DictStore
from tests.support.plane import Plane, items

PLAN = "/usageplans/p1/extension"
MEMBERSHIP = "/usageplans/p1/keys/k1/extension"
API = "/restapis/a1/extension"
MONTH = {"limit": 1000, "period": "MONTH"}
HOUR = {"limit": 50, "period": "HOUR"}


def plan(**changes: Any) -> StoredPlan:
    fields = {
        "api_stages": (ApiStage("a1", "prod", {"/pets/GET": ThrottleSettings(1, 1)}),),
        "throttle": ThrottleSettings(10, 20),
        "quota": QuotaSettings(1000, Period.MONTH),
    }
    return StoredPlan(UsagePlan("p1", "gold", **{**fields, **changes}), nonce="n")


def key(**changes: Any) -> StoredKey:
    return StoredKey(ApiKey("k1", customer_id=changes.pop("customer_id", None)), "i", 1, 1, plans=("p1.n",), **changes)


def api(**methods: StoredMethod) -> RestApi:
    found: Any = methods or {"GET": StoredMethod(), "POST": StoredMethod()}
    nodes = (StoredResource("r0", "/"), StoredResource("r1", "/pets", "r0", "pets", found))
    return RestApi("a1", "pets", 1, "r0", resources={node.id: node for node in nodes})


def plane(*items: Any) -> Plane:
    return Plane(DictStore(*(items or (plan(), key(), api()))))


def patch(plane: Plane, *operations: tuple[str, str, str | None]) -> Any:
    body = {"patchOperations": [{"op": op, "path": path, "value": value} for op, path, value in operations]}
    return plane.call("PATCH", "/usageplans/p1", body)


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_of_awss_shape_has_its_quota_in_the_extension() -> None:
    assert plane().call("GET", PLAN).body == {"limitsPer": "KEY", "quotas": [MONTH]}


FULL: dict[str, Any] = {
    "limitsPer": "CUSTOMER",
    "throttle": {"counts": "UNITS"},
    "apiStages": [{"apiId": "a1", "stage": "prod", "throttle": {"/pets/GET": {"counts": "UNITS"}}}],
    "quotas": [
        {
            "limit": 1000,
            "period": "MONTH",
            "timeZone": "Europe/Berlin",
            "anchor": "BILLING_DAY",
            "overage": {"upTo": 500},
            "alerts": [80, 100],
        },
        {"limit": 50, "period": "HOUR", "counts": "REQUESTS"},
        {"limit": 9000, "period": "TOTAL", "overage": {"upTo": "UNLIMITED"}},
    ],
}


def test_an_extension_comes_back_as_it_was_written() -> None:
    found = plane()
    assert found.call("PUT", PLAN, FULL).body == FULL
    assert found.call("GET", PLAN).body == FULL
    version = found.store.items["usageplan", "p1"]
    assert found.call("PUT", PLAN, found.call("GET", PLAN).body).status == 200
    assert found.store.items["usageplan", "p1"] == version


def test_a_put_replaces_the_whole_document() -> None:
    found = plane()
    found.call("PUT", PLAN, FULL)
    assert found.call("PUT", PLAN, {"quotas": [MONTH]}).body == {"limitsPer": "KEY", "quotas": [MONTH]}
    assert found.store.items["usageplan", "p1"] == plan()


def test_awss_view_of_a_plan_does_not_show_its_extension() -> None:
    found = plane()
    before = found.call("GET", "/usageplans/p1").body
    found.call("PUT", PLAN, FULL)
    assert found.call("GET", "/usageplans/p1").body == before


def test_a_first_quota_that_aws_does_not_know_is_no_quota_for_aws() -> None:
    found = plane()
    assert found.call("PUT", PLAN, {"quotas": [HOUR, MONTH]}).body["quotas"] == [HOUR, MONTH]
    assert "quota" not in found.call("GET", "/usageplans/p1").body


@pytest.mark.parametrize("removed", ["DELETE", "PUT"])
def test_without_its_extension_a_plan_is_as_aws_knows_it(removed: str) -> None:
    """A document without `quotas` says nothing of AWS's own quota."""
    found = plane()
    found.call("PUT", PLAN, FULL)
    assert found.call(removed, PLAN, {} if removed == "PUT" else None).status in (200, 202)
    assert found.store.items["usageplan", "p1"] == plan()


@pytest.mark.parametrize(
    ("operations", "quotas"),
    [
        ([("replace", "/quota/limit", "7")], [{**FULL["quotas"][0], "limit": 7}, *FULL["quotas"][1:]]),
        ([("remove", "/quota", None)], FULL["quotas"][1:]),
        ([("replace", "/throttle/burstLimit", "5"), ("replace", "/name", "silver")], FULL["quotas"]),
    ],
    ids=["limit", "removed", "another field"],
)
def test_awss_patch_keeps_the_extension(operations: list[Any], quotas: list[Any]) -> None:
    found = plane()
    found.call("PUT", PLAN, FULL)
    assert patch(found, *operations).status == 200
    assert found.call("GET", PLAN).body == {**FULL, "quotas": quotas}


def test_a_period_that_aws_sets_keeps_what_aws_does_not_know() -> None:
    found = plane()
    found.call("PUT", PLAN, {"quotas": [{**MONTH, "counts": "REQUESTS", "alerts": [80]}]})
    assert patch(found, ("replace", "/quota/period", "WEEK")).status == 200
    assert found.call("GET", PLAN).body["quotas"] == [
        {"limit": 1000, "period": "WEEK", "counts": "REQUESTS", "alerts": [80]}
    ]


def test_a_period_that_another_quota_has_is_refused_to_aws_too() -> None:
    found = plane()
    found.call("PUT", PLAN, {"quotas": [MONTH, {"limit": 9, "period": "HOUR"}, {"limit": 5, "period": "DAY"}]})
    reply = patch(found, ("replace", "/quota/period", "DAY"))
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith("Invalid $.quotas[2].period: ")
    assert found.call("GET", "/usageplans/p1").body["quota"]["period"] == "MONTH"


def test_a_stage_that_terraform_takes_out_and_adds_again_counts_as_before() -> None:
    found = plane()
    found.call("PUT", PLAN, FULL)
    throttle = '{"/pets/GET": {"rateLimit": 2, "burstLimit": 3}}'
    again = (("remove", "/apiStages", "a1:prod"), ("add", "/apiStages", "a1:prod"))
    found.store.items |= costing(1)
    assert patch(found, *again, ("add", "/apiStages/a1:prod/throttle", throttle)).status == 200
    assert found.call("GET", PLAN).body["apiStages"] == FULL["apiStages"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"quota": MONTH}, "Invalid $.quota: unknown field; did you mean quotas?"),
        ({"quotas": [{"limit": 1, "period": "YEAR"}]}, "Invalid $.quotas[0].period: expected one of HOUR, DAY, WEEK"),
        ({"quotas": [MONTH, {"limit": 0, "period": "DAY"}]}, "Invalid $.quotas[1].limit: "),
        ({"quotas": [{**MONTH, "alerts": [0]}]}, "Invalid $.quotas[0].alerts[0]: "),
        ({"quotas": [{**MONTH, "overage": {"upto": 1}}]}, "Invalid $.quotas[0].overage.upto: unknown field"),
        ({"throttle": {"counts": "CALLS"}}, "Invalid $.throttle.counts: expected one of REQUESTS, UNITS"),
        ({"limitsPer": "PLAN"}, "Invalid $.limitsPer: expected one of KEY, CUSTOMER"),
        ({"quotas": [MONTH, HOUR, {**HOUR, "limit": 7}]}, "Invalid $.quotas[2].period: "),
        ({"quotas": [HOUR, {**HOUR, "limit": 7}]}, "Invalid $.quotas[1].period: "),
        ({"quotas": [{**MONTH, "timeZone": "Europe/Nowhere"}]}, "Invalid $.quotas[0].timeZone: "),
        ({"quotas": [{"limit": n, "period": "TOTAL"} for n in range(1, 6)]}, "Invalid $.quotas: expected at most 4"),
        ({"quotas": [MONTH, {**HOUR, "offset": 3}]}, "Invalid $.quotas[1].offset: "),
        (
            {"apiStages": [{"apiId": "a1", "stage": "prod", "throttle": {"/pets/PUT": {"counts": "UNITS"}}}]},
            "Invalid $.apiStages[0].throttle['/pets/PUT']: ",
        ),
        (
            {"apiStages": [{"apiId": "a2", "stage": "prod", "throttle": {"/pets/GET": {"counts": "UNITS"}}}]},
            "Invalid $.apiStages[0].throttle['/pets/GET']: ",
        ),
    ],
    ids=lambda value: None,
)
def test_a_plan_extension_is_refused_with_the_address_of_its_mistake(document: Any, told: str) -> None:
    found = plane()
    reply = found.call("PUT", PLAN, document)
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(told)
    assert found.store.items["usageplan", "p1"] == plan()


def test_a_throttle_that_is_not_there_counts_nothing() -> None:
    found = plane(plan(throttle=None))
    reply = found.call("PUT", PLAN, {"throttle": {"counts": "UNITS"}})
    assert (reply.status, "$.throttle.counts" in reply.body["message"]) == (400, True)


def test_an_unknown_plan_has_no_extension() -> None:
    assert plane(key()).call("GET", PLAN).status == 404
    assert plane(key()).call("PUT", PLAN, {}).status == 404


# --- memberships --------------------------------------------------------------------------------------------------

OVERRIDE = {"throttle": {"rateLimit": 99.0, "burstLimit": 99}, "quotas": [{"period": "MONTH", "limit": 5000}]}


def test_an_override_comes_back_as_it_was_written_until_it_is_deleted() -> None:
    found = plane()
    assert found.call("GET", MEMBERSHIP).body == {}
    assert found.call("PUT", MEMBERSHIP, OVERRIDE).body == OVERRIDE
    assert found.call("GET", MEMBERSHIP).body == OVERRIDE
    stored = found.store.items["apikey", "k1"]
    assert isinstance(stored, StoredKey)
    assert stored.overrides == {
        "p1.n": Override(ThrottleSettings(99, 99), (QuotaOverride(Period.MONTH, 5000),)),
    }
    assert found.call("DELETE", MEMBERSHIP).status == 202
    assert found.call("GET", MEMBERSHIP).body == {}


def test_an_override_ends_with_the_membership() -> None:
    found = plane()
    found.call("PUT", MEMBERSHIP, OVERRIDE)
    found.call("DELETE", "/usageplans/p1/keys/k1")
    assert found.call("GET", MEMBERSHIP).status == 404
    found.call("POST", "/usageplans/p1/keys", {"keyId": "k1", "keyType": "API_KEY"})
    assert found.call("GET", MEMBERSHIP).body == {}


def test_a_later_plan_of_the_same_id_has_no_override_of_the_deleted_one() -> None:
    later = StoredPlan(UsagePlan("p1", "later"), nonce="m")
    found = plane(later, key(overrides={"p1.n": Override(ThrottleSettings(1, 1))}))
    found.call("POST", "/usageplans/p1/keys", {"keyId": "k1", "keyType": "API_KEY"})
    assert found.call("GET", MEMBERSHIP).body == {}


def test_awss_operations_on_a_key_keep_its_overrides() -> None:
    found = plane()
    found.call("PUT", MEMBERSHIP, OVERRIDE)
    found.call("PATCH", "/apikeys/k1", {"patchOperations": [{"op": "replace", "path": "/name", "value": "n"}]})
    found.call("POST", "/apikeys/k1/rotate", {"value": "v" * 30})
    assert found.call("GET", MEMBERSHIP).body == OVERRIDE


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"quota": {}}, "Invalid $.quota: unknown field; did you mean quotas?"),
        ({"quotas": [{"period": "MONTH"}]}, "Invalid $.quotas[0].limit: required"),
        ({"throttle": {"rateLimit": -1}}, "Invalid $.throttle.rateLimit: "),
        ({"throttle": {"rateLimit": 0.0000001}}, "Invalid $.throttle.rateLimit: "),
        ({"throttle": {}}, "Invalid $.throttle: "),
        ({"quotas": [{"period": "DAY", "limit": 5}]}, "Invalid $.quotas[0].period: "),
    ],
    ids=lambda value: None,
)
def test_an_override_is_refused_with_the_address_of_its_mistake(document: Any, told: str) -> None:
    reply = plane().call("PUT", MEMBERSHIP, document)
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(told)


def test_a_key_outside_of_the_plan_has_no_override() -> None:
    found = plane(plan(), StoredKey(ApiKey("k1"), "i", 1, 1))
    assert found.call("PUT", MEMBERSHIP, OVERRIDE).status == 404


# --- APIs ---------------------------------------------------------------------------------------------------------

COSTS = {
    "costFrom": {"metadata": ["llm", "tokens"], "max": 10_000},
    "methods": {"/pets/GET": {"cost": 5}, "/pets/POST": {"cost": 0, "costFrom": {"metadata": ["llm", "n"], "max": 9}}},
}


def test_costs_come_back_as_they_were_written_until_they_are_deleted() -> None:
    found = plane()
    assert found.call("GET", API).body == {}
    assert found.call("PUT", API, COSTS).body == COSTS
    assert found.call("GET", API).body == COSTS
    assert found.call("DELETE", API).status == 202
    assert found.store.items["restapi", "a1"] == api()


def test_a_deployment_freezes_the_costs_of_its_moment() -> None:
    found = plane(api(GET=StoredMethod(method_integration={"type": "MOCK"})))
    found.call("PUT", API, {"methods": {"/pets/GET": {"cost": 5}}, "costFrom": COSTS["costFrom"]})
    made = found.call("POST", "/restapis/a1/deployments", {}).body["id"]
    found.call("DELETE", API)
    deployment: Any = found.store.items["deployment", f"a1/{made}"]
    assert deployment.snapshot.resources["/pets"]["GET"].cost == 5
    assert deployment.snapshot.cost_from == CostFrom(("llm", "tokens"), 10_000)


def test_awss_operations_on_methods_and_apis_keep_costs() -> None:
    found = plane()
    found.call("PUT", API, COSTS)
    operations = [{"op": "replace", "path": "/apiKeyRequired", "value": "true"}]
    assert found.call("PATCH", "/restapis/a1/resources/r1/methods/GET", {"patchOperations": operations}).status == 200
    operations = [{"op": "replace", "path": "/name", "value": "n"}]
    assert found.call("PATCH", "/restapis/a1", {"patchOperations": operations}).status == 200
    operations = [{"op": "replace", "path": "/pathPart", "value": "animals"}]
    assert found.call("PATCH", "/restapis/a1/resources/r1", {"patchOperations": operations}).status == 200
    moved = {name.replace("pets", "animals"): cost for name, cost in COSTS["methods"].items()}
    assert found.call("GET", API).body == {**COSTS, "methods": moved}


def test_a_clone_has_the_costs_of_its_origin() -> None:
    found = plane()
    found.call("PUT", API, COSTS)
    made = found.call("POST", "/restapis", {"name": "clone", "cloneFrom": "a1"}).body["id"]
    assert found.call("GET", f"/restapis/{made}/extension").body == COSTS


@pytest.mark.parametrize("mode", ["merge", "overwrite"])
def test_an_import_of_openapi_keeps_the_costs_of_the_methods_that_stay(mode: str) -> None:
    found = plane()
    found.call("PUT", API, COSTS)
    document = {"openapi": "3.0.0", "info": {"title": "t"}, "paths": {"/pets": {"get": {}, "put": {}}}}
    assert found.call("PUT", f"/restapis/a1?mode={mode}", document).status == 200
    costs = found.call("GET", API).body
    assert (costs["costFrom"], costs["methods"]["/pets/GET"]) == (COSTS["costFrom"], {"cost": 5})
    assert "/pets/PUT" not in costs["methods"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"methods": {"/pets/PUT": {"cost": 5}}}, "Invalid $.methods['/pets/PUT']: the API has no such method"),
        ({"methods": {"/pets/GET": {"cost": -1}}}, "Invalid $.methods['/pets/GET'].cost: "),
        ({"methods": {"/pets/GET": {"cost": 1_000_001}}}, "Invalid $.methods['/pets/GET'].cost: "),
        ({"methods": {"/pets/GET": {}, "pets/GET": {}}}, "Invalid $.methods['pets/GET']: the method is named twice"),
        ({"costFrom": {"metadata": ["llm"], "max": 1}}, "Invalid $.costFrom.metadata: "),
        ({"costs": {}}, "Invalid $.costs: unknown field"),
    ],
    ids=lambda value: None,
)
def test_costs_are_refused_with_the_address_of_their_mistake(document: Any, told: str) -> None:
    reply = plane().call("PUT", API, document)
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(told)


def costing(cost: int) -> Items:
    """A stage a1:prod that serves GET /pets at this cost."""
    served = Deployment(resources={"/pets": {"GET": Method(cost=cost)}})
    return items(StoredStage("a1", "prod", "d1", 1, 1), StoredDeployment("d1", "a1", 1, served))


DEAR = "a call of GET /pets of a1:prod costs 500, and"


@pytest.mark.parametrize(
    ("verb", "path", "document", "told"),
    [
        ("PUT", PLAN, {"quotas": [MONTH, HOUR]}, f"Invalid $.quotas[1].limit: {DEAR}"),
        ("PUT", PLAN, {"throttle": {"counts": "UNITS"}}, f"Invalid $.throttle.burstLimit: {DEAR}"),
        ("PUT", MEMBERSHIP, {"quotas": [{"period": "MONTH", "limit": 499}]}, f"Invalid $.quotas[0].limit: {DEAR}"),
        (
            "PUT",
            "/customers/c",
            {"overrides": {"p1": {"quotas": [{"period": "MONTH", "limit": 499}]}}},
            f"Invalid $.overrides['p1'].quotas[0].limit: {DEAR}",
        ),
        (
            "PATCH",
            "/usageplans/p1",
            {"patchOperations": [{"op": "replace", "path": "/quota/limit", "value": "499"}]},
            f"Invalid $.quotas[0].limit: {DEAR}",
        ),
    ],
    ids=["quota", "throttle", "key", "customer", "aws"],
)
def test_a_limit_that_a_call_of_its_stages_could_never_fit_is_refused(
    verb: str, path: str, document: Any, told: str
) -> None:
    found = plane()
    found.store.items |= costing(500)
    reply = found.call(verb, path, document)
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(told)


@pytest.mark.parametrize("way", ["deployment", "stage"])
def test_a_deployment_that_costs_more_than_a_plan_of_its_stage_admits_is_refused(way: str) -> None:
    found = plane(plan(), api(GET=StoredMethod(api_key_required=True, method_integration={"type": "MOCK"})))
    found.store.items |= costing(1)
    found.call("PUT", API, {"methods": {"/pets/GET": {"cost": 1001}}})
    if way == "deployment":
        reply = found.call("POST", "/restapis/a1/deployments", {"stageName": "prod"})
    else:
        made = found.call("POST", "/restapis/a1/deployments", {}).body["id"]
        operations = [{"op": "replace", "path": "/deploymentId", "value": made}]
        reply = found.call("PATCH", "/restapis/a1/stages/prod", {"patchOperations": operations})
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(
        "Unable to serve this deployment. Usage Plan p1.quota.limit: a call of GET /pets of a1:prod costs 1001, and"
    )
    stage: Any = found.store.items["stage", "a1/prod"]
    assert stage.deployment_id == "d1"


def test_a_plan_whose_limits_stay_is_changed_although_a_cost_no_longer_fits() -> None:
    """A cost may have come from an older release, which did not compare."""
    found = plane()
    found.store.items |= costing(5000)
    assert patch(found, ("replace", "/name", "silver")).status == 200


# --- customers ----------------------------------------------------------------------------------------------------

ACME: dict[str, Any] = {
    "id": "Acme & Söhne/1",
    "name": "Acme",
    "billingDay": 15,
    "overrides": {"p1": OVERRIDE},
    "tags": {"tier": "a"},
}
AT_ACME = f"/customers/{quote(ACME['id'], safe='')}"


def undated(document: Any) -> Any:
    return {name: value for name, value in document.items() if name not in ("createdDate", "lastUpdatedDate")}


@pytest.mark.parametrize(("verb", "path", "status"), [("POST", "/customers", 201), ("PUT", AT_ACME, 200)])
def test_a_customer_comes_back_as_it_was_written(verb: str, path: str, status: int) -> None:
    """Its id is any text: here with a blank, a slash and an umlaut."""
    found = plane()
    made = found.call(verb, path, ACME)
    assert (made.status, undated(made.body)) == (status, ACME)
    assert found.call("GET", AT_ACME).body == made.body
    stored = found.store.items["customer", ACME["id"]]
    assert isinstance(stored, StoredCustomer)
    assert list(stored.overrides) == ["p1.n"]
    assert found.call("PUT", AT_ACME, made.body).status == 200
    assert found.store.items["customer", ACME["id"]] == stored


def test_a_put_replaces_the_whole_customer() -> None:
    found = plane()
    found.call("POST", "/customers", ACME)
    assert undated(found.call("PUT", AT_ACME, {"name": "A"}).body) == {"id": ACME["id"], "name": "A"}


def test_an_id_has_one_customer() -> None:
    found = plane()
    found.call("POST", "/customers", ACME)
    reply = found.call("POST", "/customers", ACME)
    assert (reply.status, reply.code) == (409, "ConflictException")


def test_a_deleted_customer_is_gone_and_its_keys_stay() -> None:
    found = plane(plan(), key(customer_id=ACME["id"]), StoredCustomer(Customer(ACME["id"]), 1, 1))
    assert found.call("DELETE", AT_ACME).status == 202
    for verb in ("GET", "DELETE"):
        reply = found.call(verb, AT_ACME)
        assert (reply.status, reply.code) == (404, "NotFoundException")
    assert found.call("GET", "/apikeys/k1").body["customerId"] == ACME["id"]


def test_customers_are_listed_in_pages() -> None:
    found = plane(*(StoredCustomer(Customer(f"c{n}"), 1, 1) for n in range(5)))
    ids, position, pages = [], "", 0
    while position is not None:
        body = found.call("GET", f"/customers?limit=2{position and '&position=' + position}").body
        ids += [customer["id"] for customer in body["item"]]
        position, pages = body.get("position"), pages + 1
    assert (sorted(ids), pages) == ([f"c{n}" for n in range(5)], 3)


def test_an_override_in_a_deleted_plan_is_not_shown() -> None:
    customer = StoredCustomer(Customer("c1"), 1, 1, {"p1.old": Override(), "p1.n": Override(), "p2.x": Override()})
    assert plane(plan(), customer).call("GET", "/customers/c1").body["overrides"] == {"p1": {}}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "Invalid $.id: required"),
        ({"id": ""}, "Invalid $.id: "),
        ({"id": "a\nb"}, "Invalid $.id: "),
        ({"id": "c", "billingDay": 29}, "Invalid $.billingDay: "),
        ({"id": "c", "billing_day": 2}, "Invalid $.billing_day: unknown field; did you mean billingDay?"),
        ({"id": "c", "overrides": {"p9": {}}}, "Invalid $.overrides['p9']: there is no usage plan p9"),
        ({"id": "c", "overrides": {"p1": {"quotas": [{"limit": 1}]}}}, "Invalid $.overrides['p1'].quotas[0].period: "),
        ({"id": "c", "createdDate": 5}, "Invalid $.createdDate: "),
        ({"id": "c", "tags": {"aws:x": "y"}}, "Invalid tag key"),
    ],
    ids=lambda value: None,
)
def test_a_customer_is_refused_with_the_address_of_its_mistake(document: Any, told: str) -> None:
    found = plane()
    reply = found.call("POST", "/customers", document)
    assert (reply.status, reply.code) == (400, "BadRequestException")
    assert reply.body["message"].startswith(told)
    assert not any(kind == "customer" for kind, _ in found.store.items)


def test_a_path_and_its_document_name_one_customer() -> None:
    reply = plane().call("PUT", "/customers/another", ACME)
    assert (reply.status, "$.id" in reply.body["message"]) == (400, True)


@pytest.mark.parametrize(
    ("held", "path", "document", "warned"),
    [
        (
            plan(),
            "/apikeys/k1/extension",
            {"billingDay": 7},
            "no effect: no plan of the key has a quota",
        ),
        (plan(), "/customers/acme", {"billingDay": 7}, "$.billingDay: no effect: no plan of its keys has limitsPer"),
        (
            plan(),
            "/customers/acme",
            {"overrides": {"p1": OVERRIDE}},
            "$.overrides['p1']: no effect: the plan",
        ),
        (
            plan(limits_per=LimitsPer.CUSTOMER),
            MEMBERSHIP,
            OVERRIDE,
            "no effect: the plan p1 limits the customer",
        ),
        (plan(limits_per=LimitsPer.CUSTOMER), "/customers/acme", {"overrides": {"p1": OVERRIDE}}, None),
        (plan(), MEMBERSHIP, OVERRIDE, None),
        (plan(), "/customers/another", {"billingDay": 7, "overrides": {"p1": OVERRIDE}}, None),
    ],
    ids=lambda value: None,
)
def test_a_number_that_changes_nothing_is_warned_of(held: Any, path: str, document: Any, warned: str | None) -> None:
    """A customer without a key may get one later."""
    found = plane(held, key(customer_id="acme"))
    assert found.call("PUT", path, document).status == 200
    (line,) = found.store.lines
    assert warned is None or warned in line
    assert ("no effect" in line) is (warned is not None)


def test_a_customers_id_has_the_bound_of_a_name() -> None:
    assert plane().call("PUT", f"/customers/{'c' * 1024}", {}).status == 200
    reply = plane().call("PUT", f"/customers/{'c' * 1025}", {})
    assert (reply.status, reply.body["message"]) == (400, "Invalid $.id: expected at most 1024 characters")


def test_the_files_customers_are_read_only() -> None:
    found = Plane(DictStore(fixed={("customer", "c1"): StoredCustomer(Customer("c1"), 1, 1)}))
    assert found.call("GET", "/customers/c1").status == 200
    assert found.call("PUT", "/customers/c1", {"name": "x"}).status == 409
    assert found.call("DELETE", "/customers/c1").status == 409


# --- all of them --------------------------------------------------------------------------------------------------


def test_a_list_is_no_document() -> None:
    for path in (PLAN, MEMBERSHIP, API, "/customers/c"):
        assert plane().call("PUT", path, [1]).status == 400


def test_each_write_is_a_line_of_the_audit() -> None:
    found = plane()
    for path in (PLAN, MEMBERSHIP, API, "/customers/c"):
        assert found.call("PUT", path, {}).status == 200
    assert found.store.lines == [
        "admin PutUsagePlanExtension p1",
        "admin PutUsagePlanKeyExtension p1 k1",
        "admin PutRestApiExtension a1",
        "admin PutCustomer c",
    ]

"""Usage plans and their keys through boto3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from authz.control.call import Context
from authz.core.resources import Deployment, HttpMethod, Method
from authz.core.stored import StoredDeployment, StoredStage
from authz.store.consistency import differences
from authz.store.ports import Draft
from tests.integration.test_control_keys import ids, imported, refusal, replaced
from tests.support.control import Control, boto, raw
from tests.support.control import control as control

NO_PLAN = "NotFoundException: Invalid Usage Plan ID specified"
THROTTLE = "/apiStages/a:prod/throttle"
PLACE = {"apiId": "a", "stage": "prod"}


@pytest.fixture
def aws(control: Control) -> Any:
    """A client; the API `a` has the stages prod and test."""
    control.run(put_stages)
    return boto(control)


async def put_stages(context: Context) -> None:
    async def put(edit: Draft) -> None:
        for name in ("prod", "test"):
            edit.put(StoredStage("a", name, deployment_id="d", created_date=0, last_updated_date=0))

    await context.store.write(put, who="tests", what="two stages")


def patched(aws: Any, plan: str, *operations: dict[str, str]) -> Any:
    return aws.update_usage_plan(usagePlanId=plan, patchOperations=operations)


def refused(aws: Any, plan: str, *operations: dict[str, str]) -> str:
    return refusal(aws.update_usage_plan, usagePlanId=plan, patchOperations=operations)


def added(path: str, value: str) -> dict[str, str]:
    return {"op": "add", "path": path, "value": value}


def removed(path: str, value: str | None = None) -> dict[str, str]:
    return {"op": "remove", "path": path} | ({} if value is None else {"value": value})


def new_plan(aws: Any, **members: Any) -> str:
    plan_id: str = aws.create_usage_plan(name="p", **members)["id"]
    return plan_id


def add_key(aws: Any, plan: str, key: str) -> Any:
    return aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")


def test_a_bare_plan(aws: Any) -> None:
    plan = aws.create_usage_plan(name="p")
    assert plan["ResponseMetadata"].pop("HTTPStatusCode") == 201
    del plan["ResponseMetadata"]
    assert len(plan["id"]) == 6
    assert plan == {"id": plan["id"], "name": "p", "apiStages": []}


def test_a_plan_with_everything(aws: Any) -> None:
    plan = aws.create_usage_plan(
        name="p",
        description="d",
        apiStages=[PLACE | {"throttle": {"/pets/GET": {"rateLimit": 1, "burstLimit": 2}}}],
        throttle={"burstLimit": 1, "rateLimit": 2},
        quota={"limit": 10, "period": "DAY"},
        tags={"a": "b"},
    )
    assert plan["throttle"] == {"burstLimit": 1, "rateLimit": 2.0}
    assert plan["quota"] == {"limit": 10, "period": "DAY", "offset": 0}
    assert plan["apiStages"] == [PLACE | {"throttle": {"/pets/GET": {"rateLimit": 1.0, "burstLimit": 2}}}]
    assert (plan["tags"], plan["description"]) == ({"a": "b"}, "d")


def test_a_rate_is_printed_as_a_float(control: Control) -> None:
    reply = raw(control, "POST", "/usageplans", {"name": "p", "throttle": {"rateLimit": 2, "burstLimit": 1}})
    assert b'"rateLimit":2.0' in reply.body


def test_a_throttle(aws: Any) -> None:
    assert aws.create_usage_plan(name="p", throttle={"burstLimit": 20, "rateLimit": 10.0})["throttle"] == {
        "burstLimit": 20,
        "rateLimit": 10.0,
    }


def test_a_stage_that_does_not_exist(aws: Any) -> None:
    stages = [{"apiId": "x", "stage": "y"}]
    expected = "NotFoundException: API Stage not found: x:y"
    assert refusal(aws.create_usage_plan, name="p", apiStages=stages) == expected
    assert refused(aws, new_plan(aws), added("/apiStages", "x:y")) == expected


def test_a_stage_without_its_name(aws: Any) -> None:
    expected = "BadRequestException: Invalid API Stage {api: %s, stage: %s} specified for usageplan %s"
    assert refusal(aws.create_usage_plan, name="p", apiStages=[{"apiId": "", "stage": "prod"}]) == expected
    assert refusal(aws.create_usage_plan, name="p", apiStages=[{"apiId": "a"}]) == expected
    assert refusal(aws.create_usage_plan, name="p", apiStages=[PLACE, PLACE]).startswith("ConflictException")


@pytest.fixture
def served(control: Control) -> Any:
    """A client; the stage prod of the API `a` serves GET and POST of /pets, ANY of /cats, and GET of /open keyless."""
    control.run(put_deployment)
    return boto(control)


async def put_deployment(context: Context) -> None:
    keyed = Method(api_key_required=True)
    resources: dict[str, dict[HttpMethod, Method]] = {
        "/pets": {"GET": keyed, "POST": keyed},
        "/cats": {"ANY": keyed},
        "/open": {"GET": Method(api_key_required=False)},
    }

    async def put(edit: Draft) -> None:
        edit.put(StoredDeployment("d", "a", 0, Deployment(resources=resources)))

    await put_stages(context)
    await context.store.write(put, who="tests", what="a deployment")


MISSING = {
    "/nothere/GET": "the deployment has no resource /nothere",
    "/Pets/GET": "the deployment has no resource /Pets; did you mean /pets?",
    "/pets/PUT": "the resource /pets has no method PUT, only GET, POST",
    "/cats/GET": "the resource /cats has no method GET, only ANY",
}


@pytest.mark.parametrize(("name", "why"), MISSING.items())
def test_a_plan_throttles_no_method_that_its_stage_does_not_serve(served: Any, name: str, why: str) -> None:
    path, _, verb = name.rpartition("/")
    expected = f"NotFoundException: Invalid method {{resourcePath: {path},method: {verb}}} specified: {why}"
    stages = [PLACE | {"throttle": {name: {"rateLimit": 1, "burstLimit": 2}}}]
    assert refusal(served.create_usage_plan, name="p", apiStages=stages) == expected
    plan = new_plan(served, apiStages=[PLACE])
    assert refused(served, plan, added(f"{THROTTLE}/{name}/rateLimit", "1")) == expected
    assert "throttle" not in served.get_usage_plan(usagePlanId=plan)["apiStages"][0]


def test_a_plan_throttles_methods_that_its_stage_serves(served: Any) -> None:
    plan = new_plan(served, apiStages=[PLACE])
    names = ("/pets/GET", "/pets/*", "/cats/ANY")
    changed = patched(served, plan, *(added(f"{THROTTLE}/{name}/rateLimit", "1") for name in names))
    assert sorted(changed["apiStages"][0]["throttle"]) == sorted(names)
    assert warning(changed) is None


def test_a_throttle_of_a_method_that_went_hinders_no_other_change(control: Control, served: Any) -> None:
    """A later deployment may lack the method: the plan is still shown, and still changes."""
    plan = new_plan(served, apiStages=[PLACE | {"throttle": {"/pets/GET": {"rateLimit": 1, "burstLimit": 2}}}])

    async def put_other(context: Context) -> None:
        async def put(edit: Draft) -> None:
            edit.put(StoredDeployment("d", "a", 1, Deployment(resources={"/cats": {"ANY": Method()}})))

        await context.store.write(put, who="tests", what="another deployment")

    control.run(put_other)
    patched(served, plan, added(f"{THROTTLE}//cats/ANY/rateLimit", "1"))
    patched(served, plan, removed(f"{THROTTLE}//pets/GET"))
    assert list(served.get_usage_plan(usagePlanId=plan)["apiStages"][0]["throttle"]) == ["/cats/ANY"]


def test_a_throttle_that_no_call_can_meet_is_taken_with_a_warning(served: Any) -> None:
    plan = new_plan(served, apiStages=[PLACE])
    changed = patched(served, plan, added(f"{THROTTLE}//open/GET/rateLimit", "1"))
    assert warning(changed) == "/open/GET of a:prod requires no API key, so no plan throttles it"


def test_a_key_joins_a_plan_without_stages_with_a_warning(served: Any) -> None:
    plan, key = new_plan(served), served.create_api_key(name="k", enabled=True)["id"]
    assert (
        warning(add_key(served, plan, key)) == f"usage plan {plan} covers no stage, so the key gets 403 until it does"
    )


def warning(answer: Any) -> str | None:
    found: str | None = answer["ResponseMetadata"]["HTTPHeaders"].get("x-authz-warning")
    return found


@pytest.mark.parametrize(("rate", "is_taken"), [(2**31 - 1, True), (2**31, False), (1e20, False)])
def test_rates_have_a_bound(aws: Any, rate: float, is_taken: bool) -> None:
    throttle = {"rateLimit": rate, "burstLimit": 10}
    if is_taken:
        assert aws.create_usage_plan(name="p", throttle=throttle)["throttle"]["rateLimit"] == rate
    else:
        expected = "BadRequestException: Invalid throttle settings specified: expected a rate of at most 2147483647"
        assert refusal(aws.create_usage_plan, name="p", throttle=throttle).startswith(expected)


PERIOD = "BadRequestException: Invalid Usage Plan quota period specified. Must be one of [DAY, WEEK, MONTH]"
LIMIT = "BadRequestException: Usage Plan quota limit must be a non-negative numeric"
OFFSET = "BadRequestException: Usage Plan quota offset must be"


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        pytest.param({"limit": 0, "period": "DAY"}, LIMIT, id="c36"),
        pytest.param({"limit": -1, "period": "DAY"}, LIMIT, id="c36-negative"),
        pytest.param({"period": "DAY"}, LIMIT, id="c36-missing"),
        pytest.param({"limit": 10}, PERIOD, id="c37"),
        pytest.param({"limit": 1, "period": "DAY", "offset": -1}, f"{OFFSET} zero in the DAY period", id="below-day"),
        pytest.param(
            {"limit": 1, "period": "WEEK", "offset": -1},
            f"{OFFSET} between 0 and 6 inclusive in the WEEK period",
            id="below-week",
        ),
        pytest.param({"limit": 1, "period": "DAY", "offset": 1}, f"{OFFSET} zero in the DAY period", id="c38-day"),
        pytest.param(
            {"limit": 1, "period": "WEEK", "offset": 7},
            f"{OFFSET} between 0 and 6 inclusive in the WEEK period",
            id="c38-week",
        ),
        pytest.param(
            {"limit": 1, "period": "MONTH", "offset": 28},
            f"{OFFSET} between 0 and 27 inclusive in the MONTH period",
            id="c38-month",
        ),
    ],
)
def test_invalid_quotas_are_refused(aws: Any, quota: dict[str, Any], expected: str) -> None:
    assert refusal(aws.create_usage_plan, name="p", quota=quota) == expected


@pytest.mark.parametrize(("period", "offset"), [("WEEK", 6), ("MONTH", 27)])
def test_the_last_offsets(aws: Any, period: str, offset: int) -> None:
    quota = {"limit": 1, "period": period, "offset": offset}
    assert aws.create_usage_plan(name="p", quota=quota)["quota"] == quota


def test_a_throttle_for_a_method_that_does_not_exist_is_refused(aws: Any) -> None:
    stages = [PLACE | {"throttle": {"badkey": {"rateLimit": 1.0, "burstLimit": 1}}}]
    expected = "BadRequestException: Invalid method {resourcePath: badkey,method: } specified"
    assert refusal(aws.create_usage_plan, name="p", apiStages=stages) == expected


@pytest.mark.parametrize(("path", "method"), [("pets", "GET"), ("*", "*"), ("~1pets", "GET")])
def test_a_method_without_its_first_slash_is_refused(aws: Any, path: str, method: str) -> None:
    """Shown with one, it would be another than Terraform wrote, and be changed for ever."""
    stages = [PLACE | {"throttle": {f"{path}/{method}": {"rateLimit": 1.0, "burstLimit": 1}}}]
    expected = f"BadRequestException: Invalid method {{resourcePath: {path},method: {method}}} specified"
    assert refusal(aws.create_usage_plan, name="p", apiStages=stages) == expected


def test_plans_of_a_key_are_paged(aws: Any) -> None:
    plans, key = [new_plan(aws) for _ in range(5)], aws.create_api_key()["id"]
    for plan in plans:
        add_key(aws, plan, key)
    pages = [
        ids(page) for page in aws.get_paginator("get_usage_plans").paginate(keyId=key, PaginationConfig={"PageSize": 2})
    ]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(plan for page in pages for plan in page) == sorted(plans)


def test_a_plan_is_read(aws: Any) -> None:
    plan = new_plan(aws)
    assert aws.get_usage_plan(usagePlanId=plan)["tags"] == {}
    assert refusal(aws.get_usage_plan, usagePlanId="unknown") == NO_PLAN
    assert refused(aws, "unknown", replaced("/name", "x")) == NO_PLAN
    assert refusal(aws.delete_usage_plan, usagePlanId="unknown") == NO_PLAN


def test_plans_of_a_key(aws: Any) -> None:
    plans, key = [new_plan(aws) for _ in range(3)], aws.create_api_key()["id"]
    for plan in plans[:2]:
        add_key(aws, plan, key)
    assert ids(aws.get_usage_plans()) == plans[::-1]
    assert sorted(ids(aws.get_usage_plans(keyId=key))) == sorted(plans[:2])
    assert ids(aws.get_usage_plans(keyId="unknown")) == []


def test_throttle_and_quota_are_added_by_patch(aws: Any) -> None:
    done = patched(
        aws,
        new_plan(aws),
        replaced("/throttle/rateLimit", "200"),
        replaced("/throttle/burstLimit", "100"),
        replaced("/quota/limit", "5000"),
        replaced("/quota/period", "MONTH"),
    )
    assert done["throttle"] == {"rateLimit": 200.0, "burstLimit": 100}
    assert done["quota"] == {"limit": 5000, "period": "MONTH", "offset": 0}
    assert done["tags"] == {}


def test_throttle_and_quota_are_removed_by_patch(aws: Any) -> None:
    plan = new_plan(aws, throttle={"rateLimit": 1, "burstLimit": 1}, quota={"limit": 1, "period": "DAY"})
    done = patched(aws, plan, removed("/throttle"), removed("/quota"))
    assert not {"throttle", "quota"} & done.keys()
    assert not {"throttle", "quota"} & aws.get_usage_plan(usagePlanId=plan).keys()


@pytest.mark.parametrize("value", [None, "garbage"], ids=["c45", "c46"])
def test_a_stage_to_remove_must_be_named(aws: Any, value: str | None) -> None:
    expected = "BadRequestException: Invalid API Stage specified"
    assert refused(aws, new_plan(aws), removed("/apiStages", value)) == expected


def test_a_stage_that_the_plan_does_not_have(aws: Any) -> None:
    plan = new_plan(aws)
    expected = f"NotFoundException: Invalid API Stage {{api: a, stage: fakestage}} specified for usageplan {plan}"
    assert refused(aws, plan, removed("/apiStages", "a:fakestage")) == expected


def test_a_path_that_cannot_be_removed(aws: Any) -> None:
    assert refused(aws, new_plan(aws), removed("/apiStages/x:dev")) == (
        "BadRequestException: Invalid patch path  '/apiStages/x:dev' specified for op 'remove'. Must be one of: "
        "[/apiStages, /quota, /throttle, /productCode, "
        "/apiStages/<apidId:stageName>/throttle/<resourcePath>/<httpMethod>, "
        "/apiStages/<apidId:stageName>/throttle]"
    )


def test_a_stage_is_added_and_removed(aws: Any) -> None:
    plan = new_plan(aws)
    assert patched(aws, plan, added("/apiStages", "a:prod"))["apiStages"] == [PLACE]
    assert patched(aws, plan, removed("/apiStages", "a:prod"))["apiStages"] == []


def test_method_throttles(aws: Any) -> None:
    plan = new_plan(aws, apiStages=[PLACE])
    numbers = [
        replaced(f"{THROTTLE}//pets/GET/{name}", value) for name, value in (("rateLimit", "0.1"), ("burstLimit", "1"))
    ]
    pets = {"/pets/GET": {"rateLimit": 0.1, "burstLimit": 1}}
    assert patched(aws, plan, *numbers)["apiStages"][0]["throttle"] == pets
    both = '{"/pets/GET":{"rateLimit":1.0,"burstLimit":1},"//GET":{"rateLimit":2,"burstLimit":2}}'
    assert patched(aws, plan, replaced(THROTTLE, both))["apiStages"][0]["throttle"] == {
        "/pets/GET": {"rateLimit": 1.0, "burstLimit": 1},
        "//GET": {"rateLimit": 2.0, "burstLimit": 2},
    }
    assert list(patched(aws, plan, removed(f"{THROTTLE}//pets/GET", ""))["apiStages"][0]["throttle"]) == ["//GET"]
    assert "throttle" not in patched(aws, plan, removed(THROTTLE, ""))["apiStages"][0]


def test_at_most_twenty_method_throttles(aws: Any) -> None:
    plan = new_plan(aws, apiStages=[PLACE])
    patched(aws, plan, *(added(f"{THROTTLE}//r{n}/GET/rateLimit", "1") for n in range(20)))
    assert refused(aws, plan, added(f"{THROTTLE}//r20/GET/rateLimit", "1")).startswith("LimitExceededException")


def test_a_429_says_when_to_try_again(aws: Any) -> None:
    plan = new_plan(aws, apiStages=[PLACE])
    patched(aws, plan, *(added(f"{THROTTLE}//r{n}/GET/rateLimit", "1") for n in range(20)))
    with pytest.raises(aws.exceptions.LimitExceededException) as refusal:
        patched(aws, plan, added(f"{THROTTLE}//r20/GET/rateLimit", "1"))
    assert refusal.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_a_product_code(aws: Any) -> None:
    plan = new_plan(aws)
    assert patched(aws, plan, added("/productCode", "x"))["productCode"] == "x"
    assert patched(aws, plan, replaced("/productCode", "y"))["productCode"] == "y"
    assert "productCode" not in patched(aws, plan, removed("/productCode"))


def test_all_operations_or_none(aws: Any) -> None:
    plan = new_plan(aws)
    refused(aws, plan, replaced("/name", "new"), replaced("/nowhere", "x"))
    refused(aws, plan, replaced("/name", "new"), added("/apiStages", "x:y"))
    assert aws.get_usage_plan(usagePlanId=plan)["name"] == "p"
    assert patched(aws, plan)["name"] == "p"


def test_a_plan_without_stages_is_deleted(aws: Any) -> None:
    plan = new_plan(aws, apiStages=[PLACE])
    key = aws.create_api_key()["id"]
    add_key(aws, plan, key)
    assert refusal(aws.delete_usage_plan, usagePlanId=plan) == (
        f"BadRequestException: Cannot delete Usage Plan {plan} because there are API Stages associated with it, "
        "including a:prod"
    )
    patched(aws, plan, removed("/apiStages", "a:prod"))
    assert aws.delete_usage_plan(usagePlanId=plan)["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert refusal(aws.get_usage_plan, usagePlanId=plan) == NO_PLAN
    assert ids(aws.get_usage_plans(keyId=key)) == []
    assert ids(aws.get_usage_plan_keys(usagePlanId=plan)) == []


def test_a_key_joins_a_plan(aws: Any) -> None:
    key = aws.create_api_key(name="n")
    joined = add_key(aws, new_plan(aws), key["id"])
    assert joined.pop("ResponseMetadata")["HTTPStatusCode"] == 201
    assert joined == {"id": key["id"], "type": "API_KEY", "value": key["value"], "name": "n"}


def test_an_unknown_key_or_plan(aws: Any) -> None:
    plan, key = new_plan(aws), aws.create_api_key()["id"]
    members = {"keyType": "API_KEY"}
    expected = "NotFoundException: Invalid API Key identifier specified"
    assert refusal(aws.create_usage_plan_key, usagePlanId=plan, keyId="unknown", **members) == expected
    assert refusal(aws.create_usage_plan_key, usagePlanId="unknown", keyId=key, **members) == NO_PLAN
    wrong = {"usagePlanId": plan, "keyId": key, "keyType": "OTHER"}
    assert refusal(aws.create_usage_plan_key, **wrong).startswith("BadRequestException")


def test_a_key_has_one_plan_of_a_stage(aws: Any) -> None:
    plans = [new_plan(aws, apiStages=[PLACE]) for _ in range(2)]
    key = aws.create_api_key(value="v" * 20)["id"]
    add_key(aws, plans[0], key)
    for plan in plans:
        refused_join = refusal(aws.create_usage_plan_key, usagePlanId=plan, keyId=key, keyType="API_KEY")
        assert refused_join.startswith("ConflictException")
    answer = imported(aws, "Name,Key,UsagePlanIds", f"x,{'v' * 20},{plans[1]}", f"y,{'w' * 20},{plans[1]}")
    assert len(answer["ids"]) == len(answer["warnings"]) == 1
    assert ids(aws.get_usage_plan_keys(usagePlanId=plans[1])) == answer["ids"]


def test_a_stage_cannot_join_two_plans_of_a_key(aws: Any) -> None:
    plans = [new_plan(aws, apiStages=[PLACE]), new_plan(aws)]
    key = aws.create_api_key()["id"]
    for plan in plans:
        add_key(aws, plan, key)
    assert refused(aws, plans[1], added("/apiStages", "a:prod")).startswith("ConflictException")
    assert patched(aws, plans[1], added("/apiStages", "a:test"))["apiStages"] == [{"apiId": "a", "stage": "test"}]


def test_of_two_conflicting_writers_one_wins(control: Control, aws: Any) -> None:
    """A key joins the one plan while the stage joins the other: never both."""
    for _ in range(10):
        covers, bare = new_plan(aws, apiStages=[PLACE]), new_plan(aws)
        key = aws.create_api_key()["id"]
        add_key(aws, bare, key)

        def join(plan: str = covers, key: str = key) -> Any:
            body = {"keyId": key, "keyType": "API_KEY"}
            return raw(control, "POST", f"/usageplans/{plan}/keys", body).status

        def attach(plan: str = bare) -> Any:
            body = {"patchOperations": [added("/apiStages", "a:prod")]}
            return raw(control, "PATCH", f"/usageplans/{plan}", body).status

        with ThreadPoolExecutor(2) as pool:
            results = [future.result() for future in (pool.submit(join), pool.submit(attach))]
        assert sorted(results) in ([200, 409], [201, 409])


def test_keys_of_a_plan(aws: Any) -> None:
    plan = new_plan(aws)
    keys = [aws.create_api_key(name=name) for name in ("Alpha", "Beta")]
    outsider = aws.create_api_key(name="Alpine")
    for key in keys:
        add_key(aws, plan, key["id"])
    listed = aws.get_usage_plan_keys(usagePlanId=plan)["items"]
    assert listed == [
        {"id": key["id"], "type": "API_KEY", "value": key["value"], "name": key["name"]} for key in reversed(keys)
    ]
    assert ids(aws.get_usage_plan_keys(usagePlanId=plan, nameQuery="Al")) == [keys[0]["id"]]
    assert ids(aws.get_usage_plan_keys(usagePlanId=plan, nameQuery="al")) == []
    assert outsider["id"] not in [item["id"] for item in listed]
    paginator = aws.get_paginator("get_usage_plan_keys").paginate(usagePlanId=plan, PaginationConfig={"PageSize": 1})
    assert [item["name"] for page in paginator for item in page["items"]] == ["Beta", "Alpha"]


def test_keys_of_an_unknown_plan(aws: Any) -> None:
    assert ids(aws.get_usage_plan_keys(usagePlanId="unknown")) == []


def test_a_key_leaves_a_plan(aws: Any) -> None:
    plan, key, other = new_plan(aws), aws.create_api_key()["id"], aws.create_api_key()["id"]
    add_key(aws, plan, key)
    assert aws.get_usage_plan_key(usagePlanId=plan, keyId=key)["id"] == key
    for verb in (aws.get_usage_plan_key, aws.delete_usage_plan_key):
        assert refusal(verb, usagePlanId=plan, keyId="unknown").startswith("NotFoundException")
        assert refusal(verb, usagePlanId=plan, keyId=other).startswith("NotFoundException")
        assert refusal(verb, usagePlanId="unknown", keyId=key) == NO_PLAN
    assert aws.delete_usage_plan_key(usagePlanId=plan, keyId=key)["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert refusal(aws.get_usage_plan_key, usagePlanId=plan, keyId=key).startswith("NotFoundException")
    assert aws.get_api_key(apiKey=key)["id"] == key


def test_a_plan_in_shadow(control: Control) -> None:
    """`mode` and `failurePolicy` are ours, and shown only where they are set."""
    made = raw(control, "POST", "/usageplans", {"name": "p", "mode": "shadow", "failurePolicy": "deny"}).json()
    assert (made["mode"], made["failurePolicy"]) == ("shadow", "deny")
    assert raw(control, "POST", "/usageplans", {"name": "p", "mode": "other"}).status == 400
    assert raw(control, "POST", "/usageplans", {}).status == 400


def test_the_store_is_consistent_after_all(control: Control, aws: Any) -> None:
    plans, key = [new_plan(aws), new_plan(aws)], aws.create_api_key(name="n", customerId="c")["id"]
    for plan in plans:
        add_key(aws, plan, key)
    aws.delete_usage_plan(usagePlanId=plans[0])
    add_key(aws, new_plan(aws), key)
    aws.update_api_key(apiKey=key, patchOperations=[replaced("/name", "m")])
    aws.delete_api_key(apiKey=key)
    assert control.run(lambda _: differences(control.store)) == []

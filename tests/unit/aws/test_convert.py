"""Resources keep their meaning from the file's form to the store's and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from authz.aws.convert import clashes, flattened, from_resources, to_resources
from authz.aws.restapis import deployed, snapshot
from authz.core import rules
from authz.core.catalog import Catalog
from authz.core.request import Request, joined
from authz.core.resources import (
    Account,
    ApiStage,
    AuthorizerSource,
    Deployment,
    GatewayResponse,
    GatewayResponseType,
    Host,
    KeySource,
    Method,
    MethodSetting,
    Resources,
    Stage,
    ThrottleSettings,
    digest,
)
from authz.core.stored import (
    BasePathMapping,
    DomainName,
    Items,
    RestApi,
    StoredKey,
    StoredMethod,
    StoredPlan,
    StoredResource,
    StoredStage,
)
from tests.support.builders import api, key, plan, resources, value_of

THROTTLED = GatewayResponse(status_code="429", response_templates={"application/json": '{"slow":"down"}'})


def full() -> Resources:
    """Resources that use every field of the file."""
    stages = (
        Stage(
            name="prod",
            method_settings={"*/*": MethodSetting(100.0, 200), "~1pets/GET": MethodSetting(-1, 5)},
            gateway_responses={GatewayResponseType.THROTTLED: THROTTLED},
            variables={"who": "us"},
        ),
        Stage(name="dev"),
    )
    first = api(
        stages=stages,
        name="Pets",
        key_sources=(KeySource(header="x-api-key"), KeySource(query="key")),
        hosts=(Host("api.example.org", "v1", "prod"), Host("api.example.org", "", None)),
        forward_api_key=True,
    )
    open_ = api("a2", api_key_source="AUTHORIZER", authorizer=AuthorizerSource("jwt", ("sub",)), resources={})
    keys = (key("k1", expires_at=datetime(2030, 1, 1, tzinfo=UTC), customer_id="c"), key("k2", enabled=False))
    plans = (
        plan(throttle=ThrottleSettings(5.0, 10), keys=("k1", "k2")),
        plan("p2", api_stages=(ApiStage("a2", "prod"),)),
    )
    account = Account(ThrottleSettings(7.0, 8))
    return Resources(account, (first, open_), plans, keys)


def without_keys(given: Resources) -> Resources:
    plans = tuple(replace(plan, keys=()) for plan in given.usage_plans)
    return replace(given, usage_plans=plans, api_keys=())


def test_what_goes_into_the_store_comes_out_of_it() -> None:
    """Except names of APIs without stages, and keys, which are looked up one by one."""
    given = full()
    found, refs = to_resources(from_resources(given))
    assert flattened(found) == without_keys(given)
    assert refs == {"p1": "p1", "p2": "p2"}
    assert rules.problems(flattened(found)) == []


def test_a_file_is_the_same_items_each_time() -> None:
    assert from_resources(full(), 5) == from_resources(full(), 5)


def test_every_stage_of_the_store_has_its_deployment() -> None:
    found, _ = to_resources(from_resources(full()))
    assert [bool(stage.deployment) for found_api in found.apis for stage in found_api.stages] == [True, True, True]


def test_a_key_is_kept_by_its_digest_and_knows_its_plans() -> None:
    items = from_resources(full(), index=lambda sha256: "x" + sha256.hex())
    stored = items["apikey", "k1"]
    assert isinstance(stored, StoredKey)
    assert stored.index == "x" + digest(value_of("k1")).hex()
    assert stored.plans == ("p1", "p2")
    assert (stored.key.value, stored.key.value_sha256) == (None, None)


def test_an_api_is_a_tree_with_the_nodes_between() -> None:
    items = from_resources(resources(apis=(api(resources={"/a/b/{c}": {"GET": Method()}}),)))
    draft = items["restapi", "a1"]
    assert isinstance(draft, RestApi)
    by_path = {node.path: node for node in draft.resources.values()}
    assert list(by_path) == ["/", "/a", "/a/b", "/a/b/{c}"]
    assert by_path["/"].id == draft.root_resource_id
    assert by_path["/a/b/{c}"].parent_id == by_path["/a/b"].id
    assert (by_path["/"].path_part, by_path["/a/b/{c}"].path_part) == (None, "{c}")


def test_stages_that_serve_the_same_share_a_deployment() -> None:
    items = from_resources(resources(apis=(api(stages=(Stage(name="x"), Stage(name="y"))),)))
    assert sum(kind == "deployment" for kind, _ in items) == 1


def test_a_stages_own_deployment_is_kept() -> None:
    old = Deployment(resources={"/old": {"GET": Method()}})
    given = resources(apis=(api(stages=(Stage(name="prod", deployment=old), Stage(name="new"))),))
    found, _ = to_resources(from_resources(given))
    assert found.apis[0].stages[0].deployment == old
    assert flattened(flattened(found)) == flattened(found)


@pytest.mark.parametrize("kind", ["deployment", "restapi", "stage"])
def test_what_points_to_nothing_is_left_out(kind: str) -> None:
    items = {name: item for name, item in from_resources(full()).items() if name[0] != kind}
    found, _ = to_resources(items)
    Catalog.compile(found)
    reachable = {(api.id, stage.name) for api in found.apis for stage in api.stages}
    covered = {(stage.api_id, stage.stage) for plan in found.usage_plans for stage in plan.api_stages}
    assert covered <= reachable
    assert bool(reachable) is (kind == "restapi")


def test_a_method_setting_that_names_no_method_is_left_out() -> None:
    items = from_resources(resources())
    stage = items["stage", "a1/prod"]
    assert isinstance(stage, StoredStage)
    settings: dict[str, dict[str, Any]] = {
        "nonsense": {},
        "pets/GET": {"throttlingBurstLimit": 3, "cachingEnabled": True},
    }
    items["stage", "a1/prod"] = replace(stage, method_settings=settings)
    assert to_resources(items)[0].apis[0].stages[0].method_settings == {"pets/GET": MethodSetting(None, 3)}


def test_the_file_comes_first_and_wins() -> None:
    """A plan and a domain of the store may name an API of the file; an id of the file is the file's."""
    ours = plan("p9", keys=())
    items: Items = {
        ("usageplan", "p9"): StoredPlan(ours, "n"),
        ("usageplan", "p1"): StoredPlan(plan(name="another", keys=()), "m"),
        ("domain", "x.org"): DomainName("x.org", 0, (BasePathMapping("", "a1"), BasePathMapping("no", "gone"))),
    }
    found, refs = to_resources(items, resources())
    assert found.usage_plans == (plan(), ours)
    assert found.api_keys == (key(),)
    assert found.apis[0].hosts == (Host("x.org"),)
    assert refs == {"p1": "p1", "p9": "p9.n"}
    assert clashes(items, resources()) == ["plan p1"]


def test_a_snapshot_has_what_the_data_plane_serves() -> None:
    """Only paths that have methods, and only the kinds of responses that authz gives."""
    node = StoredResource("r", "/", methods={"GET": StoredMethod(api_key_required=True)})
    empty = StoredResource("s", "/s", "r", "s")
    draft = RestApi(
        id="a",
        name="A",
        created_date=0,
        root_resource_id="r",
        resources={"r": node, "s": empty},
        gateway_responses={"THROTTLED": THROTTLED, "WAF_FILTERED": GatewayResponse()},
    )
    expected = Deployment(
        resources={"/": {"GET": Method()}}, gateway_responses={GatewayResponseType.THROTTLED: THROTTLED}
    )
    assert snapshot(draft) == expected


@pytest.mark.parametrize("path", ["/prod/pets", "/dev/pets/7", "/prod/nothing", "/nowhere/pets"])
@pytest.mark.parametrize("host", ["a1.example.org", "a2.example.org", "api.example.org", "unknown.example.org"])
def test_both_forms_compile_to_the_same_answers(host: str, path: str) -> None:
    """One catalog comes from the file, the other from the file in the store's form."""
    given = full()
    found, _ = to_resources(from_resources(given))
    plans = {plan.id: plan.keys for plan in given.usage_plans}
    keyed = tuple(replace(plan, keys=plans[plan.id]) for plan in found.usage_plans)
    again = replace(found, usage_plans=keyed, api_keys=given.api_keys)
    for value in (value_of("k1"), value_of("k2"), "nobody's"):
        request = Request("GET", host, path, joined([("x-api-key", value)]), {}, {})
        assert Catalog.compile(again).resolve(request, 0) == Catalog.compile(given).resolve(request, 0)


def test_an_imported_api_can_be_deployed_again() -> None:
    """AWS's tools refuse an API whose methods have no integration, so a file's methods get one."""
    given = full()
    items = from_resources(given)
    for each in given.apis:
        found = items["restapi", each.id]
        assert isinstance(found, RestApi)
        if each.resources:
            assert deployed(found).resources == each.resources

"""A key has one plan for a stage, whichever way the two meet; in one process over a dictionary store."""

from __future__ import annotations

from authz.core.resources import ApiKey, ApiStage, UsagePlan
from authz.core.stored import StoredKey, StoredPlan, StoredStage
from tests.support.dictstore import DictStore
from tests.support.plane import Plane

PROD = ApiStage("a1", "prod")
TWICE = "a1:prod"


def _plan(plan_id: str, *stages: ApiStage) -> StoredPlan:
    return StoredPlan(UsagePlan(plan_id, plan_id, api_stages=stages), nonce="n")


def _key(*plans: StoredPlan) -> StoredKey:
    return StoredKey(ApiKey("k1"), "digest", 1, 1, plans=tuple(plan.ref for plan in plans))


def _cover(plane: Plane, plan_id: str) -> tuple[int, str | None]:
    operations = [{"op": "add", "path": "/apiStages", "value": "a1:prod"}]
    reply = plane.call("PATCH", f"/usageplans/{plan_id}", {"patchOperations": operations})
    return reply.status, reply.code


def test_a_plan_may_not_cover_a_stage_of_its_keys_other_plan() -> None:
    silver, gold = _plan("silver", PROD), _plan("gold")
    plane = Plane(DictStore(silver, gold, _key(silver, gold), StoredStage("a1", "prod", "d1", 1, 1)))
    assert _cover(plane, "gold") == (409, "ConflictException")
    assert plane.store.items["usageplan", "gold"] == gold


def test_two_plans_without_a_common_key_may_cover_one_stage() -> None:
    silver, gold = _plan("silver", PROD), _plan("gold")
    plane = Plane(DictStore(silver, gold, _key(silver), StoredStage("a1", "prod", "d1", 1, 1)))
    assert _cover(plane, "gold") == (200, None)


def test_a_key_may_not_join_a_second_plan_of_a_stage() -> None:
    silver, gold = _plan("silver", PROD), _plan("gold", PROD)
    plane = Plane(DictStore(silver, gold, _key(silver)))
    reply = plane.call("POST", "/usageplans/gold/keys", {"keyId": "k1", "keyType": "API_KEY"})
    assert (reply.status, reply.code) == (409, "ConflictException")
    assert plane.store.items["apikey", "k1"] == _key(silver)


def test_a_value_has_one_key() -> None:
    plane = Plane(DictStore())
    assert plane.call("POST", "/apikeys", {"value": "v" * 30}).status == 201
    reply = plane.call("POST", "/apikeys", {"value": "v" * 30})
    assert (reply.status, reply.code) == (409, "ConflictException")
    assert reply.body == {"message": "API Key already exists"}


def test_the_configuration_files_items_are_read_only() -> None:
    fixed = _plan("filed")
    plane = Plane(DictStore(fixed={("usageplan", "filed"): fixed}))
    reply = plane.call("DELETE", "/usageplans/filed")
    assert (reply.status, reply.code) == (409, "ConflictException")
    assert "configuration file" in reply.body["message"]


def test_a_position_that_no_page_ended_at_is_a_bad_request() -> None:
    reply = Plane(DictStore()).call("GET", "/apikeys?position=x")
    assert (reply.status, reply.code, reply.body) == (
        400,
        "BadRequestException",
        {"message": "Invalid position parameter"},
    )

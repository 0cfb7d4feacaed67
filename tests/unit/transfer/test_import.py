"""What an import refuses, over a dictionary store."""

from __future__ import annotations

import asyncio

import pytest

from authz.aws.awsfiles import Wanted
from authz.core.resources import ApiKey, ApiStage, UsagePlan
from authz.core.stored import Item, StoredKey, StoredPlan, StoredStage
from authz.store.sealing import Sealer
from authz.transfer.transfer import Import, ImportRefused
from tests.support.dictstore import DictStore

PROD = ApiStage("a1", "prod")
STAGE = StoredStage("a1", "prod", "d1", 1, 1)


def _plan(plan_id: str, *stages: ApiStage) -> StoredPlan:
    return StoredPlan(UsagePlan(plan_id, plan_id, api_stages=stages), nonce="n")


def _key(key_id: str, *plans: str, index: str = "digest") -> StoredKey:
    return StoredKey(ApiKey(key_id), index, 1, 1, plans=plans)


def _bring(store: DictStore, *items: Item, members: dict[str, tuple[str, ...]] | None = None) -> None:
    wanted = Wanted(DictStore(*items).items)
    wanted.members = members or {}
    asyncio.run(Import(store, Sealer(), wanted, 1, "tests").run())


def test_a_key_is_put_into_one_plan_for_a_stage() -> None:
    """Two plans of the import cover the stage, and both list the key."""
    store = DictStore(STAGE)
    with pytest.raises(ImportRefused, match="the key k1 would be in two plans for a1:prod: silver and gold"):
        _bring(
            store,
            _plan("silver", PROD),
            _plan("gold", PROD),
            _key("k1"),
            members={"silver": ("k1",), "gold": ("k1",)},
        )
    assert ("apikey", "k1") not in store.items


def test_a_key_that_has_a_plan_for_a_stage_is_put_into_no_other() -> None:
    """The store has the first plan. The import does not mention it."""
    store = DictStore(STAGE, _plan("silver", PROD), _key("k1", "silver.n"))
    with pytest.raises(ImportRefused, match="the key k1 would be in two plans for a1:prod: silver and gold"):
        _bring(store, _plan("gold", PROD), _key("k1"), members={"gold": ("k1",)})
    assert store.items["apikey", "k1"] == _key("k1", "silver.n")


def test_a_plan_may_not_come_to_cover_a_stage_of_its_keys_other_plan() -> None:
    """The import brings the plan alone; both plans' keys are in the store."""
    store = DictStore(STAGE, _plan("silver", PROD), _plan("gold"), _key("k1", "silver.n", "gold.n"))
    with pytest.raises(ImportRefused, match="a key would be in two plans for a1:prod: silver and gold"):
        _bring(store, _plan("gold", PROD))
    assert store.items["usageplan", "gold"] == _plan("gold")


def test_a_value_has_one_key() -> None:
    store = DictStore(_key("k1"))
    with pytest.raises(ImportRefused, match="the value of the key k2 is already that of another key"):
        _bring(store, _key("k2"))

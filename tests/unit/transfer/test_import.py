"""What an import refuses, over a dictionary store."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from authz.aws.awsfiles import Wanted, read
from authz.core.resources import (
    ApiKey,
    ApiStage,
    Customer,
    LimitsPer,
    Override,
    Period,
    QuotaOverride,
    QuotaSettings,
    UsagePlan,
)
from authz.core.stored import Item, StoredCustomer, StoredKey, StoredPlan, StoredStage
from authz.store.sealing import Sealer
from authz.transfer.transfer import Import, ImportRefused
from tests.support.dictstore import DictStore
from tests.unit.aws.test_awsfiles import API, KEY, PETS, PLAN, ROOT, printed

T = TypeVar("T", StoredKey, StoredCustomer)

PROD = ApiStage("a1", "prod")
STAGE = StoredStage("a1", "prod", "d1", 1, 1)


def _plan(plan_id: str, *stages: ApiStage) -> StoredPlan:
    return StoredPlan(UsagePlan(plan_id, plan_id, api_stages=stages), nonce="n")


def _key(key_id: str, *plans: str, index: str = "digest") -> StoredKey:
    return StoredKey(ApiKey(key_id), index, 1, 1, plans=plans)


def _bring(
    store: DictStore, *items: Item, members: dict[str, tuple[str, ...]] | None = None, is_partial: bool = False
) -> None:
    wanted = Wanted(DictStore(*items).items, is_partial=is_partial)
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


def _overridden(holder: T, **limits: int) -> T:
    overrides = {f"{plan}.n": Override(quotas=(QuotaOverride(Period.DAY, limit),)) for plan, limit in limits.items()}
    return replace(holder, overrides=overrides)


def test_a_file_keeps_the_overrides_of_a_key_in_plans_that_it_does_not_name() -> None:
    """Of `gold`, which the file names, it takes them away."""
    before = _key("k1", "silver.n", "gold.n")
    store = DictStore(STAGE, _plan("silver"), _plan("gold"), _overridden(before, silver=5, gold=6))
    _bring(store, _plan("gold"), before, members={"gold": ("k1",)}, is_partial=True)
    assert store.items["apikey", "k1"] == _overridden(before, silver=5)


def test_a_file_keeps_the_overrides_of_a_customer_in_plans_that_it_does_not_name() -> None:
    before = StoredCustomer(Customer("acme"), 1, 1)
    store = DictStore(STAGE, _plan("silver"), _plan("gold"), _overridden(before, silver=5, gold=6))
    _bring(store, _plan("gold"), before, members={"gold": ()}, is_partial=True)
    assert store.items["customer", "acme"] == _overridden(before, silver=5)


# --- AWS's documents over members of ours -------------------------------------------------------------------------

OURS = {
    "quotas": [
        {"limit": 5000, "period": "MONTH", "anchor": "BILLING_DAY", "timeZone": "Europe/Berlin", "alerts": [80]},
        {"limit": 50, "period": "HOUR", "counts": "REQUESTS"},
    ],
    "limitsPer": "CUSTOMER",
    "throttle": {"rateLimit": 50.0, "burstLimit": 100, "counts": "UNITS"},
}
GET: dict[str, Any] = {"apiKeyRequired": True, "authorizationType": "NONE", "methodIntegration": {"type": "MOCK"}}
OURS_IN_KEYS = {"allowedSources": ["10.0.0.0/8"], "billingDay": 9, "expiresAt": "2030-01-01T00:00:00Z"}


def _rows(**changes: Any) -> DictStore:
    """A store with the small account of `printed`."""
    return _read(DictStore(), **changes)


def _read(store: DictStore, **changes: Any) -> DictStore:
    asyncio.run(_import(store, **changes).run())
    return store


def _import(store: DictStore, **changes: Any) -> Import:
    return Import(store, Sealer(), read(printed(**changes), 1, bytes.hex), 1, "tests")


def _with_ours() -> DictStore:
    """The small account with members of ours in its API, plan and key."""
    get = GET | {"cost": 5, "costFrom": {"metadata": ["a", "b"], "max": 9}}
    return _rows(
        apis={"items": [API | {"keySources": [{"query": "key"}], "costFrom": {"metadata": ["c", "d"], "max": 7}}]},
        resources={"items": [ROOT, PETS | {"resourceMethods": {"GET": get}}]},
        plans={"items": [PLAN | OURS]},
        keys={"items": [KEY | OURS_IN_KEYS]},
    )


def test_documents_of_aws_keep_the_members_that_aws_does_not_have() -> None:
    """Plan, key, method, API, and the deployment that the stage serves."""
    store = _with_ours()
    before = dict(store.items)
    _read(store)
    assert store.items == before


def test_documents_of_aws_change_the_members_that_aws_has() -> None:
    store = _with_ours()
    quota = {"limit": 6000, "offset": 0, "period": "MONTH"}
    _read(store, plans={"items": [PLAN | {"quota": quota}]}, keys={"items": [KEY | {"enabled": False}]})
    plan, key = store.items["usageplan", "p1"], store.items["apikey", "k1"]
    assert isinstance(plan, StoredPlan)
    assert isinstance(key, StoredKey)
    assert plan.plan.quota
    assert (plan.plan.quota.limit, plan.plan.quota.time_zone) == (6000, "Europe/Berlin")
    assert (key.key.enabled, key.key.allowed_sources) == (False, ("10.0.0.0/8",))


def test_rows_with_members_of_ours_replace_the_stored_ones() -> None:
    store = _with_ours()
    quotas = [{"limit": 9, "period": "TOTAL"}]
    plan = {name: value for name, value in PLAN.items() if name != "quota"} | {"quotas": quotas, "limitsPer": "KEY"}
    _read(store, plans={"items": [plan]}, keys={"items": [KEY | {"allowedSources": ["10.1.0.0/16"]}]})
    found, key = store.items["usageplan", "p1"], store.items["apikey", "k1"]
    assert isinstance(found, StoredPlan)
    assert isinstance(key, StoredKey)
    assert (found.plan.all_quotas, found.plan.limits_per) == (
        (QuotaSettings(9, Period.TOTAL),),
        LimitsPer.KEY,
    )
    assert key.key.allowed_sources == ("10.1.0.0/16",)


def test_members_that_do_not_fit_the_new_quota_are_named() -> None:
    """A week has no billing day."""
    store = _with_ours()
    made = _import(store, plans={"items": [PLAN | {"quota": {"limit": 6, "offset": 1, "period": "WEEK"}}]})
    asyncio.run(made.run())
    plan = store.items["usageplan", "p1"]
    assert isinstance(plan, StoredPlan)
    assert plan.plan.all_quotas == (QuotaSettings(6, Period.WEEK, 1),)
    assert any(
        text.startswith("usageplan p1: the stored members of its quotas are not kept: expected")
        for text in made.warnings
    )


DEAR = {"items": [ROOT, PETS | {"resourceMethods": {"GET": GET | {"cost": 5}}}]}
NEVER = "a call of GET /pets of a1b2c3:prod costs 5, and the quota admits 3, so it is never admitted"


def _small(**changes: Any) -> dict[str, Any]:
    return {"items": [PLAN | {"quota": {"limit": 3, "offset": 0, "period": "MONTH"}} | changes]}


@pytest.mark.parametrize("preview", [True, False])
def test_a_call_that_a_new_plan_never_admits_is_named(preview: bool) -> None:
    made = _import(DictStore(), resources=DEAR, plans=_small())
    asyncio.run(made.preview() if preview else made.run())
    assert made.warnings == [f"usageplan p1.quota.limit: {NEVER}; raise the limit, or lower the cost"]


def test_a_plan_whose_quota_has_become_too_small_for_the_stored_costs_is_named() -> None:
    """AWS's rows of the API say nothing of costs, so the stored ones stay."""
    store = _rows(resources=DEAR)
    made = _import(store, plans=_small())
    asyncio.run(made.run())
    assert any(text.startswith(f"usageplan p1.quota.limit: {NEVER}") for text in made.warnings)


def test_a_stored_plan_that_never_admits_a_call_of_an_imported_stage_is_named() -> None:
    store = _rows(plans=_small())
    made = _import(store, resources=DEAR, plans={"items": []})
    asyncio.run(made.run())
    assert any(text.startswith(f"usageplan p1.quota.limit: {NEVER}") for text in made.warnings)


def test_an_override_that_never_admits_a_call_is_named() -> None:
    override = {"p1": {"quotas": [{"period": "MONTH", "limit": 3}]}}
    made = _import(DictStore(), resources=DEAR, keys={"items": [KEY | {"overrides": override}]})
    asyncio.run(made.run())
    assert made.warnings == [f"apikey k1: its override for p1: {NEVER}; raise the limit, or lower the cost"]


def test_an_override_of_a_quota_that_the_plan_lacks_is_named() -> None:
    override = {"p1": {"quotas": [{"period": "HOUR", "limit": 3}]}}
    made = _import(DictStore(), keys={"items": [KEY | {"overrides": override}]})
    asyncio.run(made.run())
    assert made.warnings == [
        "apikey k1: its override for p1: the plan p1 has no quota by HOUR, only by MONTH",
    ]

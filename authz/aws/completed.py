"""Imports rows of the aws cli over stored resources: a member of ours that a row lacks keeps its stored value.

AWS's own documents have no such members. An export of ours has those that differ from the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from authz.aws.foreign import Row
from authz.core.resources import ApiStage, Resources, ThrottleSettings, UsagePlan
from authz.core.rules import problems
from authz.core.stored import Item, RestApi, StoredKey, StoredMethod, StoredPlan

T = TypeVar("T", bound=Struct)
N = TypeVar("N", ThrottleSettings, ThrottleSettings | None)

# Members that AWS's resources do not have.
OF_PLANS: Final = ("limits_per", "mode", "failure_policy")
OF_THROTTLES: Final = ("counts",)
OF_QUOTAS: Final = ("counts", "time_zone", "anchor", "overage", "alerts")
OF_KEYS: Final = ("allowed_sources", "billing_day", "expires_at")
OF_APIS: Final = ("key_sources", "authorizer", "forward_api_key", "cost_from")
OF_METHODS: Final = ("cost", "cost_from")


def completed(old: Item, new: Item, row: Row) -> tuple[Item, list[str]]:
    """Return the new item with those members of ours that its row lacks, and a text for each that it cannot keep."""
    match old, new:
        case StoredPlan(), StoredPlan():
            plan, lost = _plan(old.plan, new.plan, row)
            return replace(new, plan=plan), lost
        case StoredKey(), StoredKey():
            return replace(new, key=_kept(old.key, new.key, row, OF_KEYS)), []
        case RestApi(), RestApi():
            return _api(old, new, row), []
    return new, []


def _kept(old: T, new: T, row: Row, names: tuple[str, ...]) -> T:
    outside = dict(zip(new.__struct_fields__, new.__struct_encode_fields__, strict=True))
    return replace(new, **{name: getattr(old, name) for name in names if outside[name] not in row})


def _plan(old: UsagePlan, new: UsagePlan, row: Row) -> tuple[UsagePlan, list[str]]:
    before = {(stage.api_id, stage.stage): stage for stage in old.api_stages}
    rows = {(given["apiId"], given["stage"]): given for given in row.get("apiStages") or ()}
    plan = replace(
        _kept(old, new, row, OF_PLANS),
        throttle=_throttle(old.throttle, new.throttle, row.get("throttle")),
        api_stages=tuple(
            _stage(before.get((stage.api_id, stage.stage)), stage, rows[stage.api_id, stage.stage])
            for stage in new.api_stages
        ),
    )
    if "quotas" in row:  # it has all of them, each with its members
        return plan, []
    quota = new.quota
    if old.quota and quota:
        quota = _kept(old.quota, quota, row.get("quota") or {}, OF_QUOTAS)
    whole = replace(plan, quota=quota, quotas=old.quotas)
    faults = problems(Resources(usage_plans=(replace(whole, throttle=None, api_stages=(), keys=()),)))
    return (plan if faults else whole), [f"the stored members of its quotas are not kept: {one.rule}" for one in faults]


def _stage(old: ApiStage | None, new: ApiStage, row: Row) -> ApiStage:
    before: Mapping[str, ThrottleSettings] = old.throttle if old else {}
    rows: dict[str, Any] = row.get("throttle") or {}
    throttles = {name: _throttle(before.get(name), given, rows.get(name)) for name, given in new.throttle.items()}
    return replace(new, throttle=throttles)


def _throttle(old: ThrottleSettings | None, new: N, row: Row | None) -> N:
    if old is None or new is None:
        return new
    kept: N = _kept(old, new, row or {}, OF_THROTTLES)
    return kept


def _api(old: RestApi, new: RestApi, row: Row) -> RestApi:
    before = {node.path: node.methods for node in old.resources.values()}
    rows: dict[str, Row] = {given["id"]: given.get("resourceMethods") or {} for given in row["resources"]}
    nodes = {}
    for node_id, node in new.resources.items():
        methods: dict[Any, StoredMethod] = dict(node.methods)
        for verb, method in node.methods.items():
            if held := before.get(node.path, {}).get(verb):
                methods[verb] = _kept(held, method, rows[node_id].get(verb) or {}, OF_METHODS)
        nodes[node_id] = replace(node, methods=methods)
    return replace(_kept(old, new, row, OF_APIS), resources=nodes)

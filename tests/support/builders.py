"""Valid things, small: a test changes the part that it is about."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from authz.core.holders import HeldQuota, Holder, held_quotas
from authz.core.resources import (
    Api,
    ApiKey,
    ApiStage,
    HttpMethod,
    Method,
    QuotaSettings,
    Resources,
    Stage,
    UsagePlan,
    digest,
)


def value_of(key_id: str) -> str:
    """The clear value of the key that `key(key_id)` builds."""
    return f"{key_id}-{'a' * 20}"


def key(id: str = "k1", **changes: Any) -> ApiKey:  # noqa: A002  (the field's own name)
    """An enabled key; its value is `value_of(id)` unless the changes say otherwise."""
    sealed = None if "value" in changes else digest(value_of(id)).hex()
    return replace(ApiKey(id=id, value_sha256=sealed), **changes)


def api(id: str = "a1", **changes: Any) -> Api:  # noqa: A002
    """An API with a few methods that all need a key, and one stage, prod."""
    pets: dict[HttpMethod, Method] = {"GET": Method(), "POST": Method()}
    pet: dict[HttpMethod, Method] = {"GET": Method()}
    return replace(Api(id=id, resources={"/pets": pets, "/pets/{id}": pet}, stages=(Stage(name="prod"),)), **changes)


def plan(id: str = "p1", **changes: Any) -> UsagePlan:  # noqa: A002
    """A plan without limits for the stage a1:prod, signed by the key k1."""
    covered = ApiStage(api_id="a1", stage="prod")
    return replace(UsagePlan(id=id, name=id, api_stages=(covered,), keys=("k1",)), **changes)


def held(quota: QuotaSettings, plan_id: str = "p", key_id: str = "k") -> tuple[Holder, HeldQuota]:
    """A key, and the quota of a plan that is in its ledger."""
    holder = Holder(key_id)
    return holder, held_quotas(UsagePlan(id=plan_id, name=plan_id, quota=quota), holder)[0]


def resources(**changes: Any) -> Resources:
    """One API, one plan for it, one key in that plan."""
    return replace(Resources(apis=(api(),), usage_plans=(plan(),), api_keys=(key(),)), **changes)

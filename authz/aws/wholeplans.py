"""A usage plan as one document, in the form of the plans file, so that one call can write all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from authz.aws.errors import ApiError, conflict
from authz.aws.patch import Document
from authz.aws.plans import checked_tags, in_one_list, refuse_any
from authz.core.methods import method_of
from authz.core.problem import Problem
from authz.core.resources import (
    Api,
    ApiStage,
    FailurePolicy,
    LimitsPer,
    Mode,
    QuotaSettings,
    Resource,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.rules import plan_problems
from authz.core.stored import StoredPlan

REVISION_LENGTH: Final = 16  # hex digits
CHANGED: Final = "The usage plan was changed after it was read. Read it again, and repeat the change"


class WholePlan(Resource, frozen=True):
    """A plan without its keys. `quotas` has all its quotas.

    `id` and `revision` may be given as they were read, so that a document can be written back. A plan that has another
    revision by then is not written.
    """

    name: Annotated[str, Meta(min_length=1)]
    id: str | None = None
    revision: str | None = None
    description: str | None = None
    api_stages: tuple[ApiStage, ...] = ()
    throttle: ThrottleSettings | None = None
    quotas: tuple[QuotaSettings, ...] = ()
    limits_per: LimitsPer = LimitsPer.KEY
    mode: Mode = Mode.ENFORCE
    failure_policy: FailurePolicy | None = None
    product_code: str | None = None
    tags: dict[str, str] = {}


def whole_plan(stored: StoredPlan) -> Document:
    """Return a plan as a document. Written again, it changes nothing."""
    plan = stored.plan
    whole = WholePlan(
        name=plan.name,
        id=plan.id,
        description=plan.description,
        api_stages=plan.api_stages,
        throttle=plan.throttle,
        quotas=plan.all_quotas,
        limits_per=plan.limits_per,
        mode=plan.mode,
        failure_policy=plan.failure_policy,
        product_code=stored.product_code,
        tags=plan.tags,
    )
    document: Document = msgspec.to_builtins(whole)
    return document | {"revision": sha256(msgspec.json.encode(whole)).hexdigest()[:REVISION_LENGTH]}


def with_whole_plan(stored: StoredPlan, given: WholePlan, apis: Iterable[Api], before: UsagePlan | None) -> StoredPlan:
    """Return the plan as a document describes it. Raises ApiError with the address of each mistake.

    `apis` have the given stages that exist. `before` is the plan that is replaced. Its stages were right when they were
    written, so a stage that stays as it is is not checked again: a deployment may have changed its methods since.
    """
    _check_unchanged(stored, given, is_new=before is None)
    plan = replace(
        stored.plan,
        name=given.name,
        description=given.description or None,
        api_stages=tuple(map(_spelled, given.api_stages)),
        throttle=given.throttle,
        limits_per=given.limits_per,
        mode=given.mode,
        failure_policy=given.failure_policy,
        tags=dict(given.tags),
    ).with_quotas(given.quotas)
    refuse_any(in_one_list(plan, _problems(plan, {api.id: api for api in apis}, before)))
    return replace(stored, plan=plan, product_code=given.product_code or None)


def _check_unchanged(stored: StoredPlan, given: WholePlan, *, is_new: bool) -> None:
    expected = "expected the one of the plan, or none: it cannot be set"
    if given.id is not None and (is_new or given.id != stored.plan.id):
        refuse_any([Problem("$.id", expected)])
    if given.revision is not None and is_new:
        refuse_any([Problem("$.revision", expected)])
    if given.revision is not None and given.revision != whole_plan(stored)["revision"]:
        raise conflict(CHANGED)


def _spelled(stage: ApiStage) -> ApiStage:
    """The stage with its methods as a stored plan spells them: `/pets/GET`. An unreadable one stays as it is."""

    def key(name: str) -> str:
        try:
            path, method = method_of(name)
        except ValueError:
            return name
        return f"{path if path.startswith('/') else f'/{path}'}/{method}"

    spelled = {key(name): throttle for name, throttle in stage.throttle.items()}
    return stage if len(spelled) < len(stage.throttle) else replace(stage, throttle=spelled)


def _problems(plan: UsagePlan, apis: dict[str, Api], before: UsagePlan | None) -> Iterator[Problem]:
    kept = {(stage.api_id, stage.stage): stage.throttle for stage in before.api_stages} if before else {}
    unchanged = tuple(
        f"$.apiStages[{n}]."
        for n, stage in enumerate(plan.api_stages)
        if kept.get((stage.api_id, stage.stage)) == stage.throttle
    )
    for found in plan_problems(plan, apis, "$"):
        if not found.address.startswith(unchanged):
            yield found
    throttles = [("$.throttle", plan.throttle)]
    for n, stage in enumerate(plan.api_stages):
        throttles += [(f"$.apiStages[{n}].throttle['{name}']", throttle) for name, throttle in stage.throttle.items()]
    for address, throttle in throttles:
        if throttle == ThrottleSettings():
            yield Problem(address, "expected rateLimit, burstLimit or both")
    try:
        checked_tags(plan.tags)
    except ApiError as refused:
        yield Problem("$.tags", refused.message)

"""The rules of plans and keys: documents in AWS's shape to resources and back, and the plans that a key may join."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request, conflict, limit_exceeded, not_found
from authz.aws.patch import Document, PatchRule, PatchStep, Type, entry_of, member_or_removed
from authz.core.bounds import (
    MAX_DESCRIPTION,
    MAX_INT,
    MAX_KEY_VALUE,
    MAX_METHOD_THROTTLES,
    MAX_NAME,
    MAX_PLANS_OF_A_KEY,
    MAX_TAGS,
    MIN_KEY_VALUE,
)
from authz.core.keyform import KeyForm
from authz.core.limits import check_throttle
from authz.core.methods import method_of, no_method
from authz.core.periods import max_offset
from authz.core.planrules import Costs, cost_problems, quota_problems
from authz.core.problem import Problem
from authz.core.resources import (
    AWS_PERIODS,
    Api,
    ApiKey,
    ApiStage,
    FailurePolicy,
    Mode,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.rules import value_problem
from authz.core.stored import StoredKey, StoredPlan, plan_id_of

INVALID_STAGE: Final = "Invalid API Stage specified"
SHOWN: Final = 10  # problems in one answer
QUOTA: Final = re.compile(r"^\$\.quota(?:s\[(\d+)\])?(?=\.|$)")
Moment = Annotated[datetime, Meta(tz=True)]


def no_key() -> ApiError:
    return not_found("Invalid API Key identifier specified")


def no_plan() -> ApiError:
    return not_found("Invalid Usage Plan ID specified")


# Keys


def key_document(stored: StoredKey) -> Document:
    """Return a key as AWS prints it, without value and tags."""
    key = stored.key
    document: Document = {
        "id": key.id,
        "name": key.name or None,
        "customerId": key.customer_id,
        "description": key.description,
        "enabled": key.enabled,
        "createdDate": stored.created_date,
        "lastUpdatedDate": stored.last_updated_date,
        "stageKeys": list(stored.stage_keys),
        "expiresAt": msgspec.to_builtins(key.expires_at),
    }
    return {name: value for name, value in document.items() if value is not None}


def checked_key(document: Document, key: ApiKey) -> ApiKey:
    """Check a key's document, which has no value, and apply it to `key`, whose other fields stay. Raises ApiError."""
    name, description = document.get("name") or "", document.get("description")
    if len(name) > MAX_NAME:
        raise bad_request("Invalid API Key name, can be at most 1024 characters.")
    if len(description or "") > MAX_DESCRIPTION:
        raise bad_request("Invalid API Key description specified.")
    if document.get("customerId") == "":
        raise bad_request("Customer Id cannot be an empty string")
    moment = document.get("expiresAt")
    try:
        expires = msgspec.convert(moment, Moment).astimezone(UTC) if moment else None
    except (msgspec.ValidationError, OverflowError):
        raise bad_request("Invalid expiresAt: expected a time as RFC 3339 writes it") from None
    return replace(
        key,
        name=name,
        description=description,
        enabled=bool(document.get("enabled")),
        expires_at=expires,
        customer_id=document.get("customerId"),
        tags=checked_tags(key.tags),
    )


def checked_value(value: str, form: KeyForm | None = None) -> str:
    """Return the value of a key. Raises ApiError for one that breaks AWS's bounds or that no header can carry.

    Also for one in our form with a wrong checksum: sidecars would refuse each call with it.
    """
    if len(value) < MIN_KEY_VALUE:
        raise bad_request("API Key value should be at least 20 characters")
    if len(value) > MAX_KEY_VALUE:
        raise bad_request("API Key value exceeds maximum size of 128 characters")
    problem = value_problem(value) or (form.problem(value) if form else None)  # the rules of the plans file
    if problem:
        raise bad_request(f"Invalid API Key value: {problem}")
    return value


KEY_TABLE: Final = (
    PatchRule(("replace",), "/description"),
    PatchRule(("replace",), "/enabled", Type.BOOL),
    PatchRule(("replace",), "/name"),
    PatchRule(("replace",), "/customerId", effect=member_or_removed),
    PatchRule(("add", "remove"), "/stages", effect=entry_of("stageKeys")),  # without effect since there are plans
    PatchRule(("add", "replace", "remove"), "/expiresAt", hidden=True),
)


# Plans


def plan_document(stored: StoredPlan) -> Document:
    """Return a plan as AWS prints it, without tags. Our own members are there only if they are set."""
    plan = stored.plan
    stages = [
        {
            "apiId": stage.api_id,
            "stage": stage.stage,
            "throttle": {name: _throttle_document(value) for name, value in stage.throttle.items()},
        }
        for stage in plan.api_stages
    ]
    document: Document = {
        "id": plan.id,
        "name": plan.name,
        "description": plan.description,
        "apiStages": [{name: value for name, value in stage.items() if value != {}} for stage in stages],
        "throttle": _throttle_document(plan.throttle) if plan.throttle else None,
        "quota": plan.quota and {"limit": plan.quota.limit, "offset": plan.quota.offset, "period": plan.quota.period},
        "productCode": stored.product_code,
        "mode": None if plan.mode is Mode.ENFORCE else plan.mode.value,
        "failurePolicy": plan.failure_policy and plan.failure_policy.value,
    }
    return {name: value for name, value in document.items() if value is not None}


def _throttle_document(settings: ThrottleSettings) -> Document:
    rate = None if settings.rate_limit is None else float(settings.rate_limit)
    numbers = {"burstLimit": settings.burst_limit, "rateLimit": rate}
    return {name: value for name, value in numbers.items() if value is not None}


def checked_plan(document: Document, stored: StoredPlan) -> StoredPlan:
    """Check a plan's document and read it. What the document does not have is as in `stored`. Raises ApiError."""
    name = document.get("name") or ""
    if not name:
        raise bad_request("Usage Plan name must be provided")
    before = stored.plan
    plan = replace(
        before,
        name=name,
        description=document.get("description"),
        api_stages=_counting_as(before, _api_stages(document.get("apiStages") or ())),
        throttle=_counting(before.throttle, checked_throttle(document.get("throttle") or {})),
        quota=None if document.get("quota") is None else _quota(document["quota"], before.quota),
        mode=_one_of(Mode, "mode", document.get("mode")) or Mode.ENFORCE,
        failure_policy=_one_of(FailurePolicy, "failurePolicy", document.get("failurePolicy")),
        tags=checked_tags(before.tags),
    )
    if plan.all_quotas != before.all_quotas:
        check_quotas(plan)
    return replace(stored, plan=plan, product_code=document.get("productCode") or None)


def _counting(before: ThrottleSettings | None, throttle: ThrottleSettings | None) -> ThrottleSettings | None:
    """The throttle, which counts as it did before. That is ours, so AWS's operations keep it."""
    return replace(throttle, counts=before.counts) if before and throttle else throttle


def _counting_as(before: UsagePlan, stages: tuple[ApiStage, ...]) -> tuple[ApiStage, ...]:
    """The stages, whose method throttles count as they did before. Terraform takes a stage out and adds it again."""
    held = {(stage.api_id, stage.stage): stage.throttle for stage in before.api_stages}
    counted = []
    for stage in stages:
        known = held.get((stage.api_id, stage.stage), {})
        throttle = {name: _counting(known.get(name), one) or one for name, one in stage.throttle.items()}
        counted.append(replace(stage, throttle=throttle))
    return tuple(counted)


def check_quotas(plan: UsagePlan) -> None:
    """Raise ApiError if the plan's quotas break a rule of the plans file."""
    refuse_any(in_one_list(plan, quota_problems(plan, "$")))


def check_costs(plan: UsagePlan, apis: Iterable[Api]) -> None:
    """Raise ApiError if a method costs more than a limit of the plan ever admits. `apis` are those of its stages."""
    refuse_any(in_one_list(plan, cost_problems(plan, Costs({api.id: api for api in apis}), "$")))


def in_one_list(plan: UsagePlan, found: Iterable[Problem]) -> Iterator[Problem]:
    """Address problems of quotas in one list of all: AWS's is the first."""

    def place(at: re.Match[str]) -> str:
        return f"$.quotas[{int(at[1]) + (plan.quota is not None) if at[1] else 0}]"

    return (Problem(QUOTA.sub(place, one.address), one.rule) for one in found)


def refuse_any(found: Iterable[Problem]) -> None:
    """Raise ApiError if there are problems."""
    if several := list(found):
        raise refused(several)


def refused(found: Iterable[Problem]) -> ApiError:
    """Word the refusal of a document with these problems, each with its address."""
    several = tuple(found)
    texts = [f"Invalid {problem.address}: {problem.rule}" for problem in several]
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return bad_request("; ".join([*texts[:SHOWN], *more]), several)


def _one_of(kind: Any, name: str, text: str | None) -> Any:
    if not text:
        return None
    if text not in list(kind):
        raise bad_request(f"Invalid Usage Plan {name} specified. Must be one of [{', '.join(kind)}]")
    return kind(text)


def _api_stages(documents: Iterable[Document]) -> tuple[ApiStage, ...]:
    stages: dict[tuple[str, str], ApiStage] = {}
    for document in documents:
        place = document.get("apiId") or "", document.get("stage") or ""
        if not all(place):  # AWS leaves its placeholders unfilled
            raise bad_request("Invalid API Stage {api: %s, stage: %s} specified for usageplan %s")
        if place in stages:
            raise _attached_already(*place)
        given: dict[str, Document | None] = document.get("throttle") or {}
        methods = ((_method_key(name), checked_throttle(numbers or {})) for name, numbers in given.items())
        throttle = {name: settings for name, settings in methods if settings}
        if len(throttle) > MAX_METHOD_THROTTLES:
            raise limit_exceeded(f"At most {MAX_METHOD_THROTTLES} methods of an API Stage may have throttle settings")
        stages[place] = ApiStage(*place, throttle=throttle)
    return tuple(stages.values())


def _attached_already(api: str, stage: str) -> ApiError:
    return conflict(f"API Stage {api}:{stage} is already associated with this Usage Plan")


def _method_key(written: str) -> str:
    """Return the key of a method as a plan stores it: `/pets/GET`, or `//GET` for the root.

    Raises ApiError for a key without its first slash, as AWS does. If we added the slash, Terraform would find a
    difference at every run.
    """
    if not written.startswith("/"):
        path, method = written.rsplit("/", 1) if "/" in written else (written, "")
        raise bad_request(str(no_method(path, method)))
    return _key_of_path(written)


def _key_of_path(written: str) -> str:
    """Return the key of the method that a patch names; its path may lack the first slash. Raises ApiError."""
    try:
        path, method = method_of(written)
    except ValueError as error:
        raise bad_request(str(error)) from None
    return f"{path if path.startswith('/') else '/' + path}/{method}"


def checked_throttle(document: Document) -> ThrottleSettings | None:
    """Check a throttle's document and read it; None if it has neither rate nor burst. Raises ApiError."""
    rate, burst = document.get("rateLimit"), document.get("burstLimit")
    if rate is None and burst is None:
        return None
    try:
        if burst is not None and not 0 <= burst <= MAX_INT:
            raise ValueError(f"expected a burst from 0 to {MAX_INT}")
        check_throttle(rate, burst)
    except ValueError as error:
        raise bad_request(f"Invalid throttle settings specified: {error}") from None
    return ThrottleSettings(None if rate is None else float(rate), burst)


def _quota(document: Document, before: QuotaSettings | None) -> QuotaSettings:
    """Read a quota. What AWS does not know of it is as before."""
    limit, offset, given = document.get("limit"), document.get("offset") or 0, document.get("period")
    if limit is None or not 1 <= limit <= MAX_INT:
        raise bad_request("Usage Plan quota limit must be a non-negative numeric")
    if given not in AWS_PERIODS:
        raise bad_request("Invalid Usage Plan quota period specified. Must be one of [DAY, WEEK, MONTH]")
    period = Period(given)
    last = max_offset(period)
    if not 0 <= offset <= last:
        allowed = f"between 0 and {last} inclusive" if last else "zero"
        raise bad_request(f"Usage Plan quota offset must be {allowed} in the {period} period")
    return replace(before or QuotaSettings(limit, period), limit=limit, period=period, offset=offset)


def _place(text: str) -> tuple[str, str]:
    """Split `apiId:stage`. Raises ApiError."""
    api, _, stage = text.partition(":")
    if not api or not stage or ":" in stage:
        raise bad_request(INVALID_STAGE)
    return api, stage


def _attached(step: PatchStep, text: str) -> Document:
    """Return the plan's stage that `text` names as `apiId:stage`. Raises ApiError."""
    api, stage = _place(text)
    for document in step.draft["apiStages"]:
        if (document["apiId"], document["stage"]) == (api, stage):
            attached: Document = document
            return attached
    plan = step.draft["id"]
    raise not_found(f"Invalid API Stage {{api: {api}, stage: {stage}}} specified for usageplan {plan}")


def _api_stage(step: PatchStep) -> None:
    """Add or remove a stage of the plan."""
    if step.op == "remove":
        step.draft["apiStages"].remove(_attached(step, step.value))
        return
    api, stage = _place(step.value)
    if any((document["apiId"], document["stage"]) == (api, stage) for document in step.draft["apiStages"]):
        raise _attached_already(api, stage)
    step.draft["apiStages"].append({"apiId": api, "stage": stage})


class Numbers(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A throttle as a client writes it."""

    rate_limit: float | None = None
    burst_limit: int | None = None


def _methods(step: PatchStep) -> None:
    """Replace or remove the throttles of all methods of a stage."""
    stage = _attached(step, step.names["apidId_stageName"])
    if step.op == "remove":
        stage.pop("throttle", None)
        return
    try:
        methods = msgspec.convert(step.value, dict[str, Numbers])
    except (msgspec.ValidationError, OverflowError):
        raise bad_request("Invalid throttle settings specified: expected a map of methods") from None
    stage["throttle"] = {_method_key(name): msgspec.to_builtins(numbers) for name, numbers in methods.items()}


def _method(step: PatchStep) -> None:
    """Set a number of one method's throttle, or remove its throttle."""
    stage = _attached(step, step.names["apidId_stageName"])
    key = _key_of_path(step.names["method"])
    if step.op == "remove":
        stage.get("throttle", {}).pop(key, None)
    else:
        stage.setdefault("throttle", {}).setdefault(key, {})[step.path[-1]] = step.value


_STAGE = "/apiStages/<apidId:stageName>/throttle"  # "apidId" is AWS's spelling
_METHOD = f"{_STAGE}/<resourcePath>/<httpMethod>"

PLAN_TABLE: Final = (
    PatchRule(("replace",), "/name"),
    PatchRule(("replace",), "/description"),
    PatchRule(("add", "remove"), "/apiStages", effect=_api_stage),
    PatchRule(("remove",), "/quota"),
    PatchRule(("add", "replace"), "/quota/limit", Type.INT),
    PatchRule(("add", "replace"), "/quota/offset", Type.INT),
    PatchRule(("add", "replace"), "/quota/period"),
    PatchRule(("remove",), "/throttle"),
    PatchRule(("add", "replace"), "/throttle/rateLimit", Type.DOUBLE),
    PatchRule(("add", "replace"), "/throttle/burstLimit", Type.INT),
    PatchRule(("add", "replace", "remove"), "/productCode"),
    PatchRule(("add", "replace"), f"{_METHOD}/rateLimit", Type.DOUBLE, _method),
    PatchRule(("add", "replace"), f"{_METHOD}/burstLimit", Type.INT, _method),
    PatchRule(("remove",), _METHOD, effect=_method),
    PatchRule(("replace", "add", "remove"), _STAGE, Type.JSON, _methods),
    PatchRule(("add", "replace", "remove"), "/mode", hidden=True),
    PatchRule(("add", "replace", "remove"), "/failurePolicy", hidden=True),
)


# Plans and keys


def live_plans(key: StoredKey, items: Iterable[object]) -> tuple[StoredPlan, ...]:
    """Return the plans among `items` that the key refers to, in the key's order.

    A plan that was created later under the id of a deleted plan has another `ref`, and is left out.
    """
    plans = {item.ref: item for item in items if isinstance(item, StoredPlan)}
    return tuple(plans[ref] for ref in key.plans if ref in plans)


def plan_ids(key: StoredKey) -> list[str]:
    """Return the ids of the plans that a key refers to, deleted ones too."""
    return [plan_id_of(ref) for ref in key.plans]


def join(key: StoredKey, plan: StoredPlan, others: Iterable[StoredPlan]) -> tuple[str, ...]:
    """Return the `plans` of a key after it joins `plan`; `others` are the live plans that it is in.

    Raises ApiError if the key is in the plan already, if one of its plans covers a stage of this plan, or if it is in
    the largest possible number of plans.
    """
    others = tuple(others)
    if plan.ref in (other.ref for other in others):
        raise conflict(f"API Key {key.key.id} is already in Usage Plan {plan.plan.id}")
    mine = _covered(plan)
    for other in others:
        if shared := sorted(mine & _covered(other)):
            raise twice(plan.plan.id, shared[0], key.key.id)
    if len(others) >= MAX_PLANS_OF_A_KEY:
        raise limit_exceeded(f"An API Key can be in at most {MAX_PLANS_OF_A_KEY} Usage Plans")
    return (*(other.ref for other in others), plan.ref)


def _covered(plan: StoredPlan) -> set[tuple[str, str]]:
    return {(stage.api_id, stage.stage) for stage in plan.plan.api_stages}


def twice(plan_id: str, place: tuple[str, str], key_id: str | None = None) -> ApiError:
    """Word the refusal of a second plan of the same stage for one key."""
    who = f"API Key {key_id}" if key_id else "an API Key"
    where = ":".join(place)
    return conflict(
        f"Usage Plan {plan_id} cannot be added because {who} cannot reference multiple Usage Plans "
        f"with the same API stage: {where}"
    )


# Tags


def checked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags as a dictionary. Raises ApiError if they break AWS's rules."""
    if len(tags) > MAX_TAGS:
        raise bad_request(f"A resource can have at most {MAX_TAGS} tags")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or key.lower().startswith("aws:"):
            raise bad_request("Invalid tag key: expected 1 to 128 characters that do not begin with aws:")
        if len(value) > 256:
            raise bad_request("Invalid tag value: expected at most 256 characters")
    return dict(tags)

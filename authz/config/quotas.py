"""The two forms of a plan's quotas.

In a file a plan has one `quota`, or `quotas`, a list of all. In Resources a plan has AWS's `quota`, whose period is one
that AWS knows, and the further ones in `quotas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from authz.core.problem import Problem
from authz.core.resources import Resources

QUOTA: Final = re.compile(r"\$\.usagePlans\[(\d+)\]\.(?:quota|quotas\[(\d+)\])(?=\.|$)")
TWICE: Final = "expected quota or quotas, not both: put this one into quotas, as the first"
NONE: Final = "expected at least one quota; leave quotas out if the plan has none"


def to_document(resources: Resources) -> dict[str, Any]:
    """The resources as the values of a file."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(resources))
    for plan in document.get("usagePlans", ()):
        quotas = [*filter(None, [plan.pop("quota", None)]), *plan.pop("quotas", ())]
        if quotas:
            plan |= {"quota": quotas[0]} if len(quotas) == 1 else {"quotas": quotas}
    return document


def normalised(resources: Resources) -> Resources:
    """The resources of a file, where the first quota of each plan is AWS's if AWS knows its period."""
    plans = tuple(plan.with_quotas(plan.all_quotas) for plan in resources.usage_plans)
    return replace(resources, usage_plans=plans)


def quota_problems(document: dict[Any, Any]) -> Iterator[Problem]:
    """Yield a mistake for each plan of a file with both fields, or with an empty list."""
    plans = document.get("usagePlans")
    for n, plan in enumerate(plans if isinstance(plans, list) else ()):
        quotas = plan.get("quotas") if isinstance(plan, dict) else None
        if quotas is not None and plan.get("quota") is not None:
            yield Problem(f"$.usagePlans[{n}].quota", TWICE)
        if quotas == []:
            yield Problem(f"$.usagePlans[{n}].quotas", NONE)


def as_written(problem: Problem, document: dict[Any, Any], resources: Resources) -> Problem:
    """The problem of normalised resources, with the address of a quota as the file spells it."""

    def spelled(found: re.Match[str]) -> str:
        plan = int(found[1])
        if document["usagePlans"][plan].get("quotas") is None:
            return f"$.usagePlans[{plan}].quota"
        before = 1 if found[2] and resources.usage_plans[plan].quota else 0
        return f"$.usagePlans[{plan}].quotas[{int(found[2] or 0) + before}]"

    return Problem(QUOTA.sub(spelled, problem.address), problem.rule)

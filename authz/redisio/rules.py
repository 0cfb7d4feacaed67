"""Quotas in the form that the scripts read (`lua/prelude/quota.lua`)."""

from __future__ import annotations

from typing import Any

from authz.core.limits import Quota

Rule = tuple[Any, ...]  # numbers, and the names of a quota: the headers of admit.lua and prelude/quota.lua


def quota_rule(rule: Quota) -> Rule:
    """The rule of a quota: short where it has nothing beyond AWS's."""
    core = (1, rule.limit, rule.start, rule.end)
    if rule.counts_units and not (rule.overage or rule.moves or rule.alerts):
        return core
    requests = int(not rule.counts_units)
    counts = "UNITS" if rule.counts_units else "REQUESTS"
    return (*core, requests, rule.ceiling, int(rule.moves), rule.period, counts, *rule.alerts)

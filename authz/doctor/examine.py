"""All rules, and what they find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.doctor.facts import Facts
from authz.doctor.finding import SEVERITIES, Finding, Rule, not_understood
from authz.doctor.rules.alerts import ALERT_RULES
from authz.doctor.rules.envoy import ENVOY_RULES
from authz.doctor.rules.processes import PROCESS_RULES
from authz.doctor.rules.redis import REDIS_RULES

RULES: Final[tuple[Rule, ...]] = (*PROCESS_RULES, *ENVOY_RULES, *REDIS_RULES, *ALERT_RULES)


def examine(facts: Facts, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """The findings, the worst first, and otherwise in the order of the rules; each once."""
    found: dict[Finding, None] = {}
    for rule in rules:
        try:
            found |= dict.fromkeys(rule.findings(facts))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # One rule that meets what it does not know must not hide what the others find.
            found[not_understood(rule, error)] = None
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))

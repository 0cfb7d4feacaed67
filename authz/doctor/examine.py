"""All rules, and what they find."""

from __future__ import annotations

from typing import Final

from authz.doctor.envoyrules import ENVOY_RULES
from authz.doctor.facts import Facts
from authz.doctor.finding import SEVERITIES, Finding, Rule
from authz.doctor.processrules import PROCESS_RULES
from authz.doctor.redisrules import REDIS_RULES

RULES: Final[tuple[Rule, ...]] = (*PROCESS_RULES, *ENVOY_RULES, *REDIS_RULES)


def examine(facts: Facts) -> list[Finding]:
    """What is wrong, the worst first, and otherwise in the order of the rules; each once."""
    found = dict.fromkeys(finding for rule in RULES for finding in rule.findings(facts))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))

"""The traps of an Envoy that asks authz, each a function of what Envoy shows of itself; a module for each concern."""

from __future__ import annotations

from typing import Final

from authz.doctor.finding import Rule
from authz.doctor.rules.envoy import answering, beside, checking, cluster, costs, headers, itself, logs, noticed, tls

# In the order of the reference.
ENVOY_RULES: Final[tuple[Rule, ...]] = (
    *checking.RULES,
    *answering.RULES,
    *headers.RULES,
    *costs.RULES,
    *beside.RULES,
    *logs.RULES,
    *cluster.RULES,
    *tls.RULES,
    *noticed.RULES,
    *itself.RULES,
)

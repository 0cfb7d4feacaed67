"""How keys and customers stand against their limits: documents of the API in, values for templates out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from authz.control.pages.charts import Bar, LimitUse, limit_bars
from authz.control.pages.words import limit_words


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """A quota as it stands. `choice` names it in a form; `end` is an ISO time, or None for a quota in all."""

    plan: str
    choice: str
    limit: int
    unit: str
    words: str
    used: int
    left: int
    over: int
    end: str | None
    customer: str | None

    @property
    def label(self) -> str:
        return f"{self.plan}: {self.words}"


def quota_rows(plan: Mapping[str, Any], document: Mapping[str, Any]) -> list[QuotaRow]:
    """The quotas of an answer of GetUsageQuotas."""
    return [
        QuotaRow(
            plan=plan["name"],
            choice=f"{plan['id']} {quota['period']} {quota['counts']}",
            limit=quota["limit"],
            unit=quota["counts"].lower(),
            words=limit_words(quota),
            used=quota["used"],
            left=quota["remaining"],
            over=quota["overage"],
            end=quota.get("end"),
            customer=document.get("customerId"),
        )
        for quota in document["item"]
    ]


def quota_bars(rows: Iterable[QuotaRow]) -> tuple[Bar, ...]:
    """A bar for each quota. After a grant less than nothing may be used: then more is left than the limit."""
    return limit_bars(
        LimitUse(
            row.label,
            row.used,
            row.limit,
            row.unit,
            note=f"After a grant, {row.left:,} are left: {-row.used:,} more than the limit." if row.used < 0 else "",
        )
        for row in rows
    )

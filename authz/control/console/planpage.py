"""The page of a usage plan: documents of the API in, values for the template out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

VERSION: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
SHADOW_DAYS: Final = 7  # today among them

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Live:
    """The sidecars that serve a version of the store, or a later one."""

    version: int
    count: int
    total: int
    is_after_change: bool

    @property
    def waits(self) -> bool:
        return self.count < self.total


def live(catalog: Document, since: str | None) -> Live:
    """The sidecars that serve version `since`, which a change has written; without it, the newest version.

    `catalog` is the document of GetCatalogVersion.
    """
    is_version = since is not None and VERSION.fullmatch(since) is not None and int(since) <= catalog["version"]
    version = int(since) if is_version and since else catalog["version"]
    sidecars = catalog["sidecars"]
    served = [one for one in sidecars if one["epoch"] == catalog["epoch"] and one["version"] >= version]
    return Live(version, len(served), len(sidecars), is_version)


@dataclass(frozen=True, slots=True)
class Refused:
    """A key, and its calls of the last days that the shadow plan would have refused."""

    key_id: str
    name: str
    customer: str
    requests: int
    by_throttle: int
    by_quota: int

    @property
    def total(self) -> int:
        return self.by_throttle + self.by_quota

    @property
    def percent(self) -> float:
        """Of the key's admitted calls, which these are among. Calls of the last second may not be counted yet."""
        return min(100.0, round(100 * self.total / max(1, self.requests, self.total), 1))


def refused_in_shadow(items: Iterable[Document]) -> list[Refused]:
    """The keys that the plan would have refused, those with the most calls first, from items of GetUsageDays."""
    rows = [
        Refused(
            item["keyId"],
            item.get("keyName", ""),
            item.get("customerId", ""),
            item["requests"],
            item["shadow"]["throttle"],
            item["shadow"]["quota"],
        )
        for item in items
    ]
    return sorted((row for row in rows if row.total), key=lambda row: (-row.total, row.key_id))


def alert_percents(quotas: Sequence[Document]) -> list[str]:
    """A line for each quota with alerts."""
    return [
        f"{quota['period']} ({quota.get('counts', 'UNITS').lower()}): "
        + ", ".join(f"{percent} %" for percent in sorted(quota["alerts"]))
        for quota in quotas
        if quota.get("alerts")
    ]

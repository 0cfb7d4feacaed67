"""Which targets an alert is sent to, and the body that they get: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from authz.core.stored import AlertTarget
from authz.core.zones import iso_time
from authz.store.alerts import document_of
from authz.store.ports import Alert

CROSSED: Final = "usage.threshold"
TEST: Final = "webhook.test"


@dataclass(frozen=True, slots=True)
class Named:
    """An alert with the names that its receiver would otherwise have to look up; None for those that are gone.

    `customer_id` is that of the alert, or that of its key.
    """

    alert: Alert
    customer_id: str | None = None
    plan_name: str | None = None
    key_name: str | None = None


def matches(target: AlertTarget, named: Named) -> bool:
    """True if the target is on and the alert is one of its own."""
    return (
        target.enabled
        and target.customer_id in (None, named.customer_id)
        and target.usage_plan_id in (None, named.alert.plan_id)
    )


def matching(targets: Iterable[AlertTarget], named: Named) -> list[AlertTarget]:
    return [target for target in targets if matches(target, named)]


def body_of(account_id: str, named: Named) -> str:
    """The body of an alert's webhook, in JSON."""
    alert = document_of(named.alert)
    at = alert.pop("at")
    names = {"usagePlanName": named.plan_name, "keyName": named.key_name, "customerId": named.customer_id}
    data = {"accountId": account_id, **alert, **{name: text for name, text in names.items() if text}}
    return _encoded(CROSSED, at, data)


def test_body_of(account_id: str, target: AlertTarget, at: int) -> str:
    """The body of a test; `at` is Unix seconds."""
    return _encoded(TEST, iso_time(at * 1_000_000), {"accountId": account_id, "targetId": target.id})


def _encoded(kind: str, at: str, data: dict[str, Any]) -> str:
    return msgspec.json.encode({"type": kind, "timestamp": at, "data": data}).decode()

"""The part of the API that one customer reaches: every operation gets the session's own customer or key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import msgspec

from authz.aws.errors import ApiError
from authz.aws.plans import no_key
from authz.control.api import NOTHING, Api
from authz.control.call import Principal
from authz.control.operations.alerting import no_target
from authz.control.pages.charts import SUMMED_KEYS
from authz.control.pages.sessions import CustomerSession
from authz.core.resources import LimitsPer, Mode

Document = dict[str, Any]

OF_A_DAY: Final = ("day", "requests", "units", "overage", "refused")  # not what a plan in shadow would have refused
NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class Part:
    """Some documents of a list, and the position after them; None on the last page."""

    items: list[Document]
    position: str | None


@dataclass(frozen=True, slots=True)
class Contract:
    """A plan as it holds for a key: its throttle, and its quotas as they stand. `is_shared` by the customer's keys.

    `throttle` and `quotas` are those of GetUsageQuotas.
    """

    plan_id: str
    plan: str
    is_shared: bool
    throttle: Document | None
    quotas: list[Document]


@dataclass(frozen=True, slots=True)
class Days:
    """The use of days: rows of GetUsageDays, which add up. `is_whole` is False if more keys exist than were read."""

    items: list[Document]
    is_whole: bool


class Holdings:
    """The keys and the use of one customer, or of one key. The only way from the portal's pages to operations.

    No method takes a customer. Those that take a key's id raise ApiError as for an unknown key unless it is a key of
    this session.
    """

    def __init__(self, api: Api, session: CustomerSession) -> None:
        self._api = api
        self._session = session
        self._principal = principal_of(session)
        self._plans: dict[tuple[str, str], Document] = {}  # the answers about plans, by operation and plan

    @property
    def now(self) -> int:
        """The time, in seconds of Unix time."""
        return self._api.now

    async def keys(self, limit: int, position: str | None = None) -> Part:
        """A page of the keys. Raises ApiError for a position of another list."""
        if self._session.key_id is not None:
            return Part([await self.key(self._session.key_id)], None)
        query = {"limit": str(limit), "customerId": self._customer()}
        found = await self._ask("GetApiKeys", query=query if position is None else query | {"position": position})
        return Part([key for key in found["item"] if self._holds(key)], found.get("position"))

    async def key(self, key_id: str) -> Document:
        """A key."""
        if self._session.key_id not in (None, key_id):
            raise no_key()
        found: Document = await self._ask("GetApiKey", {"api_Key": key_id})
        if not self._holds(found):
            raise no_key()
        return found

    async def key_extension(self, key_id: str) -> Document:
        """`lastUsedDate` and `previousExpiresAt` of a key, if it has them."""
        await self.key(key_id)
        found = await self._ask("GetApiKeyExtension", {"api_Key": key_id})
        return {name: found[name] for name in ("lastUsedDate", "previousExpiresAt") if name in found}

    async def contracts(self, key_id: str) -> list[Contract]:
        """The plans of a key that refuse calls. A plan in shadow only reports, to the owner alone."""
        key = await self.key(key_id)
        plans = (await self._ask("GetUsagePlans", query={"keyId": key_id}))["item"]
        contracts = []
        for plan in plans:
            if plan.get("mode") == Mode.SHADOW:
                continue
            plan_id, is_shared = plan["id"], False
            if key.get("customerId"):
                extension = await self._of_plan("GetUsagePlanExtension", plan_id)
                is_shared = extension.get("limitsPer") == LimitsPer.CUSTOMER
            found = await self._ask("GetUsageQuotas", query={"usagePlanId": plan_id, "keyId": key["id"]})
            contracts.append(Contract(plan_id, plan["name"], is_shared, found.get("throttle"), found["item"]))
        return contracts

    async def days(self, first: date, last: date) -> Days:
        """The use of these days, both included: of as many keys as a page of 100 ms has time for."""
        query = self._who() | {
            "startDate": first.isoformat(),
            "endDate": last.isoformat(),
            "groupBy": "day",
            "limit": SUMMED_KEYS,
        }
        page = await self._ask("GetUsageDays", query=query)
        items = [{name: row[name] for name in OF_A_DAY} for row in page["item"]]
        return Days(items, is_whole="position" not in page)

    async def alerts(self, limit: int, position: str | None = None) -> Part:
        """A page of the alerts, the newest first, each with `plan` and `key`: their names, or an id without a name."""
        query = self._who() | {"limit": str(limit)}
        found = await self._ask("GetUsageAlerts", query=query if position is None else query | {"position": position})
        alerts: list[Document] = []
        for alert in found["item"]:
            plan = await self._of_plan("GetUsagePlan", alert["usagePlanId"])
            names = {"plan": plan.get("name", alert["usagePlanId"])}
            if key_id := alert.get("keyId"):
                names["key"] = (await self.key(key_id)).get("name") or key_id
            alerts.append(alert | names)
        return Part(alerts, found.get("position"))

    async def _of_plan(self, operation: str, plan_id: str) -> Document:
        """Ask once about a plan. A plan that was deleted has an empty document."""
        name = operation, plan_id
        if name not in self._plans:
            try:
                self._plans[name] = await self._ask(operation, {"usageplanId": plan_id})
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                self._plans[name] = {}
        return self._plans[name]

    async def rotate(self, key_id: str, overlap_seconds: int) -> Document:
        """Give a key a new value. Returns the key with its `value`."""
        await self.key(key_id)
        body = {"overlapSeconds": overlap_seconds}
        found: Document = await self._ask("RotateApiKey", {"api_Key": key_id}, body=body)
        return found

    async def end_previous(self, key_id: str) -> None:
        """End a key's value before the last rotation."""
        await self.key(key_id)
        await self._ask("EndPreviousApiKeyValue", {"api_Key": key_id})

    # --- targets of alerts ---

    @property
    def has_targets(self) -> bool:
        """True if the customer may have its alerts sent. Not where a target may be in the owner's own network."""
        return bool(self._session.customer_id) and self._api.sends_to_the_public_only

    async def targets(self) -> list[Document]:
        """The customer's targets; they are few."""
        if not self.has_targets:
            return []
        found = await self._ask("GetAlertTargets", query={"customerId": self._customer()})
        return [target for target in found["item"] if self._owns(target)]

    async def create_target(self, name: str, url: str) -> Document:
        """Create a target. Returns it with its `secret`. Raises ApiError for a wrong name or URL."""
        self._require_targets()
        body = {"name": name, "url": url, "customerId": self._customer()}
        found: Document = await self._ask("CreateAlertTarget", body=body)
        return found

    async def test_target(self, target_id: str) -> Document:
        """Send a test to a target. Returns its result."""
        await self._require_target(target_id)
        found: Document = await self._ask("TestAlertTarget", {"targetId": target_id})
        return found

    async def delete_target(self, target_id: str) -> None:
        await self._require_target(target_id)
        await self._ask("DeleteAlertTarget", {"targetId": target_id})

    async def _require_target(self, target_id: str) -> None:
        self._require_targets()
        if not self._owns(await self._ask("GetAlertTarget", {"targetId": target_id})):
            raise no_target()

    def _require_targets(self) -> None:
        if not (self.has_targets and self._session.may_rotate):
            raise no_target()

    def _owns(self, target: Mapping[str, Any]) -> bool:
        return target.get("customerId") == self._customer()

    # --- this session only ---

    def _holds(self, key: Mapping[str, Any]) -> bool:
        session = self._session
        if session.key_id is not None:
            return bool(key["id"] == session.key_id)
        return key.get("customerId") == self._customer()

    def _customer(self) -> str:
        customer_id = self._session.customer_id
        if not customer_id:
            raise no_key()  # a session without a customer holds nothing
        return customer_id

    def _who(self) -> dict[str, str]:
        key_id = self._session.key_id
        return {"customerId": self._customer()} if key_id is None else {"keyId": key_id}

    async def _ask(
        self, name: str, params: Mapping[str, str] = NOTHING, query: Mapping[str, str] = NOTHING, body: Any = None
    ) -> Any:
        answer = await self._api.call(self._principal, name, params, query, body)
        return msgspec.to_builtins(answer.body)


def principal_of(session: CustomerSession) -> Principal:
    """The caller of the API for a session. Its name stands in the audit."""
    who = f"key {session.key_id}" if session.customer_id is None else f"customer {session.customer_id}"
    return Principal(f"portal, {who}", read_only=not session.may_rotate)

"""An outbox of alerts in lists, and a sender that keeps its messages, for tests in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.control.alerts.addresses import Rules
from authz.control.alerts.schedule import Attempt
from authz.control.alerts.sending import Message
from authz.store.ports import Delivery, DeliveryPage, DeliveryState, InvalidPosition, ListedDelivery

AT: Final = 1_772_600_000_000_000  # 4 March 2026


class ListedDeliveries:
    """The part of an `Outbox` that the operations use, over deliveries in lists by state."""

    def __init__(self, **deliveries: list[Delivery]) -> None:
        self.deliveries = deliveries
        self.forgotten: list[str] = []

    async def page(
        self, state: DeliveryState, limit: int, position: str | None = None, target_id: str | None = None
    ) -> DeliveryPage:
        if position is not None and not position.isdecimal():
            raise InvalidPosition("Invalid position parameter")
        start = int(position or 0)
        all_ = [one for one in self.deliveries.get(state, []) if target_id in (None, one.target_id)]
        shown = [ListedDelivery(one, state, AT) for one in all_[start : start + limit]]
        return DeliveryPage(shown, str(start + limit) if len(all_) > start + limit else None)

    async def failing_since(self, target_ids: Sequence[str]) -> dict[str, int]:
        return {one.target_id: AT for one in self.deliveries.get("failed", []) if one.target_id in target_ids}

    async def failed_one(self, delivery_id: str) -> Delivery | None:
        return next((one for one in self.deliveries.get("failed", []) if one.id == delivery_id), None)

    async def resend(self, delivery_id: str) -> bool:
        delivery = await self.failed_one(delivery_id)
        if delivery is None:
            return False
        self.deliveries["failed"].remove(delivery)
        self.deliveries.setdefault("pending", []).append(delivery)
        return True

    async def end(self, target_id: str, reason: str) -> int:
        return 0

    async def forget(self, target_id: str) -> None:
        self.forgotten.append(target_id)


class Sent:
    """A `Sender` that keeps the messages. Every receiver answers with `attempt`, 204 unless set."""

    def __init__(self, attempt: Attempt | None = None, rules: Rules | None = None) -> None:
        self.attempt = attempt or Attempt(204)
        self.rules = rules or Rules()
        self.messages: list[Message] = []

    async def send(self, message: Message) -> Attempt:
        self.messages.append(message)
        return self.attempt

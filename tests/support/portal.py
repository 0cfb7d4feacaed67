"""The portal in this process, over a store in a dictionary, beside the console and the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx

from authz.aws.usage import CallerUse, DayRow, Days, RefusedRow
from authz.control.alerts.addresses import Rules
from authz.control.api import Api, operations
from authz.control.app import ControlPlane
from authz.control.auth import Authenticator
from authz.control.call import Alerts
from authz.control.pages.guard import Origins
from authz.control.pages.sessions import Session
from authz.control.pages.site import Parts
from authz.control.portal.app import portal
from authz.control.portal.invite import Invitations
from authz.control.portal.pasted import GivenKeys
from authz.control.portal.programs import Programs
from authz.control.server import Doors
from authz.core.holders import HeldQuota, QuotaState
from authz.core.resources import ApiKey, digest
from authz.core.stored import Item, StoredKey
from authz.store.ports import Alert, AlertPage, AlertQuery, Outbox, StatesReading, UsageReading
from tests.support.outbox import ListedDeliveries, Sent
from tests.support.pages import Pages, Patient
from tests.support.plane import SEALER, NoUsage


class Counted(NoUsage):
    """A `Usage` in which each key and customer has used `numbers[id]`, and has an alert with that number."""

    def __init__(self, numbers: Mapping[str, int], now: int | None = None) -> None:
        self.numbers = numbers
        self.now = int(time.time()) if now is None else now

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        today = self.now // 86_400
        records = {
            key_id: CallerUse(rows={today: DayRow(number, 0, number, 0)}, refused={today: RefusedRow(3, 2)})
            for key_id in key_ids
            if (number := self.numbers.get(key_id))
        }
        return UsageReading(self.now * 1_000_000, records)

    async def states(self, quotas: Sequence[HeldQuota]) -> StatesReading:
        """The holder's id stands in the names of states."""
        now = self.now * 1_000_000
        states: list[QuotaState | None] = [
            QuotaState(quota.at(now).start, quota.at(now).end, self.numbers.get(quota.name[2], 0)) for quota in quotas
        ]
        return StatesReading(now, states)

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        alerts = [
            Alert(
                id=f"{at}-0",
                plan_id="p1",
                key_id=None if who.startswith("customer") else who,
                customer_id=who if who.startswith("customer") else None,
                period="MONTH",
                counts="REQUESTS",
                percent=80,
                used=number,
                limit=1_000_000,
                start=0,
                end=None,
                at=1_000_000,
            )
            for at, (who, number) in enumerate(self.numbers.items())
        ]
        return AlertPage([alert for alert in alerts if query.matches(alert)][:limit], None)


class PortalPages(Pages):
    """The portal over a store with these items. `as_` is the session of the signed-in customer; None without one."""

    def __init__(
        self, *items: Item, usage: NoUsage | None = None, as_: Session | None = None, rules: Rules | None = None
    ) -> None:
        self.sender = Sent(rules=rules)
        super().__init__(*items, usage=usage, as_=None, alerts=Alerts(cast("Outbox", ListedDeliveries()), self.sender))
        self.throttle = Patient()
        gate = Authenticator(self.store, SEALER, self.context.now)
        self.attempts, self.pace = Patient(), Patient()
        parts = Parts(Api(self.context), self.sessions, self.attempts, Origins())
        given_keys = GivenKeys(self.store, SEALER, self.context.now)
        table = (*operations(), Invitations(self.sessions, parts.origins).operation())
        self.app: Any = Doors(
            ControlPlane(self.context, gate, table),
            self.app,
            portal(parts, given_keys, self.pace),
            Programs(parts.api, given_keys, self.throttle),
        )
        if as_ is not None:
            self.sign_in(as_)

    def sign_in(self, session: Session) -> None:
        self.cookies = httpx.Cookies()
        self.cookies.set("authz-portal", asyncio.run(self.sessions.begin(session)), domain="127.0.0.1")

    def send(self, verb: str, path: str, **more: Any) -> httpx.Response:
        """Send any request, without the headers that a page's form has."""
        return self._run(lambda client: client.request(verb, path, **more))

    def invite(self, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask for a link, as the owner's site does."""
        given = {"Authorization": f"Bearer {self.token.secret}", **(headers or {})}
        return self.send("POST", "/portal/sessions", json=body, headers=given)


def key_of(key_id: str, value: str, customer_id: str | None = None, *plans: str, **more: Any) -> StoredKey:
    """A key of the store with this value, and fields of its own in `more`."""
    fields = {name: more.pop(name) for name in ("previous_index", "previous_expires_at") if name in more}
    key = ApiKey(key_id, more.pop("name", f"name of {key_id}"), customer_id=customer_id, **more)
    return StoredKey(key, SEALER.index(digest(value)), 1, 1, plans=plans, **fields)

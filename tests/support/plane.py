"""A control plane in this process: its ASGI application over a store in a dictionary."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from authz.aws.usage import CallerUse, Days
from authz.control.app import ControlPlane
from authz.control.auth import Authenticator, NewCredential, new_access_key, new_token
from authz.control.call import Context, Operation
from authz.core.holders import HeldQuota, Holder, QuotaState
from authz.core.request import Request
from authz.core.stored import Items, StoredKey
from authz.envoy.accesslog import LogLine
from authz.store.figures import Overview, Sums
from authz.store.ports import (
    Adjusted,
    AlertPage,
    AlertQuery,
    CallerName,
    StatesReading,
    Survey,
    UsageReading,
    Written,
)
from authz.store.sealing import Sealer
from tests.support.dictstore import DictStore

SEALER = Sealer([b"s" * 32], b"a pepper for tests")
HOST = "control.test"


class NoUsage:
    """A `Usage` that has counted nothing."""

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        return UsageReading(_now() * 1_000_000, {})

    async def uses(self, callers: Sequence[CallerName], days: Days) -> dict[CallerName, CallerUse]:
        """What `read` says of each plan's keys."""
        found = dict[CallerName, CallerUse]()
        for plan_id in dict.fromkeys(plan_id for plan_id, _ in callers):
            key_ids = [key_id for caller_plan, key_id in callers if caller_plan == plan_id]
            records = (await self.read(plan_id, key_ids, days, refused=True)).records
            found |= {(plan_id, key_id): record for key_id, record in records.items()}
        return found

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        return AlertPage([], None)

    kept_days = 400

    async def last_days(self, callers: Sequence[CallerName]) -> tuple[int, dict[CallerName, int | None]]:
        return _now() // 86_400, dict.fromkeys(callers)

    async def top(self, plan_id: str, key_ids: Sequence[str], count: int) -> list[tuple[str, int]]:
        return []

    async def redis_time(self) -> int:
        return _now() * 1_000_000

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        return Survey(await self.redis_time(), {}, {})

    async def overview(self) -> Overview | None:
        return None

    async def keep_overview(self, overview: Overview) -> None:
        return None

    async def plan_days(self, plan_id: str | None, days: Days) -> dict[int, Sums]:
        return {}

    async def keep_days(self, plan_id: str | None, days: Sequence[int], sums: Mapping[int, Sums]) -> None:
        return None

    async def lease(self, holder: str, seconds: int) -> bool:
        return True

    async def release(self, holder: str) -> None:
        return None

    async def states(self, quotas: Sequence[HeldQuota]) -> StatesReading:
        return StatesReading(_now() * 1_000_000, [QuotaState()] * len(quotas))

    async def set_remaining(
        self, plan_id: str, holder: Holder, quota: HeldQuota, remaining: int, *, who: str, what: str
    ) -> Written[Adjusted]:
        return Written(Adjusted(_now() * 1_000_000, 0), 1)

    async def grant(
        self, plan_id: str, holder: Holder, quota: HeldQuota, units: int, *, name: str, who: str, what: str
    ) -> Written[Adjusted]:
        return Written(Adjusted(_now() * 1_000_000, -units), 1)


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its error code if it is a refusal, and its body."""

    status: int
    code: str | None
    body: Any


class Plane:
    """Calls a control plane as an administrator, unless a call names another credential."""

    def __init__(self, store: DictStore, table: Iterable[Operation] | None = None) -> None:
        self.store = store
        self.admin, self.reader = new_token("admin", _now()), new_token("reader", _now(), read_only=True)
        self.access_key = new_access_key("signer", SEALER, _now())
        for new in (self.admin, self.reader, self.access_key):
            store.items["credential", new.credential.id] = new.credential
        self._app = ControlPlane(context_of(store, NoUsage()), Authenticator(store, SEALER, _now), table)

    def call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        by: NewCredential | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = headers if headers is not None else {"authorization": f"Bearer {(by or self.admin).secret}"}
        return asyncio.run(self._call(verb, path, b"" if body is None else json.dumps(body).encode(), sent))

    async def _call(self, verb: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            answer = await client.request(verb, path, content=body, headers=dict(headers))
        return Reply(
            answer.status_code, answer.headers.get("x-amzn-errortype"), answer.json() if answer.content else None
        )

    def signed(self, verb: str, path: str, token: str | None = None) -> dict[str, str]:
        """The headers of a call with the access key, and with a session token if there is one."""
        request = AWSRequest(method=verb, url=f"http://{HOST}{path}", headers={"host": HOST})
        credentials = Credentials(self.access_key.credential.id, self.access_key.secret, token)
        SigV4Auth(credentials, "apigateway", "eu-central-1").add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}


def context_of(store: DictStore, usage: NoUsage) -> Context:
    """The context of calls over this store and this usage."""
    return Context(store, usage, SEALER, "default", _now, lambda: store.fixed, _explain)


def _now() -> int:
    """The real time, because botocore signs with it."""
    return int(time.time())


async def _explain(request: Request, line: LogLine | None, key: StoredKey | None) -> str:
    return ""


def items(*made: Any) -> Items:
    """Items by kind and id."""
    return DictStore(*made).items

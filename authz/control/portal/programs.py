"""`GET /portal/usage`: a key's limits and its use as JSON, for the customer's own programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from authz.aws.errors import ApiError, bad_request
from authz.check import LimiterUnavailable
from authz.control.api import Api
from authz.control.pages.guard import SAFE
from authz.control.portal.pasted import GivenKeys
from authz.control.portal.scope import Holdings
from authz.store.ports import StoreUnavailable

log = structlog.get_logger(__name__)

PATH: Final = "/portal/usage"
HEADER: Final = "x-api-key"
DAYS: Final = 30
MOST_DAYS: Final = 90
FRESH_SECONDS: Final = 15
PACE: Final = 0.5  # requests a second of a key
BURST: Final = 20
FIELDS: Final = 10
TAG: Final = 32  # hex digits


class KeyThrottle(Protocol):
    """Counts the requests of each key."""

    async def wait(self, subject: str) -> int:
        """The seconds to wait before the next request; 0 if this one is admitted. Raises LimiterUnavailable."""
        ...


class Programs:
    """The ASGI application of the one path."""

    def __init__(self, api: Api, given_keys: GivenKeys, throttle: KeyThrottle) -> None:
        self._api = api
        self._given_keys = given_keys
        self._throttle = throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = _refusal(error.status, error.code, error.message, error.retry_after)
        except (StoreUnavailable, LimiterUnavailable):
            response = _refusal(503, "ServiceUnavailableException", "Service Unavailable", 1)
        except Exception as error:
            # Log neither the exception's text nor its locals: a key's value may be in them.
            log.error("a request failed", path=PATH, error=type(error).__name__)
            response = _refusal(500, "InternalFailure", "Internal failure")
        response.headers["Vary"] = HEADER
        response.headers["X-Content-Type-Options"] = "nosniff"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in SAFE:
            refused = _refusal(405, "MethodNotAllowedException", "Method Not Allowed")
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        keys = request.headers.getlist(HEADER)
        session = await self._given_keys.session_of(keys[0], request) if len(keys) == 1 else None
        if session is None:
            return _refusal(403, "ForbiddenException", "Forbidden")
        if wait := await self._throttle.wait(session.key_id or ""):
            raise ApiError("TooManyRequestsException", "Too Many Requests", wait)
        days = _days(request.scope["query_string"])
        holdings = Holdings(self._api, session)
        body = msgspec.json.encode(await usage_of(holdings, days))
        headers = {
            "ETag": f'"{sha256(body).hexdigest()[:TAG]}"',
            "Cache-Control": f"private, max-age={FRESH_SECONDS}",
        }
        lines = request.headers.getlist("if-none-match")
        tags = [tag.strip().removeprefix("W/") for line in lines for tag in line.split(",")]
        if headers["ETag"] in tags or "*" in tags:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)


async def usage_of(holdings: Holdings, days: int) -> dict[str, Any]:
    """The document of the session's one key: its plans with their limits, and its last days, the newest last."""
    key = (await holdings.keys(1)).items[0]
    last = datetime.fromtimestamp(holdings.now, UTC).date()
    found = await holdings.days(last - timedelta(days=days - 1), last)
    name = {"keyName": key["name"]} if "name" in key else {}
    plans = [
        {"name": contract.plan, "sharedByCustomer": contract.is_shared}
        | ({} if contract.throttle is None else {"throttle": contract.throttle})
        | {"quotas": [_quota(quota) for quota in contract.quotas]}
        for contract in await holdings.contracts(key["id"])
    ]
    return {
        "keyId": key["id"],
        **name,
        "plans": plans,
        "days": sorted(found.items, key=lambda row: str(row["day"])),
    }


def _quota(quota: Mapping[str, Any]) -> dict[str, Any]:
    resets = {"starts": quota["start"], "resets": quota["end"]} if "end" in quota else {}
    same = {name: quota[name] for name in ("period", "counts", "limit", "used")}
    return same | {"left": quota["remaining"], "overage": quota["overage"]} | resets


def _days(query: bytes) -> int:
    """The days to show. Raises ApiError."""
    try:
        fields = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError:
        raise bad_request("Invalid query string") from None
    if others := [name for name in fields if name != "days"]:
        raise bad_request(f"Unknown query parameter {others[0][:50]!r}: expected days")
    text = fields.get("days", str(DAYS))
    if not (text.isascii() and text.isdigit() and len(text) < FIELDS and 1 <= int(text) <= MOST_DAYS):
        raise bad_request(f"Invalid days: expected a number from 1 to {MOST_DAYS}")
    return int(text)


def _refusal(status: int, code: str, message: str, retry_after: int | None = None) -> Response:
    headers = {"x-amzn-ErrorType": code, "Cache-Control": "no-store"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    body = msgspec.json.encode({"message": message})
    return Response(body, status, media_type="application/json", headers=headers)

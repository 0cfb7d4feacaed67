"""The page Explain: from a key's id, a request's id or a line of Envoy's access log to what refused, and until when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.console.daily import CHARTED_DAYS, days_to, utc_today
from authz.control.console.fields import NOTHING_TYPED, Misfit, Typed, refused
from authz.control.console.keys import SECRET_LENGTH, is_id
from authz.control.console.standing import QuotaRow, quota_rows
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit
from authz.core.zones import SECOND_US

Kind = Literal["line", "request id", "key"]

REQUEST_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
REFUSALS: Final = 7  # days that had some
ALERTS: Final = "5"  # of each holder of a quota
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
PLACES: Final = (("url", "url"), ("source", "source"), ("logLine", "what"), ("log line", "what"))
NO_LINE: Final = 'Expected a line of Envoy\'s access log, which is one JSON object, such as {"method": "GET", …}.'
NO_KEY: Final = "No key has this id or value. A request's id looks like 5f8e1c2a-0b1d-4c3e-9f00-1234567890ab."


@dataclass(frozen=True, slots=True)
class Answer:
    """The lines of an explanation, and the parts of them that a heading needs. "" is unknown.

    `then` is the answer in the log, and `free_at` (µs of Unix time) when a refused call may be tried again.
    """

    lines: list[str]
    key: str = ""
    answer: str = ""
    reason: str = ""
    then: str = ""
    free_at: int | None = None

    @classmethod
    def of(cls, lines: list[str], now: datetime) -> Answer:
        def said(word: str) -> str:
            found = next((line for line in lines if line.startswith(f"{word} ")), "")
            text = found.partition(" ")[2].strip()
            return "" if text == "(none)" else text

        wait = next((line.rpartition(" ")[2] for line in map(str.strip, lines) if line.startswith("retry-after: ")), "")
        free_at = int((now.timestamp() + int(wait)) * SECOND_US) if wait.isdecimal() else None
        return cls(lines, said("key"), said("answer"), said("reason"), said("then"), free_at)

    @property
    def is_refusal(self) -> bool:
        return bool(self.reason)


def kind_of(text: str) -> Kind:
    """What a person has pasted."""
    if "{" in text:
        return "line"
    return "request id" if REQUEST_ID.fullmatch(text) else "key"


def log_line(text: str) -> dict[str, Any]:
    """The object in a line of a log; `docker compose logs` writes words before it. Raises Misfit."""
    try:
        found = msgspec.json.decode(text[text.index("{") :].encode())
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise Misfit("what", NO_LINE) from None
    if not isinstance(found, dict):
        raise Misfit("what", NO_LINE)
    return found


def headers(form: Form) -> dict[str, str]:
    """The lines `Name: value`. Raises Misfit."""
    found = {}
    for line in filter(None, map(str.strip, form.text("headers").split("\n"))):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise Misfit("headers", "Expected a line for each header, as Name: value.")
        found[name.strip()] = value.strip()
    return found


async def explain_page(visit: Visit[OwnerSession]) -> Response:
    return await _page(visit, NOTHING_TYPED)


async def explain(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    # The form to show again: an unknown text may be a value, and headers may hold one.
    what = form.text("what")
    is_shown = kind_of(what) != "key" or what == "" or len(what) < SECRET_LENGTH
    shown = Form({**form.fields, "what": [what if is_shown else ""], "headers": [""]})
    try:
        return await _explained(visit, form, shown)
    except (ApiError, Misfit) as error:
        return await _page(visit, refused(shown, error, PLACES))


async def _explained(visit: Visit[OwnerSession], form: Form, shown: Form) -> Response:
    """Answer with the page, whose form has the fields that are `shown`."""
    what, body = form.text("what"), dict[str, Any](headers=headers(form))
    if form.given("source"):
        body["source"] = form.text("source")
    kind = kind_of(what) if what else None
    if kind == "line":
        return await _answered(visit, shown, body | {"logLine": log_line(what)})
    key = await _key_of_id(visit, what)
    if key is None and kind == "key":
        found = await visit.find("FindApiKey", body={"value": what})
        key = None if found is None else await _key_of_id(visit, found["keyId"])
    if key is None and kind == "request id":
        return await _page(visit, Typed(shown), request_id=what)
    if key is None and what:
        raise Misfit("what", NO_KEY)
    # The key's id stands in place of a value that was pasted.
    named = shown if key is None else Form({**shown.fields, "what": [key["id"]]})
    if form.given("url") is None:
        if key is None:
            raise Misfit("what", "Expected a key's id, a request's id or a line of the access log; or a URL below.")
        return await _page(visit, Typed(named), **await _standing(visit, key))
    body |= {"url": form.text("url"), "method": form.text("method") or "GET"} | ({"keyId": key["id"]} if key else {})
    return await _answered(visit, named, body)


async def _answered(visit: Visit[OwnerSession], shown: Form, body: dict[str, Any]) -> Response:
    answer = Answer.of((await visit.ask("Explain", body=body))["item"], datetime.now(UTC))
    key = await _key_of_id(visit, answer.key)  # a line of the log may name a key that was deleted
    standing = {} if key is None else await _standing(visit, key)
    return await _page(visit, Typed(shown), answer=answer, **standing)


async def _key_of_id(visit: Visit[OwnerSession], text: str) -> Any | None:
    return await visit.find("GetApiKey", {"api_Key": text}) if is_id(text) else None


async def _standing(visit: Visit[OwnerSession], key: Mapping[str, Any]) -> dict[str, Any]:
    """The key's quotas now, its refused calls of the last days, and the last alerts."""
    key_id = key["id"]
    rows: list[QuotaRow] = []
    for plan in (await visit.ask("GetUsagePlans", query={"keyId": key_id, "limit": "500"}))["item"]:
        quotas = await visit.ask("GetUsageQuotas", query={"usagePlanId": plan["id"], "keyId": key_id})
        rows += quota_rows(plan, quotas)
    days = days_to(utc_today(), CHARTED_DAYS)
    items = (await visit.ask("GetUsageDays", query={"keyId": key_id, **days.query}))["item"]
    refusals = [use for use in reversed(days.uses(items)) if use.refused]
    # When calls last took a quota of the key to one of its alerts: the quota has been nearly used up from then on.
    holders = {("customerId", row.customer) if row.customer else ("keyId", key_id) for row in rows}
    pages = [await visit.ask("GetUsageAlerts", query={name: id_, "limit": ALERTS}) for name, id_ in sorted(holders)]
    return {
        "key": key,
        "rows": rows,
        "alerts": [alert for page in pages for alert in page["item"]],
        "refusals": refusals[:REFUSALS],
        "today": days.last,
    }


async def _page(visit: Visit[OwnerSession], typed: Typed, **values: Any) -> Response:
    nothing: dict[str, Any] = {
        "answer": None,
        "request_id": None,
        "key": None,
        "rows": [],
        "refusals": [],
        "alerts": [],
        "today": None,
    }
    return await visit.page(
        "console/explain.html",
        status=typed.status,
        typed=typed,
        asked=visit.query("key") or "",
        methods=[(method, method) for method in METHODS],
        **{**nothing, **values},
    )


VIEWS: Final = (
    View("GET", "/explain", explain_page),
    View("POST", "/explain", explain),
)

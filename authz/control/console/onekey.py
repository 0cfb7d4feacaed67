"""The page of one key: its use, and what a person can do with it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.console.curl import CurlLine, curl_line
from authz.control.console.daily import CHARTED_DAYS, DayRange, days_to, utc_today
from authz.control.console.fields import NOTHING_TYPED, Misfit, Typed, lines, number, refused, tags, whole
from authz.control.console.granting import GRANT_PLACES, grant
from authz.control.console.newkey import PLACES, PLANS, plan_choices
from authz.control.console.secret import leave_secret, take_secret
from authz.control.console.standing import (
    quota_bars,
    quota_rows,
)
from authz.control.pages.charts import day_columns
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit
from authz.control.pages.words import each_period, limit_words, throttle_of

HISTORY: Final = "20"  # lines of the audit
ALL_PLANS: Final = "500"
OVERLAPS: Final = (
    ("86400", "a day"),
    ("3600", "an hour"),
    ("604800", "a week"),
    ("2592000", "30 days"),
    ("0", "no time: the old value ends now"),
)
ARN: Final = "arn:aws:apigateway:us-east-1::/apikeys/{}"


@dataclass(frozen=True, slots=True)
class Membership:
    """A plan of the key, and the numbers that the key has in place of the plan's."""

    plan: Mapping[str, Any]
    quotas: Mapping[str, Any]
    override: Mapping[str, Any]

    @property
    def throttle(self) -> str:
        return throttle_of(self.quotas.get("throttle")) or "no throttle"

    @property
    def own_throttle(self) -> Mapping[str, Any]:
        return self.override.get("throttle") or {}

    @property
    def fields(self) -> list[tuple[str, str, int | None]]:
        """The name, the label and the own number of a form's field for each quota."""
        return [
            (
                f"limit.{self.plan['id']}.{quota['period']}.{quota['counts']}",
                f"{quota['counts'].capitalize()} {each_period(quota['period'])}",
                self._own_limit(quota),
            )
            for quota in self.quotas["item"]
        ]

    @property
    def words(self) -> str:
        """The limits that hold, in words."""
        return "; ".join((self.throttle, *map(limit_words, self.quotas["item"])))

    def _own_limit(self, quota: Mapping[str, Any]) -> int | None:
        """The key's own limit of a quota; None if it has the plan's."""
        found = [
            one["limit"]
            for one in self.override.get("quotas", ())
            if one["period"] == quota["period"] and one.get("counts") in (None, quota["counts"])
        ]
        return found[0] if found else None

    @property
    def is_shared(self) -> bool:
        """True if the limits are those of the key's customer."""
        return "customerId" in self.quotas


async def key_page(visit: Visit[OwnerSession]) -> Response:
    return await _page(visit, NOTHING_TYPED)


async def _page(visit: Visit[OwnerSession], typed: Typed) -> Response:
    key_id = visit.path("key_id")
    key = await visit.ask("GetApiKey", {"api_Key": key_id})
    days = days_to(utc_today(), CHARTED_DAYS)
    history = {"id": key_id, "limit": HISTORY, "position": visit.query("history")}
    plans = (await visit.ask("GetUsagePlans", query={"keyId": key_id, "limit": ALL_PLANS}))["item"]
    members = [await _membership(visit, key_id, plan) for plan in plans]
    others = await visit.ask("GetUsagePlans", query={"limit": PLANS}) if visit.session.may_write else None
    fixed = (await visit.ask("GetFileItems", query={"kind": "usageplan", "limit": PLANS}))["item"]
    is_fixed = bool((await visit.ask("GetFileItems", query={"kind": "apikey", "id": key_id}))["item"])
    taken = {*fixed, *(plan["id"] for plan in plans)}
    secret = await take_secret(visit, key_id)
    return await visit.page(
        "console/key.html",
        status=typed.status,
        typed=typed,
        key=key,
        extension=await visit.ask("GetApiKeyExtension", {"api_Key": key_id}),
        members=members,
        is_fixed=is_fixed,
        may_change=visit.session.may_write and not is_fixed,
        choices=[one for one in plan_choices(others["item"] if others else []) if one[0] not in taken],
        audit=await visit.ask("GetAudit", query=history),
        secret=secret,
        curl=await _curl(visit, plans, secret.value) if secret else None,
        was_shown=secret is None and visit.query("secret") is not None,
        grant_name=secrets.token_urlsafe(12),
        overlaps=OVERLAPS,
        **use_values((await visit.ask("GetUsageDays", query={"keyId": key_id, **days.query}))["item"], members, days),
    )


async def _membership(visit: Visit[OwnerSession], key_id: str, plan: Mapping[str, Any]) -> Membership:
    quotas, override = await asyncio.gather(
        visit.ask("GetUsageQuotas", query={"usagePlanId": plan["id"], "keyId": key_id}),
        visit.ask("GetUsagePlanKeyExtension", {"usageplanId": plan["id"], "keyId": key_id}),
    )
    return Membership(plan, quotas, override)


async def _curl(visit: Visit[OwnerSession], plans: list[Mapping[str, Any]], value: str) -> CurlLine:
    """A line that works, by the first plan that covers a method."""
    example = None
    for plan in plans:
        example = (await visit.ask("GetExampleCall", {"usageplanId": plan["id"]})).get("example")
        if example is not None:
            break
    return curl_line(example, value, visit.site.parts.public_url)


def use_values(items: list[Mapping[str, Any]], members: list[Membership], days: DayRange) -> dict[str, Any]:
    """The values of the template that show use: by day, and against each quota."""
    uses = days.uses(items)
    chart = day_columns(uses)
    rows = [row for member in members for row in quota_rows(member.plan, member.quotas)]
    return {
        "rows": rows,
        "bars": quota_bars(rows),
        "days": chart,
        "today": uses[-1],
        "ninety": chart.total,
        "last_refused": max((use.day for use in uses if use.refused), default=None),
    }


# --- what a person does with a key --------------------------------------------------------------------------------

Action = Callable[[Visit[OwnerSession], str, Form], Awaitable[Response | str]]


def _form_view(path: str, action: Action, *places: tuple[str, str]) -> View[OwnerSession]:
    """A form of the page. The action returns a message, or a response of its own; an error shows the page again."""

    async def handler(visit: Visit[OwnerSession]) -> Response:
        form, key_id = await visit.form(), visit.path("key_id")
        try:
            done = await action(visit, key_id, form)
        except (ApiError, Misfit) as error:
            return await _page(visit, refused(form, error, places))
        if isinstance(done, Response):
            return done
        return await visit.go(f"{visit.site.root}/keys/id/{quote(key_id, safe='')}", done)

    return View("POST", f"/keys/id/{{key_id}}/{path}", handler, writes=True)


async def _enable(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    on = form.text("enabled") == "true"
    change = {"op": "replace", "path": "/enabled", "value": "true" if on else "false"}
    await visit.ask("UpdateApiKey", {"api_Key": key_id}, body={"patchOperations": [change]})
    return "The key works again." if on else "The key is disabled. Sidecars refuse it within a second."


async def _rotate(visit: Visit[OwnerSession], key_id: str, form: Form) -> Response:
    overlap = whole(form, "overlap")
    if overlap is None:
        raise Misfit("overlap", "Choose how long the old value goes on to work.")
    rotated = await visit.ask("RotateApiKey", {"api_Key": key_id}, body={"overlapSeconds": overlap})
    old = "The old value works until the time below." if overlap else "The old value is refused within a second."
    return await leave_secret(visit, key_id, rotated["value"], f"The key has a new value. {old}")


async def _end_previous(visit: Visit[OwnerSession], key_id: str, _: Form) -> str:
    await visit.ask("EndPreviousApiKeyValue", {"api_Key": key_id})
    return "The old value has ended."


async def _extend(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    return await grant(visit, form, keyId=key_id)


async def _join(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    plan = form.text("join")
    if not plan:
        raise Misfit("join", "Choose a plan.")
    await visit.ask("CreateUsagePlanKey", {"usageplanId": plan}, body={"keyId": key_id, "keyType": "API_KEY"})
    return "The key is in the plan."


async def _leave(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    plan = form.text("leave")
    with beside(f"plan.{plan}"):
        await visit.ask("DeleteUsagePlanKey", {"usageplanId": plan, "keyId": key_id})
    return "The key has left the plan. Its numbers in place of the plan's are gone too."


async def _override(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    plan = form.text("override")
    params = {"usageplanId": plan, "keyId": key_id}
    with beside(f"plan.{plan}"):
        quotas = await visit.ask("GetUsageQuotas", query={"usagePlanId": plan, "keyId": key_id})
        document = override_document(form, plan, [(one["period"], one["counts"]) for one in quotas["item"]])
        await visit.ask("PutUsagePlanKeyExtension", params, body=document)
    return "The key has these numbers now." if document else "The key has the plan's numbers."


@contextmanager
def beside(field: str) -> Iterator[None]:
    """Raise Misfit with the message of an ApiError, so that the page shows it in this place."""
    try:
        yield
    except ApiError as error:
        raise Misfit(field, error.message) from None


def override_document(form: Form, plan: str, quotas: list[tuple[str, str]]) -> dict[str, Any]:
    """The body of PutUsagePlanKeyExtension, by the fields of a plan. An empty field is the plan's number.

    Raises Misfit.
    """
    rate, burst = number(form, f"rate.{plan}"), whole(form, f"burst.{plan}")
    throttle = {name: value for name, value in (("rateLimit", rate), ("burstLimit", burst)) if value is not None}
    own = [
        {"period": period, "counts": counts, "limit": limit}
        for period, counts in quotas
        if (limit := whole(form, f"limit.{plan}.{period}.{counts}")) is not None
    ]
    return ({"throttle": throttle} if throttle else {}) | ({"quotas": own} if own else {})


async def _details(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    day, sources = whole(form, "billing_day"), lines(form, "sources")
    extension = ({"allowedSources": sources} if sources else {}) | ({"billingDay": day} if day is not None else {})
    # First the fields that are refused more often, so that a mistake in them leaves all as it was.
    await visit.ask("PutApiKeyExtension", {"api_Key": key_id}, body=extension)
    key = await visit.ask("GetApiKey", {"api_Key": key_id})
    try:
        await visit.ask("UpdateApiKey", {"api_Key": key_id}, body={"patchOperations": detail_patch(form, key)})
    except ApiError as error:
        text = f"{error.message}. The addresses and the billing day were saved, and the rest was not"
        raise ApiError(error.code, text, error.retry_after, error.problems) from None
    return "Saved."


def detail_patch(form: Form, key: Mapping[str, Any]) -> list[dict[str, str]]:
    """The operations that make the key's fields those of the form: none for a field that stays as it is."""
    fields = (("name", "name"), ("description", "description"), ("customer", "customerId"), ("expires", "expiresAt"))
    changed = [(member, form.text(field)) for field, member in fields if form.text(field) != (key.get(member) or "")]
    return [
        {"op": "remove" if member == "expiresAt" and not value else "replace", "path": f"/{member}", "value": value}
        for member, value in changed
    ]


async def _tags(visit: Visit[OwnerSession], key_id: str, form: Form) -> str:
    wanted, arn = tags(form, "tags"), {"resource_arn": ARN.format(key_id)}
    present = (await visit.ask("GetTags", arn))["tags"]
    changed = {name: value for name, value in wanted.items() if present.get(name) != value}
    if changed:
        await visit.ask("TagResource", arn, body={"tags": changed})
    for name in present.keys() - wanted.keys():
        await visit.ask("UntagResource", arn, {"tagKeys": name})
    return "Saved."


async def _delete(visit: Visit[OwnerSession], key_id: str, _: Form) -> Response:
    await visit.ask("DeleteApiKey", {"api_Key": key_id})
    return await visit.go(f"{visit.site.root}/keys", f"The key {key_id} is deleted.")


async def ask_delete(visit: Visit[OwnerSession]) -> Response:
    """Ask on a page of its own, which works without JavaScript."""
    key = await visit.ask("GetApiKey", {"api_Key": visit.path("key_id")})
    extension = await visit.ask("GetApiKeyExtension", {"api_Key": visit.path("key_id")})
    return await visit.page("console/delete-key.html", key=key, extension=extension)


_DETAILS: Final = tuple(place for place in PLACES if place[1] in ("sources", "billing_day", "expires", "name"))

VIEWS: Final = (
    View("GET", "/keys/id/{key_id}", key_page),
    View("GET", "/keys/id/{key_id}/delete", ask_delete, writes=True),
    _form_view("delete", _delete),
    _form_view("enabled", _enable),
    _form_view("rotate", _rotate, ("", "overlap")),
    _form_view("end-previous", _end_previous),
    _form_view("extend", _extend, *GRANT_PLACES),
    _form_view("join", _join, ("", "join")),
    _form_view("leave", _leave),
    _form_view("override", _override),
    _form_view("details", _details, *_DETAILS, ("description", "description"), ("customer", "customer")),
    _form_view("tags", _tags, ("", "tags")),
)

"""The pages that list keys: all of them by cursor, the unused ones, and a search."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

PAGE: Final = "50"
LOOKED_AT: Final = "100"  # keys on a page of unused ones
UNUSED_DAYS: Final = "30"
SECRET_LENGTH: Final = 20  # characters of the shortest value of a key


async def keys(visit: Visit[OwnerSession]) -> Response:
    name, customer = visit.query("name"), visit.query("customer")
    query = {"name": name, "customerId": customer, "limit": PAGE, "position": visit.query("position")}
    found = await visit.ask("GetKeyUses", query=query)
    return await _list(visit, found, name or "", customer or "")


async def _list(visit: Visit[OwnerSession], found: Any, name: str, customer: str, **values: Any) -> Response:
    query = {field: value for field, value in (("name", name), ("customer", customer)) if value}
    return await visit.page(
        "console/keys.html",
        keys=found["item"],
        position=found.get("position"),
        name=name,
        customer=customer,
        filters=query,
        is_first=visit.query("position") is None,
        **({"missing": None} | values),
    )


async def search(visit: Visit[OwnerSession]) -> Response:
    """Lead to the key with this value or id, to the customer, or to the keys whose names begin so.

    The text may be a key's value, so it stands in a URL only if it is known to be a name.
    """
    text = (await visit.form()).text("q")
    root = visit.site.root
    if not text:
        return await visit.go(f"{root}/keys")
    found = await visit.find("FindApiKey", body={"value": text})
    if found is not None:
        old = "This is the value from before the last rotation. It still works." if found["isPrevious"] else ""
        return await visit.go(f"{root}/keys/id/{found['keyId']}", old)
    if is_id(text) and await visit.find("GetApiKey", {"api_Key": text}) is not None:
        return await visit.go(f"{root}/keys/id/{text}")
    if await visit.find("GetCustomer", {"customerId": text}) is not None or await _has(visit, customerId=text):
        return await visit.go(f"{root}/keys/customers/one", id=text)
    if await _has(visit, name=text):
        return await visit.go(f"{root}/keys", name=text)
    may_be_a_value = len(text) >= SECRET_LENGTH and " " not in text
    shown = "this text" if may_be_a_value else f"“{text}”"
    return await _list(visit, {"item": []}, "", "", missing=shown)


def is_id(text: str) -> bool:
    """True if a key may have this id: no other text is a part of a path of ours."""
    return len(text) <= 128 and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


async def _has(visit: Visit[OwnerSession], **query: str) -> bool:
    return bool((await visit.ask("GetKeyUses", query={**query, "limit": "1"}))["item"])


async def unused(visit: Visit[OwnerSession]) -> Response:
    days, problem = visit.query("days") or UNUSED_DAYS, ""
    found: Any = {"item": []}
    try:
        query = {"days": days, "limit": LOOKED_AT, "position": visit.query("position")}
        found = await visit.ask("GetUnusedKeys", query=query)
    except ApiError as error:
        problem = error.message
    return await visit.page(
        "console/unused.html",
        status=400 if problem else 200,
        keys=found["item"],
        position=found.get("position"),
        days=days,
        problem=problem,
        looked_at=LOOKED_AT,
    )


VIEWS: Final = (
    View("GET", "/keys", keys),
    View("POST", "/keys/search", search),
    View("GET", "/keys/unused", unused),
)

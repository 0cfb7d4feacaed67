"""The portal's pages of keys: the list, and a key that can be rolled."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from authz.control.pages.forms import BadForm
from authz.control.pages.sessions import CustomerSession
from authz.control.pages.site import Visit
from authz.control.portal.scope import Document, Holdings
from authz.control.portal.usage import key_name
from authz.control.portal.view import PortalView
from authz.core.zones import SECOND_US

KEYS: Final = 25
OVERLAPS: Final = (
    ("86400", "for a day"),
    ("3600", "for an hour"),
    ("604800", "for a week"),
    ("2592000", "for 30 days"),
    ("0", "not at all: it has leaked"),
)


async def show_keys(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    part = await holdings.keys(KEYS, visit.query("position"))
    rows = [await _row(holdings, key) for key in part.items]
    return await visit.page("portal/keys.html", keys=rows, position=part.position)


async def show_key(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    key = await holdings.key(visit.path("key_id"))
    name = visit.query("new")
    value = await visit.site.parts.sessions.take_message(visit.session_id, name) if name else None
    return await visit.page("portal/key.html", key=await _row(holdings, key), value=value, overlaps=OVERLAPS)


async def roll(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    """Give the key a new value, which the next page shows once."""
    key_id, overlap = visit.path("key_id"), (await visit.form()).text("overlap")
    if overlap not in dict(OVERLAPS):
        raise BadForm(400, "Choose how long the old value stays valid.")
    rolled = await holdings.rotate(key_id, int(overlap))
    name = await visit.site.parts.sessions.leave_message(visit.session_id, rolled["value"])
    return await visit.go(_path(visit, key_id), new=name)


async def end_old(visit: Visit[CustomerSession], holdings: Holdings) -> Response:
    """End the value before the last roll."""
    key_id = visit.path("key_id")
    await holdings.end_previous(key_id)
    return await visit.go(_path(visit, key_id), "The old value has ended.")


async def _row(holdings: Holdings, key: Document) -> dict[str, Any]:
    """A key as the pages show it; the moments are µs of Unix time."""
    extension = await holdings.key_extension(key["id"])
    until = extension.get("previousExpiresAt")
    return {
        "id": key["id"],
        "path": f"/keys/{quote(key['id'], safe='')}",
        "name": key_name(key),
        "is_enabled": key["enabled"],
        "created": key["createdDate"] * SECOND_US,
        "expires": key.get("expiresAt"),
        "last_used": extension.get("lastUsedDate"),
        "old_until": None if until is None else until * SECOND_US,
    }


def _path(visit: Visit[CustomerSession], key_id: str) -> str:
    return f"{visit.site.root}/keys/{quote(key_id, safe='')}"


VIEWS: Final = (
    PortalView("GET", "/keys", show_keys),
    PortalView("GET", "/keys/{key_id}", show_key),
    PortalView("POST", "/keys/{key_id}/roll", roll, writes=True),
    PortalView("POST", "/keys/{key_id}/end-old", end_old, writes=True),
)

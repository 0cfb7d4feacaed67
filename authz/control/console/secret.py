"""A key's value on its way from the form that made it to the one page that shows it, once."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from starlette.responses import Response

from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import Visit


class Secret(Struct, frozen=True):
    """The value of a key, and the sentence that stands over it."""

    key_id: str
    value: str
    message: str


async def leave_secret(visit: Visit[OwnerSession], key_id: str, value: str, message: str) -> Response:
    """Send the browser to the key's page, which shows the value once. The URL has a random name, and not the value."""
    text = msgspec.json.encode(Secret(key_id, value, message)).decode()
    name = await visit.site.parts.sessions.leave_message(visit.session_id, text)
    return await visit.go(f"{visit.site.root}/keys/id/{key_id}", "", secret=name)


async def take_secret(visit: Visit[OwnerSession], key_id: str) -> Secret | None:
    """The value that was left for this page of this session; None if there is none, or none any more."""
    name = visit.query("secret")
    text = await visit.site.parts.sessions.take_message(visit.session_id, name) if name else None
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=Secret)
    except msgspec.DecodeError:  # a message of another page
        return None
    return found if found.key_id == key_id else None

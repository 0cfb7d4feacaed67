"""Answers a form that was sent twice, such as by a double click, once: also by several control planes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.responses import RedirectResponse, Response

from authz.aws.errors import ApiError
from authz.control.pages.forms import BadForm
from authz.control.pages.sessions import Sessions
from authz.store.ports import StoreUnavailable

FIELD: Final = "once"  # of the form: a random name of this showing of the form
WAIT_SECONDS: Final = 20.0  # for the answer to the first copy
LOOK_SECONDS: Final = 0.05
SERVER_ERROR: Final = 500
UNKNOWN_END: Final = (
    "This form was sent already, and its end is not known. Look whether the thing is there before you open the form "
    "again and send it."
)


async def once(sessions: Sessions, id_: str, name: str, answer: Callable[[], Awaitable[Response]]) -> Response:
    """Answer a form of this session. Its further copies are led to the page to which the first was led.

    A copy of a form that was refused is answered again. Raises BadForm if the end of the first copy is not known.
    """
    if not await sessions.claim_form(id_, name):
        location = await _location(sessions, id_, name)
        if location is not None:
            return RedirectResponse(location, 303)
        return await once(sessions, id_, name, answer)
    try:
        response = await answer()
    except (ApiError, BadForm) as error:
        if error.status < SERVER_ERROR:
            await sessions.release_form(id_, name)
        raise
    location = response.headers.get("location")
    with suppress(StoreUnavailable):  # it is done, and the browser should see that
        if location is not None:
            await sessions.end_form(id_, name, location)
        elif response.status_code < SERVER_ERROR:
            await sessions.release_form(id_, name)
    return response


async def _location(sessions: Sessions, id_: str, name: str) -> str | None:
    """The page to which the first copy was led; None if it was refused. Raises BadForm."""
    for _ in range(round(WAIT_SECONDS / LOOK_SECONDS)):
        found = await sessions.form_end(id_, name)
        if found != "":
            return found
        await asyncio.sleep(LOOK_SECONDS)
    raise BadForm(409, UNKNOWN_END)

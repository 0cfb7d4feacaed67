"""Reads the form that a page sends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

FORM_BYTES: Final = 65_536
FORM_SECONDS: Final = 10.0
FIELDS: Final = 4_000
BY_THE_API: Final = "Nothing was changed. Use the API or a file for anything larger."
TYPE: Final = "application/x-www-form-urlencoded"


class BadForm(Exception):  # noqa: N818  (the sender's mistake, worded for the page)
    """The body is not a form that a page of ours sends. `status` is the answer's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, without white space around the values. A field may have several values."""

    fields: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The first value; "" if there is none."""
        return next(iter(self.fields.get(name, ())), "")

    def texts(self, name: str) -> list[str]:
        """All values that are not empty."""
        return [value for value in self.fields.get(name, ()) if value]

    def given(self, name: str) -> str | None:
        """The first value; None if there is none, or an empty one."""
        return self.text(name) or None

    def ticked(self, name: str) -> bool:
        return self.text(name) == "on"


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == TYPE


async def read_form(request: Request) -> Form:
    """Read the body of a request. Raises BadForm."""
    if not is_form(request):
        raise BadForm(415, f"Expected a form of the type {TYPE}")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > FORM_BYTES:
                    raise BadForm(413, f"The form is larger than {FORM_BYTES} bytes. {BY_THE_API}")
    except TimeoutError:
        raise BadForm(408, "The form did not arrive in time") from None
    return parse_form(bytes(body))


def parse_form(body: bytes) -> Form:
    """Parse the body of a form. Raises BadForm."""
    if body.count(b"&") >= FIELDS:
        raise BadForm(413, f"The form has more than {FIELDS} fields. {BY_THE_API}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except ValueError:
        raise BadForm(400, "The form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        if "\0" in value:
            raise BadForm(400, "The form contains a NUL character")
        fields.setdefault(name, []).append(value.replace("\r\n", "\n").strip())
    return Form(fields)

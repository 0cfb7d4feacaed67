"""Fields of the console's forms: reads numbers and lists, and places an error beside the field that it concerns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from authz.aws.errors import ApiError
from authz.control.pages.forms import Form

DIGITS: Final = 16


class Misfit(Exception):  # noqa: N818  (the sender's mistake, worded for the page)
    """A field with something else than the page expects."""

    status = 400

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True, slots=True)
class Typed:
    """A form as a person sent it, and its problems: a text for each field, "" for the form as a whole."""

    form: Form = field(default_factory=Form)
    problems: Mapping[str, str] = field(default_factory=dict)
    status: int = 200

    def value(self, name: str, otherwise: object = "") -> str:
        """The text that was sent in a field, or else `otherwise`."""
        if name in self.form.fields:
            return self.form.text(name)
        return "" if otherwise is None else str(otherwise)

    def ticked(self, name: str, value: str, otherwise: bool = False) -> bool:
        """True if a box with this value was sent ticked; `otherwise` if no form was sent."""
        return value in self.form.texts(name) if self.form.fields else otherwise

    def problem(self, name: str) -> str:
        return self.problems.get(name, "")


NOTHING_TYPED: Final = Typed()


def refused(form: Form, error: ApiError | Misfit, places: Sequence[tuple[str, str]] = ()) -> Typed:
    """The form as it was sent, with the error beside its field.

    `places` are parts of messages and the fields they concern.
    """
    if isinstance(error, Misfit):
        return Typed(form, {error.name: str(error)}, error.status)
    name = next((field for part, field in places if part.lower() in error.message.lower()), "")
    return Typed(form, {name: error.message}, error.status)


def whole(form: Form, name: str) -> int | None:
    """The whole number in a field; None if it is empty. Raises Misfit."""
    text = form.text(name).replace(",", "").replace(" ", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        raise Misfit(name, "Expected a whole number.")
    return int(text)


def number(form: Form, name: str) -> float | None:
    """The number in a field; None if it is empty. Raises Misfit."""
    text = form.text(name).replace(",", "").replace(" ", "")
    if not text:
        return None
    whole_part, _, rest = text.partition(".")
    digits = whole_part + rest
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= DIGITS):
        raise Misfit(name, "Expected a number, such as 10 or 0.5.")
    return float(text)


def lines(form: Form, name: str) -> list[str]:
    """The lines of a field that are not empty. Commas part them too."""
    return [part for line in form.text(name).split("\n") for part in map(str.strip, line.split(",")) if part]


def pairs(form: Form, name: str) -> dict[str, str]:
    """The lines `name=value` of a field. Raises Misfit."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, form.text(name).split("\n"))):
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise Misfit(name, "Expected a line for each tag, as name=value.")
        found[key.strip()] = value.strip()
    return found

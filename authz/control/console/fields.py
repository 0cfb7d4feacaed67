"""Fields of the console's forms: reads numbers and lists, and places an error beside the field that it concerns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from authz.aws.errors import ApiError
from authz.control.pages.forms import Form

N = TypeVar("N", int, float)

# Commas part thousands alone: "0,5" is no number, for it would be read as 5.
WHOLE: Final = re.compile(r"\d{1,15}|\d{1,3}(,\d{3}){1,4}", re.ASCII)
NUMBER: Final = re.compile(r"(\d{1,15}|\d{1,3}(,\d{3}){1,4})?(\.\d{0,15})?", re.ASCII)


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
        return typed_words(otherwise)

    def ticked(self, name: str, value: str, otherwise: bool = False) -> bool:
        """True if a box with this value was sent ticked; `otherwise` if no form was sent."""
        return value in self.form.texts(name) if self.form.fields else otherwise

    def problem(self, name: str) -> str:
        return self.problems.get(name, "")


def typed_words(value: object) -> str:
    """A value as a person types it in a field: a number without an exponent, nothing for None."""
    if isinstance(value, float):
        return f"{value:.15f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


NOTHING_TYPED: Final = Typed()


def refused(form: Form, error: ApiError | Misfit, places: Sequence[tuple[str, str]] = ()) -> Typed:
    """The form as it was sent, with the error beside its field.

    `places` are parts of messages and the fields they concern.
    """
    if isinstance(error, Misfit):
        return Typed(form, {error.name: str(error)}, error.status)
    name = next((field for part, field in places if part.lower() in error.message.lower()), "")
    return Typed(form, {name: error.message}, error.status)


def parse_whole(text: str) -> int:
    """Parse a whole number such as `5000` or `5,000`. Raises ValueError."""
    if not WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text.replace(",", ""))


def parse_number(text: str) -> float:
    """Parse a number such as `0.5` or `5,000`. Raises ValueError."""
    if not NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text.replace(",", ""))


def parse_tags(text: str) -> dict[str, str]:
    """Parse lines `name=value`. Raises ValueError for another line, and for a name that is given twice."""
    tags: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.split("\n"))):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals) or name in tags:
            raise ValueError(line)
        tags[name] = value
    return tags


def whole(form: Form, name: str) -> int | None:
    """The whole number in a field; None if it is empty. Raises Misfit."""
    return _read(form, name, parse_whole, "Expected a whole number.")


def number(form: Form, name: str) -> float | None:
    """The number in a field; None if it is empty. Raises Misfit."""
    return _read(form, name, parse_number, "Expected a number, such as 10 or 0.5.")


def _read(form: Form, name: str, parse: Callable[[str], N], problem: str) -> N | None:
    text = form.text(name).replace(" ", "")
    try:
        return parse(text) if text else None
    except ValueError:
        raise Misfit(name, problem) from None


def lines(form: Form, name: str) -> list[str]:
    """The lines of a field that are not empty. Commas part them too."""
    return [part for line in form.text(name).split("\n") for part in map(str.strip, line.split(",")) if part]


def tags(form: Form, name: str) -> dict[str, str]:
    """The tags of a field, one in each line. Raises Misfit."""
    try:
        return parse_tags(form.text(name))
    except ValueError:
        raise Misfit(name, "Expected a line for each tag, as name=value, and each name once.") from None

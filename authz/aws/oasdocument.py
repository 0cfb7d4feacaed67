"""Reads an OpenAPI document: follows references and notes omissions, both within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import unquote

from authz.aws.decoded import Document
from authz.aws.errors import ApiError, bad_request
from authz.aws.patch import unescape
from authz.core.bounds import MAX_INT

EXTENSION: Final = "x-amazon-apigateway-"
MAX_REFERENCES: Final = 10  # references to references; a longer chain counts as a circle
MAX_POINTER: Final = 2_000  # characters of a reference
MAX_STEPS: Final = 500_000  # parts read; a part behind several references counts each time
MAX_BYTES: Final = 10_000_000  # of all methods as stored
MAX_WARNINGS: Final = 100
MAX_WARNING: Final = 2_000  # characters
QUOTED: Final = 100  # characters of a name that a warning repeats
MISSING: Final = object()


class Weight(IntEnum):
    """The importance of a note. The most important notes come first and are never cut off."""

    OPEN = 0  # a method requires no key, although the document may mean that it does
    AUTHORIZATION = 1  # stored and not carried out
    LEFT_OUT = 2


@dataclass(frozen=True)
class MethodPlace:
    """The place of a method in the API. Its text is the name that warnings use."""

    verb: str
    path: str
    resource_id: str

    def __str__(self) -> str:
        return f"{self.verb} {self.path[:200]}"


class Notes:
    """The warnings of an import: a text for each cause, with the places that it concerns."""

    def __init__(self) -> None:
        self._places: dict[tuple[Weight, str], dict[str, None]] = {}
        self._accepted: set[tuple[Weight, str]] = set()

    def add(self, weight: Weight, text: str, *places: str, accepted: bool = False) -> None:
        """Add a cause. An accepted cause is shown, but does not count for `failonwarnings`."""
        self._places.setdefault((weight, text), {}).update(dict.fromkeys(places))
        if accepted:
            self._accepted.add((weight, text))

    @property
    def grave(self) -> bool:
        """True if a note was added without `accepted`."""
        return any(cause not in self._accepted for cause in self._places)

    def texts(self) -> tuple[str, ...]:
        causes = sorted(self._places, key=lambda cause: cause[0])
        shown = [_with_places(text, self._places[weight, text]) for weight, text in causes[:MAX_WARNINGS]]
        more = len(causes) - MAX_WARNINGS
        return (*shown, *([f"{more} more warnings are not shown"] if more > 0 else []))


def _with_places(text: str, places: Iterable[str]) -> str:
    """Append the places to a text, up to MAX_WARNING characters."""
    names, room = list(places), MAX_WARNING - len(text)
    for shown, name in enumerate(names):
        room -= len(name) + 2
        if room < 0:
            more = len(names) - shown
            return f"{text}: {', '.join(names[:shown])}" + f" and {more} more"
    return f"{text}: {', '.join(names)}" if names else text


class DocumentReader:
    """Looks up parts of one document, and counts them against the bounds."""

    def __init__(self, document: Document, notes: Notes) -> None:
        self.document = document
        self.notes = notes
        self.is_swagger = "swagger" in document
        self._targets: dict[str, Any] = {}
        self._steps = 0
        self._bytes = 0

    def step(self, count: int = 1) -> None:
        """Count parts as read. Raises ApiError if references make the document too large."""
        self._steps += count
        if self._steps > MAX_STEPS:
            raise too_large()

    def store(self, size: int) -> None:
        """Count the bytes of a method. Raises ApiError if references make the document too large."""
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise too_large()

    def follow(self, value: Any) -> tuple[Any, str | None]:
        """Return a value or, for a reference, its target within the document. Else return None and the cause."""
        for _ in range(MAX_REFERENCES):
            self.step()
            reference = value.get("$ref") if isinstance(value, Mapping) else None
            if reference is None:
                return value, None
            shown = quoted(reference)
            if not isinstance(reference, str) or not reference.startswith("#"):
                return None, f"the reference {shown} leads out of the document"
            value = self._target(reference)
            if value is MISSING:
                return None, f"the reference {shown} leads nowhere"
        return None, f"the reference {shown} is a circle or too long a chain"

    def _target(self, reference: str) -> Any:
        if len(reference) > MAX_POINTER:
            return MISSING
        if reference not in self._targets:
            value: Any = self.document
            for name in (unescape(unquote(part)) for part in reference[1:].split("/")[1:]):
                if isinstance(value, Mapping):
                    value = value.get(name, MISSING)
                elif isinstance(value, list) and re.fullmatch(r"\d{1,7}", name, re.ASCII) and int(name) < len(value):
                    value = value[int(name)]
                else:
                    value = MISSING
            self._targets[reference] = value
        return self._targets[reference]

    def mapping(self, value: Any, what: str, place: str) -> Document | None:
        """Return a mapping, or the one that a reference leads to. For anything else, note `what` and return None."""
        found, cause = self.follow(value)
        if isinstance(found, Mapping):
            return found
        self.notes.add(Weight.LEFT_OUT, f"{what} is left out: {cause or 'it is no mapping'}", place)
        return None

    def only(self, found: Document, known: Iterable[str], what: str, *places: str) -> None:
        """Note the members of a mapping that are not in `known`, except other vendors' extensions."""
        for name in unknown(found, known):
            self.step()
            self.notes.add(Weight.LEFT_OUT, f"{quoted(name)} {what} is not known and is left out", *places)


def unknown(found: Document, known: Iterable[str]) -> Iterator[str]:
    """Return the members that are neither in `known` nor another vendor's extension."""
    names = frozenset(known)
    return (
        name
        for name in map(str, found)
        if name not in names and (not name.startswith("x-") or name.startswith(EXTENSION))
    )


def is_integer(value: Any) -> bool:
    """True for a whole number within 32 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT


def quoted(value: Any) -> str:
    """Quote a name from the document for a warning, cut to QUOTED characters."""
    shown = value if isinstance(value, str) else type(value).__name__
    return f"'{shown[:QUOTED]}…'" if len(shown) > QUOTED else f"'{shown}'"


def intrinsic(value: Any) -> str | None:
    """Return the name of a CloudFormation intrinsic such as `Fn::Sub`; None for any other value."""
    name = next(iter(value)) if isinstance(value, Mapping) and len(value) == 1 else None
    return name if isinstance(name, str) and (name in ("Ref", "Condition") or name.startswith("Fn::")) else None


def unreadable(cause: str) -> ApiError:
    return bad_request(f"Failed to parse the uploaded OpenAPI document due to: {cause}")


def too_large() -> ApiError:
    return unreadable("it is too large with its references written out")

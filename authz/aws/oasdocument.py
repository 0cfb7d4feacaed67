"""An OpenAPI document to look things up in. References are followed and omissions noted, both within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, Final
from urllib.parse import unquote

from authz.aws.errors import ApiError, bad_request

Document = Mapping[str, Any]

EXTENSION: Final = "x-amazon-apigateway-"
MAX_REFERENCES: Final = 10  # to references, before they are taken for a circle
MAX_POINTER: Final = 2_000  # characters of a reference
MAX_STEPS: Final = 500_000  # parts that are read, those behind references counted each time
MAX_BYTES: Final = 10_000_000  # of all methods as they are stored
MAX_WARNINGS: Final = 100
MAX_WARNING: Final = 2_000  # characters
QUOTED: Final = 100  # characters of a name that a warning repeats
MISSING: Final = object()


class Weight(IntEnum):
    """How much a note matters: those that come first are not cut off."""

    OPEN = 0  # a method that may be meant to ask for a key asks for none
    AUTHORIZATION = 1  # stored and not carried out
    LEFT_OUT = 2


class Notes:
    """What an import does not take over: a text for each cause, with the places that it concerns."""

    def __init__(self) -> None:
        self._places: dict[tuple[Weight, str], dict[str, None]] = {}
        self._accepted: set[tuple[Weight, str]] = set()

    def add(self, weight: Weight, text: str, *places: str, accepted: bool = False) -> None:
        """Note a cause. An accepted one is shown, and does not count for `failonwarnings`."""
        self._places.setdefault((weight, text), {}).update(dict.fromkeys(places))
        if accepted:
            self._accepted.add((weight, text))

    @property
    def grave(self) -> bool:
        """True if there is a note that nobody has accepted."""
        return any(cause not in self._accepted for cause in self._places)

    def texts(self) -> tuple[str, ...]:
        causes = sorted(self._places, key=lambda cause: cause[0])
        shown = [_listed(text, self._places[weight, text]) for weight, text in causes[:MAX_WARNINGS]]
        more = len(causes) - MAX_WARNINGS
        return (*shown, *([f"{more} more warnings are not shown"] if more > 0 else []))


def _listed(text: str, places: Iterable[str]) -> str:
    """The text, and as many of its places as there is room for."""
    names, room = list(places), MAX_WARNING - len(text)
    for shown, name in enumerate(names):
        room -= len(name) + 2
        if room < 0:
            more = len(names) - shown
            return f"{text}: {', '.join(names[:shown])}" + f" and {more} more"
    return f"{text}: {', '.join(names)}" if names else text


class Reader:
    """A document with how to find things in it."""

    def __init__(self, document: Document, notes: Notes) -> None:
        self.document = document
        self.notes = notes
        self.is_swagger = "swagger" in document
        self._found: dict[str, Any] = {}
        self._steps = 0
        self._bytes = 0

    def step(self, count: int = 1) -> None:
        """Count parts that are read. Raises ApiError where references make a document too large."""
        self._steps += count
        if self._steps > MAX_STEPS:
            raise too_large()

    def store(self, size: int) -> None:
        """Count the bytes of a method. Raises ApiError where references make a document too large."""
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise too_large()

    def follow(self, value: Any) -> tuple[Any, str | None]:
        """A value, or what it refers to within the document; and why there is nothing."""
        for _ in range(MAX_REFERENCES):
            self.step()
            reference = value.get("$ref") if isinstance(value, Mapping) else None
            if reference is None:
                return value, None
            shown = quoted(reference)
            if not isinstance(reference, str) or not reference.startswith("#"):
                return None, f"the reference {shown} leads out of the document"
            value = self._at(reference)
            if value is MISSING:
                return None, f"the reference {shown} leads nowhere"
        return None, f"the reference {shown} is a circle or too long a chain"

    def _at(self, reference: str) -> Any:
        if len(reference) > MAX_POINTER:
            return MISSING
        if reference not in self._found:
            value: Any = self.document
            for part in reference[1:].split("/")[1:]:
                value = _member(value, unquote(part).replace("~1", "/").replace("~0", "~"))
            self._found[reference] = value
        return self._found[reference]

    def mapping(self, value: Any, what: str, place: str) -> Document | None:
        """A mapping, or the one it refers to; where it is none, None and a note."""
        found, cause = self.follow(value)
        if isinstance(found, Mapping):
            return found
        self.notes.add(Weight.LEFT_OUT, f"{what} is left out: {cause or 'it is no mapping'}", place)
        return None

    def only(self, found: Document, known: Iterable[str], what: str, *places: str) -> None:
        """Note the members that are not among the known ones. Extensions of others are nobody's business."""
        for name in unknown(found, known):
            self.step()
            self.notes.add(Weight.LEFT_OUT, f"{quoted(name)} {what} is not known and is left out", *places)


def unknown(found: Document, known: Iterable[str]) -> Iterator[str]:
    """The members that are neither known nor somebody else's extensions."""
    names = frozenset(known)
    return (
        name
        for name in map(str, found)
        if name not in names and (not name.startswith("x-") or name.startswith(EXTENSION))
    )


def _member(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, MISSING)
    if isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 8 and int(name) < len(value):
        return value[int(name)]
    return MISSING


def mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def listing(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str | None:
    """A text, or a number or truth value as it is written in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def quoted(value: Any) -> str:
    """A name from the document, cut to what a warning has room for."""
    shown = value if isinstance(value, str) else type(value).__name__
    return f"'{shown[:QUOTED]}…'" if len(shown) > QUOTED else f"'{shown}'"


def intrinsic(value: Any) -> str | None:
    """The name of a CloudFormation intrinsic, where a value is one."""
    name = next(iter(value)) if isinstance(value, Mapping) and len(value) == 1 else None
    return name if isinstance(name, str) and (name in ("Ref", "Condition") or name.startswith("Fn::")) else None


def unreadable(cause: str) -> ApiError:
    return bad_request(f"Failed to parse the uploaded OpenAPI document due to: {cause}")


def too_large() -> ApiError:
    return unreadable("it is too large with its references written out")

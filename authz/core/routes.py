"""Path templates, compiled once and matched fast: literal before `{var}` before `{proxy+}`, verb before ANY."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from authz.core.resources import HttpMethod, Method


class Route(Struct, frozen=True, gc=False):
    """A method of an API: the template of its resource, its verb (or ANY), and whether it requires a key.

    `verb` is set where a stage has settings for one verb of a method ANY: the calls of that verb are a route apart.
    """

    resource: str
    method: str
    api_key_required: bool = True
    verb: str = ""


ANYTHING = Route("/", "ANY")

# The marks of a path when percent-encoded, up to four times over.
ENCODED: Final = (*[("%25", "%")] * 3, ("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/"), ("%3b", ";"))
DOTS: Final = re.compile(r"/\.{1,2}(?:$|[;/])")
MAX_ODD: Final = 4096  # characters of an odd path that are worth several readings
ODD: Final = re.compile(r"[;%\\]|//")
PARAMETERS: Final = tuple(re.compile(rf"(?:;|%3b)[^{slashes}]*", re.IGNORECASE) for slashes in ("/", r"/\\"))
SLASHES: Final = re.compile(r"[/\\]+")


@dataclass(slots=True)
class _Node:
    methods: dict[str, Route] = field(default_factory=dict)
    literals: dict[str, _Node] = field(default_factory=dict)
    variable: _Node | None = None
    greedy: _Node | None = None

    def child(self, segment: str) -> _Node:
        if segment.startswith("{") and segment.endswith("+}"):
            self.greedy = self.greedy or _Node()
            return self.greedy
        if segment.startswith("{") and segment.endswith("}"):
            self.variable = self.variable or _Node()
            return self.variable
        return self.literals.setdefault(segment, _Node())

    def find(self, segments: Sequence[str], verb: str, at: int = 0) -> Route | None:
        """The first match of the segments from position `at`, in order of precedence.

        If a branch lacks the verb, the next branch is tried. Segments are decoded one by one, no deeper than templates
        go: a client may send thousands of them.
        """
        if at == len(segments):
            return self.methods.get(verb) or self.methods.get("ANY")
        head = segments[at]
        literal = self.literals.get(unquote(head) if "%" in head else head)
        if literal and (found := literal.find(segments, verb, at + 1)):
            return found
        if self.variable and head and (found := self.variable.find(segments, verb, at + 1)):
            return found
        return self.greedy.find((), verb) if self.greedy and any(segments[at:]) else None


class Routes:
    """All methods of an API. An API that lists none is one method, ANY, on everything below `/`."""

    def __init__(self, resources: Mapping[str, Mapping[HttpMethod, Method]]) -> None:
        self._by_resource: dict[str, dict[str, Route]] = {
            path: {verb: Route(path, verb, method.api_key_required) for verb, method in methods.items()}
            for path, methods in resources.items()
        }
        self._root = _Node()
        for path, methods in self._by_resource.items():
            node = self._root
            for segment in segments_of(path):
                node = node.child(segment)
            node.methods.update(methods)

    def __iter__(self) -> Iterator[Route]:
        if not self._by_resource:
            yield ANYTHING
        for methods in self._by_resource.values():
            yield from methods.values()

    def match(self, path: str, verb: str) -> Route | None:
        """The route of an undecoded path without its query string.

        If only a lenient reading of the path leads to a method that requires a key, that method is the route, since a
        lenient upstream would serve it. An odd path longer than `MAX_ODD` has no route.
        """
        if not self._by_resource:
            return ANYTHING
        if not path.startswith("/"):
            return None
        found = self._root.find(segments_of(path), verb)
        if found is None or found.api_key_required or not is_odd(path):
            return found
        if len(path) > MAX_ODD:
            return None
        loose = (self._root.find(segments_of(reading), verb) for reading in readings(path))
        return next((route for route in loose if route and route.api_key_required), found)

    def named(self, resource: str, verb: str) -> Route | None:
        """The route of a resource that Envoy's configuration names by its template."""
        if not self._by_resource:
            return ANYTHING
        methods = self._by_resource.get(resource, {})
        return methods.get(verb) or methods.get("ANY")


def has_dots(path: str) -> bool:
    """True if an upstream could resolve a segment of the path as `.` or `..`.

    Envoy resolves most of these itself. It leaves `%2e%2e;`, which servlet containers resolve.
    """
    if "%" not in path and "\\" not in path:
        return "/." in path and DOTS.search(path) is not None
    plain = path.lower()
    for code, mark in ENCODED:
        plain = plain.replace(code, mark)
    return "/." in plain and DOTS.search(plain) is not None


def is_odd(path: str) -> bool:
    """True if a lenient upstream may read the path differently."""
    return ODD.search(path) is not None


def readings(path: str) -> set[str]:
    """The path as lenient upstreams may read it: with single slashes, decoded up to twice, without `;` parameters.

    Parameters are removed before, between and after decoding: the slash of one upstream is part of a parameter to
    another.
    """
    found = new = {path}
    for _ in range(3):
        new = {read for one in new for read in (unquote(one), *(form.sub("", one) for form in PARAMETERS))} - found
        found = found | new
    return {SLASHES.sub("/", one) for one in found}


def segments_of(path: str) -> list[str]:
    """`/pets/7` and `/pets/7/` are `["pets", "7"]`; `/` is `[]`; an empty segment inside stays."""
    trimmed = path[1:-1] if path.endswith("/") and len(path) > 1 else path[1:]
    return trimmed.split("/") if trimmed else []


def without(path: str, segments: int) -> str:
    """The path without its first `segments` segments; it always begins with a slash."""
    return "/" + "/".join(path[1:].split("/")[segments:]) if segments else path

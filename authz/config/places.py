"""The place of a mistake in a file: the wrong value, the line and the id of the item around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml

from authz.config.yamls import SafeLoader
from authz.core.problem import Problem, shortened

STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\['(.*?)'\]")
KIND: Final = re.compile(r", not (?:a text|a whole number|a number|true or false|nothing|a list|a mapping)(?=[:;]|$)")
GUESS: Final = re.compile(r"(?=; did you mean |$)")
SECRET: Final = re.compile(r"\.(?:value|valueSha256|redisUrl)$")
A_MAPPING: Final = "a mapping"
A_LIST: Final = "a list"
COLLECTIONS: Final = (A_MAPPING, A_LIST)
MISSING: Final = object()

Step = str | int


def located(found: Iterable[Problem], document: Any, text: str) -> Iterator[Problem]:
    """Yield the problems of a YAML text, each with the wrong value, its line and the item that it belongs to.

    A value that might be a key's is not shown: no value of the length of a key, and none in a key's place.
    """
    root = yaml.compose(text, Loader=SafeLoader)
    for problem in found:
        matches = STEP.findall(problem.address.removeprefix("$"))
        steps: list[Step] = [int(index) if index else name or key for name, index, key in matches]
        value, ids = _walked(document, steps)
        at = _nearest(root, steps)
        rule = problem.rule if SECRET.search(problem.address) else _with_value(problem.rule, _shown(value, at))
        line = at.start_mark.line + 1 if at else 1
        place = ", ".join([f"line {line}", *(f"in {one}" for one in ids[-1:] if _is_shown(one))])
        yield Problem(problem.address, f"{rule} ({place})")


def _walked(value: Any, steps: list[Step]) -> tuple[Any, list[str]]:
    """The value at the place, and the ids or names of the items above it."""
    ids: list[str] = []
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return MISSING, ids
        if isinstance(step, int) and isinstance(value, dict):
            ids += [str(value[name]) for name in ("id", "name") if isinstance(value.get(name), str | int)][:1]
    return value, ids


def _with_value(rule: str, shown: str | None) -> str:
    if not rule.startswith("expected") or shown is None:
        return rule
    if KIND.search(rule):
        return KIND.sub(lambda _: f", got {shown}", rule, count=1)
    return rule if shown in COLLECTIONS else GUESS.sub(lambda _: f", got {shown}", rule, count=1)


def _shown(value: Any, node: yaml.Node | None) -> str | None:
    """A value in words; None where it is missing, or may be a key's value."""
    if value is MISSING:
        return None
    match value:
        case None:
            return "nothing"
        case bool():
            word = str(value).lower()
            written = node.value if isinstance(node, yaml.ScalarNode) else word
            return word if written.lower() == word else f"{written}, which YAML reads as {word}"
        case str():
            return f"'{value}'" if _is_shown(value) else None
        case dict():
            return A_MAPPING
        case list():
            return A_LIST
        case _:
            return shortened(value)


def _is_shown(text: str) -> bool:
    return shortened(text) == text and text.isprintable()


def _nearest(node: yaml.Node | None, steps: list[Step]) -> yaml.Node | None:
    """The node at the place, or the nearest one above it."""
    at = node
    for step in steps:
        below = None
        if isinstance(at, yaml.SequenceNode) and isinstance(step, int) and step < len(at.value):
            below = at.value[step]
        elif isinstance(at, yaml.MappingNode):
            below = next((value for key, value in at.value if getattr(key, "value", None) == step), None)
        if below is None:
            break
        at = below
    return at

"""Puts a key into the text of a plans file, and leaves every other character as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import yaml
from msgspec.structs import replace

from authz.config.faults import ConfigError
from authz.config.file import Config, parse
from authz.config.yamls import SafeLoader
from authz.core.problem import Problem
from authz.core.resources import ApiKey

KEYS: Final = "apiKeys"
PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*( [A-Za-z0-9_-]+)*")
LINE_END: Final = re.compile(r"(?<=[\n\x85\u2028\u2029])|(?<=\r)(?!\n)")  # where YAML begins a new line
BY_HAND: Final = "the key cannot be put into this layout without changing more; add it by hand"


@dataclass(frozen=True, slots=True)
class _Insertion:
    """Text to put before a character, by its line and column from 0."""

    line: int
    column: int
    text: str


def with_key(text: str, key: ApiKey, plan: str | None, name: str) -> str:
    """The text with one more key, which is also in `plan` if one is given.

    `name` stands before each address. Raises ConfigError if the text breaks a rule, knows the key or lacks the plan,
    or has a layout that takes no insertion.
    """
    before = parse(text, name)
    if key.id in {one.id for one in before.resources.api_keys}:
        raise ConfigError([Problem(name, f"there is an API key {key.id} already")])
    plans = [one.id for one in before.resources.usage_plans]
    if plan is not None and plan not in plans:
        raise ConfigError([Problem(name, f"there is no usage plan {plan}")])
    root = yaml.compose(text, Loader=SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # or `parse` had refused it
    added = [_item(root, KEYS, _shown(key))]
    if plan is not None:
        added.append(_item(_nth(root, "usagePlans", plans.index(plan), name), "keys", _scalar(key.id)))
    after = _inserted(text, added)
    if not _differs_by(before, after, key, plan, name):
        raise ConfigError([Problem(name, BY_HAND)])
    return after


def _differs_by(before: Config, text: str, key: ApiKey, plan: str | None, name: str) -> bool:
    """True if the new text differs only by the key. Raises ConfigError if the key breaks a rule."""
    try:
        after = parse(text, name)
    except ConfigError as refused:
        if any("not valid YAML" in problem.rule for problem in refused.problems):
            return False
        raise
    plans = tuple(
        replace(one, keys=(*one.keys, key.id)) if one.id == plan else one for one in before.resources.usage_plans
    )
    keys = (*before.resources.api_keys, key)
    return (after.settings, after.resources) == (
        before.settings,
        replace(before.resources, usage_plans=plans, api_keys=keys),
    )


# --- where an item goes -------------------------------------------------------------------------------------------


def _item(mapping: yaml.MappingNode, field: str, item: str | Mapping[str, str]) -> _Insertion:
    """One more item at the end of the list that a mapping has as a field; the field too, if it is not there."""
    found = _value(mapping, field)
    if found is None:
        if mapping.flow_style:
            return _behind(mapping, f"{field}: [{_flow(item)}]")
        indent = mapping.start_mark.column
        if isinstance(item, str):
            return _below(mapping, [" " * indent + f"{field}: [{item}]"])
        return _below(mapping, [" " * indent + f"{field}:", *_block(item, indent + 2, as_block=False)])
    assert isinstance(found, yaml.SequenceNode)  # or `parse` had refused it
    if found.flow_style:
        return _behind(found, _flow(item))
    as_block = isinstance(found.value[-1], yaml.MappingNode) and not found.value[-1].flow_style
    return _below(found, _block(item, found.start_mark.column, as_block))


def _behind(parent: yaml.CollectionNode, shown: str) -> _Insertion:
    """Text after the last member of a list or mapping in brackets, or within empty brackets."""
    if not parent.value:
        return _Insertion(parent.end_mark.line, parent.end_mark.column - 1, shown)
    last = parent.value[-1]
    mark = (last[1] if isinstance(last, tuple) else last).end_mark
    return _Insertion(mark.line, mark.column, f", {shown}")


def _below(parent: yaml.CollectionNode, lines: Sequence[str]) -> _Insertion:
    """Lines below the last line of a list or mapping."""
    return _Insertion(_last_line(parent) + 1, 0, "".join(f"{line}\n" for line in lines))


def _last_line(node: yaml.Node) -> int:
    """The line on which a node's last character stands; the end mark of a block lies somewhere behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.line) - (1 if node.end_mark.column == 0 else 0)


def _block(item: str | Mapping[str, str], indent: int, as_block: bool) -> list[str]:
    """An item of a list in lines: a line for each of its fields, or one for all of them in braces."""
    margin = " " * indent
    if isinstance(item, str) or not as_block:
        return [f"{margin}- {_flow(item)}"]
    lines = [f"{name}: {value}" for name, value in item.items()]
    return [f"{margin}{'- ' if n == 0 else '  '}{line}" for n, line in enumerate(lines)]


def _flow(item: str | Mapping[str, str]) -> str:
    if isinstance(item, str):
        return item
    return "{ " + ", ".join(f"{name}: {value}" for name, value in item.items()) + " }"


def _shown(key: ApiKey) -> dict[str, str]:
    given = {
        "id": key.id,
        "name": key.name,
        "valueSha256": key.value_sha256 or "",
        "customerId": key.customer_id or "",
    }
    return {name: _scalar(value) for name, value in given.items() if value}


def _scalar(value: str) -> str:
    """A text as YAML, in quotes unless everybody would read it as this text."""
    plain = PLAIN.fullmatch(value) is not None
    known = yaml.safe_load(value) if plain else None
    return value if known == value else msgspec.json.encode(value).decode()


# --- the text -----------------------------------------------------------------------------------------------------


def _value(mapping: yaml.MappingNode, field: str) -> yaml.Node | None:
    return next((value for key, value in mapping.value if getattr(key, "value", None) == field), None)


def _nth(root: yaml.MappingNode, field: str, position: int, name: str) -> yaml.MappingNode:
    found = _value(root, field)
    if isinstance(found, yaml.SequenceNode) and isinstance(found.value[position], yaml.MappingNode):
        node: yaml.MappingNode = found.value[position]
        return node
    raise ConfigError([Problem(name, BY_HAND)])


def _inserted(text: str, added: Sequence[_Insertion]) -> str:
    """The text with all insertions. Of two in one place the later one comes first."""
    ending = next((mark for mark in ("\r\n", "\n", "\r") if mark in text), "\n")
    lines = LINE_END.split(text)
    if max(one.line for one in added) == len(lines):  # below a last line that does not end
        lines = LINE_END.split(f"{text}{ending}")
    for one in sorted(added, key=lambda one: (one.line, one.column), reverse=True):
        line = lines[one.line]
        lines[one.line] = line[: one.column] + one.text.replace("\n", ending) + line[one.column :]
    return "".join(lines)

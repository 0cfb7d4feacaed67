"""Documents that a client sends, in JSON or YAML and in any Unicode encoding, read within bounds."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec
import yaml

from authz.config.yamls import SafeLoader, TimelessLoader, written_size

MAX_DEPTH: Final = 100  # of lists and mappings within one another
MAX_NODES: Final = 400_000  # of YAML; each takes half a kilobyte while it is read
MAX_SIZE: Final = 30_000_000  # as `written_size` counts
INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
DECIMAL: Final = re.compile(r"[-+]?[0-9]{1,99}(\.[0-9]{0,99})?([eE][-+]?[0-9]{1,3})?")
STR: Final = "tag:yaml.org,2002:str"
MERGE: Final = "tag:yaml.org,2002:merge"


class DocumentError(Exception):
    """A document is neither JSON nor YAML, or it is no mapping."""


class TagError(DocumentError):
    """A YAML document has a tag that only the tools of a template know."""


class RefusedError(DocumentError):
    """A document in JSON or YAML is too deep or too large, or a key stands in it twice."""


def text_of(body: bytes) -> str:
    """The text of a body in UTF-8, UTF-16 or UTF-32, with or without a byte order mark. Raises UnicodeError."""
    return body.decode(json.detect_encoding(body)).removeprefix("\ufeff")


def read_document(body: bytes, loader: type[_Loader] | None = None) -> dict[str, Any]:
    """The mapping in a body, with texts as keys, as JSON knows it. Raises DocumentError."""
    try:
        text = text_of(body)
    except UnicodeError:
        raise DocumentError("no Unicode text") from None
    found = _json(text)
    found = _yaml(text, loader or _Loader) if found is None else found
    if not isinstance(found, dict):
        raise DocumentError(f"expected a mapping, got {type(found).__name__}")
    return found


def read_template(body: bytes) -> dict[str, Any]:
    """The mapping in a CloudFormation template. Short forms are read as long ones: `!Ref a` as {"Ref": "a"}."""
    return read_document(body, _TemplateLoader)


def as_yaml(document: dict[str, Any] | list[Any]) -> str:
    """A document of JSON values as YAML, with names in their own order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _json(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        found = msgspec.json.decode(text)
        # Only to find a key that stands twice, which msgspec does not report.
        json.loads(text, object_pairs_hook=_check_keys)
    except RecursionError:
        raise RefusedError("it is nested too deeply") from None
    except (msgspec.DecodeError, ValueError):
        return None
    if nests_deeper(found, MAX_DEPTH):
        raise RefusedError("it is nested too deeply")
    return found


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise RefusedError(f"the key '{name[:100]}' is given twice")
        names.add(name)


def nests_deeper(value: Any, depth: int) -> bool:
    """True if more than `depth` lists and mappings stand within one another."""
    level = [value]
    for _ in range(depth + 1):
        parents = [part for part in level if isinstance(part, dict | list)]
        if not parents:
            return False
        level = [part for one in parents for part in (one.values() if isinstance(one, dict) else one)]
    return True


# --- YAML ---------------------------------------------------------------------------------------------------------


class _Loader(TimelessLoader):
    """YAML as JSON knows it: keys are texts, and so are times and numbers that are not written as JSON writes them."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what `<<` names. Keys such as `on` and `no` are texts, and none stands twice."""
        names: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise DocumentError(f"{_place(key.start_mark)}: a key is no text")
            if key.tag == MERGE:
                self._count_merged(value)
                continue
            key.tag = STR
            if key.value in names:
                raise RefusedError(f"{_place(key.start_mark)}: the key '{key.value[:100]}' is given twice")
            names.add(key.value)
        if len(names) < len(node.value):
            super().flatten_mapping(node)
            # A key that wins over a merged one stands behind it.
            node.value = list({key.value: (key, value) for key, value in node.value}.values())

    def _count_merged(self, value: yaml.Node) -> None:
        """Count the pairs that are to be merged, in all of the document: a few lines could name each of many often."""
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(part, yaml.MappingNode):
                self.flatten_mapping(part)
                self._merged += len(part.value)
            if self._merged > MAX_NODES:
                raise RefusedError("it is too large with its aliases written out")

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        return int(node.value) if INTEGER.fullmatch(node.value) else node.value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        return float(node.value) if DECIMAL.fullmatch(node.value) else node.value

    def construct_undefined(self, node: yaml.Node) -> Any:
        refused = TagError if node.tag.startswith("!") else DocumentError
        raise refused(f"{_place(node.start_mark)}: the tag {node.tag[:100]}")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_constructor(None, _Loader.construct_undefined)


class _TemplateLoader(_Loader):
    """YAML with CloudFormation's tags."""

    def construct_short_form(self, name: str, node: yaml.Node) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value: Any = self.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = self.construct_sequence(node, deep=True)
        else:
            assert isinstance(node, yaml.MappingNode)
            value = self.construct_mapping(node, deep=True)
        return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_TemplateLoader.add_multi_constructor("!", _TemplateLoader.construct_short_form)


def _yaml(text: str, kind: type[_Loader]) -> Any:
    try:
        _check_bounds(text)
        loader = kind(text)
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
        if written_size(found) > MAX_SIZE:
            raise RefusedError("it is too large with its aliases written out")
        return msgspec.json.decode(msgspec.json.encode(found))
    except RecursionError:
        raise RefusedError("it is nested too deeply, or an alias stands within what it stands for") from None
    except yaml.MarkedYAMLError as fault:
        place = f"{_place(fault.problem_mark)}: " if fault.problem_mark else ""
        raise DocumentError(f"{place}{(fault.problem or 'not valid YAML')[:200]}") from None
    except (yaml.YAMLError, TypeError, ValueError) as fault:
        raise DocumentError(f"not valid YAML ({type(fault).__name__})") from None


def _check_bounds(text: str) -> None:
    """Go through the events once: libyaml's recursion would take the process down, and nodes fill the memory."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RefusedError("it is nested too deeply")
        if nodes > MAX_NODES:
            raise RefusedError(f"YAML can have {MAX_NODES:,} values here; write it as JSON")


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"

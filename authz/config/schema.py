"""The JSON schema of the plans file, with which an editor completes names and marks mistakes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final, get_args, get_origin

import msgspec

from authz.config.faults import bare_kind, choices
from authz.config.fields import FIELDS, sentence
from authz.config.settings import Settings, options
from authz.core import resources
from authz.core.bounds import MAX_QUOTAS
from authz.core.resources import Resources

NAME: Final = "plans.schema.json"
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
TITLE: Final = "Plans file"
TIME: Final = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})$"

# The loader checks settings one by one; a schema has their fields too.
_File: Final = msgspec.defstruct(
    "Resources",
    [("settings", Settings | None, None)],
    bases=(Resources,),
    frozen=True,
    forbid_unknown_fields=True,
)


def schema() -> dict[str, Any]:
    """The schema as JSON values. Of the loader's rules it has those about one value."""
    (root,), parts = msgspec.json.schema_components([_File], ref_template="#/$defs/{name}")
    for name in FIELDS:
        _describe(parts[name], getattr(resources, name), FIELDS[name])
    _describe(parts["Deployment"], resources.Deployment, {})
    plan = parts["UsagePlan"]  # it has `quota` or `quotas`, and then at most `MAX_QUOTAS`
    plan["properties"]["quotas"] |= {"minItems": 1, "maxItems": MAX_QUOTAS}
    plan["not"] = {"required": ["quota", "quotas"], "properties": {"quota": {"type": "object"}}}
    settings = parts["Settings"]["properties"]
    for option in options():
        if old := option.former:
            settings[old.name] = {**settings[option.name], "deprecated": True}
    return {"$schema": DRAFT, "title": TITLE, **_portable({**root, "$defs": parts})}


def text() -> str:
    """The schema as the text of a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(part: dict[str, Any], kind: type[msgspec.Struct], sentences: dict[str, str]) -> None:
    """Add what msgspec leaves out: each field's sentence, the names that a mapping takes, how a time is written."""
    part["description"] = sentence(kind)
    for field in msgspec.structs.fields(kind):
        shown = part["properties"][field.encode_name]
        if field.encode_name in sentences:
            shown["description"] = sentences[field.encode_name]
        _name_keys(shown, field.type)
        if bare_kind(field.type) is datetime:
            shown["anyOf"][0] |= {"format": "date-time", "pattern": TIME}


def _name_keys(shown: dict[str, Any], kind: Any) -> None:
    """List the names that a mapping takes, where it takes only certain ones."""
    if get_origin(kind) is not dict:
        return
    key, value = get_args(kind)
    if names := choices(key):
        shown["propertyNames"] = {"enum": sorted(names)}
    _name_keys(shown["additionalProperties"], value)


def _portable(part: Any) -> Any:
    """The schema with patterns as ECMAScript spells them (`\\Z` is Python's alone), and no empty `required`."""
    match part:
        case dict():
            return {name: _portable(value) for name, value in part.items() if (name, value) != ("required", [])}
        case list():
            return [_portable(value) for value in part]
        case str():
            return part.replace(r"\Z", "$")
    return part

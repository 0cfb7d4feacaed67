"""The JSON schema of the plans file: an editor that uses it marks what check-config refuses for its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from authz.config import schema
from tests.unit.config.test_file import SHAPES

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "authz" / "samples"
# Faults of YAML itself, which no schema sees; of one value beside another; and of what Python's `$` lets through.
BEYOND = frozenset(
    {
        *("comment", "two documents", "open bracket", "tab", "control character", "key given twice"),
        *("octal", "sexagesimal", "sexagesimal fraction", "hexadecimal", "endless", "alias within what it stands for"),
        *("key given twice beside a merged mapping", "long text many times over", "aliases of aliases"),
        *("customer given twice", "number as the plan of an override"),
        *("reference", "expiry that no year holds in UTC", "id with a line end", "rate that is none"),
    }
)


class Texts(yaml.SafeLoader):
    """YAML as editors hand it to a schema: times are texts."""


Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def faults(text: str) -> list[str]:
    document: Any = yaml.load(text, Loader=Texts)
    return [fault.message for fault in Draft202012Validator(schema.schema()).iter_errors(document)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema.schema())


@pytest.mark.parametrize("name", ["plans.yaml", "first.yaml"])
def test_a_sample_is_right_and_names_the_schema_for_editors(name: str) -> None:
    text = (SAMPLES / name).read_text("utf-8").replace("VALUE_SHA256", "ab" * 32)
    assert faults(text) == []
    first = text.partition("\n")[0]
    assert first == "# yaml-language-server: $schema=plans.schema.json"
    assert (SAMPLES / "plans.schema.json").read_text("utf-8") == schema.text()


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - BEYOND))
def test_a_mistake_of_shape_is_found(name: str) -> None:
    text, _ = SHAPES[name]
    assert faults(text)


def test_all_the_sections_of_a_file_may_be_there() -> None:
    text = """
settings: {replicas: 2, redisUrl: "redis://h", tlsCertFile: null}
account: {throttleSettings: {rateLimit: 1000.5, burstLimit: 2}}
apis:
  - id: a
    hosts: [{host: h, basePath: /v1, stage: s}]
    resources: {/pets: {GET: {apiKeyRequired: false}, ANY: {}}}
    stages:
      - name: s
        methodSettings: {"*/*": {throttlingRateLimit: -1}}
        gatewayResponses: {THROTTLED: {statusCode: "429"}}
usagePlans: [{id: p, name: P, quota: null, mode: shadow, failurePolicy: deny, keys: [k]}]
apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: 2030-01-31T23:59:59.5+01:00, tags: {a: b}}]
"""
    assert faults(text) == []


def test_every_field_has_a_sentence_for_people_who_hover_over_it() -> None:
    parts = schema.schema()["$defs"]
    wordless = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, shown in part.get("properties", {}).items()
        if "description" not in shown and name != "Deployment"
    ]
    assert wordless == ["Resources.settings"]

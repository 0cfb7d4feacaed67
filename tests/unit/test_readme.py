"""The README's tables say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from authz.metrics import Gathered, Metrics
from authz.settings import Option, options

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def row(option: Option) -> str:
    default = str(option.default).lower()
    return f"| `{option.name}` | `{option.variable}` | `{option.flag}` | `{default}` | {option.help} |"


def test_the_settings_are_all_there() -> None:
    missing = [row(option) for option in options() if row(option) not in README]
    assert missing == []


def test_the_metrics_are_all_there_and_no_others(tmp_path: Path) -> None:
    """A counter's name ends in _total where it is scraped."""
    named = set(re.findall(r"`(authz_\w+)`", README))
    registries = (Metrics().registry, Gathered(str(tmp_path), 1, dict).registry)
    families = [family for registry in registries for family in registry.collect()]
    assert named == {family.name + ("_total" if family.type == "counter" else "") for family in families}

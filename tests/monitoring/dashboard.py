"""The dashboard as a test reads it: its panels, and their queries with Grafana's variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from tests.monitoring.prometheus import DEPLOY

FILE: Final = DEPLOY / "grafana" / "dashboards" / "usage-plans.json"
PICTURE: Final = DEPLOY / "grafana" / "picture.py"
VARIABLE: Final = re.compile(r"\$\{?(\w+)")
# A name in PromQL that can only be a metric of ours, of Envoy's, or a recorded one; a quoted name is none.
NAME: Final = re.compile(r"(?<![\w:])(?:\w+:)?(?:authz|envoy)_\w+(?::\w+)?")
QUOTED: Final = re.compile(r'"[^"]*"')


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression names; labels of Envoy's begin as its metrics do, so they are left out first."""
    bare = re.sub(r"\b(?:by|on|without) \([^)]*\)", "", QUOTED.sub("", re.sub(r"\{[^}]*\}", "", expression)))
    return set(NAME.findall(bare))


@dataclass(frozen=True)
class Query:
    """An expression as it stands in the file; `instant` asks for the value of now, else it is over time."""

    text: str
    instant: bool

    def expression(self, **variables: str) -> str:
        """The PromQL, with `rate_interval` for `$__rate_interval` and the others by their names."""
        known = {"__rate_interval": variables["rate_interval"], **variables}
        return VARIABLE.sub(lambda found: known[found[1]], self.text)

    @property
    def metrics(self) -> set[str]:
        return metrics_of(self.text)


@dataclass(frozen=True)
class Panel:
    title: str
    queries: tuple[Query, ...]


@cache
def document() -> Any:
    return json.loads(FILE.read_text())


def panels() -> list[Panel]:
    """All that show something: rows are headings."""
    return [*map(_panel, _shown())]


def _shown() -> Iterator[Any]:
    return (panel for panel in document()["panels"] if panel["type"] != "row")


def _panel(panel: Any) -> Panel:
    return Panel(panel["title"], tuple(Query(target["expr"], target["instant"]) for target in panel["targets"]))

"""The loaders that readers of YAML share: PyYAML's, in C where its wheel has it."""

from __future__ import annotations

from typing import Final

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: ten times slower
    from yaml import SafeLoader  # type: ignore[assignment]

__all__ = ["SafeLoader", "TimelessLoader"]

TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class TimelessLoader(SafeLoader):
    """YAML whose times stay texts, as in JSON."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }

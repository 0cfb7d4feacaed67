"""The files that rivals read: limits for envoyproxy/ratelimit and limitador, a policy and its keys for OPA."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.load.inputs import value_of
from bench.measure.exact import EDGE, TIGHT, WIDE

DOMAIN: Final = "bench"
NEVER: Final = 1_000_000  # a second, more than any load reaches
BY_CALLER: Final = ("caller", "caller_method")
BY_API: Final = ("method", "account")
SECOND: Final = ("second", 1)
DAY: Final = ("day", 86_400)
LIMITS: Final[Mapping[str, tuple[int, tuple[str, int]]]] = {
    **dict.fromkeys((*BY_CALLER, *BY_API), (NEVER, SECOND)),
    "wide": (WIDE, DAY),
    "tight": (TIGHT, DAY),
    "edge": (EDGE, SECOND),
}
"""The most calls and the period of each descriptor's values. The first four are the load's, in their order there."""

# Where each descriptor stands in a request: limitador goes by the place.
PLACES: Final = {**{key: at for at, key in enumerate((*BY_CALLER, *BY_API))}, "wide": 0, "tight": 1, "edge": 0}

POLICY: Final = """package bench.authz

default allow := false

allow if data.keys[input.attributes.request.http.headers["x-api-key"]]
"""


def write(directory: Path, keys: int) -> list[Path]:
    """Write each rival's files below the directory; return their paths."""
    return [_written(directory / name, text) for name, text in _texts(keys)]


def _texts(keys: int) -> Iterator[tuple[str, str]]:
    # JSON is YAML.
    yield "ratelimit/config/bench.yaml", json.dumps(ratelimit(), indent=1)
    yield "limitador.yaml", json.dumps(limitador(), indent=1)
    yield "opa/policy.rego", POLICY
    yield "opa/keys.json", json.dumps({"keys": {value_of(n): True for n in range(keys)}})


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ratelimit() -> dict[str, Any]:
    """The limits as envoyproxy/ratelimit reads them."""
    return {
        "domain": DOMAIN,
        "descriptors": [
            {"key": key, "rate_limit": {"unit": unit, "requests_per_unit": most}}
            for key, (most, (unit, _)) in LIMITS.items()
        ],
    }


def limitador() -> list[dict[str, Any]]:
    """The limits as limitador reads them."""
    return [
        {
            "namespace": DOMAIN,
            "max_value": most,
            "seconds": seconds,
            "conditions": [],
            "variables": [f"descriptors[{PLACES[key]}].{key}"],
        }
        for key, (most, (_, seconds)) in LIMITS.items()
    ]

"""The keys under which plans and stages name a method, read as (resource path, METHOD)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TypeVar, get_args

from authz.core.resources import HttpMethod

T = TypeVar("T")

ANY: Final = "ANY"
WILDCARD: Final = "*"
HTTP_METHODS: Final[frozenset[str]] = frozenset(get_args(HttpMethod))


def method_of(key: str) -> tuple[str, str]:
    """Read a key of a plan's `apiStages[].throttle` or of a stage's `methodSettings`.

    Plans write `/pets/{id}/GET`, `//GET` for the root, `/pets/*`, `/*/*`; stages `pets/GET`, `~1pets~1{id}/GET`,
    `~1/GET`, `*/*`. Both are read in every spelling: AWS splits at the last slash, `~1` stands for a slash, and the
    path's first slash may be left out. The path is `*` where the key speaks of the whole stage.
    Raises ValueError with AWS's text.
    """
    written, _, method = key.rpartition("/") if "/" in key else (key, "", "")
    path = "/" + written.replace("~1", "/").removeprefix("/")
    if method not in HTTP_METHODS | {WILDCARD} or (path != "/" and "" in path.split("/")[1:]):
        raise no_method(written, method)
    if path != "/*":
        return path, method
    if method != WILDCARD:
        raise ValueError(f"expected */*: the path * has no method {method} of its own")
    return WILDCARD, WILDCARD


def by_method(settings: Mapping[str, T]) -> dict[tuple[str, str], T]:
    """The entries by path and method. A key that names no method acts on no call, and is left out."""
    found = {}
    for key, setting in settings.items():
        with suppress(ValueError):
            found[method_of(key)] = setting
    return found


def most_specific(settings: Mapping[tuple[str, str], T], resource: str, method: str) -> T | None:
    """The entry that holds for a method: its own, else its resource's wildcard, else the stage's."""
    for name in ((resource, method), (resource, WILDCARD), (WILDCARD, WILDCARD)):
        if name in settings:
            return settings[name]
    return None


def no_method(path: str, method: str) -> ValueError:
    """The refusal of a key that names no method, in AWS's words."""
    return ValueError(f"Invalid method {{resourcePath: {path},method: {method}}} specified")

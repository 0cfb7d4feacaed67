"""The keys under which plans and stages name a method, read as (resource path, METHOD)."""

from __future__ import annotations

from typing import Final, get_args

from authz.core.resources import HttpMethod

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


def no_method(path: str, method: str) -> ValueError:
    """The refusal of a key that names no method, in AWS's words."""
    return ValueError(f"Invalid method {{resourcePath: {path},method: {method}}} specified")

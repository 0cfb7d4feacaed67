"""The keys that name methods, as plans and stages spell them."""

from __future__ import annotations

import pytest

from authz.core.methods import method_of


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("/pets/GET", ("/pets", "GET")),
        ("/pets/{id}/GET", ("/pets/{id}", "GET")),
        ("pets/GET", ("/pets", "GET")),
        ("~1pets~1{id}/GET", ("/pets/{id}", "GET")),
        ("//GET", ("/", "GET")),
        ("/GET", ("/", "GET")),
        ("~1/GET", ("/", "GET")),
        ("/any/ANY", ("/any", "ANY")),
        ("/pets/*", ("/pets", "*")),
        ("path/*", ("/path", "*")),
        ("/files/{proxy+}/GET", ("/files/{proxy+}", "GET")),
        ("*/*", ("*", "*")),
        ("/*/*", ("*", "*")),
    ],
)
def test_plans_and_stages_read_every_spelling_of_a_method(key: str, method: tuple[str, str]) -> None:
    assert method_of(key) == method


@pytest.mark.parametrize(
    ("key", "path", "method"),
    [
        ("badkey", "badkey", ""),
        ("GET", "GET", ""),
        ("", "", ""),
        ("/", "", ""),
        ("/pets/get", "/pets", "get"),
        ("/pets/FETCH", "/pets", "FETCH"),
        ("//pets/GET", "//pets", "GET"),
        ("/pets//GET", "/pets/", "GET"),
    ],
)
def test_a_malformed_key_is_refused_in_the_words_of_aws(key: str, path: str, method: str) -> None:
    with pytest.raises(ValueError, match="Invalid method") as refused:
        method_of(key)
    assert str(refused.value) == f"Invalid method {{resourcePath: {path},method: {method}}} specified"


def test_the_path_wildcard_takes_no_single_method() -> None:
    """`*/GET` has no meaning at AWS: the whole stage is `*/*`, and a method has a path."""
    with pytest.raises(ValueError, match=r"expected \*/\*"):
        method_of("*/GET")

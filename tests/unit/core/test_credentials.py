"""A key is found in its sources, and stripped so that it never reaches the upstream."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.core.credentials import Credentials, Strip, lookalikes
from authz.core.request import Request
from authz.core.resources import AuthorizerSource, KeySource
from tests.support.builders import api

HEADER = KeySource(header="X-Api-Key")
BEARER = KeySource(header="Authorization", scheme="Bearer")
QUERY = KeySource(query="api_key")
COOKIE = KeySource(cookie="key")
EVERYWHERE = (HEADER, BEARER, QUERY, COOKIE)


def credentials(*sources: KeySource, **changes: Any) -> Credentials:
    return Credentials.of(api(key_sources=sources or EVERYWHERE, **changes))


def request(path: str = "/", metadata: dict[str, Any] | None = None, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "a1", path, named, metadata=metadata or {})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (request(), None),
        (request(x_api_key="K"), "K"),
        (request(x_api_key=""), None),
        (request(x_api_key="K,L"), "K,L"),
        (request(authorization="Bearer K"), "K"),
        (request(authorization="bearer   K "), "K"),
        (request(authorization="Basic K"), None),
        (request(authorization="Bearer"), None),
        (request(authorization="BearerK"), None),
        (request("/?api_key=K"), "K"),
        (request("/?a=1&api_key=K%2D1&b"), "K-1"),
        (request("/?api_key="), None),
        (request("/?API_KEY=K"), None),
        (request("/?api%5Fkey=K"), None),
        (request("/?api_key=K&api_key=L"), "K,L"),
        (request(cookie="a=1; key=K; b=2"), "K"),
        (request(cookie="a=1,key=K"), "K"),
        (request(cookie="key=K; key=L"), "K,L"),
        (request(cookie="keys=K"), None),
        (request("/?api_key=Q", cookie="key=C"), "Q"),
        (request("/?api_key=Q", x_api_key="H", authorization="Bearer B", cookie="key=C"), "H"),
        (request("/?api_key=Q", x_api_key="", authorization="Basic B"), "Q"),
    ],
)
def test_the_first_source_that_is_present_and_not_empty_wins(asked: Request, found: str | None) -> None:
    """A key given twice is joined by a comma, which no key contains."""
    assert credentials().find(asked) == found


@pytest.mark.parametrize(
    ("asked", "strip"),
    [
        (request(), Strip()),
        (request("/?a=1&api_key=K"), Strip((), "/?a=1")),
        (request("/?api_key=K"), Strip((), "/")),
        (request("/x?wsdl&api_key=K"), Strip((), "/x?wsdl")),
        (request("/x?time[0:1:0]&api_key=K&&c=%2F+;"), Strip((), "/x?time[0:1:0]&&c=%2F+;")),
        (request("/x?b=2&api_key=K&a=1&api_key=L"), Strip((), "/x?b=2&a=1")),
        (request("/x?api_key=&a"), Strip((), "/x?a")),
        (request("/x?a?api_key=K&api_key"), Strip()),
        (request("/?an_api_key=K&api_keys=L"), Strip()),
        (request(cookie='key=K; a={"x":1,"y":2}'), Strip((), None, 'a={"x":1,"y":2}')),
        (request(x_api_key="K"), Strip(("x-api-key",))),
        (request(x_api_key=""), Strip(("x-api-key",))),
        (request(authorization="Bearer K"), Strip(("authorization",))),
        (request(authorization="Basic K"), Strip(())),
        (request(authorization="Basic K,Bearer L"), Strip(("authorization",))),
        (request(cookie="a=1; key=K; b=2"), Strip((), None, "a=1; b=2")),
        (request(cookie="key=K"), Strip((), None, "")),
        (request(cookie="a=1,2; b=3"), Strip((), None, None)),
        (request(cookie="a=é\xa0; key=K"), Strip((), None, "a=é\xa0")),
        (
            request(x_api_key="K", authorization="Bearer B", cookie="key=C;z=1"),
            Strip(("x-api-key", "authorization"), None, "z=1"),
        ),
    ],
)
def test_whatever_could_be_a_key_is_stripped(asked: Request, strip: Strip) -> None:
    """All sources are stripped, used or not. A cookie header without the named pair stays as it is."""
    assert credentials().strip(asked) == strip


@given(st.text(st.characters(exclude_characters=",; \t", exclude_categories=["Cs"])))
def test_other_cookies_keep_their_bytes(value: str) -> None:
    """Envoy passes bytes that are not UTF-8 only with `encode_raw_headers`."""
    raw = f"a={value};key=K; b={value}".encode()
    asked = replace(request(cookie=raw.decode()), raw_cookie=raw)
    assert credentials().find(asked) == "K"
    assert credentials().strip(asked).cookie == f"a={value}; b={value}"


def test_a_cookie_that_is_not_utf_8_is_dropped_and_not_changed() -> None:
    """Envoy does not accept such bytes in an answer."""
    raw = b"a=\xff\xfe; key=K; b=2"
    asked = replace(request(cookie=raw.decode("utf-8", "replace")), raw_cookie=raw)
    assert credentials().strip(asked).cookie == "b=2"
    untouched = replace(request(cookie="a=\ufffd"), raw_cookie=b"a=\xff")
    assert credentials().strip(untouched).cookie is None


def test_a_key_is_forwarded_only_on_request() -> None:
    asked = request("/?api_key=K", x_api_key="K", cookie="key=K")
    assert credentials(forward_api_key=True).strip(asked) == Strip()


JWT = "envoy.filters.http.jwt_authn"


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({JWT: {"jwt_payload": {"api_key": "K"}}}, "K"),
        ({JWT: {"jwt_payload": {"api_key": 7}}}, None),
        ({JWT: {"jwt_payload": {"api_key": ["K"]}}}, None),
        ({JWT: {"jwt_payload": "K"}}, None),
        ({JWT: {}}, None),
        ({}, None),
    ],
)
def test_an_authorizers_key_replaces_the_clients(metadata: dict[str, Any], found: str | None) -> None:
    asked = request("/?api_key=Q", metadata, x_api_key="H")
    assert credentials(api_key_source="AUTHORIZER").find(asked) == found


def test_where_the_authorizer_leaves_the_key_is_configurable() -> None:
    source = AuthorizerSource("my.filter", ("caller",))
    found = credentials(api_key_source="AUTHORIZER", authorizer=source)
    assert found.find(request(metadata={"my.filter": {"caller": "K"}})) == "K"


def test_with_an_authorizer_the_clients_own_key_is_stripped_too() -> None:
    assert credentials(HEADER, api_key_source="AUTHORIZER").strip(request(x_api_key="K")).headers == ("x-api-key",)


IDENTITY = ("x-api-key-id", "x-usage-plan-id", "x-usage-plan-name", "x-customer-id")


@pytest.mark.parametrize("mark", ["_", ".", "~", "!", "--", "-_", "_-."])
@pytest.mark.parametrize("name", IDENTITY)
def test_a_name_is_known_in_every_spelling_that_an_upstream_folds(name: str, mark: str) -> None:
    """All separators are replaced, or any one of them."""
    first, *rest = name.split("-")
    spelt = [name.replace("-", mark), f"{first}{mark}{'-'.join(rest)}", f"{name.rpartition('-')[0]}{mark}{rest[-1]}"]
    assert lookalikes(spelt) == spelt


def test_other_names_are_left_alone() -> None:
    """Our own names in their exact spelling are no look-alikes: every answer removes or replaces them."""
    others = (
        "x-api-key",
        "x_api_key",
        "xapikeyid",
        "x-api-keyid",
        "x-usage-plan",
        "my-x_api_key_id",
        "x_api_key_ids",
        "",
    )
    assert lookalikes((*IDENTITY, *others)) == []


@pytest.mark.parametrize(("sent", "stripped"), [("Bearer K", True), ("Basic K", False)])
def test_a_header_with_a_scheme_is_stripped_only_with_that_scheme(sent: str, stripped: bool) -> None:
    """Also where it is the only source, whose strip is prepared."""
    strip = credentials(BEARER).strip(request(authorization=sent))
    assert ("authorization" in strip.headers) is stripped

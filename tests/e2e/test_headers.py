"""What reaches the upstream, and what does not: names that it may trust, and no key."""

from __future__ import annotations

import re

import pytest

from tests.e2e.stack import WRONG, Stack
from tests.support.builders import value_of

KEY = value_of("free")
NAMES = ("x-api-key-id", "x-usage-plan-id", "x-usage-plan-name", "x-customer-id")
UNCHECKED = "x-envoy-auth-failure-mode-allowed"
SPOOFED = [
    (name, value)
    for name in (*NAMES, UNCHECKED)
    for name, value in ((name, "spoofed"), (name.title(), "spoofed too"), (name.upper(), ""))
]


def test_the_upstream_gets_the_caller_in_headers(shared: Stack) -> None:
    seen = shared.get("/prod/pets", "customer").upstream
    assert [seen[name] for name in NAMES] == ["customer", "free", "The plan free", "cust-1001"]


def test_a_caller_without_a_customer_has_none(shared: Stack) -> None:
    assert "x-customer-id" not in shared.get("/prod/pets", "free").upstream


def test_a_clients_own_names_are_replaced(shared: Stack) -> None:
    """However they are spelt, and however often they are sent."""
    seen = shared.get("/prod/pets", "customer", headers=SPOOFED).upstream
    assert [seen[name] for name in NAMES] == ["customer", "free", "The plan free", "cust-1001"]
    assert UNCHECKED not in seen


@pytest.mark.parametrize(("path", "key"), [("/prod/pets", "free"), ("/prod/open", ""), ("/prod/open", "customer")])
def test_a_clients_own_names_never_stand_in_for_missing_ones(path: str, key: str, shared: Stack) -> None:
    """Neither for a caller without a customer nor on a keyless method, even if a key is sent."""
    seen = shared.get(path, key, headers=SPOOFED).upstream
    assert "spoofed" not in str(seen)
    assert not {"x-customer-id", UNCHECKED} & set(seen)


MARKS = "_.~!#$%&'*+^`|"  # beside the hyphen: whatever may stand in a header's name and is no letter or digit
MANGLED = [
    *(name.replace("-", mark) for name in (*NAMES, UNCHECKED) for mark in (*MARKS, "--", "-_", "_.", "..")),
    *(name.replace("-", mark, 1) for name in NAMES for mark in "_."),
    *(mark.join(name.rsplit("-", 1)) for name in NAMES for mark in "_."),
    *("X.Usage_Plan-Id", "X_API.KEY_ID", "x-usage.plan_NAME", "X+Customer-ID"),
]


def variable(name: str) -> str:
    """What CGI makes of a header's name; PHP and some servers fold more than hyphens."""
    return "HTTP_" + re.sub("[^A-Z0-9]+", "_", name.upper())


@pytest.mark.parametrize(
    ("host", "path", "key"),
    [
        ("a1.test", "/prod/pets", "customer"),
        ("a1.test", "/prod/pets", "free"),
        ("a1.test", "/prod/open", ""),
        ("a1.test", "/prod/open", "customer"),
        ("generous.test", "/prod/open", ""),
        ("rpc.test", "/pets.v1.Pets/List", "free"),
    ],
)
def test_no_spelling_of_our_names_passes_for_them(
    host: str, path: str, key: str, shared: Stack, text_headers: Stack
) -> None:
    """As CGI, WSGI and PHP read headers, each name is ours or is not there; also where Envoy sends headers as text."""
    ours = {variable(name) for name in (*NAMES, UNCHECKED)}
    assert {variable(name) for name in MANGLED} == ours
    for it in (shared, text_headers):
        for batch in (MANGLED[::2], MANGLED[1::2]):  # Envoy takes no more than a hundred headers
            seen = it.get(path, key, host=host, headers=[(name, "spoofed") for name in batch]).upstream
            assert "spoofed" not in str(seen)
            assert {name for name in seen if variable(name) in ours} <= {*NAMES}


def test_a_name_with_a_blank_is_no_header(shared: Stack) -> None:
    for name in ("x usage plan id", "x-usage-plan-id ", " x-usage-plan-id", "x\tusage\tplan\tid"):
        answer = shared.raw("/prod/open", "Host: a1.test", "a: b", f"{name}: spoofed")
        assert answer.status == 400 or "x-usage-plan-id" not in answer.upstream


def test_another_header_with_dots_is_left_alone(shared: Stack) -> None:
    seen = shared.get("/prod/open", headers=[("x.request.id", "7"), ("x.api.key", "8")]).upstream
    assert (seen["x.request.id"], seen["x.api.key"]) == ("7", "8")


@pytest.mark.parametrize("name", ["x-api-key", "X-API-KEY", "X-Api-Key"])
@pytest.mark.parametrize("path", ["/prod/pets", "/prod/open"])
def test_the_key_is_taken_off(path: str, name: str, shared: Stack) -> None:
    answer = shared.raw(path, "Host: a1.test", f"{name}: {KEY}")
    assert (answer.status, KEY in answer.body) == (200, False)


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("a1.test", [("x-api-key", KEY), ("X-API-KEY", KEY)]),
        ("many.test", [("authorization", f"Bearer {KEY}")]),
        ("many.test", [("authorization", f"bearer  {KEY}")]),
        ("many.test", [("authorization", f"Bearer\t{KEY}")]),
        ("many.test", [("authorization", "Basic dTpw"), ("authorization", f"Bearer {KEY}")]),
        ("many.test", [("authorization", f"Bearer {KEY}"), ("authorization", "Basic dTpw")]),
        ("many.test", [("cookie", f"key={KEY}"), ("cookie", f"key={KEY}")]),
        ("many.test", [("cookie", f"a=1; key={KEY}"), ("cookie", f"key={KEY}; b=2")]),
        ("many.test", [("cookie", f"a=1;key = {KEY}")]),
    ],
)
def test_a_key_is_removed_on_a_keyless_method(host: str, headers: list[tuple[str, str]], shared: Stack) -> None:
    """Everything that could be one, also where it is repeated, or odd."""
    answer = shared.get("/prod/open", host=host, headers=headers)
    assert (answer.status, KEY in answer.body) == (200, False)


def test_a_bearer_key_opens_and_is_taken_off(shared: Stack) -> None:
    answer = shared.get("/prod/pets", host="many.test", headers=[("authorization", f"Bearer {KEY}")])
    assert (answer.status, "authorization" in answer.upstream) == (200, False)


def test_another_scheme_is_left_alone(shared: Stack) -> None:
    answer = shared.get("/prod/pets", "free", host="many.test", headers=[("authorization", "Basic dTpw")])
    assert (answer.status, answer.upstream["authorization"]) == (200, "Basic dTpw")


@pytest.mark.parametrize("path", ["/prod/pets", "/prod/open"])
def test_of_the_cookies_only_the_key_is_taken_off(path: str, shared: Stack) -> None:
    answer = shared.get(path, host="many.test", headers=[("cookie", f"a=1; key={KEY}; keyring=2")])
    assert (answer.status, answer.upstream["cookie"]) == (200, "a=1; keyring=2")


def test_a_cookie_that_is_only_the_key_is_taken_off_whole(shared: Stack) -> None:
    answer = shared.get("/prod/pets", host="many.test", headers=[("cookie", f"key={KEY}")])
    assert (answer.status, "cookie" in answer.upstream) == (200, False)


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (f"/prod/pets?api_key={KEY}", "/prod/pets"),
        (f"/prod/pets?a=1&api_key={KEY}&b=%2F+2", "/prod/pets?a=1&b=%2F+2"),
        (f"/prod/open?api_key={KEY}&api_key={KEY}&api_keys=1", "/prod/open?api_keys=1"),
        (f"/prod/pets?wsdl&api_key={KEY}", "/prod/pets?wsdl"),
        (f"/prod/pets?time[0:1:0]&api_key={KEY}", "/prod/pets?time[0:1:0]"),
        (f"/prod/pets?b=2&api_key={KEY}&a=1", "/prod/pets?b=2&a=1"),
        (f"/prod/pets?b=%7e+%20&&c;d&api_key={KEY}&=&e=f=g?/../", "/prod/pets?b=%7e+%20&&c;d&=&e=f=g?/../"),
        (f"/prod//pets/?{'a=1&' * 500}api_key={KEY}", f"/prod/pets/?{'a=1&' * 499}a=1"),
    ],
)
def test_a_key_in_the_query_is_taken_off(sent: str, left: str, shared: Stack) -> None:
    answer = shared.raw(sent, "Host: many.test")
    assert (answer.status, answer.path) == (200, left)


def test_a_query_without_a_key_stays_as_it_is(shared: Stack) -> None:
    answer = shared.raw("/prod/pets?b=2&a=1&&c", "Host: many.test", f"x-api-key: {KEY}")
    assert (answer.status, answer.path) == (200, "/prod/pets?b=2&a=1&&c")


def test_a_connection_header_takes_nothing_of_ours_along(shared: Stack) -> None:
    """A client cannot declare our headers a matter of its own connection."""
    answer = shared.raw("/prod/pets", "Host: a1.test", f"x-api-key: {KEY}", f"Connection: {', '.join(NAMES)}")
    assert (answer.status, answer.upstream["x-api-key-id"]) == (200, "free")


def test_every_place_is_cleared_whichever_was_used(shared: Stack) -> None:
    answer = shared.get(
        f"/prod/pets?api_key={WRONG}",
        "free",
        host="many.test",
        headers=[("authorization", f"Bearer {WRONG}"), ("cookie", f"key={WRONG}")],
    )
    assert (answer.status, WRONG in answer.body, KEY in answer.body) == (200, False, False)


def test_the_first_place_that_is_present_counts(shared: Stack) -> None:
    wrong_first = shared.get(f"/prod/pets?api_key={KEY}", host="many.test", headers=[("x-api-key", WRONG)])
    empty_first = shared.get(f"/prod/pets?api_key={KEY}", host="many.test", headers=[("x-api-key", "")])
    assert (wrong_first.status, empty_first.status) == (403, 200)


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", KEY), ("x-api-key", KEY)],
        [("x-api-key", KEY), ("x-api-key", WRONG)],
        [("x-api-key", ""), ("x-api-key", KEY)],
        [("x-api-key", f"{KEY},")],
        [("x-api-key", f"{KEY}, {WRONG}")],
        [("x-api-key", "")],
        [("x-api-key", KEY.upper())],
        [("x-api-key", KEY.encode() + b"\xff\xfe")],
        [("x-api-key", b"\xff\xfe")],
        [("x-api-key", KEY * 300)],
        [("x_api_key", KEY)],
        [("authorization", f"Bearer {KEY}")],
    ],
    ids=[
        "twice", "two", "after an empty one", "comma", "list", "empty", "upper case", "not UTF-8 in part", "not UTF-8",
        "long", "underscores", "another place",
    ],
)  # fmt: skip
def test_an_odd_key_is_no_key(headers: list[tuple[str, str | bytes]], shared: Stack, text_headers: Stack) -> None:
    """Whether Envoy sends headers as text or as bytes."""
    answers = [it.get("/prod/pets", headers=headers) for it in (shared, text_headers)]
    assert [answer.refusal for answer in answers] == [(403, '{"message":"Forbidden"}')] * 2


def test_blanks_around_a_key_are_no_part_of_it(shared: Stack, text_headers: Stack) -> None:
    answers = [it.raw("/prod/pets", "Host: a1.test", f"x-api-key: \t {KEY} \t") for it in (shared, text_headers)]
    assert [answer.status for answer in answers] == [200, 200]


def test_headers_sent_as_text_are_stripped_and_set_alike(text_headers: Stack) -> None:
    """Without Envoy's `encode_text_headers`."""
    seen = text_headers.get("/prod/pets", "customer", headers=SPOOFED).upstream
    assert [seen[name] for name in NAMES] == ["customer", "free", "The plan free", "cust-1001"]
    assert not {"x-api-key", UNCHECKED} & set(seen)


def test_other_cookies_reach_the_upstream_byte_for_byte_or_not_at_all(shared: Stack) -> None:
    """Envoy takes no bytes from authz that are not UTF-8, so a cookie with such bytes is dropped beside a key."""
    sent = b"a=\xff\xfe; key=%b; b=\xc3\xa9!" % KEY.encode()
    answer = shared.get("/prod/pets", host="many.test", headers=[("cookie", sent)])
    assert (answer.status, answer.upstream["cookie"].encode("latin-1")) == (200, b"b=\xc3\xa9!")
    alone = shared.get("/prod/pets", "free", host="many.test", headers=[("cookie", b"a=\xff\xfe")])
    assert (alone.status, alone.upstream["cookie"].encode("latin-1")) == (200, b"a=\xff\xfe")


def test_cookies_sent_as_text_are_stripped_alike(text_headers: Stack) -> None:
    cookies = [("cookie", "a=1"), ("cookie", f"key={KEY}; b=2")]
    answer = text_headers.get("/prod/pets", host="many.test", headers=cookies)
    assert (answer.status, answer.upstream["cookie"]) == (200, "a=1; b=2")


@pytest.mark.parametrize("path", ["/prod/pets", "/prod/open"])
def test_an_api_may_have_the_key_forwarded(path: str, shared: Stack) -> None:
    answer = shared.get(path, "free", host="generous.test", headers=SPOOFED)
    shared.seen.pop()  # the one answer that may hold a key: the upstream repeats its request
    assert (answer.status, answer.upstream["x-api-key"]) == (200, KEY)
    assert "spoofed" not in answer.body

"""Path templates: the most specific one that has the verb wins."""

from __future__ import annotations

import pytest

from authz.core.resources import HttpMethod, Method
from authz.core.routes import ANYTHING, Route, Routes, has_dots

GET: dict[HttpMethod, Method] = {"GET": Method()}
POST: dict[HttpMethod, Method] = {"POST": Method()}
ANY: dict[HttpMethod, Method] = {"ANY": Method()}
BOTH: dict[HttpMethod, Method] = {"GET": Method(api_key_required=False), "ANY": Method()}

ROUTES = Routes(
    {
        "/": GET,
        "/pets": GET,
        "/pets/mine": POST,
        "/pets/{id}": GET,
        "/pets/{id}/toys/{toy}": GET,
        "/pets/mine/toys/ball": POST,
        "/files/{proxy+}": GET,
        "/both": BOTH,
        "/any": ANY,
        "/{other+}": POST,
    }
)


@pytest.mark.parametrize(
    ("path", "verb", "resource"),
    [
        ("/", "GET", "/"),
        ("/pets", "GET", "/pets"),
        ("/pets/", "GET", "/pets"),
        ("/pets/mine", "POST", "/pets/mine"),
        ("/pets/mine", "GET", "/pets/{id}"),
        ("/pets/7", "POST", "/{other+}"),
        ("/pets/mine/toys/ball", "GET", "/pets/{id}/toys/{toy}"),
        ("/pets/m%69ne", "POST", "/pets/mine"),
        ("/pets/a%2Fb", "GET", "/pets/{id}"),
        ("/files/a", "GET", "/files/{proxy+}"),
        ("/files/a/b/c", "GET", "/files/{proxy+}"),
        ("/files/a//b", "GET", "/files/{proxy+}"),
        ("/anything/else", "POST", "/{other+}"),
        ("/", "POST", None),
        ("/Pets", "GET", None),
        ("/pets//", "GET", None),
        ("//pets", "GET", None),
        ("/files", "GET", None),
        ("/files/", "GET", None),
        ("/files//", "GET", None),
        ("/pets/7/toys", "GET", None),
        ("/pets", "HEAD", None),
        ("pets", "GET", None),
        ("*", "OPTIONS", None),
    ],
)
def test_the_most_specific_template_with_the_verb_wins(path: str, verb: str, resource: str | None) -> None:
    found = ROUTES.match(path, verb)
    assert (found and found.resource) == resource


@pytest.mark.parametrize("verb", ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "PURGE"])
def test_any_takes_every_verb(verb: str) -> None:
    assert ROUTES.match("/any", verb) == Route("/any", "ANY")


def test_a_verb_of_its_own_goes_before_any() -> None:
    assert ROUTES.match("/both", "GET") == Route("/both", "GET", api_key_required=False)
    assert ROUTES.match("/both", "PUT") == Route("/both", "ANY")


@pytest.mark.parametrize("path", ["/", "/pets", "/a//b", "*"])
def test_an_api_without_methods_is_one_that_needs_a_key(path: str) -> None:
    """No caller can invent buckets."""
    routes = Routes({})
    assert routes.match(path, "GET") is routes.named("/x", "PUT") is ANYTHING
    assert list(routes) == [Route("/", "ANY", api_key_required=True)]


def test_a_named_resource_is_not_matched() -> None:
    """The context extension `resource` is a template, not a path."""
    assert ROUTES.named("/pets/{id}", "GET") == Route("/pets/{id}", "GET")
    assert ROUTES.named("/any", "GET") == Route("/any", "ANY")
    assert ROUTES.named("/pets/7", "GET") is None
    assert ROUTES.named("/pets", "POST") is None


def test_all_methods_are_listed() -> None:
    assert [(route.resource, route.method) for route in Routes({"/both": BOTH, "/pets": GET})] == [
        ("/both", "GET"),
        ("/both", "ANY"),
        ("/pets", "GET"),
    ]


def test_a_deep_path_costs_no_stack() -> None:
    assert ROUTES.match("/files" + "/a" * 50_000, "GET") == Route("/files/{proxy+}", "GET")


DOTTED = (
    *("/.", "/..", "/./", "/../", "/a/..", "/a/../b", "/..;", "/..;/", "/..;x=1/b", "/a/.;/b", "/a/.;x", "/..;/..;/b"),
    *("/%2e%2e", "/%2E%2e;/b", "/.%2e;/b", "/%2e.;x=1/b", "/%2e;/b", "/a/..%3b/b", "/a/%2e%2e%3Bx/b"),
    *("/a%2f..", "/a%2f..%2fb", "/a\\..\\b", "/a%5c..%5Cb", "/..%2f", "/..\\"),
    *("/%252e%252e", "/%25252e./b", "/a%252f..%252fb", "/a/..%253b/b"),
)
UNDOTTED = (
    "/",
    "/a",
    "/...",
    "/.a",
    "/a.",
    "/..a",
    "/a..",
    "/a;..",
    "/a;/b..",
    "/%2e%2e%2e",
    "/.well-known/x",
    "/a.b/c",
)


@pytest.mark.parametrize("path", DOTTED)
def test_a_segment_that_may_be_read_as_dots_is_found(path: str) -> None:
    """Encoded or not, several times over, before a parameter, beside any slash."""
    assert has_dots(path)


@pytest.mark.parametrize("path", UNDOTTED)
def test_other_dots_are_part_of_a_name(path: str) -> None:
    assert not has_dots(path)


def test_many_dots_and_signs_cost_little() -> None:
    """No path makes the search walk back."""
    assert not has_dots(("/" + "%25" * 20_000 + "x") + "/%2" * 20_000 + "/.x" * 20_000)


OPEN: dict[HttpMethod, Method] = {"GET": Method(api_key_required=False)}
LOOSE = Routes(
    {"/{proxy+}": OPEN, "/pets": GET, "/pets/{id}": GET, "/open": OPEN, "/open/{proxy+}": OPEN, "/open/x": GET}
)


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/pets;", "/pets"),
        ("/pets;v=1", "/pets"),
        ("/;/pets", "/pets"),
        ("/;a/;b/pets;c", "/pets"),
        ("/pets%3Bv=1", "/pets"),
        ("//pets", "/pets"),
        ("/pets//", "/pets"),
        ("/pets%2F7", "/pets/{id}"),
        ("/pets\\7", "/pets/{id}"),
        ("/pets;/7;", "/pets/{id}"),
        ("/open/;/x", "/open/x"),
        ("/open;v/x", "/open/x"),
        ("/op%65n//%78;y", "/open/x"),
        ("/%2570ets", "/pets"),
        ("/pets;%252fx%252fy", "/pets"),
        ("/pets%253b%252fx%252fy", "/pets"),
        ("/pets;%255Cx/7", "/pets/{id}"),
    ],
)
def test_a_loose_spelling_of_a_method_with_a_key_is_that_method(path: str, resource: str) -> None:
    """Though as it stands it is one of the greedy, keyless ones."""
    found = LOOSE.match(path, "GET")
    assert found == Route(resource, "GET")


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/open;v=1", "/{proxy+}"),
        ("/a;b/c", "/{proxy+}"),
        ("/a%20b", "/{proxy+}"),
        ("/open/a//b", "/open/{proxy+}"),
        ("/open/y;x", "/open/{proxy+}"),
        ("/Pets", "/{proxy+}"),
    ],
)
def test_other_odd_spellings_are_matched_as_they_stand(path: str, resource: str) -> None:
    found = LOOSE.match(path, "GET")
    assert found == Route(resource, "GET", api_key_required=False)


@pytest.mark.parametrize("tail", [";", "%20", "//"])
def test_an_odd_path_that_is_too_long_to_read_twice_is_no_keyless_method(tail: str) -> None:
    plain = "/open/" + "a" * 10_000
    assert LOOSE.match(plain, "GET") == Route("/open/{proxy+}", "GET", api_key_required=False)
    assert LOOSE.match(plain + tail, "GET") is None
    assert Routes({"/{proxy+}": GET}).match(plain + tail, "GET") == Route("/{proxy+}", "GET")


def test_with_a_key_on_both_the_path_counts_as_it_stands() -> None:
    routes = Routes({"/{proxy+}": GET, "/pets": GET})
    assert routes.match("/pets;v=1", "GET") == Route("/{proxy+}", "GET")

"""Path templates: the most specific one that has the verb wins."""

from __future__ import annotations

import pytest

from authz.core.resources import HttpMethod, Method
from authz.core.routes import ANYTHING, Route, Routes

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
    """R5: no caller can invent buckets."""
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

"""The compiled routes against a naive matcher that tries every template."""

from __future__ import annotations

import re
from typing import get_args
from urllib.parse import quote, unquote

from hypothesis import event, example, given
from hypothesis import strategies as st

from authz.core.resources import HttpMethod, Method
from authz.core.routes import Routes

LITERAL, VARIABLE, GREEDY = range(3)

literals = st.sampled_from(("a", "b", "pets", "c d"))
templates = st.builds(
    lambda middle, last: "/" + "/".join([*middle, *last]),
    st.lists(literals | st.just("{v}"), max_size=3),
    st.lists(st.just("{v+}"), max_size=1),
)
verbs: st.SearchStrategy[HttpMethod] = st.sampled_from(("GET", "POST", "HEAD", "ANY"))
apis = st.dictionaries(
    templates, st.dictionaries(verbs, st.just(Method()), min_size=1, max_size=2), min_size=1, max_size=7
)
segments = literals | st.sampled_from(("x", "7", "", "{v}"))
paths = st.builds(
    lambda parts, slash: "/" + "/".join(quote(part) for part in parts) + slash,
    st.lists(segments, max_size=4),
    st.sampled_from(("", "", "/")),
)


def _kinds(template: str, path: str) -> tuple[int, ...] | None:
    """How each segment of a template matches the path, best first; None if one does not."""
    wanted, given_ = template.strip("/").split("/"), path[1:].removesuffix("/").split("/")
    wanted, given_ = [s for s in wanted if s], given_ if given_ != [""] else []
    kinds: list[int] = []
    for at, segment in enumerate(wanted):
        if segment == "{v+}":
            return (*kinds, GREEDY) if any(given_[at:]) else None
        if at >= len(given_):
            return None
        if segment == "{v}":
            if not given_[at]:
                return None
            kinds.append(VARIABLE)
        elif segment == unquote(given_[at]):
            kinds.append(LITERAL)
        else:
            return None
    return tuple(kinds) if len(wanted) == len(given_) else None


def _naive(api: dict[str, dict[HttpMethod, Method]], path: str, verb: str) -> tuple[str, str] | None:
    """Of all templates that match and have the verb or ANY, the one whose segments are the most specific."""
    found = []
    for template, methods in api.items():
        kinds = _kinds(template, path)
        method = next((name for name in (verb, "ANY") if name in methods), None)
        if kinds is not None and method:
            found.append((kinds, template, method))
    return min(found)[1:] if found else None


@given(apis, paths, st.sampled_from(("GET", "POST", "HEAD", "DELETE")))
@example({"/a/b": {"POST": Method()}, "/{v}/b": {"GET": Method()}}, "/a/b", "GET")
@example({"/a/{v}": {"GET": Method()}, "/a/b/{v+}": {"GET": Method()}}, "/a/b", "GET")
@example({"/{v+}": {"GET": Method()}}, "/", "GET")
def test_the_most_specific_method_wins(api: dict[str, dict[HttpMethod, Method]], path: str, verb: str) -> None:
    """Literal before {v} before {v+}, segment by segment; a branch that lacks the verb is left for the next."""
    route = Routes(api).match(path, verb)
    event("matched" if route else "nothing")
    assert (route and (route.resource, route.method)) == _naive(api, path, verb)


@given(apis)
def test_each_method_is_iterated_once(api: dict[str, dict[HttpMethod, Method]]) -> None:
    routes = [(route.resource, route.method) for route in Routes(api)]
    assert sorted(routes) == sorted((path, verb) for path, verbs in api.items() for verb in verbs)


@given(paths, st.sampled_from(get_args(HttpMethod)))
def test_an_api_without_methods_is_one_route_for_every_path(path: str, verb: str) -> None:
    """No caller can invent buckets."""
    route = Routes({}).match(path, verb)
    assert route
    assert (route.resource, route.method) == ("/", "ANY")


mixed = st.dictionaries(
    templates,
    st.dictionaries(verbs, st.builds(Method, api_key_required=st.booleans()), min_size=1, max_size=2),
    min_size=1,
    max_size=7,
)
odd_segments = st.builds(
    lambda name, tail: name + tail,
    st.sampled_from(("a", "b", "pets", "%61", "p%65ts", "%2570ets", "", "x")),
    st.sampled_from(("", ";", ";v=1", "%3b", "%3Bx", "%253b")),
)
odd_paths = st.builds(
    lambda parts: "".join(slash + part for slash, part in parts),
    st.lists(st.tuples(st.sampled_from(("/", "/", "//", "%2f", "%5C", "\\")), odd_segments), min_size=1, max_size=5),
).map(lambda path: "/" + path.lstrip("/"))


@given(mixed, odd_paths, st.sampled_from(("GET", "POST")))
@example({"/a": {"GET": Method()}, "/{v+}": {"GET": Method(api_key_required=False)}}, "/;x//a%3by", "GET")
def test_no_odd_spelling_of_a_keyed_method_is_a_keyless_one(
    api: dict[str, dict[HttpMethod, Method]], path: str, verb: str
) -> None:
    """If an upstream decodes, drops parameters and merges slashes into a method with a key, the request needed one."""
    found = Routes(api).match(path, verb)
    read = re.sub("/+", "/", re.sub(";[^/]*", "", unquote(unquote(path)).replace("\\", "/")))
    served = Routes(api).match(quote(read), verb)
    event("odd" if found and found != served else "plain")
    if found and served and served.api_key_required:
        assert found.api_key_required

"""`authz explain`, without Redis: the story of one request."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from authz.core.catalog import Catalog, Compiler
from authz.core.keyform import KeyForm
from authz.core.request import Request
from authz.core.resources import (
    Account,
    ApiStage,
    CostFrom,
    Counts,
    HttpMethod,
    Method,
    Mode,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
)
from authz.core.responses import Profile
from authz.core.verdict import Grant, Tally
from authz.envoy.accesslog import LogLine, Told
from authz.explain import _story, explain
from authz.limiter.limiter import Held, Peeked
from tests.conftest import micros
from tests.support.builders import api, key, plan, resources, value_of
from tests.support.world import ask, limited, setting

NOW = micros("2026-03-04T10:00:00Z")
FULL = resources(
    account=Account(limited(123_456.75, 90)),
    apis=(api(stages=(Stage("prod", {"*/*": setting(4 / 3, 2**31 - 1)}),)),),
    usage_plans=(
        plan(
            name="Gold",
            throttle=limited(0.1, 1),
            quota=QuotaSettings(5, Period.DAY),
            api_stages=(ApiStage("a1", "prod", {"/pets/*": limited(2.0, 20)}),),
        ),
    ),
)


async def story(changed: Resources, request: Request, profile: Profile = "standard") -> list[str]:
    return (await explain(Catalog.compile(changed, "42"), request, NOW, profile=profile)).splitlines()


async def test_a_request_is_read_aloud() -> None:
    assert (await story(FULL, ask("/prod/pets?x=1")))[:6] == [
        "request   GET a1.example.org/prod/pets",
        "api       a1",
        "stage     prod",
        "route     GET /pets, requires a key",
        "key       k1",
        "plan      p1 (Gold)",
    ]


async def test_each_layer_is_shown_with_its_key_and_numbers() -> None:
    """A rate that cannot be kept exactly is shown as rounded."""
    lines = await story(FULL, ask())
    assert lines[6:16] == [
        "layer     plan_throttle: 0.1 a second, burst 1",
        "            in {42}:v1:ledger:p1:k1",
        "layer     plan_method_throttle: 2 a second, burst 20",
        "            in {42}:v1:method:p1:k1:a1:prod:%2Fpets:GET",
        "layer     plan_quota: 5 from 2026-03-04T00:00:00Z to 2026-03-05T00:00:00Z",
        "            in {42}:v1:ledger:p1:k1",
        (
            "layer     stage_method_throttle: 1.33333333333333 a second, burst 2147483647 "
            "(reckoned as 5/3750001 a microsecond)"
        ),
        "            in {42}:v1:stage:a1:prod:%2Fpets:GET",
        "layer     account_throttle: 123456.75 a second, burst 90",
        "            in {42}:v1:account",
    ]
    assert lines[16:] == [
        "usage     in {42}:v1:ledger:p1:k1",
        "            and {42}:v1:history:p1:k1",
        "answer    forwarded if each layer has room; --redis tells",
    ]


async def test_a_shadow_layer_says_so() -> None:
    shadowed = resources(usage_plans=(plan(mode=Mode.SHADOW, throttle=limited(1.0, 5)),))
    assert "layer     plan_throttle: 1 a second, burst 5, shadow" in await story(shadowed, ask())


def test_an_answer_tells_what_a_shadow_plan_would_have_refused() -> None:
    shadowed = resources(usage_plans=(plan(mode=Mode.SHADOW, throttle=limited(1.0, 1)),))
    grant = Catalog.compile(shadowed).resolve(ask(), NOW)
    assert isinstance(grant, Grant)
    tally = Tally(NOW, (1_000_000, 0), shadowed_by=grant.limits[0])
    assert list(_story(ask(), grant, Peeked(tally, [Held(0, 0)] * 2), "standard"))[-2:] == [
        "shadow    plan_throttle would have refused",
        "answer    forwarded",
    ]


THROTTLED = resources(usage_plans=(plan(throttle=limited(1.0, 10)),))


def held_story(tally: Tally, wait: int | None = None, *, refused: bool = False) -> tuple[str, list[str]]:
    """The room of the plan's throttle, where two processes hold four calls, and the answer."""
    grant = Catalog.compile(THROTTLED).resolve(ask(), NOW)
    assert isinstance(grant, Grant)
    tally = replace(tally, refused_by=grant.limits[0] if refused else None)
    lines = list(_story(ask(), grant, Peeked(tally, [Held(4, 2), Held(0, 0)], wait), "standard"))
    [layer] = [line for line in lines if line.startswith("layer     plan_throttle")]
    return layer.partition("burst 10, ")[2], [line for line in lines if line.startswith(("wait ", "reason", "answer"))]


def test_units_held_ahead_are_shown_beside_those_that_are_left() -> None:
    """Two calls are charged and four held: the state of an admitted call has both."""
    admitted = Tally(NOW, (6_000_000, 0))
    assert held_story(admitted) == ("4 left after it, 4 held by 2 processes", ["answer    forwarded"])
    refused = Tally(NOW, (10_000_000, 0), wait_us=1_000_000)
    assert held_story(refused, refused=True) == (
        "0 left, 4 held by 2 processes",
        ["reason    plan_throttle", "answer    429"],
    )


def test_a_call_that_held_units_leave_no_room_for_is_not_refused() -> None:
    waits = Tally(NOW, (6_000_000, 0))
    assert held_story(waits, 49_001) == (
        "0 left, 4 held by 2 processes",
        [
            "wait      held units leave no room; they come free unless their processes use them",
            "answer    decided when the first of these holds ends, in 50 ms",
        ],
    )


async def test_a_refusal_is_shown_as_the_client_gets_it() -> None:
    assert (await story(resources(), ask(key=None)))[-6:] == [
        "reason    key_missing",
        "answer    403",
        "            content-type: application/json",
        "            x-amzn-requestid: (a new one each time)",
        "            x-amzn-errortype: ForbiddenException",
        '            {"message":"Forbidden"}',
    ]


TOKENS = CostFrom(("cost", "tokens"), max=4096)
PRICED: dict[str, dict[HttpMethod, Method]] = {
    "/search": {"GET": Method(cost=5)},
    "/chat": {"POST": Method(cost=20, cost_from=TOKENS)},
    "/pets": {"GET": Method()},
}
SELLING = resources(
    apis=(api(resources=PRICED),),
    usage_plans=(
        plan(
            throttle=ThrottleSettings(5, 10),
            quota=QuotaSettings(1000, Period.DAY),
            api_stages=(ApiStage("a1", "prod", {"/chat/POST": ThrottleSettings(100, 2000, Counts.UNITS)}),),
        ),
    ),
)


async def priced(request: Request) -> list[str]:
    """The line of the cost, and what each layer says that it counts."""
    lines = await story(SELLING, request)
    costs = [line.removeprefix("cost      ") for line in lines if line.startswith("cost")]
    return costs + [line.partition(", counts ")[2] for line in lines if line.startswith("layer")]


async def test_a_methods_cost_is_shown_with_what_each_layer_counts() -> None:
    assert await priced(ask("/prod/search")) == ["5, the method's", "requests", "units", "requests"]


async def test_nothing_is_said_of_the_usual_cost() -> None:
    assert await priced(ask()) == ["", "", ""]


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        (300, "300, from the metadata cost:tokens"),
        (9000, "4096, the max of costFrom: the metadata cost:tokens is greater"),
        (1.5, "20, the method's: the metadata cost:tokens is no whole number of at least 0"),
        (None, "20, the method's: without the metadata cost:tokens, which -m gives, or a body's `metadata`"),
    ],
)
async def test_the_origin_of_a_cost_is_shown(tokens: object, line: str) -> None:
    asked = ask("/prod/chat", method="POST", metadata={} if tokens is None else {"cost": {"tokens": tokens}})
    assert (await priced(asked))[0] == line


async def test_a_cost_that_never_fits_is_shown_at_the_layer() -> None:
    asked = ask("/prod/chat", method="POST", metadata={"cost": {"tokens": 2001}})
    never = "units and never has room for the cost"
    assert (await priced(asked))[1:] == ["requests", never, never, "requests"]


async def test_a_request_for_nothing_of_ours_has_no_names() -> None:
    assert (await story(resources(), ask("/nostage/pets")))[1:6] == [
        "api       a1",
        "stage     (none)",
        "route     (none)",
        "key       (none)",
        "plan      (none)",
    ]


async def test_no_key_is_printed() -> None:
    """This holds for a key in a header and in the query string."""
    secret = value_of("k1")
    assert secret not in "\n".join(await story(resources(), ask(f"/prod/pets?api_key={secret}")))


async def notes(changed: Resources, request: Request) -> list[str]:
    return [line.removeprefix("note      ") for line in await story(changed, request) if line.startswith("note ")]


TWO = resources(apis=(api(), api("a2", stages=(Stage("v1"),))))


async def test_a_host_that_no_api_names_is_reported() -> None:
    lone = Request("GET", "other.example.org", "/orders/7")
    assert await notes(resources(), lone) == [
        "other.example.org is in no `hosts`; the only API, a1, was taken",
        "'orders' was read as the stage; the stages of a1 are prod",
    ]
    assert (await notes(TWO, lone))[0] == "other.example.org leads to no API; the APIs are a1, a2"
    assert "-e api=NAME" in (await notes(TWO, lone))[1]


async def test_an_extension_names_the_api() -> None:
    found = await story(TWO, Request("GET", "other.example.org", "/prod/pets", extensions={"api": "a1"}))
    assert found[1:3] == ["api       a1", "stage     prod"]
    wrong = Request("GET", "other.example.org", "/prod/pets", extensions={"api": "a3"})
    assert await notes(TWO, wrong) == ["there is no API a3, which the extension api names; the APIs are a1, a2"]


OFFICE = resources(api_keys=(key(allowed_sources=("203.0.113.0/24",)),))


async def test_an_address_that_the_key_does_not_allow_is_named() -> None:
    found = await story(OFFICE, ask(source="198.51.100.1"))
    assert "note      the key's allowedSources do not hold 198.51.100.1" in found
    assert {"key       k1", "reason    source_not_allowed", "answer    403"} <= set(found)
    assert await notes(OFFICE, ask(source="203.0.113.1")) == []


async def test_a_request_without_an_address_needs_one() -> None:
    rule = "the key has allowedSources, and the request has no address: give the client's as its source"
    assert await notes(OFFICE, ask()) == [rule]


async def logged(source: str) -> list[str]:
    """The story of a line of the access log that names the key k1."""
    told = Told(api="a1", key_id="k1", source=source)
    line = LogLine("GET", "a1.example.org", "/prod/pets", authz=told)
    request = line.request({}, {})
    return (await explain(Catalog.compile(OFFICE), request, NOW, line=line)).splitlines()


async def test_a_log_line_has_the_address_of_a_call_that_was_refused_for_it() -> None:
    assert "reason    source_not_allowed" in await logged("198.51.100.1")


async def test_a_log_line_of_another_call_has_no_address_to_compare() -> None:
    found = await logged("")
    assert "note      the client's address is not known, so allowedSources was not compared" in found
    assert "answer    forwarded if each layer has room; --redis tells" in found


async def test_a_request_without_a_key_can_be_explained_as_a_keys() -> None:
    catalog = Catalog.compile(OFFICE)
    caller = catalog.caller("k1")
    without, other = ask(headers={}), ask(headers={"x-api-key": "a-key-of-somebody-else"})
    found = [(await explain(catalog, request, NOW, caller=caller)).splitlines() for request in (without, other)]
    assert "key       k1" in found[0]
    assert "answer    forwarded if each layer has room; --redis tells" in found[0]
    assert "reason    key_unknown" in found[1], "a value in the request comes first"


async def test_a_mistyped_key_is_known_by_its_checksum() -> None:
    catalog = Compiler(form=KeyForm.of("upk"))(resources())
    note = "note      the key has the form of generated ones, and its checksum is wrong: it was mistyped"
    for value, noted in (("upk_" + "0" * 33, True), ("a-key-of-somebody-else", False)):
        lines = (await explain(catalog, ask(headers={"x-api-key": value}), NOW)).splitlines()
        assert ((note in lines), "reason    key_unknown" in lines) == (noted, True)
        assert value not in str(lines)

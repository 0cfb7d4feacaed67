"""What AWS API Gateway does with a call, case by case, against the real script.

The cases that need the management API are in test_control_catalog.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from authz.core.resources import (
    Account,
    ApiStage,
    FailurePolicy,
    GatewayResponse,
    GatewayResponseType,
    Host,
    Resources,
    UsagePlan,
)
from authz.envoy.answers import Style
from authz.envoy.edge import to_request
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter, Unobserved
from tests.conftest import Clock
from tests.support.builders import value_of
from tests.support.limiters import running_limiter
from tests.support.servers import Kind, RedisServer, redis_server
from tests.support.world import (
    NEEDS_KEY,
    OPEN,
    REQUEST_ID,
    Answer,
    World,
    check_request,
    covers,
    fixture,
    limited,
    quota,
    setting,
    to_response,
)

MakeWorld = Callable[..., World]
AWS = Style(profile="aws")
KEYS = {"K1", "K2", "KD", "KN"}
PETS = "https://a1.example.org/prod/pets"
JWT = "envoy.filters.http.jwt_authn"
UNLIMITED = {"throttle": None}


@dataclass(frozen=True)
class Calls:
    """Calls of one kind, one after another, and the name of each answer: ("GET a1/prod/pets K1", "OK F").

    `-` is no key; any word that is not a key's id is sent as the value.
    """

    call: str
    answers: str
    times: int = 1

    async def play(self, world: World) -> None:
        method, place, key = self.call.split()
        headers = {} if key == "-" else {"x-api-key": value_of(key) if key in KEYS else key}
        api, _, path = place.partition("/")
        expected = self.answers.split() * self.times
        names = [
            (await world.call(method, f"https://{api}.example.org/{path}", headers=headers)).name for _ in expected
        ]
        assert names == expected, self.call


@dataclass(frozen=True)
class At:
    """The moment: seconds from now on, or a time."""

    moment: float | str

    async def play(self, world: World) -> None:
        if isinstance(self.moment, str):
            world.clock.at(self.moment)
        else:
            world.clock.advance(self.moment)


@dataclass(frozen=True)
class Change:
    """Other resources, over the same state."""

    resources: Resources

    async def play(self, world: World) -> None:
        world.change(self.resources)


@dataclass(frozen=True)
class Used:
    """What K1 has used of plan P's quota."""

    amount: int

    async def play(self, world: World) -> None:
        assert await world.usage("P", "K1") == self.amount


Step = Calls | At | Change | Used


@dataclass(frozen=True)
class Row:
    id: str
    resources: Resources
    steps: tuple[Step, ...]


def row(name: str, resources: Resources, *steps: Step) -> Row:
    return Row(name, resources, steps)


def table(*rows: Row) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("resources", "steps"), [pytest.param(row.resources, row.steps, id=row.id) for row in rows]
    )


def get(answers: str, key: str = "K1", place: str = "a1/prod/pets", times: int = 1) -> Calls:
    return Calls(f"GET {place} {key}", answers, times)


def planned(**changes: Any) -> Resources:
    return fixture(plan=changes)


def metered(limit: int, period: str = "DAY", offset: int = 0, **changes: Any) -> Resources:
    """P with a quota and, unless the changes say otherwise, no throttle."""
    return planned(**{**UNLIMITED, "quota": quota(limit, period, offset), **changes})


def one_method(path_and_verb: str, burst: int = 1) -> Resources:
    """P at 100/s, with a throttle of its own for one method of a1:prod."""
    return planned(throttle=limited(100.0, 100), api_stages=covers(**{path_and_verb: limited(1.0, burst)}))


@pytest.fixture
def make_world(limiter: RedisLimiter, clock: Clock, account: str) -> MakeWorld:
    """The fixture's resources unless others are given, on the shared Redis."""
    return lambda resources=None, **options: World(resources or fixture(), limiter, clock, account=account, **options)


async def play(world: World, steps: tuple[Step, ...]) -> None:
    for step in steps:
        await step.play(world)


# --- identity and association -------------------------------------------------------------------------------------

STRANGERS = {
    "a call without a key is forbidden": get("F", "-"),
    "an unknown key is forbidden": get("F", "nonsense"),
    "a disabled key is forbidden": get("F", "KD"),
    "a key without a plan is forbidden": get("F", "KN"),
    "a stage that the plan does not cover is forbidden": get("F", place="a1/dev/pets"),
}
ON_A1, ON_A2 = ApiStage(api_id="a1", stage="prod"), ApiStage(api_id="a2", stage="prod")
P = replace(fixture().usage_plans[0], api_stages=(ON_A1,))
Q = UsagePlan(id="Q", name="Q", api_stages=(ON_A2,), throttle=limited(1.0, 1), keys=("K1",))


@table(
    *(row(name, fixture(), calls) for name, calls in STRANGERS.items()),
    row("a plan without stages admits no key", planned(api_stages=()), get("F")),
    row("a key in a plan is admitted", fixture(), get("OK")),
    row("the case of a key matters", fixture(), get("F", value_of("K1").swapcase())),
    row("a keyless method admits a call without a key", fixture(), get("OK", "-", "a1/prod/open")),
    row("a keyless method ignores an unknown key", fixture(), get("OK", "nonsense", "a1/prod/open")),
    row(
        "a key in two plans is metered on each stage by its own",
        fixture(usage_plans=(P, Q)),
        get("OK TMR", place="a2/prod/pets"),
        get("OK OK OK OK OK TMR"),
    ),
)
async def test_identity(make_world: MakeWorld, resources: Resources, steps: tuple[Step, ...]) -> None:
    await play(make_world(resources), steps)


@pytest.mark.parametrize("raw_headers", [False, True])
async def test_the_name_of_the_key_header_has_no_case(make_world: MakeWorld, raw_headers: bool) -> None:
    """Envoy lowers names before it asks; where it sends them raw we do not rely on it."""
    headers = {"X-API-KEY": value_of("K1")}
    assert (await make_world().call("GET", PETS, headers=headers, raw_headers=raw_headers)).name == "OK"


@pytest.mark.parametrize("name", ["x-api-key", "api_key"])
async def test_a_query_parameter_is_no_key(make_world: MakeWorld, name: str) -> None:
    assert (await make_world().call("GET", f"{PETS}?{name}={value_of('K1')}")).name == "F"


async def test_an_empty_key_header_is_no_key(make_world: MakeWorld) -> None:
    assert (await make_world().call("GET", PETS, headers={"x-api-key": ""})).name == "F"


async def test_a_keyless_method_costs_a_key_nothing(make_world: MakeWorld) -> None:
    world = make_world(planned(quota=quota(5)))
    await world.call("GET", PETS, "K1")
    before = await world.ledger_bytes("P", "K1")
    url = "https://a1.example.org/prod/open"
    answers = await asyncio.gather(*(world.call("GET", url, "K1") for _ in range(100)))
    assert {answer.name for answer in answers} == {"OK"}
    assert await world.ledger_bytes("P", "K1") == before


AUTHORIZED = fixture(a1={"api_key_source": "AUTHORIZER"})


async def test_the_authorizers_key_counts_without_a_header(make_world: MakeWorld) -> None:
    metadata = {JWT: {"jwt_payload": {"api_key": value_of("K1")}}}
    answer = await make_world(AUTHORIZED).call("GET", PETS, metadata=metadata)
    assert (answer.name, answer.upstream["x-api-key-id"]) == ("OK", "K1")


@pytest.mark.parametrize("told", [{"jwt_payload": {"api_key": "nonsense"}}, {"jwt_payload": {}}, {}])
async def test_without_the_authorizers_key_the_header_does_not_help(
    make_world: MakeWorld, told: dict[str, Any]
) -> None:
    assert (await make_world(AUTHORIZED).call("GET", PETS, "K1", metadata={JWT: told})).name == "F"


async def test_a_caller_without_the_authorizers_key_spends_nothing(make_world: MakeWorld) -> None:
    """A caller that an authorizer refused never reaches us, by the order of the filters. One that did pays nothing."""
    world = make_world(AUTHORIZED)
    assert (await world.call("GET", PETS, "K1")).name == "F"
    assert await world.ledger_bytes("P", "K1") is None


@pytest.mark.parametrize("case", STRANGERS)
async def test_a_refusal_looks_like_aws(make_world: MakeWorld, case: str) -> None:
    """All of its headers, and 23 bytes of body."""
    method, place, key = STRANGERS[case].call.split()
    api, _, path = place.partition("/")
    headers = {} if key == "-" else {"x-api-key": value_of(key) if key in KEYS else key}
    answer = await make_world(style=AWS).call(method, f"https://{api}.example.org/{path}", headers=headers)
    assert answer.headers == {
        "content-type": "application/json",
        "x-amzn-errortype": "ForbiddenException",
        "x-amzn-requestid": REQUEST_ID,
    }
    assert len(answer.body.encode()) == 23


# --- throttle -----------------------------------------------------------------------------------------------------

FIVE = get("OK OK OK OK OK TMR")
POST = "POST a1/prod/pets K1"
PETS_TWICE = one_method("/pets/GET", burst=2)
EVERY_METHOD_ONCE = fixture(plan=UNLIMITED, settings={"*/*": setting(1.0, 1)})


@table(
    row("a bucket admits its burst and no more", fixture(), FIVE),
    row("a token comes back after a second", fixture(), FIVE, At(1), get("OK TMR")),
    row("a bucket fills up to its burst", fixture(), FIVE, At(10), FIVE),
    row("half a token admits nothing", fixture(), FIVE, At(0.5), get("TMR")),
    row("each key has a bucket of its own", fixture(), FIVE, get("OK OK OK OK OK TMR", "K2")),
    row("the stages of a plan share its bucket", fixture(), get("OK OK OK"), get("OK OK TMR", place="a2/prod/pets")),
    row("the methods of a plan share its bucket", fixture(), get("OK OK OK"), Calls(POST, "OK OK TMR")),
    row("a rate below one a second", planned(throttle=limited(0.1, 1)), get("OK"), At(5), get("TMR"), At(5), get("OK")),
    row("a burst above the rate", planned(throttle=limited(10.0, 20)), get("OK", times=20), get("TMR")),
    row("a burst below the rate", planned(throttle=limited(20.0, 10)), get("OK", times=10), get("TMR")),
    row("a burst of 0 never admits", planned(throttle=limited(0.0, 0)), get("TMR"), At(86_400), get("TMR")),
    row("a method throttle refuses", PETS_TWICE, get("OK OK TMR")),
    row("a method throttle is for one verb", PETS_TWICE, get("OK OK TMR"), Calls(POST, "OK")),
    row("a method throttle is for one resource", PETS_TWICE, get("OK OK TMR"), get("OK", place="a1/prod/pets/1")),
    row("a method throttle is for one stage", PETS_TWICE, get("OK OK TMR"), get("OK OK OK", place="a2/prod/pets")),
    row("a method throttle is kept for each key", PETS_TWICE, get("OK OK TMR"), get("OK OK TMR", "K2")),
    row(
        "a method throttle comes on top of the plan's",
        planned(throttle=limited(1.0, 3), api_stages=covers(**{"/pets/GET": limited(100.0, 100)})),
        get("OK OK OK TMR"),
    ),
    row("a method throttle of the root", one_method("//GET"), get("OK TMR", place="a1/prod/")),
    row(
        "a template has one bucket for all its paths",
        one_method("/pets/{id}/GET"),
        get("OK", place="a1/prod/pets/1"),
        get("TMR", place="a1/prod/pets/2"),
    ),
    row(
        "a greedy template has one bucket",
        one_method("/files/{proxy+}/GET"),
        get("OK", place="a1/prod/files/a"),
        get("TMR", place="a1/prod/files/b/c"),
    ),
    row(
        "ANY has one bucket for all verbs",
        one_method("/any/ANY"),
        get("OK", place="a1/prod/any"),
        Calls("POST a1/prod/any K1", "TMR"),
    ),
    # 5 tokens stay spent, so 45 of the new 50 are there at once.
    row(
        "a raised burst keeps what was spent",
        fixture(),
        FIVE,
        Change(planned(throttle=limited(1.0, 50))),
        get("OK", times=45),
        get("TMR"),
    ),
    row("all keys share a stage's method throttle", EVERY_METHOD_ONCE, get("OK"), get("TMR", "K2")),
    row("a stage's throttle holds without a key", EVERY_METHOD_ONCE, get("OK TMR", "-", "a1/prod/open")),
    row("a wildcard gives each method a bucket", EVERY_METHOD_ONCE, get("OK"), Calls(POST, "OK")),
    row(
        "a method's own setting wins over the wildcard",
        fixture(plan=UNLIMITED, settings={"*/*": setting(1.0, 1), "pets/GET": setting(1.0, 3)}),
        get("OK OK OK TMR"),
        Calls(POST, "OK TMR"),
    ),
    row(
        "the account's bucket is shared by all APIs",
        fixture(plan=UNLIMITED, account=Account(limited(5.0, 5))),
        get("OK OK"),
        get("OK OK", "K2", "a2/prod/pets"),
        get("OK TMR", "-", "a1/prod/open"),
    ),
    row(
        "a refusal by the stage costs no quota",
        fixture(plan={**UNLIMITED, "quota": quota(100)}, settings={"*/*": setting(1.0, 1)}),
        get("OK TMR"),
        Used(1),
    ),
    row(
        "a stage's setting of -1 is no limit",
        fixture(plan=UNLIMITED, settings={"*/*": setting(1.0, 1), "pets/GET": setting(-1.0, -1)}),
        get("OK", times=20),
    ),
)
async def test_throttle(make_world: MakeWorld, resources: Resources, steps: tuple[Step, ...]) -> None:
    await play(make_world(resources), steps)


async def test_without_a_throttle_only_the_account_limits(make_world: MakeWorld, clock: Clock) -> None:
    """10,000 calls in the second that the account's 10,000 a second and burst of 5,000 allow; then it has no room."""
    world = make_world(planned(**UNLIMITED))
    request = to_request(check_request("GET", PETS, {"x-api-key": value_of("K1")}))
    assert request
    for pause in (0.0, 0.25, 0.25):
        clock.advance(pause)
        wave = 5_000 if pause == 0 else 2_500
        verdicts = await asyncio.gather(*(world.checker.check(request) for _ in range(wave)))
        assert {type(verdict).__name__ for verdict in verdicts} == {"Allowed"}
    assert (await world.call("GET", PETS, "K1")).metadata["layer"] == "account_throttle"


async def test_a_throttled_client_gets_no_header_that_aws_does_not_send(make_world: MakeWorld) -> None:
    answer = (await calls(make_world(planned(throttle=limited(1.0, 1)), style=AWS), 2))[-1]
    assert answer.name == "TMR"
    assert set(answer.headers) == {"content-type", "x-amzn-errortype", "x-amzn-requestid"}


async def calls(world: World, times: int) -> list[Answer]:
    """The answers to `times` calls of K1, one after another."""
    return [await world.call("GET", PETS, "K1") for _ in range(times)]


# --- quota --------------------------------------------------------------------------------------------------------

TWO_A_DAY = metered(2)


@table(
    row("a daily quota", TWO_A_DAY, get("OK OK LE")),
    row("a monthly quota", metered(2, "MONTH"), get("OK OK LE")),
    row(
        "a day begins at midnight UTC",
        TWO_A_DAY,
        get("OK OK LE"),
        At("2026-03-04T23:59:59.9Z"),
        get("LE"),
        At("2026-03-05T00:00:00Z"),
        get("OK OK LE"),
    ),
    row(
        "a week begins on Sunday",
        metered(1, "WEEK"),
        get("OK"),
        At("2026-03-07T23:59:59Z"),
        get("LE"),
        At("2026-03-08T00:00:00Z"),
        get("OK"),
    ),
    row(
        "a week with offset 1 begins on Monday",
        metered(1, "WEEK", 1),
        get("OK"),
        At("2026-03-08T12:00:00Z"),
        get("LE"),
        At("2026-03-09T00:00:00Z"),
        get("OK"),
    ),
    row(
        "a month begins on the 1st",
        metered(1, "MONTH"),
        get("OK"),
        At("2026-03-31T23:59:59Z"),
        get("LE"),
        At("2026-04-01T00:00:00Z"),
        get("OK"),
    ),
    row(
        "a month with offset 14 begins on the 15th",
        metered(1, "MONTH", 14),
        get("OK"),
        At("2026-03-14T23:59:59Z"),
        get("LE"),
        At("2026-03-15T00:00:00Z"),
        get("OK"),
    ),
    row(
        "a month with offset 27 begins on the 28th in February too",
        metered(1, "MONTH", 27),
        At("2026-02-27T23:59:59Z"),
        get("OK LE"),
        At("2026-02-28T00:00:00Z"),
        get("OK LE"),
        At("2026-03-27T23:59:59Z"),
        get("LE"),
        At("2026-03-28T00:00:00Z"),
        get("OK"),
    ),
    row("the stages of a plan share its quota", metered(3), get("OK OK"), get("OK LE", place="a2/prod/pets")),
    row("each key has a quota of its own", metered(3), get("OK OK OK"), get("OK", "K2")),
    row("a throttled call costs no quota", metered(10, throttle=limited(1.0, 2)), get("OK OK TMR TMR TMR"), Used(2)),
    row(
        "a call over quota costs no token",
        metered(1, throttle=limited(1.0, 5)),
        get("OK"),
        At(10),
        get("LE LE LE"),
        Change(fixture()),
        FIVE,
    ),
    row(
        "the throttle is named before the quota", metered(1, throttle=limited(1.0, 1)), get("OK TMR"), At(1), get("LE")
    ),
    row(
        "a raised quota keeps what was used",
        metered(5),
        get("OK OK OK OK OK LE"),
        Change(metered(8)),
        get("OK OK OK LE"),
    ),
    row(
        "keyless calls cost no quota",
        metered(2),
        get("OK", place="a1/prod/open", times=5),
        Used(0),
        get("OK OK LE"),
        Used(2),
    ),
    row("refused calls cost no quota", TWO_A_DAY, get("OK OK"), get("LE", times=20), Used(2)),
    row("a quota without a throttle", TWO_A_DAY, get("OK OK LE")),
    row("a throttle without a quota", planned(throttle=limited(1.0, 2)), get("OK OK TMR"), Used(0)),
    row(
        "a plan whose quota is removed admits again",
        TWO_A_DAY,
        get("OK OK LE"),
        Change(planned(**UNLIMITED)),
        get("OK OK OK"),
    ),
)
async def test_quota(make_world: MakeWorld, resources: Resources, steps: tuple[Step, ...]) -> None:
    await play(make_world(resources), steps)


async def test_an_admitted_call_counts_even_if_the_upstream_fails(make_world: MakeWorld) -> None:
    """The check comes before the upstream, so its failure changes nothing. Encoding the answer twice charges once."""
    world = make_world(TWO_A_DAY)
    request = to_request(check_request("GET", PETS, {"x-api-key": value_of("K1")}))
    assert request
    verdict = await world.checker.check(request)
    spent = await world.ledger_bytes("P", "K1")
    assert to_response(verdict, request) == to_response(verdict, request)
    assert await world.ledger_bytes("P", "K1") == spent
    assert await world.usage("P", "K1") == 1


async def test_a_quota_holds_against_parallel_calls(make_world: MakeWorld) -> None:
    """Exactly 10 of 100, where AWS is less strict."""
    world = make_world(metered(10))
    answers = await asyncio.gather(*(world.call("GET", PETS, "K1") for _ in range(100)))
    assert sorted(answer.name for answer in answers) == ["LE"] * 90 + ["OK"] * 10


# --- routing, stage identification, gateway responses -------------------------------------------------------


def routes(**templates: Any) -> Resources:
    """Other methods for a1, by template: `GET` needs a key and `get` does not."""
    methods = {
        path: {verb.upper(): NEEDS_KEY if verb.isupper() else OPEN for verb in verbs.split()}
        for path, verbs in templates.items()
    }
    return fixture(a1={"resources": methods})


def on_hosts(*hosts: Host) -> Resources:
    return fixture(a1={"hosts": hosts}, plan=UNLIMITED)


LITERAL_OR_GREEDY = routes(**{"/part1": "GET", "/part1/hardcoded-value": "GET", "/{param+}": "get"})


@table(
    row("an unknown path has no method", fixture(), get("MAT", place="a1/prod/none")),
    row("an unknown verb has no method", fixture(), Calls("DELETE a1/prod/pets K1", "MAT")),
    row("an unknown stage is forbidden", fixture(), get("F", place="a1/nostage/pets")),
    row("a trailing slash is the same path", one_method("/pets/GET"), get("OK", place="a1/prod/pets/"), get("TMR")),
    row("HEAD is not GET", fixture(), Calls("HEAD a1/prod/pets K1", "MAT")),
    row("ANY takes HEAD", fixture(), Calls("HEAD a1/prod/any K1", "OK")),
    row(
        "a verb wins over ANY",
        routes(**{"/both": "get ANY"}),
        get("OK", "-", "a1/prod/both"),
        Calls("POST a1/prod/both -", "F"),
    ),
    row(
        "a greedy path takes the verbs that a literal one lacks",
        routes(**{"/test": "POST", "/{proxy+}": "options"}),
        Calls("OPTIONS a1/prod/test -", "OK"),
    ),
    row(
        "a greedy path takes what no literal one matches",
        LITERAL_OR_GREEDY,
        get("OK", "-", "a1/prod/part1/random"),
        get("F", "-", "a1/prod/part1"),
    ),
    row(
        "a literal path wins over a variable",
        routes(**{"/pets/{id}": "GET", "/pets/mine": "get"}),
        get("OK", "-", "a1/prod/pets/mine"),
        get("F", "-", "a1/prod/pets/7"),
    ),
    row(
        "a greedy path needs a segment",
        fixture(),
        get("MAT", place="a1/prod/files"),
        get("OK", place="a1/prod/files/x"),
    ),
)
async def test_routing(make_world: MakeWorld, resources: Resources, steps: tuple[Step, ...]) -> None:
    await play(make_world(resources), steps)


async def test_a_base_path_leads_to_its_stage(make_world: MakeWorld) -> None:
    world = make_world(fixture(a1={"hosts": (Host("example.org", "shop", "prod"),)}, plan={"quota": quota(9)}))
    answer = await world.call("GET", "https://example.org/shop/pets", "K1")
    assert (answer.name, answer.metadata["api"], answer.metadata["stage"]) == ("OK", "a1", "prod")
    assert await world.usage("P", "K1") == 1


async def test_the_longest_base_path_wins(make_world: MakeWorld) -> None:
    hosts = (Host("example.org", "orders", "prod"), Host("example.org", "orders/v2", "dev"))
    world = make_world(fixture(a1={"hosts": hosts}))
    stages = {}
    for path in ("/orders/v2/open", "/orders/open"):
        stages[path] = (await world.call("GET", f"https://example.org{path}")).metadata["stage"]
    assert stages == {"/orders/v2/open": "dev", "/orders/open": "prod"}


def worded(**responses: GatewayResponse) -> Resources:
    """One call a day and one a second, refused in the owner's words."""
    named = {GatewayResponseType(name): response for name, response in responses.items()}
    return fixture(plan={"throttle": limited(1.0, 1)}, responses=named)


def says(status: str | None = None, template: str | None = None, **headers: str) -> GatewayResponse:
    return GatewayResponse(
        status_code=status,
        response_templates={"application/json": template} if template else {},
        response_parameters={f"gatewayresponse.header.{name}": value for name, value in headers.items()},
    )


async def test_a_gateway_response_sets_status_body_and_header(make_world: MakeWorld) -> None:
    custom = says("420", '{"m":$context.error.messageString}', **{"Retry-After": "'60'"})
    answer = (await calls(make_world(worded(THROTTLED=custom)), 2))[-1]
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (420, '{"m":"Too Many Requests"}', "60")


async def test_a_template_may_name_the_type(make_world: MakeWorld) -> None:
    custom = says(None, '{"t":"$context.error.responseType"}')
    resources = fixture(plan={**UNLIMITED, "quota": quota(1)}, responses={GatewayResponseType.QUOTA_EXCEEDED: custom})
    answer = (await calls(make_world(resources), 2))[-1]
    assert (answer.status, answer.body) == (429, '{"t":"QUOTA_EXCEEDED"}')


async def test_a_type_without_a_response_takes_the_default(make_world: MakeWorld) -> None:
    custom = says("418", '{"d":$context.error.messageString}', X="'teapot'")
    answer = (await calls(make_world(worded(DEFAULT_4XX=custom)), 2))[-1]
    assert (answer.status, answer.body, answer.headers["x"]) == (418, '{"d":"Too Many Requests"}', "teapot")


async def test_a_type_with_a_response_takes_nothing_of_the_default(make_world: MakeWorld) -> None:
    responses = {"DEFAULT_4XX": says("418", '{"d":1}', X="'default'"), "THROTTLED": says(Y="'own'")}
    answer = (await calls(make_world(worded(**responses)), 2))[-1]
    assert (answer.name, answer.headers["y"]) == ("TMR", "own")
    assert "x" not in answer.headers


async def test_a_header_may_repeat_one_of_the_request(make_world: MakeWorld) -> None:
    custom = says(**{"Access-Control-Allow-Origin": "method.request.header.Origin"})
    world = make_world(fixture(responses={GatewayResponseType.INVALID_API_KEY: custom}))
    answer = await world.call("GET", PETS, headers={"Origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


@pytest.fixture
def own_redis(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server that one test may kill."""
    with redis_server(redis_kind, unix=True) as server:
        yield server


async def test_without_redis_the_policy_allow_admits_known_callers(
    own_redis: RedisServer, account: str, clock: Clock
) -> None:
    """As AWS does, with the failure policy `allow`: known callers pass, the error is reported, strangers stay out.

    Remembered refusals would still refuse, so this limiter remembers none.
    """
    errors: list[Exception] = []

    class Recorder(Unobserved):
        def on_failure(self, error: Exception) -> None:
            errors.append(error)

    async with running_limiter(
        own_redis.url, account, clock=RedisClock(clock), observer=Recorder(), remembered=0
    ) as limiter:
        world = World(fixture(), limiter, clock, account=account, failure_policy=FailurePolicy.ALLOW)
        await FIVE.play(world)
        own_redis.kill()
        await play(world, (get("OK OK"), *STRANGERS.values()))
    assert len(errors) == 2


async def test_two_instances_on_one_redis_share_the_limit(
    shared_redis: RedisServer, account: str, clock: Clock
) -> None:
    async with (
        running_limiter(shared_redis.url, account, clock=RedisClock(clock)) as one,
        running_limiter(shared_redis.url, account, clock=RedisClock(clock)) as other,
    ):
        worlds = [World(fixture(), limiter, clock, account=account) for limiter in (one, other)]
        answers = await asyncio.gather(*(world.call("GET", PETS, "K1") for world in worlds for _ in range(6)))
    assert sorted(answer.name for answer in answers) == ["OK"] * 5 + ["TMR"] * 7

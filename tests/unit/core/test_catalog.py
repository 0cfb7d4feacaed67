"""A compiled catalog finds the caller and the method of a request, and the limits that cover it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from authz.core.catalog import UNLOOKED, Caller, Catalog, Find, KeyNeeded
from authz.core.limits import Layer, Limit, Meter, Quota, Throttle
from authz.core.request import Request
from authz.core.resources import (
    Account,
    Api,
    ApiStage,
    Deployment,
    FailurePolicy,
    GatewayResponse,
    GatewayResponseType,
    Host,
    HttpMethod,
    KeySource,
    Method,
    MethodSetting,
    Mode,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    digest,
)
from authz.core.routes import Route, without
from authz.core.rules import problems
from authz.core.verdict import Denied, Grant, Reason
from tests.conftest import micros
from tests.support.builders import api, key, plan, resources, value_of
from tests.support.world import ask, limited, setting

NOW = micros("2026-03-04T10:00:00Z")
METHODS: dict[str, dict[HttpMethod, Method]] = {
    "/open": {"GET": Method(api_key_required=False)},
    "/pets": {"GET": Method(), "POST": Method()},
    "/any": {"ANY": Method()},
}


def granted(catalog: Catalog, request: Request) -> Grant:
    grant = catalog.resolve(request, NOW)
    assert isinstance(grant, Grant)
    return grant


def refused(changed: Resources, request: Request, now: int = NOW) -> Reason:
    denied = Catalog.compile(changed).resolve(request, now)
    assert isinstance(denied, Denied)
    return denied.reason


def limits_of(changed: Resources, request: Request) -> dict[str, Limit]:
    return {str(limit.layer): limit for limit in granted(Catalog.compile(changed), request).limits}


def bursts(changed: Resources, layer: Layer, *requests: Request) -> list[int | None]:
    """Return the burst of the layer's bucket for each request; None if the layer has no limit."""
    found = [limits_of(changed, request).get(layer) for request in requests]
    return [limit.rule.burst if limit and isinstance(limit.rule, Throttle) else None for limit in found]


# --- which API and stage ------------------------------------------------------------------------------------------


def open_api(id: str, *hosts: Host, stages: tuple[str, ...] = ("prod", "dev")) -> Api:  # noqa: A002
    """An API that needs no key on any path, so that only the host and the path decide."""
    anything: dict[str, dict[HttpMethod, Method]] = {
        path: {"GET": Method(api_key_required=False)} for path in ("/", "/{proxy+}")
    }
    return Api(id=id, hosts=hosts, resources=anything, stages=tuple(Stage(name) for name in stages))


ONE = Catalog.compile(Resources(apis=(open_api("a1"),)))
MAPPED = Catalog.compile(
    Resources(
        apis=(
            open_api("a1", Host("Shop.example.org", "shop", "prod"), Host("shop.example.org", "shop/v2", "dev")),
            open_api("a2", Host("shop.example.org", "orders")),
            open_api("a3", Host("only.example.org")),
        )
    )
)
CAPITAL = Catalog.compile(Resources(apis=(open_api("Orders"), open_api("a2"))))
DOMAIN = Catalog.compile(Resources(apis=(open_api("a1", Host("a1.example.org", "shop", "prod")),)))
WILD = Catalog.compile(
    Resources(
        apis=(
            open_api("wild", Host("*.example.org", stage="prod")),
            open_api("longer", Host("*.eu.example.org", stage="prod")),
            open_api("exact", Host("shop.example.org", stage="prod"), Host("based.example.org", "v1", "prod")),
        )
    )
)
BASED = Catalog.compile(
    Resources(
        apis=(
            open_api("whole", Host("example.org", stage="prod")),
            open_api("based", Host("example.org", "shop", "prod"), Host("example.org", "a+b", "prod")),
        )
    )
)
EXTENDED = {"api": "a1", "stage": "dev"}


@pytest.mark.parametrize(
    ("catalog", "request_", "place"),
    [
        (ONE, ask("/prod/x", host="anything"), ("a1", "prod", "/x")),
        (ONE, ask("/dev", host="a1.example.org"), ("a1", "dev", "/")),
        (ONE, ask("/prod/x?stage=dev/y"), ("a1", "prod", "/x")),
        (ONE, ask("/prod//x"), ("a1", "prod", "//x")),
        (WILD, ask("/x", host="shop.example.org"), ("exact", "prod", "/x")),
        (WILD, ask("/x", host="SHOP2.example.org:8443"), ("wild", "prod", "/x")),
        (WILD, ask("/x", host="a.eu.example.org"), ("longer", "prod", "/x")),
        (MAPPED, ask("/prod/x", host="a2.example.org"), ("a2", "prod", "/x")),
        (MAPPED, ask("/prod/x", host="A2.Example.ORG:8443"), ("a2", "prod", "/x")),
        (MAPPED, ask("/prod/x", host="a2"), ("a2", "prod", "/x")),
        (CAPITAL, ask("/prod/x", host="Orders.example.org"), ("Orders", "prod", "/x")),
        (MAPPED, ask("/shop/x", host="shop.example.org"), ("a1", "prod", "/x")),
        (MAPPED, ask("/shop", host="SHOP.example.org:443"), ("a1", "prod", "/")),
        (MAPPED, ask("/shop", host="shop.example.org:"), ("a1", "prod", "/")),
        (MAPPED, ask("/shop/v2/x", host="shop.example.org."), ("a1", "dev", "/x")),
        (MAPPED, ask("/shop/v22", host="shop.example.org"), ("a1", "prod", "/v22")),
        (MAPPED, ask("/orders/dev/x", host="shop.example.org"), ("a2", "dev", "/x")),
        (MAPPED, ask("/dev/x", host="only.example.org"), ("a3", "dev", "/x")),
        (MAPPED, ask("/prod/x", extensions={"api": "a1"}, host="a2.example.org"), ("a1", "prod", "/x")),
        (MAPPED, ask("/prod/x", extensions=EXTENDED, host="a2.example.org"), ("a1", "dev", "/prod/x")),
        (MAPPED, ask("/shop/x", extensions={"stage": "dev"}, host="shop.example.org"), ("a1", "dev", "/shop/x")),
        (MAPPED, ask("/prod/x", extensions={"api": "a2"}, host="only.example.org"), ("a2", "prod", "/x")),
    ],
)
def test_api_and_stage_are_those_of_the_nearest_source(
    catalog: Catalog, request_: Request, place: tuple[str, str, str]
) -> None:
    """API: extension, base path, first label of the host, the only API. Stage: extension, mapping, next segment."""
    subject = granted(catalog, request_).subject
    assert (subject.api, subject.stage, without(request_.path.partition("?")[0], subject.skip)) == place


@pytest.mark.parametrize(
    ("catalog", "request_", "reason"),
    [
        (MAPPED, ask("/prod/x", host="unknown.example.org"), Reason.UNKNOWN_API),
        (WILD, ask("/x", host="example.org"), Reason.UNKNOWN_API),
        (WILD, ask("/x", host="a.b.example.org"), Reason.UNKNOWN_API),
        (WILD, ask("/x", host="based.example.org"), Reason.UNKNOWN_API),
        (BASED, ask("/shop;v=1/x", host="example.org"), Reason.UNKNOWN_API),
        (BASED, ask("/;/shop/x", host="example.org"), Reason.UNKNOWN_API),
        (BASED, ask("//shop/x", host="example.org"), Reason.UNKNOWN_API),
        (BASED, ask("/a%2Bb/x", host="example.org", extensions={"api": "whole"}), Reason.UNKNOWN_API),
        (BASED, ask("/shop%2Fx", host="example.org"), Reason.UNKNOWN_API),
        (BASED, ask("/x/%2e%2e;/shop/x", host="example.org"), Reason.UNKNOWN_METHOD),
        (BASED, ask("/shop/..;/x", host="example.org"), Reason.UNKNOWN_METHOD),
        (ONE, ask("", method="CONNECT"), Reason.UNKNOWN_METHOD),
        (ONE, ask("/prod/x", method="CONNECT"), Reason.UNKNOWN_METHOD),
        (ONE, ask("prod/x"), Reason.UNKNOWN_METHOD),
        (ONE, ask("+prod/x"), Reason.UNKNOWN_METHOD),
        (ONE, ask("%2Fprod/x"), Reason.UNKNOWN_METHOD),
        (ONE, ask("?/prod/x"), Reason.UNKNOWN_METHOD),
        (ONE, ask("*", method="OPTIONS"), Reason.UNKNOWN_METHOD),
        (ONE, ask("*", method="OPTIONS", extensions={"stage": "prod"}), Reason.UNKNOWN_METHOD),
        (ONE, ask("http://a1.example.org/prod/x"), Reason.UNKNOWN_METHOD),
        (WILD, ask("xprod/x", host="a.example.org"), Reason.UNKNOWN_METHOD),
        (BASED, ask("xshop/x", host="example.org"), Reason.UNKNOWN_METHOD),
        (ONE, ask("/prod/..;/dev/x"), Reason.UNKNOWN_METHOD),
        (ONE, ask("/prod/..;/x", extensions={"resource": "/"}), Reason.UNKNOWN_METHOD),
        (MAPPED, ask("/other/x", host="shop.example.org"), Reason.UNKNOWN_API),
        (MAPPED, ask("/shopping", host="shop.example.org"), Reason.UNKNOWN_API),
        (MAPPED, ask("/prod/x", extensions={"api": "a9"}), Reason.UNKNOWN_API),
        (MAPPED, ask("/shop/prod/x", host="shop.example.org", extensions={"api": "a2"}), Reason.UNKNOWN_STAGE),
        (DOMAIN, ask("/prod/x", host="a1.example.org"), Reason.UNKNOWN_API),
        (Catalog.compile(Resources()), ask(), Reason.UNKNOWN_API),
        (ONE, ask("/"), Reason.UNKNOWN_STAGE),
        (ONE, ask("/Prod/x"), Reason.UNKNOWN_STAGE),
        (ONE, ask("/prod/x", extensions={"stage": "test"}), Reason.UNKNOWN_STAGE),
        (ONE, ask("/prod/x", method="POST"), Reason.UNKNOWN_METHOD),
    ],
)
def test_a_request_for_nothing_of_ours_is_refused(catalog: Catalog, request_: Request, reason: Reason) -> None:
    """A custom domain answers below its base paths only."""
    denied = catalog.resolve(request_, NOW)
    assert isinstance(denied, Denied)
    assert denied.reason is reason


def test_a_named_resource_skips_route_matching() -> None:
    catalog = Catalog.compile(resources(apis=(api(resources=METHODS),)))
    named = ask("/prod/whatever", None, extensions={"resource": "/open"})
    assert granted(catalog, named).subject.route == next(
        r for r in catalog.apis["a1"].stages["prod"].routes if r.resource == "/open"
    )
    assert granted(catalog, ask("/prod/pets", extensions={"method": "POST"})).subject.route.method == "POST"  # type: ignore[union-attr]


# --- which key ----------------------------------------------------------------------------------------------------

SOON = datetime(2026, 3, 4, 10, 0, 1, tzinfo=UTC)
THE_MOMENT = datetime(2026, 3, 4, 10, 0, 0, tzinfo=UTC)
ELSEWHERE = ApiStage(api_id="a1", stage="dev")
TWO_STAGES = api(stages=(Stage("prod"), Stage("dev")))


@pytest.mark.parametrize(
    ("changed", "request_", "reason"),
    [
        (resources(), ask(key=None), Reason.KEY_MISSING),
        (resources(), ask(headers={"x-api-key": ""}), Reason.KEY_MISSING),
        (resources(), ask(key="k2"), Reason.KEY_UNKNOWN),
        (resources(), ask(headers={"x-api-key": f"{value_of('k1')},{value_of('k1')}"}), Reason.KEY_UNKNOWN),
        (resources(api_keys=(key(enabled=False),)), ask(), Reason.KEY_DISABLED),
        (resources(api_keys=(key(expires_at=THE_MOMENT),)), ask(), Reason.KEY_EXPIRED),
        (resources(api_keys=(key(enabled=False, expires_at=THE_MOMENT),)), ask(), Reason.KEY_DISABLED),
        (resources(usage_plans=()), ask(), Reason.NO_PLAN),
        (resources(usage_plans=(plan(keys=()),)), ask(), Reason.NO_PLAN),
        (resources(usage_plans=(plan(api_stages=()),)), ask(), Reason.NO_PLAN),
        (resources(apis=(TWO_STAGES,), usage_plans=(plan(api_stages=(ELSEWHERE,)),)), ask(), Reason.NO_PLAN),
    ],
)
def test_a_caller_without_a_good_key_is_refused(changed: Resources, request_: Request, reason: Reason) -> None:
    assert refused(changed, request_) is reason


def test_a_verb_in_lower_case_does_not_slip_past_its_method_to_any() -> None:
    """HTTP/2 lets a client send `get`, and some upstreams treat it as GET."""
    methods: dict[HttpMethod, Method] = {"GET": Method(), "ANY": Method(api_key_required=False)}
    catalog = Catalog.compile(resources(apis=(api(resources={"/pets": methods}),)))
    route = granted(catalog, ask("/prod/pets", method="get", host="a1")).subject.route
    assert route == Route("/pets", "GET", api_key_required=True)


def test_a_comma_makes_a_key_unknown_whatever_its_digest() -> None:
    """Envoy joins repeated headers by a comma, so a key with a comma looks like two keys."""
    joined = f"{value_of('k1')},{value_of('k2')}"
    changed = resources(api_keys=(key(value_sha256=digest(joined).hex()),))
    assert refused(changed, ask(headers={"x-api-key": joined})) is Reason.KEY_UNKNOWN


def test_a_key_holds_until_the_moment_it_expires() -> None:
    catalog = Catalog.compile(resources(api_keys=(key(expires_at=SOON),)))
    assert isinstance(catalog.resolve(ask(), NOW + 999_999), Grant)
    assert isinstance(catalog.resolve(ask(), NOW + 1_000_000), Denied)


def test_a_grant_names_the_caller_and_its_plan() -> None:
    changed = resources(usage_plans=(plan(name="Gold"),), api_keys=(key(customer_id="c9"),))
    subject = granted(Catalog.compile(changed), ask()).subject
    assert (subject.key, subject.plan, subject.plan_name, subject.customer) == ("k1", "p1", "Gold", "c9")


def test_a_clear_value_serves_as_well_as_its_digest() -> None:
    catalog = Catalog.compile(resources(api_keys=(key(value=value_of("k1"), value_sha256=None),)))
    assert granted(catalog, ask()).subject.key == "k1"


def test_no_catalog_holds_a_key_in_clear() -> None:
    catalog = Catalog.compile(resources(api_keys=(key(value=value_of("k1"), value_sha256=None),)))
    assert value_of("k1") not in repr(catalog)


# --- which limits -------------------------------------------------------------------------------------------------

FULL = resources(
    account=Account(limited(9.0, 90)),
    apis=(api(resources=METHODS, stages=(Stage("prod", {"*/*": setting(8.0, 80)}),)),),
    usage_plans=(
        plan(
            throttle=limited(1.0, 10),
            quota=QuotaSettings(5, Period.DAY),
            api_stages=(ApiStage("a1", "prod", {"/pets/GET": limited(2.0, 20)}),),
        ),
    ),
)


def test_the_layers_come_in_the_order_that_names_the_refusal() -> None:
    assert [limit.layer for limit in granted(Catalog.compile(FULL), ask()).limits] == list(Layer)


def test_a_keyless_method_has_only_the_shared_layers() -> None:
    """The request may carry a key; its use is not metered."""
    grant = granted(Catalog.compile(FULL, failure_policy=FailurePolicy.DENY), ask("/prod/open"))
    assert [limit.layer for limit in grant.limits] == [Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE]
    assert (grant.meter, grant.subject.key, grant.failure_policy) == (None, "", FailurePolicy.DENY)


def test_state_with_one_owner_lives_in_one_value() -> None:
    """Plan throttle, quota and usage share the caller's ledger; the rest have values of their own."""
    grant = granted(Catalog.compile(FULL, "42"), ask())
    ledger, history = "{42}:v1:ledger:p1:k1", "{42}:v1:history:p1:k1"
    assert [limit.key for limit in grant.limits] == [
        ledger,
        "{42}:v1:method:p1:k1:a1:prod:%2Fpets:GET",
        ledger,
        "{42}:v1:stage:a1:prod:%2Fpets:GET",
        "{42}:v1:account",
    ]
    assert grant.meter == Meter(ledger, history)


def test_a_quota_is_sent_with_the_period_of_the_moment() -> None:
    quota = limits_of(FULL, ask())["plan_quota"].rule
    assert quota == Quota(5, micros("2026-03-04T00:00:00Z"), micros("2026-03-05T00:00:00Z"), "DAY")


def test_a_shadow_plan_has_shadow_limits_and_shared_ones_that_hold() -> None:
    shadowed = plan(mode=Mode.SHADOW, throttle=limited(1.0, 1), quota=QuotaSettings(5, Period.DAY))
    found = limits_of(resources(usage_plans=(shadowed,)), ask())
    assert {layer: limit.shadow for layer, limit in found.items()} == {
        "plan_throttle": True,
        "plan_quota": True,
        "account_throttle": False,
    }


def test_a_plans_failure_policy_goes_before_the_default() -> None:
    own = plan(failure_policy=FailurePolicy.ALLOW)
    catalog = Catalog.compile(resources(usage_plans=(own,)), failure_policy=FailurePolicy.DENY)
    assert granted(catalog, ask()).failure_policy is FailurePolicy.ALLOW
    catalog = Catalog.compile(resources(), failure_policy=FailurePolicy.DENY)
    assert granted(catalog, ask()).failure_policy is FailurePolicy.DENY


GET, POST, ANY = ask(), ask(method="POST"), ask("/prod/any")


@pytest.mark.parametrize(
    ("throttles", "expected"),
    [
        ({}, [None, None, None]),
        ({"/pets/GET": 1}, [1, None, None]),
        ({"/pets/*": 2}, [2, 2, None]),
        ({"/*/*": 3}, [3, 3, 3]),
        ({"/pets/GET": 1, "/pets/*": 2, "/*/*": 3}, [1, 2, 3]),
        ({"/any/ANY": 4, "/*/*": 3}, [3, 3, 4]),
    ],
)
def test_the_most_specific_entry_of_a_plan_wins(throttles: dict[str, int], expected: list[int | None]) -> None:
    settings = {name: limited(1.0, burst) for name, burst in throttles.items()}
    changed = resources(
        apis=(api(resources=METHODS),), usage_plans=(plan(api_stages=(ApiStage("a1", "prod", settings),)),)
    )
    assert bursts(changed, Layer.PLAN_METHOD_THROTTLE, GET, POST, ANY) == expected


def staged(settings: dict[str, MethodSetting]) -> Resources:
    return resources(apis=(api(resources=METHODS, stages=(Stage("prod", settings),)),))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [None, None, None]),
        ({"pets/GET": setting(1.0, 1), "pets/*": setting(1.0, 2), "*/*": setting(1.0, 3)}, [1, 2, 3]),
        ({"~1pets/GET": setting(1.0, 1)}, [1, None, None]),
        ({"*/*": setting(1.0, 3), "pets/GET": setting(-1.0, -1)}, [None, 3, 3]),
        ({"*/*": setting(1.0, 3), "pets/GET": setting(-1.0, 5)}, [None, 3, 3]),
        ({"*/*": setting(2.5, -1)}, [3, 3, 3]),
        ({"*/*": setting(0.0, 0)}, [0, 0, 0]),
        ({"*/*": MethodSetting(throttling_rate_limit=2.0)}, [2, 2, 2]),
        ({"*/*": MethodSetting(throttling_burst_limit=2)}, [None, None, None]),
    ],
)
def test_the_most_specific_setting_of_a_stage_wins(
    settings: dict[str, MethodSetting], expected: list[int | None]
) -> None:
    """A rate of -1 means no limit, a burst of -1 the rate rounded up."""
    assert bursts(staged(settings), Layer.STAGE_METHOD_THROTTLE, GET, POST, ANY) == expected


def test_a_wildcard_gives_each_method_a_bucket_of_its_own() -> None:
    """Only the verbs of ANY share one."""
    changed = staged({"*/*": setting(1.0, 3)})
    requests = (GET, POST, ANY, ask("/prod/any", method="PUT"))
    keys = [limits_of(changed, request)["stage_method_throttle"].key for request in requests]
    assert len(set(keys)) == 3
    assert keys[2] == keys[3]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"any/GET": setting(1.0, 1)}, [1, None, None]),
        ({"any/GET": setting(1.0, 1), "any/ANY": setting(1.0, 2)}, [1, 2, 2]),
        ({"any/GET": setting(1.0, 1), "any/*": setting(1.0, 3), "*/*": setting(1.0, 4)}, [1, 3, 3]),
        ({"any/GET": setting(-1.0, -1), "any/ANY": setting(1.0, 2)}, [None, 2, 2]),
        ({"any/GET": setting(1.0, 1), "any/PUT": setting(1.0, 5)}, [1, 5, None]),
    ],
)
def test_a_verb_of_an_any_method_may_have_settings_of_its_own(
    settings: dict[str, MethodSetting], expected: list[int | None]
) -> None:
    """Such a verb has a bucket of its own; the other verbs share the bucket of ANY."""
    asked = [ask("/prod/any", method=verb) for verb in ("get", "PUT", "PATCH")]
    changed = staged(settings)
    assert bursts(changed, Layer.STAGE_METHOD_THROTTLE, *asked) == expected
    limits = [limits_of(changed, one).get("stage_method_throttle") for one in asked]
    keys = [limit.key for limit in limits if limit]
    shared = expected[1] == expected[2] is not None
    assert len(set(keys)) == len(keys) - shared


def test_a_verb_of_an_api_without_methods_has_one_bucket_for_all_paths() -> None:
    open_to_all = api(resources={}, stages=(Stage("prod", {"//GET": setting(1.0, 1)}),))
    changed = resources(apis=(open_to_all,))
    asked = [ask("/prod/a"), ask("/prod/b"), ask("/prod/a", method="POST")]
    assert bursts(changed, Layer.STAGE_METHOD_THROTTLE, *asked) == [1, 1, None]
    keys = {limits_of(changed, one)["stage_method_throttle"].key for one in asked[:2]}
    assert len(keys) == 1


def test_a_verb_with_settings_of_its_own_is_the_same_method_for_plans() -> None:
    covered = ApiStage("a1", "prod", {"/any/ANY": limited(1.0, 4)})
    stage = Stage("prod", {"any/GET": setting(1.0, 1)})
    changed = resources(apis=(api(resources=METHODS, stages=(stage,)),), usage_plans=(plan(api_stages=(covered,)),))
    asked = [ask("/prod/any"), ask("/prod/any", method="PUT")]
    keys = [limits_of(changed, one)["plan_method_throttle"].key for one in asked]
    assert bursts(changed, Layer.PLAN_METHOD_THROTTLE, *asked) == [4, 4]
    assert keys[0] == keys[1]


def test_all_paths_of_an_api_without_methods_share_one_bucket() -> None:
    """A caller cannot create buckets by inventing paths."""
    changed = resources(apis=(api(resources={}, stages=(Stage("prod", {"*/*": setting(1.0, 3)}),)),))
    requests = (ask("/prod"), ask("/prod/a/b", method="PUT"), ask("/prod//"))
    assert len({limits_of(changed, request)["stage_method_throttle"].key for request in requests}) == 1
    assert refused(changed, ask("/prod/a", key=None)) is Reason.KEY_MISSING


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Account().throttle_settings, 5_000),
        (ThrottleSettings(), None),
        (ThrottleSettings(burst_limit=5), None),
        (ThrottleSettings(rate_limit=2.5), 3),
    ],
)
def test_the_account_limits_all_calls_unless_it_does_not(settings: ThrottleSettings, expected: int | None) -> None:
    assert bursts(resources(account=Account(settings)), Layer.ACCOUNT_THROTTLE, GET) == [expected]


def test_stages_of_two_plans_are_metered_by_their_own() -> None:
    changed = resources(
        apis=(TWO_STAGES,),
        usage_plans=(plan(), plan("p2", api_stages=(ELSEWHERE,), quota=QuotaSettings(1, Period.DAY))),
    )
    catalog = Catalog.compile(changed)
    assert [granted(catalog, ask(path)).subject.plan for path in ("/prod/pets", "/dev/pets")] == ["p1", "p2"]


# --- the store ----------------------------------------------------------------------------------------------------


def test_a_stage_with_a_deployment_serves_that_and_not_its_api() -> None:
    """It serves the deployment's methods, key sources and responses; the other stage serves the API as it is."""
    other: dict[str, dict[HttpMethod, Method]] = {"/toys": {"GET": Method()}}
    worded = {GatewayResponseType.INVALID_API_KEY: GatewayResponse(status_code="401")}
    deployed = Deployment(key_sources=(KeySource(header="x-other"),), resources=other, gateway_responses=worded)
    stages = (Stage("prod", {"toys/GET": setting(1.0, 4)}, deployment=deployed), Stage("dev"))
    covered = (ApiStage("a1", "prod", {"/toys/GET": limited(1.0, 7)}), ELSEWHERE)
    changed = resources(apis=(api(stages=stages),), usage_plans=(plan(api_stages=covered),))
    assert problems(changed) == []
    toys = ask("/prod/toys", headers={"x-other": value_of("k1")})
    assert granted(Catalog.compile(changed), toys).subject.responses is not None
    assert bursts(changed, Layer.STAGE_METHOD_THROTTLE, toys) == [4]
    assert bursts(changed, Layer.PLAN_METHOD_THROTTLE, toys) == [7]
    assert refused(changed, ask("/prod/toys")) is Reason.KEY_MISSING
    assert refused(changed, ask("/prod/pets")) is Reason.UNKNOWN_METHOD
    assert granted(Catalog.compile(changed), ask("/dev/pets")).subject.stage == "dev"


def test_what_points_to_nothing_covers_nothing() -> None:
    """A store may hold a plan for an API, a stage or a method that is gone."""
    gone = (ApiStage("a9", "prod"), ApiStage("a1", "test"), ApiStage("a1", "prod", {"/gone/GET": limited(1.0, 1)}))
    changed = resources(usage_plans=(plan(api_stages=gone),))
    assert "plan_method_throttle" not in limits_of(changed, ask())


def having(*plans: str) -> Find:
    """A look-up that finds only the key k2, in these plans."""
    caller = Caller("k2", enabled=True, expires_us=None, customer="", plans=plans)
    return lambda hashed: caller if hashed == digest(value_of("k2")) else None


def test_a_plan_made_anew_under_the_same_id_is_another() -> None:
    catalog = Catalog.compile(resources(), refs={"p1": "p1.new"})
    found = catalog.resolve(ask(key="k2"), NOW, having("p1.old"))
    assert isinstance(found, Denied)
    assert found.reason is Reason.NO_PLAN
    found = catalog.resolve(ask(key="k2"), NOW, having("p1.old", "p1.new"))
    assert isinstance(found, Grant)
    assert (found.subject.plan, found.subject.key) == ("p1", "k2")


def test_a_key_that_is_not_in_memory_has_to_be_looked_up() -> None:
    found = Catalog.compile(resources()).resolve(ask(key="k2"), NOW, lambda _: UNLOOKED)
    assert isinstance(found, KeyNeeded)
    assert (found.digest, found.subject.stage) == (digest(value_of("k2")), "prod")


def test_the_files_keys_are_found_without_the_store() -> None:
    assert isinstance(Catalog.compile(resources()).resolve(ask(), NOW, lambda _: UNLOOKED), Grant)

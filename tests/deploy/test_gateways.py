"""A real Envoy, configured as a gateway does it: the plans hold without the settings that the gateway lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from authz.core.resources import ApiStage, Host, Period, QuotaSettings, Resources
from tests.deploy.gateways import GATEWAYS, PASSES_CONTEXT
from tests.e2e.stack import Answer, Stack, stack
from tests.support.builders import api, key, plan, resources, value_of
from tests.support.servers import EchoServer, RedisServer, until

KEYS = (key(value=value_of("k1"), value_sha256=None),)
HOST = "api.example.com"
# An API for each way to be found without context extensions, and a plan for each, named like it.
FOUND = resources(
    apis=(
        api("mapped", hosts=(Host(host=HOST, stage="prod"),)),
        api("below", hosts=(Host(host=HOST, base_path="v1", stage="prod"),)),
        api("by-segment", hosts=(Host(host="shop.example.com"),)),
        api("by-label"),
    ),
    usage_plans=tuple(
        plan(name, api_stages=(ApiStage(api_id=name, stage="prod"),), quota=QuotaSettings(limit=2, period=Period.MONTH))
        for name in ("mapped", "below", "by-segment", "by-label")
    ),
    api_keys=KEYS,
)
# Only the context says which of the two.
TOLD = resources(
    apis=(api("pets"), api("other")),
    usage_plans=(plan("pets", api_stages=(ApiStage(api_id="pets", stage="prod"),)),),
    api_keys=KEYS,
)
ONLY = resources(
    apis=(api("only"),), usage_plans=(plan("only", api_stages=(ApiStage(api_id="only", stage="prod"),)),), api_keys=KEYS
)


@contextmanager
def behind(gateway: str, catalog: Resources, redis: RedisServer, echo: EchoServer, hosts: str = "") -> Iterator[Stack]:
    """`hosts` are those that the gateway routes, if not the example's."""
    program = GATEWAYS[gateway]()

    def patch(config: Any) -> None:
        program(config)
        if hosts:
            config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"][
                "route_config"
            ]["virtual_hosts"][0]["domains"] = [hosts]

    with stack(catalog, redis.url, echo.address, patch=patch) as it:
        yield it


@pytest.fixture(scope="module", params=[name for name in GATEWAYS if name not in PASSES_CONTEXT])
def silent(request: pytest.FixtureRequest, redis: RedisServer, echo: EchoServer) -> Iterator[Stack]:
    """Behind a gateway that passes no context, which routes every host."""
    with behind(request.param, FOUND, redis, echo, hosts="*") as it:
        yield it


def plan_of(answer: Answer) -> str:
    """The plan in the upstream's headers."""
    assert answer.status == 200, answer.body
    assert "x-api-key" not in answer.upstream
    return answer.upstream["x-usage-plan-id"]


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        (HOST, "/pets", "mapped"),
        (HOST, "/v1/pets", "below"),
        ("shop.example.com", "/prod/pets", "by-segment"),
        ("by-label.example.org", "/prod/pets", "by-label"),
    ],
)
def test_the_host_and_the_path_say_which_api_and_stage(silent: Stack, host: str, path: str, found: str) -> None:
    """The path reaches the upstream as it was sent, and a client's own word for its plan does not."""
    answer = silent.get(path, "k1", host=host, headers=[("x-usage-plan-id", "the-best")])
    assert (plan_of(answer), answer.path) == (found, path)
    assert silent.get(path, host=host).status == 403
    assert plan_of(silent.get(path, "k1", host=host)) == found
    assert silent.get(path, "k1", host=host).refusal == (429, '{"message":"Limit Exceeded"}')


@pytest.mark.parametrize(
    ("host", "path"), [("shop.example.com", "/none/pets"), ("elsewhere.example.org", "/prod/pets")]
)
def test_who_is_not_found_is_refused(silent: Stack, host: str, path: str) -> None:
    assert silent.get(path, "k1", host=host).refusal == (403, '{"message":"Forbidden"}')


@pytest.mark.parametrize("gateway", [name for name in GATEWAYS if name not in PASSES_CONTEXT])
def test_a_single_api_is_found_at_any_host(gateway: str, redis: RedisServer, echo: EchoServer) -> None:
    with behind(gateway, ONLY, redis, echo, hosts="*") as it:
        assert plan_of(it.get("/prod/pets", "k1", host="anything.example.org")) == "only"


@pytest.mark.parametrize("gateway", PASSES_CONTEXT)
def test_the_extensions_of_the_example_count(gateway: str, redis: RedisServer, echo: EchoServer) -> None:
    """Neither the host nor the path names an API or a stage here."""
    with behind(gateway, TOLD, redis, echo) as it:
        answer = it.get("/pets", "k1", host=HOST, headers=[("x-usage-plan-id", "the-best")])
        assert (plan_of(answer), answer.path) == ("pets", "/pets")
        assert it.get("/pets", host=HOST).status == 403


@pytest.mark.parametrize(
    ("gateway", "status"), [("envoy-gateway", 503), ("envoy-gateway before 1.7", 503), ("istio", 503), ("contour", 403)]
)
def test_without_authz_no_request_is_admitted(gateway: str, status: int, redis: RedisServer, echo: EchoServer) -> None:
    with behind(gateway, TOLD, redis, echo) as it:
        it.sidecar.kill()
        until(lambda: it.get("/pets", "k1", host=HOST).status == status, "not refused", it.envoy)
        assert "headers" not in it.get("/pets", "k1", host=HOST).body


@pytest.mark.parametrize(("gateway", "path"), [("istio", "/prod/pets"), ("contour", "/pets")])
def test_where_authz_is_shown_all_headers_no_spelling_of_its_own_passes(
    gateway: str, path: str, redis: RedisServer, echo: EchoServer
) -> None:
    spelt = [(name, "the-best") for name in ("x_usage_plan_id", "x.usage.plan.id", "x.api_key-id", "X~Customer~Id")]
    catalog, hosts = (TOLD, "") if gateway in PASSES_CONTEXT else (ONLY, "*")
    with behind(gateway, catalog, redis, echo, hosts=hosts) as it:
        answer = it.get(path, "k1", host=HOST, headers=spelt)
        assert (answer.status, "the-best" in answer.body) == (200, False)

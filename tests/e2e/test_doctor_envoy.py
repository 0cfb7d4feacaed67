"""Each trap of an Envoy is planted in a real one: the doctor finds it, and nothing where none is planted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from authz.config.file import load
from authz.core.resources import Api, AuthorizerSource, CostFrom, KeySource
from authz.doctor.examine import examine
from authz.doctor.facts import Envoy, Facts
from authz.doctor.fetch import Targets, look
from authz.doctor.rules.envoy import ENVOY_RULES
from authz.envoy.config import EnvoyOptions, Tls, render
from tests.e2e.stack import ext_authz, http_manager
from tests.support.builders import api
from tests.support.servers import (
    HOST,
    AuthzServer,
    EnvoyServer,
    RedisServer,
    authz_serve,
    envoy,
    free_port,
    is_ok,
    until,
)
from tests.support.topologies import Certificates

ROOT = Path(__file__).parents[2]
FILE = ROOT / "authz/samples/plans.yaml"
SAMPLE = load(FILE).resources
EXT_AUTHZ = "envoy.filters.http.ext_authz"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"

Patch = Callable[[Any], object]


@pytest.fixture(scope="module")
def sidecar(redis: RedisServer) -> Iterator[AuthzServer]:
    """Two workers, as a machine with two cores has; their settings are the defaults."""
    with authz_serve(FILE, "--redis-url", redis.url, workers=2) as server:
        yield server


def config(sidecar: AuthzServer, patch: Patch = lambda _: None) -> str:
    """What `authz envoy-config` prints for the sidecar, broken in one place."""
    options = EnvoyOptions(
        listen=f"{HOST}:{free_port()}",
        admin=f"{HOST}:{free_port()}",
        upstream=f"{HOST}:{free_port()}",
        authz=tuple(sidecar.endpoints),
        stats_listen=f"{HOST}:{free_port()}",
    )
    parsed = yaml.safe_load(render(SAMPLE, options))
    patch(parsed)
    return yaml.safe_dump(parsed, sort_keys=False)


def seen(server: EnvoyServer, sidecar: AuthzServer, apis: tuple[Api, ...] = SAMPLE.apis) -> Facts:
    facts = asyncio.run(look(Targets(envoys=[server.admin], sidecars=[sidecar.http], apis=apis)))
    assert facts.silent == {}
    return facts


def found(facts: Facts) -> list[str]:
    return [finding.id for finding in examine(facts)]


# --- the places that are broken -----------------------------------------------------------------------------------


def filters(it: Any) -> Any:
    return http_manager(it)["http_filters"]


def service(it: Any) -> Any:
    return ext_authz(it)["grpc_service"]


def routes(it: Any) -> Any:
    return http_manager(it)["route_config"]


def host(it: Any) -> Any:
    return routes(it)["virtual_hosts"][0]


def cluster(it: Any) -> Any:
    return it["static_resources"]["clusters"][0]


def endpoints(it: Any) -> Any:
    return cluster(it)["load_assignment"]["endpoints"][0]["lb_endpoints"]


def breaker(it: Any) -> Any:
    return cluster(it)["circuit_breakers"]["thresholds"][0]


def shown(it: Any) -> Any:
    return ext_authz(it)["allowed_headers"]["patterns"]


def endpoint(address: str, port: int) -> Any:
    return {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}


def no_filter(it: Any) -> None:
    filters(it)[:] = [one for one in filters(it) if one["name"] != EXT_AUTHZ]
    del host(it)["typed_per_filter_config"]


def disabled_route(it: Any) -> None:
    off = {EXT_AUTHZ: {"@type": PER_ROUTE, "disabled": True}}
    route = {"match": {"prefix": "/open"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": off}
    exact = {**route, "match": {"path": "/healthz"}}
    host(it)["routes"][:0] = [route, exact]


def disabled_in_words_of_envoys(it: Any) -> None:
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    off = {**off, "config": {"@type": PER_ROUTE, "disabled": True}, "disabled": False}
    route = {"match": {"prefix": "/open"}, "route": {"cluster": "upstream"}}
    host(it)["routes"][:0] = [{**route, "typed_per_filter_config": {EXT_AUTHZ: off}}]


def matched(it: Any) -> None:
    """Routes that are picked by a tree."""
    kind = "type.googleapis.com/envoy.config.route.v3.Route"
    leaf = {"action": {"name": "route", "typed_config": {"@type": kind, **host(it).pop("routes")[-1]}}}
    host(it)["matcher"] = {"on_no_match": leaf}


def asked_by_metadata(it: Any) -> None:
    """As Istio does it."""
    marks = {"filter": "istio_ext_authz", "path": [{"key": "on"}], "value": {"bool_match": True}}
    ext_authz(it)["filter_enabled_metadata"] = marks


def picked_by_header(it: Any) -> None:
    """A route whose clusters have no names in the configuration."""
    parts = [{"cluster_header": "x-cluster", "weight": 1}, {"name": "upstream", "weight": 1}]
    host(it)["routes"][:0] = [{"match": {"path": "/x"}, "route": {"weighted_clusters": {"clusters": parts}}}]


def filter_for_each_route(it: Any) -> None:
    """As gateways do it: each is switched off, but for the routes that it is for."""
    mine = next(one for one in filters(it) if one["name"] == EXT_AUTHZ)
    mine["disabled"] = True
    other = {**json.loads(json.dumps(mine)), "name": f"{EXT_AUTHZ}/other"}
    filters(it).insert(-1, other)
    whole = routes(it)["virtual_hosts"][0].pop("typed_per_filter_config")[EXT_AUTHZ]
    last = host(it)["routes"][-1]
    first = {**last, "match": {"prefix": "/other"}, "typed_per_filter_config": {f"{EXT_AUTHZ}/other": whole}}
    host(it)["routes"] = [first, {**last, "typed_per_filter_config": {EXT_AUTHZ: whole}}]


def disabled_host(it: Any) -> None:
    host(it)["typed_per_filter_config"] = {EXT_AUTHZ: {"@type": PER_ROUTE, "disabled": True}}


def disabled_filter(it: Any) -> None:
    next(one for one in filters(it) if one["name"] == EXT_AUTHZ)["disabled"] = True
    del host(it)["typed_per_filter_config"]


def second_listener(it: Any) -> None:
    listeners = it["static_resources"]["listeners"]
    other = json.loads(json.dumps(listeners[0]))
    other["name"] = "internal"
    other["address"]["socket_address"]["port_value"] = free_port()
    listeners.append(other)
    manager = other["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != EXT_AUTHZ]
    del manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]


def scoped(it: Any) -> None:
    manager = http_manager(it)
    extractor = {"name": "x-scope", "element_separator": ",", "index": 0}
    key = {"fragments": [{"string_key": "a"}]}
    one = {"name": "a", "route_configuration": manager.pop("route_config"), "key": key}
    manager["scoped_routes"] = {
        "name": "scopes",
        "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]},
        "scoped_route_configurations_list": {"scoped_route_configurations": [one]},
    }


def cors_last(it: Any) -> None:
    filters(it).insert(-1, filters(it).pop(0))


def without(name: str) -> Patch:
    """Without this option of the connection manager."""
    return lambda it: http_manager(it).pop(name)


def check_timeout(duration: str) -> Patch:
    def patch(it: Any) -> None:
        service(it)["timeout"] = service(it)["retry_policy"]["retry_back_off"]["max_interval"] = duration
        cluster(it)["connect_timeout"] = "0.010s"

    return patch


def tcp_health(it: Any) -> None:
    [check] = cluster(it)["health_checks"]
    del check["grpc_health_check"]
    check["tcp_health_check"] = {}


def http1(it: Any) -> None:
    del cluster(it)["typed_extension_protocol_options"]
    del cluster(it)["health_checks"]


def tls(it: Any) -> None:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    cluster(it)["transport_socket"] = {"name": "tls", "typed_config": {"@type": kind}}
    del cluster(it)["health_checks"]


def elsewhere(it: Any) -> None:
    """A network for documentation, without any host."""
    endpoints(it)[:] = [endpoint("192.0.2.1", 50051), endpoint("192.0.2.2", 50051)]
    del cluster(it)["health_checks"]


AUTHORIZED = (api("a1", api_key_source="AUTHORIZER", authorizer=AuthorizerSource(namespace="com.example.login")),)


@dataclass(frozen=True)
class Trap:
    """A planted mistake: where it is found, and which other findings follow from it."""

    id: str
    where: str
    patch: Patch
    also: tuple[str, ...] = ()
    apis: tuple[Api, ...] = SAMPLE.apis
    seen: str = ""
    name: str = field(default="", kw_only=True)


MANAGER = "listener ingress"
FILTER = f"{MANAGER}, filter {EXT_AUTHZ}"
HOST_NAME = f"{MANAGER}, virtual host any other host"
CLUSTER = "cluster authz"

TRAPS = (
    Trap("nothing-asks", "Envoy at", no_filter),
    Trap("fail-open", FILTER, lambda it: ext_authz(it).update(failure_mode_allow=True)),
    Trap("shadow-mode", FILTER, lambda it: ext_authz(it).update(shadow_mode=True)),
    Trap(
        "partly-enabled",
        FILTER,
        lambda it: ext_authz(it).update(filter_enabled={"default_value": {"numerator": 5000, "denominator": 1}}),
        seen="50%",
    ),
    Trap("nothing-checked", FILTER, disabled_host, name="host"),
    Trap("nothing-checked", FILTER, disabled_filter, name="filter"),
    Trap("route-not-checked", HOST_NAME, disabled_route, seen="prefix /open"),
    Trap("route-not-checked", HOST_NAME, disabled_in_words_of_envoys, seen="prefix /open", name="wrapped"),
    Trap("way-around", "listener internal", second_listener, seen="upstream"),
    Trap("no-catch-all", HOST_NAME, lambda it: host(it)["routes"][-1].update(match={"prefix": "/prod"})),
    Trap("routes-not-seen", MANAGER, scoped),
    Trap("routes-not-seen", HOST_NAME, matched, seen="matcher", name="matcher"),
    Trap("asked-by-metadata", FILTER, asked_by_metadata, seen="istio_ext_authz"),
    Trap("status-on-error", FILTER, lambda it: ext_authz(it).pop("status_on_error"), seen="Forbidden"),
    Trap(
        "status-on-error",
        FILTER,
        lambda it: ext_authz(it).update(status_on_error={"code": "BadRequest"}),
        seen="BadRequest",
        name="4xx",
    ),
    Trap("refusals-charged-to-upstream", FILTER, lambda it: ext_authz(it).pop("charge_cluster_response_stats")),
    Trap("no-deadline", FILTER, lambda it: service(it).update(timeout="0s")),
    Trap("redis-timeout-above-check-timeout", FILTER, check_timeout("0.040s"), seen="redisTimeoutMs 50"),
    Trap(
        "connect-timeout-above-check-timeout", CLUSTER, lambda it: cluster(it).update(connect_timeout="1s"), seen="1000"
    ),
    Trap(
        "retry-cuts-the-try",
        FILTER,
        lambda it: service(it)["retry_policy"]["retry_back_off"].update(max_interval="0.020s"),
        seen="max_interval 20 ms",
        name="set",
    ),
    Trap(
        "retry-cuts-the-try",
        FILTER,
        lambda it: service(it)["retry_policy"]["retry_back_off"].pop("max_interval"),
        seen="max_interval 20 ms",
        name="ten times the base",
    ),
    Trap("retry-burns-the-deadline", FILTER, lambda it: service(it)["retry_policy"].pop("retry_back_off")),
    Trap("no-retry", FILTER, lambda it: service(it).pop("retry_policy")),
    Trap("few-retries", CLUSTER, lambda it: breaker(it).pop("max_retries")),
    Trap("path-not-normalised", MANAGER, without("normalize_path"), seen="normalize_path", name="dots"),
    Trap("path-not-normalised", MANAGER, without("merge_slashes"), seen="merge_slashes", name="slashes"),
    Trap(
        "path-not-normalised",
        MANAGER,
        lambda it: http_manager(it).update(path_with_escaped_slashes_action="KEEP_UNCHANGED"),
        seen="path_with_escaped_slashes_action",
        name="escaped",
    ),
    Trap("cors-after-ext-authz", FILTER, cors_last),
    Trap("headers-not-restricted", FILTER, lambda it: ext_authz(it).pop("allowed_headers")),
    Trap("header-not-shown", FILTER, lambda it: shown(it).pop(), seen="x-api-key", name="missing"),
    Trap(
        "header-not-shown",
        FILTER,
        lambda it: ext_authz(it).update(disallowed_headers={"patterns": [{"prefix": "x-api"}]}),
        seen="x-api-key",
        name="disallowed",
    ),
    Trap("metadata-not-shown", FILTER, lambda _: None, apis=AUTHORIZED, seen="com.example.login"),
    Trap("failure-header-kept", MANAGER, lambda it: routes(it).pop("request_headers_to_remove")),
    Trap("remote-address-not-used", MANAGER, without("use_remote_address")),
    Trap("lookalikes-not-shown", FILTER, lambda it: shown(it).pop(0), seen="x_api_key_id"),
    Trap("clear-route-cache", FILTER, lambda it: ext_authz(it).update(clear_route_cache=True)),
    Trap("body-sent", FILTER, lambda it: ext_authz(it).update(with_request_body={"max_request_bytes": 1024})),
    Trap(
        "body-too-large",
        FILTER,
        lambda it: ext_authz(it).update(with_request_body={"max_request_bytes": 1 << 20}),
        seen="1048576",
        also=("body-sent",),
    ),
    Trap("one-endpoint-for-many-workers", CLUSTER, lambda it: endpoints(it).pop(), seen="1 endpoint for 2 workers"),
    Trap("cluster-not-http2", CLUSTER, http1, also=("no-health-check",)),
    Trap("no-health-check", CLUSTER, lambda it: cluster(it).pop("health_checks")),
    Trap("health-check-not-grpc", CLUSTER, tcp_health, seen="tcp_health_check"),
    Trap(
        "drain-shorter-than-health-check",
        CLUSTER,
        lambda it: cluster(it)["health_checks"][0].update(interval="3s"),
        seen="noticed after 6 s, and drainSeconds is 6",
    ),
    Trap("health-told-late", CLUSTER, lambda it: cluster(it).pop("common_lb_config")),
    Trap("no-outlier-detection", CLUSTER, lambda it: cluster(it).pop("outlier_detection")),
    Trap("breaker-below-workers", CLUSTER, lambda it: breaker(it).update(max_requests=199), seen="199"),
    Trap("breaker-far-above-workers", CLUSTER, lambda it: breaker(it).pop("max_requests"), seen="1024"),
    Trap("tls-mismatch", CLUSTER, tls, also=("no-health-check", "tls-not-verified")),
    Trap("tls-not-verified", CLUSTER, tls, also=("no-health-check", "tls-mismatch")),
    Trap("checks-in-the-clear", CLUSTER, elsewhere, also=("no-health-check",), seen="192.0.2.1"),
    Trap(
        "unhealthy-endpoint",
        CLUSTER,
        lambda it: endpoints(it).append(endpoint(HOST, free_port())),
        also=("breaker-below-workers",),
        seen="1 of 3 are out",
    ),
    Trap(
        "admin-open",
        "Envoy at",
        lambda it: it["admin"]["address"]["socket_address"].update(address="0.0.0.0"),
        seen="admin on 0.0.0.0",
    ),
)


# --- ways past a filter that stands where it should ------------------------------------------------------------------

TYPES = "type.googleapis.com/envoy."
ACCESS = f"{TYPES}extensions.access_loggers"
KEPT = {"@type": f"{TYPES}extensions.filters.http.router.v3.Router"}
IN_QUERY = (api("a1", key_sources=(KeySource(header="x-api-key"), KeySource(query="api_key"))),)
IN_COOKIE = (api("a1", key_sources=(KeySource(header="x-api-key"), KeySource(cookie="key"))),)


def mine(it: Any) -> Any:
    return next(one for one in filters(it) if one["name"] == EXT_AUTHZ)


def last_route(it: Any) -> Any:
    return host(it)["routes"][-1]


def upgrades(*before: str) -> Patch:
    """WebSockets have filters of their own: the router, and these of the usual ones before it."""

    def patch(it: Any) -> None:
        chain = [one for one in filters(it) if one["name"] in before] + [{"name": "router", "typed_config": KEPT}]
        http_manager(it)["upgrade_configs"] = [{"upgrade_type": "websocket", "filters": chain}]

    return patch


def upgrades_that_ask_in_vain(it: Any) -> None:
    upgrades(EXT_AUTHZ)(it)
    chain = http_manager(it)["upgrade_configs"][0]["filters"]
    chain[0] = json.loads(json.dumps(chain[0]))
    chain[0]["typed_config"]["failure_mode_allow"] = True


def other_listener(it: Any, network: Any) -> None:
    """A listener with one network filter."""
    address = {"socket_address": {"address": HOST, "port_value": free_port()}}
    chains = [{"filters": [network]}]
    it["static_resources"]["listeners"].append({"name": "internal", "address": address, "filter_chains": chains})


def tcp_proxy(**where: Any) -> Patch:
    kind = f"{TYPES}extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return lambda it: other_listener(it, {"name": "tcp", "typed_config": {"@type": kind, "stat_prefix": "t", **where}})


def tcp_to_a_twin(it: Any) -> None:
    """Another cluster with the same hosts."""
    clusters = it["static_resources"]["clusters"]
    upstream = json.loads(json.dumps(next(one for one in clusters if one["name"] == "upstream")))
    upstream["name"] = upstream["load_assignment"]["cluster_name"] = "twin"
    clusters.append(upstream)
    tcp_proxy(cluster="twin")(it)


def second_listener_with(action: Any) -> Patch:
    """A listener without the filter, with one route."""

    def patch(it: Any) -> None:
        second_listener(it)
        manager = it["static_resources"]["listeners"][-1]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["routes"] = [{"match": {"prefix": "/"}, "route": action}]

    return patch


def weighted(it: Any) -> None:
    off = {EXT_AUTHZ: {"@type": PER_ROUTE, "disabled": True}}
    parts = [{"name": "upstream", "weight": 9}, {"name": "authz", "weight": 1, "typed_per_filter_config": off}]
    last_route(it)["route"] = {"weighted_clusters": {"clusters": parts}}


def elsewhere_asked(it: Any) -> None:
    settings = {"grpc_service": {"envoy_grpc": {"cluster_name": "upstream"}}}
    said = {EXT_AUTHZ: {"@type": PER_ROUTE, "check_settings": settings}}
    route = {"match": {"prefix": "/other"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": said}
    host(it)["routes"].insert(0, route)


def by_matcher(it: Any) -> None:
    """The filter hangs in a `composite`: what the matcher does not name is not checked."""
    inner = mine(it)["typed_config"]
    header = {"@type": f"{TYPES}type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "x-checked"}
    action = {
        "@type": f"{TYPES}extensions.filters.http.composite.v3.ExecuteFilterAction",
        "typed_config": {"name": EXT_AUTHZ, "typed_config": inner},
    }
    matched = {"yes": {"action": {"name": "check", "typed_config": action}}}
    tree = {"input": {"name": "header", "typed_config": header}, "exact_match_map": {"map": matched}}
    mine(it)["typed_config"] = {
        "@type": f"{TYPES}extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {
            "name": "composite",
            "typed_config": {"@type": f"{TYPES}extensions.filters.http.composite.v3.Composite"},
        },
        "xds_matcher": {"matcher_tree": tree},
    }
    del host(it)["typed_per_filter_config"]


def skipped_by_matcher(it: Any) -> None:
    """The filter itself, skipped for some requests."""
    inner = mine(it)["typed_config"]
    header = {"@type": f"{TYPES}type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "x-free"}
    action = {"@type": f"{TYPES}extensions.filters.common.matcher.action.v3.SkipFilter"}
    tree = {
        "input": {"name": "header", "typed_config": header},
        "exact_match_map": {"map": {"yes": {"action": {"name": "skip", "typed_config": action}}}},
    }
    mine(it)["typed_config"] = {
        "@type": f"{TYPES}extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {"name": "inner", "typed_config": inner},
        "xds_matcher": {"matcher_tree": tree},
    }


def runtime(value: Any) -> Patch:
    """All requests by the filter's own words, and another share by the runtime."""

    def patch(it: Any) -> None:
        ext_authz(it)["filter_enabled"] = {"default_value": {"numerator": 100}, "runtime_key": "authz.on"}
        it["layered_runtime"] = {"layers": [{"name": "static", "static_layer": {"authz.on": value}}]}

    return patch


def rules_of_mutation(**rules: Any) -> Patch:
    return lambda it: ext_authz(it).update(decoder_header_mutation_rules=rules)


def beside(kind: str, config: Any, *, after: bool = False) -> Patch:
    """Another HTTP filter, just before or just after ours."""

    def patch(it: Any) -> None:
        one = {"name": "other", "typed_config": {"@type": f"{TYPES}extensions.filters.http.{kind}", **config}}
        filters(it).insert(filters(it).index(mine(it)) + after, one)

    return patch


MEMORY = {"typed_config": {"@type": f"{TYPES}extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"}}
CACHE = ("cache.v3.CacheConfig", MEMORY)
LUA = ("lua.v3.Lua", {"default_source_code": {"inline_string": "function envoy_on_request(handle) end"}})
ADDED = {"header": {"key": "X-Api-Key-Id", "value": "%REQ(x-me)%"}}
MUTATION = "header_mutation.v3.HeaderMutation"
TAP_CONFIG = {"common_config": {"admin_config": {"config_id": "one"}}}


def logs(kind: str, **config: Any) -> Patch:
    one = {"name": "log", "typed_config": {"@type": f"{ACCESS}.{kind}", **config}}
    return lambda it: http_manager(it).update(access_log=[one])


def listener_logs(it: Any) -> None:
    text = {"text_format_source": {"inline_string": "%REQ(X-API-KEY)%"}}
    one = {"name": "log", "typed_config": {"@type": f"{ACCESS}.stream.v3.StderrAccessLog", "log_format": text}}
    it["static_resources"]["listeners"][0]["access_log"] = [one]


def grpc_logs(it: Any) -> None:
    common = {"log_name": "a", "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}}, "transport_api_version": "V3"}
    config = {"common_config": common, "additional_request_headers_to_log": ["x-api-key"]}
    logs("grpc.v3.HttpGrpcAccessLogConfig", **config)(it)


def traced(it: Any) -> None:
    tag = {"tag": "key", "request_header": {"name": "x-api-key"}}
    http_manager(it)["tracing"] = {"custom_tags": [tag]}


def tapped_socket(it: Any) -> None:
    """Of all that comes over the wire."""
    chain = it["static_resources"]["listeners"][0]["filter_chains"][0]
    raw = {"name": "raw", "typed_config": {"@type": f"{TYPES}extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}
    config = {"@type": f"{TYPES}extensions.transport_sockets.tap.v3.Tap", **TAP_CONFIG, "transport_socket": raw}
    chain["transport_socket"] = {"name": "tap", "typed_config": config}


def by_google(it: Any) -> None:
    service(it)["google_grpc"] = {"target_uri": f"{HOST}:{free_port()}", "stat_prefix": "google"}
    del service(it)["envoy_grpc"]
    del service(it)["retry_policy"]


TEXT_KEY = {"log_format": {"text_format": "%REQ(:METHOD)% %REQ(X-Forwarded-Key?X-API-KEY):8%\n"}}
JSON_KEY = {"log_format": {"json_format": {"request": {"key": "%REQ(x-api-key)%"}}}}

WAYS_PAST = (
    Trap("upgrade-not-checked", f"{MANAGER}, upgrade to websocket", upgrades(), seen="none of them asks"),
    Trap("fail-open", f"{MANAGER}, upgrade to websocket", upgrades_that_ask_in_vain, name="upgrade"),
    Trap("way-around", "listener internal", tcp_proxy(cluster="upstream"), seen="below HTTP", name="tcp"),
    Trap(
        "way-around",
        "listener internal",
        tcp_proxy(weighted_clusters={"clusters": [{"name": "upstream", "weight": 1}]}),
        seen="upstream below HTTP",
        name="weighted tcp",
    ),
    Trap("way-around", "listener internal", tcp_to_a_twin, seen="twin below HTTP", name="same hosts"),
    Trap(
        "way-around",
        "listener internal",
        second_listener_with({"cluster_header": "x-to"}),
        seen="that x-to names",
        name="picked by the client",
    ),
    Trap(
        "way-around",
        "listener internal",
        second_listener_with({"cluster": "authz", "request_mirror_policies": [{"cluster": "upstream"}]}),
        seen="upstream",
        name="copies",
    ),
    Trap("route-not-checked", HOST_NAME, weighted, seen="weighted cluster authz", name="weighted"),
    Trap("checked-elsewhere", HOST_NAME, elsewhere_asked, seen="asks upstream"),
    Trap("asked-by-matcher", FILTER, by_matcher, name="composite"),
    Trap("asked-by-matcher", FILTER, skipped_by_matcher, name="skipped"),
    Trap("partly-enabled", FILTER, runtime(0), seen="runtime value authz.on", name="runtime"),
    Trap(
        "partly-enabled",
        FILTER,
        runtime({"numerator": 1, "denominator": "TEN_THOUSAND"}),
        seen="runtime value authz.on",
        name="runtime fraction",
    ),
    Trap("mutation-refused", FILTER, rules_of_mutation(disallow_all=True), seen="x-api-key-id", name="all"),
    Trap(
        "mutation-refused",
        FILTER,
        rules_of_mutation(disallow_expression={"regex": "x-api-key.*"}),
        seen="forbids x-api-key-id, x-api-key",
        name="some",
    ),
    Trap(
        "mutation-refused",
        FILTER,
        rules_of_mutation(disallow_system=True),
        also=("header-not-shown",),
        apis=(*IN_COOKIE, api("a2", key_sources=IN_QUERY[0].key_sources)),
        seen="forbids :path",
        name="path",
    ),
    Trap("cache-before-ext-authz", FILTER, beside(*CACHE)),
    Trap("cache-after-ext-authz", FILTER, beside(*CACHE, after=True)),
    Trap("code-before-ext-authz", FILTER, beside(*LUA), seen="Lua"),
    Trap("code-after-ext-authz", FILTER, beside(*LUA, after=True), seen="Lua"),
    Trap("key-logged", MANAGER, logs("stream.v3.StdoutAccessLog", **TEXT_KEY), seen="x-api-key", name="text"),
    Trap("key-logged", MANAGER, logs("stream.v3.StdoutAccessLog", **JSON_KEY), seen="x-api-key", name="json"),
    Trap("key-logged", MANAGER, grpc_logs, seen="x-api-key", name="grpc"),
    Trap("key-logged", MANAGER, listener_logs, seen="x-api-key", name="listener"),
    Trap("key-logged", f"{MANAGER}, tracing", traced, seen="x-api-key", name="trace"),
    Trap(
        "key-logged",
        MANAGER,
        logs("stream.v3.StdoutAccessLog"),
        apis=IN_QUERY,
        seen=":path",
        name="query in Envoy's own format",
    ),
    Trap("tapped", MANAGER, beside("tap.v3.Tap", TAP_CONFIG), seen="filter other", name="filter"),
    Trap("tapped", MANAGER, tapped_socket, seen="socket", name="socket"),
    Trap(
        "identity-overwritten",
        HOST_NAME,
        lambda it: last_route(it).update(request_headers_to_add=[ADDED]),
        seen="x-api-key-id",
        name="route",
    ),
    Trap(
        "identity-overwritten",
        HOST_NAME,
        lambda it: host(it).update(request_headers_to_add=[{"header": {"key": "x_customer_id", "value": "me"}}]),
        seen="x_customer_id",
        name="underscores",
    ),
    Trap(
        "identity-overwritten",
        f"{MANAGER}, routes",
        lambda it: routes(it)["request_headers_to_remove"].append("x-usage-plan-id"),
        seen="x-usage-plan-id",
        name="removed",
    ),
    Trap(
        "identity-overwritten",
        f"{MANAGER}, filter other",
        beside(MUTATION, {"mutations": {"request_mutations": [{"append": ADDED}]}}, after=True),
        seen="x-api-key-id",
        name="filter",
    ),
    Trap("redirect-followed", HOST_NAME, lambda it: last_route(it)["route"].update(internal_redirect_policy={})),
    Trap("google-grpc", FILTER, by_google, also=("no-retry",)),
)


COST = "com.example.cost"
COSTED = (api("a1", cost_from=CostFrom((COST, "tokens"), max=10)),)
TOKENS = {"metadata_namespace": COST, "key": "tokens", "type": "NUMBER"}
FROM_JSON = (
    "json_to_metadata.v3.JsonToMetadata",
    {"request_rules": {"rules": [{"selectors": [{"key": "max_tokens"}], "on_present": TOKENS}]}},
)
FROM_HEADER = (
    "header_to_metadata.v3.Config",
    {"request_rules": [{"header": "x-request-cost", "on_header_present": TOKENS}]},
)
SET_ALWAYS = ("set_metadata.v3.Config", {"metadata": [{"metadata_namespace": COST, "value": {"tokens": 5}}]})


def passed_on(patch: Patch = lambda _: None) -> Patch:
    """With the namespace of the cost passed on to authz."""

    def both(it: Any) -> None:
        ext_authz(it)["metadata_context_namespaces"] = [COST]
        patch(it)

    return both


COSTS = (
    Trap("cost-not-shown", FILTER, beside(*FROM_JSON), apis=COSTED, seen=f"{COST} is not passed on"),
    Trap("cost-not-written", FILTER, passed_on(), apis=COSTED, seen="no filter before it does", name="no writer"),
    Trap(
        "cost-not-written",
        FILTER,
        passed_on(beside(*FROM_JSON, after=True)),
        apis=COSTED,
        seen="other comes after it",
        name="late",
    ),
    Trap(
        "cost-not-written",
        FILTER,
        passed_on(beside(MUTATION, {})),
        apis=COSTED,
        seen="no filter before it does",
        name="another",
    ),
    Trap(
        "cost-from-header",
        f"{MANAGER}, filter other",
        passed_on(beside(*FROM_HEADER)),
        apis=COSTED,
        seen="reads x-request-cost",
    ),
)


@pytest.mark.parametrize("kind", [FROM_JSON, SET_ALWAYS, LUA], ids=["json", "set", "lua"])
def test_a_cost_that_is_written_before_the_check_is_no_trap(kind: tuple[str, Any], sidecar: AuthzServer) -> None:
    with envoy(config(sidecar, passed_on(beside(*kind)))) as server:
        assert not [name for name in found(seen(server, sidecar, COSTED)) if name.startswith("cost")]


def test_a_route_may_write_the_cost(sidecar: AuthzServer) -> None:
    def patch(it: Any) -> None:
        kind, rules = FROM_HEADER
        typed = f"{TYPES}extensions.filters.http.{kind}"
        last_route(it)["typed_per_filter_config"] = {"other": {"@type": typed, **rules}}
        beside(kind, {})(it)

    with envoy(config(sidecar, passed_on(patch))) as server:
        assert "cost-not-written" not in found(seen(server, sidecar, COSTED))


@pytest.mark.parametrize(
    "trap", [*TRAPS, *WAYS_PAST, *COSTS], ids=lambda trap: f"{trap.id}-{trap.name}".removesuffix("-")
)
def test_a_planted_trap_is_found_and_nothing_else(trap: Trap, sidecar: AuthzServer) -> None:
    with envoy(config(sidecar, trap.patch)) as server:
        facts = seen(server, sidecar, trap.apis)
    findings = examine(facts)
    assert {finding.id for finding in findings} == {trap.id, *trap.also}, findings
    [finding] = [finding for finding in findings if finding.id == trap.id]
    assert finding.where.startswith(trap.where)
    assert trap.seen in finding.seen
    assert finding.fix


def routes_from_file(scratch: Path) -> Patch:
    def patch(it: Any) -> None:
        kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
        (scratch / "routes.yaml").write_text(
            yaml.safe_dump({"resources": [{"@type": kind, **http_manager(it).pop("route_config")}]})
        )
        source = {"path_config_source": {"path": str(scratch / "routes.yaml")}, "resource_api_version": "V3"}
        it["node"] = {"id": "one", "cluster": "test"}
        http_manager(it)["rds"] = {"route_config_name": "ingress", "config_source": source}

    return patch


def cluster_from_file(scratch: Path) -> Patch:
    def patch(it: Any) -> None:
        kind = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        moved = {"@type": kind, **it["static_resources"]["clusters"].pop(0)}
        (scratch / "clusters.yaml").write_text(yaml.safe_dump({"resources": [moved]}))
        source = {"path_config_source": {"path": str(scratch / "clusters.yaml")}, "resource_api_version": "V3"}
        it["dynamic_resources"] = {"cds_config": source}
        it["node"] = {"id": "one", "cluster": "test"}

    return patch


@pytest.mark.parametrize("moved", [None, routes_from_file, cluster_from_file], ids=["static", "rds", "cds"])
def test_nothing_is_found_in_what_we_print(
    moved: Callable[[Path], Patch] | None, sidecar: AuthzServer, tmp_path: Path
) -> None:
    """However Envoy comes by it."""
    with envoy(config(sidecar, moved(tmp_path) if moved else lambda _: None)) as server:
        until(lambda: all(seen(server, sidecar).envoys[0].clusters["authz"].hosts.values()), "not healthy", server)
        facts = seen(server, sidecar)
    assert [check.where for check in facts.checks()] == [FILTER]
    assert len(facts.envoys[0].clusters["authz"].hosts) == 2
    assert facts.envoys[0].checks[0].manager.routes is not None
    assert examine(facts) == []


def test_a_filter_that_is_switched_on_by_the_virtual_host_is_no_trap(sidecar: AuthzServer) -> None:
    """Gateways configure it so. Envoy asks: authz says 403, and the upstream is not there."""

    def patch(it: Any) -> None:
        next(one for one in filters(it) if one["name"] == EXT_AUTHZ)["disabled"] = True

    with envoy(config(sidecar, patch)) as server:
        assert ask(server) == 403
        assert found(seen(server, sidecar)) == []


SHIPPED = sorted((ROOT / "deploy").rglob("envoy.yaml"))


def moved_here(text: str, sidecar: AuthzServer) -> str:
    """With addresses of this machine in the place of a container's."""
    it = yaml.safe_load(text)
    for place in (it["admin"], *it["static_resources"]["listeners"]):
        place["address"]["socket_address"].update(address=HOST, port_value=free_port())
    for one, address in zip(endpoints(it), sidecar.endpoints, strict=True):
        host, _, port = address.rpartition(":")
        one["endpoint"]["address"]["socket_address"].update(address=host, port_value=int(port))
    return yaml.safe_dump(it, sort_keys=False)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_nothing_is_found_in_what_we_ship(path: Path, sidecar: AuthzServer) -> None:
    with envoy(moved_here(path.read_text("utf-8"), sidecar)) as server:
        until(lambda: all(seen(server, sidecar).envoys[0].clusters["authz"].hosts.values()), "not healthy", server)
        facts = seen(server, sidecar)
    assert len(facts.envoys[0].clusters["authz"].hosts) == 2
    assert examine(facts) == []


@pytest.mark.parametrize("patch", [picked_by_header, filter_for_each_route])
def test_nothing_is_found_in_what_others_print(patch: Patch, sidecar: AuthzServer) -> None:
    with envoy(config(sidecar, patch)) as server:
        assert found(seen(server, sidecar)) == []


def asks_another_too(it: Any) -> None:
    """A listener of another team's, which lets everybody in while its own authorizer is away."""
    second_listener(it)
    theirs = it["static_resources"]["listeners"][-1]["filter_chains"][0]["filters"][0]["typed_config"]
    theirs["stat_prefix"] = "theirs"
    asks = {"@type": ext_authz(it)["@type"], "failure_mode_allow": True, "transport_api_version": "V3"}
    asks["grpc_service"] = {"envoy_grpc": {"cluster_name": "theirs"}}
    theirs["http_filters"].insert(0, {"name": EXT_AUTHZ, "typed_config": asks})
    theirs["route_config"]["virtual_hosts"][0]["routes"] = [
        {"match": {"prefix": "/"}, "direct_response": {"status": 204}},
    ]
    away = {**json.loads(json.dumps(cluster(it))), "name": "theirs"}
    away["load_assignment"] = {"cluster_name": "theirs", "endpoints": [{"lb_endpoints": [endpoint(HOST, free_port())]}]}
    it["static_resources"]["clusters"].append(away)


def test_requests_admitted_by_other_filters_are_not_reported(sidecar: AuthzServer) -> None:
    text = config(sidecar, asks_another_too)
    port = yaml.safe_load(text)["static_resources"]["listeners"][-1]["address"]["socket_address"]["port_value"]
    with envoy(text) as server:
        assert httpx.get(f"http://{HOST}:{port}/", trust_env=False).status_code == 204
        ours = asyncio.run(look(Targets(envoys=[server.admin], clusters=["authz"])))
        assert found(ours) == []
        everybody = asyncio.run(look(Targets(envoys=[server.admin])))
        assert {"fail-open", "let-in-unchecked"} <= set(found(everybody))


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "tls")


def over_tls(sidecar: AuthzServer, files: Certificates, scratch: Path) -> str:
    """What `authz envoy-config --tls` prints, and the file that it names."""
    options = EnvoyOptions(
        listen=f"{HOST}:{free_port()}",
        admin=f"{HOST}:{free_port()}",
        authz=tuple(sidecar.endpoints),
        tls=Tls(str(files.ca), HOST, sds=str(scratch)),
    )
    assert options.tls is not None
    Path(options.tls.sds_file("ca")).write_text(render(SAMPLE, replace(options, only="sds-ca")))
    return render(SAMPLE, options)


def test_nothing_but_a_short_life_is_found_over_tls(redis: RedisServer, files: Certificates, tmp_path: Path) -> None:
    """The certificate is for a day."""
    own = ("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key))
    with authz_serve(FILE, "--redis-url", redis.url, *own) as server:
        with envoy(over_tls(server, files, tmp_path)) as asks:
            until(lambda: all(seen(asks, server).envoys[0].clusters["authz"].hosts.values()), "not healthy", asks)
            assert found(seen(asks, server)) == ["certificate-expires"]
        with envoy(config(server)) as in_the_clear:
            assert "tls-mismatch" in found(seen(in_the_clear, server))


def ask(server: EnvoyServer) -> int:
    return httpx.get(f"{server.url}/prod/pets", trust_env=False).status_code


def test_unchecked_and_failed_requests_are_found_in_the_statistics(sidecar: AuthzServer) -> None:
    def broken(it: Any) -> None:
        ext_authz(it)["failure_mode_allow"] = True
        endpoints(it)[:] = [endpoint(HOST, free_port()), endpoint(HOST, free_port())]
        del cluster(it)["health_checks"]

    with envoy(config(sidecar, broken)) as server:
        before = found(seen(server, sidecar))
        ask(server)
        after = found(seen(server, sidecar))
    assert sorted(before) == ["fail-open", "no-health-check"]
    assert sorted(set(after) - set(before)) == ["checks-fail", "let-in-unchecked"]


def test_checks_that_envoy_has_shed_are_found(sidecar: AuthzServer) -> None:
    with envoy(config(sidecar, lambda it: breaker(it).update(max_requests=0, max_pending_requests=0))) as server:
        assert ask(server) == 503
        assert {"breaker-below-workers", "checks-shed"} <= set(found(seen(server, sidecar)))


@pytest.fixture(scope="module")
def clean(sidecar: AuthzServer) -> Iterator[EnvoyServer]:
    with envoy(config(sidecar)) as server:
        until(lambda: is_ok(f"{server.admin}/ready"), "Envoy is not ready", server)
        yield server


def of_version(facts: Facts, version: str) -> Facts:
    """No other Envoy is at hand, so its own answer is changed."""
    [one] = facts.envoys
    assert isinstance(one, Envoy)
    return replace(facts, envoys=(replace(one, version=version),))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.39.2", {"envoy-too-old"}),
        ("1.38.3", {"envoy-too-old", "envoy-with-known-cves"}),
        ("1.40.0", set()),
    ],
)
def test_an_old_envoy_is_found(version: str, expected: set[str], clean: EnvoyServer, sidecar: AuthzServer) -> None:
    facts = seen(clean, sidecar)
    assert found(facts) == []
    assert set(found(of_version(facts, version))) == expected


def test_only_the_named_cluster_is_ours(clean: EnvoyServer) -> None:
    facts = asyncio.run(look(Targets(envoys=[clean.admin], clusters=["another"])))
    assert found(facts) == ["nothing-asks"]


@pytest.mark.parametrize(
    ("hold_ms", "words"), [(150, []), (151, ["timeout 200 ms, and holdMs 151 + redisTimeoutMs 50"])]
)
def test_a_timeout_that_ends_before_holds_do_is_found(
    hold_ms: int, words: list[str], clean: EnvoyServer, sidecar: AuthzServer
) -> None:
    facts = seen(clean, sidecar)
    [one] = facts.sidecars
    holding = replace(one, details={**one.details, "settings": {**one.settings, "holdMs": hold_ms}})
    findings = examine(replace(facts, sidecars=[holding]))
    expected = [("check-timeout-below-holds", what) for what in words]
    assert [(finding.id, finding.seen) for finding in findings] == expected


def test_an_address_without_envoy_is_reported(sidecar: AuthzServer) -> None:
    facts = asyncio.run(look(Targets(envoys=[sidecar.http, f"http://{HOST}:{free_port()}"])))
    assert found(facts) == ["unreachable", "unreachable"]


def test_each_rule_of_envoy_is_planted_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [rule.id for rule in ENVOY_RULES if f'"{rule.id}"' not in text] == []

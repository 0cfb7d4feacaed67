"""Whether requests are checked at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from authz.doctor.facts import SILENT, Check, Envoy, Facts, Json
from authz.doctor.finding import Rule, Seen, rule

# In JSON, or as Envoy prints a mapping of its configuration: a list of fields, each with a key and a typed value.
FRACTION: Final = re.compile(r"(numerator|denominator)\W+(?:value\W+\w+_value\W+)?(\w+)")
CLUSTER_FIELDS: Final = ("cluster", "cluster_name", "name")  # where filters of other protocols name a cluster


@rule(
    "error",
    why="Without an ext_authz filter with a gRPC service, every request passes unchecked.",
    fix="add the filter and the cluster that `authz envoy-config --only filter` and `--only cluster` print; with "
    "--cluster, name the right one",
)
def nothing_asks(facts: Facts) -> Iterator[Seen]:
    """No HTTP connection manager has an ext_authz filter with a gRPC service."""
    for envoy in facts.envoys:
        if not envoy.checks:
            managers = [manager for manager in envoy.managers if not manager.upgrade]
            yield Seen(envoy.where, f"{len(managers)} HTTP connection managers, and none asks")


@rule(
    "error",
    why="Every lost, late or broken answer lets the request in, with or without a key; each parser bug becomes a way "
    "around authentication. What happens while Redis is away is each plan's failurePolicy.",
    fix="failure_mode_allow: false",
)
def fail_open(facts: Facts) -> Iterator[Seen]:
    """The filter has `failure_mode_allow: true`."""
    for check in facts.checks():
        if check.config.get("failure_mode_allow"):
            yield Seen(check.where, "failure_mode_allow: true")


@rule(
    "error",
    why="Envoy forwarded these without an answer, and no key was checked.",
    fix="failure_mode_allow: false",
)
def let_in_unchecked(facts: Facts) -> Iterator[Seen]:
    """Envoy has admitted requests because a check failed."""
    for envoy in facts.envoys:
        for name, count in envoy.counted("failure_mode_allowed"):
            yield Seen(f"{envoy.where}, statistic {name}", f"{count} requests since it started")


@rule(
    "warning",
    why="Refusals are counted and then let through: no key and no limit counts. A shadow of one plan is its `shadow`.",
    fix="shadow_mode: false",
)
def shadow_mode(facts: Facts) -> Iterator[Seen]:
    """The filter has `shadow_mode: true`."""
    for check in facts.checks():
        if check.config.get("shadow_mode"):
            yield Seen(check.where, "shadow_mode: true")


@rule(
    "error",
    why="The other requests pass unchecked.",
    fix="leave filter_enabled out, or set deny_at_disable",
)
def partly_enabled(facts: Facts) -> Iterator[Seen]:
    """`filter_enabled`, or the runtime value that overrides it, lets a share of the requests pass unchecked."""
    for envoy in facts.envoys:
        for check in envoy.checks:
            enabled = check.config.get("filter_enabled")
            if enabled is None or _refuses_the_rest(check, envoy):
                continue
            key = enabled.get("runtime_key", "")
            override = _runtime_share(envoy.runtime.get(key, ""))
            if override is not None and override < 1:
                what = f"runtime value {key}, which overrides filter_enabled: {override:.0%} of the requests"
                yield Seen(check.where, what, f"remove {key} from the runtime, or leave filter_enabled out")
            share = _share(enabled.get("default_value", SILENT))
            if override is None and share < 1:
                yield Seen(check.where, f"filter_enabled: {share:.0%} of the requests")


def _refuses_the_rest(check: Check, envoy: Envoy) -> bool:
    """True if Envoy refuses the requests that are not drawn."""
    flag = check.config.get("deny_at_disable", SILENT)
    value = envoy.runtime.get(flag.get("runtime_key", ""))
    return bool(flag.get("default_value")) if value is None else value == "true"


def _share(fraction: Json) -> float:
    of = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}[fraction.get("denominator", "HUNDRED")]
    return float(fraction.get("numerator", 0)) / of


def _runtime_share(value: str) -> float | None:
    """The share that a runtime value sets, as a percentage or a fraction; None for a value that sets nothing."""
    if value.isdigit():
        return int(value) / 100
    fraction = dict(FRACTION.findall(value))
    return _share(fraction) if fraction else None


@rule(
    "error",
    why="The filter is there, and Envoy never calls it.",
    fix="remove `disabled: true` from the filter, or from the virtual hosts and routes that should be checked",
)
def nothing_checked(facts: Facts) -> Iterator[Seen]:
    """The filter is disabled on every route."""
    for check in facts.checks():
        asked = [check.is_asked_on(place) for place in check.manager.places()]
        if asked and not any(asked):
            yield Seen(check.where, f"disabled on all {len(asked)} routes")


@rule(
    "warning",
    why="Its requests reach the upstream without a key and without a limit. Exact paths, direct responses and "
    "redirects are not reported, because a health check may well need no key.",
    fix="remove `disabled: true`, or match the exact path that should need no key",
)
def route_not_checked(facts: Facts) -> Iterator[Seen]:
    """The filter is disabled on a route, or on one of its weighted clusters, that forwards more than one path."""
    for check in facts.checks():
        places = list(check.manager.places())
        free = [place for place in places if not any(one.is_asked_on(place) for one in facts.beside(check))]
        if len(free) < len(places):
            for place in free:
                if "route" in place.route and "path" not in place.route["match"]:
                    part = f", weighted cluster {place.part['name']}," if place.part.get("name") else ""
                    yield Seen(_place(check, place.host), f"{_match(place.route)}{part} is not checked")


@rule(
    "error",
    why="A request with `Upgrade: websocket` (or the named protocol) passes these filters in place of http_filters. "
    "It reaches the upstream without a key and without a limit, even if the upstream ignores the upgrade and answers "
    "as usual.",
    fix="leave `filters` out of upgrade_configs, or put the ext_authz filter there too",
)
def upgrade_not_checked(facts: Facts) -> Iterator[Seen]:
    """`upgrade_configs` of a checked listener has filters of its own, without ext_authz."""
    for envoy in facts.envoys:
        checked = [check.manager for check in envoy.checks]
        for manager in envoy.managers:
            if manager.upgrade and manager not in checked and any(one.config == manager.config for one in checked):
                yield Seen(manager.where, f"{', '.join(one.name for one in manager.filters)}: none of them asks")


@rule(
    "warning",
    why="The matcher decides which requests are checked. All others reach the upstream without a key and a limit.",
    fix="put the ext_authz filter into http_filters itself, or make sure that the matcher leaves out no path with keys",
)
def asked_by_matcher(facts: Facts) -> Iterator[Seen]:
    """The filter stands inside a matcher (`ExtensionWithMatcher`, with or without `composite`)."""
    for check in facts.checks():
        if check.filter.matched:
            yield Seen(check.where, "inside ExtensionWithMatcher")


@rule(
    "warning",
    why="On that route another service decides: our keys and limits do not count.",
    fix="leave check_settings.grpc_service and http_service out of the route",
)
def checked_elsewhere(facts: Facts) -> Iterator[Seen]:
    """A virtual host, a route or a weighted cluster checks with another service (`check_settings`)."""
    for check in facts.checks():
        ours = check.service.get("envoy_grpc", SILENT).get("cluster_name")
        for at, level in check.manager.levels:
            said = level.get("typed_per_filter_config", SILENT).get(check.filter.name, SILENT)
            settings = said.get("config", said).get("check_settings", SILENT)
            service = settings.get("grpc_service") or settings.get("http_service")
            if service:
                uri = service.get("google_grpc", SILENT).get("target_uri")
                asked = service.get("envoy_grpc", service.get("server_uri", SILENT))
                name = asked.get("cluster_name") or asked.get("cluster") or uri
                if name != ours:
                    yield Seen(at, f"check_settings: asks {name}")


@rule(
    "warning",
    why="Callers of this listener reach the same upstream without a key and without a limit.",
    fix="put the filter here too, or let only trusted clients reach the listener; a TCP or UDP proxy cannot check "
    "requests",
)
def way_around(facts: Facts) -> Iterator[Seen]:
    """A listener without the filter forwards to a cluster that another one guards, or to the same hosts, over HTTP, TCP
    or UDP; or lets clients name the cluster."""
    for envoy in facts.envoys:
        guarding = [check.manager for check in envoy.checks]
        # The clusters that checked listeners forward to, and others with the same hosts.
        names = frozenset[str]().union(*(manager.forwards_to for manager in guarding))
        hosts = {host for name in names if name in envoy.clusters for host in envoy.clusters[name].hosts}
        guarded = names | {name for name, cluster in envoy.clusters.items() if hosts & cluster.hosts.keys()}
        for manager in envoy.managers:
            if manager in guarding or manager.upgrade or not guarded:
                continue
            if shared := manager.forwards_to & guarded:
                yield Seen(manager.where, f"forwards to {', '.join(sorted(shared))}, and does not ask")
            if manager.picked_by:
                headers = ", ".join(sorted(manager.picked_by))
                yield Seen(manager.where, f"forwards to the cluster that {headers} names, and does not ask")
        for forwarder in envoy.forwarders:
            if shared := frozenset(_clusters_in(forwarder.config)) & guarded:
                yield Seen(forwarder.where, f"forwards to {', '.join(sorted(shared))} below HTTP, and does not ask")


def _clusters_in(config: Any) -> Iterator[str]:
    """Each text in a field that may name a cluster, at any depth."""
    if isinstance(config, list):
        for one in config:
            yield from _clusters_in(one)
    elif isinstance(config, dict):
        for name, value in config.items():
            if name in CLUSTER_FIELDS and isinstance(value, str):
                yield value
            else:
                yield from _clusters_in(value)


@rule(
    "warning",
    why="Where no route matches, Envoy answers 404 without a check: strangers learn which paths exist. AWS answers "
    "403.",
    fix='a last route in the virtual host: { match: { prefix: "/" }, route: { cluster: … } }',
)
def no_catch_all(facts: Facts) -> Iterator[Seen]:
    """A checked virtual host has no route that matches every path."""
    for check in _whole(facts):
        for host in check.manager.virtual_hosts:
            routes = host.get("routes", ())
            if routes and not any(map(_takes_all, routes)) and host.get("require_tls") != "ALL":
                yield Seen(_place(check, host), f"{len(routes)} routes, none for all")


def _whole(facts: Facts) -> Iterator[Check]:
    """Those of a connection manager's own chain: the chain of an upgrade has the same routes."""
    return (check for check in facts.checks() if not check.manager.upgrade)


def _place(check: Check, host: Json) -> str:
    return f"{check.manager.where}, virtual host {host['name']}"


def _takes_all(route: Json) -> bool:
    match = route["match"]
    return not (match.keys() - {"prefix", "safe_regex", "case_sensitive"}) and (
        match.get("prefix") == "/" or match.get("safe_regex", SILENT).get("regex") in (".*", "/.*")
    )


def _match(route: Json) -> str:
    kind = next((name for name in route["match"] if name not in ("headers", "query_parameters")), "?")
    value = route["match"].get(kind, "")
    return f"the route for {kind} {value.get('regex', '') if isinstance(value, dict) else value}"


@rule(
    "info",
    why="The doctor cannot tell whether these routes are checked, and whether they match every path.",
    fix="check them by hand; the other rules hold nevertheless",
)
def routes_not_seen(facts: Facts) -> Iterator[Seen]:
    """Envoy does not show the routes of a checked listener, because they are scoped or have not arrived, or picks them
    by a matcher."""
    for check in _whole(facts):
        if check.manager.routes is None:
            yield Seen(check.manager.where, "no routes in the dump")
        for host in check.manager.virtual_hosts:
            if "matcher" in host:
                yield Seen(_place(check, host), "a matcher in the place of routes")


@rule(
    "info",
    why="Requests without the mark pass unchecked. Istio does so for an AuthorizationPolicy.",
    fix="check the filter that sets the mark: it should mark every request that needs a key",
)
def asked_by_metadata(facts: Facts) -> Iterator[Seen]:
    """The filter checks only requests that another filter has marked (`filter_enabled_metadata`)."""
    for check in facts.checks():
        marks = check.config.get("filter_enabled_metadata")
        if marks is not None:
            yield Seen(check.where, f"filter_enabled_metadata: {marks.get('filter', '')}")


RULES: Final[tuple[Rule, ...]] = (
    nothing_asks,
    fail_open,
    let_in_unchecked,
    shadow_mode,
    partly_enabled,
    nothing_checked,
    route_not_checked,
    upgrade_not_checked,
    asked_by_matcher,
    checked_elsewhere,
    way_around,
    no_catch_all,
    routes_not_seen,
    asked_by_metadata,
)

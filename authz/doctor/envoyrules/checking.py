"""Whether requests are checked at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import SILENT, Check, Facts, Json
from authz.doctor.finding import Rule, Seen, rule


@rule(
    "error",
    why="Without an ext_authz filter that asks by gRPC, every request passes unchecked.",
    fix="put in what `authz envoy-config --only filter` and `--only cluster` print; with --cluster, name the right one",
)
def nothing_asks(facts: Facts) -> Iterator[Seen]:
    """No HTTP connection manager has an ext_authz filter with a gRPC service."""
    for envoy in facts.envoys:
        if not envoy.checks:
            yield Seen(envoy.where, f"{len(envoy.managers)} HTTP connection managers, and none asks")


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
    why="Envoy forwarded these without an answer: nobody's key was looked at.",
    fix="failure_mode_allow: false",
)
def let_in_unchecked(facts: Facts) -> Iterator[Seen]:
    """Envoy has let requests in because a check failed."""
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
    why="What is not drawn passes unchecked.",
    fix="leave filter_enabled out, or set deny_at_disable",
)
def partly_enabled(facts: Facts) -> Iterator[Seen]:
    """`filter_enabled` lets a share of the requests pass unchecked."""
    for check in facts.checks():
        share = check.config.get("filter_enabled", SILENT).get("default_value")
        refused = check.config.get("deny_at_disable", SILENT).get("default_value")
        if share is not None and not refused and _share(share) < 1:
            yield Seen(check.where, f"filter_enabled: {_share(share):.0%} of the requests")


def _share(fraction: Json) -> float:
    of = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}[fraction.get("denominator", "HUNDRED")]
    return float(fraction.get("numerator", 0)) / of


@rule(
    "error",
    why="The filter stands there and is never asked.",
    fix="take `disabled: true` away from the filter, or from the virtual hosts and routes that are to be checked",
)
def nothing_checked(facts: Facts) -> Iterator[Seen]:
    """The filter is disabled on every route."""
    for check in facts.checks():
        asked = [check.is_asked_on(*place) for place in check.routes()]
        if asked and not any(asked):
            yield Seen(check.where, f"disabled on all {len(asked)} routes")


@rule(
    "warning",
    why="Requests on it reach the upstream without a key and without a limit. Exact paths, direct responses and "
    "redirects are not told: a health check may well be free.",
    fix="take `disabled: true` away, or match the exact path that is to be free",
)
def route_not_checked(facts: Facts) -> Iterator[Seen]:
    """The filter is disabled on a route that forwards more than one path."""
    for check in facts.checks():
        places = list(check.routes())
        free = [place for place in places if not any(one.is_asked_on(*place) for one in facts.beside(check))]
        if len(free) < len(places):
            for host, route in free:
                if "route" in route and "path" not in route["match"]:
                    yield Seen(_place(check, host), f"{_match(route)} is not checked")


@rule(
    "warning",
    why="Who reaches this listener reaches the same upstream without a key and without a limit.",
    fix="put the filter here too, or let only those reach it who may",
)
def way_around(facts: Facts) -> Iterator[Seen]:
    """A listener without the filter forwards to a cluster that another one guards."""
    for envoy in facts.envoys:
        guarding = [check.manager for check in envoy.checks]
        guarded = frozenset[str]().union(*(manager.forwards_to for manager in guarding))
        for manager in envoy.managers:
            shared = manager.forwards_to & guarded
            if manager not in guarding and shared:
                yield Seen(manager.where, f"forwards to {', '.join(sorted(shared))}, and does not ask")


@rule(
    "warning",
    why="Where no route matches, Envoy answers 404 and never asks: unknown paths tell a stranger which ones there "
    "are. AWS answers 403.",
    fix='a last route in the virtual host: { match: { prefix: "/" }, route: { cluster: … } }',
)
def no_catch_all(facts: Facts) -> Iterator[Seen]:
    """A checked virtual host has no route that takes every path."""
    for check in facts.checks():
        for host in check.manager.virtual_hosts:
            routes = host.get("routes", ())
            if routes and not any(map(_takes_all, routes)) and host.get("require_tls") != "ALL":
                yield Seen(_place(check, host), f"{len(routes)} routes, none for all")


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
    why="Whether they are checked, and whether they take every path, cannot be told.",
    fix="look at them by hand; the other rules hold all the same",
)
def routes_not_seen(facts: Facts) -> Iterator[Seen]:
    """Envoy does not show the routes of a checked listener, because they are scoped or have not arrived, or picks them
    by a matcher."""
    for check in facts.checks():
        if check.manager.routes is None:
            yield Seen(check.manager.where, "no routes in the dump")
        for host in check.manager.virtual_hosts:
            if "matcher" in host:
                yield Seen(_place(check, host), "a matcher in the place of routes")


@rule(
    "info",
    why="What another filter did not mark passes unchecked. Istio does it so for an AuthorizationPolicy.",
    fix="look at what marks them: it should leave out nothing that needs a key",
)
def asked_by_metadata(facts: Facts) -> Iterator[Seen]:
    """The filter asks only about requests that another filter has marked (`filter_enabled_metadata`)."""
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
    way_around,
    no_catch_all,
    routes_not_seen,
    asked_by_metadata,
)

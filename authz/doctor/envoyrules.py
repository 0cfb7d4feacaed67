"""The traps of an Envoy that asks authz, each a function of what Envoy shows of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from authz.core.resources import Api, KeySource
from authz.doctor.cves import MINIMUM, holes
from authz.doctor.facts import (
    SILENT,
    Cluster,
    Envoy,
    Facts,
    Json,
    Manager,
    is_loopback,
    seconds,
    version_of,
)
from authz.doctor.finding import Rule, Seen, rule
from authz.envoyconfig import allowed_headers, lookalikes, metadata_namespaces

CORS: Final = "envoy.filters.http.cors"
FAILURE_HEADER: Final = "x-envoy-auth-failure-mode-allowed"
NORMALISED: Final = {
    "normalize_path": "normalize_path: true",
    "merge_slashes": "merge_slashes: true",
    "path_with_escaped_slashes_action": "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT",
}
UNTOUCHED: Final = (None, False, "IMPLEMENTATION_SPECIFIC_DEFAULT", "KEEP_UNCHANGED")
DROPPED: Final = ("DROP_HEADER", "REJECT_REQUEST")
# Any API that has a header with an underscore: then none is dropped, and those that look like ours must be named.
UNDERSCORED: Final = Api(id="any", key_sources=(KeySource(header="_"),))

# Envoy's own values, where the configuration is silent.
MAX_REQUESTS, MAX_RETRIES = 1024, 3
CONNECT_SECONDS, MERGE_SECONDS, BACK_OFF_SECONDS = 5.0, 1.0, 1.0
MAX_INTERVALS = 10  # times the base interval is the longest back-off

FAR = 4  # times as many requests as all workers take on at once
TELLING_SHARE = 0.01  # of all checks


# --- whether requests are checked at all --------------------------------------------------------------------------


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
        for name, count in _counted(envoy, "failure_mode_allowed"):
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
        free = [place for place in places if not check.is_asked_on(*place)]
        if len(free) < len(places):
            for host, route in free:
                if "route" in route and "path" not in route["match"]:
                    yield Seen(f"{check.manager.where}, virtual host {host['name']}", f"{_match(route)} is not checked")


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
                yield Seen(f"{check.manager.where}, virtual host {host['name']}", f"{len(routes)} routes, none for all")


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
    """Envoy does not show the routes of a checked listener, because they are scoped or have not arrived."""
    for check in facts.checks():
        if check.manager.routes is None:
            yield Seen(check.manager.where, "no routes in the dump")


# --- what a caller is told when authz is away -----------------------------------------------------------------------


@rule(
    "warning",
    why="When authz cannot be reached, Envoy says 403: a good customer reads that the key is bad, and does not retry.",
    fix="status_on_error: { code: ServiceUnavailable }",
)
def status_on_error(facts: Facts) -> Iterator[Seen]:
    """`status_on_error` is missing, or no 5xx."""
    for check in facts.checks():
        code = check.config.get("status_on_error", SILENT).get("code", "Forbidden")
        if code in ("Empty", "Continue", "OK", "Unauthorized", "Forbidden", "NotFound", "TooManyRequests"):
            yield Seen(check.where, f"{code} for a check that failed")


@rule(
    "info",
    why="Refusals count as answers of the upstream, so that its error rate and its outlier detection see callers' "
    "429s and 403s.",
    fix="charge_cluster_response_stats: false",
)
def refusals_charged_to_upstream(facts: Facts) -> Iterator[Seen]:
    """`charge_cluster_response_stats` is not false."""
    for check in facts.checks():
        if check.config.get("charge_cluster_response_stats", True):
            yield Seen(check.where, "charge_cluster_response_stats is true unless set")


# --- timeouts and retries -------------------------------------------------------------------------------------------


@rule("warning", why="A check that hangs holds its request for ever.", fix="timeout: 0.2s")
def no_deadline(facts: Facts) -> Iterator[Seen]:
    """`grpc_service.timeout` is 0."""
    for check in facts.checks():
        if check.timeout == 0:
            yield Seen(check.where, "timeout: 0s, without end")


@rule(
    "error",
    why="Envoy gives up before authz does: what Redis charges then was charged for nothing, and callers get 503 where "
    "the failurePolicy would have answered.",
    fix="settings.redisTimeoutMs below the filter's timeout, with room for the way there and back",
)
def redis_timeout_above_check_timeout(facts: Facts) -> Iterator[Seen]:
    """The sidecar's `redisTimeoutMs` is not below the filter's timeout. Needs --sidecar."""
    for check in facts.checks():
        if check.timeout and facts.redis_timeout is not None and facts.redis_timeout >= check.timeout:
            yield Seen(check.where, f"timeout {_ms(check.timeout)}, and redisTimeoutMs {_ms(facts.redis_timeout)}")


@rule(
    "warning",
    why="A worker that does not take connections uses up the whole check, and no time is left to try another.",
    fix="connect_timeout: half of the filter's timeout",
)
def connect_timeout_above_check_timeout(facts: Facts) -> Iterator[Seen]:
    """The cluster's `connect_timeout` is not below the filter's timeout."""
    for envoy, cluster in facts.clusters():
        connect = seconds(cluster.config.get("connect_timeout"), CONNECT_SECONDS)
        timeout = min((check.timeout for check in envoy.checks_of(cluster) if check.timeout), default=0)
        if timeout and connect >= timeout:
            yield Seen(
                cluster.where,
                f"connect_timeout {_ms(connect)}, and the check's timeout {_ms(timeout)}",
                f"connect_timeout: {timeout / 2:g}s",
            )


@rule(
    "error",
    why="Envoy takes max_interval for the timeout of each try: a slow check is cut off after it was charged, while "
    "authz believes the longer deadline.",
    fix="retry_back_off: { base_interval: 0.002s, max_interval: the filter's timeout }",
)
def retry_cuts_the_try(facts: Facts) -> Iterator[Seen]:
    """The longest back-off of a retry (ten times the base, unless set) is below the filter's timeout."""
    for check in facts.checks():
        back_off = check.service.get("retry_policy", SILENT).get("retry_back_off")
        if back_off is not None:
            longest = _longest(back_off)
            if longest < (check.timeout or longest):
                fix = f"max_interval: {check.timeout:g}s"
                yield Seen(check.where, f"max_interval {_ms(longest)}, and the timeout {_ms(check.timeout)}", fix)


def _longest(back_off: Json) -> float:
    base = seconds(back_off.get("base_interval"), BACK_OFF_SECONDS)
    return seconds(back_off.get("max_interval"), MAX_INTERVALS * base)


@rule(
    "warning",
    why="Envoy waits up to a second before it tries again, longer than the check may take: the second try never comes.",
    fix="retry_back_off: { base_interval: 0.002s, max_interval: the filter's timeout }",
)
def retry_burns_the_deadline(facts: Facts) -> Iterator[Seen]:
    """There is a retry policy, and its first back-off is not below the filter's timeout."""
    for check in facts.checks():
        policy = check.service.get("retry_policy")
        if policy is not None:
            base = seconds(policy.get("retry_back_off", SILENT).get("base_interval"), BACK_OFF_SECONDS)
            if check.timeout and base >= check.timeout:
                fix = f"retry_back_off: {{ base_interval: 0.002s, max_interval: {check.timeout:g}s }}"
                yield Seen(check.where, f"base_interval {_ms(base)}, and the timeout {_ms(check.timeout)}", fix)


@rule(
    "info",
    why="A check that a worker which stops or dies has not taken on is lost, and its caller gets 503.",
    fix="the retry_policy that `authz envoy-config --only filter` prints",
)
def no_retry(facts: Facts) -> Iterator[Seen]:
    """The filter's gRPC service has no retry policy."""
    for check in facts.checks():
        if "retry_policy" not in check.service:
            yield Seen(check.where, "no retry_policy")


@rule(
    "info",
    why="Envoy allows 3 retries at a time; a worker that leaves with many checks in flight needs more.",
    fix="max_retries: as many as max_requests",
)
def few_retries(facts: Facts) -> Iterator[Seen]:
    """Checks are tried again, and the cluster's circuit breaker has no `max_retries`."""
    for envoy, cluster in facts.clusters():
        retried = any("retry_policy" in check.service for check in envoy.checks_of(cluster))
        if retried and cluster.threshold("max_retries", MAX_RETRIES) <= MAX_RETRIES:
            yield Seen(cluster.where, f"max_retries {cluster.threshold('max_retries', MAX_RETRIES)}")


def _ms(duration: float) -> str:
    return f"{duration * 1000:g} ms"


# --- what authz is shown, and what the upstream believes ------------------------------------------------------------


@rule(
    "error",
    why="authz and the upstream each read `/open/../pets//7` and `%2Fpets` in their own way, so that a path of one "
    "method passes as another's.",
    fix=", ".join(NORMALISED.values()),
)
def path_not_normalised(facts: Facts) -> Iterator[Seen]:
    """`normalize_path`, `merge_slashes` or `path_with_escaped_slashes_action` is missing."""
    for manager in _guarding(facts):
        missing = [name for name in NORMALISED if manager.config.get(name) in UNTOUCHED]
        if missing:
            yield Seen(manager.where, f"without {', '.join(missing)}", "\n".join(NORMALISED[name] for name in missing))


@rule(
    "error",
    why="A preflight request carries no key: it is refused, and no browser may call the API.",
    fix="put envoy.filters.http.cors before ext_authz in http_filters",
)
def cors_after_ext_authz(facts: Facts) -> Iterator[Seen]:
    """The CORS filter stands after ext_authz."""
    for check in facts.checks():
        names = [one.name if one.type != "Cors" else CORS for one in check.manager.filters]
        if CORS in names[check.manager.filters.index(check.filter) :]:
            yield Seen(check.where, f"{CORS} comes after it")


@rule(
    "warning",
    why="All headers travel to authz on every call, cookies and tokens among them: slower, and none of its business.",
    fix="the allowed_headers that `authz envoy-config --only filter` prints",
)
def headers_not_restricted(facts: Facts) -> Iterator[Seen]:
    """The filter has no `allowed_headers`."""
    for check in facts.checks():
        if not check.config.get("allowed_headers", SILENT).get("patterns"):
            yield Seen(check.where, "no allowed_headers")


@rule(
    "error",
    why="authz never sees it: a key in it is no key, or a refusal cannot be worded as configured.",
    fix="print the allowed_headers anew: authz envoy-config --only filter",
)
def header_not_shown(facts: Facts) -> Iterator[Seen]:
    """`allowed_headers` or `disallowed_headers` keeps back a header that authz reads; those of key sources and gateway
    responses need --config."""
    for check in facts.checks():
        shown = check.config.get("allowed_headers", SILENT).get("patterns", ())
        hidden = check.config.get("disallowed_headers", SILENT).get("patterns", ())
        for name in allowed_headers(facts.apis):
            if (shown and not _any_match(shown, name)) or _any_match(hidden, name):
                yield Seen(check.where, f"{name} is kept back", f"allowed_headers.patterns: - exact: {name}")


@rule(
    "error",
    why="authz reads the key there, finds none and refuses every call of these APIs.",
    fix="metadata_context_namespaces, as `authz envoy-config --only filter` prints them",
)
def metadata_not_shown(facts: Facts) -> Iterator[Seen]:
    """A namespace that holds the key of an API with `apiKeySource: AUTHORIZER` is not passed on. Needs --config."""
    for check in facts.checks():
        for namespace in metadata_namespaces(facts.apis):
            if namespace not in check.config.get("metadata_context_namespaces", ()):
                fix = f"metadata_context_namespaces: [{namespace}]"
                yield Seen(check.where, f"{namespace} is not passed on", fix)


def _any_match(patterns: Sequence[Json], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: Json, name: str) -> bool:
    """Envoy's StringMatcher."""
    known = {kind: str(value) for kind, value in pattern.items() if isinstance(value, str)}
    if pattern.get("ignore_case"):
        known = {kind: value.lower() for kind, value in known.items()}
    return (
        known.get("exact") == name
        or ("prefix" in known and name.startswith(known["prefix"]))
        or ("suffix" in known and name.endswith(known["suffix"]))
        or ("contains" in known and known["contains"] in name)
        or ("safe_regex" in pattern and _regex_matches(pattern["safe_regex"].get("regex", ""), name))
    )


def _regex_matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # RE2 knows some that Python does not
        return True


@rule(
    "info",
    why="Envoy sets it on what it let in unchecked. authz takes a client's own off what it admits; on routes that are "
    "not checked it reaches the upstream.",
    fix=f"request_headers_to_remove: [{FAILURE_HEADER}] in the route_config",
)
def failure_header_kept(facts: Facts) -> Iterator[Seen]:
    """The routes do not remove `x-envoy-auth-failure-mode-allowed`."""
    for manager in _guarding(facts):
        if manager.routes is not None and FAILURE_HEADER not in _removed(manager):
            yield Seen(manager.where, f"{FAILURE_HEADER} of a client's is kept")


@rule(
    "warning",
    why="A client's own x-forwarded-for, x-request-id and x-envoy headers are believed. Right only behind a proxy of "
    "yours that replaces them.",
    fix="use_remote_address: true (and xff_num_trusted_hops behind proxies of yours)",
)
def remote_address_not_used(facts: Facts) -> Iterator[Seen]:
    """The HTTP connection manager has no `use_remote_address: true`."""
    for manager in _guarding(facts):
        if not manager.config.get("use_remote_address"):
            yield Seen(manager.where, "use_remote_address is false unless set")


@rule(
    "warning",
    why="CGI, WSGI and PHP read `x_api_key_id` as `x-api-key-id`, which only authz may set: a client can pass for "
    "another.",
    fix="common_http_protocol_options: { headers_with_underscores_action: DROP_HEADER }",
)
def underscore_headers(facts: Facts) -> Iterator[Seen]:
    """Headers with underscores are neither dropped nor removed where they look like ours."""
    for manager in _guarding(facts):
        action = manager.config.get("common_http_protocol_options", SILENT).get("headers_with_underscores_action")
        kept = set(lookalikes((UNDERSCORED,))) - _removed(manager)
        if action not in DROPPED and kept:
            yield Seen(manager.where, f"a client's {min(kept)} reaches the upstream")


def _removed(manager: Manager) -> set[str]:
    """The headers that every virtual host removes."""
    whole = set((manager.routes or SILENT).get("request_headers_to_remove", ()))
    each = [set(host.get("request_headers_to_remove", ())) for host in manager.virtual_hosts]
    return {name.lower() for name in whole | (set.intersection(*each) if each else set())}


@rule(
    "warning",
    why="The route is picked anew after the check: the one that was decided on may not be the one that is taken.",
    fix="leave clear_route_cache out",
)
def clear_route_cache(facts: Facts) -> Iterator[Seen]:
    """The filter has `clear_route_cache: true`."""
    for check in facts.checks():
        if check.config.get("clear_route_cache"):
            yield Seen(check.where, "clear_route_cache: true")


@rule(
    "info",
    why="Bodies travel to authz, which never reads them, and what is too long for the buffer is refused with 413.",
    fix="leave with_request_body out",
)
def body_sent(facts: Facts) -> Iterator[Seen]:
    """The filter has `with_request_body`."""
    for check in facts.checks():
        if "with_request_body" in check.config:
            yield Seen(check.where, "with_request_body")


def _guarding(facts: Facts) -> list[Manager]:
    """Each connection manager that asks, once."""
    found: list[Manager] = []
    for check in facts.checks():
        if check.manager not in found:
            found.append(check.manager)
    return found


# --- the cluster that is asked --------------------------------------------------------------------------------------


@rule(
    "warning",
    why="Each thread of Envoy keeps one connection to each endpoint: of several workers behind one, most are idle.",
    fix="one endpoint for each worker, as `authz envoy-config --only cluster --workers N` prints them",
)
def one_endpoint_for_many_workers(facts: Facts) -> Iterator[Seen]:
    """The cluster has fewer endpoints than the sidecars have workers. Needs --sidecar."""
    workers = sum(len(one.workers) for one in facts.sidecars)
    for _, cluster in facts.clusters():
        if len(cluster.hosts) < workers:
            yield Seen(cluster.where, f"{_many(len(cluster.hosts), 'endpoint')} for {_many(workers, 'worker')}")


@rule(
    "error",
    why="gRPC is HTTP/2; over HTTP/1.1 every check fails.",
    fix="typed_extension_protocol_options with explicit_http_config: { http2_protocol_options: {} }",
)
def cluster_not_http2(facts: Facts) -> Iterator[Seen]:
    """The cluster speaks HTTP/1.1."""
    for _, cluster in facts.clusters():
        if not cluster.is_http2:
            yield Seen(cluster.where, "no http2_protocol_options")


@rule(
    "warning",
    why="A worker that is gone costs each of its requests the whole timeout.",
    fix="the health_checks that `authz envoy-config --only cluster` prints",
)
def no_health_check(facts: Facts) -> Iterator[Seen]:
    """The cluster has no health check."""
    for _, cluster in facts.clusters():
        if not cluster.config.get("health_checks"):
            yield Seen(cluster.where, "no health_checks")


@rule(
    "warning",
    why="A worker that is about to stop says NOT_SERVING over gRPC and goes on taking connections: another kind of "
    "check does not hear it.",
    fix="grpc_health_check: { service_name: envoy.service.auth.v3.Authorization }",
)
def health_check_not_grpc(facts: Facts) -> Iterator[Seen]:
    """A health check of the cluster does not ask over gRPC."""
    for _, cluster in facts.clusters():
        for check in cluster.config.get("health_checks", ()):
            if "grpc_health_check" not in check:
                kind = next((name for name in check if name.endswith("_health_check")), "no grpc_health_check")
                yield Seen(cluster.where, kind)


@rule(
    "warning",
    why="Envoy still sends checks to a worker that has stopped, and their callers get 503.",
    fix="settings.drainSeconds above unhealthy_threshold x interval, or a shorter interval",
)
def drain_shorter_than_health_check(facts: Facts) -> Iterator[Seen]:
    """The sidecar's `drainSeconds` is not above the time that health checks take to notice. Needs --sidecar."""
    drain = min(facts.told("drainSeconds"), default=None)
    for _, cluster in facts.clusters():
        for check in cluster.config.get("health_checks", ()):
            noticed = check.get("unhealthy_threshold", 1) * seconds(check.get("interval"), 0)
            if drain is not None and drain <= noticed:
                yield Seen(cluster.where, f"noticed after {noticed:g} s, and drainSeconds is {drain:g}")


@rule(
    "info",
    why="What health checks find soon after a change waits for the end of that second; too late while workers are "
    "replaced one by one.",
    fix="common_lb_config: { update_merge_window: 0s }",
)
def health_told_late(facts: Facts) -> Iterator[Seen]:
    """The cluster merges updates, a second unless set."""
    for _, cluster in facts.clusters():
        window = cluster.config.get("common_lb_config", SILENT).get("update_merge_window")
        if cluster.config.get("health_checks") and seconds(window, MERGE_SECONDS) > 0:
            yield Seen(cluster.where, f"update_merge_window {seconds(window, MERGE_SECONDS):g} s")


@rule(
    "info",
    why="A worker that fails is noticed only by health checks; requests would tell sooner.",
    fix="outlier_detection: { consecutive_5xx: 5, interval: 1s, base_ejection_time: 5s, max_ejection_percent: 50 }",
)
def no_outlier_detection(facts: Facts) -> Iterator[Seen]:
    """The cluster has no outlier detection."""
    for _, cluster in facts.clusters():
        if "outlier_detection" not in cluster.config:
            yield Seen(cluster.where, "no outlier_detection")


@rule(
    "warning",
    why="Envoy answers 503 for checks that authz would have answered.",
    fix="max_requests and max_pending_requests: settings.maxInFlight x workers",
)
def breaker_below_workers(facts: Facts) -> Iterator[Seen]:
    """The circuit breaker allows fewer checks than the workers take on at once. Needs --sidecar."""
    for _, cluster, allowed, bearable in _breakers(facts):
        if allowed < bearable:
            yield Seen(cluster.where, _breaker(allowed, bearable), f"max_requests: {bearable}")


@rule(
    "info",
    why="authz sheds what is too much, at a cost; Envoy would do it for next to nothing.",
    fix="max_requests and max_pending_requests: settings.maxInFlight x workers",
)
def breaker_far_above_workers(facts: Facts) -> Iterator[Seen]:
    """The circuit breaker allows more than four times the checks that the workers take on at once. Needs --sidecar."""
    for _, cluster, allowed, bearable in _breakers(facts):
        if allowed > FAR * bearable:
            yield Seen(cluster.where, _breaker(allowed, bearable), f"max_requests: {bearable}")


def _breakers(facts: Facts) -> Iterator[tuple[Envoy, Cluster, int, int]]:
    """What each cluster's breaker allows, and what its workers bear."""
    if facts.told("maxInFlight"):
        for envoy, cluster in facts.clusters():
            if cluster.hosts:
                bearable = facts.max_in_flight * len(cluster.hosts)
                yield envoy, cluster, cluster.threshold("max_requests", MAX_REQUESTS), bearable


def _breaker(allowed: int, bearable: int) -> str:
    return f"max_requests {allowed}, and the workers take on {bearable}"


@rule(
    "error",
    why="One of them speaks TLS and the other does not: every check fails.",
    fix="print the cluster with `authz envoy-config --tls`, or give both or neither a certificate",
)
def tls_mismatch(facts: Facts) -> Iterator[Seen]:
    """The cluster and the sidecars do not agree on TLS. Needs --sidecar."""
    for _, cluster in facts.clusters():
        for served in facts.told("tls"):
            if served != (cluster.tls is not None):
                yield Seen(cluster.where, f"TLS {_on(cluster.tls is not None)} here and {_on(served)} at the sidecar")


def _on(on: bool) -> str:
    return "on" if on else "off"


@rule(
    "warning",
    why="Whoever takes the sidecar's place on the network is believed, and learns every key.",
    fix="validation_context: { trusted_ca: …, match_typed_subject_alt_names: … } in the cluster's transport_socket",
)
def tls_not_verified(facts: Facts) -> Iterator[Seen]:
    """The cluster speaks TLS, and does not check the sidecar's certificate."""
    for _, cluster in facts.clusters():
        if cluster.tls is not None and not _verifies(cluster.tls.get("common_tls_context", SILENT)):
            yield Seen(cluster.where, "no validation_context")


def _verifies(context: Json) -> bool:
    return any(name.startswith(("validation_context", "combined_validation_context")) for name in context)


@rule(
    "info",
    why="Keys travel to authz in the clear, over a network that others may share.",
    fix="TLS for the sidecar (tlsCertFile, tlsKeyFile), and a cluster from `authz envoy-config --tls`",
)
def checks_in_the_clear(facts: Facts) -> Iterator[Seen]:
    """The cluster speaks to another machine without TLS."""
    for _, cluster in facts.clusters():
        away = [host for host in cluster.hosts if not host.startswith("/") and not is_loopback(_host(host))]
        if away and cluster.tls is None:
            yield Seen(cluster.where, f"no TLS to {away[0]}" + (" and others" if len(away) > 1 else ""))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@rule(
    "warning",
    why="The others carry its load; with none left, every request gets 503.",
    fix="look at the worker's log and its /readyz",
)
def unhealthy_endpoint(facts: Facts) -> Iterator[Seen]:
    """Envoy's health checks or its outlier detection have taken an endpoint out."""
    for _, cluster in facts.clusters():
        out = [host for host, healthy in cluster.hosts.items() if not healthy]
        if out:
            yield Seen(cluster.where, f"{len(out)} of {len(cluster.hosts)} are out: {', '.join(out)}")


# --- what it has counted ---------------------------------------------------------------------------------------------


@rule(
    "warning",
    why="These callers got an error, whatever their key.",
    fix="the cluster's statistics upstream_rq_timeout and upstream_cx_connect_fail say which, the sidecar's log why",
)
def checks_fail(facts: Facts) -> Iterator[Seen]:
    """More than one in a hundred checks has failed since Envoy started."""
    for envoy in facts.envoys:
        for name, failed in _counted(envoy, "error"):
            prefix = name.removesuffix("error")
            total = failed + sum(envoy.stats.get(f"{prefix}{what}", 0) for what in ("ok", "denied"))
            if failed > TELLING_SHARE * total:
                yield Seen(f"{envoy.where}, statistic {name}", f"{failed} of {total} checks")


@rule(
    "info",
    why="Envoy answered 503 for authz: there were more checks at once than the circuit breaker allows.",
    fix="more workers (and endpoints), or a higher max_requests together with settings.maxInFlight",
)
def checks_shed(facts: Facts) -> Iterator[Seen]:
    """The cluster's circuit breaker has refused checks since Envoy started."""
    for envoy, cluster in facts.clusters():
        for name in ("upstream_rq_pending_overflow", "upstream_rq_active_overflow"):
            shed = envoy.stats.get(f"cluster.{cluster.name}.{name}", 0)
            if shed:
                yield Seen(cluster.where, f"{name} {shed}")


def _counted(envoy: Envoy, what: str) -> Iterator[tuple[str, int]]:
    """What the connection managers' filters have counted, where it is not 0."""
    for name, count in envoy.stats.items():
        if count and re.fullmatch(rf"http\..*\.ext_authz\.(.*\.)?{what}", name):
            yield name, count


# --- Envoy itself -----------------------------------------------------------------------------------------------------


@rule(
    "error",
    why="Whoever reaches it can stop Envoy, read its whole configuration and switch it over.",
    fix="admin: { address: { socket_address: { address: 127.0.0.1, … } } }; statistics have a listener of their own: "
    "authz envoy-config --stats-listen",
)
def admin_open(facts: Facts) -> Iterator[Seen]:
    """The administration interface listens where other machines can reach it."""
    for envoy in facts.envoys:
        at = envoy.admin.get("address", SILENT).get("socket_address")
        if at is not None and not is_loopback(at.get("address", "")):
            yield Seen(envoy.where, f"admin on {at.get('address')}:{at.get('port_value')}")


@rule(
    "error",
    why="Known holes, by which a request may get past the check, or Envoy may be stopped.",
    fix=f"Envoy {MINIMUM} or later",
)
def envoy_with_known_cves(facts: Facts) -> Iterator[Seen]:
    """Envoy's version has a published hole that concerns ext_authz, headers or paths."""
    for envoy in facts.envoys:
        for cve in holes(envoy.version):
            yield Seen(envoy.where, f"{envoy.version}: {cve.id}, {cve.what}", f"Envoy {MINIMUM} or later; {cve.source}")


@rule("warning", why="Nothing here was tried with it.", fix=f"Envoy {MINIMUM} or later")
def envoy_too_old(facts: Facts) -> Iterator[Seen]:
    """Envoy is older than the oldest that authz is tested with."""
    for envoy in facts.envoys:
        if version_of(envoy.version) < version_of(MINIMUM):
            yield Seen(envoy.where, f"{envoy.version}, and {MINIMUM} is the oldest that was tried")


ENVOY_RULES: Final[tuple[Rule, ...]] = (
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
    status_on_error,
    refusals_charged_to_upstream,
    no_deadline,
    redis_timeout_above_check_timeout,
    connect_timeout_above_check_timeout,
    retry_cuts_the_try,
    retry_burns_the_deadline,
    no_retry,
    few_retries,
    path_not_normalised,
    cors_after_ext_authz,
    headers_not_restricted,
    header_not_shown,
    metadata_not_shown,
    failure_header_kept,
    remote_address_not_used,
    underscore_headers,
    clear_route_cache,
    body_sent,
    one_endpoint_for_many_workers,
    cluster_not_http2,
    no_health_check,
    health_check_not_grpc,
    drain_shorter_than_health_check,
    health_told_late,
    no_outlier_detection,
    breaker_below_workers,
    breaker_far_above_workers,
    tls_mismatch,
    tls_not_verified,
    checks_in_the_clear,
    unhealthy_endpoint,
    checks_fail,
    checks_shed,
    admin_open,
    envoy_with_known_cves,
    envoy_too_old,
)

"""The caller's answer when authz is away, and the time that Envoy waits before that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import SILENT, Facts, Json, seconds
from authz.doctor.finding import Rule, Seen, rule

# As Envoy names the statuses from 500 on.
SERVER_ERRORS: Final = (
    "InternalServerError",
    "NotImplemented",
    "BadGateway",
    "ServiceUnavailable",
    "GatewayTimeout",
    "HTTPVersionNotSupported",
    "VariantAlsoNegotiates",
    "InsufficientStorage",
    "LoopDetected",
    "NotExtended",
    "NetworkAuthenticationRequired",
)

# Envoy's own values, where the configuration is silent.
MAX_RETRIES: Final = 3
CONNECT_SECONDS: Final = 5.0
BACK_OFF_SECONDS: Final = 1.0
MAX_INTERVALS: Final = 10  # times the base interval is the longest back-off


@rule(
    "warning",
    why="If authz cannot be reached, Envoy answers 403: a good customer takes the key for bad, and does not retry.",
    fix="status_on_error: { code: ServiceUnavailable }",
)
def status_on_error(facts: Facts) -> Iterator[Seen]:
    """`status_on_error` is missing, or not a 5xx."""
    for check in facts.checks():
        code = check.config.get("status_on_error", SILENT).get("code", "Forbidden")
        if code not in SERVER_ERRORS:
            yield Seen(check.where, f"{code} for a check that failed")


@rule(
    "info",
    why="Refusals count as answers of the upstream: its error rate and its outlier detection include callers' 429s "
    "and 403s.",
    fix="charge_cluster_response_stats: false",
)
def refusals_charged_to_upstream(facts: Facts) -> Iterator[Seen]:
    """`charge_cluster_response_stats` is not false."""
    for check in facts.checks():
        if check.config.get("charge_cluster_response_stats", True):
            yield Seen(check.where, "charge_cluster_response_stats is true unless set")


@rule("warning", why="A check that hangs holds its request for ever.", fix="timeout: 0.2s")
def no_deadline(facts: Facts) -> Iterator[Seen]:
    """`grpc_service.timeout` is 0."""
    for check in facts.checks():
        if check.timeout == 0:
            yield Seen(check.where, "timeout: 0s, without end")


@rule(
    "error",
    why="Envoy gives up before authz does: Redis charges calls for nothing, and callers get 503 in place of the "
    "failurePolicy's answer.",
    fix="settings.redisTimeoutMs below the filter's timeout, with room for the round trip",
)
def redis_timeout_above_check_timeout(facts: Facts) -> Iterator[Seen]:
    """The sidecar's `redisTimeoutMs` is not below the filter's timeout. Needs --sidecar."""
    for check in facts.checks():
        if check.timeout and facts.redis_timeout is not None and facts.redis_timeout >= check.timeout:
            yield Seen(check.where, f"timeout {_ms(check.timeout)}, and redisTimeoutMs {_ms(facts.redis_timeout)}")


@rule(
    "warning",
    why="A call that finds only held units left may wait holdMs for them and then ask Redis. Where the timeout is "
    "earlier, the call is refused at once, although these units may come free.",
    fix="a longer timeout of the filter, or a shorter settings.holdMs",
)
def check_timeout_below_holds(facts: Facts) -> Iterator[Seen]:
    """The filter's timeout is shorter than the sidecar's `holdMs` and `redisTimeoutMs` together. Needs --sidecar."""
    for check in facts.checks():
        longest = facts.hold_ms / 1000 + (facts.redis_timeout or 0)
        if facts.hold_ms and check.timeout and check.timeout < longest:
            holds = f"holdMs {facts.hold_ms} + redisTimeoutMs {(facts.redis_timeout or 0) * 1000:g}"
            yield Seen(check.where, f"timeout {_ms(check.timeout)}, and {holds}", f"timeout: {longest:g}s")


@rule(
    "warning",
    why="A worker that accepts no connection uses up the whole check, and no time is left for another.",
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
    why="Envoy uses max_interval as the timeout of each try: a slow check is cut off after it was charged, while "
    "authz relies on the longer deadline.",
    fix="retry_back_off: { base_interval: 0.002s, max_interval: the filter's timeout }",
)
def retry_cuts_the_try(facts: Facts) -> Iterator[Seen]:
    """The longest back-off of a retry (ten times the base, unless set) is below the filter's timeout."""
    for check in facts.checks():
        back_off = check.service.get("retry_policy", SILENT).get("retry_back_off")
        if back_off is not None:
            longest = seconds(back_off.get("max_interval"), MAX_INTERVALS * _base(back_off))
            if longest < (check.timeout or longest):
                fix = f"max_interval: {check.timeout:g}s"
                yield Seen(check.where, f"max_interval {_ms(longest)}, and the timeout {_ms(check.timeout)}", fix)


def _base(back_off: Json) -> float:
    return seconds(back_off.get("base_interval"), BACK_OFF_SECONDS)


@rule(
    "warning",
    why="Envoy waits up to a second before it retries, longer than the check may take: the retry never happens.",
    fix="retry_back_off: { base_interval: 0.002s, max_interval: the filter's timeout }",
)
def retry_burns_the_deadline(facts: Facts) -> Iterator[Seen]:
    """There is a retry policy, and its first back-off is not below the filter's timeout."""
    for check in facts.checks():
        policy = check.service.get("retry_policy")
        if policy is not None:
            base = _base(policy.get("retry_back_off", SILENT))
            if check.timeout and base >= check.timeout:
                fix = f"retry_back_off: {{ base_interval: 0.002s, max_interval: {check.timeout:g}s }}"
                yield Seen(check.where, f"base_interval {_ms(base)}, and the timeout {_ms(check.timeout)}", fix)


@rule(
    "info",
    why="A check on its way to a worker that stops or dies is lost, and its caller gets 503.",
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
    """Checks are retried, and the cluster's circuit breaker has no `max_retries`."""
    for envoy, cluster in facts.clusters():
        retried = any("retry_policy" in check.service for check in envoy.checks_of(cluster))
        if retried and cluster.threshold("max_retries", MAX_RETRIES) <= MAX_RETRIES:
            yield Seen(cluster.where, f"max_retries {cluster.threshold('max_retries', MAX_RETRIES)}")


def _ms(duration: float) -> str:
    return f"{duration * 1000:g} ms"


RULES: Final[tuple[Rule, ...]] = (
    status_on_error,
    refusals_charged_to_upstream,
    no_deadline,
    redis_timeout_above_check_timeout,
    check_timeout_below_holds,
    connect_timeout_above_check_timeout,
    retry_cuts_the_try,
    retry_burns_the_deadline,
    no_retry,
    few_retries,
)

"""The cluster of authz: its endpoints, their health, and the number of checks that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from authz.doctor.facts import SILENT, EnvoyCluster, Facts, Json, SidecarFacts, seconds
from authz.doctor.finding import Rule, Seen, rule

# Envoy's own values, where the configuration is silent.
MAX_REQUESTS: Final = 1024
MERGE_SECONDS: Final = 1.0

FAR: Final = 4  # times as many requests as all workers take on at once


@rule(
    "warning",
    why="Each thread of Envoy keeps one connection to each endpoint: of several workers behind one endpoint, most "
    "are idle.",
    fix="one endpoint for each worker, as `authz envoy-config --only cluster --workers N` prints them",
)
def one_endpoint_for_many_workers(facts: Facts) -> Iterator[Seen]:
    """The cluster has fewer endpoints than the sidecars have workers. Needs --sidecar."""
    for _, cluster in facts.clusters():
        workers = _workers_behind(cluster, facts.sidecars)
        if len(cluster.hosts) < workers:
            yield Seen(cluster.where, f"{_many(len(cluster.hosts), 'endpoint')} for {_many(workers, 'worker')}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _workers_behind(cluster: EnvoyCluster, sidecars: Sequence[SidecarFacts]) -> int:
    """Of the sidecars that listen at one of its ports; of all, where no port tells.

    Of those with the same ports only one can be on Envoy's own machine: the others are in other pods, with Envoys of
    their own.
    """
    asked = {_port(host) for host in cluster.hosts}
    listening = [(frozenset(map(_port, one.settings.get("grpcListen", ()))), len(one.workers)) for one in sidecars]
    behind = [one for one in listening if one[0] & asked] or listening
    return sum(dict(behind).values() if cluster.is_local else (workers for _, workers in behind))


def _port(address: str) -> str:
    """Or its path."""
    return address.removeprefix("unix:") if address.startswith(("/", "unix:")) else address.rpartition(":")[2]


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
    why="A dead worker costs each of its requests the whole timeout.",
    fix="the health_checks that `authz envoy-config --only cluster` prints",
)
def no_health_check(facts: Facts) -> Iterator[Seen]:
    """The cluster has no health check."""
    for _, cluster in facts.clusters():
        if not _health_checks(cluster):
            yield Seen(cluster.where, "no health_checks")


@rule(
    "warning",
    why="A worker that is about to stop reports NOT_SERVING over gRPC and still takes connections. Another kind of "
    "check does not notice.",
    fix="grpc_health_check: { service_name: envoy.service.auth.v3.Authorization }",
)
def health_check_not_grpc(facts: Facts) -> Iterator[Seen]:
    """A health check of the cluster does not use gRPC."""
    for _, cluster in facts.clusters():
        for check in _health_checks(cluster):
            if "grpc_health_check" not in check:
                kind = next((name for name in check if name.endswith("_health_check")), "no grpc_health_check")
                yield Seen(cluster.where, kind)


@rule(
    "warning",
    why="Envoy still sends checks to a worker that has stopped, and their callers get 503.",
    fix="settings.drainSeconds above unhealthy_threshold x interval, or a shorter interval",
)
def drain_shorter_than_health_check(facts: Facts) -> Iterator[Seen]:
    """The sidecar's `drainSeconds` is not above the time that health checks take to notice. Needs --sidecar. A value of
    0 on Envoy's own machine is not reported: in a pod, authz stops after its only Envoy."""
    drain = min(facts.told("drainSeconds"), default=None)
    for _, cluster in facts.clusters():
        if drain == 0 and cluster.is_local:
            continue
        for check in _health_checks(cluster):
            noticed = check.get("unhealthy_threshold", 1) * seconds(check.get("interval"), 0)
            if drain is not None and drain <= noticed:
                yield Seen(cluster.where, f"noticed after {noticed:g} s, and drainSeconds is {drain:g}")


@rule(
    "info",
    why="A change of health waits for the end of that second. That is too late while workers are replaced one by one.",
    fix="common_lb_config: { update_merge_window: 0s }",
)
def health_told_late(facts: Facts) -> Iterator[Seen]:
    """The cluster merges updates, over a second unless set."""
    for _, cluster in facts.clusters():
        window = seconds(cluster.config.get("common_lb_config", SILENT).get("update_merge_window"), MERGE_SECONDS)
        if _health_checks(cluster) and window > 0:
            yield Seen(cluster.where, f"update_merge_window {window:g} s")


def _health_checks(cluster: EnvoyCluster) -> Sequence[Json]:
    found: Sequence[Json] = cluster.config.get("health_checks", ())
    return found


@rule(
    "info",
    why="Only health checks notice a worker that fails; requests would show it sooner.",
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
    """The circuit breaker allows fewer checks than the workers take on at once. If one name stands for many workers, it
    allows fewer than one worker for each port takes on. Needs --sidecar."""
    for cluster, allowed, most in _breakers(facts):
        # As many pods as there are, and as many Envoys that share them: one Envoy need not be able to fill them all.
        bearable = min(most, facts.max_in_flight * cluster.named) if cluster.named else most
        if allowed < bearable:
            yield _breaker(cluster, allowed, bearable)


@rule(
    "info",
    why="authz sheds the excess at a cost; Envoy would do it for next to nothing.",
    fix="max_requests and max_pending_requests: settings.maxInFlight x workers",
)
def breaker_far_above_workers(facts: Facts) -> Iterator[Seen]:
    """The circuit breaker allows more than four times the checks that the workers take on at once. Needs --sidecar."""
    for cluster, allowed, bearable in _breakers(facts):
        if allowed > FAR * bearable:
            yield _breaker(cluster, allowed, bearable)


def _breakers(facts: Facts) -> Iterator[tuple[EnvoyCluster, int, int]]:
    """What each cluster's breaker allows, and what its workers bear."""
    if facts.told("maxInFlight"):
        for _, cluster in facts.clusters():
            if cluster.hosts:
                bearable = facts.max_in_flight * len(cluster.hosts)
                yield cluster, cluster.threshold("max_requests", MAX_REQUESTS), bearable


def _breaker(cluster: EnvoyCluster, allowed: int, bearable: int) -> Seen:
    what = f"max_requests {allowed}, and the workers take on {bearable}"
    return Seen(cluster.where, what, f"max_requests: {bearable}")


@rule(
    "warning",
    why="Envoy then uses a gRPC client of its own, outside all clusters: without health checks, outlier detection "
    "and circuit breakers. No other rule here can check it.",
    fix="grpc_service: { envoy_grpc: { cluster_name: … } }, and the cluster that `authz envoy-config --only cluster` "
    "prints",
)
def google_grpc(facts: Facts) -> Iterator[Seen]:
    """The filter uses `google_grpc`."""
    for check in facts.checks():
        service = check.service.get("google_grpc")
        if service is not None:
            yield Seen(check.where, f"google_grpc: {service.get('target_uri', '')}")


RULES: Final[tuple[Rule, ...]] = (
    google_grpc,
    one_endpoint_for_many_workers,
    cluster_not_http2,
    no_health_check,
    health_check_not_grpc,
    drain_shorter_than_health_check,
    health_told_late,
    no_outlier_detection,
    breaker_below_workers,
    breaker_far_above_workers,
)

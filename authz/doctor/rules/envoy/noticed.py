"""What Envoy has noticed of the workers since it started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import Facts
from authz.doctor.finding import Rule, Seen, rule

TELLING_SHARE: Final = 0.01  # of all checks


@rule(
    "warning",
    why="The others carry its load. If none is left, every request gets 503.",
    fix="look at the worker's log and its /readyz",
)
def unhealthy_endpoint(facts: Facts) -> Iterator[Seen]:
    """Envoy's health checks or its outlier detection have taken out an endpoint."""
    for _, cluster in facts.clusters():
        out = [host for host, healthy in cluster.hosts.items() if not healthy]
        if out:
            yield Seen(cluster.where, f"{len(out)} of {len(cluster.hosts)} are out: {', '.join(out)}")


@rule(
    "warning",
    why="These callers got an error, even with a good key.",
    fix="look at the cluster's statistics upstream_rq_timeout and upstream_cx_connect_fail, and at the sidecar's log",
)
def checks_fail(facts: Facts) -> Iterator[Seen]:
    """More than one in a hundred checks has failed since Envoy started."""
    for envoy in facts.envoys:
        for name, failed in envoy.counted("error"):
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


RULES: Final[tuple[Rule, ...]] = (
    unhealthy_endpoint,
    checks_fail,
    checks_shed,
)

"""Every Prometheus name, and `observe(verdict, seconds)`."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from authz.core.verdict import Allowed, Verdict

__all__ = ["CONTENT_TYPE", "Metrics"]

OTHER = "other"

# A second series beside each counter, which says when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Fit for 50 µs to 100 ms: the range between a refusal without Redis and Envoy's patience.
LATENCY_BUCKETS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(slots=True)
class Metrics:
    """The sidecar's metrics. Labels are names from the configuration, at most `max_plans` plans; never a key."""

    max_plans: int = 1_000
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    checks: Counter = field(init=False)
    shadow_refusals: Counter = field(init=False)
    check_seconds: Histogram = field(init=False)
    cancelled: Counter = field(init=False)
    redis_seconds: Histogram = field(init=False)
    redis_errors: Counter = field(init=False)
    batch_size: Histogram = field(init=False)
    circuit_open: Gauge = field(init=False)
    degraded: Counter = field(init=False)
    unsettled: Gauge = field(init=False)
    key_lookups: Counter = field(init=False)
    reloads: Counter = field(init=False)
    catalog_version: Gauge = field(init=False)
    catalog_loaded: Gauge = field(init=False)
    _plans: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        r = self.registry
        self.checks = Counter(
            "authz_checks", "Answered checks.", ("api", "stage", "plan", "decision", "reason"), registry=r
        )
        self.shadow_refusals = Counter(
            "authz_shadow_refusals", "Calls that a shadow plan let through.", ("plan", "layer"), registry=r
        )
        self.check_seconds = Histogram(
            "authz_check_duration_seconds", "Time to answer a check.", buckets=LATENCY_BUCKETS, registry=r
        )
        self.cancelled = Counter(
            "authz_checks_cancelled", "Checks that Envoy gave up; what they charged stays charged.", registry=r
        )
        self.redis_seconds = Histogram(
            "authz_redis_batch_duration_seconds", "Time of a batch in Redis.", buckets=LATENCY_BUCKETS, registry=r
        )
        self.redis_errors = Counter(
            "authz_redis_errors", "Batches and probes that failed, by error.", ("error",), registry=r
        )
        self.batch_size = Histogram(
            "authz_redis_batch_requests", "Requests that shared a batch.", buckets=BATCH_BUCKETS, registry=r
        )
        self.circuit_open = Gauge("authz_redis_circuit_open", "1 while Redis is left alone.", registry=r)
        self.degraded = Counter(
            "authz_checks_degraded", "Checks decided without Redis, by failure policy.", ("policy",), registry=r
        )
        self.unsettled = Gauge(
            "authz_fallback_unsettled_requests", "Calls admitted without Redis and not counted there yet.", registry=r
        )
        self.key_lookups = Counter("authz_key_lookups", "Keys looked up in the store.", ("result",), registry=r)
        self.reloads = Counter("authz_catalog_reloads", "Attempts to reload the catalog.", ("result",), registry=r)
        self.catalog_version = Gauge("authz_catalog_version", "Grows by one with each catalog taken over.", registry=r)
        self.catalog_loaded = Gauge(
            "authz_catalog_loaded_timestamp_seconds", "When the current catalog was taken over.", registry=r
        )

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def observe(self, verdict: Verdict, seconds: float) -> None:
        """Count an answered check."""
        subject, plan = verdict.subject, self._plan_label(verdict.subject.plan)
        decision, reason = ("allowed", "") if isinstance(verdict, Allowed) else ("denied", _reason(verdict))
        self.checks.labels(subject.api, subject.stage, plan, decision, reason).inc()
        self.check_seconds.observe(seconds)
        tally = verdict.tally
        if tally and tally.shadowed_by:
            self.shadow_refusals.labels(plan, tally.shadowed_by.layer).inc()
        if isinstance(verdict, Allowed) and tally is None:
            self.degraded.labels("allow").inc()
        elif tally and tally.degraded:
            self.degraded.labels("local").inc()
        elif reason == "unavailable":
            self.degraded.labels("deny").inc()

    def _plan_label(self, plan: str) -> str:
        """The first `max_plans` plans have a label of their own; the number of series stays bounded."""
        if plan in self._plans or not plan:
            return plan
        if len(self._plans) >= self.max_plans:
            return OTHER
        self._plans.add(plan)
        return plan


def _reason(verdict: Verdict) -> str:
    """The layer where a limit refused, else the reason."""
    return "" if isinstance(verdict, Allowed) else str(verdict.layer or verdict.reason)

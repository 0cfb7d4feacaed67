"""Every Prometheus name, and `observe(verdict, seconds)`.

Calls are counted in plain integers. Once a second, and before each collection, the counts go into prometheus-client's
metrics, so callers do not pay for its locks and look-ups of labels.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from authz.core.costs import FALLBACKS
from authz.core.resources import FailurePolicy
from authz.core.verdict import Allowed, Reason, Verdict

__all__ = ["CONTENT_TYPE", "ControlMetrics", "Gathered", "Metrics", "keep_in"]

OTHER = "other"
VERSION = importlib.metadata.version("envoy-usage-plans")
# Exported as 0 before the first count: a rate over a series that begins at 1 would miss the first count.
POLICIES = tuple((str(policy),) for policy in FailurePolicy)
RELOADS = (("swapped",), ("unchanged",), ("refused",))
LOOKUPS = (("known",), ("unknown",), ("failed",))
REDIS_ERRORS = (("ConnectionError",), ("TimeoutError",))
ATTEMPTS = ("delivered", "retried", "failed")
BAD_CALLS = tuple((problem,) for problem in ("too_large", "ended", "no_message", "malformed", "undecodable"))

# Otherwise each counter has a second series: its time of creation.
disable_created_metrics()  # type: ignore[no-untyped-call]
# From 50 µs, a refusal without Redis, to 100 ms, where Envoy's timeout ends a check.
LATENCY_BUCKETS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
CONTROL_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add `counts` observations to the buckets, the one above all bounds included, and `total` to the sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class _Observed:
    """Observations since the last flush."""

    def __init__(self, histogram: _Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        counts, total = self._counts, self._sum
        self._counts, self._sum = [0] * len(counts), 0.0
        if any(counts):
            self._histogram.add(counts, total)


class _Counted:
    """Counts by labels since the last flush."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counts: dict[tuple[str, ...], int] = {}

    def __call__(self, *labels: str) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def add(self, amount: int, *labels: str) -> None:
        """Count `amount` at once."""
        self._counts[labels] = self._counts.get(labels, 0) + amount

    def flush(self) -> None:
        counts, self._counts = self._counts, {}
        for labels, count in counts.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(count)


class _Admitted:
    """Admitted calls and their units since the last flush, by API, stage and plan."""

    def __init__(self, checks: Counter, units: Counter) -> None:
        self._checks = checks
        self._units = units
        self._counts: dict[tuple[str, str, str], int] = {}
        self._extra: dict[tuple[str, str, str], int] = {}  # units beyond one a call

    def count(self, api: str, stage: str, plan: str, cost: int) -> None:
        labels = api, stage, plan
        self._counts[labels] = self._counts.get(labels, 0) + 1
        if cost != 1:
            self._extra[labels] = self._extra.get(labels, 0) + cost - 1

    def flush(self) -> None:
        counts, self._counts = self._counts, {}
        extra, self._extra = self._extra, {}
        for labels, calls in counts.items():
            self._checks.labels(*labels, "allowed", "").inc(calls)
            if labels[2]:
                self._units.labels(*labels).inc(calls + extra.get(labels, 0))


class _Registry(CollectorRegistry):
    """Flushes before each collection, so that it has everything counted so far."""

    def __init__(self, flush: Callable[[], None]) -> None:
        super().__init__()
        self._flush = flush

    def collect(self) -> Iterable[Metric]:
        self._flush()
        return super().collect()


class Metrics:
    """The sidecar's metrics. Labels are names from the configuration, at most `max_plans` plans; never a key."""

    def __init__(self, max_plans: int = 1_000) -> None:
        self._max_plans = max_plans
        self._plans: set[str] = set()
        self._flushed: list[_Observed | _Counted | _Admitted] = []
        self._asked: list[Callable[[], None]] = []
        self.registry = _Registry(self.flush)
        checks = self._counter("authz_checks", "Answered checks.", "api", "stage", "plan", "decision", "reason")
        self._shadow = self._counted("authz_shadow_refusals", "Calls that a shadow plan let through.", "plan", "layer")
        units = self._counter("authz_admitted_units", "Units that admitted calls cost.", "api", "stage", "plan")
        self._admitted, self._denied = _Admitted(checks, units), _Counted(checks)
        self._flushed += [self._admitted, self._denied]
        self._overage = self._counted("authz_overage_units", "Units that were admitted as overage.", "plan")
        self._cost_fallbacks = self._counted(
            "authz_cost_fallbacks",
            "Calls with the cost of their method, because the metadata that `costFrom` names has no whole number.",
            "api",
            "stage",
            "cause",
        )
        self._seconds = self._observed("authz_check_duration_seconds", "Time to answer a check.", LATENCY_BUCKETS)
        self.cancelled = self._counted("authz_checks_cancelled", "Checks that Envoy cancelled; their charges stay.")
        self.bad_calls = self._counted(
            "authz_bad_calls", "Calls at the gRPC port that no Envoy makes on purpose.", "problem", known=BAD_CALLS
        )
        self.redis_seconds = self._observed(
            "authz_redis_batch_duration_seconds", "Time of a batch in Redis.", LATENCY_BUCKETS
        )
        self.redis_errors = self._counted(
            "authz_redis_errors", "Batches and probes that failed, by error.", "error", known=REDIS_ERRORS
        )
        self.batch_size = self._observed("authz_redis_batch_requests", "Requests that shared a batch.", BATCH_BUCKETS)
        self.circuit_open = self._gauge("authz_redis_circuit_open", "1 while Redis is left alone.", "livemax")
        self._degraded = self._counted(
            "authz_checks_degraded", "Checks decided without Redis, by failure policy.", "policy", known=POLICIES
        )
        self.owed = self._gauge(
            "authz_fallback_unsettled_requests", "Calls admitted without Redis and not counted there yet.", "livesum"
        )
        self.recalled = self._counter("authz_checks_recalled", "Refusals answered from memory, without Redis.")
        self.held = self._gauge("authz_held_calls", "Calls held ahead that were not admitted yet.", "livesum")
        self.admitted_from_holds = self._counter(
            "authz_checks_held", "Checks admitted from units held ahead, without Redis."
        )
        self.holds_lost = self._counter(
            "authz_holds_lost", "Holds that were not given back in time, and so were charged whole."
        )
        self.waited = self._counter(
            "authz_checks_waited", "Times that a check waited for the end of a hold that left no room for it."
        )
        self.master_changes = self._counter(
            "authz_redis_master_changes", "Times that another server took over from the master."
        )
        self.key_lookups = self._counted("authz_key_lookups", "Keys looked up in the store.", "result", known=LOOKUPS)
        self.reloads = self._counted(
            "authz_catalog_reloads", "Attempts to reload the catalog.", "result", known=RELOADS
        )
        self.catalog_version = self._gauge(
            "authz_catalog_version", "Grows by one with each catalog taken over.", "livemin"
        )
        self.catalog_loaded = self._gauge(
            "authz_catalog_loaded_timestamp_seconds", "When the current catalog was taken over.", "livemin"
        )
        self.catalog_checked = self._gauge(
            "authz_catalog_checked_timestamp_seconds",
            "When the file was last looked at and the store's change stream last read.",
            "livemin",
        )
        self.catalog_problem = self._gauge(
            "authz_catalog_problem", "1 while a part of the file or the store is refused or ignored.", "livemax"
        )
        self.in_flight = self._gauge("authz_checks_in_flight", "Checks in progress.", "livesum")
        self._expiry = self._gauge(
            "authz_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires (server), or the last of the CAs for clients (clients).",
            "livemin",
            "of",
        )
        self._cpu = self._counter("authz_cpu_seconds", "CPU time of the process, or of all workers.")
        self._cpu_told = 0.0
        self._gauge("authz_build_info", "1; the version is a label.", "livemax", "version").labels(VERSION).set(1)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def flush(self) -> None:
        """Run the callbacks of `at_flush`, then add the counts since the last flush to the metrics."""
        used = time.process_time()
        self._cpu.inc(used - self._cpu_told)
        self._cpu_told = used
        for ask in self._asked:
            ask()
        for counted in self._flushed:
            counted.flush()

    def at_flush(self, ask: Callable[[], None]) -> None:
        """Call `ask` before each flush, for instance to set gauges."""
        self._asked.append(ask)

    def observe(self, verdict: Verdict, seconds: float) -> None:
        """Count an answered check."""
        grant, tally = verdict.grant, verdict.tally
        subject = grant.subject if grant else verdict.subject
        plan = self._plan_label(subject.plan)
        self._seconds.observe(seconds)
        if isinstance(verdict, Allowed):
            self._admitted.count(subject.api, subject.stage, plan, verdict.grant.cost)
            if verdict.overage:
                self._overage.add(verdict.overage, plan)
            if tally is None:
                self._degraded("allow")
        else:
            self._denied(subject.api, subject.stage, plan, "denied", verdict.reason)
            if verdict.reason is Reason.UNAVAILABLE:
                self._degraded("deny")
        if grant and grant.cost_from and grant.cost_source in FALLBACKS:
            self._cost_fallbacks(subject.api, subject.stage, grant.cost_source)
        if tally is not None and (tally.degraded or tally.shadowed_by):
            if tally.shadowed_by:
                self._shadow(plan, tally.shadowed_by.layer)
            if tally.degraded:
                self._degraded("local")

    def certificate_expires(self, of: str, at: float) -> None:
        """Set the expiry `at`, a Unix time, of a certificate. Without TLS the metric has no series."""
        self._expiry.labels(of).set(at)

    def _plan_label(self, plan: str) -> str:
        """The label of a plan: its own for the first `max_plans` plans, then `other`, so that series stay bounded."""
        if plan in self._plans or not plan:
            return plan
        if len(self._plans) >= self._max_plans:
            return OTHER
        self._plans.add(plan)
        return plan

    def _counted(self, name: str, help_text: str, *labels: str, known: Iterable[tuple[str, ...]] = ()) -> _Counted:
        """`known` are labels that are exported as 0 before the first count."""
        counter = self._counter(name, help_text, *labels)
        for values_of in known:
            counter.labels(*values_of)
        counted = _Counted(counter)
        self._flushed.append(counted)
        return counted

    def _observed(self, name: str, help_text: str, bounds: Sequence[float]) -> _Observed:
        observed = _Observed(_Histogram(name, help_text, buckets=bounds, registry=self.registry), bounds)
        self._flushed.append(observed)
        return observed

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(
        self, name: str, help_text: str, of_workers: Literal["livemax", "livemin", "livesum"], *labels: str
    ) -> Gauge:
        """`of_workers` says how the values of live workers are merged."""
        return Gauge(name, help_text, labels, registry=self.registry, multiprocess_mode=of_workers)


def keep_in(directory: str, slot: int) -> None:
    """Keep the metrics that this process makes from now on in files of `slot`, in the directory of all workers.

    The files carry the slot and not the pid, so a worker that replaces a dead one continues its counts.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


class Gathered:
    """The metrics of all workers, read from their files, and those of their supervisor.

    `states` counts the workers in each state. At most `max_plans` plans have a label of their own, over all workers.
    """

    def __init__(self, directory: str, max_plans: int, states: Callable[[], Mapping[str, int]]) -> None:
        self._directory = directory
        self.registry = CollectorRegistry()
        self.registry.register(_States(states))
        self.registry.register(_Files(directory, max_plans))
        self.restarts = Counter("authz_worker_restarts", "Workers that ended unexpectedly.", registry=self.registry)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def forget(self, slot: int) -> None:
        """Drop the gauges of a worker that has ended. Its counts stay."""
        mark_process_dead(slot, self._directory)  # type: ignore[no-untyped-call]


class ControlMetrics:
    """The control plane's metrics. It has few callers, so each answer is counted when it is given."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        build = Gauge("authz_build_info", "1; the version is a label.", ["version"], registry=self.registry)
        build.labels(VERSION).set(1)
        self._requests = Counter(
            "authz_control_requests",
            "Answered requests, by operation and status code.",
            ["operation", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "authz_control_request_duration_seconds",
            "Time to answer a request.",
            ["operation"],
            buckets=CONTROL_BUCKETS,
            registry=self.registry,
        )
        self._attempts = Counter(
            "authz_alert_deliveries",
            "Attempts to deliver an alert, by result: delivered, retried (failed, and due again), failed (given up).",
            ["result"],
            registry=self.registry,
        )
        for result in ATTEMPTS:
            self._attempts.labels(result)
        self._missed = Counter(
            "authz_alerts_missed", "Alerts that the stream dropped before they were read.", registry=self.registry
        )
        self._pending = Gauge(
            "authz_alert_deliveries_pending", "Deliveries of the account that wait.", registry=self.registry
        )
        self._oldest = Gauge(
            "authz_alert_oldest_pending_seconds", "How long the oldest of them has waited.", registry=self.registry
        )
        self._failing = Gauge(
            "authz_alert_targets_failing", "Targets whose last attempt has failed.", registry=self.registry
        )
        self.store_up = Gauge("authz_control_store_up", "1 while the store answers.", registry=self.registry)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count an answer. `operation` is the name of one, or "" if no operation has the path."""
        self._requests.labels(operation, status).inc()
        self._seconds.labels(operation).observe(seconds)

    def attempted(self, result: str) -> None:
        """Count an attempt to deliver an alert. `result` is one of ATTEMPTS."""
        self._attempts.labels(result).inc()

    def missed(self, alerts: int) -> None:
        """Count alerts that were lost before they were read."""
        self._missed.inc(alerts)

    def waiting(self, pending: int, oldest_seconds: float, failing: int) -> None:
        """Set how many deliveries wait, how long the oldest has waited, and how many targets are failing."""
        self._pending.set(pending)
        self._oldest.set(oldest_seconds)
        self._failing.set(failing)


class _States(Collector):
    def __init__(self, states: Callable[[], Mapping[str, int]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("authz_workers", "Worker processes, by state.", labels=["state"])
        for state, count in self._states().items():
            family.add_metric([state], count)
        yield family


class _Files(Collector):
    """The metrics of the workers. Plans beyond the bound are added up as `other`."""

    def __init__(self, directory: str, max_plans: int) -> None:
        self._files = MultiProcessCollector(None, directory)  # type: ignore[no-untyped-call]
        self._plans = {"", OTHER}
        self._max_labels = max_plans + len(self._plans)

    def collect(self) -> Iterator[Metric]:
        for family in self._files.collect():  # type: ignore[no-untyped-call]
            if any("plan" in sample.labels for sample in family.samples):
                family.samples = self._bounded(family.samples)
            yield family

    def _bounded(self, samples: Iterable[Sample]) -> list[Sample]:
        summed: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        for sample in samples:
            plan = sample.labels["plan"]
            if plan not in self._plans and len(self._plans) >= self._max_labels:
                plan = OTHER
            self._plans.add(plan)
            summed[sample.name, tuple(sorted({**sample.labels, "plan": plan}.items()))] += sample.value
        return [Sample(name, dict(labels), value) for (name, labels), value in summed.items()]

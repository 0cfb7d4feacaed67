"""Every Prometheus name, and `observe(verdict, seconds)`.

Calls are counted in plain integers, and what has been counted goes into prometheus-client's metrics once a second and
whenever somebody looks: its locks and look-ups of labels are not paid for by callers (R25).
"""

from __future__ import annotations

import os
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

from authz.core.verdict import Allowed, Verdict

__all__ = ["CONTENT_TYPE", "Gathered", "Metrics", "keep_in"]

OTHER = "other"

# A second series beside each counter, which says when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Fit for 50 µs to 100 ms: the range between a refusal without Redis and Envoy's patience.
LATENCY_BUCKETS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """So many observations in each bucket, the one above all bounds included, and their sum."""
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

    def __call__(self, value: float) -> None:
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

    def flush(self) -> None:
        counts, self._counts = self._counts, {}
        for labels, count in counts.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(count)


class _Registry(CollectorRegistry):
    """Whoever looks sees all that was counted up to then."""

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
        self._flushed: list[_Observed | _Counted] = []
        self._asked: list[Callable[[], None]] = []
        self.registry = _Registry(self.flush)
        self._checks = self._counted("authz_checks", "Answered checks.", "api", "stage", "plan", "decision", "reason")
        self._shadow = self._counted("authz_shadow_refusals", "Calls that a shadow plan let through.", "plan", "layer")
        self._seconds = self._observed("authz_check_duration_seconds", "Time to answer a check.", LATENCY_BUCKETS)
        self.cancelled = self._counted(
            "authz_checks_cancelled", "Checks that Envoy gave up; what they charged stays charged."
        )
        self.redis_seconds = self._observed(
            "authz_redis_batch_duration_seconds", "Time of a batch in Redis.", LATENCY_BUCKETS
        )
        self.redis_errors = self._counted("authz_redis_errors", "Batches and probes that failed, by error.", "error")
        self.batch_size = self._observed("authz_redis_batch_requests", "Requests that shared a batch.", BATCH_BUCKETS)
        self.circuit_open = self._gauge("authz_redis_circuit_open", "1 while Redis is left alone.", "livemax")
        self._degraded = self._counted(
            "authz_checks_degraded", "Checks decided without Redis, by failure policy.", "policy"
        )
        self.unsettled = self._gauge(
            "authz_fallback_unsettled_requests", "Calls admitted without Redis and not counted there yet.", "livesum"
        )
        self.recalled = self._counter("authz_checks_recalled", "Refusals that were remembered, and cost Redis nothing.")
        self.master_changes = self._counter(
            "authz_redis_master_changes", "Times that another server took over from the master."
        )
        self.key_lookups = self._counted("authz_key_lookups", "Keys looked up in the store.", "result")
        self.reloads = self._counted("authz_catalog_reloads", "Attempts to reload the catalog.", "result")
        self.catalog_version = self._gauge(
            "authz_catalog_version", "Grows by one with each catalog taken over.", "livemin"
        )
        self.catalog_loaded = self._gauge(
            "authz_catalog_loaded_timestamp_seconds", "When the current catalog was taken over.", "livemin"
        )

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def flush(self) -> None:
        """Hand over what was counted since the last time, and ask those who count for themselves."""
        for ask in self._asked:
            ask()
        for counted in self._flushed:
            counted.flush()

    def at_flush(self, ask: Callable[[], None]) -> None:
        """Call this before each hand-over: a place to set gauges."""
        self._asked.append(ask)

    def observe(self, verdict: Verdict, seconds: float) -> None:
        """Count an answered check."""
        subject, tally = verdict.subject, verdict.tally
        plan = self._plan_label(subject.plan)
        self._seconds(seconds)
        if isinstance(verdict, Allowed):
            self._checks(subject.api, subject.stage, plan, "allowed", "")
            if tally is None:
                self._degraded("allow")
        else:
            reason = verdict.layer or verdict.reason  # the layer where a limit refused
            self._checks(subject.api, subject.stage, plan, "denied", reason)
            if reason == "unavailable":
                self._degraded("deny")
        if tally is not None and (tally.degraded or tally.shadowed_by):
            if tally.shadowed_by:
                self._shadow(plan, tally.shadowed_by.layer)
            if tally.degraded:
                self._degraded("local")

    def _plan_label(self, plan: str) -> str:
        """The first `max_plans` plans have a label of their own; the number of series stays bounded."""
        if plan in self._plans or not plan:
            return plan
        if len(self._plans) >= self._max_plans:
            return OTHER
        self._plans.add(plan)
        return plan

    def _counted(self, name: str, help_text: str, *labels: str) -> _Counted:
        counted = _Counted(self._counter(name, help_text, *labels))
        self._flushed.append(counted)
        return counted

    def _observed(self, name: str, help_text: str, bounds: Sequence[float]) -> _Observed:
        observed = _Observed(_Histogram(name, help_text, buckets=bounds, registry=self.registry), bounds)
        self._flushed.append(observed)
        return observed

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, of_workers: Literal["livemax", "livemin", "livesum"]) -> Gauge:
        """`of_workers` says what is made of the values of several: of those that live."""
        return Gauge(name, help_text, registry=self.registry, multiprocess_mode=of_workers)


def keep_in(directory: str, slot: int) -> None:
    """From now on the metrics that this process makes are kept in files of this slot, beside those of other workers.

    By its number and not its pid: a worker that takes the place of a dead one counts on from where that one was (R25).
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


class Gathered:
    """The metrics of all workers, read from their files, and those of their supervisor.

    `states` tells how many workers are in each state. Of all workers together, too, at most `max_plans` plans have a
    label of their own.
    """

    def __init__(self, directory: str, max_plans: int, states: Callable[[], Mapping[str, int]]) -> None:
        self._directory = directory
        self.registry = CollectorRegistry()
        self.registry.register(_States(states))
        self.registry.register(_Files(directory, max_plans))
        self.restarts = Counter(
            "authz_worker_restarts", "Workers that ended without being told to.", registry=self.registry
        )

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, of media type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def forget(self, slot: int) -> None:
        """A worker has ended: its gauges say nothing any more; what it counted stays."""
        mark_process_dead(slot, self._directory)  # type: ignore[no-untyped-call]


class _States(Collector):
    def __init__(self, states: Callable[[], Mapping[str, int]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("authz_workers", "Worker processes, by state.", labels=["state"])
        for state, count in self._states().items():
            family.add_metric([state], count)
        yield family


class _Files(Collector):
    """What the workers have counted. Plans that come when the bound is reached are added up as `other`."""

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
            plan = self._label(sample.labels["plan"])
            summed[sample.name, tuple(sorted({**sample.labels, "plan": plan}.items()))] += sample.value
        return [Sample(name, dict(labels), value) for (name, labels), value in summed.items()]

    def _label(self, plan: str) -> str:
        if plan not in self._plans and len(self._plans) >= self._max_labels:
            return OTHER
        self._plans.add(plan)
        return plan

"""The metrics of several workers, combined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import values

from authz.core.verdict import Denied, Reason, Subject
from authz.observe.metrics import Gathered, Metrics, keep_in


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory for workers' files. Afterwards this process holds its metrics in memory again."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    yield str(tmp_path)
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def worker(directory: str, slot: int, *plans: str, max_plans: int = 1_000) -> Metrics:
    """Play a worker that has refused one call of each plan."""
    keep_in(directory, slot)
    metrics = Metrics(max_plans)
    for plan in plans:
        metrics.observe(Denied(Reason.NO_PLAN, Subject(plan=plan)), 0.0001)
    metrics.flush()
    return metrics


def gathered(directory: str, max_plans: int = 1_000) -> Gathered:
    """A supervisor's view; it holds its own metrics in memory."""
    values.ValueClass = values.MutexValue
    return Gathered(directory, max_plans, lambda: {"ok": 2, "down": 0})


def value(of: Gathered, name: str, **labels: str) -> float | None:
    return of.registry.get_sample_value(name, labels)


def by_plan(of: Gathered) -> dict[str, float]:
    [family] = [family for family in of.registry.collect() if family.name == "authz_checks"]
    return {sample.labels["plan"]: sample.value for sample in family.samples}


def test_counts_are_added_up(directory: str) -> None:
    for slot in (0, 1):
        worker(directory, slot, "p1", "p1", f"p{slot + 2}")
    whole = gathered(directory)
    assert by_plan(whole) == {"p1": 4, "p2": 1, "p3": 1}
    assert value(whole, "authz_check_duration_seconds_count") == 6
    assert value(whole, "authz_check_duration_seconds_bucket", le="0.0001") == 6


def test_a_successor_counts_on_in_the_same_files(directory: str) -> None:
    worker(directory, 0, "p1")
    before = sorted(Path(directory).iterdir())
    worker(directory, 0, "p1", "p2")
    assert by_plan(gathered(directory)) == {"p1": 2, "p2": 1}
    assert sorted(Path(directory).iterdir()) == before


@pytest.mark.parametrize(
    ("name", "gauges", "both", "survivor"),
    [
        ("authz_redis_circuit_open", (1, 0), 1, 0),
        ("authz_fallback_unsettled_requests", (3, 4), 7, 4),
        ("authz_catalog_version", (1, 2), 1, 2),
        ("authz_catalog_loaded_timestamp_seconds", (100, 200), 100, 200),
    ],
)
def test_a_gauge_is_that_of_the_workers_that_live(
    directory: str, name: str, gauges: tuple[int, int], both: int, survivor: int
) -> None:
    """It is the worst value or the sum; a worker that has ended does not count."""
    for slot, gauge in enumerate(gauges):
        metrics = worker(directory, slot)
        of = {
            "authz_redis_circuit_open": metrics.circuit_open,
            "authz_fallback_unsettled_requests": metrics.owed,
            "authz_catalog_version": metrics.catalog_version,
            "authz_catalog_loaded_timestamp_seconds": metrics.catalog_loaded,
        }
        of[name].set(gauge)
    whole = gathered(directory)
    assert value(whole, name) == both
    whole.forget(0)
    assert value(whole, name) == survivor


def test_all_workers_together_have_a_bounded_number_of_plans(directory: str) -> None:
    """Each worker alone is within the bound; the plans above it are summed as `other`."""
    for slot in (0, 1):
        worker(directory, slot, *(f"p{slot}-{n}" for n in range(3)), max_plans=2)
    whole = gathered(directory, max_plans=3)
    found = by_plan(whole)
    assert len(found.keys() - {"other"}) == 3
    assert sum(found.values()) == 6
    worker(directory, 1, "p1-0", "p9")
    again = by_plan(whole)
    assert again.keys() == found.keys()
    assert sum(again.values()) == 8
    assert not [plan for plan in found if again[plan] < found[plan]]


def test_the_supervisor_tells_of_its_workers(directory: str) -> None:
    whole = gathered(directory)
    whole.restarts.inc()
    assert value(whole, "authz_workers", state="ok") == 2
    assert value(whole, "authz_workers", state="down") == 0
    assert value(whole, "authz_worker_restarts_total") == 1


def test_the_exposition_has_each_series_once(directory: str) -> None:
    for slot in (0, 1):
        worker(directory, slot, "p1")
    series = [line.rpartition(" ")[0] for line in gathered(directory).exposition().decode().splitlines()]
    assert max(Counter(line for line in series if not line.startswith("#")).values()) == 1

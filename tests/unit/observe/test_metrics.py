"""The metrics count what happens, with a bounded number of labels."""

from __future__ import annotations

import importlib.metadata
import time
from typing import get_args

import pytest
from msgspec.structs import replace

from authz.config.live import Outcome
from authz.core.costs import CostSource
from authz.core.limits import Layer, Limit, throttle
from authz.core.request import Request
from authz.core.resources import CostFrom
from authz.core.routes import Route
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, Verdict, judge
from authz.observe.metrics import ControlMetrics, Metrics
from authz.store.keys import LookupResult

BUCKET = throttle(1.0, 5)
assert BUCKET
LIMIT = Limit(Layer.PLAN_THROTTLE, "{0}:v1:ledger:p1:KEY-ID", BUCKET)
SUBJECT = Subject("a1", "prod", Route("/pets", "GET"), 1, "KEY-ID", "p1", "Plan", "CUSTOMER")
REQUEST = Request("GET", "host", "/")
GRANT = Grant(SUBJECT, (LIMIT,))


def labels(
    api: str = "a1", stage: str = "prod", plan: str = "p1", decision: str = "denied", reason: str = ""
) -> object:
    return {"api": api, "stage": stage, "plan": plan, "decision": decision, "reason": reason}


def counted(metrics: Metrics, name: str) -> list[tuple[object, float]]:
    """Return the samples of a counter that are not 0."""
    families = {family.name: family for family in metrics.registry.collect()}
    return [(s.labels, s.value) for s in families[name].samples if s.name == f"{name}_total" and s.value]


def observed(*verdicts: Verdict, max_plans: int = 1_000) -> Metrics:
    metrics = Metrics(max_plans)
    for verdict in verdicts:
        metrics.observe(verdict, 0.0001)
    return metrics


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (judge(GRANT, Tally(0), REQUEST), labels(decision="allowed")),
        (judge(GRANT, Tally(0, refused_by=LIMIT), REQUEST), labels(reason="plan_throttle")),
        (Denied(Reason.KEY_UNKNOWN, Subject("a1", "prod")), labels(plan="", reason="key_unknown")),
        (Denied(Reason.UNKNOWN_API), labels("", "", "", reason="unknown_api")),
    ],
)
def test_a_check_is_counted_by_its_outcome(verdict: Verdict, expected: object) -> None:
    """A refusal by a limit names the layer, any other its reason."""
    metrics = observed(verdict, verdict)
    assert counted(metrics, "authz_checks") == [(expected, 2.0)]
    assert metrics.registry.get_sample_value("authz_check_duration_seconds_count") == 2.0


@pytest.mark.parametrize(
    ("verdict", "policy"),
    [
        (Allowed(GRANT, None), "allow"),
        (Allowed(GRANT, Tally(0, degraded=True)), "local"),
        (judge(GRANT, Tally(0, refused_by=LIMIT, degraded=True), REQUEST), "local"),
        (Denied(Reason.UNAVAILABLE, SUBJECT), "deny"),
    ],
)
def test_a_check_without_redis_is_counted_by_its_policy(verdict: Verdict, policy: str) -> None:
    assert counted(observed(verdict), "authz_checks_degraded") == [({"policy": policy}, 1.0)]


def test_what_overload_sheds_is_no_policys_doing() -> None:
    assert counted(observed(Denied(Reason.OVERLOADED, SUBJECT)), "authz_checks_degraded") == []


def test_a_shadow_refusal_is_counted_beside_the_call_it_let_through() -> None:
    metrics = observed(judge(GRANT, Tally(0, shadowed_by=LIMIT), REQUEST))
    assert counted(metrics, "authz_shadow_refusals") == [({"plan": "p1", "layer": "plan_throttle"}, 1.0)]
    assert counted(metrics, "authz_checks") == [(labels(decision="allowed"), 1.0)]


def priced(cost: int, source: CostSource = CostSource.METADATA) -> Grant:
    return Grant(SUBJECT, (LIMIT,), cost=cost, cost_from=CostFrom(("cost", "units"), max=1000), cost_source=source)


def test_the_units_of_admitted_calls_are_counted_beside_the_calls() -> None:
    """A refused call costs nothing, and neither does one without a plan."""
    grants = priced(300), priced(0), GRANT, Grant(Subject("a1", "prod"), (LIMIT,), cost=7)
    refused = judge(priced(50), Tally(0, refused_by=LIMIT), REQUEST)
    metrics = observed(*(judge(grant, Tally(0), REQUEST) for grant in grants), refused, Allowed(priced(9), None))
    where = {"api": "a1", "stage": "prod", "plan": "p1"}
    assert counted(metrics, "authz_admitted_units") == [(where, 310.0)]


def test_the_units_of_plans_beyond_the_bound_are_added_up() -> None:
    plans = [replace(priced(cost), subject=replace(SUBJECT, plan=f"p{cost}")) for cost in (1, 2, 3)]
    metrics = observed(*(judge(grant, Tally(0), REQUEST) for grant in plans), max_plans=1)
    assert [value for _, value in counted(metrics, "authz_admitted_units")] == [1.0, 5.0]


@pytest.mark.parametrize(
    ("source", "causes"),
    [
        (CostSource.METHOD, []),
        (CostSource.METADATA, []),
        (CostSource.MAX, []),
        (CostSource.ABSENT, ["absent"]),
        (CostSource.NOT_WHOLE, ["not_whole"]),
    ],
)
def test_a_cost_that_metadata_lacks_is_counted_by_its_cause(source: CostSource, causes: list[str]) -> None:
    """Whether the call was admitted or refused."""
    grant = priced(7, source)
    metrics = observed(judge(grant, Tally(0), REQUEST), judge(grant, Tally(0, refused_by=LIMIT), REQUEST))
    expected = [({"api": "a1", "stage": "prod", "cause": cause}, 2.0) for cause in causes]
    assert counted(metrics, "authz_cost_fallbacks") == expected


def test_a_plan_beyond_the_bound_is_other() -> None:
    """The plans that came first keep their names."""
    verdicts = [Denied(Reason.NO_PLAN, Subject(plan=name)) for name in ("p1", "p2", "p3", "p4", "p1")]
    found = {sample["plan"]: n for sample, n in counted(observed(*verdicts, max_plans=2), "authz_checks")}  # type: ignore[index]
    assert found == {"p1": 2.0, "p2": 1.0, "other": 2.0}


def test_no_label_is_a_key_a_path_or_a_customer() -> None:
    verdicts = (
        judge(GRANT, Tally(0, refused_by=LIMIT), REQUEST),
        Allowed(GRANT, None),
        Denied(Reason.KEY_DISABLED, SUBJECT),
    )
    text = observed(*verdicts).exposition().decode()
    assert not [word for word in ("KEY-ID", "SECRET", "CUSTOMER", "/pets") if word in text]


def test_names_carry_their_unit() -> None:
    """Prometheus's rule: base units, and `_total` on counters."""
    for family in Metrics().registry.collect():
        assert family.name.startswith("authz_")
        assert family.type != "histogram" or family.name.endswith(("_seconds", "_requests"))


# --- before the first event, and from the system ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("authz_checks_degraded", "policy", {"local", "allow", "deny"}),
        ("authz_catalog_reloads", "result", set(get_args(Outcome))),
        ("authz_key_lookups", "result", set(get_args(LookupResult))),
        ("authz_redis_errors", "error", {"ConnectionError", "TimeoutError"}),
    ],
)
def test_what_can_be_counted_is_0_before_it_happens(name: str, label: str, expected: set[str]) -> None:
    """Otherwise `rate()` would miss the first event, and a panel would be empty."""
    [family] = [family for family in Metrics().registry.collect() if family.name == name]
    assert {sample.labels[label]: sample.value for sample in family.samples} == dict.fromkeys(expected, 0.0)


@pytest.mark.parametrize("metrics", [Metrics(), ControlMetrics()], ids=["sidecar", "control"])
def test_the_version_is_a_metric(metrics: Metrics | ControlMetrics) -> None:
    labels = {"version": importlib.metadata.version("envoy-usage-plans")}
    assert metrics.registry.get_sample_value("authz_build_info", labels) == 1.0


def test_cpu_time_grows_by_the_time_used() -> None:
    """It is the whole process's, read anew each time."""
    metrics = Metrics()
    told = [metrics.registry.get_sample_value("authz_cpu_seconds_total") or 0.0 for _ in range(3)]
    assert told == sorted(told)
    assert 0 < told[-1] <= time.process_time()


def test_the_control_planes_answers_are_counted_by_operation_and_code() -> None:
    metrics = ControlMetrics()
    metrics.observe("GetUsage", 200, 0.02)
    metrics.observe("GetUsage", 503, 0.3)
    value = metrics.registry.get_sample_value
    assert value("authz_control_requests_total", {"operation": "GetUsage", "code": "503"}) == 1.0
    assert value("authz_control_request_duration_seconds_bucket", {"operation": "GetUsage", "le": "0.025"}) == 1.0
    assert value("authz_control_request_duration_seconds_count", {"operation": "GetUsage"}) == 2.0

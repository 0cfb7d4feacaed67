"""Rules, alerts and dashboard as files: promtool's own tests, and that they name nothing that is not there."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.core.verdict import Reason
from authz.observe.metrics import ControlMetrics, Gathered, Metrics
from tests.monitoring.dashboard import document, metrics_of, panels
from tests.monitoring.prometheus import (
    CONFIG,
    DEPLOY,
    RULES,
    alerts,
    faster,
    faster_expression,
    needs_prometheus,
    promtool,
    rules,
)

TESTS = DEPLOY / "prometheus" / "tests" / "alerts.yml"
RUNBOOKS = DEPLOY.parent / "docs" / "runbooks.md"
SEVERITIES = {"critical", "warning", "info"}
# Of a verdict that a limit refused, the metric's reason is the layer.
REASONS = {str(reason) for reason in Reason}


# --- promtool -----------------------------------------------------------------------------------------------------


@needs_prometheus
def test_the_configuration_and_its_rules_are_valid() -> None:
    run = promtool("check", "config", CONFIG)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [file.name for file in RULES if f"{file.name}\n  SUCCESS" not in run.stdout] == []


@needs_prometheus
def test_no_rule_is_there_twice() -> None:
    run = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_prometheus
def test_the_unit_tests_of_the_alerts_pass() -> None:
    run = promtool("test", "rules", TESTS)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_prometheus
def test_the_unit_tests_notice_an_alert_that_is_gone(tmp_path: Path) -> None:
    """Without its rule nothing fires, and its tests fail: those of each."""
    (tmp_path / "tests").mkdir()
    recorded, _ = RULES
    (tmp_path / recorded.name).write_text(recorded.read_text())
    (tmp_path / "alerts.yml").write_text("groups: []\n")
    (tmp_path / "tests" / TESTS.name).write_text(TESTS.read_text())
    run = promtool("test", "rules", tmp_path / "tests" / TESTS.name)
    assert run.returncode != 0
    assert set(re.findall(r"alertname: ?(\w+)", run.stdout + run.stderr)) == set(alerts())


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_is_tried_firing_and_not(alert: str) -> None:
    """In one test it fires and resolves; in another it never fires."""
    tried = [
        [bool(case["exp_alerts"]) for case in test["alert_rule_test"]]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        if all(case["alertname"] == alert for case in test["alert_rule_test"])
    ]
    assert [False, True, False] in tried
    assert any(not any(fired) for fired in tried)


# --- alerts and their runbooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rule"), alerts().items())
def test_an_alert_has_the_facts_that_the_person_on_call_needs(name: str, rule: Any) -> None:
    told = rule["annotations"]
    assert rule["for"]
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(told) == {"summary", "description", "runbook_url"}
    assert told["runbook_url"].endswith(f"/runbooks/#{name.lower()}")
    assert "{{" in told["summary"] + told["description"] or "absent(" in rule["expr"]


def test_every_alert_has_an_entry_in_the_runbooks_and_no_other_has() -> None:
    entries = re.findall(r"^## (Authz\w+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)
    assert sorted(entries) == sorted(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_entry_says_where_to_look_and_what_to_do(name: str) -> None:
    """And the severity and the time that the rule has."""
    [entry] = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    rule = alerts()[name]
    assert f"{rule['labels']['severity']}, after {rule['for']}" in entry
    assert [word for word in ("**Means.**", "**Look.**", "**Do.**") if word not in entry] == []


def test_the_panels_that_the_runbooks_name_are_there() -> None:
    """In italics, beside the severities, which have a lower letter first, and texts of `/healthz`."""
    titles = {panel["title"] for panel in document()["panels"]}
    named = set(re.findall(r"(?<![*\w])\*([A-Z0-9][^*]+)\*(?!\*)", RUNBOOKS.read_text("utf-8")))
    assert named - titles == {"Means", "Look", "Do", "In the file and in the store, where it is left aside"}


# --- names --------------------------------------------------------------------------------------------------------


def exposed(directory: Path) -> set[str]:
    """The names of all series that the code can expose."""
    registries = (Metrics().registry, Gathered(str(directory), 1, dict).registry, ControlMetrics().registry)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        family.name + suffix
        for registry in registries
        for family in registry.collect()
        for suffix in suffixes[family.type]
    }


def test_every_metric_that_is_named_exists(tmp_path: Path) -> None:
    """In rules and panels; Envoy's names are looked up in a real Envoy's (test_live.py)."""
    named = set().union(
        *(metrics_of(rule["expr"]) for rule in rules()),
        *(query.metrics for panel in panels() for query in panel.queries),
    )
    ours = {name for name in named if not name.startswith("envoy_")}
    known = exposed(tmp_path) | {rule["record"] for rule in rules() if "record" in rule}
    assert ours
    assert ours - known == set()


def test_every_recorded_rule_is_used() -> None:
    asked = " ".join([rule["expr"] for rule in rules()] + [query.text for panel in panels() for query in panel.queries])
    told = {rule["annotations"]["description"] for rule in alerts().values()}
    unused = [rule["record"] for rule in rules() if "record" in rule and rule["record"] not in asked + " ".join(told)]
    assert unused == []


@pytest.mark.parametrize("where", ["rules", "panels"])
def test_every_reason_is_counted_somewhere(where: str) -> None:
    """One that is added to the code and to no group would be missing in all figures."""
    expressions = [rule["expr"] for rule in rules()]
    if where == "panels":
        expressions = [query.text for panel in panels() for query in panel.queries]
    named = {
        reason
        for text in expressions
        for found in re.findall(r'reason=~"([^"]*)"', text)
        for reason in found.split("|")
    }
    missing = REASONS - named
    assert missing == ({"stage_method_throttle", "account_throttle"} if where == "rules" else set())
    assert named <= REASONS


# --- the dashboard ------------------------------------------------------------------------------------------------


def test_the_dashboard_answers_these_questions() -> None:
    rows = [panel["title"] for panel in document()["panels"] if panel["type"] == "row"]
    assert rows == [
        "Is it up?",
        "How fast?",
        "Who is refused, by which layer?",
        "Which plans are busiest?",
        "What does Redis do?",
        "What does Envoy's ext_authz filter say?",
        "Control plane and catalog",
    ]


def test_panels_have_a_place_and_a_number_of_their_own() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in document()["panels"]]
    assert all(at["x"] + at["w"] <= 24 for _, at in places)
    assert [(one[0], two[0]) for one, two in combinations(places, 2) if _overlap(one[1], two[1])] == []
    for name in ("id", "title"):  # runbooks and the picture name panels by their titles
        found = [panel[name] for panel in document()["panels"]]
        assert len(set(found)) == len(found)


def _overlap(one: Any, two: Any) -> bool:
    across = one["x"] < two["x"] + two["w"] and two["x"] < one["x"] + one["w"]
    return bool(across and one["y"] < two["y"] + two["h"] and two["y"] < one["y"] + one["h"])


def test_every_query_asks_the_data_source_that_was_chosen() -> None:
    """Else a copy of the dashboard would ask one that is not there."""
    shown = [panel for panel in document()["panels"] if panel["type"] != "row"]
    sources = [found["datasource"] for panel in shown for found in (panel, *panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert all(panel["description"] for panel in shown)


def test_grafana_finds_the_dashboard_and_its_data() -> None:
    """As docker-compose.yml mounts the two folders."""
    found = {file.parent.name: yaml.safe_load(file.read_text()) for file in DEPLOY.glob("grafana/provisioning/*/*.yml")}
    [source], [provider] = found["datasources"]["datasources"], found["dashboards"]["providers"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
    mounts = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts


# --- sixty times as fast ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "fast"), [("5m", "5000ms"), ("15s", "250ms"), ("1d", "1440000ms"), ("1h", "60000ms")])
def test_a_duration_is_divided_by_60(slow: str, fast: str) -> None:
    assert faster(slow) == fast


def test_windows_offsets_and_ages_are_divided_by_60() -> None:
    assert faster_expression("rate(a[5m]) > 4 * (b offset 1h)") == "rate(a[5000ms]) > 4 * (b offset 60000ms)"
    assert faster_expression("time() - min(a) > 300") == "time() - min(a) > 5"
    assert all(
        faster_expression(rule["expr"]) != rule["expr"]
        for rule in rules()
        if re.search(r"\[|offset|time\(\) -", rule["expr"])
    )


def test_a_time_to_come_is_not_divided() -> None:
    """A certificate that ends in three days has three days here too."""
    assert faster_expression("min(a) - time() < 7 * 86400") == "min(a) - time() < 7 * 86400"
    expression = alerts()["AuthzCertificateEnding"]["expr"]
    assert faster_expression(expression) == expression

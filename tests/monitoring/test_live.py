"""Alerts and dashboard on a real Prometheus, sixty times as fast, while the watched system breaks and is mended."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.monitoring.dashboard import PICTURE, Panel, panels
from tests.monitoring.monitored import DAYS, NOBODYS, Monitored, monitored
from tests.monitoring.prometheus import alerts, faster, faster_expression, needs_prometheus, rules
from tests.support.servers import POLL_SECONDS, until

pytestmark = needs_prometheus

PATIENCE_SECONDS: Final = 90.0  # on a busy machine; the alerts take 15, that of certificates 35
DAYS_LEFT: Final = 3
SLOW_SECONDS: Final = 0.1
BACK_TO: Final = 600.0  # seconds, for panels: all that was
RATE: Final = "5m"  # Grafana's least for $__rate_interval is four scrapes; the workers' figures come once a second


@pytest.fixture(scope="module")
def world() -> Iterator[Monitored]:
    with monitored() as it:
        yield it


def eventually(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(POLL_SECONDS * 5)


# --- what can break -----------------------------------------------------------------------------------------------


@contextmanager
def bad_file(world: Monitored) -> Iterator[None]:
    good = world.config.read_text()
    world.write(good.replace("rateLimit", "ratLimit"))
    yield
    world.write(good)


@contextmanager
def slow_redis(world: Monitored) -> Iterator[None]:
    world.held.delay(SLOW_SECONDS)
    yield
    world.held.delay(0)


@contextmanager
def guessed_keys(world: Monitored) -> Iterator[None]:
    with world.traffic.of((NOBODYS, "/prod/pets", 1)):
        yield


@contextmanager
def plan_used_up(world: Monitored) -> Iterator[None]:
    with world.traffic.of(("taster", "/prod/pets", 1)):
        yield


@contextmanager
def old_certificate(world: Monitored) -> Iterator[None]:
    world.certify(DAYS_LEFT)
    yield
    world.certify(DAYS)


@contextmanager
def redis_away(world: Monitored) -> Iterator[None]:
    world.redis.kill()
    yield
    world.redis.restart(empty=False)


@contextmanager
def workers_killed(world: Monitored) -> Iterator[None]:
    for _ in range(3):
        world.kill_worker()
    yield


@contextmanager
def control_away(world: Monitored) -> Iterator[None]:
    world.control.kill()
    yield
    world.control.start()


@contextmanager
def sidecar_away(world: Monitored) -> Iterator[None]:
    world.sidecar.stop()
    yield
    world.sidecar.start()


@contextmanager
def nothing_to_scrape(world: Monitored) -> Iterator[None]:
    world.prometheus.aim(authz=())
    yield
    world.aim()


Break = Callable[[Monitored], AbstractContextManager[None]]
# Faults that are made together, and their alerts. Other alerts may fire too, because one fault may show in many places.
BREAKS: Final[tuple[tuple[tuple[Break, ...], set[str]], ...]] = (
    (
        (bad_file, slow_redis, guessed_keys, plan_used_up, old_certificate),
        {
            "AuthzCatalogRefused",
            "AuthzSlow",
            "AuthzForbiddenUnusual",
            "AuthzPlanRefusalsClimbing",
            "AuthzCertificateEnding",
        },
    ),
    (
        (redis_away,),
        {"AuthzRedisCircuitOpen", "AuthzDegraded", "AuthzFailing", "AuthzCatalogStale", "AuthzControlFailing"},
    ),
    ((workers_killed, control_away), {"AuthzWorkersRestarting", "AuthzControlDown"}),
    ((sidecar_away,), {"AuthzDown", "AuthzEnvoyErrors"}),
    ((nothing_to_scrape,), {"AuthzAbsent"}),
)


def _named(it: tuple[Break, ...] | set[str]) -> str:
    return "" if isinstance(it, set) else "+".join(each.__name__ for each in it)


# --- the tests, in this order -------------------------------------------------------------------------------------


def test_nothing_fires_while_all_is_well(world: Monitored) -> None:
    """Once every recorded rule has a value, so that there is something to fire on."""
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    until(lambda: all(map(world.prometheus.query, recorded)), "a recorded rule has no value", world.prometheus)
    assert world.prometheus.firing() == set()


def test_every_rule_is_healthy(world: Monitored) -> None:
    """Evaluated without an error; Prometheus lists the rules that failed."""
    found = [rule for group in world.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len([*rules()])
    assert [rule for rule in found if rule["health"] != "ok"] == []


@pytest.mark.parametrize(("breaks", "expected"), BREAKS, ids=_named)
def test_an_alert_fires_and_resolves(world: Monitored, breaks: tuple[Break, ...], expected: set[str]) -> None:
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(world.prometheus.firing())
        return seen >= expected

    with ExitStack() as broken:
        for each in breaks:
            broken.enter_context(each(world))
        eventually(all_seen, lambda: f"{expected - seen} did not fire: {world.sidecar.log_text[-4000:]}")
    eventually(
        lambda: not world.prometheus.firing(), lambda: f"still firing: {world.prometheus.ask('alerts')['alerts']}"
    )


def test_every_alert_was_tried() -> None:
    assert set().union(*(expected for _, expected in BREAKS)) == set(alerts())


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel.title)
def test_a_panel_has_data(world: Monitored, panel: Panel) -> None:
    """Each of its queries, as Grafana would ask, over all that the tests above have done."""
    for query in panel.queries:
        expression = faster_expression(query.expression(rate_interval=RATE, plan=".*"))
        eventually(lambda: _has_data(world, expression, query.instant), lambda: f"empty: {expression}")  # noqa: B023


def _has_data(world: Monitored, expression: str, instant: bool) -> bool:
    """A number at least. A current value may come late, because the sidecar has just been started."""
    if instant:
        values = [series["value"] for series in world.prometheus.query(expression)]
    else:
        values = [value for series in world.prometheus.series(expression, BACK_TO) for value in series["values"]]
    return any(not math.isnan(float(value)) for _, value in values)


def test_the_variables_have_values(world: Monitored) -> None:
    """What the dashboard offers to choose from: every plan that was called."""
    found = world.prometheus.ask("label/plan/values", **{"match[]": 'authz_checks_total{plan!=""}'})
    assert set(found) >= {"gold", "silver", "tiny", "taster", "trial", "strict", "free"}


def test_the_names_of_envoy_are_its_own(world: Monitored) -> None:
    """A misspelt one in a rule would be no error, and never have a value."""
    known = set(world.prometheus.ask("label/__name__/values"))
    named = {name for panel in panels() for query in panel.queries for name in query.metrics}
    assert {name for name in named if name.startswith("envoy_")} <= known


def test_the_picture_is_drawn(world: Monitored, tmp_path: Path) -> None:
    """From the dashboard's own queries; each part has its title and a line at least."""
    out = tmp_path / "dashboard.svg"
    how = (
        "--prometheus",
        world.prometheus.url,
        "--minutes",
        "5",
        "--step",
        "1",
        "--rate-interval",
        faster(RATE),
        "--out",
        str(out),
    )
    drawn = subprocess.run([sys.executable, str(PICTURE), *how], capture_output=True, text=True, timeout=60)
    assert drawn.returncode == 0, drawn.stderr
    text = " ".join(ET.parse(out).getroot().itertext())
    titles: list[Any] = json.loads(subprocess.check_output([sys.executable, str(PICTURE), "--list"]))
    assert titles
    assert [title for title in titles if title not in text] == []

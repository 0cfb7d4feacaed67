"""A real Prometheus, and ours of `deploy/prometheus` sixty times as fast: a minute there is a second here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import yaml

from tests.support.servers import HOST, Server, _running, free_port, is_ok, until

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
CONFIG: Final = DEPLOY / "prometheus" / "prometheus.yml"
RULES: Final = (DEPLOY / "prometheus" / "rules.yml", DEPLOY / "prometheus" / "alerts.yml")
FASTER: Final = 60
SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION: Final = r"(\d+)(ms|s|m|h|d)"
# A range, an offset, and an age in seconds: each is a time that passes here sixty times as fast. How long it is until
# something (`... - time() < 7 * 86400`) stays: no test waits for it to pass, and the dates of a certificate are fixed.
WINDOW: Final = re.compile(rf"(?<=\[){DURATION}(?=\])|(?<=\boffset ){DURATION}\b")
AGE: Final = re.compile(r"(time\(\) - .*> )(\d+)$")

needs_prometheus: Final = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on PATH (Debian's package prometheus has both)",
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def rules() -> Iterator[Mapping[str, Any]]:
    """All rules: of each its `record` or `alert`, `expr` and more."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> dict[str, Mapping[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def faster(duration: str) -> str:
    """A sixtieth of a duration such as `5m`."""
    found = re.fullmatch(DURATION, duration)
    assert found, duration
    return f"{round(int(found[1]) * SECONDS[found[2]] * 1000 / FASTER)}ms"


def faster_expression(expression: str) -> str:
    """The expression for events in a sixtieth of the time."""
    windows = WINDOW.sub(lambda found: faster(found[0]), expression)
    return AGE.sub(lambda found: f"{found[1]}{int(found[2]) / FASTER:g}", windows)


def faster_rules(text: str) -> str:
    """A file of rules: every `for`, window and age is divided by 60, and times in the future are not."""
    parsed = yaml.safe_load(text)
    for rule in (rule for group in parsed["groups"] for rule in group["rules"]):
        rule["expr"] = faster_expression(rule["expr"])
        if "for" in rule:
            rule["for"] = faster(rule["for"])
    return yaml.safe_dump(parsed, sort_keys=False)


def faster_config(text: str, targets: Path) -> str:
    """Targets are read from a file for each job, JOB.json, where compose has names to resolve."""
    parsed = yaml.safe_load(text)
    parsed["global"] = {name: faster(value) for name, value in parsed["global"].items()}
    parsed["global"]["scrape_timeout"] = parsed["global"]["scrape_interval"]
    for job in parsed["scrape_configs"]:
        assert job.pop("dns_sd_configs")
        job["file_sd_configs"] = [{"files": [str(targets / f"{job['job_name']}.json")], "refresh_interval": "1s"}]
    return yaml.safe_dump(parsed, sort_keys=False)


@dataclass
class Prometheus(Server):
    """It scrapes the targets of `aim`, as the project's own configuration says."""

    url: str = ""
    targets: Path = field(default_factory=Path)

    def aim(self, **addresses: Sequence[str]) -> None:
        """Scrape these `host:port` for each job; an underscore in a job's name stands for a hyphen."""
        for job, found in addresses.items():
            file = self.targets / f"{job.replace('_', '-')}.json"
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps([{"targets": [*found]}] if found else []))
            draft.replace(file)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API; an error fails the test with its text."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Any]:
        """The instant vector that it is now: a `metric` and a `value` each."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """That of the only series, or None where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def series(self, expression: str, seconds: float, step: float = 1.0) -> list[Any]:
        """Its series over the last seconds: each has a `metric` and its `values`, pairs of a time and a text."""
        now = time.time()
        data = self.ask("query_range", query=expression, start=str(now - seconds), end=str(now), step=str(step))
        found: list[Any] = data["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        found = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def is_up(self, job: str) -> bool:
        return bool(self.query(f'up{{job="{job}"}} == 1'))


@contextmanager
def prometheus() -> Iterator[Prometheus]:
    """It has no targets yet, and every rule of ours."""
    with TemporaryDirectory(prefix="authz-prometheus-") as scratch:
        place, listen = Path(scratch), f"{HOST}:{free_port()}"
        for file in RULES:
            (place / file.name).write_text(faster_rules(file.read_text()))
        (place / CONFIG.name).write_text(faster_config(CONFIG.read_text(), place))
        server = Prometheus(
            command=(
                "prometheus",
                f"--config.file={place / CONFIG.name}",
                f"--storage.tsdb.path={place / 'data'}",
                f"--web.listen-address={listen}",
                "--query.lookback-delta=5s",
                "--log.level=warn",
            ),
            log=place / "log",
            is_ready=lambda: is_ok(f"http://{listen}/-/ready"),
            url=f"http://{listen}",
            targets=place,
        )
        with _running(server):
            server.aim(authz=(), authz_control=(), envoy=())
            until(lambda: len(server.ask("rules")["groups"]) > 0, "no rules", server)
            yield server

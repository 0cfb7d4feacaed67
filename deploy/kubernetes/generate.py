"""Makes what here follows from other files: Envoy's configurations and the PrometheusRule.

With --check it writes nothing and says which are not what it would make.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from authz.config.file import load
from authz.envoy.config import EnvoyOptions, render

HERE = Path(__file__).resolve().parent
PROMETHEUS = HERE.parent / "prometheus"
PLANS = HERE / "settings" / "plans.yaml"
UPSTREAM = "api:8080"  # the Service of your API
HEADER = "# Made by deploy/kubernetes/generate.py: change its sources.\n"


@dataclass(frozen=True, slots=True)
class Form:
    """Where an Envoy of ours finds authz: one address a worker."""

    name: str
    authz: tuple[str, ...]


FORMS = (
    Form("sidecar", ("127.0.0.1:50051", "127.0.0.1:50052")),
    Form("shared", ("authz:50051", "authz:50052")),
)


def envoy_config(form: Form) -> str:
    """Envoy's whole configuration. Only its administration interface stays in the pod."""
    options = EnvoyOptions(
        listen="0.0.0.0:10000",
        admin="127.0.0.1:9901",
        stats_listen="0.0.0.0:9902",
        upstream=UPSTREAM,
        authz=form.authz,
        store=True,
    )
    return HEADER + render(load(PLANS).resources, options)


def prometheus_rule() -> str:
    """The groups of rules.yml and alerts.yml, as the Prometheus Operator takes them."""
    groups = [group for name in ("rules.yml", "alerts.yml") for group in _groups(PROMETHEUS / name)]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "usage-plans"},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True)


def _groups(path: Path) -> list[Any]:
    return list(yaml.safe_load(path.read_text("utf-8"))["groups"])


def generated() -> dict[Path, str]:
    """Each file, and what it has to hold."""
    configs = {HERE / form.name / "envoy.yaml": envoy_config(form) for form in FORMS}
    return {**configs, HERE / "components" / "monitoring" / "prometheusrule.yaml": prometheus_rule()}


def stale() -> list[str]:
    """The files that are missing or different."""
    return [
        str(path.relative_to(HERE))
        for path, text in generated().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]


def main() -> str | None:
    """Its answer goes to sys.exit: a text is the complaint of exit code 1."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    if parser.parse_args().check:
        names = ", ".join(stale())
        return f"stale ({names}): run deploy/kubernetes/generate.py" if names else None
    for path, text in generated().items():
        path.write_text(text, "utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())

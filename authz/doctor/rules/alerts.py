"""The traps of alerts that are sent by webhook, by what the store says of their targets and deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import AlertFacts, Facts
from authz.doctor.finding import Rule, Seen, rule

LONG_SECONDS: Final = 3_600.0


def _alerts(facts: Facts) -> Iterator[tuple[str, AlertFacts]]:
    if facts.redis:
        yield facts.redis.where, facts.redis.alerts


@rule(
    "info",
    why="Alerts are kept in a list that someone has to read.",
    fix="make an alert target, or poll GET /usage/alerts",
)
def alerts_stay_here(facts: Facts) -> Iterator[Seen]:
    """Plans of the store have quotas with `alerts`, and no alert target is enabled. Needs --redis."""
    for where, alerts in _alerts(facts):
        if alerts.plans and not alerts.targets:
            yield Seen(where, f"plans with alerts: {alerts.plans}, targets: 0")


@rule(
    "warning",
    why="Its alerts wait for the next attempt. A day after an alert was made it is given up.",
    fix="send a test, which names the reason; repair the receiver, or disable the target",
)
def alert_target_fails(facts: Facts) -> Iterator[Seen]:
    """Every attempt to reach an alert target has failed for over an hour. Needs --redis."""
    for where, alerts in _alerts(facts):
        for target_id, since in alerts.failing.items():
            if facts.now - since > LONG_SECONDS:
                yield Seen(where, f"target {target_id}, for {_hours(facts.now - since)}")


@rule(
    "warning",
    why="No control plane sends them: none runs, or none has the key that opens the secrets of targets.",
    fix="start a control plane, with --sealing-key-file; its log names the reason",
)
def alerts_wait(facts: Facts) -> Iterator[Seen]:
    """A delivery of an alert has waited for over an hour, although no target is failing. Needs --redis."""
    for where, alerts in _alerts(facts):
        waited = facts.now - alerts.oldest if alerts.oldest else 0.0
        if waited > LONG_SECONDS and not alerts.failing:
            yield Seen(where, f"{alerts.pending} pending, the oldest for {_hours(waited)}")


@rule(
    "warning",
    why="Their receivers do not know of these alerts.",
    fix="see GET /alerts/deliveries for the reasons; send them again once the receiver works",
)
def alerts_given_up(facts: Facts) -> Iterator[Seen]:
    """Deliveries of alerts have failed within the last day. Needs --redis."""
    for where, alerts in _alerts(facts):
        if alerts.given_up:
            yield Seen(where, f"{alerts.given_up} given up")


def _hours(seconds: float) -> str:
    return f"{seconds / 3_600:.0f} h"


ALERT_RULES: Final[tuple[Rule, ...]] = (alerts_stay_here, alert_target_fails, alerts_wait, alerts_given_up)

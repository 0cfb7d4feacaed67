"""Envoy itself: who may administer it, and how old it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.cves import MINIMUM, holes
from authz.doctor.facts import SILENT, Facts, is_loopback, version_of
from authz.doctor.finding import Rule, Seen, rule


@rule(
    "error",
    why="Any client that reaches it can stop Envoy, read its whole configuration and change its state.",
    fix="admin: { address: { socket_address: { address: 127.0.0.1, … } } }; statistics have a listener of their own: "
    "authz envoy-config --stats-listen",
)
def admin_open(facts: Facts) -> Iterator[Seen]:
    """The administration interface listens on an address that other machines can reach."""
    for envoy in facts.envoys:
        at = envoy.admin.get("address", SILENT).get("socket_address")
        if at is not None and not is_loopback(at.get("address", "")):
            yield Seen(envoy.where, f"admin on {at.get('address')}:{at.get('port_value')}")


@rule(
    "error",
    why="With a known vulnerability a request may get past the check, or stop Envoy.",
    fix=f"Envoy {MINIMUM} or later",
)
def envoy_with_known_cves(facts: Facts) -> Iterator[Seen]:
    """Envoy's version has a published vulnerability that concerns ext_authz, headers or paths."""
    for envoy in facts.envoys:
        for cve in holes(envoy.version):
            yield Seen(envoy.where, f"{envoy.version}: {cve.id}, {cve.what}", f"Envoy {MINIMUM} or later; {cve.source}")


@rule("warning", why="authz was not tested with it.", fix=f"Envoy {MINIMUM} or later")
def envoy_too_old(facts: Facts) -> Iterator[Seen]:
    """Envoy is older than the oldest version that authz is tested with."""
    for envoy in facts.envoys:
        if version_of(envoy.version) < version_of(MINIMUM):
            yield Seen(envoy.where, f"{envoy.version}, and {MINIMUM} is the oldest that was tried")


RULES: Final[tuple[Rule, ...]] = (
    admin_open,
    envoy_with_known_cves,
    envoy_too_old,
)

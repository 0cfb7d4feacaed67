"""TLS between Envoy and authz, and the check of the certificate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import SILENT, Facts, Json, host_of, is_loopback
from authz.doctor.finding import Rule, Seen, rule


@rule(
    "error",
    why="One of them uses TLS and the other does not: every check fails.",
    fix="print the cluster with `authz envoy-config --tls`, or give both or neither a certificate",
)
def tls_mismatch(facts: Facts) -> Iterator[Seen]:
    """The cluster and the sidecars do not agree on TLS. Needs --sidecar."""
    for _, cluster in facts.clusters():
        if cluster.speaks_by_host:
            continue
        for served in facts.told("tls"):
            if served != (cluster.tls is not None):
                yield Seen(cluster.where, f"TLS {_on(cluster.tls is not None)} here and {_on(served)} at the sidecar")


def _on(on: bool) -> str:
    return "on" if on else "off"


@rule(
    "warning",
    why="An attacker who takes the sidecar's place on the network is trusted, and learns every key.",
    fix="validation_context: { trusted_ca: …, match_typed_subject_alt_names: … } in the cluster's transport_socket",
)
def tls_not_verified(facts: Facts) -> Iterator[Seen]:
    """The cluster uses TLS, and does not check the sidecar's certificate, or not the name in it."""
    for _, cluster in facts.clusters():
        if cluster.tls is not None:
            missing = _unverified(cluster.tls)
            if missing:
                yield Seen(cluster.where, missing)


def _unverified(tls: Json) -> str:
    """The missing part; "" if nothing is missing, or if it may stand in a secret that Envoy is given."""
    context = tls.get("common_tls_context", SILENT)
    combined = context.get("combined_validation_context", SILENT)
    inline = context.get("validation_context", combined.get("default_validation_context", SILENT))
    if not any(name.startswith(("validation_context", "combined_validation_context")) for name in context):
        return "no validation_context"
    if inline.get("trust_chain_verification") == "ACCEPT_UNTRUSTED":
        return "trust_chain_verification: ACCEPT_UNTRUSTED"
    given = any("sds" in name or "provider" in name for name in (*context, *combined))
    pinned = any(name.startswith("verify_certificate_") for name in inline)
    if given or pinned or "custom_validator_config" in inline:
        return ""
    if not {"trusted_ca", "system_root_certs", "ca_certificate_provider_instance"} & inline.keys():
        return "a validation_context without trusted_ca"
    named = "match_typed_subject_alt_names" in inline or "match_subject_alt_names" in inline
    return "" if named or tls.get("auto_sni_san_validation") else "no match_typed_subject_alt_names: any name will do"


@rule(
    "info",
    why="Keys travel to authz in the clear, over a network that others may share.",
    fix="TLS for the sidecar (tlsCertFile, tlsKeyFile), and a cluster from `authz envoy-config --tls`",
)
def checks_in_the_clear(facts: Facts) -> Iterator[Seen]:
    """The cluster connects to another machine without TLS."""
    for _, cluster in facts.clusters():
        away = [host for host in cluster.hosts if not is_loopback(host_of(host))]
        if away and cluster.tls is None:
            yield Seen(cluster.where, f"no TLS to {away[0]}" + (" and others" if len(away) > 1 else ""))


RULES: Final[tuple[Rule, ...]] = (
    tls_mismatch,
    tls_not_verified,
    checks_in_the_clear,
)

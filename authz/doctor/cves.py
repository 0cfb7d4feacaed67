"""Published Envoy CVEs that affect ext_authz, and the versions that fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authz.doctor.facts import Version, version_of

MINIMUM: Final = "1.39.3"  # what we test with


@dataclass(frozen=True, slots=True)
class Cve:
    """A hole, and the first version of each branch without it. Branches older than those have it."""

    id: str
    what: str
    fixed: tuple[str, ...]
    source: str

    def is_in(self, version: Version) -> bool:
        fixed = sorted(map(version_of, self.fixed))
        same = next((one for one in fixed if one[:2] == version[:2]), None)
        return version < (same or fixed[-1])


CVES: Final = (
    Cve(
        "CVE-2021-32777",
        "of a header that is sent several times ext_authz sees only the last",
        ("1.16.5", "1.17.4", "1.18.4", "1.19.1"),
        "https://nvd.nist.gov/vuln/detail/CVE-2021-32777",
    ),
    Cve(
        "CVE-2021-32779",
        "a #fragment in the path is matched as a part of it, and the upstream may drop it",
        ("1.16.5", "1.17.4", "1.18.4", "1.19.1"),
        "https://nvd.nist.gov/vuln/detail/CVE-2021-32779",
    ),
    Cve(
        "CVE-2023-27488",
        "a header that is not UTF-8 makes a check invalid, and with failure_mode_allow the request is let in",
        ("1.22.10", "1.23.7", "1.24.5", "1.25.4", "1.26.0"),
        "https://www.envoyproxy.io/docs/envoy/latest/version_history/v1.25/v1.25.4",
    ),
    Cve(
        "CVE-2024-23324",
        "PROXY protocol metadata makes a check invalid, and with failure_mode_allow the request is let in",
        ("1.26.7", "1.27.3", "1.28.1", "1.29.1"),
        "https://github.com/envoyproxy/envoy/security/advisories/GHSA-gq3v-vvhj-96j6",
    ),
    Cve(
        "CVE-2024-45806",
        "clients may set x-envoy headers that are meant for Envoys among themselves",
        ("1.28.7", "1.29.9", "1.30.6", "1.31.2"),
        "https://nvd.nist.gov/vuln/detail/CVE-2024-45806",
    ),
    Cve(
        "CVE-2024-45810",
        "a WebSocket handshake through the asynchronous HTTP client crashes Envoy",
        ("1.28.7", "1.29.9", "1.30.6", "1.31.2"),
        "https://nvd.nist.gov/vuln/detail/CVE-2024-45810",
    ),
    Cve(
        "CVE-2026-73511",
        "path parameters inside a segment are not taken off before the path is matched",
        ("1.36.10", "1.37.6", "1.38.4", "1.39.1"),
        "https://github.com/envoyproxy/envoy/security/advisories/GHSA-m745-gh6x-349x",
    ),
    Cve(
        "CVE-2026-73547",
        "a CONNECT request without a path crashes Envoy when it asks ext_authz",
        ("1.36.10", "1.37.6", "1.38.4", "1.39.1"),
        "https://github.com/envoyproxy/envoy/security/advisories/GHSA-87ph-jqwm-pg6r",
    ),
    Cve(
        "CVE-2026-73551",
        "/..;x/ is not normalised, and an upstream that drops what follows the semicolon goes up a directory",
        ("1.36.10", "1.37.6", "1.38.4", "1.39.1"),
        "https://github.com/envoyproxy/envoy/security/advisories/GHSA-2w8w-rfw7-8gg4",
    ),
)


def holes(version: str) -> Iterator[Cve]:
    """Those that this Envoy has."""
    return (cve for cve in CVES if cve.is_in(version_of(version)))

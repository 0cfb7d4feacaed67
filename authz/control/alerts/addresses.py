"""Which URLs and addresses a webhook may have: no target leads into the owner's own network.

A name is no protection, since its owner decides where it points. So the address itself is checked each time before a
connection is made, and the connection goes to that address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import urlsplit

IP = IPv4Address | IPv6Address

MAX_URL: Final = 2_000  # characters
MAX_PORT: Final = 65_535
PORTS: Final = {"https": 443, "http": 80}
LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST: Final = re.compile(rf"(?=.{{1,253}}\.?$){LABEL}(?:\.{LABEL})*\.?")
VISIBLE: Final = re.compile(r"[!-~]*")

# From IANA's registries of special-purpose addresses. Each has the words that name it.
PRIVATE: Final = (
    (IPv4Network("10.0.0.0/8"), "private"),
    (IPv4Network("172.16.0.0/12"), "private"),
    (IPv4Network("192.168.0.0/16"), "private"),
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("100.64.0.0/10"), "shared by a provider's customers"),
    (IPv6Network("::1/128"), "loopback"),
    (IPv6Network("fc00::/7"), "private"),
)
# No setting allows these. Cloud providers serve credentials at the addresses that are called metadata.
FORBIDDEN: Final = (
    (IPv4Network("100.100.100.200/32"), "metadata"),
    (IPv4Network("168.63.129.16/32"), "metadata"),
    (IPv4Network("192.0.0.192/32"), "metadata"),
    (IPv6Network("fd00:ec2::/32"), "metadata"),
    (IPv6Network("fd20:ce::/32"), "metadata"),
    (IPv4Network("0.0.0.0/8"), "unspecified"),
    (IPv4Network("169.254.0.0/16"), "link-local"),
    (IPv4Network("192.0.0.0/24"), "reserved"),
    (IPv4Network("192.0.2.0/24"), "for documentation"),
    (IPv4Network("192.88.99.0/24"), "reserved"),
    (IPv4Network("198.18.0.0/15"), "for benchmarks"),
    (IPv4Network("198.51.100.0/24"), "for documentation"),
    (IPv4Network("203.0.113.0/24"), "for documentation"),
    (IPv4Network("224.0.0.0/4"), "multicast"),
    (IPv4Network("240.0.0.0/4"), "reserved"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("ff00::/8"), "multicast"),
    (IPv6Network("2001::/23"), "reserved"),
    (IPv6Network("2001:db8::/32"), "for documentation"),
    (IPv6Network("2002::/16"), "an IPv4 address in 6to4"),
    (IPv6Network("3fff::/20"), "for documentation"),
)
GLOBAL: Final = IPv6Network("2000::/3")  # no other IPv6 address is routed in the internet
NAT64: Final = IPv6Network("64:ff9b::/96")


class NotAllowed(Exception):  # noqa: N818  (an answer, not a mistake of ours)
    """A URL or an address that no webhook may have; the words are for the owner of the target."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL in parts, as a connection needs them. `path` has the query too."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The addresses that are allowed besides public ones: private ones and those of this machine, over http too."""

    private: bool = False

    def endpoint(self, url: str) -> Endpoint:
        """Return the parts of a URL. Raises NotAllowed; a name's addresses are checked later, when they are known."""
        endpoint = _parts(url)
        if endpoint.scheme == "http" and not self.private:
            raise NotAllowed("expected https://; http is allowed by --allow-private-targets only, to private addresses")
        if (literal := address_of(endpoint.host)) is not None:
            self.check(endpoint.scheme, literal)
        elif not self.private and f".{endpoint.host.lower().rstrip('.')}".endswith(".localhost"):
            raise NotAllowed("localhost is this machine")
        return endpoint

    def check(self, scheme: str, address: IP) -> None:
        """Raise NotAllowed unless a webhook of this scheme may go to this address."""
        inner = embedded(address)
        if words := _first(FORBIDDEN, inner):
            raise NotAllowed(f"the address {address} is {words}")
        words = _first(PRIVATE, inner)
        if words and not self.private:
            raise NotAllowed(f"the address {address} is {words}")
        if not words and isinstance(inner, IPv6Address) and inner not in GLOBAL:
            raise NotAllowed(f"the address {address} is reserved")
        if not words and scheme == "http":
            raise NotAllowed(f"http is for private addresses, and {address} is public; use https")


PUBLIC: Final = Rules()
"""The rules for a customer's target, whatever is allowed to the owner's."""


def _parts(url: str) -> Endpoint:
    if len(url) > MAX_URL or not VISIBLE.fullmatch(url) or "\\" in url:
        raise NotAllowed(f"expected at most {MAX_URL} visible ASCII characters, without \\")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotAllowed("expected https://host:port/path with a port from 1 to 65535") from None
    if parts.scheme not in PORTS:
        raise NotAllowed("expected https://host/path")
    if "@" in parts.netloc:
        raise NotAllowed("expected no user name and no password; put a secret word into the path or the query")
    if "#" in url:
        raise NotAllowed("expected no fragment (#…): it is never sent")
    host = parts.hostname or ""
    if "[" in parts.netloc:
        if address_of(host) is None:
            raise NotAllowed("expected an IPv6 address between the brackets, without a zone")
    elif not HOST.fullmatch(host):
        raise NotAllowed("expected a host name in ASCII; write others in their xn-- form")
    if port == 0:
        raise NotAllowed(f"expected a port from 1 to {MAX_PORT}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.scheme, host, port or PORTS[parts.scheme], path)


def address_of(host: str) -> IP | None:
    """The address that a host spells, in any form that a resolver takes: also `0x7f.1`, `017700000001`, `2130706433`.

    None for a name.
    """
    try:
        return ipaddress.ip_address(host) if "%" not in host else None
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def embedded(address: IP) -> IP:
    """The IPv4 address within an IPv6 address that a system or a network turns into it; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(address.packed[-4:]) if address in NAT64 else address


def _first(table: tuple[tuple[IPv4Network | IPv6Network, str], ...], address: IP) -> str:
    return next((words for network, words in table if address.version == network.version and address in network), "")

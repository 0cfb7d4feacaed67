"""The addresses from which a key may be used: ranges in CIDR notation, compared with the client's address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct

from authz.core.request import Request

# Where a filter of Envoy leaves the client's address, if Envoy is behind proxies: namespace and field of its metadata.
NAMESPACE: Final = "authz.client"
FIELD: Final = "address"

RANGE: Final = re.compile(r"(?=[^/]*[.:])[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?")
_EXPECTED: Final = "expected an IPv4 or IPv6 address or range, such as 203.0.113.0/24 or 2001:db8::/32"
MAPPED: Final = IPv6Network("::ffff:0:0/96")

_Range = tuple[int, int]  # the network mask and the network's address, as numbers


class Sources(Struct, frozen=True, gc=False):
    """Ranges of addresses, by the version of IP."""

    v4: tuple[_Range, ...]
    v6: tuple[_Range, ...]

    def admits(self, address: str) -> bool:
        """True if the address is in one of the ranges. No range holds an address that can't be read."""
        parsed = _parsed(address)
        if parsed is None:
            return False
        number = int(parsed)
        ranges = self.v4 if isinstance(parsed, IPv4Address) else self.v6
        return any(number & mask == network for mask, network in ranges)


@lru_cache(maxsize=10_000)
def sources_of(ranges: tuple[str, ...]) -> Sources:
    """Compile ranges in which `range_problem` finds no mistake. Keys with equal ranges share the result."""
    networks = [ip_network(text) for text in ranges]
    return Sources(
        tuple(_pair(network) for network in networks if isinstance(network, IPv4Network)),
        tuple(_pair(network) for network in networks if isinstance(network, IPv6Network)),
    )


def _pair(network: IPv4Network | IPv6Network) -> _Range:
    return int(network.netmask), int(network.network_address)


def range_problem(text: str) -> str | None:
    """The rule that a range breaks, with the range that is probably intended."""
    if not RANGE.fullmatch(text):
        return _EXPECTED
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return _EXPECTED
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return f"expected the IPv4 form: {IPv4Network((low, network.prefixlen - 96))}"
    if "/" in text and int(ip_address(text.partition("/")[0])) != int(network.network_address):
        single = text.partition("/")[0]
        return f"expected the first address of the range: {network}, or {single} for that address alone"
    return None


def client_address(request: Request) -> str:
    """The client's address as Envoy knows it; "" if Envoy names none.

    This is the other end of the connection, unless a filter before ours has left another address in Envoy's metadata.
    A client can write neither.
    """
    if NAMESPACE not in request.metadata:
        return request.source
    left = request.metadata[NAMESPACE]
    address = left.get(FIELD) if isinstance(left, Mapping) else None
    return address if isinstance(address, str) else ""


@lru_cache(maxsize=4_096)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """The address; None if it can't be read. `::ffff:192.0.2.1` is an IPv4 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed

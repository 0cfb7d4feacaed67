"""Where something listens or is reached: `host:port`, or `unix:` and the path of a socket."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HOST_NAME: Final = re.compile(r"(?![0-9.]+\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
MAX_PORT: Final = 65_535
MAX_SOCKET_PATH: Final = 107  # bytes; Linux has room for no more
UNIX: Final = "unix:"
THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "localhost"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Address:
    """A host (without brackets) and a port, or else the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError for anything but `host:port` or `unix:/path`."""
        if scheme := SCHEME.match(text):
            raise ValueError(f"expected host:port, without {scheme[0]} and a path, got {text!r}")
        if text.startswith(UNIX) and text != UNIX:
            return cls(path=text.removeprefix(UNIX))
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        is_port = port.isascii() and port.isdigit() and int(port) <= MAX_PORT
        if not is_port or not (is_ip(host) or HOST_NAME.fullmatch(host)):
            raise ValueError(f"expected host:port or unix:/path, got {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """True for a host name, which has to be resolved."""
        return not self.path and not is_ip(self.host)

    @property
    def is_any_port(self) -> bool:
        """True if the system chooses the port."""
        return not self.path and not self.port

    @property
    def target(self) -> Address:
        """The address for a client on this machine: `0.0.0.0` and `::` listen on all addresses of the machine."""
        return self if self.path else Address(THIS_MACHINE.get(self.host, self.host), self.port)

    def of_worker(self, slot: int) -> Address:
        """The address of a worker: the port plus its slot, or the path with `.0`, `.1` …"""
        return Address(path=f"{self.path}.{slot}") if self.path else Address(self.host, self.port + slot)


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""The connections of the control plane, bounded so that anonymous clients cannot lock an administrator out."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS: Final = 10.0  # for a connection to send the headers of its next request
CONNECTIONS: Final = 1000
STRANGERS_PER_ADDRESS: Final = 200
PROVE: Final = "authz.prove"  # in a request's scope: a function to call once the request is authenticated
ADDRESS: Final = "authz.address"  # in a request's scope: the address whose bounds it counts against


def address_of(peer: Any) -> str:
    """The address that a connection counts against: an IPv4 address, an IPv6 /64 network, or "" on a Unix socket."""
    host = peer[0] if isinstance(peer, tuple) and peer else ""
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return ""
    if address.version == 6:
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Connections:
    """Open connections. A connection is a stranger until a request on it is authenticated.

    If a new connection exceeds a bound, the oldest stranger of its address, or of all addresses, is closed. So a flood
    of idle, slow or anonymous connections displaces only its own, and an administrator can still connect.
    """

    def __init__(self, most: int = CONNECTIONS, strangers_per_address: int = STRANGERS_PER_ADDRESS) -> None:
        self._most = most
        self._strangers_per_address = strangers_per_address
        self._strangers: dict[Connection, None] = {}  # oldest first
        self._by_address: Counter[str] = Counter()
        self._proven: set[Connection] = set()

    def enter(self, connection: Connection) -> None:
        """Add a new connection. If it exceeds a bound, close the oldest stranger, or else the new one."""
        if self._by_address[connection.address] >= self._strangers_per_address:
            self._send_away(next(each for each in self._strangers if each.address == connection.address))
        elif len(self._strangers) + len(self._proven) >= self._most:
            self._send_away(next(iter(self._strangers), connection))
        self._strangers[connection] = None
        self._by_address[connection.address] += 1

    def _send_away(self, connection: Connection) -> None:
        self.leave(connection)
        connection.transport.abort()

    def prove(self, connection: Connection) -> None:
        """Never close this connection in favour of a new one: a request on it was authenticated."""
        if self._forget_stranger(connection):
            self._proven.add(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection. Does nothing if it is already forgotten."""
        self._forget_stranger(connection)
        self._proven.discard(connection)

    def _forget_stranger(self, connection: Connection) -> bool:
        if connection not in self._strangers:
            return False
        del self._strangers[connection]
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]
        return True


class Connection(H11Protocol):
    """Uvicorn's HTTP/1.1 connection, counted in `Connections`, and closed when headers take too long."""

    address = ""
    _timer: asyncio.TimerHandle | None = None
    _connections: Connections

    @classmethod
    def among(cls, connections: Connections) -> type[Connection]:
        """A subclass whose instances share these bounds. Uvicorn makes an instance for each new connection."""
        return type(cls.__name__, (cls,), {"_connections": connections})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._with_prove

    async def _with_prove(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PROVE], scope[ADDRESS] = partial(self._connections.prove, self), self.address
        await self._application(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = address_of(transport.get_extra_info("peername"))
        self._connections.enter(self)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._connections.leave(self)
        super().connection_lost(exc)

    def _waits(self) -> bool:
        return bool(getattr(self.cycle, "response_complete", True))  # `cycle` is None before the first request

    def _watch(self) -> None:
        if not self._waits():
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._waits():
            self.transport.close()

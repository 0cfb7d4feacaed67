"""A gRPC client of some microseconds a call: unary calls with the same headers, many at once on one connection.

`h2load` posts one constant body; here each call has its own. Headers of answers are not read: a call that got no
message has failed. Every header but the first request's is an index of HPACK's tables, as Envoy sends them.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
TABLE_SIZE, CONCURRENT_STREAMS, WINDOW_SIZE = 1, 3, 4  # names of settings
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
LEAST_TABLE = 512
FRAME = struct.Struct(">HBBBI")  # length (24 bits, in two), type, flags, stream
RECEIVE_BYTES = 1 << 18
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 10.0

# Places in HPACK's static table.
PATH, AUTHORITY, CONTENT_TYPE, POST, HTTP = 4, 1, 31, 0x83, 0x86


class Lost(ConnectionError):  # noqa: N818  (named for the event)
    """The server has hung up, or said that it will."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return FRAME.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def framed(message: bytes) -> bytes:
    """A message of gRPC: not compressed, its length first."""
    return b"\0" + len(message).to_bytes(4) + message


def header_blocks(path: str, authority: str, timeout: str) -> tuple[bytes, bytes]:
    """The first request's headers, which fill HPACK's table, and those of every later one, which point into it."""
    entries = [
        _indexed_name(PATH) + _text(path),
        _indexed_name(AUTHORITY) + _text(authority),
        _indexed_name(CONTENT_TYPE) + _text("application/grpc"),
        b"\x40" + _text("te") + _text("trailers"),
        b"\x40" + _text("grpc-timeout") + _text(timeout),
    ]
    newest = 62  # where the dynamic table begins
    later = bytes(0x80 | newest + age for age in reversed(range(len(entries))))
    return bytes((POST, HTTP)) + b"".join(entries), bytes((POST, HTTP)) + later


def _indexed_name(name: int) -> bytes:
    return bytes((0x40 | name,))


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > 126:
        raise ValueError(f"expected at most 126 bytes: {value}")
    return bytes((len(raw),)) + raw


def connected(address: str) -> socket.socket:
    """A socket to `host:port` or `unix:/path`. Raises OSError."""
    if address.startswith("unix:"):
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(CONNECT_SECONDS)
        found.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        found = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.settimeout(SILENCE_SECONDS)
    return found


class Connection:
    """One connection, on which unary calls of one method go out and their answers come back in any order."""

    def __init__(self, address: str, path: str, timeout: str = "1S") -> None:
        """`timeout` as in the header grpc-timeout. Raises OSError; waits for the server's settings."""
        self.socket = connected(address)
        self.streams = LARGEST_WINDOW  # that the server takes at once
        authority = "bench" if address.startswith("unix:") else address
        self._block, self._later = header_blocks(path, authority, timeout)
        self._next = 1
        self._window = FIRST_WINDOW
        self._held: deque[bytes] = deque()
        self._open: set[int] = set()
        self._partial: dict[int, bytes] = {}
        self._read = b""
        self._received = 0
        self._is_set = False
        settings = struct.pack(">HIHI", 2, 0, WINDOW_SIZE, LARGEST_WINDOW)
        window = struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, window))
        while not self._is_set:
            self.receive()

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._open)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def send(self, bodies: Iterable[bytes]) -> list[int]:
        """Call once for each body (`framed`); the number of each call. What the window has no room for waits."""
        out, streams = [], []
        for body in bodies:
            stream, self._next = self._next, self._next + 2
            streams.append(stream)
            block, self._block = self._block, self._later
            out.append(frame(HEADERS, END_HEADERS, stream, block))
            self._held.append(frame(DATA, END_STREAM, stream, body))
            if self._held[0] is self._held[-1] and len(body) <= self._window:
                self._window -= len(body)
                out.append(self._held.pop())
        self._open.update(streams)
        self.socket.sendall(b"".join(out))
        return streams

    def receive(self) -> list[tuple[int, bytes]]:
        """Wait for bytes; the calls that ended with them, each with its message, b"" for one that failed.

        Raises Lost, and TimeoutError where nothing comes for ten seconds.
        """
        got = self.socket.recv(RECEIVE_BYTES)
        if not got:
            raise Lost("the server has hung up")
        data = self._read + got if self._read else got
        at, end, done = 0, len(data), []
        while end - at >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            start, stop = at + FRAME.size, at + FRAME.size + (high << 8 | low)
            if stop > end:
                break
            at = stop
            if kind == DATA:
                self._keep(stream, data[start:stop], flags)
            elif kind > HEADERS:
                self._control(kind, flags, stream, data[start:stop])
            # A stream may be reset even after it has ended.
            if (kind == RST_STREAM or (kind <= HEADERS and flags & END_STREAM)) and stream in self._open:
                self._open.discard(stream)
                message = self._partial.pop(stream, b"")
                done.append((stream, message[5:] if kind != RST_STREAM else b""))
        self._read = data[at:]
        return done

    def _keep(self, stream: int, payload: bytes, flags: int) -> None:
        self._received += len(payload)
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        before = self._partial.get(stream)
        self._partial[stream] = before + payload if before else payload
        if self._received > LARGEST_WINDOW // 2:
            self.socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._set(payload)
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            raise Lost("the server says that it will hang up")
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
            self._send_held()

    def _set(self, payload: bytes) -> None:
        told = dict(struct.iter_unpack(">HI", payload))
        self.streams = told.get(CONCURRENT_STREAMS, self.streams)
        if told.get(TABLE_SIZE, LEAST_TABLE) < LEAST_TABLE:
            raise Lost("the server's HPACK table is too small for this client")
        self._is_set = True

    def _send_held(self) -> None:
        out = []
        while self._held and (size := len(self._held[0]) - FRAME.size) <= self._window:
            self._window -= size
            out.append(self._held.popleft())
        if out:
            self.socket.sendall(b"".join(out))

"""A bare HTTP/2 connection, to send what no library sends: any frame, in any order, with any bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = 9  # bytes of a frame's head
Headers = Sequence[tuple[bytes, bytes]]

CHECK: Final = b"/envoy.service.auth.v3.Authorization/Check"
HEALTH: Final = b"/grpc.health.v1.Health/Check"
WATCH: Final = b"/grpc.health.v1.Health/Watch"


def call_headers(path: bytes = CHECK, **changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """Those of a gRPC call. A change names a header with `_` for `-`; None leaves it out."""
    usual: dict[str, bytes | None] = {
        ":method": b"POST",
        ":scheme": b"http",
        ":path": path,
        ":authority": b"localhost",
        "content-type": b"application/grpc",
        "te": b"trailers",
    }
    changed = usual | {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name.encode(), value) for name, value in changed.items() if value is not None]


def block(headers: Headers) -> bytes:
    """Headers as literals, so that no connection depends on earlier frames."""
    return Encoder().encode([(name, value, True) for name, value in headers], huffman=False)


def start(stream: int, headers: Headers, *flags: str) -> HeadersFrame:
    """The HEADERS of a call, complete unless the flags say otherwise."""
    return HeadersFrame(stream, block(headers), flags=flags or ("END_HEADERS",))


def body(stream: int, content: bytes, *flags: str) -> DataFrame:
    return DataFrame(stream, content, flags=flags)


def framed(message: bytes) -> bytes:
    """A message with gRPC's prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Connection:
    """One connection; `status` comes from the trailers of a stream, as in HTTP/2."""

    def __init__(self, address: str, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=seconds)
        self._decoder = Decoder()
        self._unread = b""
        self.status: dict[int, int | None] = {}  # of each stream that has ended; None without a gRPC status
        self.data: dict[int, bytes] = {}
        self.is_closed = False
        self.send(PREFACE, SettingsFrame(0))

    def send(self, *parts: Frame | bytes) -> None:
        """What the server does not want to read any more is dropped."""
        try:
            self._socket.sendall(b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts))
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def wait_for(self, stream: int) -> int | None:
        """The gRPC status of a stream, when it has ended; None if it has none. Raises TimeoutError."""
        while stream not in self.status and not self.is_closed:
            self._receive()
        return self.status.get(stream)

    def finish(self) -> None:
        """Says no more, and returns when the server has hung up. Raises TimeoutError."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while self._socket.recv(1 << 16):
                pass

    def _receive(self) -> list[Frame]:
        try:
            more = self._socket.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        self.is_closed = not more
        self._unread += more
        return [self._take(frame) for frame in self._frames()]

    def _frames(self) -> Iterator[Frame]:
        while len(self._unread) >= HEAD:
            try:
                frame, length = Frame.parse_frame_header(memoryview(self._unread[:HEAD]))
                content, rest = self._unread[HEAD : HEAD + length], self._unread[HEAD + length :]
                if len(content) < length:
                    return
                frame.parse_body(memoryview(content))
            except HyperframeError as error:
                raise AssertionError(f"the server sends what is no frame: {error}") from error
            self._unread = rest
            yield frame

    def _take(self, frame: Frame) -> Frame:
        stream = frame.stream_id
        if isinstance(frame, HeadersFrame):
            found = self._headers(frame)
            if "END_STREAM" in frame.flags:
                self.status[stream] = int(found[b"grpc-status"]) if b"grpc-status" in found else None
        elif isinstance(frame, DataFrame):
            self.data[stream] = self.data.get(stream, b"") + frame.data
            if frame.flow_controlled_length:
                self.send(WindowUpdateFrame(0, frame.flow_controlled_length))
            if "END_STREAM" in frame.flags:
                self.status[stream] = None
        elif isinstance(frame, RstStreamFrame):
            self.status.setdefault(stream, None)
        elif isinstance(frame, SettingsFrame | PingFrame) and "ACK" not in frame.flags:
            content = frame.opaque_data if isinstance(frame, PingFrame) else None
            self.send(PingFrame(0, content, flags=("ACK",)) if content else SettingsFrame(0, flags=("ACK",)))
        return frame

    def _headers(self, frame: HeadersFrame) -> dict[bytes, bytes]:
        try:
            return {bytes(name): bytes(value) for name, value in self._decoder.decode(frame.data, raw=True)}
        except HPACKError as error:
            raise AssertionError(f"the server sends what are no headers: {error}") from error

    def close(self) -> None:
        self._socket.close()


@contextmanager
def connected(address: str, seconds: float = 30.0) -> Iterator[Connection]:
    """A connection whose every wait ends with TimeoutError after `seconds` of silence."""
    connection = Connection(address, seconds)
    try:
        yield connection
    finally:
        connection.close()


def called(address: str, headers: Headers, content: bytes | None = framed(b"")) -> int | None:
    """The gRPC status of one call; without `content` the headers end the stream."""
    with connected(address) as connection:
        if content is None:
            connection.send(start(1, headers, "END_HEADERS", "END_STREAM"))
        else:
            connection.send(start(1, headers), body(1, content, "END_STREAM"))
        return connection.wait_for(1)


def answers(address: str) -> bool:
    """Whether a health check is answered as it should be."""
    return called(address, call_headers(HEALTH)) == 0

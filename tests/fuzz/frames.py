"""Random HTTP/2 frames at the gRPC port: in any order, with any bytes, on streams in any state."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import yaml
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.fuzz.checkrequests import CATALOG, mutated, request
from tests.fuzz.http2 import CHECK, HEALTH, WATCH, answers, block, body, call_headers, connected, framed, start
from tests.support.servers import AuthzServer, Host, authz_serve, redis_server

LONGEST: Final = 16  # frames of a sequence
PATHS: Final = (CHECK, HEALTH, WATCH, b"/\xff\xfe", b"", b"/no/such", b"*")
CHANGES: Final[tuple[dict[str, bytes | None], ...]] = (
    {"te": b"\xff"}, {"content_type": b"\xff"}, {"grpc_timeout": b"soon"}, {"grpc_timeout": b"1m"}, {":method": None},
    {":authority": b"\xff"}, {":scheme": None}, {"x_odd": b"\xff\0\r\n"}, {"grpc_encoding": b"gzip"},
    {"x_long": b"a" * 17_000}, {},
)  # fmt: skip
FLAGS: Final = ("END_HEADERS", "END_STREAM")

STREAMS: Final = (1, 1, 3, 5)
ODD_STREAMS: Final = (0, 2, (1 << 31) - 1)
STREAM_AT: Final = slice(5, 9)  # of a frame

Part = Frame | bytes
Make = Callable[[random.Random, int], Part]


def _headers(chance: random.Random, stream: int) -> Part:
    flags = chance.choice((("END_HEADERS",), FLAGS, ("END_STREAM",), ()))
    headers = call_headers(chance.choice(PATHS), **chance.choice(CHANGES))
    content = block(headers)
    return HeadersFrame(stream, mutated(chance, content) if chance.random() < 0.3 else content, flags=flags)


def _call(chance: random.Random, stream: int) -> Part:
    """A whole call, so that streams are often in a state that means something."""
    message = request(chance).SerializeToString()
    return start(stream, call_headers()).serialize() + body(stream, framed(message), "END_STREAM").serialize()


def _data(chance: random.Random, stream: int) -> Part:
    content = chance.choice((b"", b"\0\0", framed(b""), framed(b"") * 2, b"\1\0\0\0\1a", b"\0\xff\xff\xff\xffa"))
    return body(stream, content, *(("END_STREAM",) if chance.random() < 0.5 else ()))


def _raw(chance: random.Random, stream: int) -> Part:
    """A frame of any type, with any flags; its length may be a lie."""
    content = chance.randbytes(chance.choice((0, 1, 4, 8, 40)))
    length = len(content) if chance.random() < 0.8 else chance.randrange(1 << 14)
    return length.to_bytes(3, "big") + chance.randbytes(2) + stream.to_bytes(4, "big") + content


def _settings(chance: random.Random, stream: int) -> Part:
    known = {chance.randrange(1, 9): chance.choice((0, 1, 16_384, 1 << 24, (1 << 32) - 1))}
    return SettingsFrame(0, known).serialize() * chance.choice((1, 1, 100))


MAKERS: Final[tuple[Make, ...]] = (
    _headers,
    _headers,
    _call,
    _call,
    _data,
    _data,
    _raw,
    _settings,
    lambda chance, stream: ContinuationFrame(stream, chance.randbytes(9), flags=FLAGS[: chance.randrange(2)]),
    lambda chance, stream: RstStreamFrame(stream, chance.randrange(1 << 32)),
    lambda chance, stream: PriorityFrame(stream, chance.choice((0, stream, 7)), chance.randrange(256)),
    lambda chance, stream: GoAwayFrame(0, chance.randrange(1 << 31), chance.randrange(1 << 32)),
    lambda chance, stream: PingFrame(0, chance.randbytes(8)).serialize() * chance.choice((1, 1, 50)),
    lambda chance, stream: WindowUpdateFrame(chance.choice((0, stream)), chance.choice((1, (1 << 31) - 1))),
)


def sequence(seed: int) -> list[bytes]:
    """The same frames for the same seed."""
    chance = random.Random(seed)
    return [_bytes(chance) for _ in range(chance.randint(1, LONGEST))]


def _bytes(chance: random.Random) -> bytes:
    part = chance.choice(MAKERS)(chance, chance.choice(STREAMS))
    made = bytearray(part if isinstance(part, bytes) else part.serialize())
    if chance.random() < 0.1:
        made[STREAM_AT] = chance.choice(ODD_STREAMS).to_bytes(4, "big")
    return bytes(made)


def run(server: AuthzServer, seeds: range) -> None:
    """Send a sequence for each seed, on a connection of its own; the port answers after each."""
    for seed in seeds:
        with connected(server.grpc) as connection:
            connection.send(*sequence(seed))
            connection.finish()
        assert answers(server.grpc), f"seed {seed}: the port answers no more: {server.log_text[-2000:]}"
        assert "Traceback" not in server.log_text, f"seed {seed}: {server.log_text[-2000:]}"


@click.command("frames")
@click.option("--count", default=300, show_default=True, help="Sequences of frames.")
@click.option("--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the first sequence; the next ones count from it.")
def command(count: int, host: Host, seed: int) -> None:
    """Send random HTTP/2 frames to a sidecar of its own."""
    with TemporaryDirectory() as scratch, redis_server() as redis:
        config = Path(scratch, "plans.yaml")
        config.write_text(yaml.safe_dump(CATALOG))
        with authz_serve(config, "--redis-url", redis.url, "--drain-seconds", "0", host=host) as server:
            run(server, range(seed, seed + count))
    click.echo(f"{host}: {count} sequences from seed {seed}, and the port answers")

"""Random CheckRequests against a running sidecar: mutated bytes, and well-formed requests of random parts.

Each allow is compared with an independent reading of the rules: without a valid key only an open method may pass.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote

import click
import grpc
import yaml
from google.protobuf.message import DecodeError

from authz.envoy.pb import ext_authz_pb2 as pb
from tests.fuzz.http2 import CHECK, answers
from tests.support.builders import value_of
from tests.support.servers import AuthzServer, Host, authz_serve, redis_server

IN_FLIGHT: Final = 64
MAX_SHED: Final = 20  # times that one call may be shed
CALL_SECONDS: Final = 60.0  # until a call hangs, on a busy machine
WARM_SHARE: Final = 0.3  # of the calls, after which memory should grow no more
GROWTH_BYTES: Final = 48 << 20

COVERED: Final = [{"apiId": "a1", "stage": "prod"}]
CATALOG: Final[Mapping[str, Any]] = {
    "apis": [
        {
            "id": "a1",
            "stages": [{"name": "prod"}],
            "resources": {
                "/pets": {"GET": {}, "POST": {}},
                "/pets/{id}": {"ANY": {}},
                "/open": {"GET": {"apiKeyRequired": False}},
            },
        }
    ],
    "apiKeys": [
        {"id": "k1", "value": value_of("k1")},
        {"id": "k2", "value": value_of("k2"), "enabled": False},
        {"id": "k3", "value": value_of("k3")},
    ],
    "usagePlans": [{"id": "p1", "name": "One", "keys": ["k1", "k2"], "apiStages": COVERED}],
}
VALID_KEYS: Final = frozenset({value_of("k1")})

WORDS: Final = (
    "/", "/prod", "/prod/open", "/prod/pets", "/prod/pets/1", "/prod/open/", "/prod//open", "/prod/open/..", "/open",
    "/prod/%6fpen", "/prod/open;a", "/prod/open%2f..%2fpets", "/prod/OPEN", "/prod/open?x=/pets", "/prod/pets?/open",
    "/prod/./open", "/test/open", "/prod/open#", "*", "http://a1/prod/open", "/prod/pets/../open", "/prod/pets;/open",
    "/prod/open\0", "/prod/op\N{LATIN SMALL LETTER E WITH ACUTE}n", "/prod/{id}", "%", "/prod/pets/%ff", "",
)  # fmt: skip
GOOD: Final = ("/prod/pets", "/prod/pets/1", "/prod/open")
METHODS: Final = ("GET", "POST", "get", "GET ", "ANY", "OPTIONS", "HEAD", "CONNECT", "", "*", "DELETE", "G\0T")
NAMES: Final = (
    "x-api-key", "X-Api-Key", "x_api_key", "cookie", "authorization", "host", ":path", ":authority", "content-type", "",
    "accept", "x-usage-plan-id", "x-api-key-id",
)  # fmt: skip
NUMBERS: Final = (0.0, -1.0, 1e308, float("nan"), float("inf"), float("-inf"))


Check = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclass
class Outcome:
    """What came of the calls so far."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[bytes] = field(default_factory=list)  # messages that passed and should not have


def _text(chance: random.Random) -> str:
    length = chance.choice((0, 1, 3, 8, 40, 300))
    return "".join(chr(chance.choice((chance.randrange(128), chance.randrange(0x800), 0x1F600))) for _ in range(length))


def _one_of(chance: random.Random, known: tuple[str, ...]) -> str:
    return chance.choice(known) if chance.random() < 0.8 else _text(chance)


KEYS: Final = (*map(value_of, ("k1", "k1", "k2", "k3")), "", "unknown-key-0123456789", f"{value_of('k1')},x")


def request(chance: random.Random) -> pb.CheckRequest:
    """A well-formed message whose parts are plausible, odd, or missing."""
    http = pb.AttributeContext.HttpRequest(id=_text(chance) if chance.random() < 0.2 else "1")
    http.method = "GET" if chance.random() < 0.5 else _one_of(chance, METHODS)
    http.path = chance.choice(GOOD) if chance.random() < 0.4 else _one_of(chance, WORDS)
    http.host = _one_of(chance, ("a1.example.com", "a1", "api.example.com", "[::1]:80"))
    headers = [("x-api-key", chance.choice(KEYS))] if chance.random() < 0.6 else []
    headers += [(_one_of(chance, NAMES), _one_of(chance, KEYS)) for _ in range(chance.choice((0, 0, 1, 4)))]
    if chance.random() < 0.3:
        raw = [pb.HeaderValue(key=name, raw_value=_damaged(chance, value.encode())) for name, value in headers]
        http.header_map.headers.extend(raw)
    else:
        http.headers.update(dict(headers))
    message = pb.CheckRequest(attributes={"request": {"http": http}})
    if chance.random() < 0.3:
        for name in chance.sample(("api", "stage", "resource", "method", "x", ""), 2):
            value = _one_of(chance, ("a1", "prod", "/open", "/pets", "GET", ""))
            message.attributes.context_extensions[name] = value
    if chance.random() < 0.2:
        fields = message.attributes.metadata_context.filter_metadata[_text(chance)].fields
        fields["a"].number_value = chance.choice(NUMBERS)
        fields["b"].struct_value.fields["c"].list_value.values.add().string_value = _text(chance)
    return message


def _damaged(chance: random.Random, content: bytes) -> bytes:
    """As it is, in most cases; else with a byte that is changed, missing or new."""
    if not content or chance.random() < 0.7:
        return content
    at, byte = chance.randrange(len(content)), bytes([chance.randrange(256)])
    return content[:at] + chance.choice((byte, b"", byte * 2)) + content[at + 1 :]


def mutated(chance: random.Random, message: bytes) -> bytes:
    """Bytes of a message that are flipped, cut, repeated, or not of a message at all."""
    if chance.random() < 0.1 or not message:
        return chance.randbytes(chance.choice((0, 1, 2, 5, 50, 2_000)))
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(message) + 1)
        end = min(len(message), at + chance.choice((1, 2, 8)))
        part = chance.choice((chance.randbytes(1), b"", message[at:end] * 2, b"\xff" * 5))
        message = (message[:at] + part + message[end:]) or b"\0"
    return message


def messages(seed: int, count: int) -> Iterator[bytes]:
    """The same ones for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        message = request(chance).SerializeToString()
        yield message if chance.random() < 0.6 else mutated(chance, message)


# --- the rules, read once more ------------------------------------------------------------------------------------


def may_pass(message: bytes) -> bool:
    """Whether a request has a valid key, or names the open method."""
    try:
        attributes = pb.CheckRequest.FromString(message).attributes
    except DecodeError:
        return False
    http, said = attributes.request.http, attributes.context_extensions
    if not http.method or not http.path:
        return False
    return bool(_keys(http) & VALID_KEYS) or (_resource(http.path, said) == "/open" and _method(http, said) == "GET")


def _keys(http: pb.AttributeContext.HttpRequest) -> set[str]:
    sent = {value for name, value in http.headers.items() if name.lower() == "x-api-key"}
    raw = [
        header.raw_value.decode("utf-8", "replace") or header.value
        for header in http.header_map.headers
        if header.key.lower() == "x-api-key"
    ]
    return sent if http.headers else {",".join(raw)}


def _method(http: pb.AttributeContext.HttpRequest, said: Mapping[str, str]) -> str:
    return (said.get("method") or http.method).upper()


def _resource(path: str, said: Mapping[str, str]) -> str:
    """Its literal path; the stage is its first segment unless the route says the stage."""
    if said.get("resource"):
        return said["resource"]
    segments = [unquote(segment) for segment in path.partition("?")[0].split("/")[1:]]
    if not said.get("stage"):
        segments = segments[1:] if segments[:1] == ["prod"] else ["", "none"]
    while segments and not segments[-1]:
        segments.pop()
    return "/" + "/".join(segments)


# --- the run ------------------------------------------------------------------------------------------------------


async def _send(address: str, coming: Iterator[bytes], outcome: Outcome) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        check: Check = channel.unary_unary(CHECK.decode())

        async def worker() -> None:
            for message in coming:
                try:
                    answer = pb.CheckResponse.FromString(await _answer(check, message, outcome))
                except grpc.aio.AioRpcError as error:
                    outcome.counts[f"status {error.code().name}"] += 1
                    continue
                outcome.counts["denied" if answer.status.code else "allowed"] += 1
                if not answer.HasField("status") or (not answer.status.code and not may_pass(message)):
                    outcome.wrong.append(message)

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def _answer(check: Check, message: bytes, outcome: Outcome) -> bytes:
    """Asks again where a busy sidecar has shed the call before it read it, as Envoy does."""
    for _ in range(MAX_SHED):
        try:
            return await check(message, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
            outcome.counts["shed"] += 1
    return await check(message, timeout=CALL_SECONDS)


def memory(server: AuthzServer) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * 4096


def run(server: AuthzServer, seed: int, count: int) -> Outcome:
    """Send `count` messages, and assert all that has to hold of each and after them."""
    outcome, coming = Outcome(), messages(seed, count)
    for part in (int(count * WARM_SHARE), count - int(count * WARM_SHARE)):
        before = memory(server)
        taken = (message for _, message in zip(range(part), coming, strict=False))
        asyncio.run(_send(server.grpc, taken, outcome))
    grown = memory(server) - before
    outcome.counts["bytes of memory more"] = grown
    assert not outcome.wrong, f"seed {seed}: passed without a key: {outcome.wrong[0]!r}"
    failed = {name: calls for name, calls in outcome.counts.items() if name.startswith("status")}
    assert not failed, f"seed {seed}: calls without an answer: {failed}"
    assert "Traceback" not in server.log_text, f"seed {seed}: {server.log_text[-2000:]}"
    assert grown < GROWTH_BYTES, f"seed {seed}: memory grew by {grown} bytes"
    assert answers(server.grpc)
    return outcome


@click.command("checkrequests")
@click.option("--count", default=5_000, show_default=True, help="Messages.")
@click.option("--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same messages.")
def command(count: int, host: Host, seed: int) -> None:
    """Send random CheckRequests to a sidecar of its own."""
    with TemporaryDirectory() as scratch, redis_server() as redis:
        config = Path(scratch, "plans.yaml")
        config.write_text(yaml.safe_dump(CATALOG))
        flags = ("--redis-url", redis.url, "--drain-seconds", "0", "--redis-timeout-ms", "2000")
        with authz_serve(config, *flags, host=host) as server:
            outcome = run(server, seed, count)
    click.echo(f"{host}, seed {seed}: {count} messages, {dict(outcome.counts)}")

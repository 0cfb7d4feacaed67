"""The gRPC port under calls that no Envoy makes: each is answered at once, counted, and harms no other call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from authz.config.settings import Settings
from authz.core.address import Address
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.hosts.asgi_grpc import MAX_MESSAGE
from authz.sidecar.port import MAX_LOOKS, SILENT_LOOKS, PortProbe, ServerEnded
from tests.fuzz.http2 import CHECK, HEALTH, WATCH, answers, body, call_headers, called, connected, framed, start
from tests.integration.test_server import document
from tests.support.hosts import HOSTS
from tests.support.servers import HOST, AuthzServer, Host, RedisServer, authz_serve, free_port, redis_server, until

OK, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 13, 8, 12
NOT_UTF_8 = b"/\xff\xfe"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "plans.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return cast("Host", request.param)


@pytest.fixture(scope="module")
def server(host: Host, config: Path, redis: RedisServer) -> Iterator[AuthzServer]:
    """One for all tests: whatever is done to it, it goes on."""
    with authz_serve(config, "--redis-url", redis.url, "--drain-seconds", "0", host=host) as server:
        yield server


def short(value: object) -> str:
    return repr(value)[:50]


def bad_calls(server: AuthzServer, problem: str) -> float:
    text = httpx.get(f"{server.http}/metrics", trust_env=False).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "authz_bad_calls_total" and sample.labels["problem"] == problem
    )


def lines(server: AuthzServer, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, server.log_text.splitlines()) if line["event"] == event]


def is_well(server: AuthzServer) -> bool:
    """Whether the port answers, the process says so, and no call was a fault."""
    ready = httpx.get(f"{server.http}/readyz", trust_env=False)
    return answers(server.grpc) and ready.status_code == 200 and "Traceback" not in server.log_text


# --- headers ------------------------------------------------------------------------------------------------------


PATHS = [
    NOT_UTF_8,
    b"/envoy.service.auth.v3.Authorization/\xc3\x28",
    b"/\xed\xa0\x80/Check",
    b"\xff",
    b"/%ff%fe",
    b"/no/such",
    b"/" + CHECK,
    CHECK + b"/",
    CHECK.lower(),
    b"/" + b"a" * 8_000,
    b"*",
    b"",
    b"no slash",
    b"/a\0b",
]


@pytest.mark.parametrize("path", PATHS, ids=short)
def test_a_path_of_any_bytes_ends_one_call_at_most(path: bytes, server: AuthzServer) -> None:
    assert called(server.grpc, call_headers(path)) != OK
    assert is_well(server)


@pytest.mark.parametrize("path", [NOT_UTF_8, b"/no/such"], ids=short)
def test_a_method_that_is_not_served_is_refused_without_harm_to_calls_beside_it(
    path: bytes, server: AuthzServer
) -> None:
    with connected(server.grpc) as beside:
        beside.send(start(1, call_headers(HEALTH)))
        called(server.grpc, call_headers(path))
        beside.send(body(1, framed(b""), "END_STREAM"))
        assert beside.wait_for(1) == OK
    assert is_well(server)


ODD_HEADERS = [
    {":authority": b"\xff\xfe"},
    {":authority": None},
    {":scheme": b"\xff"},
    {":scheme": None},
    {":method": b"\xff\xff"},
    {":method": b"GET"},
    {":method": b"PUT"},
    {":method": None},
    {":path": None},
    {":status": b"200"},
    {":odd": b"x"},
    {"te": b"\xff"},
    {"te": b"gzip"},
    {"te": None},
    {"content-type": b"\xff\xfe"},
    {"content-type": b"application/grpc+\xff"},
    {"content-type": b"text/html"},
    {"content-type": None},
    {"grpc-timeout": b"soon"},
    {"grpc-timeout": b"-1S"},
    {"grpc-timeout": b"99999999999H"},
    {"grpc-timeout": b"0m"},
    {"grpc-timeout": b"\xff"},
    {"grpc-encoding": b"\xff"},
    {"grpc-encoding": b"no-such"},
    {"grpc-accept-encoding": b"\xff,gzip"},
    {"x-odd": b"\xff\xfe"},
    {"x\xff": b"a"},
    {"X-UPPER": b"a"},
    {"": b"a"},
    {"x-odd-bin": b"not base64!"},
    {"x-long": b"a" * 20_000},
    {"x-longer": b"a" * 60_000},
    {"connection": b"close"},
    {"user-agent": b"\x00\x01\x7f"},
]


@pytest.mark.parametrize("changes", ODD_HEADERS, ids=short)
def test_headers_of_any_bytes_end_one_call_at_most(changes: dict[str, bytes | None], server: AuthzServer) -> None:
    given = dict(call_headers(HEALTH))
    for name, value in changes.items():
        given.pop(name.encode("latin-1"), None)
        if value is not None:
            given[name.encode("latin-1")] = value
    called(server.grpc, [*given.items()])
    assert is_well(server)


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHECK, HEALTH, WATCH], ids=short)
def test_a_call_without_a_message_is_answered_at_once(path: bytes, server: AuthzServer) -> None:
    """It names no deadline, so that nothing but an answer ends it."""
    before = bad_calls(server, "no_message")
    assert called(server.grpc, call_headers(path), None) == INTERNAL
    assert bad_calls(server, "no_message") == before + 1
    assert is_well(server)


def test_thousands_of_calls_without_a_message_are_all_answered(server: AuthzServer) -> None:
    streams = range(1, 4_000, 2)
    with connected(server.grpc) as connection:
        for some in (streams[at : at + 100] for at in range(0, len(streams), 100)):
            connection.send(*(start(stream, call_headers(CHECK), "END_HEADERS", "END_STREAM") for stream in some))
            assert {connection.wait_for(stream) for stream in some} == {INTERNAL}
    assert is_well(server)


ODD_BODIES = {
    "no prefix": b"\0\0",
    "shorter than its prefix says": b"\0\0\0\0\5ab",
    "longer than its prefix says": b"\0\0\0\0\1abc",
    "compressed by nothing": b"\1\0\0\0\1a",
    "an unknown flag": b"\7\0\0\0\1a",
    "two messages": framed(b"") * 2,
    "a length of 4 GiB": b"\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("content", ODD_BODIES.values(), ids=ODD_BODIES)
def test_a_body_that_is_not_one_message_is_answered(content: bytes, server: AuthzServer) -> None:
    called(server.grpc, call_headers(CHECK), content)
    assert is_well(server)


@pytest.mark.parametrize(("path", "status"), [(CHECK, OK), (HEALTH, INTERNAL)], ids=short)
def test_bytes_that_are_no_protobuf_are_counted_and_no_fault(path: bytes, status: int, server: AuthzServer) -> None:
    """A check is still answered, with 503."""
    before = bad_calls(server, "undecodable")
    with connected(server.grpc) as connection:
        connection.send(start(1, call_headers(path)), body(1, framed(b"\xff\xff"), "END_STREAM"))
        assert connection.wait_for(1) == status
        if path == CHECK:
            answer = pb.CheckResponse.FromString(connection.data[1][5:])
            assert (answer.status.code, answer.error_response.status.code) == (14, 503)
    assert bad_calls(server, "undecodable") == before + 1
    assert is_well(server)


def test_a_problem_is_logged_once_however_many_calls_have_it(server: AuthzServer) -> None:
    for _ in range(20):
        called(server.grpc, call_headers(CHECK), framed(b"\xff\xff"))
    found = [line for line in lines(server, "bad call") if line["problem"] == "undecodable"]
    assert len(found) == 1


def test_a_message_above_the_bound_is_refused_counted_and_logged(server: AuthzServer, host: Host) -> None:
    """gRPC's own refusal under grpcio, which does not say why the call ended."""
    problem = {"grpcio": "ended", "pyvoy": "too_large"}[host]
    before = bad_calls(server, problem)
    with connected(server.grpc) as connection:
        # Of a message that says it is too large, no more need be read than that.
        whole = b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big") + b"a" * 1_000
        connection.send(start(1, call_headers(CHECK)), body(1, whole, "END_STREAM"))
        assert connection.wait_for(1) == RESOURCE_EXHAUSTED
    until(lambda: bad_calls(server, problem) == before + 1, "not counted", server)
    (line,) = [line for line in lines(server, "bad call") if line["problem"] == problem]
    assert "with_request_body" in line["hint"]
    assert is_well(server)


# --- a server that dies -------------------------------------------------------------------------------------------


def test_a_server_that_ends_by_itself_ends_the_process(config: Path, redis: RedisServer) -> None:
    """grpcio alone ends itself at a path that is not UTF-8; the process ends with a failure."""
    flags = ("--redis-url", redis.url, "--drain-seconds", "0")
    with authz_serve(config, *flags, host="grpcio", module="tests.support.faulty_grpcio") as server:
        called(server.grpc, call_headers(NOT_UTF_8))
        assert server.wait() == 1
        (line,) = lines(server, "ended")
        assert "the gRPC server has ended" in line["error"]
        assert "grpcio cannot be shielded" in server.log_text


def test_a_worker_whose_server_ends_by_itself_is_started_again(config: Path, redis: RedisServer) -> None:
    flags = ("--redis-url", redis.url, "--drain-seconds", "0")

    with authz_serve(config, *flags, host="grpcio", module="tests.support.faulty_grpcio", workers=2) as pair:

        def restarts() -> list[int]:
            workers = httpx.get(f"{pair.http}/healthz", trust_env=False).json()["workers"]
            return [worker["restarts"] for worker in workers if worker["ready"]]

        called(pair.endpoints[0], call_headers(NOT_UTF_8))
        until(lambda: restarts() == [1, 0], "not started again", pair)
        assert all(answers(endpoint) for endpoint in pair.endpoints)


@asynccontextmanager
async def somebody(answer: bytes | None) -> AsyncIterator[PortProbe]:
    """A port where a server gives this answer, or hangs up at once."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            writer.write(answer)
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(meet, HOST, free_port())
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield PortProbe(Settings(grpc_listen=f"{HOST}:{port}"))


async def test_a_port_without_a_listener_is_found_dead() -> None:
    port = PortProbe(Settings(grpc_listen=f"{HOST}:{free_port()}"))
    for _ in range(SILENT_LOOKS):
        assert port.problem is None
        await port.look()
    assert port.problem
    for _ in range(MAX_LOOKS - SILENT_LOOKS):
        await port.look()
    with pytest.raises(ServerEnded, match=r"does not answer: .*[Cc]onnect"):
        await port.watch()


async def test_a_port_that_hangs_up_is_found_dead() -> None:
    async with somebody(None) as port:
        for _ in range(SILENT_LOOKS):
            await port.look()
        assert port.problem


async def test_a_port_that_refuses_our_call_under_load_is_alive() -> None:
    """By RST_STREAM or GOAWAY: a server that can say so is there."""
    for refusal in (b"\0\0\4\3\0\0\0\0\1\0\0\0\7", b"\0\0\10\7\0\0\0\0\0\0\0\0\0\0\0\0\0"):
        async with somebody(b"\0\0\0\4\0\0\0\0\0" + refusal) as port:
            for _ in range(SILENT_LOOKS):
                await port.look()
            assert port.problem is None


async def test_an_answer_makes_up_for_missed_ones() -> None:
    async with somebody(b"\0\0\0\1\4\0\0\0\1") as port:
        for _ in range(SILENT_LOOKS):
            port._missed("nothing")
        assert port.problem
        await port.look()
        assert port.problem is None


@pytest.mark.parametrize(
    ("listen", "at"),
    [
        ("0.0.0.0:80", ("127.0.0.1", 80)),
        ("[::]:80", ("::1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("example.com:80", ("example.com", 80)),
    ],
)
def test_the_port_is_looked_at_where_it_can_be_reached(listen: str, at: tuple[str, int]) -> None:
    assert Address.parse(listen).target == Address(*at)

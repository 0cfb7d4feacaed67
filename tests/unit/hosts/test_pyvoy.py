"""gRPC over ASGI, message by message, and Envoy's bootstrap. Tests with an Envoy are in tests/envoy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from authz.config.faults import ConfigError
from authz.config.file import parse
from authz.config.settings import Settings
from authz.envoy.badcalls import CallFault
from authz.hosts import asgi_grpc
from authz.hosts.asgi_grpc import (
    CHECK,
    MAX_MESSAGE,
    START,
    TRAILERS,
    Event,
    GrpcApp,
    Health,
    Refused,
    Unary,
    framed,
    seconds_of,
    unframed,
)
from authz.hosts.pyvoy import restore
from authz.hosts.pyvoy_launch import HANDOVER, Handover, _kept, bootstrap_of, check_host, secrets_of, take_over
from tests.support.hosts import needs_pyvoy

GRPC = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
ECHO = "/t/Echo"


async def echo(message: bytes, seconds_left: float | None) -> bytes:
    return message


def no_problem(problem: CallFault) -> None:
    """Counts nothing."""


class Caller:
    """A call as pyvoy presents it: the events that come in, and those that went out."""

    def __init__(self, *body: bytes, path: str = ECHO, headers: Sequence[tuple[bytes, bytes]] = GRPC) -> None:
        self.scope: Event = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
        self._coming = [
            {"type": "http.request", "body": part, "more_body": left > 0}
            for left, part in zip(reversed(range(len(body))), body, strict=True)
        ]
        self.sent: list[Event] = []
        self.has_left = False

    async def receive(self) -> Event:
        """After the body pyvoy returns empty events at once, without end."""
        await asyncio.sleep(0)
        if self.has_left:
            return {"type": "http.disconnect"}
        return self._coming.pop(0) if self._coming else {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, event: Event) -> None:
        if self.has_left and event["type"] == "http.response.trailers":
            raise OSError("the client has gone")
        self.sent.append(event)

    @property
    def status(self) -> int:
        """The last gRPC status in headers or trailers; -1 without one."""
        found = [value for event in self.sent for name, value in event.get("headers", []) if name == b"grpc-status"]
        return int(found[-1]) if found else -1


async def called(caller: Caller, unary: Unary = echo) -> Caller:
    app = GrpcApp({ECHO: unary}, Health([]), no_problem)
    await app(caller.scope, caller.receive, caller.send)
    assert app.in_flight == 0
    return caller


# --- framing ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_a_message_comes_out_of_its_frame(message: bytes) -> None:
    assert unframed(framed(message)) == message


@given(st.binary(max_size=40))
def test_no_body_but_a_frame_is_one(body: bytes) -> None:
    """Any bytes are a frame, or refused."""
    with suppress(Refused):
        assert framed(unframed(body)) == body


@given(st.binary(min_size=1, max_size=60), st.data())
async def test_a_body_may_come_in_any_pieces(message: bytes, data: st.DataObject) -> None:
    body = framed(message)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=5)))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    caller = await called(Caller(*parts))
    assert caller.sent == [START, {"type": "http.response.body", "body": body}, TRAILERS]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 13),
        (b"\0\0\0\0", 13),
        (b"\0\0\0\0\2a", 13),
        (b"\0\0\0\0\1ab", 13),
        (b"\1\0\0\0\1a", 12),
        (b"\2\0\0\0\1a", 13),
        (b"\0" + (MAX_MESSAGE + 1).to_bytes(4), 8),
        (b"\0\xff\xff\xff\xff", 8),
    ],
)
async def test_a_bad_body_is_refused_in_trailers_only(body: bytes, code: int) -> None:
    caller = await called(Caller(body))
    start, end = caller.sent
    assert caller.status == code
    assert "trailers" not in start
    assert end == {"type": "http.response.body", "body": b""}


async def test_of_a_body_that_is_too_large_no_more_is_read() -> None:
    caller = Caller(framed(bytes(MAX_MESSAGE)), b"a", b"never read")
    await called(caller)
    assert caller.status == 8
    assert (await caller.receive())["body"] == b"never read"


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"500m", 0.5),
        (b"7u", 7e-6),
        (b"9n", 9e-9),
        (b"0m", 0),
        (b"99999999S", 99999999),
    ],
)
def test_a_timeout_is_a_number_of_seconds(text: bytes, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [b"", b"S", b"5", b"5s", b"-5S", b"5 S", b"5.5S", b"123456789S", b"5S\n", "٣S".encode()]
)
def test_a_bad_timeout_is_refused(text: bytes) -> None:
    with pytest.raises(Refused) as refused:
        seconds_of(text)
    assert refused.value.code == 13


@pytest.mark.parametrize("te", [None, b"Trailers", b"gzip", b""])
async def test_without_te_trailers_there_is_no_success(te: bytes | None) -> None:
    """The trailers would not reach the client."""
    headers = [GRPC[0], *([(b"te", te)] if te is not None else [])]
    assert (await called(Caller(framed(b"a"), headers=headers))).status == 13


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (RuntimeError("secret"), 13),
        (OSError("secret"), 13),
        (SystemExit(0), 13),
        (KeyboardInterrupt(), 13),
        (asyncio.CancelledError(), 14),
        (Refused(7, "no"), 7),
    ],
    ids=repr,
)
async def test_whatever_is_raised_the_call_has_a_status(fault: BaseException, code: int) -> None:
    """Otherwise pyvoy would answer with status 0."""

    async def fail(message: bytes, seconds_left: float | None) -> bytes:
        raise fault

    caller = await called(Caller(framed(b"a")), fail)
    assert caller.status == code
    assert b"secret" not in repr(caller.sent).encode()


async def test_an_empty_answer_is_none() -> None:
    """To Envoy it would be consent."""

    async def nothing(message: bytes, seconds_left: float | None) -> bytes:
        return b""

    assert (await called(Caller(framed(b"a")), nothing)).status == 13


async def test_a_caller_that_leaves_before_its_message_is_whole_is_not_met() -> None:
    met: list[bytes] = []

    async def meet(message: bytes, seconds_left: float | None) -> bytes:
        met.append(message)
        return message

    caller = Caller(framed(b"a"))
    caller.has_left = True
    await called(caller, meet)
    assert (met, caller.sent) == ([], [])


async def test_a_caller_that_leaves_during_its_answer_harms_no_other() -> None:
    caller = Caller(framed(b"a"))

    async def leave(message: bytes, seconds_left: float | None) -> bytes:
        caller.has_left = True
        return message

    await called(caller, leave)
    assert caller.sent[0] == START


async def test_a_call_that_hangs_is_swept_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_grpc, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(asgi_grpc, "LATE_SECONDS", 0.0)

    async def hang(message: bytes, seconds_left: float | None) -> bytes:
        await asyncio.Event().wait()
        return message

    app = GrpcApp({ECHO: hang}, Health([]), no_problem)
    caller = Caller(framed(b"a"), headers=[*GRPC, (b"grpc-timeout", b"10m")])
    sweeping = asyncio.create_task(app.sweep())
    await app(caller.scope, caller.receive, caller.send)
    sweeping.cancel()
    assert caller.status == 4


async def test_an_empty_answer_is_refused_and_logged() -> None:
    """To Envoy it would be consent."""

    async def nothing(message: bytes, seconds_left: float | None) -> bytes:
        return b""

    with capture_logs() as lines:
        caller = await called(Caller(framed(b"a")), nothing)
    assert caller.status == 13
    assert [line["event"] for line in lines] == ["call failed"]


async def test_calls_that_are_given_up_are_unavailable() -> None:
    begun = asyncio.Event()

    async def hang(message: bytes, seconds_left: float | None) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return message

    app = GrpcApp({ECHO: hang}, Health([]), no_problem)
    caller = Caller(framed(b"a"))
    calling = asyncio.create_task(app(caller.scope, caller.receive, caller.send))
    await begun.wait()
    assert app.in_flight == 1
    app.cancel()
    await calling
    assert caller.status == 14


# --- health -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "serving", "code", "status"),
    [("", True, 0, 1), ("", False, 0, 2), ("a.Service", True, 0, 1), ("another", True, 5, None)],
)
async def test_health_is_served_for_each_served_name(
    service: str, serving: bool, code: int, status: int | None
) -> None:
    health = Health(["a.Service"])
    health.set_serving(serving)
    question = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    caller = Caller(framed(question), path=CHECK)
    await GrpcApp({}, health, no_problem)(caller.scope, caller.receive, caller.send)
    assert caller.status == code
    if status:
        body = caller.sent[1]["body"]
        assert health_pb2.HealthCheckResponse.FromString(unframed(body)).status == status


async def test_a_malformed_health_request_is_refused() -> None:
    caller = Caller(framed(b"\xff"), path=CHECK)
    await GrpcApp({}, Health([]), no_problem)(caller.scope, caller.receive, caller.send)
    assert caller.status == 13


# --- the bootstrap ------------------------------------------------------------------------------------------------


def listener(**settings: Any) -> dict[str, Any]:
    made = bootstrap_of(Settings(**settings), "/private", "some:app")
    (found,) = made["static_resources"]["listeners"]
    return dict(found)


@needs_pyvoy
@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:5", {"socket_address": {"address": "127.0.0.1", "port_value": 5}}),
        ("0.0.0.0:5", {"socket_address": {"address": "0.0.0.0", "port_value": 5}}),
        ("[::1]:5", {"socket_address": {"address": "::1", "port_value": 5}}),
        ("unix:/run/a.sock", {"pipe": {"path": "/run/a.sock"}}),
    ],
)
def test_it_listens_where_the_settings_say_and_alone(listen: str, address: dict[str, Any]) -> None:
    found = listener(grpc_listen=listen)
    assert (found["address"], found["enable_reuse_port"]) == (address, False)


@needs_pyvoy
def test_the_bootstrap_has_bounds_and_no_open_door() -> None:
    made = bootstrap_of(Settings(redis_url="redis://:hush-hush@redis:6379/0"), "/private", "some:app")
    manager = listener()["filter_chains"][0]["filters"][-1]["typed_config"]
    assert made["admin"]["address"] == {"pipe": {"path": "/private/admin.sock", "mode": 0o600}}
    assert manager["http2_protocol_options"]["max_concurrent_streams"] == 1000
    assert (manager["codec_type"], manager["use_remote_address"]) == ("HTTP2", True)
    assert {"request_timeout", "stream_idle_timeout", "drain_timeout"} <= manager.keys()
    readable, own = manager["http_filters"]
    assert readable["name"] == "envoy.filters.http.rbac"
    assert json.loads(own["typed_config"]["filter_config"]["value"]) == {
        "app": "some:app",
        "interface": "asgi",
        "root_path": "",
        "lifespan": True,
        "worker_threads": 1,
    }
    assert "hush-hush" not in json.dumps(made)


@needs_pyvoy
def test_tls_names_files_and_repeats_none(tmp_path: Path) -> None:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("a secret")
    files: dict[str, Any] = {
        f"tls_{name}_file": str(tmp_path / file)
        for name, file in (("cert", "cert"), ("key", "key"), ("client_ca", "ca"))
    }
    (chain,) = listener(**files)["filter_chains"]
    tls = chain["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True
    assert tls["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert "a secret" not in json.dumps([chain, *secrets_of(Settings(**files), "/private")])
    assert dict(secrets_of(Settings(**files), "/private")).keys() == {"pair", "client-ca"}
    assert "transport_socket" not in listener()["filter_chains"][0]


def test_reflection_is_not_to_be_had() -> None:
    with pytest.raises(ConfigError, match="only the server grpcio"):
        check_host(Settings(reflection=True))


# --- the handover -------------------------------------------------------------------------------------------------


def handover(**changes: Any) -> Handover:
    text = "apis: [{id: a1, stages: [{name: prod}]}]"
    whole = {
        "settings": Settings(redis_url="redis://:hush-hush@redis:6379/0"),
        "path": "plans.yaml",
        "config": parse(text, "plans.yaml"),
        "directory": "/private",
        "executable": "/usr/bin/python",
        "working_directory": str(Path.cwd()),
        "environ": {},
    }
    return Handover(**{**whole, **changes})


def test_a_handover_arrives_once() -> None:
    given = handover()
    environ = {HANDOVER: str(_kept(given))}
    assert os.get_inheritable(int(environ[HANDOVER]))
    assert take_over(environ) == given
    with pytest.raises(OSError, match="Bad file descriptor"):
        take_over(environ)


def test_what_envoy_needed_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/envoy's/idea")
    monkeypatch.setattr("sys.path", [".", "/lib", ""])
    environ = {"LD_PRELOAD": "libpython", "PYTHONPATH": "envoy's", HANDOVER: "7", "HOME": "/root"}
    restore(handover(environ={"LD_PRELOAD": None, "PYTHONPATH": "mine"}), environ)
    assert environ == {"PYTHONPATH": "mine", "HOME": "/root"}
    assert (sys.executable, sys.path) == ("/usr/bin/python", ["/lib"])

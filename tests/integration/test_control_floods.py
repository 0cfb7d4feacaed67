"""Floods by callers without credentials: their bodies are not read, and administrators get in meanwhile."""

from __future__ import annotations

import hashlib
import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import pytest

from authz.control.app import IMPORT_BYTES
from authz.control.bodies import ADDRESS_BYTES
from authz.control.connections import CONNECTIONS, STRANGERS_PER_ADDRESS
from tests.support.control import DEADLINE_SECONDS, REGION, Control, boto, raw, running, signed
from tests.support.servers import RedisServer

IMPORT = "/restapis?mode=import"
ADDRESSES = 6  # loopback addresses that a flood comes from


@pytest.fixture(scope="module")
def plane(shared_redis: RedisServer) -> Iterator[Control]:
    with running(shared_redis.url, f"floods{os.getpid()}") as running_plane:
        yield running_plane


@contextmanager
def many_files() -> Iterator[None]:
    """As many open files as the system lets us have: both ends of each connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(plane: Control, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", plane.port), DEADLINE_SECONDS, (source, 0))


def head(verb: str, path: str, length: int, **headers: str) -> bytes:
    lines = (f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
    return "\r\n".join((f"{verb} {path} HTTP/1.1", "host: x", f"content-length: {length}", *lines, "", "")).encode()


def answer(connection: socket.socket) -> bytes:
    """The status line of the answer, and nothing where there is none."""
    return connection.recv(10_000).partition(b"\r\n")[0]


def claims(plane: Control, **changes: str) -> str:
    """A header that names a real access key, signed by a client that does not have its secret."""
    assert plane.admin is not None
    now = datetime.now(UTC)
    scope = f"{now:%Y%m%d}/{REGION}/apigateway/aws4_request"
    given = {"Credential": f"{plane.admin.credential.id}/{scope}", "SignedHeaders": "host", "Signature": "0" * 64}
    return "AWS4-HMAC-SHA256 " + ", ".join(f"{name}={value}" for name, value in {**given, **changes}.items())


def stamp() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer nobodys-token"},
        {"authorization": "Basic YTpi"},
        {"authorization": "AWS4-HMAC-SHA256 Credential=AKIANOBODY/20260101/eu-central-1/apigateway/aws4_request"},
    ],
    ids=["none", "token", "basic", "unfinished"],
)
def test_who_has_no_credentials_is_refused_before_a_body_is_sent(plane: Control, headers: dict[str, str]) -> None:
    with connect(plane) as connection:
        connection.sendall(head("POST", IMPORT, IMPORT_BYTES, **headers))
        assert answer(connection).startswith(b"HTTP/1.1 403")


def test_an_unknown_access_key_is_refused_before_a_body_is_sent(plane: Control) -> None:
    scope = f"AKIANOBODY/{datetime.now(UTC):%Y%m%d}/{REGION}/apigateway/aws4_request"
    with connect(plane) as connection:
        authorization = claims(plane, Credential=scope)
        connection.sendall(head("POST", IMPORT, IMPORT_BYTES, authorization=authorization, x_amz_date=stamp()))
        assert answer(connection).startswith(b"HTTP/1.1 403")


def test_a_wrong_signature_over_a_given_hash_is_refused_before_a_body_is_sent(plane: Control) -> None:
    with connect(plane) as connection:
        given = {"authorization": claims(plane), "x_amz_date": stamp(), "x_amz_content_sha256": "0" * 64}
        connection.sendall(head("POST", IMPORT, IMPORT_BYTES, **given))
        assert answer(connection).startswith(b"HTTP/1.1 403")


def test_an_old_signature_is_refused_before_a_body_is_sent(plane: Control) -> None:
    scope = f"{plane.admin and plane.admin.credential.id}/20200101/{REGION}/apigateway/aws4_request"
    with connect(plane) as connection:
        given = {"authorization": claims(plane, Credential=scope), "x_amz_date": "20200101T000000Z"}
        connection.sendall(head("POST", IMPORT, IMPORT_BYTES, **given))
        assert answer(connection).startswith(b"HTTP/1.1 403")


def test_who_may_only_read_is_refused_before_a_body_is_sent(plane: Control) -> None:
    sha256 = {"X-Amz-Content-SHA256": hashlib.sha256(b"").hexdigest()}
    headers = {**signed(plane.as_reader(), "POST", IMPORT, b"", sha256), "host": f"127.0.0.1:{plane.port}"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with connect(plane) as connection:
        connection.sendall(f"POST {IMPORT} HTTP/1.1\r\n{lines}content-length: {IMPORT_BYTES}\r\n\r\n".encode())
        assert answer(connection).startswith(b"HTTP/1.1 403")


def test_a_body_other_than_the_signed_one_is_refused_although_its_headers_are_right(plane: Control) -> None:
    body, other = b'{"name":"a"}', b'{"name":"b"}'
    headers = signed(plane, "POST", "/apikeys", body, {"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()})
    reply = raw(plane, "POST", "/apikeys", other, headers, sign=False)
    assert (reply.status, reply.code) == (403, "InvalidSignatureException")
    assert raw(plane, "POST", "/apikeys", body, headers, sign=False).status == 201


def test_a_signed_body_that_may_not_be_trusted_yet_is_held_within_bounds(plane: Control) -> None:
    """Who knows the id of an access key can make us read, but never more than one address's share."""
    too_many = ADDRESS_BYTES // IMPORT_BYTES + 1
    with ExitStack() as opened:
        stalled = [opened.enter_context(connect(plane)) for _ in range(too_many)]
        for connection in stalled:
            given = head("POST", IMPORT, IMPORT_BYTES, authorization=claims(plane), x_amz_date=stamp())
            connection.sendall(given + b"x" * (IMPORT_BYTES - 1))
        answered = select.select(stalled, [], [], DEADLINE_SECONDS)[0]
        assert [answer(connection)[:12] for connection in answered] == [b"HTTP/1.1 503"]
        assert boto(plane).create_api_key(name="small")["id"]


@pytest.mark.parametrize("sent", [b"", b"GET /account HTTP/1.1\r\nhost:", b"POST /apikeys HTTP/1.1\r\nhost: x\r\n"])
def test_a_crowd_of_idle_connections_keeps_no_administrator_out(plane: Control, sent: bytes) -> None:
    with many_files(), ExitStack() as opened:
        for number in range(CONNECTIONS + STRANGERS_PER_ADDRESS):
            source = f"127.0.0.{2 + number % ADDRESSES}"
            opened.enter_context(connect(plane, source)).sendall(sent)
        assert boto(plane).get_account()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_crowd_from_the_administrators_own_address_keeps_them_in(plane: Control) -> None:
    aws = boto(plane)
    aws.get_account()
    with many_files(), ExitStack() as opened:
        for _ in range(2 * STRANGERS_PER_ADDRESS):
            opened.enter_context(connect(plane))
        aws.get_account()  # on the connection from before
        boto(plane).get_account()

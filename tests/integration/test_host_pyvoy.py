"""The host pyvoy: each trap of Python within Envoy has its guard. What both hosts promise is in `test_server.py`."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.envoy.edge import SERVICE
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.hosts.asgi_grpc import MAX_MESSAGE, framed
from tests.integration.test_server import asks, check, document, health, run, status
from tests.support.builders import value_of
from tests.support.certificates import Authority
from tests.support.hosts import HOSTS, needs_pyvoy
from tests.support.servers import (
    DEADLINE_SECONDS,
    HOST,
    AuthzServer,
    Host,
    RedisServer,
    authz_serve,
    free_port,
    redis_server,
    until,
)

pytestmark = needs_pyvoy
Code = grpc.StatusCode
ECHO = "/t/Echo"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyvoy") / "plans.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@contextmanager
def serving(config: Path, redis: RedisServer, *flags: str, fault: str = "", wait: bool = True) -> Iterator[AuthzServer]:
    """A sidecar under pyvoy that can be made to fail."""
    own = ("--redis-url", redis.url, "--drain-seconds", "0", "--log-level", "debug")
    env = {"AUTHZ_TEST_FAULT": fault}
    with authz_serve(
        config, *own, *flags, env=env, wait=wait, host="pyvoy", module="tests.support.faulty_pyvoy"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def server(config: Path, redis: RedisServer) -> Iterator[AuthzServer]:
    """The one that most tests share: whatever is done to it, it goes on."""
    with serving(config, redis) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: AuthzServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def call(channel: grpc.Channel, path: str, message: bytes = b"hello", **options: Any) -> bytes:
    it: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return it(message, **{"timeout": DEADLINE_SECONDS, **options})


def refusal(channel: grpc.Channel, path: str, message: bytes = b"hello", **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, path, message, **options)
    error = raised.value
    assert isinstance(error, grpc.Call)
    return error.code(), str(error.details())


USUAL = {"content-type": "application/grpc", "te": "trailers"}


def curl(
    address: str, path: str, headers: Mapping[str, str] = USUAL, *options: str, body: bytes = framed(b"hello")
) -> str:
    """Headers, body and trailers of an answer to what no gRPC library sends."""
    lines = [word for name, value in {"expect": "", **headers}.items() for word in ("-H", f"{name}: {value}")]
    command = ("curl", "-sS", "--http2-prior-knowledge", "--max-time", "20", "-D", "-", "--data-binary", "@-")
    url = f"http://{address}{path}"
    done = subprocess.run((*command, *lines, *options, url), input=body, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_000_000, MAX_MESSAGE], ids=str)
def test_a_message_arrives_whole_however_it_was_split(size: int, server: AuthzServer) -> None:
    """Frames have at most 16 KiB, and a window is full at 64."""
    message = b"m" * size
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        if size:
            assert call(channel, ECHO, message) == message
        else:
            assert refusal(channel, ECHO, message) == (Code.INTERNAL, "internal error")  # nothing is said for consent


def test_a_message_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    code, words = refusal(channel, ECHO, b"m" * (MAX_MESSAGE + 1))
    assert (code, words) == (Code.RESOURCE_EXHAUSTED, f"a message is larger than {MAX_MESSAGE} bytes")


def test_of_a_message_that_is_much_too_large_not_all_is_awaited(channel: grpc.Channel, server: AuthzServer) -> None:
    """More than the process takes in: the refusal comes while the client still sends."""
    assert refusal(channel, ECHO, b"m" * (64 << 20))[0] is Code.RESOURCE_EXHAUSTED
    assert call(channel, ECHO) == b"hello"


def test_many_messages_that_are_too_large_do_not_fill_the_memory(config: Path, redis: RedisServer) -> None:
    """Eight of 32 MiB at once: of each is kept, at most, what a message may have."""
    with serving(config, redis) as server, grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(8) as pool:
        before = most_memory(server.pid)
        sent = [pool.submit(refusal, channel, ECHO, b"m" * (32 << 20)) for _ in range(8)]
        assert {call.result()[0] for call in sent} == {Code.RESOURCE_EXHAUSTED}
        assert most_memory(server.pid) - before < 128 << 20


def most_memory(pid: int) -> int:
    """The bytes that a process has had in memory, at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", 13, id="nothing"),
        pytest.param(b"\0\0\0", 13, id="half a prefix"),
        pytest.param(b"\0\0\0\0\5hell", 13, id="too short"),
        pytest.param(b"\0\0\0\0\5hello!", 13, id="too long"),
        pytest.param(framed(b"hello") * 2, 13, id="two messages"),
        pytest.param(b"\1" + framed(b"hello")[1:], 12, id="compressed"),
        pytest.param(b"\7" + framed(b"hello")[1:], 13, id="unknown flag"),
    ],
)
def test_a_body_that_is_not_one_plain_message_is_refused(body: bytes, code: int, server: AuthzServer) -> None:
    told = curl(server.grpc, ECHO, body=body)
    assert f"\ngrpc-status: {code}\r" in told
    assert "grpc-status: 0" not in told


def test_a_compressed_message_is_refused(channel: grpc.Channel) -> None:
    code, _ = refusal(channel, ECHO, b"m" * 10_000, compression=grpc.Compression.Gzip)
    assert code is Code.UNIMPLEMENTED


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "says"),
    [
        pytest.param(ECHO, USUAL, "grpc-status: 0", id="as it should be"),
        pytest.param(ECHO, USUAL | {"content-type": "application/grpc+proto"}, "grpc-status: 0", id="with a subtype"),
        pytest.param("/t/Unknown", USUAL, "grpc-status: 12", id="unknown method"),
        pytest.param("/", USUAL, "grpc-status: 12", id="no method"),
        pytest.param(ECHO, {"content-type": "application/grpc"}, "grpc-status: 13", id="no te"),
        pytest.param(ECHO, USUAL | {"content-type": "text/plain"}, "HTTP/2 415", id="another protocol"),
        pytest.param(ECHO, USUAL | {"grpc-timeout": "soon"}, "grpc-status: 13", id="no time"),
        pytest.param(ECHO, USUAL | {"grpc-timeout": "123456789S"}, "grpc-status: 13", id="too long a time"),
    ],
)
def test_what_no_grpc_client_sends_has_an_answer(
    path: str, headers: dict[str, str], says: str, server: AuthzServer
) -> None:
    assert says in curl(server.grpc, path, headers)


def test_another_method_than_post_is_refused(server: AuthzServer) -> None:
    assert "grpc-status: 12" in curl(server.grpc, ECHO, USUAL, "-X", "GET")


@pytest.mark.parametrize("path", ["/a%ff", "/%", "/%00"])
def test_a_path_that_is_no_text_harms_no_other_call(path: str, server: AuthzServer, channel: grpc.Channel) -> None:
    """Pyvoy never shows it to us, nor answers; Envoy ends it when it has been idle for long."""
    curl(server.grpc, path, USUAL, "--max-time", "1")
    assert call(channel, ECHO) == b"hello"


def test_http_1_is_not_spoken(server: AuthzServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"http://{server.grpc}{ECHO}", content=framed(b"hello"), timeout=DEADLINE_SECONDS, trust_env=False)


# --- what goes wrong within a call --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        ("/t/Fail", b"RuntimeError", Code.INTERNAL),
        ("/t/Fail", b"SystemExit", Code.INTERNAL),
        ("/t/Fail", b"KeyboardInterrupt", Code.INTERNAL),
        ("/t/Cancel", b"", Code.UNAVAILABLE),
        ("/t/Mistype", b"", Code.INTERNAL),
        ("/t/SayNothing", b"", Code.INTERNAL),
    ],
)
def test_no_fault_is_ever_reported_as_success(
    path: str, message: bytes, code: grpc.StatusCode, channel: grpc.Channel
) -> None:
    """Status 0 without a message would come of the first five, and the last is consent to Envoy; and we live on."""
    found, words = refusal(channel, path, message)
    assert found is code
    assert "for the log" not in words
    assert call(channel, ECHO) == b"hello"


def test_a_fault_within_a_call_is_logged(channel: grpc.Channel, server: AuthzServer) -> None:
    refusal(channel, "/t/Fail", b"RuntimeError")
    until(lambda: "for the log alone" in server.log_text, "it is not logged", server)


# --- deadlines and callers that leave -----------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "seconds"), [("500m", 0.5), ("2S", 2.0), ("1H", 3600.0), ("30000000u", 30.0)])
def test_the_deadline_reaches_the_answer(given: str, seconds: float, server: AuthzServer) -> None:
    assert f"{seconds}" in curl(server.grpc, "/t/Left", USUAL | {"grpc-timeout": given})


def test_without_a_deadline_there_is_none(server: AuthzServer) -> None:
    assert "null" in curl(server.grpc, "/t/Left")


def test_a_call_that_hangs_is_ended_after_its_deadline(server: AuthzServer) -> None:
    """Its caller has left by then, as a rule; curl has not."""
    told = curl(server.grpc, "/t/Hang", USUAL | {"grpc-timeout": "100m"})
    assert "grpc-status: 4" in told
    assert "deadline exceeded" in told


def test_a_caller_that_left_while_it_stood_in_line_is_not_charged(server: AuthzServer, tmp_path: Path) -> None:
    flag = tmp_path / "blocked"
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(1) as pool:
        before = int(call(channel, "/t/CountMet"))
        blocking = pool.submit(call, channel, "/t/Block", str(flag).encode())
        until(flag.exists, "the loop is not held up", server)
        assert refusal(channel, "/t/Meet", timeout=0.2)[0] is Code.DEADLINE_EXCEEDED
        flag.unlink()
        assert blocking.result() == b"over"
        assert int(call(channel, "/t/CountMet")) == before
        assert call(channel, "/t/Meet") == b"met"
        assert int(call(channel, "/t/CountMet")) == before + 1


def test_a_call_that_stood_in_line_has_less_time_left(server: AuthzServer, tmp_path: Path) -> None:
    flag = tmp_path / "blocked"
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(2) as pool:
        blocking = pool.submit(call, channel, "/t/Block", str(flag).encode())
        until(flag.exists, "the loop is not held up", server)
        waiting = pool.submit(call, channel, "/t/Left", timeout=20)
        refusal(channel, ECHO, timeout=0.5)  # as long, and `waiting` before it
        flag.unlink()
        assert blocking.result() == b"over"
        assert float(waiting.result()) < 19.9


# --- health -------------------------------------------------------------------------------------------------------


def test_a_watcher_gets_the_health_now_and_at_each_change(config: Path, redis: RedisServer) -> None:
    response = health_pb2.HealthCheckResponse
    with serving(config, redis, "--drain-seconds", "5") as server, grpc.insecure_channel(server.grpc) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = {
            name: stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_SECONDS)
            for name in ("", SERVICE, "another.Service")
        }
        first = {name: next(watch).status for name, watch in watches.items()}
        assert first == {"": response.SERVING, SERVICE: response.SERVING, "another.Service": response.SERVICE_UNKNOWN}
        server.send(signal.SIGTERM)
        assert [next(watches[name]).status for name in ("", SERVICE)] == [response.NOT_SERVING] * 2
        assert server.wait() == 0


def test_a_watcher_that_leaves_is_forgotten(server: AuthzServer, channel: grpc.Channel) -> None:
    """And nothing is logged of it."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for _ in range(3):
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert health(server.grpc) == health_pb2.HealthCheckResponse.SERVING
    assert "InvalidStateError" not in server.log_text


# --- the process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("at the start", 1, "no way to start"),
        ("at the start, in words", 2, "the cellar is full of water\n"),
        ("later", 1, "no way to go on"),
        ("the loop", 1, "the event loop has died"),
    ],
)
def test_a_sidecar_that_fails_takes_envoy_with_it(
    fault: str, code: int, says: str, config: Path, redis: RedisServer
) -> None:
    """Pyvoy would serve on, or keep the port open and never answer."""
    with serving(config, redis, fault=fault, wait=False) as server:
        assert server.wait() == code
        assert says in server.log_text


def test_a_second_signal_ends_it_at_once(config: Path, redis: RedisServer) -> None:
    with serving(config, redis, fault="at the end") as server:
        server.send(signal.SIGTERM)
        until(lambda: '"stopped"' in server.log_text, "it does not stop", server)
        server.send(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM


def sockets(pid: int) -> set[str]:
    """As the links of a process's descriptors name them."""
    return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}


def listening(pid: int) -> set[int]:
    """The TCP ports that a process listens on."""
    mine = sockets(pid)
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {
        int(at.partition(":")[2], 16)
        for _, at, _, state, *rest in lines
        if state == "0A" and f"socket:[{rest[5]}]" in mine
    }


def test_nothing_but_the_two_addresses_is_open(server: AuthzServer) -> None:
    """Envoy's administration interface could end it."""
    addresses = (server.grpc, server.http)
    assert listening(server.pid) == {int(address.rpartition(":")[2]) for address in addresses}


def test_the_administration_socket_is_private_and_goes_with_the_process(
    config: Path, redis: RedisServer, tmp_path: Path
) -> None:
    with authz_serve(
        config, "--redis-url", redis.url, "--drain-seconds", "0", host="pyvoy", env={"TMPDIR": "/tmp"}
    ) as it:
        command = Path(f"/proc/{it.pid}/cmdline").read_text().split("\0")
        directory = Path(command[command.index("--config-path") + 1]).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "admin.sock").stat().st_mode) & 0o077 == 0
        assert it.stop() == 0
        assert not directory.exists()


def test_what_a_killed_process_leaves_goes_with_the_next(config: Path, redis: RedisServer) -> None:
    """And what a running one has stays."""
    with TemporaryDirectory(prefix="authz-test-") as scratch, ExitStack() as running:
        flags, env = ("--redis-url", redis.url, "--drain-seconds", "0"), {"TMPDIR": scratch}
        first, second = (running.enter_context(authz_serve(config, *flags, host="pyvoy", env=env)) for _ in range(2))
        assert len(list(Path(scratch).iterdir())) == 2
        first.kill()
        first.start()
        assert len(list(Path(scratch).iterdir())) == 2
        assert (first.stop(), second.stop()) == (0, 0)
        assert list(Path(scratch).iterdir()) == []


def test_no_secret_is_on_the_command_line_or_in_a_file(config: Path, redis: RedisServer) -> None:
    at = redis.url.removeprefix("redis://")
    flags = ("--redis-url", f"redis://user:hush-hush@{at}", "--drain-seconds", "0")
    with authz_serve(config, *flags, host="pyvoy") as server:
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        directory = Path(command[command.index("--config-path") + 1]).parent
        assert not any("hush-hush" in word for word in command)
        files = [path for path in directory.iterdir() if path.is_file()]
        assert files
        assert not any("hush-hush" in path.read_text() for path in files)


def test_what_it_starts_knows_nothing_of_envoy(channel: grpc.Channel, server: AuthzServer) -> None:
    """A child that loads the file is our Python, with the environment that we were started with."""
    found = json.loads(call(channel, "/t/Surroundings"))
    assert found["executable"] == sys.executable
    changed = ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "_AUTHZ_HANDOVER")
    assert {name: found["environ"].get(name) for name in changed} == {name: os.environ.get(name) for name in changed}
    assert not {"", "."} & set(found["path"])
    assert found["cwd"] == str(Path.cwd())


def test_a_module_where_the_command_is_typed_is_not_ours(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    """Pyvoy looks there first."""
    (tmp_path / "ssl.py").write_text("raise RuntimeError")
    listen = ("--grpc-listen", f"{HOST}:{free_port()}", "--http-listen", f"unix:{tmp_path}/http.sock")
    command = (sys.executable, "-P", "-m", "authz", "serve", "--server", "pyvoy", "--config", str(config), *listen)
    output = tmp_path / "output"
    with output.open("wb") as written:
        served = subprocess.Popen(
            (*command, "--redis-url", redis.url, "--drain-seconds", "0"), cwd=tmp_path, stderr=written
        )
    try:
        until(lambda: '"serving"' in output.read_text() or served.poll() is not None, "it does not start")
        assert served.poll() is None, output.read_text()
    finally:
        served.terminate()
        assert served.wait(DEADLINE_SECONDS) == 0


def test_a_port_in_use_is_refused_though_envoy_would_share_it(server: AuthzServer, config: Path) -> None:
    for host in ("grpcio", "pyvoy"):
        ended = run("serve", "--config", str(config), "--server", host, "--grpc-listen", server.grpc)
        assert (ended.returncode, ended.stderr) == (2, f"{server.grpc} cannot be listened on: Address already in use\n")


def test_it_listens_on_a_name_and_on_ipv6(config: Path, redis: RedisServer) -> None:
    port = free_port()
    with serving(config, redis, "--grpc-listen", f"localhost:{port}") as server:
        assert health(f"localhost:{port}") == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() == 0


# --- TLS ----------------------------------------------------------------------------------------------------------


class Files:
    """The files of an authority, and of what it has signed."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._authority = directory, Authority(name)
        self.ca = self._written(f"{name}.pem", self._authority.pem)

    def pair(self, name: str) -> tuple[Path, Path]:
        """A certificate for localhost, and its key."""
        made = self._authority.pair()
        return self._written(f"{name}.crt", made.certificate), self._written(f"{name}.key", made.key)

    def _written(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path


@pytest.mark.parametrize("host", HOSTS)
def test_only_clients_of_the_right_ca_may_ask(host: Host, config: Path, redis: RedisServer, tmp_path: Path) -> None:
    """The right certificate, none, another CA's, and no TLS at all."""
    ours, others = Files(tmp_path, "ours"), Files(tmp_path, "others")
    certificate, key = ours.pair("server")
    tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-client-ca-file", str(ours.ca))
    account = ("--account-id", tmp_path.name.replace("[", "-").replace("]", "-"))
    own = ("--redis-url", redis.url, "--drain-seconds", "0", *account)
    with authz_serve(config, *own, *tls, host=host) as server:
        where = server.grpc.replace(HOST, "localhost")

        def asked(pair: tuple[Path, Path] | None) -> int:
            shown = (pair[1].read_bytes(), pair[0].read_bytes()) if pair else (None, None)
            credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes(), *shown)
            with grpc.secure_channel(where, credentials) as channel:
                stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
                return status(stub.Check(asks(value_of("k1")), timeout=DEADLINE_SECONDS))

        assert asked(ours.pair("client")) == 200
        for pair in (None, others.pair("stranger")):
            with pytest.raises(grpc.RpcError) as refused:
                asked(pair)
            assert refused.value.code() is Code.UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            check(server.grpc, value_of("k1"))


def test_it_offers_http_2_alone(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    """And nothing on UDP."""
    ours = Files(tmp_path, "ours")
    certificate, key = ours.pair("server")
    tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with serving(config, redis, *tls) as server:
        context = ssl.create_default_context(cafile=str(ours.ca))
        context.set_alpn_protocols(["http/1.1", "h2"])
        address = HOST, int(server.grpc.rpartition(":")[2])
        with (
            socket.create_connection(address) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls_,
        ):
            assert tls_.selected_alpn_protocol() == "h2"
        mine = sockets(server.pid)
        rows = [line.split() for line in Path(f"/proc/{server.pid}/net/udp").read_text().splitlines()[1:]]
        assert not [row for row in rows if f"socket:[{row[9]}]" in mine]


@pytest.mark.parametrize("broken", ["certificate", "key", "ca"])
def test_unusable_certificates_are_reported_in_one_line(broken: str, config: Path, tmp_path: Path) -> None:
    ours = Files(tmp_path, "ours")
    certificate, key = ours.pair("server")
    {"certificate": certificate, "key": key, "ca": ours.ca}[broken].write_text("no PEM")
    tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-client-ca-file", str(ours.ca))
    ended = run("serve", "--config", str(config), "--server", "pyvoy", "--grpc-listen", f"{HOST}:{free_port()}", *tls)
    assert ended.returncode == 2
    assert "cannot be used as" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

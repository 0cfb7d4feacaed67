"""Redis, an echo upstream, authz and an Envoy that asks it, wired by the project's own Envoy configuration; and a
control plane, for those who ask for one.

Whatever runs here is watched for secrets: a stack keeps what its clients saw, and when it ends no log, metric, health
detail, access log or answer may hold the value of a key.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import boto3
import http_sf
import httpx
import msgspec
import yaml
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from authz.cli.up import envoy_binary
from authz.config.file import load
from authz.core.resources import Resources
from authz.envoy.config import EnvoyOptions, render
from tests.support.builders import value_of
from tests.support.servers import (
    HOST,
    AuthzServer,
    EnvoyServer,
    Host,
    RedisServer,
    Server,
    authz_serve,
    free_port,
    is_ok,
)

TIMEOUT_SECONDS = 30.0
ENVOY_FLAGS = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
FLUSH = ("--file-flush-interval-msec", "50")  # the access log; ten seconds unless set
# Patient, for a slow machine; talkative, for the search for secrets; and quick to end, for most tests drain nothing.
FLAGS = ("--redis-timeout-ms", "2000", "--log-level", "debug", "--drain-seconds", "0")
REGION = "us-east-1"
WRONG = "never-issued-to-anybody-0"  # a key for another service: no business of our logs either

Headers = Sequence[tuple[str | bytes, str | bytes]]
Patch = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got, and what the upstream says it was sent."""

    status: int
    headers: httpx.Headers
    body: str

    @property
    def upstream(self) -> dict[str, str]:
        """The headers that reached the upstream."""
        headers: dict[str, str] = json.loads(self.body)["headers"]
        return headers

    @property
    def path(self) -> str:
        """The path that reached the upstream."""
        return str(json.loads(self.body)["path"])

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, self.body


@dataclass
class ControlServer(Server):
    """A control plane, and an access key to it."""

    url: str = ""
    access_key: str = ""
    secret: str = ""

    def client(self) -> Any:
        """boto3's own client, configured with nothing but the address."""
        return boto3.client(
            "apigateway",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret,
            config=Config(retries={"total_max_attempts": 1}),
        )

    def get(self, path: str) -> httpx.Response:
        return self.call("GET", path)

    def call(self, verb: str, path: str, body: bytes = b"", secret: str = "") -> httpx.Response:
        """A signed call that boto3 has no name for. Another `secret` than the control plane's has it refused."""
        request = AWSRequest(verb, self.url + path, data=body, headers={"content-type": "application/json"})
        SigV4Auth(Credentials(self.access_key, secret or self.secret), "apigateway", REGION).add_auth(request)
        sent = dict(request.headers)
        return httpx.request(
            verb, self.url + path, content=body, headers=sent, timeout=TIMEOUT_SECONDS, trust_env=False
        )

    def wait_for(self, answer: Any) -> None:
        """Until every sidecar has what this answer of the client's wrote."""
        version = answer["ResponseMetadata"]["HTTPHeaders"]["x-authz-version"]
        waited = self.get(f"/catalog/version?wait={version}&timeout=30")
        assert waited.status_code == 200, waited.text


@dataclass
class Stack:
    """A running Envoy and the sidecars it asks."""

    config: Path
    account: str
    sidecars: list[AuthzServer]
    envoy: EnvoyServer
    secrets: frozenset[str]
    seen: list[str] = field(default_factory=list)
    control: ControlServer | None = None

    @property
    def sidecar(self) -> AuthzServer:
        return self.sidecars[0]

    @property
    def address(self) -> str:
        """Envoy's listener, as host:port."""
        return self.envoy.url.removeprefix("http://")

    def request(self, method: str, path: str, key: str = "", *, host: str = "a1.test", headers: Headers = ()) -> Answer:
        """One request on a connection of its own; `key` is the id of the key that goes into x-api-key."""
        known = [("x-api-key", value_of(key))] if key else []
        return self.send(method, path, [("host", host), *known, *headers])

    def send(self, method: str, path: str, sent: Headers) -> Answer:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            got = client.request(method, self.envoy.url + path, headers=[*map(_bytes, sent)])
        return self._keep(Answer(got.status_code, got.headers, got.text))

    def get(self, path: str, key: str = "", *, host: str = "a1.test", headers: Headers = ()) -> Answer:
        return self.request("GET", path, key, host=host, headers=headers)

    def raw(self, target: str, *lines: str, method: str = "GET") -> Answer:
        """A request line and header lines just as they stand here; a client library would put them right."""
        message = "\r\n".join((f"{method} {target} HTTP/1.1", *lines, "connection: close", "", ""))
        with socket.create_connection((HOST, int(self.address.rpartition(":")[2])), TIMEOUT_SECONDS) as connection:
            connection.sendall(message.encode("latin-1"))
            answer = HTTPResponse(connection, method=method)
            answer.begin()
            body = answer.read().decode()
        return self._keep(Answer(answer.status, httpx.Headers(answer.getheaders()), body))

    def healthz(self) -> dict[str, Any]:
        details: dict[str, Any] = httpx.get(f"{self.sidecar.http}/healthz", trust_env=False).json()
        return details

    def access_log(self) -> list[dict[str, Any]]:
        """Envoy's access log so far."""
        return [json.loads(line) for line in self.envoy.log_text.splitlines() if line.startswith("{")]

    def leaks(self) -> list[str]:
        """Lines that hold a key's value, of all that was logged, exposed, or answered to a client."""
        said = [*self.seen, self.envoy.log_text, *(text for sidecar in self.sidecars for text in _told(sidecar))]
        said += [self.control.log_text] if self.control else []
        return [line for text in said for line in text.splitlines() if any(secret in line for secret in self.secrets)]

    def _keep(self, answer: Answer) -> Answer:
        self.seen.append(f"{answer.headers.raw!r}\n{answer.body}")
        return answer


def write(path: Path, resources: Resources) -> None:
    """The resources as a configuration file."""
    path.write_text(yaml.safe_dump(msgspec.to_builtins(resources), sort_keys=False))


@contextmanager
def stack(
    resources: Resources,
    redis_url: str,
    upstream: str,
    *flags: str,
    sidecars: int = 1,
    workers: int = 1,
    cors: tuple[str, ...] = (),
    stored: bool = False,
    trusted_hops: int = 0,
    patch: Patch = lambda _: None,
    host: Host = "grpcio",
) -> Iterator[Stack]:
    """`flags` are authz's, `workers` each sidecar's; `patch` changes the rendered configuration of Envoy."""
    with TemporaryDirectory(prefix="authz-e2e-") as scratch, ExitStack() as running:
        config, account = Path(scratch, "plans.yaml"), uuid4().hex
        write(config, resources)
        options = (*FLAGS, "--redis-url", redis_url, "--account-id", account, *flags)
        sidecar = partial(authz_serve, config, *options, workers=workers, host=host)
        started = [running.enter_context(sidecar()) for _ in range(sidecars)]
        addresses = tuple(endpoint for sidecar in started for endpoint in sidecar.endpoints)
        listen, admin = _own()
        wiring = EnvoyOptions(
            listen=listen,
            admin=admin,
            upstream=upstream,
            authz=addresses,
            timeout_ms=5000,
            cors_origins=cors,
            store=stored,
            trusted_hops=trusted_hops,
        )
        envoy = running.enter_context(_envoy(Path(scratch), load(config).resources, wiring, patch))
        it = Stack(config, account, started, envoy, _secrets(resources))
        yield it
        assert it.leaks() == []


@contextmanager
def managed(
    resources: Resources,
    redis: RedisServer,
    upstream: str,
    sidecars: int,
    host: Host = "grpcio",
    flags: Callable[[Stack], tuple[str, ...]] = lambda _: (),
) -> Iterator[Stack]:
    """A stack whose sidecars take resources from the store too, and a control plane with these flags that writes there.

    When it ends, neither Redis nor a log may hold a secret: of a key, of a caller of the API, or of the operator.
    """
    with TemporaryDirectory(prefix="authz-e2e-") as scratch:
        pepper, sealing_key = (_private(Path(scratch, name)) for name in ("pepper", "sealing-key"))
        secrets = ("--pepper-file", str(pepper), "--sealing-key-file", str(sealing_key))
        stored = ("--store", "true", *secrets)
        with stack(resources, redis.url, upstream, *stored, sidecars=sidecars, stored=True, host=host) as it:
            common = ("--redis-url", redis.url, "--account-id", it.account, *secrets)
            with control_plane(Path(scratch), it.config, *common, flags=flags(it)) as it.control:
                it.secrets |= {pepper.read_text(), sealing_key.read_text(), it.control.secret}
                yield it
                assert kept(redis, it.secrets) == []


@contextmanager
def control_plane(scratch: Path, config: Path, *options: str, flags: tuple[str, ...] = ()) -> Iterator[ControlServer]:
    """The `options` are those of every command that knows the store; `flags` are the control plane's alone."""
    listen = f"{HOST}:{free_port()}"
    command = ("-m", "authz", "control", "--config", str(config), "--listen", listen, *options, *flags)
    server = ControlServer(
        command=(sys.executable, *command),
        log=scratch / "control.log",
        is_ready=lambda: listens(listen),
        url=f"http://{listen}",
    )
    try:
        server.start()
        server.access_key, server.secret = credentials(*options)
        yield server
    finally:
        server.stop()


def credentials(*options: str) -> tuple[str, str]:
    """A new access key and its secret, as `authz credentials create` prints them: its last two words."""
    command = (sys.executable, "-m", "authz", "credentials", "create", "tests", *options)
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    words = dict(line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines() if "=" in line)
    return words["AWS_ACCESS_KEY_ID"], words["AWS_SECRET_ACCESS_KEY"]


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _private(file: Path) -> Path:
    file.write_text(token_hex(32))
    return file


def kept(redis: RedisServer, secrets: frozenset[str]) -> list[str]:
    """Names of the files of Redis that hold a secret; all that was ever written to it is in one of them."""
    found = [file for file in redis.data.rglob("*") if file.is_file()]
    assert found, "Redis keeps nothing"
    return [file.name for file in found if any(secret.encode() in file.read_bytes() for secret in secrets)]


def _own() -> tuple[str, str]:
    """Addresses for a listener and an administration interface."""
    return f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"


@contextmanager
def _envoy(scratch: Path, of: Resources, options: EnvoyOptions, patch: Patch) -> Iterator[EnvoyServer]:
    listen, admin = options.listen, options.admin
    parsed = yaml.safe_load(render(of, options))
    patch(parsed)
    file = scratch / "envoy.yaml"
    file.write_text(yaml.safe_dump(parsed, sort_keys=False))
    server = EnvoyServer(
        command=(envoy_binary(), "--config-path", str(file), *ENVOY_FLAGS, *FLUSH),
        log=scratch / "envoy.log",
        is_ready=lambda: is_ok(f"http://{admin}/ready"),
        url=f"http://{listen}",
        admin=f"http://{admin}",
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def items(field: str) -> list[tuple[str, dict[str, Any]]]:
    """A list of strings with parameters, read as a structured field (RFC 9651)."""
    parsed: Any = http_sf.parse(field.encode(), tltype="list")
    return [(name, parameters) for name, parameters in parsed]


def http_manager(envoy_config: Any) -> Any:
    """The HTTP connection manager of a parsed configuration, for patches."""
    return envoy_config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def ext_authz(envoy_config: Any) -> Any:
    filters = {one["name"]: one["typed_config"] for one in http_manager(envoy_config)["http_filters"]}
    return filters["envoy.filters.http.ext_authz"]


def _bytes(header: tuple[str | bytes, str | bytes]) -> tuple[bytes, bytes]:
    name, value = header
    return name.encode() if isinstance(name, str) else name, value.encode() if isinstance(value, str) else value


def _secrets(resources: Resources) -> frozenset[str]:
    return frozenset({WRONG, *(key.value or value_of(key.id) for key in resources.api_keys)})


def _told(sidecar: AuthzServer) -> Iterator[str]:
    yield sidecar.log_text
    for path in ("/metrics", "/healthz", "/readyz"):
        try:
            yield httpx.get(sidecar.http + path, timeout=TIMEOUT_SECONDS, trust_env=False).text
        except httpx.TransportError:
            continue  # the test has ended it

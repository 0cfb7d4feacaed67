"""Queries the addresses that the doctor was given, and returns their answers as facts."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote

import grpc
import grpc.aio
import msgspec
from grpc_health.v1 import health_pb2

from authz.core.resources import DEFAULT_ACCOUNT, Api
from authz.doctor import envoydump
from authz.doctor.facts import ControlFacts, Envoy, Facts, GrpcHealth, ProcessFacts, SidecarFacts
from authz.doctor.fetchredis import UnreachableError, look_at_redis
from authz.redisio.url import mask_url

T = TypeVar("T")
P = TypeVar("P", bound=ProcessFacts)

HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVICE: Final = "envoy.service.auth.v3.Authorization"
SECONDS: Final = 5.0  # that an address has to begin an answer, and for each further piece
WHOLE_SECONDS: Final = 30.0  # and for all of it
LARGEST: Final = 256 * 1024 * 1024  # bytes; a dump of an Envoy with many routes
PIECE: Final = 1 << 20
STATS: Final = r"ext_authz|cluster\..*\.upstream_rq_(pending|active)_overflow"
SAMPLE: Final = re.compile(r"(authz_\w+)(\{.*\})? (\S+)")
VERSION: Final = re.compile(r'authz_build_info\{.*version="([^"]*)"')

Run = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class GrpcTls:
    """PEM files for gRPC addresses that speak TLS: whom to trust, and what to show. `name` is in their certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None


@dataclass(frozen=True)
class Targets:
    """What to look at. An address of HTTP is a URL or `unix:/path`; one of gRPC is `host:port` or `unix:/path`.

    `clusters` names those of Envoy that are ours; without a name all are that an ext_authz filter asks. Without an
    `account` it is what the sidecars say.
    """

    envoys: Sequence[str] = ()
    sidecars: Sequence[str] = ()
    controls: Sequence[str] = ()
    grpc: Sequence[str] = ()
    redis: str | None = None
    account: str | None = None
    clusters: Sequence[str] = ()
    apis: Sequence[Api] = ()
    published: Sequence[str] = ()
    tls: GrpcTls | None = None
    clock: Callable[[], float] = field(default=time.time)


async def look(targets: Targets) -> Facts:
    """Query all targets; `silent` lists those that do not answer. Raises ValueError for a Redis URL that breaks a rule,
    and OSError for a file that cannot be read."""
    silent: dict[str, str] = {}

    async def each(label: str, addresses: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> list[T]:
        async def one(address: str) -> T | None:
            try:
                return await ask(address)
            except UnreachableError as reason:
                silent[f"{label} {address}"] = str(reason)
                return None

        return [found for found in await asyncio.gather(*map(one, addresses)) if found is not None]

    clock = targets.clock
    envoys, sidecars, controls, asked = await asyncio.gather(
        each("Envoy", targets.envoys, lambda at: asyncio.to_thread(_envoy, at, targets.clusters)),
        each("sidecar", targets.sidecars, lambda at: asyncio.to_thread(_process, SidecarFacts, at, clock)),
        each("control plane", targets.controls, lambda at: asyncio.to_thread(_process, ControlFacts, at, clock)),
        each("gRPC", targets.grpc, lambda at: _ask_health(at, targets.tls)),
    )
    facts = Facts(envoys, sidecars, controls, asked, None, targets.apis, targets.published, silent, clock())
    if targets.redis is None:
        return facts
    account = targets.account or next(iter(facts.told("accountId")), DEFAULT_ACCOUNT)
    store = any(facts.told("store"))
    try:
        return replace(facts, redis=await look_at_redis(targets.redis, account, clock, store=store))
    except UnreachableError as reason:
        return replace(facts, silent={**silent, f"Redis {mask_url(targets.redis)}": str(reason)})


# --- HTTP ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    status: int
    date: str | None
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def _get(address: str, path: str) -> _Answer:
    """Any status is an answer. Raises UnreachableError."""
    try:
        return _over_unix(address, path) if address.startswith("unix:") else _over_tcp(address, path)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        words = getattr(reason, "strerror", None) or reason or type(error).__name__
        raise UnreachableError(f"no answer to GET {path.partition('?')[0]}: {words}") from None


def _over_tcp(address: str, path: str) -> _Answer:
    """Past any proxy of the environment's: these are addresses of ours."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = address if "://" in address else f"http://{address}"
    try:
        with opener.open(url.rstrip("/") + path, timeout=SECONDS) as answer:
            return _Answer(answer.status, answer.headers["date"], _body(answer))
    except HTTPError as answer:
        return _Answer(answer.code, answer.headers["date"], _body(answer))


def _over_unix(address: str, path: str) -> _Answer:
    connection = _UnixConnection(address.removeprefix("unix:"))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return _Answer(answer.status, answer.getheader("date"), _body(answer))
    finally:
        connection.close()


def _body(answer: Any) -> bytes:
    """All of an HTTPResponse or an HTTPError. Raises OSError where it does not end in time, or is too much."""
    until, pieces, length = time.monotonic() + WHOLE_SECONDS, list[bytes](), 0
    while piece := answer.read1(PIECE):
        pieces.append(piece)
        length += len(piece)
        if length > LARGEST:
            raise OSError(f"more than {LARGEST >> 20} MiB")
        if time.monotonic() > until:
            raise TimeoutError(f"the answer does not end within {WHOLE_SECONDS:g} s")
    return b"".join(pieces)


# --- Envoy, sidecars, control planes --------------------------------------------------------------------------------


def _envoy(address: str, clusters: Sequence[str]) -> Envoy:
    paths = (
        "/config_dump",
        "/server_info",
        "/clusters?format=json",
        f"/stats?format=json&filter={quote(STATS)}",
        "/runtime",
    )
    answers = [_get(address, path) for path in paths]
    try:
        dump, server, states, stats, runtime = (answer.json() for answer in answers)
        return envoydump.read(address, dump, server, states, stats, runtime, clusters)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UnreachableError("this is no administration interface of an Envoy") from None


def _process(kind: type[P], address: str, clock: Callable[[], float]) -> P:
    """A sidecar or control plane that is not ready answers too, with 503."""
    ready = _get(address, "/readyz")
    now = clock()
    try:
        details = ready.json()
        if not isinstance(details, dict) or "ready" not in details:
            raise ValueError
        # A date is in whole seconds, cut off: half a second later on average.
        skew = parsedate_to_datetime(ready.date).timestamp() + 0.5 - now if ready.date else None
    except ValueError:
        raise UnreachableError(f"/readyz answers {ready.status}, and not as a {kind.kind} does") from None
    text = _get(address, "/metrics").body.decode(errors="replace")
    version = details.get("version") or next(iter(VERSION.findall(text)), None)
    return kind(address, details, _samples(text), version, skew)


def _samples(text: str) -> Mapping[str, Sequence[float]]:
    """Our metrics in Prometheus's text format: a name's values under all its labels."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, _, value in (match.groups() for match in map(SAMPLE.fullmatch, text.splitlines()) if match):
        with suppress(ValueError):
            found[name].append(float(value))
    return found


async def _ask_health(address: str, tls: GrpcTls | None) -> GrpcHealth:
    """The standard health check that Envoy makes too."""
    async with _channel(address, tls) as channel:
        check: Run = channel.unary_unary(
            HEALTH,
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = await check(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            return GrpcHealth(address, f"{error.code().name}: {error.details()}")
        return GrpcHealth(address, health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(address: str, tls: GrpcTls | None) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    if tls.name:
        options.append(("grpc.ssl_target_name_override", tls.name))
    ca, key, cert = (path.read_bytes() if path else None for path in (tls.ca, tls.key, tls.cert))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)

"""Queries the addresses that the doctor was given, and returns their answers as facts.

Changes nothing, except that listing the workers of a store removes expired entries.
"""

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
from urllib.parse import parse_qsl, quote, urlsplit

import grpc
import grpc.aio
import msgspec
import redis.asyncio
from grpc_health.v1 import health_pb2
from redis.exceptions import AskError, ClusterDownError, RedisError, ResponseError

from authz.aws.models import STANDARD, models
from authz.core.holders import kind_of
from authz.core.limits import redis_key
from authz.core.resources import DEFAULT_ACCOUNT, Api, Period
from authz.core.stored import RestApi
from authz.doctor import envoydump
from authz.doctor.facts import ControlFacts, Envoy, Facts, GrpcHealth, ProcessFacts, Redis, SidecarFacts
from authz.redisio.client import connect
from authz.redisio.url import check_tls_files, in_words, mask_url, read_url
from authz.store.ports import StoreUnavailable
from authz.store.store import Store

T = TypeVar("T")
P = TypeVar("P", bound=ProcessFacts)

HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVICE: Final = "envoy.service.auth.v3.Authorization"
SECONDS: Final = 5.0  # that an address has to begin an answer, and for each further piece
WHOLE_SECONDS: Final = 30.0  # and for all of it
LARGEST: Final = 256 * 1024 * 1024  # bytes; a dump of an Envoy with many routes
PIECE: Final = 1 << 20
STATS: Final = r"ext_authz|cluster\..*\.upstream_rq_(pending|active)_overflow"
PINGS: Final = 5
SCANNED: Final = 20_000  # keys of Redis at most that are looked through for the account's,
SAMPLED: Final = 1_000  # and whose expiry is read
MAX_APIS: Final = 500  # APIs of the store that are looked through
LASTING: Final = ("store", "restoring", "alerts", "alerts-cursor", "webhook")  # kinds of keys that have none
FURTHER_QUOTAS: Final = (
    kind_of("quota", False),
    kind_of("quota", True),
)  # kinds of keys that end with a period, which may never end
CONFIG: Final = (
    "appendfsync",
    "bind",
    "busy-reply-threshold",
    "lua-time-limit",
    "min-replicas-to-write",
    "protected-mode",
    "save",
)
NEEDED: Final = frozenset({"CONFIG GET", "INFO", "PTTL", "SCAN", "TIME"})  # without these, rules see nothing
SAMPLE: Final = re.compile(r"(authz_\w+)(\{.*\})? (\S+)")
VERSION: Final = re.compile(r'authz_build_info\{.*version="([^"]*)"')

Run = Callable[..., Awaitable[Any]]


class UnreachableError(Exception):
    """An address does not answer, or answers as another kind of server; in words for the operator."""


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
        return replace(facts, redis=await _redis(targets.redis, account, store, clock))
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
        raise UnreachableError(f"no answer to GET {path.partition('?')[0]}: {_words(error)}") from None


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


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


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


# --- Redis ----------------------------------------------------------------------------------------------------------


async def _redis(url: str, account: str, store: bool, clock: Callable[[], float]) -> Redis:
    found = read_url(url)
    check_tls_files(url)
    client = connect(url, SECONDS)
    execute: Run = client.execute_command
    refused = set[str]()

    async def run(command: str, *args: object) -> Any:
        """None where our user may not say it, or the server does not know it."""
        try:
            return await execute(command, *args)
        except ResponseError as error:
            if not isinstance(error, AskError | ClusterDownError):  # these speak of a node, not of the command
                refused.add(command)
            return None

    try:
        async with asyncio.timeout(3 * SECONDS):
            await _connect(client)
            endless, looked_at = await _endless(run, account)
            workers, unvalidated = await _store_facts(url, account) if store else (None, ())
            node = urlsplit(found.node)
            return Redis(
                url=mask_url(url),
                kind=found.kind,
                hosts=[host for host, _ in found.seeds] or [node.hostname or ""],
                is_tls=node.scheme == "rediss",
                has_login=bool(node.password or dict(parse_qsl(node.query)).get("password")),
                info=await run("INFO") or {},
                config=await _config(run),
                skew=await _skew(run, clock),
                answers=[await _ping(run) for _ in range(PINGS)],
                default_user_is_open=await _is_open(run),
                endless=endless,
                looked_at=looked_at,
                workers=workers,
                unvalidated=unvalidated,
                refused=sorted(refused & NEEDED),
            )
    except (RedisError, OSError, TimeoutError) as error:
        raise UnreachableError(f"no answer: {in_words(error)}") from None
    finally:
        await client.aclose()


async def _connect(client: redis.asyncio.Redis) -> None:
    """Raise RedisError with the server's reason for a connection that it refuses: the login, or the database.

    Later, such a refusal would look like that of a single command.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    await client.connection_pool.release(connection)


def lasts(name: str) -> bool:
    """True for a Redis key, named within the account, that needs no expiry: one of the store, or a quota in total."""
    kind, *parts = name.split(":")
    return kind in LASTING or (kind in FURTHER_QUOTAS and parts[2:3] == [Period.TOTAL])


async def _endless(run: Run, account: str) -> tuple[list[str], int]:
    """Counters without an expiry, and the number of counters examined; none if another node has the keys."""
    # The first key picks the node for a cluster's client.
    if await run("PTTL", redis_key(account, "account")) is None:
        return [], 0
    prefix = redis_key(account, "")
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
    cursor, scanned, counters = 0, 0, list[str]()
    while len(counters) < SAMPLED and scanned < SCANNED:
        cursor, keys = await run("SCAN", cursor, "MATCH", pattern, "COUNT", 1000) or (0, [])
        scanned += 1000
        names = (key.decode(errors="replace") for key in keys)
        counters += [name for name in names if not lasts(name.removeprefix(prefix))]
        if not int(cursor):
            break
    endless, looked_at, until = list[str](), 0, time.monotonic() + SECONDS
    for name in counters[:SAMPLED]:
        if time.monotonic() > until:  # it is far away
            break
        looked_at += 1
        if await run("PTTL", name) == -1:
            endless.append(name)
    return endless, looked_at


async def _config(run: Run) -> Mapping[str, str]:
    """What it lets us see: by name, so that no password is among it."""
    found: dict[str, str] = {}
    for name in CONFIG:
        found.update(await run("CONFIG GET", name) or {})
    return found


async def _skew(run: Run, clock: Callable[[], float]) -> float | None:
    """How far its clock is before ours, in seconds."""
    asked, told = clock(), await run("TIME")
    return told[0] + told[1] / 1e6 - (asked + clock()) / 2 if told else None


async def _ping(run: Run) -> float:
    asked = time.perf_counter()
    await run("PING")  # a refusal takes as long
    return time.perf_counter() - asked


async def _is_open(run: Run) -> bool | None:
    """Whether every client may come in as the default user; None where we may not know."""
    user = await run("ACL GETUSER", "default")
    if user is None:
        return None
    flags = {flag.decode() if isinstance(flag, bytes) else flag for flag in user["flags"]}
    return {"on", "nopass"} <= flags


async def _store_facts(url: str, account: str) -> tuple[int | None, Sequence[str]]:
    """The number of workers that follow the store, and its APIs with request validators or models of their own.

    None and no API where they can't be read. A newer release may have written items that this one can't decode.
    """
    workers, apis = None, list[RestApi]()
    store = Store(url, account=account, budget=SECONDS)
    try:
        workers = len(await store.presences())
        page = await store.page("restapi", "restapi", MAX_APIS)
        apis = [api for api in page.items if isinstance(api, RestApi)]
    except (StoreUnavailable, msgspec.DecodeError):
        pass
    finally:
        await store.aclose()
    return workers, [api.id for api in apis if api.request_validators or models(api).keys() - STANDARD.keys()]

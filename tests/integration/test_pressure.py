"""Under pressure: the excess is bounded and refused with an answer, and admitted calls are counted rightly."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc
import httpx
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from authz.check import Checker
from authz.core.request import Request
from authz.core.verdict import Denied, Reason, Verdict
from authz.envoy.edge import SERVICE, Authorization
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.observe.metrics import Metrics
from bench.load.h2 import DATA, FRAME, HEADERS, PREFACE, RST_STREAM, SETTINGS, Connection, frame, framed, header_blocks
from tests.support.builders import value_of
from tests.support.hosts import HOSTS
from tests.support.proxy import proxy
from tests.support.servers import (
    DEADLINE_SECONDS,
    POLL_SECONDS,
    AuthzServer,
    Host,
    RedisServer,
    authz_serve,
    redis_server,
    until,
)

CHECK = f"/{SERVICE}/Check"
PLANS = {"deny": "deny", "allow": "allow", "local": "local"}  # a key and its failure policy
LIMIT = 100
MOST = 10  # checks that are worked on at once, where a test says so
IDLE = 10_000
STREAMS = 1_000
REPEATS = 5  # of calls that were cancelled unread
SERVING = health_pb2.HealthCheckResponse.SERVING
SHED = (503, "error_response", "1")
PATIENT = ("--redis-timeout-ms", "30000")
MEGABYTE = 1 << 20


def document() -> dict[str, Any]:
    covered = {"apiId": "a1", "stage": "prod"}
    return {
        "apis": [{"id": "a1", "stages": [{"name": "prod"}]}],
        "apiKeys": [{"id": name, "value": value_of(name)} for name in PLANS],
        "usagePlans": [
            {
                "id": name,
                "name": name,
                "keys": [name],
                "apiStages": [covered],
                "quota": {"limit": LIMIT, "period": "MONTH"},
                "failurePolicy": policy,
            }
            for name, policy in PLANS.items()
        ],
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pressure") / "plans.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Of one kind: what Redis makes of it is tested elsewhere."""
    with redis_server() as server:
        yield server


@contextmanager
def serving(config: Path, url: str, host: Host, *flags: str) -> Iterator[AuthzServer]:
    """A sidecar with an account of its own, which drains at once."""
    own = ("--redis-url", url, "--account-id", uuid4().hex, "--drain-seconds", "0")
    with authz_serve(config, *own, *flags, host=host) as server:
        yield server


@asynccontextmanager
async def serving_behind(config: Path, url: str, host: Host, *flags: str) -> AsyncIterator[AuthzServer]:
    """A sidecar whose Redis is a proxy of this event loop, which has to go on meanwhile."""
    own = ("--redis-url", url, "--account-id", uuid4().hex, "--drain-seconds", "0")
    with authz_serve(config, *own, *flags, host=host, wait=False) as server:
        await asyncio.to_thread(server.wait_until_ready)
        yield server
        await asyncio.to_thread(server.stop)


def asks(key: str) -> pb.CheckRequest:
    http = pb.AttributeContext.HttpRequest(method="GET", path="/prod/pets", host="api.example.com")
    http.headers["x-api-key"] = value_of(key)
    return pb.CheckRequest(attributes=pb.AttributeContext(request=pb.AttributeContext.Request(http=http)))


def read(response: pb.CheckResponse) -> tuple[int, str, str]:
    """The status that a client gets, the field of the answer to Envoy, and Retry-After."""
    kind = response.WhichOneof("http_response") or "nothing"
    if kind == "ok_response":
        return 200, kind, ""
    denial = response.error_response if kind == "error_response" else response.denied_response
    headers = {option.header.key.lower(): option.header.value for option in denial.headers}
    assert response.status.code
    return denial.status.code, kind, headers.get("retry-after", "")


def statuses(answers: Counter[tuple[int, str, str]]) -> dict[int, int]:
    """How many got which status; the reported waits differ."""
    found: Counter[int] = Counter()
    for (status, _, _), count in answers.items():
        found[status] += count
    return dict(found)


@dataclass
class Client:
    """Asks a sidecar; what gRPC itself refuses has the name of its status."""

    check: Any
    health: Any

    async def call(self, key: str) -> tuple[int, str, str]:
        try:
            return read(await self.check(asks(key), timeout=DEADLINE_SECONDS))
        except grpc.aio.AioRpcError as error:
            return 0, error.code().name, ""

    async def calls(self, key: str, times: int) -> Counter[tuple[int, str, str]]:
        return Counter(await asyncio.gather(*(self.call(key) for _ in range(times))))

    async def read_calls(self, key: str, times: int, host: Host) -> Counter[tuple[int, str, str]]:
        """Call, and repeat the calls that the server has not read.

        grpcio cancels a call that it could not read within a second, on a busy machine. Nothing is charged for it.
        """
        answers = await self.calls(key, times)
        for _ in range(REPEATS if host == "grpcio" else 0):
            unread = answers.pop((0, "CANCELLED", ""), 0)
            assert unread < STREAMS
            answers += await self.calls(key, unread)
        return answers

    async def is_answered(self, key: str) -> None:
        """Before long, a call is."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await self.call(key))[0] != 200:
                pass

    async def is_serving(self) -> bool:
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        return bool((await self.health(asked, timeout=DEADLINE_SECONDS)).status == SERVING)


@asynccontextmanager
async def client(server: AuthzServer, channels: int = 1) -> AsyncIterator[Client]:
    """Checks go over `channels` connections in turn; health has one of its own, as with Envoy."""
    opened = [
        grpc.aio.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(channels + 1)
    ]
    stubs = [ext_authz_pb2_grpc.AuthorizationStub(channel) for channel in opened[1:]]  # type: ignore[no-untyped-call]
    turn = iter(range(10**9))

    def check(request: pb.CheckRequest, timeout: float) -> Any:
        return stubs[next(turn) % channels].Check(request, timeout=timeout)

    health: Any = health_pb2_grpc.HealthStub(opened[0])
    try:
        yield Client(check, health.Check)
    finally:
        for channel in opened:
            await channel.close()


def metric(server: AuthzServer, name: str, **labels: str) -> float:
    text = httpx.get(f"{server.http}/metrics", timeout=DEADLINE_SECONDS, trust_env=False).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def processes(server: AuthzServer) -> list[psutil.Process]:
    main = psutil.Process(server.pid)
    return [main, *main.children(recursive=True)]


def descriptors(server: AuthzServer) -> int:
    return sum(process.num_fds() for process in processes(server))


def resident(server: AuthzServer) -> int:
    return sum(int(process.memory_info().rss) for process in processes(server))


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


# --- overload -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_the_excess_is_refused_with_an_answer_under_any_failure_policy(
    config: Path, redis: RedisServer, host: Host
) -> None:
    """While ten calls wait for Redis the next ones hear 503 at once; health is well, and the ten are answered."""
    shed, admitted = SHED, (200, "ok_response", "")
    flags = (*PATIENT, "--max-in-flight", str(MOST))
    async with (
        proxy(redis) as between,
        serving_behind(config, between.url, host, *flags) as server,
        client(server) as envoy,
    ):
        assert await envoy.call("local") == admitted
        between.open.clear()
        calls = [asyncio.create_task(envoy.call("deny")) for _ in range(2 * MOST)]
        await eventually(lambda: sum(call.done() for call in calls) == MOST)
        for key in PLANS:
            assert await envoy.calls(key, 2) == {shed: 2}
        assert await envoy.is_serving()
        between.open.set()
        assert Counter(await asyncio.gather(*calls)) == {admitted: MOST, shed: MOST}
        assert await envoy.call("allow") == admitted
        assert await asyncio.to_thread(metric, server, "authz_checks_total", reason="overloaded") == MOST + 2 * len(
            PLANS
        )
        assert await asyncio.to_thread(metric, server, "authz_checks_degraded_total") == 0


@pytest.mark.parametrize(
    ("seconds_left", "is_late"), [(-1.0, True), (0.0, True), (0.001, True), (0.1, False), (None, False)]
)
async def test_a_late_call_is_refused_before_any_work_is_spent_on_it(seconds_left: float | None, is_late: bool) -> None:
    """With only the time for the way back left, the checker is not called and nothing is charged."""
    asked: list[float | None] = []

    class Asked:
        async def check(self, _request: Request, deadline: float | None) -> Verdict:
            asked.append(deadline)
            return Denied(Reason.KEY_UNKNOWN)

    metrics = Metrics()
    service = Authorization(cast("Checker", Asked()), metrics, version=lambda: "1")
    answer = pb.CheckResponse.FromString(await service.answer(asks("deny").SerializeToString(), seconds_left))
    assert (read(answer) == SHED, len(asked)) == (is_late, not is_late)
    labels = {"api": "", "stage": "", "plan": "", "decision": "denied", "reason": "deadline"}
    assert (metrics.registry.get_sample_value("authz_checks_total", labels) or 0) == is_late


@pytest.mark.parametrize("host", HOSTS)
async def test_a_crowd_is_answered_or_refused_and_health_does_not_flap(
    config: Path, redis: RedisServer, host: Host
) -> None:
    """2,400 calls on six connections, 300 at once: each has an answer, none is charged that was not admitted."""
    with serving(config, redis.url, host, *PATIENT, "--max-in-flight", "20") as server:
        async with client(server, channels=6) as envoy:
            before = await asyncio.to_thread(resident, server)
            seen: Counter[tuple[int, str, str]] = Counter()
            for _ in range(8):
                crowd = asyncio.create_task(envoy.calls("deny", 300))
                while not crowd.done():
                    assert await envoy.is_serving()
                seen += crowd.result()
            assert seen.total() == 2_400
            assert {kind for _, kind, _ in seen} <= {
                "ok_response",
                "denied_response",
                "error_response",
                *("RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"),  # below Python
            }
            assert seen[(200, "ok_response", "")] <= LIMIT
            while await envoy.call("deny") == (200, "ok_response", ""):
                seen[(200, "ok_response", "")] += 1
            assert seen[(200, "ok_response", "")] == LIMIT
            assert resident(server) - before < 64 * MEGABYTE


# --- a slow Redis -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [5, 20, 100])
async def test_a_slow_redis_still_decides(config: Path, redis: RedisServer, milliseconds: int) -> None:
    """Two hundred wait at once; exactly the limit is admitted, on one connection, and nothing is left behind."""
    flags = (*PATIENT, "--max-in-flight", "500")
    async with (
        proxy(redis) as between,
        serving_behind(config, between.url, "grpcio", *flags) as server,
        client(server) as envoy,
    ):
        assert (await envoy.call("local"))[0] == 200
        held, connections = descriptors(server), len(between.carried)
        between.delay = milliseconds / 1000
        between.commands.clear()
        answers = await envoy.calls("deny", 2 * LIMIT)
        assert statuses(answers) == {200: LIMIT, 429: LIMIT}
        assert between.commands.total() < LIMIT  # they shared batches
        await eventually(lambda: len(between.carried) > connections)  # for the counts of the refused calls
        assert len(between.carried) == connections + 1
        assert descriptors(server) == held + 1


async def test_a_redis_slower_than_the_budget_is_left_alone_and_policy_answers(
    config: Path, redis: RedisServer
) -> None:
    """Once the circuit is open no caller waits for Redis any more, and the stand-in admits this process's share."""
    flags = ("--redis-timeout-ms", "50", "--replicas", "2")
    async with (
        proxy(redis) as between,
        serving_behind(config, between.url, "grpcio", *flags) as server,
        client(server) as envoy,
    ):
        assert (await envoy.call("local"))[0] == 200
        between.delay = 0.1
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await asyncio.to_thread(metric, server, "authz_redis_circuit_open"):
                await envoy.calls("allow", 20)
        asked = between.batches
        assert {status for status, _, _ in await envoy.calls("deny", 50)} == {503}
        assert {status for status, _, _ in await envoy.calls("allow", 50)} == {200}
        shares = await envoy.calls("local", 90)
        assert {status for status, _, _ in shares} == {200, 429}
        assert shares[(200, "ok_response", "")] <= LIMIT // 2
        assert between.batches == asked
        assert await envoy.is_serving()


# --- connections, streams, messages -------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this process may have; those that it starts inherit that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("many_files")
async def test_ten_thousand_idle_connections_keep_no_client_out(config: Path, redis: RedisServer, host: Host) -> None:
    """Each costs bounded memory, which is freed when the connection ends."""
    with serving(config, redis.url, host, *PATIENT) as server:
        async with client(server) as envoy:
            assert (await envoy.call("deny"))[0] == 200
            before, held = resident(server), descriptors(server)
            with ExitStack() as idle:
                for _ in range(IDLE):
                    idle.enter_context(_idle(server.grpc))
                until(lambda: descriptors(server) >= held + IDLE, "not all connections were accepted", server)
                assert (await envoy.call("deny"))[0] == 200
                assert await envoy.is_serving()
                assert resident(server) - before < IDLE * 64 * 1024
            until(lambda: descriptors(server) <= held + 1, "connections that ended are held on to", server)
            assert (await envoy.call("deny"))[0] == 200


def _idle(address: str) -> socket.socket:
    """An HTTP/2 connection without requests."""
    host, _, port = address.rpartition(":")
    opened = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
    opened.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return opened


@pytest.mark.parametrize("host", HOSTS)
async def test_a_thousand_calls_on_one_connection_are_all_answered(
    config: Path, redis: RedisServer, host: Host
) -> None:
    """A client that keeps to the limit of streams holds back the excess."""
    with serving(config, redis.url, host, *PATIENT, "--max-in-flight", "2000") as server:
        async with client(server) as envoy:
            answers = await envoy.read_calls("deny", STREAMS, host)
            assert statuses(answers) == {200: LIMIT, 429: STREAMS - LIMIT}


async def test_who_overruns_the_limit_of_streams_is_refused_below_python(config: Path, redis: RedisServer) -> None:
    """All calls end, most of them without a message; those that were answered count, and the connection goes on."""
    with serving(config, redis.url, "grpcio", *PATIENT, "--max-in-flight", str(MOST)) as server:
        connection = Connection(server.grpc, CHECK, "30S")
        assert connection.streams == 2 * MOST
        body = framed(asks("deny").SerializeToString())
        ended = _ended(connection, connection.send([body] * STREAMS))
        admitted = sum(_status(message) == 200 for message in ended.values() if message)
        assert 0 < admitted <= LIMIT
        assert sum(not message for message in ended.values()) > STREAMS // 2
        (again,) = _ended(connection, connection.send([framed(asks("allow").SerializeToString())])).values()
        assert _status(again) == 200
        connection.close()
        async with client(server) as envoy:
            left = 0
            while (await envoy.call("deny"))[0] == 200:
                left += 1
        assert admitted + left == LIMIT


def _ended(connection: Connection, streams: list[int]) -> dict[int, bytes]:
    """The answer of each of these calls; b"" for one that was refused."""
    ended: dict[int, bytes] = {}
    while len(ended) < len(streams):
        for stream, message in connection.receive():
            ended.setdefault(stream, message)
    return ended


def _status(message: bytes) -> int:
    return read(pb.CheckResponse.FromString(message))[0]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size", [MEGABYTE + 1, 32 * MEGABYTE], ids=["1 MiB and a byte", "32 MiB"])
async def test_an_oversized_message_is_refused_and_its_connection_goes_on(
    config: Path, redis: RedisServer, host: Host, size: int
) -> None:
    with serving(config, redis.url, host, *PATIENT) as server:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            check: Any = channel.unary_unary(CHECK)
            before = resident(server)
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await check(bytes(size), timeout=DEADLINE_SECONDS)
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            answer = await check(asks("deny").SerializeToString(), timeout=DEADLINE_SECONDS)
            assert _status(answer) == 200
            assert resident(server) - before < 64 * MEGABYTE


@pytest.mark.parametrize("host", HOSTS)
async def test_bodies_that_never_end_keep_no_client_out(config: Path, redis: RedisServer, host: Host) -> None:
    """A thousand calls announce a message and send a part of it; they are gone when their connections are."""
    with serving(config, redis.url, host, *PATIENT) as server:
        async with client(server) as envoy:
            await envoy.is_answered("deny")
            before, held = resident(server), descriptors(server)
            with ExitStack() as slow:
                for _ in range(20):
                    slow.enter_context(_unfinished(server.grpc, 50))
                until(lambda: descriptors(server) >= held + 20, "not all connections were accepted", server)
                await envoy.is_answered("local")  # a thousand calls at once may cost the next few theirs
                assert await envoy.read_calls("allow", 20, host) == {(200, "ok_response", ""): 20}
                assert await envoy.is_serving()
                assert resident(server) - before < 64 * MEGABYTE
            until(lambda: descriptors(server) <= held + 1, "connections that ended are held on to", server)
            await envoy.is_answered("deny")


def _unfinished(address: str, calls: int, timeout: str = "30S") -> socket.socket:
    """A connection with unfinished `calls`: each announces more than it sends."""
    opened = _idle(address)
    first, later = header_blocks(CHECK, address, timeout)
    part = framed(asks("deny").SerializeToString())[:-1]
    for at in range(calls):
        stream = 2 * at + 1
        block = later if at else first
        opened.sendall(frame(HEADERS, 4, stream, block) + frame(DATA, 0, stream, part))
    return opened


async def test_a_body_that_never_ends_is_given_up_at_its_deadline(config: Path, redis: RedisServer) -> None:
    with serving(config, redis.url, "grpcio", *PATIENT) as server, _unfinished(server.grpc, 1, "200m") as slow:
        ended = await asyncio.to_thread(_frames_until_end, slow)
    assert ended


def _frames_until_end(connection: socket.socket) -> bool:
    """Whether the server ended the first call."""
    data = b""
    while True:
        got = connection.recv(1 << 16)
        if not got:
            return False
        data += got
        while len(data) >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(data)
            stop = FRAME.size + (high << 8 | low)
            if len(data) < stop:
                break
            data = data[stop:]
            if stream == 1 and (kind == RST_STREAM or flags & 1):
                return True

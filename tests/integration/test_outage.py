"""Redis goes away, in every way: a stranger stays out, a known caller is answered by policy, and limits hold again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import grpc
import pytest
import redis
import yaml

from authz.check import LimiterUnavailable
from authz.config.file import load
from authz.config.settings import Settings
from authz.core.limits import Charge, Layer, Limit, redis_key, throttle
from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb import ext_authz_pb2_grpc
from authz.hosts.grpcio import GrpcioServer
from authz.limiter.clock import RedisClock
from authz.limiter.limiter import RedisLimiter, Unobserved
from authz.limiter.sender import ADMIT, FLUSH
from authz.sidecar.parts import Parts
from authz.sidecar.sidecar import Sidecar
from tests.support.builders import value_of
from tests.support.ledger import Ledger
from tests.support.limiters import running_limiter
from tests.support.proxy import Proxy
from tests.support.servers import DEADLINE_SECONDS, HOST, Kind, RedisServer, free_port, redis_server, until

BUDGET_MS, PATIENT_MS = 400, 4_000  # where the budget has to run out, and where it must not
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


def document(**plans: Mapping[str, Any]) -> dict[str, Any]:
    """An API with a method for everybody, and plans by name, each with one key of the same name."""
    resources: dict[str, Any] = {"/pets": {"GET": {}}, "/open": {"GET": {"apiKeyRequired": False}}}
    return {
        "apis": [{"id": "a1", "resources": resources, "stages": [{"name": "prod"}]}],
        "apiKeys": [{"id": name, "value": value_of(name)} for name in plans],
        "usagePlans": [
            {"id": name, "name": name, "keys": [name], "apiStages": [{"apiId": "a1", "stage": "prod"}], **plan}
            for name, plan in plans.items()
        ],
    }


def quota(limit: int) -> dict[str, Any]:
    return {"quota": {"limit": limit, "period": "MONTH"}}


def throttled(rate: float, burst: int) -> dict[str, Any]:
    return {"throttle": {"rateLimit": rate, "burstLimit": burst}}


POLICIES: dict[str, Mapping[str, Any]] = {
    "local": {"failurePolicy": "local", **quota(1000)},
    "allow": {"failurePolicy": "allow", **quota(1000)},
    "deny": {"failurePolicy": "deny", **quota(1000)},
    "fresh": quota(3),
}


@dataclass(frozen=True)
class Answer:
    """What Envoy would do with it: the status a client sees, and how the sidecar came to it."""

    status: int
    kind: str
    code: int
    headers: Mapping[str, str]
    degraded: bool

    @classmethod
    def read(cls, response: pb.CheckResponse) -> Answer:
        kind = response.WhichOneof("http_response") or "nothing"
        denial = response.error_response if kind == "error_response" else response.denied_response
        return cls(
            status=200 if kind == "ok_response" else denial.status.code,
            kind=kind,
            code=response.status.code,
            headers={option.header.key: option.header.value for option in denial.headers},
            degraded=bool(response.dynamic_metadata["degraded"]),
        )


def asks(key: str | None, path: str = "/prod/pets") -> pb.CheckRequest:
    """Envoy's question about a request with the value of this key."""
    headers = {"x-api-key": value_of(key)} if key else {}
    http = pb.AttributeContext.HttpRequest(method="GET", path=path, host="api.example.com", headers=headers)
    return pb.CheckRequest(attributes=pb.AttributeContext(request=pb.AttributeContext.Request(http=http)))


@dataclass
class Running:
    """A sidecar of this process, called over gRPC, and the Redis that counts for it."""

    sidecar: Sidecar
    stub: ext_authz_pb2_grpc.AuthorizationStub
    redis: RedisServer

    async def call(self, key: str | None, path: str = "/prod/pets") -> Answer:
        return Answer.read(await self.stub.Check(asks(key, path), timeout=DEADLINE_SECONDS))

    async def calls(self, key: str, times: int) -> list[int]:
        return [(await self.call(key)).status for _ in range(times)]

    def metric(self, name: str, **labels: str) -> float:
        return self.sidecar.parts.metrics.registry.get_sample_value(name, labels) or 0.0

    async def is_left_alone(self) -> None:
        await eventually(lambda: self.metric("authz_redis_circuit_open") == 1)

    async def is_asked_again(self) -> None:
        await eventually(lambda: self.metric("authz_redis_circuit_open") == 0)

    async def is_settled(self) -> None:
        await eventually(lambda: not self.sidecar.parts.debts.owed)

    def counted(self, key: str) -> tuple[int, int]:
        """What Redis has in the key's ledger: used in the quota's period, and today."""
        account = self.sidecar.parts.settings.account_id
        with admin(self.redis) as client:
            raw: Any = client.get(redis_key(account, "ledger", key, key))
        ledger = Ledger.of(raw) if raw else None
        return (ledger.used, ledger.day_used) if ledger else (0, 0)


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = monotonic() + DEADLINE_SECONDS
    while not holds():
        assert monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.02)


@contextmanager
def admin(server: RedisServer, password: str | None = None) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server.url, password=password)
    yield client
    client.close()


@asynccontextmanager
async def running(
    path: Path, server: RedisServer, url: str = "", plans: Mapping[str, Mapping[str, Any]] = POLICIES, **changes: Any
) -> AsyncIterator[Running]:
    """A sidecar that asks this Redis, by `url` if it is not to ask it directly."""
    file = path / "plans.yaml"
    file.write_text(yaml.safe_dump(document(**plans)))
    settings: dict[str, Any] = {
        "grpc_listen": f"{HOST}:{free_port()}",
        "http_listen": f"{HOST}:{free_port()}",
        "redis_url": url or server.url,
        "redis_timeout_ms": PATIENT_MS,
        "account_id": uuid4().hex,
        "drain_seconds": 0.0,
        "grace_seconds": 1.0,
        **changes,
    }
    chosen, stop = Settings(**settings), asyncio.Event()
    sidecar = Sidecar(Parts.build(chosen, (file, load(file))))
    serving = asyncio.create_task(
        sidecar.run(
            GrpcioServer(chosen, sidecar.parts.service.answer, sidecar.parts.service.bad), stop, asyncio.Event()
        )
    )
    await eventually(lambda: serving.done() or sidecar.serving)
    try:
        async with grpc.aio.insecure_channel(settings["grpc_listen"]) as channel:
            stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
            yield Running(sidecar, stub, server)
    finally:
        stop.set()
        await serving


@pytest.fixture
def server(redis_kind: Kind) -> Iterator[RedisServer]:
    """A server that the test may break."""
    with redis_server(redis_kind) as server:
        yield server


# --- every way to go away -----------------------------------------------------------------------------------------

Outage = Callable[[RedisServer, Proxy], AbstractContextManager[None]]


@contextmanager
def killed(server: RedisServer, _: Proxy) -> Iterator[None]:
    server.kill()
    yield
    server.restart(empty=False)


@contextmanager
def killed_and_emptied(server: RedisServer, _: Proxy) -> Iterator[None]:
    server.kill()
    yield
    server.restart(empty=True)


@contextmanager
def paused(server: RedisServer, _: Proxy) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextmanager
def slow(_: RedisServer, between: Proxy) -> Iterator[None]:
    between.delay = 10 * BUDGET_MS / 1000
    yield
    between.delay = 0.0


@contextmanager
def cut_in_mid_reply(_: RedisServer, between: Proxy) -> Iterator[None]:
    between.cuts = 1_000_000
    yield
    between.cuts = 0


@contextmanager
def out_of_memory(server: RedisServer, _: Proxy) -> Iterator[None]:
    with admin(server) as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def read_only(server: RedisServer, _: Proxy) -> Iterator[None]:
    """It becomes the replica of a live master, and is promoted again."""
    kind: Kind = "valkey" if server.command[0].endswith("valkey-server") else "redis"
    with redis_server(kind, "--repl-diskless-sync-delay", "0") as master, admin(server) as client:
        client.replicaof(HOST, master.url.rpartition(":")[2].partition("/")[0])
        until(lambda: client.info("replication").get("master_link_status") == "up", "no replica")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def wrong_password(server: RedisServer, _: Proxy) -> Iterator[None]:
    with admin(server) as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=False)
    yield
    with admin(server, password="another") as client:
        client.config_set("requirepass", "")


@contextmanager
def loading(server: RedisServer, _: Proxy) -> Iterator[None]:
    """It restarts with data that takes a minute to load, then loads at full speed."""
    with admin(server) as client:
        client.mset({f"filler:{number}": "x" * 2048 for number in range(6000)})
        client.bgrewriteaof()
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the data is not written")
        until(lambda: not client.info("persistence")["aof_rewrite_scheduled"], "the data is not written")
        server.kill()
        server.command += ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
        server.start(wait=False)
        until(lambda: is_loading(client), "it does not load", server)
        yield
        client.config_set("key-load-delay", 0)
    server.wait_until_ready()


def is_loading(client: redis.Redis) -> bool:
    try:
        client.get("filler:0")
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False
    return False


OUTAGES: tuple[Outage, ...] = (
    killed,
    killed_and_emptied,
    paused,
    slow,
    cut_in_mid_reply,
    out_of_memory,
    read_only,
    wrong_password,
    loading,
)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
async def test_an_outage_lets_no_stranger_in_and_answers_the_others_by_policy(
    outage: Outage, server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """From the first failing call, through the opening of the circuit, to the limits that hold again."""
    url = between.url if outage in (slow, cut_in_mid_reply) else server.url
    budget = BUDGET_MS if outage in (slow, paused) else PATIENT_MS
    async with running(tmp_path, server, url, redis_timeout_ms=budget) as run:
        for key in ("local", "allow", "deny"):
            assert await run.calls(key, 1) == [200]
        with outage(server, between):
            for _ in range(5):
                await answers_by_policy(run)
            await run.is_left_alone()
            await answers_by_policy(run)
        await run.is_asked_again()
        await eventually(lambda: run.sidecar.details()["status"] == "ok")
        assert await run.calls("fresh", 5) == [200, 200, 200, 429, 429]
        assert await run.calls("deny", 1) == [200]


async def answers_by_policy(run: Running) -> None:
    names = ("local", "allow", "deny", "stranger", None)
    local, allow, deny, stranger, nobody = await asyncio.gather(*(run.call(name) for name in names))
    assert (stranger.status, stranger.kind, nobody.status) == (403, "denied_response", 403)
    assert (local.status, local.degraded) == (allow.status, allow.degraded) == (200, True)
    assert (deny.status, deny.kind, deny.code) == (503, "error_response", int(grpc.StatusCode.UNAVAILABLE.value[0]))
    assert deny.headers["retry-after"] == "1"


async def test_abandoned_calls_are_not_charged_when_a_paused_redis_wakes(server: RedisServer, tmp_path: Path) -> None:
    """The batches lie in its socket buffer, but their deadline has passed."""
    async with running(tmp_path, server, redis_timeout_ms=BUDGET_MS) as run:
        assert await run.calls("deny", 1) == [200]
        with paused(server, Proxy(0)):
            assert await run.calls("deny", 5) == [503] * 5
        await run.is_asked_again()
        assert run.counted("deny") == (1, 1)


async def test_a_crowd_that_waits_for_a_paused_redis_is_answered(server: RedisServer, tmp_path: Path) -> None:
    """Every caller is answered when the circuit opens, and none waits for its own call to fail."""
    async with running(tmp_path, server, redis_timeout_ms=BUDGET_MS, max_in_flight=300) as run:
        with paused(server, Proxy(0)):
            answers = await asyncio.gather(*(run.call("deny") for _ in range(300)))
        assert {answer.status for answer in answers} == {503}


async def test_a_restart_that_forgets_the_scripts_costs_no_wrong_answer(server: RedisServer, tmp_path: Path) -> None:
    async with running(tmp_path, server) as run:
        assert await run.calls("fresh", 2) == [200, 200]
        with admin(server) as client:
            client.script_flush()
        assert await run.calls("fresh", 2) == [200, 429]
        server.restart(empty=True)
        assert await run.calls("deny", 1) == [200]  # and with the old connection go remembered refusals
        answers = [await run.call("fresh") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert not any(answer.degraded for answer in answers)
        assert run.metric("authz_redis_circuit_open") == 0


@pytest.mark.parametrize("outage", [killed, paused, wrong_password], ids=lambda outage: outage.__name__)
async def test_a_sidecar_that_starts_without_redis_answers_by_policy_and_finds_it_later(
    outage: Outage, server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    with ExitStack() as away:
        away.enter_context(outage(server, between))
        await starts_degraded(tmp_path, server, away.close)


async def starts_degraded(path: Path, server: RedisServer, come_back: Callable[[], None]) -> None:
    async with running(path, server, redis_timeout_ms=BUDGET_MS) as run:
        details = run.sidecar.details()
        assert (details["ready"], details["status"], details["redis"]) == (True, "degraded", "left alone")
        assert details["redisProblem"]
        await answers_by_policy(run)
        come_back()
        await run.is_asked_again()
        assert await run.calls("fresh", 4) == [200, 200, 200, 429]


async def test_what_overload_sheds_gets_503_whatever_the_policy(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is well, and no caller may wait for it."""
    async with running(tmp_path, server) as run:
        monkeypatch.setattr("authz.limiter.limiter.MAX_WAITING", 0)
        for key in ("local", "allow", "deny"):
            shed = await run.call(key)
            assert (shed.status, shed.kind, shed.headers["retry-after"]) == (503, "error_response", "1")
            assert shed.code != 0
        assert (await run.call("stranger")).status == 403


@pytest.mark.parametrize(("policy", "status"), [("local", 200), ("allow", 200), ("deny", 503)])
async def test_a_request_without_a_plan_follows_the_default(
    policy: str, status: int, server: RedisServer, tmp_path: Path
) -> None:
    server.kill()
    async with running(tmp_path, server, failure_policy=policy) as run:
        assert (await run.call(None, "/prod/open")).status == status


# --- the circuit --------------------------------------------------------------------------------------------------


async def test_three_failures_open_the_circuit_and_then_no_caller_asks_redis(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """Probes go on beside the callers, and the first that is answered closes it."""
    async with running(tmp_path, server, between.url) as run:
        assert await run.calls("deny", 1) == [200]
        before = between.batches
        between.answer = OOM
        assert await run.calls("deny", 20) == [503] * 20
        assert between.batches - before == 3
        asked = between.commands["EVALSHA"]
        await eventually(lambda: between.commands["EVALSHA"] > asked + 1)
        assert between.batches - before == 3
        between.answer = b""
        await run.is_asked_again()
        assert await run.calls("deny", 1) == [200]


async def test_single_failures_do_not_open_the_circuit(server: RedisServer, between: Proxy, tmp_path: Path) -> None:
    async with running(tmp_path, server, between.url) as run:
        for _ in range(3):
            between.answer = OOM
            assert await run.calls("deny", 2) == [503, 503]
            between.answer = b""
            assert await run.calls("deny", 1) == [200]


async def test_the_client_never_retries_by_itself(server: RedisServer, between: Proxy) -> None:
    """A refused command is sent once; one of unknown fate once more, by us."""
    async with limiting(between.url) as limiter:
        await limiter.probe()
        for answer, times in ((OOM, 1), (LOADING, 2)):
            between.commands.clear()
            between.answer = answer
            with pytest.raises(LimiterUnavailable):
                await limiter.admit(Charge([bucket(limiter)]))
            assert between.commands["EVALSHA"] == times
        between.commands.clear()
        between.answer, between.cuts = b"", 1_000_000
        with pytest.raises(LimiterUnavailable):
            await limiter.admit(Charge([bucket(limiter)]))
        assert (between.commands["EVALSHA"], between.commands["EVAL"]) == (2, 0)


async def test_callers_that_still_wait_when_the_circuit_opens_ask_no_more(server: RedisServer, between: Proxy) -> None:
    """A second batch had gathered behind the one that failed."""

    class Opens(Unobserved):
        def on_failure(self, error: Exception) -> None:
            limiter.available = False

    async with limiting(between.url, observer=Opens()) as limiter:
        between.answer = OOM
        between.open.clear()
        first = asyncio.create_task(limiter.admit(Charge([bucket(limiter)])))
        await eventually(lambda: between.batches == 1)
        others = [asyncio.create_task(limiter.admit(Charge([bucket(limiter)]))) for _ in range(5)]
        await eventually(lambda: len(limiter._queue) == 5)
        between.open.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LimiterUnavailable}
        assert between.batches == 1


async def test_metrics_show_circuit_and_fallback(server: RedisServer, between: Proxy, tmp_path: Path) -> None:
    async with running(tmp_path, server, between.url) as run:
        between.answer = LOADING
        for _ in range(3):
            await answers_by_policy(run)
        await run.is_left_alone()
        for policy in ("local", "allow", "deny"):
            assert run.metric("authz_checks_degraded_total", policy=policy) == 3
        assert run.metric("authz_redis_errors_total", error="BusyLoadingError") >= 3
        await eventually(lambda: run.metric("authz_fallback_unsettled_requests") == 3)
        between.answer = b""
        await run.is_asked_again()
        assert run.metric("authz_fallback_unsettled_requests") == 0


async def test_kept_and_later_calls_are_counted_before_callers_return(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """The first flush fails while Redis answers all else, and calls go on without it."""
    async with running(tmp_path, server, between.url, {"metered": quota(10)}) as run:
        between.answer = LOADING
        assert await run.calls("metered", 3) == [200] * 3
        await run.is_left_alone()
        between.digest = FLUSH.digest
        await eventually(lambda: len(run.sidecar.parts.debts._unpaid) > 0)
        assert await run.calls("metered", 2) == [200] * 2
        between.answer = b""
        await run.is_asked_again()
        assert run.counted("metered") == (5, 5)


# --- batches of unknown fate --------------------------------------------------------------------------------------


def bucket(limiter: RedisLimiter) -> Limit:
    """Five units, never refilled, so that charges can be counted."""
    rule = throttle(0.0, 5)
    assert rule is not None
    return Limit(Layer.ACCOUNT_THROTTLE, redis_key(limiter._account, "bucket"), rule)


def limiting(url: str, budget: float = 10.0, **options: Any) -> AbstractAsyncContextManager[RedisLimiter]:
    """A limiter with an account of its own."""
    return running_limiter(url, uuid4().hex, budget, **options)


async def test_a_batch_whose_reply_is_cut_is_sent_again_and_charged_once(server: RedisServer, between: Proxy) -> None:
    """The first sending was decided; the second is given the same reply."""
    async with limiting(between.url) as limiter:
        await limiter.probe()
        limiter._pace.crowd = 3.0  # so that three callers share a batch
        between.cuts = 1
        asked = between.commands["EVALSHA"]
        tallies = await asyncio.gather(*(limiter.admit(Charge([bucket(limiter)])) for _ in range(3)))
        assert [tally.states for tally in tallies] == [(1,), (2,), (3,)]
        assert between.commands["EVALSHA"] - asked == 2
        assert (await limiter.peek(Charge([bucket(limiter)], None))).tally.states == (4,)


async def test_a_batch_that_is_late_by_a_wrong_clock_goes_once_more_under_a_new_number(
    server: RedisServer, between: Proxy
) -> None:
    """An hour behind, every deadline has passed; the reply tells the time."""
    clock = RedisClock()
    clock.learn(clock.now() - 3_600_000_000)
    async with limiting(between.url, clock=clock) as limiter:
        assert (await limiter.admit(Charge([bucket(limiter)]))).states == (1,)
        assert limiter._sender._sequence == 2
        assert (await limiter.admit(Charge([bucket(limiter)]))).states == (2,)
        assert limiter._sender._sequence == 3


async def test_a_batch_older_than_the_last_decided_one_is_not_charged(server: RedisServer) -> None:
    """What a cut connection delivers too late finds a higher number."""
    async with limiting(server.url) as limiter, limiting(server.url) as straggler:
        limiter._sender._sequence = 10
        assert (await limiter.admit(Charge([bucket(limiter)]))).states == (1,)
        straggler._sender._worker, straggler._sender._account = limiter._sender._worker, limiter._account
        with pytest.raises(LimiterUnavailable, match="old"):
            await straggler.admit(Charge([bucket(limiter)]))
        assert (await limiter.admit(Charge([bucket(limiter)]))).states == (2,)


@pytest.mark.parametrize(("budget", "least_ms"), [(0.5, 5_000), (60.0, 50_000)])
async def test_a_reply_is_kept_until_its_deadline_and_at_least_five_seconds(
    budget: float, least_ms: int, server: RedisServer
) -> None:
    """By Redis's own clock, from the moment at which the batch was decided."""
    async with limiting(server.url, budget) as limiter:
        tally = await limiter.admit(Charge([bucket(limiter)]))
        with admin(server) as client:
            expires_ms: Any = client.pexpiretime(limiter._sender._reply_key())
        assert expires_ms - tally.now // 1000 >= least_ms - 100


async def test_a_cancelled_call_stays_charged_and_is_counted(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    async with running(tmp_path, server, between.url, redis_timeout_ms=10_000) as run:
        between.open.clear()
        call = run.stub.Check(asks("fresh"))
        await eventually(lambda: between.batches == 1)
        call.cancel()
        await eventually(lambda: run.metric("authz_checks_cancelled_total") == 1)
        between.open.set()
        await eventually(lambda: run.counted("fresh") == (1, 1))
        assert await run.calls("fresh", 3) == [200, 200, 429]


@pytest.mark.parametrize(("key", "status"), [("local", 200), ("allow", 200), ("deny", 503), ("stranger", 403)])
async def test_a_deadline_shorter_than_the_budget_is_answered_by_policy(
    key: str, status: int, server: RedisServer, tmp_path: Path
) -> None:
    """Redis is paused, and may take ten minutes by its own budget."""
    async with running(tmp_path, server) as run:
        run.sidecar.parts.limiter._budget = 600.0
        with paused(server, Proxy(0)):
            async with asyncio.timeout(DEADLINE_SECONDS):
                answer = await run.sidecar.parts.service.answer(asks(key).SerializeToString(), 0.5)
                assert Answer.read(pb.CheckResponse.FromString(answer)).status == status


async def test_deadlines_shorter_than_the_budget_do_not_open_the_circuit(server: RedisServer, tmp_path: Path) -> None:
    """Callers in a hurry say nothing about Redis."""
    async with running(tmp_path, server) as run:
        run.sidecar.parts.limiter._budget = 600.0
        with paused(server, Proxy(0)):
            for _ in range(4):
                await run.sidecar.parts.service.answer(asks("local").SerializeToString(), 0.2)
        assert not run.sidecar.parts.circuit.is_open


# --- this process's share, and what it owes -----------------------------------------------------------------------


async def test_local_admits_its_share_of_what_redis_last_reported(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """One of four: of ten six were spent, and a burst of nine is two each."""
    plans = {"metered": quota(10), "bursty": throttled(0.000001, 9)}
    async with running(tmp_path, server, between.url, plans, replicas=4) as run:
        assert await run.calls("metered", 6) == [200] * 6
        between.answer = LOADING
        assert await run.calls("metered", 3) == [200, 429, 429]
        assert await run.calls("bursty", 4) == [200, 200, 429, 429]


async def test_a_quota_that_redis_reported_as_spent_stays_spent(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    async with running(tmp_path, server, between.url, replicas=4) as run:
        assert await run.calls("fresh", 4) == [200, 200, 200, 429]
        between.answer = LOADING
        assert await run.calls("fresh", 2) == [429, 429]


async def test_locally_admitted_calls_count_once_redis_is_back(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """Two by Redis, three without it: five of six are used, in quota and usage alike."""
    async with running(tmp_path, server, between.url, {"metered": quota(6)}) as run:
        assert await run.calls("metered", 2) == [200, 200]
        between.answer = LOADING
        assert await run.calls("metered", 3) == [200] * 3
        await run.is_left_alone()
        between.answer = b""
        await run.is_asked_again()
        await run.is_settled()
        assert run.counted("metered") == (5, 5)
        assert await run.calls("metered", 2) == [200, 429]


async def test_a_flush_whose_reply_is_cut_is_sent_again_and_counted_once(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """The same amount goes under the same number until its fate is known."""
    async with running(tmp_path, server, between.url, {"metered": quota(10), "other": quota(10)}) as run:
        between.answer = LOADING
        assert await run.calls("metered", 3) + await run.calls("other", 2) == [200] * 5
        await run.is_left_alone()
        between.digest, between.cuts = FLUSH.digest, 3
        between.answer = b""
        await run.is_asked_again()
        await run.is_settled()
        assert between.cuts == 0
        assert (run.counted("metered"), run.counted("other")) == ((3, 3), (2, 2))


async def test_what_a_single_failure_admits_is_counted_too(server: RedisServer, between: Proxy, tmp_path: Path) -> None:
    """The circuit never opens, and so never closes."""
    async with running(tmp_path, server, between.url) as run:
        between.answer = OOM
        assert await run.calls("fresh", 1) == [200]
        between.answer = b""
        await eventually(lambda: run.counted("fresh") == (1, 1))
        assert run.metric("authz_redis_circuit_open") == 0
        assert await run.calls("fresh", 3) == [200, 200, 429]


async def test_a_stopping_sidecar_settles_what_it_owes(server: RedisServer, between: Proxy, tmp_path: Path) -> None:
    async with running(tmp_path, server, between.url) as run:
        between.digest, between.answer = ADMIT.digest, LOADING
        assert await run.calls("fresh", 2) == [200, 200]
    assert run.counted("fresh") == (2, 2)


async def test_a_ledger_that_is_not_ours_does_not_keep_the_circuit_open(
    server: RedisServer, between: Proxy, tmp_path: Path
) -> None:
    """Its own calls fail by it, and no others."""
    async with running(tmp_path, server, between.url) as run:
        between.answer = LOADING
        assert await run.calls("fresh", 3) == [200] * 3
        assert await run.calls("local", 1) == [200]
        await run.is_left_alone()
        with admin(server) as client:
            client.rpush(redis_key(run.sidecar.parts.settings.account_id, "ledger", "fresh", "fresh"), "not ours")
        between.answer = b""
        await run.is_asked_again()
        await run.is_settled()
        assert run.counted("local") == (1, 1)

"""The bench's client speaks gRPC, its no-op servers admit every call, and it finds out a limit that does not hold."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import pytest

from bench.load import h2, inputs
from bench.load import loops as load
from bench.measure import machine
from bench.measure.exact import EACH_SIDE, EDGE, TIGHT, WIDE, Questions, exactness
from bench.measure.servers import Host, Noop, call, sidecar
from bench.rivals import limits
from tests.support.hosts import HOSTS
from tests.support.servers import HOST, authz_serve, redis_server, until

# grpcio by itself refuses some calls beyond 1,000, unless configured.
UNREFUSED = {"server.max_pending_requests": 10_000, "server.max_pending_requests_hard_limit": 10_000}
Handler = Callable[[bytes], Awaitable[bytes]]


def test_processes_below_a_process_count_too() -> None:
    assert machine.cpu_seconds([]) == 0
    with redis_server() as redis:
        assert machine.memory([redis.pid]).rss > 1
        before = machine.thread_seconds(redis.pid)
        assert until_it_has_worked(redis.pid, before) > before
        assert [process.pid for process in machine.tree([redis.pid])] == [redis.pid]
    assert machine.tree([redis.pid]) == []


def until_it_has_worked(pid: int, before: float) -> float:
    until(lambda: machine.thread_seconds(pid) > before and machine.cpu_seconds([pid]) >= 0, "it uses no CPU")
    return machine.thread_seconds(pid)


@asynccontextmanager
async def served(path: str, handle: Handler, **options: int) -> AsyncIterator[str]:
    """A real gRPC server of one method; its address."""
    service, _, method = path[1:].partition("/")

    async def answer(message: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return await handle(message)

    server = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
    handlers: Any = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        await server.stop(None)


def numbers() -> Callable[[], bytes]:
    counted = itertools.count()
    return lambda: h2.framed(b"%d" % next(counted))


async def test_each_call_gets_its_own_answer() -> None:
    """More bytes than the connection's first window holds, in both directions, and every answer once."""

    async def echo(message: bytes) -> bytes:
        return message + b"!" * 400

    found: Counter[bytes] = Counter()

    def ask(address: str) -> load.Outcome:
        connection = h2.Connection(address, "/a.B/C", "60S")  # patient, for a busy machine
        try:
            draw = numbers()
            return load.closed(
                [connection],
                lambda: h2.framed(draw()[5:] + b"-" * 400),
                lambda message: found.update([message]) is None,
                in_flight=200,
                total=2_000,
            )
        finally:
            connection.close()

    async with served("/a.B/C", echo) as address:
        outcome = await asyncio.to_thread(ask, address)
    assert (outcome.admitted, outcome.refused, outcome.failed) == (2_000, 0, 0)
    assert found == Counter(b"%d" % n + b"-" * 400 + b"!" * 400 for n in range(2_000))
    assert len(outcome.latencies) == 2_000


async def test_a_call_that_fails_is_counted_as_failed() -> None:
    async def odd(message: bytes) -> bytes:
        if int(message) % 2:
            raise ValueError("odd")
        return b"ok"

    def ask(address: str) -> load.Outcome:
        connections = [h2.Connection(address, "/a.B/C") for _ in range(3)]
        outcome = load.closed(connections, numbers(), lambda message: message == b"ok", in_flight=10, total=50)
        for connection in connections:
            connection.close()
        return outcome

    async with served("/a.B/C", odd) as address:
        outcome = await asyncio.to_thread(ask, address)
    assert (outcome.admitted, outcome.refused, outcome.failed) == (25, 0, 25)


async def test_an_open_loop_counts_from_when_a_call_was_due() -> None:
    """One call holds the server up: those behind it are still sent, and have waited since they were due."""
    first = asyncio.Event()

    async def stall(message: bytes) -> bytes:
        if message == b"0":
            await first.wait()
        elif message == b"19":
            first.set()
        return b"ok"

    def ask(address: str) -> load.Outcome:
        connection = h2.Connection(address, "/a.B/C", "20S")
        began = perf_counter()
        outcome = load.open_loop([connection], numbers(), bool, rate=200, seconds=0.2)
        assert outcome.seconds <= perf_counter() - began
        connection.close()
        return outcome

    async with served("/a.B/C", stall) as address:
        outcome = await asyncio.to_thread(ask, address)
    assert (outcome.admitted, outcome.failed) == (40, 0)
    assert max(outcome.latencies) >= 19 / 200  # the first was answered when the twentieth came


async def test_an_open_loop_asks_no_more_than_the_server_takes_at_once() -> None:
    release = asyncio.Event()
    taken = 0

    async def hold(message: bytes) -> bytes:
        nonlocal taken
        taken += 1
        if taken == 5:
            asyncio.get_running_loop().call_later(0.2, release.set)
        await release.wait()
        return message

    def ask(address: str) -> load.Outcome:
        connection = h2.Connection(address, "/a.B/C", "20S")
        assert connection.streams == 5
        outcome = load.open_loop([connection], numbers(), lambda _: True, rate=10_000, seconds=0.005)
        connection.close()
        return outcome

    async with served("/a.B/C", hold, max_concurrent_streams=5) as address:
        outcome = await asyncio.to_thread(ask, address)
    assert (outcome.admitted, outcome.failed) == (5, 45)


async def test_a_server_that_hangs_up_is_an_error() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    async with server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(h2.Connection, address, "/a.B/C")


@pytest.mark.parametrize("noop", ["bare", "parse"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_no_op_is_a_server_that_admits_every_caller(host: Host, noop: Noop, tmp_path: Path) -> None:
    """While the complete one, which is started in the same way, knows who may call."""
    config = inputs.written(inputs.document(keys=1, plans=1), tmp_path)
    everywhere = machine.Cores.here().all
    unknown = inputs.check_request("unknown")
    with (
        redis_server() as redis,
        sidecar(config, redis.url, host=host, noop=noop, cores=everywhere) as idle,
        sidecar(config, redis.url, host=host, cores=everywhere) as whole,
    ):
        assert [inputs.admits(call(found.address, unknown)) for found in (idle, whole)] == [True, False]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Questions]:
    config = inputs.written(limits.exact_document(), tmp_path_factory.mktemp("bench"))
    flags = (*limits.CROWD, "--drain-seconds", "0", "--redis-timeout-ms", "5000", "--failure-policy", "deny")
    with redis_server() as redis, authz_serve(config, "--redis-url", redis.url, *flags) as server:
        assert limits.has_limits(server.grpc)
        yield limits.of_check(server.grpc)


def test_we_are_exact(ours: Questions) -> None:
    """Of this many at once grpcio refuses some by itself; those got no answer, and none of them took anything."""
    found = exactness(ours)
    assert (found.admitted, found.charged) == (TIGHT, 0)
    assert EDGE <= found.edge_admitted <= found.edge_most


class Windows:
    """A RateLimitService that counts as many do: by fixed window, and whatever it then answers.

    `leaky` lets that number more through; the bytes of descriptors tell them apart.
    """

    def __init__(self, leaky: int = 0, charges_refused: bool = True) -> None:
        self.counts: Counter[bytes] = Counter()
        self.leaky = leaky
        self.charges_refused = charges_refused
        self.edges = 0

    async def should_rate_limit(self, message: bytes) -> bytes:
        limits = {b"tight": TIGHT + self.leaky, b"wide": WIDE, b"edge": 2 * EDGE}
        named = [name for name in limits if name in message]
        full = any(self.counts[name] >= limits[name] for name in named)
        if not full or self.charges_refused:
            self.counts.update(name for name in named if not full or self.counts[name] < limits[name])
        return b"\x08\x02" if full else b"\x08\x01"


@pytest.mark.parametrize("leaky", [0, 204])
@pytest.mark.parametrize("charges_refused", [False, True])
async def test_others_are_found_out(leaky: int, charges_refused: bool) -> None:
    """Too many admitted, twice the limit across an edge, a limit that refused calls have used up."""
    rival = Windows(leaky, charges_refused)
    async with served(inputs.SHOULD_RATE_LIMIT, rival.should_rate_limit, **UNREFUSED) as address:
        found = await asyncio.to_thread(exactness, limits.of_limits(address))
    assert found.admitted == TIGHT + leaky
    assert found.charged == (WIDE - TIGHT - leaky if charges_refused else 0)
    assert found.edge_admitted == 2 * EDGE
    assert found.failed == 0
    assert EACH_SIDE == 2 * EDGE

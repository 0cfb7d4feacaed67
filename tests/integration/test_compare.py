"""Real Envoys ask rivals as `bench.compare` configures them, and every one of its tables is filled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import pytest

from bench import compare
from bench.load.inputs import SHOULD_RATE_LIMIT, document, rate_limit_request, value_of, written
from bench.load.loops import Outcome
from bench.measure.exact import TIGHT
from bench.measure.machine import Cores
from bench.measure.rows import Bench, Target
from bench.rivals import setups
from bench.rivals.files import DOMAIN
from bench.rivals.gates import Rival, Rivals
from bench.sections import front
from bench.sections.common import KEYS, complete, no_op
from tests.support.servers import HOST

CALLS = 5
OK, OVER_LIMIT = b"\x08\x01", b"\x08\x02"


class Counting:
    """A RateLimitService with one limit: that of the descriptor `tight`."""

    def __init__(self, limit: int = TIGHT) -> None:
        self.limit = limit
        self.messages: list[bytes] = []
        self._used = 0

    def answer(self, message: bytes, _context: grpc.ServicerContext) -> bytes:
        self.messages.append(message)
        if b"tight" in message:
            self._used += 1
        return OK if self._used <= self.limit else OVER_LIMIT


@contextmanager
def served(service: Counting) -> Iterator[str]:
    """The address of a real gRPC server of one thread."""
    path, _, method = SHOULD_RATE_LIMIT[1:].partition("/")
    server = grpc.server(ThreadPoolExecutor(1))
    handlers: Any = {method: grpc.unary_unary_rpc_method_handler(service.answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(path, handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Cores.here(), 1, 0.1, True, KEYS, tmp_path, ["grpcio"], lambda _: None)


@contextmanager
def checking(bench: Bench, noop: bool = False) -> Iterator[Target]:
    """A sidecar of ours that stands in for the rival; the key stays in the request, for limits that come after it."""
    content = document(keys=KEYS)
    content["apis"][0]["forwardApiKey"] = True
    config = written(content, bench.scratch, "rival.yaml")
    with no_op(bench, config, "grpcio", "parse") if noop else complete(bench, config, "grpcio") as target:
        yield target


def a_few(url: str, *, keys: int, in_flight: int, seconds: float) -> tuple[Outcome, dict[str, float]]:
    """In place of `wrk`, which runs for a second at least."""
    assert (keys, in_flight) == (KEYS, 2)
    began = perf_counter()
    told = [setups.status(url, value_of(n)) for n in range(CALLS)]
    admitted = told.count(200)
    return Outcome(perf_counter() - began + seconds, admitted, CALLS - admitted), {"p50_ms": 1.0, "p99_ms": 2.0}


def test_every_setup_is_measured_and_compared_with_the_chain(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits get four descriptors of each call, and the chain's check refuses a key that it does not know."""
    monkeypatch.setattr(front, "wrk", a_few)
    counting = Counting()
    with served(counting) as limits, checking(bench) as check:
        assert check.redis
        rivals = Rivals(
            Rival("counts", limits),
            Rival("keys", check.server[0].address),
            [check.server[0].pid],
            check.redis.pid,
        )
        cost, over, exact = compare.compared(bench, rivals, [2], hold_ms=100)
    (table,), (ratios,), (limits_found,) = cost.tables, over.tables, exact.tables
    ours = ["ours, grpcio", "ours, grpcio, holdMs 100"]
    names = ["no check", "counts", "keys", "keys, then counts", "our no-op, grpcio", *ours]
    assert [row[0] for row in table.rows] == names
    whole, wrong = (list(table.head).index(name) for name in ("in all, µs", "wrong"))
    assert all(row[whole] and row[wrong] for row in table.rows)
    assert list(cost.plots[0].labels) == names  # type: ignore[union-attr]
    assert over.title == "Ours over keys, then counts"
    assert [row[0] for row in ratios.rows] == [f"{name}, 2 in flight" for name in ours]
    admitted = {row[0]: int(row[1]) for row in limits_found.rows}
    assert list(admitted) == ["counts", *ours]
    assert all(0 < count <= TIGHT for count in admitted.values())
    caller = value_of(CALLS - 1)
    shared = ((("method", "all"),), (("account", "all"),))
    message = rate_limit_request(DOMAIN, (("caller", caller),), (("caller_method", caller),), *shared)
    assert message in counting.messages


def test_a_rival_that_refuses_the_load_is_not_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setups, "READY_SECONDS", 0.0)
    alone = replace(bench, hosts=[])
    with (
        served(Counting(limit=-1)) as limits,
        pytest.raises(setups.WrongAnswer, match="counts: a call that it should admit got 429"),
        setups.setups(alone, Rivals(Rival("counts", limits), None, [1])),
    ):
        pass


def test_a_rival_that_admits_every_key_is_not_measured(bench: Bench) -> None:
    alone = replace(bench, hosts=[])
    with (
        checking(bench, noop=True) as check,
        pytest.raises(setups.WrongAnswer, match="keys: a call with an unknown key got 200"),
        setups.setups(alone, Rivals(None, Rival("keys", check.server[0].address), [1])),
    ):
        pass

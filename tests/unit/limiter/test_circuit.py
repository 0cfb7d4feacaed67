"""The circuit, without a clock: it opens after failures in a row, and a probe that succeeds closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from authz.limiter.circuit import Circuit

FAULT = ConnectionError("gone")
FAILURES = 3  # this many in a row open the circuit
JITTER_SECONDS = 0.05


class World:
    """A Redis with given answers to probes, and waits that end at once; both are recorded in order."""

    def __init__(self, *probes: bool | Exception) -> None:
        self.probes = list(probes)
        self.waits: list[float] = []
        self.switched: list[bool] = []
        self.circuit = Circuit(self.recover, self.switched.append, self.sleep)

    async def recover(self) -> bool:
        outcome = self.probes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def fail(self, times: int = FAILURES) -> None:
        for _ in range(times):
            self.circuit.failed(FAULT)


@asynccontextmanager
async def probing(circuit: Circuit) -> AsyncIterator[None]:
    task = asyncio.create_task(circuit.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks run until `holds()` is true. Bounds their turns, not the time."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


def test_it_opens_at_the_third_failure_and_no_earlier() -> None:
    world = World()
    world.fail(FAILURES - 1)
    assert (world.circuit.is_open, world.switched) == (False, [])
    world.fail(1)
    assert (world.circuit.is_open, world.switched) == (True, [False])


def test_a_success_in_between_starts_the_count_again() -> None:
    world = World()
    world.fail(FAILURES - 1)
    world.circuit.succeeded()
    world.fail(FAILURES - 1)
    assert not world.circuit.is_open


def test_failures_while_it_is_open_change_nothing() -> None:
    """Neither failed probes nor failures of batches in flight count."""
    world = World()
    world.fail(3 * FAILURES)
    assert world.switched == [False]


async def test_a_probe_that_is_answered_closes_it() -> None:
    world = World(False, False, True)
    async with probing(world.circuit):
        world.fail()
        await until(lambda: not world.circuit.is_open)
    assert world.switched == [False, True]
    assert world.probes == []


async def test_redis_is_left_alone_before_the_first_probe() -> None:
    world = World(True)
    async with probing(world.circuit):
        world.fail()
        await until(lambda: not world.circuit.is_open)
    assert world.waits == [0.05]


async def test_the_waits_between_probes_double_up_to_a_second() -> None:
    world = World(*[False] * 9, True)
    async with probing(world.circuit):
        world.fail()
        await until(lambda: not world.circuit.is_open)
    for number, wait in enumerate(world.waits[1:]):
        least = min(0.05 * 2**number, 1.0)
        assert least <= wait <= least + JITTER_SECONDS


@pytest.mark.parametrize("fault", [FAULT, ValueError("what is this"), RuntimeError("closed")])
async def test_a_probe_that_raises_is_one_that_was_not_answered(fault: Exception) -> None:
    """Probing goes on after any exception."""
    world = World(fault, True)
    async with probing(world.circuit):
        world.fail()
        await until(lambda: not world.circuit.is_open)
    assert world.switched == [False, True]


async def test_it_opens_again_after_it_has_closed() -> None:
    """It takes as many failures as the first time."""
    world = World(True, True)
    async with probing(world.circuit):
        for _ in range(2):
            world.fail(FAILURES - 1)
            assert not world.circuit.is_open
            world.fail(1)
            assert world.circuit.is_open
            await until(lambda: not world.circuit.is_open)
    assert world.switched == [False, True] * 2


async def test_nothing_is_probed_while_it_is_closed() -> None:
    world = World()
    async with probing(world.circuit):
        world.fail(FAILURES - 1)
        for _ in range(10):
            await asyncio.sleep(0)
    assert world.waits == []


async def test_it_can_be_opened_before_any_call_has_failed() -> None:
    """A start without Redis does that."""
    world = World(True)
    world.circuit.open()
    async with probing(world.circuit):
        await until(lambda: not world.circuit.is_open)
    assert world.switched == [False, True]

"""Counts of refused calls in the process: which are counted, how many are kept, how many go in one command."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from authz.check import LimiterUnavailable
from authz.core.limits import Layer, Limit, throttle
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally
from authz.core.zones import DAY_US
from authz.limiter.refused import RefusedCount
from authz.sidecar import refused
from authz.sidecar.refused import IN_ONE_COMMAND, MAX_COUNTS, RefusedCalls

NOW = 20_516 * DAY_US + 5


class Redis:
    """Takes counts, or fails while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.commands: list[list[RefusedCount]] = []

    async def send(self, counts: Sequence[RefusedCount]) -> None:
        self.commands.append(list(counts))
        if self.away:
            raise LimiterUnavailable("away")


def denied(layer: Layer = Layer.PLAN_THROTTLE, key: str = "k", plan: str = "p", now: int = NOW) -> Denied:
    rule = throttle(1.0, 1)
    assert rule is not None
    return Denied(Reason(layer), Subject(key=key, plan=plan), None, Tally(now, (), Limit(layer, "x", rule)))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer.PLAN_THROTTLE, "throttle"),
        (Layer.PLAN_METHOD_THROTTLE, "throttle"),
        (Layer.PLAN_QUOTA, "quota"),
        (Layer.STAGE_METHOD_THROTTLE, "throttle"),
        (Layer.ACCOUNT_THROTTLE, "throttle"),
    ],
)
async def test_each_layer_counts_for_a_reason(layer: Layer, reason: str) -> None:
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    calls.count(denied(layer))
    calls.count(denied(layer))
    calls.count(denied(layer, now=NOW + DAY_US))
    assert await calls.send()
    assert redis.commands == [[("p", "k", 20_516, reason, 2), ("p", "k", 20_517, reason, 1)]]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer.PLAN_THROTTLE, "shadow_throttle"),
        (Layer.PLAN_METHOD_THROTTLE, "shadow_throttle"),
        (Layer.PLAN_QUOTA, "shadow_quota"),
    ],
)
async def test_a_call_that_a_shadow_plan_lets_through_counts_for_a_reason_of_its_own(layer: Layer, reason: str) -> None:
    """One that another layer refuses counts as refused, and an admitted one not at all."""
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    rule = throttle(1.0, 1)
    assert rule is not None
    shadow, grant = Limit(layer, "x", rule, shadow=True), Grant(Subject(key="k", plan="p"), ())
    calls.count(Allowed(grant, Tally(NOW, shadowed_by=shadow)))
    calls.count(Allowed(grant, Tally(NOW)))
    calls.count(Allowed(grant, None))
    stage = Limit(Layer.STAGE_METHOD_THROTTLE, "y", rule)
    calls.count(Denied(Reason.STAGE_METHOD_THROTTLE, grant.subject, grant, Tally(NOW, (), stage, shadowed_by=shadow)))
    assert await calls.send()
    assert redis.commands == [[("p", "k", 20_516, reason, 1), ("p", "k", 20_516, "throttle", 1)]]


@pytest.mark.parametrize(
    "other", [denied(key=""), denied(plan=""), Denied(Reason.KEY_EXPIRED, Subject(key="k", plan="p"))]
)
async def test_a_refusal_without_a_key_a_plan_or_a_limit_is_not_counted(other: Denied) -> None:
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    calls.count(other)
    assert await calls.send()
    assert not redis.commands


async def test_a_failed_command_goes_again_unchanged_before_newer_counts() -> None:
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    redis.away = True
    calls.count(denied())
    assert not await calls.send()
    calls.count(denied())
    redis.away = False
    assert await calls.send()
    assert await calls.send()
    assert redis.commands == [[("p", "k", 20_516, "throttle", 1)]] * 3


async def test_one_command_has_a_bounded_number_of_counts() -> None:
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    for number in range(IN_ONE_COMMAND + 1):
        calls.count(denied(key=f"k{number}"))
    await calls.drain()
    assert [len(command) for command in redis.commands] == [2_000, 1]
    assert not calls.waiting


@pytest.mark.parametrize(
    ("callers", "commands"),
    [(0, []), (1, [1]), (2_000, [2_000]), (2_001, [2_000]), (4_100, [2_000, 2_000]), (30_000, [2_000] * 10)],
)
async def test_a_second_has_one_command_and_more_while_full_ones_wait(callers: int, commands: list[int]) -> None:
    """The rest of 2,001 waits for the next second; of 30,000, so do 10,000."""
    redis = Redis()
    calls = RefusedCalls(redis.send, "")
    for number in range(callers):
        calls.count(denied(key=f"k{number}"))
    await calls.send_waiting()
    assert [len(command) for command in redis.commands] == commands
    assert calls.waiting == callers - sum(commands)


async def test_a_failed_command_is_the_last_of_its_second() -> None:
    redis = Redis()
    redis.away = True
    calls = RefusedCalls(redis.send, "")
    for number in range(3 * IN_ONE_COMMAND):
        calls.count(denied(key=f"k{number}"))
    await calls.send_waiting()
    assert len(redis.commands) == 1


async def test_a_flood_of_callers_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is already counted goes on being counted."""
    assert MAX_COUNTS == 100_000
    monkeypatch.setattr(refused, "MAX_COUNTS", 3)
    calls = RefusedCalls(Redis().send, "")
    for number in (0, 1, 2, 3, 4, 0):
        calls.count(denied(key=f"k{number}"))
    assert (calls.waiting, calls.lost) == (4, 2)

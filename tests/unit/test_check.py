"""The check of one request, with a limiter whose answers the test gives."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from authz.check import Checker, KeysUnavailable, LimiterUnavailable, Overloaded
from authz.core.catalog import UNLOOKED, Caller, Catalog, Unlooked
from authz.core.limits import Charge, Kept, Limit, Meter, Quota
from authz.core.request import Request
from authz.core.resources import CostFrom, FailurePolicy, HttpMethod, Method, Period, QuotaSettings, Resources
from authz.core.verdict import Allowed, Denied, Grant, Reason, Tally, Verdict
from authz.limiter.local import LocalLimiter
from tests.conftest import Clock, micros
from tests.support.builders import api, key, plan, resources
from tests.support.world import ask, limited

NOW = micros("2026-03-04T23:59:59Z")
TOMORROW = micros("2026-03-05T00:00:00Z")
METERED = resources(usage_plans=(plan(quota=QuotaSettings(5, Period.DAY)),))


class FakeLimiter:
    """A limiter that returns the given answers in turn, and records its calls."""

    def __init__(self, *answers: Tally | Exception) -> None:
        self.answers, self.asked = list(answers), list[tuple[Sequence[Limit], Meter | None, float | None]]()
        self.names: list[str] = []
        self.costs: list[int] = []
        self.kept: list[Kept | None] = []

    async def admit(self, charge: Charge) -> Tally:
        self.asked.append((charge.limits, charge.meter, charge.deadline))
        self.names.append(charge.once)
        self.costs.append(charge.cost)
        self.kept.append(charge.kept)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def check(limiter: FakeLimiter, request: Request | None = None, changed: Resources = METERED) -> Verdict:
    catalog = Catalog.compile(changed)
    return await Checker(lambda: catalog, limiter, LocalLimiter(), lambda: NOW).check(request or ask(), 7.0)


def by(policy: FailurePolicy, **changes: Any) -> Resources:
    return resources(usage_plans=(plan(failure_policy=policy, **changes),))


async def test_a_grant_is_admitted_once_with_its_meter_and_deadline() -> None:
    limiter = FakeLimiter(Tally(NOW, (0, 1)))
    assert isinstance(await check(limiter), Allowed)
    [(limits, meter, deadline)] = limiter.asked
    assert [limit.layer for limit in limits] == ["plan_quota", "account_throttle"]
    assert (meter is not None, deadline) == (True, 7.0)


@pytest.mark.parametrize(("options", "is_named"), [({}, False), ({"charge_once": True}, True)])
async def test_a_request_is_named_only_with_charge_once(options: dict[str, Any], is_named: bool) -> None:
    """Without it a retry by Envoy is charged as any other call."""
    limiter, catalog = FakeLimiter(Tally(NOW, (0, 1))), Catalog.compile(METERED)
    await Checker(lambda: catalog, limiter, LocalLimiter(), lambda: NOW, **options).check(replace(ask(), id="r1"))
    assert [bool(name) for name in limiter.names] == [is_named]


async def test_calls_of_one_day_share_what_the_limiter_keeps() -> None:
    limiter, catalog, clock = FakeLimiter(*[Tally(NOW, (0, 1))] * 3), Catalog.compile(METERED), Clock(NOW)
    for clock.now in (NOW, NOW, TOMORROW):
        await Checker(lambda: catalog, limiter, LocalLimiter(), clock).check(ask())
    today, later, tomorrow = limiter.kept
    assert today is later
    assert tomorrow is not today  # the quota has another period


@pytest.mark.parametrize(
    ("request_", "reason"), [(ask(key=None), Reason.KEY_MISSING), (ask("/prod/x"), Reason.UNKNOWN_METHOD)]
)
async def test_a_stranger_costs_redis_nothing(request_: Request, reason: Reason) -> None:
    """So an unknown caller is refused in any state of Redis."""
    limiter = FakeLimiter()
    verdict = await check(limiter, request_, by(FailurePolicy.ALLOW))
    assert isinstance(verdict, Denied)
    assert (verdict.reason, limiter.asked) == (reason, [])


async def test_a_refusal_of_the_limiter_is_the_verdict() -> None:
    refused_by = next(iter(_limits(METERED)))
    verdict = await check(FakeLimiter(Tally(NOW, (5, 0), refused_by=refused_by)))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.PLAN_QUOTA


def _limits(changed: Resources) -> Sequence[Limit]:
    grant = Catalog.compile(changed).resolve(ask(), NOW)
    assert isinstance(grant, Grant)
    return grant.limits


async def test_a_stale_tally_is_resolved_again_at_redis_own_time() -> None:
    """A new period began, or our clock was wrong."""
    limiter = FakeLimiter(Tally(TOMORROW, stale=True), Tally(TOMORROW, (1, 0)))
    verdict = await check(limiter)
    assert isinstance(verdict, Allowed)
    starts = [limits[0].rule.start for limits, _, _ in limiter.asked if isinstance(limits[0].rule, Quota)]
    assert starts == [micros("2026-03-04T00:00:00Z"), TOMORROW]


async def test_a_call_that_is_resolved_again_keeps_its_cost() -> None:
    tokens = CostFrom(("cost", "tokens"), max=100)
    methods: dict[str, dict[HttpMethod, Method]] = {"/pets": {"GET": Method(cost=7, cost_from=tokens)}}
    limiter = FakeLimiter(Tally(TOMORROW, stale=True), Tally(TOMORROW, (1, 0)))
    priced = replace(METERED, apis=(api(resources=methods),))
    verdict = await check(limiter, ask(metadata={"cost": {"tokens": 30.0}}), priced)
    assert isinstance(verdict, Allowed)
    assert (limiter.costs, verdict.grant.cost) == ([30, 30], 30)


async def test_a_key_that_has_expired_by_redis_own_time_is_refused() -> None:
    expires = datetime(2026, 3, 5, tzinfo=UTC)
    changed = resources(usage_plans=METERED.usage_plans, api_keys=(key(expires_at=expires),))
    verdict = await check(FakeLimiter(Tally(TOMORROW, stale=True)), changed=changed)
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.KEY_EXPIRED


async def test_a_second_stale_tally_is_left_to_the_failure_policy() -> None:
    """It counts as an unavailable limiter."""
    stale = Tally(TOMORROW, stale=True)
    verdict = await check(FakeLimiter(stale, stale), changed=by(FailurePolicy.DENY, quota=QuotaSettings(5, Period.DAY)))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.UNAVAILABLE


AWAY = LimiterUnavailable("away")


async def test_without_redis_allow_lets_a_known_caller_through_uncounted() -> None:
    verdict = await check(FakeLimiter(AWAY), changed=by(FailurePolicy.ALLOW))
    assert isinstance(verdict, Allowed)
    assert (verdict.subject.key, verdict.tally) == ("k1", None)


async def test_without_redis_deny_refuses() -> None:
    verdict = await check(FakeLimiter(AWAY), changed=by(FailurePolicy.DENY))
    assert isinstance(verdict, Denied)
    assert (verdict.reason, verdict.subject.key) == (Reason.UNAVAILABLE, "k1")


async def test_without_redis_local_counts_in_this_process() -> None:
    catalog = Catalog.compile(by(FailurePolicy.LOCAL, throttle=limited(1.0, 2)))
    checker = Checker(lambda: catalog, FakeLimiter(AWAY, AWAY, AWAY), LocalLimiter(), lambda: NOW)
    verdicts = [await checker.check(ask()) for _ in range(3)]
    assert [isinstance(verdict, Allowed) for verdict in verdicts] == [True, True, False]
    assert all(verdict.tally and verdict.tally.degraded for verdict in verdicts)


async def test_a_redis_that_goes_between_two_tries_is_away() -> None:
    verdict = await check(FakeLimiter(Tally(TOMORROW, stale=True), AWAY), changed=by(FailurePolicy.ALLOW))
    assert isinstance(verdict, Allowed)


@pytest.mark.parametrize("policy", FailurePolicy)
async def test_what_overload_sheds_is_refused_whatever_the_policy(policy: FailurePolicy) -> None:
    verdict = await check(FakeLimiter(Overloaded("full")), changed=by(policy))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.OVERLOADED


async def test_an_unknown_key_is_refused_as_unknown_without_redis() -> None:
    """The answer is 403, since the file knows all keys."""
    verdict = await check(FakeLimiter(AWAY), ask(key="k2"), by(FailurePolicy.DENY))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.KEY_UNKNOWN


async def test_each_request_is_decided_by_the_catalog_of_its_arrival() -> None:
    catalogs = [Catalog.compile(resources()), Catalog.compile(resources(api_keys=()))]
    checker = Checker(lambda: catalogs.pop(0), FakeLimiter(Tally(NOW, (0,))), LocalLimiter(), lambda: NOW)
    assert isinstance(await checker.check(ask()), Allowed)
    assert isinstance(await checker.check(ask()), Denied)


class FakeRing:
    """A ring that has no key in memory, and finds `answer` on look-up."""

    def __init__(self, answer: Caller | Exception | None) -> None:
        self.answer, self.looked, self.memory = answer, 0, dict[bytes, Caller | None]()

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        return self.memory.get(digest, UNLOOKED)

    async def find(self, digest: bytes) -> Caller | None:
        self.looked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        self.memory[digest] = self.answer
        return self.answer


K2 = Caller("k2", enabled=True, expires_us=None, customer="", plans=("p1",))


def checker(ring: FakeRing, *answers: Tally | Exception) -> Checker:
    catalog = Catalog.compile(METERED)
    return Checker(lambda: catalog, FakeLimiter(*answers), LocalLimiter(), lambda: NOW, ring)


async def test_a_key_that_is_not_in_memory_is_looked_up_once() -> None:
    ring = FakeRing(K2)
    asked = checker(ring, Tally(NOW, (0, 1)), Tally(NOW, (0, 1)))
    verdicts = [await asked.check(ask(key="k2")) for _ in range(2)]
    assert [(type(verdict), verdict.subject.key) for verdict in verdicts] == [(Allowed, "k2")] * 2
    assert ring.looked == 1


async def test_a_key_that_the_store_does_not_have_is_unknown() -> None:
    verdict = await checker(FakeRing(None)).check(ask(key="k2"))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.KEY_UNKNOWN


async def test_a_key_that_cannot_be_looked_up_is_no_stranger() -> None:
    """The answer is 503: the key may be good."""
    verdict = await checker(FakeRing(KeysUnavailable("away"))).check(ask(key="k2"))
    assert isinstance(verdict, Denied)
    assert (verdict.reason, verdict.subject.stage) == (Reason.UNAVAILABLE, "prod")


async def test_the_files_keys_and_requests_without_one_are_never_looked_up() -> None:
    ring = FakeRing(None)
    asked = checker(ring, Tally(NOW, (0, 1)))
    assert isinstance(await asked.check(ask()), Allowed)
    assert isinstance(await asked.check(ask(key=None)), Denied)
    assert ring.looked == 0


async def test_without_any_catalog_no_call_is_let_in() -> None:
    """All calls get 503."""
    verdict = await Checker(lambda: None, FakeLimiter(), LocalLimiter(), lambda: NOW).check(ask())
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.UNAVAILABLE

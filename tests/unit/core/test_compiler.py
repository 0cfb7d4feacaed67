"""A compiler reuses unchanged parts, and its catalog equals a new compiler's."""

from __future__ import annotations

import gc
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.core.catalog import Catalog, Compiler
from authz.core.resources import (
    Account,
    Api,
    ApiStage,
    Method,
    MethodSetting,
    Period,
    QuotaSettings,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.verdict import Grant
from tests.support.builders import key, value_of
from tests.support.world import ask

NOW = 1_700_000_000_000_000
RATES = st.sampled_from((1.0, 2.0, 3.0))
NAMES = ("k1", "k2", "k3")
PATHS = ("/pets", "/toys")


def _settings(rate: float) -> ThrottleSettings:
    return ThrottleSettings(rate_limit=rate, burst_limit=10)


throttles = st.dictionaries(st.sampled_from(("*/*", "/pets/GET", "/pets/*", "/toys/GET")), RATES.map(_settings))
stages = st.builds(
    lambda name, rate: Stage(name=name, method_settings={"*/*": MethodSetting(throttling_rate_limit=rate)}),
    st.sampled_from(("prod", "test")),
    RATES,
)
apis = st.builds(
    lambda paths, found: Api(
        id="a1",
        resources={path: {"GET": Method()} for path in sorted(paths)},
        stages=tuple({stage.name: stage for stage in found}.values()),
    ),
    st.sets(st.sampled_from(PATHS), min_size=1),
    st.lists(stages, min_size=1, max_size=2),
)
plans = st.builds(
    lambda rate, quota, throttle, names: UsagePlan(
        id="p1",
        name="p1",
        throttle=_settings(rate),
        quota=QuotaSettings(limit=quota, period=Period.DAY),
        api_stages=(ApiStage("a1", "prod", throttle), ApiStage("a1", "test", throttle)),
        keys=tuple(sorted(names)),
    ),
    RATES,
    st.integers(1, 2),
    throttles,
    st.sets(st.sampled_from(NAMES)),
)
worlds = st.builds(
    lambda rate, api, plan, names: Resources(
        account=Account(_settings(rate)), apis=(api,), usage_plans=(plan,), api_keys=tuple(map(_key, sorted(names)))
    ),
    RATES,
    apis,
    plans,
    st.sets(st.sampled_from(NAMES)),
)


def _key(name: str) -> Any:
    return key(id=name, value=value_of(name), value_sha256=None)


def _answers(catalog: Catalog) -> list[object]:
    """Resolve each key at each path and stage, and leave out the compiled parts of a subject."""
    found = [
        catalog.resolve(ask(f"/{stage}{path}", key=name), NOW)
        for stage in ("prod", "test")
        for path in PATHS
        for name in NAMES
    ]
    return [(one.limits, one.meter) if isinstance(one, Grant) else getattr(one, "reason", one) for one in found]


@given(st.lists(st.tuples(worlds, st.booleans()), min_size=2, max_size=5))
def test_an_earlier_compilation_makes_no_difference(changes: list[tuple[Resources, bool]]) -> None:
    """Changes of the account's rate, an API's stages and methods, and a plan's numbers, keys and reference."""
    compiler = Compiler()
    for resources, anew in changes:
        refs = {"p1": "p1.two" if anew else "p1.one"}
        again, new = compiler(resources, refs), Catalog.compile(resources, refs=refs)
        assert _answers(again) == _answers(new)
        assert dict(again.callers) == dict(new.callers)
        assert again.plans.keys() == new.plans.keys()


def _world() -> Resources:
    api = Api(id="a1", resources={"/pets": {"GET": Method()}}, stages=(Stage(name="prod"),))
    covered = ApiStage("a1", "prod", {"*/*": _settings(1.0)})
    plan = UsagePlan(
        id="p1",
        name="p1",
        throttle=_settings(1.0),
        quota=QuotaSettings(limit=5, period=Period.DAY),
        api_stages=(covered,),
        keys=("k1",),
    )
    return Resources(apis=(api,), usage_plans=(plan, replace(plan, id="p2", keys=())), api_keys=(_key("k1"),))


def test_what_has_not_changed_is_taken_over() -> None:
    """With a store: each change comes with the file's keys, which are unchanged."""
    world, compiler = _world(), Compiler()
    first = compiler(world, {})
    changed = replace(world, usage_plans=(world.usage_plans[0], replace(world.usage_plans[1], name="another")))
    second = compiler(changed, {})
    assert second.apis["a1"] is first.apis["a1"]
    assert second.callers is first.callers
    assert second.plans["p1"] is first.plans["p1"]
    assert second.plans["p2"] is not first.plans["p2"]


def test_a_compiler_without_a_store_keeps_no_keys_for_the_next_time() -> None:
    """It would hold them in memory twice, and no later compilation would use them."""
    compiler = Compiler()
    compiler(_world())
    assert compiler._callers is None


def test_the_garbage_collector_has_no_plans_or_callers_to_look_through() -> None:
    catalog = Catalog.compile(_world())
    assert isinstance(catalog.resolve(ask(key="k1"), NOW), Grant)
    gc.collect()
    plan = catalog.plans["p1"]["a1", "prod"]
    (quota,) = plan.quotas
    parts = [*catalog.callers.values(), catalog.callers, plan, quota, plan.method_throttles, plan.throttle]
    untracked = [
        part for part in parts if sys.version_info < (3, 14) or not isinstance(part, dict)
    ]  # 3.14: all dicts are
    assert not any(map(gc.is_tracked, untracked))

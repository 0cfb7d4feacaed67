"""Whatever two clients do to the store at once, its indexes follow from its items, and no rule is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.core.resources import ApiKey, ApiStage, UsagePlan
from authz.core.stored import Items, StoredKey, StoredPlan, id_of, kind_of, plan_keys, stage_plans
from authz.store.consistency import differences
from authz.store.ports import Draft, Event, NotUnique, Written
from authz.store.store import Store
from tests.support.servers import RedisServer

KEYS, PLANS, STAGES = ("k1", "k2"), ("p1", "p2"), ("s1",)  # few, so that they meet
EXAMPLES = 60
CLASH = NotUnique("one plan a key and stage")
TAKEN = NotUnique("the value is taken")

Act = Callable[[Draft], Any]


@dataclass
class Seen:
    """What a reader of the change stream knows."""

    items: Items = field(default_factory=dict)
    tag: str = ""


def _put_key(key_id: str, index: str, name: str) -> Act:
    async def edit(draft: Draft) -> None:
        old = await draft.get("apikey", key_id)
        plans = old.plans if isinstance(old, StoredKey) else ()
        draft.put(StoredKey(ApiKey(key_id, name), index, 1, 1, plans=plans), taken=TAKEN)

    return edit


def _put_plan(plan_id: str) -> Act:
    """A new one under an old id has none of the old one's keys."""

    async def edit(draft: Draft) -> None:
        if not await draft.get("usageplan", plan_id):
            draft.put(StoredPlan(UsagePlan(plan_id, "plan"), nonce=uuid4().hex))

    return edit


def _cover(plan_id: str, stage: str) -> Act:
    """A plan gets a stage, unless a key of it is in another plan of that stage."""

    async def edit(draft: Draft) -> None:
        plan = await draft.get("usageplan", plan_id)
        if not isinstance(plan, StoredPlan) or stage in _stages(plan):
            return
        for other_id in await draft.members(stage_plans("a", stage)):
            other = await draft.get("usageplan", other_id)
            if isinstance(other, StoredPlan):
                draft.disjoint(plan_keys(plan.ref), plan_keys(other.ref), CLASH)
        covered = (*plan.plan.api_stages, ApiStage("a", stage))
        draft.put(replace(plan, plan=replace(plan.plan, api_stages=covered)))

    return edit


def _join(key_id: str, plan_id: str) -> Act:
    """A key joins a plan, unless another plan of it covers a stage of that one."""

    async def edit(draft: Draft) -> None:
        key, plan = await draft.get("apikey", key_id), await draft.get("usageplan", plan_id)
        if not isinstance(key, StoredKey) or not isinstance(plan, StoredPlan) or plan.ref in key.plans:
            return
        for ref in key.plans:
            other = await draft.get("usageplan", ref.partition(".")[0])
            if isinstance(other, StoredPlan) and other.ref == ref and _stages(other) & _stages(plan):
                raise CLASH
        draft.put(replace(key, plans=(*key.plans, plan.ref)))

    return edit


def _leave(key_id: str) -> Act:
    async def edit(draft: Draft) -> None:
        key = await draft.get("apikey", key_id)
        if isinstance(key, StoredKey):
            draft.put(replace(key, plans=key.plans[1:]))

    return edit


def _delete_key(key_id: str) -> Act:
    async def edit(draft: Draft) -> None:
        draft.delete("apikey", key_id)

    return edit


def _delete_plan(plan_id: str) -> Act:
    async def edit(draft: Draft) -> None:
        plan = await draft.get("usageplan", plan_id)
        if isinstance(plan, StoredPlan):
            draft.delete("usageplan", plan_id)
            draft.drop(plan_keys(plan.ref))

    return edit


def _stages(plan: StoredPlan) -> set[str]:
    return {covered.stage for covered in plan.plan.api_stages}


# Keys join plans and plans get stages most of the time: these are the acts that races are about.
MEETINGS = [
    *(_join(key_id, plan_id) for key_id in KEYS for plan_id in PLANS),
    *(_cover(plan_id, stage) for plan_id in PLANS for stage in STAGES),
]
OTHERS = [
    *(_put_key(key_id, index, name) for key_id in KEYS for index, name in (("x", "a"), ("y", "ab"))),
    *map(_put_plan, PLANS),
    *map(_leave, KEYS),
    *map(_delete_key, KEYS),
    *map(_delete_plan, PLANS),
]
acts = st.sampled_from([*MEETINGS * 5, *OTHERS])


@settings(max_examples=EXAMPLES)
@given(pairs=st.lists(st.tuples(acts, acts), min_size=8, max_size=20))
def test_two_clients_at_once_break_no_rule(shared_redis: RedisServer, pairs: list[tuple[Act, Act]]) -> None:
    asyncio.run(_two_clients(shared_redis.url, pairs))


async def _two_clients(url: str, pairs: list[tuple[Act, Act]]) -> None:
    account, seen = uuid4().hex, Seen()
    one, other = (Store(url, account=account, budget=10.0) for _ in range(2))
    for act in (*map(_put_key, KEYS, ("x", "y"), ("", "a")), *map(_put_plan, PLANS)):
        await _try(one, act)
    for pair in pairs:
        await asyncio.gather(*(_try(store, act) for store, act in zip((one, other), pair, strict=True)))
    assert await differences(one) == []
    await _follow(one, seen)
    assert seen.items == await _all(one)
    _assert_one_plan_a_stage(seen.items)
    for store in (one, other):
        await store.aclose()


async def _try(store: Store, act: Act) -> None:
    """Each refusal comes from a rule: neither of two clients loses its race again and again."""
    outcome: object = (await asyncio.gather(store.write(act, who="ann", what="Act"), return_exceptions=True))[0]
    assert isinstance(outcome, Written) or outcome in (CLASH, TAKEN)


async def _follow(store: Store, seen: Seen) -> None:
    """Each event names the one before it; the items it names, read again, are all that has changed."""
    for event in await store.changes(0, 0):
        assert event.previous == seen.tag
        await _take_over(store, seen, event)
    assert seen.tag == (await store.head()).tag


async def _take_over(store: Store, seen: Seen, event: Event) -> None:
    seen.tag = event.tag
    for kind, item_id in event.changes:
        item = await store.get(kind, item_id)
        seen.items.pop((kind, item_id), None)
        if item is not None:
            seen.items[kind, item_id] = item


async def _all(store: Store) -> Items:
    found = [*await store.many("apikey", KEYS), *await store.many("usageplan", PLANS)]
    return {(kind_of(item), id_of(item)): item for item in found if item is not None}


def _assert_one_plan_a_stage(items: Items) -> None:
    refs = {plan.ref: plan for plan in items.values() if isinstance(plan, StoredPlan)}
    for key in items.values():
        if isinstance(key, StoredKey):
            covered = [stage for ref in key.plans if ref in refs for stage in _stages(refs[ref])]
            assert len(covered) == len(set(covered)), f"{key.key.id} has two plans for a stage"

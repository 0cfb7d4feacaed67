"""Two clients of the API act at once: no rule is broken, and a follower of the store knows its content."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import combinations
from typing import Any, NamedTuple
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from authz.aws.convert import to_resources
from authz.control.call import Context
from authz.core.catalog import UNLOOKED, Catalog
from authz.core.resources import Resources, digest
from authz.core.stored import Items, StoredKey, StoredPlan
from authz.sidecar.follower import StoreCatalog
from authz.store.consistency import differences
from authz.store.keys import StoreKeyCache
from authz.store.ports import Head
from authz.store.store import Store
from tests.support.control import Control, Reply, patiently, running
from tests.support.servers import DEADLINE_SECONDS, RedisServer

STAGES = ("s1", "s2")  # few of everything, so that they meet
NAMES, VALUES = 3, 4
STEPS = 12
EXAMPLES = max(1, settings().max_examples // 30)
FINE = {200, 201, 202, 400, 404, 409}  # done, or refused by a rule


class Sent(NamedTuple):
    """A call of the API. `kind` is the kind of the resource that it creates, if that has an id."""

    verb: str
    path: str
    body: Any = None
    kind: str = ""


class Pick(NamedTuple):
    """Which key, plan, stage and value an act is about; of how many there are is not known when it is drawn."""

    key: int
    plan: int
    stage: int
    value: int


PICKS = st.builds(Pick, *(st.integers(0, most - 1) for most in (NAMES, NAMES, len(STAGES), VALUES)))
MAKES = ("key", "plan", "bare_plan", "join", "cover", "deploy")
CHANGES = ("leave", "uncover", "limit", "switch", "rotate", "drop_key", "drop_plan", "drop_stage")
RACES = ("join", "cover", "drop_stage")  # keys join plans while plans get stages, which go away
ACT = st.tuples(st.sampled_from([*MAKES, *CHANGES, *RACES * 3]), PICKS)


class Follower:
    """A sidecar's catalog and ring, in the control plane's event loop."""

    def __init__(self, url: str, control: Control) -> None:
        self.store, self.lookups = (Store(url, account=control.account, budget=10.0) for _ in range(2))
        self.ring = StoreKeyCache(self.lookups.find, control.sealer.index)
        self.compiled: tuple[Resources, dict[str, str]] | None = None
        self.catalog = StoreCatalog(self.store, self.ring, self._compile, worker="w1")
        self.watching = asyncio.create_task(self.catalog.watch())

    def _compile(self, resources: Resources, refs: Mapping[str, str]) -> Catalog:
        self.compiled = resources, dict(refs)
        return Catalog.compile(resources, refs=refs)

    async def reaches(self, head: Head) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (self.catalog.served.epoch, self.catalog.served.version) != (head.epoch, head.version):  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def aclose(self) -> None:
        self.watching.cancel()
        with suppress(asyncio.CancelledError):
            await self.watching
        await self.catalog.aclose()
        await self.lookups.aclose()


class Clients(RuleBasedStateMachine):
    """Two clients that call at the same time, and a sidecar that follows."""

    def __init__(self, redis: RedisServer) -> None:
        super().__init__()
        self.running = ExitStack()
        self.control = self.running.enter_context(running(redis.url, uuid4().hex))
        self.pool = self.running.enter_context(ThreadPoolExecutor(2))
        self.ids: dict[str, list[str]] = {"key": ["none"], "plan": ["none"]}
        self.api = self._api()
        self.follower: Follower = self.control.run(lambda _: _following(redis.url, self.control))
        self.running.callback(lambda: self.control.run(lambda _: self.follower.aclose()))
        for made in range(2):
            self._take(*self._send(self._key(Pick(0, 0, 0, made))))
            self._take(*self._send(self._plan(Pick(0, 0, made, 0))))

    def teardown(self) -> None:
        self.running.close()

    # --- what the clients do ---

    @rule(one=ACT, other=ACT)
    def both(self, one: tuple[str, Pick], other: tuple[str, Pick]) -> None:
        calls: list[Sent] = [getattr(self, f"_{name}")(pick) for name, pick in (one, other)]
        for sent, reply in self.pool.map(self._send, calls):
            self._take(sent, reply)

    def _send(self, sent: Sent) -> tuple[Sent, Reply]:
        return sent, patiently(self.control, sent.verb, sent.path, sent.body)

    def _take(self, sent: Sent, reply: Reply) -> None:
        assert reply.status in FINE, (sent, reply)
        if sent.kind and reply.status == 201:
            self.ids[sent.kind] = [*self.ids[sent.kind], reply.json()["id"]][-NAMES:]

    def _api(self) -> str:
        """An API whose stages there are."""
        made = self._made(Sent("POST", "/restapis", {"name": "a"}))
        method = f"/restapis/{made['id']}/resources/{made['rootResourceId']}/methods/GET"
        self._made(Sent("PUT", method, {"authorizationType": "NONE", "apiKeyRequired": True}))
        self._made(Sent("PUT", f"{method}/integration", {"type": "MOCK"}))
        for stage in STAGES:
            self._made(Sent("POST", f"/restapis/{made['id']}/deployments", {"stageName": stage}))
        return str(made["id"])

    def _made(self, sent: Sent) -> Any:
        reply = self._send(sent)[1]
        assert reply.status == 201, reply
        return reply.json()

    def _of(self, kind: str, number: int) -> str:
        return self.ids[kind][number % len(self.ids[kind])]

    def _key_at(self, pick: Pick) -> str:
        return f"/apikeys/{self._of('key', pick.key)}"

    def _plan_at(self, pick: Pick) -> str:
        return f"/usageplans/{self._of('plan', pick.plan)}"

    def _key(self, pick: Pick) -> Sent:
        return Sent("POST", "/apikeys", {"name": "k", "enabled": True, "value": value(pick.value)}, "key")

    def _plan(self, pick: Pick) -> Sent:
        covered = [{"apiId": self.api, "stage": STAGES[pick.stage]}]
        return Sent("POST", "/usageplans", {"name": "p", "apiStages": covered}, "plan")

    def _bare_plan(self, pick: Pick) -> Sent:
        return Sent("POST", "/usageplans", {"name": "p"}, "plan")

    def _join(self, pick: Pick) -> Sent:
        joining = {"keyId": self._of("key", pick.key), "keyType": "API_KEY"}
        return Sent("POST", f"{self._plan_at(pick)}/keys", joining)

    def _leave(self, pick: Pick) -> Sent:
        return Sent("DELETE", f"{self._plan_at(pick)}/keys/{self._of('key', pick.key)}")

    def _cover(self, pick: Pick) -> Sent:
        return _patch(self._plan_at(pick), "add", "/apiStages", f"{self.api}:{STAGES[pick.stage]}")

    def _uncover(self, pick: Pick) -> Sent:
        return _patch(self._plan_at(pick), "remove", "/apiStages", f"{self.api}:{STAGES[pick.stage]}")

    def _limit(self, pick: Pick) -> Sent:
        return _patch(self._plan_at(pick), "replace", "/throttle/burstLimit", str(pick.value))

    def _switch(self, pick: Pick) -> Sent:
        return _patch(self._key_at(pick), "replace", "/enabled", "true" if pick.value % 2 else "false")

    def _rotate(self, pick: Pick) -> Sent:
        rotation = {"value": value(pick.value), "overlapSeconds": 3600 * (pick.stage % 2)}
        return Sent("POST", f"{self._key_at(pick)}/rotate", rotation)

    def _drop_key(self, pick: Pick) -> Sent:
        return Sent("DELETE", self._key_at(pick))

    def _drop_plan(self, pick: Pick) -> Sent:
        return Sent("DELETE", self._plan_at(pick))

    def _drop_stage(self, pick: Pick) -> Sent:
        return Sent("DELETE", f"/restapis/{self.api}/stages/{STAGES[pick.stage]}")

    def _deploy(self, pick: Pick) -> Sent:
        return Sent("POST", f"/restapis/{self.api}/deployments", {"stageName": STAGES[pick.stage]})

    # --- what holds at any time ---

    @invariant()
    def no_rule_is_broken(self) -> None:
        self.control.run(self._holds)

    async def _holds(self, _: Context) -> None:
        store = self.control.store
        assert await differences(store) == []
        snapshot = await store.snapshot()
        keys = [key for key in (await store.page("apikey", "apikey", 500)).items if isinstance(key, StoredKey)]
        _assert_one_plan_a_stage(snapshot.items, keys)
        _assert_stages_exist(snapshot.items)
        await self.follower.reaches(snapshot.head)
        assert self.follower.compiled == to_resources(snapshot.items)
        await self._assert_the_ring_knows(store)

    async def _assert_the_ring_knows(self, store: Store) -> None:
        """The ring's memory agrees with the store; afterwards all values are in its memory."""
        for number in range(VALUES):
            found = digest(value(number))
            remembered = self.follower.ring.known(found)
            stored = (await store.find(self.control.sealer.index(found))).key
            looked_up = await self.follower.ring.find(found)
            assert (looked_up and looked_up.id) == (stored and stored.key.id)
            assert remembered in (UNLOOKED, looked_up)


def value(number: int) -> str:
    return f"value-of-a-client-number-{number}"


def _patch(path: str, op: str, where: str, to: str) -> Sent:
    return Sent("PATCH", path, {"patchOperations": [{"op": op, "path": where, "value": to}]})


async def _following(url: str, control: Control) -> Follower:
    follower = Follower(url, control)
    await asyncio.wait_for(follower.catalog.loaded(), DEADLINE_SECONDS)
    return follower


def _covered(plan: StoredPlan) -> set[tuple[str, str]]:
    return {(covered.api_id, covered.stage) for covered in plan.plan.api_stages}


def _assert_one_plan_a_stage(items: Items, keys: list[StoredKey]) -> None:
    plans = {plan.ref: plan for plan in items.values() if isinstance(plan, StoredPlan)}
    for key in keys:
        signed = [plans[ref] for ref in key.plans if ref in plans]
        for one, other in combinations(signed, 2):
            assert not _covered(one) & _covered(other), f"{key.key.id} has two plans for a stage"


def _assert_stages_exist(items: Items) -> None:
    for plan in items.values():
        if isinstance(plan, StoredPlan):
            assert all(("stage", f"{api}/{stage}") in items for api, stage in _covered(plan)), plan


def test_two_clients_at_once_break_no_rule(shared_redis: RedisServer) -> None:
    few = settings(max_examples=EXAMPLES, stateful_step_count=STEPS)
    run_state_machine_as_test(lambda: Clients(shared_redis), settings=few)  # type: ignore[arg-type]

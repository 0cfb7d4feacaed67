"""Imports resources into the store from files, exports them, and writes and restores backups.

An import changes only the items that its files name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from authz.aws.awsfiles import Wanted, written
from authz.aws.completed import completed
from authz.aws.convert import by_plan_id, flattened, plain_method, to_resources
from authz.aws.merged import lost_methods, merged
from authz.aws.restapis import snapshot
from authz.config.documents import as_yaml
from authz.config.faults import ConfigError
from authz.config.fields import camel
from authz.config.quotas import to_document
from authz.core.planrules import Costs, cost_problems, override_problems
from authz.core.problem import Problem
from authz.core.resources import ApiKey, Method, Override, Resources, UsagePlan
from authz.core.rules import problems
from authz.core.stored import (
    Item,
    Items,
    RestApi,
    StoredAccount,
    StoredCustomer,
    StoredDeployment,
    StoredKey,
    StoredMethod,
    StoredPlan,
    StoredStage,
    id_of,
    kind_of,
    plan_id_of,
    plan_keys,
    stage_plans,
)
from authz.store.ports import Archive, BackupEntry, Draft, Reader, StoreRefusal, Writer
from authz.store.sealing import Sealer, SealError
from authz.store.served import served_apis
from authz.transfer.files import written as written_file

T = TypeVar("T")

CHUNK: Final = 500  # items in one write: enough to be quick, few enough not to block Redis for other callers
# The kinds in the order of writing: an item comes after the items that it refers to.
ORDER: Final = ("account", "restapi", "deployment", "stage", "domain", "usageplan", "customer", "apikey")
UNTOLD: Final = frozenset({"created_date", "last_updated_date", "nonce", "sealed", "index", "plans"})
NESTED: Final = frozenset({"account", "customer", "key", "plan"})
# Members of APIs and stages that a plans.yaml can express, or that the store sets by itself.
SAID: Final = frozenset(
    {
        "id",
        "name",
        "created_date",
        "last_updated_date",
        "root_resource_id",
        "api_key_source",
        "key_sources",
        "authorizer",
    }
    | {"forward_api_key", "cost_from", "resources", "gateway_responses", "endpoint_configuration"}
    | {"api_id", "stage_name", "deployment_id", "method_settings", "variables"}
)
NONCE_BYTES: Final = 6
MAGIC: Final = b"authz backup 1\n"
LENGTH_BYTES: Final = 8


class Change(NamedTuple):
    """One change that an import makes: `+`, `~` or `-`, the item, and the members that differ."""

    sign: str
    what: str
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.sign} {self.what}" + (f" ({', '.join(self.members)})" if self.members else "")


class ImportRefused(StoreRefusal):
    """The import breaks a rule of the store: a value has one key, and a key has one plan for a stage."""


# --- import -------------------------------------------------------------------------------------------------------


@dataclass
class Import:
    """Brings `wanted` into a store in writes of at most `CHUNK` items. `changes` and `warnings` describe the result."""

    store: Writer
    sealer: Sealer
    wanted: Wanted
    now: int
    who: str
    step: Callable[[int], None] = lambda _: None
    """Called after each write with the number of its items."""
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.warnings += self.wanted.warnings
        self._plans_of: dict[str, list[str]] = {}
        for plan, keys in self.wanted.members.items():
            for key in keys:
                self._plans_of.setdefault(key, []).append(plan)

    async def preview(self) -> None:
        """Find the changes without making them."""
        planned = _Planned(self.store)
        for items in self._chunks():
            await planned.look_up(kind_of(items[0]), [id_of(item) for item in items])
            for item in items:
                await self._bring(planned, item)
            self.step(len(items))

    async def run(self) -> None:
        """Make the changes. If a write fails, the writes before it stay; running again continues from there."""
        for items in self._chunks():
            before, warned = len(self.changes), len(self.warnings)

            async def edit(edit: Draft, items: list[Item] = items, before: int = before, warned: int = warned) -> None:
                del self.changes[before:], self.warnings[warned:]  # of an attempt that another writer overtook
                await edit.many(kind_of(items[0]), [id_of(item) for item in items])
                target = _Committed(edit)
                for item in items:
                    await self._bring(target, item)

            await self.store.write(edit, who=self.who, what=f"Import {kind_of(items[0])} {len(items)}")
            self.step(len(items))

    def _chunks(self) -> Iterator[list[Item]]:
        for kind in ORDER:
            items = [item for (found, _), item in self.wanted.items.items() if found == kind]
            yield from (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))

    async def _bring(self, target: _Target, item: Item) -> None:
        kind, name = kind_of(item), id_of(item)
        old = await target.get(kind, name) or (StoredAccount() if kind == "account" else None)
        new = await self._fitted(target, item, old)
        if new is None:
            return
        members = _differences(old, new)
        if old is None:
            self.changes.append(Change("+", f"{kind} {name}"))
        elif members:
            self.changes.append(Change("~", f"{kind} {name}", members))
        if isinstance(new, StoredKey):
            was = set(old.plans) if isinstance(old, StoredKey) else set()
            for sign, refs in (("+", set(new.plans) - was), ("-", was - set(new.plans))):
                pairs = [f"usageplankey {plan_id_of(ref)}/{new.key.id}" for ref in sorted(refs)]
                self.changes += [Change(sign, pair) for pair in pairs]
        if new != old:
            await target.put(new)
        await self._tell_costs(target, new)

    async def _fitted(self, target: _Target, item: Item, old: Item | None) -> Item | None:
        """Return the item to store, with members of the old item that only the store knows; None to leave it out."""
        if self.wanted.is_partial:
            if isinstance(item, StoredDeployment) and old is None and await self._is_served(target, item):
                return None
            item = await self._merged(target, item, old)
        else:
            item = await self._completed(target, item, old)
        match item, old:
            case StoredPlan(), _:
                nonce = old.nonce if isinstance(old, StoredPlan) else token_hex(NONCE_BYTES)
                return replace(item, plan=await self._covering(target, item.plan), nonce=nonce)
            case StoredKey(), _:
                return await self._key(target, item, old if isinstance(old, StoredKey) else None)
            case StoredCustomer(), _:
                overrides = await self._by_ref(target, f"customer {item.id}", item.overrides)
                if isinstance(old, StoredCustomer) and self.wanted.is_partial:
                    overrides = self._kept_overrides(old.overrides) | overrides
                item = replace(item, overrides=overrides)
        return _dated(item, old, self.now)

    async def _merged(self, target: _Target, item: Item, old: Item | None) -> Item:
        """Merge an item of a plans.yaml with the old item's members that such a file cannot express."""
        if old is None:
            return item
        found = merged(old, item)
        if isinstance(old, RestApi) and isinstance(found, RestApi) and (lost := lost_methods(old, found)):
            self.warnings.append(f"restapi {old.id}: taken out, since the file does not have them: {', '.join(lost)}")
        if isinstance(old, StoredStage) and isinstance(found, StoredStage):
            brought = self.wanted.items.get(("deployment", f"{found.api_id}/{found.deployment_id}"))
            if isinstance(brought, StoredDeployment) and await self._serves(target, old, brought):
                return replace(found, deployment_id=old.deployment_id)
        return found

    async def _completed(self, target: _Target, item: Item, old: Item | None) -> Item:
        """Complete an item of the aws cli with the old item's members of ours, which its row lacks."""
        if isinstance(item, StoredDeployment):  # it serves the methods of the API as the import has stored it
            api = await target.get("restapi", item.api_id)
            known = ("restapi", item.api_id) in self.wanted.rows
            return replace(item, snapshot=snapshot(api)) if known and isinstance(api, RestApi) else item
        row = self.wanted.rows.get((kind_of(item), id_of(item)))
        if old is None or row is None:
            return item
        found, lost = completed(old, item, row)
        self.warnings += [f"{kind_of(item)} {id_of(item)}: {text}" for text in lost]
        return found

    async def _tell_costs(self, target: _Target, item: Item) -> None:
        """Add a warning for each limit that never admits a call: of this plan, or of the other plans of this stage."""
        plans: list[Item | None] = []
        match item:
            case StoredPlan():
                plans = [item]
            case StoredStage():
                names = await target.members(stage_plans(item.api_id, item.stage_name))
                others = [name for name in names if ("usageplan", name) not in self.wanted.items]
                plans = [await target.get("usageplan", name) for name in others]
        for plan in plans:
            if isinstance(plan, StoredPlan):
                costs = Costs({api.id: api for api in await served_apis(target, plan.plan.api_stages)})
                found = cost_problems(plan.plan, costs, f"usageplan {plan.plan.id}")
                self.warnings += [f"{problem.address}: {problem.rule}" for problem in found]

    async def _is_served(self, target: _Target, deployment: StoredDeployment) -> bool:
        """True if each stage that is to serve a deployment already serves an equal one, under any id."""
        wanted = [item for item in self.wanted.items.values() if isinstance(item, StoredStage)]
        stages = [await target.get("stage", new.id) for new in wanted if new.deployment_id == deployment.id]
        return all([isinstance(old, StoredStage) and await self._serves(target, old, deployment) for old in stages])

    async def _serves(self, target: _Target, stage: StoredStage, deployment: StoredDeployment) -> bool:
        served = await target.get("deployment", f"{stage.api_id}/{stage.deployment_id}")
        return isinstance(served, StoredDeployment) and served.snapshot == deployment.snapshot

    async def _covering(self, target: _Target, plan: UsagePlan) -> UsagePlan:
        """Return the plan without stages that do not exist, and add a warning for each of those."""
        kept = []
        for stage in plan.api_stages:
            if await target.get("stage", f"{stage.api_id}/{stage.stage}"):
                kept.append(stage)
            else:
                self.warnings.append(f"usageplan {plan.id}: there is no stage {stage.api_id}:{stage.stage}; left out")
        return replace(plan, api_stages=tuple(kept), keys=())

    async def _key(self, target: _Target, item: StoredKey, old: StoredKey | None) -> StoredKey | None:
        name = item.key.id
        if not item.index and old is None:
            self.warnings.append(f"apikey {name}: not kept: its value is missing: print with --include-values")
            return None
        refs = await self._refs(target, name, old)
        overrides = await self._by_ref(target, f"apikey {name}", item.overrides)
        if old is None:
            return replace(item, overrides=overrides, sealed=self._sealed(name)).in_plans(refs)
        overrides = self._kept_overrides(old.overrides) | overrides
        item = replace(item, overrides=overrides).in_plans(refs)
        if item.index in ("", old.index):
            sealed = old.sealed or self._sealed(name)
            stages = item.stage_keys or old.stage_keys
            same = replace(old, key=item.key, plans=refs, overrides=item.overrides, stage_keys=stages, sealed=sealed)
        else:  # another value: the key's old values become invalid
            same = replace(item, sealed=self._sealed(name), created_date=old.created_date, last_updated_date=0)
        return same if same == old else replace(same, last_updated_date=self.now)

    def _kept_overrides(self, old: Mapping[str, Override]) -> dict[str, Override]:
        """Return old overrides that the import does not replace: AWS's documents have none, a plans.yaml those in its
        own plans."""
        replaced = self.wanted.members if self.wanted.is_partial else ()
        return {ref: override for ref, override in old.items() if plan_id_of(ref) not in replaced}

    async def _by_ref(self, target: _Target, what: str, overrides: Mapping[str, Override]) -> dict[str, Override]:
        """Return overrides by plan id as overrides by reference. Add a warning for each plan that does not exist."""
        found = {}
        for plan_id, override in overrides.items():
            plan = await target.get("usageplan", plan_id)
            if isinstance(plan, StoredPlan):
                found[plan.ref] = override
                apis = await served_apis(target, plan.plan.api_stages)
                holder = ApiKey("any", overrides={plan.plan.id: override})
                within = Resources(apis=apis, usage_plans=(plan.plan,), api_keys=(holder,))
                self.warnings += [
                    f"{what}: its override for {plan_id}: {one.rule}" for one in override_problems(within)
                ]
            else:
                self.warnings.append(f"{what}: there is no usage plan {plan_id}; its override is left out")
        return found

    def _sealed(self, name: str) -> str | None:
        value = self.wanted.values.get(name)
        return self.sealer.seal(value, name) if value is not None and self.sealer.can_seal else None

    async def _refs(self, target: _Target, name: str, old: StoredKey | None) -> tuple[str, ...]:
        """Return the key's plans: its present plans whose keys the import does not list, and those that list the key.

        Raises ImportRefused if two of the plans cover one stage.
        """
        refs, covered = [], dict[tuple[str, str], str]()
        for ref in old.plans if old else ():
            plan = await target.get("usageplan", plan_id_of(ref))
            if isinstance(plan, StoredPlan) and plan.ref == ref and plan.plan.id not in self.wanted.members:
                refs.append(plan)
        for plan_id in self._plans_of.get(name, ()):
            plan = await target.get("usageplan", plan_id)
            if isinstance(plan, StoredPlan):
                refs.append(plan)
            else:
                self.warnings.append(f"apikey {name}: there is no usage plan {plan_id}; left out")
        for plan in refs:
            for stage in plan.plan.api_stages:
                other = covered.setdefault((stage.api_id, stage.stage), plan.plan.id)
                if other != plan.plan.id:
                    place = f"{stage.api_id}:{stage.stage}"
                    raise ImportRefused(f"the key {name} would be in two plans for {place}: {other} and {plan.plan.id}")
        was = old.plans if old else ()
        found = {plan.ref for plan in refs}
        # Present plans keep their order, so that a key without new plans does not change.
        return (*(ref for ref in was if ref in found), *(plan.ref for plan in refs if plan.ref not in was))


class _Target(Protocol):
    """Finds the present items for an import and takes its new ones: an edit of the store, or a preview in memory."""

    async def get(self, kind: str, item_id: str, /) -> Item | None: ...

    async def members(self, list_: str, /) -> list[str]: ...

    async def put(self, item: Item, /) -> None: ...


class _Planned:
    """Previews an import: reads a store, and keeps new items in memory."""

    def __init__(self, store: Reader) -> None:
        self._store = store
        self._found: dict[tuple[str, str], Item | None] = {}

    async def look_up(self, kind: str, ids: list[str]) -> None:
        found = await self._store.many(kind, ids)
        self._found |= {(kind, item_id): item for item_id, item in zip(ids, found, strict=True)}

    async def get(self, kind: str, item_id: str) -> Item | None:
        if (kind, item_id) not in self._found:
            await self.look_up(kind, [item_id])
        return self._found[kind, item_id]

    async def members(self, list_: str) -> list[str]:
        return await self._store.members(list_)

    async def put(self, item: Item) -> None:
        self._found[kind_of(item), id_of(item)] = item


class _Committed:
    """An edit that keeps two rules: a value has one key, and a key has one plan for a stage."""

    def __init__(self, edit: Draft) -> None:
        self._edit = edit

    async def get(self, kind: str, item_id: str) -> Item | None:
        return await self._edit.get(kind, item_id)

    async def members(self, list_: str) -> list[str]:
        return await self._edit.members(list_)

    async def put(self, item: Item) -> None:
        old = await self._edit.get(kind_of(item), id_of(item))
        if isinstance(item, StoredPlan) and isinstance(old, StoredPlan):  # a new plan has no keys yet
            await self._keep_apart(item, old)
        taken = ImportRefused(f"the value of the key {id_of(item)} is already that of another key")
        self._edit.put(item, taken=taken if isinstance(item, StoredKey) else None)

    async def _keep_apart(self, new: StoredPlan, old: StoredPlan) -> None:
        """Commit only if no key of the plan is in another plan that covers one of the plan's new stages."""
        was = {(stage.api_id, stage.stage) for stage in old.plan.api_stages}
        for api_id, stage in ((found.api_id, found.stage) for found in new.plan.api_stages):
            for other in await self._edit.members(stage_plans(api_id, stage)) if (api_id, stage) not in was else ():
                plan = await self._edit.get("usageplan", other)
                if isinstance(plan, StoredPlan) and other != new.plan.id:
                    text = f"a key would be in two plans for {api_id}:{stage}: {other} and {new.plan.id}"
                    self._edit.disjoint(plan_keys(new.ref), plan_keys(plan.ref), ImportRefused(text))


def _dated(item: Item, old: Item | None, now: int) -> Item:
    """Return the item with the old item's dates. If the items differ, `last_updated_date` is `now`."""
    fields = item.__struct_fields__
    if old is None or "created_date" not in fields:
        return item
    dates = {name: getattr(old, name) for name in ("created_date", "last_updated_date") if name in fields}
    dated: Item = replace(item, **dates)
    return replace(dated, last_updated_date=now) if dated != old and "last_updated_date" in fields else dated


def _differences(old: Item | None, new: Item) -> tuple[str, ...]:
    """Return the members that differ, under the names that users know. A key's value is named, never shown."""
    if old is None or old == new:
        return ()
    found = {name: (getattr(old, name), getattr(new, name)) for name in new.__struct_fields__ if name not in UNTOLD}
    differing = []
    for name, (was, is_) in found.items():
        if was == is_:
            continue
        parts = is_.__struct_fields__ if name in NESTED else ()
        differing += [part for part in parts if getattr(was, part) != getattr(is_, part)] or [name]
    if isinstance(old, StoredKey) and isinstance(new, StoredKey) and (old.index, old.sealed) != (new.index, new.sealed):
        differing.append("value")
    return tuple(map(camel, differing))


# --- export -------------------------------------------------------------------------------------------------------


@dataclass
class Export:
    """Exports all resources of a store. `warnings` names the parts that the exported form cannot express."""

    items: Items
    sealer: Sealer
    include_values: bool = False
    warnings: list[str] = field(default_factory=list)

    def yaml(self) -> str:
        """Return the resources as the text of a configuration file."""
        resources, refs = to_resources(self.items)
        keys = tuple(self._keys())
        told = {key.id for key in keys}
        members: dict[str, list[str]] = {}
        for stored in _of(self.items, StoredKey):
            for ref in stored.plans if stored.key.id in told else ():
                members.setdefault(ref, []).append(stored.key.id)
        plans = tuple(replace(plan, keys=tuple(members.get(refs[plan.id], ()))) for plan in resources.usage_plans)
        whole = flattened(replace(resources, usage_plans=plans, api_keys=keys))
        self._tell_lost()
        self.warnings += [f"the file will be refused: {problem}" for problem in problems(whole)]
        return as_yaml(to_document(whole))

    def aws(self) -> dict[str, bytes]:
        """Return the resources as files, by name, in the form of the aws cli's get-commands."""
        secrets: dict[str, dict[str, str]] = {}
        for key in self._keys():
            told = {"value": key.value, "valueSha256": key.value_sha256}
            secrets[key.id] = {name: text for name, text in told.items() if text is not None}
        for stage in _of(self.items, StoredStage):
            api = self.items.get(("restapi", stage.api_id))
            served = self.items.get(("deployment", f"{stage.api_id}/{stage.deployment_id}"))
            if isinstance(api, RestApi) and isinstance(served, StoredDeployment) and served.snapshot != snapshot(api):
                self.warnings.append(f"stage {stage.id}: its API was edited since; the methods are those of now")
        self.warnings += [f"domain {name}: left out" for kind, name in self.items if kind == "domain"]
        documents = written(self.items, secrets)
        return {name: msgspec.json.format(msgspec.json.encode(found)) + b"\n" for name, found in documents.items()}

    def _keys(self) -> Iterator[ApiKey]:
        """Yield keys, each with its value or its digest. Leave out keys without either, and add a warning for each."""
        ids = {plan.ref: plan.plan.id for plan in _of(self.items, StoredPlan)}
        is_peppered = self.sealer.index(bytes(32)) != bytes(32).hex()
        for stored in _of(self.items, StoredKey):
            name = stored.key.id
            if stored.previous_index:
                self.warnings.append(f"apikey {name}: the value before the last rotation is left out")
            value = None
            if self.include_values and stored.sealed:
                try:
                    value = self.sealer.open(stored.sealed, name)
                except SealError as fault:
                    self.warnings.append(f"apikey {name}: its value: {fault}")
            key = replace(stored.key, overrides=by_plan_id(stored.overrides, ids))
            if value is not None:
                yield replace(key, value=value)
            elif not is_peppered:
                yield replace(key, value_sha256=stored.index)
            else:
                self.warnings.append(f"apikey {name}: left out: under a pepper only a sealed value can be exported")

    def _tell_lost(self) -> None:
        for stage in _of(self.items, StoredStage):
            self._tell_wordless(f"stage {stage.id}", stage, StoredStage("", "", "", 0, 0))
        for api in _of(self.items, RestApi):
            self._tell_wordless(f"restapi {api.id}", api, RestApi("", "", 0, ""))
            if not any(stage.api_id == api.id for stage in _of(self.items, StoredStage)):
                continue
            served = [found.snapshot.resources for found in _of(self.items, StoredDeployment) if found.api_id == api.id]
            if snapshot(api).resources not in served:
                self.warnings.append(f"restapi {api.id}: edits that are not deployed are left out")

    def _tell_wordless(self, what: str, item: RestApi | StoredStage, plain: RestApi | StoredStage) -> None:
        """Add a warning for the members of an item that are set and that a file cannot express."""
        names = [
            name for name in item.__struct_fields__ if name not in SAID and getattr(item, name) != getattr(plain, name)
        ]
        found = [camel(name) for name in names]
        nodes = item.resources.values() if isinstance(item, RestApi) else ()
        if any(_says_more(node.id, method) for node in nodes for method in node.methods.values()):
            found.append("integrations and responses of methods")
        if found:
            self.warnings.append(f"{what}: left out, for want of words in a file: {', '.join(found)}")


def _says_more(resource_id: str, method: StoredMethod) -> bool:
    """True if a method has more than a file can express, and more than an import derives from the file."""
    served = Method(method.api_key_required, method.cost, method.cost_from)
    plain = plain_method(resource_id, served)
    return method not in (plain, replace(plain, method_integration=None))


async def everything(store: Reader, step: Callable[[int], None] = lambda _: None) -> Items:
    """Return all resources of a store but credentials. They are not all as of one moment, unlike those of `backup`.

    `step` is called with 1 for each API and each key.
    """
    items = dict((await store.snapshot()).items)
    for kind in ("restapi", "customer", "apikey"):
        async for item in _listed(store, kind):
            items[kind, id_of(item)] = item
            step(1)
    return dict(sorted(items.items(), key=lambda named: named[0]))  # so that two exports of one state are equal


async def _listed(store: Reader, kind: str) -> AsyncIterator[Item]:
    position: str | None = None
    while True:
        page = await store.page(kind, kind, CHUNK, position)
        for item in page.items:
            yield item
        position = page.position
        if position is None:
            return


def _of(items: Mapping[tuple[str, str], Item], kind: type[T]) -> list[T]:
    return [item for item in items.values() if isinstance(item, kind)]


# --- backup -------------------------------------------------------------------------------------------------------


Seen = Callable[[int, bool], None]
"""Called for each Redis key of a backup with its name within the account and the bytes that it takes in the file."""


def _unseen(_size: int, _is_counter: bool) -> None:
    """The default: does nothing."""


async def backup(archive: Archive, path: Path, seen: Seen = _unseen) -> int:
    """Write a backup: the resources as of one moment, and then the counters. Returns how many Redis keys it holds.

    A file appears once it is complete, and only its owner may read it. A device or a FIFO is written in place.
    """
    with written_file(path) as file:
        count, summed = 0, hashlib.sha256()
        file.write(MAGIC)
        seen(len(MAGIC), False)
        async for kept in archive.dump():
            frame = msgspec.msgpack.encode(kept)
            summed.update(frame)
            file.write(len(frame).to_bytes(LENGTH_BYTES) + frame)
            count += 1
            seen(LENGTH_BYTES + len(frame), kept.is_counter)
        file.write(bytes(LENGTH_BYTES) + summed.digest())
        seen(LENGTH_BYTES + summed.digest_size, False)
    return count


async def restore(archive: Archive, path: Path, seen: Seen = _unseen) -> int:
    """Replace the account's resources and counters by a backup. Raises ConfigError if the backup is not valid."""
    with path.open("rb") as file:
        if not file.seekable():
            raise ConfigError([Problem(str(path), "expected a file: a backup is read twice, first to verify it")])
        for _ in _frames(file, path):  # verify the whole file before anything changes
            pass
        return await archive.load(_kept(file, path, seen))


async def _kept(file: BinaryIO, path: Path, seen: Seen) -> AsyncIterator[BackupEntry]:
    seen(len(MAGIC), False)
    for frame in _frames(file, path):
        kept = _decoded(frame, path)
        seen(LENGTH_BYTES + len(frame), kept.is_counter)
        yield kept
    seen(LENGTH_BYTES + hashlib.sha256().digest_size, False)


def _frames(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the frames of a backup, then compare the checksum. Raises ConfigError if the backup is damaged."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise ConfigError([Problem(str(path), "not a backup")])
    summed = hashlib.sha256()
    while length := int.from_bytes(file.read(LENGTH_BYTES)):
        if length > size - file.tell():
            raise _damaged(path)
        frame = file.read(length)
        summed.update(frame)
        _decoded(frame, path)
        yield frame
    if file.read(len(summed.digest()) + 1) != summed.digest():
        raise _damaged(path)


def _decoded(frame: bytes, path: Path) -> BackupEntry:
    try:
        return msgspec.msgpack.decode(frame, type=BackupEntry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> ConfigError:
    return ConfigError([Problem(str(path), "a damaged backup, or a part of one; nothing was restored")])

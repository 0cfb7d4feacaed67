"""The store in a real Redis: atomic, versioned, and consistent whatever happens to a write."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import chain, count
from typing import Any, cast

import msgspec
import pytest
import redis.asyncio
from msgspec.structs import replace
from redis.exceptions import ConnectionError as LostConnection

from authz.core.resources import (
    Account,
    ApiKey,
    ApiStage,
    Deployment,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
)
from authz.core.stored import (
    ACCOUNT,
    Item,
    Items,
    StoredAccount,
    StoredDeployment,
    StoredKey,
    StoredPlan,
    StoredStage,
    by_customer,
    by_name,
    children,
    id_of,
    kind_of,
    plan_keys,
    stage_plans,
)
from authz.limiter.limiter import RedisLimiter
from authz.store.audit import audit
from authz.store.backup import Backups
from authz.store.consistency import differences
from authz.store.database import CHUNK
from authz.store.edit import Edit
from authz.store.ports import (
    BackupEntry,
    Contention,
    Draft,
    Head,
    InvalidPosition,
    NotUnique,
    ReadOnlyItem,
    StoreUnavailable,
    Written,
)
from authz.store.store import ATTEMPTS, Store
from authz.store.usage import UsageLedger
from tests.conftest import Clock
from tests.support.builders import held
from tests.support.servers import RedisServer, redis_server

MakeStore = Callable[..., Store]


class Refused(Exception):  # noqa: N818
    """What an edit of a test raises."""


TAKEN = NotUnique("API Key already exists")


@pytest.fixture
async def make_store(shared_redis: RedisServer, account: str, clock: Clock) -> AsyncIterator[MakeStore]:
    """Stores of one account; what each leaves behind is consistent."""
    made: list[Store] = []

    def make(**options: Any) -> Store:
        made.append(Store(shared_redis.url, **{"account": account, "budget": 10.0, "clock": clock, **options}))
        return made[-1]

    yield make
    for store in made:
        assert await differences(store) == []
        await store.aclose()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


def _key(key_id: str, *plans: str, name: str = "", customer: str | None = None, index: str = "") -> StoredKey:
    return StoredKey(ApiKey(key_id, name, customer_id=customer), index or f"{key_id}-digest", 1, 1, plans=plans)


def _plan(plan_id: str, *stages: str, called: str = "plan") -> StoredPlan:
    covered = tuple(ApiStage(api_id, name) for api_id, _, name in (stage.partition("/") for stage in stages))
    return StoredPlan(UsagePlan(plan_id, called, api_stages=covered), nonce="n")


def _stage(api_id: str, name: str, deployment: str) -> StoredStage:
    return StoredStage(api_id, name, deployment, 1, 1)


def _items(*items: Item) -> Items:
    return {(kind_of(item), id_of(item)): item for item in items}


async def _write(store: Store, edit: Callable[[Edit], Awaitable[Any]]) -> Written[Any]:
    return await store.write(edit, who="ann", what="Test")


async def _put(store: Store, *items: Item, taken: Exception | None = None) -> int:
    async def edit(draft: Draft) -> None:
        for item in items:
            draft.put(item, taken=taken)

    return (await _write(store, edit)).version


async def _delete(store: Store, kind: str, item_id: str) -> int:
    async def edit(draft: Draft) -> None:
        draft.delete(kind, item_id)

    return (await _write(store, edit)).version


async def _rename(store: Store, plan_id: str, name: str) -> int:
    async def edit(draft: Draft) -> None:
        plan = await draft.get("usageplan", plan_id)
        assert isinstance(plan, StoredPlan)
        draft.put(replace(plan, plan=replace(plan.plan, name=plan.plan.name + name)))

    return (await _write(store, edit)).version


async def test_an_item_is_read_as_it_was_written(store: Store) -> None:
    items: list[Item] = [
        _key("k1", "p1.n", name="Ä key", customer="c"),
        _plan("p1", "a/prod"),
        _stage("a", "prod", "d1"),
        StoredDeployment("d1", "a", 1, Deployment()),
        StoredAccount(Account(ThrottleSettings(0.5, 1)), cloudwatch_role_arn="arn"),
    ]
    await _put(store, *items)
    assert [await store.get(kind_of(item), id_of(item)) for item in items] == items
    assert await store.get("apikey", "k2") is None
    assert await store.many("apikey", ["k2", "k1"]) == [None, items[0]]
    assert await store.members(plan_keys("p1.n")) == ["k1"]
    assert await store.members(stage_plans("a", "prod")) == ["p1"]
    assert await store.members(children("stage", "a")) == ["a/prod"]
    assert await store.count("apikey") == 1
    assert await store.owner("key/k1-digest") == "apikey/k1"


async def test_each_commit_is_a_version(store: Store) -> None:
    assert await store.head() == Head()
    assert await _put(store, _plan("p1")) == 1
    first = await store.head()
    assert (await _put(store, _plan("p2")), await _rename(store, "p1", "!")) == (2, 3)
    last = await store.head()
    assert (last.epoch, last.version) == (first.epoch, 3)
    assert first.epoch
    assert last.tag != first.tag


async def test_an_edit_that_changes_nothing_is_no_version(store: Store) -> None:
    await _put(store, _plan("p1"))
    assert await _put(store, _plan("p1")) == 1
    assert await _delete(store, "usageplan", "p2") == 1
    assert len(await store.changes(0, 0)) == 1


async def test_an_edit_sees_its_own_writes(store: Store) -> None:
    async def edit(draft: Draft) -> list[Item | None]:
        draft.put(_plan("p1"))
        put = await draft.get("usageplan", "p1")
        draft.delete("usageplan", "p1")
        return [put, await draft.get("usageplan", "p1")]

    assert (await _write(store, edit)).result == [_plan("p1"), None]


async def test_of_two_writers_none_is_forgotten(make_store: MakeStore) -> None:
    """Both read the plan before either commits: the loser reads again and adds to what the winner wrote."""
    one, other = make_store(), make_store()
    await _put(one, _plan("p1", called="-"))
    await asyncio.gather(*(_rename(store, "p1", word) for store, word in ((one, "a"), (other, "b"))))
    plan = await one.get("usageplan", "p1")
    assert isinstance(plan, StoredPlan)
    assert sorted(plan.plan.name) == ["-", "a", "b"]


async def test_sixteen_processes_write_one_item_and_none_gives_up(make_store: MakeStore) -> None:
    """Each has a store of its own, as if in another process: pauses that differ let all of them through."""
    stores = [make_store() for _ in range(16)]
    await _put(stores[0], _plan("p1", called="-"))
    await asyncio.gather(*(_rename(store, "p1", "x") for store in stores for _ in range(4)))
    plan = await stores[0].get("usageplan", "p1")
    assert isinstance(plan, StoredPlan)
    assert plan.plan.name == "-" + 64 * "x"


@pytest.mark.parametrize("race", ["item", "members"])
async def test_a_write_that_always_loses_its_race_is_given_up(make_store: MakeStore, race: str) -> None:
    store, other = make_store(), make_store()
    await _put(store, _plan("p1"))
    runs: list[int] = []

    async def edit(draft: Draft) -> None:
        await (draft.get("usageplan", "p1") if race == "item" else draft.members(stage_plans("a", "prod")))
        runs.append(len(runs))
        await _put(other, _plan("p1", *(["a/prod"] if len(runs) % 2 else []), called=f"plan{len(runs)}"))
        draft.put(_plan("mine"))

    with pytest.raises(Contention):
        await _write(store, edit)
    assert len(runs) == ATTEMPTS
    assert await store.get("usageplan", "mine") is None


async def test_an_absent_item_that_was_read_is_a_condition_too(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()

    async def create(draft: Draft) -> str:
        if await draft.get("stage", "a/prod"):
            return "exists"
        await _put(other, _stage("a", "prod", "theirs"))
        draft.put(_stage("a", "prod", "ours"))
        return "created"

    assert (await _write(store, create)).result == "exists"
    assert await store.get("stage", "a/prod") == _stage("a", "prod", "theirs")


async def test_what_an_edit_raises_leaves_everything_as_it_was(store: Store) -> None:
    async def edit(draft: Draft) -> None:
        draft.put(_plan("p1"))
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        await _write(store, edit)
    assert (await store.head(), await store.get("usageplan", "p1")) == (Head(), None)


async def test_a_value_has_one_owner(store: Store) -> None:
    """The second key of a value is refused with all that was to be written beside it."""
    await _put(store, _key("k1", index="same"))
    with pytest.raises(NotUnique, match="already exists"):
        await _put(store, _plan("p1"), _key("k2", index="same"), taken=TAKEN)
    with pytest.raises(NotUnique, match="already exists"):
        await _put(store, _key("k3", index="new"), _key("k4", index="new"), taken=TAKEN)
    assert await store.get("usageplan", "p1") is None
    assert await store.count("apikey") == 1
    await _delete(store, "apikey", "k1")
    await _put(store, _key("k2", index="same"), taken=TAKEN)
    assert await store.owner("key/same") == "apikey/k2"


async def test_a_value_may_change_hands_within_an_edit(store: Store) -> None:
    await _put(store, _key("k1", index="same"))

    async def edit(draft: Draft) -> None:
        draft.delete("apikey", "k1")
        draft.put(_key("k2", index="same"), taken=TAKEN)

    await _write(store, edit)
    found = await store.find("same")
    assert found.key == _key("k2", index="same")


async def test_a_rotated_key_is_found_by_both_values(store: Store) -> None:
    key = replace(_key("k1", index="new"), previous_index="old")
    await _put(store, key)
    assert [(await store.find(index)).key for index in ("new", "old", "none")] == [key, key, None]
    await _put(store, _key("k1", index="new"))
    assert (await store.find("old")).key is None


async def test_a_look_up_tells_the_state_it_is_of(store: Store) -> None:
    await _put(store, _key("k1"))
    assert (await store.find("k1-digest")).head == (await store.find("none")).head == await store.head()


async def test_lists_that_meet_are_refused_in_the_commit(make_store: MakeStore) -> None:
    """Two plans get the same stage while a key joins both: the second writer is refused."""
    store, other = make_store(), make_store()
    await _put(store, _plan("p1"), _plan("p2", "a/prod"), _key("k1", "p1.n"))

    async def cover(draft: Draft) -> None:
        draft.disjoint(plan_keys("p1.n"), plan_keys("p2.n"), Refused("one plan a stage"))
        if (await other.count(plan_keys("p2.n"))) == 0:
            await _put(other, _key("k1", "p1.n", "p2.n"))
        draft.put(_plan("p1", "a/prod"))

    with pytest.raises(Refused, match="one plan a stage"):
        await _write(store, cover)
    assert await store.get("usageplan", "p1") == _plan("p1")


async def test_a_deleted_plan_takes_its_list_along(store: Store) -> None:
    """Keys still name it, and that is no inconsistency: a later plan of that id has another nonce."""
    await _put(store, _plan("p1"), _key("k1", "p1.n"))

    async def edit(draft: Draft) -> None:
        draft.delete("usageplan", "p1")
        draft.drop(plan_keys("p1.n"))

    await _write(store, edit)
    assert await differences(store) == []
    assert await store.members(plan_keys("p1.n")) == []
    await _put(store, _key("k1", "p1.n", name="renamed"))
    await _delete(store, "apikey", "k1")


async def _pages(ask: Callable[[str | None], Awaitable[Any]]) -> AsyncIterator[list[str]]:
    position = None
    while True:
        page = await ask(position)
        yield [id_of(item) for item in page.items]
        position = page.position
        if position is None:
            return


async def test_pages_are_stable_while_keys_join_and_leave(store: Store) -> None:
    """The newest come first; what joins meanwhile is on no later page, what leaves makes no other skip."""
    for number in range(6):
        await _put(store, _key(f"k{number}"))
    seen = []
    async for page in _pages(lambda position: store.page("apikey", "apikey", 2, position)):
        seen.append(page)
        await _put(store, _key(f"late{len(seen)}"))
        await _delete(store, "apikey", page[-1])
    assert seen == [["k5", "k4"], ["k3", "k2"], ["k1", "k0"]]


async def test_the_files_items_come_after_the_stores(make_store: MakeStore) -> None:
    fixed = _items(
        *(_key(f"f{number}", "pf", name=f"n{number}") for number in range(3)), StoredPlan(UsagePlan("pf", "F"))
    )
    store = make_store(fixed=lambda: fixed)
    await _put(store, _key("k0", name="n0"), _key("k1", name="n1"))
    pages = [page async for page in _pages(lambda position: store.page("apikey", "apikey", 2, position))]
    assert pages == [["k1", "k0"], ["f0", "f1"], ["f2"]]
    words = [page async for page in _pages(lambda position: store.search(by_name("n"), 2, position))]
    assert words == [["k0", "k1"], ["f0", "f1"], ["f2"]]
    assert (await store.search(by_name("n"), 9, within=plan_keys("pf"))).items == [
        fixed["apikey", f"f{number}"] for number in range(3)
    ]
    assert await store.members(plan_keys("pf")) == ["f0", "f1", "f2"]
    assert await store.count("apikey") == 5
    assert await store.owner("key/f0-digest") == "apikey/f0"


async def test_the_files_items_are_read_only(make_store: MakeStore) -> None:
    fixed = _items(_key("f0"), _plan("pf"))
    store = make_store(fixed=lambda: fixed)
    for refused in (_put(store, _key("f0", name="x")), _delete(store, "usageplan", "pf")):
        with pytest.raises(ReadOnlyItem, match="configuration file"):
            await refused
    with pytest.raises(NotUnique, match="already exists"):
        await _put(store, _key("k1", index="f0-digest"), taken=TAKEN)
    assert await store.get("usageplan", "pf") == _plan("pf")


@pytest.mark.parametrize("mark", ["s-1", "sinf", "s", "x", "", "s9\n"])
async def test_a_position_that_no_page_ended_at_is_refused(store: Store, mark: str) -> None:
    position = urlsafe_b64encode(mark.encode()).decode()
    for text in (position, "!!!", "x", "é"):
        with pytest.raises(InvalidPosition, match="Invalid position parameter"):
            await store.page("apikey", "apikey", 1, text)
        with pytest.raises(InvalidPosition, match="Invalid position parameter"):
            await store.search(by_name("n"), 1, text)


async def test_keys_are_searched_by_the_beginning_of_their_name(store: Store) -> None:
    names = {"k1": "web", "k2": "Web", "k3": "webshop", "k4": "we", "k5": "wéb", "k6": "", "k7": "web"}
    await _put(store, *(_key(key_id, name=name) for key_id, name in names.items()))

    async def found(prefix: str) -> list[str]:
        return [id_of(item) for item in (await store.search(by_name(prefix), 25)).items]

    assert await found("web") == ["k1", "k7", "k3"]
    assert await found("w") == ["k4", "k1", "k7", "k3", "k5"]
    assert await found("wé") == ["k5"]
    assert await found("x") == []


async def test_a_customers_keys_are_just_theirs(store: Store) -> None:
    await _put(store, _key("k1", customer="c"), _key("k2", customer="cc"), _key("k3", customer=""), _key("k4"))
    assert (await store.search(by_customer("c"), 25)).items == [_key("k1", customer="c")]
    assert (await store.search(by_customer(""), 25)).items == [_key("k3", customer="")]


@pytest.mark.parametrize(("few", "scanned"), [(5_000, 20), (0, 20), (0, 1)])
async def test_a_search_within_a_plan_passes_over_the_others(
    store: Store, few: int, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a short list, in a long one, and in one whose search stops between the keys that are found."""
    monkeypatch.setattr("authz.store.store.FEW_MEMBERS", few)
    monkeypatch.setattr("authz.store.store.SCANNED", scanned)
    mine = [_key(f"k{number:05}", "p.n", name=f"n{number:05}") for number in range(0, 2 * CHUNK, CHUNK // 2)]
    others = [_key(f"o{number:05}", name=f"n{number:05}") for number in range(2 * CHUNK)]
    await _put(store, _plan("p"), *mine, *others, _key("x", "p.n", name="x"), _key("y", "p.n"))
    pages = [
        page async for page in _pages(lambda position: store.search(by_name("n"), 3, position, within=plan_keys("p.n")))
    ]
    assert list(chain.from_iterable(pages)) == [key.key.id for key in mine]
    assert max(map(len, pages)) == 3 if scanned > 1 else max(map(len, pages)) < 3


async def test_events_name_their_predecessor(store: Store, ledger: UsageLedger) -> None:
    await _put(store, _plan("p1"), _key("k1"))
    head = await store.head()
    await _put(store, replace(_key("k1", index="new"), previous_index="k1-digest"))
    await ledger.set_remaining("p1", *held(QuotaSettings(10, Period.DAY), "p1", "k1"), 3, who="ann", what="UpdateUsage")
    first, second, third = await store.changes(0, 0)
    assert (first.version, first.previous, first.tag) == (1, "", head.tag)
    assert first.changes == (("usageplan", "p1"), ("apikey", "k1"))
    assert first.indexes == ("k1-digest",)
    assert (second.previous, second.indexes) == (head.tag, ("k1-digest", "new"))
    assert (third.previous, third.changes, third.usage) == (second.tag, (), (("p1", "k1"),))
    assert await store.changes(2, 0) == [third]
    assert await store.changes(3, 10) == []


async def test_a_reader_of_the_stream_is_woken(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    reading = asyncio.create_task(store.changes(0, 5000))
    await asyncio.sleep(0)
    await _put(other, _plan("p1"))
    assert [event.version for event in await reading] == [1]


async def test_a_snapshot_is_what_a_catalog_needs(store: Store) -> None:
    needed: list[Item] = [
        _stage("a", "prod", "d2"),
        _stage("a", "beta", "d2"),
        StoredDeployment("d2", "a", 1, Deployment()),
        _plan("p1", "a/prod"),
        StoredAccount(),
    ]
    await _put(store, *needed, StoredDeployment("d1", "a", 1, Deployment()), _key("k1", "p1.n"))
    snapshot = await store.snapshot()
    assert snapshot.items == _items(*needed)
    assert snapshot.head == await store.head()


async def test_a_flushed_redis_shows_in_the_head() -> None:
    with redis_server() as server:
        store, spy = Store(server.url, budget=10.0), redis.asyncio.Redis.from_url(server.url)
        await _put(store, _plan("p1"))
        before = await store.head()
        await spy.flushall()
        await spy.aclose()
        assert await store.head() == Head()
        await _put(store, _plan("p1"))
        after = await store.head()
        assert (before.version, after.version) == (1, 1)
        assert before.epoch != after.epoch
        assert (await store.snapshot()).items == _items(_plan("p1"))
        await store.aclose()


async def test_every_write_is_an_audit_line(store: Store, clock: Clock) -> None:
    await _put(store, _plan("p1"))
    clock.advance(1)

    async def record(draft: Draft) -> None:
        draft.record()

    await store.write(record, who="bob", what="UpdateUsage p1 k1")
    lines = await audit(store.database)
    assert [(line.version, line.who, line.what) for line in lines] == [
        (1, "ann", "Test usageplan/p1"),
        (2, "bob", "UpdateUsage p1 k1"),
    ]
    assert [line.at for line in lines] == [clock.now - 1_000_000, clock.now]
    assert await audit(store.database, count=1) == lines[1:]
    assert await audit(store.database, after=1) == lines[1:]
    assert await audit(store.database, after=2) == []


async def test_an_audit_line_names_created_objects_once_and_not_without_end(store: Store) -> None:
    async def edit(draft: Draft) -> None:
        for number in range(30):
            draft.put(_plan(f"p{number}"))

    await store.write(edit, who="ann", what="Import p0")
    (line,) = await audit(store.database)
    named = " ".join(f"usageplan/p{number}" for number in range(1, 21))
    assert line.what == f"Import p0 {named} and 9 more"


async def test_a_lease_lives_for_three_seconds(store: Store, clock: Clock) -> None:
    await _put(store, _plan("p1"))
    head = await store.head()
    assert await store.renew_presence("w1", head) == head
    clock.advance(2)
    await store.renew_presence("w2", Head())
    assert [(one.worker, one.version) for one in await store.presences()] == [("w1", 1), ("w2", 0)]
    assert (await store.presences())[0].epoch == head.epoch
    clock.advance(1)
    assert [one.worker for one in await store.presences()] == ["w2"]
    await store.drop_presence("w2")
    assert await store.presences() == []


async def test_a_presence_names_the_release_and_one_of_an_older_program_names_none(store: Store) -> None:
    await store.renew_presence("new", await store.head(), "2.0")
    older = msgspec.msgpack.encode(("epoch", 7, 4_102_444_800_000))  # until 2100
    await store.database.ask("HSET", store.database.store_key("leases"), "old", older)
    assert [(one.worker, one.version, one.release) for one in await store.presences()] == [
        ("new", 0, "2.0"),
        ("old", 7, ""),
    ]


async def test_without_redis_the_store_says_so(shared_redis: RedisServer) -> None:
    store = Store("redis://127.0.0.1:1/0", budget=0.2)
    with pytest.raises(StoreUnavailable):
        await store.head()
    with pytest.raises(StoreUnavailable):
        await store.changes(0, 10)
    with pytest.raises(StoreUnavailable):
        await _put(store, _plan("p1"))
    await store.aclose()


async def test_a_restarted_redis_is_found_again() -> None:
    """Of all the connections that went with the old one, the first that fails takes the others along."""
    with redis_server() as server:
        store = Store(server.url, budget=10.0)
        await asyncio.gather(*(_put(store, _plan(f"p{number}")) for number in range(8)))
        server.restart(empty=False)
        with suppress(StoreUnavailable):
            await store.head()
        assert (await store.head()).version == 8
        assert await store.count("usageplan") == 8
        await store.aclose()


async def test_a_caller_pays_nothing_for_a_connection_that_died_while_it_was_idle() -> None:
    with redis_server() as server:
        store = Store(server.url, budget=10.0)
        await _put(store, _key("k1", index="1"))
        server.restart(empty=False)
        found = await store.find("1")
        assert found.key is not None
        assert found.key.key.id == "k1"
        await store.aclose()


async def test_a_full_redis_takes_no_half_of_a_write() -> None:
    with redis_server("valkey", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        store = Store(server.url, budget=10.0)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await _fill(store)
        assert await differences(store) == []
        assert await store.count("apikey") % 200 == 0
        await store.aclose()


async def _fill(store: Store) -> None:
    for number in range(100):
        await _put(store, *(_key(f"k{number}-{one}", name="x" * 200) for one in range(200)))


@pytest.mark.parametrize("after", [False, True])
async def test_a_write_that_ends_at_any_command_leaves_a_consistent_store(
    make_store: MakeStore, shared_redis: RedisServer, account: str, after: bool
) -> None:
    """The connection is lost before, or after, Redis has done what the n-th command says."""
    witness, done = make_store(), [None, _key("k1", name="b"), _key("k2", index="other")]
    before: list[Item | None] = [_plan("p1", "a/prod"), _key("k1", "p1.n", name="a"), None]
    for fault in count():
        await _put(witness, _plan("p1", "a/prod"), _key("k1", "p1.n", name="a"))
        await _delete(witness, "apikey", "k2")
        store = Store(shared_redis.url, account=account, budget=10.0)
        _lose_connection(store, fault, after)
        outcome: object = (await asyncio.gather(_write(store, _busy), return_exceptions=True))[0]
        await store.aclose()
        names = (("usageplan", "p1"), ("apikey", "k1"), ("apikey", "k2"))
        assert [await witness.get(*name) for name in names] in (before, done)
        assert await differences(witness) == []
        if not isinstance(outcome, StoreUnavailable):
            assert isinstance(outcome, Written)
            assert fault > 1, "no command was broken off"
            return


async def _busy(draft: Draft) -> None:
    assert await draft.get("apikey", "k1")
    for key_id in await draft.members(plan_keys("p1.n")):
        draft.put(_key(key_id, name="b"))
    draft.disjoint(plan_keys("p1.n"), plan_keys("p2.n"), TAKEN)
    draft.put(_key("k2", index="other"), taken=TAKEN)
    draft.delete("usageplan", "p1")
    draft.drop(plan_keys("p1.n"))


def _lose_connection(store: Store, fault: int, after: bool) -> None:
    """At the command of this number."""
    run, numbers = cast("Callable[..., Awaitable[Any]]", store.database.redis.execute_command), count()

    async def execute(*words: Any, **options: Any) -> Any:
        number = next(numbers)
        if number == fault and not after:
            raise LostConnection("cut")
        reply = await run(*words, **options)
        if number == fault:
            raise LostConnection("cut")
        return reply

    store.database.redis.execute_command = execute  # type: ignore[method-assign]


async def test_inconsistent_items_are_named(store: Store, account: str, spy: redis.asyncio.Redis) -> None:
    await _put(store, _plan("p1", "a/prod"), _key("k1", "p1.n", name="n"))
    run: Callable[..., Awaitable[Any]] = spy.execute_command
    await run("ZADD", store.database.list_key(plan_keys("p1.n")), 9, "ghost")
    await run("DEL", store.database.list_key("usageplan"))
    await run("ZADD", f"{{{account}}}:v1:store:list:unknown", 1, "x")
    await run("HDEL", f"{{{account}}}:v1:store:unique", "key/k1-digest")
    await run("ZADD", f"{{{account}}}:v1:store:sorted", 0, "name/x\0k9")
    told = "\n".join(await differences(store))
    for word in ("ghost", "list 'usageplan'", "unknown", "key/k1-digest", "k9"):
        assert word in told
    await run("DEL", *[key async for key in spy.scan_iter(f"{{{account}}}:*")])


async def _of(kept: list[BackupEntry]) -> AsyncIterator[BackupEntry]:
    for one in kept:
        yield one


async def test_a_restored_store_is_the_one_that_was_kept(
    make_store: MakeStore, limiter: RedisLimiter, spy: redis.asyncio.Redis, account: str
) -> None:
    """With its counters, and under a new epoch: keys cached from the later state are outdated."""
    store, counter = make_store(), f"{{{account}}}:v1:ledger:p1:k1"
    await spy.set(counter, b"\x00\xff", px=100_000)
    await _put(store, _plan("p1", "a/prod"), _key("k1", "p1.n", name="n"), _key("k2", "p1.n"))
    await store.renew_presence("w1", await store.head())
    kept, before = [one async for one in Backups(store.database).dump()], await store.head()
    await _put(store, _key("k3", "p1.n"))
    await _delete(store, "apikey", "k1")
    await spy.set(counter, b"later")
    assert await Backups(store.database).load(_of(kept)) == len(kept)
    restored = await store.head()
    assert (restored.version, restored.epoch == before.epoch, restored.tag == before.tag) == (
        before.version,
        False,
        False,
    )
    assert await store.members(plan_keys("p1.n")) == ["k2", "k1"]
    assert await store.find("k3-digest") == await store.find("none")
    assert (await spy.get(counter), 0 < await spy.pttl(counter) <= 100_000) == (b"\x00\xff", True)
    assert await differences(store) == []
    assert await _put(store, _key("k4")) == before.version + 1


async def test_a_backup_that_cannot_be_read_changes_nothing(
    store: Store, account: str, spy: redis.asyncio.Redis
) -> None:
    await _put(store, _plan("p1"))
    before, kept = await store.head(), [one async for one in Backups(store.database).dump()]
    with pytest.raises(StoreUnavailable):
        await Backups(store.database).load(_of([*kept, BackupEntry("store:item:apikey", b"broken")]))
    assert await store.head() == before
    assert await store.get("usageplan", "p1") == _plan("p1")
    assert [key async for key in spy.scan_iter(f"{{{account}}}:v1:restoring:*")] == []


async def test_another_accounts_backup_may_be_taken_over(make_store: MakeStore, account: str) -> None:
    store, other = make_store(), make_store(account=f"{account}-other")
    await _put(store, _plan("p1"), _key("k1", "p1.n"))
    await Backups(other.database).load(_of([one async for one in Backups(store.database).dump()]))
    assert (await other.snapshot()).items == (await store.snapshot()).items
    assert (await other.find("k1-digest")).key == _key("k1", "p1.n")
    assert ACCOUNT not in (kind for kind, _ in (await other.snapshot()).items)

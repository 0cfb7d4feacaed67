"""Resources between files and a store: what a file can hold goes in and comes out, and repeating it changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
import yaml
from click.testing import CliRunner, Result

from authz.aws.awsfiles import Wanted, read
from authz.cli.transfer import COMMANDS
from authz.config import file as config
from authz.config.faults import ConfigError
from authz.core.resources import Account, ApiStage, Host, Resources, Stage, ThrottleSettings, UsagePlan
from authz.core.stored import Items, RestApi, StoredKey, StoredPlan, plan_keys
from authz.store.backup import Backups
from authz.store.consistency import differences
from authz.store.ports import Draft, StoreUnavailable
from authz.store.sealing import Sealer
from authz.store.store import Store
from authz.transfer.inbound import Reading, wanted
from authz.transfer.transfer import Export, Import, ImportRefused, backup, everything, restore
from tests.support.builders import api, key, plan, resources, value_of
from tests.support.servers import RedisServer
from tests.unit.aws.test_awsfiles import PLAN, printed

T = TypeVar("T")

NOW = 1_800_000_000
PLAIN = Sealer()
SEALED = Sealer([b"s" * 32], b"some pepper for us")


@pytest.fixture
async def store(shared_redis: RedisServer, account: str) -> AsyncIterator[Store]:
    store = Store(shared_redis.url, account=account, budget=10.0)
    yield store
    await store.aclose()


async def brought(store: Store, given: Resources | Wanted, sealer: Sealer = PLAIN, now: int = NOW) -> Import:
    """An import that ran."""
    found = given if isinstance(given, Wanted) else wanted(given, now, sealer)
    made = Import(store, sealer, found, now, "tests")
    await made.run()
    assert await differences(store) == []
    return made


def lines(made: Import) -> list[str]:
    return [str(change) for change in made.changes]


async def stored_key(store: Store, name: str = "k1") -> StoredKey:
    found = await store.get("apikey", name)
    assert isinstance(found, StoredKey)
    return found


def rich() -> Resources:
    """What a file can say."""
    pets = api(stages=(Stage(name="dev"), Stage(name="prod", variables={"a": "b"})), hosts=(Host("x.org", "v1"),))
    plans = (
        plan(keys=("k1", "k2"), throttle=ThrottleSettings(5.0, 10)),
        plan("p2", api_stages=(ApiStage("a1", "dev"),), keys=("k1",)),
    )
    return Resources(apis=(pets,), usage_plans=plans, api_keys=(key("k1", customer_id="c"), key("k2", enabled=False)))


async def test_a_file_goes_in_and_comes_out(store: Store, tmp_path: Path) -> None:
    await brought(store, rich())
    exported = Export(await everything(store), PLAIN)
    (tmp_path / "plans.yaml").write_text(exported.yaml())
    found = config.load(tmp_path / "plans.yaml").resources
    assert exported.warnings == []
    assert found == rich()


@pytest.mark.parametrize("sealer", [PLAIN, SEALED])
async def test_a_second_import_has_nothing_to_do(store: Store, sealer: Sealer) -> None:
    """Neither of a file nor of what the cli printed, whenever it happens."""
    for given in (wanted(rich(), NOW, sealer), read(printed(), NOW, sealer.index)):
        first = await brought(store, given, sealer)
        assert first.changes
        head = await store.head()
        given = replaced_dates(given, sealer)
        again = await brought(store, given, sealer, NOW + 60)
        assert lines(again) == []
        assert await store.head() == head


def replaced_dates(given: Wanted, sealer: Sealer) -> Wanted:
    """The given resources, read a minute later."""
    return wanted(rich(), NOW + 60, sealer) if not given.values else read(printed(), NOW + 60, sealer.index)


async def test_an_export_brought_back_loses_nothing_that_a_file_has_no_words_for(store: Store, tmp_path: Path) -> None:
    """Tags, descriptions, integrations, ids of resources and deployments, a stage's other settings."""
    given = read(printed(), NOW, PLAIN.index)
    await brought(store, given)
    before = await everything(store)
    (tmp_path / "plans.yaml").write_text(Export(before, PLAIN).yaml())
    again = await brought(store, config.load(tmp_path / "plans.yaml").resources, now=NOW + 60)
    assert lines(again) == []
    assert await everything(store) == before


async def test_a_changed_file_changes_what_it_says_and_keeps_the_rest(store: Store, tmp_path: Path) -> None:
    await brought(store, read(printed(), NOW, PLAIN.index))
    (before,) = of(await everything(store), RestApi)
    file = yaml.safe_load(Export(await everything(store), PLAIN).yaml())
    (path,) = (path for path, methods in file["apis"][0]["resources"].items() if "GET" in methods)
    file["apis"][0]["resources"][path] = {"POST": {"apiKeyRequired": True}}
    del file["usagePlans"][0]["apiStages"][0]["throttle"]
    (tmp_path / "plans.yaml").write_text(yaml.safe_dump(file))
    made = await brought(store, config.load(tmp_path / "plans.yaml").resources, now=NOW + 60)
    (after,) = of(await everything(store), RestApi)
    assert (after.tags, after.description, after.resources.keys()) == (
        before.tags,
        before.description,
        before.resources.keys(),
    )
    assert f"restapi {before.id}: taken out, since the file does not have them: GET {path}" in made.warnings


def of(items: Items, kind: type[T]) -> list[T]:
    return [item for item in items.values() if isinstance(item, kind)]


async def test_a_preview_tells_what_the_import_does(store: Store) -> None:
    await brought(store, resources())
    preview = Import(store, PLAIN, wanted(rich(), NOW, PLAIN), NOW, "tests")
    head = await store.head()
    await preview.preview()
    assert await store.head() == head
    made = await brought(store, rich())
    assert lines(made) == lines(preview)
    assert lines(made)[-4:] == [
        "~ apikey k1 (customerId)",
        "+ usageplankey p2/k1",
        "+ apikey k2",
        "+ usageplankey p1/k2",
    ]
    assert "~ usageplan p1 (throttle)" in lines(made)


async def test_the_store_keeps_what_the_import_does_not_speak_of(store: Store) -> None:
    """Other plans of a key among it; but a plan that the import tells has just the keys it tells, of those it has."""
    await brought(store, rich())
    made = await brought(store, resources(usage_plans=(plan(keys=()),), apis=rich().apis))
    assert "- usageplankey p1/k1" in lines(made)
    one, two = await stored_key(store), await store.get("usageplan", "p2")
    assert isinstance(two, StoredPlan)
    assert one.plans == (two.ref,)
    assert (await stored_key(store, "k2")).plans  # the import does not name it


async def test_a_plan_made_again_under_its_id_is_another(store: Store) -> None:
    await brought(store, resources())
    before = await store.get("usageplan", "p1")
    assert isinstance(before, StoredPlan)
    assert before.nonce
    assert await store.members(plan_keys(before.ref)) == ["k1"]


async def test_values_are_sealed_where_they_can_be(store: Store) -> None:
    await brought(store, read(printed(), NOW, SEALED.index), SEALED)
    found = await stored_key(store)
    assert found.sealed is not None
    assert value_of("k1") not in found.sealed
    assert SEALED.open(found.sealed, "k1") == value_of("k1")


async def test_another_value_takes_the_place_of_the_old_one(store: Store) -> None:
    await brought(store, resources())
    made = await brought(store, resources(api_keys=(key(value_sha256="ab" * 32),)))
    assert lines(made) == ["~ apikey k1 (value)"]
    assert (await store.find("ab" * 32)).key is not None


async def test_a_key_without_its_value_is_not_made_but_updated(store: Store) -> None:
    document = printed()
    row = document["keys.json"]["items"][0]
    document["keys.json"] = {"items": [{name: given for name, given in row.items() if name != "value"}]}
    made = await brought(store, read(document, NOW, PLAIN.index))
    assert made.warnings == ["apikey k1: not kept: its value is missing: print with --include-values"]
    await brought(store, read(printed(), NOW, PLAIN.index))
    document["keys.json"]["items"][0]["enabled"] = False
    made = await brought(store, read(document, NOW, PLAIN.index))
    assert lines(made) == ["~ apikey k1 (enabled)"]


async def test_a_value_has_one_key(store: Store) -> None:
    await brought(store, resources())
    same = key("k9", value_sha256=key("k1").value_sha256)
    with pytest.raises(ImportRefused, match="the value of the key k9 is already that of another key"):
        await brought(store, resources(api_keys=(same,), usage_plans=()))


async def test_a_key_has_one_plan_for_a_stage(store: Store) -> None:
    """Also where one of the plans is the store's and the import does not speak of it."""
    await brought(store, resources())
    with pytest.raises(ImportRefused, match="the key k1 would be in two plans for a1:prod: p1 and p2"):
        await brought(store, resources(usage_plans=(plan("p2"),)))
    apart = plan("p3", api_stages=(), keys=("k1",))
    await brought(store, resources(usage_plans=(apart,)))
    with pytest.raises(ImportRefused, match="a key would be in two plans for a1:prod: p1 and p3"):
        await brought(store, resources(usage_plans=(plan("p3", keys=("k1",)),)))


async def test_the_account_is_there_from_the_start(store: Store) -> None:
    """So that its defaults are no change, and other settings are one that can be taken back."""
    made = await brought(store, read(printed(), NOW, PLAIN.index))
    assert not [line for line in lines(made) if "account" in line]
    made = await brought(store, resources(account=Account(ThrottleSettings(5.0, 6))))
    assert "~ account account (throttleSettings)" in lines(made)
    made = await brought(store, read(printed(), NOW, PLAIN.index))
    assert lines(made)[0] == "~ account account (throttleSettings)"


async def test_a_plan_is_kept_without_a_stage_that_is_not_there(store: Store) -> None:
    elsewhere = {**PLAN, "apiStages": [*PLAN["apiStages"], {"apiId": "gone", "stage": "prod"}]}
    made = await brought(store, read(printed(plans={"items": [elsewhere]}), NOW, PLAIN.index))
    assert made.warnings == ["usageplan p1: there is no stage gone:prod; left out"]


async def test_more_keys_than_one_write_holds(store: Store) -> None:
    keys = tuple(key(f"k{number}") for number in range(1201))
    given = resources(api_keys=keys, usage_plans=(plan(keys=tuple(one.id for one in keys)),))
    made = await brought(store, given)
    assert await store.count("apikey") == len(keys)
    assert sum(str(change).startswith("+ usageplankey p1/") for change in made.changes) == len(keys)
    exported = Export(await everything(store), PLAIN)
    assert len(yaml.safe_load(exported.yaml())["apiKeys"]) == len(keys)


async def test_an_export_for_the_cli_can_be_imported(store: Store, shared_redis: RedisServer, account: str) -> None:
    await brought(store, rich())
    exported = Export(await everything(store), PLAIN)
    documents = {name: json.loads(text) for name, text in exported.aws().items()}
    assert exported.warnings == ["domain x.org: left out"]
    found = read(documents, NOW, PLAIN.index)
    assert found.warnings == []
    other = Store(shared_redis.url, account=f"{account}-other", budget=10.0)
    try:
        await brought(other, found)
        again = Export(await everything(other), PLAIN).yaml()
    finally:
        await other.aclose()
    without_hosts = [{name: part for name, part in one.items() if name != "hosts"} for one in loaded(exported)["apis"]]
    assert yaml.safe_load(again) == {**loaded(exported), "apis": without_hosts}


def loaded(exported: Export) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(exported.yaml())
    return found


async def test_an_export_under_a_pepper_tells_sealed_values_or_nothing(store: Store) -> None:
    await brought(store, read(printed(), NOW, SEALED.index), SEALED)
    items = await everything(store)
    closed, open_ = Export(items, SEALED), Export(items, SEALED, include_values=True)
    assert "apiKeys" not in loaded(closed)
    assert "apikey k1: left out: under a pepper only a sealed value can be exported" in closed.warnings
    assert loaded(open_)["apiKeys"][0]["value"] == value_of("k1")
    assert any(text.startswith("restapi a1b2c3: left out, for want of words in a file: ") for text in open_.warnings)
    other = Export(items, Sealer([b"t" * 32], b"some pepper for us"), include_values=True)
    assert "apiKeys" not in loaded(other)
    assert "apikey k1: its value: sealed with a key that is not given" in other.warnings


async def test_a_backup_brings_back_the_moment_it_was_made(store: Store, tmp_path: Path) -> None:
    await brought(store, rich())
    before, head = await everything(store), await store.head()
    await backup(Backups(store.database), tmp_path / "backup")
    await brought(store, resources(api_keys=(key("k7"),), usage_plans=()))
    await restore(Backups(store.database), tmp_path / "backup")
    assert await everything(store) == before
    assert (await store.head()).epoch != head.epoch
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    assert await differences(store) == []


async def test_a_backup_leaves_out_what_a_worker_keeps_to_add_counts_once(store: Store, tmp_path: Path) -> None:
    await brought(store, rich())
    await store.database.ask("SET", store.database.key("refused-number", "0a"), "1")
    await backup(Backups(store.database), tmp_path / "backup")
    assert b"refused-number" not in (tmp_path / "backup").read_bytes()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[: len(raw) // 2], lambda raw: b"x" + raw])
async def test_a_damaged_backup_changes_nothing(store: Store, tmp_path: Path, damage: Any) -> None:
    await brought(store, resources())
    head = await store.head()
    await backup(Backups(store.database), tmp_path / "backup")
    (tmp_path / "backup").write_bytes(damage((tmp_path / "backup").read_bytes()))
    with pytest.raises(ConfigError, match="backup"):
        await restore(Backups(store.database), tmp_path / "backup")
    assert await store.head() == head


async def test_a_flip_anywhere_in_a_backup_is_one_sentence_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    """Lengths, frames, checksum, the first line: each byte, with a bit that is low and one that is high."""
    await brought(store, resources())
    path = tmp_path / "backup"
    await backup(Backups(store.database), path)
    whole, head = path.read_bytes(), await store.head()
    for at in range(len(whole)):
        for bit in (0, 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(ConfigError, match=r"^\S+: (not a backup|a damaged backup, or a part of one; .*)$"):
                await restore(Backups(store.database), path)
    assert await store.head() == head
    path.write_bytes(whole)
    assert await restore(Backups(store.database), path) > 0


async def test_a_restore_beside_busy_writers_is_done(
    store: Store, shared_redis: RedisServer, account: str, tmp_path: Path
) -> None:
    """It waits for a moment between two of their writes."""
    await brought(store, rich())
    await backup(Backups(store.database), tmp_path / "backup")
    head, restored = await store.head(), asyncio.Event()

    async def keep_writing(number: int) -> int:
        writer, writes = Store(shared_redis.url, account=account, budget=10.0), 0
        while not restored.is_set() or not writes:

            async def edit(draft: Draft, name: str = f"w{number}-{writes}") -> None:
                draft.put(StoredPlan(UsagePlan(name, name), nonce="n"))

            await writer.write(edit, who="tests", what="Busy")
            writes += 1
        await writer.aclose()
        return writes

    writing = asyncio.gather(*map(keep_writing, range(4)))
    await restore(Backups(store.database), tmp_path / "backup")
    restored.set()
    assert min(await writing) > 0
    assert (await store.head()).epoch != head.epoch
    assert await differences(store) == []


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"a\.json: not valid JSON"):
        Reading(NOW, PLAIN).wanted(tmp_path)
    with pytest.raises(ConfigError, match=r"no \.json files"):
        Reading(NOW, PLAIN).wanted(tmp_path / "empty")


def test_the_commands(shared_redis: RedisServer, account: str, tmp_path: Path) -> None:
    """Import a directory, preview and repeat it; export both forms; back up and restore."""
    commands = {str(command.name): command for command in COMMANDS}
    place = ["--redis-url", shared_redis.url, "--account-id", account]

    def run(name: str, *arguments: str) -> Result:
        result = CliRunner().invoke(commands[name], [*arguments, *place], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    for name, document in printed().items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(json.dumps(document))
    source = str(tmp_path / "in")
    assert run("import", source, "--dry-run").stdout.endswith("6 would change\n")
    assert "+ usageplankey p1/k1\n" in run("import", source).stdout
    assert run("import", source).stdout == f"{source}: nothing to do\n"
    run("export", str(tmp_path / "plans.yaml"))
    assert run("import", str(tmp_path / "plans.yaml"), "--dry-run").stdout
    assert run("export").stdout == (tmp_path / "plans.yaml").read_text()
    run("export", "--format", "aws", str(tmp_path / "out"))
    assert run("import", str(tmp_path / "out")).stdout.endswith("nothing to do\n")
    run("backup", str(tmp_path / "backup"))
    assert "restored" in run("restore", "--yes", str(tmp_path / "backup")).stdout
    assert value_of("k1") not in (tmp_path / "plans.yaml").read_text()


@pytest.mark.parametrize("name", ["export", "import"])
def test_a_store_of_a_newer_release_is_reported_in_one_line(
    name: str, shared_redis: RedisServer, account: str, tmp_path: Path
) -> None:
    commands = {str(command.name): command for command in COMMANDS}
    place = ["--redis-url", shared_redis.url, "--account-id", account]
    file = tmp_path / "plans.yaml"
    file.write_text("usagePlans: [{id: p1, name: Silver}]")
    assert CliRunner().invoke(commands["import"], [str(file), *place]).exit_code == 0
    items = Store(shared_redis.url, account=account).database.items_key("usageplan")
    with redis.Redis.from_url(shared_redis.url) as client:
        written = json.loads(client.hget(items, "p1"))
        client.hset(items, "p1", json.dumps({**written, "colour": "blue"}))
    with pytest.raises(ConfigError, match=r"the store: it holds what this version does not know.*colour"):
        CliRunner().invoke(commands[name], [str(file), *place], catch_exceptions=False)


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    nowhere = Store("redis://127.0.0.1:1/0", budget=0.2)
    with pytest.raises(StoreUnavailable):
        await backup(Backups(nowhere.database), tmp_path / "backup")
    await nowhere.aclose()
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240

"""The page of the system: sidecars, Redis, and the doctor's findings on it."""

from __future__ import annotations

from typing import Any

import pytest

from authz.control.console.system import Fleet, fleet_of, in_bytes, redis_facts
from authz.core.stored import StoredPlan
from authz.doctor.facts import Redis
from authz.doctor.fetchredis import UnreachableError
from authz.observe.metrics import VERSION
from authz.store.ports import Presence
from tests.support.builders import plan
from tests.support.pages import READER, Pages

HEALTHY = {
    "redis_version": "8.0.1",
    "role": "master",
    "connected_slaves": 1,
    "used_memory": 10 * 1024 * 1024,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "evicted_keys": 0,
    "aof_enabled": 1,
    "uptime_in_seconds": 90_061,
}
EVIL = '"><script>alert(1)</script>'


def redis(refused: tuple[str, ...] = (), config: dict[str, str] | None = None, **info: Any) -> Redis:
    """A Redis that only this machine reaches, with a healthy INFO unless the changes say otherwise."""
    return Redis(
        url="redis://127.0.0.1:6379/0",
        kind="server",
        hosts=["127.0.0.1"],
        is_tls=False,
        has_login=True,
        info={} if refused else HEALTHY | info,
        config=config if config is not None else {"appendfsync": "everysec", "min-replicas-to-write": "1"},
        skew=0.0,
        answers=[0.0004],
        default_user_is_open=False,
        endless=(),
        looked_at=0,
        workers=None,
        refused=refused,
    )


def pages(found: Redis | Exception | None = None, *live: Presence, version: int = 7, **more: Any) -> Pages:
    async def look() -> Redis:
        if isinstance(found, Exception):
            raise found
        return found or redis()

    console = Pages(StoredPlan(plan("p1", keys=())), look_at_redis=look, **more)
    console.store.version, console.store.live = version, list(live)
    return console


def text_of(console: Pages) -> str:
    answer = console.get("/console/system")
    assert answer.status_code == 200
    return answer.text


# --- sidecars -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sidecars", "fleet"),
    [
        ([], Fleet(0, 0, ("2.0",))),
        ([(7, True, "2.0"), (7, True, "2.0")], Fleet(2, 2, ("2.0",))),
        ([(7, True, "2.0"), (6, False, "1.9")], Fleet(1, 2, ("1.9", "2.0"))),
        ([(7, True, None)], Fleet(1, 1, ("2.0", "an older one"))),
    ],
)
def test_a_fleet_is_counted_by_the_version_that_it_serves(sidecars: list[Any], fleet: Fleet) -> None:
    documents = [
        {"id": "w", "version": version, "isCurrent": current} | ({"release": release} if release else {})
        for version, current, release in sidecars
    ]
    assert fleet_of({"release": "2.0", "sidecars": documents}) == fleet


def test_the_page_counts_the_sidecars_that_serve_the_stores_version() -> None:
    late, other = Presence("w2", "epoch", 6, VERSION), Presence("w3", "before the backup", 9, VERSION)
    console = pages(None, Presence("w1", "epoch", 7, VERSION), late, other)
    text = text_of(console)
    assert ">1 of 3</span>" in text
    assert (text.count(">current<"), text.count(">behind<"), "several releases" in text) == (1, 2, False)
    assert ">2 of 2</span>" in text_of(pages(None, *[Presence(f"w{at}", "epoch", 7, VERSION) for at in (1, 2)]))


def test_several_releases_are_reported() -> None:
    text = text_of(pages(None, Presence("w1", "epoch", 7, VERSION), Presence("w2", "epoch", 7)))
    assert "several releases" in text
    assert "<td>older</td>" in text


def test_without_a_sidecar_the_page_says_how_to_start_one() -> None:
    assert "Start one with the setting store: true" in text_of(pages())


# --- Redis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "name", "words"),
    [
        ({"role": "master", "replicas": 1}, "Role", "master, 1 connected replica"),
        ({"role": "master", "replicas": 0}, "Role", "master, 0 connected replicas"),
        ({"role": "slave"}, "Role", "replica"),
        ({"usedMemory": 1536, "maxMemory": 0}, "Memory", "1.5 KiB without a limit"),
        ({"usedMemory": 1536, "maxMemory": 2**30}, "Memory", "1.5 KiB of 1.0 GiB"),
        ({"evictionPolicy": "noeviction", "evictedKeys": 0}, "When memory is full", "noeviction"),
        (
            {"evictionPolicy": "allkeys-lru", "evictedKeys": 1200},
            "When memory is full",
            "allkeys-lru, 1,200 keys evicted",
        ),
        ({"appendOnly": True, "appendFsync": "no"}, "Kept on disk", "append-only file, flushed no"),
        ({"appendOnly": True}, "Kept on disk", "append-only file"),
        ({"appendOnly": False, "save": "3600 1"}, "Kept on disk", "snapshots (3600 1)"),
        ({"appendOnly": False, "save": ""}, "Kept on disk", "nothing"),
        ({"appendOnly": False}, "Kept on disk", "no append-only file"),
        ({"clockSkewSeconds": -0.0}, "Its clock", "as the control plane's"),
        ({"clockSkewSeconds": -2.5}, "Its clock", "-2.5 s from the control plane's"),
        ({"uptimeSeconds": 59}, "Runs for", "0 min"),
        ({"uptimeSeconds": 3_660}, "Runs for", "1 h 1 min"),
        ({"uptimeSeconds": 90_061}, "Runs for", "1 d 1 h"),
    ],
)
def test_a_fact_of_redis_is_worded(facts: dict[str, Any], name: str, words: str) -> None:
    assert dict(redis_facts({"address": "redis://x", **facts})) == {"Address": "redis://x", name: words}


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2**20, "1.0 MiB"), (2**40, "1024.0 GiB")],
)
def test_bytes_have_the_largest_unit_that_they_fill(number: int, words: str) -> None:
    assert in_bytes(number) == words


def test_a_healthy_redis_has_no_finding() -> None:
    text = text_of(pages())
    assert "The rules on Redis find no fault." in text
    assert "10.0 MiB without a limit" in text


def test_a_fault_of_redis_stands_with_its_reason_and_its_fix() -> None:
    text = text_of(pages(redis(maxmemory_policy="allkeys-lru", evicted_keys=3)))
    assert "eviction-policy" in text
    assert "keys-evicted" in text
    assert "CONFIG SET maxmemory-policy noeviction" in text


def test_commands_that_the_user_may_not_run_are_named_and_invent_no_fact() -> None:
    text = text_of(pages(redis(refused=("CONFIG GET", "INFO"), config={})))
    assert "CONFIG GET, INFO: the user of Redis may not run these commands." in text
    assert "redis-not-seen" in text
    assert "<dt>Memory</dt>" not in text


def test_a_redis_that_refuses_one_more_connection_does_not_hide_the_rest() -> None:
    text = text_of(pages(UnreachableError("no answer: max number of clients reached"), Presence("w1", "epoch", 7)))
    assert "max number of clients reached" in text
    assert ">1 of 1</span>" in text
    assert "find no fault" not in text


# --- the rest -----------------------------------------------------------------------------------------------------


def test_the_store_is_counted_and_grafana_linked_if_its_url_is_set() -> None:
    text = text_of(pages(grafana_url="https://grafana.example.com/d/x"))
    assert "<dt>Plans</dt><dd>1</dd>" in text
    assert 'href="https://grafana.example.com/d/x"' in text
    assert "Grafana" not in text_of(pages())


def test_a_reader_sees_the_system() -> None:
    assert "<dt>Plans</dt>" in text_of(pages(as_=READER))


def test_markup_in_names_of_sidecars_and_facts_is_shown_as_text() -> None:
    strange = redis(role=EVIL, redis_version=EVIL, maxmemory_policy=EVIL)
    assert "<script>alert" not in text_of(pages(strange, Presence(EVIL, "epoch", 7, EVIL)))
    assert "<script>alert" not in text_of(pages(UnreachableError(EVIL)))

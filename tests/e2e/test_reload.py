"""The file is changed under a running stack: verdicts follow, counters stay, a mistake changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import msgspec
import pytest
import yaml
from msgspec.structs import replace

from authz.config.file import parse
from authz.core.resources import Period, QuotaSettings, Resources
from tests.e2e.stack import Stack, stack, write
from tests.support.builders import key, plan, resources, value_of
from tests.support.servers import EchoServer, Host, RedisServer, until

KEYS = tuple(key(name, value=value_of(name), value_sha256=None) for name in ("k1", "k2", "k3"))


def catalog(limit: int = 2) -> Resources:
    """One plan with a monthly quota for each of three keys."""
    quota = QuotaSettings(limit=limit, period=Period.MONTH)
    return resources(usage_plans=(plan(keys=("k1", "k2", "k3"), quota=quota),), api_keys=KEYS)


FIRST = parse(yaml.safe_dump(msgspec.to_builtins(catalog())), "plans.yaml").content


@pytest.fixture(scope="module")
def changing(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Stack]:
    with stack(catalog(), redis.url, echo.address, host=served_by) as it:
        yield it


@pytest.fixture
def live(changing: Stack) -> Stack:
    """With its first configuration in force again."""
    write(changing.config, catalog())
    until(lambda: content(changing) == FIRST and problem(changing) is None, "the first file is not in force")
    return changing


def content(stack: Stack) -> str:
    """The part of the catalog's version that follows from the file."""
    return str(stack.healthz()["catalog"]["version"]).partition("-")[2]


def metric(stack: Stack, series: str) -> float:
    """The value of a series, 0 if there is none yet."""
    text = httpx.get(f"{stack.sidecar.http}/metrics", trust_env=False).text
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series + " ")), 0.0)


def problem(stack: Stack) -> str | None:
    told: str | None = stack.healthz()["catalog"]["problem"]
    return told


def test_a_raised_quota_keeps_its_use(live: Stack) -> None:
    assert [live.get("/prod/pets", "k1").status for _ in range(3)] == [200, 200, 429]
    write(live.config, catalog(limit=3))
    swapped, version = 'authz_catalog_reloads_total{result="swapped"}', "authz_catalog_version"
    until(lambda: live.get("/prod/pets", "k1").status == 200, "the raised quota is not in force", live.sidecar)
    until(lambda: metric(live, swapped) > 0 and metric(live, version) > 1, "it is not counted", live.sidecar)
    assert live.get("/prod/pets", "k1").status == 429


def test_a_disabled_key_is_refused_from_then_on(live: Stack) -> None:
    assert live.get("/prod/pets", "k2").status == 200
    write(live.config, replace(catalog(), api_keys=(KEYS[0], replace(KEYS[1], enabled=False), KEYS[2])))
    until(lambda: live.get("/prod/pets", "k2").status == 403, "the key still opens", live.sidecar)


def test_a_broken_file_changes_nothing_and_is_reported(live: Stack) -> None:
    before = live.healthz()["catalog"]["version"]
    live.config.write_text(live.config.read_text().replace("limit: 2", "limit: 0"))
    until(lambda: problem(live) is not None, "the mistake is not reported", live.sidecar)
    assert "$.usagePlans[0].quota.limit" in (problem(live) or "")
    assert live.healthz()["catalog"]["version"] == before
    until(lambda: metric(live, 'authz_catalog_reloads_total{result="refused"}') > 0, "it is not counted")
    assert live.get("/prod/pets", "k3").status == 200


def test_a_mended_file_takes_the_blame_away(live: Stack) -> None:
    live.config.write_text("apis: [")
    until(lambda: problem(live) is not None, "the mistake is not reported", live.sidecar)
    write(live.config, catalog(limit=1000))
    until(lambda: problem(live) is None, "the mistake is still reported", live.sidecar)
    assert live.get("/prod/pets", "k1").status == 200

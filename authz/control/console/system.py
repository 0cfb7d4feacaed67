"""The page of the system: versions, sidecars, Redis, and the doctor's findings on it.

The page runs the doctor's rules on Redis afresh each time. It does not show the results of an earlier `authz doctor`:
they would be as old as that run, and a fault that began since would look like health. The rules on Envoy need
addresses that the control plane does not have, so the page names the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Fleet:
    """The live sidecars: how many serve the store's version, and all releases of programs that run."""

    current: int
    live: int
    releases: tuple[str, ...]

    @property
    def has_one_release(self) -> bool:
        return len(self.releases) == 1


def fleet_of(system: Mapping[str, Any]) -> Fleet:
    sidecars = system["sidecars"]
    releases = {system["release"], *(each.get("release", "an older one") for each in sidecars)}
    return Fleet(sum(each["isCurrent"] for each in sidecars), len(sidecars), tuple(sorted(releases)))


def redis_facts(redis: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts of Redis in words; those that it does not let us read are left out."""
    facts = [("Address", redis["address"])]
    if "version" in redis:
        facts.append(("Version", str(redis["version"])))
    if "role" in redis:
        replicas = redis.get("replicas", 0)
        master = f"master, {replicas} connected {'replica' if replicas == 1 else 'replicas'}"
        facts.append(("Role", master if redis["role"] == "master" else "replica"))
    if "usedMemory" in redis:
        most = f"of {in_bytes(redis['maxMemory'])}" if redis.get("maxMemory") else "without a limit"
        facts.append(("Memory", f"{in_bytes(redis['usedMemory'])} {most}"))
    if "evictionPolicy" in redis:
        evicted = f", {redis['evictedKeys']:,} keys evicted" if redis.get("evictedKeys") else ""
        facts.append(("When memory is full", f"{redis['evictionPolicy']}{evicted}"))
    if "appendOnly" in redis:
        facts.append(("Kept on disk", _persistence(redis)))
    if "answerMilliseconds" in redis:
        facts.append(("Answers in", f"{redis['answerMilliseconds']} ms"))
    if "clockSkewSeconds" in redis:
        skew = redis["clockSkewSeconds"]
        facts.append(("Its clock", f"{skew:+.1f} s from the control plane's" if skew else "as the control plane's"))
    if "uptimeSeconds" in redis:
        facts.append(("Runs for", _in_days(redis["uptimeSeconds"])))
    return facts


def _persistence(redis: Mapping[str, Any]) -> str:
    if redis["appendOnly"]:
        flushed = f", flushed {redis['appendFsync']}" if "appendFsync" in redis else ""
        return f"append-only file{flushed}"
    if "save" not in redis:
        return "no append-only file"
    return f"snapshots ({redis['save']})" if redis["save"] else "nothing"


def in_bytes(number: int) -> str:
    """A number of bytes in the largest unit that it fills."""
    size, units = float(number), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if size < KIB:
            break
        size, unit = size / KIB, larger
    return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"


def _in_days(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, minutes = divmod(rest // 60, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


async def system(visit: Visit[OwnerSession]) -> Response:
    found = await visit.ask("GetSystem")
    return await visit.page(
        "console/system.html",
        system=found,
        fleet=fleet_of(found),
        facts=redis_facts(found["redis"]),
        grafana_url=visit.site.parts.grafana_url,
    )


VIEWS: Final = (View("GET", "/system", system),)

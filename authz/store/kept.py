"""The figures that a sweep keeps in Redis: the last overview, sums by plan and day, and the sweeper's lease.

`figures` is a value, `figures-lease` the name of its holder. `plan-days:DAY` is a hash: the id of a plan, or TOTAL for
all plans -> the numbers of Sums, separated by spaces. It ends with the retention of its day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from authz.aws.usage import Days
from authz.core.zones import DAY_US, SECOND_US
from authz.store.database import Database
from authz.store.figures import Overview, Sums, decoded, encoded

TOTAL: Final = "*"  # no plan has this id


async def read_overview(database: Database) -> Overview | None:
    raw = await database.ask("GET", database.key("figures"))
    return None if raw is None else decoded(raw)


async def keep_overview(database: Database, overview: Overview) -> None:
    await database.ask("SET", database.key("figures"), encoded(overview))


async def keep_days(
    database: Database, plan_id: str | None, days: Sequence[int], sums: Mapping[int, Sums], retention_days: int
) -> None:
    """Replace the sums of a plan, or of all plans, on each of these days."""
    name = TOTAL if plan_id is None else plan_id
    async with database.batch() as batch:
        for day in days:
            key = database.key("plan-days", str(day))
            if day in sums:
                batch.execute_command("HSET", key, name, " ".join(map(str, sums[day])))
                end = (day + retention_days + 1) * DAY_US // SECOND_US
                batch.execute_command("EXPIREAT", key, end)
            else:
                batch.execute_command("HDEL", key, name)


async def read_days(database: Database, plan_id: str | None, days: Days) -> dict[int, Sums]:
    """Read the sums of a plan, or of all plans; a day without any use is left out."""
    name, wanted = TOTAL if plan_id is None else plan_id, range(days.first, days.last + 1)
    replies: list[Any] = []
    async with database.batch(replies) as batch:
        for day in wanted:
            batch.execute_command("HGET", database.key("plan-days", str(day)), name)
    return {day: Sums(*map(int, raw.split())) for day, raw in zip(wanted, replies, strict=True) if raw}


async def lease(database: Database, holder: str, seconds: int) -> bool:
    """Take the lease if it is free, or renew the holder's own. Returns True if the holder has it now."""
    key = database.key("figures-lease")
    if await database.ask("SET", key, holder, "NX", "EX", seconds):
        return True
    if await database.ask("GET", key) != holder.encode():
        return False
    return bool(await database.ask("EXPIRE", key, seconds))


async def release(database: Database, holder: str) -> None:
    key = database.key("figures-lease")
    if await database.ask("GET", key) == holder.encode():
        await database.ask("DEL", key)

"""The account's alerts: calls that took a quota's used units to a percent of its limit, in the order of Redis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from authz.core.holders import kind_of
from authz.core.limits import finite_end
from authz.core.zones import iso_time
from authz.store.database import Database
from authz.store.ports import Alert, AlertPage, AlertQuery, InvalidPosition

ID: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}", re.ASCII)
READ: Final = 200  # entries in one command
SCANNED: Final = 2_000  # entries for one page, where few match
OF_CUSTOMERS: Final = frozenset({kind_of("ledger", True), kind_of("quota", True)})


async def read_alerts(database: Database, query: AlertQuery, limit: int, position: str | None) -> AlertPage:
    """Read at most `limit` alerts behind a position, which is the id of an alert. Raises InvalidPosition.

    A page may have fewer alerts although others follow. Without a position after it, a page is the last.
    """
    if position is not None and not ID.fullmatch(position):
        raise InvalidPosition("Invalid position parameter")
    found: list[Alert] = []
    command, first, last = ("XREVRANGE", "+", "-") if query.newest_first else ("XRANGE", "-", "+")
    for _ in range(SCANNED // READ):
        start = first if position is None else f"({position}"
        rows = await database.ask(command, database.key("alerts"), start, last, "COUNT", READ)
        for entry_id, fields in rows:
            position = entry_id.decode()
            alert = alert_of(database, position, fields)
            if query.matches(alert):
                found.append(alert)
                if len(found) == limit:
                    return AlertPage(found, position)
        if len(rows) < READ:
            return AlertPage(found, None)
    return AlertPage(found, position)


def alert_of(database: Database, entry_id: str, fields: Mapping[bytes, bytes]) -> Alert:
    """The alert of an entry of the stream."""
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    kind, plan, who, *_ = map(unquote, database.name_of(texts["value"]).split(":"))
    return Alert(
        id=entry_id,
        plan_id=plan,
        key_id=None if kind in OF_CUSTOMERS else who,
        customer_id=who if kind in OF_CUSTOMERS else None,
        period=texts["period"],
        counts=texts["counts"],
        percent=int(float(texts["percent"])),
        used=int(float(texts["used"])),
        limit=int(float(texts["limit"])),
        start=int(float(texts["start"])),
        end=finite_end(int(float(texts["end"]))),
        at=int(float(texts["at"])),
    )


def document_of(alert: Alert) -> dict[str, Any]:
    """An alert as JSON has it. `id` is the position after it."""
    return {
        "id": alert.id,
        "at": iso_time(alert.at),
        "usagePlanId": alert.plan_id,
        **({"keyId": alert.key_id} if alert.customer_id is None else {"customerId": alert.customer_id}),
        "period": alert.period,
        "counts": alert.counts,
        "percent": alert.percent,
        "used": alert.used,
        "limit": alert.limit,
        **({} if alert.end is None else {"start": iso_time(alert.start), "end": iso_time(alert.end)}),
    }

"""The audit: one line for each version of the store."""

from __future__ import annotations

import re
from typing import Any, Final

from authz.store.database import Database
from authz.store.feed import version_of
from authz.store.ports import AuditLine, AuditPage, AuditQuery, InvalidPosition

VERSION: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
READ: Final = 500  # lines in one command
SCANNED: Final = 2_000  # lines for one page, where few match


async def audit(database: Database, count: int = 100, after: int | None = None) -> list[AuditLine]:
    """Up to `count` lines in order: those after a version, or the last ones."""
    key = database.store_key("audit")
    if after is None:
        rows = (await database.ask("XREVRANGE", key, "+", "-", "COUNT", count))[::-1]
    else:
        rows = await database.ask("XRANGE", key, f"({after}-0", "+", "COUNT", count)
    return [_line(*row) for row in rows]


async def read_audit(database: Database, query: AuditQuery, limit: int, position: str | None) -> AuditPage:
    """Up to `limit` lines below a position, which is a version.

    A page may have fewer lines although others follow. Raises InvalidPosition.
    """
    if position is not None and not VERSION.fullmatch(position):
        raise InvalidPosition("Invalid position parameter")
    key, found = database.store_key("audit"), list[AuditLine]()
    text, count = (query.names or "").encode(), READ if query.names or query.who else limit
    for _ in range(SCANNED // READ):
        top = "+" if position is None else f"({position}-0"
        rows = await database.ask("XREVRANGE", key, top, "-", "COUNT", count)
        for entry_id, fields in rows:
            if text in fields[b"what"] and query.matches(line := _line(entry_id, fields)):
                found.append(line)
                if len(found) == limit:
                    return AuditPage(found, str(line.version))
        if len(rows) < count:
            return AuditPage(found, None)
        position = str(version_of(rows[-1][0]))
    return AuditPage(found, position)


def _line(entry_id: bytes, fields: Any) -> AuditLine:
    return AuditLine(version_of(entry_id), int(fields[b"at"]), fields[b"who"].decode(), fields[b"what"].decode())


def printable(text: str) -> str:
    """The text in one line, without characters that would move the cursor of a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)

"""The audit: one line for each version of the store."""

from __future__ import annotations

from dataclasses import dataclass

from authz.store.database import Database
from authz.store.feed import version_of


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who wrote what; `at` in µs of Unix time."""

    version: int
    at: int
    who: str
    what: str


async def audit(database: Database, count: int = 100, after: int | None = None) -> list[AuditLine]:
    """Up to `count` lines in order: those after a version, or the last ones."""
    key = database.store_key("audit")
    if after is None:
        rows = (await database.ask("XREVRANGE", key, "+", "-", "COUNT", count))[::-1]
    else:
        rows = await database.ask("XRANGE", key, f"({after}-0", "+", "COUNT", count)
    return [
        AuditLine(version_of(entry_id), int(fields[b"at"]), fields[b"who"].decode(), fields[b"what"].decode())
        for entry_id, fields in rows
    ]


def printable(text: str) -> str:
    """The text in one line, without characters that would move the cursor of a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)

"""The audit, to read: one line for each version of the store."""

from __future__ import annotations

from typing import Any, Final

from authz.control.call import PAGING, Answer, Call, Operation
from authz.control.operations.restapis import listed
from authz.core.zones import iso_time
from authz.store.ports import AuditLine, AuditQuery


async def get_audit(call: Call) -> Answer:
    """Answer with a page of the audit, the newest line first: of the lines that name `id`, and of those by `who`."""
    call.refuse_others("id", "who", *PAGING)
    limit, position = call.paging()
    page = await call.context.store.audit(AuditQuery(call.one("id"), call.one("who")), limit, position)
    return listed(map(_document, page.lines), page.position)


def _document(line: AuditLine) -> dict[str, Any]:
    return {"version": line.version, "at": iso_time(line.at), "who": line.who, "what": line.what}


OPERATIONS: Final = (Operation("GetAudit", "GET", "/audit", get_audit, writes=False),)

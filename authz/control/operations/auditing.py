"""The audit, to read: one line for each version of the store."""

from __future__ import annotations

from typing import Final

from authz.control.call import PAGING, Answer, Call, Operation
from authz.control.operations.restapis import listed
from authz.core.zones import iso_time
from authz.store.ports import AuditQuery


async def get_audit(call: Call) -> Answer:
    """Answer with a page of the audit, the newest line first: of the lines that name `id`, and of those by `who`."""
    call.refuse_others("id", "who", *PAGING)
    limit, position = call.paging()
    page = await call.context.store.audit(AuditQuery(call.one("id"), call.one("who")), limit, position)
    lines = ({"version": one.version, "at": iso_time(one.at), "who": one.who, "what": one.what} for one in page.lines)
    return listed(lines, page.position)


OPERATIONS: Final = (Operation("GetAudit", "GET", "/audit", get_audit, writes=False),)

"""The form that adds units to what remains of a quota, on the page of a key and of a customer."""

from __future__ import annotations

import secrets
from typing import Final

from authz.control.console.fields import Misfit, whole
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import Visit

GRANT_PLACES: Final = (
    ("$.units", "units"),
    ("granted", "units"),
    ("$.reason", "reason"),
    ("grant has this name", "units"),
    ("", "quota"),
)


async def grant(visit: Visit[OwnerSession], form: Form, **holder: str) -> str:
    """Grant to the key or the customer that `holder` names. The form's hidden name makes a second sending harmless.

    Raises Misfit and ApiError.
    """
    plan, period, counts = [*form.text("quota").split(" "), "", ""][:3]
    units, reason = whole(form, "units"), form.text("reason")
    if not units:
        raise Misfit("units", "Expected a number of at least 1.")
    if not reason:
        raise Misfit("reason", "Say why: the audit keeps it.")
    name = f"console/{form.text('grant')[:64] or secrets.token_urlsafe(12)}"
    quota = {"usagePlanId": plan, "period": period, "counts": counts}
    made = await visit.ask("GrantUsage", body={**quota, **holder, "units": units, "reason": reason, "name": name})
    whose = f" for all keys of {made['customerId']}" if "customerId" in made else ""
    if made["repeated"]:
        return f"This form was sent before, and the units were added then. {made['remaining']:,} are left{whose}."
    return f"{units:,} were added. {made['remaining']:,} are left in this period{whose}."

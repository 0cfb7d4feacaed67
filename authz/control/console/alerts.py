"""The pages of alerts: targets, what became of each delivery, and the thresholds that were crossed."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.console.fields import NOTHING_TYPED, Misfit, Typed, refused, whole
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

TARGETS: Final = "100"
LATEST: Final = "10"  # crossed thresholds and failed deliveries on the first page
PAGE: Final = "50"
PLANS: Final = "100"
HOUR_SECONDS: Final = 3600
OVERLAP_HOURS: Final = 24
STATES: Final = (("failed", "Failed"), ("pending", "Waiting"), ("delivered", "Delivered"))
PLACES: Final = (
    ("$.name", "name"),
    ("$.url", "url"),
    ("$.customerId", "customer"),
    ("$.description", "description"),
    ("$.overlapSeconds", "overlap"),
    ("Usage Plan", "plan"),
)


async def alerts(visit: Visit[OwnerSession]) -> Response:
    targets = await visit.ask("GetAlertTargets", query={"limit": TARGETS, "position": visit.query("position")})
    failed = await visit.ask("GetAlertDeliveries", query={"state": "failed", "limit": LATEST})
    crossed = await visit.ask("GetUsageAlerts", query={"limit": LATEST})
    return await visit.page(
        "console/alerts.html",
        targets=targets["item"],
        position=targets.get("position"),
        names=_names(targets["item"]),
        failed=failed["item"],
        crossed=crossed["item"],
        plans=await _plan_names(visit),
    )


async def crossed(visit: Visit[OwnerSession]) -> Response:
    """The thresholds that were crossed, the newest first: of all, of a plan, of a key or of a customer."""
    wanted = {name: visit.query(name) for name in ("plan", "key", "customer")}
    who = {"usagePlanId": wanted["plan"], "keyId": wanted["key"], "customerId": wanted["customer"]}
    found = await visit.ask("GetUsageAlerts", query=who | {"limit": PAGE, "position": visit.query("position")})
    return await visit.page(
        "console/alerts-crossed.html",
        crossed=found["item"],
        position=found.get("position"),
        wanted={name: text for name, text in wanted.items() if text},
        plans=await _plan_names(visit),
    )


async def _plan_names(visit: Visit[OwnerSession]) -> dict[str, str]:
    return {plan["id"]: plan["name"] for plan in (await visit.ask("GetUsagePlans", query={"limit": PLANS}))["item"]}


def _names(targets: list[dict[str, Any]]) -> dict[str, str]:
    return {target["id"]: target["name"] for target in targets}


# --- a target -----------------------------------------------------------------------------------------------------


def target_document(form: Form) -> dict[str, Any]:
    """The body that the form of a target describes."""
    optional = {
        "customerId": form.given("customer"),
        "usagePlanId": form.given("plan"),
        "description": form.given("description"),
    }
    return {
        "name": form.text("name"),
        "url": form.text("url"),
        "enabled": form.ticked("enabled"),
        **{name: text for name, text in optional.items() if text is not None},
    }


async def new_target(visit: Visit[OwnerSession]) -> Response:
    return await _new_form(visit, NOTHING_TYPED)


async def create_target(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    try:
        made = await visit.ask("CreateAlertTarget", body=target_document(form))
    except ApiError as error:
        return await _new_form(visit, refused(form, error, PLACES))
    return await _show_secret(visit, made, "The target was made. Send it a test.")


async def _new_form(visit: Visit[OwnerSession], typed: Typed) -> Response:
    plans = await _plan_names(visit)
    return await visit.page("console/alerts-new.html", status=typed.status, typed=typed, plans=plans)


async def target(visit: Visit[OwnerSession]) -> Response:
    return await _target_page(visit, NOTHING_TYPED)


async def _target_page(visit: Visit[OwnerSession], typed: Typed) -> Response:
    id_ = visit.path("target_id")
    found = await visit.ask("GetAlertTarget", {"targetId": id_})
    left = visit.query("secret")
    secret = await visit.site.parts.sessions.take_message(visit.session_id, left) if left else None
    deliveries = {}
    for state, _ in STATES:
        query = {"state": state, "targetId": id_, "limit": LATEST}
        deliveries[state] = (await visit.ask("GetAlertDeliveries", query=query))["item"]
    return await visit.page(
        "console/alerts-target.html",
        status=typed.status,
        target=found,
        typed=typed,
        secret=secret,
        states=STATES,
        deliveries=deliveries,
        names={id_: found["name"]},
        overlap_hours=OVERLAP_HOURS,
        plans=await _plan_names(visit),
    )


async def put_target(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    params = {"targetId": visit.path("target_id")}
    try:
        await visit.ask("PutAlertTarget", params, body=target_document(form))
    except ApiError as error:
        return await _target_page(visit, refused(form, error, PLACES))
    return await visit.go(_path(visit), "The target was changed.")


async def delete_target(visit: Visit[OwnerSession]) -> Response:
    await visit.ask("DeleteAlertTarget", {"targetId": visit.path("target_id")})
    return await visit.go(f"{visit.site.root}/alerts", "The target was deleted, and so were its deliveries.")


async def rotate_secret(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    try:
        hours = whole(form, "overlap")
        seconds = (OVERLAP_HOURS if hours is None else hours) * HOUR_SECONDS
        params = {"targetId": visit.path("target_id")}
        rotated = await visit.ask("RotateAlertTargetSecret", params, body={"overlapSeconds": seconds})
    except (ApiError, Misfit) as error:
        return await _target_page(visit, refused(form, error, PLACES))
    both = f"For {seconds // HOUR_SECONDS} hours both secrets sign." if seconds else "The old one has ended."
    return await _show_secret(visit, rotated, f"The target has a new secret. {both}")


async def test_target(visit: Visit[OwnerSession]) -> Response:
    result = await visit.ask("TestAlertTarget", {"targetId": visit.path("target_id")})
    status = f" with {result['status']}" if "status" in result else ""
    if result["arrived"]:
        return await visit.go(_path(visit), f"The test arrived: the receiver answered{status}.")
    why = result.get("error") or f"the receiver answered{status}"
    return await visit.go(_path(visit), f"The test did not arrive: {why}.")


async def _show_secret(visit: Visit[OwnerSession], document: dict[str, Any], message: str) -> Response:
    """Send the browser to the target's page, which shows the secret once. The URL has a random name for it."""
    name = await visit.site.parts.sessions.leave_message(visit.session_id, document["secret"])
    return await visit.go(f"{visit.site.root}/alerts/targets/{document['id']}", message, secret=name)


def _path(visit: Visit[OwnerSession]) -> str:
    return f"{visit.site.root}/alerts/targets/{visit.path('target_id')}"


# --- deliveries ---------------------------------------------------------------------------------------------------


async def deliveries(visit: Visit[OwnerSession]) -> Response:
    """Deliveries in one state, of all targets or of one."""
    state, target_id = visit.query("state") or "failed", visit.query("target")
    query = {"state": state, "targetId": target_id, "limit": PAGE, "position": visit.query("position")}
    found = await visit.ask("GetAlertDeliveries", query=query)
    targets = await visit.ask("GetAlertTargets", query={"limit": TARGETS})
    return await visit.page(
        "console/alerts-deliveries.html",
        state=state,
        states=STATES,
        wanted={"state": state} | ({"target": target_id} if target_id else {}),
        target_id=target_id,
        deliveries=found["item"],
        position=found.get("position"),
        names=_names(targets["item"]),
    )


async def resend(visit: Visit[OwnerSession]) -> Response:
    back = f"{visit.site.root}/alerts/deliveries"
    try:
        await visit.ask("ResendAlertDelivery", {"deliveryId": visit.path("delivery_id")})
    except ApiError as error:
        return await visit.go(back, f"It was not sent again. {error.message}.")
    return await visit.go(
        back, "It is sent again, at once. Reload this page to see whether it arrived.", state="pending"
    )


VIEWS: Final = (
    View("GET", "/alerts", alerts),
    View("GET", "/alerts/crossed", crossed),
    View("GET", "/alerts/new", new_target, writes=True),
    View("POST", "/alerts/new", create_target, writes=True),
    View("GET", "/alerts/targets/{target_id}", target),
    View("POST", "/alerts/targets/{target_id}", put_target, writes=True),
    View("POST", "/alerts/targets/{target_id}/delete", delete_target, writes=True),
    View("POST", "/alerts/targets/{target_id}/rotate", rotate_secret, writes=True),
    View("POST", "/alerts/targets/{target_id}/test", test_target, writes=True),
    View("GET", "/alerts/deliveries", deliveries),
    View("POST", "/alerts/deliveries/{delivery_id}/resend", resend, writes=True),
)

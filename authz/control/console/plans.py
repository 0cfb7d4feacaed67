"""The pages of usage plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.console.daily import CHARTED_DAYS, days_to, total_of, utc_today
from authz.control.console.planform import (
    ROWS,
    MethodRow,
    PlanForm,
    Problems,
    by_field,
    document_of,
    form_of,
    method_choices,
    read_plan_form,
    with_stage,
)
from authz.control.console.planpage import SHADOW_DAYS, alert_percents, live, refused_in_shadow
from authz.control.pages.charts import day_columns
from authz.control.pages.layers import plan_layers
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit
from authz.core.resources import Anchor, Counts, FailurePolicy, LimitsPer, Mode, Period

PAGE: Final = "50"
FEW: Final = "10"
SHADOW_KEYS: Final = "200"  # read for one page of the shadow's result
SHADOW_ROWS: Final = 50  # shown of them
MAX_APIS: Final = "25"  # whose stages a form offers; others are written by hand
MAX_LOOKED_UP: Final = 10  # stages of a plan whose methods and throttles a page shows
MAX_CHOICES: Final = 200  # methods that a form offers for one stage
REFUSALS: Final = (400, 404, 409)  # of a document; its form is shown again

Owner = Visit[OwnerSession]
Document = Mapping[str, Any]

MODES: Final = (
    (Mode.SHADOW.value, "shadow: count, and refuse nothing"),
    (Mode.ENFORCE.value, "enforce: refuse calls beyond a limit"),
)
POLICIES: Final = (
    ("", "as usual: a share of the limits in each process"),
    (FailurePolicy.LOCAL.value, "local: a share of the limits in each process"),
    (FailurePolicy.ALLOW.value, "allow: let all calls pass"),
    (FailurePolicy.DENY.value, "deny: refuse all calls"),
)
HOLDERS: Final = (
    (LimitsPer.KEY.value, "each key"),
    (LimitsPer.CUSTOMER.value, "each customer: its keys share the limits"),
)
PERIODS: Final = (("", "no quota"), *((period.value, period.value.lower()) for period in Period))
COUNTS: Final = ((Counts.REQUESTS.value, "calls"), (Counts.UNITS.value, "units of cost"))
ANCHORS: Final = (
    (Anchor.CALENDAR.value, "the 1st, plus the offset"),
    (Anchor.BILLING_DAY.value, "the billing day"),
)
CHOICES: Final = {
    "modes": MODES,
    "policies": POLICIES,
    "holders": HOLDERS,
    "periods": PERIODS,
    "counted": COUNTS,
    "anchors": ANCHORS,
    "rows": ROWS,
}


async def plans(visit: Owner) -> Response:
    found = await visit.ask("GetWholePlans", query={"limit": PAGE, "position": visit.query("position")})
    return await visit.page("console/plans.html", plans=found["item"], position=found.get("position"))


# --- one plan -------------------------------------------------------------------------------------------------------


async def plan(visit: Owner) -> Response:
    plan_id = visit.path("plan_id")
    found = await visit.ask("GetWholePlan", {"usageplanId": plan_id})
    is_fixed = bool((await visit.ask("GetFileItems", query={"kind": "usageplan", "id": plan_id}))["item"])
    return await visit.page(
        "console/plan.html",
        plan=found,
        is_fixed=is_fixed,
        may_change=visit.session.may_write and not is_fixed,
        stages=form_of(found).stages,
        is_shadow=found.get("mode") == Mode.SHADOW,
        layers=await _layers(visit, found, await _stages(visit, found)),
        live=live(await visit.ask("GetCatalogVersion"), visit.query("since")),
        keys=await _keys(visit, plan_id),
        chart=await _chart(visit, plan_id),
        shadow=await _shadow(visit, found),
        shadow_days=SHADOW_DAYS,
        shadow_keys=SHADOW_KEYS,
        percents=alert_percents(found.get("quotas", ())),
        alerts=(await visit.ask("GetUsageAlerts", query={"usagePlanId": plan_id, "limit": FEW}))["item"],
        history=(await visit.ask("GetAudit", query={"id": plan_id, "limit": FEW}))["item"],
    )


async def _stages(visit: Owner, document: Document) -> dict[str, Document]:
    """The first stages that a plan's document covers, by names such as `a1/prod`; none that does not exist."""
    found = {}
    for covered in document.get("apiStages", ())[:MAX_LOOKED_UP]:
        api, stage = covered["apiId"], covered["stage"]
        found[f"{api}/{stage}"] = await visit.find("GetStage", {"restapi_id": api, "stage_name": stage})
    return {place: stage for place, stage in found.items() if stage is not None}


async def _layers(visit: Owner, document: Document, stages: Mapping[str, Document]) -> Any:
    """The layers of a plan's document, with the throttles of its stages and of the account."""
    return plan_layers(document, stages, await visit.ask("GetAccount"))


async def _keys(visit: Owner, plan_id: str) -> Document:
    name, position = visit.query("name"), visit.query("position")
    query = {"limit": PAGE, "name": name, "position": position}
    found = await visit.ask("GetUsagePlanKeys", {"usageplanId": plan_id}, query)
    rows = [{"id": key["id"], "name": key.get("name", "")} for key in found["item"]]
    return {"rows": rows, "position": found.get("position"), "name": name or "", "is_first": position is None}


async def _chart(visit: Owner, plan_id: str) -> Any:
    """The use of the last days; None until the figures of a large account have been gathered."""
    days = days_to(utc_today(), CHARTED_DAYS)
    found = await visit.ask("GetUsageOverviewDays", query={"usagePlanId": plan_id, **days.query})
    if not found["ready"]:
        return None
    uses = days.uses(found["item"])
    since = days_to(days.last, SHADOW_DAYS).first.isoformat()
    recent = total_of([row for row in found["item"] if row["day"] >= since])
    return {"columns": day_columns(uses), "today": uses[-1], "as_of": found["asOf"], "recent": recent}


async def _shadow(visit: Owner, document: Document) -> Document | None:
    """The keys that a plan in shadow would have refused; None for a plan that is enforced."""
    if document.get("mode") != Mode.SHADOW:
        return None
    query = {
        "usagePlanId": document["id"],
        **days_to(utc_today(), SHADOW_DAYS).query,
        "groupBy": "key",
        "limit": SHADOW_KEYS,
        "position": visit.query("keys"),
    }
    found = await visit.ask("GetUsageDays", query=query)
    rows = refused_in_shadow(found["item"])
    return {
        "rows": rows[:SHADOW_ROWS],
        "more": max(0, len(rows) - SHADOW_ROWS),
        "position": found.get("position"),
        "is_first": visit.query("keys") is None,
    }


async def set_mode(visit: Owner) -> Response:
    plan_id, mode = visit.path("plan_id"), (await visit.form()).text("mode")
    change = {"patchOperations": [{"op": "replace", "path": "/mode", "value": mode}]}
    changed = await visit.ask("UpdateUsagePlan", {"usageplanId": plan_id}, body=change)
    now = "refuses nothing now" if changed.get("mode") == Mode.SHADOW else "is enforced now"
    return await _back(visit, plan_id, f"The plan {changed['name']} {now}.")


async def _back(visit: Owner, plan_id: str, message: str) -> Response:
    """Send the browser to the page of a plan, which shows how many sidecars serve the change."""
    since = {"since": visit.versions[-1]} if visit.versions else {}
    return await visit.go(f"{visit.site.root}/plans/{plan_id}", message, **since)


# --- deletion -------------------------------------------------------------------------------------------------------


async def confirm_delete(visit: Owner) -> Response:
    plan_id = visit.path("plan_id")
    found = await visit.ask("GetWholePlan", {"usageplanId": plan_id})
    keys = await visit.ask("GetUsagePlanKeys", {"usageplanId": plan_id}, {"limit": PAGE})
    count = f"more than {PAGE}" if keys.get("position") else str(len(keys["item"]))
    return await visit.page("console/plan-delete.html", plan=found, keys=count)


async def delete(visit: Owner) -> Response:
    plan_id = visit.path("plan_id")
    await visit.form()
    found = await visit.ask("GetUsagePlan", {"usageplanId": plan_id})
    await visit.ask("DeleteUsagePlan", {"usageplanId": plan_id})
    return await visit.go(f"{visit.site.root}/plans", f"The plan {found['name']} was deleted.")


# --- making and changing a plan -------------------------------------------------------------------------------------


async def new(visit: Owner) -> Response:
    return await _form_page(visit, PlanForm(), None)


async def edit(visit: Owner) -> Response:
    found = await visit.ask("GetWholePlan", {"usageplanId": visit.path("plan_id")})
    return await _form_page(visit, form_of(found), found)


async def create(visit: Owner) -> Response:
    return await _answered(visit, None)


async def change(visit: Owner) -> Response:
    return await _answered(visit, await visit.ask("GetWholePlan", {"usageplanId": visit.path("plan_id")}))


async def _answered(visit: Owner, before: Document | None) -> Response:
    """Save the form, or show it again: with its layers, another stage, or its mistakes beside their fields."""
    form = await visit.form()
    typed, do = read_plan_form(form), form.text("do")
    if do == "stage":
        typed = with_stage(typed, form.text("otherStage") or form.text("stage"))
    document, problems = document_of(typed)
    if do != "save":
        return await _form_page(visit, typed, before, {} if do == "stage" else problems)
    if problems:
        return await _form_page(visit, typed, before, problems, status=400)
    try:
        if before is None:
            did, saved = "was made", await visit.ask("CreateWholePlan", body=document)
        else:
            kept = {name: before[name] for name in ("productCode",) if name in before}  # the form does not show it
            params = {"usageplanId": before["id"]}
            did, saved = "was changed", await visit.ask("PutWholePlan", params, body=document | kept)
    except ApiError as error:
        if error.status not in REFUSALS:
            raise
        problems, others = by_field(error.problems, typed)
        said = others if error.problems else [error.message]
        return await _form_page(visit, typed, before, problems, said, error.status)
    return await _back(visit, saved["id"], f"The plan {saved['name']} {did}.")


async def _form_page(
    visit: Owner,
    typed: PlanForm,
    before: Document | None,
    problems: Problems | None = None,
    said: list[str] | None = None,
    status: int = 200,
) -> Response:
    document, _ = document_of(typed)
    stages = await _stages(visit, document)
    return await visit.page(
        "console/plan-form.html",
        status=status,
        form=replace(typed, stages=tuple(replace(row, methods=(*row.methods, MethodRow())) for row in typed.stages)),
        before=before,
        problems=problems or {},
        said=said or [],
        layers=await _layers(visit, document, stages),
        stages=await _stage_choices(visit),
        methods={place: await _methods(visit, place.partition("/")[0], stage) for place, stage in stages.items()},
        **CHOICES,
    )


async def _stage_choices(visit: Owner) -> Document:
    """The stages that may be chosen, with the names of their APIs, and whether there are more."""
    found = await visit.ask("GetRestApis", query={"limit": MAX_APIS})
    choices = []
    for api in found["item"]:
        listed = await visit.ask("GetStages", {"restapi_id": api["id"]})
        choices += [(f"{api['id']}/{one['stageName']}", f"{api['name']}: {one['stageName']}") for one in listed["item"]]
    return {"choices": choices, "has_more": found.get("position") is not None}


async def _methods(visit: Owner, api: str, stage: Document) -> list[str]:
    """The methods that a stage serves and that need a key."""
    params = {"restapi_id": api, "deployment_id": stage["deploymentId"]}
    deployment = await visit.find("GetDeployment", params, query={"embed": "apisummary"})
    return [] if deployment is None else method_choices(deployment.get("apiSummary", {}))[:MAX_CHOICES]


VIEWS: Final = (
    View("GET", "/plans", plans),
    View("GET", "/plans-new", new, writes=True),  # a file may have a plan whose id is "new"
    View("POST", "/plans-new", create, writes=True),
    View("GET", "/plans/{plan_id}", plan),
    View("GET", "/plans/{plan_id}/edit", edit, writes=True),
    View("POST", "/plans/{plan_id}/edit", change, writes=True),
    View("POST", "/plans/{plan_id}/mode", set_mode, writes=True),
    View("GET", "/plans/{plan_id}/delete", confirm_delete, writes=True),
    View("POST", "/plans/{plan_id}/delete", delete, writes=True),
)

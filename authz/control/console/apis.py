"""The pages of APIs and their stages, to read: deployments in use, throttles of methods, the plans of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from authz.control.pages import words
from authz.control.pages.layers import UNLIMITED_STAGE, stage_throttle
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit
from authz.core.methods import WILDCARD, by_method

PAGE: Final = "25"
MAX_STAGES: Final = 25  # whose deployment and plans a page shows
MAX_PLANS: Final = "50"  # of one stage
MAX_METHODS: Final = 200  # of one stage

Owner = Visit[OwnerSession]
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """A method of a stage. `throttle` is the stage's setting for it in words, "" without one of its own."""

    method: str
    needs_key: bool
    throttle: str = ""


def throttle_of(settings: Document | None) -> str:
    """A stage's setting for a method in words; "" if it sets no throttle."""
    given = settings or {}
    return "no limit" if given.get("throttlingRateLimit") == UNLIMITED_STAGE else stage_throttle(given)


def served_methods(summary: Mapping[str, Mapping[str, Document]], settings: Mapping[str, Document]) -> list[Served]:
    """The methods of a deployment with the stage's throttles for them."""
    by_place = by_method(settings)
    return [
        Served(f"{verb} {path}", bool(method.get("apiKeyRequired")), throttle_of(by_place.get((path, verb))))
        for path, verbs in summary.items()
        for verb, method in verbs.items()
    ]


def default_throttle(settings: Mapping[str, Document]) -> str:
    """The stage's throttle for every method without one of its own, in words."""
    return throttle_of(by_method(settings).get((WILDCARD, WILDCARD)))


async def apis(visit: Owner) -> Response:
    found = await visit.ask("GetRestApis", query={"limit": PAGE, "position": visit.query("position")})
    rows = [{"api": api, "stages": await _stages(visit, api["id"])} for api in found["item"]]
    account = await visit.ask("GetAccount")
    throttle = words.throttle_of(account["throttleSettings"])
    return await visit.page("console/apis.html", rows=rows, position=found.get("position"), account=throttle)


async def api(visit: Owner) -> Response:
    found = await visit.ask("GetRestApi", {"restapi_id": visit.path("api_id")})
    api_id = found["id"]
    stages = await _stages(visit, api_id)
    shown = []
    for stage in stages[:MAX_STAGES]:
        params = {"restapi_id": api_id, "deployment_id": stage["deploymentId"]}
        deployment = await visit.find("GetDeployment", params, query={"embed": "apisummary"})
        query = {"apiId": api_id, "stage": stage["stageName"], "limit": MAX_PLANS}
        plans = await visit.ask("GetWholePlans", query=query)
        settings = stage.get("methodSettings", {})
        methods = served_methods((deployment or {}).get("apiSummary", {}), settings)
        shown.append(
            {
                "stage": stage,
                "deployment": deployment,
                "throttle": default_throttle(settings),
                "methods": methods[:MAX_METHODS],
                "more_methods": max(0, len(methods) - MAX_METHODS),
                "plans": plans["item"],
                "has_more_plans": plans.get("position") is not None,
            }
        )
    return await visit.page("console/api.html", api=found, stages=shown, more=len(stages) - len(shown))


async def _stages(visit: Owner, api_id: str) -> list[Any]:
    found: list[Any] = (await visit.ask("GetStages", {"restapi_id": api_id}))["item"]
    return found


VIEWS: Final = (View("GET", "/apis", apis), View("GET", "/apis/{api_id}", api))

"""A call that a key of a plan can make: where it goes, and where the key stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from authz.aws.convert import to_resources
from authz.background import in_background
from authz.control.call import Answer, Call, Operation
from authz.control.operations.usageplans import stored_plan
from authz.core.methods import ANY
from authz.core.resources import Api, HttpMethod, KeySource, Method, Resources, UsagePlan
from authz.core.stored import Items

WHOLE: Final[dict[str, dict[HttpMethod, Method]]] = {"/": {"ANY": Method()}}  # of a stage without resources
VERBS: Final[tuple[HttpMethod, ...]] = ("GET", "ANY", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
ANY_DOMAIN: Final = ".example.org"  # below which the first label names the API, as below any other
PARAMETER: Final = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class ExampleCall:
    """A call. Without a `host` the API is found because it is the only one.

    `key_source` is None if a filter of Envoy finds the key, such as one that checks a token.
    """

    method: HttpMethod
    path: str
    host: str | None
    key_source: KeySource | None


async def get_example_call(call: Call) -> Answer:
    """Answer with a call of the plan's first method that requires a key; without one, with no example."""
    plan = (await stored_plan(call.context.store, call.params["usageplanId"])).plan
    snapshot = await call.context.store.snapshot()
    found = await in_background(_example, {**snapshot.items, **call.context.fixed()}, plan)
    if found is None:
        return Answer(body={"usagePlanId": plan.id})
    example = {
        "method": found.method,
        "path": found.path,
        "host": found.host,
        "keySource": msgspec.to_builtins(found.key_source),
    }
    given = {name: value for name, value in example.items() if value is not None}
    return Answer(body={"usagePlanId": plan.id, "example": given})


def _example(items: Items, plan: UsagePlan) -> ExampleCall | None:
    return example_call(to_resources(items)[0], plan)


def example_call(resources: Resources, plan: UsagePlan) -> ExampleCall | None:
    """A call of a method of the plan that requires a key: one that reads, and needs no parameter, if there is one."""
    apis = {api.id: api for api in resources.apis}
    stages = [(apis[stage.api_id], stage.stage) for stage in plan.api_stages if stage.api_id in apis]
    calls = [found for api, stage in stages for found in _calls(api, stage, is_only=len(apis) == 1)]
    best = min(calls, key=lambda one: (VERBS.index(one.method), "{" in one.path), default=None)
    if best is None:
        return None
    return replace(best, method="GET" if best.method == ANY else best.method, path=PARAMETER.sub("1", best.path))


def _calls(api: Api, name: str, *, is_only: bool) -> Iterator[ExampleCall]:
    """A call of each method of a stage that requires a key."""
    stage = next((one for one in api.stages if one.name == name), None)
    if stage is None:
        return
    served = stage.deployment or api
    source = None if served.api_key_source == "AUTHORIZER" else next(iter(served.key_sources), None)
    host = next((one for one in api.hosts if one.stage in (None, name) and not one.host.startswith("*")), None)
    base = f"/{host.base_path}" if host and host.base_path else ""
    before = base if host and host.stage else f"{base}/{name}"  # the part of the path before the resource
    # Beside other APIs, one without a host is found by the first label.
    label = None if is_only else api.id + ANY_DOMAIN
    for path, methods in (served.resources or WHOLE).items():
        for verb, method in methods.items():
            if method.api_key_required:
                yield ExampleCall(verb, before + path, host.host if host else label, source)


OPERATIONS: Final = (
    Operation("GetExampleCall", "GET", "/usageplans/{usageplanId}/example", get_example_call, writes=False),
)

"""The layers of a plan in the order in which they are checked: documents of the API in, words out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from authz.control.pages.words import limit_words, throttle_of, throttle_words
from authz.core.limits import Layer

Shape = Literal["bucket", "window"]  # a bucket fills again all the time, a window ends

TITLES: Final = {
    Layer.PLAN_THROTTLE: "Throttle of the plan",
    Layer.PLAN_METHOD_THROTTLE: "Throttles of methods in the plan",
    Layer.PLAN_QUOTA: "Quotas of the plan",
    Layer.STAGE_METHOD_THROTTLE: "Throttles of the stage's methods",
    Layer.ACCOUNT_THROTTLE: "Throttle of the account",
}
ALL_CALLERS: Final = "all callers together"
UNLIMITED_STAGE: Final = -1  # AWS's number for a method without a throttle of its own

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LayerBox:
    """A layer: the callers who share each of its limits, and a sentence for each limit; no limit never refuses."""

    number: int
    layer: Layer
    shape: Shape
    title: str
    holder: str
    limits: tuple[str, ...]


def plan_layers(plan: Document, stages: Mapping[str, Document], account: Document) -> tuple[LayerBox, ...]:
    """The five layers of a plan.

    `plan` is the document of GetWholePlan, or of a plan that is being made. `stages` has documents of GetStage by names
    such as `a1/prod`, and `account` is that of GetAccount.
    """
    holder = "each customer" if plan.get("limitsPer") == "CUSTOMER" else "each key"
    limits = {
        Layer.PLAN_THROTTLE: [throttle_of(plan.get("throttle"))],
        Layer.PLAN_METHOD_THROTTLE: [
            f"{_method(method)} of {stage['apiId']}/{stage['stage']}: {words}"
            for stage in plan.get("apiStages", ())
            for method, throttle in stage.get("throttle", {}).items()
            if (words := throttle_of(throttle))
        ],
        Layer.PLAN_QUOTA: map(quota_words, plan.get("quotas", ())),
        Layer.STAGE_METHOD_THROTTLE: [
            f"{_method(method)} of {place}: {words}"
            for place, stage in stages.items()
            for method, settings in stage.get("methodSettings", {}).items()
            if (words := stage_throttle(settings))
        ],
        Layer.ACCOUNT_THROTTLE: [throttle_of(account.get("throttleSettings"))],
    }
    return tuple(
        LayerBox(
            number,
            layer,
            "window" if layer is Layer.PLAN_QUOTA else "bucket",
            TITLES[layer],
            ALL_CALLERS if layer in (Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE) else holder,
            tuple(filter(None, limits[layer])),
        )
        for number, layer in enumerate(Layer, 1)
    )


def quota_words(quota: Document) -> str:
    """A quota's document in words."""
    words = [limit_words(quota)]
    if quota.get("anchor") == "BILLING_DAY":
        words.append("from the billing day")
    elif quota.get("offset"):
        words.append(f"from day {quota['offset'] + 1} of the {str(quota['period']).lower()}")
    if zone := quota.get("timeZone"):
        words.append(f"by the clock of {zone}")
    if overage := quota.get("overage"):
        up_to = overage["upTo"]
        words.append("any number more at a price" if up_to == "UNLIMITED" else f"{up_to:,} more at a price")
    if alerts := quota.get("alerts"):
        words.append("alerts at " + ", ".join(f"{percent} %" for percent in sorted(alerts)))
    return "; ".join(words)


def stage_throttle(settings: Document) -> str:
    """A stage's throttle for a method in words; "" for a method without one, and for one without a limit."""
    rate, burst = settings.get("throttlingRateLimit"), settings.get("throttlingBurstLimit")
    if rate in (None, UNLIMITED_STAGE):
        return ""
    return throttle_words(rate, None if burst == UNLIMITED_STAGE else burst)


def _method(name: str) -> str:
    """A method as people write it: `~1pets~1{id}/GET`, `pets/GET` and `/pets/GET` become `GET /pets…`."""
    path, _, verb = name.rpartition("/")
    if (path, verb) == ("*", "*"):
        return "every method"
    plain = path.replace("~1", "/").replace("~0", "~")
    return f"{'any method' if verb in ('*', 'ANY') else verb} /{plain.removeprefix('/')}"

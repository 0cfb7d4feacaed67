"""The layers of a plan in the order in which they are checked: documents of the API in, words out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from authz.control.pages.words import number_words
from authz.core.limits import Layer

Shape = Literal["bucket", "window"]  # a bucket fills again all the time, a window ends

TITLES: Final = {
    Layer.PLAN_THROTTLE: "Throttle of the plan",
    Layer.PLAN_METHOD_THROTTLE: "Throttles of methods in the plan",
    Layer.PLAN_QUOTA: "Quotas of the plan",
    Layer.STAGE_METHOD_THROTTLE: "Throttles of the stage's methods",
    Layer.ACCOUNT_THROTTLE: "Throttle of the account",
}
PERIODS: Final = {
    "HOUR": "an hour",
    "DAY": "a day",
    "WEEK": "a week",
    "MONTH": "a month",
    "TOTAL": "in all",
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


def plan_layers(
    plan: Document, extension: Document, stages: Mapping[str, Document] | None = None, account: Document | None = None
) -> tuple[LayerBox, ...]:
    """The five layers of a plan.

    `plan` and `extension` are the documents of GetUsagePlan and GetUsagePlanExtension; a plan without an id is one that
    is being made. `stages` has documents of GetStage by names such as `a1/prod`, `account` that of GetAccount.
    """
    holder = "each customer" if extension.get("limitsPer") == "CUSTOMER" else "each key"
    quotas = extension.get("quotas") or filter(None, [plan.get("quota")])
    limits = {
        Layer.PLAN_THROTTLE: _throttle(plan.get("throttle"), _counts_units(extension)),
        Layer.PLAN_METHOD_THROTTLE: _plan_methods(plan, extension),
        Layer.PLAN_QUOTA: map(quota_words, quotas),
        Layer.STAGE_METHOD_THROTTLE: _stage_methods(stages or {}),
        Layer.ACCOUNT_THROTTLE: _throttle((account or {}).get("throttleSettings")),
    }
    return tuple(
        LayerBox(
            number,
            layer,
            "window" if layer is Layer.PLAN_QUOTA else "bucket",
            TITLES[layer],
            ALL_CALLERS if layer in (Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE) else holder,
            tuple(limits[layer]),
        )
        for number, layer in enumerate(Layer, 1)
    )


def throttle_words(rate: float, burst: int | None, *, in_units: bool = False) -> str:
    """A throttle in words. Without a burst, the bucket holds the calls of a second."""
    what = " units" if in_units else ""
    return f"{number_words(rate)}{what} a second" + ("" if burst is None else f", {burst:,} at once")


def quota_words(quota: Document) -> str:
    """A quota's document in words."""
    counts = str(quota.get("counts", "UNITS")).lower()
    words = [f"{quota['limit']:,} {counts} {PERIODS[quota['period']]}", *_details(quota)]
    return "; ".join(words)


def _details(quota: Document) -> Iterator[str]:
    if quota.get("anchor") == "BILLING_DAY":
        yield "from the billing day"
    elif quota.get("offset"):
        yield f"from day {quota['offset'] + 1} of the {str(quota['period']).lower()}"
    if zone := quota.get("timeZone"):
        yield f"by the clock of {zone}"
    if overage := quota.get("overage"):
        up_to = overage["upTo"]
        yield "any number more at a price" if up_to == "UNLIMITED" else f"{up_to:,} more at a price"
    if alerts := quota.get("alerts"):
        yield "alerts at " + ", ".join(f"{percent} %" for percent in sorted(alerts))


def _throttle(throttle: Document | None, in_units: bool = False) -> Iterator[str]:
    if throttle and throttle.get("rateLimit") is not None:
        yield throttle_words(throttle["rateLimit"], throttle.get("burstLimit"), in_units=in_units)


def _counts_units(document: Document) -> bool:
    return bool((document.get("throttle") or {}).get("counts") == "UNITS")


def _plan_methods(plan: Document, extension: Document) -> Iterator[str]:
    counted = {
        (stage["apiId"], stage["stage"], method)
        for stage in extension.get("apiStages", ())
        for method, throttle in stage.get("throttle", {}).items()
        if throttle.get("counts") == "UNITS"
    }
    for stage in plan.get("apiStages", ()):
        place = (stage["apiId"], stage["stage"])
        for method, throttle in stage.get("throttle", {}).items():
            for words in _throttle(throttle, (*place, method) in counted):
                yield f"{_method(method)} of {'/'.join(place)}: {words}"


def _stage_methods(stages: Mapping[str, Document]) -> Iterator[str]:
    for place, stage in stages.items():
        for method, settings in stage.get("methodSettings", {}).items():
            rate, burst = settings.get("throttlingRateLimit"), settings.get("throttlingBurstLimit")
            if rate not in (None, UNLIMITED_STAGE):
                bucket = None if burst == UNLIMITED_STAGE else burst
                yield f"{_method(method)} of {place}: {throttle_words(rate, bucket)}"


def _method(name: str) -> str:
    """A method as people write it: `~1pets~1{id}/GET`, `pets/GET` and `/pets/GET` become `GET /pets…`."""
    path, _, verb = name.rpartition("/")
    if (path, verb) == ("*", "*"):
        return "every method"
    plain = path.replace("~1", "/").replace("~0", "~")
    return f"{'any method' if verb in ('*', 'ANY') else verb} /{plain.removeprefix('/')}"

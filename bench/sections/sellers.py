"""The cost of what a plan has beside AWS's fields, and of AWS's own shape before those fields were there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from bench.load.inputs import ROOMY, document, of_keys, written
from bench.measure.rows import Bench, Samples, Section, Table, goal, interleaved, table
from bench.measure.stats import ratio
from bench.sections.common import COSTS, KEYS, MANY, complete, loop_row

Content = dict[str, Any]

PLAIN: Final = "AWS's own shape"
BEFORE: Final = "AWS's own shape, before"
MOST: Final = 1.03  # what the fields may cost a plan that has none of them
PARTS: Final = {"server_us": "the sidecar", "redis_us": "Redis"}
PERIODS: Final = ("MONTH", "HOUR", "DAY")


def with_quotas(content: Content) -> Content:
    """The content with two quotas more in each plan."""
    quotas = [{**ROOMY, "period": period} for period in PERIODS]
    return content | {"usagePlans": [_without_quota(plan) | {"quotas": quotas} for plan in content["usagePlans"]]}


def _without_quota(plan: Content) -> Content:
    return {name: value for name, value in plan.items() if name != "quota"}


def with_customers(content: Content) -> Content:
    """The content with plans whose limits the two keys of a customer share. A plan has each hundredth key."""
    plans = len(content["usagePlans"])
    keys = [{**key, "customerId": f"c{n // (2 * plans)}-{n % plans}"} for n, key in enumerate(content["apiKeys"])]
    return content | {
        "usagePlans": [{**plan, "limitsPer": "CUSTOMER"} for plan in content["usagePlans"]],
        "apiKeys": keys,
    }


def with_costs(content: Content) -> Content:
    """The content with a method that costs five units of each throttle and quota of the plan."""
    (api,) = content["apis"]
    plans = [{**plan, "throttle": {**plan["throttle"], "counts": "UNITS"}} for plan in content["usagePlans"]]
    return content | {
        "apis": [{**api, "resources": {path: {"GET": {"cost": 5}} for path in api["resources"]}}],
        "usagePlans": plans,
    }


SHAPES: Final[Mapping[str, Callable[[Content], Content]]] = {
    PLAIN: dict,
    "two quotas more": with_quotas,
    "limits of a customer": with_customers,
    "a cost of five": with_costs,
}


def sellers_section(bench: Bench) -> Section:
    """A row for each shape of a plan."""
    host = bench.hosts[0]
    plain = document(keys=KEYS)
    with ExitStack() as stack:
        rows = []
        for n, (name, shape) in enumerate(SHAPES.items()):
            config = written(shape(plain), bench.scratch, f"sellers-{n}.yaml")
            target = stack.enter_context(complete(bench, config, host))
            rows.append(loop_row(bench, name, target, of_keys(KEYS), MANY))
        if bench.before:
            config = written(plain, bench.scratch, "sellers-before.yaml")
            target = stack.enter_context(complete(bench, config, host, tree=bench.before))
            rows.append(loop_row(bench, BEFORE, target, of_keys(KEYS), MANY))
        samples = interleaved(bench, rows)
    text = f"{host}, {MANY} in flight, keys drawn from {KEYS:,}, five layers. Ratios are of the same round."
    goals = []
    if bench.before:
        goals = [
            goal(f"a plan of {PLAIN}: CPU of {what} over the same before", MOST, samples, PLAIN, BEFORE, figure)
            for figure, what in PARTS.items()
        ]
    return Section("Plans for sellers", text, [table(samples, COSTS), _ratios(samples)], goals=goals)


def _ratios(samples: Samples) -> Table:
    """The CPU of each row over that of AWS's own shape."""
    rows = [
        [name, *(str(ratio(found, samples[PLAIN], figure)) for figure in PARTS)]
        for name, found in samples.items()
        if name != PLAIN
    ]
    return Table([f"over {PLAIN}", *(f"CPU of {what}" for what in PARTS.values())], rows)

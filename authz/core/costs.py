"""The cost of a call: the method's, or a number that an earlier filter of Envoy left in dynamic metadata."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from authz.core.request import metadata_at
from authz.core.resources import CostFrom

MAX_DIGITS: Final = 18  # a longer number is above any `max`, and Python refuses to read thousands of digits


class CostSource(StrEnum):
    """Where the cost of a call comes from."""

    METHOD = "method"
    METADATA = "metadata"
    MAX = "max"
    ABSENT = "absent"
    NOT_WHOLE = "not_whole"


# Metadata should have had the cost, and the method's holds in its place; a metric counts such calls.
FALLBACKS: Final = frozenset({CostSource.ABSENT, CostSource.NOT_WHOLE})


class Price(NamedTuple):
    """The units that a call takes from limits that count units."""

    units: int
    source: CostSource


def price(cost_from: CostFrom, method_cost: int, metadata: Mapping[str, Any]) -> Price:
    """The cost in Envoy's metadata; the method's if there is no whole number of at least 0."""
    value = metadata_at(metadata, cost_from.metadata)
    if value is None:
        return Price(method_cost, CostSource.ABSENT)
    units = whole(value)
    if units is None:
        return Price(method_cost, CostSource.NOT_WHOLE)
    if units > cost_from.max:
        return Price(cost_from.max, CostSource.MAX)
    return Price(units, CostSource.METADATA)


def whole(value: object) -> int | None:
    """A whole number of at least 0; None for anything else.

    Decimal digits in a string count: that is the form in which `header_to_metadata` writes a number unless its rule
    says `type: NUMBER`. No other spelling does, such as `+7`, `7.0` or ` 7`, and neither does a boolean.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        digits = value.lstrip("0")
        return int(digits or "0") if len(digits) <= MAX_DIGITS else 10**MAX_DIGITS
    if isinstance(value, int | float) and value >= 0 and value == value // 1:
        return int(value) if value < 10**MAX_DIGITS else 10**MAX_DIGITS
    return None

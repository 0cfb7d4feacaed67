"""Numbers, throttles and quotas in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from authz.core.resources import Counts

EACH: Final = {"TOTAL": "in all", "HOUR": "an hour", "DAY": "a day", "WEEK": "a week", "MONTH": "a month"}

Document = Mapping[str, Any]


def number_words(value: float | None) -> str:
    """A number with its thousands parted, and never with an exponent; no value is a dash."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def each_period(period: str) -> str:
    """The words for a period behind a number, such as `an hour`."""
    return EACH[period]


def throttle_words(rate: float, burst: int | None, *, in_units: bool = False) -> str:
    """A throttle in words. Without a burst, the bucket holds the calls of a second."""
    what = " units" if in_units else ""
    return f"{number_words(rate)}{what} a second" + ("" if burst is None else f", {burst:,} at once")


def throttle_of(document: Document | None) -> str:
    """A throttle's document in words; "" for one without a rate, which throttles nothing."""
    if not document or document.get("rateLimit") is None:
        return ""
    in_units = document.get("counts") == Counts.UNITS
    return throttle_words(document["rateLimit"], document.get("burstLimit"), in_units=in_units)


def limit_words(quota: Document) -> str:
    """The limit of a quota's document in words, such as `5,000 units a month`."""
    counts = str(quota.get("counts", Counts.UNITS)).lower()
    return f"{quota['limit']:,} {counts} {each_period(quota['period'])}"

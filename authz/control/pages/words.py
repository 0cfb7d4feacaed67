"""Numbers, throttles and quotas in words."""

from __future__ import annotations


def number_words(value: float | None) -> str:
    """A number with its thousands parted, and never with an exponent; no value is a dash."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")

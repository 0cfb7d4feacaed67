"""Figures with their spread: the median of several rounds, and the least and the greatest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Sample = Mapping[str, float]  # what one round of one row measured, by the figure's name


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, their least and their greatest."""

    middle: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError without values."""
        if not values:
            raise ValueError("no rounds, no figure")
        return cls(median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{short(self.middle)} ({short(self.low)} to {short(self.high)})"


def short(number: float) -> str:
    """Three significant digits, and thousands apart; a count stays as it is."""
    if number == 0:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) >= 0.001 else f"{number:.1e}"


def ratio(over: Sequence[Sample], under: Sequence[Sample], figure: str) -> Spread:
    """Round by round, so that what slowed a whole round down falls out. Raises ValueError without a common round."""
    return Spread.of([a[figure] / b[figure] for a, b in zip(over, under, strict=False) if b[figure]])


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that so large a share does not pass; 0 without any."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

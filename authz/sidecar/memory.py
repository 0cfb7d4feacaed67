"""Keeps the garbage collector away from objects that live as long as the process."""

from __future__ import annotations

import gc
from typing import Final

# New containers between two collections of the youngest generation, and how many of those to one of the older ones. A
# call makes some tens of containers, and nearly all are gone when it is answered; few are left in cycles.
THRESHOLDS: Final = (5_000, 20, 20)


def freeze() -> None:
    """Exempt all objects that exist now from collection. Call it once, after the first catalog and before a fork.

    A full collection then has little to search. Later catalogs and keys are structs that are not tracked at all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

"""What the garbage collector looks at: not what lives as long as the process does."""

from __future__ import annotations

import gc
from typing import Final

# New containers between two looks at the young ones, and how many of those to one at the older generations. A call
# makes some tens of them, and nearly all are gone when it is answered; what is left in cycles is little.
THRESHOLDS: Final = (5_000, 20, 20)


def settle() -> None:
    """To be called once, when modules are imported and the first catalog is compiled, before a process forks.

    All of that is set aside for good, so that a full collection finds little to look through. What comes later is no
    burden either: catalogs and keys are made of structs that the collector does not track.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

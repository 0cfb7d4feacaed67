"""The bounds of AWS's values, and our own where AWS's are unknown."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

MAX_INT: Final = 2**31 - 1  # AWS's integers: bursts, quotas, sizes
MAX_RATE: Final = MAX_INT  # requests a second that can be configured; no Redis decides as many
MIN_RATE: Final = Fraction(1, 1_000_000)  # other than 0
MAX_REFILL_SECONDS: Final = 100 * 366 * 86_400  # of a whole bucket

MIN_KEY_VALUE: Final = 20  # characters
MAX_KEY_VALUE: Final = 128
MAX_NAME: Final = 1024  # characters of a key's or plan's name
MAX_DESCRIPTION: Final = 125_000
MAX_TAGS: Final = 50
MAX_SOURCES: Final = 100  # ranges of addresses of a key: a call compares its address with each
MAX_METHOD_THROTTLES: Final = 20  # of one stage in one plan
MAX_PLANS_OF_A_KEY: Final = 10
MAX_RESOURCES: Final = 2_000  # of an API; AWS allows 300 until a customer requests more
MAX_MODELS: Final = 500
MAX_VALIDATORS: Final = 100
MAX_COST: Final = 1_000_000  # units of one call
MAX_QUOTAS: Final = 4  # of a plan

"""A batch of waiting calls in the form that `lua/admit.lua` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from authz.core.limits import EXACT, Charge, Meter, Quota, Throttle, redis_key
from authz.limiter.batching import Waiter

ONCE_DIGITS = 32  # hexadecimal, of a SHA-256

_prefix = lru_cache(16)(redis_key)  # it does not differ between requests


@dataclass(frozen=True, slots=True)
class Batch:
    """The script's KEYS after the worker's own, how many of them are callers and buckets, and the rules and requests.

    `waiters` are in the order of `requests`. The header of `admit.lua` describes each part.
    """

    waiters: Sequence[Waiter]
    keys: list[str]
    callers: int
    buckets: int
    rules: list[tuple[int, ...]]
    requests: list[list[int]]
    onces: list[int]


class Encoder:
    """Encodes one batch. Each key and rule is sent once and numbered, even if many requests share it."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._ledgers: dict[str, int] = {}
        self._histories: list[str] = []
        self._buckets: dict[str, int] = {}
        self._onces: dict[str, int] = {}
        self._numbers: dict[int, int] = {}  # by the identity of a rule, which the waiters keep alive
        self._rules: list[tuple[int, ...]] = []

    def batch(self, waiters: Sequence[Waiter]) -> Batch:
        """Encode the calls. A call that cannot be encoded fails alone and is left out."""
        encoded, requests, onces = [], [], []
        for waiter in waiters:
            try:
                request = self._request(waiter.charge)
                once = self._once(waiter.charge) if waiter.charge.once else 0
            except Exception as error:  # of any kind: it must not fail the other callers
                waiter.finish(error)
                continue
            encoded.append(waiter)
            requests.append(request)
            onces.append(once)
        keys = [key for pair in zip(self._ledgers, self._histories, strict=True) for key in pair]
        keys += self._buckets
        keys += self._onces
        return Batch(
            encoded, keys, len(self._ledgers), len(self._buckets), self._rules, requests, onces if self._onces else []
        )

    def _request(self, charge: Charge) -> list[int]:
        limits, meter = charge.limits, charge.meter
        ledger, caller, numbers, buckets = None, 0, self._numbers, self._buckets
        if meter:
            ledger = meter.ledger
            caller = self._ledgers.get(ledger) or self._caller(meter)
        request = [caller]
        for limit in limits:
            key, rule = limit.key, limit.rule
            number = numbers.get(id(rule)) or self._rule(rule)
            if key == ledger:
                value = caller
            elif type(rule) is Quota:
                raise ValueError(f"a quota lives in its caller's ledger, not in {key}")
            else:
                value = buckets.get(key) or self._bucket(key)
            request += (value, -number if limit.shadow else number)
        return request

    def _caller(self, meter: Meter) -> int:
        self._histories.append(meter.history)
        self._ledgers[meter.ledger] = number = len(self._histories)
        return number

    def _bucket(self, key: str) -> int:
        self._buckets[key] = number = -len(self._buckets) - 1
        return number

    def _rule(self, rule: Throttle | Quota) -> int:
        if isinstance(rule, Throttle):
            values = (0, rule.n, rule.m, rule.burst)
        else:
            values = (1, rule.limit, rule.start, rule.end)
        if max(values) > EXACT:
            raise ValueError("a number of the limit is above 2**53, and so not exact in Lua")
        self._rules.append(values)
        self._numbers[id(rule)] = number = len(self._rules)
        return number

    def _once(self, charge: Charge) -> int:
        key = once_key(self._account, charge)
        return self._onces.setdefault(key, len(self._onces) + 1)


def once_key(account: str, charge: Charge) -> str:
    """The Redis key of the kept result of a request with the name `once`.

    The same name with another caller or other limits spells another key.
    """
    bound = (charge.once, charge.meter.ledger if charge.meter else "", *(limit.key for limit in charge.limits))
    name = hashlib.sha256("\0".join(bound).encode()).hexdigest()[:ONCE_DIGITS]
    return _prefix(account, "once", "") + name

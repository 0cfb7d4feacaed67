"""A batch of waiting calls in the form that `lua/admit.lua` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct
from msgspec.msgpack import Encoder as MessagePack
from msgspec.structs import replace

from authz.core.limits import EXACT, Charge, Quota, Throttle, redis_key
from authz.limiter.batching import Waiter
from authz.limiter.holds import Holds
from authz.limiter.local import Spent
from authz.redisio.rules import Rule, quota_rule

ONCE_DIGITS = 32  # hexadecimal, of a SHA-256
PACK: Final = MessagePack().encode

_prefix = lru_cache(16)(redis_key)  # it does not differ between requests


class Ahead(Struct, frozen=True, array_like=True):
    """The part of the script's argument about holds, under its name there; a batch without any has none."""

    process: int
    hold: int
    wants: list[int]
    returns: list[tuple[list[int], int, int, int, int]]


class Batch(Struct, frozen=True):
    """The script's KEYS after the worker's own, and the values of its argument from `ledgers` on, packed.

    `waiters` are in the order of the requests. The header of `admit.lua` describes each part.
    """

    waiters: Sequence[Waiter]
    keys: list[str]
    packed: bytes
    ahead: Ahead | None = None


def encoded_batch(account: str, retention_days: int, waiters: Sequence[Waiter], holds: Holds | None = None) -> Batch:
    """Encode the calls; with `holds`, also the holds to give back and those that the calls want.

    A call that cannot be encoded fails alone and is left out. A lone call's batch is kept in its charge, for the next
    call under the same grant.
    """
    charge = waiters[0].charge if len(waiters) == 1 and not holds else None
    kept = charge.kept if charge and charge.cost == 1 and not charge.once else None  # else it differs from the next
    if kept and kept.alone:
        return Batch(waiters, *kept.alone)
    batch = _Encoder(account).batch(retention_days, waiters, holds)
    if kept and batch.waiters:
        kept.alone = batch.keys, batch.packed
    return batch


class _Encoder:
    """Encodes one batch. Each key and rule is sent once and numbered, even if many requests share it."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._ledgers: dict[str, int] = {}
        self._histories: list[str] = []
        self._owned: list[str] = []
        self._values: dict[str, int] = {}  # by key: ledgers above zero, values of their own below
        self._onces: dict[str, int] = {}
        self._numbers: dict[int, int] = {}  # by the identity of a rule, which the waiters keep alive
        self._rules: list[Rule] = []
        self._alerts = 0
        self._costly = False

    def batch(self, retention_days: int, waiters: Sequence[Waiter], holds: Holds | None = None) -> Batch:
        encoded, requests, onces = [], [], []
        for waiter in waiters:
            charge = waiter.charge
            try:
                request = self._request(charge)
                once = 0
                if charge.once:
                    once = self._onces.setdefault(once_key(self._account, charge), len(self._onces) + 1)
            except Exception as error:  # of any kind: it must not fail the other callers
                waiter.finish(error)
                continue
            encoded.append(waiter)
            requests.append(request)
            onces.append(once)
            if charge.cost != 1:
                self._costly = True
        ahead = self._ahead(encoded, holds) if holds else None
        keys = [key for pair in zip(self._ledgers, self._histories, strict=True) for key in pair]
        keys += self._owned
        keys += self._onces
        if self._alerts:
            keys.append(_prefix(self._account, "alerts"))
        values = (
            len(self._ledgers),
            len(self._owned),
            retention_days,
            self._rules,
            requests,
            onces if self._onces else [],
            [waiter.charge.cost for waiter in encoded] if self._costly else [],
            self._alerts,
            ahead or (),
        )
        return Batch(encoded, keys, unlisted(values), ahead)

    def _ahead(self, waiters: Sequence[Waiter], holds: Holds) -> Ahead | None:
        over = holds.take_over()
        returns = [(self._request(one.charge), one.ends, one.calls, one.admitted, one.charge.cost) for one in over]
        wants = [holds.wanted(waiter.charge) for waiter in waiters]
        if not returns and not any(wants):
            return None
        return Ahead(holds.process, holds.life, wants, returns)

    def _request(self, charge: Charge) -> list[int]:
        meter, values, numbers = charge.meter, self._values, self._numbers
        request = [0]
        if meter:
            request[0] = self._ledgers.get(meter.ledger) or self._ledger(meter.ledger, meter.history)
            if meter.shared and meter.shared not in self._ledgers:
                self._ledger(meter.shared, meter.shared)
        for limit in charge.limits:
            rule = limit.rule
            number = numbers.get(id(rule)) or self._rule(rule)
            value = values.get(limit.key)
            if not value:
                self._owned.append(limit.key)
                values[limit.key] = value = -len(self._owned)
            request.append(value)
            request.append(-number if limit.shadow else number)
        return request

    def _ledger(self, ledger: str, history: str) -> int:
        self._histories.append(history)
        self._ledgers[ledger] = self._values[ledger] = number = len(self._histories)
        return number

    def _rule(self, rule: Throttle | Quota) -> int:
        if isinstance(rule, Quota):
            values = quota_rule(rule)
        else:
            values = (0, rule.n, rule.m, rule.burst, 1) if rule.counts_units else (0, rule.n, rule.m, rule.burst)
        if max(values[:4]) > EXACT:
            raise ValueError("a number of the limit is above 2**53, and so not exact in Lua")
        self._rules.append(values)
        self._numbers[id(rule)] = number = len(self._rules)
        if isinstance(rule, Quota) and rule.alerts:
            self._alerts = 1
        return number


def unlisted(values: tuple[Any, ...]) -> bytes:
    """Pack at most 15 values one after the other, without the byte that would make them a list."""
    return PACK(values)[1:]


def encoded_debt(account: str, spent: Spent, retention_days: int, pinned: int) -> tuple[list[str], tuple[Any, ...]]:
    """The keys and the argument of `flush.lua`, each without its first: the worker's number and its key."""
    meter, places = spent.meter, dict[str, int]()
    for limit in spent.quotas:
        if limit.key != meter.ledger and limit.key not in places:
            places[limit.key] = (-1 if limit.key == meter.shared else 1) * (len(places) + 1)
    rules = [
        # A shadow plan's overage is no overage.
        (limit.key, quota_rule(replace(limit.rule, overage=0) if limit.shadow else limit.rule))
        for limit in spent.quotas
        if isinstance(limit.rule, Quota)
    ]
    quotas = [(places.get(key, 0), rule) for key, rule in rules]
    alerts = int(any(isinstance(limit.rule, Quota) and limit.rule.alerts for limit in spent.quotas))
    keys = [meter.ledger, meter.history, *places, *([_prefix(account, "alerts")] if alerts else [])]
    return keys, (spent.requests, spent.units, spent.day, pinned, retention_days, quotas, alerts)


def once_key(account: str, charge: Charge) -> str:
    """The Redis key of the kept result of a request with the name `once`.

    The same name with another caller or other limits spells another key.
    """
    bound = (charge.once, charge.meter.ledger if charge.meter else "", *(limit.key for limit in charge.limits))
    name = hashlib.sha256("\0".join(bound).encode()).hexdigest()[:ONCE_DIGITS]
    return _prefix(account, "once", "") + name

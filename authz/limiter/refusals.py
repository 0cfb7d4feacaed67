"""Refusals that are remembered for at most a second, so that a flood of refused calls costs Redis nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from authz.core.limits import Charge, Layer, Limit, Quota, amount_of, refilled, room_us
from authz.core.verdict import Tally

MAX_US = 1_000_000
CALLERS = 10_000
REMEMBERED = frozenset({Layer.PLAN_THROTTLE, Layer.PLAN_QUOTA})
REMEMBERED_WITHOUT_KEY = frozenset({Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE})


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Redis's tally of these limits for a call of this cost, in [since, until), µs.

    `decisive` are the limits up to the refusing one.
    """

    limits: tuple[Limit, ...]
    decisive: tuple[Limit, ...]
    cost: int
    tally: Tally
    since: int
    until: int


class Refusals:
    """The last refusal of each of at most `callers` callers.

    A caller is a ledger or, for a method without a key, the call's first bucket. Times are in µs: `ticks` of a clock
    that does not step, `now` of Redis's clock.
    """

    def __init__(self, callers: int = CALLERS) -> None:
        self.age = 0  # grows with each `forget`: a batch that was sent before is not remembered
        self._callers = callers
        self._kept: OrderedDict[str, _Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, charge: Charge, ticks: int, now: int) -> Tally | None:
        """The refusal that Redis would still give for this charge; None if Redis has to decide."""
        limits, caller = charge.limits, _caller(charge)
        kept = self._kept.get(caller)
        if kept is None:
            return None
        if not kept.since <= ticks < kept.until:
            del self._kept[caller]
            return None
        if charge.cost != kept.cost or tuple(limits[: len(kept.decisive)]) != kept.decisive:
            if kept.decisive[-1] not in limits:  # the refusing limit itself has changed, not just the route
                del self._kept[caller]
            return None
        # As Redis would word the refusal now: with a shorter wait and refilled buckets.
        tally, passed = kept.tally, max(0, now - kept.tally.now)
        known = kept.limits if tuple(limits) == kept.limits else kept.decisive
        return Tally(
            now=now,
            states=tuple(
                refilled(limit.rule, state, passed) for limit, state in zip(known, tally.states, strict=False)
            ),
            refused_by=tally.refused_by,
            wait_us=None if tally.wait_us is None else max(1, tally.wait_us - passed),
        )

    def remember(self, charge: Charge, tally: Tally, sent: int) -> None:
        """Keep a refusal, if its layer is one that is remembered. `sent` is when its batch left, in ticks."""
        by = tally.refused_by
        if by is None or tally.stale or tally.degraded or not self._callers:
            return
        limits, meter = charge.limits, charge.meter
        at = limits.index(by)
        decisive = tuple(limits[: at + 1])
        if by.layer not in (REMEMBERED if meter else REMEMBERED_WITHOUT_KEY) or any(limit.shadow for limit in decisive):
            return
        wait = room_us(by.rule, tally.states[at], tally.now, amount_of(by.rule, charge.cost))
        quotas = [limit.rule for limit in limits if isinstance(limit.rule, Quota)]
        # A quota's next period starts with another state.
        holds = min(MAX_US, *(quota.end - tally.now for quota in quotas), MAX_US if wait is None else wait)
        if holds <= 0:
            return
        caller = _caller(charge)
        self._kept[caller] = _Refusal(tuple(limits), decisive, charge.cost, tally, sent, sent + holds)
        self._kept.move_to_end(caller)
        if len(self._kept) > self._callers:
            self._kept.popitem(last=False)

    def forget(self, ledgers: Iterable[str] | None = None) -> None:
        """Forget the refusals of these callers, or of all."""
        self.age += 1
        if ledgers is None:
            self._kept.clear()
        else:
            for ledger in ledgers:
                self._kept.pop(ledger, None)


def _caller(charge: Charge) -> str:
    return charge.meter.ledger if charge.meter else charge.limits[0].key

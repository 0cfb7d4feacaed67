"""Refusals that are remembered for a moment, so that a flood of refused calls costs Redis nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from authz.core.limits import Layer, Limit, Meter, Quota
from authz.core.verdict import Tally

LONGEST_US = 1_000_000
CALLERS = 10_000
REMEMBERED = frozenset({Layer.PLAN_THROTTLE, Layer.PLAN_QUOTA})
REMEMBERED_WITHOUT_KEY = frozenset({Layer.STAGE_METHOD_THROTTLE, Layer.ACCOUNT_THROTTLE})


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What Redis said of these limits, `decisive` being those up to the refusing one. Holds in [since, until), µs."""

    limits: tuple[Limit, ...]
    decisive: tuple[Limit, ...]
    tally: Tally
    since: int
    until: int


class Refusals:
    """The last refusal of each of so many callers.

    A caller is a ledger or, where no key is needed, the first bucket on the way. Times are in µs: `ticks` of a clock
    that does not step, `now` of Redis's.
    """

    def __init__(self, callers: int = CALLERS) -> None:
        self.age = 0  # grows when something is forgotten: what was asked before that is not to be remembered
        self._callers = callers
        self._kept: OrderedDict[str, _Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, limits: Sequence[Limit], meter: Meter | None, ticks: int, now: int) -> Tally | None:
        """What Redis would still say of these limits, or None if only Redis can tell."""
        caller = meter.ledger if meter else limits[0].key
        kept = self._kept.get(caller)
        if kept is None:
            return None
        if not kept.since <= ticks < kept.until:
            del self._kept[caller]
            return None
        if tuple(limits[: len(kept.decisive)]) != kept.decisive:
            if kept.decisive[-1] not in limits:  # not another route, but another limit
                del self._kept[caller]
            return None
        return _later(kept, now, whole=tuple(limits) == kept.limits)

    def remember(self, limits: Sequence[Limit], meter: Meter | None, tally: Tally, sent: int) -> None:
        """Keep a refusal that was asked for at `sent`, in ticks, if its kind may be kept."""
        by = tally.refused_by
        if by is None or tally.stale or tally.degraded or not self._callers:
            return
        at = limits.index(by)
        decisive = tuple(limits[: at + 1])
        if by.layer not in (REMEMBERED if meter else REMEMBERED_WITHOUT_KEY) or any(limit.shadow for limit in decisive):
            return
        holds = min(_own_wait(by, tally.states[at], tally.now), _periods_left(limits, tally.now))
        if holds <= 0:
            return
        caller = meter.ledger if meter else limits[0].key
        self._kept[caller] = _Refusal(tuple(limits), decisive, tally, sent, sent + holds)
        self._kept.move_to_end(caller)
        if len(self._kept) > self._callers:
            self._kept.popitem(last=False)

    def forget(self, ledgers: Iterable[str] | None = None) -> None:
        """Nothing is known of these callers any more; None for all."""
        self.age += 1
        if ledgers is None:
            self._kept.clear()
        else:
            for ledger in ledgers:
                self._kept.pop(ledger, None)


def _own_wait(limit: Limit, state: int, now: int) -> int:
    """Microseconds for which this limit alone would go on refusing, and no more than are remembered."""
    rule = limit.rule
    if isinstance(rule, Quota):
        return min(LONGEST_US, rule.end - now)
    if not rule.n or not rule.burst:
        return LONGEST_US
    return min(LONGEST_US, -(-(state - (rule.burst - 1) * rule.m) // rule.n))


def _periods_left(limits: Sequence[Limit], now: int) -> int:
    """Microseconds until one of these has another period, and so another state; no more than are remembered."""
    return min((limit.rule.end - now for limit in limits if isinstance(limit.rule, Quota)), default=LONGEST_US)


def _later(kept: _Refusal, now: int, *, whole: bool) -> Tally:
    """The same refusal at `now`: less to wait for, and what has been refilled since."""
    tally, limits = kept.tally, kept.limits if whole else kept.decisive
    passed = max(0, now - tally.now)
    return Tally(
        now=now,
        states=tuple(_state_later(limit, state, passed) for limit, state in zip(limits, tally.states, strict=False)),
        refused_by=tally.refused_by,
        wait_us=None if tally.wait_us is None else max(1, tally.wait_us - passed),
    )


def _state_later(limit: Limit, state: int, passed: int) -> int:
    return state if isinstance(limit.rule, Quota) else max(0, state - limit.rule.n * passed)

"""The verdict on a request, and how a tally becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from authz.core.costs import CostSource, price
from authz.core.credentials import NO_STRIP, Credentials, Strip, strip_of
from authz.core.limits import Kept, Layer, Limit, Meter, Quota, amount_of, scale
from authz.core.request import Request
from authz.core.resources import CostFrom, FailurePolicy, GatewayResponse, GatewayResponseType
from authz.core.routes import Route

NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})
NO_RESPONSES: Final[Mapping[GatewayResponseType, GatewayResponse]] = MappingProxyType({})


class Reason(StrEnum):
    """Why a request was refused, in logs, metadata, metrics and `explain`: a limit refuses in the name of its layer.

    The client sees only the gateway response.
    """

    UNKNOWN_API = "unknown_api"
    UNKNOWN_STAGE = "unknown_stage"
    UNKNOWN_METHOD = "unknown_method"
    KEY_MISSING = "key_missing"
    KEY_UNKNOWN = "key_unknown"
    KEY_DISABLED = "key_disabled"
    KEY_EXPIRED = "key_expired"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    NO_PLAN = "no_plan"
    PLAN_THROTTLE = Layer.PLAN_THROTTLE.value
    PLAN_METHOD_THROTTLE = Layer.PLAN_METHOD_THROTTLE.value
    PLAN_QUOTA = Layer.PLAN_QUOTA.value
    STAGE_METHOD_THROTTLE = Layer.STAGE_METHOD_THROTTLE.value
    ACCOUNT_THROTTLE = Layer.ACCOUNT_THROTTLE.value
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    NOT_HTTP = "not_http"
    INTERNAL = "internal"


class Subject(Struct, frozen=True, gc=False):
    """The caller and the place of a request, as far as the catalog knows them: names for logs, metadata and metrics."""

    api: str = ""
    stage: str = ""
    route: Route | None = None
    skip: int = 0  # segments of the path before the part that is matched: base path and stage
    key: str = ""
    plan: str = ""
    plan_name: str = ""
    customer: str = ""
    stage_variables: Mapping[str, str] = NO_VARIABLES
    credentials: Credentials | None = None
    responses: Mapping[GatewayResponseType, GatewayResponse] = NO_RESPONSES


class Shared(Struct, gc=False):
    """What the answers to all calls under one grant share: filled in by the first.

    `scales` are of the limits, for `units_left`. The Envoy edge keeps bytes here: `about` is the metadata of the
    subject, and `names` are the names of the limits there. `admitted` are the answers to admitted calls, by the
    stripped headers. `kept` is the limiter's.
    """

    scales: tuple[tuple[int, int], ...] = ()
    about: bytes = b""
    names: tuple[str, ...] = ()
    admitted: dict[tuple[str, ...], bytes] = {}
    kept: Kept = field(default_factory=Kept)


class Grant(Struct, frozen=True, gc=False):
    """The limits that cover a request: it takes its cost from each of them or from none, and counts in the meter.

    Calls of one caller to one method share a grant. If `cost_from` is set, the cost of a call may stand in Envoy's
    dynamic metadata: `priced` makes the grant of that call.
    """

    subject: Subject
    limits: tuple[Limit, ...]
    meter: Meter | None = None
    failure_policy: FailurePolicy = FailurePolicy.LOCAL
    cost: int = 1
    cost_from: CostFrom | None = None
    has_overage: bool = False
    cost_source: CostSource = CostSource.METHOD
    shared: Shared = field(default_factory=Shared)


class Tally(Struct, frozen=True, gc=False):
    """The limits' answer to a call.

    `states` are the limits' states after the call, in order: a bucket's debt, a quota's use. `refused_by` is the first
    enforced limit without room. `wait_us` is the longest wait of all such limits, None if one never has room again.
    `shadowed_by` is the limit that would have refused if its plan were enforced. `now` is Redis's time in µs. A `stale`
    tally decided nothing: a quota's period does not contain `now`. A `degraded` tally was made without Redis.
    """

    now: int
    states: tuple[int, ...] = ()
    refused_by: Limit | None = None
    wait_us: int | None = 0
    shadowed_by: Limit | None = None
    stale: bool = False
    degraded: bool = False


class Allowed(Struct, frozen=True, gc=False):
    """Forward the request without `strip`. There is no tally if Redis was away and the policy is `allow`.

    `overage` are the units of the call beyond the limit of a quota with overage.
    """

    grant: Grant
    tally: Tally | None
    strip: Strip = NO_STRIP
    overage: int = 0

    @property
    def subject(self) -> Subject:
        return self.grant.subject


class Denied(Struct, frozen=True, gc=False):
    """Refuse the request. A refusal by a limit carries the grant and the tally."""

    reason: Reason
    subject: Subject = Subject()
    grant: Grant | None = None
    tally: Tally | None = None

    @property
    def layer(self) -> Layer | None:
        """The layer that refused, if it was a limit."""
        return self.tally.refused_by.layer if self.tally and self.tally.refused_by else None


Verdict = Allowed | Denied


def priced(grant: Grant, request: Request) -> Grant:
    """The grant with the cost of this call."""
    if grant.cost_from is None:
        return grant
    units, source = price(grant.cost_from, grant.cost, request.metadata)
    return replace(grant, cost=units, cost_source=source)


def allow(grant: Grant, tally: Tally | None, request: Request) -> Allowed:
    """Forward the request without its key."""
    over = _overage(grant, tally) if tally and grant.has_overage else 0
    return Allowed(grant, tally, strip_of(grant.subject.credentials, request), over)


def judge(grant: Grant, tally: Tally, request: Request) -> Verdict:
    """The verdict on a counted request."""
    if tally.refused_by is None:
        return allow(grant, tally, request)
    return Denied(Reason(tally.refused_by.layer), grant.subject, grant, tally)


def _overage(grant: Grant, tally: Tally) -> int:
    """Count the units of an admitted call beyond the limit of a quota with overage. A shadow plan's are not counted."""
    over = 0
    for limit, state in zip(grant.limits, tally.states, strict=False):
        rule = limit.rule
        if isinstance(rule, Quota) and rule.overage and not limit.shadow:
            over = max(over, min(amount_of(rule, grant.cost), state - rule.limit))
    return over


def units_left(grant: Grant, tally: Tally) -> list[int]:
    """The units left of each limit that has a state in the tally, as in `standings`."""
    if len(tally.states) > len(grant.limits):
        raise ValueError("a tally of other limits than those of the grant")
    shared = grant.shared
    if not shared.scales:
        shared.scales = _scales(tuple(scale(limit.rule) for limit in grant.limits))
    pairs = zip(shared.scales, tally.states)  # noqa: B905  (`strict` costs as much as the five limits of a call)
    return [left if (left := units + -state // parts) > 0 else 0 for (units, parts), state in pairs]


@lru_cache(maxsize=4096)
def _scales(scales: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return one tuple for all grants whose limits have these scales, to save memory."""
    return scales


def standings(grant: Grant, tally: Tally) -> list[tuple[Limit, int, int]]:
    """(limit, state, units left) for each limit that has a state in the tally: all limits, or the first of them."""
    lefts = units_left(grant, tally)
    return list(zip(grant.limits, tally.states, lefts, strict=False))

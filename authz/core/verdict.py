"""The answer to a request, and how a tally becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from authz.core.limits import Layer, Limit, Meter, remaining
from authz.core.resources import FailurePolicy
from authz.core.routes import Route

if TYPE_CHECKING:
    from authz.core.credentials import Credentials
    from authz.core.responses import Responses


NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})


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
    """Whom and what a request is about, as far as the catalog could tell: the names in logs, metadata and metrics."""

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
    responses: Responses | None = None


class Grant(Struct, frozen=True, gc=False):
    """What the request may take: a unit from each of these limits, all or none, and a row in the meter's usage.

    Calls of one caller and method share a grant, and in `notes` whoever words their answers keeps what they share.
    """

    subject: Subject
    limits: tuple[Limit, ...]
    meter: Meter | None = None
    failure_policy: FailurePolicy = FailurePolicy.LOCAL
    notes: dict[Any, Any] = {}


class Tally(Struct, frozen=True, gc=False):
    """What the limits said. `states` are positions of the limits as sent: a bucket's debt, a quota's use, after it.

    `refused_by` is the first enforced limit without room; `wait_us` the longest wait over all of those, None if it
    is infinite. `shadowed_by` would have refused, had its plan been enforced. `now` is Redis's time (µs). A `stale`
    tally decided nothing: a quota's period was not the one that contains `now`. `degraded`: Redis had no part in it.
    """

    now: int
    states: tuple[int, ...] = ()
    refused_by: Limit | None = None
    wait_us: int | None = 0
    shadowed_by: Limit | None = None
    stale: bool = False
    degraded: bool = False


class Allowed(Struct, frozen=True, gc=False):
    """Forward the request. Without a tally nobody counted it: Redis was away and the policy is `allow`."""

    grant: Grant
    tally: Tally | None

    @property
    def subject(self) -> Subject:
        return self.grant.subject


class Denied(Struct, frozen=True, gc=False):
    """Refuse the request, for a reason. A refusal by a limit carries the grant and the tally that say which."""

    reason: Reason
    subject: Subject = Subject()
    grant: Grant | None = None
    tally: Tally | None = None

    @property
    def layer(self) -> Layer | None:
        """The layer that refused, if it was a limit."""
        return self.tally.refused_by.layer if self.tally and self.tally.refused_by else None


Verdict = Allowed | Denied


def judge(grant: Grant, tally: Tally) -> Verdict:
    """The verdict on a counted request."""
    if tally.refused_by is None:
        return Allowed(grant, tally)
    return Denied(Reason(tally.refused_by.layer), grant.subject, grant, tally)


def standings(grant: Grant, tally: Tally) -> list[tuple[Limit, int, int]]:
    """(limit, state, units left) for each limit that the tally speaks of: all, or the first of them."""
    if len(tally.states) > len(grant.limits):
        raise ValueError("a tally of other limits than those of the grant")
    return [
        (limit, state, remaining(limit.rule, state)) for limit, state in zip(grant.limits, tally.states, strict=False)
    ]

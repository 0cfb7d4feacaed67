"""AWS's nouns as frozen values, shared by the file, the API and the store.

Names in YAML and JSON are AWS's own, in camelCase; unknown fields are refused. Rules of a single field are checked
here. Rules that need a second resource (does the plan's API exist?) are in `authz.core.rules`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from authz.core.bounds import MAX_COST, MAX_INT

DEFAULT_ACCOUNT = "000000000000"

HttpMethod = Literal["ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
Rate = Annotated[float, Meta(ge=0)]
Burst = Annotated[int, Meta(ge=0, le=MAX_INT)]
StageRate = Annotated[float, Meta(ge=-1)]
StageBurst = Annotated[int, Meta(ge=-1, le=MAX_INT)]
QuotaLimit = Annotated[int, Meta(ge=1, le=MAX_INT)]
BillingDay = Annotated[int, Meta(ge=1, le=28)]
Cost = Annotated[int, Meta(ge=0, le=MAX_COST)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
StatusCode = Annotated[str, Meta(pattern=r"^[1-5][0-9]{2}\Z")]


class Period(StrEnum):
    """How long a quota lasts. AWS knows DAY, WEEK and MONTH; TOTAL never ends."""

    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    TOTAL = "TOTAL"


AWS_PERIODS = (Period.DAY, Period.WEEK, Period.MONTH)


class Counts(StrEnum):
    """What a limit counts: calls, or the cost of calls."""

    REQUESTS = "REQUESTS"
    UNITS = "UNITS"


class LimitsPer(StrEnum):
    """Who has the limits of a plan: each key, or all keys of a customer together."""

    KEY = "KEY"
    CUSTOMER = "CUSTOMER"


class Anchor(StrEnum):
    """The day on which a month begins: the quota's `offset`, or the billing day of the key or customer."""

    CALENDAR = "CALENDAR"
    BILLING_DAY = "BILLING_DAY"


class FailurePolicy(StrEnum):
    """The treatment of calls with known keys while Redis is away."""

    LOCAL = "local"
    ALLOW = "allow"
    DENY = "deny"


class Mode(StrEnum):
    """A plan refuses, or only reports the calls that it would have refused."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class GatewayResponseType(StrEnum):
    """The refusals whose status, headers and body an API's owner may set (AWS's names)."""

    DEFAULT_4XX = "DEFAULT_4XX"
    DEFAULT_5XX = "DEFAULT_5XX"
    INVALID_API_KEY = "INVALID_API_KEY"
    MISSING_AUTHENTICATION_TOKEN = "MISSING_AUTHENTICATION_TOKEN"  # noqa: S105  (AWS's name of a refusal)
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    THROTTLED = "THROTTLED"


class Resource(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A value of the configuration: immutable, camelCase outside, strict about unknown fields."""


class ThrottleSettings(Resource, frozen=True):
    """A token bucket: `rate_limit` tokens a second, at most `burst_limit` at once. Only a plan's may count units."""

    rate_limit: Rate | None = None
    burst_limit: Burst | None = None
    counts: Counts = Counts.REQUESTS


class Overage(Resource, frozen=True):
    """Units beyond a quota's limit that are admitted, and marked as paid for apart."""

    up_to: QuotaLimit | Literal["UNLIMITED"]


class QuotaSettings(Resource, frozen=True):
    """Units in a period; `offset` is the day on which a WEEK (0 = Sunday) or MONTH (0 = the 1st) begins.

    Periods begin at midnight in `time_zone`, an IANA name (UTC by default). `alerts` are percents of the limit.
    """

    limit: QuotaLimit
    period: Period
    offset: Annotated[int, Meta(ge=0)] = 0
    counts: Counts = Counts.UNITS
    time_zone: str | None = None
    anchor: Anchor = Anchor.CALENDAR
    overage: Overage | None = None
    alerts: Annotated[tuple[Annotated[int, Meta(ge=1, le=1000)], ...], Meta(max_length=8)] = ()


class QuotaOverride(Resource, frozen=True):
    """Another limit for the quota with this period. `counts` is needed only if two quotas have the period."""

    period: Period
    limit: QuotaLimit
    counts: Counts | None = None


class Override(Resource, frozen=True):
    """Numbers of a single key, or customer, in place of the plan's."""

    throttle: ThrottleSettings | None = None
    quotas: tuple[QuotaOverride, ...] = ()


class ApiStage(Resource, frozen=True):
    """A stage that a plan covers, with the plan's throttles for single methods of it, by `/path/METHOD`."""

    api_id: Id
    stage: Id
    throttle: dict[str, ThrottleSettings] = {}


class UsagePlan(Resource, frozen=True):
    """A contract with callers: limits, the stages that it covers, and the ids of its keys."""

    id: Id
    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    api_stages: tuple[ApiStage, ...] = ()
    throttle: ThrottleSettings | None = None
    quota: QuotaSettings | None = None  # the one that AWS knows: its period is one of AWS_PERIODS
    quotas: tuple[QuotaSettings, ...] = ()  # the further ones
    limits_per: LimitsPer = LimitsPer.KEY
    keys: tuple[Id, ...] = ()
    mode: Mode = Mode.ENFORCE
    failure_policy: FailurePolicy | None = None
    tags: dict[str, str] = {}

    @property
    def all_quotas(self) -> tuple[QuotaSettings, ...]:
        """The quotas in the order in which they are checked."""
        return (self.quota, *self.quotas) if self.quota else self.quotas

    def with_quotas(self, quotas: tuple[QuotaSettings, ...]) -> UsagePlan:
        """The plan with these quotas. The first one becomes `quota` if AWS knows its period."""
        known = quotas[:1] if quotas and quotas[0].period in AWS_PERIODS else ()
        return replace(self, quota=known[0] if known else None, quotas=quotas[len(known) :])


class ApiKey(Resource, frozen=True):
    """Names a caller. Of `value` and `value_sha256` exactly one is given; only the digest leaves the loader.

    `billing_day` and `overrides` (by the id of a plan) apply where the plan's limits are per key. Calls from addresses
    outside of `allowed_sources`, if it is set, are refused.
    """

    id: Id
    name: str = ""
    description: str | None = None
    value: str | None = None
    value_sha256: Sha256 | None = None
    enabled: bool = True
    expires_at: datetime | None = None
    customer_id: str | None = None
    billing_day: BillingDay | None = None
    overrides: dict[Id, Override] = {}
    allowed_sources: tuple[str, ...] | None = None
    tags: dict[str, str] = {}


class Customer(Resource, frozen=True):
    """Holds keys: those that name it in `customer_id`. A plan with `limits_per` CUSTOMER limits them together."""

    id: Annotated[str, Meta(min_length=1)]
    name: str = ""
    billing_day: BillingDay | None = None
    overrides: dict[Id, Override] = {}
    tags: dict[str, str] = {}


class KeySource(Resource, frozen=True):
    """One place where a client may put its key: a header (with an optional scheme), a query parameter or a cookie."""

    header: str | None = None
    scheme: str | None = None
    query: str | None = None
    cookie: str | None = None


class AuthorizerSource(Resource, frozen=True):
    """Where in Envoy's dynamic metadata a filter before us left the caller's key, e.g. a claim jwt_authn verified."""

    namespace: str = "envoy.filters.http.jwt_authn"
    path: tuple[str, ...] = ("jwt_payload", "api_key")


class CostFrom(Resource, frozen=True):
    """Where an earlier filter of Envoy left the cost of a call: a namespace of dynamic metadata, then field names.

    A greater cost counts as `max`.
    """

    metadata: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=2)]
    max: Cost


class Method(Resource, frozen=True):
    """One verb of a resource, and the units that a call of it costs. `cost_from` stands before the API's."""

    api_key_required: bool = True
    cost: Cost = 1
    cost_from: CostFrom | None = None


class MethodSetting(Resource, frozen=True):
    """A stage's throttle for a method, shared by all its callers; -1 means no limit."""

    throttling_rate_limit: StageRate | None = None
    throttling_burst_limit: StageBurst | None = None


class GatewayResponse(Resource, frozen=True):
    """The wording of one kind of refusal: status, header mappings, body templates by media type."""

    status_code: StatusCode | None = None
    response_parameters: dict[str, str] = {}
    response_templates: dict[str, str] = {}


class Deployment(Resource, frozen=True):
    """The fields of an API as they were deployed to a stage, where they may differ from the API's current ones."""

    api_key_source: Literal["HEADER", "AUTHORIZER"] = "HEADER"
    key_sources: tuple[KeySource, ...] = (KeySource(header="x-api-key"),)
    authorizer: AuthorizerSource = AuthorizerSource()
    forward_api_key: bool = False
    cost_from: CostFrom | None = None
    resources: dict[str, dict[HttpMethod, Method]] = {}
    gateway_responses: dict[GatewayResponseType, GatewayResponse] = {}


class Stage(Resource, frozen=True):
    """A deployed version of an API that callers reach by its name.

    With a `deployment` the stage serves its methods, key sources and responses, not those of the API or the stage.
    """

    name: Id
    method_settings: dict[str, MethodSetting] = {}
    gateway_responses: dict[GatewayResponseType, GatewayResponse] = {}
    variables: dict[str, str] = {}
    deployment: Deployment | None = None


class Host(Resource, frozen=True):
    """A base-path mapping: requests for `host` below `base_path` go to this API, and to `stage` if it is named."""

    host: Annotated[str, Meta(min_length=1)]
    base_path: str = ""
    stage: Id | None = None


class Api(Resource, frozen=True):
    """An API: how callers name it, where they put their key, which methods it has.

    `resources` maps a path template to its methods. Without any, the whole stage is one method, ANY, that requires
    a key.
    """

    id: Id
    name: str = ""
    api_key_source: Literal["HEADER", "AUTHORIZER"] = "HEADER"
    key_sources: tuple[KeySource, ...] = (KeySource(header="x-api-key"),)
    authorizer: AuthorizerSource = AuthorizerSource()
    forward_api_key: bool = False
    cost_from: CostFrom | None = None
    hosts: tuple[Host, ...] = ()
    resources: dict[str, dict[HttpMethod, Method]] = {}
    stages: tuple[Stage, ...] = ()


class Account(Resource, frozen=True):
    """The settings for all APIs together."""

    throttle_settings: ThrottleSettings = ThrottleSettings(rate_limit=10_000.0, burst_limit=5_000)


class Resources(Resource, frozen=True):
    """The account, the APIs, the usage plans, the API keys and the customers. A reload replaces all of them at once."""

    account: Account = Account()
    apis: tuple[Api, ...] = ()
    usage_plans: tuple[UsagePlan, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()
    customers: tuple[Customer, ...] = ()


def digest(value: str) -> bytes:
    """The SHA-256 of a key's value; no other form of a key is kept."""
    return hashlib.sha256(value.encode()).digest()


def digest_of(key: ApiKey) -> bytes:
    """The digest of a key's value, whichever of the two was given."""
    return bytes.fromhex(key.value_sha256) if key.value_sha256 else digest(key.value or "")

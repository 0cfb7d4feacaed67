"""What the store keeps: AWS's resources with what only their API tells of them, and the indexes that follow from each.

An item is one JSON value. Its indexes are a pure function of it (`indexes`), so a write derives what to add to and
remove from them, and a check can derive them all again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from authz.core.resources import (
    Account,
    ApiKey,
    AuthorizerSource,
    CostFrom,
    Customer,
    Deployment,
    GatewayResponse,
    HttpMethod,
    KeySource,
    Override,
    Resource,
    UsagePlan,
)


class StoredKey(Resource, frozen=True):
    """An API key. `key.value` and `key.value_sha256` are never set here: `index` is all that is known of the value.

    Nor are `key.overrides`: `overrides` has them by the references of plans.

    `index` and `previous_index` are hex digests under the pepper; `sealed` is the encrypted value, where a sealing key
    was given. `previous_*` is the secret before the last rotation, good until `previous_expires_at` (Unix seconds).
    `plans` are references to plans (`StoredPlan.ref`); some may have been deleted. Dates are Unix seconds.
    """

    key: ApiKey
    index: str
    created_date: int
    last_updated_date: int
    sealed: str | None = None
    previous_index: str | None = None
    previous_sealed: str | None = None
    previous_expires_at: int | None = None
    stage_keys: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    overrides: dict[str, Override] = {}

    def updated(self, now: int) -> StoredKey:
        """The key with the date of an update, which is never before that of its creation."""
        return replace(self, last_updated_date=max(now, self.created_date))

    def in_plans(self, refs: tuple[str, ...]) -> StoredKey:
        """The key in these plans. An override ends with the membership that it belongs to."""
        return replace(self, plans=refs, overrides={ref: self.overrides[ref] for ref in refs if ref in self.overrides})


class StoredCustomer(Resource, frozen=True):
    """A customer, whose keys name it. `customer.overrides` is never set here: `overrides` has them by plan reference.

    The id is any text that a key's `customerId` may be. Dates are Unix seconds.
    """

    customer: Customer
    created_date: int
    last_updated_date: int
    overrides: dict[str, Override] = {}

    @property
    def id(self) -> str:
        return self.customer.id


class StoredPlan(Resource, frozen=True):
    """A usage plan; `plan.keys` is never set here.

    A key that joined a deleted plan must not be in one that is made later under the same id. So keys refer to
    `ref`: the id and a random word of this very plan (the id alone for a plan of the configuration file).
    """

    plan: UsagePlan
    nonce: str = ""
    product_code: str | None = None

    @property
    def ref(self) -> str:
        return f"{self.plan.id}.{self.nonce}" if self.nonce else self.plan.id


def good_until(expires_at: int | None, now: int) -> int | None:
    """The end (Unix seconds) of the secret before the last rotation; None without one that is still good."""
    return expires_at if expires_at is not None and expires_at > now else None


def plan_id_of(ref: str) -> str:
    """The id of the plan that a reference (`StoredPlan.ref`) names."""
    return ref.partition(".")[0]


class StoredMethod(Resource, frozen=True):
    """A method as it is edited; responses and integration are stored as given and never executed.

    `cost` and `cost_from` are ours.
    """

    api_key_required: bool = False
    authorization_type: str = "NONE"
    authorizer_id: str | None = None
    authorization_scopes: tuple[str, ...] = ()
    operation_name: str | None = None
    request_validator_id: str | None = None
    request_parameters: dict[str, bool] = {}
    request_models: dict[str, str] = {}
    method_responses: dict[str, dict[str, Any]] = {}
    method_integration: dict[str, Any] | None = None
    cost: int = 1
    cost_from: CostFrom | None = None


class StoredResource(Resource, frozen=True):
    """A node of an API's tree; the root has neither parent nor path part."""

    id: str
    path: str
    parent_id: str | None = None
    path_part: str | None = None
    methods: dict[HttpMethod, StoredMethod] = {}


class StoredModel(Resource, frozen=True):
    """A model: a schema that requests or responses are said to have. Nothing is checked against it."""

    id: str
    name: str
    content_type: str
    schema: str
    description: str | None = None


class RequestValidator(Resource, frozen=True):
    """What a method says is validated before its integration runs. Nothing is validated here."""

    id: str
    name: str
    validate_request_body: bool = False
    validate_request_parameters: bool = False


class RestApi(Resource, frozen=True):
    """An API as it is edited: nothing of it reaches a stage before a deployment. The last four fields are ours.

    `models` is by name, and None for the two that AWS gives every new API (`authz.aws.models.STANDARD`).
    """

    id: str
    name: str
    created_date: int
    root_resource_id: str
    description: str | None = None
    version: str | None = None
    api_key_source: str = "HEADER"
    binary_media_types: tuple[str, ...] = ()
    minimum_compression_size: int | None = None
    endpoint_configuration: dict[str, Any] = {}
    policy: str | None = None
    disable_execute_api_endpoint: bool = False
    security_policy: str | None = None
    endpoint_access_mode: str | None = None
    tags: dict[str, str] = {}
    resources: dict[str, StoredResource] = {}
    gateway_responses: dict[str, GatewayResponse] = {}
    models: dict[str, StoredModel] | None = None
    request_validators: dict[str, RequestValidator] = {}
    key_sources: tuple[KeySource, ...] | None = None
    authorizer: AuthorizerSource | None = None
    forward_api_key: bool = False
    cost_from: CostFrom | None = None


class StoredDeployment(Resource, frozen=True):
    """An immutable snapshot of an API: what a stage that points to it serves.

    `authorizations` has the methods, such as `GET /pets`, with a type of authorization, which is not carried out.
    """

    id: str
    api_id: str
    created_date: int
    snapshot: Deployment
    description: str | None = None
    authorizations: dict[str, str] = {}


class StoredStage(Resource, frozen=True):
    """A stage. `method_settings` has the keys as they were given; each value holds all of AWS's settings."""

    api_id: str
    stage_name: str
    deployment_id: str
    created_date: int
    last_updated_date: int
    description: str | None = None
    method_settings: dict[str, dict[str, Any]] = {}
    variables: dict[str, str] = {}
    cache_cluster_enabled: bool = False
    cache_cluster_size: str | None = None
    tracing_enabled: bool = False
    client_certificate_id: str | None = None
    documentation_version: str | None = None
    access_log_settings: dict[str, str] = {}
    canary_settings: dict[str, Any] | None = None
    web_acl_arn: str | None = None
    tags: dict[str, str] = {}

    @property
    def id(self) -> str:
        return stage_id(self.api_id, self.stage_name)

    @property
    def deployments(self) -> set[str]:
        """The ids of the deployments that the stage refers to: its own and its canary's."""
        return {self.deployment_id, (self.canary_settings or {}).get("deploymentId") or self.deployment_id}


class BasePathMapping(Resource, frozen=True):
    """Below which base path of a domain an API is found; "" is the domain itself."""

    base_path: str
    rest_api_id: str
    stage: str | None = None


class DomainName(Resource, frozen=True):
    """A host name, as it was written, and its base path mappings. `details` holds what else was given, as given.

    Host names are matched without case, so the id is in lower case.
    """

    domain_name: str
    created_date: int
    mappings: tuple[BasePathMapping, ...] = ()
    tags: dict[str, str] = {}
    details: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return self.domain_name.lower()


class StoredAccount(Resource, frozen=True):
    """The account. Its throttle settings are writable, which is ours."""

    account: Account = Account()
    cloudwatch_role_arn: str | None = None


class Credential(Resource, frozen=True):
    """Who may call the API: an access key (its secret sealed), or a bearer token (its SHA-256 in hex)."""

    id: str
    name: str
    created_date: int
    read_only: bool = False
    sealed_secret: str | None = None
    token_sha256: str | None = None


class AlertTarget(Resource, frozen=True):
    """A webhook that alerts are sent to: all of the account, or those of a customer's keys, or of one plan.

    `sealed_secret` signs the messages; so does `previous_sealed_secret` until `previous_expires_at`. Dates are Unix
    seconds.
    """

    id: str
    name: str
    url: str
    created_date: int
    last_updated_date: int
    sealed_secret: str
    enabled: bool = True
    customer_id: str | None = None
    usage_plan_id: str | None = None
    description: str | None = None
    previous_sealed_secret: str | None = None
    previous_expires_at: int | None = None


ACCOUNT: Final = "account"  # the id of the one item of that kind
ALERT_TARGETS: Final = "alert-targets"  # the list of the account's own targets

# Every kind of item, by the name under which Redis keeps it.
KINDS: Final[dict[str, type[Struct]]] = {
    "account": StoredAccount,
    "alerttarget": AlertTarget,
    "apikey": StoredKey,
    "credential": Credential,
    "customer": StoredCustomer,
    "deployment": StoredDeployment,
    "domain": DomainName,
    "restapi": RestApi,
    "stage": StoredStage,
    "usageplan": StoredPlan,
}
Item = (
    StoredAccount
    | AlertTarget
    | StoredKey
    | Credential
    | StoredCustomer
    | StoredDeployment
    | DomainName
    | RestApi
    | StoredStage
    | StoredPlan
)
Items = dict[tuple[str, str], Item]  # by kind and id


@dataclass(frozen=True, slots=True)
class Indexes:
    """Where an item can be found besides by its id.

    `lists` are ordered by the time of joining, `sorted` holds words in their own order (a word ends in NUL and the
    id), `unique` are words that no other item of the account has.
    """

    lists: frozenset[str] = frozenset()
    sorted: frozenset[str] = frozenset()
    unique: frozenset[str] = frozenset()


def kind_of(item: Item) -> str:
    return next(kind for kind, struct in KINDS.items() if isinstance(item, struct))


def id_of(item: Item) -> str:
    match item:
        case StoredAccount():
            return ACCOUNT
        case StoredKey():
            return item.key.id
        case StoredPlan():
            return item.plan.id
        case StoredDeployment():
            return f"{item.api_id}/{item.id}"
        case _:
            return item.id


def stage_id(api_id: str, stage: str) -> str:
    return f"{api_id}/{stage}"


def plan_keys(plan_ref: str) -> str:
    """The list of a plan's key ids."""
    return f"plan-keys/{plan_ref}"


def stage_plans(api_id: str, stage: str) -> str:
    """The list of the ids of plans that cover a stage."""
    return f"stage-plans/{api_id}/{stage}"


def children(kind: str, api_id: str) -> str:
    """The list of an API's stages or deployments."""
    return f"{kind}/{api_id}"


def alert_targets(customer_id: str | None) -> str:
    """The list of the targets of a customer's alerts; without a customer, of the account's own targets."""
    return ALERT_TARGETS if customer_id is None else f"{ALERT_TARGETS}/{customer_id}"


def by_name(name: str) -> str:
    """The beginning of what `Indexes.sorted` holds for keys whose names begin so."""
    return f"name/{name}"


def by_customer(customer: str) -> str:
    """The beginning of what `Indexes.sorted` holds for keys of just this customer."""
    return f"customer/{customer}\0"


def indexes(item: Item) -> Indexes:
    """The indexes of an item."""
    match item:
        case StoredKey(key=key):
            words = {f"{by_name(key.name)}\0{key.id}"} if key.name else set()
            if key.customer_id is not None:
                words.add(f"{by_customer(key.customer_id)}{key.id}")
            secrets = {item.index, item.previous_index} - {None}
            lists = {"apikey", *map(plan_keys, item.plans)}
            return Indexes(frozenset(lists), frozenset(words), frozenset(f"key/{index}" for index in secrets))
        case StoredPlan(plan=plan):
            covered = (stage_plans(stage.api_id, stage.stage) for stage in plan.api_stages)
            return Indexes(frozenset({"usageplan", *covered}))
        case StoredStage() | StoredDeployment():
            return Indexes(frozenset({children(kind_of(item), item.api_id)}))
        case AlertTarget(customer_id=customer_id):
            return Indexes(frozenset({"alerttarget", alert_targets(customer_id)}))
        case Credential(token_sha256=str(token)):
            return Indexes(frozenset({"credential"}), unique=frozenset({f"token/{token}"}))
        case _:
            return Indexes(frozenset({kind_of(item)}))

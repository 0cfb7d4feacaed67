"""Reads the output of `aws apigateway get-…` into items of the store, and prints items in the same form.

Our own members (key sources, a plan's mode, a key's expiry) stand beside AWS's members, under our names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from authz.aws.convert import BURST, RATE, by_plan_id, customer_of, stable_id
from authz.aws.errors import ApiError
from authz.aws.foreign import Row
from authz.aws.restapis import authorizations, check_api, snapshot
from authz.core.methods import HTTP_METHODS, method_of
from authz.core.resources import (
    Account,
    Api,
    ApiKey,
    ApiStage,
    Counts,
    Customer,
    GatewayResponse,
    GatewayResponseType,
    Id,
    MethodSetting,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
)
from authz.core.rules import problems, sources_problems, value_problem
from authz.core.stored import (
    Item,
    Items,
    RestApi,
    StoredAccount,
    StoredCustomer,
    StoredDeployment,
    StoredKey,
    StoredMethod,
    StoredPlan,
    StoredResource,
    StoredStage,
    id_of,
    kind_of,
)

T = TypeVar("T", bound=Struct)

DATES: Final = ("createdDate", "lastUpdatedDate")
PLAN_MEMBERS: Final = frozenset({"id", "name", "description", "apiStages", "throttle", "quota", "productCode", "tags"})
OURS_IN_PLANS: Final = frozenset({"mode", "failurePolicy", "quotas", "limitsPer"})
CUSTOMER_MEMBERS: Final = frozenset({"id", "name", "billingDay", "overrides", "tags", *DATES})
KINDS_OF_RESPONSES: Final = frozenset(kind.value for kind in GatewayResponseType)
QUOTED_VALUE: Final = re.compile(r"'[^']{4,}'|\"[^\"]{4,}\"")


@dataclass
class Wanted:
    """The content of an import.

    `values` are clear values by key id; a key with an empty `index` came without its value. `members` lists the key ids
    of each plan whose keys the import names; it replaces the `plans` of the items. `warnings` name each thing that is
    left out. `is_partial` is true for a plans.yaml, which cannot express all that a store holds. `rows` has the rows of
    the aws cli that items came from, without values: a member of ours that a row lacks keeps its stored value.
    """

    items: Items = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    is_partial: bool = False
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        self.items[kind_of(item), id_of(item)] = item


# --- read ---------------------------------------------------------------------------------------------------------


def read(documents: Mapping[str, Any], created: int, index: Callable[[bytes], str]) -> Wanted:
    """Read decoded JSON documents by name, such as `stages-a1.json` for the stages of the API `a1`.

    `created` (Unix seconds) is the date of items without one. `index` turns the SHA-256 of a value into a key's index.
    """
    return _Reading(created, index).read(documents)


class _Reading:
    """One import: the rows of all documents by kind, with the document's name, which may name their API or plan."""

    def __init__(self, created: int, index: Callable[[bytes], str]) -> None:
        self.created = created
        self.index = index
        self.wanted = Wanted()
        self.rows: dict[str, list[tuple[str, Row]]] = {}

    def read(self, documents: Mapping[str, Any]) -> Wanted:
        for name, document in documents.items():
            self._sort(name, document)
        self._each("account", self.account)
        apis = [row["id"] for _, row in self.rows.get("rest-apis", ())]
        owned = [self._owned(kind, apis) for kind in ("resources", "stages", "gateway-responses")]
        self._each("rest-apis", lambda row: self.api(row, *(rows.get(row["id"]) for rows in owned)))
        self._each("usage-plans", self.plan)
        self._each("customers", self.customer)
        self._each("api-keys", self.key)
        plans = [key[1] for key in self.wanted.items if key[0] == "usageplan"]
        for plan, rows in self._owned("usage-plan-keys", plans).items():
            self.wanted.members[plan] = tuple(row["id"] for row in rows)
        return self.wanted

    def warn(self, text: str) -> None:
        if text not in self.wanted.warnings:
            self.wanted.warnings.append(text)

    def _sort(self, name: str, document: Any) -> None:
        """Add a document's rows to those of their kinds."""
        if isinstance(document, dict) and "throttleSettings" in document:
            self.rows.setdefault("account", []).append((name, document))
            return
        rows: Any = document.get("items", document.get("item")) if isinstance(document, dict) else document
        if not isinstance(rows, list):
            self.warn(f"{name}: not placed: expected what an `aws apigateway get-…` command prints")
            return
        if isinstance(document, dict) and (document.get("NextToken") or document.get("position")):
            self.warn(f"{name}: only a part of the list: it was printed with --max-items or --no-paginate")
        for n, row in enumerate(rows):
            kind = recognised(row)
            if kind is None or "\\u0000" in msgspec.json.encode(row).decode():
                self.warn(f"{name}: item {n} is not placed: none of keys, plans, plan keys, APIs, stages, resources")
            else:
                self.rows.setdefault(kind, []).append((name, row))

    def _owned(self, kind: str, owners: Iterable[str]) -> dict[str, list[Row]]:
        """Return the rows of a kind by their API or plan, which the document's name gives."""
        owned: dict[str, list[Row]] = {}
        for name, row in self.rows.get(kind, ()):
            owner = owner_of(name, owners)
            if owner is None:
                self.warn(f"{name}: not placed: put the id that the {kind} are of into its name: {kind}-ID.json")
            else:
                owned.setdefault(owner, []).append(row)
        return owned

    def _each(self, kind: str, take: Callable[[Row], None]) -> None:
        for name, row in self.rows.get(kind, ()):
            try:
                take(row)
            except (AttributeError, KeyError, TypeError, ValueError, msgspec.ValidationError):
                self.warn(f"{name}: {row.get('id', kind)}: not kept: not of the shape that the aws cli prints")

    # --- rows as items

    def _convert(self, row: Row, kind: type[T], what: str, **more: Any) -> T | None:
        """Convert a row to a struct without members that the struct lacks. If it does not fit, warn and return None."""
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        dates = {name: _seconds(row.get(name), self.created) for name in DATES if name in fields}
        given: Row = {name: value for name, value in row.items() if name in fields and value is not None}
        try:
            return msgspec.convert(given | dates | more, kind)
        except msgspec.ValidationError as fault:
            self.warn(f"{what}: not kept: {re.sub(QUOTED_VALUE, '…', str(fault))}")
            return None

    def account(self, row: Row) -> None:
        settings = self._convert(row["throttleSettings"], ThrottleSettings, "account")
        if settings and self._is_throttle(settings, "account"):
            self.wanted.add(StoredAccount(Account(settings), row.get("cloudwatchRoleArn")))

    def api(self, row: Row, resources: list[Row] | None, stages: list[Row] | None, responses: list[Row] | None) -> None:
        """Read an API with its resources and gateway responses, and its stages."""
        api_id, what = row["id"], f"restapi {row['id']}"
        if resources is None:
            self.warn(f"{what}: without get-resources it is one method, on every path, that requires a key")
        nodes: dict[str, StoredResource] = {}
        for given in resources or ():
            nodes[given["id"]] = self._node(given, what)
        root = next((node.id for node in nodes.values() if node.path == "/"), None)
        if root is None:
            root = row.get("rootResourceId") or stable_id(api_id, "/")
            nodes[root] = StoredResource(root, "/")
        kept = dict(self._responses(responses or (), what))
        tree = {"rootResourceId": root, "name": row.get("name") or api_id}
        plain = {name: value for name, value in row.items() if name not in ("resources", "gatewayResponses")}
        api = self._convert(plain, RestApi, what, **tree)
        if api is None or not self._is_id(api_id, what):
            return
        api = replace(api, resources=nodes, gateway_responses=kept)
        try:
            check_api(api)
        except ApiError as refused:
            self.warn(f"{what}: not kept: {refused.message}")
            return
        self.wanted.add(api)
        self.wanted.rows[kind_of(api), api_id] = {**plain, "resources": [*(resources or ())]}
        for stage in stages or ():
            self.stage(api, stage)

    def _node(self, row: Row, what: str) -> StoredResource:
        methods: dict[Any, StoredMethod] = {}
        for verb, given in (row.get("resourceMethods") or {}).items():
            method = self._convert(given or {}, StoredMethod, f"{what}: {verb} {row['path']}")
            if method and verb in HTTP_METHODS:
                methods[verb] = method
            if not given:
                self.warn(f"{what}: the methods are missing: print them with get-resources --embed methods")
        return StoredResource(row["id"], row["path"], row.get("parentId"), row.get("pathPart"), methods)

    def _responses(self, rows: Iterable[Row], what: str) -> Iterator[tuple[str, GatewayResponse]]:
        for row in rows:
            if row.get("defaultResponse"):
                continue
            kind = row["responseType"]
            response = self._convert(row, GatewayResponse, f"{what}: gateway response {kind}")
            if response:
                kept, lost = presentable(response) if kind in KINDS_OF_RESPONSES else (response, [])
                for text in lost:
                    self.warn(f"{what}: gateway response {kind}: {text}")
                yield kind, kept

    def stage(self, api: RestApi, row: Row) -> None:
        what = f"stage {api.id}/{row['stageName']}"
        deployment = row.get("deploymentId") or stable_id(api.id, "deployment", row["stageName"])
        stage = self._convert(row, StoredStage, what, apiId=api.id, deploymentId=deployment)
        if stage is None or not self._is_id(stage.stage_name, what):
            return
        settings = {
            name: setting
            for name, setting in stage.method_settings.items()
            if self._is_method(name, what) and self._is_setting(setting, f"{what}: {name}")
        }
        self.wanted.add(
            StoredDeployment(deployment, api.id, stage.created_date, snapshot(api), authorizations=authorizations(api))
        )
        self.wanted.add(replace(stage, method_settings=settings))

    def plan(self, row: Row) -> None:
        what = f"usageplan {row['id']}"
        stages = [self._covered(stage, what) for stage in row.get("apiStages") or ()]
        given = {name: value for name, value in row.items() if name not in ("apiStages", "keys")}
        plan = self._convert(given, UsagePlan, what)
        if plan is None:
            return
        if plan.throttle and not self._is_plan_throttle(plan.throttle, what):
            plan = replace(plan, throttle=None)
        plan = plan.with_quotas(plan.quotas or plan.all_quotas)  # `quotas`, where it stands, has all of them
        for fault in problems(Resources(usage_plans=(replace(plan, throttle=None),))):
            self.warn(f"{what}: the quotas are not kept: {fault.rule}")
            plan = plan.with_quotas(())
        plan = replace(plan, api_stages=tuple(stage for stage in stages if stage))
        self.wanted.add(StoredPlan(plan, product_code=row.get("productCode")))
        self.wanted.rows["usageplan", plan.id] = row

    def customer(self, row: Row) -> None:
        customer = self._convert(row, Customer, f"customer {row['id']}")
        if customer is not None:
            created, updated = (_seconds(row.get(name), self.created) for name in DATES)
            self.wanted.add(StoredCustomer(replace(customer, overrides={}), created, updated, customer.overrides))

    def _covered(self, row: Row, what: str) -> ApiStage | None:
        stage = self._convert(row, ApiStage, f"{what}: a stage")
        if stage is None:
            return None
        throttle = {
            name: settings
            for name, settings in stage.throttle.items()
            if self._is_method(name, what) and self._is_plan_throttle(settings, f"{what}: {name}")
        }
        return replace(stage, throttle=throttle)

    def key(self, row: Row) -> None:
        what = f"apikey {row['id']}"
        given = {name: value for name, value in row.items() if name != "value"}
        key = self._convert(given, ApiKey, what)
        value, sha256 = row.get("value"), row.get("valueSha256")
        rule = value_problem(value) if isinstance(value, str) else None
        if key is None:
            return
        faults = [f"its value: {rule}"] if rule else []
        faults += [f"allowedSources{place}: {fault}" for place, fault in sources_problems(key.allowed_sources)]
        for fault in faults:
            self.warn(f"{what}: not kept: {fault}")
        if faults:
            return
        index = ""
        if isinstance(value, str):
            self.wanted.values[key.id] = value
            index = self.index(digest(value))
        elif sha256:
            index = self.index(bytes.fromhex(sha256))
        created, updated = (_seconds(row.get(name), self.created) for name in DATES)
        stage_keys = tuple(map(str, row.get("stageKeys") or ()))
        bare = replace(key, value_sha256=None, overrides={})
        stored = StoredKey(bare, index, created, updated, stage_keys=stage_keys, overrides=key.overrides)
        self.wanted.add(stored)
        self.wanted.rows["apikey", key.id] = given

    # --- checks: each warns if it fails

    def _is_id(self, text: str, what: str) -> bool:
        try:
            msgspec.convert(text, Id)
        except msgspec.ValidationError:
            self.warn(f"{what}: not kept: expected an id of at most 128 letters, digits, - or _")
            return False
        return True

    def _is_method(self, name: str, what: str) -> bool:
        try:
            method_of(name)
        except ValueError as broken:
            self.warn(f"{what}: {name}: not kept: {broken}")
            return False
        return True

    def _is_throttle(self, settings: ThrottleSettings, what: str) -> bool:
        return self._holds(Resources(Account(settings)), what)

    def _is_plan_throttle(self, settings: ThrottleSettings, what: str) -> bool:
        """Unlike the account's, a plan's throttle may count units."""
        return self._is_throttle(replace(settings, counts=Counts.REQUESTS), what)

    def _is_setting(self, given: Row, what: str) -> bool:
        numbers = {name: given[name] for name in (RATE, BURST) if given.get(name) is not None}
        stage = Stage(name="s", method_settings={"*/*": msgspec.convert(numbers, MethodSetting)})
        return self._holds(Resources(apis=(Api(id="a", stages=(stage,)),)), what)

    def _holds(self, resources: Resources, what: str) -> bool:
        faults = problems(resources)
        for fault in faults:
            self.warn(f"{what}: the throttle is not kept: {fault.rule}")
        return not faults


def recognised(row: Any) -> str | None:
    """Return the kind of a row, such as `stages` for `get-stages`, from its members; None if they fit no kind."""
    if not isinstance(row, dict):
        return None
    names = row.keys()
    if "stageName" in names:
        return "stages"
    if "responseType" in names:
        return "gateway-responses"
    if not isinstance(row.get("id"), str):
        return None
    if isinstance(row.get("path"), str):
        return "resources"
    if "type" in names:
        return "usage-plan-keys"
    if set(DATES) <= names <= CUSTOMER_MEMBERS:  # AWS prints lastUpdatedDate of keys and stages only
        return "customers"
    if "createdDate" in names:
        return "api-keys" if {"enabled", "stageKeys"} & names else "rest-apis" if "name" in names else None
    # An id and a name alone fit anything; AWS prints the `apiStages` of every plan, also if there are none.
    return "usage-plans" if names <= PLAN_MEMBERS | OURS_IN_PLANS and {"name", "apiStages"} <= names else None


def owner_of(name: str, owners: Iterable[str]) -> str | None:
    """Return the id in `owners` that a document's name contains: `stages-ID.json` or `ID/stages.json`.

    Returns the longest if several fit, and the only owner if the name contains none. None if there are others.
    """
    known = list(owners)
    path = name.rsplit(".", 1)[0] if name.endswith(".json") else name
    named = [owner for owner in known if re.search(rf"(^|[^A-Za-z0-9]){re.escape(owner)}(/|$)", path)]
    return max(named, key=len) if named else known[0] if len(known) == 1 else None


def presentable(response: GatewayResponse) -> tuple[GatewayResponse, list[str]]:
    """Remove the parts of a gateway response that Envoy could not send. Also return a text for each removed part."""
    lost: list[str] = []

    def keeps(piece: GatewayResponse, what: str) -> bool:
        stage = Stage(name="s", gateway_responses={GatewayResponseType.DEFAULT_4XX: piece})
        faults = problems(Resources(apis=(Api(id="a", stages=(stage,)),)))
        lost.extend(f"{what} is not kept: {fault.rule}" for fault in faults)
        return not faults

    status = response.status_code
    if status is not None and not keeps(GatewayResponse(status_code=status), f"the status {status}"):
        status = None
    parameters, templates = response.response_parameters, response.response_templates
    return GatewayResponse(
        status,
        {name: value for name, value in parameters.items() if keeps(GatewayResponse(None, {name: value}), name)},
        {name: value for name, value in templates.items() if keeps(GatewayResponse(None, {}, {name: value}), name)},
    ), lost


def _seconds(given: Any, otherwise: int) -> int:
    """Return a time of the cli's output in Unix seconds. The cli prints a number or ISO 8601."""
    if isinstance(given, int | float):
        return int(given)
    try:
        return int(datetime.fromisoformat(given).timestamp())
    except (TypeError, ValueError, OverflowError):
        return otherwise


# --- written ------------------------------------------------------------------------------------------------------


def written(items: Items, keys: Mapping[str, Row]) -> dict[str, Any]:
    """Return documents by name, as the aws cli prints them. `keys` has each key's value or digest, by key id."""
    documents: dict[str, Any] = {}
    apis = [item for item in items.values() if isinstance(item, RestApi)]
    stored_keys = [item for item in items.values() if isinstance(item, StoredKey) and item.key.id in keys]
    plans = [item for item in items.values() if isinstance(item, StoredPlan)]
    for account in (item for item in items.values() if isinstance(item, StoredAccount)):
        documents["get-account.json"] = _printed(account)
    documents["get-rest-apis.json"] = {"items": [_printed(api) for api in apis]}
    for api in apis:
        stages = [item for item in items.values() if isinstance(item, StoredStage) and item.api_id == api.id]
        documents[f"get-resources-{api.id}.json"] = {"items": [_printed(node) for node in api.resources.values()]}
        documents[f"get-stages-{api.id}.json"] = {"item": [_printed(stage) for stage in stages]}
        if api.gateway_responses:
            rows = [{"responseType": kind, **_row(given)} for kind, given in api.gateway_responses.items()]
            documents[f"get-gateway-responses-{api.id}.json"] = {"items": rows}
    documents["get-usage-plans.json"] = {"items": [_printed(plan) for plan in plans]}
    for plan in plans:
        members = [{"id": key.key.id, "type": "API_KEY"} for key in stored_keys if plan.ref in key.plans]
        documents[f"get-usage-plan-keys-{plan.plan.id}.json"] = {"items": members}
    ids = {plan.ref: plan.plan.id for plan in plans}
    if customers := [item for item in items.values() if isinstance(item, StoredCustomer)]:
        rows = [{**_row(customer_of(customer, ids)), **_dates(customer)} for customer in customers]
        documents["get-customers.json"] = {"item": rows}
    rows = [{**_printed(key), **_overrides(key, ids), **keys[key.key.id]} for key in stored_keys]
    documents["get-api-keys.json"] = {"items": rows}
    return documents


def _overrides(key: StoredKey, ids: Mapping[str, str]) -> Row:
    found = by_plan_id(key.overrides, ids)
    return {"overrides": msgspec.to_builtins(found)} if found else {}


def _printed(item: StoredAccount | RestApi | StoredResource | StoredStage | StoredPlan | StoredKey) -> Row:
    """Return an item as a row of the cli's lists."""
    row: Row
    match item:
        case StoredAccount():
            settings = item.account.throttle_settings
            row = {"throttleSettings": {"burstLimit": settings.burst_limit, "rateLimit": settings.rate_limit}}
            return row | ({"cloudwatchRoleArn": item.cloudwatch_role_arn} if item.cloudwatch_role_arn else {})
        case RestApi():
            return _row(item, "resources", "gatewayResponses")
        case StoredResource():
            methods = {
                verb: {"httpMethod": verb, "apiKeyRequired": method.api_key_required, **_row(method)}
                for verb, method in item.methods.items()
            }
            return _row(item, "methods") | ({"resourceMethods": methods} if methods else {})
        case StoredStage():
            return _row(item, "apiId")
        case StoredPlan():
            row = {"apiStages": [], **_row(item.plan)}
            if item.plan.quotas:  # here, as in a plans file, `quotas` has all of them
                row["quotas"] = msgspec.to_builtins(item.plan.all_quotas)
            return row | ({"productCode": item.product_code} if item.product_code else {})
        case StoredKey():
            row = {"enabled": item.key.enabled, "stageKeys": list(item.stage_keys), **_row(item.key)}
            return row | _dates(item)


def _row(item: Struct, *without: str) -> Row:
    row: Row = {name: value for name, value in msgspec.to_builtins(item).items() if name not in without}
    return row | {name: _time(row[name]) for name in DATES if name in row}


def _dates(item: StoredKey | StoredCustomer) -> Row:
    return {"createdDate": _time(item.created_date), "lastUpdatedDate": _time(item.last_updated_date)}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()

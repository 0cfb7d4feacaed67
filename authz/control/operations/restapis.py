"""The operations on APIs: create, read, patch, delete and import from OpenAPI; and helpers for the parts of an API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request, not_found
from authz.aws.oasdocument import unreadable
from authz.aws.openapi import INTRINSICS, Imported, Mode, Options, imported
from authz.aws.patch import (
    PatchBody,
    PatchOperation,
    PatchRule,
    PatchStep,
    Style,
    Type,
    apply,
    member_or_removed,
    one_of,
)
from authz.aws.restapis import check_api
from authz.background import in_background
from authz.config.documents import DocumentError, RefusedError, TagError, read_document
from authz.control.call import Answer, Call, Operation
from authz.control.operations.ids import new_id
from authz.core.planrules import Costs, cost_problems
from authz.core.resources import Api, AuthorizerSource, KeySource, Stage
from authz.core.stored import (
    DomainName,
    RestApi,
    StoredPlan,
    StoredResource,
    children,
    stage_id,
    stage_plans,
)
from authz.store.ports import Draft, ItemSource
from authz.store.served import served_by

log = structlog.get_logger(__name__)

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


ENDPOINTS: Final = ("PRIVATE", "EDGE", "REGIONAL")
ENDPOINTS_OF_A_PATCH: Final = ("REGIONAL", "EDGE", "PRIVATE")  # AWS lists them in another order there
KEY_SOURCES: Final = ("AUTHORIZER", "HEADER")
ADDRESS_TYPES: Final = ("ipv4", "dualstack")
ACCESS_MODES: Final = ("BASIC", "STRICT")
AFTER: Final = ">"  # before the key in a position
BAD_KEY_SOURCE: Final = "Invalid API key source specified"
BAD_ACCESS_MODE: Final = "Invalid endpoint access mode specified"
UNKNOWN_API: Final = "Invalid API identifier specified"


# --- for the parts of an API --------------------------------------------------------------------------------------


async def api_of(call: Call, source: ItemSource, api_id: str | None = None) -> RestApi:
    """Return the API with this id, or the one in the call's path. Raises ApiError."""
    wanted = call.params["restapi_id"] if api_id is None else api_id
    found = await source.get("restapi", wanted)
    if not isinstance(found, RestApi):
        raise not_found(f"{UNKNOWN_API} {call.context.account_id}:{wanted}")
    return found


@contextmanager
def unknown_api_as(error: ApiError) -> Iterator[None]:
    """Raise `error` in place of the refusal of an unknown API, as AWS does in some operations."""
    try:
        yield
    except ApiError as refused:
        if refused.message.startswith(UNKNOWN_API):
            raise error from None
        raise


async def require_room_for(edit: Draft, api_id: str, stage: str) -> None:
    """Raise ApiError if the stage now serves a method that costs more than a plan of the stage ever admits."""
    served = await served_by(edit, api_id, stage)
    if served is None or all(method.cost <= 1 for found in served.resources.values() for method in found.values()):
        return
    costs = Costs({api_id: Api(api_id, stages=(Stage(stage, deployment=served),))})
    for held in await edit.many("usageplan", await edit.members(stage_plans(api_id, stage))):
        if isinstance(held, StoredPlan):
            covering = tuple(one for one in held.plan.api_stages if (one.api_id, one.stage) == (api_id, stage))
            for problem in cost_problems(replace(held.plan, api_stages=covering), costs, f"Usage Plan {held.plan.id}"):
                raise bad_request(f"Unable to serve this deployment. {problem.address}: {problem.rule}")


async def edit_api(call: Call, change: Callable[[RestApi], RestApi]) -> RestApi:
    """Commit a change of the API in the call's path. Return the changed API. Raises ApiError."""

    async def edit(edit: Draft) -> RestApi:
        changed = change(await api_of(call, edit))
        edit.put(changed)
        return changed

    return await call.write(edit)


def patched(struct: S, table: Sequence[PatchRule], operations: Iterable[PatchOperation], style: Style) -> S:
    """Apply operations to the JSON form of a struct. Raises ApiError."""
    changed = apply(table, msgspec.to_builtins(struct), operations, style)
    try:
        return msgspec.convert(changed, type(struct))
    except msgspec.ValidationError as fault:
        raise bad_request(f"Invalid patch value specified: {fault}") from None


def operations_of(call: Call) -> tuple[PatchOperation, ...]:
    return call.read(PatchBody).patch_operations or ()


def bare_style(operation: PatchOperation, _: Sequence[str]) -> str:
    """Word the refusal of a path without a list of valid paths, as some of AWS's resources do."""
    return f"Invalid patch path {operation.path}"


def ops_style(table: Sequence[PatchRule]) -> Style:
    """Make a style that distinguishes a wrong operation from a wrong path, as some of AWS's resources do."""

    def style(operation: PatchOperation, _: Sequence[str]) -> str:
        ops = sorted({op for row in table if row.regex.fullmatch(operation.path) for op in row.ops})
        if ops:
            return f"Invalid patch operation specified. Must be one of: [{', '.join(ops)}]"
        return f"Invalid patch path {operation.path}"

    return style


def invalid_value(value: str, at: str, constraint: str) -> ApiError:
    """Word the refusal of a value in the path, as AWS's framework does."""
    shown = f"Value '{value[:200]}' at '{at}' failed to satisfy constraint: Member must satisfy {constraint}"
    return ApiError("ValidationException", f"1 validation error detected: {shown}")


def page_of(items: Iterable[T], key: Callable[[T], str], call: Call) -> tuple[list[T], str | None]:
    """Return the page that a call names, and the position of the next one. Raises ApiError.

    A position is the key of the last item before it, so that inserts do not shift the next page. The key may be empty:
    a mark precedes it.
    """
    limit, position = call.paging()
    left = sorted(items, key=key)
    if position:
        after = ""
        with suppress(binascii.Error, ValueError):
            after = base64.b64decode(position.encode(), altchars=b"-_", validate=True).decode()
        if not after.startswith(AFTER):
            raise bad_request("Invalid position parameter specified")
        left = [item for item in left if key(item) > after.removeprefix(AFTER)]
    more = base64.urlsafe_b64encode(f"{AFTER}{key(left[limit - 1])}".encode()).decode() if len(left) > limit else None
    return left[:limit], more


def listed(items: Iterable[dict[str, Any] | str], position: str | None = None) -> Answer:
    """Answer with a page of a list as AWS sends it; the last page has no position."""
    return Answer(body={"item": list(items), **({"position": position} if position else {})})


def given(**members: Any) -> dict[str, Any]:
    """Return the members that are set: not None, not empty text and not an empty mapping."""
    return {name: value for name, value in members.items() if value is not None and value != "" and value != {}}


async def detach(edit: Draft, api_id: str, stages: Sequence[str]) -> None:
    """Remove stages that are to be deleted from all plans. A later stage of the same name is another stage."""
    lists = [await edit.members(stage_plans(api_id, stage)) for stage in stages]
    plans = sorted({plan for members in lists for plan in members})
    for held in await edit.many("usageplan", plans):
        if isinstance(held, StoredPlan):
            kept = tuple(one for one in held.plan.api_stages if one.api_id != api_id or one.stage not in stages)
            edit.put(replace(held, plan=replace(held.plan, api_stages=kept)))


async def check_unmapped(edit: Draft, api_id: str, stage: str | None = None) -> None:
    """Raise ApiError if a base path leads to the API or, if `stage` is given, to that stage."""
    for domain in await edit.many("domain", await edit.members("domain")):
        mappings = domain.mappings if isinstance(domain, DomainName) else ()
        if any(one.rest_api_id == api_id and stage in (None, one.stage) for one in mappings):
            raise bad_request("Please remove all base path mappings related to the API in your account")


# --- an API -------------------------------------------------------------------------------------------------------


class Endpoint(Struct, frozen=True, rename="camel"):
    """The kind of endpoint: stored, and without effect here."""

    types: tuple[Literal["PRIVATE", "EDGE", "REGIONAL"], ...] = ("EDGE",)
    ip_address_type: Literal["ipv4", "dualstack"] | None = None
    vpc_endpoint_ids: tuple[str, ...] | None = None

    def shown(self) -> dict[str, Any]:
        """Return the endpoint as AWS shows it. Raises ApiError for one that AWS would refuse."""
        if not self.types:
            raise bad_request("REGIONAL Configuration and EDGE Configuration cannot be both DISABLED.")
        if len(self.types) > 1:
            raise bad_request("Cannot create an api with multiple Endpoint Types.")
        usual = "dualstack" if self.types == ("PRIVATE",) else "ipv4"
        return checked_endpoint(
            given(
                types=list(self.types),
                ipAddressType=self.ip_address_type or usual,
                vpcEndpointIds=None if self.vpc_endpoint_ids is None else list(self.vpc_endpoint_ids),
            )
        )


def checked_endpoint(shown: dict[str, Any]) -> dict[str, Any]:
    """Return the endpoint. Raises ApiError for a private one with another type of address than AWS takes."""
    if "PRIVATE" in shown["types"] and shown["ipAddressType"] != "dualstack":
        raise bad_request("Only dualstack ipAddressType is supported for Private APIs.")
    return shown


class NewApi(Struct, frozen=True, rename="camel"):
    """The body of CreateRestApi. The last three members are ours."""

    name: str
    description: str | None = None
    version: str | None = None
    clone_from: str | None = None
    binary_media_types: tuple[str, ...] = ()
    minimum_compression_size: int | None = None
    api_key_source: Literal["AUTHORIZER", "HEADER"] | None = None
    endpoint_configuration: Endpoint | None = None
    policy: str | None = None
    tags: dict[str, str] = {}
    disable_execute_api_endpoint: bool = False
    security_policy: str | None = None
    endpoint_access_mode: Literal["BASIC", "STRICT"] | None = None
    key_sources: tuple[KeySource, ...] | None = None
    authorizer: AuthorizerSource | None = None
    forward_api_key: bool = False


def shown(api: RestApi) -> dict[str, Any]:
    """Return an API as AWS shows it after its creation and in lists: with tags only if there are any."""
    return {
        "id": api.id,
        "name": api.name,
        "createdDate": api.created_date,
        "apiKeySource": api.api_key_source,
        "endpointConfiguration": api.endpoint_configuration or Endpoint().shown(),
        "disableExecuteApiEndpoint": api.disable_execute_api_endpoint,
        "rootResourceId": api.root_resource_id,
        **given(
            description=api.description,
            version=api.version,
            binaryMediaTypes=list(api.binary_media_types) or None,
            minimumCompressionSize=api.minimum_compression_size,
            # AWS sends a policy as the inside of a JSON string, and Terraform unquotes it.
            policy=msgspec.json.encode(api.policy).decode()[1:-1] if api.policy else None,
            tags=api.tags,
            securityPolicy=api.security_policy,
            endpointAccessMode=api.endpoint_access_mode,
            keySources=None if api.key_sources is None else msgspec.to_builtins(api.key_sources),
            authorizer=None if api.authorizer is None else msgspec.to_builtins(api.authorizer),
            forwardApiKey=api.forward_api_key or None,
        ),
    }


def shown_alone(api: RestApi) -> dict[str, Any]:
    """Return an API as AWS shows it by itself: always with `tags`."""
    return {**shown(api), "tags": api.tags}


def _empty(call: Call, name: str) -> RestApi:
    root = StoredResource(new_id(), "/")
    endpoint = Endpoint().shown()
    return RestApi(
        new_id(), name, call.context.now(), root.id, resources={root.id: root}, endpoint_configuration=endpoint
    )


async def create(call: Call) -> Answer:
    body = call.read(NewApi)
    if body.description == "":
        raise bad_request("Description cannot be an empty string")
    empty = _empty(call, body.name)

    async def edit(edit: Draft) -> RestApi:
        base = empty
        if body.clone_from:
            cloned = await api_of(call, edit, body.clone_from)
            base = replace(cloned, id=empty.id, name=body.name, created_date=empty.created_date, tags={})
        api = _as_given(base, body)
        check_api(api)
        edit.put(api)
        return api

    return Answer(201, shown(await call.write(edit, empty.id)))


def _as_given(base: RestApi, body: NewApi) -> RestApi:
    endpoint = body.endpoint_configuration
    return replace(
        base,
        description=base.description if body.description is None else body.description,
        version=body.version or base.version,
        api_key_source=body.api_key_source or base.api_key_source,
        binary_media_types=body.binary_media_types or base.binary_media_types,
        minimum_compression_size=body.minimum_compression_size,
        endpoint_configuration=endpoint.shown() if endpoint else base.endpoint_configuration,
        policy=body.policy or base.policy,
        disable_execute_api_endpoint=body.disable_execute_api_endpoint,
        security_policy=body.security_policy or base.security_policy,
        endpoint_access_mode=body.endpoint_access_mode or base.endpoint_access_mode,
        tags=body.tags,
        key_sources=body.key_sources or base.key_sources,
        authorizer=body.authorizer or base.authorizer,
        forward_api_key=body.forward_api_key,
        cost_from=base.cost_from,
    )


async def get(call: Call) -> Answer:
    return Answer(body=shown_alone(await api_of(call, call.context.store)))


async def get_all(call: Call) -> Answer:
    page = await call.context.store.page("restapi", "restapi", *call.paging())
    return listed((shown(api) for api in page.items if isinstance(api, RestApi)), page.position)


async def delete(call: Call) -> Answer:
    async def edit(edit: Draft) -> None:
        api = await api_of(call, edit)
        await check_unmapped(edit, api.id)
        stages = await edit.members(children("stage", api.id))
        await detach(edit, api.id, [stage.removeprefix(stage_id(api.id, "")) for stage in stages])
        for kind, ids in (("stage", stages), ("deployment", await edit.members(children("deployment", api.id)))):
            for held in ids:
                edit.delete(kind, held)
        edit.delete("restapi", api.id)

    await call.write(edit)
    return Answer(202)


# --- patches ------------------------------------------------------------------------------------------------------


def _held_endpoint(step: PatchStep) -> dict[str, Any]:
    return step.draft.get("endpointConfiguration") or Endpoint().shown()


def _endpoint(step: PatchStep) -> None:
    if step.op != "replace":
        raise bad_request("Invalid patch operation specified. Must be 'add'|'remove'|'replace'")  # AWS's own text
    if step.value not in ENDPOINTS:
        raise bad_request(f"Invalid EndpointTypes specified. Valid options are {','.join(ENDPOINTS_OF_A_PATCH)}")
    alone = {"ipAddressType": "dualstack"} if step.value == "PRIVATE" else {}
    step.draft["endpointConfiguration"] = {**_held_endpoint(step), "types": [step.value], **alone}


def _address_type(step: PatchStep) -> None:
    if step.value not in ADDRESS_TYPES:
        raise bad_request(f"ipAddressType must be either {' or '.join(ADDRESS_TYPES)}.")
    changed = {**_held_endpoint(step), "ipAddressType": step.value}
    step.draft["endpointConfiguration"] = checked_endpoint(changed)


def _vpc_endpoints(step: PatchStep) -> None:
    endpoint = step.draft.setdefault("endpointConfiguration", Endpoint().shown())
    others = [one for one in endpoint.get("vpcEndpointIds", ()) if one != step.value]
    endpoint["vpcEndpointIds"] = others if step.op == "remove" else [*others, step.value]


def _compression_size(step: PatchStep) -> None:
    """Set the size. An empty value removes it: Terraform switches compression off this way."""
    if step.value == "":
        step.draft.pop("minimumCompressionSize", None)
    elif step.value.isascii() and step.value.isdigit() and len(step.value) < 10:
        step.draft["minimumCompressionSize"] = int(step.value)
    else:
        raise bad_request("Invalid minimum compression size, must be between 0 and 10485760")


def _media_type(step: PatchStep) -> None:
    """Add, remove or replace the media type in the path."""
    named = step.path[-1]
    others = [one for one in step.draft.get("binaryMediaTypes", ()) if one != named]
    kept = {"remove": [], "add": [named], "replace": [step.value]}
    step.draft["binaryMediaTypes"] = [*others, *kept[step.op]]


TABLE: Final = (
    PatchRule(("replace",), "/name"),
    PatchRule(("replace", "remove"), "/description", effect=member_or_removed),
    PatchRule(("replace",), "/version"),
    PatchRule(("replace",), "/apiKeySource", effect=one_of(KEY_SOURCES, BAD_KEY_SOURCE)),
    PatchRule(("replace",), "/securityPolicy", effect=member_or_removed),
    PatchRule(("replace",), "/endpointAccessMode", effect=one_of(ACCESS_MODES, BAD_ACCESS_MODE)),
    PatchRule(("replace",), "/disableExecuteApiEndpoint", Type.BOOL),
    PatchRule(("replace",), "/policy"),
    PatchRule(("replace",), "/minimumCompressionSize", effect=_compression_size),
    PatchRule(("add", "remove", "replace"), "/endpointConfiguration/types/{type}", effect=_endpoint),
    PatchRule(("replace",), "/endpointConfiguration/ipAddressType", effect=_address_type),
    PatchRule(("add", "remove"), "/endpointConfiguration/vpcEndpointIds", effect=_vpc_endpoints),
    PatchRule(("add", "remove", "replace"), "/binaryMediaTypes/{type}", effect=_media_type),
    PatchRule(("replace", "remove"), "/keySources", Type.JSON, hidden=True),
    PatchRule(("replace", "remove"), "/authorizer", Type.JSON, hidden=True),
    PatchRule(("replace",), "/forwardApiKey", Type.BOOL, hidden=True),
)


async def update(call: Call) -> Answer:
    operations = operations_of(call)

    def change(api: RestApi) -> RestApi:
        changed = patched(api, TABLE, operations, ops_style(TABLE))
        check_api(changed)
        return changed

    return Answer(body=shown_alone(await edit_api(call, change)))


# --- OpenAPI ------------------------------------------------------------------------------------------------------


async def import_api(call: Call) -> Answer:
    wanted: Any = call.one("endpointConfigurationTypes") or "EDGE"
    document = await in_background(_document, call.body)
    if wanted not in ENDPOINTS:
        raise invalid_value(wanted, "endpointConfigurationTypes", f"enum value set: [{', '.join(ENDPOINTS)}]")
    empty = replace(_empty(call, ""), models={}, endpoint_configuration=Endpoint(types=(wanted,)).shown())
    result = _judged(await in_background(imported, empty, document, _options(call, "merge")), call)

    async def edit(edit: Draft) -> None:
        edit.put(result.api)

    await call.write(edit, result.api.id)
    return _imported(201, shown(result.api), result)


async def put(call: Call) -> Answer:
    mode = call.one("mode") or "merge"
    if mode not in ("merge", "overwrite"):
        raise bad_request('Enumeration value of OpenAPI import mode must be "overwrite" or "merge"')
    options = _options(call, "overwrite" if mode == "overwrite" else "merge")
    document = await in_background(_document, call.body)

    async def edit(edit: Draft) -> Imported:
        result = _judged(await in_background(imported, await api_of(call, edit), document, options), call)
        edit.put(result.api)
        return result

    result = await call.write(edit)
    return _imported(200, shown_alone(result.api), result)


def _imported(status: int, api: dict[str, Any], result: Imported) -> Answer:
    return Answer(status, {**api, **({"warnings": list(result.warnings)} if result.warnings else {})})


def _options(call: Call, mode: Mode) -> Options:
    accept = tuple(name.strip() for name in (call.one("accept") or "").split(",") if name.strip())
    options = Options(new_id, mode, call.one("basepath") or "ignore", accept, call.one("ignore"))
    options.check()
    return options


def _judged(result: Imported, call: Call) -> Imported:
    """Warn of all that an import leaves out. Raises ApiError if `failonwarnings` is set and a warning counts."""
    if result.grave and call.flag("failonwarnings"):
        raise bad_request("Warnings found during import:\n\t" + "\n\t".join(result.warnings))
    for warning in result.warnings:
        call.warn(warning)
    if any(method.request_validator_id for one in result.api.resources.values() for method in one.methods.values()):
        call.warn("request validators are stored and not carried out: requests are not validated here")
    return result


def _document(body: bytes) -> dict[str, Any]:
    """Decode a body of JSON or YAML. Raises ApiError."""
    try:
        return read_document(body)
    except RefusedError as refused:
        raise unreadable(str(refused)) from None
    except TagError as refused:
        raise bad_request(f"Invalid OpenAPI input. {refused}: {INTRINSICS}") from None
    except DocumentError as refused:
        log.info("an import is no JSON and no YAML", cause=str(refused))
        raise bad_request("Invalid OpenAPI input.") from None


OPERATIONS: Final = (
    Operation("CreateRestApi", "POST", "/restapis", create, writes=True),
    Operation("ImportRestApi", "POST", "/restapis", import_api, writes=True, mode="import"),
    Operation("GetRestApis", "GET", "/restapis", get_all, writes=False),
    Operation("GetRestApi", "GET", "/restapis/{restapi_id}", get, writes=False),
    Operation("UpdateRestApi", "PATCH", "/restapis/{restapi_id}", update, writes=True),
    Operation("PutRestApi", "PUT", "/restapis/{restapi_id}", put, writes=True),
    Operation("DeleteRestApi", "DELETE", "/restapis/{restapi_id}", delete, writes=True),
)

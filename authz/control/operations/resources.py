"""The operations on an API's resources and methods. Their integrations and responses are stored, and without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace as replaced
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from authz.aws import restapis as rules
from authz.aws.errors import ApiError, bad_request, conflict, not_found
from authz.aws.models import check_models, check_uses
from authz.aws.patch import PatchRule, PatchStep, Type, apply, entry_of, invalid_path, member
from authz.aws.restapis import STATUS_CODE
from authz.control.call import Answer, Call, Handler, Operation
from authz.control.operations.ids import new_id
from authz.control.operations.models import NOT_VALIDATED
from authz.control.operations.restapis import (
    api_of,
    edit_api,
    given,
    invalid_value,
    listed,
    operations_of,
    ops_style,
    page_of,
    patched,
    unknown_api_as,
)
from authz.core.stored import RestApi, StoredMethod, StoredResource

AUTHORIZATIONS: Final = ("NONE", *rules.AUTHORIZATIONS)
BY_AUTHORIZER: Final = ("CUSTOM", "COGNITO_USER_POOLS")
ContentHandling = Literal["CONVERT_TO_BINARY", "CONVERT_TO_TEXT"]


# --- resources ----------------------------------------------------------------------------------------------------


class NewResource(Struct, frozen=True, rename="camel"):
    """The body of CreateResource."""

    path_part: Annotated[str, Meta(max_length=1024)]


def _shown(found: StoredResource, *, methods: bool = False) -> dict[str, Any]:
    verbs = {verb: _shown_method(verb, held) if methods else {} for verb, held in found.methods.items()}
    return {
        "id": found.id,
        "path": found.path,
        **given(parentId=found.parent_id, pathPart=found.path_part, resourceMethods=verbs),
    }


def _embeds(call: Call) -> bool:
    return "methods" in call.query.get("embed", ())


async def create_resource(call: Call) -> Answer:
    part, made = call.read(NewResource).path_part, new_id(6)
    api = await edit_api(call, lambda api: rules.add_resource(api, call.params["parent_id"], part, made))
    return Answer(201, _shown(api.resources[made]))


async def get_resource(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    return Answer(body=_shown(rules.resource(api, call.params["resource_id"]), methods=_embeds(call)))


async def get_resources(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    page, position = page_of(api.resources.values(), lambda one: one.path, call)
    return listed((_shown(one, methods=_embeds(call)) for one in page), position)


PLACE: Final = (PatchRule(("replace",), "/parentId"), PatchRule(("replace",), "/pathPart"))


async def update_resource(call: Call) -> Answer:
    operations, wanted = operations_of(call), call.params["resource_id"]

    def change(api: RestApi) -> RestApi:
        found = rules.resource(api, wanted)
        before = {"parentId": found.parent_id, "pathPart": found.path_part}
        after = apply(PLACE, before, operations, invalid_path)
        return api if after == before else rules.move_resource(api, wanted, after["parentId"], after["pathPart"])

    return Answer(body=_shown((await edit_api(call, change)).resources[wanted]))


async def delete_resource(call: Call) -> Answer:
    await edit_api(call, lambda api: rules.remove_resource(api, call.params["resource_id"]))
    return Answer(202)


# --- methods ------------------------------------------------------------------------------------------------------


class NewMethod(Struct, frozen=True, rename="camel"):
    """The body of PutMethod."""

    authorization_type: str
    authorizer_id: str | None = None
    api_key_required: bool = False
    operation_name: str | None = None
    request_parameters: dict[str, bool] = {}
    request_models: dict[str, str] = {}
    request_validator_id: str | None = None
    authorization_scopes: tuple[str, ...] = ()


def _shown_method(verb: str, held: StoredMethod) -> dict[str, Any]:
    return {
        "httpMethod": verb,
        "authorizationType": held.authorization_type,
        "apiKeyRequired": held.api_key_required,
        **given(
            authorizerId=held.authorizer_id,
            operationName=held.operation_name,
            requestValidatorId=held.request_validator_id,
            requestParameters=held.request_parameters,
            requestModels=held.request_models,
            authorizationScopes=list(held.authorization_scopes) or None,
            methodResponses=held.method_responses,
            methodIntegration=held.method_integration,
        ),
    }


def _checked(api: RestApi, held: StoredMethod, before: StoredMethod | None = None) -> StoredMethod:
    """Return a method as AWS stores it. Members that are as in `before` are not checked. Raises ApiError."""
    held = replace(held, authorization_type=held.authorization_type.upper())
    if held.authorization_type not in AUTHORIZATIONS:
        raise bad_request(f"Invalid authorization type specified. Valid options are {','.join(AUTHORIZATIONS)}")
    if held.authorization_type not in BY_AUTHORIZER:
        held = replace(held, authorizer_id=None)
    elif before is None or (
        (held.authorization_type, held.authorizer_id) != (before.authorization_type, before.authorizer_id)
    ):
        raise bad_request(  # there are no authorizers here, so no id is valid
            "Invalid authorizer ID specified. Setting the authorization type to CUSTOM or COGNITO_USER_POOLS requires "
            "a valid authorizer."
        )
    names = [name.split(".", 3)[-1] for name in held.request_parameters]  # as a in method.request.header.a
    if len(set(names)) < len(names):
        raise bad_request("Parameter names must be unique across querystring, header and path")
    check_uses(api, held, before)
    return held


def _warn_of_method(call: Call, held: StoredMethod) -> None:
    if held.request_validator_id:
        call.warn(f"requestValidatorId {NOT_VALIDATED}")
    if held.authorization_type != "NONE":
        passes = rules.who_passes(held.api_key_required)
        call.warn(f"authorizationType {held.authorization_type} is stored and not carried out: {passes}")


def _named(call: Call) -> tuple[str, str]:
    """Return the resource's id and the verb from a call's path."""
    return call.params["resource_id"], call.params["http_method"]


async def _method(call: Call) -> StoredMethod:
    with unknown_api_as(rules.unknown_resource()):
        api = await api_of(call, call.context.store)
    return rules.method(api, *_named(call))


async def _edit_method(call: Call, change: Callable[[StoredMethod], StoredMethod]) -> StoredMethod:
    """Commit a change of the method in the call's path. Return the changed method. Raises ApiError."""
    return await _edit_method_in_api(call, lambda _, held: change(held))


async def _edit_method_in_api(call: Call, change: Callable[[RestApi, StoredMethod], StoredMethod]) -> StoredMethod:
    named = _named(call)
    with unknown_api_as(rules.unknown_resource()):
        api = await edit_api(call, lambda api: rules.with_method(api, *named, change(api, rules.method(api, *named))))
    return rules.method(api, *named)


async def put_method(call: Call) -> Answer:
    named, body = _named(call), call.read(NewMethod)
    made = msgspec.convert(msgspec.to_builtins(body), StoredMethod)

    def change(api: RestApi) -> RestApi:
        found = rules.resource(api, named[0])
        if rules.verb_of(named[1]) in found.methods:
            raise conflict("Method already exists for this resource")
        changed = _checked(api, made)
        _warn_of_method(call, changed)
        return rules.with_method(api, *named, changed)

    with unknown_api_as(rules.unknown_resource()):
        api = await edit_api(call, change)
    return Answer(201, _shown_method(named[1], rules.method(api, *named)))


async def get_method(call: Call) -> Answer:
    return Answer(body=_shown_method(call.params["http_method"], await _method(call)))


# AWS's refusal of an unknown entry, by the member that would hold it.
NO_ENTRY: Final = {
    **dict.fromkeys(("requestParameters", "responseParameters"), "Invalid parameter name specified"),
    **dict.fromkeys(
        ("requestModels", "responseModels", "requestTemplates", "responseTemplates"),
        "Content-Type specified was not found",
    ),
}


def _entry(step: PatchStep) -> None:
    """Change an entry of parameters, models or templates, and remove the member when it is empty. Raises ApiError."""
    where, name = step.path
    held: dict[str, Any] = step.draft.get(where) or {}
    if step.op != "add" and name not in held:
        raise not_found(NO_ENTRY[where])
    member(replaced(step, value=step.value or None) if where.endswith("Templates") else step)
    if not step.draft[where]:
        del step.draft[where]


METHOD: Final = (
    PatchRule(("replace",), "/apiKeyRequired", Type.BOOL),
    PatchRule(("replace",), "/authorizationType"),
    PatchRule(("replace",), "/authorizerId"),
    PatchRule(("replace",), "/operationName"),
    PatchRule(("replace",), "/requestValidatorId"),
    PatchRule(("add", "remove"), "/authorizationScopes", effect=entry_of("authorizationScopes")),
    PatchRule(("add", "replace", "remove"), "/requestParameters/{name}", Type.BOOL, _entry),
    PatchRule(("add", "replace", "remove"), "/requestModels/{type}", effect=_entry),
)


async def update_method(call: Call) -> Answer:
    operations = operations_of(call)

    def change(api: RestApi, held: StoredMethod) -> StoredMethod:
        changed = _checked(api, patched(held, METHOD, operations, ops_style(METHOD)), held)
        _warn_of_method(call, changed)
        return changed

    held = await _edit_method_in_api(call, change)
    return Answer(body=_shown_method(call.params["http_method"], held))


async def delete_method(call: Call) -> Answer:
    named = _named(call)
    with unknown_api_as(rules.unknown_resource()):
        await edit_api(call, lambda api: rules.without_method(api, *named))
    return Answer(204)


# --- responses and integrations, which are stored as given --------------------------------------------------------


class NewMethodResponse(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of PutMethodResponse."""

    response_parameters: dict[str, bool] | None = None
    response_models: dict[str, str] | None = None


class NewIntegrationResponse(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of PutIntegrationResponse."""

    selection_pattern: str | None = None
    response_parameters: dict[str, str] | None = None
    response_templates: dict[str, str | None] | None = None
    content_handling: ContentHandling | None = None


class NewIntegration(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of PutIntegration."""

    type: Literal["HTTP", "MOCK", "AWS_PROXY", "HTTP_PROXY", "AWS"]
    http_method: str | None = None
    uri: str | None = None
    connection_type: Literal["INTERNET", "VPC_LINK"] | None = None
    connection_id: str | None = None
    credentials: str | None = None
    request_parameters: dict[str, str] | None = None
    request_templates: dict[str, str | None] | None = None
    passthrough_behavior: str | None = None
    cache_namespace: str | None = None
    cache_key_parameters: tuple[str, ...] | None = None
    content_handling: ContentHandling | None = None
    timeout_in_millis: Annotated[int, Meta(ge=50)] | None = None
    tls_config: dict[str, bool] | None = None
    response_transfer_mode: Literal["BUFFERED", "STREAM"] | None = None
    integration_target: str | None = None


def _status(call: Call) -> str:
    status = call.params["status_code"]
    if not STATUS_CODE.fullmatch(status):
        raise invalid_value(status, "statusCode", r"regular expression pattern: [1-5]\d\d")
    return status


async def put_method_response(call: Call) -> Answer:
    status = _status(call)
    made = {"statusCode": status, **msgspec.to_builtins(call.read(NewMethodResponse))}

    def change(api: RestApi, held: StoredMethod) -> StoredMethod:
        if status in held.method_responses:
            raise conflict("Response already exists for this resource")
        check_models(api, made.get("responseModels", {}).values())
        return replace(held, method_responses={**held.method_responses, status: made})

    await _edit_method_in_api(call, change)
    return Answer(201, made)


async def get_method_response(call: Call) -> Answer:
    status = _status(call)
    return Answer(body=rules.method_response(await _method(call), status))


METHOD_RESPONSE: Final = (
    PatchRule(("add", "replace", "remove"), "/responseParameters/{name}", Type.BOOL, _entry),
    PatchRule(("add", "replace", "remove"), "/responseModels/{type}", effect=_entry),
)


async def update_method_response(call: Call) -> Answer:
    status, operations = _status(call), operations_of(call)

    def change(api: RestApi, held: StoredMethod) -> StoredMethod:
        before = rules.method_response(held, status)
        after = apply(METHOD_RESPONSE, before, operations, ops_style(METHOD_RESPONSE))
        known = before.get("responseModels", {}).values()
        check_models(api, [name for name in after.get("responseModels", {}).values() if name not in known])
        return replace(held, method_responses={**held.method_responses, status: after})

    return Answer(201, (await _edit_method_in_api(call, change)).method_responses[status])


async def delete_method_response(call: Call) -> Answer:
    status = _status(call)

    def change(held: StoredMethod) -> StoredMethod:
        rules.method_response(held, status)
        left = {code: one for code, one in held.method_responses.items() if code != status}
        return replace(held, method_responses=left)

    await _edit_method(call, change)
    return Answer(204)


async def put_integration(call: Call) -> Answer:
    body = call.read(NewIntegration)
    if not body.http_method and body.type != "MOCK":
        raise bad_request("Enumeration value for HttpMethod must be non-empty")
    _check_mappings((body.request_parameters or {}).values())
    given_ = msgspec.to_builtins(body)
    made = {
        **rules.integration_defaults(body.type, call.params["resource_id"]),
        **{name: value for name, value in given_.items() if value != {} and value != ""},
        "passthroughBehavior": _passthrough(body.passthrough_behavior or "WHEN_NO_MATCH"),
    }
    if body.request_templates:
        made["requestTemplates"] = _templates(body.request_templates)
    await _edit_method(call, lambda held: replace(held, method_integration=made))
    return Answer(201, made)


PASSTHROUGH: Final = ("WHEN_NO_MATCH", "WHEN_NO_TEMPLATES", "NEVER")


def _passthrough(given: str) -> str:
    """Return a passthrough behavior in capitals, as AWS stores it. Raises ApiError."""
    if given.upper() not in PASSTHROUGH:
        raise bad_request(f"Invalid passthrough behavior specified. Must be one of: [{', '.join(PASSTHROUGH)}]")
    return given.upper()


def _templates(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Replace empty templates by null, as AWS shows them."""
    return {name: text or None for name, text in given.items()}


MAPPED_FROM: Final = ("method.request.", "context.", "stageVariables.", "'")


def _check_mappings(expressions: Iterable[str]) -> None:
    for each in expressions:
        if not each.startswith(MAPPED_FROM):
            cause = f"Invalid mapping expression specified: {each}"
            raise bad_request(
                f"Invalid mapping expression specified: Validation Result: warnings : [], errors : [{cause}]"
            )


async def get_integration(call: Call) -> Answer:
    return Answer(body=rules.integration(await _method(call)))


def _mapping(step: PatchStep) -> None:
    """Change an entry of the request parameters, whose value is a mapping expression. Raises ApiError."""
    if step.op != "remove":
        _check_mappings([step.value])
    _entry(step)


INTEGRATION: Final = (
    PatchRule(("replace",), "/uri"),
    PatchRule(("replace",), "/httpMethod"),
    PatchRule(("replace",), "/credentials"),
    PatchRule(("replace",), "/connectionType"),
    PatchRule(("replace",), "/connectionId"),
    PatchRule(("replace",), "/contentHandling"),
    PatchRule(
        ("replace",),
        "/passthroughBehavior",
        effect=lambda step: step.draft.update(passthroughBehavior=_passthrough(step.value)),
    ),
    PatchRule(("replace",), "/cacheNamespace"),
    PatchRule(("replace",), "/timeoutInMillis", Type.INT),
    PatchRule(("replace",), "/tlsConfig/insecureSkipVerification", Type.BOOL),
    PatchRule(("replace",), "/responseTransferMode"),
    PatchRule(("replace",), "/integrationTarget"),
    PatchRule(
        ("add", "remove"),
        "/cacheKeyParameters/{name}",
        effect=entry_of("cacheKeyParameters", lambda step: step.path[-1]),
    ),
    PatchRule(("add", "replace", "remove"), "/requestParameters/{name}", effect=_mapping),
    PatchRule(("add", "replace", "remove"), "/requestTemplates/{type}", effect=_entry),
)


async def update_integration(call: Call) -> Answer:
    operations = operations_of(call)

    def change(held: StoredMethod) -> StoredMethod:
        after = apply(INTEGRATION, rules.integration(held), operations, ops_style(INTEGRATION))
        return replace(held, method_integration=after)

    return Answer(body=rules.integration(await _edit_method(call, change)))


async def delete_integration(call: Call) -> Answer:
    def change(held: StoredMethod) -> StoredMethod:
        rules.integration(held)
        return replace(held, method_integration=None)

    await _edit_method(call, change)
    return Answer(204)


async def put_integration_response(call: Call) -> Answer:
    status, body = _status(call), call.read(NewIntegrationResponse)
    made = {
        "statusCode": status,
        **{name: value for name, value in msgspec.to_builtins(body).items() if value != {}},
        **({"responseTemplates": _templates(body.response_templates)} if body.response_templates else {}),
    }
    await _edit_method(call, lambda held: rules.with_integration_response(held, status, made))
    return Answer(201, made)


async def get_integration_response(call: Call) -> Answer:
    status = _status(call)
    return Answer(body=rules.integration_response(await _method(call), status))


INTEGRATION_RESPONSE: Final = (
    PatchRule(("replace",), "/selectionPattern"),
    PatchRule(("replace",), "/contentHandling"),
    PatchRule(("add", "replace", "remove"), "/responseParameters/{name}", effect=_entry),
    PatchRule(("add", "replace", "remove"), "/responseTemplates/{type}", effect=_entry),
)


async def update_integration_response(call: Call) -> Answer:
    status, operations = _status(call), operations_of(call)

    def change(held: StoredMethod) -> StoredMethod:
        before = rules.integration_response(held, status)
        after = apply(INTEGRATION_RESPONSE, before, operations, ops_style(INTEGRATION_RESPONSE))
        return rules.with_integration_response(held, status, after)

    return Answer(body=rules.integration_response(await _edit_method(call, change), status))


async def delete_integration_response(call: Call) -> Answer:
    status = _status(call)

    def change(held: StoredMethod) -> StoredMethod:
        rules.integration_response(held, status)
        return rules.with_integration_response(held, status, None)

    try:
        await _edit_method(call, change)
    except ApiError as refused:
        if refused.message == rules.NO_METHOD:  # AWS refuses an unknown method with this text here
            raise not_found("Invalid Integration identifier specified") from None
        raise
    return Answer(204)


ALL: Final = "/restapis/{restapi_id}/resources"
ONE: Final = f"{ALL}/{{resource_id}}"
VERB: Final = f"{ONE}/methods/{{http_method}}"
RESPONSE: Final = f"{VERB}/responses/{{status_code}}"
BEHIND: Final = f"{VERB}/integration"
BEHIND_RESPONSE: Final = f"{BEHIND}/responses/{{status_code}}"


def _four(what: str, path: str, *handlers: Handler) -> tuple[Operation, ...]:
    """Return the four operations of a method or of one of its parts."""
    verbs = (("Put", "PUT", True), ("Get", "GET", False), ("Update", "PATCH", True), ("Delete", "DELETE", True))
    return tuple(
        Operation(f"{word}{what}", verb, path, handler, writes)
        for (word, verb, writes), handler in zip(verbs, handlers, strict=True)
    )


OPERATIONS: Final = (
    Operation("CreateResource", "POST", f"{ALL}/{{parent_id}}", create_resource, writes=True),
    Operation("GetResources", "GET", ALL, get_resources, writes=False),
    Operation("GetResource", "GET", ONE, get_resource, writes=False),
    Operation("UpdateResource", "PATCH", ONE, update_resource, writes=True),
    Operation("DeleteResource", "DELETE", ONE, delete_resource, writes=True),
    *_four("Method", VERB, put_method, get_method, update_method, delete_method),
    *_four(
        *("MethodResponse", RESPONSE),
        *(put_method_response, get_method_response, update_method_response, delete_method_response),
    ),
    *_four("Integration", BEHIND, put_integration, get_integration, update_integration, delete_integration),
    *_four(
        *("IntegrationResponse", BEHIND_RESPONSE),
        *(put_integration_response, get_integration_response, update_integration_response, delete_integration_response),
    ),
)

"""The rules of a RestApi: how each edit changes its resources, methods, responses and stages, and its snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request, conflict, limit_exceeded, not_found
from authz.core.bounds import MAX_RESOURCES
from authz.core.methods import method_of
from authz.core.resources import (
    Api,
    Deployment,
    GatewayResponse,
    GatewayResponseType,
    HttpMethod,
    Method,
    Resources,
    Stage,
)
from authz.core.rules import problems
from authz.core.stored import RestApi, StoredMethod, StoredResource, StoredStage

VERBS: Final = ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD", "ANY")
PATH_PART: Final = re.compile(r"[a-zA-Z0-9._\-:]+|\{[a-zA-Z0-9._\-:]+\+?\}")
STAGE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The beginning of an address that `_check_api` reports; the API and the stage in it are made up.
WITHIN: Final = re.compile(r"\$\.apis\[0\]\.(stages\[0\]\.gatewayResponses\['\w+'\]\.)?")
STATUS_CODE: Final = re.compile(r"[1-5]\d\d", re.ASCII)

# AWS's kinds of gateway responses with their default statuses, in the order of GetGatewayResponses.
RESPONSE_STATUSES: Final[dict[str, str | None]] = {
    "ACCESS_DENIED": "403",
    "API_CONFIGURATION_ERROR": "500",
    "AUTHORIZER_CONFIGURATION_ERROR": "500",
    "AUTHORIZER_FAILURE": "500",
    "BAD_REQUEST_BODY": "400",
    "BAD_REQUEST_PARAMETERS": "400",
    "DEFAULT_4XX": None,
    "DEFAULT_5XX": None,
    "EXPIRED_TOKEN": "403",
    "INTEGRATION_FAILURE": "504",
    "INTEGRATION_TIMEOUT": "504",
    "INVALID_API_KEY": "403",
    "INVALID_SIGNATURE": "403",
    "MISSING_AUTHENTICATION_TOKEN": "403",
    "QUOTA_EXCEEDED": "429",
    "REQUEST_TOO_LARGE": "413",
    "RESOURCE_NOT_FOUND": "404",
    "THROTTLED": "429",
    "UNAUTHORIZED": "401",
    "UNSUPPORTED_MEDIA_TYPE": "415",
    "WAF_FILTERED": "403",
}
STANDARD_TEMPLATES: Final = {"application/json": '{"message":$context.error.messageString}'}

# The settings of a stage for a method until one is set.
DEFAULT_SETTING: Final[dict[str, Any]] = {
    "cacheDataEncrypted": False,
    "cacheTtlInSeconds": 300,
    "cachingEnabled": False,
    "dataTraceEnabled": False,
    "metricsEnabled": False,
    "requireAuthorizationForCacheControl": True,
    "throttlingBurstLimit": 5000,
    "throttlingRateLimit": 10000.0,
    "unauthorizedCacheControlHeaderStrategy": "SUCCEED_WITH_RESPONSE_HEADER",
}

AUTHORIZATIONS: Final = ("AWS_IAM", "CUSTOM", "COGNITO_USER_POOLS")  # stored, and checked by no sidecar

NO_METHOD: Final = "Invalid Method identifier specified"
INTEGRATION_TIMEOUT_MS: Final = 29_000


# --- the tree -----------------------------------------------------------------------------------------------------


def resource(api: RestApi, resource_id: str) -> StoredResource:
    """Return the resource with this id. Raises ApiError."""
    found = api.resources.get(resource_id)
    if found is None:
        raise unknown_resource()
    return found


def unknown_resource() -> ApiError:
    return not_found("Invalid Resource identifier specified")


def add_resource(api: RestApi, parent_id: str, part: str, resource_id: str) -> RestApi:
    """Add a resource below `parent_id`. Raises ApiError."""
    parent = resource(api, parent_id)
    if len(api.resources) >= MAX_RESOURCES:
        raise limit_exceeded("Maximum number of resources for this API has been reached")
    _check_place(api, parent, part, resource_id)
    added = StoredResource(resource_id, _joined(parent.path, part), parent_id, part)
    return _with(api, added)


def move_resource(api: RestApi, resource_id: str, parent_id: str, part: str) -> RestApi:
    """Move or rename a resource with all resources below it. Raises ApiError."""
    moved = resource(api, resource_id)
    if moved.parent_id is None:
        raise bad_request(f"Root resource cannot update its {'pathPart' if part else 'parentId'}.")
    parent = resource(api, parent_id)
    if parent_id in branch(api, resource_id):
        raise bad_request("Resources cannot be cyclical.")
    _check_place(api, parent, part, resource_id)
    moved = replace(moved, parent_id=parent_id, path_part=part, path=_joined(parent.path, part))
    return _with_branch(_with(api, moved), moved)


def remove_resource(api: RestApi, resource_id: str) -> RestApi:
    """Remove a resource and all resources below it. Raises ApiError."""
    if resource(api, resource_id).parent_id is None:
        raise bad_request("Root resource cannot be deleted.")
    gone = branch(api, resource_id)
    return replace(api, resources={id_: one for id_, one in api.resources.items() if id_ not in gone})


def branch(api: RestApi, resource_id: str) -> set[str]:
    """Return the ids of a resource and of all resources below it."""
    below: dict[str | None, list[str]] = {}
    for one in api.resources.values():
        below.setdefault(one.parent_id, []).append(one.id)
    found, open_ = set(), [resource_id]
    while open_:
        found.add(current := open_.pop())
        open_.extend(below.get(current, ()))
    return found


def _check_place(api: RestApi, parent: StoredResource, part: str, resource_id: str) -> None:
    if not PATH_PART.fullmatch(part):
        raise bad_request(
            "Resource's path part only allow a-zA-Z0-9._-: or a valid greedy path variable and curly braces at the "
            "beginning and the end."
        )
    if part in (".", ".."):  # AWS takes them, but no request reaches them there either
        raise bad_request(f"Invalid path part: {part}")
    if (parent.path_part or "").endswith("+}"):
        raise bad_request(f"Cannot create a child of a resource with a greedy path variable: {parent.path_part}")
    for sibling in [one.path_part or "" for one in _children(api, parent.id) if one.id != resource_id]:
        if sibling == part:
            raise conflict(f"Another resource with the same parent already has this name: {part}")
        if part.startswith("{") and sibling.startswith("{"):
            raise bad_request(
                f"A sibling ({sibling}) of this resource already has a variable path part -- only one is allowed"
            )
    if part.startswith("{") and _variable(part) in map(_variable, parent.path.split("/")):
        raise bad_request(f"Resource's path already has the path variable {part}")


def _variable(segment: str) -> str | None:
    return segment.strip("{+}") if segment.startswith("{") else None


def _children(api: RestApi, parent_id: str) -> Iterator[StoredResource]:
    return (one for one in api.resources.values() if one.parent_id == parent_id)


def _joined(path: str, part: str) -> str:
    return f"{path.removesuffix('/')}/{part}"


def _with(api: RestApi, changed: StoredResource) -> RestApi:
    return replace(api, resources={**api.resources, changed.id: changed})


def _with_branch(api: RestApi, top: StoredResource) -> RestApi:
    """Update the paths of all resources below `top`, which has moved."""
    for child in list(_children(api, top.id)):
        moved = replace(child, path=_joined(top.path, child.path_part or ""))
        api = _with_branch(_with(api, moved), moved)
    return api


# --- methods ------------------------------------------------------------------------------------------------------


def verb_of(name: str) -> HttpMethod:
    """Check the verb of a call. Raises ApiError."""
    if name not in VERBS:
        raise bad_request(f"Invalid HttpMethod specified. Valid options are {','.join(VERBS)}")
    return name  # type: ignore[return-value]  # one of VERBS


def method(api: RestApi, resource_id: str, verb: str) -> StoredMethod:
    """Return the method of a resource. Raises ApiError."""
    found = resource(api, resource_id).methods.get(verb)  # type: ignore[call-overload]  # `verb` may be any text
    if not isinstance(found, StoredMethod):
        raise not_found(NO_METHOD)
    return found


def who_passes(key_required: bool) -> str:
    """Say which callers reach a method whose authorization is not carried out."""
    return "a valid API key passes" if key_required else "every caller passes"


def with_method(api: RestApi, resource_id: str, verb: str, changed: StoredMethod) -> RestApi:
    """Add or replace a method. Raises ApiError."""
    at = resource(api, resource_id)
    return _with(api, replace(at, methods={**at.methods, verb_of(verb): changed}))


def without_method(api: RestApi, resource_id: str, verb: str) -> RestApi:
    """Remove a method. Raises ApiError."""
    method(api, resource_id, verb)
    at = resource(api, resource_id)
    return _with(api, replace(at, methods={name: one for name, one in at.methods.items() if name != verb}))


def method_response(held: StoredMethod, status: str) -> dict[str, Any]:
    """Return the method's response for a status. Raises ApiError."""
    if status not in held.method_responses:
        raise not_found("Invalid Response status code specified")
    return held.method_responses[status]


def integration(held: StoredMethod) -> dict[str, Any]:
    """Return the method's integration. Raises ApiError."""
    if held.method_integration is None:
        raise not_found("Invalid Integration identifier specified")
    return held.method_integration


def integration_defaults(kind: str, resource_id: str) -> dict[str, Any]:
    """Return the members that AWS fills into an integration of this type by default."""
    return {
        "type": kind,
        "passthroughBehavior": "WHEN_NO_MATCH",
        "timeoutInMillis": INTEGRATION_TIMEOUT_MS,
        "cacheNamespace": resource_id,
        "cacheKeyParameters": [],
        **({"connectionType": "INTERNET"} if kind in ("HTTP", "HTTP_PROXY") else {}),
    }


def integration_response(held: StoredMethod, status: str) -> dict[str, Any]:
    """Return the integration's response for a status. Raises ApiError."""
    responses: dict[str, dict[str, Any]] = integration(held).get("integrationResponses", {})
    if status not in responses:
        raise not_found("Invalid Response status code specified")
    return responses[status]


def with_integration_response(held: StoredMethod, status: str, response: dict[str, Any] | None) -> StoredMethod:
    """Set the integration's response for a status, or remove it if `response` is None. Raises ApiError."""
    behind = integration(held)
    others = {code: one for code, one in behind.get("integrationResponses", {}).items() if code != status}
    responses = others if response is None else {**others, status: response}
    return replace(held, method_integration={**behind, "integrationResponses": responses})


# --- gateway responses --------------------------------------------------------------------------------------------


def described_response(api: RestApi, kind: str) -> dict[str, Any]:
    """Return a gateway response as AWS shows it: the API's own, or AWS's default with all its members."""
    own = api.gateway_responses.get(kind)
    inherits = (RESPONSE_STATUSES[kind] or "").startswith("5")
    like = own or (api.gateway_responses.get("DEFAULT_5XX") if inherits else None)
    status = (like.status_code if like else None) or RESPONSE_STATUSES[kind]
    return {
        "responseType": kind,
        **({"statusCode": status} if status else {}),
        "responseParameters": like.response_parameters if like else {},
        "responseTemplates": (like.response_templates if like else {}) or STANDARD_TEMPLATES,
        "defaultResponse": own is None,
    }


def with_response(api: RestApi, kind: str, response: GatewayResponse) -> RestApi:
    """Add or replace a gateway response. Raises ApiError."""
    check_response(response)
    return replace(api, gateway_responses={**api.gateway_responses, kind: response})


def without_response(api: RestApi, kind: str) -> RestApi:
    """Remove a gateway response, so that AWS's default applies again. Raises ApiError."""
    if kind not in api.gateway_responses:
        raise not_found("Gateway response type not defined on api")
    return replace(api, gateway_responses={name: one for name, one in api.gateway_responses.items() if name != kind})


def check_response(response: GatewayResponse) -> None:
    """Raise ApiError for a response that Envoy could not send. Templates may use unknown variables, which are empty."""
    harmless = replace(response, response_templates=dict.fromkeys(response.response_templates, ""))
    stage = Stage(name="stage", gateway_responses={GatewayResponseType.DEFAULT_4XX: harmless})
    _check_api(Api(id="api", stages=(stage,)), "Invalid gateway response specified")


def _check_api(api: Api, saying: str) -> None:
    for problem in problems(Resources(apis=(api,))):
        raise bad_request(f"{saying}: {WITHIN.sub('', problem.address)}: {problem.rule}")


# --- the API ------------------------------------------------------------------------------------------------------


def check_api(api: RestApi) -> None:
    """Raise ApiError for an API that AWS would refuse, or whose deployment no sidecar could serve."""
    if not api.name:
        raise bad_request("No API name specified")
    if api.description == "":
        raise bad_request("Description cannot be an empty string")
    if api.minimum_compression_size is not None and not 0 <= api.minimum_compression_size <= 10_485_760:
        raise bad_request("Invalid minimum compression size, must be between 0 and 10485760")
    for response in api.gateway_responses.values():
        check_response(response)
    served = snapshot(api)
    shown = Api(
        id="api",
        api_key_source=served.api_key_source,
        key_sources=served.key_sources,
        resources=served.resources,
        cost_from=served.cost_from,
    )
    if api.api_key_source == "AUTHORIZER":
        shown = replace(shown, authorizer=served.authorizer)
    _check_api(shown, "Invalid REST API specified")


def snapshot(api: RestApi) -> Deployment:
    """Return the part of an API that a deployment freezes: all that a sidecar needs of it."""
    standard = Deployment()
    return Deployment(
        api_key_source="AUTHORIZER" if api.api_key_source == "AUTHORIZER" else "HEADER",
        key_sources=standard.key_sources if api.key_sources is None else api.key_sources,
        authorizer=api.authorizer or standard.authorizer,
        forward_api_key=api.forward_api_key,
        resources=served_methods(api),
        gateway_responses={
            kind: api.gateway_responses[kind] for kind in GatewayResponseType if kind in api.gateway_responses
        },
        cost_from=api.cost_from,
    )


def served_methods(api: RestApi) -> dict[str, dict[HttpMethod, Method]]:
    """Return the methods of an API by path and verb."""
    return {
        one.path: {verb: Method(held.api_key_required, held.cost, held.cost_from) for verb, held in one.methods.items()}
        for one in api.resources.values()
        if one.methods
    }


def deployed(api: RestApi) -> Deployment:
    """Return the snapshot for a new deployment. Raises ApiError without methods, or if one has no integration."""
    methods = [held for one in api.resources.values() for held in one.methods.values()]
    if not methods:
        raise bad_request("The REST API doesn't contain any methods")
    if any(held.method_integration is None for held in methods):
        raise bad_request("No integration defined for method")
    return snapshot(api)


def authorizations(api: RestApi) -> dict[str, str]:
    """Return the authorization type of each method that has one. The keys are methods such as `GET /pets`."""
    return {
        f"{verb} {one.path}": held.authorization_type
        for one in sorted(api.resources.values(), key=lambda one: one.path)
        for verb, held in one.methods.items()
        if held.authorization_type != "NONE"
    }


# --- stages -------------------------------------------------------------------------------------------------------


def check_stage(stage: StoredStage) -> None:
    """Raise ApiError for a stage whose name or variables AWS would refuse."""
    if not STAGE_NAME.fullmatch(stage.stage_name):
        raise bad_request("Stage name only allows a-zA-Z0-9_-")
    check_variables(stage.variables)


def check_variables(variables: Mapping[str, str]) -> None:
    if len(variables) > 100:
        raise limit_exceeded("Maximum number of stage variables for this stage has been reached")
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):
            raise bad_request("Stage variable name only allows alphanumeric characters and underscores")
        if not re.fullmatch(r"[A-Za-z0-9\-._~:/?#&=,]{0,512}", value):
            raise bad_request("Stage variable values only allow alphanumeric characters and -._~:/?#&=,")


Settings = dict[str, dict[str, Any]]


def named_method(key: str) -> tuple[str, str] | None:
    """Return the path and the verb that a key of settings names; None if it names no method.

    An older release may have stored such a key.
    """
    try:
        return method_of(key)
    except ValueError:
        return None


def _spelling(settings: Settings, key: str) -> str | None:
    """Return the spelling in `settings` of the method that `key` names; None without an entry, or for no method."""
    wanted = named_method(key)
    return next((held for held in settings if wanted and named_method(held) == wanted), None)


def with_setting(settings: Settings, key: str, name: str, value: Any) -> Settings:
    """Change one value of a stage's settings. A new entry begins as a copy of `*/*`, and does not follow it later.

    The entry takes the spelling of `key`, because Terraform looks it up by the spelling that it wrote last.
    """
    held = _spelling(settings, key)
    before = settings[held] if held else settings.get(_spelling(settings, "*/*") or "", DEFAULT_SETTING)
    rest = {other: entry for other, entry in settings.items() if other != held}
    return {**rest, key: {**before, name: value}}


def no_setting(key: str) -> ApiError:
    """Word the refusal to remove a missing entry; the blank at the end is AWS's."""
    return bad_request(f"Cannot remove method setting {key} because there is no method setting for this method ")


def without_setting(settings: Settings, key: str, name: str | None = None) -> Settings:
    """Remove an entry of a stage's settings, or set its value `name` back to that of `*/*`. Raises ApiError."""
    held = _spelling(settings, key)
    if held is None:
        raise no_setting(key)
    rest = {other: entry for other, entry in settings.items() if other != held}
    if name is None:
        return rest
    standard = {**DEFAULT_SETTING, **rest.get(_spelling(rest, "*/*") or "", {})}
    kept = {other: value for other, value in settings[held].items() if other != name}
    return {**rest, held: {**kept, **({name: standard[name]} if name in standard else {})}}

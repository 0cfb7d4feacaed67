"""Models and request validators of an API: stored and shown as AWS does. They validate no request here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request, conflict, limit_exceeded, not_found
from authz.core.bounds import MAX_MODELS, MAX_VALIDATORS
from authz.core.stored import RequestValidator, RestApi, StoredMethod, StoredModel

NAME: Final = re.compile(r"[A-Za-z0-9]+", re.ASCII)
SCHEMA_CHARACTERS: Final = 400_000  # of one model, as at AWS
SCHEMAS_CHARACTERS: Final = 4_000_000  # of all models together: an API is one item of the store
REFERENCE: Final = re.compile(r"https://apigateway\.amazonaws\.com/restapis/[^/]+/models/([A-Za-z0-9]+)")
DRAFT: Final = "http://json-schema.org/draft-04/schema#"

# The models that AWS gives every new API, with AWS's texts.
STANDARD: Final = {
    "Empty": StoredModel(
        id="empty0",
        name="Empty",
        content_type="application/json",
        description="This is a default empty schema model",
        schema=f'{{\n  "$schema": "{DRAFT}",\n  "title" : "Empty Schema",\n  "type" : "object"\n}}',
    ),
    "Error": StoredModel(
        id="error0",
        name="Error",
        content_type="application/json",
        description="This is a default error schema model",
        schema=(
            f'{{\n  "$schema" : "{DRAFT}",\n  "title" : "Error Schema",\n  "type" : "object",\n'
            '  "properties" : {\n    "message" : { "type" : "string" }\n  }\n}'
        ),
    ),
}


# --- models -------------------------------------------------------------------------------------------------------


def models(api: RestApi) -> Mapping[str, StoredModel]:
    """Return the models of an API by name."""
    return STANDARD if api.models is None else api.models


def model(api: RestApi, name: str) -> StoredModel:
    """Return one model of an API. Raises ApiError."""
    found = models(api).get(name)
    if found is None:
        raise unknown_model(name)
    return found


def unknown_model(name: str) -> ApiError:
    return not_found(f"Invalid model name specified: {name}")


def add_model(api: RestApi, made: StoredModel) -> RestApi:
    """Add a model. Raises ApiError."""
    if not made.name:
        raise bad_request("Model name must be non-empty")
    if not NAME.fullmatch(made.name):
        raise bad_request(f"Model name must be alphanumeric: {made.name}")
    if made.name in models(api):
        raise conflict("Model name already exists for this REST API")
    return with_model(api, made)


def with_model(api: RestApi, changed: StoredModel) -> RestApi:
    """Add a model, or replace the one of its name. Raises ApiError."""
    if not changed.schema.strip():
        raise bad_request("Model schema must have at least 1 property or array items defined")
    if len(changed.schema) > SCHEMA_CHARACTERS:
        raise bad_request(f"Model schema must not exceed {SCHEMA_CHARACTERS} characters")
    if "json" in changed.content_type and not isinstance(_decoded(changed.schema), dict):
        cause = "Invalid model schema specified"
        raise bad_request(f"Invalid model specified: Validation Result: warnings : [], errors : [{cause}]")
    return with_models(api, {**models(api), changed.name: changed})


def with_models(api: RestApi, held: Mapping[str, StoredModel]) -> RestApi:
    """Replace all models of an API. Raises ApiError."""
    if len(held) > MAX_MODELS:
        raise limit_exceeded("Maximum number of models for this API has been reached")
    if sum(len(one.schema) for one in held.values()) > SCHEMAS_CHARACTERS:
        raise limit_exceeded(f"The models of an API must not exceed {SCHEMAS_CHARACTERS} characters together")
    return replace(api, models=dict(held))


def _decoded(schema: str) -> Any:
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def without_model(api: RestApi, name: str) -> RestApi:
    """Remove a model. Raises ApiError if a method or another model refers to it."""
    model(api, name)
    for place in _users_of_model(api, name):
        raise conflict(f"Cannot delete model '{name}', is referenced in {place}")
    return replace(api, models={other: one for other, one in models(api).items() if other != name})


def _users_of_model(api: RestApi, name: str) -> Iterator[str]:
    for place, method in _methods(api):
        if name in method.request_models.values():
            yield f"method request: {place}"
        for status, response in method.method_responses.items():
            if name in (response.get("responseModels") or {}).values():
                yield f"method response: {place}/{status}"
    for other in models(api).values():
        if other.name != name and name in REFERENCE.findall(other.schema):
            yield f"model: {other.name}"


def _methods(api: RestApi) -> Iterator[tuple[str, StoredMethod]]:
    """Yield each method with its place as AWS spells it, such as `//ANY` on the root; the last path comes first."""
    for one in sorted(api.resources.values(), key=lambda one: one.path, reverse=True):
        for verb, method in one.methods.items():
            yield f"{one.path}/{verb}", method


def flattened(api: RestApi, name: str) -> str:
    """Return a model's schema with the models that it refers to, directly or not, among its definitions."""
    definitions: dict[str, Any] = {}
    open_ = REFERENCE.findall(model(api, name).schema)
    while open_:
        each = open_.pop()
        if each in models(api) and each not in definitions:
            definitions[each] = _decoded(_localised(models(api)[each].schema))
            open_ += REFERENCE.findall(models(api)[each].schema)
    schema = _decoded(_localised(model(api, name).schema))
    if not definitions or not isinstance(schema, dict):
        return model(api, name).schema
    own = schema.get("definitions")
    return msgspec.json.encode(
        {**schema, "definitions": {**(own if isinstance(own, dict) else {}), **definitions}}
    ).decode()


def _localised(schema: str) -> str:
    return REFERENCE.sub(r"#/definitions/\1", schema)


def check_uses(api: RestApi, method: StoredMethod, before: StoredMethod | None = None) -> None:
    """Raise ApiError if a method names an unknown validator or model; those that `before` names are not checked."""
    validator = method.request_validator_id
    if validator and validator not in api.request_validators and validator != (before and before.request_validator_id):
        raise bad_request("Invalid Request Validator identifier specified")
    held = set(before.request_models.values()) if before else set()
    check_models(api, [name for name in method.request_models.values() if name not in held])


def check_models(api: RestApi, names: Iterable[str]) -> None:
    """Raise ApiError for the first name that no model has."""
    for name in names:
        if name not in models(api):
            raise bad_request(f"Invalid model identifier specified: {name}")


# --- request validators -------------------------------------------------------------------------------------------


def validator(api: RestApi, validator_id: str) -> RequestValidator:
    """Return one request validator of an API. Raises ApiError."""
    found = api.request_validators.get(validator_id)
    if found is None:
        raise unknown_validator()
    return found


def unknown_validator() -> ApiError:
    return not_found("Invalid Request Validator identifier specified")


def with_validator(api: RestApi, changed: RequestValidator) -> RestApi:
    """Add a validator, or replace the one of its id. Raises ApiError."""
    if not changed.name.strip():
        raise bad_request("Request Validator name cannot be blank")
    held = {**api.request_validators, changed.id: changed}
    if len(held) > MAX_VALIDATORS:
        raise limit_exceeded("Maximum number of request validators for this API has been reached")
    return replace(api, request_validators=held)


def without_validator(api: RestApi, validator_id: str) -> RestApi:
    """Remove a validator. Raises ApiError if a method names it."""
    validator(api, validator_id)
    for place, method in _methods(api):
        if method.request_validator_id == validator_id:
            raise conflict(f"Cannot delete request validator '{validator_id}', is referenced in method: {place}")
    kept = {other: one for other, one in api.request_validators.items() if other != validator_id}
    return replace(api, request_validators=kept)

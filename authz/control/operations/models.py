"""The operations on an API's models and request validators. They are stored, and validate no request here."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from authz.aws import models as rules
from authz.aws.errors import bad_request
from authz.aws.patch import PatchRule, Type, invalid_path
from authz.control.call import Answer, Call, Operation
from authz.control.operations.ids import new_id
from authz.control.operations.restapis import (
    api_of,
    edit_api,
    given,
    listed,
    operations_of,
    page_of,
    patched,
    unknown_api_as,
)
from authz.core.stored import RequestValidator, RestApi, StoredModel

NOT_VALIDATED: Final = "is stored and not carried out: requests are not validated here"


# --- models -------------------------------------------------------------------------------------------------------


class NewModel(Struct, frozen=True, rename="camel"):
    """The body of CreateModel."""

    name: str
    content_type: str
    description: str | None = None
    schema: str | None = None


def _shown(held: StoredModel, schema: str | None = None) -> dict[str, Any]:
    return {
        "id": held.id,
        "name": held.name,
        "schema": schema or held.schema,
        "contentType": held.content_type,
        **given(description=held.description),
    }


async def create_model(call: Call) -> Answer:
    body = call.read(NewModel)
    made = StoredModel(new_id(6), body.name, body.content_type, body.schema or "", body.description or None)
    call.warn(f"model {body.name} {NOT_VALIDATED}")
    await edit_api(call, lambda api: rules.add_model(api, made))
    return Answer(201, _shown(made))


async def get_model(call: Call) -> Answer:
    name = call.params["model_name"]
    with unknown_api_as(rules.unknown_model(name)):
        api = await api_of(call, call.context.store)
    held = rules.model(api, name)
    return Answer(body=_shown(held, rules.flattened(api, name) if call.flag("flatten") else None))


async def get_models(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    page, position = page_of(rules.models(api).values(), lambda one: one.name, call)
    return listed(map(_shown, page), position)


MODEL: Final = (PatchRule(("replace",), "/description"), PatchRule(("replace",), "/schema"))


async def update_model(call: Call) -> Answer:
    name, operations = call.params["model_name"], operations_of(call)

    def change(api: RestApi) -> RestApi:
        return rules.with_model(api, patched(rules.model(api, name), MODEL, operations, invalid_path))

    call.warn(f"model {name} {NOT_VALIDATED}")
    with unknown_api_as(rules.unknown_model(name)):
        api = await edit_api(call, change)
    return Answer(body=_shown(rules.model(api, name)))


async def delete_model(call: Call) -> Answer:
    name = call.params["model_name"]
    with unknown_api_as(rules.unknown_model(name)):
        await edit_api(call, lambda api: rules.without_model(api, name))
    return Answer(202)


# --- request validators -------------------------------------------------------------------------------------------


class NewValidator(Struct, frozen=True, rename="camel"):
    """The body of CreateRequestValidator."""

    name: str = ""
    validate_request_body: bool = False
    validate_request_parameters: bool = False


def _described(held: RequestValidator) -> dict[str, Any]:
    return {
        "id": held.id,
        "name": held.name,
        "validateRequestBody": held.validate_request_body,
        "validateRequestParameters": held.validate_request_parameters,
    }


def _warn_of_validator(call: Call, held: RequestValidator) -> None:
    if held.validate_request_body or held.validate_request_parameters:
        call.warn(f"request validator {held.name} {NOT_VALIDATED}")


async def create_validator(call: Call) -> Answer:
    body = call.read(NewValidator)
    made = RequestValidator(new_id(6), body.name, body.validate_request_body, body.validate_request_parameters)
    _warn_of_validator(call, made)
    with unknown_api_as(bad_request("Invalid REST API identifier specified")):
        await edit_api(call, lambda api: rules.with_validator(api, made))
    return Answer(201, _described(made))


async def get_validator(call: Call) -> Answer:
    with unknown_api_as(rules.unknown_validator()):
        api = await api_of(call, call.context.store)
    return Answer(body=_described(rules.validator(api, call.params["requestvalidator_id"])))


async def get_validators(call: Call) -> Answer:
    api = await api_of(call, call.context.store)
    page, position = page_of(api.request_validators.values(), lambda one: one.id, call)
    return listed(map(_described, page), position)


VALIDATOR: Final = (
    PatchRule(("replace",), "/name"),
    PatchRule(("replace",), "/validateRequestParameters", Type.BOOL),
    PatchRule(("replace",), "/validateRequestBody", Type.BOOL),
)


async def update_validator(call: Call) -> Answer:
    wanted, operations = call.params["requestvalidator_id"], operations_of(call)

    def change(api: RestApi) -> RestApi:
        changed = patched(rules.validator(api, wanted), VALIDATOR, operations, invalid_path)
        _warn_of_validator(call, changed)
        return rules.with_validator(api, changed)

    with unknown_api_as(rules.unknown_validator()):
        api = await edit_api(call, change)
    return Answer(body=_described(rules.validator(api, wanted)))


async def delete_validator(call: Call) -> Answer:
    wanted = call.params["requestvalidator_id"]
    with unknown_api_as(rules.unknown_validator()):
        await edit_api(call, lambda api: rules.without_validator(api, wanted))
    return Answer(202)


MODELS: Final = "/restapis/{restapi_id}/models"
VALIDATORS: Final = "/restapis/{restapi_id}/requestvalidators"
ONE_MODEL: Final = f"{MODELS}/{{model_name}}"
ONE_VALIDATOR: Final = f"{VALIDATORS}/{{requestvalidator_id}}"

OPERATIONS: Final = (
    Operation("CreateModel", "POST", MODELS, create_model, writes=True),
    Operation("GetModels", "GET", MODELS, get_models, writes=False),
    Operation("GetModel", "GET", ONE_MODEL, get_model, writes=False),
    Operation("UpdateModel", "PATCH", ONE_MODEL, update_model, writes=True),
    Operation("DeleteModel", "DELETE", ONE_MODEL, delete_model, writes=True),
    Operation("CreateRequestValidator", "POST", VALIDATORS, create_validator, writes=True),
    Operation("GetRequestValidators", "GET", VALIDATORS, get_validators, writes=False),
    Operation("GetRequestValidator", "GET", ONE_VALIDATOR, get_validator, writes=False),
    Operation("UpdateRequestValidator", "PATCH", ONE_VALIDATOR, update_validator, writes=True),
    Operation("DeleteRequestValidator", "DELETE", ONE_VALIDATOR, delete_validator, writes=True),
)

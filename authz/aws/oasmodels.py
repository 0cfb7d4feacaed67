"""The schemas of an OpenAPI document as models of an API, and its request validators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from authz.aws import models as rules
from authz.aws.errors import ApiError
from authz.aws.oasdocument import EXTENSION, Reader, Weight, mapping, quoted, text
from authz.core.stored import RequestValidator, RestApi, StoredModel

LOCAL: Final = re.compile(r'"#/(?:components/schemas|definitions)/([A-Za-z0-9]+)"')
VALIDATORS: Final = f"{EXTENSION}request-validators"
VALIDATOR: Final = f"{EXTENSION}request-validator"


def with_models(api: RestApi, reader: Reader, new_id: Callable[[], str]) -> RestApi:
    """The API with a model for each schema, in the place of one of the same name. Raises ApiError."""
    document = reader.document
    given = document.get("definitions") if reader.is_swagger else mapping(document.get("components")).get("schemas")
    held = dict(rules.models(api))
    for name, schema in mapping(given).items():
        reader.step()
        if not rules.NAME.fullmatch(str(name)) or not isinstance(schema, dict):
            cause = "it is no mapping" if rules.NAME.fullmatch(str(name)) else "Model name must be alphanumeric"
            reader.notes.add(Weight.LEFT_OUT, f"The model {quoted(name)} is left out: {cause}")
            continue
        known = held.get(str(name))
        made = _model(api.id, str(name), schema, known.id if known else new_id())
        reader.store(len(made.schema))
        held[made.name] = made
    return rules.with_models(api, held) if mapping(given) else api


def _model(api_id: str, name: str, schema: Any, model_id: str) -> StoredModel:
    """A model as AWS makes it: what its schema refers to in the document is named by that model's address."""
    address = rf'"https://apigateway.amazonaws.com/restapis/{api_id}/models/\1"'
    written = LOCAL.sub(address, msgspec.json.encode(schema).decode())
    return StoredModel(model_id, name, "application/json", written, text(schema.get("description")) or None)


def with_validators(api: RestApi, reader: Reader, new_id: Callable[[], str]) -> RestApi:
    """The API with the document's request validators; one of a name that is there keeps its id."""
    ids = {one.name: one.id for one in api.request_validators.values()}
    for name, one in mapping(reader.document.get(VALIDATORS)).items():
        reader.step()
        checks = [mapping(one).get(member) is True for member in ("validateRequestBody", "validateRequestParameters")]
        made = RequestValidator(ids.get(str(name)) or new_id(), str(name), *checks)
        try:
            api = rules.with_validator(api, made)
        except ApiError as refused:
            reader.notes.add(Weight.LEFT_OUT, f"The request validator {quoted(name)}: {refused.message}")
    return api


def validator_of(api: RestApi, operation: Any, reader: Reader, place: str) -> str | None:
    """The id of the validator that an operation names, or else the document."""
    name = text(mapping(operation).get(VALIDATOR)) or text(reader.document.get(VALIDATOR))
    found = next((one.id for one in api.request_validators.values() if one.name == name), None)
    if name and found is None:
        reader.notes.add(Weight.LEFT_OUT, f"The request validator {quoted(name)} is not defined", place)
    return found

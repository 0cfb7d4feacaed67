"""Imports the schemas of an OpenAPI document as models of an API, and its request validators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from authz.aws import models as rules
from authz.aws.decoded import mapping, text
from authz.aws.errors import ApiError
from authz.aws.oasdocument import EXTENSION, DocumentReader, Weight, quoted
from authz.core.stored import RequestValidator, RestApi, StoredModel

LOCAL: Final = re.compile(r'"#/(?:components/schemas|definitions)/([A-Za-z0-9]+)"')
VALIDATORS: Final = f"{EXTENSION}request-validators"
VALIDATOR: Final = f"{EXTENSION}request-validator"


def with_models(api: RestApi, reader: DocumentReader, new_id: Callable[[], str]) -> RestApi:
    """Add a model for each schema, or replace the one of its name. Raises ApiError.

    A reference to another schema becomes the address of its model, as at AWS.
    """
    document = reader.document
    given = document.get("definitions") if reader.is_swagger else mapping(document.get("components")).get("schemas")
    held = dict(rules.models(api))
    address = rf'"https://apigateway.amazonaws.com/restapis/{api.id}/models/\1"'
    for name, schema in mapping(given).items():
        reader.step()
        if not rules.NAME.fullmatch(str(name)) or not isinstance(schema, dict):
            cause = "it is no mapping" if rules.NAME.fullmatch(str(name)) else "Model name must be alphanumeric"
            reader.notes.add(Weight.LEFT_OUT, f"The model {quoted(name)} is left out: {cause}")
            continue
        known = held.get(str(name))
        written = LOCAL.sub(address, msgspec.json.encode(schema).decode())
        model_id = known.id if known else new_id()
        description = text(schema.get("description")) or None
        reader.store(len(written))
        held[str(name)] = StoredModel(model_id, str(name), "application/json", written, description)
    return rules.with_models(api, held) if mapping(given) else api


def with_validators(api: RestApi, reader: DocumentReader, new_id: Callable[[], str]) -> RestApi:
    """Add the document's request validators; one whose name exists already keeps its id."""
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


def validator_of(api: RestApi, operation: Any, reader: DocumentReader, place: str) -> str | None:
    """Return the id of the validator that the operation or else the document names; None if neither names one."""
    name = text(mapping(operation).get(VALIDATOR)) or text(reader.document.get(VALIDATOR))
    found = next((one.id for one in api.request_validators.values() if one.name == name), None)
    if name and found is None:
        reader.notes.add(Weight.LEFT_OUT, f"The request validator {quoted(name)} is not defined", place)
    return found

"""Exports an API as a stage serves it, as an OpenAPI document of version 2 or 3. The reverse of `openapi.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from authz.aws.models import REFERENCE, models
from authz.aws.oasdocument import EXTENSION
from authz.aws.oasintegrations import INTEGRATION
from authz.aws.oasmethods import PLACES
from authz.aws.openapi import VERBS
from authz.aws.restapis import integration_defaults
from authz.core.resources import Deployment, HttpMethod
from authz.core.stored import RestApi, StoredMethod, StoredModel, StoredResource
from authz.core.zones import SECOND_US, iso_time

ExportType = Literal["oas30", "swagger"]
Extensions = Literal["", "integrations", "authorizers", "apigateway"]

PARAMETER: Final = re.compile(r"method\.request\.(path|querystring|header)\.(.+)", re.DOTALL)
HEADER: Final = "method.response.header."
PLACE_OF: Final = {ours: theirs for theirs, ours in PLACES.items()}
MEMBER_OF: Final = {verb: member for member, verb in VERBS.items()}
KEY: Final = "api_key"
# A type of authorization: the name of its security scheme, and AWS's word for it there.
SCHEMES: Final = {
    "AWS_IAM": ("sigv4", "awsSigv4"),
    "CUSTOM": ("authorizer", "custom"),
    "COGNITO_USER_POOLS": ("cognito", "cognito_user_pools"),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """The document, and a warning for each fact about the API that it cannot express."""

    document: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Exporter:
    """Writes the document of one stage.

    `served` has the methods and their key requirements. Parameters, responses, models and integrations are those that
    `api` has now, because a deployment does not store them.
    """

    api: RestApi
    served: Deployment
    stage: str
    form: ExportType = "oas30"
    extensions: Extensions = "apigateway"

    def exported(self) -> Exported:
        """Return the document. An import of it, with all extensions, makes this API again."""
        paths = {
            path: {
                member: self._operation(path, verb, verbs[verb].api_key_required)
                for verb, member in MEMBER_OF.items()
                if verb in verbs
            }
            for path, verbs in sorted(self.served.resources.items())
        }
        return Exported(
            {
                **self._head(),
                "paths": paths,
                **self._components(paths),
                **(self._root_extensions() if self.extensions == "apigateway" else {}),
            },
            tuple(self._warnings()),
        )

    @property
    def _is_swagger(self) -> bool:
        return self.form == "swagger"

    def _head(self) -> dict[str, Any]:
        api = self.api
        info = {
            "title": api.name,
            **({"description": api.description} if api.description else {}),
            "version": api.version or iso_time(api.created_date * SECOND_US),
        }
        if self._is_swagger:
            return {"swagger": "2.0", "info": info, "basePath": f"/{self.stage}", "schemes": ["https"]}
        return {"openapi": "3.0.1", "info": info, "servers": [{"url": f"/{self.stage}"}]}

    def _warnings(self) -> Iterator[str]:
        differing = [
            f"{verb} {path}"
            for path, verbs in sorted(self.served.resources.items())
            for verb in verbs
            if (held := self._stored(path, verb)) is None or held.api_key_required != verbs[verb].api_key_required
        ]
        if differing:
            yield f"edited since the deployment, and exported as it is served: {', '.join(differing)}"
        if self.api.key_sources is not None or self.api.authorizer is not None or self.api.forward_api_key:
            yield "OpenAPI has no words for keySources, authorizer and forwardApiKey: left out"

    # --- methods --------------------------------------------------------------------------------------------------

    @cached_property
    def _resources(self) -> Mapping[str, StoredResource]:
        return {one.path: one for one in self.api.resources.values()}

    def _stored(self, path: str, verb: HttpMethod) -> StoredMethod | None:
        found = self._resources.get(path)
        return found.methods.get(verb) if found else None

    def _operation(self, path: str, verb: HttpMethod, key_required: bool) -> dict[str, Any]:
        held = self._stored(path, verb) or StoredMethod()
        members: dict[str, Any] = {"operationId": held.operation_name}
        parameters = list(self._parameters(held))
        if self._is_swagger:  # it has one model of a body for all media types
            produced = (kind for one in held.method_responses.values() for kind in one.get("responseModels", {}))
            members |= {"consumes": list(held.request_models), "produces": list(dict.fromkeys(produced))}
            parameters += [
                {"in": "body", "name": name, "required": True, "schema": self._reference(name)}
                for name in list(held.request_models.values())[:1]
            ]
        members["parameters"] = parameters
        if held.request_models and not self._is_swagger:
            members["requestBody"] = {"content": self._content(held.request_models), "required": True}
        scheme = SCHEMES.get(held.authorization_type)
        security = {scheme[0]: list(held.authorization_scopes)} if scheme else {}
        security |= {KEY: []} if key_required else {}  # one requirement: a caller needs all of its schemes
        return {
            **{name: value for name, value in members.items() if value},
            "responses": {status: self._response(status, one) for status, one in sorted(held.method_responses.items())},
            **({"security": [security]} if security else {}),
            **self._method_extensions(path, held),
        }

    def _parameters(self, held: StoredMethod) -> Iterator[dict[str, Any]]:
        for named, required in sorted(held.request_parameters.items()):
            if found := PARAMETER.fullmatch(named):
                kind = {"type": "string"} if self._is_swagger else {"schema": {"type": "string"}}
                yield {
                    "name": found[2],
                    "in": PLACE_OF[found[1]],
                    **({"required": True} if required or found[1] == "path" else {}),
                    **kind,
                }

    def _response(self, status: str, one: Mapping[str, Any]) -> dict[str, Any]:
        named: Mapping[str, str] = one.get("responseModels", {})
        names = [name.removeprefix(HEADER) for name in one.get("responseParameters", {})]
        kind = {"type": "string"} if self._is_swagger else {"schema": {"type": "string"}}
        if self._is_swagger:
            model = {"schema": self._reference(next(iter(named.values())))} if named else {}
        else:
            model = {"content": self._content(named)} if named else {}
        return {
            "description": f"{status} response",
            **({"headers": dict.fromkeys(names, kind)} if names else {}),
            **model,
        }

    def _content(self, named: Mapping[str, str]) -> dict[str, Any]:
        return {kind: {"schema": self._reference(name)} for kind, name in named.items()}

    def _reference(self, name: str) -> dict[str, str]:
        return {"$ref": f"{self._models_at}{name}"}

    @property
    def _models_at(self) -> str:
        return "#/definitions/" if self._is_swagger else "#/components/schemas/"

    # --- extensions -----------------------------------------------------------------------------------------------

    def _method_extensions(self, path: str, held: StoredMethod) -> dict[str, Any]:
        validator = self.api.request_validators.get(held.request_validator_id or "")
        resource = self._resources.get(path)
        given = held.method_integration if self.extensions in ("integrations", "apigateway") else None
        return {
            **(
                {f"{EXTENSION}request-validator": validator.name}
                if validator and self.extensions == "apigateway"
                else {}
            ),
            **({f"{EXTENSION}integration": _integration(given, resource.id if resource else "")} if given else {}),
        }

    def _root_extensions(self) -> dict[str, Any]:
        api = self.api
        endpoint = {
            **({"disableExecuteApiEndpoint": True} if api.disable_execute_api_endpoint else {}),
            **({"vpcEndpointIds": found} if (found := api.endpoint_configuration.get("vpcEndpointIds")) else {}),
        }
        served = {kind.value: response for kind, response in self.served.gateway_responses.items()}
        responses = {kind: msgspec.to_builtins(one) for kind, one in {**api.gateway_responses, **served}.items()}
        validators = {
            one.name: {
                "validateRequestBody": one.validate_request_body,
                "validateRequestParameters": one.validate_request_parameters,
            }
            for one in api.request_validators.values()
        }
        found = {
            "api-key-source": self.served.api_key_source if self.served.api_key_source != "HEADER" else None,
            "binary-media-types": list(api.binary_media_types),
            "minimum-compression-size": api.minimum_compression_size,
            "endpoint-configuration": endpoint,
            "gateway-responses": responses,
            "request-validators": validators,
            "policy": msgspec.json.decode(api.policy) if api.policy else None,
        }
        return {f"{EXTENSION}{name}": value for name, value in found.items() if value not in (None, [], {})}

    # --- components -----------------------------------------------------------------------------------------------

    def _components(self, paths: Mapping[str, Any]) -> dict[str, Any]:
        text = msgspec.json.encode(paths).decode()
        schemas = {
            one.name: self._schema(one)
            for one in models(self.api).values()
            if self.api.models is not None or f'"{self._models_at}{one.name}"' in text
        }
        schemes = self._schemes(text)
        if self._is_swagger:
            found = {"securityDefinitions": schemes, "definitions": schemas}
            return {name: value for name, value in found.items() if value}
        found = {name: value for name, value in {"schemas": schemas, "securitySchemes": schemes}.items() if value}
        return {"components": found} if found else {}

    def _schema(self, model: StoredModel) -> dict[str, Any]:
        """Return a model's schema with references within the document; {} for one that is no JSON object."""
        try:
            text = REFERENCE.sub(rf"{self._models_at}\1", model.schema)
            found = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError):
            return {}
        described = {"description": model.description} if model.description else {}
        return {**found, **described} if isinstance(found, dict) else {}

    def _schemes(self, text: str) -> dict[str, Any]:
        """Return the security schemes that a method names."""
        key = {"type": "apiKey", "name": "x-api-key", "in": "header"}
        found: dict[str, Any] = {KEY: key} if f'"{KEY}":[' in text else {}
        for name, kind in SCHEMES.values():
            if f'"{name}":[' in text:
                authorizer = kind if kind == "cognito_user_pools" else "token"
                is_ours = self.extensions in ("authorizers", "apigateway") and kind != "awsSigv4"
                found[name] = {
                    **key,
                    "name": "Authorization",
                    f"{EXTENSION}authtype": kind,
                    **({f"{EXTENSION}authorizer": {"type": authorizer}} if is_ours else {}),
                }
        return found


def _integration(held: Mapping[str, Any], resource_id: str) -> dict[str, Any]:
    """Return the extension of a method's integration, without the members that an import fills in."""
    kind = str(held.get("type", "MOCK"))
    filled = integration_defaults(kind, resource_id)
    shown = {name: held[name] for name in INTEGRATION if name in held and held[name] != filled.get(name)}
    responses = {
        one.get("selectionPattern", "default"): {
            name: value for name, value in one.items() if name != "selectionPattern"
        }
        for one in held.get("integrationResponses", {}).values()
    }
    return {"type": kind.lower(), **shown, **({"responses": responses} if responses else {})}

"""An API as a stage serves it, written as an OpenAPI document of version 2 or 3. The reverse of `openapi.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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

ExportType = Literal["oas30", "swagger"]
Extensions = Literal["", "integrations", "authorizers", "apigateway"]

PARAMETER: Final = re.compile(r"method\.request\.(path|querystring|header)\.(.+)", re.DOTALL)
HEADER: Final = "method.response.header."
PLACE_OF: Final = {ours: theirs for theirs, ours in PLACES.items()}
MEMBER_OF: Final = {verb: member for member, verb in VERBS.items()}
KEY: Final = "api_key"
# A type of authorization: the name of its security scheme, and what AWS calls it there.
SCHEMES: Final = {
    "AWS_IAM": ("sigv4", "awsSigv4"),
    "CUSTOM": ("authorizer", "custom"),
    "COGNITO_USER_POOLS": ("cognito", "cognito_user_pools"),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """The document, and what it can't say of the API."""

    document: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the document of one stage.

    `served` says which methods there are and who may call them. Parameters, responses, models and integrations are
    those that `api` has now: a deployment does not keep them.
    """

    api: RestApi
    served: Deployment
    stage: str
    form: ExportType = "oas30"
    extensions: Extensions = "apigateway"

    def exported(self) -> Exported:
        """The document. An import of it, with all extensions, makes this API again."""
        paths = {path: self._item(path, verbs) for path, verbs in sorted(self.served.resources.items())}
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

    @property
    def _has_authorizers(self) -> bool:
        return self.extensions in ("authorizers", "apigateway")

    @property
    def _has_integrations(self) -> bool:
        return self.extensions in ("integrations", "apigateway")

    def _head(self) -> dict[str, Any]:
        api = self.api
        info = {
            "title": api.name,
            **({"description": api.description} if api.description else {}),
            "version": api.version or f"{datetime.fromtimestamp(api.created_date, UTC):%Y-%m-%dT%H:%M:%SZ}",
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

    def _item(self, path: str, verbs: Mapping[HttpMethod, Any]) -> dict[str, Any]:
        return {
            MEMBER_OF[verb]: self._operation(path, self._stored(path, verb), verbs[verb].api_key_required)
            for verb in MEMBER_OF
            if verb in verbs
        }

    def _stored(self, path: str, verb: HttpMethod) -> StoredMethod | None:
        found = self._resource(path)
        return found.methods.get(verb) if found else None

    def _resource(self, path: str) -> StoredResource | None:
        return next((one for one in self.api.resources.values() if one.path == path), None)

    def _operation(self, path: str, held: StoredMethod | None, key_required: bool) -> dict[str, Any]:
        held = held or StoredMethod()
        parameters = [*self._parameters(held), *(self._body_parameters(held) if self._is_swagger else ())]
        security = self._security(held, key_required)
        consumes = list(held.request_models) if self._is_swagger else []
        produces = self._produced(held) if self._is_swagger else []
        return {
            **({"operationId": held.operation_name} if held.operation_name else {}),
            **({"consumes": consumes} if consumes else {}),
            **({"produces": produces} if produces else {}),
            **({"parameters": parameters} if parameters else {}),
            **self._request_body(held),
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

    def _body_parameters(self, held: StoredMethod) -> Iterator[dict[str, Any]]:
        """Swagger's way to name the model of a body: one for all media types."""
        for name in list(held.request_models.values())[:1]:
            yield {"in": "body", "name": name, "required": True, "schema": self._reference(name)}

    def _request_body(self, held: StoredMethod) -> dict[str, Any]:
        if self._is_swagger or not held.request_models:
            return {}
        return {"requestBody": {"content": self._content(held.request_models), "required": True}}

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

    def _produced(self, held: StoredMethod) -> list[str]:
        return list(
            dict.fromkeys(kind for one in held.method_responses.values() for kind in one.get("responseModels", {}))
        )

    def _content(self, named: Mapping[str, str]) -> dict[str, Any]:
        return {kind: {"schema": self._reference(name)} for kind, name in named.items()}

    def _reference(self, name: str) -> dict[str, str]:
        return {"$ref": f"{self._models_at}{name}"}

    @property
    def _models_at(self) -> str:
        return "#/definitions/" if self._is_swagger else "#/components/schemas/"

    def _security(self, held: StoredMethod, key_required: bool) -> dict[str, list[str]]:
        """The requirement that names each scheme at once: a caller needs all of them."""
        scheme = SCHEMES.get(held.authorization_type)
        return {
            **({scheme[0]: list(held.authorization_scopes)} if scheme else {}),
            **({KEY: []} if key_required else {}),
        }

    # --- extensions -----------------------------------------------------------------------------------------------

    def _method_extensions(self, path: str, held: StoredMethod) -> dict[str, Any]:
        validator = self.api.request_validators.get(held.request_validator_id or "")
        resource = self._resource(path)
        given = held.method_integration if self._has_integrations else None
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
        """A model's schema, with references to other models as the document has them; any value where it isn't JSON."""
        try:
            text = REFERENCE.sub(rf"{self._models_at}\1", model.schema)
            found = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError):
            return {}
        described = {"description": model.description} if model.description else {}
        return {**found, **described} if isinstance(found, dict) else {}

    def _schemes(self, text: str) -> dict[str, Any]:
        """The security schemes that a method names."""
        key = {"type": "apiKey", "name": "x-api-key", "in": "header"}
        found: dict[str, Any] = {KEY: key} if f'"{KEY}":[' in text else {}
        for name, kind in SCHEMES.values():
            if f'"{name}":[' in text:
                authorizer = kind if kind == "cognito_user_pools" else "token"
                is_ours = self._has_authorizers and kind != "awsSigv4"
                found[name] = {
                    **key,
                    "name": "Authorization",
                    f"{EXTENSION}authtype": kind,
                    **({f"{EXTENSION}authorizer": {"type": authorizer}} if is_ours else {}),
                }
        return found


def _integration(held: Mapping[str, Any], resource_id: str) -> dict[str, Any]:
    """The extension of a method's integration, without what an import fills in by itself."""
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

"""The usage plans, keys, APIs and stages of a CloudFormation or SAM template.

A value is taken as written, or from a parameter's default. A resource with a value that only CloudFormation can resolve
is left out by name. A resource's logical id becomes its id here, so a second import changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from authz.aws.decoded import Document, mapping
from authz.aws.foreign import Foreign, Row
from authz.aws.restapis import AUTHORIZATIONS

SAM_API: Final = "AWS::Serverless::Api"
MAX_DEPTH: Final = 30  # of nested resources


def is_template(document: Document) -> bool:
    """True if the document has a resource of AWS's."""
    return any(
        str(mapping(resource).get("Type", "")).startswith("AWS::")
        for resource in mapping(document.get("Resources")).values()
    )


def read(document: Document) -> Foreign:
    """Read a decoded template, with short forms such as `!Ref a` decoded as `{"Ref": "a"}`."""
    return _Template(document).read()


class _NotPlainError(ValueError):
    """A value that only CloudFormation can resolve."""


class _Template:
    """One template, and the reader of each type of resource."""

    def __init__(self, document: Document) -> None:
        self.resources: Document = {
            name: resource for name, resource in document["Resources"].items() if isinstance(resource, Mapping)
        }
        parameters = document.get("Parameters")
        self.parameters: Document = parameters if isinstance(parameters, Mapping) else {}
        self.known = set(self.resources)
        for name, _ in self._of_type(SAM_API):
            self.known |= {f"{name}UsagePlan", "ServerlessUsagePlan"}  # the plans that SAM makes
        self.result = Foreign()
        self.integrations = 0

    def read(self) -> Foreign:
        readers: dict[str, Callable[[str, Document], None]] = {
            "AWS::ApiGateway::RestApi": self.api,
            "AWS::ApiGateway::Resource": self.resource,
            "AWS::ApiGateway::Deployment": self.deployment,
            "AWS::ApiGateway::Stage": self.stage,
            "AWS::ApiGateway::UsagePlan": self.plan,
            "AWS::ApiGateway::ApiKey": self.key,
            "AWS::ApiGateway::UsagePlanKey": self.member,
            SAM_API: self.serverless,
        }
        others: Counter[str] = Counter()
        for name, resource in self.resources.items():
            kind = str(resource.get("Type", ""))
            read = readers.get(kind)
            if kind == "AWS::ApiGateway::Method":  # read with its API
                continue
            if read is None:
                others[kind] += 1
                continue
            if "Condition" in resource:
                self.result.left.append(f"{name}: its condition {resource['Condition']}: it is imported without it")
            try:
                read(name, mapping(resource.get("Properties")))
            except _NotPlainError as cause:
                self.result.left.append(f"{name} ({kind}): {cause}")
        if self.integrations:
            self.result.left.append(f"integrations ({self.integrations}): the way to the upstream is Envoy's")
        self.result.left += [f"{kind} ({count})" for kind, count in sorted(others.items())]
        return self.result

    def api(self, name: str, of: Document) -> None:
        if "Body" in of or "BodyS3Location" in of:
            self.result.left.append(f"{name}: its OpenAPI document: import it by itself, with --api-id {name}")
        self.result.add("rest-apis", self._api_row(name, self._plain(of.get("Name"), name), of))
        nodes = [self._node(name, "", None)]
        nodes += [
            self._node(name, resource, mapping(given.get("Properties")))
            for resource, given in self._of_type("AWS::ApiGateway::Resource")
            if self._reference(mapping(given.get("Properties")).get("RestApiId")) == name
        ]
        self.result.documents[f"resources-{name}.json"] = {"items": nodes}

    def _api_row(self, name: str, shown: Any, of: Document) -> Row:
        source = self._plain(of.get("ApiKeySourceType"), "HEADER")
        row = {"id": name, "name": shown, "createdDate": "", "apiKeySource": source, "rootResourceId": f"{name}-root"}
        return row | self._given(of, "Description", "Tags")

    def _node(self, api: str, name: str, of: Document | None) -> Row:
        """Return a resource of an API with its methods. Without properties it is the root."""
        root = f"{api}-root"
        methods = {}
        for method, given in self._of_type("AWS::ApiGateway::Method"):
            properties = mapping(given.get("Properties"))
            if self._reference(properties.get("RestApiId")) != api or self._place(properties, api) != (name or root):
                continue
            verb = str(self._plain(properties.get("HttpMethod"), "")).upper()
            required = self._plain(properties.get("ApiKeyRequired"), False) in (True, "true")
            kind = self._plain(properties.get("AuthorizationType"), "NONE")
            methods[verb] = {"httpMethod": verb, "apiKeyRequired": required, "authorizationType": kind}
            if kind in AUTHORIZATIONS:
                self.result.left.append(f"{method}: its authorization {kind} is not carried out here")
            self.integrations += "Integration" in properties
        row: Row = {
            "id": name or root,
            "path": self._path(name, api),
            **({"resourceMethods": methods} if methods else {}),
        }
        if of is not None:
            row |= {"parentId": self._place(of, api, "ParentId"), "pathPart": self._plain(of.get("PathPart"), "")}
        return row

    def _place(self, of: Document, api: str, member: str = "ResourceId") -> str:
        """Return the id of the resource that a property names: another one of the template, or the API's root."""
        given = of.get(member)
        attribute = mapping(given).get("Fn::GetAtt")
        parts = attribute.split(".") if isinstance(attribute, str) else attribute
        if parts == [api, "RootResourceId"]:
            return f"{api}-root"
        return self._reference(given)

    def _path(self, name: str, api: str, depth: int = 0) -> str:
        if not name:
            return "/"
        if depth > MAX_DEPTH:
            raise _NotPlainError("its parents go round in a circle")
        of = mapping(mapping(self.resources.get(name)).get("Properties"))
        parent = self._place(of, api, "ParentId")
        above = "" if parent == f"{api}-root" else self._path(parent, api, depth + 1)
        return f"{above}/{self._plain(of.get('PathPart'), '')}"

    def resource(self, name: str, of: Document) -> None:
        """Note a resource whose API is not in the template. The others are read with their API."""
        api = self._reference(of.get("RestApiId"))
        if api not in self.resources:
            self.result.left.append(f"{name}: the API {api} is not in this template")

    def deployment(self, name: str, of: Document) -> None:
        """Read the stage that a deployment creates, if it creates one."""
        if "StageName" in of:
            described = mapping(of.get("StageDescription"))
            self.stage(name, {**described, "RestApiId": of.get("RestApiId"), "StageName": of["StageName"]})

    def stage(self, name: str, of: Document) -> None:
        api = self._reference(of.get("RestApiId"))
        if api not in self.resources:
            self.result.left.append(f"{name}: a stage of the API {api}, which is not in this template")
            return
        settings: Row = {}
        given = of.get("MethodSettings")
        for setting in given if isinstance(given, list) else ():
            path = str(self._plain(setting.get("ResourcePath"), "/*"))
            verb = str(self._plain(setting.get("HttpMethod"), "*"))
            spelled = "*" if path == "/*" else path.removeprefix("/").replace("/", "~1") if path != "/" else "~1"
            limits = {
                "throttlingRateLimit": self._plain(setting.get("ThrottlingRateLimit"), None),
                "throttlingBurstLimit": self._plain(setting.get("ThrottlingBurstLimit"), None),
            }
            settings[f"{spelled}/{verb}"] = {key: _number(value) for key, value in limits.items() if value is not None}
        row: Row = {
            "stageName": self._plain(of.get("StageName"), "Stage"),
            "createdDate": "",
            "methodSettings": settings,
        }
        self.result.add("stages", row | self._given(of, "Description", "Variables", "Tags"), api)

    def plan(self, name: str, of: Document) -> None:
        stages = of.get("ApiStages")
        row: Row = {
            "id": name,
            "name": self._plain(of.get("UsagePlanName"), name),
            "apiStages": [self._covered(stage) for stage in (stages if isinstance(stages, list) else ())],
            **self._limits(of),
            **self._given(of, "Description", "Tags"),
        }
        self.result.add("usage-plans", row)

    def _limits(self, of: Document) -> Row:
        rows: Row = {}
        for member, names in (("Throttle", ("RateLimit", "BurstLimit")), ("Quota", ("Limit", "Offset", "Period"))):
            given = mapping(of.get(member))
            limits = {_camel(name): self._plain(given[name], None) for name in names if name in given}
            if limits:
                rows[_camel(member)] = {
                    key: value if key == "period" else _number(value) for key, value in limits.items()
                }
        return rows

    def _covered(self, stage: Any) -> Row:
        of = mapping(stage)
        throttles = {
            path: {_camel(key): _number(self._plain(value, None)) for key, value in mapping(limits).items()}
            for path, limits in mapping(of.get("Throttle")).items()
        }
        given = of.get("Stage")
        name = str(mapping(given).get("Ref", "")).removesuffix(".Stage")  # SAM writes !Ref Api.Stage
        referred = mapping(self.resources.get(name)).get("Properties")
        return {
            "apiId": self._reference(of.get("ApiId")),
            "stage": self._plain(mapping(referred).get("StageName") if referred else given, ""),
            **({"throttle": throttles} if throttles else {}),
        }

    def key(self, name: str, of: Document) -> None:
        enabled = self._plain(of.get("Enabled"), True) in (True, "true")
        row: Row = {"id": name, "name": self._plain(of.get("Name"), name), "enabled": enabled, "createdDate": ""}
        self.result.add("api-keys", row | self._given(of, "Description", "CustomerId", "Value", "Tags"))

    def member(self, _name: str, of: Document) -> None:
        plan, key = self._reference(of.get("UsagePlanId")), self._reference(of.get("KeyId"))
        self.result.add("usage-plan-keys", {"id": key, "type": "API_KEY"}, plan)

    def serverless(self, name: str, of: Document) -> None:
        """Read an API of SAM's, which makes an API, a stage and, on demand, a plan with one key."""
        auth = mapping(of.get("Auth"))
        if "DefinitionBody" in of or "DefinitionUri" in of:
            self.result.left.append(f"{name}: its OpenAPI document: import it by itself, with --api-id {name}")
        self.result.add("rest-apis", self._api_row(name, self._plain(of.get("Name"), name), of))
        self.stage(name, {**of, "RestApiId": name})
        plan = mapping(auth.get("UsagePlan"))
        if self._plain(plan.get("CreateUsagePlan"), "NONE") == "NONE":
            return
        shared = self._plain(plan["CreateUsagePlan"], "") == "SHARED"
        plan_id = "ServerlessUsagePlan" if shared else f"{name}UsagePlan"
        covered = {"ApiId": name, "Stage": of.get("StageName")}
        for row in self.result.documents.get("usage-plans.json", {"items": []})["items"]:
            if row["id"] == plan_id:
                row["apiStages"].append(self._covered(covered))
                return
        self.plan(plan_id, {**plan, "ApiStages": [covered]})
        self.result.left.append(
            f"{name}: the key that SAM makes for {plan_id}: make one with `aws apigateway create-api-key`"
        )

    def _given(self, of: Document, *names: str) -> Row:
        """Return properties under the names that AWS's API gives them. Raises _NotPlainError."""
        row: Row = {}
        for name in (name for name in names if name in of):
            value = self._whole(of[name])
            if isinstance(value, list) and all({"Key", "Value"} <= mapping(one).keys() for one in value):
                value = {str(tag["Key"]): str(tag["Value"]) for tag in value}  # tags are a list in a template
            row[_camel(name)] = value
        return row

    def _whole(self, value: Any) -> Any:
        """Resolve a value with all its parts. Raises _NotPlainError."""
        names = [str(name) for name in value] if isinstance(value, Mapping) else []
        is_intrinsic = names in (["Ref"], ["Condition"]) or any(name.startswith("Fn::") for name in names)
        if isinstance(value, Mapping) and not is_intrinsic:
            return {key: self._whole(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._whole(part) for part in value]
        return self._plain(value, None)

    def _plain(self, value: Any, otherwise: Any) -> Any:
        """Return a value as written, or a parameter's default. Raises _NotPlainError for any other intrinsic."""
        if value is None:
            return otherwise
        if not isinstance(value, Mapping):
            return value
        parameter = mapping(self.parameters.get(str(value.get("Ref", ""))))
        if "Default" in parameter:
            return parameter["Default"]
        name, argument = next(iter(value.items()), ("", ""))
        written = f"!{str(name).removeprefix('Fn::')} {argument}"[:80]
        raise _NotPlainError(f"{written} has to be resolved by CloudFormation first")

    def _reference(self, value: Any) -> str:
        """Return the id that a property names: of a resource of the template, or of one that exists already."""
        if isinstance(value, Mapping) and str(value.get("Ref", "")) in self.known:
            return str(value["Ref"])
        return str(self._plain(value, ""))

    def _of_type(self, kind: str) -> Iterator[tuple[str, Document]]:
        return ((name, found) for name, found in self.resources.items() if found.get("Type") == kind)


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _number(value: Any) -> Any:
    """Read a number that a template may write as text; return any other text as it is."""
    if isinstance(value, str):
        try:
            return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else float(value)
        except ValueError:
            return value
    return value

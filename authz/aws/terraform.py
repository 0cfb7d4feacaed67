"""The usage plans, keys, APIs and stages of a Terraform state or plan, as `terraform show -json` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from authz.aws.decoded import Document, mapping
from authz.aws.foreign import Foreign, Row
from authz.aws.restapis import AUTHORIZATIONS

# Read with their API or stage. A deployment is not read: a stage serves its API as imported.
WITH_OTHERS: Final = frozenset(
    f"aws_api_gateway_{name}" for name in ("resource", "method", "method_settings", "deployment")
)
# The attributes that hold a resource's ids, if they are not `id`. They are unknown before `terraform apply`.
IDS: Final = {
    "aws_api_gateway_usage_plan_key": ("key_id", "usage_plan_id"),
    "aws_api_gateway_stage": ("rest_api_id",),
}


def is_shown(document: Document) -> bool:
    """True if `terraform show -json` printed the document."""
    return "format_version" in document and bool({"values", "planned_values"} & document.keys())


def read(document: Document) -> Foreign:
    """Read a decoded document. Resources keep the ids that AWS gave them."""
    return _Terraform(document).read()


class _Terraform:
    """One document, and the reader of each type of resource."""

    def __init__(self, document: Document) -> None:
        root = mapping(mapping(document.get("values") or document.get("planned_values")).get("root_module"))
        self.resources: list[Document] = []
        modules = [root]
        while modules:
            module = modules.pop()
            self.resources += [one for one in module.get("resources") or () if isinstance(one, Mapping)]
            modules += [one for one in module.get("child_modules") or () if isinstance(one, Mapping)]
        self.result = Foreign()

    def read(self) -> Foreign:
        readers: dict[str, Callable[[Document], None]] = {
            "aws_api_gateway_rest_api": self.api,
            "aws_api_gateway_stage": self.stage,
            "aws_api_gateway_usage_plan": self.plan,
            "aws_api_gateway_api_key": self.key,
            "aws_api_gateway_usage_plan_key": self.member,
        }
        others: Counter[str] = Counter()
        for resource in self.resources:
            kind, of = str(resource.get("type", "")), mapping(resource.get("values"))
            read = readers.get(kind)
            if kind in WITH_OTHERS:
                continue
            if resource.get("mode", "managed") != "managed" or read is None:
                others[kind] += 1
            elif not all(isinstance(of.get(name), str) for name in IDS.get(kind, ("id",))):
                self.result.left.append(f"{resource.get('address')}: its ids are known only after `terraform apply`")
            else:
                read(of)
        self.result.left += [f"{kind} ({count})" for kind, count in sorted(others.items())]
        return self.result

    def _of_type(self, kind: str) -> Iterator[Document]:
        return (mapping(one.get("values")) for one in self.resources if one.get("type") == kind)

    def api(self, of: Document) -> None:
        api = of["id"]
        members = {"name": "name", "description": "description", "api_key_source": "apiKeySource", "tags": "tags"}
        root = of.get("root_resource_id") or f"{api}-root"
        self.result.add("rest-apis", {"id": api, "createdDate": "", "rootResourceId": root, **_renamed(of, members)})
        if of.get("body"):
            self.result.left.append(f"{api}: its OpenAPI document: import it by itself, with --api-id {api}")
        nodes: dict[str, Row] = {root: {"id": root, "path": "/"}}
        for node in self._of_type("aws_api_gateway_resource"):
            if node.get("rest_api_id") == api and isinstance(node.get("id"), str):
                names = {"id": "id", "path": "path", "parent_id": "parentId", "path_part": "pathPart"}
                nodes[node["id"]] = _renamed(node, names)
        for method in self._of_type("aws_api_gateway_method"):
            held = nodes.get(str(method.get("resource_id"))) if method.get("rest_api_id") == api else None
            if held is not None:
                verb = str(method.get("http_method"))
                held.setdefault("resourceMethods", {})[verb] = {
                    "httpMethod": verb,
                    "apiKeyRequired": bool(method.get("api_key_required")),
                    "authorizationType": method.get("authorization") or "NONE",
                }
                if method.get("authorization") in AUTHORIZATIONS:
                    self.result.left.append(f"{api}: {verb} {held['path']}: its authorization is not carried out here")
        self.result.documents[f"resources-{api}.json"] = {"items": list(nodes.values())}

    def stage(self, of: Document) -> None:
        api, stage = of["rest_api_id"], of.get("stage_name")
        if api not in [one.get("id") for one in self._of_type("aws_api_gateway_rest_api")]:
            self.result.left.append(f"stage {stage}: its API {api} is not in this file")
            return
        settings: Row = {}
        for one in self._of_type("aws_api_gateway_method_settings"):
            if (one.get("rest_api_id"), one.get("stage_name")) == (api, stage):
                given = mapping(next(iter(one.get("settings") or ()), None))
                names = {
                    "throttling_rate_limit": "throttlingRateLimit",
                    "throttling_burst_limit": "throttlingBurstLimit",
                }
                # Terraform writes pets/{id}/GET; the API has ~1 for each slash within the path.
                path, _, verb = str(one.get("method_path")).rpartition("/")
                key = f"{path.strip('/').replace('/', '~1') or '~1'}/{verb}"
                settings[key] = _renamed(given, names)
        row = {"stageName": stage, "createdDate": "", "methodSettings": settings}
        members = {
            "deployment_id": "deploymentId",
            "description": "description",
            "variables": "variables",
            "tags": "tags",
        }
        self.result.add("stages", row | _renamed(of, members), api)

    def plan(self, of: Document) -> None:
        limits: Row = {}
        for block, member, names in (
            ("throttle_settings", "throttle", {"rate_limit": "rateLimit", "burst_limit": "burstLimit"}),
            ("quota_settings", "quota", {"limit": "limit", "offset": "offset", "period": "period"}),
        ):
            for given in of.get(block) or ():
                limits[member] = _renamed(given, names)
        stages = []
        for stage in of.get("api_stages") or ():
            names = {"rate_limit": "rateLimit", "burst_limit": "burstLimit"}
            throttles = {str(one.get("path")): _renamed(one, names) for one in stage.get("throttle") or ()}
            covered = {"apiId": stage.get("api_id"), "stage": stage.get("stage")}
            stages.append(covered | ({"throttle": throttles} if throttles else {}))
        members = {"name": "name", "description": "description", "product_code": "productCode", "tags": "tags"}
        self.result.add("usage-plans", {"id": of["id"], "apiStages": stages, **limits, **_renamed(of, members)})

    def key(self, of: Document) -> None:
        members = {"name": "name", "description": "description", "value": "value", "tags": "tags"}
        members |= {"customer_id": "customerId", "created_date": "createdDate", "last_updated_date": "lastUpdatedDate"}
        row = {"id": of["id"], "enabled": of.get("enabled") is not False, "createdDate": ""}
        self.result.add("api-keys", row | _renamed(of, members))

    def member(self, of: Document) -> None:
        self.result.add("usage-plan-keys", {"id": of["key_id"], "type": "API_KEY"}, of["usage_plan_id"])


def _renamed(of: Document, names: Mapping[str, str]) -> Row:
    """Return the members that are set, under AWS's names. Terraform writes "" for an unset member."""
    return {to: of[name] for name, to in names.items() if of.get(name) not in (None, "", {})}

"""Imports a plans.yaml over stored resources: members that the file cannot express keep their stored values."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from authz.aws.convert import BURST, RATE
from authz.core.methods import method_of
from authz.core.stored import (
    DomainName,
    Item,
    RestApi,
    StoredAccount,
    StoredPlan,
    StoredStage,
)

THROTTLES: Final = frozenset({RATE, BURST})


def merged(old: Item, new: Item) -> Item:
    """Return the new item with those members of the old one that a plans.yaml cannot express."""
    match old, new:
        case StoredAccount(), StoredAccount():
            return replace(old, account=new.account)
        case RestApi(), RestApi():
            return _api(old, new)
        case StoredStage(), StoredStage():
            return _stage(old, new)
        case StoredPlan(), StoredPlan():
            return replace(new, nonce=old.nonce, product_code=old.product_code)
        case DomainName(), DomainName():
            replaced = {mapping.rest_api_id for mapping in new.mappings}
            others = tuple(mapping for mapping in old.mappings if mapping.rest_api_id not in replaced)
            return replace(old, mappings=(*others, *new.mappings) if others else new.mappings)
    return new


def _api(old: RestApi, new: RestApi) -> RestApi:
    """Give the old API the methods of the new one. A node keeps its id, a method all but what a file says of it."""
    known = {node.path: node for node in old.resources.values()}
    ids = {node.id: known[node.path].id if node.path in known else node.id for node in new.resources.values()}
    nodes = {}
    for node in new.resources.values():
        before = known[node.path].methods if node.path in known else {}
        methods = {}
        for verb, method in node.methods.items():
            kept = before.get(verb, method)
            behind = kept.method_integration or method.method_integration  # an older release imported methods without
            methods[verb] = replace(
                kept,
                api_key_required=method.api_key_required,
                method_integration=behind,
                cost=method.cost,
                cost_from=method.cost_from,
            )
        parent = ids[node.parent_id] if node.parent_id else None
        nodes[ids[node.id]] = replace(node, id=ids[node.id], parent_id=parent, methods=methods)
    for node in sorted(old.resources.values(), key=lambda node: node.path):
        if not node.methods and node.parent_id in nodes:  # a file cannot express a node without methods
            nodes.setdefault(node.id, node)
    return replace(
        old,
        name=new.name,
        api_key_source=new.api_key_source,
        key_sources=new.key_sources,
        authorizer=new.authorizer,
        forward_api_key=new.forward_api_key,
        cost_from=new.cost_from,
        gateway_responses=new.gateway_responses,
        root_resource_id=ids[new.root_resource_id],
        resources=nodes,
    )


def _stage(old: StoredStage, new: StoredStage) -> StoredStage:
    given = {method_of(name): (name, settings) for name, settings in new.method_settings.items()}
    settings = {}
    for name, held in old.method_settings.items():
        others = {key: value for key, value in held.items() if key not in THROTTLES}
        _, numbers = given.pop(method_of(name), (name, {}))
        if others or numbers:
            settings[name] = {**others, **numbers}
    settings |= dict(given.values())
    return replace(old, deployment_id=new.deployment_id, method_settings=settings, variables=new.variables)


def lost_methods(old: RestApi, new: RestApi) -> list[str]:
    """Return the methods of the old API that the new one lacks, such as `GET /pets`."""
    kept = {(node.path, verb) for node in new.resources.values() for verb in node.methods}
    found = ((node.path, verb) for node in old.resources.values() for verb in node.methods)
    return [f"{verb} {path}" for path, verb in sorted(found) if (path, verb) not in kept]

"""What a plans.yaml cannot say of a stored resource is kept when the file is imported over it."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from authz.aws.convert import BURST, RATE
from authz.core.methods import method_of
from authz.core.stored import (
    DomainName,
    Item,
    RestApi,
    StoredAccount,
    StoredMethod,
    StoredPlan,
    StoredResource,
    StoredStage,
)

THROTTLES: Final = frozenset({RATE, BURST})


def merged(old: Item, new: Item) -> Item:
    """The new item with those members of the old one that a plans.yaml has no words for."""
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
            told = {mapping.rest_api_id for mapping in new.mappings}
            others = tuple(mapping for mapping in old.mappings if mapping.rest_api_id not in told)
            return replace(old, mappings=(*others, *new.mappings) if others else new.mappings)
    return new


def _api(old: RestApi, new: RestApi) -> RestApi:
    """The old API with the new one's methods: a node keeps its id, a method what it has besides its key."""
    known = {node.path: node for node in old.resources.values()}
    ids = {node.id: known[node.path].id if node.path in known else node.id for node in new.resources.values()}
    nodes = {}
    for node in new.resources.values():
        was = known.get(node.path)
        methods = {verb: _method(was, verb, method) for verb, method in node.methods.items()}
        parent = ids[node.parent_id] if node.parent_id else None
        nodes[ids[node.id]] = replace(node, id=ids[node.id], parent_id=parent, methods=methods)
    for node in sorted(old.resources.values(), key=lambda node: node.path):
        if not node.methods and node.parent_id in nodes:  # without methods a file has no words for it
            nodes.setdefault(node.id, node)
    return replace(
        old,
        name=new.name,
        api_key_source=new.api_key_source,
        key_sources=new.key_sources,
        authorizer=new.authorizer,
        forward_api_key=new.forward_api_key,
        gateway_responses=new.gateway_responses,
        root_resource_id=ids[new.root_resource_id],
        resources=nodes,
    )


def _method(was: StoredResource | None, verb: Any, new: StoredMethod) -> StoredMethod:
    old = was.methods.get(verb) if was else None
    if old is None:
        return new
    integration = old.method_integration or new.method_integration  # an older release imported methods without one
    return replace(old, api_key_required=new.api_key_required, method_integration=integration)


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
    """Methods of the old API that the new one does not have, as `GET /pets`."""
    kept = {(node.path, verb) for node in new.resources.values() for verb in node.methods}
    found = ((node.path, verb) for node in old.resources.values() for verb in node.methods)
    return [f"{verb} {path}" for path, verb in sorted(found) if (path, verb) not in kept]

"""The operations on the tags of keys, plans, APIs, stages and domain names, by ARN."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from authz.aws.errors import bad_request, not_found
from authz.aws.plans import checked_tags
from authz.control.call import Answer, Call, Operation
from authz.core.stored import DomainName, Item, RestApi, StoredKey, StoredPlan, StoredStage, stage_id

if TYPE_CHECKING:
    from authz.store.ports import Draft, ItemSource

ARN: Final = re.compile(
    r"arn:aws[a-z-]*:apigateway:[a-z0-9-]*:[0-9]*:"
    r"/(?P<family>apikeys|usageplans|restapis|domainnames)/(?P<id>[^/]+)(/stages/(?P<stage>[^/]+))?"
)
KIND: Final = {"apikeys": "apikey", "usageplans": "usageplan", "restapis": "restapi", "domainnames": "domain"}


class TagResource(Struct, frozen=True):
    """The body of TagResource."""

    tags: dict[str, str]


async def _tagged(source: ItemSource, call: Call) -> Item:
    """Return the item that the ARN in the path names. Raises ApiError."""
    arn = ARN.fullmatch(call.params["resource_arn"])
    if arn is None or (arn["stage"] and arn["family"] != "restapis"):
        raise bad_request("Invalid ARN specified in the request")
    kind, item_id = KIND[arn["family"]], arn["id"].lower() if arn["family"] == "domainnames" else arn["id"]
    if arn["stage"]:
        kind, item_id = "stage", stage_id(arn["id"], arn["stage"])
    item: Item | None = await source.get(kind, item_id)
    if item is None:
        raise not_found("Invalid resource identifier specified")
    return item


def _tags(item: Item) -> dict[str, str]:
    match item:
        case StoredKey():
            return item.key.tags
        case StoredPlan():
            return item.plan.tags
        case RestApi() | StoredStage() | DomainName():
            return item.tags
    return {}


def _with_tags(item: Item, tags: dict[str, str]) -> Item:
    match item:
        case StoredKey():
            return replace(item, key=replace(item.key, tags=tags))
        case StoredPlan():
            return replace(item, plan=replace(item.plan, tags=tags))
        case RestApi() | StoredStage() | DomainName():
            return replace(item, tags=tags)
    return item


async def get_tags(call: Call) -> Answer:
    return Answer(body={"tags": _tags(await _tagged(call.context.store, call))})


async def tag_resource(call: Call) -> Answer:
    given = call.read(TagResource).tags
    return await _change(call, lambda tags: checked_tags(tags | given))


async def untag_resource(call: Call) -> Answer:
    gone = set(call.query.get("tagKeys", ()))
    return await _change(call, lambda tags: {name: value for name, value in tags.items() if name not in gone})


async def _change(call: Call, change: Callable[[dict[str, str]], dict[str, str]]) -> Answer:
    async def edit_tags(edit: Draft) -> None:
        item = await _tagged(edit, call)
        edit.put(_with_tags(item, change(_tags(item))))

    await call.write(edit_tags)
    return Answer(204)


_TAGS: Final = "/tags/{resource_arn}"

OPERATIONS: Final = (
    Operation("GetTags", "GET", _TAGS, get_tags, writes=False),
    Operation("TagResource", "PUT", _TAGS, tag_resource, writes=True),
    Operation("UntagResource", "DELETE", _TAGS, untag_resource, writes=True),
)

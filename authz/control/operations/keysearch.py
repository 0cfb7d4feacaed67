"""Operations that find things: keys with their last use or by value, a customer's plans, and the file's items."""

from __future__ import annotations

from typing import Final

from authz.aws.errors import bad_request
from authz.aws.plans import no_key, plan_document
from authz.control.call import PAGING, Answer, Call, Operation
from authz.control.operations.apikeys import keys_page, page_answer, stored_key
from authz.control.operations.restapis import listed
from authz.core.resources import Resource, digest
from authz.core.stored import StoredPlan, by_customer, good_until, plan_id_of
from authz.store.lastuse import KeyUse, document_of, last_use
from authz.store.ports import Page

KEYS: Final = 500  # of a customer, whose plans are looked at
FILE_KINDS: Final = ("apikey", "customer", "usageplan")
PLANS: Final = 100  # in one answer


async def get_key_uses(call: Call) -> Answer:
    """Answer with a page of keys and the last day of each on which a call was counted."""
    call.refuse_others("name", "customerId", *PAGING)
    page = await keys_page(call)
    _, read = await last_use(call.context.usage, page.items)
    by_id = {use.key.key.id: use for use in read}
    for key in page.items:
        if key.key.id not in by_id:
            call.warn(f"the usage of the key {key.key.id} in Redis can't be read, so lastUsedDate is left out")
    uses = [by_id.get(key.key.id) or KeyUse(key, None) for key in page.items]
    return page_answer(Page(uses, page.position), document_of)


class FindApiKey(Resource, frozen=True):
    """The body of `POST /apikeys/find`: a value stands in a body, and so in no log of URLs."""

    value: str


async def find_api_key(call: Call) -> Answer:
    """Answer with the key that has this value, or had it before the last rotation and may still be called with it."""
    index = call.context.sealer.index(digest(call.read_strictly(FindApiKey).value))
    owner = await call.context.store.owner(f"key/{index}")
    if owner is None:
        raise no_key()
    stored = await stored_key(call.context.store, owner.partition("/")[2])
    if stored.index == index:
        return Answer(body={"keyId": stored.key.id, "isPrevious": False})
    if stored.previous_index != index or good_until(stored.previous_expires_at, call.context.now()) is None:
        raise no_key()
    return Answer(body={"keyId": stored.key.id, "isPrevious": True})


async def get_customer_plans(call: Call) -> Answer:
    """Answer with the usage plans of a customer's keys, with the extension that says whose limits they have."""
    customer = call.params["customerId"]
    page = await call.context.store.search(by_customer(customer), KEYS)
    if page.position is not None:
        call.warn(f"the customer has more than {KEYS} keys, and the plans of the others are left out")
    refs = dict.fromkeys(ref for key in page.items for ref in key.plans)
    found = await call.context.store.many("usageplan", list(dict.fromkeys(map(plan_id_of, refs))))
    plans = [plan for plan in found if isinstance(plan, StoredPlan) and plan.ref in refs]
    if len(plans) > PLANS:
        call.warn(f"the customer has {len(plans)} plans, and {PLANS} of them are shown")
    return listed(plan_document(plan) | {"limitsPer": plan.plan.limits_per.value} for plan in plans[:PLANS])


async def get_file_items(call: Call) -> Answer:
    """Answer with the ids that the configuration file defines: all of a kind, or `id` alone if it is one of them."""
    call.refuse_others("kind", "id", *PAGING)
    kind, wanted, (limit, position) = call.one("kind"), call.one("id"), call.paging()
    if kind not in FILE_KINDS:
        raise bad_request(f"Invalid kind: expected one of {', '.join(FILE_KINDS)}")
    fixed = call.context.fixed()
    if wanted is not None:
        return listed([wanted] if (kind, wanted) in fixed else [])
    ids = sorted(each for one, each in fixed if one == kind and each > (position or ""))
    return listed(ids[:limit], ids[limit - 1] if len(ids) > limit else None)


OPERATIONS: Final = (
    Operation("GetKeyUses", "GET", "/usage/keys", get_key_uses, writes=False),
    Operation("FindApiKey", "POST", "/apikeys/find", find_api_key, writes=False),
    Operation("GetFileItems", "GET", "/catalog/file", get_file_items, writes=False),
    Operation("GetCustomerPlans", "GET", "/customers/{customerId}/plans", get_customer_plans, writes=False),
)

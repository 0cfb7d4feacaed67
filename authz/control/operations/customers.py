"""Customers: create, read, replace, delete. A key names its customer in `customerId`; it need not be one of these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from authz.aws.errors import ApiError, conflict, not_found
from authz.aws.extensions import (
    CustomerDocument,
    Overridden,
    customer_document,
    idle_customer,
    with_customer_document,
)
from authz.aws.patch import Document
from authz.aws.plans import refused
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import listed
from authz.core.problem import Problem
from authz.core.resources import Customer
from authz.core.stored import StoredCustomer, StoredPlan, by_customer, plan_id_of
from authz.store.ports import Draft, ItemSource
from authz.store.served import served_apis

KEYS: Final = 100  # of a customer, that are compared with its numbers


def no_customer() -> ApiError:
    return not_found("Invalid Customer identifier specified")


async def _stored(source: ItemSource, customer_id: str) -> StoredCustomer:
    found = await source.get("customer", customer_id)
    if not isinstance(found, StoredCustomer):
        raise no_customer()
    return found


async def _shown(source: ItemSource, customers: Iterable[StoredCustomer]) -> list[Document]:
    """Return customers as documents, with overrides by the ids of the plans that still exist."""
    several = list(customers)
    ids = sorted({plan_id_of(ref) for customer in several for ref in customer.overrides})
    plans = [plan for plan in await source.many("usageplan", ids) if isinstance(plan, StoredPlan)]
    by_ref = {plan.ref: plan.plan.id for plan in plans}
    return [customer_document(customer, by_ref) for customer in several]


async def get_customers(call: Call) -> Answer:
    store = call.context.store
    page = await store.page("customer", "customer", *call.paging())
    return listed(await _shown(store, page.items), page.position)


async def get_customer(call: Call) -> Answer:
    store = call.context.store
    (document,) = await _shown(store, [await _stored(store, call.params["customerId"])])
    return Answer(body=document)


async def create_customer(call: Call) -> Answer:
    given = call.read_strictly(CustomerDocument)
    if given.id is None:
        raise refused([Problem("$.id", "required")])
    return Answer(201, await _written(call, given.id, given, must_be_new=True))


async def put_customer(call: Call) -> Answer:
    return Answer(body=await _written(call, call.params["customerId"], call.read_strictly(CustomerDocument)))


async def _written(call: Call, customer_id: str, given: CustomerDocument, *, must_be_new: bool = False) -> Document:
    """Write a customer. Return it as a document."""

    async def write(edit: Draft) -> Document:
        old = await edit.get("customer", customer_id)
        if old is not None and must_be_new:
            raise conflict("Customer already exists")
        items = await edit.many("usageplan", list(given.overrides))
        plans = {plan.plan.id: plan for plan in items if isinstance(plan, StoredPlan)}
        stages = {(stage.api_id, stage.stage): stage for plan in plans.values() for stage in plan.plan.api_stages}
        found = Overridden(plans, await served_apis(edit, stages.values()))
        held = old if isinstance(old, StoredCustomer) else None
        changed = with_customer_document(held, customer_id, given, found, call.context.now())
        edit.put(changed)
        await _warn_of_idle(call, replace(changed.customer, overrides=given.overrides), found)
        return customer_document(changed, {plan.ref: plan_id for plan_id, plan in found.plans.items()})

    return await call.write(write, *(() if call.params else (customer_id,)))


async def _warn_of_idle(call: Call, customer: Customer, found: Overridden) -> None:
    """Warn of numbers that change nothing for the customer's keys. Of a customer with many keys nothing is said."""
    store = call.context.store
    page = await store.search(by_customer(customer.id), KEYS)
    if page.position is not None:
        return
    refs = sorted({plan_id_of(ref) for key in page.items for ref in key.plans} | found.plans.keys())
    plans = [plan for plan in await store.many("usageplan", refs) if isinstance(plan, StoredPlan)]
    for text in idle_customer(customer, plans, page.items):
        call.warn(text)


async def delete_customer(call: Call) -> Answer:
    async def delete(edit: Draft) -> None:
        stored = await _stored(edit, call.params["customerId"])
        edit.delete("customer", stored.id)

    await call.write(delete)
    return Answer(202)


_ALL: Final = "/customers"
_ONE: Final = "/customers/{customerId}"

OPERATIONS: Final = (
    Operation("CreateCustomer", "POST", _ALL, create_customer, writes=True),
    Operation("GetCustomers", "GET", _ALL, get_customers, writes=False),
    Operation("GetCustomer", "GET", _ONE, get_customer, writes=False),
    Operation("PutCustomer", "PUT", _ONE, put_customer, writes=True),
    Operation("DeleteCustomer", "DELETE", _ONE, delete_customer, writes=True),
)

"""The pages of customers: a list, one customer with its keys and what they share, and a new one."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError, not_found
from authz.control.console.daily import CHARTED_DAYS, days_to, utc_today
from authz.control.console.fields import NOTHING_TYPED, Misfit, Typed, refused, tags, whole
from authz.control.console.granting import GRANT_PLACES, grant
from authz.control.console.onekey import HISTORY, Membership, beside, override_document, use_values
from authz.control.pages.charts import SUMMED_KEYS
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit

INVITE: Final = "CreatePortalSession"
PAGE: Final = "50"
MOST_PLANS: Final = 20
PLACES: Final = (("$.id", "id"), ("exists", "id"), ("billingDay", "billing_day"), ("$.name", "name"))


async def customers(visit: Visit[OwnerSession]) -> Response:
    found = await visit.ask("GetCustomers", query={"limit": PAGE, "position": visit.query("position")})
    return await visit.page("console/customers.html", customers=found["item"], position=found.get("position"))


async def new_customer(visit: Visit[OwnerSession]) -> Response:
    return await visit.page("console/new-customer.html", typed=NOTHING_TYPED)


async def make_customer(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    try:
        id_ = form.given("id")
        if id_ is None:
            raise Misfit("id", "Expected an id: the one under which you know the customer.")
        await visit.ask("CreateCustomer", body={"id": id_, "name": form.text("name"), **_billing_day(form)})
    except (ApiError, Misfit) as error:
        typed = refused(form, error, PLACES)
        return await visit.page("console/new-customer.html", status=typed.status, typed=typed)
    return await _go(visit, id_, "The customer was made. Now make a key for it.")


def _billing_day(form: Form) -> dict[str, int]:
    day = whole(form, "billing_day")
    return {} if day is None else {"billingDay": day}


# --- one customer -------------------------------------------------------------------------------------------------


def _id(visit: Visit[OwnerSession]) -> str:
    """The id in the query: it may be any text, and so no part of a path. Raises ApiError."""
    id_ = visit.query("id")
    if id_ is None:
        raise not_found("There is no such customer.")
    return id_


async def customer_page(visit: Visit[OwnerSession]) -> Response:
    return await _page(visit, NOTHING_TYPED)


async def _page(visit: Visit[OwnerSession], typed: Typed) -> Response:
    id_ = _id(visit)
    customer = await visit.find("GetCustomer", {"customerId": id_})
    keys = await visit.ask("GetKeyUses", query={"customerId": id_, "limit": PAGE, "position": visit.query("position")})
    if customer is None and not keys["item"] and visit.query("position") is None:
        raise not_found(f"There is no customer {id_}, and no key names it.")
    members = await _members(visit, id_, customer or {})
    is_fixed = bool((await visit.ask("GetFileItems", query={"kind": "customer", "id": id_}))["item"])
    days = days_to(utc_today(), CHARTED_DAYS)
    # Of as many keys as a page of 100 ms has time for.
    summed = {"customerId": id_, **days.query, "groupBy": "day", "limit": SUMMED_KEYS}
    use = await visit.ask("GetUsageDays", query=summed)
    history = {"id": id_, "limit": HISTORY, "position": visit.query("history")}
    return await visit.page(
        "console/customer.html",
        status=typed.status,
        typed=typed,
        id=id_,
        customer=customer,
        is_fixed=is_fixed,
        may_change=visit.session.may_write and not is_fixed,
        keys=keys["item"],
        position=keys.get("position"),
        members=members,
        is_whole="position" not in use,
        audit=await visit.ask("GetAudit", query=history),
        grant_name=secrets.token_urlsafe(12),
        **use_values(use["item"], [member for member in members if member.is_shared], days),
    )


async def _members(visit: Visit[OwnerSession], id_: str, customer: Mapping[str, Any]) -> list[Membership]:
    """The plans of the customer's keys: with quotas, if the keys share them."""
    found = []
    plans = (await visit.ask("GetCustomerPlans", {"customerId": id_}))["item"]
    if len(plans) > MOST_PLANS:
        visit.warnings.append(f"The customer has {len(plans)} plans, and the first {MOST_PLANS} of them are shown.")
    for plan in plans[:MOST_PLANS]:
        quotas: Any = {"item": []}
        if plan["limitsPer"] == "CUSTOMER":
            quotas = await visit.ask("GetUsageQuotas", query={"usagePlanId": plan["id"], "customerId": id_})
        found.append(Membership(plan, quotas, customer.get("overrides", {}).get(plan["id"], {})))
    return found


Action = Callable[[Visit[OwnerSession], str, Form], Awaitable[Response | str]]


def _form_view(path: str, action: Action, *places: tuple[str, str]) -> View[OwnerSession]:
    """A form of the page. The action returns a message, or a response of its own; an error shows the page again."""

    async def handler(visit: Visit[OwnerSession]) -> Response:
        form, id_ = await visit.form(), _id(visit)
        try:
            done = await action(visit, id_, form)
        except (ApiError, Misfit) as error:
            return await _page(visit, refused(form, error, places))
        return done if isinstance(done, Response) else await _go(visit, id_, done)

    return View("POST", f"/keys/customers/{path}", handler, writes=True)


async def _go(visit: Visit[OwnerSession], id_: str, message: str) -> Response:
    return await visit.go(f"{visit.site.root}/keys/customers/one", message, id=id_)


async def _document(visit: Visit[OwnerSession], id_: str, form: Form) -> dict[str, Any]:
    """The customer as it is; with the date that the page showed, so that no other person's change is lost."""
    found = await visit.find("GetCustomer", {"customerId": id_}) or {"id": id_}
    seen = form.given("seen")
    if seen is not None and seen != str(found.get("lastUpdatedDate", "")):
        raise Misfit(
            "seen", "Another person changed the customer meanwhile. Compare with the page, then send the form again."
        )
    return dict(found)


async def _details(visit: Visit[OwnerSession], id_: str, form: Form) -> str:
    document = await _document(visit, id_, form)
    document.pop("billingDay", None)
    document |= {"name": form.text("name"), "tags": tags(form, "tags"), **_billing_day(form)}
    await visit.ask("PutCustomer", {"customerId": id_}, body=document)
    return "Saved."


async def _override(visit: Visit[OwnerSession], id_: str, form: Form) -> str:
    document, plan = await _document(visit, id_, form), form.text("override")
    with beside(f"plan.{plan}"):
        quotas = await visit.ask("GetUsageQuotas", query={"usagePlanId": plan, "customerId": id_})
        own = override_document(form, plan, [(one["period"], one["counts"]) for one in quotas["item"]])
        others = {name: one for name, one in document.get("overrides", {}).items() if name != plan}
        document["overrides"] = others | ({plan: own} if own else {})
        await visit.ask("PutCustomer", {"customerId": id_}, body=document)
    return "The customer has these numbers now." if own else "The customer has the plan's numbers."


async def _extend(visit: Visit[OwnerSession], id_: str, form: Form) -> str:
    return await grant(visit, form, customerId=id_)


async def _invite(visit: Visit[OwnerSession], id_: str, form: Form) -> str:
    sent = await visit.ask(INVITE, body={"customerId": id_, "mayRotate": form.ticked("may_rotate")})
    return f"This link signs the customer in once, within 15 minutes. It is for the customer alone:\n{sent['url']}"


async def _delete(visit: Visit[OwnerSession], id_: str, _: Form) -> Response:
    await visit.ask("DeleteCustomer", {"customerId": id_})
    return await visit.go(f"{visit.site.root}/keys/customers", f"The customer {id_} is deleted. Its keys stay.")


async def ask_delete(visit: Visit[OwnerSession]) -> Response:
    id_ = _id(visit)
    customer = await visit.ask("GetCustomer", {"customerId": id_})
    keys = await visit.ask("GetKeyUses", query={"customerId": id_, "limit": PAGE})
    return await visit.page(
        "console/delete-customer.html",
        id=id_,
        customer=customer,
        count=len(keys["item"]),
        has_more="position" in keys,
    )


VIEWS: Final = (
    View("GET", "/keys/customers", customers),
    View("GET", "/keys/customers/new", new_customer, writes=True),
    View("POST", "/keys/customers/new", make_customer, writes=True),
    View("GET", "/keys/customers/one", customer_page),
    View("GET", "/keys/customers/delete", ask_delete, writes=True),
    _form_view("delete", _delete),
    _form_view("details", _details, *PLACES, ("tag", "tags"), ("", "name")),
    _form_view("override", _override),
    _form_view("extend", _extend, *GRANT_PLACES),
    _form_view("invite", _invite),
)

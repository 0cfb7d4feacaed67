"""The page that makes a key, with its customer and its plans: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.responses import Response

from authz.aws.errors import ApiError
from authz.control.console.fields import NOTHING_TYPED, Misfit, Typed, lines, refused, whole
from authz.control.console.secret import leave_secret
from authz.control.pages.forms import Form
from authz.control.pages.sessions import OwnerSession
from authz.control.pages.site import View, Visit
from authz.store.ports import StoreUnavailable

PLANS: Final = "100"
CUSTOMERS: Final = "50"
PLACES: Final = (
    ("allowedSources", "sources"),
    ("billingDay", "billing_day"),
    ("expiresAt", "expires"),
    ("API Key name", "name"),
    ("description", "description"),
    ("customer", "customer"),
    ("$.id", "customer"),
    ("$.name", "customer_name"),
    ("plan", "plan"),
    ("stage", "plan"),
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """The fields of the form. `customer_name` names a customer that is made together with the key."""

    name: str
    description: str | None
    customer: str | None
    customer_name: str
    sources: list[str]
    billing_day: int | None
    expires: str | None
    plans: list[str]
    enabled: bool

    @classmethod
    def of(cls, form: Form) -> NewKey:
        """Raises Misfit."""
        if form.given("customer_name") and not form.given("customer"):
            raise Misfit("customer", "A new customer needs an id: the one under which you know it.")
        other = form.given("other_plan")
        return cls(
            name=form.text("name"),
            description=form.given("description"),
            customer=form.given("customer"),
            customer_name=form.text("customer_name"),
            sources=lines(form, "sources"),
            billing_day=whole(form, "billing_day"),
            expires=form.given("expires"),
            plans=list(dict.fromkeys([*form.texts("plan"), *([other] if other else [])])),
            enabled=form.ticked("enabled"),
        )

    @property
    def document(self) -> dict[str, Any]:
        """The body of CreateApiKey. The key stays disabled until all the rest is there."""
        document = {
            "name": self.name or None,
            "description": self.description,
            "customerId": self.customer,
            "expiresAt": self.expires,
            "enabled": False,
        }
        return {name: value for name, value in document.items() if value is not None}

    @property
    def extension(self) -> dict[str, Any]:
        """The body of PutApiKeyExtension. A customer's keys have the customer's billing day."""
        day = None if self.customer else self.billing_day
        return ({"allowedSources": self.sources} if self.sources else {}) | ({"billingDay": day} if day else {})

    @property
    def customer_document(self) -> dict[str, Any]:
        """The body of CreateCustomer."""
        day = {"billingDay": self.billing_day} if self.billing_day else {}
        return {"id": self.customer, "name": self.customer_name} | day


async def new_key(visit: Visit[OwnerSession]) -> Response:
    return await _form(visit, NOTHING_TYPED)


async def _form(visit: Visit[OwnerSession], typed: Typed) -> Response:
    plans = await visit.ask("GetUsagePlans", query={"limit": PLANS})
    fixed = (await visit.ask("GetFileItems", query={"kind": "usageplan", "limit": PLANS}))["item"]
    customers = await visit.ask("GetCustomers", query={"limit": CUSTOMERS})
    return await visit.page(
        "console/new-key.html",
        status=typed.status,
        typed=typed,
        plans=[plan for plan in plans["item"] if plan["id"] not in fixed],
        fixed=[plan for plan in plans["item"] if plan["id"] in fixed],
        has_more_plans="position" in plans,
        customers=customers["item"],
        asked_customer=visit.query("customer") or "",
        asked_plan=visit.query("plan") or "",
    )


async def make_key(visit: Visit[OwnerSession]) -> Response:
    form = await visit.form()
    making = _Making(visit)
    try:
        key = NewKey.of(form)
        value = await making.make(key)
    except (ApiError, Misfit) as error:
        left = await making.undo()
        typed = refused(form, error, PLACES)
        return await _form(visit, replace(typed, problems={**typed.problems, "left": left} if left else typed.problems))
    except StoreUnavailable:
        if not making.made:
            raise
        raise ApiError("ServiceUnavailableException", making.interrupted()) from None
    return await leave_secret(visit, making.key_id, value, making.message(key))


class _Making:
    """Makes a key in several calls. `made` names what exists by now, for the page and for undoing it."""

    def __init__(self, visit: Visit[OwnerSession]) -> None:
        self._visit = visit
        self.made: dict[str, str] = {}  # id by operation that deletes it, in the order of making

    @property
    def key_id(self) -> str:
        return self.made.get("DeleteApiKey", "")

    async def make(self, key: NewKey) -> str:
        """Make all of it; the key is enabled last. Returns the key's value. Raises ApiError and StoreUnavailable."""
        ask = self._visit.ask
        await self._customer(key)
        made = await ask("CreateApiKey", body=key.document)
        self.made["DeleteApiKey"] = made["id"]
        params = {"api_Key": made["id"]}
        if key.extension:
            await ask("PutApiKeyExtension", params, body=key.extension)
        for plan in key.plans:
            body = {"keyId": made["id"], "keyType": "API_KEY"}
            await ask("CreateUsagePlanKey", {"usageplanId": plan}, body=body)
        if key.enabled:
            enable = [{"op": "replace", "path": "/enabled", "value": "true"}]
            await ask("UpdateApiKey", params, body={"patchOperations": enable})
        value: str = made["value"]
        return value

    async def _customer(self, key: NewKey) -> None:
        """Make the customer, if it is new. Raises Misfit for a field that would be ignored, because it exists."""
        if key.customer is None:
            return
        found = await self._visit.find("GetCustomer", {"customerId": key.customer})
        if found is None:
            await self._visit.ask("CreateCustomer", body=key.customer_document)
            self.made["DeleteCustomer"] = key.customer
        elif key.customer_name not in ("", found.get("name", "")):
            raise Misfit("customer_name", "There is a customer with this id, under another name. Leave the name empty.")
        elif key.billing_day not in (None, found.get("billingDay")):
            text = "The customer has a billing day of its own. Leave this empty, or change it on the customer's page."
            raise Misfit("billing_day", text)

    async def undo(self) -> str:
        """Delete everything that was made. Returns a sentence about the rest; "" without one."""
        for operation, id_ in reversed(list(self.made.items())):
            name = "api_Key" if operation == "DeleteApiKey" else "customerId"
            try:
                await self._visit.ask(operation, {name: id_})
            except (ApiError, StoreUnavailable):
                return self.interrupted()
            del self.made[operation]
        self._visit.warnings.clear()  # of things that are gone
        return ""

    def interrupted(self) -> str:
        """What exists after a break, and how to go on."""
        words = {"DeleteCustomer": "the customer", "DeleteApiKey": "the key, which is disabled,"}
        made = " and ".join(f"{words[operation]} {id_}" for operation, id_ in self.made.items())
        return f"Not all of it was made, and {made} exists. Look at the list of keys before you send the form again."

    def message(self, key: NewKey) -> str:
        customer = f" The customer {key.customer} is new too." if "DeleteCustomer" in self.made else ""
        state = "" if key.enabled else " It is disabled."
        return f"The key was made.{customer}{state}"


def plan_choices(plans: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Plans as (id, label) pairs."""
    return [(plan["id"], f"{plan['name']} ({plan['id']})") for plan in plans]


VIEWS: Final = (
    View("GET", "/keys/new", new_key, writes=True),
    View("POST", "/keys/new", make_key, writes=True),
)

"""`POST /portal/sessions`: a link that signs a customer in once, for the owner's own site to redirect to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from msgspec import Struct

from authz.aws.errors import bad_request
from authz.control.call import Answer, Call, Handler, Operation
from authz.control.operations.apikeys import stored_key
from authz.control.operations.customers import no_customer
from authz.control.pages.guard import Origins
from authz.control.pages.sessions import LINK_SECONDS, CustomerSession, Sessions
from authz.core.resources import Resource
from authz.core.stored import by_customer
from authz.core.zones import SECOND_US, iso_time
from authz.store.ports import Draft, Reader

ROOT: Final = "/portal"
PATH: Final = f"{ROOT}/sessions"
NAME: Final = "CreatePortalSession"


class Invitation(Resource, frozen=True):
    """The body of `POST /portal/sessions`. Exactly one of customer and key is given; a key has no customer.

    Without `may_rotate` the customer sees everything and rolls no key.
    """

    customer_id: str | None = None
    key_id: str | None = None
    may_rotate: bool = True

    @property
    def words(self) -> str:
        """The invitation in the audit."""
        who = f"key {self.key_id}" if self.customer_id is None else f"customer {self.customer_id}"
        return who if self.may_rotate else f"{who} mayRotate=false"


class Sent(Struct, frozen=True):
    """The answer: a URL that works once, and the moment (ISO, UTC) when it stops working."""

    url: str
    expires: str


@dataclass(frozen=True, slots=True)
class Invitations:
    """Makes links into the portal, under the public URL or else the host of the request."""

    sessions: Sessions
    origins: Origins

    def operation(self) -> Operation:
        return operation(self._invite)

    async def _invite(self, call: Call) -> Answer:
        given = call.read_strictly(Invitation)
        base = self.origins.url or self.origins.of(call.host)
        if base is None:
            raise bad_request(
                "Browsers do not reach the portal under this host name: call the control plane at an IP address, or "
                "start `authz control` with --console-url and the URL that browsers use"
            )
        await require_guest(call.context.store, given)
        await call.write(record, given.words)
        token = await self.sessions.new_link(session_of(given, call.principal.credential_id))
        expires = iso_time((call.context.now() + LINK_SECONDS) * SECOND_US)
        return Answer(201, Sent(link_url(base, token), expires))


async def record(edit: Draft) -> None:
    """Change nothing, and have a line in the audit."""
    edit.record()


def operation(handler: Handler) -> Operation:
    return Operation(NAME, "POST", PATH, handler, writes=True)


async def require_guest(store: Reader, given: Invitation) -> None:
    """Raise ApiError unless the invitation names one customer that is listed or has a key, or one key without any."""
    if (given.customer_id is None) is (given.key_id is None):
        raise bad_request("Invalid $: expected customerId, or keyId of a key without a customer")
    if given.key_id is not None:
        key = await stored_key(store, given.key_id)
        if key.key.customer_id:
            raise bad_request("Invalid $.keyId: this key has a customer; give its customerId instead")
    elif given.customer_id is not None:
        is_listed = await store.get("customer", given.customer_id) is not None
        if not is_listed and not (await store.search(by_customer(given.customer_id), 1)).items:
            raise no_customer()


def session_of(given: Invitation, credential_id: str | None = None) -> CustomerSession:
    """The session of a customer or a key; it ends with the credential that invited it."""
    return CustomerSession(
        customer_id=given.customer_id,
        key_id=given.key_id,
        may_rotate=given.may_rotate,
        credential_id=credential_id,
    )


def link_url(base: str, token: str) -> str:
    return f"{base.rstrip('/')}{ROOT}/link?{urlencode({'token': token})}"

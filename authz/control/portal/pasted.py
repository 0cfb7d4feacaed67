"""Finds the key of a value that a customer gives to prove who it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from authz.control.pages.sessions import CustomerSession
from authz.core.resources import digest
from authz.core.stored import StoredKey
from authz.core.zones import SECOND_US
from authz.store.keys import caller_with
from authz.store.ports import Reader
from authz.store.sealing import Sealer


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """Knows keys by their values. `now` returns seconds of Unix time.

    A key that is disabled or expired, and one that may not be used from the client's address, opens nothing: like the
    API, the portal answers as for a value of no key. A thief learns no more here than there.
    """

    store: Reader
    sealer: Sealer
    now: Callable[[], int]

    async def session_of(self, value: str, request: Request) -> CustomerSession | None:
        """The session that a value begins. It shows this key, and may not roll it."""
        index = self.sealer.index(digest(value.strip().removeprefix("x-api-key:").strip()))
        key = await self.find(index, request)
        return None if key is None else CustomerSession(key_id=key.key.id, index=index, shares_with=key.key.customer_id)

    async def find(self, index: str, request: Request) -> StoredKey | None:
        """The key with a value of this index, if the API admits it from this client now."""
        owner = await self.store.owner(f"key/{index}") or ""
        # Read even without an owner, so that the answer takes as long.
        key = await self.store.get("apikey", owner.partition("/")[2])
        if not isinstance(key, StoredKey):
            return None
        caller = caller_with(key, index)
        address = request.client.host if request.client else ""
        is_its_own = index in (key.index, key.previous_index)
        is_from_here = caller.sources is None or caller.sources.admits(address)
        is_admitted = is_its_own and is_from_here and caller.refusal(self.now() * SECOND_US) is None
        return key if is_admitted else None

    async def is_current(self, session: CustomerSession, request: Request) -> CustomerSession | None:
        """The session; None without its source: the credential that invited it, its key, or the pasted value."""
        if session.credential_id is not None and await self.store.get("credential", session.credential_id) is None:
            return None
        if session.index is not None:
            return session if await self.find(session.index, request) else None
        if session.key_id is not None:
            key = await self.store.get("apikey", session.key_id)
            return session if isinstance(key, StoredKey) and not key.key.customer_id else None
        return session

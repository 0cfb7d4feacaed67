"""Sessions of signed-in people: an owner of the API, or a customer. Redis has them under digests of their ids."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from msgspec import Struct

from authz.store.ports import Tokens

IDLE_SECONDS: Final = 30 * 60
MAX_SECONDS: Final = 12 * 3600
LINK_SECONDS: Final = 15 * 60
MESSAGE_SECONDS: Final = 5 * 60
FORM_SECONDS: Final = 60  # within which a form's answer must be known
ID_BYTES: Final = 32


class OwnerSession(Struct, frozen=True, tag="owner", omit_defaults=True):
    """The session of an owner. It ends with the credential it was made from, if it was made from one.

    `name` is the caller's in the audit, `created` seconds of Unix time, and `zone` the time zone of the pages.
    """

    name: str
    created: int = 0
    read_only: bool = False
    credential_id: str | None = None
    zone: str = "UTC"

    @property
    def may_write(self) -> bool:
        return not self.read_only

    def in_zone(self, zone: str) -> OwnerSession:
        return msgspec.structs.replace(self, zone=zone)


class CustomerSession(Struct, frozen=True, tag="customer", omit_defaults=True):
    """The session of a customer, or of one key. Exactly one of `customer_id` and `key_id` is set.

    `index` is that of the value which was pasted, if one was: the session ends when that value does. `shares_with` is
    then the customer of the key, whose other sessions it shares its pace with.

    `may_rotate` is True for a link that the owner made: with a key's value alone a person can look, and not roll it.
    `credential_id` is that of the owner's credential which made the link, if one did: the session ends with it.
    """

    created: int = 0
    customer_id: str | None = None
    key_id: str | None = None
    index: str | None = None
    shares_with: str | None = None
    may_rotate: bool = False
    credential_id: str | None = None
    zone: str = "UTC"

    @property
    def may_write(self) -> bool:
        return self.may_rotate

    def in_zone(self, zone: str) -> CustomerSession:
        return msgspec.structs.replace(self, zone=zone)


Session = OwnerSession | CustomerSession

_SESSION: Final = msgspec.json.Decoder(Session)


class Sessions:
    """Begins, finds and ends sessions. `now` returns seconds of Unix time."""

    def __init__(self, tokens: Tokens, now: Callable[[], int]) -> None:
        self._tokens = tokens
        self._now = now

    async def begin(self, session: Session) -> str:
        """Begin a session now. Returns its id, which only the browser keeps."""
        id_ = secrets.token_urlsafe(ID_BYTES)
        begun = msgspec.structs.replace(session, created=self._now())
        await self._tokens.put("session", id_, msgspec.json.encode(begun), IDLE_SECONDS)
        return id_

    async def keep(self, id_: str, session: Session) -> None:
        """Store a session that has changed. One that was ended meanwhile stays ended."""
        await self._tokens.replace("session", id_, msgspec.json.encode(session), IDLE_SECONDS)

    async def find(self, id_: str, *, in_use: bool = True) -> Session | None:
        """The session. None if it was ended, was not `in_use` for 30 minutes, or is 12 hours old."""
        found = await self._tokens.find("session", id_, IDLE_SECONDS if in_use else None)
        if found is None:
            return None
        session: Session = _SESSION.decode(found)
        if not 0 <= self._now() - session.created < MAX_SECONDS:
            await self.end(id_)
            return None
        return session

    async def end(self, id_: str) -> None:
        await self._tokens.take("session", id_)

    # --- one-time links ---

    async def new_link(self, session: Session) -> str:
        """A token that begins this session once, within 15 minutes."""
        token = secrets.token_urlsafe(ID_BYTES)
        await self._tokens.put("link", token, msgspec.json.encode(session), LINK_SECONDS)
        return token

    async def linked(self, token: str) -> Session | None:
        """The session that a link begins, without using the link up."""
        found = await self._tokens.find("link", token)
        return None if found is None else _SESSION.decode(found)

    async def follow(self, token: str, zone: str) -> str | None:
        """Use a link up. Returns the id of the session that begins; None for a link that is used up or too old."""
        found = await self._tokens.take("link", token)
        return None if found is None else await self.begin(_SESSION.decode(found).in_zone(zone))

    # --- messages for the next page ---

    async def leave_message(self, id_: str, text: str) -> str:
        """Keep a text for one later page of this session. Returns the name under which that page takes it.

        The text may be a key's value: it is sealed with the session's id, which is not in Redis.
        """
        name = secrets.token_urlsafe(12)
        await self._tokens.put("message", f"{id_} {name}", _cipher(id_).encrypt(text.encode()), MESSAGE_SECONDS)
        return name

    async def take_message(self, id_: str, name: str) -> str | None:
        """The text, once."""
        found = await self._tokens.take("message", f"{id_} {name}")
        try:
            return None if found is None else _cipher(id_).decrypt(found).decode()
        except InvalidToken:
            return None

    # --- forms that are answered once ---

    async def claim_form(self, id_: str, name: str) -> bool:
        """True for the first copy of a form of this session."""
        return await self._tokens.add("form", f"{id_} {name}", b"", FORM_SECONDS)

    async def end_form(self, id_: str, name: str, location: str) -> None:
        """Keep the page to which a form led, for its other copies."""
        await self._tokens.put("form", f"{id_} {name}", location.encode(), MESSAGE_SECONDS)

    async def form_end(self, id_: str, name: str) -> str | None:
        """The page to which a form led; "" while it is answered, and None if it is not claimed."""
        found = await self._tokens.find("form", f"{id_} {name}")
        return None if found is None else found.decode()

    async def release_form(self, id_: str, name: str) -> None:
        """Let a form be sent again."""
        await self._tokens.take("form", f"{id_} {name}")


def _cipher(id_: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(f"message {id_}".encode()).digest()))

"""Authenticates callers: by access keys of our own with AWS's signature, bearer tokens, or the loopback address."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from authz.aws import signature
from authz.aws.errors import ApiError
from authz.control.app import Received
from authz.control.bodies import sha256
from authz.control.call import Principal
from authz.core.stored import Credential
from authz.store.ports import Draft, Reader, Writer
from authz.store.sealing import Sealer, SealError

BEARER: Final = "bearer"
UNKNOWN: Final = "The security token included in the request is invalid."
TOKEN: Final = "token/"  # noqa: S105  (the prefix of the store's index of tokens)


class Authenticator:
    """Authenticates callers by the credentials in the store. `now` returns seconds of Unix time."""

    def __init__(self, store: Reader, sealer: Sealer, now: Callable[[], int]) -> None:
        self._store = store
        self._sealer = sealer
        self._now = now

    async def __call__(self, received: Received) -> Principal:
        authorization = received.header("authorization")
        if not authorization:
            raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == BEARER:
            found = await self.of_token(token.strip())
            if found is None:
                raise _unknown()
            return Principal(found.name, found.read_only, credential_id=found.id)
        given = signature.parse(authorization, received.headers)
        found = await self.credential(given.access_key)
        # Our access keys are long-term keys, which have no session: like AWS, refuse a session token with one.
        if found is None or found.sealed_secret is None or received.header("x-amz-security-token"):
            raise _unknown()
        try:
            secret = self._sealer.open(found.sealed_secret, found.id)
        except SealError:
            raise _unknown() from None
        await verify(given, secret, received, self._now())
        return Principal(found.name, found.read_only, given.scope[1], found.id)

    async def of_token(self, token: str) -> Credential | None:
        """The credential of a bearer token."""
        owner = await self._store.owner(TOKEN + token_sha256(token))
        return await self.credential(owner.rpartition("/")[2]) if owner else None

    async def credential(self, id_: str) -> Credential | None:
        found = await self._store.get("credential", id_)
        return found if isinstance(found, Credential) else None


async def verify(given: signature.Signature, secret: str, received: Received, now: int) -> None:
    """Raise InvalidSignatureException unless the holder of `secret` signed this request at about `now`.

    Reads the body only if no header gives its hash. Otherwise `Body.read` raises the exception if the body differs.
    """
    signature.check_claims(given, now)
    payload = signature.payload_of(received.headers)
    if payload is None:
        payload = sha256(await received.body.read())
    elif payload != signature.UNSIGNED:
        received.body.must_hash_to(payload)
    signature.check(given, secret, received.verb, received.path, received.query, received.headers, payload)


def _unknown() -> ApiError:
    return ApiError("UnrecognizedClientException", UNKNOWN)


async def anybody(received: Received) -> Principal:
    """Admit every program that can reach the loopback address, but no web page in a browser on this machine."""
    host = urlsplit(f"//{received.header('host') or ''}").hostname or ""
    if received.header("origin") is not None or not is_loopback(host):
        raise ApiError("AccessDeniedException", "Without authentication only programs on this machine may call")
    return Principal("anybody")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential, and its secret, which is shown only once: the secret of an access key, or a bearer token."""

    credential: Credential
    secret: str


def new_access_key(name: str, sealer: Sealer, now: int, *, read_only: bool = False) -> NewCredential:
    """Raises SealError without a sealing key: the store must keep the secret readable, to check signatures."""
    id_, secret = _new_id(), base64.b64encode(secrets.token_bytes(30)).decode()
    sealed = sealer.seal(secret, id_)
    return NewCredential(Credential(id_, name, now, read_only, sealed_secret=sealed), secret)


def new_token(name: str, now: int, *, read_only: bool = False) -> NewCredential:
    token = secrets.token_urlsafe(32)
    return NewCredential(Credential(_new_id(), name, now, read_only, token_sha256=token_sha256(token)), token)


def _new_id() -> str:
    """A new id, spelled as AWS spells the ids of access keys."""
    return "AKIA" + base64.b32encode(secrets.token_bytes(10)).decode()


async def add(store: Writer, new: NewCredential, who: str) -> None:
    async def edit(edit: Draft) -> None:
        edit.put(new.credential)

    await store.write(edit, who=who, what=f"CreateCredential {new.credential.id}")


async def remove(store: Writer, id_: str, who: str) -> bool:
    """Remove a credential; False if there was none."""

    async def edit(edit: Draft) -> bool:
        found = await edit.get("credential", id_)
        if found is not None:
            edit.delete("credential", id_)
        return found is not None

    return (await store.write(edit, who=who, what=f"DeleteCredential {id_}")).result

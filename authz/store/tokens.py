"""Values in Redis under the digest of a secret token, each for a limited time: sessions, one-time links, messages,
forms."""

from __future__ import annotations

import hashlib
from typing import Final

from authz.core.resources import DEFAULT_ACCOUNT
from authz.store.database import Database

KIND: Final = "page"  # of the Redis keys; backups leave them out


class TokenStore:
    """The values of one account. Fulfils `ports.Tokens`. Redis never has a token itself, only its SHA-256."""

    def __init__(self, url: str, *, account: str = DEFAULT_ACCOUNT, budget: float = 1.0) -> None:
        self._database = Database(url, account=account, budget=budget, replicas=0)

    async def put(self, kind: str, token: str, value: bytes, seconds: int) -> None:
        await self._database.ask("SET", self._key(kind, token), value, "EX", seconds)

    async def add(self, kind: str, token: str, value: bytes, seconds: int) -> bool:
        return await self._database.ask("SET", self._key(kind, token), value, "EX", seconds, "NX") is not None

    async def replace(self, kind: str, token: str, value: bytes, seconds: int) -> None:
        await self._database.ask("SET", self._key(kind, token), value, "EX", seconds, "XX")

    async def find(self, kind: str, token: str, extend_seconds: int | None = None) -> bytes | None:
        words = () if extend_seconds is None else ("EX", extend_seconds)
        found: bytes | None = await self._database.ask("GETEX", self._key(kind, token), *words)
        return found

    async def take(self, kind: str, token: str) -> bytes | None:
        found: bytes | None = await self._database.ask("GETDEL", self._key(kind, token))
        return found

    async def aclose(self) -> None:
        await self._database.aclose()

    def _key(self, kind: str, token: str) -> str:
        return self._database.key(KIND, kind, hashlib.sha256(token.encode()).hexdigest())

"""`POST /explain`: the command `authz explain`, on the resources that the store and the file hold now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from authz.aws.convert import to_resources
from authz.aws.errors import bad_request
from authz.core.catalog import Catalog, Compiler, caller_of
from authz.core.keyform import KeyForm
from authz.core.request import Request, joined
from authz.core.responses import Profile
from authz.core.stored import Items, StoredCustomer, StoredKey
from authz.envoy.accesslog import LogLine
from authz.explain import explain
from authz.limiter.limiter import RedisLimiter
from authz.store.keys import StoreKeyCache, customer_terms
from authz.store.ports import KeyLookup, Reader
from authz.store.sealing import Sealer


class Explainer:
    """Explains a request: how it is read, the limits that cover it, what remains of them, and the answer.

    It consumes no unit of a limit.
    """

    def __init__(
        self,
        store: Reader,
        sealer: Sealer,
        limiter: RedisLimiter,
        account_id: str,
        fixed: Callable[[], Items],
        form: KeyForm | None = None,
        profile: Profile = "standard",
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._limiter = limiter
        self._account_id = account_id
        self._fixed = fixed
        self._form = form
        self._profile = profile

    async def __call__(self, request: Request, line: LogLine | None = None, key: StoredKey | None = None) -> str:
        """Explain a request; with `key`, as if it had that key's value. A log line names its key itself."""
        snapshot = await self._store.snapshot()
        catalog = await asyncio.to_thread(self._compile, {**snapshot.items, **self._fixed()})
        ring = StoreKeyCache(self._find, self._sealer.index, size=1)  # it follows no changes, so each call has its own
        if line and line.authz and line.authz.key_id:
            named = await self._store.get("apikey", line.authz.key_id)
            key = named if isinstance(named, StoredKey) else None
        caller = None
        if key:
            caller = caller_of(key.key, key.plans, key.overrides, customer_terms(await self._customer(key)))
        return await explain(catalog, request, 0, self._limiter, self._profile, ring, line, caller)

    def _compile(self, items: Items) -> Catalog:
        resources, refs = to_resources(items)
        return Compiler(self._account_id, form=self._form)(resources, refs)

    async def _find(self, index: str) -> KeyLookup:
        """Return the store's key with this index, or else the file's."""
        found = await self._store.find(index)
        owner = None if found.key else await self._store.owner(f"key/{index}")
        key = await self._store.get("apikey", owner.partition("/")[2]) if owner else None
        return KeyLookup(found.head, key, await self._customer(key)) if isinstance(key, StoredKey) else found

    async def _customer(self, key: StoredKey) -> StoredCustomer | None:
        found = await self._store.get("customer", key.key.customer_id) if key.key.customer_id else None
        return found if isinstance(found, StoredCustomer) else None


def request_of(
    method: str,
    url: str,
    headers: dict[str, str],
    extensions: dict[str, str],
    metadata: dict[str, object],
    source: str = "",
) -> Request:
    """Make the request that Envoy would send for a URL. Raises BadRequestException unless the URL has a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise bad_request("Invalid url") from None
    if not parts.netloc:
        raise bad_request("Invalid url: expected a whole one, such as https://host/prod/pets")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    return Request(method.upper(), host, path, joined(headers.items()), extensions, metadata, source=source)

"""Bodies of requests: read on demand, and within a budget until the caller is authenticated."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from authz.aws.errors import ApiError, bad_request
from authz.aws.signature import MISMATCH

BODY_SECONDS: Final = 30.0
FREE_BYTES: Final = 65_536  # of each body, outside the budget: the server buffers them for each connection anyway
ADDRESS_BYTES: Final = 16_000_000
TOTAL_BYTES: Final = 64_000_000


class Budget:
    """The memory for bodies of callers who are not authenticated yet, bounded for each address and in total."""

    def __init__(self, total: int = TOTAL_BYTES, per_address: int = ADDRESS_BYTES) -> None:
        self._total = total
        self._per_address = per_address
        self._held: Counter[str] = Counter()

    def take(self, address: str, size: int) -> None:
        """Count `size` bytes. Raises ServiceUnavailableException, which clients retry, if they exceed a bound."""
        if self._held[address] + size > self._per_address or self._held.total() + size > self._total:
            message = "Too many large bodies arrive from callers who are still unknown; try again later"
            raise ApiError("ServiceUnavailableException", message, retry_after=1)
        self._held[address] += size

    def give_back(self, address: str, size: int) -> None:
        self._held[address] -= size
        if self._held[address] <= 0:
            del self._held[address]


class Body:
    """The body of one request. Until `prove` it counts against the budget of its address."""

    def __init__(self, stream: AsyncIterator[bytes], limit: int, budget: Budget, address: str = "") -> None:
        self._stream = stream
        self._limit = limit
        self._budget: Budget | None = budget
        self._address = address
        self._taken = 0
        self._content: bytes | None = None
        self._signed: str | None = None

    def prove(self) -> None:
        """Return the bytes to the budget: the caller is authenticated."""
        if self._budget is not None:
            self._budget.give_back(self._address, self._taken)
            self._budget = None

    close = prove  # the request is over, so its bytes are free again

    def must_hash_to(self, sha256: str) -> None:
        """Expect the digest that the caller has signed: `read` raises InvalidSignatureException for any other body."""
        self._signed = sha256

    async def read(self) -> bytes:
        """Read the whole body.

        Raises RequestTooLargeException, ServiceUnavailableException if the budget is exhausted, BadRequestException if
        the body does not arrive in time, and InvalidSignatureException if its digest is not the signed one.
        """
        if self._content is None:
            self._content = await self._arrive()
        if self._signed is not None and not hmac.compare_digest(sha256(self._content), self._signed):
            raise ApiError("InvalidSignatureException", MISMATCH)
        return self._content

    async def _arrive(self) -> bytes:
        content = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in self._stream:
                    content += chunk
                    self._check(len(content))
        except TimeoutError:
            raise bad_request("The request body did not arrive in time") from None
        return bytes(content)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise ApiError("RequestTooLargeException", f"Request body exceeds {self._limit} bytes")
        over = size - FREE_BYTES - self._taken
        if over > 0 and self._budget is not None:
            self._budget.take(self._address, over)
            self._taken += over


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

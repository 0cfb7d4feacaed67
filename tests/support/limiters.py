"""A limiter that sends its batches, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from authz.limiter.limiter import RedisLimiter


@asynccontextmanager
async def running_limiter(url: str, account: str, budget: float = 10.0, **options: Any) -> AsyncIterator[RedisLimiter]:
    """A limiter of an account, until the block ends. Without a `clock` it follows that of Redis."""
    limiter = RedisLimiter(url, account=account, budget=budget, **options)
    sending = asyncio.create_task(limiter.run())
    try:
        yield limiter
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await limiter.aclose()

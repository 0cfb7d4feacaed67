"""Redis, and our scripts in it, for the modules that speak to it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which Redis keeps it."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        text = resources.files("authz.lua").joinpath(name).read_text("utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def connect(url: str, connect_seconds: float) -> redis.asyncio.Redis:
    """A client that never retries by itself: only we know which command may be sent twice (R15, R18)."""
    return redis.asyncio.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,  # each sending has a time-out of ours around it; redis-py's would swallow cancellations
        socket_connect_timeout=connect_seconds,
        protocol=2,
    )


async def evaluate(client: redis.asyncio.Redis, script: Script, keys: Sequence[str], *args: bytes) -> Any:
    """By digest; the text goes along once after Redis has forgotten it."""
    run: Callable[..., Awaitable[Any]] = client.execute_command
    try:
        return await run("EVALSHA", script.digest, len(keys), *keys, *args)
    except NoScriptError:
        return await run("EVAL", script.text, len(keys), *keys, *args)

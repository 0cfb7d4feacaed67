"""Queries a Redis for the doctor's rules and the console, and returns its answers as facts.

Changes nothing, except that listing the workers of a store removes expired entries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, RedisError, ResponseError

from authz.aws.models import STANDARD, models
from authz.core.holders import kind_of
from authz.core.limits import redis_key
from authz.core.resources import Period
from authz.core.stored import AlertTarget, Item, RestApi, StoredPlan
from authz.doctor.facts import AlertFacts, Redis
from authz.redisio.client import connect, starting_with
from authz.redisio.url import check_tls_files, in_words, mask_url, read_url
from authz.store.items import decode
from authz.store.ports import StoreUnavailable
from authz.store.store import Store

SECONDS: Final = 5.0  # that Redis has for each answer
PINGS: Final = 5
SCANNED: Final = 20_000  # keys of Redis at most that are looked through for the account's,
SAMPLED: Final = 1_000  # and whose expiry is read
MAX_APIS: Final = 500  # APIs of the store that are looked through
DAY_SECONDS: Final = 86_400
LASTING: Final = ("store", "restoring", "alerts", "alerts-cursor", "figures", "webhook")  # kinds of keys that have none
FURTHER_QUOTAS: Final = (
    kind_of("quota", False),
    kind_of("quota", True),
)  # kinds of keys that end with a period, which may never end
CONFIG: Final = (
    "appendfsync",
    "bind",
    "busy-reply-threshold",
    "lua-time-limit",
    "min-replicas-to-write",
    "protected-mode",
    "save",
)
NEEDED: Final = frozenset({"CONFIG GET", "INFO", "PTTL", "SCAN", "TIME"})  # without these, rules see nothing

Run = Callable[..., Awaitable[Any]]


class UnreachableError(Exception):
    """An address does not answer, or answers as another kind of server; in words for the operator."""


async def look_at_redis(
    url: str, account: str, clock: Callable[[], float] = time.time, *, store: bool = False, sample: bool = True
) -> Redis:
    """Query a Redis. With `store`, also what the account's store says; with `sample`, also the expiry of its counters.

    Raises UnreachableError, ValueError for a URL that breaks a rule, and OSError for a file that cannot be read.
    """
    found = read_url(url)
    check_tls_files(url)
    client = connect(url, SECONDS)
    execute: Run = client.execute_command
    refused = set[str]()

    async def run(command: str, *args: object) -> Any:
        """None where our user may not say it, or the server does not know it."""
        try:
            return await execute(command, *args)
        except ResponseError as error:
            if not isinstance(error, AskError | ClusterDownError):  # these speak of a node, not of the command
                refused.add(command)
            return None

    try:
        async with asyncio.timeout(3 * SECONDS):
            await _connect(client)
            # The first key picks the node for a cluster's client. Another node may have the account's keys.
            is_here = await run("PTTL", redis_key(account, "account")) is not None
            endless, looked_at = await _endless(run, account) if sample and is_here else ([], 0)
            workers, unvalidated = await _store_facts(url, account) if store else (None, ())
            node = urlsplit(found.node)
            return Redis(
                url=mask_url(url),
                kind=found.kind,
                hosts=[host for host, _ in found.seeds] or [node.hostname or ""],
                is_tls=node.scheme == "rediss",
                has_login=bool(node.password or dict(parse_qsl(node.query)).get("password")),
                info=await run("INFO") or {},
                config=await _config(run),
                skew=await _skew(run, clock),
                answers=[await _ping(run) for _ in range(PINGS)],
                default_user_is_open=await _is_open(run),
                endless=endless,
                looked_at=looked_at,
                workers=workers,
                unvalidated=unvalidated,
                alerts=await _alert_facts(run, account, clock()),
                refused=sorted(refused & NEEDED),
            )
    except (RedisError, OSError, TimeoutError) as error:
        raise UnreachableError(f"no answer: {in_words(error)}") from None
    finally:
        await client.aclose()


async def _connect(client: redis.asyncio.Redis) -> None:
    """Raise RedisError with the server's reason for a connection that it refuses: the login, or the database.

    Later, such a refusal would look like that of a single command.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    await client.connection_pool.release(connection)


def lasts(name: str) -> bool:
    """True for a Redis key, named within the account, that needs no expiry: one of the store, or a quota in total."""
    kind, *parts = name.split(":")
    return kind in LASTING or (kind in FURTHER_QUOTAS and parts[2:3] == [Period.TOTAL])


async def _endless(run: Run, account: str) -> tuple[list[str], int]:
    """Counters without an expiry, and the number of counters examined."""
    prefix = redis_key(account, "")
    pattern, cursor, scanned, counters = starting_with(prefix), 0, 0, list[str]()
    while len(counters) < SAMPLED and scanned < SCANNED:
        cursor, keys = await run("SCAN", cursor, "MATCH", pattern, "COUNT", 1000) or (0, [])
        scanned += 1000
        names = (key.decode(errors="replace") for key in keys)
        counters += [name for name in names if not lasts(name.removeprefix(prefix))]
        if not int(cursor):
            break
    endless, looked_at, until = list[str](), 0, time.monotonic() + SECONDS
    for name in counters[:SAMPLED]:
        if time.monotonic() > until:  # it is far away
            break
        looked_at += 1
        if await run("PTTL", name) == -1:
            endless.append(name)
    return endless, looked_at


async def _config(run: Run) -> Mapping[str, str]:
    """The settings that it lets us see. Each is named, so that no password is among them."""
    found: dict[str, str] = {}
    for name in CONFIG:
        found.update(await run("CONFIG GET", name) or {})
    return found


async def _skew(run: Run, clock: Callable[[], float]) -> float | None:
    """How far its clock is before ours, in seconds."""
    asked, told = clock(), await run("TIME")
    return told[0] + told[1] / 1e6 - (asked + clock()) / 2 if told else None


async def _ping(run: Run) -> float:
    asked = time.perf_counter()
    await run("PING")  # a refusal takes as long
    return time.perf_counter() - asked


async def _is_open(run: Run) -> bool | None:
    """Whether every client may come in as the default user; None where we may not know."""
    user = await run("ACL GETUSER", "default")
    if user is None:
        return None
    flags = {flag.decode() if isinstance(flag, bytes) else flag for flag in user["flags"]}
    return {"on", "nopass"} <= flags


async def _store_facts(url: str, account: str) -> tuple[int | None, Sequence[str]]:
    """The number of workers that follow the store, and its APIs with request validators or models of their own.

    None and no API where they can't be read. A newer release may have written items that this one can't decode.
    """
    workers, apis = None, list[RestApi]()
    store = Store(url, account=account, budget=SECONDS)
    try:
        workers = len(await store.presences())
        page = await store.page("restapi", "restapi", MAX_APIS)
        apis = [api for api in page.items if isinstance(api, RestApi)]
    except (StoreUnavailable, msgspec.DecodeError):
        pass
    finally:
        await store.aclose()
    return workers, [api.id for api in apis if api.request_validators or models(api).keys() - STANDARD.keys()]


async def _alert_facts(run: Run, account: str, now: float) -> AlertFacts:
    """The alerts of the store. Those that can't be read count as absent."""
    plans = await _items(run, account, "usageplan")
    targets = await _items(run, account, "alerttarget")
    key = partial(redis_key, account, "webhook")
    failing = await run("HGETALL", key("failing")) or {}
    oldest = await run("ZRANGE", key("pending"), 0, 0, "WITHSCORES") or []
    return AlertFacts(
        plans=sum(
            isinstance(plan, StoredPlan) and any(quota.alerts for quota in plan.plan.all_quotas) for plan in plans
        ),
        targets=sum(isinstance(target, AlertTarget) and target.enabled for target in targets),
        failing={target.decode(): int(since) / 1e6 for target, since in failing.items()},
        pending=await run("ZCARD", key("pending")) or 0,
        oldest=float(oldest[1]) / 1e6 if oldest else None,
        given_up=await run("ZCOUNT", key("failed"), (now - DAY_SECONDS) * 1e6, "+inf") or 0,
    )


async def _items(run: Run, account: str, kind: str) -> list[Item]:
    """The items of a kind that this release can read."""
    found: list[Item] = []
    for raw in await run("HVALS", redis_key(account, "store", "item", kind)) or ():
        with suppress(msgspec.DecodeError):
            found.append(decode(kind, raw))
    return found

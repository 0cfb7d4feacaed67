"""The traps of a Redis or Valkey that keeps counters, each a function of what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from authz.doctor.facts import Facts, Redis, is_loopback
from authz.doctor.finding import Rule, Seen, rule

MINIMUM: Final = (7, 0)
FULL: Final = 0.8
SKEW_SECONDS: Final = 2.0
SLOW_SHARE: Final = 0.5  # of the time that callers wait for it
BUSY_MS: Final = 1000


def _redis(facts: Facts) -> Iterator[Redis]:
    if facts.redis:
        yield facts.redis


def _number(redis: Redis, name: str) -> int:
    found = redis.info.get(name, 0)
    return found if isinstance(found, int) else 0


@rule(
    "error",
    why="Redis drops counters when memory runs short: a spent quota or an empty bucket is full again. The volatile "
    "policies do so too, because every counter has an expiry.",
    fix="CONFIG SET maxmemory-policy noeviction",
)
def eviction_policy(facts: Facts) -> Iterator[Seen]:
    """`maxmemory-policy` is not `noeviction`."""
    for redis in _redis(facts):
        policy = redis.info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            yield Seen(redis.where, f"maxmemory-policy {policy}, maxmemory {_number(redis, 'maxmemory')} bytes")


@rule(
    "error",
    why="The dropped keys may have been counters, or resources of the store.",
    fix="more maxmemory, and CONFIG SET maxmemory-policy noeviction",
)
def keys_evicted(facts: Facts) -> Iterator[Seen]:
    """Redis has dropped keys for lack of memory since it started."""
    for redis in _redis(facts):
        if _number(redis, "evicted_keys"):
            yield Seen(redis.where, f"evicted_keys {_number(redis, 'evicted_keys')}")


@rule(
    "warning",
    why="With noeviction a full Redis refuses writes: no call can be counted, and the failurePolicy decides.",
    fix="a higher maxmemory; the page on sizing has the arithmetic",
)
def memory_near(facts: Facts) -> Iterator[Seen]:
    """Four fifths of `maxmemory` are used, or of the machine's memory if none is set."""
    for redis in _redis(facts):
        bound = _number(redis, "maxmemory") or _number(redis, "total_system_memory")
        used = _number(redis, "used_memory")
        if bound and used >= FULL * bound:
            yield Seen(redis.where, f"{used} of {bound} bytes, {used / bound:.0%}")


@rule(
    "warning",
    why="After a restart the calls of callers count as unspent, and everything that the control plane stored is gone.",
    fix="CONFIG SET appendonly yes, and appendfsync everysec",
)
def no_persistence(facts: Facts) -> Iterator[Seen]:
    """Redis writes neither an append-only file nor snapshots."""
    for redis in _redis(facts):
        if redis.info.get("aof_enabled") == 0 and redis.config.get("save") == "":
            yield Seen(redis.where, "appendonly no, and no save")


@rule(
    "info",
    why="After a crash the calls since the last snapshot count as unspent: usually some minutes.",
    fix="CONFIG SET appendonly yes, and appendfsync everysec",
)
def snapshots_only(facts: Facts) -> Iterator[Seen]:
    """Redis writes snapshots, and no append-only file."""
    for redis in _redis(facts):
        if redis.info.get("aof_enabled") == 0 and redis.config.get("save"):
            yield Seen(redis.where, f"appendonly no, save {redis.config['save']}")


@rule(
    "info",
    why="If the machine goes down, the writes of about half a minute are lost: those that the operating system had "
    "not flushed.",
    fix="CONFIG SET appendfsync everysec",
)
def never_synced(facts: Facts) -> Iterator[Seen]:
    """There is an append-only file, and `appendfsync` is `no`."""
    for redis in _redis(facts):
        if _number(redis, "aof_enabled") and redis.config.get("appendfsync") == "no":
            yield Seen(redis.where, "appendfsync no")


@rule(
    "error",
    why="Redis cannot write to its disk, and refuses commands that change data.",
    fix="free space on its disk, or correct its permissions; its log has the reason",
)
def persistence_fails(facts: Facts) -> Iterator[Seen]:
    """The last snapshot, or the last write to the append-only file, has failed."""
    for redis in _redis(facts):
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
            if redis.info.get(name, "ok") != "ok":
                yield Seen(redis.where, f"{name} {redis.info[name]}")


@rule(
    "warning",
    why="While the disk is behind, Redis answers no one, and calls are decided without it.",
    fix="a faster disk, or no-appendfsync-on-rewrite yes",
)
def slow_disk(facts: Facts) -> Iterator[Seen]:
    """Writes to the append-only file had to wait for the disk since Redis started."""
    for redis in _redis(facts):
        if _number(redis, "aof_delayed_fsync"):
            yield Seen(redis.where, f"aof_delayed_fsync {_number(redis, 'aof_delayed_fsync')}")


@rule(
    "warning",
    why="Callers wait for this on every call, and answers that come too late are replaced by the failurePolicy.",
    fix="a nearer or faster Redis, or a higher settings.redisTimeoutMs (and filter timeout)",
)
def slow_answers(facts: Facts) -> Iterator[Seen]:
    """A PING from here takes half of the sidecar's `redisTimeoutMs` (50 ms without --sidecar)."""
    for redis in _redis(facts):
        patience = facts.redis_timeout or 0.05
        if redis.answers and median(redis.answers) >= SLOW_SHARE * patience:
            took, patient = median(redis.answers) * 1000, patience * 1000
            yield Seen(redis.where, f"{took:.0f} ms, and redisTimeoutMs is {patient:g}")


@rule(
    "error",
    why="A replica takes no writes, so no call can be counted, and its data are late.",
    fix="the master's address, or redis+sentinel:// to follow the master",
)
def reads_a_replica(facts: Facts) -> Iterator[Seen]:
    """The address is a replica's."""
    for redis in _redis(facts):
        if redis.info.get("role") == "slave":
            yield Seen(redis.where, f"role slave of {redis.info.get('master_host')}:{redis.info.get('master_port')}")


@rule(
    "info",
    why="A master that is cut off admits calls until it notices, and its counts are lost when it comes back.",
    fix="CONFIG SET min-replicas-to-write 1",
)
def lone_master_writes(facts: Facts) -> Iterator[Seen]:
    """There are replicas, and the master writes without them."""
    for redis in _redis(facts):
        if _number(redis, "connected_slaves") and redis.config.get("min-replicas-to-write") == "0":
            yield Seen(redis.where, f"connected_slaves {_number(redis, 'connected_slaves')}, min-replicas-to-write 0")


@rule(
    "warning",
    why="The counter is never freed. Only resources of the store, the stream of alerts and quotas of the period TOTAL "
    "have no expiry. Another program removed it, or a backup was restored by other means.",
    fix="authz backup and restore, or PEXPIRE the key by hand",
)
def counter_without_expiry(facts: Facts) -> Iterator[Seen]:
    """A counter of the account has no expiry. The doctor looks at a sample."""
    for redis in _redis(facts):
        if redis.endless:
            yield Seen(redis.where, f"{len(redis.endless)} of {redis.looked_at} keys, such as {redis.endless[0]}")


@rule(
    "warning",
    why="Quota periods begin and end by Redis's clock, and keys expire by it.",
    fix="let NTP set the clocks of both machines",
)
def redis_clock(facts: Facts) -> Iterator[Seen]:
    """Redis's clock is more than two seconds from this machine's, or from a sidecar's."""
    for redis in _redis(facts):
        if redis.skew is None:
            continue
        if abs(redis.skew) > SKEW_SECONDS:
            yield Seen(redis.where, f"{redis.skew:+.1f} s from this machine")
        for sidecar in facts.sidecars:
            if sidecar.skew is not None and abs(redis.skew - sidecar.skew) > SKEW_SECONDS:
                yield Seen(redis.where, f"{redis.skew - sidecar.skew:+.1f} s from {sidecar.where}")


@rule("error", why="The scripts need commands that it lacks.", fix="Redis 7.0 or later, or any Valkey")
def redis_too_old(facts: Facts) -> Iterator[Seen]:
    """Redis is older than 7.0."""
    for redis in _redis(facts):
        if "redis_version" in redis.info and redis.version < MINIMUM:
            yield Seen(redis.where, f"{redis.info.get('redis_version')}")


@rule(
    "warning",
    why="While a longer script runs (a snapshot of a large store), all other clients get BUSY.",
    fix="CONFIG SET busy-reply-threshold 5000",
)
def busy_threshold(facts: Facts) -> Iterator[Seen]:
    """`busy-reply-threshold` is below a second."""
    for redis in _redis(facts):
        told = redis.config.get("busy-reply-threshold") or redis.config.get("lua-time-limit") or "0"
        if 0 < int(told) < BUSY_MS:
            yield Seen(redis.where, f"busy-reply-threshold {told} ms")


@rule(
    "error",
    why="It redirects clients that ask for keys of another node, and a client for a single server does not follow.",
    fix="redis+cluster://host:port,host:port",
)
def cluster_url(facts: Facts) -> Iterator[Seen]:
    """The server belongs to a cluster, and the URL is for a single server."""
    for redis in _redis(facts):
        if _number(redis, "cluster_enabled") and redis.kind == "server":
            yield Seen(redis.where, "cluster_enabled 1")


@rule(
    "warning",
    why="Any client that reaches it reads every key's digest and every counter, and can set them.",
    fix="requirepass or an ACL user, and the password in redisPasswordFile",
)
def without_password(facts: Facts) -> Iterator[Seen]:
    """Redis needs no password, and other machines can reach it, by its URL or by the addresses that it listens on."""
    for redis in _redis(facts):
        if redis.default_user_is_open if redis.default_user_is_open is not None else not redis.has_login:
            reachable = _reachable(redis)
            if reachable:
                yield Seen(redis.where, f"no password, at {reachable}")


def _reachable(redis: Redis) -> str:
    """An address at which others reach it; "" if there is none. Protected mode keeps them out."""
    away = next((host for host in redis.hosts if not is_loopback(host)), "")
    if away or redis.config.get("protected-mode") != "no" or redis.info.get("tcp_port") == 0:
        return away
    bound = (word.lstrip("-") for word in redis.config.get("bind", "*").split())
    return next((host for host in bound if host in ("*", "::*") or not is_loopback(host)), "")


@rule(
    "info",
    why="Digests of keys, counters and the password travel in the clear, over a network that others may share.",
    fix="rediss://, or redis+sentinel and redis+cluster with rediss+",
)
def redis_in_the_clear(facts: Facts) -> Iterator[Seen]:
    """Redis is on another machine, and the connection has no TLS."""
    for redis in _redis(facts):
        if not redis.is_tls and not redis.is_local:
            yield Seen(redis.where, "no TLS")


@rule(
    "info",
    why="Persistence, eviction and limits of scripts were not checked.",
    fix="a user for the doctor, with +info +config|get +acl|getuser +time +ping +scan +pttl",
)
def redis_not_seen(facts: Facts) -> Iterator[Seen]:
    """The user may not run commands that the doctor needs; a sidecar's user may not either."""
    for redis in _redis(facts):
        if redis.refused:
            yield Seen(redis.where, f"refused: {', '.join(redis.refused)}")


REDIS_RULES: Final[tuple[Rule, ...]] = (
    eviction_policy,
    keys_evicted,
    memory_near,
    no_persistence,
    snapshots_only,
    never_synced,
    persistence_fails,
    slow_disk,
    slow_answers,
    reads_a_replica,
    lone_master_writes,
    counter_without_expiry,
    redis_clock,
    redis_too_old,
    busy_threshold,
    cluster_url,
    without_password,
    redis_in_the_clear,
    redis_not_seen,
)

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
    why="Redis drops counters when memory runs short, so that a spent quota or an empty bucket is full again. "
    "A volatile policy too, for every counter has an expiry.",
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
    why="Some of what is gone may have been counters, or resources of the store.",
    fix="more maxmemory, and CONFIG SET maxmemory-policy noeviction",
)
def keys_evicted(facts: Facts) -> Iterator[Seen]:
    """Redis has dropped keys for want of memory since it started."""
    for redis in _redis(facts):
        if _number(redis, "evicted_keys"):
            yield Seen(redis.where, f"evicted_keys {_number(redis, 'evicted_keys')}")


@rule(
    "warning",
    why="With noeviction, a full Redis refuses to write: no call can be counted, and the failurePolicy decides.",
    fix="a higher maxmemory; the page on sizing tells how much",
)
def memory_near(facts: Facts) -> Iterator[Seen]:
    """Four fifths of `maxmemory`, or of the machine's memory where none is set, are used."""
    for redis in _redis(facts):
        bound = _number(redis, "maxmemory") or _number(redis, "total_system_memory")
        used = _number(redis, "used_memory")
        if bound and used >= FULL * bound:
            yield Seen(redis.where, f"{used} of {bound} bytes, {used / bound:.0%}")


@rule(
    "warning",
    why="A restart forgets what callers have spent, and all that the control plane keeps.",
    fix="CONFIG SET appendonly yes, and appendfsync everysec",
)
def no_persistence(facts: Facts) -> Iterator[Seen]:
    """Neither an append-only file nor snapshots are written."""
    for redis in _redis(facts):
        if redis.info.get("aof_enabled") == 0 and redis.config.get("save") == "":
            yield Seen(redis.where, "appendonly no, and no save")


@rule(
    "info",
    why="A crash takes back what was spent since the last snapshot, minutes as a rule.",
    fix="CONFIG SET appendonly yes, and appendfsync everysec",
)
def snapshots_only(facts: Facts) -> Iterator[Seen]:
    """Snapshots are written, and no append-only file."""
    for redis in _redis(facts):
        if redis.info.get("aof_enabled") == 0 and redis.config.get("save"):
            yield Seen(redis.where, f"appendonly no, save {redis.config['save']}")


@rule(
    "info",
    why="When the machine goes down, what the operating system had not written by itself is lost: half a minute.",
    fix="CONFIG SET appendfsync everysec",
)
def never_synced(facts: Facts) -> Iterator[Seen]:
    """There is an append-only file, and `appendfsync` is `no`."""
    for redis in _redis(facts):
        if _number(redis, "aof_enabled") and redis.config.get("appendfsync") == "no":
            yield Seen(redis.where, "appendfsync no")


@rule(
    "error",
    why="Redis cannot write to its disk, and refuses commands that change anything.",
    fix="make room on its disk, or put its rights right; its log says what is wrong",
)
def persistence_fails(facts: Facts) -> Iterator[Seen]:
    """The last snapshot, or the last write to the append-only file, has failed."""
    for redis in _redis(facts):
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
            if redis.info.get(name, "ok") != "ok":
                yield Seen(redis.where, f"{name} {redis.info[name]}")


@rule(
    "warning",
    why="While the disk is behind, Redis answers nobody, and calls are decided without it.",
    fix="a faster disk, or no-appendfsync-on-rewrite yes",
)
def slow_disk(facts: Facts) -> Iterator[Seen]:
    """Writes to the append-only file had to wait for the disk since Redis started."""
    for redis in _redis(facts):
        if _number(redis, "aof_delayed_fsync"):
            yield Seen(redis.where, f"aof_delayed_fsync {_number(redis, 'aof_delayed_fsync')}")


@rule(
    "warning",
    why="Callers wait for this on every call, and what comes too late is decided without Redis.",
    fix="a Redis closer by, a faster one, or a higher settings.redisTimeoutMs (and filter timeout)",
)
def slow_answers(facts: Facts) -> Iterator[Seen]:
    """A PING takes half of the sidecar's `redisTimeoutMs` (50 ms unless --sidecar tells), seen from here."""
    for redis in _redis(facts):
        patience = facts.redis_timeout or 0.05
        if redis.answers and median(redis.answers) >= SLOW_SHARE * patience:
            took, patient = median(redis.answers) * 1000, patience * 1000
            yield Seen(redis.where, f"{took:.0f} ms, and redisTimeoutMs is {patient:g}")


@rule(
    "error",
    why="A replica takes no writes, so that no call can be counted; and what it reads is late.",
    fix="the master's address, or redis+sentinel:// for whoever is the master",
)
def reads_a_replica(facts: Facts) -> Iterator[Seen]:
    """The address is a replica's."""
    for redis in _redis(facts):
        if redis.info.get("role") == "slave":
            yield Seen(redis.where, f"role slave of {redis.info.get('master_host')}:{redis.info.get('master_port')}")


@rule(
    "info",
    why="A master that is cut off goes on admitting until it notices, and what it counted is lost when it comes back.",
    fix="CONFIG SET min-replicas-to-write 1",
)
def lone_master_writes(facts: Facts) -> Iterator[Seen]:
    """There are replicas, and the master writes without them."""
    for redis in _redis(facts):
        if _number(redis, "connected_slaves") and redis.config.get("min-replicas-to-write") == "0":
            yield Seen(redis.where, f"connected_slaves {_number(redis, 'connected_slaves')}, min-replicas-to-write 0")


@rule(
    "warning",
    why="It is never freed; only resources of the store last for ever. Another program, or a backup that was put back "
    "by other means, has made it so.",
    fix="authz backup and restore, or PEXPIRE the key by hand",
)
def counter_without_expiry(facts: Facts) -> Iterator[Seen]:
    """A counter of the account has no expiry. Looks at a sample."""
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


@rule("error", why="The scripts need commands that it does not have.", fix="Redis 7.0 or later, or any Valkey")
def redis_too_old(facts: Facts) -> Iterator[Seen]:
    """Redis is older than 7.0."""
    for redis in _redis(facts):
        if "redis_version" in redis.info and redis.version < MINIMUM:
            yield Seen(redis.where, f"{redis.info.get('redis_version')}")


@rule(
    "warning",
    why="While a longer script runs (a snapshot of a large store), everybody else is refused with BUSY.",
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
    why="It sends away whoever asks for keys of another node, and a client of one server does not follow.",
    fix="redis+cluster://host:port,host:port",
)
def cluster_url(facts: Facts) -> Iterator[Seen]:
    """The server is a cluster's, and the URL is one server's."""
    for redis in _redis(facts):
        if _number(redis, "cluster_enabled") and redis.kind == "server":
            yield Seen(redis.where, "cluster_enabled 1")


@rule(
    "warning",
    why="Whoever reaches it reads every key's digest and every counter, and can set them.",
    fix="requirepass or an ACL user, and the password in redisPasswordFile",
)
def without_password(facts: Facts) -> Iterator[Seen]:
    """Redis asks for no password, and others can reach it: its URL, or what it listens on, is not of this machine."""
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
    """Redis is on another machine, and is spoken to without TLS."""
    for redis in _redis(facts):
        if not redis.is_tls and not redis.is_local:
            yield Seen(redis.where, "no TLS")


@rule(
    "info",
    why="What it would have told (persistence, eviction, limits of scripts) was not looked at.",
    fix="a user for the doctor, with +info +config|get +acl|getuser +time +ping +scan +pttl",
)
def redis_not_seen(facts: Facts) -> Iterator[Seen]:
    """The user may not say what the doctor asks, as a sidecar's own may not."""
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

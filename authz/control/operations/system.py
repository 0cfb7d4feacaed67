"""How the system is: the store, the sidecars that follow it, and the Redis that keeps both, as the doctor sees it."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any, Final

from authz.control.call import Answer, Call, Operation
from authz.core.zones import SECOND_US, iso_time
from authz.doctor.examine import examine
from authz.doctor.facts import Facts, Redis
from authz.doctor.fetchredis import UnreachableError
from authz.doctor.rules.redis import REDIS_RULES
from authz.observe.metrics import VERSION
from authz.store.ports import Head, Presence

COUNTED: Final = {"plans": "usageplan", "keys": "apikey", "customers": "customer", "apis": "restapi"}
# Facts of Redis's INFO and CONFIG, by their names in the answer. A user with few rights may not read them.
INFO: Final = {
    "version": "redis_version",
    "uptimeSeconds": "uptime_in_seconds",
    "role": "role",
    "replicas": "connected_slaves",
    "clients": "connected_clients",
    "usedMemory": "used_memory",
    "maxMemory": "maxmemory",
    "evictionPolicy": "maxmemory_policy",
    "evictedKeys": "evicted_keys",
    "appendOnly": "aof_enabled",
}
CONFIG: Final = {"appendFsync": "appendfsync", "save": "save", "minReplicasToWrite": "min-replicas-to-write"}


async def get_system(call: Call) -> Answer:
    """Answer with the state of the system as of now."""
    call.refuse_others()
    store = call.context.store
    head = await store.head()
    presences = await store.presences()
    assert call.context.look_at_redis is not None, "this context serves no GetSystem"
    redis: Redis | str
    try:
        redis = await call.context.look_at_redis()
    except UnreachableError as reason:  # Redis does not let us look, on a connection of its own
        redis = str(reason)
    body: dict[str, Any] = {
        "asOf": iso_time(call.context.now() * SECOND_US),
        "release": VERSION,
        "store": {"version": head.version, **{name: await store.count(list_) for name, list_ in COUNTED.items()}},
        "sidecars": [sidecar_document(one, head) for one in presences],
    }
    if isinstance(redis, str):
        return Answer(body=body | {"redis": {"address": store.address, "problem": redis}, "findings": []})
    found = examine(Facts(redis=redis, now=call.context.now()), REDIS_RULES)
    return Answer(body=body | {"redis": redis_document(redis), "findings": [asdict(finding) for finding in found]})


def sidecar_document(presence: Presence, head: Head) -> dict[str, Any]:
    """A live sidecar. One that serves an older version, or the store before it was restored, is not current."""
    release = {"release": presence.release} if presence.release else {}
    is_current = presence.epoch == head.epoch and presence.version >= head.version
    return {"id": presence.worker, "version": presence.version, "isCurrent": is_current, **release}


def redis_document(redis: Redis) -> dict[str, Any]:
    """A Redis in facts that its user may read; `refused` are the commands that the user may not run."""
    document: dict[str, Any] = {"address": redis.url, "kind": redis.kind, "tls": redis.is_tls}
    document |= {name: redis.info[field] for name, field in INFO.items() if field in redis.info}
    document |= {name: redis.config[field] for name, field in CONFIG.items() if field in redis.config}
    if "appendOnly" in document:
        document["appendOnly"] = bool(document["appendOnly"])
    if redis.answers:
        document["answerMilliseconds"] = round(median(redis.answers) * 1000, 1)
    if redis.skew is not None:
        document["clockSkewSeconds"] = round(redis.skew, 1)
    return document | ({"refused": list(redis.refused)} if redis.refused else {})


OPERATIONS: Final = (Operation("GetSystem", "GET", "/system", get_system, writes=False),)

"""How exact the limits of each server are: the questions to a rival, and a sidecar of ours with the same limits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.load.inputs import (
    CHECK,
    SHOULD_RATE_LIMIT,
    admits_any,
    check_request,
    document,
    rate_limit_request,
    within_limit,
    written,
)
from bench.measure.exact import CALLS, EDGE, TIGHT, WIDE, Exactness, Questions
from bench.measure.machine import Cores
from bench.measure.rows import Table
from bench.measure.servers import Host, call, redis, sidecar
from bench.rivals.files import DOMAIN

CROWD: Final = ("--max-in-flight", "10000")  # 2,000 calls at once, none of them shed


def of_limits(address: str) -> Questions:
    """For a RateLimitService, with values that no run before has used."""
    run = uuid.uuid4().hex[:8]
    return Questions(
        address,
        SHOULD_RATE_LIMIT,
        within_limit,
        tight=rate_limit_request(DOMAIN, (("wide", run),), (("tight", run),)),
        wide=rate_limit_request(DOMAIN, (("wide", run),)),
        edge=rate_limit_request(DOMAIN, (("edge", run),)),
    )


def of_check(address: str) -> Questions:
    """For an Authorization service. Its counters must be fresh."""
    return Questions(
        address,
        CHECK,
        admits_any,
        tight=check_request(value_of_named("tight"), "/prod/wide"),
        wide=check_request(value_of_named("roomy"), "/prod/wide"),
        edge=check_request(value_of_named("edge"), "/prod/edge"),
    )


def has_limits(address: str) -> bool:
    """True if an Authorization service knows the keys of `of_check`; a mere check of keys does not."""
    return admits_any(call(address, check_request(value_of_named("roomy"), "/prod/edge")))


def value_of_named(name: str) -> str:
    return f"value-of-the-{name}-key"


@contextmanager
def ours(host: Host, cores: Cores, *flags: str) -> Iterator[Questions]:
    """For a sidecar with a Redis of its own."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="authz-bench-")))
        store = stack.enter_context(redis(cores.load))
        config = written(exact_document(), scratch)
        server = stack.enter_context(sidecar(config, store.address, *CROWD, *flags, host=host, cores=cores.server))
        yield of_check(server.address)


def exact_document() -> dict[str, Any]:
    """The file of the load with one key, and beside it the limits and keys for exactness."""
    found = document(keys=1, layers=5)
    api = found["apis"][0]
    api["resources"] |= {"/wide": {"GET": {}}, "/edge": {"GET": {}}}
    # Rate 0: the burst and no more, at any time of day.
    wide = {"throttlingRateLimit": 0, "throttlingBurstLimit": WIDE}
    api["stages"][0]["methodSettings"] |= {"wide/GET": wide}
    covers = [{"apiId": "a1", "stage": "prod"}]
    limits: Mapping[str, Mapping[str, Any]] = {
        "tight": {"throttle": {"rateLimit": 0, "burstLimit": TIGHT}},
        "edge": {"throttle": {"rateLimit": EDGE, "burstLimit": EDGE}},
        "roomy": {},
    }
    for name, limit in limits.items():
        found["usagePlans"].append({"id": name, "name": name, "apiStages": covers, "keys": [f"key-{name}"], **limit})
        found["apiKeys"].append({"id": f"key-{name}", "value": value_of_named(name)})
    return found


def exactness_table(found: Mapping[str, Exactness]) -> Table:
    head = [
        "server",
        f"admitted of {CALLS:,} at once, limit {TIGHT}",
        "admitted across a window's edge",
        f"a bucket of {EDGE} could have",
        "charged by refused calls",
        "no answer",
    ]
    rows = [
        [name, str(e.admitted), str(e.edge_admitted), str(e.edge_most), str(e.charged), str(e.failed)]
        for name, e in found.items()
    ]
    return Table(head, rows)
